"""The data card: what it refuses, and that it normalises and goes back."""

import dataclasses
from typing import Any

import pytest
import torch

from defectlab.errors import InputError
from defectlab.utils.card import DataCard

CARD = DataCard(class_names=("good", "bad"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.3), image_size=8, channels=3)


def test_whole_numbers_and_floats_are_normalised_alike_and_back() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(CARD.mean).view(1, 3, 1, 1)) / torch.tensor(CARD.std).view(
        1, 3, 1, 1
    )
    for given in (images, images / 255):
        kept = given.clone()
        found = CARD.normalise(given)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
        assert torch.equal(given, kept)
        torch.testing.assert_close(CARD.denormalise(found), images / 255)


def test_one_channel_goes_out_as_three() -> None:
    grey = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    for images in (grey, grey / 255):
        assert torch.equal(CARD.normalise(images), CARD.normalise(images.expand(-1, 3, -1, -1)))


def test_a_card_survives_plain_values_and_passes_over_others() -> None:
    values = {**dataclasses.asdict(CARD), "class_names": ["good", "bad"], "mean": [0.5, 0.4, 0.3], "counts": {}}
    assert DataCard.from_dict(values) == CARD


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", [0.5], "expected 3 finite numbers"),
        ("mean", [0.5, 0.4, float("nan")], "expected 3 finite numbers"),
        ("std", [0.5, 0.4, 0.0], "expected numbers above 0"),
        ("std", "abc", "could not convert"),
        ("image_size", 0, "image_size is 0"),
        ("image_size", 8.5, "image_size is 8.5"),
        ("channels", 65, "expected 1 (grey), 3 (RGB), or up to 64"),
        ("class_names", ["good"], "expected two or more"),
        ("class_names", ["good", "good"], "expected two or more"),
        ("resize_size", 4, "at least 8"),
        ("mean", None, "data card: "),
    ],
)
def test_what_a_card_refuses(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        DataCard.from_dict({**dataclasses.asdict(CARD), key: value})
    assert message in str(error.value)


def test_a_missing_key_is_named() -> None:
    values = dataclasses.asdict(CARD)
    del values["std"]
    with pytest.raises(InputError, match="no std"):
        DataCard.from_dict(values)
