"""Each fault of a batch of rows, with its row, step and feature."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from components.data import faults
from components.data.columns import nested, with_gaps, words
from components.data.faults import (
    Fault,
    input_faults,
    label_faults,
    length_faults,
    missing_faults,
    number_faults,
)

GOOD = [[1.0, 2.0], [3.0, 4.0]]


def found(rows, kind=None) -> list[Fault]:
    return input_faults(nested(pa.array(rows, kind or pa.list_(pa.list_(pa.float64())))))


@pytest.mark.parametrize(
    ("row", "step", "feature", "message"),
    [
        (None, None, None, "missing value, expected a list of steps"),
        ([], None, None, "empty sequence, expected at least 1 step"),
        ([[1.0, 2.0], None], 1, None, "missing step"),
        ([[1.0, 2.0], [3.0]], 1, None, "1 features, step 0 has 2"),
        ([[], []], 0, None, "0 features"),
        ([[1.0, 2.0], [3.0, None]], 1, 1, "missing value"),
        ([[1.0, 2.0], [float("nan"), 4.0]], 1, 0, "nan, expected a finite number within float32"),
        ([[1.0, float("-inf")], [3.0, 4.0]], 0, 1, "-inf, expected a finite number within float32"),
        ([[1.0, 2.0], [3.0, 1e39]], 1, 1, "1e+39, expected a finite number within float32"),
    ],
)
def test_a_faulty_row_among_good_ones_is_named_with_its_place(row, step, feature, message):
    assert found([GOOD, row, GOOD]) == [Fault(1, step, feature, message)]
    assert found([row]) == [Fault(0, step, feature, message)]


KINDS = (
    (None, "missing value, expected a list of steps"),
    ([], "empty sequence, expected at least 1 step"),
    ([[1.0], None], "missing step"),
    ([[1.0], [1.0, 2.0]], "2 features, step 0 has 1"),
    ([[1.0]] * 9, "9 steps, at most 5 are taken"),
    ([[1.0], [None]], "missing value"),
    ([[1.0], [float("inf")]], "inf, expected a finite number within float32"),
)


def test_every_faulty_row_is_found_once_whatever_stands_between_them(monkeypatch):
    monkeypatch.setattr(faults, "MAX_STEPS", 5)
    expected = {row: message for row, (_, message) in enumerate(KINDS)}
    rows = [row for row, _ in KINDS]
    straight, backwards = found(rows), found([*reversed(rows), [[1.0]]])
    assert {fault.row: fault.message for fault in straight} == expected
    assert {len(rows) - 1 - fault.row: fault.message for fault in backwards} == expected
    assert len(straight) == len(backwards) == len(rows)


@pytest.mark.parametrize(("earlier", "later"), list(combinations(KINDS[2:], 2)))
def test_of_two_kinds_the_one_that_is_listed_first_is_named(monkeypatch, earlier, later):
    monkeypatch.setattr(faults, "MAX_STEPS", 5)
    (one, message), (other, _) = earlier, later
    for row in ([[1.0], *one, *other], [[1.0], *other, *one]):
        (fault,) = found([row])
        # Both together are a longer row.
        assert fault.message == message.replace("9 steps", f"{len(row)} steps")


def test_the_first_place_of_a_kind_is_named_counted_within_the_row():
    nan = float("nan")
    rows = [None, GOOD, [], [[1.0, 2.0], [3.0, 4.0], [5.0, nan], [nan, nan]], [[nan, 1.0]]]
    places = [(fault.row, fault.step, fault.feature) for fault in found(rows) if fault.step is not None]
    assert places == [(3, 2, 1), (4, 0, 0)]


def test_plain_numbers_are_steps_of_one_feature():
    rows = [[1.0], [1.0, None, None], [2.0, 3.0, float("nan")]]
    assert found(rows, pa.list_(pa.float32())) == [
        Fault(1, 1, None, "missing step"),
        Fault(2, 2, 0, "nan, expected a finite number within float32"),
    ]


def test_steps_of_a_row_without_features_are_ragged_too():
    assert found([[[], [1.0]], [[1.0], []], [[], []], [[1.0], [2.0]]]) == [
        Fault(0, 0, None, "0 features"),
        Fault(1, 1, None, "0 features, step 0 has 1"),
        Fault(2, 0, None, "0 features"),
    ]


def test_rows_of_other_widths_are_each_good_alone():
    assert found([GOOD, [[1.0]], [[1.0, 2.0, 3.0]] * 2]) == []


def test_numbers_are_taken_up_to_the_largest_of_float32():
    largest = float(np.finfo(np.float32).max)
    assert found([[[largest, -largest]]]) == []
    (fault,) = found([[[largest, -largest, np.inf]]])
    assert fault.feature == 2
    assert len(found([[[np.nextafter(largest, np.inf), 0.0]], [[0.0, -np.nextafter(largest, np.inf)]]])) == 2
    assert found([[2**64 - 1, 0]], pa.list_(pa.uint64())) == []
    assert found([[-(2**63), 2**63 - 1]], pa.list_(pa.int64())) == []
    assert found([[True, False]], pa.list_(pa.bool_())) == []


def test_good_rows_of_any_length_have_no_fault():
    assert found([GOOD, GOOD[:1], GOOD * 5]) == []
    assert found([[0.0, -0.0], [3.4e38]], pa.list_(pa.float64())) == []


def test_a_row_has_one_fault_the_first_kind_of_the_list():
    faulty = found([[[1.0, None], None], [[float("inf"), None], [1.0, 1.0]], GOOD])
    assert [(fault.row, fault.message) for fault in faulty] == [(0, "missing step"), (1, "missing value")]


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_STEPS", 1, "2 steps, at most 1 are taken"),
        ("MAX_FEATURES", 2, "3 features, at most 2 are taken"),
        ("MAX_VALUES", 5, "6 values, at most 5"),
    ],
)
def test_absurd_sizes_are_refused(monkeypatch, limit, value, message):
    monkeypatch.setattr(faults, limit, value)
    row = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert found([row]) == [Fault(0, None, None, message)]
    monkeypatch.setattr(faults, limit, value + 1)
    assert found([row]) == []


def test_inputs_that_disagree_on_the_number_of_steps_are_named():
    one, other = (nested(pa.array(rows)) for rows in ([[1.0, 2.0], [1.0], [1.0]], [[5.0], [6.0], [7.0, 8.0]]))
    assert list(length_faults(["a", "b"], [one, other])) == [
        ("b", Fault(0, None, None, "1 steps, but a has 2")),
        ("b", Fault(2, None, None, "2 steps, but a has 1")),
    ]


def test_an_input_without_a_row_is_not_blamed_for_its_steps():
    kind = pa.list_(pa.float32())
    inputs = [pa.array(rows, kind) for rows in ([[1.0], None, [1.0], [1.0]], [[1.0], [1.0], None, []])]
    third = pa.array([[1.0]] * 3 + [[1.0, 2.0]], kind)
    assert list(length_faults(["a", "b", "c"], [nested(each) for each in (*inputs, third)])) == [
        ("b", Fault(3, None, None, "0 steps, but a has 1")),
        ("c", Fault(3, None, None, "2 steps, but a has 1")),
    ]


def test_missing_values_are_found():
    assert list(missing_faults(pa.array(["a", None, "b", None]))) == [
        Fault(1, None, None, "missing value"),
        Fault(3, None, None, "missing value"),
    ]


def test_labels_that_do_not_go_with_the_steps_or_have_holes():
    rows = [["a", "b"], ["a"], ["a", None, None], None, [], ["a", "b"], ["a"], [None]]
    num_steps = np.array([2, 3, 3, 2, 0, 1, 0, 1])
    target = pa.array(rows, pa.list_(pa.string()))
    num_labels = np.array([len(row or []) for row in rows])
    # An empty sequence, row 6, is a fault of its input.
    assert list(label_faults(target, target.flatten(), num_labels, num_steps)) == [
        Fault(1, None, None, "1 labels for 3 steps"),
        Fault(5, None, None, "2 labels for 1 steps"),
        Fault(2, 1, None, "missing label"),
        Fault(7, 0, None, "missing label"),
    ]


WORDS = (
    (None, "missing value, expected a list of steps"),
    ([], "empty sequence, expected at least 1 step"),
    (["a", None, "b", None, "c", "d"], "6 steps, at most 5 are taken"),
    (["a", None, None], "missing value"),
)


def test_every_faulty_row_of_words_is_found_once(monkeypatch):
    monkeypatch.setattr(faults, "MAX_STEPS", 5)
    rows = [row for row, _ in WORDS]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        column = pa.array([["good"], *(rows[i] for i in order), ["x"] * 5], pa.list_(pa.string()))
        found = {fault.row: fault for fault in input_faults(words(column))}
        assert {row: fault.message for row, fault in found.items()} == {
            1 + place: WORDS[i][1] for place, i in enumerate(order)
        }
        assert found[1 + order.index(3)].step == 1


def test_nan_that_is_filled_in_later_is_no_fault_but_infinity_is():
    rows = [[[1.0, None]], [[float("nan")] * 2], [[float("inf"), None]], [[None, 1e39], [1.0, 2.0]]]
    column = pa.array(rows, pa.list_(pa.list_(pa.float64())))
    found = input_faults(with_gaps(nested(column)))
    assert [(fault.row, fault.step, fault.feature, fault.message.split(",")[0]) for fault in found] == [
        (2, 0, 0, "inf"),
        (3, 0, 1, "1e+39"),
    ]


def test_a_number_of_a_row_is_there_a_number_and_within_float32():
    column = pa.array(["1", "x", None, "", " ", "inf", "-1e39", "nan"])
    values = np.array([1.0, np.nan, np.nan, np.nan, np.nan, np.inf, -1e39, np.nan])
    expected = [
        Fault(1, None, None, "received 'x', expected a number"),
        *(Fault(row, None, None, "missing value") for row in (2, 3, 4)),
        Fault(5, None, None, "inf, expected a finite number within float32"),
        Fault(6, None, None, "-1e+39, expected a finite number within float32"),
        Fault(7, None, None, "nan, expected a finite number within float32"),
    ]
    assert list(number_faults(values, [1], column, gaps=False)) == expected
    left = [fault for fault in expected if fault.row in (1, 5, 6)]
    assert list(number_faults(values, [1], column, gaps=True)) == left
