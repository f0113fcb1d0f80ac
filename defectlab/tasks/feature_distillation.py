"""Knowledge of a larger network without its images: train a backbone to reproduce a teacher's maps on drawn images."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from defectlab.errors import InputError, check_at_least
from defectlab.networks import PretrainedNetwork
from defectlab.networks.backbones import MIDDLE_STAGES, Backbone, backbone_features, layer_channels
from defectlab.networks.weights import load_backbone_weights
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.pretrained import PretrainedTask
from defectlab.utils.image_format import Size

_LEVEL, _CONTRAST, _FLOOR = 0.2, 0.9, 0.15  # of a teacher's images, in units of ImageNet's standard deviation


class FeatureDistillationTask(PretrainedTask):
    """Train a backbone on the maps of a teacher's middle layers, place by place, and on their statistics.

    The teacher is frozen, is loaded by `fit` alone and is in no checkpoint. It sees every image in the same light,
    standardised to a middle level and contrast of ImageNet's, and every other group flipped, so that what is learned
    depends neither on light nor on hand. Three losses are added, and the classification loss on the data's labels. `maps`:
    each of the teacher's maps that are not flipped, standardised by channel, is read by 1×1 convolutions from all of the
    student's (FitNets, Romero et al. 2015). `statistics`: the teacher's pooled mean and sd, standardised, are read by one
    linear layer from the student's. `similarity`: the batch's kernel matrices of those pooled features should be alike
    (linear CKA, Kornblith et al. 2019), for all images and for what is left when the mean of each group is subtracted: a
    linear probe of few images sees these matrices alone.

    The student's images are standardised in part by their group, as those of a data set are by the set.

    Args:
        in_channels: from the data on the command line.
        backbone: of the student.
        width: of the student.
        teacher: file of the teacher's weights, see `load_backbone_weights`.
        teacher_backbone: its network, of width 1.
        label_weight: of the classification loss, from 0.
        similarity_weight: of the loss of similarity, from 0.
        group: images in a row that are of one kind; the batch size is a multiple of twice that.
        compile: pass the teacher through torch.compile; pays on GPUs.

    The other arguments are those of `PretrainedTask`.
    """

    training_only = ("teacher",)

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        backbone: Backbone = "mobilenet_v3_small",
        width: float = 1.0,
        teacher: str | None = None,
        teacher_backbone: Backbone = "mobilenet_v2",
        label_weight: float = 0.1,
        similarity_weight: float = 1.0,
        group: int = 8,
        optimizer: OptimizerSettings | None = None,
        scheduler: SchedulerSettings | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
    ) -> None:
        for name, value in {"label_weight": label_weight, "similarity_weight": similarity_weight}.items():
            if not 0 <= value < float("inf"):
                raise InputError(f"model.{name} is {value}: expected a number of at least 0")
        check_at_least("model.group", group, 2)
        super().__init__(
            num_classes, in_channels, image_size, backbone, width, stages="middle", dropout=0.0, optimizer=optimizer,
            scheduler=scheduler, label_smoothing=label_smoothing, channels_last=channels_last,
        )  # fmt: skip
        self.teacher, self.teacher_backbone = teacher, teacher_backbone
        self.label_weight, self.similarity_weight, self.group = label_weight, similarity_weight, group
        self.compile_teacher = compile
        self.reader = MapReader(_widths(backbone, width), _widths(teacher_backbone, 1.0))
        self._teacher: tuple[PretrainedNetwork, ...] = ()  # in a tuple, so that it is no part of the task
        self._seen: tuple[list[Tensor], Tensor] | None = None

    def parameter_modules(self) -> list[tuple[nn.Module, float]]:
        """Return the network's parts and the reader."""
        return [*super().parameter_modules(), (self.reader, 1.0)]

    def setup(self, stage: str) -> None:
        """Load the teacher.

        Raises:
            InputError: none is given, or its weights cannot be used.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if self.teacher is None:
            raise InputError(
                "FeatureDistillationTask has no teacher: give model.teacher, a file of ImageNet weights of "
                f"{self.teacher_backbone}"
            )
        teacher = PretrainedNetwork(2, 3, self.network.image_size, self.teacher_backbone, stages="middle")
        load_backbone_weights(teacher, self.teacher)
        teacher.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self._teacher = (teacher,)
        self._teacher_maps = torch.compile(teacher.stage_maps) if self.compile_teacher else teacher.stage_maps

    def on_fit_start(self) -> None:
        """Refuse batches of other groups or that groups do not divide, and move the teacher to the device."""
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        size = data.batch_size
        if getattr(data, "group", self.group) != self.group:
            raise InputError(f"model.group is {self.group}, data.group {data.group}: expected the same")
        if size % (2 * self.group):
            raise InputError(f"model.group is {self.group}: expected a divisor of half of data.batch_size, {size}")
        self._teacher[0].to(self.device)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits `(N, num_classes)`; in training also keep the maps they come from."""
        if not self.training or not self._teacher:
            return super().forward(images)
        images = standardise_groups(images, self.group, self.global_step)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        maps = self.network.stage_maps(images)
        self._seen = maps, pooled(maps)
        return self.network.classify(self._seen[1])

    def batch_loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the sum of the losses of labels, maps, statistics and similarity."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        loss = self.teaching_loss(self.reader, *seen, *self.wanted(images))
        if self.label_weight:
            loss = loss + self.label_weight * super().batch_loss(images, logits, labels)
        return loss

    @torch.no_grad()
    def wanted(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute the teacher's maps of every other group of images (N, C, H, W), and its statistics (N, E) of all."""
        images = in_even_light(images).contiguous(memory_format=torch.channels_last)
        flipped = images.flip(((3,), (2,), (2, 3))[self.global_step % 3])
        straight = _every_other(torch.arange(len(images), device=images.device), self.group)
        images = flipped.index_copy(0, straight, images[straight])
        maps = self._teacher_maps(images)
        return [map_[straight] for map_ in maps], pooled(maps)

    def teaching_loss(
        self,
        reader: "MapReader",
        maps: list[Tensor],
        statistics: Tensor,
        wanted: list[Tensor],
        wanted_statistics: Tensor,
    ) -> Tensor:
        """Compute the losses of maps, statistics and similarity."""
        straight = _every_other(torch.arange(len(statistics), device=statistics.device), self.group)
        loss: Tensor = reader([map_[straight] for map_ in maps], wanted)
        with torch.autocast(statistics.device.type, enabled=False):
            own, other = standardised(statistics), standardised(wanted_statistics)
            loss = loss + functional.smooth_l1_loss(reader.statistics(own), other)
            if self.similarity_weight:
                apart = [standardised(_residuals(features, self.group)) for features in (own, other)]
                alike = similarity_loss(own, other) + similarity_loss(apart[0], apart[1])
                loss = loss + self.similarity_weight * alike
        return loss


class MapReader(nn.Module):
    """Linear readings of a teacher's maps from a student's; both are lists of channels."""

    def __init__(self, student: list[int], teacher: list[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Conv2d(own, other, 1, bias=False) for own, other in itertools.product(student, teacher)
        )
        self.statistics = nn.Linear(2 * sum(student), 2 * sum(teacher))

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute the smooth L1 loss of the teacher's maps (N, C, h, w), standardised by channel, mean over the maps."""
        losses = []
        for index, wanted in enumerate(teacher):
            mean, deviation = wanted.float().mean((0, 2, 3), keepdim=True), wanted.float().std((0, 2, 3), keepdim=True)
            found = torch.zeros_like(mean)
            for map_, reading in zip(student, list(self.maps)[index :: len(teacher)], strict=True):
                mode = "bilinear" if map_.shape[-1] < wanted.shape[-1] else "area"
                found = found + functional.interpolate(reading(map_), wanted.shape[-2:], mode=mode)
            losses.append(functional.smooth_l1_loss(found.float(), (wanted - mean) / (deviation + 1e-3)))
        return torch.stack(losses).mean()


def pooled(maps: list[Tensor]) -> Tensor:
    """Compute the embedding of `PretrainedNetwork` from its maps: all means, then all standard deviations, (N, E)."""
    moments = [torch.var_mean(map_.float(), dim=(2, 3), correction=0) for map_ in maps]
    means, deviations = [mean for _, mean in moments], [(variance + 1e-6).sqrt() for variance, _ in moments]
    return torch.cat(means + deviations, dim=1)


def standardised(features: Tensor) -> Tensor:
    """Standardise each feature (N, E) over the batch."""
    variance, mean = torch.var_mean(features, dim=0, correction=0)
    return (features - mean) * (variance + 1e-6).rsqrt()


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute one minus the linear CKA of centred features (N, D) and (N, E), in [0, 1]."""
    own, other = student @ student.T, teacher @ teacher.T
    alike: Tensor = (own * other).sum() / (own.norm() * other.norm())
    return 1 - alike


def standardise_groups(images: Tensor, group: int, seed: int) -> Tensor:
    """Standardise images (N, C, H, W) by their group's mean and sd, to a degree in [0, 1] that is drawn for each group."""
    groups = images.reshape(-1, group * images[0].numel()) if len(images) % group == 0 else images.flatten(1)
    mean, deviation = groups.mean(1, keepdim=True), groups.std(1, keepdim=True) + 0.05
    degree = torch.rand(len(groups), 1, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return ((groups - degree * mean) / deviation**degree).view_as(images)


def in_even_light(images: Tensor) -> Tensor:
    """Standardise each of the normalised images (N, 1 or 3, H, W) to one level and contrast, shape (N, 3, H, W)."""
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), keepdim=True)
    return ((images - mean) / (variance.sqrt() + _FLOOR) * _CONTRAST + _LEVEL).expand(-1, 3, -1, -1)


def _every_other(rows: Tensor, group: int) -> Tensor:
    """Return the rows (N,) of the first, third, fifth group."""
    return rows.view(-1, 2, group)[:, 0].flatten()


def _residuals(features: Tensor, group: int) -> Tensor:
    """Subtract the mean of each group from features (N, E)."""
    groups = features.view(-1, group, features.shape[1])
    return (groups - groups.mean(1, keepdim=True)).flatten(0, 1)


def _widths(backbone: Backbone, width: float) -> list[int]:
    with torch.device("meta"):
        channels = layer_channels(backbone_features(backbone, width, in_channels=3))
    return [channels[stage] for stage in MIDDLE_STAGES[backbone]]
