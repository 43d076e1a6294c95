"""Kinds of rows: every row where it belongs, and only what is surely worse is called worse."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from components.evaluation.properties import Properties
from components.evaluation.slices import flagged, looked_at, slices
from conf.schema import ColumnSlice, LengthSlice

NOTHING = Properties({}, {}, {})
TERMS = {"labels": ("a", "b"), "bootstrap": 300, "confidence": 0.95, "rare": ()}


def kept(**columns) -> Properties:
    return Properties({name: pa.array(values, pa.string()) for name, values in columns.items()}, {}, {})


def of_classes(table, declared=(), properties=NOTHING, **terms):
    return slices(
        table, declared=declared, properties=properties, **{**TERMS, "task": "classification", **terms}
    )


def answered(class_table, right):
    """A classifier's rows, of which some are right."""
    return class_table(["a"] * len(right), ["a" if each else "b" for each in right])


def sequences(n: int = 300):
    rng = np.random.default_rng(0)
    truth = [rng.choice(["a", "b"], rng.integers(1, 9)).tolist() for _ in range(n)]
    return truth, [[label if rng.random() < 0.8 else "b" for label in row] for row in truth]


def test_bands_of_length_hold_every_sequence_once_from_short_to_long(label_table):
    truth, said = sequences()
    table = label_table(truth, said, seen=[True] * 300)
    found = slices(table, declared=["length"], properties=NOTHING, task="labelling", **TERMS)
    assert list(found) == ["length"]
    assert sum(each["num_sequences"] for each in found["length"]) == 300
    for shorter, longer in pairwise(found["length"]):
        assert shorter["high"] < longer["low"]
    for each in found["length"]:
        inside = [i for i, row in enumerate(truth) if each["low"] <= len(row) <= each["high"]]
        right = [a == b for i in inside for a, b in zip(truth[i], said[i], strict=True)]
        assert each["accuracy"] == pytest.approx(np.mean(right))
        others = [
            a == b for i in set(range(300)) - set(inside) for a, b in zip(truth[i], said[i], strict=True)
        ]
        assert each["difference"] == pytest.approx(np.mean(right) - np.mean(others))
        assert each["difference_low"] < each["difference"] < each["difference_high"]


def test_equal_lengths_are_one_slice_without_any_to_compare_it_with(class_table):
    ((each,),) = of_classes(class_table(["a", "b"], ["a", "b"])).values()
    assert (each["name"], each["difference"], each["surely_worse"]) == ("length 3", None, False)
    assert of_classes(class_table(["a"], ["a"]).slice(0, 0)) == {}


def test_the_values_of_a_column_are_slices_the_most_frequent_first_and_the_rest_together(class_table):
    values = [f"v{i:02d}" for i in range(25) for _ in range(30 - i)] + [None] * 5
    found = of_classes(
        answered(class_table, [True] * len(values)), [ColumnSlice(column="who")], kept(who=values)
    )
    names = [each["name"] for each in found["who"]]
    assert names == [*(f"who = v{i:02d}" for i in range(20)), "who other", "who missing"]
    assert sum(each["num_sequences"] for each in found["who"]) == len(values)
    assert found["who"][-1]["too_few"] == "too few to tell: 5 sequences, and it takes 10"


def test_many_numbers_are_five_bands(class_table):
    values = [str(i / 2) for i in range(100)]
    found = of_classes(answered(class_table, [True] * 100), [ColumnSlice(column="size")], kept(size=values))
    assert [each["num_sequences"] for each in found["size"]] == [21, 20, 20, 20, 19]
    assert found["size"][0]["name"] == "size 0 to 10"


def test_only_the_values_named_are_slices_also_those_that_no_row_has(class_table):
    declared = [ColumnSlice(column="ok", values=(True, "maybe")), LengthSlice(length=(3, 4))]
    found = of_classes(answered(class_table, [True] * 4), declared, kept(ok=["true", "false"] * 2))
    assert [(each["name"], each["num_sequences"]) for each in found["ok"]] == [
        ("ok = true", 2),
        ("ok = maybe", 0),
    ]
    assert found["ok"][1]["accuracy"] is None
    assert [each["name"] for each in found["declared lengths"]] == ["length 3 to 4"]
    assert json.dumps(found)


def test_unknown_tokens_rare_labels_and_context_are_looked_at_unasked(class_table):
    table = class_table(["a"] * 30 + ["b"] * 10, ["a"] * 40)
    properties = Properties(
        {},
        {"age": pa.array(np.arange(40.0)), "kind": pa.array(["m", "w"] * 20)},
        {"words": np.array([0.0] * 20 + [0.1] * 10 + [0.11] * 10)},
    )
    found = of_classes(table, properties=properties, rare=["b"])
    assert {family: [each["num_sequences"] for each in rows] for family, rows in found.items()} == {
        "length": [40],
        "unknown tokens": [20, 10, 10],
        "age": [11, 10, 10, 9],
        "kind": [20, 20],
        "rare labels": [10, 30],
    }
    assert found["unknown tokens"][2]["name"] == "unknown tokens more than 10 %"
    assert found["rare labels"][0]["accuracy"] == 0.0


def test_label_sequences_never_seen_are_a_slice_of_a_labeller(label_table):
    truth, said = sequences(40)
    table = label_table(truth, said, seen=[True, False] * 20)
    found = slices(table, declared=[], properties=NOTHING, task="labelling", **TERMS)
    assert [each["name"] for each in found["label sequence"]] == [
        "label sequence seen",
        "label sequence unseen",
    ]


def test_a_slice_far_below_the_others_is_flagged_and_said(class_table):
    rng = np.random.default_rng(1)
    who = ["s"] * 100 + ["t"] * 300
    right = np.concatenate([rng.random(100) < 0.6, rng.random(300) < 0.95])
    found = of_classes(answered(class_table, right), [ColumnSlice(column="who")], kept(who=who))
    (worst,) = flagged(found)
    assert worst["name"] == "who = s"
    assert worst["sentence"].startswith("who = s: accuracy 0.")
    assert worst["difference_high"] < 0
    assert looked_at(found) == 2


def test_among_many_slices_of_equal_skill_hardly_any_is_flagged(class_table):
    # Twenty values each time: without correction about four of ten repetitions would flag one.
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(25):
        who = [f"v{i}" for i in rng.integers(0, 20, 600)]
        table = answered(class_table, rng.random(600) < 0.8)
        found = of_classes(table, [ColumnSlice(column="who")], kept(who=who), bootstrap=100)
        alarms += bool(flagged(found))
    assert alarms <= 4


def test_a_slice_of_few_groups_tells_nothing_however_many_rows_it_has(class_table):
    right = [False] * 60 + [True] * 240
    groups = [f"g{i // 30}" for i in range(300)]
    table = answered(class_table, right).append_column("group", pa.array(groups))
    who = ["s"] * 60 + ["t"] * 240
    found = of_classes(table, [ColumnSlice(column="who")], kept(who=who))
    assert found["who"][1]["too_few"] == "too few to tell: 2 groups of sequences, and it takes 5"
    assert not flagged(found)
