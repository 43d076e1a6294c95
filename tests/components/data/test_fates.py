"""Rows and what becomes of them, with their places in words."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from components.data import fates as module
from components.data import readers
from components.data.fates import REJECTED, UNDECIDED, Fates
from components.data.preparation import scan_part
from components.data.readers.sources import LINE, POSITIONS, Origin
from components.data.records import Layout
from components.data.splits import TEST, TRAIN
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


@pytest.mark.parametrize(("stretch_rows", "number"), [(16, 10), (80, 2), (159, 2), (160, 1)])
def test_equal_values_are_in_the_same_stretch_however_many_there_are(
    make_settings, make_scans, monkeypatch, stretch_rows, number
):
    monkeypatch.setattr(module, "STRETCH_ROWS", stretch_rows)
    names = [f"n{i % 40}" for i in range(160)]
    table = {"id": names, "x": [[float(i)] for i in range(160)], "label": ["n"] * 160, "fold": [0] * 160}
    fates = Fates(make_scans(make_settings(), table))
    for column in ("id", "digest"):
        tables = list(fates.stretches(column))
        assert len(tables) == number
        found = [set(each[column].to_pylist()) for each in tables]
        assert sum(map(len, found)) == len(set().union(*found)) == (40 if column == "id" else 160)
        rows = np.concatenate([each["row"].to_numpy() for each in tables])
        assert sorted(rows.tolist()) == list(range(160))


def test_no_rows_give_no_stretch():
    assert list(Fates([]).stretches("id")) == []


def test_rows_count_from_the_start_of_the_file_in_whichever_part_they_lie(
    make_settings, make_parts, tmp_path, monkeypatch
):
    monkeypatch.setattr(readers, "PART_VALUES", 1)
    rows = {"id": [*"abcd"], "x": [[1.0], [2.0], [3.0], []], "label": ["n"] * 4, "fold": [0] * 4}
    layout = Layout.of(make_settings())
    parts = make_parts(rows, row_group_size=2)
    fates = Fates([scan_part(part, layout=layout, scratch=str(tmp_path)) for part in parts])
    fates.reject(1, 0, "x", "no good")
    assert [str(problem) for problem in fates.problems] == [
        "a.parquet, row 3, column x: empty sequence, expected at least 1 step",
        "a.parquet, row 2, column x: no good",
    ]
    assert fates.place(1, 1) == "a.parquet, row 3"
    assert list(fates.reasons[1]) == [1, 0]


def test_a_problem_alone_rejects_nothing(fates):
    problem = fates.problem(0, 1, "x", "odd", step=2)
    assert str(problem) == "a.parquet, row 1, column x, step 2: odd"
    assert fates.accepted(0).tolist() == [True, True, False, False]
    assert fates.num_problems == 2


def test_stretches_give_the_fates_of_the_moment(fates):
    fates.codes[0][:2] = (TRAIN, TEST)
    fates.reject(1, 0, "x", "no good")
    (table,) = fates.stretches("id")
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["code"].to_pylist() == [TRAIN, TEST, UNDECIDED]


def test_rows_without_an_id_are_in_no_stretch_of_ids(make_settings, make_scans):
    rows = {"x": [[1.0], [2.0]], "label": ["n"] * 2, "fold": [0] * 2}
    fates = Fates(make_scans(make_settings(id=None), rows))
    assert [len(table) for table in fates.stretches("id")] == [0]
    assert [len(table) for table in fates.stretches("digest")] == [2]


GOOD = {"id": ["a", "b"], "x": [[1.0], [2.0]], "label": ["n"] * 2, "fold": [0] * 2}


def test_rows_of_text_files_are_at_their_line(make_settings, make_scans):
    fates = Fates(make_scans(make_settings(), {**GOOD, LINE: [2, 9]}))
    assert fates.place(0, 1) == "a.parquet, line 9"
    fates.reject(0, 1, "x", "no good", step=1)
    assert [str(problem) for problem in fates.problems] == ["a.parquet, line 9, column x, step 1: no good"]


def test_rows_made_of_several_are_at_the_first_of_them(make_settings, make_scans):
    places = pa.array([[6, 3], [8, 5]], pa.list_(pa.int64()))
    (scan,) = make_scans(make_settings(), {**GOOD, POSITIONS: places})
    origins = (Origin("a.csv", 0), Origin("b.csv", 5))
    scan = replace(scan, part=replace(scan.part, source=replace(scan.part.source, origins=origins)))
    fates = Fates([scan])
    assert [fates.place(0, row) for row in (0, 1)] == ["a.csv, row 3", "b.csv, row 0"]
    assert str(fates.problem(0, 1, "x", "odd")) == "b.csv, row 0, column x: odd"


def test_a_good_row_that_is_set_aside_is_no_problem(fates):
    fates.set_aside(1, 0, "in the gap")
    assert fates.accepted(1).tolist() == [False, True]
    assert fates.reasons[1] == {0: "in the gap"}
    assert (fates.num_problems, len(fates.problems)) == (2, 2)


def test_all_rows_that_are_left_out_are_told_in_the_order_of_the_input(fates):
    fates.reject(1, 1, "x", "no good")
    fates.set_aside(0, 1, "in the gap")
    assert [str(problem) for problem in fates.every_problem()] == [
        "a.parquet, row 1: in the gap",
        "a.parquet, row 2: column id: missing value",
        "a.parquet, row 3: column x: empty sequence, expected at least 1 step",
        "b.parquet, row 1: column x: no good",
    ]
