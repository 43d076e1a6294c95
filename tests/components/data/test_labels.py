"""One order of labels over all parts, and what is said of labels that training lacks."""

import numpy as np
import pytest

from components.data.fates import REJECTED, Fates
from components.data.labels import common_labels, in_order, label_counts, reject_labels, unseen_labels
from components.data.records import Layout
from components.data.splits import TEST, TRAIN, VALID

FIRST = {"id": ["a", "b"], "x": [[1.0], [2.0, 3.0]], "label": [["q"], ["p", "q"]], "fold": [2, 2]}
SECOND = {"id": ["c", "d"], "x": [[4.0, 5.0, 6.0], [7.0]], "label": [["p", "r", "r"], ["p"]], "fold": [0, 1]}


@pytest.fixture
def layout(make_settings) -> Layout:
    return Layout.of(make_settings("labelling"))


@pytest.fixture
def fates(make_settings, make_scans) -> Fates:
    found = Fates(make_scans(make_settings("labelling"), FIRST, SECOND))
    found.codes[0][:] = TRAIN
    found.codes[1][:] = (TEST, VALID)
    return found


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"10", "9", "-1"}, ("-1", "9", "10")),
        ({"10", "9", "a"}, ("10", "9", "a")),
        ({"1", "01", "+1"}, ("+1", "01", "1")),
        ({"1.5", "10", "2"}, ("1.5", "10", "2")),
        ({"NO", "SE"}, ("NO", "SE")),
        (set(), ()),
    ],
)
def test_whole_numbers_go_by_size_and_all_else_by_text(labels, expected):
    assert in_order(labels) == expected


def test_parts_that_met_labels_in_another_order_agree_on_their_codes(fates):
    labels = common_labels(fates.scans)
    assert labels.names == ("p", "q", "r")
    for part, table in enumerate((FIRST, SECOND)):
        rows, codes = labels.of(part, fates.scans[part], np.array([True, True]))
        assert [labels.names[code] for code in codes] == [name for row in table["label"] for name in row]
        assert rows.tolist() == [row for row, names in enumerate(table["label"]) for _ in names]


def test_labels_are_counted_split_by_split(fates):
    counts = label_counts(fates, common_labels(fates.scans))
    assert counts[TRAIN].tolist() == [1, 2, 0]
    assert counts[VALID].tolist() == [1, 0, 0]
    assert counts[TEST].tolist() == [1, 0, 2]


def test_a_label_that_only_held_out_rows_have_is_named_at_its_first_step(fates, layout):
    labels = common_labels(fates.scans)
    (problem,) = unseen_labels(fates, labels, np.array([2]), layout)
    assert str(problem) == (
        "b.parquet, row 0, column label, step 1:"
        " the label 'r' stands in 1 held-out row and in no training row"
    )
    assert fates.accepted(1).all()


def test_rows_with_such_a_label_can_be_rejected_and_the_label_goes(fates, layout):
    labels = common_labels(fates.scans)
    reject_labels(fates, labels, np.array([2]), layout)
    assert fates.codes[1].tolist() == [REJECTED, VALID]
    assert fates.reasons[1] == {0: "column label: no training row has the label 'r'"}
    left = labels.only(np.array([True, True, False]))
    assert left.names == ("p", "q")
    assert left.codes[1].tolist() == [0, -1, -1]


def test_leaving_out_a_label_moves_those_behind_it(fates):
    left = common_labels(fates.scans).only(np.array([False, True, True]))
    assert left.names == ("q", "r")
    _, codes = left.of(1, fates.scans[1], np.array([True, True]))
    assert codes.tolist() == [-1, 1, 1, -1]
