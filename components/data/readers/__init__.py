"""Files to parts, parts to record batches; a file of any known format ends as one that is read in place.

    data.path  -find->  files in order of name  -open_all->  sources  -parts->  parts  -scan->  batches
                                                   └ import_file, for formats without row groups

paths      what data.path names: files, folders, globs, object stores; compressed or not
stores  web  hosts                the file systems that answer URLs, and which hosts are asked
sources    what is handed on, and the two kinds of reader
parquet  arrow                    read in place
csv  jsonl  conll  ts  functions  imported, each once, into an Arrow file
texts      numbered lines of UTF-8; values: cells to Arrow columns
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data.readers import arrow, conll, csv, functions, jsonl, parquet, ts
from components.data.readers.paths import File, find
from components.data.readers.sources import (
    OWN,
    Importer,
    Part,
    Reader,
    Source,
    Wanted,
    damaged,
    file_problem,
)
from components.errors import DataError, Problem, StorageError

__all__ = ["READERS", "File", "Part", "Source", "Wanted", "expand", "import_file", "parts", "scan"]

PART_VALUES = 1 << 26
BATCH_VALUES = 1 << 22
BATCH_ROWS = 8192

READERS: Mapping[str, Reader | Importer] = {
    "parquet": Reader((".parquet", ".pq"), parquet.describe, parquet.scan),
    "arrow": Reader((".arrow", ".feather", ".ipc"), arrow.describe, arrow.scan),
    "csv": Importer((".csv",), csv.rows),
    "tsv": Importer((".tsv", ".tab"), csv.tsv_rows),
    "jsonl": Importer((".jsonl", ".ndjson"), jsonl.rows),
    "conll": Importer((".conll", ".iob", ".bio"), conll.rows),
    "conllu": Importer((".conllu",), conll.conllu_rows),
    "ts": Importer((".ts",), ts.rows),
}
SUFFIXES = {suffix: name for name, reader in READERS.items() for suffix in reader.suffixes}
SPELLINGS = {"csv": ("csv", "tsv"), "conll": ("conll", "conllu")}
NAMES = {"parquet": "Parquet", "arrow": "Arrow", "csv": "CSV", "tsv": "TSV", "jsonl": "JSON Lines"}


def expand(paths: str | Sequence[str], file_format: str = "auto") -> list[File]:
    """The files that a path, a folder, a glob, a URL or a list of them name, each once, in order of name.

    Raises:
        DataError: a path names nothing, or a file is of no known format.
        StorageError: an object store cannot be reached.
    """
    return find(paths, SUFFIXES, any_suffix=file_format != "auto")


def format_of(file: File, file_format: str = "auto") -> str:
    """The name of the file's reader. Of the formats that settings name, csv and conll have two spellings."""
    by_suffix = SUFFIXES.get(file.suffix, "parquet")
    if file_format == "auto" or by_suffix in SPELLINGS.get(file_format, ()):
        return by_suffix
    return file_format


def is_imported(file_format: str) -> bool:
    """Whether files of a format are turned into Arrow files first."""
    return not isinstance(READERS.get(file_format), Reader)


def open_file(
    file: File, *, name: str, file_format: str, wanted: Wanted | None = None, target: str | None = None
) -> Source:
    """A file as a source: read in place, or imported into the Arrow file `target`.

    Raises:
        DataError: the file is empty, damaged, or not what its format says.
    """
    try:
        if file.size() == 0:
            raise _refused(name, "no rows: the file is empty (0 bytes)")
        reader = READERS.get(file_format)
        if isinstance(reader, Reader):
            if file.compression:
                raise _refused(name, f"a {file.compression} file; {file_format} files are compressed inside")
            source = reader.describe(file.path, name)
        elif target is None:
            raise ValueError(f"{name} has to be imported")
        else:
            source = import_file(
                file, name=name, file_format=file_format, wanted=wanted or Wanted(), target=target
            )
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in (28, 122):  # no space left, quota exceeded
            raise StorageError(f"{target} cannot be written: {os.strerror(error.errno)}.") from error
        raise _refused(name, _why(file_format, error)) from error
    return _with_constants(source, file.partitions)


def import_file(file: File, *, name: str, file_format: str, wanted: Wanted, target: str) -> Source:
    """Turn a file into an Arrow file, batch by batch, and describe that.

    Raises:
        DataError: the file as a whole is not what its format says.
    """
    writer = _Segments(Path(target))
    for batch in batches(file, name=name, file_format=file_format, wanted=wanted):
        writer.add(batch)
    writer.finish()
    source = arrow.describe(target, name)
    return Source(source.path, name, "arrow", source.schema, source.groups)


def batches(file: File, *, name: str, file_format: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """A file's rows as its importer gives them."""
    if file_format not in READERS:
        yield from functions.rows(file_format, file.path, name, wanted)
        return
    reader = READERS[file_format]
    assert isinstance(reader, Importer)
    with file.stream() as stream:
        yield from reader.rows(stream, name, wanted)


def parts(sources: Sequence[Source]) -> list[Part]:
    """The sources cut into parts of bounded size, in order; files without rows have none."""
    cut: list[Part] = []
    position = 0
    for source in sources:
        first_row = 0
        for groups in _grouped(source):
            num_rows = sum(source.groups[group].num_rows for group in groups)
            if num_rows:
                cut.append(Part(len(cut), source, groups, first_row, position, num_rows))
            first_row += num_rows
            position += num_rows
    return cut


def scan(part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The part's rows in batches of bounded size: the columns named, and our own where there are any.

    Raises:
        DataError: the file is damaged or has changed, found on the way.
    """
    source = part.source
    per_row = max(1, part.num_values // max(1, part.num_rows))
    batch_rows = max(1, min(BATCH_ROWS, BATCH_VALUES // per_row))
    stored = [name for name in dict.fromkeys(columns) if name not in source.constants]
    stored += [name for name in OWN if name in source.schema.names]
    reader = READERS[source.format]
    assert isinstance(reader, Reader)
    try:
        for batch in reader.scan(part, stored, batch_rows):
            yield _completed(batch, columns, source)
    except (pa.ArrowException, OSError) as error:
        message = damaged(NAMES.get(source.format, source.format), error)
        raise _unreadable(source.name, message) from error


def _completed(batch: pa.RecordBatch, columns: Sequence[str], source: Source) -> pa.RecordBatch:
    """The batch with the constants of its file among its columns."""
    if not source.constants:
        return batch
    arrays = {name: batch.column(name) for name in batch.schema.names}
    for name in columns:
        if name in source.constants:
            arrays[name] = pa.array([source.constants[name]] * len(batch), pa.string())
    return pa.RecordBatch.from_pydict(arrays)


def _with_constants(source: Source, constants: Mapping[str, str]) -> Source:
    """The source with the columns that its folders name; the file's own of that name wins."""
    added = {name: value for name, value in constants.items() if name not in source.schema.names}
    if not added:
        return source
    schema = source.schema
    for name in added:
        schema = schema.append(pa.field(name, pa.string()))
    return Source(source.path, source.name, source.format, schema, source.groups, added)


class _Segments:
    """Writes batches to one Arrow file; where a later batch knows a column's type, earlier ones are cast."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.schema: pa.Schema | None = None
        self.files: list[Path] = []
        self._writer: Any = None

    def add(self, batch: pa.RecordBatch) -> None:
        """One batch more."""
        schema = batch.schema if self.schema is None else _united(self.schema, batch.schema)
        if self.schema is None or schema != self.schema:
            self._close()
            self.schema = schema
            self.files.append(self.target.with_name(f"{self.target.name}.{len(self.files)}"))
            self._writer = pa.ipc.new_file(str(self.files[-1]), schema)
        self._writer.write_batch(_cast(batch, schema))

    def finish(self) -> None:
        """Give the file its name; nothing but a whole file ever has it."""
        self._close()
        if self.schema is None:
            self.schema = pa.schema([])
            self.files.append(self.target.with_name(f"{self.target.name}.0"))
            pa.ipc.new_file(str(self.files[0]), self.schema).close()
        if len(self.files) > 1:
            joined = self.target.with_name(f"{self.target.name}.all")
            with pa.ipc.new_file(str(joined), self.schema) as writer:
                for file in self.files:
                    with pa.memory_map(str(file)) as mapped:
                        reader = pa.ipc.open_file(mapped)
                        for number in range(reader.num_record_batches):
                            writer.write_batch(_cast(reader.get_batch(number), self.schema))
                    file.unlink()
            self.files = [joined]
        os.replace(self.files[0], self.target)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _united(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """A schema that holds both. Raises pa.ArrowTypeError where a column is of two kinds."""
    return pa.unify_schemas([one, other], promote_options="permissive")


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema == schema:
        return batch
    own = {name: batch.column(name) for name in batch.schema.names}
    arrays = [
        own[field.name].cast(field.type) if field.name in own else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _grouped(source: Source) -> Iterator[tuple[int, ...]]:
    pending: list[int] = []
    values = 0
    for i, group in enumerate(source.groups):
        if pending and values + group.num_values > PART_VALUES:
            yield tuple(pending)
            pending, values = [], 0
        pending.append(i)
        values += group.num_values
    if pending:
        yield tuple(pending)


def _why(file_format: str, error: Exception) -> str:
    if file_format not in READERS:
        return f"what the reader {file_format} gave cannot be used: {error}"
    return damaged(NAMES.get(file_format, file_format), error)


def _refused(name: str, message: str) -> DataError:
    return DataError("The files cannot be used.", problems=[file_problem(name, message)])


def _unreadable(name: str, message: str) -> DataError:
    return DataError("A file cannot be read.", problems=[Problem(file=name, message=message)])
