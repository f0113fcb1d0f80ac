"""Statistics against published worked examples, other libraries' figures, and simulation."""

import math

import numpy as np
import pytest
from scipy.stats import chi2, norm, ttest_1samp

from defectlab.errors import InputError
from defectlab.metrics.statistics import corrected_interval, corrected_t_test, holm, images_needed, mcnemar


def test_mcnemar_is_the_binomial_sum() -> None:
    by_hand = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert mcnemar(3, 12) == pytest.approx(by_hand)
    assert mcnemar(12, 3) == mcnemar(3, 12)
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0
    assert mcnemar(0, 5) == pytest.approx(0.0625), "five to nothing is not significant yet"
    assert mcnemar(0, 6) == pytest.approx(0.03125)


def test_mcnemar_nears_the_chi_square_for_many() -> None:
    """The statistic of McNemar's own paper, with Yates's correction."""
    statistic = (abs(40 - 60) - 1) ** 2 / (40 + 60)
    assert mcnemar(40, 60) == pytest.approx(chi2.sf(statistic, 1), rel=0.02)


def test_mcnemar_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    alarms = [mcnemar(int(k), 30 - int(k)) < 0.05 for k in rng.binomial(30, 0.5, 4000)]
    assert np.mean(alarms) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 4000)


def test_holm_is_the_published_procedure() -> None:
    """Adjusted values of the worked example .01, .04, .03, .005, which R's p.adjust gives too."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_images_needed_have_the_power_they_promise() -> None:
    n = images_needed(18, 6, 300)
    assert n is not None
    rng = np.random.default_rng(1)
    draws = rng.multinomial(n, [18 / 300, 6 / 300, 1 - 24 / 300], size=3000)
    found = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in draws])
    assert 0.74 < found < 0.84, "the formula is of the test with chi-square, the exact one finds a little less"
    assert images_needed(4, 4, 300) is None
    fewer = images_needed(36, 6, 300)
    assert fewer is not None
    assert fewer < n


def test_corrected_variance_is_nadeau_and_bengios() -> None:
    scores = [0.9, 0.92, 0.94, 0.96]
    low, high = corrected_interval(scores, 0.25)
    deviation = np.std(scores, ddof=1)
    half = 3.182446 * deviation * math.sqrt(1 / 4 + 0.25)  # t table, 3 degrees of freedom
    assert [low, high] == pytest.approx([0.93 - half, 0.93 + half], abs=1e-6)


def test_corrected_t_test_becomes_the_usual_one_without_overlap() -> None:
    differences = [0.01, 0.03, -0.01, 0.02, 0.02]
    assert corrected_t_test(differences, 1e-12) == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert corrected_t_test(differences, 0.25) > ttest_1samp(differences, 0).pvalue
    assert corrected_t_test([0.0, 0.0], 0.25) == 1.0
    assert corrected_t_test([0.1, 0.1], 0.25) == 0.0


def test_the_corrected_interval_covers() -> None:
    """Scores with the correlation rho = test / (test + train) that the correction assumes: 93 to 100 % of 95 %."""
    rng, ratio, splits = np.random.default_rng(2), 0.25, 10
    rho = ratio / (1 + ratio)
    shared = rng.standard_normal((3000, 1)) * math.sqrt(rho)
    scores = shared + rng.standard_normal((3000, splits)) * math.sqrt(1 - rho)
    covered = [low < 0 < high for low, high in (corrected_interval(row.tolist(), ratio) for row in scores)]
    assert 0.93 <= np.mean(covered) <= 1.0
    naive = [abs(row.mean()) < norm.ppf(0.975) * row.std(ddof=1) / math.sqrt(splits) for row in scores]
    assert np.mean(naive) < 0.8, "without the correction it would not"


def test_unusable_input_is_told() -> None:
    with pytest.raises(InputError, match="1 score: expected those of at least two splits"):
        corrected_interval([0.5], 0.25)
    with pytest.raises(InputError, match="test_to_train is 0"):
        corrected_t_test([0.5, 0.4], 0)
    with pytest.raises(InputError, match="-1 and 3 images"):
        mcnemar(-1, 3)
