"""Prepared sequences opened for training: flat arrays, cut into padded batches that carry their lengths.

    steps   x  [ s0 s0 s0 | s1 | s2 s2 ]      (S, W) float32, already encoded
    offsets    [ 0          3    4       6 ]  (n + 1,)
    batch   x  (B, T, W) zero-filled on the right, lengths (B,), targets, weights (B,)
    packed  several batches end to end, each with a T of its own

Letters: S all steps, n sequences, B batch, T padded time, W numbers of a step, said by `slots`, N batches.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.served.encoding import Encoding, Slot, slots_of
from components.served.numbers import NumericEncoding
from components.served.symbols import TokenEncoding
from components.served.windows import windows

MAX_RESIDENT_BYTES = 1 << 30

Plan = list[np.ndarray]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Sequences padded to one length. Filler rows have length 1, target 0 and weight 0."""

    rows: np.ndarray  # (B,) place in the set, -1 for filler
    x: np.ndarray  # (B, T, W) float32
    lengths: np.ndarray  # (B,) int32, at least 1
    targets: np.ndarray  # (B, T) or (B,) int32
    weights: np.ndarray  # (B,) float32: what a row's summed loss is multiplied with

    @property
    def num_steps(self) -> int:
        """Real steps, filler not counted."""
        return int(self.lengths[self.rows >= 0].sum())

    def part(self, index: int, parts: int) -> "Batch":
        """One of as many equal parts of its rows."""
        size = len(self.rows) // parts
        mine = slice(size * index, size * (index + 1))
        return Batch(
            self.rows[mine], self.x[mine], self.lengths[mine], self.targets[mine], self.weights[mine]
        )


@dataclass(frozen=True)
class Packed:
    """The batches of several optimizer steps end to end, with no padding between them: the sum of their B*T.

    `layout` has a line for each batch: its B, its T, its place in its step, and whether it ends the step.
    """

    x: np.ndarray  # (sum B*T, W) float32
    lengths: np.ndarray  # (sum B,) int32
    targets: np.ndarray  # (sum B*T,) or (sum B,) int32
    weights: np.ndarray  # (sum B,) float32
    layout: np.ndarray  # (N, 4) int32

    @classmethod
    def of(cls, steps: Sequence[Sequence[Batch]]) -> "Packed":
        """Of the batches of each step, in their order."""
        batches = [batch for step in steps for batch in step]
        layout = [
            (*batch.x.shape[:2], place, place == len(step) - 1)
            for step in steps
            for place, batch in enumerate(step)
        ]
        return cls(
            np.concatenate([batch.x.reshape(-1, batch.x.shape[2]) for batch in batches]),
            np.concatenate([batch.lengths for batch in batches]),
            np.concatenate([batch.targets.ravel() for batch in batches]),
            np.concatenate([batch.weights for batch in batches]),
            np.array(layout, np.int32),
        )


@dataclass(frozen=True)
class SequenceSet:
    """All sequences of one split."""

    x: np.ndarray  # (S, W) float32
    offsets: np.ndarray  # (n + 1,) int64
    y: np.ndarray  # (S,) for labelling, (n,) for classification, int32
    row: np.ndarray  # (n,) int64, place in the source
    ids: pa.StringArray
    per_step: bool
    slots: tuple[Slot, ...]  # what the numbers of a step are
    tables: Mapping[int, np.ndarray] = field(default_factory=dict)  # see `tables`

    @classmethod
    def open(cls, folder: Path, encoding: Encoding) -> "SequenceSet":
        """Read a prepared split (`data/train`, `data/valid`, `data/test`) and encode it.

        Sets larger than 1 GiB are laid out in a scratch file and paged in by the system, so memory stays
        bounded.
        """
        split = json.loads((folder.parent / "manifest.json").read_text("utf8"))["splits"][folder.name]
        n, num_steps = split["rows"], split["steps"]
        per_step = encoding.task == "labelling"
        x = _allocate((num_steps, encoding.num_features))
        y = np.empty(num_steps if per_step else n, np.int32)
        lengths = np.empty(n, np.int64)
        row = np.empty(n, np.int64)
        ids: list[pa.Array] = []
        at = step = 0
        for shard in split["shards"]:
            for batch in pq.ParquetFile(folder / Path(shard["file"]).name).iter_batches(batch_size=8192):
                table = {name: batch.column(name) for name in batch.schema.names}
                size, steps = len(batch), int(np.sum(table["length"].to_numpy()))
                lengths[at : at + size] = table["length"].to_numpy()
                row[at : at + size] = table["row"].to_numpy()
                ids.append(table["id"].cast(pa.string()))
                x[step : step + steps] = encoding.encode(_columns(table, encoding), lengths[at : at + size])
                if per_step:
                    y[step : step + steps] = _values(table["y"])
                else:
                    y[at : at + size] = table["y"].to_numpy()
                at, step = at + size, step + steps
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        names = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        return cls(x, offsets, y, row, names, per_step, encoding.slots, tables(folder.parent, encoding))

    def __len__(self) -> int:
        return len(self.row)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence, (n,) int64."""
        return np.diff(self.offsets)

    def cut(self, max_length: int | None) -> "SequenceSet":
        """Sequences of at most `max_length` steps: longer ones become several of nearly equal length.

        The parts of a sequence keep its row and id, and a classifier's its label. None gives the set itself.
        """
        if max_length is None:
            return self
        parts = windows(self.lengths, max_length)
        return replace(
            self,
            offsets=np.concatenate([[0], parts.kept_stops]),
            y=self.y if self.per_step else self.y[parts.owners],
            row=self.row[parts.owners],
            ids=self.ids.take(pa.array(parts.owners)),
        )

    def targets(self, index: int) -> np.ndarray:
        """Class indices of one sequence: (T,) or (1,)."""
        return self.y[self.offsets[index] : self.offsets[index + 1]] if self.per_step else self.y[[index]]

    def batch(
        self,
        rows: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        multiple_of: int = 1,
        pad_to: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Batch:
        """The given rows as one padded batch, or a part of it.

        Args:
            rows: places in the set, (b,).
            weights: what each row's loss is multiplied with, (b,); 1 when not given.
            multiple_of: filler rows are added until the batch is a multiple of this (replicas).
            pad_to: padded length; the longest of the rows when not given.
            share: `(i, n)` gives the i-th of n equal parts, padded like the whole, when `multiple_of` is a
                multiple of n (workers).
        """
        size = -(-len(rows) // multiple_of) * multiple_of
        padded = int(pad_to or max((self.offsets[rows + 1] - self.offsets[rows]).max(), 1))
        index, parts = share
        mine = slice(size * index // parts, size * (index + 1) // parts)
        size, rows, weights = mine.stop - mine.start, rows[mine], None if weights is None else weights[mine]
        lengths = np.ones(size, np.int32)
        lengths[: len(rows)] = self.offsets[rows + 1] - self.offsets[rows]
        x = np.zeros((size, padded, self.x.shape[1]), np.float32)
        targets = np.zeros((size, padded) if self.per_step else size, np.int32)
        for i, (start, stop) in enumerate(zip(self.offsets[rows], self.offsets[rows + 1], strict=True)):
            x[i, : stop - start] = self.x[start:stop]
            if self.per_step:
                targets[i, : stop - start] = self.y[start:stop]
        if not self.per_step:
            targets[: len(rows)] = self.y[rows]
        weighted = np.zeros(size, np.float32)
        weighted[: len(rows)] = 1.0 if weights is None else weights
        places = np.full(size, -1, np.int64)
        places[: len(rows)] = rows
        return Batch(places, x, lengths, targets, weighted)


def tables(folder: Path, encoding: Encoding) -> dict[int, np.ndarray]:
    """By place of a slot of symbols: the vectors (n, embedding) that its last n symbols begin as.

    Args:
        folder: the prepared data.
        encoding: that of the data; of another one, what does not fit is left out.
    """
    stored = json.loads((folder / "manifest.json").read_text("utf8")).get("inputs", ())
    of_column = {each["column"]: each["vectors"] for each in stored if "vectors" in each}
    found: dict[int, np.ndarray] = {}
    place = 0
    for part in encoding.inputs:
        about = of_column.get(part.column)
        if about and isinstance(part, TokenEncoding) and part.vectors == about["rows"]:
            found[place] = np.load(folder / about["file"], mmap_mode="r")
        place += len(slots_of(part))
    return found


def training_plan(
    lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int, batch_steps: int | None = None
) -> Plan:
    """Rows of every batch of one epoch: like lengths together, yet random.

    A pure function of its arguments, so a position in it is (epoch, batch). Sequences are sorted by a
    length blurred with noise: strict buckets made batches of like words and cost accuracy per epoch on
    OCR letters. The one partial batch stands anywhere.

    Args:
        lengths: steps of each sequence, (n,).
        batch_size: sequences of a batch.
        seed: of the run.
        epoch: from 0.
        batch_steps: in place of `batch_size`: time steps of a batch, padding included; a longer sequence
            is a batch of its own.
    """
    rng = np.random.default_rng([seed, epoch])
    blur = rng.uniform(0.0, 3.0 + 0.25 * lengths)
    order = np.lexsort((rng.permutation(len(lengths)), lengths + blur))
    by_size = range(batch_size, len(order), batch_size)
    cuts = list(by_size) if batch_steps is None else _cuts(lengths[order], batch_steps)
    batches = np.split(order, cuts)
    return [batches[i] for i in rng.permutation(len(batches))]


def _cuts(lengths: np.ndarray, most: int) -> list[int]:
    """Where a row of sequences is cut so that no part takes more than `most` steps with its padding."""
    cuts: list[int] = []
    start = longest = 0
    for at, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if at > start and (at + 1 - start) * longest > most:
            cuts.append(at)
            start, longest = at, length
    return cuts


def static_lengths(lengths: np.ndarray, *, most: int = 8) -> np.ndarray:
    """At most `most` padded lengths that cover all sequences, for graphs unrolled to a fixed length."""
    return np.unique(np.quantile(lengths, np.linspace(0, 1, most + 1)[1:], method="higher")).astype(np.int64)


def ahead(build: Callable[[S], T], plan: Iterable[S]) -> Iterator[T]:
    """`build(rows)` for each entry of the plan, one ahead of its consumer, in a thread.

    The plan is read one entry ahead too, so what is yet to come of it may depend on what was consumed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        futures: list[Future[T]] = []
        for rows in plan:
            futures.append(pool.submit(build, rows))
            if len(futures) > 1:
                yield futures.pop(0).result()
        for future in futures:
            yield future.result()


def _columns(table: Mapping[str, pa.Array], encoding: Encoding) -> dict[str, np.ndarray]:
    """What the encoding asks for: of inputs the values of all steps, of context one for each row."""
    columns = {}
    for i, part in enumerate(encoding.inputs):
        values = _values(table[f"x{i}"])
        columns[part.column] = (
            values.reshape(-1, part.features) if isinstance(part, NumericEncoding) else values
        )
    for i, part in enumerate(encoding.context):
        columns[part.column] = table[f"c{i}"].to_numpy(zero_copy_only=False)
    return columns


def _values(column: pa.ListArray) -> np.ndarray:
    flat = column.flatten()
    if flat.null_count and pa.types.is_boolean(flat.type):
        flat = flat.cast(pa.int8())  # as numbers, so that missing ones become NaN
    return flat.to_numpy(zero_copy_only=False)


def _allocate(shape: tuple[int, int]) -> np.ndarray:
    size = 4 * shape[0] * shape[1]
    if size <= MAX_RESIDENT_BYTES:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="recurra-") as file:
        file.truncate(size)
        return np.memmap(file, np.float32, "r+", shape=shape)
