import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.served.numbers import NumericEncoding, flatten_rows, row_numbers


def numeric(column="x", features=2, scale="none", center=(0.0, 0.0), spread=(1.0, 1.0), **more):
    return NumericEncoding(column, features, scale, center, spread, **more)


def test_values_are_centred_and_divided_in_float64_and_returned_as_float32():
    part = numeric(scale="standard", center=(16777217.0, 1.0), spread=(2.0, 4.0))
    scaled = part.apply(np.array([[16777219, 9], [16777217, 1]], np.int64))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[1.0, 2.0], [0.0, 0.0]]


def test_unscaled_values_are_kept_including_all_zero_steps():
    assert numeric().apply(np.array([[0, 0], [1, 255]], np.uint8)).tolist() == [[0, 0], [1, 255]]


def test_another_number_of_features_is_refused():
    with pytest.raises(ValueError, match=r"input 'x': received an array of shape \(1, 3\), expected"):
        numeric().apply(np.zeros((1, 3)))


def test_overflow_after_scaling_is_named_instead_of_becoming_infinite():
    part = numeric(scale="standard", spread=(1.0, 1e-30))
    with pytest.raises(ValueError, match=r"feature 1: 1000000000000\.0 is too large"):
        part.apply(np.array([[1.0, 1e12]]))


def test_a_missing_value_is_filled_before_scaling_and_may_be_indicated():
    values = np.array([[math.nan, 4], [5, math.nan], [7, 8]])
    scaled = {"scale": "standard", "center": (1.0, 2.0), "spread": (2.0, 2.0), "fill": (3.0, 10.0)}
    part = numeric(**scaled)
    assert (part.width, part.apply(values).tolist()) == (2, [[1, 1], [2, 4], [3, 3]])
    told = numeric(**scaled, indicator=True)
    assert told.width == 4
    assert told.apply(values).tolist() == [[1, 1, 1, 0], [2, 4, 0, 1], [3, 3, 0, 0]]
    assert told.apply(values[2:]).tolist() == [[3, 3, 0, 0]]


def test_a_value_missing_where_none_may_be_is_named():
    with pytest.raises(ValueError, match="input 'x', step 1, feature 0: missing value"):
        numeric().apply(np.array([[1, 2], [math.nan, 4]]))


@pytest.mark.parametrize(
    "rows",
    [
        [[[1, 2], [3, 4]], [[5, 6]]],
        [((1, 2), (3, 4)), ((5, 6),)],
        [np.array([[1, 2], [3, 4]], np.uint8), np.array([[5, 6]], np.uint8)],
        [[[1, 2], (3, 4)], [np.array([5, 6])]],
    ],
    ids=["lists", "tuples", "arrays", "mixed"],
)
def test_ragged_rows_of_any_container_lie_end_to_end(rows):
    values, lengths = flatten_rows(rows, column="x", features=2)
    assert values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert lengths.tolist() == [2, 1]


def test_rows_as_pandas_reads_them_from_parquet_lie_end_to_end():
    row = np.empty(2, object)
    row[:] = [np.array([1, 2], np.uint8), np.array([3, 4], np.uint8)]
    rows = np.empty(1, object)
    rows[0] = row
    values, lengths = flatten_rows(rows, column="x", features=2)
    assert values.tolist() == [[1, 2], [3, 4]]
    assert lengths.tolist() == [2]


def test_a_single_feature_may_be_given_without_the_inner_list():
    flat, _ = flatten_rows([[1.5, 2], [3]], column="x", features=1)
    nested, _ = flatten_rows([[[1.5], [2]], [[3]]], column="x", features=1)
    assert flat.tolist() == nested.tolist() == [[1.5], [2.0], [3.0]]


def test_no_rows_give_no_values():
    values, lengths = flatten_rows([], column="x", features=2)
    assert values.shape == (0, 2)
    assert lengths.shape == (0,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1, 2]], []], "'x', row 1: empty sequence"),
        ([[[1, 2], [3]]], "'x', row 0, step 1: received 1 features, step 0 has 2"),
        ([[[1, 2, 3]]], "'x', row 0, step 0: received 3 features, expected 2"),
        ([[1, 2]], "'x', row 0, step 0: received a single number, expected 2 features"),
        ([[[1, 2]], None], "'x', row 1: received None, expected a sequence"),
        ([7], "'x', row 0: received 7, expected a sequence"),
        (["ab"], "'x', row 0: received 'ab', expected a sequence"),
        ([[[1, 2], None]], "'x', row 0, step 1: received None, expected a list"),
        ([[[1, 2], [3, None]]], "'x', row 0, step 1, feature 1: received a missing value"),
        ([[["1", 2]]], "'x', row 0, step 0, feature 0: received '1', expected a number"),
        ([[[1, 2], [3, 4]], [[5, 6], [7, float("nan")]]], "'x', row 1, step 1, feature 1: received nan"),
        ([[[1, 2]], [[float("inf"), 1]]], "'x', row 1, step 0, feature 0: received inf"),
        ([[[1, 2]], [[1e300, 1]]], "'x', row 1, step 0, feature 0: received 1e[+]300"),
        ([[[1, 10**400]]], "'x', row 0, step 0, feature 1: received inf"),
        ([[[1, 2j]]], "'x', row 0, step 0, feature 1: received 2j, expected a number"),
        ([[[[1, 2]]]], r"'x', row 0, step 0, feature 0: received \[1, 2\], expected a number"),
    ],
)
def test_faults_name_row_step_and_feature(rows, message):
    with pytest.raises(ValueError, match=message):
        flatten_rows(rows, column="x", features=2)


@given(
    st.lists(st.lists(st.tuples(st.integers(-9, 9), st.floats(-1, 1)), min_size=1, max_size=4), max_size=4)
)
def test_nothing_is_lost_or_moved_by_flattening(rows):
    values, lengths = flatten_rows(rows, column="x", features=2)
    assert values.tolist() == [[float(a), b] for row in rows for a, b in row]
    assert lengths.tolist() == [len(row) for row in rows]


def test_missing_values_pass_where_the_model_fills_them_in():
    rows = [[[1, None], [math.nan, 2]], np.array([[3, math.nan]])]
    values, lengths = flatten_rows(rows, column="x", features=2, missing=True)
    np.testing.assert_array_equal(values, [[1, math.nan], [math.nan, 2], [3, math.nan]])
    assert lengths.tolist() == [2, 1]
    single, _ = flatten_rows([[None, 5]], column="x", features=1, missing=True)
    np.testing.assert_array_equal(single, [[math.nan], [5]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1, math.nan]], [[math.inf, 1]]], "'x', row 1, step 0, feature 0: received inf"),
        ([[[1, 2], None]], "'x', row 0, step 1: received None, expected a list"),
        ([None], "'x', row 0: received None, expected a sequence"),
    ],
)
def test_what_is_no_missing_value_stays_a_fault(rows, message):
    with pytest.raises(ValueError, match=message):
        flatten_rows(rows, column="x", features=2, missing=True)


def test_one_number_for_each_row_is_any_number():
    assert row_numbers([1, 2.5, True, np.float32(4)], column="age").tolist() == [1, 2.5, 1, 4]
    assert row_numbers([], column="age").shape == (0,)
    np.testing.assert_array_equal(
        row_numbers([1, None, math.nan], column="age", missing=True), [1, math.nan, math.nan]
    )


@pytest.mark.parametrize(
    ("values", "missing", "message"),
    [
        ([1, None], False, "'age', row 1: received a missing value, expected a number"),
        ([math.nan], False, "'age', row 0: received nan, expected a finite number within float32"),
        ([1, "2"], True, "'age', row 1: received '2', expected a number"),
        ([1, 2, 1e39], True, r"'age', row 2: received 1e\+39, expected a finite number within float32"),
        ([[1]], True, r"'age', row 0: received \[1\], expected a number"),
    ],
)
def test_a_number_that_does_not_fit_is_named_with_its_row(values, missing, message):
    with pytest.raises(ValueError, match=message):
        row_numbers(values, column="age", missing=missing)
