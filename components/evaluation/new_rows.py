"""Answers for rows nobody has labelled, as a stream: files in, record batches out, in the order of the input.

    files ─ open ─▶ sources ─ look ─▶ Task (parts to read, schema to write) ─ answers ─▶ record batches

Memory is bounded by the size of a batch, whatever the size of the files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components import bundles
from components.data.columns import Nested, Words, numeric_fault, scalar_fault, text_fault, texts, words_fault
from components.data.faults import Fault, input_faults, length_faults
from components.data.intake import Here, Reading, open_sources
from components.data.layouts import StepInput, StepLayout
from components.data.readers import File, Part, Source, parts, scan
from components.data.readers.sources import NUMBERS, OWN, TEXT, TEXTS
from components.data.records import Field, Places, context_column, laid_flat, spelling
from components.errors import DataError, Problem
from components.lookup import nearest
from components.served.encoding import Encoding, kind_of
from components.served.numbers import NumericEncoding
from components.served.predictor import Predictor

MAX_STEPS, MAX_PROBABILITIES, MAX_PROBLEMS = 1 << 18, 1 << 22, 1000


@dataclass(frozen=True)
class Task:
    """What to read and what to answer."""

    parts: tuple[Part, ...]
    id_column: str | None  # None: no file has one
    n_best: int
    distribution: bool
    schema: pa.Schema

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.parts)


def reading(
    encoding: Encoding,
    *,
    id_column: str | None,
    file_format: str = "auto",
    layout: Mapping[str, Any] | None = None,
) -> Reading:
    """How files of new rows for a model are read.

    Args:
        encoding: the model's.
        id_column: handed through as `id`.
        file_format: auto, or a reader's name.
        layout: what bundle.json says of the files that the model was trained with.
    """
    layout = layout or {}
    names = tuple(layout["names"]) if layout.get("names") else None
    kinds = {field.column: TEXTS if field.is_text else NUMBERS for field in _fields(encoding)}
    kinds |= {part.column: TEXT for part in encoding.context}
    if id_column is not None:
        kinds[id_column] = TEXT
    if layout.get("layout") != "step":
        return Reading(file_format, names, kinds)
    vectors = layout["columns"]
    by_step = StepLayout(
        id=str(id_column),
        order=layout["order"],
        inputs=tuple(
            StepInput(
                column=field.column,
                sources=tuple(vectors[field.column]) if vectors.get(field.column) else None,
                kind="text" if field.is_text else "numeric",
            )
            for field in _fields(encoding)
        ),
        per_step_texts=(),
        constants=tuple(sorted(part.column for part in encoding.context)),
    )
    return Reading(file_format, names, kinds, by_step)


def _fields(encoding: Encoding) -> list[Field]:
    return [_field(part) for part in encoding.inputs]


def _field(part: Any) -> Field:
    gaps = isinstance(part, NumericEncoding) and part.fill is not None
    return Field(part.column, kind_of(part), gaps)


def open_task(
    files: Sequence[File],
    encoding: Encoding,
    *,
    own_id: str | None,
    id_column: str | None,
    file_format: str,
    layout: Mapping[str, Any] | None,
    scratch: str,
    n_best: int,
    distribution: bool,
) -> Task:
    """Open files of new rows and look at the work that they hold for a model.

    Args:
        files: in the order of the answers.
        encoding: the model's.
        own_id: the id column that the model was trained with; files without it give null ids.
        id_column: another one, which every file must have.
        file_format: auto, or a reader's name.
        layout: what bundle.json says of the files that the model was trained with.
        scratch: a folder for what is imported.
        n_best: also the n most probable labels.
        distribution: also the probability of every label.

    Raises:
        DataError: files that cannot be opened, lack a column or hold another type; all of them together.
    """
    named = id_column or own_id
    check = partial(column_problems, encoding=encoding, id_column=named, id_needed=id_column is not None)
    read = reading(encoding, id_column=named, file_format=file_format, layout=layout)
    sources = open_sources(files, read, run=Here, scratch=scratch, check=check)
    return look(sources, encoding, id_column=named, n_best=n_best, distribution=distribution)


def column_problems(
    source: Source, encoding: Encoding, *, id_column: str | None, id_needed: bool = False
) -> list[Problem]:
    """Columns that a source lacks or holds in another type; the id counts where it is needed, or there."""
    problems: list[Problem] = []
    for field in _fields(encoding):
        fault = words_fault if field.is_text else numeric_fault
        problems += _column_problem(source.schema, field.column, fault, source.name)
    for part in encoding.context:
        fault = scalar_fault if isinstance(part, NumericEncoding) else text_fault
        problems += _column_problem(source.schema, part.column, fault, source.name)
    if id_column is not None and (id_needed or id_column in source.schema.names):
        problems += _column_problem(source.schema, id_column, text_fault, source.name)
    return problems


def look(
    sources: Sequence[Source],
    encoding: Encoding,
    *,
    id_column: str | None,
    n_best: int = 0,
    distribution: bool = False,
) -> Task:
    """The work that the files hold for a model.

    Args:
        sources: in the order of the answers.
        encoding: the model's.
        id_column: handed through as `id`; files without it give null ids.
        n_best: also the n most probable labels.
        distribution: also the probability of every label, in the order of `encoding.labels`.

    Raises:
        DataError: the files hold no rows at all.
    """
    has_id = id_column is not None and any(id_column in source.schema.names for source in sources)
    if not any(source.num_rows for source in sources):
        problems = [Problem(file=source.name, message="no rows") for source in sources]
        raise DataError("The data cannot be predicted.", problems=problems)
    schema = _schema(encoding, with_id=has_id, n_best=n_best, distribution=distribution)
    return Task(tuple(parts(sources)), id_column if has_id else None, n_best, distribution, schema)


def answers(*, bundle: Path, task: Task) -> Iterator[pa.RecordBatch]:
    """The model's answers, row by row in the order of the parts.

    Raises:
        DataError: rows that do not fit, all of them (at most a thousand), once every row was seen.
    """
    predictor = bundles.open(bundle)
    problems: list[Problem] = []
    for part in task.parts:
        row = part.first_row
        for batch in scan(part, _columns(predictor.encoding, task, part)):
            flat = _laid_flat(batch, predictor.encoding)
            problems += _problems(batch, flat, predictor.encoding, source=part.source, first_row=row)
            if len(problems) >= MAX_PROBLEMS:
                break
            if not problems:
                yield from _answered(predictor, task, batch, flat, part.source.name)
            row += len(batch)
    if problems:
        raise DataError("Rows cannot be predicted; nothing was written.", problems=problems)


def _columns(encoding: Encoding, task: Task, part: Part) -> list[str]:
    wanted = [each.column for each in (*encoding.inputs, *encoding.context)]
    if task.id_column is not None and task.id_column in part.source.schema.names:
        wanted.append(task.id_column)
    return list(dict.fromkeys(wanted))


def _column_problem(
    schema: pa.Schema, column: str, fault: Callable[[pa.DataType], str], file: str
) -> Iterator[Problem]:
    found = len(schema.get_all_field_indices(column))
    if found == 0:
        near = nearest(column, schema.names)
        known = [name for name in schema.names if name not in OWN]
        told = f"no such column; the file has {', '.join(known)}"
        yield Problem(file=file, column=column, message=told + (f"; did you mean {near!r}?" if near else ""))
    elif found > 1:
        yield Problem(file=file, column=column, message=f"{found} columns have this name")
    elif message := fault(schema.field(column).type):
        yield Problem(file=file, column=column, message=message)


@dataclass(frozen=True)
class _Flat:
    """A batch laid flat: inputs, and the context with what is wrong in it."""

    inputs: list[Nested | Words]
    context: list[np.ndarray | pa.StringArray]
    faults: list[tuple[str, Fault]]


def _laid_flat(batch: pa.RecordBatch, encoding: Encoding) -> _Flat:
    inputs = [laid_flat(batch.column(field.column), field) for field in _fields(encoding)]
    context = [context_column(batch.column(part.column), _field(part)) for part in encoding.context]
    faults = [fault for _, own in context for fault in own]
    return _Flat(inputs, [values for values, _ in context], faults)


def _problems(
    batch: pa.RecordBatch, flat: _Flat, encoding: Encoding, *, source: Source, first_row: int
) -> list[Problem]:
    columns = [part.column for part in encoding.inputs]
    told = list(spelling(batch))
    faults: list[tuple[str, Fault]] = list(flat.faults)
    for part, values in zip(encoding.inputs, flat.inputs, strict=True):
        found = input_faults(values)
        known = {fault.row for fault in found}
        features = part.features if isinstance(part, NumericEncoding) else 1
        widths = values.row_widths
        for row in np.flatnonzero((widths != features) & (values.lengths > 0)).tolist():
            if row not in known:
                found.append(Fault(row, 0, None, f"{widths[row]} features, expected {features}"))
        faults += [(part.column, fault) for fault in found]
    faults += length_faults(columns, flat.inputs)
    spelt_wrong = {fault.row for _, fault, _ in told}
    told += [(column, fault, None) for column, fault in faults if fault.row not in spelt_wrong]
    places = Places(batch, source, first_row)
    return [
        places.problem(column, fault, line)
        for column, fault, line in sorted(told, key=lambda found: found[1].row)
    ]


def _answered(
    predictor: Predictor, task: Task, batch: pa.RecordBatch, flat: _Flat, file: str
) -> Iterator[pa.RecordBatch]:
    """The batch's answers in pieces whose probabilities fit in memory."""
    lengths = flat.inputs[0].lengths
    ends = np.concatenate([[0], np.cumsum(lengths)])
    most = max(1, min(MAX_STEPS, MAX_PROBABILITIES // predictor.encoding.num_classes))
    start = 0
    while start < len(batch):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + most, side="right")) - 1)
        own = lengths[start:stop]
        try:
            raw = _raw(flat, predictor.encoding, slice(start, stop), slice(int(ends[start]), int(ends[stop])))
            x = predictor.encoding.encode(raw, own)
        except ValueError as error:
            raise DataError(
                "Rows cannot be predicted; nothing was written.",
                problems=[Problem(file=file, message=str(error))],
            ) from error
        columns = predictor.decode(
            predictor.predict_encoded(x, own), own, n_best=task.n_best, distribution=task.distribution
        )
        if "id" in task.schema.names:
            has_id = task.id_column in batch.schema.names
            ids = texts(batch.column(task.id_column)) if has_id else pa.nulls(len(batch), pa.string())
            columns = {"id": ids.slice(start, stop - start), **columns}
        arrays = [pa.array(columns[field.name], field.type) for field in task.schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=task.schema)
        start = stop


def _raw(flat: _Flat, encoding: Encoding, rows: slice, steps: slice) -> dict[str, Any]:
    """The columns of some rows, as the encoding takes them."""
    raw: dict[str, Any] = {}
    for part, values in zip(encoding.inputs, flat.inputs, strict=True):
        if isinstance(part, NumericEncoding):
            raw[part.column] = values.values.reshape(-1, part.features)[steps]
        else:
            assert isinstance(values, Words)
            raw[part.column] = values.values[steps.start : steps.stop].to_pylist()
    for part, single in zip(encoding.context, flat.context, strict=True):
        own = single[rows] if isinstance(single, np.ndarray) else single[rows.start : rows.stop].to_pylist()
        raw[part.column] = own
    return raw


def _schema(encoding: Encoding, *, with_id: bool, n_best: int, distribution: bool) -> pa.Schema:
    text, real = pa.string(), pa.float64()
    if encoding.task == "labelling":
        label, probability, several = "labels", "probabilities", pa.list_
    else:
        label, probability, several = "label", "probability", _one
    fields = [pa.field("id", text)] if with_id else []
    fields += [pa.field(label, several(text)), pa.field(probability, several(real))]
    if n_best:
        fields += [
            pa.field("n_best_labels", several(pa.list_(text))),
            pa.field("n_best_probabilities", several(pa.list_(real))),
        ]
    if distribution:
        fields.append(pa.field("distribution", several(pa.list_(real))))
    return pa.schema(fields)


def _one(kind: pa.DataType) -> pa.DataType:
    return kind
