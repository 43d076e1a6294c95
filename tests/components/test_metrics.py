"""Scores against scikit-learn and against hand counts, and the exactness of merging."""

import numpy as np
import pytest
from sklearn import metrics as reference

from components.metrics import METRICS, NUM_BINS, Tally, of_task


def answers(seed: int = 0, n: int = 40, num_classes: int = 5):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n)
    truth = rng.integers(0, num_classes, lengths.sum())
    predicted = np.where(rng.random(len(truth)) < 0.7, truth, rng.integers(0, num_classes, len(truth)))
    return truth, predicted, rng.random(len(truth)).astype(np.float32), lengths, rng.random(n)


def tally(*batches, task: str = "labelling", num_classes: int = 5) -> Tally:
    total = Tally.empty(num_classes, task)
    for batch in batches:
        total.update(*batch)
    return total


def cut(truth, predicted, confidence, lengths, losses, at: int):
    step = lengths[:at].sum()
    return (
        (truth[:step], predicted[:step], confidence[:step], lengths[:at], losses[:at]),
        (truth[step:], predicted[step:], confidence[step:], lengths[at:], losses[at:]),
    )


def test_accuracy_and_macro_f1_agree_with_scikit_learn():
    truth, predicted, *rest = answers()
    scores = tally((truth, predicted, *rest)).scores()
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted), abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(
        reference.f1_score(truth, predicted, average="macro"), abs=1e-12
    )


def test_macro_f1_leaves_out_classes_that_stand_nowhere_and_keeps_those_only_predicted():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    scores = tally((truth, predicted, np.ones(4), np.array([4]), np.zeros(1)), num_classes=9).scores()
    assert scores["macro_f1"] == pytest.approx(
        reference.f1_score(truth, predicted, average="macro"), abs=1e-12
    )


def test_the_loss_is_per_real_step_for_labelling_and_per_sequence_for_classification():
    truth, lengths, losses = np.array([0, 0, 1]), np.array([1, 2]), np.array([3.0, 6.0])
    assert tally((truth, truth, np.ones(3), lengths, losses)).scores()["loss"] == 3.0
    batch = (truth[:2], truth[:2], np.ones(2), lengths, losses)
    assert tally(batch, task="classification").scores()["loss"] == 4.5


def test_a_sequence_is_right_only_when_all_its_steps_are():
    truth, predicted = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])
    scores = tally((truth, predicted, np.ones(4), np.array([2, 2]), np.zeros(2))).scores()
    assert scores["sequence_accuracy"] == 0.5
    assert scores["accuracy"] == 0.75


def test_calibration_error_agrees_with_a_count_bin_by_bin():
    truth, predicted, confidence, lengths, losses = answers(seed=3, n=200)
    expected = 0.0
    for k in range(NUM_BINS):
        inside = (confidence > k / NUM_BINS) & (confidence <= (k + 1) / NUM_BINS)
        if inside.any():
            gap = (truth == predicted)[inside].mean() - confidence[inside].mean(dtype=np.float64)
            expected += inside.mean() * abs(gap)
    scores = tally((truth, predicted, confidence, lengths, losses)).scores()
    assert scores["ece"] == pytest.approx(expected, abs=1e-9)


def test_certain_and_impossible_confidences_fall_into_the_outer_bins():
    scores = tally((np.array([0, 0]), np.array([0, 1]), np.array([1.0, 0.0]), np.array([2]), np.zeros(1)))
    assert scores.sums.binned[0] == 1
    assert scores.sums.binned[-1] == 1
    assert scores.scores()["ece"] == 0.0


@pytest.mark.parametrize("at", [0, 1, 17, 40])
def test_scores_do_not_depend_on_the_batches(at):
    whole = answers()
    first, second = cut(*whole, at=at)
    expected = tally(whole).scores()
    assert tally(first, second).scores() == pytest.approx(expected, abs=1e-12)
    assert tally(second).merge(tally(first)).scores() == pytest.approx(expected, abs=1e-12)


def test_nothing_counted_gives_nan_and_no_warning():
    assert all(np.isnan(value) for value in tally().scores().values())


def test_a_nan_loss_or_confidence_shows_as_nan():
    truth, predicted, _confidence, lengths, losses = answers()
    scores = tally(
        (truth, predicted, np.full(len(truth), np.nan), lengths, np.full(len(losses), np.nan))
    ).scores()
    assert np.isnan(scores["loss"])
    assert np.isnan(scores["ece"])
    assert scores["accuracy"] == pytest.approx(np.mean(truth == predicted))


def test_sequence_accuracy_is_for_labelling_only():
    assert "sequence_accuracy" in of_task("labelling")
    assert "sequence_accuracy" not in of_task("classification")
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["loss", "ece"]
