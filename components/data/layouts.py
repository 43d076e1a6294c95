"""Which columns of the files make the steps of a sequence, where one row is one time step.

id           the sequence that a row belongs to
order        its place in there
inputs       numbers of one or of several columns (`p*`), or the texts of one
per step     texts of a step, such as a labeller's target
constants    texts of a sequence, the same in all its rows
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain

import pyarrow as pa

from components.data.columns import (
    innermost,
    is_extension,
    is_list,
    is_time,
    numeric_fault,
    scalar_fault,
    text_fault,
)
from components.data.readers.sources import OWN
from components.errors import DataError, Problem

NUM_NAMES = 20


@dataclass(frozen=True)
class StepInput:
    """An input of the network: numbers of one or of several columns, or the texts of one."""

    column: str
    sources: tuple[str, ...] | None = None
    kind: str = "numeric"  # numeric | text

    @property
    def read(self) -> tuple[str, ...]:
        """The columns of the files that it is made of."""
        return self.sources or (self.column,)


@dataclass(frozen=True)
class StepLayout:
    """Which columns make the steps of a sequence."""

    id: str
    order: str
    inputs: tuple[StepInput, ...]
    per_step_texts: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns of numbers."""
        read = (part.read for part in self.inputs if part.kind == "numeric")
        return tuple(dict.fromkeys(chain.from_iterable(read)))

    @property
    def lists(self) -> tuple[str, ...]:
        """The columns that hold a text for each step."""
        read = (part.column for part in self.inputs if part.kind == "text")
        return tuple(dict.fromkeys((*read, *self.per_step_texts)))

    @property
    def single(self) -> tuple[str, ...]:
        """The columns that hold a text for each sequence, beside the id."""
        return tuple(column for column in dict.fromkeys(self.constants) if column != self.id)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        return tuple(dict.fromkeys((self.id, self.order, *self.numeric, *self.lists, *self.single)))


def expand_columns(schema_names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The columns that names and patterns stand for, each once; a pattern's in the order of the file.

    Raises:
        DataError: one of them matches nothing.
    """
    found: list[str] = []
    missing = []
    for pattern in patterns:
        # A column whose own name has brackets or stars is that column.
        matched = [pattern] if pattern in schema_names else _matched(schema_names, pattern)
        found += matched
        if not matched:
            message = f"no column matches; there are {_listed(schema_names)}"
            missing.append(Problem(column=pattern, message=message))
    if missing:
        raise DataError("The columns of an input cannot be found.", problems=missing)
    return tuple(dict.fromkeys(found))


def common_columns(files: Sequence[tuple[str, Sequence[str]]], patterns: Sequence[str]) -> tuple[str, ...]:
    """The columns that patterns stand for in all files, given by name and columns; in the first one's order.

    Raises:
        DataError: a pattern matches nothing in a file, or not what it matches in the first one.
    """
    matched: list[tuple[str, tuple[str, ...]]] = []
    problems: list[Problem] = []
    for file, names in files:
        try:
            matched.append((file, expand_columns(names, patterns)))
        except DataError as error:
            problems += [replace(problem, file=file) for problem in error.problems]
    first, columns = matched[0] if matched else ("", ())
    for file, found in matched:
        for column in sorted(set(columns) ^ set(found)):
            here, there = ("here", f"in {first}") if column in found else (f"in {first}", "here")
            problems.append(
                Problem(file=file, column=column, message=f"there is one {here}, but none {there}")
            )
    if problems:
        raise DataError("The files differ in the columns of an input.", problems=problems)
    return columns


def check_schema(schema: pa.Schema, layout: StepLayout, *, file: str) -> list[Problem]:
    """Columns that a file lacks, has twice, or has in a type that cannot serve."""
    problems = []
    for column in layout.columns:
        found = len(schema.get_all_field_indices(column))
        if not found:
            message = f"no such column; there are {_listed(schema.names)}"
        elif found > 1:
            message = f"{found} columns have this name"
        else:
            message = _type_fault(schema.field(column).type, column, layout)
        if message:
            problems.append(Problem(file=file, column=column, message=message))
    return problems


def _matched(names: Sequence[str], pattern: str) -> list[str]:
    return [name for name in names if name not in OWN and fnmatchcase(name, pattern)]


def _type_fault(kind: pa.DataType, column: str, layout: StepLayout) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if column == layout.id and (message := text_fault(kind)):
        return message
    if column == layout.order and (is_list(kind) or is_extension(kind)):
        return f"received {kind}, expected a number, a date or a time"
    if column in layout.numeric and (message := _number_fault(kind, column, layout)):
        return message
    if column in layout.lists or column in layout.single:
        written = is_time(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        return "" if written else text_fault(kind)
    return ""


def _number_fault(kind: pa.DataType, column: str, layout: StepLayout) -> str:
    one_of_many = any(part.sources and column in part.sources for part in layout.inputs)
    if is_list(kind) and not is_extension(kind) and not one_of_many:
        depth = innermost(kind)[1]
        return numeric_fault(kind) if depth == 1 else f"received {kind}, expected a number or a list of them"
    return scalar_fault(kind)


def _listed(names: Sequence[str]) -> str:
    known = [name for name in names if name not in OWN]
    return ", ".join(known[:NUM_NAMES]) + (", ..." if len(known) > NUM_NAMES else "")
