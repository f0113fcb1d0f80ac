"""Write what stands beside the model of an export: card, runtime, requirements, image of a container, page to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defectlab import __version__
from defectlab.deploy.join import joined_source
from defectlab.utils.text import write_text

_NEEDS = {"onnx": "onnxruntime>=1.18", "openvino": "openvino>=2024.2"}
_BASE = ("numpy>=1.26", "pillow>=10.3")

_DOCKERFILE = """\
FROM python:3.12-slim
WORKDIR /model
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN useradd --no-create-home runtime && python runtime.py --self-test
USER runtime
ENTRYPOINT ["python", "/model/runtime.py"]
"""

_PYPROJECT = """\
# `pip install .` here puts the model and its program defectlab-runtime where Python is; nothing else is needed.
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "defectlab-runtime"
version = "{version}"
description = "A network that defectlab has exported, with its runtime."
requires-python = ">=3.10"
dependencies = {dependencies}

[project.scripts]
defectlab-runtime = "defectlab_runtime:main"

[tool.hatch.build.targets.wheel]
bypass-selection = true

[tool.hatch.build.targets.wheel.force-include]
{files}
"""

_README = """\
# A classifier of {classes}

Exported by defectlab {version}. This folder is all: it needs Python 3.10 or later, and what requirements.txt names.

    pip install -r requirements.txt
    python runtime.py --self-test                       # this machine answers as the one that exported it
    python runtime.py IMAGES... --output out.csv        # files, folders, globs; the CSV of `defectlab predict`
    python runtime.py --watch FOLDER --output out.csv   # a row for each file that arrives

Or `pip install .`, which gives the command `defectlab-runtime` with the same options, or
`docker build -t classifier . && docker run --rm -v "$PWD/images:/images" classifier /images`.

    from runtime import Runtime
    found = Runtime(".")(image)        # uint8 (H, W) or (H, W, 3), or paths; found.predicted, found.probabilities

`--max-error 0.01` leaves to a person (`review`) what cannot be decided with at most 1 % errors; `--sets 0.95` gives each
image a set of classes that holds the true one so often. Both stand on {n} validation images that are in card.json.
`--on-bad-image skip` leaves out what cannot be read; `--threads` and `--provider` choose the processor.

## Figures
{figures}
Model: {file}, {bytes} bytes, SHA-256 {sha256}. Network: {fingerprint}. What was compared on export: certificate.json.

## Input
{formats}. Files may have any size: decoding and resizing are the code of training, in runtime.py.

## A row of the CSV
`file`; `predicted`, the class{several}; `confidence`, the probability of what is predicted; `p_CLASS`, the probability of
each class{thresholds}; where asked for `decision`, `tile` (left, top, width, height of the part that decided) and `set`.
"""


def write_bundle(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json, runtime.py, requirements.txt, pyproject.toml, Dockerfile and README.md of an exported model.

    Args:
        folder: of the model, which is there.
        card: what card.json is to hold.
    """
    write_text(folder / "card.json", json.dumps(card, sort_keys=True, allow_nan=False) + "\n")
    write_runtime(folder / "runtime.py")
    kind = card["model"]["format"]
    needs = [*_BASE, _NEEDS[kind]] if kind in _NEEDS else list(_BASE)
    write_text(folder / "requirements.txt", "\n".join(needs) + "\n")
    write_text(folder / "Dockerfile", _DOCKERFILE)
    write_text(folder / ".dockerignore", "Dockerfile\n.dockerignore\n")
    file = card["model"]["file"]
    parts = {"runtime.py": "__init__.py"} | {name: name for name in (file, "card.json", "vectors.npz", "vectors")}
    if kind == "openvino":
        parts["model.bin"] = "model.bin"
    lines = [f'"{source}" = "defectlab_runtime/{name}"' for source, name in parts.items()]
    text = _PYPROJECT.format(version=__version__, dependencies=json.dumps(needs), files="\n".join(lines))
    write_text(folder / "pyproject.toml", text)
    write_text(folder / "README.md", readme(card))


def write_runtime(path: Path) -> None:
    """Write the runtime as one file, see `joined_source`."""
    write_text(path, joined_source(__version__))


def readme(card: Mapping[str, Any]) -> str:
    """Return the page about an exported folder."""
    figures = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in (card.get("figures") or {}).items())
    told = ", ".join(figures)
    if card["source"] == "synthetic":
        told = f"**trained on SYNTHETIC images alone**; {told}"
    model, several = card["model"], card["multilabel"]
    return _README.format(
        classes=", ".join(card["class_names"]), version=__version__, file=model["file"], bytes=model.get("bytes", "?"),
        sha256=model.get("sha256", "?"), fingerprint=card.get("fingerprint"),
        n=len((card.get("calibration") or {}).get("confidence", ())), figures=f"On test images: {told}.\n" if told else "",
        formats="; ".join(f"{own['channels']} channels, {own['image_size']} px" for own in card["cards"]),
        several="es that reach their threshold, joined by `|`" if several else "", thresholds=", `t_CLASS` its threshold" if several else "",
    )  # fmt: skip
