"""Test-time augmentation: predictions averaged over several views of an image."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.errors import InputError

Views = Literal["none", "flip", "dihedral", "shift"]


def check_tta(kind: Views) -> None:
    """Raise InputError unless there are such views."""
    if kind not in get_args(Views):
        raise InputError(f"model.tta is {kind}: expected one of {', '.join(get_args(Views))}")


def tta_logits(network: Callable[[Tensor], Tensor], images: Tensor, kind: Views, multilabel: bool = False) -> Tensor:
    """Compute the log of the mean of the probabilities over all views, `(N, num_classes)`; of a multi-label task its logit.

    Probabilities are averaged, not logits, so that one view with large logits does not outvote the rest.

    Args:
        network: turns images into logits.
        images: `(N, C, H, W)`, normalised; or cached features, of which there is one view.
        kind: `flip` the image and its mirror image; `dihedral` its four rotations by 90 degrees and their mirror
            images, for surfaces without an up, of a rectangle the two rotations that keep its shape; `shift` the image
            and four copies shifted by a 28th of its shorter side, for what must not be turned.
    """
    if kind == "none" or images.ndim < 4:
        return network(images)
    logits = torch.stack([network(view).float() for view in _views(images, kind)])
    if multilabel:  # log of the mean of yes, less that of no
        return functional.logsigmoid(logits).logsumexp(dim=0) - functional.logsigmoid(-logits).logsumexp(dim=0)
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))


def tta_embeddings(
    network: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, kind: Views, multilabel: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the mean of the embeddings over all views, (N, E), and what `tta_logits` does; arguments as there.

    `network` turns images into embeddings and logits.
    """
    embeddings = []

    def classify(view: Tensor) -> Tensor:
        embedding, logits = network(view)
        embeddings.append(embedding.float())
        return logits

    logits = tta_logits(classify, images, kind, multilabel)
    return torch.stack(embeddings).mean(dim=0), logits


def _views(images: Tensor, kind: Views) -> Iterator[Tensor]:
    match kind:
        case "flip":
            yield from (images, images.flip(3))
        case "dihedral":
            for quarter in range(0, 4, 1 if images.shape[2] == images.shape[3] else 2):
                turned = images.rot90(quarter, (2, 3))
                yield from (turned, turned.flip(3))
        case "shift":
            height, width = images.shape[2:]
            step = max(1, round(min(height, width) / 28))
            wide = functional.pad(images, (step,) * 4, mode="replicate")
            for y, x in ((step, step), (0, step), (2 * step, step), (step, 0), (step, 2 * step)):
                yield wide[:, :, y : y + height, x : x + width]
