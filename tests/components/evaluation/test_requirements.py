"""The limits that a model must keep whatever the champion does."""

import pytest

from components.evaluation.latencies import Latency
from components.evaluation.requirements import Measured, beside, bounds, ceiling, floor
from conf.schema import GateSettings

SLICES = {
    "length": [
        {"low": 1, "high": 4, "num_sequences": 40, "accuracy": 0.9, "accuracy_low": 0.8,
         "accuracy_high": 0.95, "macro_f1": None},
        {"low": 5, "high": 9, "num_sequences": 10, "accuracy": 0.7},
    ],
    "speaker": [
        {"name": "speaker = a", "num_sequences": 30, "accuracy": 0.85},
        {"name": "speaker = b", "num_sequences": 0, "accuracy": 1.0},
    ],
}  # fmt: skip


def rules(measured: Measured, **gate):
    return list(beside(GateSettings.model_validate(gate), measured))


def on_slices(slices, **floors):
    return rules(Measured(slices=SLICES if slices is None else slices), slices=floors)


@pytest.mark.parametrize(("value", "holds"), [(0.9, True), (0.8999, False), (None, False)])
def test_a_floor_is_reached_by_the_value_itself(value, holds):
    rule = floor("accuracy", (value, 0.7, 0.95), 0.9, confidence=0.95)
    assert rule.holds == holds
    assert ("reaches" in rule.sentence) == holds
    assert (rule.name, rule.against, rule.asked) == ("floor", 0.9, "at least 0.9")


@pytest.mark.parametrize(("value", "holds"), [(0.3, True), (0.3001, False), (None, False)])
def test_a_ceiling_is_kept_by_the_value_itself(value, holds):
    rule = ceiling("loss", (value, None, None), 0.3, confidence=0.95)
    assert rule.holds == holds
    assert rule.sentence.startswith("loss not a number" if value is None else f"loss {value:.4f} ")


def test_without_limits_there_are_no_rules():
    assert rules(Measured(slices=SLICES, size_mb=3.0, latency=Latency(5.0, 9, "here"))) == []


@pytest.mark.parametrize(
    ("scores", "holds", "told"),
    [
        (
            {"roc_auc": 0.95, "roc_auc_low": 0.9, "roc_auc_high": 0.97},
            True,
            "roc_auc 0.9500 (95 % interval 0.9",
        ),
        ({"roc_auc": 0.85, "roc_auc_low": 0.8, "roc_auc_high": 0.9}, False, "misses the floor of 0.9"),
        ({"roc_auc": None}, False, "There is no roc_auc on the test rows: they hold no label beside others"),
        ({}, False, "There is no roc_auc on the test rows"),
    ],
)
def test_a_floor_on_a_ranking_is_held_against_what_was_evaluated(scores, holds, told):
    (rule,) = rules(Measured(ranking=scores), floors={"roc_auc": 0.9, "accuracy": 0.5})
    assert (rule.name, rule.holds, rule.asked) == ("floor", holds, "at least 0.9")
    assert told in rule.sentence


def test_among_the_top_of_too_few_labels_there_is_no_accuracy():
    (rule,) = rules(Measured(ranking={"roc_auc": 0.9}), floors={"top_5_accuracy": 0.9})
    assert not rule.holds
    assert "no more labels than that" in rule.sentence


def test_a_floor_on_a_family_holds_for_each_of_its_slices():
    first, second = on_slices(None, length={"accuracy": 0.8})
    assert (first.holds, second.holds) == (True, False)
    assert first.title == "slice: length 1 to 4, accuracy"
    assert first.found == "0.9000 (0.8000 to 0.9500)"
    assert second.sentence == "accuracy 0.7000 on length 5 to 9 misses the floor of 0.8."


def test_a_floor_on_one_slice_is_for_that_one():
    (rule,) = on_slices(None, **{"speaker = a": {"accuracy": 0.8}})
    assert rule.holds
    (named_by_range,) = on_slices(None, **{"length 5 to 9": {"accuracy": 0.8}})
    assert not named_by_range.holds


def test_empty_slices_and_scores_that_are_no_numbers_do_not_pass():
    empty = on_slices(None, **{"speaker = b": {"accuracy": 0.0}})
    unknown = on_slices(None, **{"length 1 to 4": {"macro_f1": 0.0}})
    absent = on_slices(None, **{"length 5 to 9": {"macro_f1": 0.0}})
    for (rule,) in (empty, unknown, absent):
        assert not rule.holds
        assert "not a number" in rule.sentence


@pytest.mark.parametrize("slices", [None, {}, {"length": []}])
def test_a_slice_that_is_not_there_is_missed_and_those_that_are_there_told(slices):
    (rule,) = on_slices(slices, **{"speaker = z": {"accuracy": 0.8}})
    assert not rule.holds
    assert rule.title == "slice: speaker = z"
    assert "gate.slices names 'speaker = z', but no test rows are such a slice; there are: " in rule.sentence
    assert rule.sentence.endswith("'speaker = b'." if slices is None else "there are: none.")


def test_a_family_without_slices_is_missed():
    (rule,) = on_slices({"length": []}, length={"accuracy": 0.1})
    assert not rule.holds


@pytest.mark.parametrize(("share", "holds"), [(1.0, False), (0.75, True), (0.0, True)])
def test_examples_must_come_out_right(share, holds):
    wrong = {"file": "cases.jsonl", "row": 7, "expected": "B", "answered": "A", "right": False}
    examples = {"num": 4, "num_right": 3, "rows": [{"right": True}, wrong]}
    (rule,) = rules(Measured(examples=examples), examples=share)
    assert (rule.holds, rule.found) == (holds, "3 of 4 right")
    assert ("row 7 of cases.jsonl: expected B, answered A" in rule.sentence) != holds


def test_without_examples_there_is_nothing_to_come_out_right():
    assert rules(Measured(examples={"num": 0, "num_right": 0, "rows": []})) == []


@pytest.mark.parametrize(("size", "holds"), [(5.0, True), (5.01, False)])
def test_a_model_may_be_too_large(size, holds):
    (rule,) = rules(Measured(size_mb=size), max_size_mb=5.0)
    assert (rule.holds, rule.value, rule.against, rule.title) == (holds, size, 5.0, "size")


@pytest.mark.parametrize(("milliseconds", "holds"), [(20.0, True), (21.0, False)])
def test_a_model_may_be_too_slow_and_the_machine_is_told(milliseconds, holds):
    latency = Latency(milliseconds, 150, "box with 2 CPUs and no GPU")
    (rule,) = rules(Measured(latency=latency), max_latency_ms=20.0)
    assert (rule.holds, rule.value) == (holds, milliseconds)
    assert "150 test rows one at a time on box with 2 CPUs and no GPU" in rule.sentence
    assert "box" in rule.found


def test_an_interval_that_is_not_known_is_not_told():
    assert bounds(None, 0.5) == bounds(float("nan"), 0.5) == ""
    assert bounds(0.25, 0.5, 0.9) == " (90 % interval 0.2500 to 0.5000)"
    assert bounds(-0.25, 0.5, sign="+") == " (-0.2500 to +0.5000)"
