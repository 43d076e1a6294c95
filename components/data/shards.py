"""Rows of a split in an order of their own, whatever the files: by the digest of their inputs.

    part 0 ─┐ pieces       ┌ train/part-00000.parquet   digests 00.. to 7f..
    part 1 ─┴──────────────┴ train/part-00001.parquet   digests 80.. to ff..

A shard holds a stretch of digests, so rows that come in another order, or from other files, give the same
shards but for the columns `row` and `file`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.columns import Nested, Words
from components.data.encoders import Counts, Statistics
from components.data.indexes import DIGEST_BYTES
from components.data.tags import transitions

SHARD_VALUES = 1 << 24
ROW_VALUES = 16  # what a row weighs beside its values
MAX_SHARDS = 1 << 10
ROW_GROUP_ROWS = 1 << 13


@dataclass(frozen=True)
class Piece:
    """Rows of one shard that one part wrote: some record batches of an Arrow file."""

    file: str
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Shard:
    """A written shard, and what is known of its steps."""

    file: str  # below data/
    rows: int
    steps: int
    sha256: str
    lengths: np.ndarray  # (rows,) int32
    label_counts: np.ndarray  # (C,) int64
    statistics: tuple[Statistics | Counts, ...]  # of each input, then of each context column
    samples: tuple[np.ndarray | None, ...] = ()  # of each: numbers of its first steps (S', F); None for text
    transitions: np.ndarray | None = None  # (C + 1, C + 1) how often a tag follows another, where asked for


@dataclass(frozen=True)
class Content:
    """What the columns of the inputs and of the context hold: Arrow's type of a value."""

    inputs: tuple[pa.DataType, ...]
    context: tuple[pa.DataType, ...]
    per_step: bool
    num_kept: int = 0  # columns of text that evaluation alone reads

    def names(self) -> list[str]:
        """Columns of the inputs, then of the context."""
        inputs = [f"x{i}" for i in range(len(self.inputs))]
        return inputs + [f"c{i}" for i in range(len(self.context))]


def schema(content: Content) -> pa.Schema:
    """The columns of a shard; `k` are those that evaluation alone reads, as text."""
    columns = {
        "row": pa.int64(),
        "id": pa.string(),
        "file": pa.dictionary(pa.int32(), pa.string()),
        "length": pa.int32(),
        **{f"x{i}": pa.list_(kind) for i, kind in enumerate(content.inputs)},
        **{f"c{i}": kind for i, kind in enumerate(content.context)},
        **{f"k{i}": pa.string() for i in range(content.num_kept)},
        "y": pa.list_(pa.int32()) if content.per_step else pa.int32(),
        "digest": pa.binary(DIGEST_BYTES),
    }
    return pa.schema(columns)


def num_shards(num_rows: int, num_values: int) -> int:
    """How many shards a split of this size has."""
    return min(MAX_SHARDS, max(1, -(-(num_values + ROW_VALUES * num_rows) // SHARD_VALUES)))


def shard_of(digests: pa.FixedSizeBinaryArray, num: int) -> np.ndarray:
    """The shard of each digest, (n,) int64: equal stretches of their first two bytes."""
    width = DIGEST_BYTES
    content = np.frombuffer(digests.buffers()[1], np.uint8, offset=digests.offset * width)
    pairs = content[: len(digests) * width].reshape(-1, width)[:, :2].astype(np.int64)
    return (pairs[:, 0] * 256 + pairs[:, 1]) * num // 65536


def content_digest(folder: Path) -> str:
    """SHA-256 of what the rows of a split hold: inputs, lengths and labels, in the shards' order.

    Unlike that of a shard, it is the same whatever the files were called, and wherever in them a row stood.
    """
    hashers = {name: hashlib.sha256() for name in ("digest", "length", "y")}
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        columns = [name for name in hashers if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            for name in columns:
                values = batch[name]
                flat = values.flatten() if pa.types.is_list(values.type) else values
                if pa.types.is_integer(flat.type):
                    hashers[name].update(flat.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                else:
                    hashers[name].update(b"".join(flat.to_pylist()))
    return hashlib.sha256(b"".join(hasher.digest() for hasher in hashers.values())).hexdigest()


def flat_rows(values: Nested | Words, kind: pa.DataType) -> pa.ListArray:
    """Each row's values laid end to end, of the column's own type."""
    if isinstance(values, Words):
        offsets = np.concatenate([[0], np.cumsum(values.lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, values.values)
    offsets = np.concatenate([[0], values.row_ends]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.values, kind))


def write_shard(
    pieces: Sequence[Piece],
    *,
    target: str,
    name: str,
    features: Sequence[int],
    quantiles: Sequence[bool],
    num_labels: int,
    sampled: int = 0,
    follow: bool = False,
) -> Shard:
    """Put the pieces of one shard in order and write it.

    Args:
        pieces: the rows of this shard.
        target: the prepared data's folder.
        name: the shard's file below it.
        features: of each input and context column.
        quantiles: whether the encoding of each needs them.
        num_labels: C.
        sampled: how many numbers of each column to keep as a sample. Rows stand in the order of a hash, so
            the first ones are as good as any drawn at random.
        follow: whether to count which label follows which.
    """
    table = _in_order(pa.concat_tables([_read(piece) for piece in pieces]).unify_dictionaries())
    path = Path(target) / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    statistics, samples = _statistics(table, features, quantiles, sampled) if len(table) else ((), ())
    labels = table["y"].combine_chunks()
    codes = labels.flatten() if pa.types.is_list(labels.type) else labels
    lengths = table["length"].to_numpy()
    return Shard(
        file=name,
        rows=len(table),
        steps=int(lengths.sum()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        lengths=lengths,
        label_counts=np.bincount(codes.to_numpy(), minlength=num_labels),
        statistics=statistics,
        samples=samples,
        transitions=transitions(codes.to_numpy(), lengths, num_labels) if follow and len(table) else None,
    )


def _statistics(
    table: pa.Table, features: Sequence[int], quantiles: Sequence[bool], sampled: int
) -> tuple[tuple[Statistics | Counts, ...], tuple[np.ndarray | None, ...]]:
    """Of each column, and the beginning of its numbers."""
    names = [name for name in table.schema.names if name[0] in "xc"]
    found: list[Statistics | Counts] = []
    samples: list[np.ndarray | None] = []
    for name, width, exact in zip(names, features, quantiles, strict=True):
        column = table[name].combine_chunks()
        values = column.flatten() if pa.types.is_list(column.type) else column
        if pa.types.is_string(values.type):
            found.append(Counts.of(values))
            samples.append(None)
        else:
            numbers = values.to_numpy(zero_copy_only=False).reshape(-1, width)
            found.append(Statistics.of(numbers, quantiles=exact))
            samples.append(numbers[: max(1, sampled // width)].astype(np.float64) if sampled else None)
    return tuple(found), tuple(samples)


def _read(piece: Piece) -> pa.Table:
    with pa.memory_map(piece.file) as file:
        reader = pa.ipc.open_file(file)
        return pa.Table.from_batches([reader.get_batch(batch) for batch in piece.batches])


def _in_order(table: pa.Table) -> pa.Table:
    """By digest, then id, then labels: `row` only decides between rows that are equal in all that matters."""
    counts = pc.value_counts(table["digest"])
    twins = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    at = pc.indices_nonzero(pc.is_in(table["digest"], value_set=twins)).to_pylist()
    few = table.select(["digest", "id", "y", "row"]).take(pa.array(at, pa.int64())).to_pylist()
    keys = [(row["digest"], row["id"] or "", row["y"], row["row"]) for row in few]
    rank = np.zeros(len(table), np.int64)
    rank[[at[i] for i in sorted(range(len(at)), key=keys.__getitem__)]] = np.arange(len(at))
    ranked = table.select(["digest"]).append_column("rank", pa.array(rank))
    order = pc.sort_indices(ranked, [("digest", "ascending"), ("rank", "ascending")])
    return table.take(order).combine_chunks()
