"""Answers for rows nobody has labelled: files in, record batches out, in the order of the input.

    files ─ open ─▶ sources ─ look ─▶ Task (schema to write) ─ chunks ─▶ answers, each alone ─▶ record batches

Memory is bounded by the size of a batch, whatever the size of the files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components import bundles
from components.data.columns import Nested, Words, numeric_fault, scalar_fault, text_fault, texts, words_fault
from components.data.faults import Fault, input_faults, length_faults
from components.data.intake import Reading, Run, open_sources
from components.data.layouts import StepInput, StepLayout
from components.data.readers import File, Part, Source, parts, scan
from components.data.readers.sources import NUMBERS, OWN, TEXT, TEXTS
from components.data.records import Field, Places, context_column, laid_flat, spelling
from components.errors import DataError, ModelError, Problem
from components.lookup import nearest
from components.served.encoding import Encoding, kind_of
from components.served.numbers import NumericEncoding
from components.served.predictor import BestSequences, Predictor, Said

MAX_STEPS, MAX_PROBABILITIES, MAX_PROBLEMS = 1 << 18, 1 << 22, 1000
MAX_LABELS = 1 << 22  # of the best sequences of a piece
# Of a chunk: what is lost with a process that dies.
CHUNK_ROWS, CHUNK_VALUES = 1 << 16, 1 << 24

# What a row without an answer has beside its nulls; `problem` is null where there is one.
PROBLEM = "problem"
PLACE = (pa.field("file", pa.string()), pa.field("row", pa.int64()), pa.field("line", pa.int64()))


@dataclass(frozen=True)
class Task:
    """What to read and what to answer."""

    parts: tuple[Part, ...]
    id_column: str | None  # None: no file has one
    n_best: int
    distribution: bool
    schema: pa.Schema
    keeps_bad: bool = False  # rows that do not fit get nulls, a problem and their place; else they are errors
    n_best_sequences: int = 0

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.parts)

    @property
    def num_values(self) -> int:
        return sum(part.num_values for part in self.parts)

    @property
    def answer_names(self) -> list[str]:
        """The columns that are answers: null where a row does not fit."""
        own = ("id", PROBLEM, *(field.name for field in PLACE))
        return [name for name in self.schema.names if name not in own]


@dataclass(frozen=True)
class Stretch:
    """Rows of a part, counted within it."""

    part: Part
    first: int
    stop: int


Chunk = tuple[Stretch, ...]


def chunks(parts: Sequence[Part]) -> list[Chunk]:
    """The parts cut, and small ones put together, into chunks that are answered one by one.

    They depend on the files alone, so that work that was stopped can go on elsewhere.
    """
    cut: list[Chunk] = []
    chunk: list[Stretch] = []
    left = 1.0  # of the chunk's room
    for part in parts:
        share = max(1 / CHUNK_ROWS, part.num_values / max(1, part.num_rows) / CHUNK_VALUES)  # of a row
        first = 0
        while first < part.num_rows:
            stop = min(part.num_rows, first + max(1, int(left / share)))
            chunk.append(Stretch(part, first, stop))
            left -= (stop - first) * share
            first = stop
            if left < share:
                cut.append(tuple(chunk))
                chunk, left = [], 1.0
    return [*cut, tuple(chunk)] if chunk else cut


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
    run: Run,
    scratch: str,
    n_best: int,
    distribution: bool,
    keeps_bad: bool = False,
    n_best_sequences: int = 0,
) -> Task:
    """Open files of new rows and look at the work that they hold for a model.

    Args:
        files: in the order of the answers.
        encoding: the model's.
        own_id: the id column that the model was trained with; files without it give null ids.
        id_column: another one, which every file must have.
        file_format: auto, or a reader's name.
        layout: what bundle.json says of the files that the model was trained with.
        run: starts a task that imports a text file.
        scratch: a folder for what is imported.
        n_best: also the n most probable labels.
        distribution: also the probability of every label.
        keeps_bad: rows that do not fit are answered with nulls and their problem.
        n_best_sequences: also the n most probable label sequences as wholes; of a CRF.

    Raises:
        DataError: files that cannot be opened, lack a column or hold another type; all of them together.
    """
    named = id_column or own_id
    check = partial(column_problems, encoding=encoding, id_column=named, id_needed=id_column is not None)
    read = reading(encoding, id_column=named, file_format=file_format, layout=layout)
    sources = open_sources(files, read, run=run, scratch=scratch, check=check)
    return look(
        sources,
        encoding,
        id_column=named,
        n_best=n_best,
        distribution=distribution,
        keeps_bad=keeps_bad,
        n_best_sequences=n_best_sequences,
    )


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
    keeps_bad: bool = False,
    n_best_sequences: int = 0,
) -> Task:
    """The work that the files hold for a model.

    Args:
        sources: in the order of the answers.
        encoding: the model's.
        id_column: handed through as `id`; files without it give null ids.
        n_best: also the n most probable labels.
        distribution: also the probability of every label, in the order of `encoding.labels`.
        keeps_bad: rows that do not fit are answered with nulls and their problem.
        n_best_sequences: also the n most probable label sequences as wholes; of a CRF.

    Raises:
        DataError: the files hold no rows at all.
    """
    has_id = id_column is not None and any(id_column in source.schema.names for source in sources)
    if not any(source.num_rows for source in sources):
        problems = [Problem(file=source.name, message="no rows") for source in sources]
        raise DataError("The data cannot be predicted.", problems=problems)
    schema = _schema(
        encoding,
        with_id=has_id,
        n_best=n_best,
        distribution=distribution,
        with_sequences=n_best_sequences > 0,
    )
    if keeps_bad:
        schema = pa.schema([*schema, pa.field(PROBLEM, pa.string()), *PLACE])
    found = tuple(parts(sources))
    own = id_column if has_id else None
    return Task(found, own, n_best, distribution, schema, keeps_bad, n_best_sequences)


def answers(
    *, bundle: Path, task: Task, chunk: Chunk | None = None, only_check: bool = False
) -> Iterator[pa.RecordBatch]:
    """The model's answers to the rows of a chunk, in their order; of all parts when none is given.

    Args:
        only_check: look for rows that do not fit, and answer none.

    Raises:
        DataError: rows that do not fit, all of the chunk's (at most a thousand), once every row was seen.
        ModelError: the best label sequences are wanted of a model that does not score them.
    """
    predictor = _opened(bundle, bundles.describe(bundle)["digest"])
    if task.n_best_sequences and not predictor.is_crf:
        raise ModelError(
            "This model does not score label sequences as wholes: it is no CRF.",
            hint="Leave --n-best-sequences out, or train with `model.crf: true`.",
        )
    problems: list[Problem] = []
    for part, first, batch in _batches(predictor.encoding, task, chunk):
        flat = _laid_flat(batch, predictor.encoding)
        longest = predictor.encoding.max_length if task.n_best_sequences else None
        found = _problems(
            batch, flat, predictor.encoding, source=part.source, first_row=first, longest=longest
        )
        if task.keeps_bad:
            yield from _kept(predictor, task, batch, flat, found, places=Places(batch, part.source, first))
            continue
        problems += [problem for _, problem in found]
        if len(problems) >= MAX_PROBLEMS:
            break
        if not problems and not only_check:
            try:
                yield from _answered(predictor, task, batch, flat)
            except _Unfit as error:
                problems.append(Places(batch, part.source, first).problem("", error.fault, None))
    if problems:
        raise DataError("Rows cannot be predicted; nothing was written.", problems=problems)


@lru_cache(maxsize=1)
def _opened(bundle: Path, digest: str) -> Predictor:
    """The bundle, opened once for all chunks."""
    return bundles.open(bundle)


def _batches(
    encoding: Encoding, task: Task, chunk: Chunk | None
) -> Iterator[tuple[Part, int, pa.RecordBatch]]:
    """The rows to read, with their part and the place of the first one in its file."""
    whole = tuple(Stretch(part, 0, part.num_rows) for part in task.parts)
    for stretch in whole if chunk is None else chunk:
        part, row = stretch.part, 0
        for batch in scan(part, _columns(encoding, task, part)):
            first, stop = max(stretch.first - row, 0), min(stretch.stop - row, len(batch))
            if first < stop:
                yield part, part.first_row + row + first, batch.slice(first, stop - first)
            row += len(batch)
            if row >= stretch.stop:
                break


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
    batch: pa.RecordBatch,
    flat: _Flat,
    encoding: Encoding,
    *,
    source: Source,
    first_row: int,
    longest: int | None,
) -> list[tuple[int, Problem]]:
    """What is wrong with rows of the batch, by row; `longest` is the most steps that one may have."""
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
    if longest is not None:
        faults += [(columns[0], fault) for fault in _too_long(flat.inputs[0].lengths, longest)]
    spelt_wrong = {fault.row for _, fault, _ in told}
    told += [(column, fault, None) for column, fault in faults if fault.row not in spelt_wrong]
    places = Places(batch, source, first_row)
    return [
        (fault.row, places.problem(column, fault, line))
        for column, fault, line in sorted(told, key=lambda found: found[1].row)
    ]


def _too_long(lengths: np.ndarray, longest: int) -> Iterator[Fault]:
    """Rows that are read in several windows, over which a label sequence has no probability."""
    for row in np.flatnonzero(lengths > longest).tolist():
        told = f"{lengths[row]} steps, but label sequences have probabilities in windows of {longest} only"
        yield Fault(row, None, None, told)


class _Unfit(Exception):
    """A row whose numbers the encoding cannot take: they leave float32 once they are scaled."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def _answered(
    predictor: Predictor, task: Task, batch: pa.RecordBatch, flat: _Flat
) -> Iterator[pa.RecordBatch]:
    """The batch's answers in pieces whose probabilities fit in memory.

    Raises:
        _Unfit: the first row that cannot be encoded.
    """
    lengths = flat.inputs[0].lengths
    ends = np.concatenate([[0], np.cumsum(lengths)])
    most = max(1, min(MAX_STEPS, MAX_PROBABILITIES // predictor.encoding.num_classes))
    if task.n_best_sequences:
        most = max(1, min(most, MAX_LABELS // task.n_best_sequences))
    start = 0
    while start < len(batch):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + most, side="right")) - 1)
        own = lengths[start:stop]
        x = _encoded(flat, predictor.encoding, ends, start, stop)
        columns = _arrays(predictor.predict_encoded(x, own), own, predictor.encoding, task)
        if task.n_best_sequences:
            best = predictor.best_encoded(x, own, task.n_best_sequences)
            columns |= _sequence_arrays(best, own, predictor.encoding)
        if "id" in task.schema.names:
            columns["id"] = _ids(batch, task).slice(start, stop - start)
        for field in task.schema:
            columns.setdefault(field.name, pa.nulls(stop - start, field.type))
        yield pa.RecordBatch.from_arrays([columns[field.name] for field in task.schema], schema=task.schema)
        start = stop


def _encoded(flat: _Flat, encoding: Encoding, ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Rows as (S, W) float32.

    Raises:
        _Unfit: the first one that cannot be.
    """
    rows, steps = slice(start, stop), slice(int(ends[start]), int(ends[stop]))
    try:
        return encoding.encode(_raw(flat, encoding, rows, steps), np.diff(ends[start : stop + 1]))
    except ValueError as error:
        if stop - start == 1:
            raise _Unfit(Fault(start, None, None, str(error))) from error
        for row in range(start, stop):
            _encoded(flat, encoding, ends, row, row + 1)
        raise


def _ids(batch: pa.RecordBatch, task: Task) -> pa.Array:
    if task.id_column in batch.schema.names:
        return texts(batch.column(task.id_column))
    return pa.nulls(len(batch), pa.string())


def _arrays(said: Said, lengths: np.ndarray, encoding: Encoding, task: Task) -> dict[str, pa.Array]:
    """The values that `Predictor.decode` gives, as Arrow columns without a Python object for each."""
    labels = pa.array(encoding.labels, pa.string())
    per_step = encoding.task == "labelling"
    names = ("labels", "probabilities") if per_step else ("label", "probability")
    flat = {names[0]: labels.take(pa.array(said.best)), names[1]: pa.array(said.confidence)}
    if task.n_best:
        order = np.argsort(-said.log_probabilities, axis=1, kind="stable")[:, : task.n_best]
        best = np.take_along_axis(said.log_probabilities, order, axis=1).astype(np.float64)
        flat["n_best_labels"] = _lists(labels.take(pa.array(order.ravel())), task.n_best)
        flat["n_best_probabilities"] = _lists(pa.array(np.exp(best).ravel()), task.n_best)
    if task.distribution:
        every = np.exp(said.log_probabilities.astype(np.float64))
        flat["distribution"] = _lists(pa.array(every.ravel()), every.shape[1])
    if not per_step:
        return flat
    offsets = _offsets(lengths)
    return {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}


def _sequence_arrays(best: BestSequences, lengths: np.ndarray, encoding: Encoding) -> dict[str, pa.Array]:
    """The values that `Predictor.best_sequences` gives, as Arrow columns."""
    labels = pa.array(encoding.labels, pa.string()).take(pa.array(best.classes))
    sequences = pa.ListArray.from_arrays(_offsets(np.repeat(lengths, best.counts)), labels)
    rows = _offsets(best.counts)
    return {
        "n_best_sequences": pa.ListArray.from_arrays(rows, sequences),
        "n_best_sequence_log_probabilities": pa.ListArray.from_arrays(rows, pa.array(best.log_probabilities)),
    }


def _offsets(sizes: np.ndarray) -> pa.Array:
    """Where lists of these sizes, laid end to end, begin and end."""
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))


def _lists(values: pa.Array, size: int) -> pa.ListArray:
    """Values laid end to end as lists of one size."""
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), values)


def _kept(
    predictor: Predictor,
    task: Task,
    batch: pa.RecordBatch,
    flat: _Flat,
    found: Sequence[tuple[int, Problem]],
    *,
    places: Places,
) -> Iterator[pa.RecordBatch]:
    """As many rows as the batch has: answers, and nulls with a problem where there is none."""
    problems: dict[int, list[Problem]] = {}
    for row, problem in found:
        problems.setdefault(row, []).append(problem)
    pieces: list[pa.RecordBatch] = []
    rows = np.arange(len(batch))
    while True:
        rows = np.array([row for row in rows.tolist() if row not in problems], np.int64)
        fitting = batch.take(pa.array(rows)) if problems else batch
        own = _laid_flat(fitting, predictor.encoding) if problems else flat
        try:
            pieces = list(_answered(predictor, task, fitting, own))
            break
        except _Unfit as error:
            row = int(rows[error.fault.row])
            problems[row] = [places.problem("", replace(error.fault, row=row), None)]
    if not problems:
        yield from pieces
        return
    at = np.full(len(batch), -1)
    at[rows] = np.arange(len(rows))
    answered = pa.Table.from_batches(pieces, task.schema).combine_chunks()
    taken = answered.take(pa.array(at, mask=at < 0)).to_batches()[0]
    columns = dict(zip(taken.schema.names, taken.columns, strict=True))
    if "id" in columns:
        columns["id"] = _ids(batch, task)
    first = {row: each[0] for row, each in problems.items()}
    columns[PROBLEM] = pa.array(
        [_told(problems[row]) if row in problems else None for row in range(len(batch))], pa.string()
    )
    for field in PLACE:
        values = [getattr(first[row], field.name) if row in first else None for row in range(len(batch))]
        columns[field.name] = pa.array(values, field.type)
    yield pa.RecordBatch.from_arrays([columns[field.name] for field in task.schema], schema=task.schema)


def _told(problems: Sequence[Problem]) -> str:
    """A row's problems; where the row stands is said beside them."""
    return "; ".join(str(replace(problem, file="", row=None, line=None)) for problem in problems)


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


def _schema(
    encoding: Encoding, *, with_id: bool, n_best: int, distribution: bool, with_sequences: bool
) -> pa.Schema:
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
    if with_sequences:
        fields += [
            pa.field("n_best_sequences", pa.list_(pa.list_(text))),
            pa.field("n_best_sequence_log_probabilities", pa.list_(real)),
        ]
    return pa.schema(fields)


def _one(kind: pa.DataType) -> pa.DataType:
    return kind
