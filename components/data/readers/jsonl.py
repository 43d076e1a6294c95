"""JSON Lines: one object a line, read with the standard parser and handed on in batches.

    {"id": "001", "x": [[1.5, 2], [3, null]], "y": 1.10}      id and y as TEXT: 001, 1.10; x as NUMBERS
    {"id": 18446744073709551616, "x": [[0, 1]]                not JSON: the row's fault, the reading goes on

A number that is read as TEXT is spelled as in the file. Numbers too large for a float are infinite.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa

from components.data.readers.sources import Wanted, file_problem
from components.data.readers.texts import lines
from components.data.readers.values import Columns, Faults, Unfit, refuse_own_names, shown
from components.errors import DataError

BATCH_CHARS = 1 << 23
BATCH_ROWS = 8192
# How much of a file is looked at to tell one object over many lines from a damaged first line.
DOCUMENT_CHARS = 1 << 26


def rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows of a JSON Lines file, in batches that hold the wanted columns met in them.

    Raises:
        DataError: the file has no rows, is not UTF-8, or is one JSON document instead of one a line.
    """
    filled = ((number, line) for number, line in lines(stream, name) if line and not line.isspace())
    columns = Columns(wanted.kinds)
    for batch in _batches(_refuse_documents(filled, name)):
        yield _record_batch(batch, name, wanted, columns)


@dataclass
class _Batch:
    lines: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def _batches(numbered: Iterator[tuple[int, str]]) -> Iterator[_Batch]:
    batch, num_chars = _Batch(), 0
    for number, line in numbered:
        batch.lines.append(number)
        batch.texts.append(line)
        num_chars += len(line)
        if num_chars >= BATCH_CHARS or len(batch.lines) >= BATCH_ROWS:
            yield batch
            batch, num_chars = _Batch(), 0
    if batch.lines:
        yield batch


def _record_batch(batch: _Batch, name: str, wanted: Wanted, columns: Columns) -> pa.RecordBatch:
    faults = Faults(batch.lines)
    found = _objects(batch, faults, inspecting=not wanted.kinds)
    names = [key for key in dict.fromkeys(chain.from_iterable(found)) if wanted.has(key)]
    refuse_own_names(names, name)
    spelled = _Spelled(batch.texts)
    arrays = {
        key: columns.column(
            key,
            [row.get(key) for row in found],
            faults,
            exact=lambda row, key=key: spelled.row(row)[key],  # type: ignore[misc]
        )
        for key in names
    }
    return pa.RecordBatch.from_pydict(arrays | faults.own_columns())


def _objects(batch: _Batch, faults: Faults, *, inspecting: bool) -> list[dict[str, Any]]:
    """Each line's object, without keys where the line is at fault."""
    found: list[dict[str, Any]] = []
    for row, line in enumerate(batch.texts):
        try:
            parsed = _parse(line)
            if inspecting:
                _refuse_halved_keys(parsed)
        except Unfit as error:
            faults.add(row, error.message)
            parsed = {}
        found.append(parsed)
    return found


class _Spelled:
    """The objects of a batch with every number as it is written, parsed when first asked for."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._row = -1
        self._parsed: dict[str, Any] = {}

    def row(self, row: int) -> dict[str, Any]:
        if row != self._row:
            self._row, self._parsed = row, SPELLED.decode(self._texts[row])
        return self._parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Unfit(f"the key {shown(key)} is there twice in one object")
        seen.add(key)
    return found


PLAIN = json.JSONDecoder(object_pairs_hook=_unique)
# Python refuses to read whole numbers of thousands of digits; as floats they are infinite.
HUGE = json.JSONDecoder(object_pairs_hook=_unique, parse_int=float)
SPELLED = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


def _parse(line: str) -> dict[str, Any]:
    """A line's object.

    Raises:
        Unfit: it is not JSON, or not an object, or one that names a key twice.
    """
    try:
        try:
            parsed = PLAIN.decode(line)
        except json.JSONDecodeError:
            raise
        except ValueError:
            parsed = HUGE.decode(line)
    except json.JSONDecodeError as error:
        raise Unfit(f"not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise Unfit("not read: nested too deeply") from error
    if not isinstance(parsed, dict):
        raise Unfit(f"received {shown(parsed)}, expected an object")
    return parsed


def _refuse_halved_keys(parsed: dict[str, Any]) -> None:
    for key in parsed:
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise Unfit(f"the key {shown(key)} holds half of a surrogate pair") from error


def _refuse_documents(filled: Iterator[tuple[int, str]], name: str) -> Iterator[tuple[int, str]]:
    """The same lines.

    Raises:
        DataError: there are none, or they are one array, or one object over several lines.
    """
    first = next(filled, None)
    if first is None:
        raise DataError("A file has no rows.", problems=[file_problem(name, "no rows: the file is empty")])
    if first[1].lstrip().startswith("["):
        raise _document(name, "array", first[0])
    begun = [first]
    if first[1].lstrip().startswith("{") and not _is_object(first[1]):
        begun += _more(filled, len(first[1]))
        if _spans_lines(begun):
            raise _document(name, "object over several lines", first[0])
    return chain(begun, filled)


def _more(filled: Iterator[tuple[int, str]], num_chars: int) -> Iterator[tuple[int, str]]:
    """The second line and, unless it is an object, those after it."""
    for count, (number, line) in enumerate(filled):
        yield number, line
        num_chars += len(line)
        if num_chars > DOCUMENT_CHARS or (count == 0 and _is_object(line)):
            return


def _is_object(line: str) -> bool:
    try:
        _parse(line)
    except Unfit:
        return False
    return True


def _spans_lines(begun: list[tuple[int, str]]) -> bool:
    """Whether the lines together begin with an object that the first does not end."""
    whole = "\n".join(line for _, line in begun).lstrip()
    try:
        _, end = PLAIN.raw_decode(whole)
    except (ValueError, RecursionError, Unfit):
        return False
    return "\n" in whole[:end]


def _document(name: str, what: str, line: int) -> DataError:
    message = f"not JSON Lines: the file is one JSON {what}; write one object per line"
    return DataError(
        "A file is not JSON Lines.",
        problems=[file_problem(name, message, line=line)],
        hint="jq writes one object per line: jq -c '.[]' FILE" if what == "array" else "jq -c . FILE does.",
    )
