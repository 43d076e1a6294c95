"""Rows left out keep everything they had, and say why and where."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers, rejects
from components.data.readers.sources import FAULT, FAULT_TYPE, LINE, POSITIONS, Origin, Part, Source


def test_rejected_rows_are_as_they_were_with_reason_and_place(make_parts, tmp_path):
    table = pa.table(
        {"id": ["a", "b", "c", "d"], "x": [[1.0], [], None, [float("inf")]], "note": [1, 2, 3, 4]}
    )
    (part,) = make_parts(table)
    batch = table.to_batches()[0].slice(1, 3)
    reasons = {1: "no steps", 3: "not finite"}
    rejected = rejects.table(batch, np.array([True, False, True]), reasons, 1, part)
    rejects.write([rejected], str(tmp_path / "rejected.parquet"))
    assert pq.read_table(tmp_path / "rejected.parquet").to_pylist() == [
        {"reason": "no steps", "file": "a.parquet", "row": 1, "line": None,
         "source.id": "b", "source.x": [], "source.note": 2},
        {"reason": "not finite", "file": "a.parquet", "row": 3, "line": None,
         "source.id": "d", "source.x": [float("inf")], "source.note": 4},
    ]  # fmt: skip


def rejected(make_parts, tables: list[pa.Table], folder) -> pa.Table:
    """What is kept when every row of tables with one row each is rejected."""
    files = []
    for part, table in zip(make_parts(*tables), tables, strict=True):
        found = rejects.table(table.to_batches()[0], np.array([True]), {0: "bad"}, 0, part)
        files.append(str(folder / f"{part.number}.rejected"))
        rejects.write([found], files[-1])
    rejects.gather(files, str(folder / "all.parquet"))
    return pq.read_table(folder / "all.parquet")


def test_a_part_whose_column_is_null_throughout_goes_with_the_others(make_parts, tmp_path):
    tables = [pa.table({"id": ["a"], "x": pa.nulls(1)}), pa.table({"id": ["b"], "x": [[1.0]]})]
    together = rejected(make_parts, tables, tmp_path)
    assert together["source.x"].to_pylist() == [None, [1.0]]
    assert together["file"].to_pylist() == ["a.parquet", "b.parquet"]


def test_rows_count_from_the_start_of_the_file_in_whichever_part_they_lie(make_parts, monkeypatch):
    monkeypatch.setattr(readers, "PART_VALUES", 1)
    parts = make_parts({"id": [*"abcdef"]}, row_group_size=2)
    assert [part.first_row for part in parts] == [0, 2, 4]
    (batch,) = readers.scan(parts[2], ["id"])
    found = rejects.table(batch, np.array([False, True]), {1: "bad"}, 0, parts[2])
    assert found.select(["row", "source.id"]).to_pylist() == [{"row": 5, "source.id": "f"}]


TEXTS, LISTS = ["a", None, "", "long enough not to lie in a view"], [[1.0, 2.0], None, [], [3.0]]


@pytest.mark.parametrize(
    "column",
    [
        *[pa.array(TEXTS, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())],
        pa.array(TEXTS).dictionary_encode(),
        *[pa.array(LISTS, kind(pa.float32())) for kind in (pa.list_, pa.large_list)],
        *[pa.array(LISTS, kind(pa.float32())) for kind in (pa.list_view, pa.large_list_view)],
        pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        pa.array([[[1.0], None], None, [], [[2.0, None]]], pa.list_view(pa.list_view(pa.float32()))),
        pa.array([TEXTS, None, [], TEXTS[:1]], pa.list_(pa.string_view())),
        pa.array([[], None, [None]], pa.list_(pa.null())),
    ],
    ids=lambda column: str(column.type).replace(" ", ""),
)
def test_any_layout_of_a_column_is_kept_value_by_value(make_parts, tmp_path, column):
    (part,) = make_parts({"x": column})
    for first in (0, 1):  # a slice starts in the middle of its buffers
        batch = pa.record_batch({"x": column}).slice(first)
        reasons = dict.fromkeys(range(len(column)), "bad")
        for mask in (np.ones(len(batch), bool), np.arange(len(batch)) % 2 == 1):
            rejects.write([rejects.table(batch, mask, reasons, first, part)], str(tmp_path / "r.parquet"))
            stored = pq.read_table(tmp_path / "r.parquet")["source.x"]
            assert stored.to_pylist() == [
                x for x, taken in zip(batch["x"].to_pylist(), mask, strict=True) if taken
            ]


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        ((pa.list_(pa.null()), pa.list_(pa.float32())), ([], [1.0])),
        ((pa.list_(pa.null()), pa.list_(pa.list_(pa.float32()))), ([], [[1.0]])),
        ((pa.int8(), pa.int64()), (1, 1 << 40)),
        ((pa.large_string(), pa.string()), ("a", "b")),
    ],
)
def test_files_that_agree_but_for_the_layout_are_gathered_in_their_order(make_parts, tmp_path, kinds, values):
    columns = [pa.array([value], kind) for kind, value in zip(kinds, values, strict=True)]
    parts = make_parts(*[{"x": column} for column in columns])
    for part, column in zip(parts, columns, strict=True):
        found = rejects.table(pa.record_batch({"x": column}), np.array([True]), {0: "bad"}, 0, part)
        rejects.write([found], str(tmp_path / f"{part.number}.rejected"))
    for order in ([0, 1], [1, 0]):
        rejects.gather([str(tmp_path / f"{i}.rejected") for i in order], str(tmp_path / "all.parquet"))
        together = pq.read_table(tmp_path / "all.parquet")
        assert together["source.x"].to_pylist() == [values[i] for i in order]
        assert together["file"].to_pylist() == ["ab"[i] + ".parquet" for i in order]


def test_whole_numbers_of_mixed_signs_keep_every_digit(make_parts, tmp_path):
    kinds = {pa.uint64(): 2**64 - 1, pa.int64(): -(2**63), pa.int8(): -1, pa.null(): None}
    tables = [pa.table({"id": pa.array([value], kind)}) for kind, value in kinds.items()]
    assert rejected(make_parts, tables, tmp_path)["source.id"].to_pylist() == list(kinds.values())


def test_rows_of_text_files_give_their_line_and_none_of_our_columns(make_parts):
    own = {LINE: [2, 5], FAULT: pa.nulls(2, FAULT_TYPE)}
    (part,) = make_parts({"id": ["a", "b"]})
    batch = pa.record_batch({"id": ["a", "b"], **own})
    found = rejects.table(batch, np.array([False, True]), {1: "bad"}, 0, part)
    expected = {"reason": "bad", "file": "a.parquet", "row": 1, "line": 5, "source.id": "b"}
    assert found.to_pylist() == [expected]


def test_a_row_made_of_several_is_at_the_first_of_them():
    origins = (Origin("a.csv", 0), Origin("b.csv", 5))
    source = Source("", "sequences", "arrow", pa.schema([]), (), {}, origins)
    places = pa.array([[4, 9], [8, 7], [1]], pa.list_(pa.int64()))
    batch = pa.record_batch({"id": [*"abc"], POSITIONS: places})
    found = rejects.table(
        batch, np.array([True, True, False]), {10: "bad", 11: "worse"}, 10, Part(0, source, (), 0, 0, 3)
    )
    assert found.select(["file", "row", "source.id"]).to_pylist() == [
        {"file": "a.csv", "row": 4, "source.id": "a"},
        {"file": "b.csv", "row": 2, "source.id": "b"},
    ]
