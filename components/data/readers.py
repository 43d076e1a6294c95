"""Files to parts, parts to record batches. Only footers are read before a worker reads its part.

    path(s)  -expand->  files in order of name  -describe->  sources  -parts->  parts  -scan->  batches

A part is a group of a file's row groups: what one worker reads, in batches that bound its memory.
"""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import DataError, Problem
from components.lookup import nearest

PART_VALUES = 1 << 26
BATCH_VALUES = 1 << 22
BATCH_ROWS = 8192
BUFFER_BYTES = 1 << 20
LARGE_GROUP_BYTES = 1 << 26


@dataclass(frozen=True)
class RowGroup:
    """A stretch of rows that can be read alone."""

    num_rows: int
    num_values: int  # over all columns, list elements counted singly
    num_bytes: int  # as stored


@dataclass(frozen=True)
class Source:
    """One input file. `name` is its path below the folder that all files share."""

    path: str
    name: str
    format: str
    schema: pa.Schema
    groups: tuple[RowGroup, ...]

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)


@dataclass(frozen=True)
class Part:
    """Row groups of one file that one worker reads."""

    number: int
    source: Source
    groups: tuple[int, ...]
    first_row: int  # in the file
    position: int  # in the whole input
    num_rows: int

    @property
    def num_values(self) -> int:
        return sum(self.source.groups[group].num_values for group in self.groups)


@dataclass(frozen=True)
class Reader:
    """One file format."""

    suffixes: tuple[str, ...]
    describe: Callable[[str, str], Source]
    scan: Callable[[Part, Sequence[str], int], Iterator[pa.RecordBatch]]


def expand(paths: str | Sequence[str], file_format: str = "auto") -> list[Path]:
    """The files that a path, a folder, a glob or a list of them name, each once, in order of name.

    Raises:
        DataError: a path names nothing, or a file is of no known format.
    """
    problems: list[Problem] = []
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        try:
            files = _files(path)
            problems += [] if files else [_nothing_at(path)]
        except OSError as error:
            files = []
            problems.append(Problem(file=path, message=f"cannot be read: {error.strerror or error}"))
        for file in files:
            found[Path(os.path.abspath(file))] = None
    for file in found:
        if file_format == "auto" and _format_of(file) is None:
            known = ", ".join(suffix for reader in READERS.values() for suffix in reader.suffixes)
            problems.append(Problem(file=str(file), message=f"unknown format, expected a name in {known}"))
    if problems:
        raise DataError("The data cannot be found or read.", problems=problems, hint="See data.path.")
    return sorted(found, key=lambda file: file.as_posix())


def describe(files: Sequence[Path], file_format: str = "auto") -> tuple[list[Source], list[Problem]]:
    """The files that can be opened, and what is wrong with the others."""
    top = os.path.commonpath([file.parent for file in files])
    sources, problems = [], []
    for file in files:
        name = file.relative_to(top).as_posix()
        kind = file_format if file_format != "auto" else _format_of(file) or "parquet"
        try:
            if file.stat().st_size == 0:
                problems.append(Problem(file=name, message="no rows: the file is empty (0 bytes)"))
                continue
            sources.append(READERS[kind].describe(str(file), name))
        except (pa.ArrowException, OSError) as error:
            problems.append(Problem(file=name, message=_unreadable(kind, error)))
    return sources, problems


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
    """The part's rows in batches of bounded size, only the columns named.

    Raises:
        DataError: the file is damaged or has changed, found on the way.
    """
    per_row = max(1, part.num_values // max(1, part.num_rows))
    batch_rows = max(1, min(BATCH_ROWS, BATCH_VALUES // per_row))
    try:
        yield from READERS[part.source.format].scan(part, columns, batch_rows)
    except (pa.ArrowException, OSError) as error:
        problem = Problem(file=part.source.name, message=_unreadable(part.source.format, error))
        raise DataError("A file cannot be read.", problems=[problem]) from error


def _describe_parquet(path: str, name: str) -> Source:
    with pq.ParquetFile(path) as file:
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
        return Source(path, name, "parquet", file.schema_arrow.remove_metadata(), tuple(groups))


def _scan_parquet(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    # Unbuffered reading is quicker but holds a whole column chunk.
    large = any(part.source.groups[group].num_bytes > LARGE_GROUP_BYTES for group in part.groups)
    buffer_size = BUFFER_BYTES if large else 0
    with pq.ParquetFile(part.source.path, buffer_size=buffer_size, page_checksum_verification=True) as file:
        yield from file.iter_batches(batch_rows, row_groups=list(part.groups), columns=list(columns))


READERS: Mapping[str, Reader] = {
    "parquet": Reader(suffixes=(".parquet", ".pq"), describe=_describe_parquet, scan=_scan_parquet),
}


def _files(path: str) -> list[Path]:
    if os.path.isdir(path):
        # Writers leave marks such as _SUCCESS and .crc files beside the data.
        inside = [Path(at) / name for at, _, names in os.walk(path, onerror=_refuse) for name in names]
        return [file for file in inside if _format_of(file) and not file.name.startswith(("_", "."))]
    if os.path.exists(path):
        return [Path(path)]
    return [Path(match) for match in glob.glob(path, recursive=True) if os.path.isfile(match)]


def _refuse(error: OSError) -> None:
    raise error


def _format_of(file: Path) -> str | None:
    for name, reader in READERS.items():
        if file.suffix.lower() in reader.suffixes:
            return name
    return None


def _nothing_at(path: str) -> Problem:
    if "://" in path:
        return Problem(file=path, message="expected a path on this machine; object stores are not read yet")
    if os.path.isdir(path):
        return Problem(file=path, message="the folder holds no data files")
    parent = Path(path).parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = nearest(Path(path).name, names)
    return Problem(file=path, message="no such file" + (f"; did you mean {near!r}?" if near else ""))


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


def _unreadable(kind: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read: {os.strerror(error.errno)}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"not a whole {kind.capitalize()} file, or damaged: {reason}"
