"""Intervals: known quantiles, honest coverage, and what happens with almost no data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from components.data.tags import tagging
from components.evaluation import intervals
from components.evaluation.answers import Answers
from components.evaluation.intervals import (
    Resamples,
    interval,
    resample,
    resample_sums,
    student_quantile,
    without_exception,
)
from components.metrics import METRICS


def answers(right: np.ndarray, units: np.ndarray) -> Answers:
    """Two classes, of which class 0 is true; `right` per unit."""
    return Answers(
        truth=np.zeros(len(right), np.int64),
        predicted=np.where(right, 0, 1),
        confidence=np.full(len(right), 0.8),
        losses=np.add.reduceat(np.where(right, 0.1, 2.0), np.cumsum(units) - units),
        units=units,
        lengths=units,
        places=np.arange(len(units)),
        num_classes=2,
    )


def clustered(rng: np.random.Generator, n: int) -> Answers:
    """Steps of one sequence are right or wrong together, more or less; 80 % are right."""
    units = rng.integers(1, 12, n)
    skill = rng.beta(4, 1, n)
    return answers(rng.random(units.sum()) < np.repeat(skill, units), units)


@pytest.mark.parametrize("n", [25, 200])
def test_a_95_percent_interval_holds_the_truth_about_95_times_in_100(n):
    rng = np.random.default_rng(n)
    hits, repetitions = 0, 400
    for _ in range(repetitions):
        sample = clustered(rng, n)
        value = float(np.mean(sample.truth == sample.predicted))
        draws = resample(sample, ["accuracy"], bootstrap=300)["accuracy"]
        bounds = interval(value, draws, confidence=0.95)
        hits += bounds.low <= 0.8 <= bounds.high
    # 0.95 give or take three standard errors of the simulation, and a little for 300 resamples.
    assert 0.905 <= hits / repetitions <= 0.985


def grouped(rng: np.random.Generator, n: int) -> Answers:
    """Recordings of n speakers, 20 of each; one speaker's are right or wrong together, 80 % over all."""
    skill = rng.beta(1.2, 0.3, n)
    right = rng.random(20 * n) < np.repeat(skill, 20)
    return replace(answers(right, np.ones(20 * n, np.int64)), groups=np.repeat(np.arange(n), 20))


def test_where_groups_hang_together_only_drawing_whole_groups_covers_the_truth():
    rng = np.random.default_rng(7)
    whole, single, repetitions = 0, 0, 150
    for _ in range(repetitions):
        sample = grouped(rng, 40)
        value = float(np.mean(sample.truth == sample.predicted))
        for groups in (sample.groups, None):
            draws = resample(replace(sample, groups=groups), ["accuracy"], bootstrap=200)["accuracy"]
            bounds = interval(value, draws, confidence=0.95)
            hit = bounds.low <= 0.8 <= bounds.high
            whole, single = (whole + hit, single) if groups is not None else (whole, single + hit)
    # 0.95 give or take three standard errors of the simulation.
    assert 0.9 <= whole / repetitions <= 0.995
    assert single / repetitions < 0.75


def test_groups_of_one_sequence_each_are_sequences():
    sample = clustered(np.random.default_rng(8), 60)
    apart = replace(sample, groups=np.arange(60))
    one, other = (resample(each, ["accuracy"], bootstrap=100)["accuracy"] for each in (sample, apart))
    np.testing.assert_allclose(one.draws, other.draws)
    np.testing.assert_allclose(one.without, other.without)


def test_one_group_gives_no_interval_however_many_rows_it_has():
    sample = replace(clustered(np.random.default_rng(9), 60), groups=np.zeros(60, np.int64))
    draws = resample(sample, ["accuracy"], bootstrap=100)["accuracy"]
    assert not interval(0.8, draws, confidence=0.95).is_known


def test_sums_are_resampled_as_the_metrics_are():
    sample = grouped(np.random.default_rng(10), 12)
    right = (sample.truth == sample.predicted).astype(float)
    drawn, without = resample_sums(
        np.stack([right, np.ones(len(right))], axis=1), sample.groups, bootstrap=50
    )
    other = resample(sample, ["accuracy"], bootstrap=50)["accuracy"]
    np.testing.assert_allclose(drawn[:, 0] / drawn[:, 1], other.draws)
    np.testing.assert_allclose(without[:, 0] / without[:, 1], other.without)


def tagged(rng: np.random.Generator, n: int) -> Answers:
    """Sequences with tags of two types of spans, some harder than others."""
    units = rng.integers(3, 12, n)
    truth = rng.choice(5, units.sum(), p=[0.4, 0.2, 0.15, 0.15, 0.1])
    skill = np.repeat(rng.beta(6, 1, n), units)
    predicted = np.where(rng.random(len(truth)) < skill, truth, rng.integers(0, 5, len(truth)))
    labels = ("O", "B-X", "I-X", "B-Y", "I-Y")
    return replace(
        answers(np.ones(len(truth), bool), units),
        truth=truth,
        predicted=predicted,
        num_classes=5,
        tagging=tagging(labels, "BIO"),
    )


@pytest.mark.slow
def test_the_intervals_of_every_kind_of_score_hold_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(7)
    names = ("accuracy", "sequence_accuracy", "macro_f1", "span_f1", "lenient_span_f1")
    population, repetitions, n = tagged(rng, 20_000), 600, 120
    whole = population.sums(np.zeros(20_000, np.int64), 1).total()
    hits = dict.fromkeys(names, 0)
    for seed in range(repetitions):
        sample = replace(population.take(rng.choice(20_000, n, replace=False)), places=np.arange(n))
        sums = sample.sums(np.zeros(n, np.int64), 1).total()
        # The same resamples for all would tie the repetitions together.
        draws = resample(sample, names, bootstrap=300, seed=seed)
        for name in names:
            bounds = interval(float(METRICS[name].of(sums)), draws[name], confidence=0.95)
            hits[name] += bounds.low <= float(METRICS[name].of(whole)) <= bounds.high
    for name, count in hits.items():
        # 0.95 give or take three standard errors of the simulation.
        assert 0.92 <= count / repetitions <= 0.98, (name, count / repetitions)


def test_steps_taken_for_independent_would_give_far_too_narrow_intervals():
    sample = clustered(np.random.default_rng(0), 300)
    draws = resample(sample, ["accuracy"], bootstrap=500)["accuracy"].draws
    naive = math.sqrt(0.8 * 0.2 / len(sample.truth))
    assert draws.std() > 1.2 * naive


def test_the_spread_of_the_resamples_is_that_of_a_binomial_for_single_steps():
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.7
    sample = answers(right, np.ones(400, np.int64))
    draws = resample(sample, ["accuracy"], bootstrap=4000)["accuracy"].draws
    assert draws.mean() == pytest.approx(right.mean(), abs=0.003)
    assert draws.std() == pytest.approx(math.sqrt(right.mean() * (1 - right.mean()) / 400), rel=0.05)


def test_every_resample_draws_as_many_sequences_as_there_are_whatever_the_parts():
    for most in (1, 7, 64, 1000):
        parts = list(intervals._weights(100, bootstrap=50, most=most, seed=0))
        weights = np.concatenate([part for _, part in parts], axis=1)
        assert weights.shape == (50, 100)
        assert (weights.sum(axis=1) == 100).all()
        assert weights.var() == pytest.approx(0.99, abs=0.1)


def test_the_same_seed_gives_the_same_resamples_and_another_seed_others():
    sample = clustered(np.random.default_rng(2), 60)
    first, again, other = (
        resample(sample, ["macro_f1", "loss"], bootstrap=100, seed=seed) for seed in (0, 0, 1)
    )
    assert (first["macro_f1"].draws == again["macro_f1"].draws).all()
    assert (first["loss"].draws != other["loss"].draws).any()


def test_the_order_of_the_sequences_changes_no_resample():
    sample = clustered(np.random.default_rng(4), 60)
    shuffled = sample.take(np.random.default_rng(5).permutation(60))
    straight, other = (resample(each, ["accuracy"], bootstrap=100)["accuracy"] for each in (sample, shuffled))
    np.testing.assert_allclose(straight.draws, other.draws, rtol=1e-12)
    np.testing.assert_allclose(straight.without, other.without, rtol=1e-12)


def test_quantiles_of_student_agree_with_scipy():
    for degrees in (4, 9, 29, 1000):
        for p in (0.005, 0.025, 0.05):
            assert student_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=0.01)


def test_the_bound_without_exception_is_that_of_clopper_and_pearson():
    for n in (1, 20, 500):
        expected = stats.binomtest(0, n).proportion_ci(confidence_level=0.95, method="exact").high
        assert without_exception(n, confidence=0.95) == pytest.approx(expected, rel=1e-9)


def test_one_sequence_or_nan_gives_no_interval():
    one, many = np.full(1, 0.5), np.full(50, 0.5)
    assert not interval(0.5, Resamples(np.full(100, 0.5), one), confidence=0.95).is_known
    assert not interval(math.nan, Resamples(np.full(100, 0.5), many), confidence=0.95).is_known
    assert not interval(0.5, Resamples(np.full(100, math.nan), many), confidence=0.95).is_known


def test_an_infinite_loss_gives_no_interval_and_no_warning():
    sample = clustered(np.random.default_rng(3), 40)
    sample.losses[3] = math.inf
    draws = resample(sample, ["loss"], bootstrap=100)["loss"]
    assert not interval(math.inf, draws, confidence=0.95).is_known


def test_no_sequences_give_no_interval():
    empty = answers(np.zeros(1, bool), np.ones(1, np.int64)).take(np.zeros(0, np.int64))
    draws = resample(empty, ["accuracy", "macro_f1"], bootstrap=100)["macro_f1"]
    assert not interval(0.5, draws, confidence=0.95).is_known
