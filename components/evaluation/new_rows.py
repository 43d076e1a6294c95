"""Answers for rows nobody has labelled, as a stream: files in, record batches out, in the order of the input.

    files ─ look ─▶ Task (parts to read, schema to write) ─ answers ─▶ record batches

Memory is bounded by the size of a batch, whatever the size of the files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from components import bundles
from components.data.columns import Nested, nested, numeric_fault, text_fault, texts
from components.data.faults import Fault, input_faults, length_faults
from components.data.readers import Part, describe, parts, scan
from components.errors import DataError, Problem
from components.lookup import nearest
from components.served.encoding import Encoding
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


def look(
    files: Sequence[Path],
    encoding: Encoding,
    *,
    id_column: str | None,
    id_needed: bool = False,
    n_best: int = 0,
    distribution: bool = False,
) -> Task:
    """The work that the files hold for a model; only their footers are read.

    Args:
        files: in the order of the answers.
        encoding: the model's.
        id_column: handed through as `id`; files without it give null ids, unless it is needed.
        id_needed: whether a file without the id column is at fault.
        n_best: also the n most probable labels.
        distribution: also the probability of every label, in the order of `encoding.labels`.

    Raises:
        DataError: files that cannot be opened, lack a column or hold another type, or hold no rows at all.
    """
    sources, problems = describe(files)
    has_id = id_column is not None and any(id_column in source.schema.names for source in sources)
    for source in sources:
        for part in encoding.inputs:
            problems += _column_problem(source.schema, part.column, numeric_fault, source.name)
        if id_column is not None and (id_needed or id_column in source.schema.names):
            problems += _column_problem(source.schema, id_column, text_fault, source.name)
    if not problems and not any(source.num_rows for source in sources):
        problems = [Problem(file=source.name, message="no rows") for source in sources]
    if problems:
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
            inputs = [nested(batch.column(each.column)) for each in predictor.encoding.inputs]
            problems += _problems(inputs, predictor.encoding, file=part.source.name, first_row=row)
            if len(problems) >= MAX_PROBLEMS:
                break
            if not problems:
                yield from _answered(predictor, task, batch, inputs, part.source.name)
            row += len(batch)
    if problems:
        raise DataError("Rows cannot be predicted; nothing was written.", problems=problems)


def _columns(encoding: Encoding, task: Task, part: Part) -> list[str]:
    wanted = [each.column for each in encoding.inputs]
    if task.id_column is not None and task.id_column in part.source.schema.names:
        wanted.append(task.id_column)
    return list(dict.fromkeys(wanted))


def _column_problem(
    schema: pa.Schema, column: str, fault: Callable[[pa.DataType], str], file: str
) -> Iterator[Problem]:
    found = len(schema.get_all_field_indices(column))
    if found == 0:
        near = nearest(column, schema.names)
        told = f"no such column; the file has {', '.join(schema.names)}"
        yield Problem(file=file, column=column, message=told + (f"; did you mean {near!r}?" if near else ""))
    elif found > 1:
        yield Problem(file=file, column=column, message=f"{found} columns have this name")
    elif message := fault(schema.field(column).type):
        yield Problem(file=file, column=column, message=message)


def _problems(inputs: Sequence[Nested], encoding: Encoding, *, file: str, first_row: int) -> list[Problem]:
    columns = [part.column for part in encoding.inputs]
    faults: list[tuple[str, Fault]] = []
    for part, values in zip(encoding.inputs, inputs, strict=True):
        found = input_faults(values)
        known = {fault.row for fault in found}
        widths = values.row_widths
        for row in np.flatnonzero((widths != part.features) & (values.lengths > 0)).tolist():
            if row not in known:
                found.append(Fault(row, 0, None, f"{widths[row]} features, expected {part.features}"))
        faults += [(part.column, fault) for fault in found]
    faults += length_faults(columns, inputs)
    return [
        Problem(file, first_row + fault.row, column, fault.step, fault.feature, fault.message)
        for column, fault in sorted(faults, key=lambda found: found[1].row)
    ]


def _answered(
    predictor: Predictor, task: Task, batch: pa.RecordBatch, inputs: Sequence[Nested], file: str
) -> Iterator[pa.RecordBatch]:
    """The batch's answers in pieces whose probabilities fit in memory."""
    lengths = inputs[0].lengths
    ends = np.concatenate([[0], np.cumsum(lengths)])
    most = max(1, min(MAX_STEPS, MAX_PROBABILITIES // predictor.encoding.num_classes))
    start = 0
    while start < len(batch):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + most, side="right")) - 1)
        steps = slice(int(ends[start]), int(ends[stop]))
        raw = {
            part.column: values.values.reshape(-1, part.features)[steps]
            for part, values in zip(predictor.encoding.inputs, inputs, strict=True)
        }
        try:
            x = predictor.encoding.encode(raw)
        except ValueError as error:
            raise DataError(
                "Rows cannot be predicted; nothing was written.",
                problems=[Problem(file=file, message=str(error))],
            ) from error
        own = lengths[start:stop]
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
