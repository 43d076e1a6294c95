"""Rows left out keep everything they had, and say why and where."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data import rejects


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
        {"reason": "no steps", "file": "a.parquet", "row": 1,
         "source.id": "b", "source.x": [], "source.note": 2},
        {"reason": "not finite", "file": "a.parquet", "row": 3,
         "source.id": "d", "source.x": [float("inf")], "source.note": 4},
    ]  # fmt: skip


def test_a_part_whose_column_is_null_throughout_goes_with_the_others(make_parts, tmp_path):
    tables = [pa.table({"id": ["a"], "x": pa.nulls(1)}), pa.table({"id": ["b"], "x": [[1.0]]})]
    files = []
    for part, table in zip(make_parts(*tables), tables, strict=True):
        found = rejects.table(table.to_batches()[0], np.array([True]), {0: "bad"}, 0, part)
        files.append(str(tmp_path / f"{part.number}.rejected"))
        rejects.write([found], files[-1])
    rejects.gather(files, str(tmp_path / "all.parquet"))
    together = pq.read_table(tmp_path / "all.parquet")
    assert together["source.x"].to_pylist() == [None, [1.0]]
    assert together["file"].to_pylist() == ["a.parquet", "b.parquet"]
