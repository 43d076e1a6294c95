"""Rows that were left out, as they were, with the reason and their place: rejected.parquet.

reason  file  row   source.<column> ...     row counts from 0 within its file
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.columns import is_list, list_lengths, plain
from components.data.readers import Part

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
    columns = {name: _in_plain(batch.column(name)).take(pa.array(rows)) for name in batch.schema.names}
    return pa.table(
        {
            "reason": pa.array([reasons[first + row] for row in rows.tolist()], pa.string()),
            "file": pa.array([part.source.name] * len(rows), pa.string()),
            "row": pa.array(part.first_row + first + rows, pa.int64()),
            **{f"source.{name}": column for name, column in columns.items()},
        }
    )


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
