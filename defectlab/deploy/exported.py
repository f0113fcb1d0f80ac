"""Read the card of an exported folder, and check that its model is the one that the card is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from defectlab.errors import InputError
from defectlab.inference.promises import Calibration
from defectlab.utils.image_format import Box, ImageFormat

CARD_VERSION = 1
CARD_KEY = "defectlab"  # of the card in the metadata of an ONNX file
LARGEST_DIFFERENCE = 1e-4  # of a probability, of an export in float32 or of another machine
NOT_IN_MODEL = ("model", "certificate")  # keys of card.json that the metadata lacks


@dataclass(frozen=True, kw_only=True)
class ExportedCard:
    """What a runtime needs to know of an exported network.

    Args:
        formats: of each input of the model.
        class_names: in the order of the probabilities.
        thresholds: of a multi-label network the probability of each class from which it is predicted; else None.
        boxes: of the tiles of a canvas of the first format, by their number; None of a network without tiles.
        calibration: validation images that promises stand on; None without.
        synthetic: whether a network was trained on generated images alone.
        model: file of the model.
        kind: `onnx`, `openvino` or `torch`.
        sha256: of the model, see `hash_model`; None in an export that is not finished.
        values: all of card.json.
    """

    formats: tuple[ImageFormat, ...]
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...] | None
    boxes: tuple[Box, ...] | None
    calibration: Calibration | None
    synthetic: bool
    model: Path
    kind: str
    sha256: str | None
    values: Mapping[str, Any]

    @property
    def input_names(self) -> list[str]:
        """Name of the model's input for each of `formats`."""
        return ["images"] if len(self.formats) == 1 else [f"images_{k}" for k in range(len(self.formats))]


def read_card(folder: Path) -> ExportedCard:
    """Read card.json of an exported folder; InputError for what is none, or of another version."""
    path = folder / "card.json"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: expected one that `defectlab export` has made")
    try:
        values = json.loads(path.read_bytes())
        if values["format"] != CARD_VERSION:
            raise InputError(
                f"{path} has the version {values['format']}, expected {CARD_VERSION}: use the runtime.py that was exported "
                "with it, or export again"
            )
        return _card(folder, values)
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no card.json: expected a whole folder of `defectlab export`; copy it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected the card of an export") from None
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); copy the folder again") from None


def _card(folder: Path, values: Mapping[str, Any]) -> ExportedCard:
    known = {field.name for field in fields(ImageFormat)}
    formats = tuple(ImageFormat(**{key: own[key] for key in own.keys() & known}) for own in values["cards"])
    names, thresholds, tiles, found = (values[key] for key in ("class_names", "thresholds", "tiles", "calibration"))
    model = values["model"]
    if not formats or len(names) < 2 or (thresholds is not None and len(thresholds) != len(names)):
        raise ValueError("its classes, thresholds or image formats do not fit together")
    if Path(model["file"]).name != model["file"] or model["format"] not in ("onnx", "openvino", "torch"):
        raise ValueError(
            f"the model is {model['file']}, {model['format']}: expected a file beside it, of onnx, openvino or torch"
        )
    return ExportedCard(
        formats=formats, class_names=tuple(names), thresholds=None if thresholds is None else tuple(thresholds),
        boxes=None if tiles is None else tuple((a, b, c, d) for a, b, c, d in tiles["boxes"]),
        calibration=None if found is None else Calibration(
            confidence=np.array(found["confidence"], np.float32), right=np.array(found["right"], np.bool_),
            set_score=np.array(found["set_score"], np.float32),
            novelty=None if found["novelty"] is None else np.array(found["novelty"], np.float32),
        ),
        synthetic=any(own.get("source") == "synthetic" for own in values["cards"]), model=folder / model["file"],
        kind=model["format"], sha256=model.get("sha256"), values=values,
    )  # fmt: skip


def hash_model(model: Path) -> str:
    """Compute the SHA-256 of a model, in hex: of its file, or of OpenVINO's .xml and then its .bin."""
    digest = hashlib.sha256()
    for path in (model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_model(card: ExportedCard, metadata: str | None = None) -> None:
    """Raise InputError where the model is not the one that the card is of, or `metadata`, its own card, says otherwise."""
    try:
        damaged = card.sha256 is not None and hash_model(card.model) != card.sha256
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); copy the exported folder again"
        ) from None
    own = {key: value for key, value in card.values.items() if key not in NOT_IN_MODEL}
    if damaged:
        raise InputError(
            f"{card.model} is damaged, or another model than card.json is of; copy the exported folder again"
        )
    if metadata is not None and json.loads(metadata) != own:
        raise InputError(f"card.json is not the one in {card.model}: copy the exported folder again")
