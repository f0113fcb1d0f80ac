"""Read what a run has logged step by step, from TensorBoard's event files."""

import logging
from pathlib import Path


def read_scalars(folder: Path, tag: str) -> dict[int, float]:
    """Read a curve's values by step, ascending; of a step that a resumed run made again, the later one. May be empty."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # A file that was cut off is read as far as it goes; TensorBoard's remark on it would be one more line of output.
    logger = logging.getLogger("tensorboard")
    level = logger.level
    logger.setLevel(logging.ERROR)
    values: dict[int, float] = {}
    size_guidance = {"scalars": 0, "images": 1, "histograms": 1, "tensors": 1}
    try:
        for file in sorted(folder.glob("events.out.tfevents.*")):
            events = EventAccumulator(str(file), size_guidance=size_guidance)
            events.Reload()
            if tag in events.Tags()["scalars"]:
                values.update({event.step: event.value for event in events.Scalars(tag)})
    finally:
        logger.setLevel(level)
    return dict(sorted(values.items()))
