"""How strange an image is to a network: its distance from the training images, in size and in direction."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from defectlab.errors import InputError

_SHRINKAGE = 0.3  # of the covariance towards a sphere; from 0.05 to 0.6 the ranking of images hardly changes
_FLOOR = 1e-3  # of the mean standard deviation: features that hardly vary in training count no more than this
_NOISE = 1e-5  # of the size of embeddings: less is rounding
_KEPT = 64  # directions of the whitened space: of 416 on NEU-CLS 64 rank new classes as well as all do
_CANDIDATES = 8  # nearest training images whose distances are computed exactly
_NAMES = ("mean", "scale", "whitening", "bank")  # tensors of a state
_HALVES = ("whitening", "bank")  # kept in half precision, and used as they are kept


class NoveltyScorer(nn.Module):
    """Score how far an embedding is from those of training, (N, E) to (N,); higher is stranger.

    Embeddings are standardised and whitened by the covariance within the classes, so that what sets classes apart counts
    for more than what varies within them (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution
    samples"). The score is the distance to the nearest training embedding (Sun et al. 2022, "Out-of-distribution detection
    with deep nearest neighbors") times the least chord between directions as seen from the mean: the distance tells what is
    of another material, the direction a new class of this one. No loop and no condition depends on the data, so that it is
    exported with the network.

    It has buffers alone, which are no part of a `state_dict`: `state` is what a checkpoint keeps.

    Args:
        mean: of the training embeddings, (E,).
        scale: their standard deviation, above 0, (E,).
        whitening: from standardised embeddings to the leading directions of whitened ones, (E, K).
        bank: training images there, (B, K).
    """

    mean: Tensor
    scale: Tensor
    whitening: Tensor
    bank: Tensor
    lengths: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, whitening: Tensor, bank: Tensor) -> None:
        super().__init__()
        given = {"mean": mean, "scale": scale, "whitening": whitening, "bank": bank}
        for name, tensor in given.items():
            kept = tensor.half() if name in _HALVES else tensor
            self.register_buffer(name, kept.float(), persistent=False)
        self.register_buffer("lengths", self.bank.norm(dim=1).clamp(min=1e-6), persistent=False)

    @classmethod
    def fit(cls, embeddings: Tensor, labels: Tensor) -> "NoveltyScorer":
        """Fit to embeddings (N, E) of training images and their labels, int64 (N,), or (N, C) of 0 and 1.

        Raises:
            InputError: fewer than two images, or embeddings that are not finite or all alike.
        """
        if len(embeddings) < 2 or not torch.isfinite(embeddings).all():
            raise InputError(f"{len(embeddings)} embeddings: expected at least two, of finite numbers")
        values = embeddings.double()
        mean, scale = values.mean(dim=0), values.std(dim=0, correction=0)
        if scale.mean() <= _NOISE * values.abs().mean():
            raise InputError(
                "embeddings that differ from image to image by rounding alone: expected those of a trained network"
            )
        scale = scale + _FLOOR * scale.mean() + 1e-9
        standard = (values - mean) / scale
        members = labels.double() if labels.ndim == 2 else nn.functional.one_hot(labels).double()
        design = torch.cat([torch.ones_like(members[:, :1]), members], dim=1)
        within = standard - design @ (torch.linalg.pinv(design) @ standard)  # of one class an image: minus its mean
        covariance = within.T @ within / len(within)
        size = len(covariance)
        sphere = torch.eye(size, dtype=torch.float64)
        # Where each class has one image nothing varies within it: all directions count alike.
        level = covariance.trace() / size
        level = level if level > 1e-9 else torch.ones_like(level)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * sphere
        root = torch.linalg.cholesky(shrunk)
        whitening = torch.linalg.solve_triangular(root, sphere, upper=False).T
        # Most of the variance is then between the classes; the last directions are noise, and cost memory and time.
        found = standard @ whitening
        _, directions = torch.linalg.eigh(found.T @ found)
        whitening = whitening @ directions.flip(1)[:, :_KEPT]
        return cls(mean, scale, whitening, standard.float() @ whitening.half().float())

    @classmethod
    def from_state(cls, state: Any) -> "NoveltyScorer":
        """Make a scorer of what `state` returned; InputError for what is none."""
        given = [state.get(name) for name in _NAMES] if isinstance(state, Mapping) else []
        tensors = [one for one in given if isinstance(one, Tensor) and one.is_floating_point() and one.numel()]
        if len(tensors) == len(_NAMES):
            mean, scale, whitening, bank = tensors
            size = mean.numel()
            shapes = [tuple(tensor.shape) for tensor in tensors]
            finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors) and float(scale.min()) > 0
            kept = whitening.numel() // size
            if finite and kept and shapes == [(size,), (size,), (size, kept), (bank.numel() // kept, kept)]:
                return cls(mean, scale, whitening, bank)
        raise InputError(
            f"the checkpoint's novelty is damaged: expected the tensors {', '.join(_NAMES)}, finite and of shapes that fit"
        )

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint keeps."""
        kept = {name: getattr(self, name).cpu() for name in _NAMES}
        return {name: tensor.half() if name in _HALVES else tensor for name, tensor in kept.items()}

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score embeddings (N, E): (N,), at least 0."""
        found = self.whiten(embeddings)
        lengths = found.norm(dim=1, keepdim=True).clamp(min=1e-6)
        inner = found @ self.bank.T
        near = self._least(found, self.bank, self.lengths.square() - 2 * inner)
        alike = self._least(found / lengths, self.bank / self.lengths[:, None], -inner / self.lengths)
        return near * alike

    def whiten(self, embeddings: Tensor) -> Tensor:
        """Turn embeddings (N, E) into the points (N, K) whose distances count."""
        return ((embeddings.float() - self.mean) / self.scale) @ self.whitening

    def _least(self, points: Tensor, bank: Tensor, order: Tensor) -> Tensor:
        """Return the least distance (N,) of points (N, K) to the bank, whose `order` (N, B) grows with it.

        That order rounds away small differences of large numbers; of the few that come first they are taken one by one.
        """
        first = order.topk(min(_CANDIDATES, len(bank)), largest=False).indices
        return (points[:, None] - bank[first]).square().sum(dim=2).amin(dim=1).sqrt()
