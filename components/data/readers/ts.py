"""`.ts` files of timeseriesclassification.com (sktime, aeon): a header, then one case a line.

    # Two dimensions of three steps, then the class.
    @problemName Vowels
    @timeStamps false
    @classLabel true a e
    @data
    1.0,1.5,?:0.1,0.2,0.3:a   ->   frames: [[1.0, 0.1], [1.5, 0.2], [null, 0.3]]   label: a   recurra.line: 6

A file called `..._TRAIN.ts` or `..._TEST.ts` also has the column `split`. Cases may differ in length,
whatever `@equalLength` and `@seriesLength` say, and may lack values, whatever `@missing` says.
"""

import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from components.data.readers.sources import (
    FAULT,
    LINE,
    OWN_TYPES,
    Wanted,
    fault,
    file_problem,
)
from components.data.readers.texts import lines
from components.errors import DataError

BATCH_ROWS = 8192
BATCH_VALUES = 1 << 20
NUM_SHOWN = 10

SPLIT = re.compile(r"_(train|test)(?:\.ts)?(?:\.(?:gz|bz2|xz|zst|lz4|br))?$", re.IGNORECASE)
MISSING = ("?", "nan")


def rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The cases of a `.ts` file, one a row: `frames` (steps of features), `label`, and `split` from its name.

    Raises:
        DataError: the file is not UTF-8, has no @data or no cases, or has time stamps.
    """
    numbered = lines(stream, name)
    header = _header(numbered, name)
    return _batches(numbered, header, name, wanted)


@dataclass(frozen=True)
class _Header:
    """What the lines before @data say that matters here."""

    num_dimensions: int | None = None
    has_class: bool | None = None
    has_target: bool | None = None
    classes: tuple[str, ...] = ()

    @property
    def has_label(self) -> bool:
        # A header that names neither kind of label has classes, as in aeon.
        return bool(self.has_class or self.has_target or (self.has_class is None and self.has_target is None))


@dataclass
class _Case:
    line: int
    frames: np.ndarray | None = None  # steps x dimensions
    label: str | None = None
    fault: dict[str, object] | None = None

    def blame(self, column: str, message: str, step: int | None = None) -> None:
        """Keep the first fault only."""
        self.fault = self.fault or fault(column, message, step=step, line=self.line)


def _header(numbered: Iterator[tuple[int, str]], name: str) -> _Header:
    """What stands before the cases; takes the lines up to and with @data."""
    header = _Header()
    number = 0
    for number, line in numbered:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            raise _unreadable(name, "a case before @data: the line @data is missing", line=number)
        key, *values = text.split()
        if key.lower() == "@data":
            return header
        header = _with_entry(header, key.lower(), values, name, number)
    said = "the header is not followed by a line @data" if number else "the file is empty (0 bytes)"
    raise _unreadable(name, f"no rows: {said}")


def _with_entry(header: _Header, key: str, values: list[str], name: str, number: int) -> _Header:
    """The header with what one of its lines says; keys that say nothing of use are passed over."""
    is_true = bool(values) and values[0].lower() == "true"
    if key == "@timestamps" and is_true:
        raise _unreadable(name, "time stamps are not read; expected @timeStamps false", line=number)
    if key in ("@dimension", "@dimensions"):
        # int() refuses numbers of thousands of digits.
        if len(values) != 1 or not values[0].isdecimal() or len(values[0]) > 9 or int(values[0]) == 0:
            raise _unreadable(
                name, f"{reprlib.repr(' '.join(values))} is no number of dimensions", line=number
            )
        return replace(header, num_dimensions=int(values[0]))
    if key == "@classlabel":
        return replace(header, has_class=is_true, classes=tuple(values[1:]))
    if key == "@targetlabel":
        return replace(header, has_target=is_true)
    return header


def _batches(
    numbered: Iterator[tuple[int, str]], header: _Header, name: str, wanted: Wanted
) -> Iterator[pa.RecordBatch]:
    held: list[_Case] = []
    num_values, has_rows = 0, False
    split = SPLIT.search(name)
    constants = {"split": split[1].lower()} if split and wanted.has("split") else {}
    for number, line in numbered:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        *dimensions, label = text.split(":") if header.has_label else (*text.split(":"), "")
        if header.num_dimensions is None and dimensions:
            header = replace(header, num_dimensions=len(dimensions))
        held.append(_case(number, dimensions, label.strip(), header, wanted))
        frames = held[-1].frames
        num_values += 0 if frames is None else frames.size
        has_rows = True
        if len(held) >= BATCH_ROWS or num_values >= BATCH_VALUES:
            yield _batch(held, header, constants, wanted)
            held, num_values = [], 0
    if not has_rows:
        raise _unreadable(name, "no rows: no case follows @data")
    if held:
        yield _batch(held, header, constants, wanted)


def _case(line: int, dimensions: list[str], label: str, header: _Header, wanted: Wanted) -> _Case:
    case = _Case(line)
    if not dimensions:
        case.blame("", "no ':', so either the values or the label are missing")
        return case
    if wanted.has("frames"):
        _read_frames(case, dimensions, header.num_dimensions)
    if header.has_label and wanted.has("label"):
        _read_label(case, label, header.classes)
    return case


def _read_label(case: _Case, label: str, classes: tuple[str, ...]) -> None:
    if not label:
        case.blame("label", "no label after the last ':'")
    elif classes and label not in classes:
        shown = ", ".join(classes[:NUM_SHOWN]) + (", ..." if len(classes) > NUM_SHOWN else "")
        case.blame("label", f"{reprlib.repr(label)} is not a class that @classLabel announces: {shown}")
    else:
        case.label = label


def _read_frames(case: _Case, dimensions: list[str], expected: int | None) -> None:
    if len(dimensions) != expected:
        plural = "s" * (len(dimensions) != 1)
        case.blame("frames", f"{len(dimensions)} dimension{plural}, expected {expected}")
        return
    series = []
    for number, text in enumerate(dimensions):
        values = _numbers(text)
        if values is None:
            step, value = _first_bad(text)
            case.blame("frames", f"{reprlib.repr(value)} is not a number (dimension {number})", step)
            return
        series.append(values)
        if len(values) != len(series[0]):
            plural = "s" * (len(values) != 1)
            message = f"dimension {number} has {len(values)} value{plural}, dimension 0 has {len(series[0])}"
            case.blame("frames", message)
            return
    case.frames = np.stack(series, axis=1)


def _numbers(text: str) -> np.ndarray | None:
    """The values of one dimension, NaN where one is missing, or None where one is no number."""
    if not text.strip():
        return np.empty(0)
    values = text.split(",")
    try:
        if "?" not in text and "_" not in text and text.isascii():
            return np.array(values, float)
        return np.array([_number(value) for value in values])
    except ValueError:
        return None


def _number(value: str) -> float:
    """The value, NaN where it is missing; raises ValueError where it is no number."""
    if value.strip().lower() in MISSING:
        return float("nan")
    # float() alone would also read `1_000` and digits of other scripts.
    if "_" in value or not value.isascii():
        raise ValueError(value)
    return float(value)


def _first_bad(text: str) -> tuple[int, str]:
    """Step and spelling of the first value that is no number."""
    for step, value in enumerate(text.split(",")):
        try:
            _number(value)
        except ValueError:
            return step, value
    raise AssertionError("all values are numbers")


def _batch(cases: list[_Case], header: _Header, constants: dict[str, str], wanted: Wanted) -> pa.RecordBatch:
    arrays = {}
    if wanted.has("frames"):
        arrays["frames"] = _frames([case.frames for case in cases], header.num_dimensions or 1)
    if header.has_label and wanted.has("label"):
        arrays["label"] = pa.array([case.label for case in cases], pa.string())
    for column, value in constants.items():
        arrays[column] = pa.array([value] * len(cases), pa.string())
    arrays[LINE] = pa.array([case.line for case in cases], OWN_TYPES[LINE])
    arrays[FAULT] = pa.array([case.fault for case in cases], OWN_TYPES[FAULT])
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


def _frames(frames: list[np.ndarray | None], num_dimensions: int) -> pa.Array:
    """list<list<double>> of the frames, null where a case has none and where a value is missing."""
    whole = [each for each in frames if each is not None]
    flat = np.concatenate([each.ravel() for each in whole]) if whole else np.empty(0)
    # from_pandas: NaN, which is how a missing value was kept until here, becomes null.
    leaves = pa.array(flat, pa.float64(), from_pandas=True)
    steps = pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(flat) + 1, num_dimensions, dtype=np.int32)), leaves
    )
    lengths = [0 if each is None else len(each) for each in frames]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = pa.array([each is None for each in frames], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), steps, mask=missing)


def _unreadable(name: str, message: str, *, line: int | None = None) -> DataError:
    return DataError("A file cannot be read as .ts.", problems=[file_problem(name, message, line=line)])
