"""Open a model by ONNX Runtime, OpenVINO or torch: uint8 images in, outputs by name out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from defectlab.deploy.exported import CARD_KEY, ExportedCard, check_model
from defectlab.errors import InputError
from defectlab.utils.text import first_line

_LOCATION = b"\x0a\x08location\x12"  # of weights in another file, in an ONNX file
Outputs = Mapping[str, npt.NDArray[Any]]


class Session(NamedTuple):
    """An open model: names and types of its inputs, such as `uint8 (3, 128, 128)`, and names of its outputs.

    `run` takes uint8 (N, C, H, W) for each input, and returns arrays of N rows by the output's name.
    """

    inputs: Mapping[str, str]
    outputs: Sequence[str]
    run: Callable[[Sequence[npt.NDArray[np.uint8]]], Outputs]


def open_session(card: ExportedCard, provider: str = "cpu", threads: int = 1) -> Session:
    """Open the model of a card.

    Args:
        card: of the exported folder.
        provider: of ONNX Runtime such as `cpu`, `cuda` or `tensorrt`, or a device of OpenVINO such as `cpu` or `gpu`; `cpu` of a
            program of torch.export.
        threads: that one image is computed by.

    Raises:
        InputError: a model that is damaged, foreign or in parts, a package that is not installed, or no such provider.
    """
    check_model(card)
    package = {"onnx": "onnxruntime"}.get(card.kind, card.kind)
    try:
        session = {"onnx": _onnx, "openvino": _openvino, "torch": _program}[card.kind](card, provider, threads)
    except ImportError:
        raise InputError(f"{package} is not installed: pip install {package}") from None
    except InputError:
        raise
    except Exception as error:  # each has exceptions of its own
        raise InputError(f"{card.model} cannot be opened ({first_line(error)}); export it again") from None
    expected = {name: f"uint8 {wanted.shape}" for name, wanted in zip(card.input_names, card.formats, strict=True)}
    if session.inputs != expected or "probabilities" not in session.outputs:
        raise InputError(
            f"{card.model} is foreign: it takes {session.inputs} and gives {', '.join(session.outputs)}; expected {expected} "
            "and probabilities"
        )
    return session


def _onnx(card: ExportedCard, provider: str, threads: int) -> Session:
    import onnxruntime

    _refuse_parts(card)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    name = _named(provider, onnxruntime.get_available_providers())
    exact = {"use_tf32": "0"} if provider.lower() == "cuda" else {}  # else it rounds to 10 bits
    session = onnxruntime.InferenceSession(str(card.model), options, providers=[(name, exact)])
    if session.get_providers()[0] != name:
        raise InputError(f"provider {provider} does not start, as its libraries are not all there: use cpu")
    metadata = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if metadata is not None:
        check_model(card, metadata)
    inputs = {one.name: f"{one.type[7:-1]} {tuple(one.shape[1:])}" for one in session.get_inputs()}  # tensor(uint8)
    outputs = [one.name for one in session.get_outputs()]

    def run(images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        return dict(zip(outputs, session.run(None, dict(zip(inputs, images, strict=True))), strict=True))

    return Session(inputs, outputs, run)


def _openvino(card: ExportedCard, provider: str, threads: int) -> Session:
    import openvino

    core = openvino.Core()
    name = _named(provider, core.available_devices)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # else some processors round to 8 bits
    if name == "CPU":
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    model = core.read_model(str(card.model))
    sizes = {one.get_any_name(): [d.get_length() for d in list(one.partial_shape)[1:]] for one in model.inputs}
    inputs = {one.get_any_name(): one.get_element_type().to_dtype().name for one in model.inputs}
    outputs = [one.get_any_name() for one in model.outputs]

    @cache
    def request(n: int) -> Any:
        model.reshape({own: [n, *shape] for own, shape in sizes.items()})
        return core.compile_model(model, name, settings).create_infer_request()

    def run(images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        one = request(1 if len(images[0]) == 1 else -1)  # for one alone it takes two thirds of the time
        one.infer(dict(zip(inputs, images, strict=True)), share_inputs=True)
        return {own: one.get_tensor(own).data.copy() for own in outputs}

    request(1)
    return Session({own: f"{kind} {tuple(sizes[own])}" for own, kind in inputs.items()}, outputs, run)


def _program(card: ExportedCard, provider: str, threads: int) -> Session:
    import torch

    _named(provider, ["cpu"])
    torch.set_num_threads(threads)
    program = torch.export.load(card.model)
    module, outputs = program.module(), list(card.values["model"]["outputs"])
    kinds = [f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape[1:])}" for one in program.example_inputs[0]]

    @torch.no_grad()
    def run(images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        found = module(*(torch.from_numpy(np.ascontiguousarray(each)) for each in images))
        return {name: each.numpy() for name, each in zip(outputs, found, strict=True)}

    return Session(dict(zip(card.input_names, kinds, strict=True)), outputs, run)


def _named(provider: str, names: Iterable[str]) -> str:
    """Return a provider by its short name; InputError where it is not there."""
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in names}
    if provider.lower() not in known:
        raise InputError(f"provider is {provider}: expected one that is there, {', '.join(sorted(known))}")
    return known[provider.lower()]


def _refuse_parts(card: ExportedCard) -> None:
    """Raise InputError for an ONNX file whose weights are in other files: these may be any, and no card knows them."""
    content = card.model.read_bytes()
    place = content.find(_LOCATION) + len(_LOCATION)
    if place >= len(_LOCATION):
        name = content[place + 1 : place + 1 + content[place]].decode("utf-8", "replace")
        raise InputError(f"{card.model} has weights in another file, {name!r}: expected all in one; export it again")
