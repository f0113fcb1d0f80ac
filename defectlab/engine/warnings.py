"""Silence the remarks of dependencies that call for no action."""

import logging
import warnings

__all__ = ["LIGHTNING_LOGGERS", "quieten"]


LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_KNOWN_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own affair with torch
    r".*smaller than the logging interval.*",  # curves have a point an epoch in any case
    r".*module\(s\) in eval mode at the start.*",  # a frozen backbone
    r".*does not have many workers.*",  # the loader has none and needs none
    r".*Checkpoint directory .* exists and is not empty.*",  # resume goes on in its run folder
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",  # a step that the gradient scaler left out
    r".*recommended to use `self\.log\(.*sync_dist=True.*",  # every process computes the same from all images
    r".*GPU available but not used.*",  # asked for
    r".*The dirpath has changed from.*",  # fit --ckpt_path goes on in a folder of its own
    r".*callbacks used to create the checkpoint need to be provided.*",  # test needs none of fit's
)


def quieten() -> None:
    """Lightning's notes on devices and tips go; warnings that call for action stay."""
    for name in LIGHTNING_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
