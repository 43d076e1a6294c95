"""Simple rules whose answers are known beforehand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from components.data.batches import SequenceSet
from components.evaluation import baselines as module
from components.evaluation.baselines import baselines, regression, shares, sparse_regression, summaries
from components.served.encoding import Slot

WORDS = Slot("symbol", 1, size=50, embedding=4)
SPELLING = Slot("characters", 2, size=9)
TERMS = {"labels": ("a", "b"), "bootstrap": 50, "confidence": 0.95}


def sequences(rows, labels, *, per_step: bool = True, slots: tuple[Slot, ...] | None = None) -> SequenceSet:
    """Sequences from lists of steps, each step a list of numbers, or of what the slots say."""
    lengths = [len(row) for row in rows]
    n = len(rows)
    x = np.array([step for row in rows for step in row], np.float32).reshape(sum(lengths), -1)
    return SequenceSet(
        x=x,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        y=np.array([label for row in labels for label in row] if per_step else labels, np.int32),
        row=np.arange(n),
        ids=pa.nulls(n, pa.string()),
        per_step=per_step,
        slots=slots or (Slot("numbers", x.shape[1]),),
    )


def by_name(train, test, **terms) -> dict:
    return {each["name"]: each for each in baselines(train, test, **{**TERMS, **terms})}


def test_the_majority_says_the_most_frequent_training_label():
    train = sequences([[[0.0]], [[1.0], [2.0]]], [[1], [1, 0]])
    test = sequences([[[5.0]], [[6.0], [7.0]]], [[0], [1, 1]])
    found = by_name(train, test)["majority"]
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert "'b'" in found["sentence"]
    assert found["num_trained"] == 3


def test_the_lookup_repeats_what_training_said_of_the_very_same_step():
    train = sequences([[[0.0], [1.0]], [[1.0], [1.0]], [[-0.0]]], [[0, 1], [1, 0], [0]])
    test = sequences([[[1.0], [0.0]], [[9.0]]], [[1, 0], [1]])
    found = by_name(train, test)["lookup"]
    # 1.0 was b twice of three times; 9.0 is new and gets the majority's a.
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert found["share_found"] == pytest.approx(2 / 3)


def test_a_lookup_without_one_known_step_says_why():
    found = by_name(sequences([[[0.0]], [[1.0]]], [[0], [1]]), sequences([[[5.0]]], [[1]]))["lookup"]
    assert found["metrics"] is None
    assert found["reason"] == "No step of the test rows stands in training."


def test_a_step_that_tells_its_label_is_learnt_by_the_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    rows, labels = [[step.tolist()] for step in x], [[int(step[0] > step[1])] for step in x]
    found = by_name(sequences(rows[:300], labels[:300]), sequences(rows[300:], labels[300:]))
    assert found["logistic_step"]["metrics"]["accuracy"] > 0.95
    assert found["logistic_step"]["num_trained"] == 300


def test_a_classifier_has_summaries_instead_of_steps():
    rng = np.random.default_rng(1)
    means = rng.choice([-1.0, 1.0], 200)
    rows = [rng.normal(mean, 0.5, (rng.integers(1, 6), 1)).tolist() for mean in means]
    labels = [int(mean > 0) for mean in means]
    train, test = (sequences(rows[at], labels[at], per_step=False) for at in (slice(0, 150), slice(150, 200)))
    found = by_name(train, test)
    assert list(found) == ["majority", "logistic_summary"]
    assert found["logistic_summary"]["metrics"]["accuracy"] > 0.9
    assert "sequence_accuracy" not in found["majority"]["metrics"]


def test_summaries_are_those_of_the_real_steps():
    split = sequences([[[1.0, 4.0]], [[1.0, 0.0], [3.0, 8.0], [2.0, 1.0]]], [0, 1], per_step=False)
    first, second = summaries(split, np.arange(2))
    assert first.tolist() == [1, 4, 0, 0, 1, 4, 1, 4, 1, 4, 1, 4, 1]
    deviation = np.std([[1, 0], [3, 8], [2, 1]], axis=0)
    assert second.tolist() == pytest.approx([2, 3, *deviation, 1, 0, 3, 8, 1, 0, 2, 1, 3])
    assert summaries(split, np.arange(0)).shape == (0, 13)


def test_one_label_in_training_leaves_nothing_to_regress():
    found = by_name(sequences([[[0.0]], [[1.0]]], [[0], [0]]), sequences([[[1.0]]], [[0]]))
    assert found["logistic_step"]["reason"] == "The training rows hold one label only."
    assert found["majority"]["metrics"]["accuracy"] == 1.0


def test_no_test_rows_give_no_scores():
    train = sequences([[[0.0]], [[1.0]]], [[0], [1]])
    empty = replace(
        train,
        x=train.x[:0],
        offsets=np.zeros(1, np.int64),
        y=train.y[:0],
        row=train.row[:0],
        ids=train.ids.slice(0, 0),
    )
    assert all(each["metrics"] is None for each in baselines(train, empty, **TERMS))


def test_the_regression_is_as_good_as_scikit_learns():
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(5, 8))
    y = rng.integers(0, 5, 3000)
    x = (centers[y] + rng.normal(0, 1.2, (3000, 8))).astype(np.float32) * [1, 100, 1, 1, 0.01, 1, 1, 1]
    x[:, 7] = 3.0  # constant
    train, test = slice(0, 2000), slice(2000, 3000)
    ours = regression(x[train], y[train], num_classes=5)(x[test])
    spread = x[train].std(axis=0)
    scaled = x / np.where(spread > 1e-6, spread, 1.0)
    theirs = LogisticRegression(max_iter=2000).fit(scaled[train], y[train]).predict(scaled[test])
    right, expected = np.mean(ours == y[test]), np.mean(theirs == y[test])
    assert right > expected - 0.015


def test_more_numbers_than_fit_are_sampled_and_the_result_says_so(monkeypatch):
    monkeypatch.setattr(module, "MAX_VALUES", 20)
    monkeypatch.setattr(module, "MAX_STEPS", 30)
    rows = [[[float(i), float(i % 2)]] for i in range(50)]
    train = sequences(rows, [[i % 2] for i in range(50)])
    found = by_name(train, sequences(rows[:4], [[0], [1], [0], [1]]))
    assert (found["logistic_step"]["num_trained"], found["logistic_step"]["num_available"]) == (10, 50)
    assert found["lookup"]["num_trained"] == 30


def test_the_number_of_a_symbol_is_no_quantity_to_the_regression():
    """Odd words have one label and even words another, which no line through their numbers tells apart."""
    rng = np.random.default_rng(3)
    slots = (Slot("numbers", 1), WORDS, SPELLING)
    rows = [[[rng.normal(), int(word), 3, 0]] for word in rng.integers(1, 50, 600)]
    labels = [[row[0][1] % 2] for row in rows]
    train, test = (
        sequences(rows[:500], labels[:500], slots=slots),
        sequences(rows[500:], labels[500:], slots=slots),
    )
    found = by_name(train, test)["logistic_step"]
    assert found["metrics"]["accuracy"] > 0.95
    assert found["sentence"] == "logistic regression on the single step, its symbols one-hot"
    assert found["num_trained"] == 500


def test_a_classifier_counts_the_symbols_of_a_sequence():
    rng = np.random.default_rng(4)
    rows = [[[int(word)] for word in rng.integers(0, 50, rng.integers(1, 20))] for _ in range(500)]
    for i, row in enumerate(rows):
        row.append([7 if i % 2 else 8])
    labels = [i % 2 for i in range(500)]
    train, test = (
        sequences(rows[at], labels[at], per_step=False, slots=(WORDS,))
        for at in (slice(0, 400), slice(400, 500))
    )
    found = by_name(train, test)["logistic_summary"]
    assert found["metrics"]["accuracy"] > 0.75
    assert found["sentence"].endswith("and on each symbol's share of the steps")


def test_shares_are_those_of_the_real_steps_and_each_column_has_its_own():
    slots = (replace(WORDS, size=3), Slot("numbers", 1), replace(WORDS, size=2))
    rows = [[[0, 9, 1]], [[2, 9, 0], [2, 9, 1], [1, 9, 1], [2, 9, 1]]]
    split = sequences(rows, [0, 1], per_step=False, slots=slots)
    assert shares(split, np.arange(2)).toarray().tolist() == [[1, 0, 0, 0, 1], [0, 0.25, 0.75, 0.25, 0.75]]
    assert shares(split, np.array([1])).toarray().tolist() == [[0, 0.25, 0.75, 0.25, 0.75]]
    assert summaries(split, np.arange(2)).shape == (2, 7)


def test_only_the_most_frequent_symbols_are_told_apart_and_the_sentence_says_so(monkeypatch):
    monkeypatch.setattr(module, "MAX_SYMBOLS", 2)
    rows = [[[word]] for word in [1, 1, 1, 2, 2, 2, 3, 4] * 10]
    labels = [[word == 1] for ((word,),) in rows]
    train = sequences(rows, labels, slots=(WORDS,))
    found = by_name(train, train)["logistic_step"]
    assert found["metrics"]["accuracy"] == 1.0
    assert found["sentence"].endswith("its symbols one-hot, the 2 most frequent of 4")


def test_symbols_unseen_in_training_have_an_answer():
    train = sequences([[[1]], [[2]], [[2]]], [[0], [1], [1]], slots=(WORDS,))
    found = by_name(train, sequences([[[0]], [[49]]], [[1], [1]], slots=(WORDS,)))
    assert found["logistic_step"]["metrics"]["accuracy"] == 1.0


def test_the_sparse_regression_is_as_good_as_scikit_learns():
    """Words with frequencies as in a text, each with a leaning of its own."""
    rng = np.random.default_rng(5)
    leaning = rng.normal(0, 2, (300, 3))
    words = rng.choice(300, (4000, 2), p=(chance := 1 / np.arange(1, 301)) / chance.sum())
    y = (leaning[words].sum(axis=1) + rng.gumbel(size=(4000, 3))).argmax(axis=1)
    x = sparse.csr_array((np.ones(8000, np.float32), words.ravel(), np.arange(0, 8001, 2)), (4000, 300))
    train, test = slice(0, 3000), slice(3000, 4000)
    ours = sparse_regression(x[train], y[train], num_classes=3)(x[test])
    theirs = LogisticRegression(max_iter=2000).fit(x[train], y[train]).predict(x[test])
    right, expected = np.mean(ours == y[test]), np.mean(theirs == y[test])
    assert right > expected - 0.015
