import math

import numpy as np
import pytest
from scipy import stats

from components.evaluation.intervals import Resamples
from components.evaluation.sample_sizes import to_tell

NOTHING = np.zeros(0)


def of_means(values: np.ndarray) -> Resamples:
    """A mean, and what it would be without each value."""
    return Resamples(NOTHING, (values.sum() - values) / (len(values) - 1))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_of_a_mean_it_is_the_sample_size_of_a_paired_test(confidence):
    values = np.random.default_rng(0).normal(0.1, 1.0, 500)
    z = stats.norm.ppf((1 + confidence) / 2)
    expected = math.ceil((z * values.std(ddof=1) / values.mean()) ** 2)
    assert to_tell(values.mean(), of_means(values), confidence=confidence) == expected


def test_half_the_difference_takes_four_times_as_many():
    values = np.random.default_rng(1).normal(0, 1, 400)
    one, half = (to_tell(difference, of_means(values), confidence=0.95) for difference in (0.1, 0.05))
    assert half == pytest.approx(4 * one, abs=4)
    assert to_tell(-0.1, of_means(values), confidence=0.95) == one


def test_about_half_of_all_samples_of_that_size_tell():
    rng, n = np.random.default_rng(2), 500
    z = stats.norm.ppf(0.975)
    values = rng.choice([0.5, -0.5], 10_000, p=[0.55, 0.45])
    needed = to_tell(0.05, of_means(values), confidence=0.95)
    draws = rng.choice([0.5, -0.5], (n, needed), p=[0.55, 0.45])
    told = draws.mean(axis=1) - z * draws.std(axis=1, ddof=1) / math.sqrt(needed) > 0
    assert 0.4 < told.mean() < 0.6


@pytest.mark.parametrize(
    ("difference", "without"),
    [(0.0, [0.0, 1.0]), (0.1, [0.0]), (0.1, []), (0.1, [0.0, math.nan]), (0.1, [0.0, math.inf])],
)
def test_there_may_be_no_such_number(difference, without):
    assert to_tell(difference, Resamples(NOTHING, np.array(without)), confidence=0.95) is None
