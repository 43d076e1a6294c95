"""What makes a row, and every fault of a file's columns and a batch's rows."""

import pyarrow as pa
import pytest

from components.data.records import Layout, check, check_agreement, check_schema

LISTS = pa.list_(pa.float32())


@pytest.fixture
def layout(make_settings) -> Layout:
    return Layout.of(make_settings())


def schema(**changes) -> pa.Schema:
    columns = {"id": pa.string(), "x": LISTS, "label": pa.string(), "fold": pa.int8(), **changes}
    return pa.schema({name: kind for name, kind in columns.items() if kind is not None})


def test_only_columns_that_the_settings_name_are_read(make_settings):
    same = make_settings(split={"column": "label", "valid": ["a"], "test": ["b"]}, id=None)
    assert Layout.of(same).columns == ("x", "label")
    assert Layout.of(make_settings()).columns == ("id", "x", "label", "fold")
    by_hash = make_settings(split={"by": "hash", "valid": 0.1, "test": 0.1})
    assert Layout.of(by_hash).columns == ("id", "x", "label")


def test_a_schema_that_fits_has_no_fault(layout):
    assert check_schema(schema(), layout, file="a.parquet") == []


def test_every_column_that_does_not_fit_is_named_at_once(layout):
    found = schema(id=pa.float64(), x=pa.list_(pa.string()), label=LISTS, fold=None)
    problems = check_schema(found, layout, file="a.parquet")
    assert [problem.column for problem in problems] == ["id", "x", "label", "fold"]
    assert all(problem.file == "a.parquet" for problem in problems)
    assert "is the task labelling?" in problems[2].message
    assert problems[3].message == "no such column; the file has id, x, label"


def test_a_column_that_is_nearly_there_is_suggested(layout):
    (problem,) = check_schema(schema(fold=None, folds=pa.int8()), layout, file="a.parquet")
    assert problem.message.endswith("did you mean 'folds'?")


def test_a_name_that_stands_twice_is_refused(layout):
    double = pa.schema([*schema(), pa.field("x", LISTS)])
    (problem,) = check_schema(double, layout, file="a.parquet")
    assert (problem.column, problem.message) == ("x", "2 columns have this name")


def test_a_labeller_needs_a_list_of_labels(make_settings):
    layout = Layout.of(make_settings("labelling"))
    (problem,) = check_schema(schema(), layout, file="a.parquet")
    assert problem.column == "label"
    assert "is the task classification?" in problem.message
    assert check_schema(schema(label=pa.large_list(pa.int32())), layout, file="a.parquet") == []


def test_files_that_store_a_column_in_two_types_are_both_named(layout):
    schemas = [("a", schema()), ("b", schema(x=pa.list_(pa.float64()))), ("c", schema(label=pa.int64()))]
    inputs, target = check_agreement(schemas, layout)
    assert (inputs.file, inputs.column) == ("b", "x")
    assert inputs.message == "holds double, but float in a; store one type in all files"
    assert (target.file, target.column) == ("c", "label")


def test_a_layout_of_lists_or_a_column_of_nulls_is_no_disagreement(layout):
    schemas = [
        ("a", schema()),
        ("b", schema(x=pa.large_list(pa.float32()), label=pa.large_string())),
        ("c", schema(x=pa.list_(pa.null()), label=pa.null())),
    ]
    assert check_agreement(schemas, layout) == []


def test_problems_come_in_order_of_row_and_count_from_the_files_start(layout):
    batch = pa.record_batch(
        {
            "id": ["a", "b", None],
            "x": pa.array([[1.0], [], [2.0]], LISTS),
            "label": ["n", "n", None],
            "fold": [1, None, 1],
        }
    )
    checked = check(batch, layout, file="a.parquet", first_row=100)
    assert [str(problem) for problem in checked.problems] == [
        "a.parquet, row 101, column x: empty sequence, expected at least 1 step",
        "a.parquet, row 101, column fold: missing value",
        "a.parquet, row 102, column label: missing value",
        "a.parquet, row 102, column id: missing value",
    ]
    assert checked.rows == (1, 1, 2, 2)
    assert checked.good.tolist() == [True, False, False]
    assert checked.ids.to_pylist() == ["a", "b", None]
    assert checked.keys.to_pylist() == ["1", None, "1"]


def test_labels_of_a_labeller_lie_end_to_end(make_settings):
    layout = Layout.of(make_settings("labelling", id=None))
    batch = pa.record_batch(
        {"x": pa.array([[1.0], [2.0, 3.0]], LISTS), "label": [["p"], ["q", "r"]], "fold": [0, 1]}
    )
    checked = check(batch, layout, file="a.parquet", first_row=0)
    assert checked.labels.to_pylist() == ["p", "q", "r"]
    assert checked.num_labels.tolist() == [1, 2]
    assert checked.ids.to_pylist() == [None, None]
    assert checked.good.all()
