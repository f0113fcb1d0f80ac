"""The process of one subject of `benchmark`, which imports what that needs, and no torch for an exported folder."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from defectlab.data.sources.decode import decode, size_and_mode
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.text import first_line


def _torch(path: str, threads: int) -> tuple[Any, Callable[[Any], object], list[ImageFormat], list[Path]]:
    import torch

    from defectlab.inference.predictor import load
    from defectlab.runs.locate import checkpoints_of, imagenet_name
    from defectlab.utils.cpu import CPUSettings

    CPUSettings(threads=threads).apply()
    model = load(path, "cpu")

    def network(pixels: Any) -> object:
        with torch.inference_mode():
            return model.mean_probabilities([torch.from_numpy(own) for own in pixels], lines=model.lines)

    formats = [card.image_format for card in model.cards]
    return model, network, formats, checkpoints_of(path) if imagenet_name(path) is None else []


def _exported(path: str, threads: int) -> tuple[Any, Callable[[Any], object], list[ImageFormat], list[Path]]:
    from defectlab.deploy.runtime import Runtime

    runtime = Runtime(path, threads=threads)
    model = runtime.card.model
    return runtime, runtime.run, list(runtime.card.formats), [model, *model.parent.glob(f"{model.stem}.bin")]


def _serve(path: str, threads: int, images: list[str], batches: list[int], say: Callable[[object], None]) -> None:
    card = Path(path, "card.json")
    kind = json.loads(card.read_bytes())["model"]["format"] if card.is_file() else "torch"
    predict, network, formats, stored = (_exported if card.is_file() else _torch)(path, threads)
    files = [Path(image) for image in images]
    predict(files[:1])
    say({
        "format": kind, "cpu": time.process_time(), "peak": _peak(),
        "size": sum(file.stat().st_size for file in stored) or None,
    })  # fmt: skip

    def whole(file: Path, wanted: ImageFormat) -> Any:
        width, height, _ = size_and_mode(file)
        own = replace(wanted, image_size=(height, width), fit="stretch", scale=None, resize_size=None)
        return partial(decode, file, own)

    calls: list[Callable[[], object]] = []
    for count in batches:
        arrays = [np.moveaxis(whole(file, formats[0])(), 0, 2) for file in files[:count]]
        calls += [partial(predict, files[:count]), partial(predict, arrays)]
    # The parts of a call with one file: to its pixels without resizing and with it, and from them on.
    first, kinds = files[0], list(dict.fromkeys(formats))
    for made in ([whole(first, each) for each in kinds], [partial(decode, first, each) for each in kinds]):
        calls.append(lambda made=made: [call() for call in made])  # type: ignore[misc]
    calls.append(partial(network, [decode(first, each)[None] for each in formats]))
    for _ in sys.stdin:
        for _ in range(2):  # the first after the turns of others finds caches cold
            seconds = [_seconds(call) for call in calls]
        say(seconds)


def _seconds(call: Callable[[], object]) -> float:
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _peak() -> int | None:
    """Return the most bytes that this process has held, without what its parent held; None where Linux does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def main(request: str) -> None:
    """Say what the start took, then for each line that comes the seconds of every call, as JSON; or `{"error": ...}`."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(answer: object) -> None:
        print(json.dumps(answer), file=channel, flush=True)

    try:
        _serve(**json.loads(request), say=say)
    except Exception as error:  # of a runtime's, too
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        say({"error": f"{kind}{first_line(error)}"})


if __name__ == "__main__":
    main(sys.argv[1])
