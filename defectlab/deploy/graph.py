"""What leaves the laboratory: one graph from the camera's pixels to probabilities, as ONNX or as torch.export's program."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.inference.predictor import Predictor
from defectlab.inference.tiles import tiles_seen
from defectlab.networks.tiling import tiled_network
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.text import first_line, listed

if TYPE_CHECKING:
    import onnx

OPSET = 18
_EXAMPLES = 2  # images that a network is traced with


class DeployedGraph(nn.Module):
    """Images of uint8 `(N, C, H, W)`, one tensor for each of `formats`, to the outputs that `output_names` lists.

    Normalisation, test-time augmentation, the mean over the networks of an ensemble, and softmax or sigmoid are inside.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.networks = nn.ModuleList(predictor.tasks)
        self._tasks = predictor.tasks  # the same, of their own type
        self.formats = different_formats(predictor.cards)
        self._places = [self.place_of(card) for card in predictor.cards]
        self._multilabel = predictor.card.multilabel
        self._tiled = tiled_network(predictor.tasks[0])
        for k, card in enumerate(predictor.cards):
            shift, scale = card.constants()
            self.register_buffer(f"shift{k}", shift)
            self.register_buffer(f"scale{k}", scale)

    def place_of(self, card: DataCard) -> int:
        """Return which of `formats` is a card's."""
        return self.formats.index(card.image_format)

    @property
    def input_names(self) -> list[str]:
        """Return a name for each of `formats`."""
        return ["images"] if len(self.formats) == 1 else [f"images_{k}" for k in range(len(self.formats))]

    @property
    def output_names(self) -> list[str]:
        """Return the names of what `forward` returns."""
        more = {"novelty": self.scores_novelty, "tile": self._tiled is not None}
        return ["probabilities", "embedding", *(name for name, there in more.items() if there)]

    @property
    def scores_novelty(self) -> bool:
        """Return whether every network has a novelty scorer."""
        return all(task.novelty is not None for task in self._tasks)

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of `output_names`: probabilities (N, K), embeddings (N, E), novelty and number of a tile (N,)."""
        probabilities, embeddings, novelties = [], [], []
        with tiles_seen(self._tiled) as tiles:
            for k, (network, place) in enumerate(zip(self._tasks, self._places, strict=True)):
                shift, scale = getattr(self, f"shift{k}"), getattr(self, f"scale{k}")
                embedding, logits = network.predict_embeddings((images[place].float() - shift) * scale)
                probabilities.append(logits.sigmoid() if self._multilabel else logits.softmax(dim=1))
                embeddings.append(embedding)
                if network.novelty is not None:
                    novelties.append(network.novelty(embedding))
        mean = torch.stack(probabilities).mean(dim=0)
        found = [mean, torch.cat(embeddings, dim=1)]
        if self.scores_novelty:  # as `joined_novelty`
            scores = torch.stack(novelties)
            found.append(scores[0] if len(scores) == 1 else scores.log().mean(dim=0).exp())
        if self._tiled is not None:
            added = self._tiled.tile_contributions(tiles[0], mean.argmax(dim=1))
            found.append(added.abs().flatten(1).argmax(dim=1))
        return tuple(found)

    @property
    def tile_boxes(self) -> list[tuple[int, int, int, int]] | None:
        """Return left, top, width and height of each tile, by its number, in pixels of the canvas; None without tiles."""
        if self._tiled is None:
            return None
        with torch.no_grad():
            rows, columns = self._tiled.embed_tiles(torch.zeros(1, *self.formats[0].shape)).shape[1:3]
        boxes = (self._tiled.tiling.box(row, column) for row in range(rows) for column in range(columns))
        return [(left, top, width, height) for top, left, height, width in boxes]


def different_formats(cards: Sequence[DataCard]) -> list[ImageFormat]:
    """Return the image formats of several cards, each once."""
    return list(dict.fromkeys(card.image_format for card in cards))


def check_installed(packages: Sequence[str]) -> None:
    """Raise InputError unless all are installed; `openvino` is in no extra."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        advice = "openvino" if missing == ["openvino"] else "'defectlab[export]'"
        raise InputError(f"{listed(missing)} is not installed: pip install {advice}")


def to_onnx(graph: DeployedGraph) -> onnx.ModelProto:
    """Export to ONNX, with a free number of images; InputError for a network that cannot be, with the reason."""
    with _hushed(), _told():
        program = torch.onnx.export(
            graph, _example(graph), dynamo=True, dynamic_shapes=_dynamic(graph), input_names=graph.input_names,
            output_names=graph.output_names, opset_version=OPSET, external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    fixed = [each.name for each in model.graph.input if not each.type.tensor_type.shape.dim[0].dim_param]
    if fixed:
        raise InputError(
            f"the network cannot be exported: it takes exactly {_EXAMPLES} images at a time once it is traced; write sizes as "
            "tensor.shape[0] in place of len(tensor) and numbers"
        )
    return model


def to_program(graph: DeployedGraph, path: Path) -> None:
    """Export by torch.export, with a free number of images, to a .pt2 file; InputError as of `to_onnx`."""
    with _hushed(), _told():
        torch.export.save(torch.export.export(graph, _example(graph), dynamic_shapes=_dynamic(graph)), path)


def _example(graph: DeployedGraph) -> tuple[Tensor, ...]:
    return tuple(torch.zeros((_EXAMPLES, *wanted.shape), dtype=torch.uint8) for wanted in graph.formats)


def _dynamic(graph: DeployedGraph) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
    batch = torch.export.Dim("batch")
    return (tuple({0: batch} for _ in graph.formats),)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep torch's exporter from telling its own developers what it does."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _told() -> Iterator[None]:
    """Raise InputError for what torch's exporter raises: the line that names the operation."""
    try:
        yield
    except Exception as error:
        cause: Exception = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise InputError(
            f"the network cannot be exported: {first_line(cause)}; replace that operation, or export the network itself "
            "with --output FILE.ckpt"
        ) from None
