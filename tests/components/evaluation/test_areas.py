"""Areas under curves: those of scikit-learn, for every resample and without every row."""

import math

import numpy as np
import pytest
from sklearn import metrics

from components.evaluation import areas
from components.evaluation.answers import Answers
from components.evaluation.areas import Areas, num_resamples, resample


def rows(n, *, skill=1.0, seed=0, num_classes=4, digits=None):
    """Probabilities (n, C) that favour the true class by `skill`, and the classes; few digits make ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, n)
    logits = rng.normal(0, 1, (n, num_classes)) + skill * np.eye(num_classes)[truth]
    if digits is not None:
        logits = logits.round(digits)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), truth


def answers(probabilities, truth, *, groups=None, order=None):
    """A classifier's answers with these probabilities; `order` hands the rows in otherwise."""
    n = len(truth)
    predicted = probabilities.argmax(axis=1)
    made = Answers(
        truth=truth,
        predicted=predicted,
        confidence=probabilities[np.arange(n), predicted],
        losses=-np.log(probabilities[np.arange(n), truth]),
        units=np.ones(n, np.int64),
        lengths=np.full(n, 3),
        places=np.arange(n),
        num_classes=probabilities.shape[1],
        groups=groups,
        probabilities=probabilities,
    )
    return made if order is None else made.take(order)


def sklearn_areas(probabilities, truth, weights=None):
    """Means over the classes that stand on some of the rows and not on all."""
    there = [c for c in range(probabilities.shape[1]) if 0 < (truth == c).sum() < len(truth)]
    pairs = [(truth == c, probabilities[:, c]) for c in there]
    return {
        "roc_auc": np.mean([metrics.roc_auc_score(*each, sample_weight=weights) for each in pairs]),
        "pr_auc": np.mean([metrics.average_precision_score(*each, sample_weight=weights) for each in pairs]),
    }


@pytest.mark.parametrize("digits", [None, 0])
def test_a_resample_weighs_rows_as_scikit_learn_does(digits):
    probabilities, truth = rows(120, digits=digits, seed=3)
    weights = np.random.default_rng(1).integers(0, 4, (5, 120)).astype(np.float64)
    drawn = Areas(probabilities, truth).weighted(weights)
    for number, own in enumerate(weights):
        for name, value in sklearn_areas(probabilities, truth, own).items():
            assert drawn[name][number] == pytest.approx(value)


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_without_each_row_is_what_scikit_learn_says_of_the_others(digits, num_classes):
    probabilities, truth = rows(60, digits=digits, seed=4, num_classes=num_classes)
    found = Areas(probabilities, truth).without()
    for row in range(60):
        others = np.arange(60) != row
        for name, value in sklearn_areas(probabilities[others], truth[others]).items():
            assert found[name][row] == pytest.approx(value, abs=1e-12)


def test_without_the_only_row_of_a_label_there_is_no_area():
    probabilities, truth = rows(20, num_classes=2)
    truth[:] = 0
    truth[5] = 1
    found = Areas(probabilities, truth).without()
    for name in ("roc_auc", "pr_auc"):
        assert np.flatnonzero(np.isnan(found[name])).tolist() == [5]


def test_a_placement_is_how_many_rows_of_other_labels_stand_on_the_right_side():
    probabilities, truth = rows(40, digits=0, seed=5, num_classes=3)
    found = Areas(probabilities, truth).placements()
    for place in range(3):
        own, is_class = probabilities[:, place], truth == place
        for row in range(40):
            others = own[is_class != is_class[row]]
            right = others < own[row] if is_class[row] else others > own[row]
            assert found[row, place] == right.sum() + (others == own[row]).sum() / 2


def test_models_that_rank_alike_have_the_same_placements():
    probabilities, truth = rows(40, num_classes=2, seed=6)
    sharper = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    assert (Areas(probabilities, truth).placements() == Areas(sharper, truth).placements()).all()


def test_neither_the_order_of_the_rows_nor_the_model_changes_which_rows_are_drawn():
    probabilities, truth = rows(150, seed=7)
    straight = resample(answers(probabilities, truth), "pr_auc", bootstrap=200)
    order = np.random.default_rng(0).permutation(150)
    shuffled = resample(answers(probabilities, truth, order=order), "pr_auc", bootstrap=200)
    np.testing.assert_allclose(shuffled.draws, straight.draws, atol=1e-12)
    # A model that ranks alike differs in no resample: both saw the same ones.
    twin = resample(answers(probabilities.copy(), truth), "pr_auc", bootstrap=200)
    assert not (twin - straight).draws.any()


def test_a_group_counts_for_what_its_rows_change_together():
    probabilities, truth = rows(300, seed=8)
    groups = np.arange(300) // 3
    found = resample(answers(probabilities, truth, groups=groups), "roc_auc", bootstrap=100)
    exact = [
        sklearn_areas(probabilities[groups != group], truth[groups != group])["roc_auc"]
        for group in range(100)
    ]
    assert len(found.without) == 100
    # Exact are first-order terms; what pairs of rows of one group change is a hundredth of them.
    spread = np.std(exact)
    np.testing.assert_allclose(found.without, exact, atol=0.1 * spread)


def test_larger_data_is_drawn_less_often(monkeypatch):
    probabilities, truth = rows(200)
    monkeypatch.setattr(areas, "MAX_WORK", 100_000)
    assert len(resample(answers(probabilities, truth), "roc_auc", bootstrap=1000).draws) == 125
    assert num_resamples(10**9, 1000) == 100


def test_a_probability_that_is_not_a_number_leaves_no_score():
    probabilities, truth = rows(30)
    probabilities[3, 1] = math.nan
    made = Areas(probabilities, truth)
    assert all(math.isnan(value) for value in made.values().values())
    assert {each["reason"] for each in made.per_class("abcd")} == {"a probability is not a number"}
