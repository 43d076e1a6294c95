"""The layout `step`: rows looked at become sequences, columns such as p0, p1, p2 one input.

    id  t  p0  p1  label         id   p                  label
    a   1   5   6   x       ─▶   a    [[5, 6], [7, 8]]   x
    a   2   7   8   x

What is the same in all rows of a sequence stays one value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from components.data.columns import is_list, text_kind, texts
from components.data.instants import order_values, parse_numbers
from components.inspection.looks import Column, Inspection, look

FEWEST = 3
NUMBERED = re.compile(r"(.*?)([0-9]+)")


@dataclass(frozen=True)
class Family:
    """Numeric columns `p0`, `p1`, ... that are features of one input."""

    name: str
    columns: tuple[str, ...]
    patterns: tuple[str, ...]  # that stand for these columns and for no others


def families(raw: Inspection, taken: Sequence[str]) -> tuple[Family, ...]:
    """Numeric columns whose names differ in a number at the end only."""
    names = [column.name for column in raw.columns]
    members: dict[str, list[str]] = {}
    for column in raw.columns:
        parts = NUMBERED.fullmatch(column.name)
        if parts and parts[1] and column.shape == "number" and column.name not in taken:
            members.setdefault(parts[1], []).append(column.name)
    found = []
    for prefix, own in members.items():
        if len(own) < FEWEST or any(set("*?[]") & set(name) for name in own):
            continue
        exact = [
            p for p in (f"{prefix}*", f"{prefix}[0-9]*") if [n for n in names if fnmatchcase(n, p)] == own
        ]
        name = prefix.rstrip("_-. ") or prefix
        while name in names:
            name += "s"
        found.append(Family(name, tuple(own), (exact[0],) if exact else tuple(own)))
    return tuple(found)


def gathered(raw: Inspection, id_column: Column, order: Column, parts: Sequence[Family]) -> Inspection:
    """The rows as sequences: a list where values differ within one, else the value."""
    ids = texts(id_column.values)
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    values = order_values(order.values)
    place = np.lexsort((values.rest, values.whole, codes))
    starts = np.flatnonzero(np.diff(codes[place], prepend=-1))
    sizes = np.diff(np.append(starts, len(place)))
    rows = _Rows(place, sizes, pa.array(np.append(starts, len(place)), pa.int32()))
    arrays = {id_column.name: ids.take(pa.array(rows.firsts))}
    for family in parts:
        arrays[family.name] = rows.vectors([raw.column(name) for name in family.columns])
    taken = {name for family in parts for name in family.columns} | {order.name}
    for column in raw.columns:
        if column.name not in taken and column.name not in arrays and column.shape != "other":
            arrays[column.name] = rows.values(column)
    sequences = np.empty(len(place), np.int64)
    sequences[place] = np.repeat(np.arange(len(starts)), sizes)
    faults = {int(sequences[row]): problem for row, problem in reversed(list(raw.sample.faults.items()))}
    sample = replace(
        raw.sample,
        rows=pa.table(arrays),
        formats=("arrow",),
        file=raw.sample.file[rows.firsts],
        row=raw.sample.row[rows.firsts],
        faults=faults,
    )
    return look(sample)


@dataclass(frozen=True)
class _Rows:
    """Rows in the order of their sequences, and where those begin."""

    place: np.ndarray  # (S,)
    sizes: np.ndarray  # (n,)
    offsets: pa.Array  # (n + 1,)

    @property
    def firsts(self) -> np.ndarray:
        """The first row of each sequence, (n,)."""
        return self.place[np.cumsum(self.sizes) - self.sizes]

    def vectors(self, columns: Sequence[Column]) -> pa.Array:
        """Numbers of several columns as the features of a step."""
        numbers = [_as_numbers(column).take(pa.array(self.place)) for column in columns]
        matrix = np.stack([each.to_numpy(zero_copy_only=False) for each in numbers], axis=1)
        ends = pa.array(np.arange(0, matrix.size + 1, len(columns), dtype=np.int32))
        steps = pa.ListArray.from_arrays(ends, pa.array(matrix.ravel(), pa.float64()))
        return pa.ListArray.from_arrays(self.offsets, steps)

    def values(self, column: Column) -> pa.Array:
        """A list for each sequence, or one value where it is the same in all of them."""
        if is_list(column.values.type):
            return pa.ListArray.from_arrays(self.offsets, column.values.take(pa.array(self.place)))
        codes = column.values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        if (codes[self.place] == np.repeat(codes[self.firsts], self.sizes)).all():
            return column.values.take(pa.array(self.firsts))
        steps = column.values
        if column.shape == "number":
            steps = _as_numbers(column)
            if column.is_whole and column.is_name and not column.num_gaps:
                steps = steps.cast(pa.int64(), safe=False)
        return pa.ListArray.from_arrays(self.offsets, steps.take(pa.array(self.place)))


def _as_numbers(column: Column) -> pa.Array:
    if text_kind(column.values.type) == "text":
        return parse_numbers(column.values)[0]
    return column.values.cast(pa.float64(), safe=False)
