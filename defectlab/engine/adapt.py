"""Adapt pretrained weights to unlabelled images: keep of the embedding what a larger network's would tell of them, too."""

import os
from collections.abc import Callable, Sequence
from copy import copy
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from defectlab.data.pipeline.statistics import channel_statistics
from defectlab.data.sources.files import expand_images
from defectlab.data.sources.images import read_listing
from defectlab.data.sources.layouts import Listing
from defectlab.engine.host import as_guest
from defectlab.errors import InputError, check_at_least
from defectlab.networks import PretrainedNetwork
from defectlab.networks.backbones import Backbone
from defectlab.networks.weights import load_backbone_weights, save_backbone_weights
from defectlab.tasks.feature_distillation import in_even_light
from defectlab.utils.image_format import ImageFormat, Size
from defectlab.utils.progress import progress_bar

_FEWEST = 100  # images: adapted to 30, weights were worse than before, to 100 no better on one of two sets
_PENALTY = 0.015  # of the ridge regression on standardised features, per image
_CONSTANT = 1e-5  # sd of a feature that says nothing


@as_guest()
def adapt_weights(
    images: str | PathLike[str] | Sequence[str | PathLike[str]], output: str | PathLike[str], *,
    teacher: str = "imagenet", teacher_backbone: Backbone = "mobilenet_v2",
    weights: str = "surface-distilled", backbone: Backbone = "mobilenet_v3_small", width: float = 1.0,
    image_size: Size = 160, channels: int = 3, most: int = 2000,
) -> Path:  # fmt: skip
    """Write weights with a linear map of their embedding, learned from images without labels and a teacher; return the path.

    They are `weights` of a `PretrainedTask` with `projection`, for images of the same size. See `fit_projection`. InputError
    for fewer than 100 images, images that are all alike, weights that cannot be used, or no place for the file.

    Args:
        images: files, folders with all below them, and globs; what cannot be read is left out.
        output: a .safetensors file, replaced if it is there.
        teacher, weights: see `load_backbone_weights`; the teacher is needed no more afterwards.
        image_size: side in pixels, or (height, width), that images are stretched to.
        most: images that are drawn at random from more.
    """
    target = Path(output)
    if target.suffix != ".safetensors" or target.is_dir():
        raise InputError(f"output is {target}: expected the name of a .safetensors file")
    if channels not in (1, 3):
        raise InputError(f"channels is {channels}: expected 1 or 3, as the teacher knows grey and colour")
    check_at_least("most", most, _FEWEST)
    student = PretrainedNetwork(2, channels, image_size, backbone, width, stages="middle")
    larger = PretrainedNetwork(2, 3, image_size, teacher_backbone, stages="middle")
    for name, network, source in (("weights", student, weights), ("teacher", larger, teacher)):
        try:
            load_backbone_weights(network, source)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        network.eval().to(memory_format=torch.channels_last)
    mirrored = copy(student)  # of the same layers; the map serves a task with `symmetric` and one without
    mirrored.symmetric = True

    def embed(block: Tensor) -> Tensor:
        return torch.cat([student.embed(block), mirrored.embed(block), teacher_embedding(larger, block)], dim=1)

    files = expand_images(images)
    rows = sorted(np.random.default_rng(0).permutation(len(files))[:most].tolist())
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    listing = Listing(root=root, files=[files[row] for row in rows], labels=[0] * len(rows), class_names=["unlabelled"])
    pixels = read_listing(listing, ImageFormat(image_size=image_size, channels=channels), "skip").images
    if len(pixels) < _FEWEST:
        raise InputError(f"{root}: found {len(pixels)} images, expected at least {_FEWEST}, better 300: add images")
    embeddings = embed_images(embed, pixels.expand(-1, channels, -1, -1), "adapting weights").astype(np.float64)
    plain, symmetric, wanted = np.hsplit(embeddings, [student.embedding_size, 2 * student.embedding_size])
    student.projection = fit_projection(np.stack([plain, symmetric]), wanted)
    save_backbone_weights(student, target, half=True)
    return target


def teacher_embedding(teacher: PretrainedNetwork, images: Tensor) -> Tensor:
    """Embed normalised images (N, C, H, W) in even light: the mean over an image and its turn by 180°, (N, E)."""
    even = in_even_light(images).contiguous(memory_format=torch.channels_last)
    return (teacher.embed(even) + teacher.embed(even.flip((2, 3)))) / 2


def fit_projection(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> nn.Linear:
    """Fit a linear map of embeddings (V, N, D) of V kinds, by which inner products become those of a teacher's (N, E).

    Ridge regression predicts the teacher's from them, both standardised; kept is the symmetric root of M Mᵀ, where M are its
    coefficients: inner products are those of the prediction, and a linear head of few images sees these alone. InputError
    if the embeddings are all alike.
    """
    wanted = np.tile(wanted, (len(found), 1))
    deviation = found.std(1).mean(0)
    found = found.reshape(len(wanted), -1)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > _CONSTANT)
    if not scale.any():
        raise InputError("the images are all alike to the network: expected different images of the surface")
    own = (found - found.mean(0)) * scale
    target = (wanted - wanted.mean(0)) / np.maximum(wanted.std(0), _CONSTANT)
    gram = own.T @ own
    coefficients = np.linalg.solve(gram + _PENALTY * len(own) * np.eye(len(gram)), own.T @ target)
    values, vectors = np.linalg.eigh(coefficients @ coefficients.T)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    weight = root * scale * np.sqrt(len(own) * len(root) / (root @ gram @ root).trace())  # a mean variance of one
    projection = nn.Linear(*weight.shape).requires_grad_(False)
    projection.weight.copy_(torch.from_numpy(weight))
    projection.bias.copy_(torch.from_numpy(-weight @ found.mean(0)))
    return projection


@torch.inference_mode()
def embed_images(embed: Callable[[Tensor], Tensor], pixels: Tensor, description: str) -> npt.NDArray[np.float32]:
    """Compute what `embed` makes (N, E) of uint8 images (N, C, H, W), normalised by their own mean and sd."""
    mean, sd = (torch.tensor(v).view(1, -1, 1, 1) for v in channel_statistics(pixels, torch.arange(len(pixels))))
    blocks = []
    with progress_bar(description, len(pixels)) as advance:
        for block in torch.split(pixels, 64):
            blocks.append(embed(((block.float() / 255 - mean) / sd).contiguous(memory_format=torch.channels_last)))
            advance(len(block))
    return torch.cat(blocks).numpy()
