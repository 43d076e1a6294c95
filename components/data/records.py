"""What one row is, and what is wrong with it.

    id       text, whole number or boolean, or no column at all
    inputs   one list of steps each: numbers or lists of F numbers, F the same everywhere; or texts
    context  one number or one text each
    target   one label (classification), or a list with a label for each step (labelling)
    split    the value that says where the row goes, when a column says so

Rows, steps and features count from 0, rows within their file; lines of a text file from 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import (
    Nested,
    Words,
    innermost,
    instant_fault,
    instants,
    is_list,
    is_time,
    list_lengths,
    nested,
    numeric_fault,
    scalar_fault,
    text_fault,
    text_kind,
    texts,
    with_gaps,
    words,
    words_fault,
)
from components.data.faults import (
    Fault,
    input_faults,
    label_faults,
    length_faults,
    missing_faults,
    number_faults,
)
from components.data.instants import parse_numbers
from components.data.readers.sources import FAULT, LINE, NUMBERS, POSITIONS, TEXT, TEXTS, Source
from components.errors import Problem
from components.lookup import nearest
from conf.schema import NumericContext, NumericInput, Settings, TimeSplit

NUM_NAMES = 20


@dataclass(frozen=True)
class Field:
    """A column of the inputs or of the context."""

    column: str
    kind: str = "numeric"  # numeric | token | category
    gaps: bool = False  # whether a number may be missing, to be filled in

    @property
    def is_text(self) -> bool:
        return self.kind != "numeric"


@dataclass(frozen=True)
class Layout:
    """Which columns make a row."""

    id: str | None
    fields: tuple[Field, ...]  # the inputs
    target: str
    split: str | None
    per_step: bool
    context: tuple[Field, ...] = ()
    by_time: bool = False  # whether the split's column says when
    kept: tuple[str, ...] = ()  # what evaluation alone reads: the columns of slices and groups
    groups: str | None = None  # the one of them that no row may lack

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """The columns that the settings name."""
        data = settings.data
        return cls(
            id=data.id,
            fields=tuple(_field(part) for part in data.inputs),
            target=data.target.column,
            split=data.split.column,
            per_step=settings.task == "labelling",
            context=tuple(_field(part) for part in data.context),
            by_time=isinstance(data.split, TimeSplit),
            kept=settings.kept,
            groups=settings.groups,
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of the inputs."""
        return tuple(field.column for field in self.fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        context = (field.column for field in self.context)
        named = (self.id, *self.inputs, *context, self.target, self.split, *self.kept)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def kinds(self) -> dict[str, str]:
        """What each column is read as from a file that knows no types."""
        kinds = dict.fromkeys(self.columns, TEXT)
        kinds |= {field.column: TEXTS if field.is_text else NUMBERS for field in self.fields}
        if self.per_step:
            kinds[self.target] = TEXTS
        return kinds


def _field(part: object) -> Field:
    gaps = isinstance(part, NumericInput | NumericContext) and part.impute != "none"
    return Field(part.column, part.kind, gaps)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Checked:
    """A batch laid flat, with what is wrong in it."""

    inputs: tuple[Nested | Words, ...]
    context: tuple[np.ndarray | pa.StringArray, ...]  # (n,) float64, NaN where missing; or text
    ids: pa.StringArray  # (n,) null where there is no id
    keys: pa.StringArray  # (n,) null where no column splits
    labels: pa.StringArray  # (n,), or laid end to end for a labeller
    num_labels: np.ndarray  # (n,) labels of each row
    lines: pa.Array  # (n,) int64, null where the file has no lines
    positions: pa.Array  # (n,) int64, place in the whole input of a row made of several; null for others
    problems: tuple[Problem, ...]  # in order of row
    rows: tuple[int, ...]  # each problem's row in the batch
    good: np.ndarray  # (n,) bool: rows without a problem
    kept: tuple[pa.StringArray, ...] = ()  # each (n,), null where missing


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
    numeric = {field.column for field in layout.fields if not field.is_text}
    # These end as float64, or as instants, whatever a file has them as.
    united = {field.column for field in (*layout.fields, *layout.context) if not field.is_text and field.gaps}
    united |= {field.column for field in layout.context if not field.is_text}
    united |= {layout.split} if layout.by_time and layout.split else set()
    roles = {layout.id, layout.target, layout.split, *layout.inputs}
    united |= set(layout.kept) - roles
    for column in layout.columns:
        first: tuple[str, str] | None = None
        for file, schema in schemas:
            kind = _kind(schema.field(column).type, is_input=column in numeric, is_united=column in united)
            if kind is None:
                continue
            first = first or (file, kind)
            if kind != first[1]:
                message = f"holds {kind}, but {first[1]} in {first[0]}; store one type in all files"
                problems.append(Problem(file=file, column=column, message=message))
    return problems


def check(batch: pa.RecordBatch, layout: Layout, *, source: Source, first_row: int) -> Checked:
    """The batch laid flat with every row's problems; `first_row` is its place in the file."""
    target = batch.column(layout.target)
    nulls = pa.nulls(len(batch), pa.string())
    flat = Checked(
        inputs=tuple(laid_flat(batch.column(field.column), field) for field in layout.fields),
        context=(),
        ids=nulls if layout.id is None else texts(batch.column(layout.id)),
        keys=nulls if layout.split is None else _keys(batch.column(layout.split), layout),
        labels=texts(target.flatten() if layout.per_step else target),
        num_labels=_num_labels(target, layout),
        lines=_own(batch, LINE),
        positions=_positions(batch),
        problems=(),
        rows=(),
        good=np.ones(len(batch), bool),
        kept=tuple(instants(batch.column(column)) for column in layout.kept),
    )
    context = [context_column(batch.column(field.column), field) for field in layout.context]
    flat = replace(flat, context=tuple(values for values, _ in context))
    found = list(spelling(batch))
    spelt_wrong = {fault.row for _, fault, _ in found}
    told = [*_faults(flat, target, layout), *(pair for _, faults in context for pair in faults)]
    found += [(column, fault, None) for column, fault in told if fault.row not in spelt_wrong]
    found.sort(key=lambda each: each[1].row)
    flat.good[[fault.row for _, fault, _ in found]] = False
    place = Places(batch, source, first_row)
    problems = tuple(place.problem(column, fault, line) for column, fault, line in found)
    return replace(flat, problems=problems, rows=tuple(fault.row for _, fault, _ in found))


class Places:
    """Where the rows of a batch stand in the user's files."""

    def __init__(self, batch: pa.RecordBatch, source: Source, first_row: int) -> None:
        self.source, self.first_row = source, first_row
        self.lines = batch.column(LINE) if LINE in batch.schema.names else None
        self.positions = batch.column(POSITIONS) if POSITIONS in batch.schema.names else None

    def problem(self, column: str, fault: Fault, line: int | None) -> Problem:
        """The fault at its place; of a row made of several, at the step's own row."""
        file, row, step = self.source.name, self.first_row + fault.row, fault.step
        if self.lines is not None and line is None:
            line = self.lines[fault.row].as_py()
        if self.positions is not None and (places := self.positions[fault.row].as_py()):
            inside = step is not None and step < len(places)
            file, row = self.source.origin(places[step] if inside else min(places))
        return Problem(file, row, column, step, fault.feature, fault.message, line)


def spelling(batch: pa.RecordBatch) -> Iterator[tuple[str, Fault, int | None]]:
    """What the reader found wrong with rows, with the line where it knows one."""
    if FAULT not in batch.schema.names:
        return
    faults = batch.column(FAULT)
    for row in np.flatnonzero(faults.is_valid().to_numpy(zero_copy_only=False)).tolist():
        told = faults[row].as_py()
        yield told["column"] or "", Fault(row, told["step"], None, told["message"]), told["line"]


def laid_flat(column: pa.Array, field: Field) -> Nested | Words:
    """A column of an input."""
    if field.is_text:
        return words(column)
    return with_gaps(nested(column)) if field.gaps else nested(column)


def context_column(
    column: pa.Array, field: Field
) -> tuple[np.ndarray | pa.StringArray, list[tuple[str, Fault]]]:
    """A column of the context, and what is wrong with its rows."""
    if field.is_text:
        values = texts(column)
        faults = missing_faults(values)
    else:
        values, wrong = _numbers(column)
        faults = number_faults(values, wrong, column, gaps=field.gaps)
    return values, [(field.column, fault) for fault in faults]


def _numbers(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """One number for each row as float64, NaN where it is missing, and the rows whose text is no number."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wrong = np.zeros(len(column), bool)
    if text_kind(column.type) == "text":
        column, wrong = parse_numbers(column)
    column = column.cast(pa.float64(), safe=False)
    values = pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False)
    return values, np.flatnonzero(wrong).tolist()


def _keys(column: pa.Array, layout: Layout) -> pa.StringArray:
    return instants(column) if layout.by_time else texts(column)


def _num_labels(target: pa.Array, layout: Layout) -> np.ndarray:
    return list_lengths(target) if layout.per_step else np.ones(len(target), np.int64)


def _own(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(name) if name in batch.schema.names else pa.nulls(len(batch), pa.int64())


def _positions(batch: pa.RecordBatch) -> pa.Array:
    """The first place of each row that is made of several."""
    if POSITIONS not in batch.schema.names:
        return pa.nulls(len(batch), pa.int64())
    places = batch.column(POSITIONS)
    lengths = list_lengths(places)
    starts = np.cumsum(lengths) - lengths
    flat = places.flatten().to_numpy()
    return pa.array(np.minimum.reduceat(flat, starts) if len(flat) else np.zeros(0, np.int64), pa.int64())


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
    told = {layout.id: flat.ids, layout.split: flat.keys}
    told |= {
        name: values for name, values in zip(layout.kept, flat.kept, strict=True) if name == layout.groups
    }
    for name, values in told.items():
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
    for field in layout.fields:
        if column == field.column:
            return words_fault(kind) if field.is_text else numeric_fault(kind)
    if column == layout.target and layout.per_step:
        if not is_list(kind):
            return (
                f"received {kind}, expected a list with a label for each step; or is the task classification?"
            )
        return text_fault(kind.value_type)
    if column == layout.target and is_list(kind):
        return f"received {kind}, expected one label for each row; or is the task labelling?"
    if any(column == field.column and not field.is_text for field in layout.context):
        return scalar_fault(kind)
    if column == layout.split and layout.by_time:
        return instant_fault(kind)
    if column in layout.kept and column not in (layout.id, layout.target, layout.split):
        return "" if _is_number(kind) or is_time(kind) else text_fault(kind)
    return text_fault(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _kind(kind: pa.DataType, *, is_input: bool, is_united: bool) -> str | None:
    value, depth = innermost(kind)
    if pa.types.is_null(value):
        return None
    if is_united:
        return f"{'lists of ' * (depth - 1)}numbers"
    return f"{'lists of ' * (depth - 1)}{value}" if is_input else text_kind(value)
