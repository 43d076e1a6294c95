import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics

from components.evaluation import areas, curves
from components.evaluation.areas import Areas
from components.evaluation.curves import Ranking
from components.served.predictor import Unscaled

LABELS = ("a", "b", "c", "d")


def rows(n, *, skill=1.0, seed=0, num_classes=4, digits=None):
    """Probabilities (n, C) that favour the true class by `skill`; few digits make ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, n)
    logits = rng.normal(0, 1, (n, num_classes)) + skill * np.eye(num_classes)[truth]
    if digits is not None:
        logits = logits.round(digits)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), truth


def ranking(log_probabilities, truth, *, cut=(0,)):
    model = SimpleNamespace(
        temperature=1.0, per_step=False, encoding=SimpleNamespace(num_classes=log_probabilities.shape[1])
    )
    made = Ranking(model, len(truth))
    for part, own in zip(np.split(log_probabilities, cut), np.split(truth, cut), strict=True):
        if len(own):
            best = part.argmax(axis=1)
            made.see(Unscaled(part.astype(np.float32), best, None), own)
    return made


def scores(log_probabilities, truth, labels=LABELS, *, cut=(0,), **options):
    options = {"bootstrap": 300, "confidence": 0.95, **options}
    return ranking(log_probabilities, truth, cut=cut).scores(labels, **options)


def test_the_areas_are_those_of_scikit_learn():
    log_probabilities, truth = rows(400)
    found = scores(log_probabilities, truth)
    probabilities = np.exp(log_probabilities.astype(np.float32).astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wanted = metrics.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert found["metrics"]["roc_auc"] == pytest.approx(wanted, abs=1e-6)
    precisions = metrics.average_precision_score(np.eye(4)[truth], probabilities, average="macro")
    assert found["metrics"]["pr_auc"] == pytest.approx(precisions, abs=1e-6)
    top = metrics.top_k_accuracy_score(truth, probabilities, k=3)
    assert found["metrics"]["top_3_accuracy"] == pytest.approx(top)
    assert "top_5_accuracy" not in found["metrics"]  # of four labels it is 1


def test_parts_make_no_difference():
    log_probabilities, truth = rows(200, seed=4)
    assert scores(log_probabilities, truth) == scores(log_probabilities, truth, cut=(3, 50, 120))


def test_a_class_without_test_rows_has_no_area_and_says_why():
    log_probabilities, truth = rows(200, seed=5)
    truth = np.where(truth == 2, 1, truth)
    found = scores(log_probabilities, truth)
    assert found["per_class"][2] == {
        "label": "c", "roc_auc": None, "pr_auc": None, "reason": "no test row is of it",
    }  # fmt: skip
    areas = [row["roc_auc"] for row in found["per_class"] if row["roc_auc"] is not None]
    assert len(areas) == 3 and found["metrics"]["roc_auc"] == pytest.approx(np.mean(areas))
    alone = scores(log_probabilities, np.zeros(200, np.int64))
    assert alone["metrics"]["roc_auc"] is None and alone["metrics"]["roc_auc_low"] is None
    assert alone["per_class"][0]["reason"] == "every test row is of it"


def test_of_equal_probabilities_the_first_label_stands_above():
    found = scores(np.log(np.full((4, 4), 0.25)), np.arange(4))
    assert found["metrics"]["top_3_accuracy"] == 0.75
    assert found["metrics"]["roc_auc"] == 0.5


@pytest.mark.slow
def test_the_intervals_hold_the_truth_about_95_times_in_100():
    population = rows(40_000, seed=6, num_classes=3)
    whole = Areas(np.exp(population[0]), population[1]).values()
    rng, hits, repetitions = np.random.default_rng(7), dict.fromkeys(("roc_auc", "pr_auc"), 0), 300
    for seed in range(repetitions):
        chosen = rng.choice(40_000, 150, replace=False)
        found = scores(population[0][chosen], population[1][chosen], LABELS[:3], seed=seed)["metrics"]
        for name in hits:
            hits[name] += found[f"{name}_low"] <= whole[name] <= found[f"{name}_high"]
    for count in hits.values():
        assert 0.91 <= count / repetitions <= 0.985


def test_whole_groups_are_drawn():
    log_probabilities, truth = rows(30, seed=8)
    tenfold = np.repeat(np.arange(30), 10)
    once = scores(log_probabilities, truth)["metrics"]
    grouped = scores(log_probabilities[tenfold], truth[tenfold], groups=tenfold)["metrics"]
    apart = scores(log_probabilities[tenfold], truth[tenfold])["metrics"]
    width = {name: each["roc_auc_high"] - each["roc_auc_low"] for name, each in
             (("once", once), ("grouped", grouped), ("apart", apart))}  # fmt: skip
    assert width["grouped"] == pytest.approx(width["once"], rel=0.3)
    assert width["apart"] < 0.5 * width["grouped"]


def test_more_probabilities_than_are_kept_give_no_scores(monkeypatch):
    monkeypatch.setattr(curves, "MAX_PROBABILITIES", 10)
    assert scores(*rows(20)) is None


def test_larger_data_is_drawn_less_often_and_says_so(monkeypatch):
    monkeypatch.setattr(areas, "MAX_WORK", 100_000)
    assert scores(*rows(200), bootstrap=1000)["resamples"] == 125


def test_a_probability_that_is_not_a_number_leaves_no_score():
    log_probabilities, truth = rows(50)
    log_probabilities[7, 2] = math.nan
    found = scores(log_probabilities, truth)
    assert set(found["metrics"].values()) == {None}
    assert found["per_class"][0]["reason"] == "a probability is not a number"


def test_a_labeller_keeps_nothing():
    model = SimpleNamespace(temperature=1.0, per_step=True, encoding=SimpleNamespace(num_classes=4))
    made = Ranking(model, 10)
    made.see(Unscaled(np.zeros((1, 4), np.float32), np.zeros(1, np.int64), None), np.zeros(1, np.int64))
    assert made.scores(LABELS, bootstrap=100, confidence=0.95) is None
    assert curves.shown(None) == {} and math.isnan(curves._bounds(np.array([math.nan]), 0.5, 0.9)[0])
