"""Rows that were left out, as they were, with the reason and their place: rejected.parquet.

reason  file  row   source.<column> ...     row counts from 0 within its file
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.columns import plain
from components.data.readers import Part


def table(
    batch: pa.RecordBatch, mask: np.ndarray, reasons: Mapping[int, str], first: int, part: Part
) -> pa.Table:
    """The rows of a batch that the mask takes.

    Args:
        reasons: by row of the part.
        first: the batch's first row in the part.
    """
    rows = np.flatnonzero(mask)
    columns = {name: batch.column(name).take(pa.array(rows)) for name in batch.schema.names}
    return pa.table(
        {
            "reason": pa.array([reasons[first + row] for row in rows.tolist()], pa.string()),
            "file": pa.array([part.source.name] * len(rows), pa.string()),
            "row": pa.array(part.first_row + first + rows, pa.int64()),
            **{f"source.{name}": column.cast(plain(column.type)) for name, column in columns.items()},
        }
    )


def write(tables: Sequence[pa.Table], target: str) -> None:
    """One file of them all; a column that is null throughout a table takes its type from the others."""
    together = pa.concat_tables(tables, promote_options="permissive")
    pq.write_table(together, target, compression="zstd")


def gather(files: Sequence[str], target: str) -> None:
    """One file of the parts' files, in their order."""
    write([pq.read_table(file) for file in files], target)
