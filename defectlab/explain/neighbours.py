"""Find the training images that an image is most like to the network."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.explain.answers import Answer
from defectlab.figures.style import short_label
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid
from defectlab.tasks import ClassificationTask

_NEIGHBOURS, _MOST = 6, 2000


@torch.no_grad()
def neighbours_figure(
    task: ClassificationTask, data: ImageDataModule, answers: Sequence[Answer], images: Tensor
) -> Figure:
    """Draw a row an image: it, then the nearest of at most 2,000 training images, with class, file and distance.

    The distance is that of `NoveltyScorer`, whose score stands below the image; without a scorer it is that of embeddings.

    Args:
        task: network, in evaluation mode.
        data: its data, set up.
        answers: n images and what the network says of them.
        images: the same, normalised, on the task's device, (n, C, H, W).
    """
    loader = data.training_sample(_MOST)
    known = torch.cat([task.predict_embeddings(batch.to(task.device))[0].float() for batch, _ in loader])
    asked, _ = task.predict_embeddings(images)
    scores: list[float] | None = None
    if task.novelty is not None:
        scores = task.novelty(asked).tolist()
        known, asked = task.novelty.whiten(known), task.novelty.whiten(asked)
    near = torch.cdist(asked.float(), known).topk(min(_NEIGHBOURS, len(known)), largest=False)
    places, names, files = loader.indices, data.data.label_texts, data.data.files
    rows = []
    for number, (answer, distances, order) in enumerate(
        zip(answers, near.values.tolist(), near.indices.tolist(), strict=True)
    ):
        said = ", ".join(data.class_names[k] for k in answer.predicted) or "none"
        caption = f"{short_label(answer.file.split('/')[-1])}\n{said}"
        caption += "" if scores is None else f"\nnovelty {scores[number]:.3g}"
        tiles = [Tile(grey_or_colour(answer.image), caption)]
        for distance, row in zip(distances, order, strict=True):
            place = int(places[row])
            pixels = data.data.images.index_select(0, torch.tensor([place]))[0].numpy()
            tiles.append(
                Tile(
                    grey_or_colour(pixels),
                    f"{short_label(files[place].split('/')[-1])}\n{names[place]}\n{distance:.3g}",
                )
            )
        rows.append(("", tiles))
    return tile_grid("first the image, then the training images that it is most like", rows, tile=1.2, label=0)
