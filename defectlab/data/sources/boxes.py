"""Read boxes around defects: Pascal VOC XML, as NEU-DET and most labelling programs have it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, fromstring

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

_LARGEST = 2**20  # bytes of a file; a thousand boxes take a quarter of it


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle and the class in it; its edges are fractions of the image's width and height, in [0, 1].

    `height` and `width` are those of the image, in pixels.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    height: float
    width: float


def class_key(name: str) -> str:
    """Return a class name without case and separators: `pitted_surface` and `Pitted surface` are the same."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def find_boxes(folder: Path, files: Sequence[str]) -> dict[str, Path]:
    """Find the XML file in `folder`, or below it, of each image of `files` that has one.

    It has the image's path or, where the folders differ, its name, with the suffix .xml; InputError where two would fit.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: expected one with a Pascal VOC .xml file an image")
    by_path: dict[Path, Path] = {}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.[xX][mM][lL]")):
        by_path[path.relative_to(folder).with_suffix("")] = path
        by_name[path.stem].append(path)
    if not by_path:
        raise InputError(f"{folder} holds no .xml files: expected one an image, with boxes as Pascal VOC has them")
    pictures: dict[str, list[str]] = defaultdict(list)
    for file in files:
        pictures[Path(file).stem].append(file)
    found = {}
    for file in files:
        stem = Path(file).stem
        same = by_path.get(Path(file).with_suffix(""))
        if same is None and by_name[stem]:
            if len(by_name[stem]) > 1 or len(pictures[stem]) > 1:
                rivals = by_name[stem] if len(by_name[stem]) > 1 else pictures[stem]
                raise InputError(
                    f"{folder}: which boxes belong to {file} cannot be told, as there are {rivals[0]} and {rivals[1]}; "
                    "put the .xml files into the same folders as the images"
                )
            same = by_name[stem][0]
        if same is not None:
            found[file] = same
    return found


def read_boxes(path: Path) -> list[Box]:
    """Read the boxes of one Pascal VOC file; edges outside the image are put on its edge.

    VOC counts pixels from 1 and its boxes include both ends. The image's size is the one the file gives, so boxes fit an
    image that was scaled since. A DOCTYPE is refused: none is needed, and one can blow up to gigabytes.
    """
    root = _parse(path)
    width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
    if min(width, height) < 1:
        raise InputError(f"{path}: the image is {width:g} × {height:g} pixels; expected at least 1 in size")
    boxes = []
    for thing in root.iter("object"):
        label = (thing.findtext("name") or "").strip()
        if not label:
            raise InputError(f"{path}: an object has no name; expected its class in <name>")
        left, top, right, bottom = (_number(thing, f"bndbox/{edge}", path) for edge in ("xmin", "ymin", "xmax", "ymax"))
        x0, x1 = (min(max(x / width, 0.0), 1.0) for x in (left - 1, right))
        y0, y1 = (min(max(y / height, 0.0), 1.0) for y in (top - 1, bottom))
        if x0 >= x1 or y0 >= y1:
            raise InputError(
                f"{path}: the box of {label} from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) holds no pixel of "
                f"{width:g} × {height:g}; expected xmin below xmax and ymin below ymax, inside the image"
            )
        boxes.append(Box(label=label, left=x0, top=y0, right=x1, bottom=y1, height=height, width=width))
    return boxes


def placed(boxes: Sequence[Box], wanted: ImageFormat) -> list[Box]:
    """Return the boxes in fractions of the canvas that their images are fitted to, without those that a crop cut off."""
    _, tall, wide = wanted.shape
    found = []
    for box in boxes:
        high, broad, top, left = wanted.placement(round(box.height), round(box.width))
        x0, x1 = (min(max((left + edge * broad) / wide, 0.0), 1.0) for edge in (box.left, box.right))
        y0, y1 = (min(max((top + edge * high) / tall, 0.0), 1.0) for edge in (box.top, box.bottom))
        found.append(replace(box, left=x0, right=x1, top=y0, bottom=y1, height=tall, width=wide))
    return [box for box in found if box.left < box.right and box.top < box.bottom]


def box_mask(boxes: Sequence[Box], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return which pixels (height, width) have their centre in a box; a box between centres gets the pixel it lies in."""
    mask = np.zeros((height, width), dtype=bool)
    for box in boxes:
        rows, columns = _covered(box.top, box.bottom, height), _covered(box.left, box.right, width)
        mask[rows, columns] = True
    return mask


def _covered(low: float, high: float, length: int) -> slice:
    first, last = math.ceil(low * length - 0.5), math.floor(high * length - 0.5)
    if first > last:
        first = last = min(int((low + high) / 2 * length), length - 1)
    return slice(first, last + 1)


class _Builder(TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InputError("has a DOCTYPE, which was not read: expected plain Pascal VOC XML; remove it")


def _parse(path: Path) -> Element:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"has more than {_LARGEST:,} bytes: expected the boxes of one image")
        root = fromstring(path.read_bytes(), XMLParser(target=_Builder()))
    except InputError as error:  # which is a ValueError
        raise InputError(f"{path} {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected a Pascal VOC .xml file") from None
    except (ParseError, ValueError, LookupError) as error:  # the last two for its encoding
        raise InputError(f"{path} is no XML ({error}); expected boxes as Pascal VOC has them") from None
    if root.find("size") is None:
        raise InputError(f"{path} says nothing of the image's size; expected Pascal VOC's <size> in <{root.tag}>")
    return root


def _number(parent: Element, place: str, path: Path) -> float:
    text = parent.findtext(place)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: {place} is {(text or '').strip()[:20]!r}; expected a number of pixels")
    return value
