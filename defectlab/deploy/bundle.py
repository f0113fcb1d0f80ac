"""Write what stands beside the model of an export: card, runtime, requirements, image of a container, page to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defectlab import __version__
from defectlab.deploy.join import joined_source
from defectlab.utils.text import write_text

_TEMPLATES = Path(__file__).with_name("templates")
_BASE = ("numpy>=1.26", "pillow>=10.3")
# Of ONNX Runtime later releases take 20 MB more.
_NEEDS = {
    "onnx": [*_BASE, "onnxruntime>=1.18,<1.28"],
    "openvino": [*_BASE, "openvino>=2024.2"],
    "torch": [*_BASE, "torch>=2.6"],
}


def write_bundle(folder: Path, card: Mapping[str, Any]) -> None:
    """Write card.json, runtime.py, requirements.txt, pyproject.toml, Dockerfile and README.md of an exported model.

    Args:
        folder: of the model, which is there.
        card: what card.json is to hold.
    """
    model, calibration = card["model"], card["calibration"] or {}
    parts = {"runtime.py": "__init__.py"} | {
        name: name for name in (model["file"], "card.json", "vectors.npz", "vectors")
    }
    if model["format"] == "openvino":
        parts["model.bin"] = "model.bin"
    figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in (card.get("figures") or {}).items()]
    values = {
        "version": __version__, "dependencies": json.dumps(_NEEDS[model["format"]]),
        "files": "\n".join(f'"{source}" = "defectlab_runtime/{name}"' for source, name in parts.items()),
        "classes": ", ".join(card["class_names"]), "n": len(calibration.get("confidence", ())),
        "data": "**SYNTHETIC images alone**" if card["source"] == "synthetic" else "real images",
        "figures": ", ".join(figures) or "no figures", "file": model["file"], "bytes": model.get("bytes"),
        "sha256": model.get("sha256"), "fingerprint": card.get("fingerprint"),
        "formats": "; ".join(f"{own['channels']} channels, {own['image_size']} px" for own in card["cards"]),
        "several": "es that reach their threshold `t_CLASS`, joined by `|`" if card["multilabel"] else "",
    }  # fmt: skip
    write_text(folder / "card.json", json.dumps(card, sort_keys=True, allow_nan=False) + "\n")
    write_text(folder / "runtime.py", joined_source(__version__))
    write_text(folder / "requirements.txt", "\n".join(_NEEDS[model["format"]]) + "\n")
    for name, template in (
        ("Dockerfile", "Dockerfile"),
        ("pyproject.toml", "project.toml"),
        ("README.md", "README.md"),
    ):
        write_text(folder / name, (_TEMPLATES / template).read_text(encoding="utf-8").format(**values))
