"""Each fault of a batch of rows, with its row, step and feature."""

import numpy as np
import pyarrow as pa
import pytest

from components.data import faults
from components.data.columns import nested
from components.data.faults import Fault, input_faults, label_faults, length_faults, missing_faults

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
        ("MAX_FEATURES", 1, "2 features, at most 1 are taken"),
        ("MAX_VALUES", 3, "4 values, at most 3"),
    ],
)
def test_absurd_sizes_are_refused(monkeypatch, limit, value, message):
    monkeypatch.setattr(faults, limit, value)
    assert found([GOOD]) == [Fault(0, None, None, message)]


def test_inputs_that_disagree_on_the_number_of_steps_are_named():
    one, other = (nested(pa.array(rows)) for rows in ([[1.0, 2.0], [1.0], [1.0]], [[5.0], [6.0], [7.0, 8.0]]))
    assert list(length_faults(["a", "b"], [one, other])) == [
        ("b", Fault(0, None, None, "1 steps, but a has 2")),
        ("b", Fault(2, None, None, "2 steps, but a has 1")),
    ]


def test_missing_values_are_found():
    assert list(missing_faults(pa.array(["a", None, "b", None]))) == [
        Fault(1, None, None, "missing value"),
        Fault(3, None, None, "missing value"),
    ]


def test_labels_that_do_not_go_with_the_steps_or_have_holes():
    target = pa.array([["a", "b"], ["a"], ["a", None, None], None, []], pa.list_(pa.string()))
    num_labels = np.array([2, 1, 3, 0, 0])
    faulty = list(label_faults(target, target.flatten(), num_labels, np.array([2, 3, 3, 2, 0])))
    assert faulty == [
        Fault(1, None, None, "1 labels for 3 steps"),
        Fault(2, 1, None, "missing label"),
    ]
