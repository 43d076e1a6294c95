import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.served.encoding import Encoding, NumericEncoding, flatten_rows


def numeric(column="x", features=2, scale="none", center=(0.0, 0.0), spread=(1.0, 1.0)):
    return NumericEncoding(column=column, features=features, scale=scale, center=center, spread=spread)


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


def test_inputs_stand_side_by_side_in_the_order_of_the_settings():
    encoding = Encoding(
        task="classification",
        inputs=(numeric("b"), numeric("a", 1, center=(0.0,), spread=(1.0,))),
        labels=("n", "y"),
    )
    x = encoding.encode({"a": np.array([[9], [8]]), "b": np.array([[1, 2], [3, 4]])})
    assert x.tolist() == [[1, 2, 9], [3, 4, 8]]
    assert (encoding.num_features, encoding.num_classes) == (3, 2)


def test_missing_inputs_and_unequal_steps_are_named():
    encoding = Encoding(task="labelling", inputs=(numeric("b"), numeric("a")), labels=("n", "y"))
    with pytest.raises(ValueError, match=r"missing inputs \['a'\]"):
        encoding.encode({"b": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"received \{'b': 1, 'a': 2\}"):
        encoding.encode({"b": np.zeros((1, 2)), "a": np.zeros((2, 2))})


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_an_encoding_survives_json_to_the_last_bit(numbers):
    part = numeric(scale="minmax", center=tuple(numbers[:2]), spread=tuple(numbers[2:]))
    encoding = Encoding(task="labelling", inputs=(part,), labels=("007", "7", "é"))
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


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
