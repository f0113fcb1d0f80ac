"""Export a trained network: a folder that runs without torch, and carries the proof that it answers as the run does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from defectlab.data.sources.decode import save_image
from defectlab.data.sources.files import FORMATS
from defectlab.deploy.bundle import write_bundle
from defectlab.deploy.certificate import MARGIN, Answers, Certificate, calibrated, certify
from defectlab.deploy.convert import answer_in_process, make_openvino, quantise, run_program, write_onnx
from defectlab.deploy.exported import CARD_VERSION, hash_model
from defectlab.deploy.graph import DeployedGraph, check_installed, to_onnx, to_program
from defectlab.deploy.images import AskedImages, images_of_files, images_of_runs
from defectlab.deploy.strip import strip
from defectlab.engine.host import as_guest
from defectlab.errors import InputError
from defectlab.inference.predict import predict
from defectlab.inference.predictor import Predictor, load
from defectlab.inference.promises import Calibration
from defectlab.runs import RunFolder, environment, members_of, write_prediction_table
from defectlab.runs.create import remove_made
from defectlab.runs.ensembles import read_own_metrics
from defectlab.runs.locate import names_run
from defectlab.runs.predictions import as_kept
from defectlab.utils.files import check_output_folder, temporary_folder
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import write_text

Format = Literal["onnx", "openvino", "torch"]
Files = str | PathLike[str] | Sequence[str | PathLike[str]]
_MODEL = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
_FILE_SUFFIXES = (".bin", ".onnx", ".pt", ".pt2", ".pth", ".tflite", ".xml", ".zip")  # of what is no folder
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_NEEDS = {"onnx": _ONNX, "openvino": (*_ONNX, "openvino"), "torch": ()}  # packages that exporting takes
_VECTORS = 20


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported folder, and the certificate that it has passed."""

    folder: Path
    certificate: Certificate

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Export {self.folder}: {self.certificate.text}"


def export(
    run: str | PathLike[str],
    output: str | PathLike[str],
    *,
    format: Format = "onnx",  # noqa: A002
    int8: bool = False,
    margin: float = MARGIN,
    half: bool = False,
    images: Files | None = None,
    overrides: Sequence[str] = (),
    progress: bool = False,
) -> Export | Path:
    """Export a trained network as a folder that stands alone, or keep it, or its backbone, in a file of its own.

    The folder holds the model, from the camera's uint8 pixels to probabilities; card.json; runtime.py, which needs numpy,
    Pillow and ONNX Runtime alone; certificate.json; test vectors; requirements.txt, Dockerfile and README. It is there only
    if the certificate has passed.

    Args:
        run: run folder, ensemble, .ckpt file or the name of a shipped one.
        output: a new folder; or a file: .ckpt for the network without the optimiser, which `predict` takes, .safetensors for
            the backbone of a PretrainedTask, which `model.weights` takes.
        format: of the model in the folder: ONNX, OpenVINO's, or torch.export's program.
        int8: static quantisation of the convolutions, with ranges from training images of the run.
        margin: accuracy in [0, 1] that int8 may lose; it passes where a loss of that much is rejected at 95 %.
        half: write the kernels of a .safetensors file in half precision.
        images: what the certificate asks both sides about where there is no run folder: files, folders and globs.
        overrides: arguments of `test`, such as `("--data.root", DIR)` where the run's images have moved.
        progress: draw bars for work of more than a second.

    Returns:
        The folder with its certificate, or the file.

    Raises:
        InputError: what cannot be exported, with the operation; an export that does not pass, with the images; or no images
            to compare on.
    """
    target = Path(output)
    if target.suffix in (".safetensors", ".ckpt") and not target.is_dir():
        if int8 or format != "onnx" or images is not None:
            raise InputError(f"output is {target}: format, int8 and images are for a folder; leave them out")
        return strip(run, target, half)
    _check(target, format, int8, margin, half)
    made = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        with as_guest(progress):
            return _exported(fspath(run), target, format, int8, margin, images, overrides, progress)
    except BaseException:
        remove_made(made, keep=True)
        raise


def _exported(
    run: str, target: Path, format: Format, int8: bool, margin: float, images: Files | None, overrides: Sequence[str],  # noqa: A002
    progress: bool,
) -> Export:  # fmt: skip
    """Export to a folder that is there only if the certificate has passed."""
    predictor = load(run, "cpu")
    graph = DeployedGraph(predictor).eval()
    asked = _asked(run, images, graph, overrides)
    with temporary_folder(target.parent) as work:
        folder = work / target.name
        folder.mkdir()
        model = folder / _MODEL[format]
        _write_model(graph, model, format, asked if int8 else None)
        card = _card(predictor, graph, model, format, run)
        write_bundle(folder, card)
        before, after = _both_sides(predictor, graph, asked, folder, progress)
        card["calibration"] = _calibration(calibrated(asked, after, predictor.card.class_names, predictor.thresholds))
        if format == "onnx":
            write_onnx(model, card)
        card["model"] |= {
            "sha256": hash_model(model),
            "bytes": sum(f.stat().st_size for f in folder.glob("model.*")),
        }
        certificate = certify(
            asked, before, after, predictor.card.class_names, predictor.thresholds,
            precision="int8" if int8 else "float32", margin=margin,
        )  # fmt: skip
        if not certificate.passed:
            raise InputError(f"the export does not answer as {run} does, and was not kept: {certificate.text}")
        card["certificate"] = {
            **certificate.to_dict(), "fingerprint": predictor.fingerprint, "split_hash": predictor.card.split_hash,
            "model_sha256": card["model"]["sha256"], "environment": environment(),
        }  # fmt: skip
        write_bundle(folder, card)
        write_text(folder / "certificate.json", json.dumps(card["certificate"], indent=1, sort_keys=True) + "\n")
        write_prediction_table(
            folder / "certificate.csv", asked.names, asked.labels, before.probabilities, predictor.card.class_names,
            extra={"part": asked.parts}, checkpoint=predictor.fingerprint, thresholds=predictor.thresholds,
            novelty=before.outputs.get("novelty"),
        )  # fmt: skip
        _write_vectors(folder, predictor, graph, asked, after, int8)
        run_program(folder, ["--self-test"])
        try:
            if target.is_dir():
                target.rmdir()
            folder.rename(target)
        except OSError as error:  # another process was there first
            raise InputError(f"output {target} cannot be made ({error.strerror}): give a new folder") from None
    return Export(folder=target, certificate=certificate)


def _check(target: Path, format: str, int8: bool, margin: float, half: bool) -> None:  # noqa: A002
    if half:
        raise InputError("half is for .safetensors files: leave it out")
    if format not in get_args(Format):
        raise InputError(f"format is {format!r}: expected one of {', '.join(get_args(Format))}")
    if int8 and format == "torch":
        raise InputError("int8 is for the formats onnx and openvino, not for torch: leave one of them out")
    check_installed(_NEEDS[format])
    if not 0 < margin < 1:
        raise InputError(
            f"margin is {margin:g}: expected the accuracy that int8 may lose, between 0 and 1, such as 0.005"
        )
    if target.suffix.lower() in _FILE_SUFFIXES and not target.is_dir():
        raise InputError(f"output is {target}: expected a new folder, or the name of a .ckpt or .safetensors file")
    check_output_folder(target)
    if target.exists() and any(target.iterdir()):
        raise InputError(f"output {target} is there already: expected a new folder")


def _asked(name: str, images: Files | None, graph: DeployedGraph, overrides: Sequence[str]) -> AskedImages:
    if images is not None:
        return images_of_files(images, graph.formats)
    if not names_run(name):
        raise InputError(
            f"{name} is no run folder, whose images the export would be compared on: give images, files or folders"
        )
    run = RunFolder.open(name)
    return images_of_runs(members_of(run) or [run], graph.formats, overrides)


def _write_model(graph: DeployedGraph, model: Path, format: Format, quantised_on: AskedImages | None) -> None:  # noqa: A002
    if format == "torch":
        to_program(graph, model)
        return
    onnx_file = model.with_suffix(".onnx")
    onnx_file.write_bytes(to_onnx(graph).SerializeToString())
    if quantised_on is not None:
        quantise(onnx_file, graph.input_names, quantised_on.training_blocks())
    if format == "openvino":
        make_openvino(onnx_file, model)
        onnx_file.unlink()


def _card(predictor: Predictor, graph: DeployedGraph, model: Path, format: Format, name: str) -> dict[str, Any]:  # noqa: A002
    """Return what the runtime needs to know, in plain values."""
    card, cards = predictor.card, {one.image_format: one for one in reversed(predictor.cards)}
    metrics: Mapping[str, Any] = {}
    if names_run(name):
        metrics = read_own_metrics(RunFolder.open(name))
    test = metrics.get("test") or {}
    return {
        "format": CARD_VERSION,
        "cards": [asdict(cards[wanted]) for wanted in graph.formats],
        "class_names": list(card.class_names), "multilabel": card.multilabel, "source": card.source,
        "thresholds": None if predictor.thresholds is None else list(predictor.thresholds),
        "tiles": None if graph.tile_boxes is None else {"boxes": graph.tile_boxes},
        "fingerprint": predictor.fingerprint,
        "temperature": (metrics.get("calibration") or {}).get("temperature"),
        "figures": {key: test[key] for key in ("n", "accuracy", "balanced_accuracy") if key in test},
        "calibration": None, "certificate": None,
        "model": {"file": model.name, "format": format, "outputs": graph.output_names},
    }  # fmt: skip


def _both_sides(
    predictor: Predictor, graph: DeployedGraph, asked: AskedImages, folder: Path, progress: bool
) -> tuple[Answers, Answers]:
    """Ask the run's network and the exported folder, in a process of its own, about all images."""
    probabilities: list[npt.NDArray[np.float32]] = []
    outputs: dict[str, list[npt.NDArray[Any]]] = {}
    with temporary_folder(folder.parent) as blocks, torch.inference_mode():
        with progress_bar("certifying", len(asked.names), shown=progress) as advance:
            for number, block in enumerate(asked.blocks()):
                pixels = [block[graph.place_of(card)] for card in predictor.cards]
                mean, novelty = predictor.mean_probabilities(pixels, novelty=graph.scores_novelty)
                probabilities.append(as_kept(mean.numpy()))
                if novelty is not None:
                    outputs.setdefault("novelty", []).append(novelty)
                if graph.tile_boxes is not None:
                    outputs.setdefault("tile", []).append(graph(*block)[-1].numpy())
                arrays = dict(zip(graph.input_names, (each.numpy() for each in block), strict=True))
                np.savez(blocks / f"{number:06}.npz", **arrays)  # type: ignore[arg-type]
                advance(len(block[0]))
        found = answer_in_process(folder, blocks)
    own = {name: np.concatenate(parts) for name, parts in outputs.items()}
    before = Answers(probabilities=np.concatenate(probabilities), outputs=own)
    return before, Answers(probabilities=as_kept(found.pop("probabilities")), outputs=found)


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    """Return plain values."""
    if found is None:
        return None
    numbers = {name: getattr(found, name) for name in ("confidence", "set_score", "novelty")}
    plain = {name: None if values is None else values.astype(float).tolist() for name, values in numbers.items()}
    return {**plain, "right": found.right.astype(int).tolist()}


def _write_vectors(
    folder: Path, predictor: Predictor, graph: DeployedGraph, asked: AskedImages, answers: Answers, int8: bool
) -> None:
    """Keep some images as files and as arrays, with the answers that the export has to repeat on another machine."""
    rows = np.unique(np.linspace(0, len(asked.names) - 1, _VECTORS).round().astype(int)).tolist()
    block = asked.block(rows)
    arrays = dict(zip(graph.input_names, (each.numpy() for each in block), strict=True))
    outputs = {"probabilities": answers.probabilities, **answers.outputs}
    np.savez_compressed(folder / "vectors.npz", **arrays, **{name: values[rows] for name, values in outputs.items()})  # type: ignore[arg-type]
    place = folder / "vectors"
    place.mkdir()
    files = []
    for number, row in enumerate(rows):
        name, content = Path(asked.names[row]), asked.content(row)
        kept = name.suffix.lower() in FORMATS and content is not None
        file = place / f"{number:02}_{name.name if kept else name.stem + '.png'}"
        if kept and content is not None:
            file.write_bytes(content)
        else:
            save_image(block[0][number].numpy(), file, predictor.card.source == "synthetic")
        files.append(file)
    if int8:  # which repeats itself, not the run
        run_program(folder, ["vectors", "--output", "vectors/expected.csv"])
        return
    found = predict(predictor, files)
    replace(found, files=tuple(f"vectors/{file.name}" for file in files)).write_csv(place / "expected.csv")
