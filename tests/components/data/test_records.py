"""What makes a row, and every fault of a file's columns and a batch's rows."""

import pyarrow as pa
import pytest

from components.data.records import NUM_NAMES, Layout, check, check_agreement, check_schema

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


@pytest.mark.parametrize("extra", [0, 1, 30])
def test_a_wide_files_columns_are_not_all_listed(layout, extra):
    names = [f"column{i:02}" for i in range(NUM_NAMES + extra - 3)]
    wide = schema(fold=None, **dict.fromkeys(names, pa.int8()))
    (problem,) = check_schema(wide, layout, file="a.parquet")
    shown, _, more = problem.message.removeprefix("no such column; the file has ").partition(" and ")
    assert shown.split(", ") == wide.names[:NUM_NAMES]
    assert more == (f"{extra} more" if extra else "")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.int8(), pa.uint64(), pa.bool_()])
def test_id_label_and_split_may_be_text_whole_numbers_or_booleans(layout, kind):
    found = schema(id=kind, label=kind, fold=pa.dictionary(pa.int8(), kind))
    assert check_schema(found, layout, file="a.parquet") == []


def test_whole_numbers_of_any_width_agree_but_not_with_text(layout):
    schemas = [("a", schema(id=pa.int8())), ("b", schema(id=pa.uint64())), ("c", schema(id=pa.string()))]
    (problem,) = check_agreement(schemas, layout)
    assert (problem.file, problem.column) == ("c", "id")
    assert problem.message == "holds text, but whole number in a; store one type in all files"


def test_numbers_and_lists_of_numbers_as_steps_disagree(layout):
    schemas = [("a", schema()), ("b", schema(x=pa.list_(LISTS)))]
    (problem,) = check_agreement(schemas, layout)
    assert problem.message == "holds lists of float, but float in a; store one type in all files"


def test_ids_and_keys_are_text_exactly(make_settings):
    batch = pa.record_batch(
        {
            "id": pa.array([7, 2**63], pa.uint64()),
            "x": pa.array([[1.0], [2.0]], LISTS),
            "label": pa.array(["07", "7"]).dictionary_encode(),
            "fold": [True, False],
        }
    )
    checked = check(batch, Layout.of(make_settings()), file="a.parquet", first_row=0)
    assert checked.problems == ()
    assert checked.ids.to_pylist() == ["7", "9223372036854775808"]
    assert checked.keys.to_pylist() == ["true", "false"]
    assert checked.labels.to_pylist() == ["07", "7"]


@pytest.fixture
def two_inputs(make_settings) -> Layout:
    return Layout.of(make_settings("labelling", inputs=[{"column": "x"}, {"column": "z"}]))


def broken() -> pa.RecordBatch:
    """A labeller's rows of two inputs; the first and the last are good."""
    x = [[1.0], [1.0, float("nan")], [1.0, 2.0], None, [1.0, 2.0], [3.0]]
    z = [[[1, 2]], [[1, 2], None], [[1, 2]], [[1, 2]], [[1, 2], [3, 4]], [[5, 6]]]
    labels = [["p"], ["p", "q"], ["p", None], ["p"], ["p"], ["q"]]
    return pa.record_batch(
        {"id": [*"abcdef"], "x": pa.array(x, LISTS), "z": z, "label": labels, "fold": [0, 1, 2, 3, 4, 5]}
    )


def test_faults_of_all_columns_of_a_row_are_told_together(two_inputs):
    checked = check(broken(), two_inputs, file="a.parquet", first_row=0)
    assert [str(problem).removeprefix("a.parquet, ") for problem in checked.problems] == [
        "row 1, column x, step 1, feature 0: nan, expected a finite number within float32",
        "row 1, column z, step 1: missing step",
        "row 2, column z: 1 steps, but x has 2",
        "row 2, column label, step 1: missing label",
        "row 3, column x: missing value, expected a list of steps",
        "row 4, column label: 1 labels for 2 steps",
    ]
    assert checked.good.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_batch_cut_in_two_gives_what_the_whole_gives(two_inputs, cut):
    whole = check(broken(), two_inputs, file="a.parquet", first_row=10)
    halves = [
        check(rows, two_inputs, file="a.parquet", first_row=first)
        for rows, first in ((broken().slice(0, cut), 10), (broken().slice(cut), 10 + cut))
    ]
    assert halves[0].problems + halves[1].problems == whole.problems
    assert halves[0].rows + tuple(row + cut for row in halves[1].rows) == whole.rows
    for name in ("ids", "keys", "labels"):
        assert [each for half in halves for each in getattr(half, name).to_pylist()] == getattr(
            whole, name
        ).to_pylist()
    for name in ("good", "num_labels"):
        assert [each for half in halves for each in getattr(half, name)] == getattr(whole, name).tolist()
