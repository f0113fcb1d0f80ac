"""Convert an ONNX model to int8 or OpenVINO, and ask an exported folder in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from defectlab.deploy.exported import CARD_KEY, NOT_IN_MODEL
from defectlab.errors import InputError
from defectlab.utils.files import temporary_folder

if TYPE_CHECKING:
    import onnx


_FEW = 1000  # numbers of a tensor that is too small to matter
# A fresh process has what the target machine will have: no torch, whose libraries OpenVINO does not bear beside it.
_ANSWER = """
import sys
from pathlib import Path
import numpy as np
folder, blocks, output = map(Path, sys.argv[1:])
sys.path.insert(0, str(folder))
import runtime
model = runtime.Runtime(folder)
found = []
for file in sorted(blocks.glob("*.npz")):
    with np.load(file) as arrays:
        found.append(model.run([arrays[name] for name in model.input_names]))
np.savez(output, **{name: np.concatenate([one[name] for one in found]) for name in found[0]})
"""
_TO_OPENVINO = """
import sys
import openvino
openvino.save_model(openvino.convert_model(sys.argv[1]), sys.argv[2], compress_to_fp16=False)
"""


def answer_in_process(folder: Path, blocks: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of an exported folder's own runtime.py about the images of `blocks`, .npz files, in order.

    Raises:
        InputError: it fails, with what it says.
    """
    with temporary_folder(blocks.parent) as place:
        output = place / "answers.npz"
        _python(_ANSWER, [folder, blocks, output], "the exported folder does not run")
        with np.load(output) as found:
            return {name: found[name] for name in found.files}


def make_openvino(model: Path, target: Path) -> None:
    """Convert an ONNX file to OpenVINO's, in float32; InputError without the package, or for a model that it refuses."""
    _python(_TO_OPENVINO, [model, target], "OpenVINO cannot convert the model")


def write_onnx(model: Path, card: Mapping[str, Any]) -> None:
    """Write a card into the metadata of an ONNX file, without what it says of the file itself."""
    import onnx

    found = onnx.load(model)
    text = json.dumps({key: value for key, value in card.items() if key not in NOT_IN_MODEL}, sort_keys=True)
    onnx.helper.set_model_props(found, {CARD_KEY: text})
    onnx.save(found, model)


def quantise(model: Path, input_names: Sequence[str], training: Iterator[list[Tensor]]) -> None:
    """Quantise the convolutions of an ONNX file to int8, one scale a channel, with ranges from training images.

    In float32 stay the head, whose embedding of means and deviations has a few large numbers among many small ones, the
    depthwise convolutions, which hold few weights, and the first ones, whose input is the image itself.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            block = next(training, None)
            return None if block is None else dict(zip(input_names, (each.numpy() for each in block), strict=True))

    with temporary_folder(model.parent) as place:
        prepared, done = place / "prepared.onnx", place / "int8.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, done, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
            nodes_to_exclude=_kept_exact(onnx.load(prepared)), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        found = onnx.load(done)
        _halve(found)
        onnx.save(found, model)


def _kept_exact(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that no other one precedes, and of the depthwise ones."""
    plain, found = {each.name for each in model.graph.input}, []
    for node in model.graph.node:  # in topological order
        if node.op_type == "Conv":
            groups = next((each.i for each in node.attribute if each.name == "group"), 1)
            if node.input[0] in plain or groups > 1:
                found.append(node.name)
        elif node.input and node.input[0] in plain:  # further ones are shapes and constants
            plain.update(node.output)
    return found


def _halve(model: onnx.ModelProto) -> None:
    """Store as float16 what is exactly so: the tensors of the novelty scorer, which a checkpoint keeps in half precision."""
    import onnx

    for tensor in [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]:
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size > _FEW and (halves == values).all():
            stored = f"{tensor.name}_half"
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(onnx.numpy_helper.from_array(halves, stored))
            cast = onnx.helper.make_node("Cast", [stored], [tensor.name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)


def run_program(folder: Path, words: Sequence[str]) -> None:
    """Run the runtime.py of an exported folder there, in a process of its own; InputError with what it says if it fails."""
    _run(["runtime.py", *words], "the exported folder does not run", folder)


def _python(code: str, words: Sequence[Path], failure: str) -> None:
    _run(["-I", "-c", code, *map(str, words)], failure)


def _run(words: Sequence[str], failure: str, folder: Path | None = None) -> None:
    done = subprocess.run([sys.executable, "-B", *words], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit status {done.returncode}"]
        if "No module named" in last[0]:
            module = last[0].split("'")[1]
            raise InputError(f"{module} is not installed: pip install {module}")
        raise InputError(f"{failure}: {last[0]}")
