"""Procedural surfaces for pretraining: no files, no real image, new images in every step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.augment import Augmentation, augment, draw, random_generator
from defectlab.data.pipeline.loader import EpochLoader
from defectlab.data.sources.images import ImageSet
from defectlab.data.synthesis import strip
from defectlab.data.synthesis.scenes import draw_scenes
from defectlab.data.synthesis.surfaces import DIMENSIONS, draw_surfaces
from defectlab.errors import InputError, check_at_least
from defectlab.utils.progress import progress_bar

_CHUNK = 64  # evaluation images drawn at a time
_VIEWS = 2  # cut-outs of one scene of strip, whose 200 × 200 px cost more to draw than a training step
_VIEW = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, crop=0.5, brightness=0.1, contrast=0.3)


class SurfacesDataModule(ImageDataModule):
    """Images of procedural surfaces to classify; each training image is drawn for one step only.

    A class is either a point of the cube of properties that `draw_surfaces` reads, so that hundreds of textures with
    defects differ in scale, direction, depth and density; or one of the six synthetic classes of NEU-CLS; or the scenes
    of `draw_scenes`, a wider world, all of one class.

    The train part holds a sample of the training images, for statistics and inspection; the loader draws others.

    Args:
        surfaces: number of points, one class each.
        strip_share: fraction of the images that shows the six synthetic classes of strip; 0 leaves these out.
        scene_share: fraction of the images that shows scenes; 0 leaves these out.
        group: images in a row that are of one surface, scene or kind of strip, as in a data set; divides `batch_size`.
        draw_batches: batches that are drawn together, which a GPU is faster at.
        jitter: standard deviation of an image's point about that of its class, in sides of the cube.
        images_per_epoch: images drawn for an epoch, over all processes.
        eval_images: images each of the val and test parts, and of the sample of training.
        seed: of the points and of every image; no image is in two of the parts.

    The other arguments are those of `ImageDataModule`.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        surfaces: int = 1000,
        strip_share: float = 0.5,
        scene_share: float = 0.0,
        jitter: float = 0.03,
        images_per_epoch: int = 50_000,
        eval_images: int = 2000,
        group: int = 1,
        draw_batches: int = 1,
        image_size: int = 96,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        seed: int = 0,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=1, batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed,
            val_size=0.15, test_size=None, augmentation=None, mean=mean, std=std,
        )  # fmt: skip
        check_at_least("data.surfaces", surfaces, 2)
        check_at_least("data.images_per_epoch", images_per_epoch, 2)
        check_at_least("data.eval_images", eval_images, 1)
        check_at_least("data.draw_batches", draw_batches, 1)
        if image_size < 32:
            raise InputError(f"data.image_size is {image_size}: expected at least 32, below which no texture is left")
        for name, share in {"strip_share": strip_share, "scene_share": scene_share}.items():
            if not 0 <= share < 1:
                raise InputError(f"data.{name} is {share}: expected at least 0 and below 1")
        if strip_share + scene_share >= 1:
            raise InputError(
                f"data.scene_share is {scene_share}, data.strip_share {strip_share}: expected less than 1 together"
            )
        if group < 1 or batch_size % group:
            raise InputError(f"data.group is {group}: expected a divisor of data.batch_size, {batch_size}")
        if not 0 <= jitter <= 0.5:
            raise InputError(f"data.jitter is {jitter}: expected a number from 0 to 0.5")
        self.side = image_size
        self.surfaces = surfaces
        self.strip_share = strip_share
        self.scene_share = scene_share
        self.group = group
        self.draw_batches = draw_batches
        self.jitter = jitter
        self.images_per_epoch = images_per_epoch
        self.eval_images = eval_images

    @property
    def class_names(self) -> Sequence[str]:
        """Return a number for each surface, then the classes of strip, then `scene`."""
        others = list(strip.CLASS_NAMES if self.strip_share else ()) + ["scene"] * (self.scene_share > 0)
        return [f"surface_{i:04}" for i in range(self.surfaces)] + others

    @property
    def source(self) -> str:
        """Return `synthetic`."""
        return "synthetic"

    @property
    def location(self) -> str:
        """Return the generator's settings."""
        return f"procedural surfaces, {self.num_classes} classes, seed {self.seed}"

    def load(self) -> ImageSet:
        """Draw the images of evaluation and the sample of training."""
        parts = ("train", "val", "test")
        painter = self._painter()
        images, labels = [], []
        with progress_bar("drawing surfaces", len(parts) * self.eval_images) as advance:
            for part in range(len(parts)):
                for start in range(0, self.eval_images, _CHUNK):
                    count = min(_CHUNK, self.eval_images - start)
                    drawn, kinds = painter.draw(count, (self.seed, 1, part, start), torch.device("cpu"))
                    images.append(drawn.mul(255).round().to(torch.uint8))
                    labels.append(kinds)
                    advance(count)
        names = [part for part in parts for _ in range(self.eval_images)]
        files = [f"{name}/{index}.png" for name in parts for index in range(self.eval_images)]
        return ImageSet(
            images=torch.cat(images), labels=torch.cat(labels), class_names=list(self.class_names), files=files,
            splits=names, synthetic=len(files),
        )  # fmt: skip

    def train_dataloader(self) -> "SurfaceLoader":
        """Return a loader that draws new images every epoch."""
        device, rank, world_size = self._device_and_rank()
        self._train_loader = SurfaceLoader(
            painter=self._painter(), images_per_epoch=self.images_per_epoch, batch_size=self.batch_size,
            draw_batches=self.draw_batches,
            normalise=self.card.normalise, device=device, rank=rank, world_size=world_size, seed=self.seed,
            epoch=self._next_epoch(),
        )  # fmt: skip
        return self._train_loader

    def _painter(self) -> "SurfacePainter":
        points = torch.rand(self.surfaces, DIMENSIONS, generator=random_generator(self.seed, 0))
        return SurfacePainter(points, self.strip_share, self.jitter, self.side, self.scene_share, self.group)


@dataclass(frozen=True, eq=False)
class SurfacePainter:
    """Draws labelled images; `points` (K, 64) has a row per class, `side` is in pixels, see `SurfacesDataModule`."""

    points: Tensor
    strip_share: float
    jitter: float
    side: int
    scene_share: float = 0.0
    group: int = 1

    def draw(self, count: int, key: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw images (count, 1, side, side) in [0, 1] and their classes (count,); equal keys, equal images.

        Surfaces come first, then strip in the order of its classes, then scenes; each kind in whole groups.
        """
        strips = min(count, round(count / self.group * self.strip_share) * self.group)
        scenes = min(count - strips, round(count / self.group * self.scene_share) * self.group)
        generator = random_generator(*key)
        labels = self._labels(len(self.points), count - strips - scenes, 1, generator)
        kinds = self._labels(len(strip.CLASS_NAMES), strips, _VIEWS, generator)
        here = torch.Generator(device).manual_seed(generator.initial_seed())
        images = []
        if len(labels):
            images.append(draw_surfaces(self.points[labels].to(device), self.side, here, self.jitter))
        if strips:
            kinds = kinds.sort().values
            drawn = strip.strip_scenes(kinds, key, device).repeat_interleave(_VIEWS, dim=0)[:strips]
            views = augment(drawn.clamp(0, 1), draw(strips, (*key, 1)), _VIEW)
            views = functional.interpolate(views, (self.side, self.side), mode="bilinear", antialias=True)
            images.append(views.clamp(0, 1))
            kinds = kinds.repeat_interleave(_VIEWS)[:strips]
        if scenes:
            images.append(draw_scenes(scenes, self.side, here, device, self.group))
        first = len(self.points)
        last = first + len(strip.CLASS_NAMES) * (self.strip_share > 0)
        return torch.cat(images), torch.cat((labels, kinds + first, torch.full((scenes,), last)))

    def _labels(self, classes: int, count: int, views: int, generator: torch.Generator) -> Tensor:
        """Draw the class of every scene of so many views, the same for the scenes of a group."""
        scenes, repeats = -(-count // views), max(1, self.group // views)
        labels = torch.randint(classes, (-(-scenes // repeats),), generator=generator)
        return labels.repeat_interleave(repeats)[:scenes]


@dataclass(eq=False)
class SurfaceLoader(EpochLoader):
    """Batches of new images on the device; fields as of `TrainLoader`, `images_per_epoch` over all processes."""

    painter: SurfacePainter
    images_per_epoch: int
    batch_size: int
    normalise: Callable[[Tensor], Tensor]
    device: torch.device
    rank: int
    world_size: int
    seed: int
    epoch: int = 0
    draw_batches: int = 1

    def __len__(self) -> int:
        return max(1, self.images_per_epoch // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        first, self._first = self._first, 0
        for step in range(0, len(self), self.draw_batches):
            batches = min(self.draw_batches, len(self) - step)
            if step + batches <= first:
                continue
            images, labels = self.painter.draw(
                batches * self.batch_size, (self.seed, 2, epoch, step * self.world_size + self.rank), self.device
            )
            images, labels = self.normalise(images), labels.to(self.device)
            # Each batch takes every so-many-th group, so that all have the same shares.
            groups = torch.arange(len(images), device=self.device).view(-1, batches, self.painter.group)
            for index in range(max(0, first - step), batches):
                self._done = step + index + 1
                rows = groups[:, index].flatten()
                yield (images[rows], labels[rows]) if batches > 1 else (images, labels)
