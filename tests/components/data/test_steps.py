import math
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data import readers
from components.data.instants import Kind
from components.data.layouts import StepInput, StepLayout
from components.data.readers import arrow
from components.data.readers.sources import FAULT, FAULT_TYPE, LINE, POSITIONS, Origin
from components.data.steps import assemble, common_order, common_types, pieces, spread
from components.errors import DataError

PLAIN = StepLayout("id", "t", (StepInput("x"),))
A = {"id": ["b", "a", "a"], "t": [2, 1, 2], "x": [6, 1, 2]}
B = {"id": ["b", "a", "b"], "t": [1, 0, 3], "x": [5, 0, 7]}


@pytest.fixture
def sequences(tmp_path):
    """The rows of all buckets made from tables, in order of first position."""

    def make(*tables, layout=PLAIN, buckets=1):
        return rows_of(tables, layout=layout, buckets=buckets, folder=tmp_path)

    return make


def spreads_of(tables, *, layout, buckets, folder):
    sources = []
    for number, table in enumerate(tables):
        path = Path(folder) / f"{chr(97 + number)}.arrow"
        table = table if isinstance(table, pa.Table) else pa.table(table)
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        sources.append(arrow.describe(str(path), path.name))
    return [spread(part, layout, buckets, str(folder)) for part in readers.parts(sources)]


def rows_of(tables, *, layout, buckets, folder):
    spreads = spreads_of(tables, layout=layout, buckets=buckets, folder=folder)
    kind, types = common_order(spreads), common_types(spreads)
    made = []
    for bucket in range(buckets):
        target = Path(folder) / f"bucket-{bucket}.arrow"
        assemble(pieces(spreads, bucket), layout, kind, str(target), types=types)
        made.append(pa.ipc.open_file(target).read_all())
    rows = [row for table in made for row in table.to_pylist()]
    firsts = [[min(row[POSITIONS]) for row in table.to_pylist()] for table in made]
    assert firsts == [sorted(each) for each in firsts]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: min(row[POSITIONS])), schema=made[0].schema)


def faults(table):
    return [
        None if each is None else (each["column"], each["step"], each["message"])
        for each in table[FAULT].to_pylist()
    ]


@pytest.mark.parametrize("buckets", [1, 3])
def test_interleaved_steps_of_two_files_become_sequences(sequences, buckets):
    table = sequences(A, B, buckets=buckets)
    assert table.to_pydict() == {
        "id": ["b", "a"],
        "x": [[5, 6, 7], [0, 1, 2]],
        FAULT: [None, None],
        POSITIONS: [[3, 0, 5], [4, 1, 2]],
    }


def test_the_order_of_the_files_changes_only_positions(sequences):
    one, other = sequences(A, B).sort_by("id"), sequences(B, A).sort_by("id")
    assert one.drop_columns([POSITIONS]).equals(other.drop_columns([POSITIONS]))


@pytest.mark.parametrize("kind", [pa.uint8(), pa.float16(), pa.int64(), pa.bool_()])
def test_typed_numbers_keep_their_type(sequences, kind):
    table = sequences({"id": ["a", "a"], "t": [1, 0], "x": pa.array([1, None]).cast(kind)})
    assert table.schema.field("x").type == pa.list_(kind)
    assert table["x"].to_pylist() == [[None, 1]]


def test_numbers_of_several_types_are_united_in_every_bucket(sequences):
    table = sequences({**A, "x": pa.array([6, 1, 2], pa.int8())}, {**B, "x": ["5.5", " 0 ", ""]}, buckets=2)
    assert table.schema.field("x").type == pa.list_(pa.float64())
    assert table["x"].to_pylist() == [[5.5, 6, None], [0, 1, 2]]


def test_texts_that_are_odd_numbers_stay_and_others_are_faults(sequences):
    texts = ["nan", "inf", "1e400", "abc", "def"]
    table = sequences({"id": ["a"] * 5, "t": ["10", "9", "8", " 7 ", "6.5"], "x": texts})
    (values,) = table["x"].to_pylist()
    assert values[:4] == [None, None, math.inf, math.inf]
    assert math.isnan(values[4])
    assert faults(table) == [("x", 0, "received 'def', expected a number")]


def test_ties_missing_orders_and_varying_constants_are_faults(sequences):
    layout = StepLayout("id", "t", (StepInput("x"),), constants=("label",))
    table = sequences(
        {
            "id": ["tie", "tie", "gap", "gap", "two", "two", "none", "none"],
            "t": [5, 5, None, 3, 1, 2, 1, 2],
            "x": [1.0] * 8,
            "label": ["a", "a", "a", "a", "a", "b", "a", None],
        },
        layout=layout,
    )
    assert dict(zip(table["id"].to_pylist(), faults(table), strict=True)) == {
        "tie": ("t", 1, "t 5 stands twice"),
        "gap": ("t", 1, "missing value"),
        "two": ("label", 1, "the label is 'a' at step 0 and 'b' at step 1"),
        "none": ("label", 1, "the label is 'a' at step 0 and missing at step 1"),
    }


@pytest.mark.parametrize("buckets", [1, 4])
def test_rows_without_an_id_stay_alone(sequences, buckets):
    table = sequences({"id": [None, "", "a", None], "t": [1, 1, 1, 1], "x": [1, 2, 3, 4]}, buckets=buckets)
    assert table["id"].to_pylist() == [None, None, "a", None]
    assert table["x"].to_pylist() == [[1], [2], [3], [4]]
    assert faults(table) == [("id", 0, "missing value")] * 2 + [None] + [("id", 0, "missing value")]


def test_what_the_reader_found_is_kept_with_its_line(sequences):
    found = pa.array([None, {"column": "x", "message": "3 cells, expected 2", "line": 4}], FAULT_TYPE)
    lines = pa.array([2, 4])
    table = sequences({"id": ["a", "a"], "t": [1, 0], "x": [1, None], LINE: lines, FAULT: found})
    assert table[FAULT].to_pylist() == [
        {"column": "x", "step": 0, "line": 4, "message": "3 cells, expected 2"}
    ]


def test_our_own_faults_have_the_line_of_their_row(sequences):
    table = sequences({"id": ["a", "a"], "t": [1, 1], "x": [1, 2], LINE: pa.array([2, 3])})
    assert table[FAULT].to_pylist()[0]["line"] == 3


def test_ids_are_kept_as_they_are_written(sequences):
    table = sequences({"id": ["001", "1", " 1"], "t": [1, 1, 1], "x": [1, 2, 3]})
    assert table["id"].to_pylist() == ["001", "1", " 1"]


def test_large_whole_numbers_are_in_exact_order(sequences):
    big = 2**53
    rows = {"id": ["a"] * 3, "t": [big + 1, big, big + 2], "x": [2, 1, 3]}
    assert sequences(rows)["x"].to_pylist() == [[1, 2, 3]]
    as_text = {**rows, "t": list(map(str, rows["t"]))}
    assert sequences(rows, {"id": ["a"], "t": [float(big - 1)], "x": [0]})["x"].to_pylist() == [[0, 1, 2, 3]]
    assert sequences(as_text)["x"].to_pylist() == [[1, 2, 3]]


def test_clocks_that_were_put_back_are_in_order_by_their_offsets(sequences):
    times = ["2024-10-27T02:30:00+01:00", "2024-10-27T02:45:00+02:00", "2024-10-27T00:50:00Z"]
    table = sequences({"id": ["a"] * 3, "t": times, "x": [3, 1, 2]})
    assert table["x"].to_pylist() == [[1, 2, 3]]
    typed = {"id": ["a"], "t": pa.array([datetime(2024, 10, 27, 1)], pa.timestamp("us", "UTC")), "x": [9]}
    assert sequences({"id": ["a"], "t": times[:1], "x": [3]}, typed)["x"].to_pylist() == [[9, 3]]


def test_several_columns_are_the_vector_of_a_step(sequences):
    layout = StepLayout("id", "t", (StepInput("v", ("p1", "p0")),))
    table = sequences(
        {"id": ["a", "b", "a"], "t": [2, 0, 1], "p0": [1, 2, 3], "p1": [4, None, 6]}, layout=layout, buckets=2
    )
    assert table.schema.field("v").type == pa.list_(pa.list_(pa.int64()))
    assert table["v"].to_pylist() == [[[6, 3], [4, 1]], [[None, 2]]]


@pytest.mark.parametrize("kind", [pa.uint8(), pa.float16(), pa.bool_(), pa.float64()])
def test_a_hole_in_a_vector_is_null_in_any_type(sequences, kind):
    layout = StepLayout("id", "t", (StepInput("v", ("p", "q")),))
    one, hole = pa.array([1, 0]).cast(kind), pa.array([None, 1]).cast(kind)
    table = sequences({"id": ["a", "a"], "t": [1, 2], "p": one, "q": hole}, layout=layout)
    assert table.schema.field("v").type == pa.list_(pa.list_(kind))
    assert table["v"].to_pylist() == [[[1, None], [0, 1]]]


def test_cells_that_are_lists_are_the_vectors(sequences):
    fixed = pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))
    table = sequences({"id": ["a", "a"], "t": [2, 1], "x": fixed})
    assert table.schema.field("x").type == pa.list_(pa.list_(pa.float32()))
    assert table["x"].to_pylist() == [[[3, 4], [1, 2]]]


def test_texts_and_constants_are_kept_as_written(sequences):
    layout = StepLayout("id", "t", (StepInput("word", kind="text"),), ("tag",), ("age", "when", "f", "id"))
    when = pa.array([datetime(2024, 1, 1, 12, 0, 0, 500_000)] * 2, pa.timestamp("us"))
    table = sequences(
        {
            "id": [7, 7],
            "t": [2, 1],
            "word": ["", "01"],
            "tag": [True, None],
            "age": ["007"] * 2,
            "when": when,
            "f": [0.1] * 2,
        },
        layout=layout,
    )
    assert table.drop_columns([FAULT, POSITIONS]).to_pydict() == {
        "id": ["7"],
        "word": [["01", ""]],
        "tag": [[None, "true"]],
        "age": ["007"],
        "when": ["2024-01-01T12:00:00.5"],
        "f": ["0.1"],
    }


def test_one_row_for_each_sequence_and_empty_buckets_are_fine(sequences):
    table = sequences({"id": ["a", "b"], "t": [1, 1], "x": [1, 2]}, buckets=9)
    assert table["x"].to_pylist() == [[1], [2]]


def test_order_and_feature_may_be_one_column(sequences):
    layout = StepLayout("id", "t", (StepInput("t"),))
    assert sequences(A, layout=layout)["t"].to_pylist() == [[2], [1, 2]]


@pytest.mark.parametrize(
    ("one", "other", "messages"),
    [
        (
            ["2024-01-01T00:00:00Z"],
            ["2024-01-01"],
            [
                "a.arrow, row 0, column t: '2024-01-01T00:00:00Z' has a time zone, "
                "but '2024-01-01' (b.arrow, row 0) has none",
                "b.arrow, row 0, column t: '2024-01-01' has no time zone, "
                "but '2024-01-01T00:00:00Z' (a.arrow, row 0) has one",
            ],
        ),
        (
            [None, 5],
            ["2024-01-01"],
            [
                "a.arrow, row 1, column t: 5 is a number, "
                "but '2024-01-01' (b.arrow, row 0) is a date or time",
                "b.arrow, row 0, column t: '2024-01-01' is a date or time, "
                "but 5 (a.arrow, row 1) is a number",
            ],
        ),
        (
            ["1"],
            ["2", "soon"],
            [
                "b.arrow, row 1, column t: received 'soon', expected a number, "
                "or a date or time as ISO 8601 spells it"
            ],
        ),
    ],
)
def test_order_values_of_several_kinds_are_refused(tmp_path, one, other, messages):
    tables = [{"id": ["a"] * len(t), "t": t, "x": [1] * len(t)} for t in (one, other)]
    spreads = spreads_of(tables, layout=PLAIN, buckets=2, folder=tmp_path)
    with pytest.raises(DataError) as caught:
        common_order(spreads)
    assert [str(problem) for problem in caught.value.problems] == messages


def test_numbers_and_lists_of_them_are_not_united(tmp_path):
    spreads = spreads_of([A, {**B, "x": [[1]] * 3}], layout=PLAIN, buckets=1, folder=tmp_path)
    with pytest.raises(DataError, match=r"b\.arrow, column x: received list.* but int64 in a\.arrow"):
        common_types(spreads)


def test_a_missing_column_is_told(tmp_path):
    with pytest.raises(DataError, match=r"a\.arrow, column x: no such column; there are id, t"):
        spreads_of([{"id": ["a"], "t": [1]}], layout=PLAIN, buckets=1, folder=tmp_path)


def test_a_source_knows_the_files_its_steps_come_from(tmp_path):
    spreads = spreads_of([A, B], layout=PLAIN, buckets=1, folder=tmp_path)
    origins = (Origin("a.arrow", 0), Origin("b.arrow", 3))
    target = str(tmp_path / "made.arrow")
    made = assemble(
        pieces(spreads, 0), PLAIN, Kind.NUMBER, target, types=common_types(spreads), origins=origins
    )
    assert (made.path, made.name, made.format, made.num_rows) == (target, "sequences", "arrow", 2)
    assert made.origin(4) == ("b.arrow", 1)
    assert common_order(spreads) == Kind.NUMBER
    (part,) = readers.parts([made])
    (batch,) = readers.scan(part, ["id", "x"])
    assert batch["x"].to_pylist() == [[5, 6, 7], [0, 1, 2]]


CELLS = st.none() | st.floats(allow_nan=False, width=32)
EXPLODED = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3),
    st.dictionaries(st.integers(-(2**62), 2**62), CELLS, min_size=1, max_size=6),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(EXPLODED, st.integers(1, 4), st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_sequences_taken_apart_come_back_as_they_were(expected, num_files, buckets, as_text, random):
    rows = [(name, t, x) for name, steps in expected.items() for t, x in steps.items()]
    random.shuffle(rows)
    cuts = sorted(random.randrange(len(rows) + 1) for _ in range(num_files - 1))
    tables = []
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        names, order, values = ([row[at] for row in rows[start:end]] for at in range(3))
        ids = pa.array(names, pa.string())
        if as_text:
            order, values = map(str, order), (None if x is None else repr(x) for x in values)
        kinds = (pa.string(), pa.string()) if as_text else (pa.int64(), pa.float64())
        tables.append(pa.table({"id": ids, "t": pa.array(order, kinds[0]), "x": pa.array(values, kinds[1])}))
    with TemporaryDirectory() as folder:
        made = rows_of(tables, layout=PLAIN, buckets=buckets, folder=folder)
    assert faults(made) == [None] * len(expected)
    assert list(made["id"].to_pylist()) == list(dict.fromkeys(name for name, _, _ in rows))
    assert dict(zip(made["id"].to_pylist(), made["x"].to_pylist(), strict=True)) == {
        name: [x for _, x in sorted(steps.items())] for name, steps in expected.items()
    }
    for name, x, places in zip(*(made[column].to_pylist() for column in ("id", "x", POSITIONS)), strict=True):
        assert [rows[place][::2] for place in places] == [(name, value) for value in x]
