"""Choose a threshold below which a person decides, with a bound on the error of what is decided."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError


@dataclass(frozen=True)
class Threshold:
    """Images with at least this confidence are decided: `errors` of `n` calibration images, of `total`, were wrong."""

    confidence: float
    n: int
    errors: int
    total: int

    @property
    def share(self) -> float:
        """Share of the calibration images that is decided, in [0, 1]."""
        return self.n / self.total


def images_for_bound(max_error: float, level: float = 0.95) -> int:
    """Return how many images, all of them correct, show an error of at most `max_error`: 299 for 1 % at 95 %."""
    return math.ceil(math.log(1 - level) / math.log1p(-max_error))


def choose_threshold(
    confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], max_error: float, level: float = 0.95
) -> Threshold | None:
    """Choose the lowest confidence whose error stays below `max_error`, with probability `level`; None if there is none.

    Confidences are tried from the top down, beginning where enough images are above for the bound to hold at all, and
    the first that fails the exact binomial test ends the search: testing in a fixed order keeps the level without a
    correction (Angelopoulos et al., "Learn then test", Annals of Applied Statistics 2025, section 4).

    Args:
        confidence: of calibration images that had no part in training, (N,).
        right: whether they were classified correctly, (N,).
        max_error: share of wrong ones among the decided, in (0, 1).
        level: of confidence, in (0, 1).
    """
    for name, value in (("max_error", max_error), ("level", level)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}: expected a share between 0 and 1, such as 0.01")
    from scipy.stats import binom  # half a second, for those alone who ask for a bound

    order = np.argsort(-confidence, kind="stable")
    ranked, errors = confidence[order], np.cumsum(~right[order])
    found = None
    for n in range(images_for_bound(max_error, level), len(ranked) + 1):
        if n < len(ranked) and ranked[n] == ranked[n - 1]:
            continue  # equal confidences are decided together
        if binom.cdf(errors[n - 1], n, max_error) > 1 - level:
            break
        found = Threshold(float(ranked[n - 1]), n, int(errors[n - 1]), len(ranked))
    return found
