"""Python values become Arrow columns; a value that does not fit becomes a fault of its row and a null.

TEXT     "a"  7  1.10  true     string              numbers exactly as the file spells them
TEXTS    ["a", 7]               list<string>        the same, leaf by leaf
NUMBERS  [1, 2.5]               list<double>        depth 1
         [[1, 2], [3, 4]]       list<list<double>>  depth 2
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.readers.sources import (
    ANY,
    FAULT,
    FAULT_TYPE,
    LINE,
    NUMBERS,
    OWN,
    TEXT,
    TEXTS,
    fault,
    file_problem,
)
from components.errors import DataError

NUM_SHOWN_CHARS = 40
NUMBER_TYPES = {1: pa.list_(pa.float64()), 2: pa.list_(pa.list_(pa.float64()))}
# Of a column without a value so far; both become any list of the kind.
UNKNOWN_NUMBERS = pa.list_(pa.null())

# What Arrow raises for a value of another type; UnicodeEncodeError for half a surrogate pair.
REFUSALS = (pa.ArrowException, UnicodeEncodeError)


class Unfit(Exception):
    """A value, or a row, that cannot be read as what it should be."""

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step


class Faults:
    """The first fault of each row of a batch; `lines` are those at which its rows begin."""

    def __init__(self, lines: Sequence[int] | np.ndarray) -> None:
        self.lines = np.asarray(lines, np.int64)
        self._found: dict[int, dict[str, object]] = {}

    def add(self, row: int, message: str, *, column: str = "", step: int | None = None) -> None:
        """Note what is wrong with a row, unless something is already."""
        self._found.setdefault(row, fault(column, message, step=step, line=int(self.lines[row])))

    def own_columns(self) -> dict[str, pa.Array]:
        """The columns LINE and FAULT."""
        found = (
            pa.array(map(self._found.get, range(len(self.lines))), FAULT_TYPE, size=len(self.lines))
            if self._found
            else pa.nulls(len(self.lines), FAULT_TYPE)
        )
        return {LINE: pa.array(self.lines), FAULT: found}


class Columns:
    """Makes the columns of one file, batch after batch.

    The depth of a column of numbers is that of the first row that has one, in the whole file. A column
    whose kind is not given gets the one that its first batch with a value suggests.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = {column: kind for column, kind in kinds.items() if kind != ANY}
        self._depths: dict[str, int] = {}

    def column(
        self, name: str, values: Sequence[Any], faults: Faults, *, exact: Callable[[int], Any]
    ) -> pa.Array:
        """The values as an array. `exact(row)` gives a value, its numbers as they are written."""
        kind = self._kinds.get(name) or suggested(values)
        if kind is None:
            has_list = any(value is not None for value in values)
            return pa.array(values, UNKNOWN_NUMBERS) if has_list else pa.nulls(len(values))
        self._kinds[name] = kind
        if kind == NUMBERS:
            return self._numbers(name, values, faults)
        if kind == TEXTS:
            return _texts(name, values, faults, exact)
        return _text(name, values, faults, exact)

    def has_depth(self, name: str, depth: int) -> bool:
        """Whether a column of numbers has that depth; one that has none yet takes it."""
        return self._depths.setdefault(name, depth) == depth

    def empty(self, name: str) -> pa.Array:
        """A column of no rows."""
        types = {NUMBERS: UNKNOWN_NUMBERS, TEXTS: pa.list_(pa.string())}
        return pa.nulls(0, types.get(self._kinds.get(name, TEXT), pa.string()))

    def _numbers(self, name: str, values: Sequence[Any], faults: Faults) -> pa.Array:
        depth = self._depths.get(name) or _depth(values)
        if depth:
            self._depths[name] = depth
        array = _plain_numbers(values, depth)
        if array is not None:
            return array
        fitted = _fitted(name, values, faults, lambda row: numbers(values[row], depth or 1))
        return pa.array(fitted, NUMBER_TYPES[depth] if depth else UNKNOWN_NUMBERS)


def refuse_own_names(names: Sequence[str], name: str, *, line: int | None = None) -> None:
    """Raise DataError for a column of the user's that is named as one of ours."""
    if taken := [column for column in names if column in OWN]:
        message = f"a column is named {taken[0]}, which Recurra keeps for itself; rename it"
        raise DataError("A file cannot be read.", problems=[file_problem(name, message, line=line)])


def suggested(values: Sequence[Any]) -> str | None:
    """The kind of a column, None if unknown: lists with a text in them are TEXTS, other lists NUMBERS."""
    lists = [value for value in values if type(value) is list]
    leaves = set(map(type, chain.from_iterable(lists))) - {type(None)}
    if leaves:
        return TEXTS if str in leaves and list not in leaves else NUMBERS
    return TEXT if any(value is not None and type(value) is not list for value in values) else None


def shown(value: object) -> str:
    """A value as a message names it."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    written = repr(value)
    return written if len(written) <= NUM_SHOWN_CHARS else f"{written[:NUM_SHOWN_CHARS]}…"


def text(value: object) -> str | None:
    """A value as TEXT.

    Raises:
        Unfit: it is a list or an object, or not Unicode.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return shown(value)
    if isinstance(value, list | dict):
        raise Unfit(f"received {shown(value)}, expected one value")
    written = str(value)
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise Unfit(f"received {shown(value)}, which holds half of a surrogate pair") from error
    return written


def texts(value: object) -> list[str | None] | None:
    """A value as TEXTS; one text is cut at white space.

    Raises:
        Unfit: it is neither a list nor a text, or one of its steps is no text.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return list(value.split())
    if not isinstance(value, list):
        raise Unfit(f"received {shown(value)}, expected a list")
    return [_at(step, text, item) for step, item in enumerate(value)]


def numbers(value: object, depth: int) -> list[Any] | None:
    """A value as NUMBERS of that depth.

    Raises:
        Unfit: it is no list, or a step is not a number (depth 1), or not a list of numbers (depth 2).
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise Unfit(f"received {shown(value)}, expected a list of numbers")
    return [_at(step, _number if depth == 1 else _features, item) for step, item in enumerate(value)]


def _at(step: int, read: Callable[[object], Any], item: object) -> Any:
    try:
        return read(item)
    except Unfit as error:
        raise Unfit(error.message, step) from error


def _features(item: object) -> list[float | None] | None:
    if item is None:
        return None
    if not isinstance(item, list):
        received = "a number" if _is_number(item) else shown(item)
        raise Unfit(f"received {received}, expected a list of features")
    found = []
    for feature, value in enumerate(item):
        try:
            found.append(_number(value))
        except Unfit as error:
            raise Unfit(f"feature {feature}: {error.message}") from error
    return found


def _number(item: object) -> float | None:
    if item is None:
        return None
    if not isinstance(item, int | float) or isinstance(item, bool):
        raise Unfit(f"received {shown(item)}, expected a number")
    try:
        return float(item)
    except OverflowError:
        return math.copysign(math.inf, item > 0 or -1)


def _is_number(item: object) -> bool:
    return type(item) in (int, float)


def _depth(values: Sequence[Any]) -> int | None:
    """1 or 2, as the first step says that is a number or a list; None if no step is."""
    for value in values:
        if type(value) is list:
            for item in value:
                if type(item) is list:
                    return 2
                if _is_number(item):
                    return 1
    return None


def _plain_numbers(values: Sequence[Any], depth: int | None) -> pa.Array | None:
    """The values as Arrow reads them, or None where it would refuse one, or take a boolean for a number."""
    present = [value for value in values if value is not None]
    if depth is None or not set(map(type, present)) <= {list}:
        return None
    steps = leaves = list(chain.from_iterable(present))
    if depth == 2:
        if not set(map(type, steps)) <= {list, type(None)}:
            return None
        leaves = list(chain.from_iterable(step for step in steps if step is not None))
    if not set(map(type, leaves)) <= {int, float, type(None)}:
        return None
    try:
        inner = pa.array(leaves, pa.float64())
    except REFUSALS:
        return None
    return _lists(values, inner if depth == 1 else _lists(steps, inner))


def _lists(values: Sequence[list[Any] | None], inner: pa.Array) -> pa.Array:
    """The array of lists whose elements, one after the other, are those of `inner`; many times faster so."""
    lengths = [0 if value is None else len(value) for value in values]
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int32)
    is_null = pa.array([value is None for value in values], pa.bool_()) if None in values else None
    return pa.ListArray.from_arrays(pa.array(offsets), inner, mask=is_null)


def _text(name: str, values: Sequence[Any], faults: Faults, exact: Callable[[int], Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except REFUSALS:
        pass

    def read(row: int) -> str | None:
        return text(exact(row) if _loses_spelling(values[row]) else values[row])

    return pa.array(_fitted(name, values, faults, read), pa.string())


def _texts(name: str, values: Sequence[Any], faults: Faults, exact: Callable[[int], Any]) -> pa.Array:
    # Arrow would take a text for a list of its letters.
    if set(map(type, values)) <= {list, type(None)}:
        try:
            return pa.array(values, pa.list_(pa.string()))
        except REFUSALS:
            pass

    def read(row: int) -> list[str | None] | None:
        value = values[row]
        spelt = type(value) is not list or not any(map(_loses_spelling, value))
        return texts(value if spelt else exact(row))

    return pa.array(_fitted(name, values, faults, read), pa.list_(pa.string()))


def _loses_spelling(value: object) -> bool:
    """Whether a number may have been written otherwise than Python writes it: `1.10`, `-0`."""
    return type(value) is float or (type(value) is int and value == 0)


def _fitted(name: str, values: Sequence[Any], faults: Faults, read: Callable[[int], Any]) -> list[Any]:
    """Each row as `read` gives it, and null, with a fault, where it raises Unfit."""
    found: list[Any] = []
    for row in range(len(values)):
        try:
            found.append(read(row))
        except Unfit as error:
            faults.add(row, error.message, column=name, step=error.step)
            found.append(None)
    return found
