"""A reader of the user's own: `package.module:function`, called with a file's path or URL.

    def read(path: str) -> Iterator[dict | pyarrow.RecordBatch | pyarrow.Table]: ...

Dicts are rows; what it raises becomes a problem of the file, with the exception's words.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from components.data.readers.sources import OWN, Wanted, file_problem
from components.errors import DataError
from components.lookup import find

BATCH_ROWS = 1024


def rows(reader: str, path: str, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows that the user's function gives for a file, in batches.

    Raises:
        DataError: the function fails, or gives something else than rows.
        ModelError: there is no such function.
    """
    function: Any = find({}, reader, kind="reader")
    try:
        for batch in _batches(function(path)):
            kept = [column for column in batch.schema.names if wanted.has(column) and column not in OWN]
            yield batch.select(kept)
    except Exception as error:
        message = f"the reader {reader} failed: {type(error).__name__}: {error}"
        raise DataError("A file cannot be read.", problems=[file_problem(name, message)]) from error


def _batches(found: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(found, pa.Table | pa.RecordBatch):
        found = [found]
    pending: list[dict[str, Any]] = []
    for item in found:
        if isinstance(item, dict):
            pending.append(item)
            if len(pending) == BATCH_ROWS:
                yield _of_rows(pending)
                pending = []
            continue
        if pending:
            yield _of_rows(pending)
            pending = []
        if isinstance(item, pa.RecordBatch):
            yield item
        elif isinstance(item, pa.Table):
            yield from item.to_batches()
        else:
            raise TypeError(f"it gave a {type(item).__name__}, expected dicts, record batches or tables")
    if pending:
        yield _of_rows(pending)


def _of_rows(found: list[dict[str, Any]]) -> pa.RecordBatch:
    names = list(dict.fromkeys(name for row in found for name in row))
    return pa.RecordBatch.from_pydict({name: pa.array([row.get(name) for row in found]) for name in names})
