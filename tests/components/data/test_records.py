"""What makes a row, and every fault of a file's columns and a batch's rows."""

import numpy as np
import pyarrow as pa
import pytest

from components.data.columns import Words
from components.data.readers.sources import FAULT, FAULT_TYPE, LINE, POSITIONS, Origin, Source, fault
from components.data.records import NUM_NAMES, Layout, check, check_agreement, check_schema

LISTS = pa.list_(pa.float32())
SOURCE = Source("a.parquet", "a.parquet", "parquet", pa.schema([]), ())


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
    checked = check(batch, layout, source=SOURCE, first_row=100)
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
    checked = check(batch, layout, source=SOURCE, first_row=0)
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
    checked = check(batch, Layout.of(make_settings()), source=SOURCE, first_row=0)
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
    checked = check(broken(), two_inputs, source=SOURCE, first_row=0)
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
    whole = check(broken(), two_inputs, source=SOURCE, first_row=10)
    halves = [
        check(rows, two_inputs, source=SOURCE, first_row=first)
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


TOKENS = [{"column": "x", "kind": "token"}]


def checked_rows(settings, *, source=SOURCE, **columns):
    """A batch of rows that are good but for the columns given, checked."""
    n = len(next(iter(columns.values())))
    rows = {"id": [f"r{i}" for i in range(n)], "x": pa.array([[1.0]] * n, LISTS), "label": ["n"] * n}
    batch = pa.record_batch({**rows, "fold": [0] * n, **columns})
    return check(batch, Layout.of(settings), source=source, first_row=0)


def told(checked) -> list[str]:
    return [str(problem).removeprefix("a.parquet, ") for problem in checked.problems]


@pytest.mark.parametrize(
    "column",
    [
        [["Der", "Hund"], ["7"], ["a b"]],
        pa.array([["Der", "Hund"], ["7"], ["a b"]], pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
    ],
)
def test_tokens_of_a_list_are_taken_as_they_are(make_settings, column):
    checked = checked_rows(make_settings(inputs=TOKENS), x=column)
    (words,) = checked.inputs
    assert isinstance(words, Words)
    assert words.values.to_pylist() == ["Der", "Hund", "7", "a b"]
    assert words.lengths.tolist() == [2, 1, 1]
    assert checked.good.all()


def test_plain_text_is_cut_at_white_space_into_tokens(make_settings):
    texts = ["Der Hund", "  bellt\t\u00a0laut.\n", "", " ", None]
    checked = checked_rows(make_settings(inputs=TOKENS), x=texts)
    assert checked.inputs[0].values.to_pylist() == ["Der", "Hund", "bellt", "laut."]
    assert checked.inputs[0].lengths.tolist() == [2, 2, 0, 0, 0]
    assert told(checked) == [
        "row 2, column x: empty sequence, expected at least 1 step",
        "row 3, column x: empty sequence, expected at least 1 step",
        "row 4, column x: missing value, expected a list of steps",
    ]


def test_a_missing_token_is_named_with_its_step(make_settings):
    checked = checked_rows(make_settings(inputs=TOKENS), x=[["a"], ["a", "b", None, None], [None]])
    assert told(checked) == [
        "row 1, column x, step 2: missing value",
        "row 2, column x, step 0: missing value",
    ]
    assert checked.good.tolist() == [True, False, False]


def test_tokens_beside_numbers_have_as_many_steps(make_settings):
    inputs = [{"column": "x"}, {"column": "words", "kind": "category"}]
    checked = checked_rows(make_settings(inputs=inputs), words=[["a"], ["a", "b"]])
    assert told(checked) == ["row 1, column words: 2 steps, but x has 1"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (pa.string(), ""),
        (pa.large_list(pa.string()), ""),
        (pa.list_(pa.int8()), ""),
        (pa.null(), ""),
        (pa.list_(pa.float32()), "received float, expected text or whole numbers"),
        (pa.list_(pa.list_(pa.string())), "expected text"),
        (pa.int64(), "received int64, expected a list with a text for each step, or text"),
    ],
)
def test_the_types_that_tokens_may_have(make_settings, kind, fault):
    problems = check_schema(schema(x=kind), Layout.of(make_settings(inputs=TOKENS)), file="a.parquet")
    assert [problem.column for problem in problems] == ["x"] * bool(fault)
    assert all(fault in problem.message for problem in problems)


def test_columns_are_read_from_text_files_as_what_they_are_for(make_settings):
    data = {"inputs": [{"column": "x"}, {"column": "words", "kind": "token"}], "context": [{"column": "age"}]}
    expected = {
        "id": "text",
        "x": "numbers",
        "words": "texts",
        "age": "text",
        "label": "text",
        "fold": "text",
    }
    assert Layout.of(make_settings(**data)).kinds == expected
    assert Layout.of(make_settings("labelling", **data)).kinds == {**expected, "label": "texts"}


AGES = [
    pa.array([40.5, None, float("nan"), 1e39]),
    pa.array(["40.5", None, "nan", "1e39"]),
    pa.array([" 40.5", "", "NaN ", "1e39"]).dictionary_encode(),
]


@pytest.mark.parametrize("column", AGES, ids=["numbers", "text", "dictionary"])
def test_a_missing_number_of_context_is_a_fault_unless_something_stands_in_for_it(make_settings, column):
    checked = checked_rows(make_settings(context=[{"column": "age"}]), age=column)
    assert told(checked) == [
        "row 1, column age: missing value",
        "row 2, column age: nan, expected a finite number within float32",
        "row 3, column age: 1e+39, expected a finite number within float32",
    ]
    imputed = make_settings(context=[{"column": "age", "impute": "mean"}])
    checked = checked_rows(imputed, age=column)
    assert told(checked) == ["row 3, column age: 1e+39, expected a finite number within float32"]
    np.testing.assert_array_equal(checked.context[0], [40.5, np.nan, np.nan, 1e39])


@pytest.mark.parametrize("impute", ["none", "zero"])
def test_text_that_spells_no_number_is_named(make_settings, impute):
    settings = make_settings(context=[{"column": "age", "impute": impute}])
    checked = checked_rows(settings, age=["40", "forty", "4O", "-1e2"])
    assert told(checked) == [
        "row 1, column age: received 'forty', expected a number",
        "row 2, column age: received '4O', expected a number",
    ]
    assert checked.context[0][[0, 3]].tolist() == [40.0, -100.0]


def test_a_blank_is_a_missing_number(make_settings):
    checked = checked_rows(make_settings(context=[{"column": "age"}]), age=["  ", "1"])
    assert told(checked) == ["row 0, column age: missing value"]


def test_a_category_of_context_is_text_and_never_missing(make_settings):
    settings = make_settings(context=[{"column": "sex", "kind": "category"}])
    checked = checked_rows(settings, sex=["f", None, ""])
    assert checked.context[0].to_pylist() == ["f", None, ""]
    assert told(checked) == ["row 1, column sex: missing value"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (pa.float16(), ""),
        (pa.bool_(), ""),
        (pa.decimal128(9, 2), ""),
        (pa.large_string(), ""),
        (pa.null(), ""),
        (LISTS, "received list<float>, expected one number in each row"),
        (pa.date32(), "expected a number"),
    ],
)
def test_the_types_that_a_number_of_context_may_have(make_settings, kind, fault):
    layout = Layout.of(make_settings(context=[{"column": "age"}]))
    problems = check_schema(schema(age=kind), layout, file="a.parquet")
    assert [problem.column for problem in problems] == ["age"] * bool(fault)
    assert all(fault in problem.message for problem in problems)


def test_missing_values_of_an_input_are_no_fault_where_they_are_filled_in(make_settings):
    x = pa.array([[1.0, None], [float("nan")], None, [], [float("inf")]], LISTS)
    checked = checked_rows(make_settings(inputs=[{"column": "x", "impute": "mean"}]), x=x)
    assert checked.good.tolist() == [True, True, False, False, False]
    np.testing.assert_array_equal(checked.inputs[0].values, [1.0, np.nan, np.nan, np.inf])
    vectors = checked_rows(
        make_settings(inputs=[{"column": "x", "impute": "mean"}]),
        x=[[[1, None]], [[1, 2], None], [[1], [1, 2]]],
    )
    assert told(vectors) == [
        "row 1, column x, step 1: missing step",
        "row 2, column x, step 1: 2 features, step 0 has 1",
    ]


def test_what_a_reader_found_keeps_its_line_and_stands_for_all_else_of_the_row(make_settings):
    faults = [
        None,
        fault("x", "received 'a', expected a number", step=2, line=9),
        fault("", "not JSON"),
        None,
    ]
    checked = checked_rows(
        make_settings(),
        x=pa.array([[1.0], None, None, None], LISTS),
        label=["n", None, None, "n"],
        **{FAULT: pa.array(faults, FAULT_TYPE), LINE: [2, 7, 11, 12]},
    )
    assert told(checked) == [
        "line 9, column x, step 2: received 'a', expected a number",
        "line 11: not JSON",
        "line 12, column x: missing value, expected a list of steps",
    ]
    assert checked.rows == (1, 2, 3)
    assert checked.good.tolist() == [True, False, False, False]
    assert checked.lines.to_pylist() == [2, 7, 11, 12]


def test_rows_of_several_places_give_the_file_and_row_of_the_step(make_settings):
    source = Source("", "sequences", "arrow", pa.schema([]), (), {}, (Origin("a.csv", 0), Origin("b.csv", 5)))
    nan = float("nan")
    checked = checked_rows(
        make_settings(),
        source=source,
        x=pa.array([[1.0], [1.0, nan, 2.0], [nan, 1.0], [1.0, 2.0]], LISTS),
        label=["n", "n", "n", None],
        **{
            POSITIONS: pa.array([[4], [8, 5, 0], [1, 6], [7, 3]], pa.list_(pa.int64())),
            FAULT: pa.array([None, None, fault("x", "no number", step=1, line=3), None], FAULT_TYPE),
        },
    )
    assert [str(problem) for problem in checked.problems] == [
        "b.csv, row 0, column x, step 1, feature 0: nan, expected a finite number within float32",
        "b.csv, line 3, column x, step 1: no number",
        "a.csv, row 3, column label: missing value",
    ]
    assert [problem.row for problem in checked.problems] == [0, 1, 3]
    assert checked.positions.to_pylist() == [4, 0, 1, 3]


def test_times_are_keys_as_iso_8601_spells_them_where_the_split_is_by_time(make_settings):
    by_time = {"by": "time", "column": "t", "valid": "2024-05-01", "test": "2024-06-01"}
    layout = Layout.of(make_settings(split=by_time))
    kinds = [
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("ns", "UTC"),
        pa.float64(),
        pa.int64(),
        pa.string(),
    ]
    for kind in kinds:
        assert check_schema(schema(t=kind), layout, file="a.parquet") == []
    assert len(check_schema(schema(t=LISTS), layout, file="a.parquet")) == 1
    assert check_schema(schema(fold=pa.date32()), Layout.of(make_settings()), file="a.parquet") != []
    day = pa.array([19844, None], pa.date32())
    checked = checked_rows(make_settings(split=by_time), t=day.cast(pa.timestamp("s")))
    assert checked.keys.to_pylist() == ["2024-05-01T00:00:00", None]
    assert told(checked) == ["row 1, column t: missing value"]
    assert checked_rows(make_settings(split=by_time), t=day).keys.to_pylist() == ["2024-05-01", None]
