"""Rows and what becomes of them, with their places in words."""

import numpy as np
import pytest

from components.data import fates as module
from components.data.fates import REJECTED, UNDECIDED, Fates
from components.errors import NUM_SHOWN


@pytest.fixture
def fates(make_settings, make_scans) -> Fates:
    first = {"id": ["a", "b", None, "a"], "x": [[1.0], [2.0], [3.0], []], "label": ["n"] * 4, "fold": [0] * 4}
    second = {"id": ["b", "c"], "x": [[1.0], [5.0]], "label": ["y"] * 2, "fold": [1] * 2}
    return Fates(make_scans(make_settings(), first, second))


def test_rows_that_the_scan_found_bad_are_rejected_from_the_start(fates):
    assert [codes.tolist() for codes in fates.codes] == [
        [UNDECIDED, UNDECIDED, REJECTED, REJECTED],
        [UNDECIDED, UNDECIDED],
    ]
    assert list(fates.reasons[0]) == [2, 3]
    assert "id" in fates.reasons[0][2]
    assert "empty sequence" in fates.reasons[0][3]
    assert fates.num_problems == 2
    assert fates.accepted(0).tolist() == [True, True, False, False]


def test_a_rejection_keeps_its_reason_and_its_place(fates):
    fates.reject(1, 0, "x", "no good", step=3)
    assert fates.codes[1].tolist() == [REJECTED, UNDECIDED]
    assert fates.reasons[1] == {0: "column x: no good"}
    assert fates.num_problems == 3
    assert str(fates.problems[-1]).startswith("b.parquet, row 0")
    assert "step 3" in str(fates.problems[-1])
    assert fates.place(1, 1) == "b.parquet, row 1"


def test_more_problems_than_are_shown_are_still_counted(fates):
    for _ in range(NUM_SHOWN + 5):
        fates.reject(0, 0, "x", "no good")
    assert len(fates.problems) == NUM_SHOWN
    assert fates.num_problems == NUM_SHOWN + 7


def test_stretches_hold_accepted_rows_that_have_a_value(fates):
    (table,) = fates.stretches("id")
    assert list(zip(*(table[name].to_pylist() for name in ("id", "part", "row")), strict=True)) == [
        ("a", 0, 0),
        ("b", 0, 1),
        ("b", 1, 0),
        ("c", 1, 1),
    ]


def test_equal_values_are_in_the_same_stretch_however_many_there_are(make_settings, make_scans, monkeypatch):
    monkeypatch.setattr(module, "STRETCH_ROWS", 16)
    names = [f"n{i % 40}" for i in range(160)]
    table = {"id": names, "x": [[float(i)] for i in range(160)], "label": ["n"] * 160, "fold": [0] * 160}
    fates = Fates(make_scans(make_settings(), table))
    for column in ("id", "digest"):
        tables = list(fates.stretches(column))
        assert len(tables) == 10
        found = [set(each[column].to_pylist()) for each in tables]
        assert sum(map(len, found)) == len(set().union(*found)) == (40 if column == "id" else 160)
        rows = np.concatenate([each["row"].to_numpy() for each in tables])
        assert sorted(rows.tolist()) == list(range(160))


def test_no_rows_give_no_stretch():
    assert list(Fates([]).stretches("id")) == []
