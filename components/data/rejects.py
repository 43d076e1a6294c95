"""Rows that were left out, as they were, with the reason and their place: rejected.parquet.

reason  file  row  line  source.<column> ...     row counts from 0 within its file; line from 1, in text files
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.columns import is_list, list_lengths, plain
from components.data.readers.sources import LINE, OWN, POSITIONS, Part

# Holds every int64 and every uint64.
DIGITS = pa.decimal128(20, 0)


def table(
    batch: pa.RecordBatch, mask: np.ndarray, reasons: Mapping[int, str], first: int, part: Part
) -> pa.Table:
    """The rows of a batch that the mask takes.

    Args:
        reasons: by row of the part.
        first: the batch's first row in the part.
    """
    rows = np.flatnonzero(mask)
    names = [name for name in batch.schema.names if name not in OWN]
    columns = {name: _in_plain(batch.column(name)).take(pa.array(rows)) for name in names}
    files, places = _places(batch, rows, first, part)
    lines = batch.column(LINE) if LINE in batch.schema.names else pa.nulls(len(batch), pa.int64())
    return pa.table(
        {
            "reason": pa.array([reasons[first + row] for row in rows.tolist()], pa.string()),
            "file": pa.array(files, pa.string()),
            "row": pa.array(places, pa.int64()),
            "line": lines.take(pa.array(rows)),
            **{f"source.{name}": column for name, column in columns.items()},
        }
    )


def _places(batch: pa.RecordBatch, rows: np.ndarray, first: int, part: Part) -> tuple[list[str], list[int]]:
    """File and row of each; of a row made of several, those of the first."""
    source = part.source
    if not source.origins:
        return [source.name] * len(rows), (part.first_row + first + rows).tolist()
    made_of = batch.column(POSITIONS).take(pa.array(rows)).to_pylist()
    found = [source.origin(min(positions)) for positions in made_of]
    return [file for file, _ in found], [row for _, row in found]


def write(tables: Sequence[pa.Table], target: str) -> None:
    """One file of them all; a column that is null throughout a table takes its type from the others."""
    together = pa.concat_tables(_with_room(tables), promote_options="permissive")
    pq.write_table(together, target, compression="zstd")


def gather(files: Sequence[str], target: str) -> None:
    """One file of the parts' files, in their order."""
    write([pq.read_table(file) for file in files], target)


def _with_room(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Whole numbers of mixed signs as decimals where int64 may be too small for them."""
    kinds: dict[str, set[pa.DataType]] = {}
    for each in tables:
        for field in each.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    mixed = {
        name
        for name, found in kinds.items()
        if pa.uint64() in found and any(map(pa.types.is_signed_integer, found))
    }
    return [
        each.cast(
            pa.schema([field.with_type(DIGITS) if field.name in mixed else field for field in each.schema])
        )
        for each in tables
    ]


def _in_plain(column: pa.Array) -> pa.Array:
    """The same values in the simplest layout; Arrow takes no rows of text views and casts no list views."""
    if not is_list(column.type):
        return column.cast(plain(column.type))
    offsets = np.concatenate([[0], np.cumsum(list_lengths(column))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _in_plain(column.flatten()), mask=column.is_null())
