"""Columns out of Python values: what fits stays exact, what does not is a fault and a null."""

import math

import pyarrow as pa
import pytest

from components.data.readers import values
from components.data.readers.sources import FAULT, LINE, NUMBERS, TEXT, TEXTS
from components.data.readers.values import Columns, Faults, Unfit
from components.errors import DataError


def column(found: list, kind: str | None = None) -> tuple[pa.Array, list]:
    faults = Faults(range(1, len(found) + 1))
    columns = Columns({"x": kind} if kind else {})
    array = columns.column("x", found, faults, exact=lambda row: found[row])
    return array, faults.own_columns()[FAULT].to_pylist()


def test_a_row_keeps_its_first_fault_and_its_line():
    faults = Faults([3, 5, 9])
    faults.add(1, "first", column="x", step=4)
    faults.add(1, "second")
    own = faults.own_columns()
    assert own[LINE].to_pylist() == [3, 5, 9]
    assert own[FAULT].to_pylist() == [None, {"column": "x", "step": 4, "line": 5, "message": "first"}, None]


def test_a_batch_without_rows_or_faults_has_both_columns():
    own = Faults([]).own_columns()
    assert (own[LINE].type, len(own[LINE])) == (pa.int64(), 0)
    assert own[FAULT].type == values.FAULT_TYPE


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([None, "a"], TEXT),
        ([1], TEXT),
        ([{}], TEXT),
        ([None, [], [None, "a"]], TEXTS),
        ([[1, "a"]], TEXTS),
        ([[1]], NUMBERS),
        ([[[1]], ["a"]], NUMBERS),
        ([None], None),
        ([[], [None]], None),
    ],
)
def test_the_kind_that_values_suggest(found, kind):
    assert values.suggested(found) == kind


def test_a_column_without_a_value_has_no_type_yet():
    assert column([None, None])[0].type == pa.null()
    assert column([None, []])[0].type == pa.list_(pa.null())
    assert column([None, [None]], NUMBERS)[0].type == pa.list_(pa.null())
    assert column([None], TEXT)[0].type == pa.string()
    assert column([None], TEXTS)[0].type == pa.list_(pa.string())


def test_a_text_is_a_list_of_words_not_of_letters_and_a_boolean_no_number():
    array, _ = column(["ab", " c  d\t", ["e f"]], TEXTS)
    assert array.to_pylist() == [["ab"], ["c", "d"], ["e f"]]
    array, faults = column([[True], [1]], NUMBERS)
    assert array.to_pylist() == [None, [1]]
    assert faults[0]["message"] == "received true, expected a number"


def test_numbers_beyond_those_that_arrow_takes_become_the_nearest_floats():
    array, faults = column([[2**53 + 1], [10**400, -(10**400)], None], NUMBERS)
    assert array.to_pylist() == [[2.0**53], [math.inf, -math.inf], None]
    assert faults == [None] * 3


def test_the_spelling_is_asked_for_only_where_python_may_have_lost_it():
    asked = []

    def exact(row: int) -> object:
        asked.append(row)
        return ["1.10", "-0"][row - 1]

    columns = Columns({"x": TEXT})
    array = columns.column("x", ["a", 1.1, 0, 7, True], Faults(range(5)), exact=lambda row: exact(row))
    assert array.to_pylist() == ["a", "1.10", "-0", "7", "true"]
    assert asked == [1, 2]


def test_a_depth_once_taken_stays():
    columns = Columns({})
    assert columns.has_depth("x", 2)
    assert not columns.has_depth("x", 1)
    assert columns.has_depth("y", 1)


def test_unfit_says_at_which_step():
    with pytest.raises(Unfit) as caught:
        values.numbers([[1.0], [2.0, "a"]], 2)
    assert (caught.value.step, caught.value.message) == (1, "feature 1: received 'a', expected a number")


def test_names_of_our_own_columns_are_refused():
    values.refuse_own_names(["id", "line"], "f.csv")
    with pytest.raises(DataError, match="rename it"):
        values.refuse_own_names(["id", FAULT], "f.csv", line=1)
