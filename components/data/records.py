"""What one row is, and what is wrong with it.

    id      text, whole number or boolean, or no column at all
    inputs  one list of steps each, a step being a number or a list of F numbers, F the same everywhere
    target  one label (classification), or a list with a label for each step (labelling)
    split   the value that says where the row goes, when a column says so

Rows, steps and features count from 0, rows within their file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from components.data.columns import (
    Nested,
    innermost,
    is_list,
    list_lengths,
    nested,
    numeric_fault,
    text_fault,
    text_kind,
    texts,
)
from components.data.faults import Fault, input_faults, label_faults, length_faults, missing_faults
from components.errors import Problem
from components.lookup import nearest
from conf.schema import ColumnSplit, Settings

NUM_NAMES = 20


@dataclass(frozen=True)
class Layout:
    """Which columns make a row."""

    id: str | None
    inputs: tuple[str, ...]
    target: str
    split: str | None
    per_step: bool

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """The columns that the settings name."""
        data = settings.data
        return cls(
            id=data.id,
            inputs=tuple(part.column for part in data.inputs),
            target=data.target.column,
            split=data.split.column if isinstance(data.split, ColumnSplit) else None,
            per_step=settings.task == "labelling",
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        named = (self.id, *self.inputs, self.target, self.split)
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class Checked:
    """A batch laid flat, with what is wrong in it."""

    inputs: tuple[Nested, ...]
    ids: pa.StringArray  # (n,) null where there is no id
    keys: pa.StringArray  # (n,) null where no column splits
    labels: pa.StringArray  # (n,), or laid end to end for a labeller
    num_labels: np.ndarray  # (n,) labels of each row
    problems: tuple[Problem, ...]  # in order of row
    rows: tuple[int, ...]  # each problem's row in the batch
    good: np.ndarray  # (n,) bool: rows without a problem


def check_schema(schema: pa.Schema, layout: Layout, *, file: str) -> list[Problem]:
    """Columns that are missing, double or of a type that cannot serve."""
    problems = []
    for column in layout.columns:
        found = len(schema.get_all_field_indices(column))
        if found == 1:
            message = _type_fault(schema.field(column).type, column, layout)
        else:
            message = _missing(column, schema.names) if not found else f"{found} columns have this name"
        if message:
            problems.append(Problem(file=file, column=column, message=message))
    return problems


def check_agreement(schemas: Sequence[tuple[str, pa.Schema]], layout: Layout) -> list[Problem]:
    """Columns whose type differs between files; a file's layout of lists makes no difference."""
    problems = []
    for column in layout.columns:
        first: tuple[str, str] | None = None
        for file, schema in schemas:
            kind = _kind(schema.field(column).type, is_input=column in layout.inputs)
            if kind is None:
                continue
            first = first or (file, kind)
            if kind != first[1]:
                message = f"holds {kind}, but {first[1]} in {first[0]}; store one type in all files"
                problems.append(Problem(file=file, column=column, message=message))
    return problems


def check(batch: pa.RecordBatch, layout: Layout, *, file: str, first_row: int) -> Checked:
    """The batch laid flat with every row's problems; `first_row` is its place in the file."""
    target = batch.column(layout.target)
    nulls = pa.nulls(len(batch), pa.string())
    flat = Checked(
        inputs=tuple(nested(batch.column(column)) for column in layout.inputs),
        ids=nulls if layout.id is None else texts(batch.column(layout.id)),
        keys=nulls if layout.split is None else texts(batch.column(layout.split)),
        labels=texts(target.flatten() if layout.per_step else target),
        num_labels=list_lengths(target) if layout.per_step else np.ones(len(batch), np.int64),
        problems=(),
        rows=(),
        good=np.ones(len(batch), bool),
    )
    faults = sorted(_faults(flat, target, layout), key=lambda found: found[1].row)
    flat.good[[fault.row for _, fault in faults]] = False
    problems = tuple(
        Problem(file, first_row + fault.row, column, fault.step, fault.feature, fault.message)
        for column, fault in faults
    )
    return replace(flat, problems=problems, rows=tuple(fault.row for _, fault in faults))


def _faults(flat: Checked, target: pa.Array, layout: Layout) -> Iterator[tuple[str, Fault]]:
    for column, values in zip(layout.inputs, flat.inputs, strict=True):
        for fault in input_faults(values):
            yield column, fault
    yield from length_faults(layout.inputs, flat.inputs)
    for fault in missing_faults(target):
        yield layout.target, fault
    if layout.per_step:
        for fault in label_faults(target, flat.labels, flat.num_labels, flat.inputs[0].lengths):
            yield layout.target, fault
    for name, values in ((layout.id, flat.ids), (layout.split, flat.keys)):
        if name is not None:
            for fault in missing_faults(values):
                yield name, fault


def _missing(column: str, names: Sequence[str]) -> str:
    near = nearest(column, names)
    shown = ", ".join(names[:NUM_NAMES]) + (
        f" and {len(names) - NUM_NAMES} more" if len(names) > NUM_NAMES else ""
    )
    return f"no such column; the file has {shown}" + (f"; did you mean {near!r}?" if near else "")


def _type_fault(kind: pa.DataType, column: str, layout: Layout) -> str:
    if column in layout.inputs:
        return numeric_fault(kind)
    if column == layout.target and layout.per_step:
        if not is_list(kind):
            return (
                f"received {kind}, expected a list with a label for each step; or is the task classification?"
            )
        return text_fault(kind.value_type)
    if column == layout.target and is_list(kind):
        return f"received {kind}, expected one label for each row; or is the task labelling?"
    return text_fault(kind)


def _kind(kind: pa.DataType, *, is_input: bool) -> str | None:
    value, depth = innermost(kind)
    if pa.types.is_null(value):
        return None
    if is_input:
        return f"{'lists of ' * (depth - 1)}{value}"
    return text_kind(value)
