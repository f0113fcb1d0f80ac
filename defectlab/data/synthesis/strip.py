"""Procedural stand-ins for NEU-CLS, where there are no real images.

Class names, size, grey levels and textures are close to those of Song & Yan, "A noise robust method based on completed
local binary patterns for hot-rolled steel strip surface defects", Applied Surface Science 285 (2013). The parameter
ranges were tuned against its images; none of them is used. Metrics on these images say nothing about real steel.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.data.sources.decode import save_image
from defectlab.data.sources.files import new_folder
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.data.synthesis import steel
from defectlab.data.synthesis.textures import SIDE, Sampler
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

CLASS_NAMES = NEU_CLASSES
_DRAW: tuple[Callable[[Sampler], Tensor], ...] = (  # in the order of the classes
    steel.crazing, steel.inclusion, steel.patches, steel.pitted_surface, steel.rolled_in_scale, steel.scratches,
)  # fmt: skip
_CHUNK = 10  # images that share a generator: part of what a seed means
_SMALLEST = 32  # px; below it the lines of crazing are gone


def strip_images(class_name: str, count: int, seed: int, size: int = SIDE) -> Tensor:
    """Draw `count` grey images of one class, uint8, shape (count, 1, size, size).

    Image i depends on class, seed and i alone: a longer call begins with the images of a shorter one. They are drawn at
    200 px and resized. torch's global generator and thread count are left as they were.

    Raises:
        InputError: an unknown class, count < 1, seed < 0 or size < 32.
    """
    if class_name not in CLASS_NAMES:
        raise InputError(f"class_name is {class_name!r}: expected one of {', '.join(CLASS_NAMES)}")
    _at_least(("count", count, 1), ("seed", seed, 0), ("size", size, _SMALLEST))
    label = CLASS_NAMES.index(class_name)
    with _workers() as pool:
        chunks = pool.map(lambda index: _chunk(label, seed, index, size), range(-(-count // _CHUNK)))
        return torch.cat(list(chunks))[:count]


def strip_scenes(labels: Tensor, key: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw an image per label `(N,)`, ascending, float32, not clipped, shape (N, 1, 200, 200), on the device.

    Images depend on all labels and on the key, non-negative integers in place of a seed.
    """
    counts = torch.bincount(labels, minlength=len(CLASS_NAMES)).tolist()
    with device:
        scenes = [_DRAW[label](Sampler((*key, label), count)) for label, count in enumerate(counts) if count]
    return torch.cat(scenes).unsqueeze(1)


def synthesize(directory: str | Path, per_class: int, seed: int, size: int = SIDE) -> int:
    """Write `directory/<class>/<class>_<i>.png`, i from 1 to `per_class`, and return the number of images.

    The images are those of `strip_images`; a call that fails or is stopped leaves nothing in `directory`.

    Raises:
        InputError: `directory` is a file or not empty, per_class < 1, seed < 0, or size < 32.
    """
    _at_least(("per_class", per_class, 1), ("seed", seed, 0), ("size", size, _SMALLEST))
    with new_folder(Path(directory)) as folder:
        _write_all(folder, per_class, seed, size)
    return per_class * len(CLASS_NAMES)


def _write_all(directory: Path, per_class: int, seed: int, size: int) -> None:
    for name in CLASS_NAMES:
        (directory / name).mkdir(parents=True)

    def write(label: int, index: int) -> int:
        images = _chunk(label, seed, index, size)[: per_class - index * _CHUNK, 0]
        for i, image in enumerate(images.numpy(), start=index * _CHUNK + 1):
            name = CLASS_NAMES[label]
            save_image(image, directory / name / f"{name}_{i}.png", synthetic=True)
        return len(images)

    with _workers() as pool, progress_bar("drawing steel strip", per_class * len(CLASS_NAMES)) as advance:
        chunks = range(-(-per_class // _CHUNK))
        jobs = [pool.submit(write, label, index) for label in range(len(CLASS_NAMES)) for index in chunks]
        for job in as_completed(jobs):
            advance(job.result())


def _chunk(label: int, seed: int, index: int, size: int) -> Tensor:
    """Draw the ten images of one generator, uint8, shape (10, 1, size, size)."""
    images = _DRAW[label](Sampler((seed, label, index), _CHUNK)).unsqueeze(1)
    if size != SIDE:
        images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of torch's number of threads, torch on one: faster, and equal bits for any number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _at_least(*bounds: tuple[str, int, int]) -> None:
    for name, value, least in bounds:
        if value < least:
            raise InputError(f"{name} is {value}: expected {least} or more, set another {name}")
