"""Ids and sequences that stand more than once."""

import pytest

from components.data.copies import separate_splits, unique_ids
from components.data.fates import REJECTED, Fates
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
