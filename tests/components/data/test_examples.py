import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.examples import examples


def prepared(folder, lengths, *, features=2, ids=True, dtype=np.uint8):
    """A prepared split of rows whose values count up, in two shards."""
    split = folder / "test"
    split.mkdir(parents=True)
    shards = []
    cut = len(lengths) // 2
    start = 0
    for number, part in enumerate((lengths[:cut], lengths[cut:])):
        values = [np.arange(n * features).astype(dtype) for n in part]
        table = pa.table(
            {
                "row": pa.array(range(start, start + len(part)), pa.int64()),
                "id": pa.array([f"id-{start + i}" if ids else None for i in range(len(part))], pa.string()),
                "length": pa.array(part, pa.int32()),
                "x0": pa.array(values, pa.list_(pa.from_numpy_dtype(dtype))),
            }
        )
        pq.write_table(table, split / f"part-0000{number}.parquet")
        shards.append({"file": f"part-0000{number}.parquet", "rows": len(part), "sha256": ""})
        start += len(part)
    manifest = {
        "splits": {"test": {"rows": len(lengths), "steps": int(sum(lengths)), "shards": shards}},
        "inputs": [{"column": "frames", "features": features, "dtype": str(np.dtype(dtype))}],
        "context": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf8")
    return split


def test_the_shortest_and_the_longest_rows_are_among_them(tmp_path):
    split = prepared(tmp_path, [3, 1, 4, 2, 9, 9, 9, 9])
    found = examples(split, most=3)
    assert [len(row) for row in found.values["frames"]] == [1, 2, 4]
    assert found.rows == (1, 3, 2)
    assert found.ids == ("id-1", "id-3", "id-2")


def test_rows_are_nested_lists_of_the_source_numbers(tmp_path):
    found = examples(prepared(tmp_path, [2, 2]), most=1)
    assert found.values["frames"] == [[[0, 1], [2, 3]]]
    assert json.dumps(found.columns("id")) == '{"id": ["id-0"], "frames": [[[0, 1], [2, 3]]]}'


def test_steps_of_one_feature_are_plain_numbers(tmp_path):
    found = examples(prepared(tmp_path, [2, 2], features=1, dtype=np.float32), most=1)
    assert found.values["frames"] == [[0.0, 1.0]]


def test_ids_are_left_out_where_there_are_none(tmp_path):
    found = examples(prepared(tmp_path, [2, 2], ids=False), most=2)
    assert list(found.columns("id")) == ["frames"]
    assert list(found.columns(None)) == ["frames"]


def test_large_rows_are_fewer_but_never_none(tmp_path):
    split = prepared(tmp_path, [5, 5, 5, 5], dtype=np.int32)
    assert len(examples(split, most=4, max_values=25).rows) == 2
    assert len(examples(split, most=4, max_values=1).rows) == 1


def test_no_more_rows_are_given_than_there_are(tmp_path):
    assert len(examples(prepared(tmp_path, [1, 2, 3, 4]), most=64).rows) == 2


def test_a_split_without_rows_is_named(tmp_path):
    with pytest.raises(ValueError, match="test holds no rows"):
        examples(prepared(tmp_path, []), most=1)


def test_context_is_one_value_a_row_and_what_is_missing_is_null(tmp_path):
    split = prepared(tmp_path, [0, 2], dtype=np.float64)
    nan = float("nan")
    columns = {
        "row": [0, 1], "id": ["a", "b"], "length": pa.array([2, 1], pa.int32()),
        "x0": [[1.0, nan, 3.0, 4.0], [5.0, 6.0]], "x1": [["Der", "Hund"], ["ja"]],
        "c0": [nan, 2.5], "c1": ["f", "m"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), split / "part-00000.parquet")
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf8"))
    manifest["inputs"].append({"column": "words", "features": 1})
    manifest["context"] = [{"column": "age", "features": 1}, {"column": "sex", "features": 1}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf8")
    found = examples(split, most=2)
    assert found.ids == ("b", "a")
    assert found.values == {
        "frames": [[[5.0, 6.0]], [[1.0, None], [3.0, 4.0]]],
        "words": [["ja"], ["Der", "Hund"]],
        "age": [2.5, None],
        "sex": ["m", "f"],
    }
