"""Large images are evaluated and predicted in smaller blocks, with the same result."""

import pytest

from defectlab.utils.image_format import images_at_once


@pytest.mark.parametrize(
    ("size", "most", "expected"), [(64, 128, 128), ((256, 1600), 128, 5), ((256, 1600), 2, 2), (4096, 128, 1)]
)
def test_a_block_is_bounded_by_pixels_and_by_the_callers_number(
    size: int | tuple[int, int], most: int, expected: int
) -> None:
    assert images_at_once(size, most) == expected
