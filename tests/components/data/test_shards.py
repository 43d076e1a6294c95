"""Rows of a split in the order of their content."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.columns import nested, words
from components.data.shards import (
    MAX_SHARDS,
    SHARD_VALUES,
    Content,
    Piece,
    content_digest,
    flat_rows,
    num_shards,
    schema,
    shard_of,
    write_shard,
)

CONTENT = Content(inputs=(pa.float32(),), context=(), per_step=True)


def rows(*, seed: int = 0, n: int = 50) -> pa.Table:
    """Rows of 1 to 4 steps of two numbers, a few of them with the same inputs."""
    rng = np.random.default_rng(seed)
    digests = [bytes(rng.integers(0, 256, 16, np.uint8)) for _ in range(n - 3)]
    digests += digests[:3]
    lengths = rng.integers(1, 5, n)
    columns = {
        "row": range(n),
        "id": [f"r{i}" for i in range(n)],
        "file": pa.array(["a.parquet"] * n).dictionary_encode(),
        "length": lengths,
        "x0": [rng.normal(size=2 * length).tolist() for length in lengths],
        "y": [rng.integers(0, 3, length).tolist() for length in lengths],
        "digest": digests,
    }
    names = schema(CONTENT)
    return pa.table([pa.array(columns[name], names.field(name).type) for name in names.names], names)


def piece(table: pa.Table, path) -> Piece:
    options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
    with pa.ipc.new_file(str(path), table.schema, options=options) as file:
        for batch in table.to_batches(max_chunksize=7):
            file.write_batch(batch)
    return Piece(str(path), tuple(range(-(-len(table) // 7))))


def written(tables, tmp_path, name="train/part.parquet"):
    pieces = [piece(table, tmp_path / f"{i}.arrow") for i, table in enumerate(tables)]
    return write_shard(pieces, target=str(tmp_path), name=name, features=[2], quantiles=[False], num_labels=3)


def test_a_shard_knows_its_rows(tmp_path):
    table = rows()
    shard = written([table], tmp_path)
    path = tmp_path / shard.file
    stored = pq.read_table(path)
    assert (shard.rows, shard.steps) == (50, sum(table["length"].to_pylist()))
    assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert shard.lengths.tolist() == stored["length"].to_pylist()
    labels = [label for row in table["y"].to_pylist() for label in row]
    assert shard.label_counts.tolist() == np.bincount(labels, minlength=3).tolist()
    values = np.concatenate([np.reshape(row, (-1, 2)) for row in table["x0"].to_pylist()])
    np.testing.assert_allclose(shard.statistics[0].mean, values.mean(axis=0), rtol=1e-6)
    assert sorted(stored["row"].to_pylist()) == list(range(50))


def test_the_order_follows_from_the_rows_alone(tmp_path):
    table = rows()
    order = np.random.default_rng(1).permutation(50)
    straight = written([table], tmp_path, "train/a.parquet")
    shuffled = table.take(order)
    other = written([shuffled.slice(0, 20), shuffled.slice(20)], tmp_path, "train/b.parquet")
    one, two = (pq.read_table(tmp_path / shard.file).drop(["row", "file"]) for shard in (straight, other))
    assert one.equals(two)
    assert one["digest"].to_pylist() == sorted(table["digest"].to_pylist())
    for name in ("count", "mean", "squares", "low", "high"):
        assert np.array_equal(getattr(straight.statistics[0], name), getattr(other.statistics[0], name))


def test_digests_are_cut_into_equal_stretches_in_their_order():
    digests = pa.array([bytes([first, 0]) + bytes(14) for first in range(256)], pa.binary(16))
    assert shard_of(digests, 1).tolist() == [0] * 256
    assert shard_of(digests, 4).tolist() == [first // 64 for first in range(256)]
    # A slice starts in the middle of its buffer.
    assert shard_of(digests.slice(200, 3), 4).tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("num_rows", "num_values", "expected"),
    [(0, 0, 1), (10, 1000, 1), (1, SHARD_VALUES, 2), (1, 10 * SHARD_VALUES - 16, 10), (1, 2**60, MAX_SHARDS)],
)
def test_shards_are_as_many_as_the_values_need(num_rows, num_values, expected):
    assert num_shards(num_rows, num_values) == expected


def test_numbers_keep_the_type_they_came_in():
    flat = schema(Content((pa.uint8(), pa.float64()), (), per_step=False))
    assert flat.field("x0").type == pa.list_(pa.uint8())
    assert flat.field("x1").type == pa.list_(pa.float64())
    assert flat.field("y").type == pa.int32()


def test_text_gaps_and_context_are_stored_and_counted(tmp_path):
    content = Content((pa.float64(), pa.string()), (pa.float64(), pa.string()), per_step=True)
    nan = float("nan")
    columns = {
        "row": [0, 1], "id": ["a", "b"], "file": pa.array(["f"] * 2).dictionary_encode(), "length": [2, 1],
        "x0": [[1.0, nan], [5.0]], "x1": [["ja", "nein"], ["ja"]], "c0": [nan, 2.0], "c1": ["m", "m"],
        "y": [[0, 1], [1]], "digest": [bytes(16), bytes([9] * 16)],
    }  # fmt: skip
    names = schema(content)
    table = pa.table([pa.array(columns[name], names.field(name).type) for name in names.names], names)
    shard = write_shard(
        [piece(table, tmp_path / "p.arrow")], target=str(tmp_path), name="train/part.parquet",
        features=[1, 1, 1, 1], quantiles=[True, False, False, False], num_labels=2, follow=True,
    )  # fmt: skip
    steps, words, age, sex = shard.statistics
    assert (steps.count.tolist(), steps.missing.tolist(), steps.mean.tolist()) == ([2], [1], [3.0])
    assert steps.quantiles.at(1.0, features=1).tolist() == [5.0]
    assert words.numbers == {"ja": 2, "nein": 1}
    assert (age.count.tolist(), age.missing.tolist(), age.quantiles) == ([1], [1], None)
    assert sex.numbers == {"m": 2}
    assert shard.transitions.tolist() == [[0, 1, 0], [0, 0, 2], [1, 1, 0]]
    stored = pq.read_table(tmp_path / shard.file)
    assert stored["x1"].to_pylist() == columns["x1"]
    assert stored["c1"].to_pylist() == ["m", "m"]
    assert np.isnan(stored["c0"][0].as_py())
    assert written([rows()], tmp_path).transitions is None


def test_rows_of_text_lie_flat_with_their_missing_ones_empty():
    flat = flat_rows(words(pa.array([["a", "b"], None, [], ["c"]])), pa.string())
    assert flat.to_pylist() == [["a", "b"], [], [], ["c"]]
    vectors = nested(pa.array([[[1, 2], [3, 4]], None, [[5, 6]]], pa.list_(pa.list_(pa.uint8()))))
    assert flat_rows(vectors, pa.uint8()).to_pylist() == [[1, 2, 3, 4], [], [5, 6]]


def test_the_digest_of_a_splits_content_knows_no_files_but_every_label(tmp_path):
    def digest(table, name):
        written([table], tmp_path, name=f"{name}/part.parquet")
        return content_digest(tmp_path / name)

    table = rows()
    moved = table.set_column(2, "file", pa.array(["b.parquet"] * len(table)).dictionary_encode())
    moved = moved.set_column(0, "row", pa.array(range(100, 150), pa.int64())).cast(table.schema)
    assert digest(table, "one") == digest(moved, "two")
    labels = table["y"].to_pylist()
    labels[0][0] = (labels[0][0] + 1) % 3
    other = table.set_column(
        table.schema.get_field_index("y"),
        table.schema.field("y"),
        pa.array(labels, table.schema.field("y").type),
    )
    assert digest(other, "three") != digest(table, "one")
