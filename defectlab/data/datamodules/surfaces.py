"""Procedural surfaces without end, for pretraining: no files, no real image, new images in every step."""

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
from defectlab.data.synthesis.surfaces import DIMENSIONS, draw_surfaces
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

_CHUNK = 64  # evaluation images drawn at a time
_VIEWS = 2  # cut-outs of one scene of strip, whose 200 × 200 px cost more to draw than a training step
_VIEW = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, crop=0.5, brightness=0.1, contrast=0.3)


class SurfacesDataModule(ImageDataModule):
    """Images of procedural surfaces, to be told apart; each training image is drawn once and never again.

    A class is either a point of the cube of properties that `draw_surfaces` reads, so that hundreds of textures with
    defects are told apart by their scale, direction, depth and density; or one of the six kinds of strip that also
    stand in for NEU-CLS, each over its whole range. Their ranges follow what is known of real strip, but no real
    image is read.

    The train part holds a sample of the training images, for statistics and for a look; the loader draws others.

    Args:
        surfaces: number of points, a class each.
        strip_share: share of the images that shows the six kinds of strip; 0 leaves these classes out.
        jitter: standard deviation of an image's place about its class's point, in sides of the cube.
        images_per_epoch: images drawn for an epoch, over all processes.
        eval_images: images each of the val and test parts, and of the sample of training.
        image_size: side in pixels.
        batch_size: images a step and process, for training.
        eval_batch_size: the same for evaluation.
        seed: of the points and of every image; no image is in two of the parts.
        mean: a value on [0, 1]; None measures the sample.
        std: likewise.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        surfaces: int = 1000,
        strip_share: float = 0.5,
        jitter: float = 0.03,
        images_per_epoch: int = 50_000,
        eval_images: int = 2000,
        image_size: int = 96,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=1, batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed,
            val_size=0.15, test_size=None, split="auto", group_duplicates=False,
            augmentation=None, mean=mean, std=std,
        )  # fmt: skip
        least = {"surfaces": (surfaces, 2), "images_per_epoch": (images_per_epoch, 2), "eval_images": (eval_images, 1)}
        for name, (value, low) in least.items():
            if value < low:
                raise InputError(f"data.{name} is {value}: expected a whole number of at least {low}")
        if image_size < 32:
            raise InputError(f"data.image_size is {image_size}: expected at least 32, below which no texture is left")
        if not 0 <= strip_share < 1:
            raise InputError(f"data.strip_share is {strip_share}: expected at least 0 and below 1")
        if not 0 <= jitter <= 0.5:
            raise InputError(f"data.jitter is {jitter}: expected a number from 0 to 0.5")
        self.surfaces = surfaces
        self.strip_share = strip_share
        self.jitter = jitter
        self.images_per_epoch = images_per_epoch
        self.eval_images = eval_images

    @property
    def class_names(self) -> Sequence[str]:
        """A number a surface, then the kinds of strip."""
        return [f"surface_{index:04}" for index in range(self.surfaces)] + list(
            strip.CLASS_NAMES if self.strip_share else ()
        )

    @property
    def source(self) -> str:
        """Always `synthetic`."""
        return "synthetic"

    @property
    def location(self) -> str:
        """The generator's settings."""
        return f"procedural surfaces, {self.num_classes} classes, seed {self.seed}"

    def load(self) -> ImageSet:
        """Draw the images of evaluation."""
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
        return ImageSet(torch.cat(images), torch.cat(labels), list(self.class_names), files, names, [])

    def train_dataloader(self) -> "SurfaceLoader":
        """New images every epoch, in batches like everybody's."""
        device, rank, world_size = self._place()
        self._train_loader = SurfaceLoader(
            painter=self._painter(), images_per_epoch=self.images_per_epoch, batch_size=self.batch_size,
            normalise=self.card.normalise, device=device, rank=rank, world_size=world_size, seed=self.seed,
            epoch=self._next_epoch(),
        )  # fmt: skip
        return self._train_loader

    def _painter(self) -> "SurfacePainter":
        points = torch.rand(self.surfaces, DIMENSIONS, generator=random_generator(self.seed, 0))
        return SurfacePainter(points, self.strip_share, self.jitter, self.image_size)


@dataclass(frozen=True, eq=False)
class SurfacePainter:
    """Draws labelled images on a device: the same for the same key, and unrelated ones for another.

    Args:
        points: (K, 64), one a class; the kinds of strip are the classes after them.
        strip_share: of the images of a batch.
        jitter: see `draw_surfaces`.
        side: in pixels.
    """

    points: Tensor
    strip_share: float
    jitter: float
    side: int

    def draw(self, count: int, key: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (count, 1, side, side) in [0, 1] and their classes (count,), strip at the end."""
        strips = round(count * self.strip_share)
        generator = random_generator(*key)
        labels = torch.randint(len(self.points), (count - strips,), generator=generator)
        kinds = torch.randint(len(strip.CLASS_NAMES), (-(-strips // _VIEWS),), generator=generator)
        here = torch.Generator(device).manual_seed(generator.initial_seed())
        images = draw_surfaces(self.points[labels].to(device), self.side, here, self.jitter)
        if not strips:
            return images, labels
        kinds = kinds.sort().values
        scenes = strip.strip_scenes(kinds, key, device).repeat_interleave(_VIEWS, dim=0)[:strips]
        views = augment(scenes.clamp(0, 1), draw(strips, (*key, 1)), _VIEW)
        views = functional.interpolate(views, (self.side, self.side), mode="bilinear", antialias=True)
        kinds = kinds.repeat_interleave(_VIEWS)[:strips] + len(self.points)
        return torch.cat((images, views.clamp(0, 1))), torch.cat((labels, kinds))


@dataclass(eq=False)
class SurfaceLoader(EpochLoader):
    """Finished batches as `TrainLoader` gives them, each image drawn for its step alone.

    Args:
        painter: draws.
        images_per_epoch: over all processes.
        batch_size: images a step and process.
        normalise: of floats in [0, 1]: `DataCard.normalise`.
        device: where images are drawn.
        rank: of this process.
        world_size: number of processes.
        seed: at least 0.
        epoch: the epoch that the next pass belongs to; each pass counts it on.
    """

    painter: SurfacePainter
    images_per_epoch: int
    batch_size: int
    normalise: Callable[[Tensor], Tensor]
    device: torch.device
    rank: int
    world_size: int
    seed: int
    epoch: int = 0

    def __len__(self) -> int:
        return max(1, self.images_per_epoch // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        for step in range(len(self)):
            images, labels = self.painter.draw(
                self.batch_size, (self.seed, 2, epoch, step * self.world_size + self.rank), self.device
            )
            yield self.normalise(images), labels.to(self.device)
