"""The rows of files where one row is one time step, cut into buckets by their id.

    id  t  x                 bucket 0   b 2 6   b 1 5
    b   2  6     spread      bucket 1   a 1 1   a 2 2
    a   1  1    ───────▶
    a   2  2                 id, position, whole and rest of the order value, line, fault, number x
    b   1  5

All rows of an id fall into one bucket, whatever file they stand in. A row's place in the whole input goes
with it, and what is wrong with it. Letter: S rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import readers
from components.data.columns import innermost, is_list, plain, text_kind, texts
from components.data.instants import Kind, order_values, parse_numbers
from components.data.layouts import StepInput, StepLayout, check_schema
from components.data.readers.sources import FAULT, FAULT_TYPE, LINE, Part, fault
from components.errors import DataError

BUCKET_VALUES = 1 << 22
SPREAD_BYTES = 1 << 26

Fault: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """The first order value of a kind."""

    kind: Kind
    value: str
    position: int  # in the whole input
    file: str
    row: int
    line: int | None


@dataclass(frozen=True)
class Spread:
    """The rows of a part, cut into buckets."""

    path: str
    file: str  # the user's
    column: str  # that gives the order
    batches: tuple[tuple[int, ...], ...]  # of the Arrow file `path`, by bucket
    types: Mapping[str, pa.DataType]  # of a step, by numeric input
    seen: tuple[Seen, ...]


@dataclass(frozen=True)
class Piece:
    """The rows of one part that fell into one bucket."""

    path: str
    batches: tuple[int, ...]


def num_buckets(num_rows: int, num_values: int) -> int:
    """Into how many buckets an input of that size is cut."""
    return max(1, -(-max(num_rows, num_values) // BUCKET_VALUES))


def pieces(spreads: Sequence[Spread], bucket: int) -> tuple[Piece, ...]:
    """What a bucket is assembled from."""
    found = (Piece(spread.path, spread.batches[bucket]) for spread in spreads)
    return tuple(piece for piece in found if piece.batches)


def spread(part: Part, layout: StepLayout, num_buckets: int, scratch: str) -> Spread:
    """Cut a part's rows into buckets, in an Arrow file of the folder `scratch`.

    Raises:
        DataError: the file is damaged, or a column is missing or of a type that cannot serve.
    """
    source = part.source
    if problems := check_schema(source.schema, layout, file=source.name):
        raise DataError("The files cannot be used.", problems=problems)
    cells = {column: _stored(source.schema.field(column).type) for column in layout.numeric}
    schema = _row_schema(layout, cells)
    path = Path(scratch) / f"steps-{part.number:05d}.arrow"
    seen: dict[Kind, Seen] = {}
    first = 0
    with _Buckets(path, schema, num_buckets) as buckets:
        for batch in readers.scan(part, layout.columns):
            rows, kinds = _rows(batch, layout, schema, position=part.position + first)
            for kind, row in _firsts(kinds):
                if kind not in seen:
                    seen[kind] = _seen(kind, batch, row, layout, part, first + row)
            buckets.add(rows)
            first += len(batch)
    types = {each.column: united([cells[column] for column in each.read]) for each in numeric_inputs(layout)}
    batches = tuple(map(tuple, buckets.batches))
    return Spread(str(path), source.name, layout.order, batches, types, tuple(seen.values()))


def read_bucket(
    bucket: Sequence[Piece], layout: StepLayout, types: Mapping[str, pa.DataType]
) -> dict[str, pa.Array]:
    """The rows of a bucket, their numbers in the types wanted."""
    cells = {column: types[each.column] for each in numeric_inputs(layout) for column in each.read}
    schema = _row_schema(layout, cells)
    tables = [schema.empty_table()]
    for piece in bucket:
        with pa.memory_map(piece.path) as mapped:
            reader = pa.ipc.open_file(mapped)
            found = pa.Table.from_batches(
                [reader.get_batch(number) for number in piece.batches], reader.schema
            )
        tables.append(found.cast(schema, safe=False))
    table = pa.concat_tables(tables)
    return {name: table[name].combine_chunks() for name in schema.names}


def united(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """The type that numbers of all these have, double where they differ; null of no type but null."""
    if any(is_list(kind) for kind in kinds):
        value = united([innermost(kind)[0] for kind in kinds])
        return pa.list_(pa.float64() if pa.types.is_null(value) else value)
    known = {kind for kind in kinds if not pa.types.is_null(kind)}
    if len(known) > 1:
        return pa.float64()
    return known.pop() if known else pa.null()


def number_key(column: str) -> str:
    """What buckets call a column of numbers."""
    return f"number {column}"


def text_key(column: str) -> str:
    """What buckets call a column of text."""
    return f"text {column}"


def numeric_inputs(layout: StepLayout) -> list[StepInput]:
    """The inputs of numbers."""
    return [each for each in layout.inputs if each.kind == "numeric"]


def _row_schema(layout: StepLayout, cells: Mapping[str, pa.DataType]) -> pa.Schema:
    """What buckets keep of a row. Roles come before names, as one column may have several."""
    fixed = {
        "id": pa.string(),
        "position": pa.int64(),
        "whole": pa.float64(),
        "rest": pa.int64(),
        "line": pa.int64(),
        "fault": FAULT_TYPE,
    }
    numbers = {number_key(column): cells[column] for column in layout.numeric}
    written = {text_key(column): pa.string() for column in (*layout.lists, *layout.single)}
    return pa.schema({**fixed, **numbers, **written})


def _rows(
    batch: pa.RecordBatch, layout: StepLayout, schema: pa.Schema, *, position: int
) -> tuple[pa.RecordBatch, np.ndarray]:
    """A batch as buckets keep it, and of which kind each order value is."""
    ids = _exact(batch.column(layout.id))
    ids = pc.if_else(pc.equal(ids, ""), None, ids)
    order = order_values(batch.column(layout.order))
    missing = [
        (layout.id, ids.is_null().to_numpy(zero_copy_only=False)),
        (layout.order, order.kinds == Kind.MISSING),
    ]
    faults = _spelling(batch)
    for column, wrong in missing:
        for row in np.flatnonzero(wrong).tolist():
            faults.setdefault(row, fault(column, "missing value"))
    columns = {
        "id": ids,
        "position": pa.array(np.arange(position, position + len(batch))),
        "whole": pa.array(order.whole),
        "rest": pa.array(order.rest),
        "line": batch.column(LINE) if LINE in batch.schema.names else pa.nulls(len(batch), pa.int64()),
    }
    for column in layout.numeric:
        columns[number_key(column)] = _numbers(batch.column(column), column, faults)
    for column in dict.fromkeys((*layout.lists, *layout.single)):
        columns[text_key(column)] = _exact(batch.column(column))
    told = (
        pa.array(map(faults.get, range(len(batch))), FAULT_TYPE)
        if faults
        else pa.nulls(len(batch), FAULT_TYPE)
    )
    columns["fault"] = told
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema), order.kinds


def _spelling(batch: pa.RecordBatch) -> dict[int, Fault]:
    """What the reader found wrong, by row."""
    if FAULT not in batch.schema.names:
        return {}
    column = batch.column(FAULT)
    wrong = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    return {row: column[row].as_py() for row in wrong.tolist()}


def _numbers(column: pa.Array, name: str, faults: dict[int, Fault]) -> pa.Array:
    """The numbers of a column in the type they are stored as; text that spells none is a fault and null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if text_kind(column.type) != "text":
        return column.cast(_stored(column.type))
    found, wrong = parse_numbers(column)
    for row in np.flatnonzero(wrong).tolist():
        message = f"received {column[row].as_py()!r}, expected a number"
        faults.setdefault(row, fault(name, message))
    return found


def _exact(column: pa.Array) -> pa.StringArray:
    """Text exactly as a file says it; times as ISO 8601, without zeros at the end of a fraction."""
    if pa.types.is_timestamp(column.type):
        written = pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
        whole = pc.replace_substring_regex(written, r"\.0+([Z+-].*)?$", r"\1")
        return pc.replace_substring_regex(whole, r"(\.[0-9]*[1-9])0+([Z+-].*)?$", r"\1\2")
    return texts(column)


def _stored(kind: pa.DataType) -> pa.DataType:
    """What buckets keep the numbers of a column as."""
    kind = plain(kind)
    return pa.float64() if text_kind(kind) == "text" or pa.types.is_decimal(kind) else kind


def _firsts(kinds: np.ndarray) -> list[tuple[Kind, int]]:
    """Each kind and the first row of it."""
    found, rows = np.unique(kinds, return_index=True)
    return [(Kind(kind), row) for kind, row in zip(found.tolist(), rows.tolist(), strict=True)]


def _seen(kind: Kind, batch: pa.RecordBatch, at: int, layout: StepLayout, part: Part, row: int) -> Seen:
    value = batch.column(layout.order)[at].as_py()
    written = repr(value) if isinstance(value, str) else str(value)
    line = batch.column(LINE)[at].as_py() if LINE in batch.schema.names else None
    return Seen(kind, written, part.position + row, part.source.name, part.first_row + row, line)


class _Buckets:
    """Writes rows to an Arrow file, a batch for each bucket that has some, and keeps which batch is whose."""

    def __init__(self, path: Path, schema: pa.Schema, num_buckets: int) -> None:
        self.batches: list[list[int]] = [[] for _ in range(num_buckets)]
        # What rows seldom have, such as faults and lines, then costs next to nothing.
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(str(path), schema, options=options)
        self._pending: list[pa.RecordBatch] = []
        self._bytes = self._written = 0

    def __enter__(self) -> "_Buckets":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if not any(error):
                self._flush()
        finally:
            self._writer.close()

    def add(self, rows: pa.RecordBatch) -> None:
        """Keep the rows, and write those kept once there are many."""
        self._pending.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= SPREAD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending).combine_chunks()
        self._pending, self._bytes = [], 0
        buckets = _buckets(table["id"].combine_chunks(), table["position"].to_numpy(), len(self.batches))
        if len(self.batches) > 1:
            table = table.take(np.argsort(buckets, kind="stable"))
        counts = np.bincount(buckets, minlength=len(self.batches))
        starts = np.cumsum(counts) - counts
        for bucket in np.flatnonzero(counts).tolist():
            rows = table.slice(starts[bucket], counts[bucket]).combine_chunks()
            self._writer.write_table(rows)
            self.batches[bucket].append(self._written)
            self._written += 1


def _buckets(ids: pa.StringArray, positions: np.ndarray, num_buckets: int) -> np.ndarray:
    """The bucket of each row; rows without an id, which are not put together, lie anywhere. (S,) int64."""
    if num_buckets == 1:
        return np.zeros(len(ids), np.int64)
    encoded = ids.dictionary_encode()
    hashes = [blake2b(text.encode(), digest_size=8).digest() for text in encoded.dictionary.to_pylist()]
    by_code = np.frombuffer(b"".join(hashes), "<u8") % np.uint64(num_buckets)
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.where(codes < 0, positions % num_buckets, np.append(by_code, 0)[codes]).astype(np.int64)
