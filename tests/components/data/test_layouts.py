import pyarrow as pa
import pytest

from components.data.layouts import StepInput, StepLayout, check_schema, common_columns, expand_columns
from components.errors import DataError

LAYOUT = StepLayout(
    "id", "t", (StepInput("v", ("p1", "p2")), StepInput("word", kind="text")), ("tag",), ("label", "id")
)
GOOD = {
    "id": pa.string(),
    "t": pa.int64(),
    "p1": pa.uint8(),
    "p2": pa.string(),
    "word": pa.string(),
    "tag": pa.int8(),
    "label": pa.float32(),
}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["p*"], ("p2", "p1", "p10")),
        (["p1", "p*"], ("p1", "p2", "p10")),
        (["x[0]"], ("x[0]",)),
        (["P*"], ("P",)),
        (["*1", "p?"], ("p1", "p2")),
        (["*"], ("p2", "p1", "p10", "x[0]", "P")),
    ],
)
def test_patterns_stand_for_columns_in_the_files_order(patterns, expected):
    assert expand_columns(["p2", "p1", "p10", "x[0]", "P", "recurra.line"], patterns) == expected


def test_a_pattern_that_matches_nothing_is_told():
    with pytest.raises(DataError, match=r"column q\*: no column matches; there are p1, p2"):
        expand_columns(["p1", "p2", "recurra.line"], ["q*"])


def test_the_first_file_gives_the_order():
    assert common_columns([("a", ["p2", "p1"]), ("b", ["p1", "p2", "x"])], ["p*"]) == ("p2", "p1")


def test_files_with_other_columns_are_told_beside_the_first():
    files = [("a", ["p1", "p2"]), ("b", ["p1", "p3"]), ("c", ["x"])]
    with pytest.raises(DataError) as caught:
        common_columns(files, ["p*"])
    assert [str(problem) for problem in caught.value.problems] == [
        "c, column p*: no column matches; there are x",
        "b, column p2: there is one in a, but none here",
        "b, column p3: there is one here, but none in a",
    ]


def test_every_column_is_read_once():
    assert LAYOUT.columns == ("id", "t", "p1", "p2", "word", "tag", "label")
    assert not check_schema(pa.schema(GOOD), LAYOUT, file="a")


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ("id", pa.float64(), "received double"),
        ("t", pa.list_(pa.int64()), "expected a number, a date or a time"),
        ("p1", pa.list_(pa.int64()), "expected one number"),
        ("p1", pa.date32(), "expected a number"),
        ("word", pa.list_(pa.string()), "expected text"),
        ("label", None, "no such column; there are id, t, p1, p2, word, tag"),
    ],
)
def test_columns_that_cannot_serve_are_told(column, kind, message):
    fields = {**GOOD, column: kind}
    schema = pa.schema({name: each for name, each in fields.items() if each is not None})
    (problem,) = check_schema(schema, LAYOUT, file="a")
    assert (problem.file, problem.column) == ("a", column)
    assert message in problem.message


def test_an_input_of_one_column_may_hold_lists_of_numbers():
    layout = StepLayout("id", "t", (StepInput("x"),))
    fields = {"id": pa.string(), "t": pa.int64()}
    assert not check_schema(pa.schema({**fields, "x": pa.list_(pa.float32(), 2)}), layout, file="a")
    assert check_schema(pa.schema({**fields, "x": pa.list_(pa.list_(pa.int8()))}), layout, file="a")
    assert check_schema(pa.schema({**fields, "x": pa.list_(pa.string())}), layout, file="a")
