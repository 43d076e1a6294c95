"""The layout `step`: one row of the files is one time step of the sequence that an id names.

    parts ─ spread ─▶ buckets by hash of the id ─ assemble ─▶ one Arrow file of sequences per bucket

    id  t  x                     id   x        recurra.positions
    b   2  6      sorted by      b    [5, 6]   [3, 0]
    a   1  1      id and t       a    [1, 2]   [1, 2]
    a   2  2
    b   1  5

What is wrong with a row stands in the column FAULT of its sequence, the first in order of step. Memory is
bounded by a bucket. Letters: S steps of a bucket, n sequences.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.buckets import (
    Fault,
    Piece,
    Seen,
    Spread,
    num_buckets,
    number_key,
    pieces,
    read_bucket,
    spread,
    text_key,
    united,
)
from components.data.columns import is_list
from components.data.instants import Kind, shown
from components.data.layouts import StepInput, StepLayout, common_columns, expand_columns
from components.data.readers import arrow
from components.data.readers.sources import FAULT, FAULT_TYPE, POSITIONS, Origin, Source, fault
from components.errors import DataError, Problem

__all__ = [
    "Piece",
    "Spread",
    "StepInput",
    "StepLayout",
    "assemble",
    "common_columns",
    "common_order",
    "common_types",
    "expand_columns",
    "num_buckets",
    "pieces",
    "spread",
]

BATCH_STEPS = 1 << 18
UNORDERED = "The steps cannot be put in order."

# Steps at which something is wrong, by their place in (S,), and what it is.
Findings: TypeAlias = tuple[np.ndarray, Callable[[int], Fault]]


def common_order(spreads: Sequence[Spread]) -> Kind:
    """What the order values of all files are: NUMBER, ZONED or LOCAL; NUMBER too where there are none.

    Raises:
        DataError: they are of several kinds, or some are neither numbers nor instants.
    """
    first: dict[Kind, Seen] = {}
    every = (seen for each in spreads for seen in each.seen)
    for seen in sorted(every, key=lambda seen: seen.position):
        first.setdefault(seen.kind, seen)
    column = spreads[0].column if spreads else ""
    if Kind.OTHER in first:
        message = (
            f"received {first[Kind.OTHER].value}, expected a number, or a date or time as ISO 8601 spells it"
        )
        raise DataError(UNORDERED, problems=[_at(first[Kind.OTHER], column, message)])
    told = [first[kind] for kind in (Kind.NUMBER, Kind.ZONED, Kind.LOCAL) if kind in first]
    if len(told) > 1:
        pairs = zip(told, told[1:] + told[:1], strict=True)
        raise DataError(UNORDERED, problems=[_at(one, column, _mixed(one, other)) for one, other in pairs])
    return told[0].kind if told else Kind.NUMBER


def common_types(spreads: Sequence[Spread]) -> dict[str, pa.DataType]:
    """What a step of each numeric input is stored as: the files' own type where they agree, else double.

    Raises:
        DataError: a step is a number in one file, and a list of them in another.
    """
    types: dict[str, pa.DataType] = {}
    problems = []
    for column in spreads[0].types if spreads else ():
        known = [
            (each.types[column], each.file) for each in spreads if not pa.types.is_null(each.types[column])
        ]
        for kind, file in known:
            if is_list(kind) != is_list(known[0][0]):
                message = (
                    f"received {kind}, but {known[0][0]} in {known[0][1]}; store one of both in all files"
                )
                problems.append(Problem(file=file, column=column, message=message))
        if not problems:
            kind = united([kind for kind, _ in known])
            types[column] = pa.float64() if pa.types.is_null(kind) else kind
    if problems:
        raise DataError("The files differ in their types.", problems=problems)
    return types


def assemble(
    bucket_files: Sequence[Piece],
    layout: StepLayout,
    order_kind: Kind,
    target: str,
    *,
    types: Mapping[str, pa.DataType],
    name: str = "sequences",
    origins: tuple[Origin, ...] = (),
) -> Source:
    """Put the steps of a bucket together, in the Arrow file `target`: one row for each sequence.

    `types` are those of `common_types`. Sequences stand in the order of their first positions.
    """
    rows = read_bucket(bucket_files, layout, types)
    found = _grouped(rows)
    columns: dict[str, pa.Array] = {layout.id: rows["id"].take(found.first_rows)}
    for each in layout.inputs:
        if each.kind == "numeric":
            columns[each.column] = found.lists(_steps(rows, each, found.order, types[each.column]))
    for column in layout.lists:
        columns[column] = found.lists(rows[text_key(column)].take(found.order))
    for column in layout.single:
        columns[column] = rows[text_key(column)].take(found.first_rows)
    columns[FAULT] = _faults(rows, layout, order_kind, found)
    columns[POSITIONS] = found.lists(rows["position"].take(found.order))
    _write(pa.table(columns), target, num_steps=len(found.order))
    return replace(arrow.describe(target, name), origins=origins)


@dataclass(frozen=True)
class _Grouped:
    """How the rows of a bucket make sequences."""

    order: np.ndarray  # (S,) rows, sequence after sequence
    starts: np.ndarray  # (n,) where each sequence begins in `order`
    sequences: np.ndarray  # (S,) the sequence of each in `order`

    @property
    def first_rows(self) -> np.ndarray:
        """The row of each sequence's first step, (n,)."""
        return self.order[self.starts]

    def lists(self, steps: pa.Array) -> pa.ListArray:
        """Values in the order of `order`, a list for each sequence."""
        offsets = np.append(self.starts, len(self.order))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), steps)


def _grouped(rows: Mapping[str, pa.Array]) -> _Grouped:
    positions, whole, rest = (rows[name].to_numpy() for name in ("position", "whole", "rest"))
    codes = _codes(rows["id"], positions)
    keys = [positions] if (np.diff(positions) < 0).any() else []  # lexsort keeps the order of equal ones
    keys += [rest] if rest.any() else []
    order = np.lexsort((*keys, whole, codes))
    ordered = codes[order]
    begins = np.diff(ordered, prepend=-1) != 0
    return _Grouped(order, np.flatnonzero(begins), ordered)


def _codes(ids: pa.StringArray, positions: np.ndarray) -> np.ndarray:
    """A number for each id in order of first position; rows without one are a sequence each. (S,) int64."""
    encoded = ids.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = len(encoded.dictionary) + np.arange(len(alone))
    first = np.full(len(encoded.dictionary) + len(alone), np.iinfo(np.int64).max)
    np.minimum.at(first, codes, positions)
    ranks = np.empty_like(first)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks[codes]


def _steps(rows: Mapping[str, pa.Array], each: StepInput, order: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The steps of a numeric input in their order, each a number or, of several columns, a list."""
    if each.sources is None:
        return rows[number_key(each.column)].take(order)
    columns = [rows[number_key(column)].take(order) for column in each.sources]
    size = len(columns)
    values = np.empty((len(order), size), kind.to_pandas_dtype())
    missing = np.zeros((len(order), size), bool) if any(column.null_count for column in columns) else None
    for feature, column in enumerate(columns):
        if missing is not None and column.null_count:
            missing[:, feature] = column.is_null().to_numpy(zero_copy_only=False)
            column = pc.fill_null(column, pa.scalar(0).cast(kind))
        values[:, feature] = column.to_numpy(zero_copy_only=False)
    flat = pa.array(values.ravel(), kind, mask=None if missing is None else missing.ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(len(order) + 1) * size, pa.int32()), flat)


def _faults(rows: Mapping[str, pa.Array], layout: StepLayout, kind: Kind, found: _Grouped) -> pa.Array:
    """The first fault of each sequence in order of step, null where nothing is wrong, (n,)."""
    checks = [_row_faults(rows, found), _ties(rows, layout, kind, found)]
    checks += [_varying(rows, column, found) for column in layout.single]
    at = np.concatenate([places for places, _ in checks])
    check = np.repeat(np.arange(len(checks)), [len(places) for places, _ in checks])
    by_place = np.lexsort((check, at))
    faulty, first = np.unique(found.sequences[at[by_place]], return_index=True)
    told = []
    for sequence, chosen in zip(faulty, by_place[first], strict=True):
        place = int(at[chosen])
        line = rows["line"][found.order[place]].as_py()
        said = checks[check[chosen]][1](place)
        step = place - int(found.starts[sequence])
        told.append({**said, "step": step, "line": said["line"] or line})
    spots = np.full(len(found.starts), -1)
    spots[faulty] = np.arange(len(faulty))
    return pa.array(told, FAULT_TYPE).take(pa.array(spots, mask=spots < 0))


def _row_faults(rows: Mapping[str, pa.Array], found: _Grouped) -> Findings:
    wrong = rows["fault"].is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(wrong[found.order]), lambda place: rows["fault"][found.order[place]].as_py()


def _ties(rows: Mapping[str, pa.Array], layout: StepLayout, kind: Kind, found: _Grouped) -> Findings:
    whole, rest = (rows[name].to_numpy()[found.order] for name in ("whole", "rest"))
    same = (np.diff(found.sequences) == 0) & (whole[1:] == whole[:-1]) & (rest[1:] == rest[:-1])

    def say(place: int) -> Fault:
        value = shown(kind, float(whole[place]), int(rest[place]))
        return fault(layout.order, f"{layout.order} {value} stands twice")

    return np.flatnonzero(same) + 1, say


def _varying(rows: Mapping[str, pa.Array], column: str, found: _Grouped) -> Findings:
    values = rows[text_key(column)]
    codes = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)[found.order]

    def say(place: int) -> Fault:
        start = found.starts[found.sequences[place]]
        one, other = (values[found.order[spot]].as_py() for spot in (start, place))
        pair = f"{_named(one)} at step 0 and {_named(other)} at step {place - start}"
        return fault(column, f"the {column} is {pair}")

    return np.flatnonzero(codes != codes[found.starts][found.sequences]), say


def _named(value: str | None) -> str:
    return "missing" if value is None else repr(value)


def _write(table: pa.Table, target: str, *, num_steps: int) -> None:
    """Write a file whose batches are of bounded size; nothing but a whole file ever has its name."""
    rows = max(1, BATCH_STEPS * len(table) // max(1, num_steps))
    unfinished = f"{target}.part"
    with pa.ipc.new_file(unfinished, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    os.replace(unfinished, target)


def _at(seen: Seen, column: str, message: str) -> Problem:
    return Problem(file=seen.file, row=seen.row, column=column, message=message, line=seen.line)


def _mixed(one: Seen, other: Seen) -> str:
    place = f"line {other.line}" if other.line is not None else f"row {other.row}"
    rival = f"{other.value} ({other.file}, {place})"
    says = {Kind.NUMBER: "is a number", Kind.ZONED: "has a time zone", Kind.LOCAL: "has no time zone"}
    if Kind.NUMBER in (one.kind, other.kind):
        says[Kind.ZONED] = says[Kind.LOCAL] = "is a date or time"
    answers = {"has a time zone": "has none", "has no time zone": "has one"}
    return f"{one.value} {says[one.kind]}, but {rival} {answers.get(says[one.kind], says[other.kind])}"
