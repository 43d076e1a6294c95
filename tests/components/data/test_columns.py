import numpy as np
import pyarrow as pa
import pytest

from components.data.columns import (
    innermost,
    instant_fault,
    instants,
    is_extension,
    list_lengths,
    nested,
    numeric_fault,
    plain,
    text_fault,
    text_kind,
    texts,
    with_gaps,
    words,
)

ROWS = [[[9, 9]], [[1, 2], [3, 4]], None, [], [[5, 6], None, [7, None]]]
LISTS = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)


@pytest.mark.parametrize("outer", LISTS)
@pytest.mark.parametrize("inner", LISTS)
def test_any_kind_of_list_lies_flat_the_same_way(outer, inner):
    flat = nested(pa.array(ROWS, outer(inner(pa.int16()))).slice(1))
    assert flat.valid.tolist() == [True, False, True, True]
    assert flat.lengths.tolist() == [2, 0, 0, 3]
    assert flat.step_valid.tolist() == [True, True, True, False, True]
    assert flat.widths.tolist() == [2, 2, 2, 0, 2]
    assert flat.value_valid.tolist() == [True] * 7 + [False]
    assert flat.values.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert flat.values.dtype == np.int16
    assert flat.row_widths.tolist() == [2, 0, 0, 2]
    assert flat.step_ends.tolist() == [2, 2, 2, 5]
    assert flat.row_ends.tolist() == [4, 4, 4, 8]


def test_lists_of_fixed_size_and_plain_numbers_are_read_too():
    fixed = nested(pa.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], pa.list_(pa.list_(pa.uint8(), 2), 2)))
    assert (fixed.lengths.tolist(), fixed.widths.tolist()) == ([2, 2], [2, 2, 2, 2])
    flat = nested(pa.array([[1.5, 2.5], [3.5]]))
    assert (flat.lengths.tolist(), flat.widths.tolist()) == ([2, 1], [1, 1, 1])
    assert flat.values.tolist() == [1.5, 2.5, 3.5]


def test_lists_that_hold_nothing_but_nulls_have_no_valid_value():
    flat = nested(pa.array([[], [None, None]], pa.list_(pa.null())))
    assert flat.lengths.tolist() == [0, 2]
    assert not flat.value_valid.any()


def test_integers_beside_nulls_keep_their_type_and_digits():
    flat = nested(pa.array([[2**63 - 1, None]], pa.list_(pa.int64())))
    assert flat.values.dtype == np.int64
    assert flat.values[0] == 2**63 - 1


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["007", "7", None]), ["007", "7", None]),
        (pa.array([7, -1, None], pa.int8()), ["7", "-1", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([9007199254740993]), ["9007199254740993"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
        (pa.array([3, 1, 3]).dictionary_encode(), ["3", "1", "3"]),
        (pa.array(["é"], pa.large_string()), ["é"]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_text_is_exact(column, expected):
    assert texts(column).to_pylist() == expected


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (pa.list_(pa.list_(pa.uint8())), ""),
        (pa.large_list(pa.float16()), ""),
        (pa.list_(pa.list_(pa.bool_(), 3)), ""),
        (pa.list_(pa.null()), ""),
        (pa.float64(), "received double, expected a list of time steps in each row"),
        (pa.list_(pa.list_(pa.list_(pa.int8()))), "expected a list of steps"),
        (pa.list_(pa.list_(pa.string())), "received list<list<string>>, expected numbers"),
        (pa.list_(pa.decimal128(9, 2)), "cast decimals to double"),
        (pa.list_(pa.timestamp("s")), "expected numbers"),
        (pa.fixed_shape_tensor(pa.float32(), [2]), "received the extension type"),
        (pa.list_(pa.fixed_shape_tensor(pa.float32(), [2])), "received the extension type"),
    ],
)
def test_types_that_cannot_be_a_numeric_input_say_why(kind, fault):
    assert fault in numeric_fault(kind)
    assert bool(fault) == bool(numeric_fault(kind))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (pa.string(), ""),
        (pa.string_view(), ""),
        (pa.int64(), ""),
        (pa.bool_(), ""),
        (pa.null(), ""),
        (pa.dictionary(pa.int8(), pa.large_string()), ""),
        (pa.float32(), "received float, expected text or whole numbers"),
        (pa.dictionary(pa.int8(), pa.float64()), "received double"),
        (pa.date32(), "received date32[day], expected text"),
        (pa.binary(), "cast to text"),
        (pa.uuid(), "received the extension type"),
    ],
)
def test_types_without_one_exact_text_say_why(kind, fault):
    assert fault in text_fault(kind)
    assert bool(fault) == bool(text_fault(kind))


def test_types_are_described_by_what_they_hold():
    assert innermost(pa.list_(pa.large_list(pa.int8()))) == (pa.int8(), 2)
    assert is_extension(pa.list_(pa.uuid()))
    assert [text_kind(kind) for kind in (pa.large_string(), pa.uint8(), pa.bool_(), pa.float32())] == [
        "text", "whole number", "boolean", "other"
    ]  # fmt: skip
    assert plain(pa.large_list(pa.dictionary(pa.int8(), pa.large_string()))) == pa.list_(pa.string())
    assert list_lengths(pa.array([[1], None, []])).tolist() == [1, 0, 0]


@pytest.mark.parametrize("outer", LISTS)
@pytest.mark.parametrize("inner", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_words_of_any_kind_of_list_lie_flat_the_same_way(outer, inner):
    rows = [["left out"], ["b", "a b"], None, [], ["c", None, ""]]
    flat = words(pa.array(rows, outer(inner)).slice(1))
    assert flat.valid.tolist() == [True, False, True, True]
    assert flat.lengths.tolist() == [2, 0, 0, 3]
    assert flat.row_widths.tolist() == [1, 0, 0, 1]
    assert flat.values.to_pylist() == ["b", "a b", "c", None, ""]


def test_text_is_cut_into_words_where_python_would_cut_it():
    # A served model cuts raw rows with str.split.
    texts = [f"{chr(code)}a{chr(code)}{chr(code)}b " for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    flat = words(pa.array([*texts, "", "  ", None]))
    assert flat.values.to_pylist() == [word for text in texts for word in text.split()]
    assert flat.lengths.tolist() == [len(text.split()) for text in texts] + [0, 0, 0]
    assert flat.valid.tolist() == [True] * (len(texts) + 2) + [False]


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.list_(pa.null()), pa.list_(pa.string())])
def test_a_column_without_a_word_is_read_too(kind):
    flat = words(pa.array([None, None], kind))
    assert (flat.valid.tolist(), flat.lengths.tolist(), len(flat.values)) == ([False] * 2, [0, 0], 0)


def test_missing_values_that_are_filled_in_are_nan_but_a_missing_step_stays_one():
    flat = with_gaps(nested(pa.array([[[1, None], None], [[3, 4]]], pa.list_(pa.list_(pa.int8())))))
    np.testing.assert_array_equal(flat.values, [1, np.nan, 3, 4])
    assert flat.values.dtype == np.float64
    assert flat.value_valid.all()
    assert flat.step_valid.tolist() == [True, False, True]
    single = with_gaps(nested(pa.array([[1.5, None, float("nan")]], pa.list_(pa.float32()))))
    np.testing.assert_array_equal(single.values, [1.5, np.nan, np.nan])
    assert single.step_valid.all() and single.value_valid.all()


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([19844, None], pa.date32()), ["2024-05-01", None]),
        (pa.array([1714521600500], pa.timestamp("ms")), ["2024-05-01T00:00:00.500"]),
        (pa.array([1714521600], pa.timestamp("s", "UTC")), ["2024-05-01T00:00:00Z"]),
        (pa.array([1714521600], pa.timestamp("s", "Europe/Berlin")), ["2024-05-01T02:00:00+0200"]),
        (pa.array([1.5, 1e300]), ["1.5", "1e+300"]),
        (pa.array(["at noon"]), ["at noon"]),
    ],
)
def test_instants_are_text_as_iso_8601_spells_it(column, expected):
    assert instants(column).to_pylist() == expected
    assert instant_fault(column.type) == ""


def test_lists_and_bytes_do_not_say_when():
    for kind in (pa.list_(pa.date32()), pa.binary(), pa.time32("s")):
        assert instant_fault(kind) != ""
