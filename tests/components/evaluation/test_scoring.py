"""From answers to scores: known answers, scikit-learn's, and what the data cannot tell."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sklearn_metrics

from components.evaluation.answers import read
from components.evaluation.scoring import score, unseen, worst

TERMS = {"task": "labelling", "labels": ("a", "b", "c"), "bootstrap": 200, "confidence": 0.95}
TRUTH = [["a", "b"], ["b", "b", "c"], ["a"], ["c", "a"], ["b"]]
SAID = [["a", "b"], ["b", "a", "c"], ["a"], ["b", "b"], ["b"]]


def flat(rows) -> list[str]:
    return [label for row in rows for label in row]


def many(n: int = 300, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    truth = [rng.choice(list("abc"), rng.integers(1, 9)).tolist() for _ in range(n)]
    said = [[label if rng.random() < 0.8 else "c" for label in row] for row in truth]
    return truth, said


def test_scores_agree_with_scikit_learn(label_table):
    truth, said = many()
    found = score(label_table(truth, said), **TERMS)
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(flat(truth), flat(said)))
    expected = sklearn_metrics.f1_score(flat(truth), flat(said), average="macro")
    assert metrics["macro_f1"] == pytest.approx(expected)
    assert metrics["sequence_accuracy"] == pytest.approx(
        np.mean([a == b for a, b in zip(truth, said, strict=True)])
    )
    report = sklearn_metrics.classification_report(flat(truth), flat(said), output_dict=True)
    for row in found.per_class:
        for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert row[name] == pytest.approx(report[row["label"]][theirs])
        assert row["support"] == report[row["label"]]["support"]
    for name in ("accuracy", "macro_f1", "sequence_accuracy"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]
    assert (metrics["num_sequences"], metrics["num_steps"]) == (300, len(flat(truth)))
    assert json.loads(json.dumps(metrics)) == metrics


def test_confusions_are_the_wrong_steps_most_frequent_first(label_table):
    found = score(label_table(TRUTH, SAID), **TERMS)
    assert sorted((each["truth"], each["predicted"], each["count"]) for each in found.confusion) == [
        ("a", "b", 1),
        ("b", "a", 1),
        ("c", "b", 1),
    ]
    truth, said = many()
    counts = [each["count"] for each in score(label_table(truth, said), **TERMS).confusion]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == sum(a != b for a, b in zip(flat(truth), flat(said), strict=True))


def test_the_reliability_curve_sets_accuracy_beside_confidence(class_table):
    table = class_table(["a", "a", "b", "b"], ["a", "b", "b", "b"], probability=[0.95, 0.95, 0.3, 0.3])
    found = score(table, **{**TERMS, "task": "classification"}).reliability
    assert [(each["count"], each["accuracy"]) for each in found] == [(2, 1.0), (2, 0.5)]
    assert [each["confidence"] for each in found] == pytest.approx([0.3, 0.95])
    assert all(each["low"] < each["confidence"] <= each["high"] for each in found)


@pytest.mark.parametrize(("said", "value", "low", "high"), [("a", 1.0, 0.8316, 1.0), ("b", 0.0, 0.0, 0.1684)])
def test_twenty_answers_all_alike_still_leave_a_bound(class_table, said, value, low, high):
    # Clopper and Pearson's bounds, as scipy.stats.binomtest gives them for 20 of 20 and 0 of 20.
    metrics = score(class_table(["a"] * 20, [said] * 20), **{**TERMS, "task": "classification"}).metrics
    assert metrics["accuracy"] == value
    assert metrics["accuracy_low"] == pytest.approx(low, abs=1e-4)
    assert metrics["accuracy_high"] == pytest.approx(high, abs=1e-4)


def test_no_rows_have_no_scores_and_nothing_that_json_lacks(label_table):
    found = score(label_table(TRUTH, SAID).slice(0, 0), **TERMS)
    assert found.metrics["accuracy"] is None
    assert found.metrics["num_sequences"] == 0
    assert (found.per_class, found.confusion, found.reliability) == ((), (), ())
    json.dumps(found.metrics, allow_nan=False)


def test_an_infinite_loss_is_no_number_and_leaves_the_others_alone(label_table):
    table = label_table(TRUTH, SAID)
    losses = pa.array([0.1, np.inf, 0.1, 0.1, 0.1])
    spoilt = table.set_column(table.schema.get_field_index("loss"), "loss", losses)
    metrics = score(spoilt, **TERMS).metrics
    assert (metrics["loss"], metrics["loss_low"]) == (None, None)
    assert metrics["accuracy"] == pytest.approx(6 / 9)


def test_label_sequences_known_from_training_are_counted_and_the_others_scored(label_table):
    table = label_table(TRUTH, SAID, seen=[True, False, True, False, True])
    found = unseen(table, **TERMS)
    assert (found["num_sequences"], found["num_seen"]) == (5, 3)
    assert (found["num_distinct"], found["num_distinct_seen"]) == (5, 3)
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 5)
    low, high = found["metrics"]["accuracy_low"], found["metrics"]["accuracy_high"]
    assert found["sentence"] == (
        f"3 of 5 label sequences also stand in training; on the other 2 the accuracy is 0.4000"
        f" ({low:.4f} to {high:.4f})."
    )


def test_where_every_label_sequence_is_known_the_score_says_nothing_of_others(label_table):
    found = unseen(label_table(TRUTH, SAID, seen=[True] * 5), **TERMS)
    assert found["metrics"] is None
    assert found["sentence"] == (
        "5 of 5 label sequences also stand in training: the score says nothing of label sequences never seen."
    )
    empty = unseen(label_table(TRUTH, SAID, seen=[True] * 5).slice(0, 0), **TERMS)
    assert empty["sentence"] == "There are no rows."


def test_one_other_label_sequence_has_a_score_and_no_interval(label_table):
    found = unseen(label_table(TRUTH, SAID, seen=[True, False, True, True, True]), **TERMS)
    assert found["sentence"].endswith("on the other 1 the accuracy is 0.6667.")


def test_a_classifier_has_no_label_sequences(class_table):
    assert unseen(class_table(["a"], ["b"]), **{**TERMS, "task": "classification"}) is None


def test_the_most_confidently_wrong_come_first_and_right_ones_never(class_table):
    table = class_table(list("aaab"), list("abbb"), probability=[1.0, 0.6, 0.9, 0.5])
    answers = read(table, task="classification", labels=("a", "b"))
    assert worst(answers, most=5) == [2, 1]
    assert worst(answers, most=1) == [2]
    assert worst(answers.take(np.zeros(0, np.int64)), most=3) == []


def test_one_confident_mistake_makes_a_whole_sequence_bad(label_table):
    table = label_table([["a", "a", "a"], ["b"]], [["a", "b", "a"], ["c"]], probability=0.4)
    table = table.set_column(
        table.schema.get_field_index("probabilities"), "probabilities", pa.array([[0.1, 0.9, 0.1], [0.8]])
    )
    assert worst(read(table, task="labelling", labels=("a", "b", "c")), most=2) == [0, 1]


TAGS = {
    "task": "labelling",
    "labels": ("B-P", "B-Q", "I-P", "I-Q", "O"),
    "bootstrap": 200,
    "confidence": 0.95,
}
TAGGED = [["B-P", "I-P"], ["O", "B-Q"], ["B-P", "O"]] * 20
TAGS_SAID = [["I-P", "I-P"], ["O", "B-P"], ["B-P", "O"]] * 20


def test_spans_are_scored_with_intervals_where_the_labels_are_tags(label_table):
    found = score(label_table(TAGGED, TAGS_SAID), scheme="BIO", **TAGS)
    metrics = found.metrics
    assert metrics["span_f1"] == pytest.approx(0.4)
    assert (metrics["span_precision"], metrics["span_recall"]) == (0.5, pytest.approx(1 / 3))
    assert metrics["lenient_span_f1"] == pytest.approx(2 / 3)
    for name in ("span_precision", "span_recall", "span_f1", "lenient_span_f1"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]
    plain = score(label_table(TAGGED, TAGS_SAID), **TAGS)
    assert plain.spans is None
    assert not [name for name in plain.metrics if "span" in name]


def test_spans_are_told_by_type_and_by_kind_of_error(label_table):
    spans = score(label_table(TAGGED, TAGS_SAID), scheme="BIO", **TAGS).spans
    assert spans["by_type"] == [
        {"type": "P", "support": 40, "predicted": 40, "hits": 20, "precision": 0.5, "recall": 0.5, "f1": 0.5},
        {"type": "Q", "support": 20, "predicted": 0, "hits": 0, "precision": None, "recall": 0.0, "f1": 0.0},
    ]
    assert spans["errors"] == {"type": 20, "boundary": 0, "both": 0, "invented": 0, "missed": 20}
    assert spans["confused"] == [{"truth": "Q", "predicted": "P", "count": 20}]
    assert spans["illegal"] == {"the beginning > I-P": 20}
    assert json.loads(json.dumps(spans)) == spans


def test_label_sequences_never_seen_have_scores_of_spans_too(label_table):
    table = label_table(TAGGED, TAGS_SAID, seen=[True, False, False] * 20)
    found = unseen(table, scheme="BIO", **TAGS)
    assert found["metrics"]["span_f1"] == pytest.approx(0.5)


def test_no_rows_have_no_spans(label_table):
    found = score(label_table([], []), scheme="BIO", **TAGS)
    assert found.metrics["span_f1"] is None
    assert found.spans["by_type"] == []
