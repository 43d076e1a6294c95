"""What the readers hand on: files, their parts, and how a format is read.

    Parquet, Arrow   read in place: a footer says which row groups there are, a part is some of them
    all other        imported: turned once into an Arrow file that is then read in place

An imported file may have columns of our own beside its user's:

    recurra.line       int64, the line of its file at which a row begins, from 1
    recurra.fault      {column, step, line, message}, what is wrong with a row's spelling, null if nothing is
    recurra.positions  list of int64, of a row made of several: their places in the whole input
"""

import socket
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from components.errors import Problem

LINE = "recurra.line"
FAULT = "recurra.fault"
POSITIONS = "recurra.positions"
OWN = (LINE, FAULT, POSITIONS)

FAULT_TYPE = pa.struct(
    [("column", pa.string()), ("step", pa.int32()), ("line", pa.int64()), ("message", pa.string())]
)
OWN_TYPES: Mapping[str, pa.DataType] = {
    LINE: pa.int64(),
    FAULT: FAULT_TYPE,
    POSITIONS: pa.list_(pa.int64()),
}

# What a column is read as by the formats that know no types.
TEXT = "text"  # one value, exactly as it is written
TEXTS = "texts"  # a list of them
NUMBERS = "numbers"  # a list of steps, each a number or a list of numbers
ANY = "any"  # one value, or a list of numbers; as the file suggests


@dataclass(frozen=True)
class RowGroup:
    """A stretch of rows that can be read alone."""

    num_rows: int
    num_values: int  # over all columns, list elements counted singly
    num_bytes: int  # as stored


@dataclass(frozen=True)
class Origin:
    """A file whose rows stand, with those of others, in a source; and the place of its first row."""

    name: str
    first: int


@dataclass(frozen=True)
class Source:
    """One input file. `name` is its path below the folder that all files share.

    `constants` are columns that the file does not hold but its folder's name says (`year=2024/`). `origins`
    are the files that the rows of a source are made of, where those are not its own.
    """

    path: str
    name: str
    format: str
    schema: pa.Schema
    groups: tuple[RowGroup, ...]
    constants: Mapping[str, str] = field(default_factory=dict)
    origins: tuple[Origin, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)

    def origin(self, position: int) -> tuple[str, int]:
        """File and row of a place in the whole input."""
        at = bisect_right([origin.first for origin in self.origins], position) - 1
        return self.origins[at].name, position - self.origins[at].first


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
class Wanted:
    """What an import is to read of a file.

    Attributes:
        kinds: by column: TEXT, TEXTS, NUMBERS or ANY. Columns not named are left out; without any, all are
            read, as the file suggests.
        names: of the columns in their order, for files that do not name them; `_` skips one.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None

    def has(self, column: str) -> bool:
        """Whether the column is to be read."""
        return not self.kinds or column in self.kinds


@dataclass(frozen=True)
class Reader:
    """A format that is read in place, from a path or URL.

    `describe(path, name)` reads the footer only; `scan(part, columns, batch_rows)` gives a part's rows.
    """

    suffixes: tuple[str, ...]
    describe: Callable[[str, str], Source]
    scan: Callable[[Part, Sequence[str], int], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Importer:
    """A format that is imported: `rows(stream, name, wanted)` gives a stream's rows in bounded batches.

    It raises DataError where the file as a whole cannot be read (its encoding, its header), and puts what is
    wrong with single rows in the column FAULT. Batches may differ in type where a column had no value yet.
    """

    suffixes: tuple[str, ...]
    rows: Callable[[BinaryIO, str, Wanted], Iterator[pa.RecordBatch]]


def fault(
    column: str, message: str, *, step: int | None = None, line: int | None = None
) -> dict[str, object]:
    """An entry of the column FAULT."""
    return {"column": column, "step": step, "line": line, "message": message}


def damaged(kind: str, error: Exception) -> str:
    """What is wrong with a file that a library could not read."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        # On a cluster another machine may not have what this one has.
        where = f" on {socket.gethostname()}" if isinstance(error, FileNotFoundError) else ""
        return f"cannot be read: {error.strerror}{where}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"not a whole {kind} file, or damaged: {reason}"


def file_problem(name: str, message: str, *, line: int | None = None) -> Problem:
    """A problem of a whole file."""
    return Problem(file=name, line=line, message=message)
