"""Open a model by ONNX Runtime or OpenVINO: uint8 images in, outputs by name out."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from defectlab.deploy.exported import CARD_KEY, ExportedCard, check_model
from defectlab.errors import InputError
from defectlab.utils.text import first_line

_LOCATION = b"\x0a\x08location\x12"  # of weights in another file, in an ONNX file
Outputs = Mapping[str, npt.NDArray[Any]]


class Session(NamedTuple):
    """An open model: `run` takes uint8 (N, C, H, W) for each input, and returns arrays of N rows by the output's name."""

    input_names: Sequence[str]
    output_names: Sequence[str]
    run: Callable[[Sequence[npt.NDArray[np.uint8]]], Outputs]


def open_session(card: ExportedCard, provider: str = "cpu", threads: int = 1) -> Session:
    """Open the model of a card.

    Args:
        card: of the exported folder.
        provider: of ONNX Runtime such as `cpu`, `cuda` or `tensorrt`, or a device of OpenVINO such as `cpu` or `gpu`.
        threads: that one image is computed by.

    Raises:
        InputError: a model that is damaged, foreign or in parts, a package that is not installed, or no such provider.
    """
    check_model(card)
    open_it = _onnx if card.kind == "onnx" else _openvino
    try:
        session, shapes = open_it(card, provider, threads)
    except ImportError:
        package = "onnxruntime" if card.kind == "onnx" else "openvino"
        raise InputError(f"{package} is not installed: pip install {package}") from None
    except InputError:
        raise
    except Exception as error:  # each of the two has exceptions of its own
        raise InputError(f"{card.model} cannot be opened ({first_line(error)}); export it again") from None
    expected = {name: ("uint8", wanted.shape) for name, wanted in zip(card.input_names, card.formats, strict=True)}
    if shapes != expected or "probabilities" not in session.output_names:
        raise InputError(
            f"{card.model} is foreign: it takes {shapes} and gives {', '.join(session.output_names)}; expected {expected}, and probabilities"
        )
    return session


_Opened = tuple[Session, dict[str, tuple[str, tuple[int, ...]]]]


def _onnx(card: ExportedCard, provider: str, threads: int) -> _Opened:
    import onnxruntime

    _refuse_parts(card.model)
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in onnxruntime.get_available_providers()}
    if provider.lower() not in known:
        raise InputError(f"provider is {provider}: expected one that is there, {', '.join(sorted(known))}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    name = known[provider.lower()]
    exact = {"use_tf32": "0"} if provider.lower() == "cuda" else {}  # else it rounds to 10 bits
    session = onnxruntime.InferenceSession(str(card.model), options, providers=[(name, exact)])
    if session.get_providers()[0] != name:
        raise InputError(f"provider {provider} does not start, as its libraries are not all there: use cpu")
    metadata = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if metadata is not None:
        check_model(card, metadata)
    names = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    shapes = {one.name: (one.type[7:-1], tuple(one.shape[1:])) for one in session.get_inputs()}

    def run(images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        return dict(zip(outputs, session.run(None, dict(zip(names, images, strict=True))), strict=True))

    return Session(names, outputs, run), shapes


def _openvino(card: ExportedCard, provider: str, threads: int) -> _Opened:
    import openvino

    core = openvino.Core()
    known = {name.lower(): name for name in core.available_devices}
    if provider.lower() not in known:
        raise InputError(f"provider is {provider}: expected one that is there, {', '.join(sorted(known))}")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # else some processors round to bfloat16
    if provider.lower() == "cpu":
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    model = core.compile_model(str(card.model), known[provider.lower()], settings)
    request = model.create_infer_request()
    names, outputs = ([one.get_any_name() for one in side] for side in (model.inputs, model.outputs))
    shapes = {
        one.get_any_name(): (
            one.get_element_type().to_dtype().name,
            tuple(d.get_length() for d in list(one.partial_shape)[1:]),
        )
        for one in model.inputs
    }

    def run(images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        request.infer(dict(zip(names, images, strict=True)), share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    return Session(names, outputs, run), shapes


def _refuse_parts(model: Path) -> None:
    """Raise InputError for an ONNX file whose weights are in other files: these may be any, and no card knows them."""
    with model.open("rb") as file:
        empty = not model.stat().st_size
        if empty:
            raise InputError(f"{model} is empty: copy the exported folder again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = content.find(_LOCATION)
            if place >= 0:
                start = place + len(_LOCATION) + 1
                name = content[start : start + content[start - 1]].decode("utf-8", "replace")
                raise InputError(f"{model} has weights in another file, {name!r}: expected all in one; export it again")
