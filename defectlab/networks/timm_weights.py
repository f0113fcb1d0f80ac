"""Weights of timm's networks: from the cache of its hub, a file or a folder, under the names of a backbone."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks.backbones import kernel_for_channels
from defectlab.networks.timm_backbone import TimmBackbone, check_name
from defectlab.utils._compat import timm_filter
from defectlab.utils.tensors import first_mismatch
from defectlab.utils.text import first_line

ALTERNATIVES = (
    "or set weights to the path of a .safetensors, .pth or .bin file of timm's network, to a folder with "
    "model.safetensors, or to null for none"
)
_FILES = ("model.safetensors", "pytorch_model.bin")  # what a repository or folder of timm's holds, the safe one first
_PATIENCE = 5.0  # seconds to wait for a server's first answer
# Prefixes of our files and checkpoints, of DataParallel and of timm's `features_only`.
_PREFIXES = ("", "network.features.model.", "features.model.", "module.", "model.", "body.")


def pretrained_file(backbone: str) -> Path:
    """Return the file of the weights that timm has for a network, from a cache, or downloaded into it.

    Raises:
        InputError: there are none, or they can be neither found nor downloaded; a network that does not answer is told
            within seconds.
    """
    import timm

    source: Any = timm.models.get_pretrained_cfg(check_name(backbone))
    if source is not None and source.hf_hub_id:
        return _from_hub(backbone, source.hf_hub_id, (source.hf_hub_filename,) if source.hf_hub_filename else _FILES)
    if source is None or not source.url or source.custom_load:
        raise InputError(f"timm has no weights of {backbone} that can be read: change backbone, {ALTERNATIVES}")
    path = Path(torch.hub.get_dir(), "checkpoints", source.url.rpartition("/")[2])
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(source.url, str(path))
        except Exception as error:  # the network, or the disk
            raise _unreachable(backbone, error, f"{path.name} from {source.url}", path.parent) from None
    return path


def file_in_folder(folder: Path, backbone: str) -> Path:
    """Return the file of weights in a folder as timm's hub has them.

    Raises:
        InputError: there is none, or its config.json is of another network.
    """
    config = folder / "config.json"
    if config.is_file():
        try:
            found = json.loads(config.read_text(encoding="utf-8"))["architecture"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{config} names no architecture: expected timm's, or leave the file out") from None
        if found != check_name(backbone).partition(".")[0]:
            raise InputError(f"{folder} holds weights of {str(found)[:100]}: set backbone to timm/{str(found)[:100]}")
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"weights is {folder}, a folder without {' or '.join(_FILES)}: give another, {ALTERNATIVES}")


def backbone_tensors(backbone: TimmBackbone, state: Mapping[str, object], source: Path) -> dict[str, Tensor]:
    """Return the tensors of a file under the names and with the shapes of `backbone.state_dict()`, all of them.

    timm's own filter brings older names up to date and positions to the image size; a first kernel for other channels is
    summed. The file may lack what the backbone leaves out, and have any classifier; nothing else.

    Raises:
        InputError: a tensor of the backbone is missing or has another shape, or the file is of another network.
    """
    given = {key.replace("_orig_mod.", ""): value for key, value in state.items() if isinstance(value, Tensor)}
    with torch.device("meta"):  # names and shapes alone
        whole = backbone.build_whole()
    own, needed = whole.state_dict(), backbone.model.state_dict()
    tensors = given
    for prefix in _PREFIXES:
        part = {_unflattened(k[len(prefix) :], whole): v for k, v in given.items() if k.startswith(prefix)}
        if part.keys() & own.keys():
            tensors = part
            break
    if needed.keys() <= tensors.keys():  # filters tell timm's names by those of the head
        tensors = {**{key: value for key, value in own.items() if key not in needed}, **tensors}
    try:
        with torch.no_grad():
            tensors = timm_filter(whole)(tensors, whole)
    except Exception as error:  # of any network's, for any tensors
        raise _unfit(source, backbone, f"{type(error).__name__}: {first_line(error)[:150]}") from None
    heads = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    unknown = next((key for key in tensors if key not in own and not (heads and key.startswith(heads))), None)
    kept = {key: value for key, value in tensors.items() if key in needed}
    firsts = whole.pretrained_cfg.get("first_conv") or ()
    for first in (firsts,) if isinstance(firsts, str) else firsts:
        # Not where pixels are folded into channels before it: what is summed there is no colour.
        if (key := f"{first}.weight") in kept and needed[key].shape[1] == backbone.in_channels:
            kept[key] = kernel_for_channels(kept[key], needed[key].shape[1])
    if mismatch := first_mismatch(kept, needed):
        raise _unfit(source, backbone, mismatch)
    if unknown is not None:
        raise _unfit(source, backbone, f"the network has no {unknown}")
    return {f"model.{key}": value for key, value in kept.items()}


def _from_hub(backbone: str, repository: str, names: tuple[str, ...]) -> Path:
    """Return a file of a repository of the hub, from its cache or downloaded."""
    from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = repository.partition("@")
    for name in names:
        cached = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(cached, str | os.PathLike):
            return Path(cached)
    try:
        # One short question first: the hub's own client would try six times.
        get_session().head(hf_hub_url(repository, names[0], revision=revision or None), timeout=_PATIENCE)
        for name in names[:-1]:
            with suppress(EntryNotFoundError):
                return Path(hf_hub_download(repository, name, revision=revision or None))
        return Path(hf_hub_download(repository, names[-1], revision=revision or None))
    except Exception as error:  # the network, the disk, or HF_HUB_OFFLINE
        raise _unreachable(backbone, error, f"{names[0]} of {repository}", Path(constants.HF_HUB_CACHE)) from None


def _unreachable(backbone: str, error: Exception, file: str, cache: Path) -> InputError:
    return InputError(
        f"the pretrained weights of {backbone} are not in the cache {cache} and could not be downloaded "
        f"({first_line(error)[:150]}): fetch {file} where there is a network, {ALTERNATIVES}"
    )


def _unfit(source: Path, backbone: TimmBackbone, reason: str) -> InputError:
    return InputError(
        f"{source} does not fit {backbone.backbone}: {reason}; change backbone to what it was trained with, or weights"
    )


def _unflattened(key: str, whole: nn.Module) -> str:
    """Turn the name of a tensor in timm's `features_only`, such as `layer1_0.bn1.weight`, into the one of its network."""
    part, dot, rest = key.partition(".")
    outer, _, inner = part.rpartition("_")
    flat = not hasattr(whole, part) and hasattr(getattr(whole, outer, None), inner)
    return f"{outer}.{inner}{dot}{rest}" if flat else key
