"""Parquet: a footer says which row groups there are; each can be read alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from components.data import extensions
from components.data.readers.paths import File
from components.data.readers.sources import Part, RowGroup, Source

BUFFER_BYTES = 1 << 20
LARGE_GROUP_BYTES = 1 << 26


def describe(path: str, name: str) -> Source:
    """What the footer says. Raises pa.ArrowException or OSError for what is not a whole Parquet file."""
    with _opened(path) as file:
        groups = []
        for i in range(file.num_row_groups):
            group = file.metadata.row_group(i)
            chunks = [group.column(j) for j in range(group.num_columns)]
            groups.append(
                RowGroup(
                    num_rows=group.num_rows,
                    num_values=sum(chunk.num_values for chunk in chunks),
                    num_bytes=max((chunk.total_compressed_size for chunk in chunks), default=0),
                )
            )
        schema = extensions.seen(file.schema_arrow.remove_metadata())
        return Source(path, name, "parquet", schema, tuple(groups))


def scan(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The part's rows in batches of at most `batch_rows`, the columns in the order asked."""
    # Unbuffered reading is quicker but holds a whole column chunk.
    large = any(part.source.groups[group].num_bytes > LARGE_GROUP_BYTES for group in part.groups)
    buffer_size = BUFFER_BYTES if large else 0
    with _opened(part.source.path, buffer_size=buffer_size, page_checksum_verification=True) as file:
        batches = file.iter_batches(batch_rows, row_groups=list(part.groups), columns=list(columns))
        yield from map(extensions.marked, batches)


@contextmanager
def _opened(path: str, **options: object) -> Iterator[pq.ParquetFile]:
    source = File(path)
    if source.is_remote:
        with source.open() as stream, pq.ParquetFile(stream, **options) as file:
            yield file
    else:
        with pq.ParquetFile(path, **options) as file:
            yield file
