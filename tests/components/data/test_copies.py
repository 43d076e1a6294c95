"""Ids and sequences that stand more than once."""

import numpy as np
import pytest

from components.data.copies import separate_splits, unique_ids
from components.data.fates import REJECTED, UNDECIDED, Fates
from components.data.records import Layout
from components.data.splits import TEST, TRAIN, VALID


def table(*rows) -> dict:
    """Rows of (id, x, label, fold)."""
    names = ("id", "x", "label", "fold")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


ROWS = (("a", [1.0], "n", 0), ("b", [2.0], "n", 0), ("a", [3.0], "y", 0), ("a", [4.0], "n", 1))


def kept_of_a(settings, make_scans, *tables) -> list[float]:
    fates = Fates(make_scans(settings, *tables))
    unique_ids(fates, Layout.of(settings))
    xs = [row for each in tables for row in each["x"]]
    ids = [row for each in tables for row in each["id"]]
    codes = [code for part in fates.codes for code in part]
    return [x[0] for x, name, code in zip(xs, ids, codes, strict=True) if name == "a" and code != REJECTED]


def test_one_row_of_an_id_is_kept_whatever_the_order_of_rows_and_files(make_settings, make_scans):
    settings = make_settings()
    (kept,) = kept_of_a(settings, make_scans, table(*ROWS))
    assert kept_of_a(settings, make_scans, table(*reversed(ROWS))) == [kept]
    assert kept_of_a(settings, make_scans, table(ROWS[3], ROWS[1]), table(ROWS[2], ROWS[0])) == [kept]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ((("a", [1.0], "z", 0), ("a", [1.0], "b", 2)), 1),  # the label decides
        ((("a", [1.0], "10", 0), ("a", [1.0], "9", 0)), 0),  # by text, never by the part's own code
        ((("a", [1.0], "n", 10), ("a", [1.0], "n", 2)), 0),  # then the split's value
    ],
)
def test_of_equal_inputs_label_and_split_decide_whatever_the_order_of_files(
    make_settings, make_scans, rows, kept
):
    settings = make_settings()
    # The first file's other row gives the labels of the two files different codes.
    other = ("o", [9.0], rows[1 - kept][2], 0)
    for first, second in ((0, 1), (1, 0)):
        fates = Fates(make_scans(settings, table(other, rows[first]), table(rows[second])))
        unique_ids(fates, Layout.of(settings))
        codes = {first: fates.codes[0][1], second: fates.codes[1][0]}
        assert {row: code == REJECTED for row, code in codes.items()} == {kept: False, 1 - kept: True}


def test_of_equal_rows_the_first_is_kept(make_settings, make_scans):
    settings = make_settings("labelling")
    row = ("a", [1.0, 2.0], ["n", "y"], 0)
    fates = Fates(make_scans(settings, table(row, row), table(row)))
    unique_ids(fates, Layout.of(settings))
    assert [codes.tolist() for codes in fates.codes] == [[UNDECIDED, REJECTED], [REJECTED]]
    assert [str(problem) for problem in fates.problems] == [
        f"{place}, column id: the id 'a' also stands at a.parquet, row 0"
        for place in ("a.parquet, row 1", "b.parquet, row 0")
    ]


def test_a_row_already_rejected_pushes_no_other_out(make_settings, make_scans):
    settings = make_settings()
    bad, good = ("a", [], "n", 0), ("a", [1.0], "n", 0)
    fates = Fates(make_scans(settings, table(bad, good, ("b", [1.0], "y", 1))))
    assert fates.num_problems == 1
    unique_ids(fates, Layout.of(settings))
    fates.codes[0][1:] = (TRAIN, TEST)
    fates.reject(0, 2, "x", "no good")
    separate_splits(fates, Layout.of(settings))
    assert fates.codes[0].tolist() == [REJECTED, TRAIN, REJECTED]
    assert fates.num_problems == 2


def test_the_message_names_the_row_that_was_kept(make_settings, make_scans):
    settings = make_settings()
    fates = Fates(make_scans(settings, table(ROWS[0], ROWS[1]), table(ROWS[2])))
    unique_ids(fates, Layout.of(settings))
    (problem,) = fates.problems
    rejected, kept = ("a.parquet, row 0", "b.parquet, row 0")
    if fates.codes[1][0] == REJECTED:
        rejected, kept = kept, rejected
    assert str(problem) == f"{rejected}, column id: the id 'a' also stands at {kept}"
    assert fates.num_problems == 1


def test_without_an_id_column_nothing_is_double(make_settings, make_scans):
    settings = make_settings(id=None)
    fates = Fates(make_scans(settings, table(*ROWS)))
    unique_ids(fates, Layout.of(settings))
    assert not fates.problems


@pytest.mark.parametrize(
    ("codes", "left"),
    [
        ((TRAIN, VALID, TEST), (REJECTED, REJECTED, TEST)),
        ((VALID, TRAIN, VALID), (VALID, REJECTED, VALID)),
        ((TRAIN, TRAIN, TRAIN), (TRAIN, TRAIN, TRAIN)),
        ((TEST, TEST, TRAIN), (TEST, TEST, REJECTED)),
    ],
)
def test_copies_stay_in_the_most_held_out_split_that_has_one(make_settings, make_scans, codes, left):
    settings = make_settings()
    rows = [("a", [1.0, 2.0], "n", 0), ("b", [1.0, 2.0], "n", 0), ("c", [1.0, 2.0], "n", 0)]
    fates = Fates(make_scans(settings, table(*rows, ("d", [2.0, 1.0], "n", 0))))
    fates.codes[0][:] = (*codes, TRAIN)
    separate_splits(fates, Layout.of(settings))
    assert tuple(fates.codes[0].tolist()) == (*left, TRAIN)
    for problem in fates.problems:
        assert "the same sequence stands in" in str(problem)
        assert "a.parquet, row" in str(problem)


def test_a_copy_says_where_it_and_the_other_stand(make_settings, make_scans):
    settings = make_settings()
    x = [1.0, 2.0]
    fates = Fates(make_scans(settings, table(("a", x, "n", 7), ("b", x, "n", 1)), table(("c", x, "n", 0))))
    fates.codes[0][:], fates.codes[1][:] = (TRAIN, VALID), TEST
    separate_splits(fates, Layout.of(settings))
    assert [str(problem) for problem in fates.problems] == [
        "a.parquet, row 0, column x: the same sequence stands in train and in test (b.parquet, row 0)",
        "a.parquet, row 1, column x: the same sequence stands in valid and in test (b.parquet, row 0)",
    ]


def test_no_sequence_is_left_in_two_splits_and_none_is_lost(make_settings, make_scans):
    settings = make_settings()
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 12, 60)
    rows = [(f"r{i}", [float(x)], "n", 0) for i, x in enumerate(sequences)]
    fates = Fates(make_scans(settings, table(*rows[:25]), table(*rows[25:])))
    codes = rng.integers(TRAIN, TEST + 1, 60)
    fates.codes[0][:], fates.codes[1][:] = codes[:25], codes[25:]
    separate_splits(fates, Layout.of(settings))
    left = np.concatenate(fates.codes)
    for x in range(12):
        held_out = codes[sequences == x].max()
        assert left[sequences == x].tolist() == [
            code if code == held_out else REJECTED for code in codes[sequences == x]
        ]
