"""Decode one image file to uint8 pixels: every bit depth, palette, transparency and orientation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from defectlab.data.sources.levels import Array, BadImage, Levels, Pixels, check_eight_bits, levels_of, scaled
from defectlab.data.sources.opening import ORIENTATION, SYNTHETIC, Source, is_deep, is_halved, opened, upright_shape
from defectlab.data.sources.tiff import stored_type
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

_MOST_RESIZED = 2**26  # of an image resized for a crop: 200 MB
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_COARSE = 64 * 257  # a range of colours of 16 bits whose upper 8 tell little


def decode(path: Path, wanted: ImageFormat, beyond: list[Path] | None = None) -> Pixels:
    """Decode an image of the file, upright, to `wanted.shape`; `BadImage` if there is none.

    It is brought there as `fitted` does. Levels are as of `scaled`; a file whose pixels are cut off is added to `beyond`.
    """
    with opened(path, wanted) as source:
        shape = None
        if isinstance(source, Image.Image):
            whole, stored = upright_shape(source), source.size
            if wanted.fit != "crop":  # else the pixels have to equal torchvision's
                # Decodes a JPEG as grey, and a large one at 1/2, 1/4 or 1/8: faster. At three times the final size or more
                # pixels stay within 3 of 255 of a full decode.
                place = wanted.placement(*whole)
                least = (3 * place.width, 3 * place.height)
                source.draft("L" if wanted.channels == 1 else "RGB", least if whole[::-1] == stored else least[::-1])
            shape = None if source.size == stored else whole
        found, cut_off = _eight_bit(source, wanted)
        if cut_off and beyond is not None:
            beyond.append(path)
        return _fitted_all(found, wanted, shape)


def decode_array(values: Array, wanted: ImageFormat) -> tuple[Pixels, bool]:
    """Turn values (H, W), (H, W, C) or (C, H, W) into what `decode` returns; and whether pixels are cut off."""
    found, cut_off = _eight_bit(values, wanted)
    return _fitted_all(found, wanted, None), cut_off


def read_grey(path: Path, longest: int) -> Pixels:
    """Read the file's first image, upright, as (H, W), at most `longest` pixels a side; InputError if it cannot be read."""
    try:
        with opened(path) as source:
            grey = _plain(source).convert("L")
    except BadImage as error:
        raise InputError(f"{path}: {error}; expected an image") from None
    grey.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    return np.array(grey)


def planes(image: Image.Image) -> Pixels:
    """Return a decoded image of any mode as (1 or 3, H, W), grey where it is; `BadImage` if nothing tells what is white."""
    return _planes(_plain(image).convert("L" if image.mode in ("1", "L", "LA", "La") or is_deep(image) else "RGB"))


def save_image(pixels: Pixels, path: Path, synthetic: bool) -> None:
    """Save an image (H, W) or (1 or 3, H, W) as PNG, which says so if it is generated: `peek` reads that."""
    planes = pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels
    told = PngInfo()
    if synthetic:
        told.add_text(*SYNTHETIC)
    # Noise hardly compresses: the lowest level is three times as fast and 5 % larger.
    image = Image.fromarray(planes if planes.ndim == 2 else planes.transpose(1, 2, 0))
    image.save(path, compress_level=1, pnginfo=told)


def measure(path: Path, wanted: ImageFormat) -> Levels | None:
    """Return the levels of an image as it is stored; None for what cannot be read."""
    try:
        with opened(path, wanted) as source:
            return levels_of(_stored(source, wanted))
    except BadImage:  # it is told when all are read
        return None


def size_and_mode(path: Path) -> tuple[int, int, str]:
    """Return width, height, and Pillow's mode or the type of values; `BadImage` for what is no image."""
    with opened(path) as source:
        if isinstance(source, np.ndarray):
            return source.shape[1], source.shape[0], f"{source.dtype} of {source.shape[2:] or (1,)} channels"
        return source.width, source.height, source.mode


def _fitted_all(found: Image.Image | Pixels, wanted: ImageFormat, shape: tuple[int, int] | None) -> Pixels:
    """Fit an image, or each channel of (H, W, C) by itself, as Pillow resizes those of RGB."""
    if isinstance(found, Image.Image):
        return fitted(found, wanted, shape)
    one = replace(wanted.image_format, channels=1, alpha="compose")
    return np.concatenate(
        [fitted(Image.fromarray(np.ascontiguousarray(each)), one) for each in np.moveaxis(found, 2, 0)]
    )


def fitted(image: Image.Image, wanted: ImageFormat, shape: tuple[int, int] | None = None) -> Pixels:
    """Return an image of 8 bits as `wanted.shape`, placed by `wanted.placement`; grey is ITU-R 601 luma.

    A crop of a square is bit-equal to torchvision's `ImageClassification` before it normalises. `shape` is the height and
    width of the image where it was decoded at less.

    Raises:
        BadImage: its sides are too unequal for a crop.
    """
    _, tall, wide = wanted.shape
    place = wanted.placement(*(shape or (image.height, image.width)))
    if place.height * place.width > max(_MOST_RESIZED, tall * wide):
        raise BadImage(
            f"{image.width} × {image.height} px, sides too unequal to resize the shorter to {min(place[:2])} px"
        )
    image = image.convert("L" if wanted.channels == 1 else "RGB")
    if image.size != (place.width, place.height):  # Pillow antialiases when it shrinks
        image = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
    if place.top < 0 or place.left < 0:
        image = image.crop((-place.left, -place.top, wide - place.left, tall - place.top))
    pixels = _planes(image)
    if pixels.shape[1:] == (tall, wide):
        return pixels
    border = [(0, 0)]
    for begin, size, whole in zip(place[2:], place[:2], (tall, wide), strict=True):
        border.append((begin, whole - begin - size))
    if wanted.pad_value is not None:
        return np.pad(pixels, border, constant_values=wanted.pad_value)
    return np.pad(pixels, border, "symmetric")  # again and again where the image is small


def _planes(image: Image.Image) -> Pixels:
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # here: `getexif` would do it, and Pillow gives what there is of damaged pixels at the second attempt
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bit(source: Source, wanted: ImageFormat) -> tuple[Image.Image | Pixels, bool]:
    """Return an image upright and of 8 bits: of Pillow's, or (H, W, C) where it is to have other channels than 1 or 3.

    And whether pixels were cut off, see `scaled`.
    """
    halved = False
    if isinstance(source, Image.Image):
        halved = is_halved(source)
        if not (halved or is_deep(source)) and wanted.channels in (1, 3) and wanted.pixel_type != "uint8":
            check_eight_bits(wanted)
            return _opaque(_upright(source), wanted), False
    values = _channels_last(_stored(source, wanted), wanted)
    if halved and wanted.white_level is not None and wanted.white_level - wanted.black_level < _COARSE:
        raise BadImage(
            f"colours of 16 bits, of which the upper 8 alone are read: they tell little of {wanted.black_level:g} to "
            f"{wanted.white_level:g}; save it as TIFF and pip install 'defectlab[tiff]', or save it with 8 bits"
        )
    pixels, cut_off = scaled(values, wanted)
    if pixels.ndim == 2 or (pixels.shape[2] == 3 and wanted.channels in (1, 3)):
        return Image.fromarray(np.ascontiguousarray(pixels)), cut_off
    return pixels, cut_off


def _plain(source: Source) -> Image.Image:
    found, _ = _eight_bit(source, ImageFormat(image_size=1, channels=3))
    assert isinstance(found, Image.Image)  # as of 3 channels
    return found


def _stored(source: Source, wanted: ImageFormat) -> Array:
    """Return the values of an image as they are in the file, (H, W), (H, W, C) or (C, H, W), upright."""
    if isinstance(source, np.ndarray):
        return source
    kept, halved = stored_type(source), is_halved(source)
    image = _upright(source)
    if is_deep(image):
        return np.asarray(image).astype(kept) if image.mode == "I" else np.asarray(image)
    image = _opaque(image, wanted)
    if image.mode not in ("L", "LA", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.asarray(image)
    return values.astype(np.uint16) * np.uint16(257) if halved else values


def _channels_last(values: Array, wanted: ImageFormat) -> Array:
    """Return (H, W), or (H, W, C) with the channels wanted; grey and RGB convert into each other."""
    counts = (1, 3) if wanted.channels in (1, 3) else (wanted.channels,)
    whole = values[..., None] if values.ndim == 2 else values
    for axis in (2, 0):
        if whole.shape[axis] in counts:
            whole = np.moveaxis(whole, axis, 2)
            return whole[..., 0] if whole.shape[2] == 1 else whole
    hint = "; data.alpha: channel counts transparency" if wanted.channels in (2, 4) else ""
    raise BadImage(f"{min(whole.shape[::2])} channels, expected {wanted.channels} by data.channels{hint}")


def _opaque(image: Image.Image, wanted: ImageFormat) -> Image.Image:
    """Return an image of 8 bits without transparency, or as RGBA or LA where that is a channel."""
    clear = image.mode in _ALPHA_MODES or "transparency" in image.info
    if wanted.alpha == "channel":
        if not clear:
            raise BadImage("an image without transparency, expected one as data.alpha is channel")
        return image.convert("RGBA").convert("RGBA" if wanted.channels == 4 else "LA")
    if not clear:
        return image
    image = image.convert("RGBA")
    if wanted.alpha == "ignore":
        return image.convert("RGB")
    if not np.asarray(image)[..., 3].any():
        raise BadImage(
            "wholly transparent, so that nothing of it can be seen: save it without transparency, or data.alpha: ignore"
        )
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
