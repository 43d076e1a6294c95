"""What columns hold, from some rows of them: shapes, values, lengths, gaps. Nothing is chosen here.

    Sample ─ look ─▶ Inspection, a Column each        numbers   [1, 2]  [[1, 2], [3, 4]]
                                                      texts     ["a", "b"]
                                                      number  time  text   one value a row
                                                      nothing  other       no value; of no use here

CSV says no types: its cells are numbers, instants or lists where all of them spell such.
Letters: n rows, S steps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data import extensions
from components.data.columns import (
    Nested,
    innermost,
    is_extension,
    is_list,
    is_time,
    list_lengths,
    nested,
    numeric_fault,
    scalar_fault,
    text_fault,
    text_kind,
    texts,
    words,
)
from components.data.instants import Kind, order_values, parse_numbers
from components.errors import Problem

NUM_EXAMPLES, NUM_LOOKED_AT = 3, 50
EXAMPLE_CHARS = 24
NUMBERS_IN_A_CELL = r"^\s*[-+.0-9eE]+(\s+[-+.0-9eE]+)+\s*$"


@dataclass(frozen=True)
class Sample:
    """The rows that were looked at, and where they stand."""

    rows: pa.Table  # without columns of our own
    formats: tuple[str, ...]
    files: tuple[str, ...]  # those looked at
    num_files: int
    num_rows: int | None  # in all of them, where that is known
    is_whole: bool  # whether every row was looked at
    file: np.ndarray  # (n,) places in `files`
    row: np.ndarray  # (n,) within their file
    faults: Mapping[int, Problem] = field(
        default_factory=dict
    )  # by row of the sample: what no reader could read

    def place(self, row: int) -> str:
        """Where a row of the sample stands."""
        where = f"row {self.row[row]}"
        return f"{self.files[self.file[row]]}, {where}" if len(self.files) > 1 else where


@dataclass(frozen=True)
class Column:
    """What a column holds in the rows looked at."""

    name: str
    type: str
    shape: str  # numbers | texts | number | time | text | nothing | other
    values: pa.Array  # (n,)
    num_missing: int = 0  # rows without a value
    counts: Mapping[str, int] = field(default_factory=dict)  # of values as text, of lists by step
    is_name: bool = False  # whether values have an exact text, so that they can be labels or ids
    is_whole: bool = False  # whether all numbers are whole
    lengths: np.ndarray | None = None  # (n,) steps
    num_features: int = 1
    gaps: np.ndarray | None = None  # (n,) bool: rows with a missing number or NaN among others
    num_gaps: int = 0
    faults: Mapping[str, np.ndarray] = field(default_factory=dict)  # (n,) bool, by what is wrong
    low: float = float("nan")
    high: float = float("nan")
    examples: tuple[str, ...] = ()

    @property
    def is_steps(self) -> bool:
        """Whether it holds a list in each row."""
        return self.lengths is not None

    @property
    def num_distinct(self) -> int:
        return len(self.counts)

    @property
    def num_words(self) -> float:
        """Words in the middle one of its texts."""
        sizes = list_lengths(pc.utf8_split_whitespace(texts(self.values.drop_null())))
        return float(np.median(sizes)) if len(sizes) else 0.0


@dataclass(frozen=True)
class Inspection:
    """A sample and its columns."""

    sample: Sample
    columns: tuple[Column, ...]

    @property
    def num_rows(self) -> int:
        return len(self.sample.rows)

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


def look(sample: Sample) -> Inspection:
    """What every column of the sample holds."""
    has_cells = bool({"csv", "tsv"} & set(sample.formats))
    names, found = sample.rows.schema.names, []
    for i, name in enumerate(names):
        values = _one(sample.rows.column(i))
        if has_cells and text_kind(values.type) == "text":
            values = _lists_of_cells(values)
        kind = _type(sample.rows.schema.field(i).type)
        column = look_at(name, values)
        if column.shape == "numbers" and column.counts and not {"parquet", "arrow"} & set(sample.formats):
            column = replace(column, is_name=True)  # read again as labels, they are spelt as in the file
        # Settings cannot tell two columns of one name apart, nor name one with control characters.
        if names.count(name) > 1 or not name or not name.isprintable():
            column = Column(name, kind, "other", values, column.num_missing, examples=column.examples)
        found.append(replace(column, type=kind))
    return Inspection(sample, tuple(found))


def _type(kind: pa.DataType) -> str:
    if isinstance(kind, pa.BaseExtensionType):
        return extensions.shown(kind)
    return str(kind).replace("element: ", "").replace("item: ", "")


def look_at(name: str, values: pa.Array) -> Column:
    """What one column holds."""
    kind = values.type
    column = Column(name, str(kind), "other", values, values.null_count, examples=_examples(values))
    value, depth = innermost(kind)
    if is_extension(kind):
        return column
    if values.null_count == len(values) or pa.types.is_null(value):
        return replace(column, shape="nothing")
    if depth == 0:
        return _scalar(column)
    if depth == 1 and text_kind(value) == "text":
        return _texts(column)
    return _numbers(column) if not numeric_fault(kind) else column


def _scalar(column: Column) -> Column:
    kind = column.values.type
    if is_time(kind):
        return replace(column, shape="time")
    if scalar_fault(kind):
        return column
    is_name = not text_fault(kind)
    counts = _counts(texts(column.values)) if is_name else {}
    if text_kind(kind) == "text":
        if not any(name.strip() for name in counts):
            return replace(column, shape="nothing")
        numbers, wrong = parse_numbers(column.values)
        if wrong.any():
            kinds = set(order_values(column.values).kinds.tolist()) - {Kind.MISSING}
            shape = "time" if kinds in ({Kind.ZONED}, {Kind.LOCAL}) else "text"
            return replace(column, shape=shape, counts=counts, is_name=True)
        column = replace(column, values=numbers if not is_name else column.values)
    else:
        numbers = column.values.cast(pa.float64(), safe=False)
    there = numbers.drop_null().to_numpy()
    finite = there[np.isfinite(there)]
    every = numbers.to_numpy(zero_copy_only=False)
    return replace(
        column,
        shape="number",
        counts=counts or _counts(pc.cast(numbers, pa.string())),
        is_name=is_name,
        is_whole=bool(len(there)) and bool((np.isfinite(there) & (there == np.round(there))).all()),
        num_gaps=int(np.isnan(every).sum()),
        gaps=np.isnan(every),
        faults=_only({"infinite numbers": np.isinf(every)}),
        low=_bound(np.min, finite),
        high=_bound(np.max, finite),
    )


def _texts(column: Column) -> Column:
    found = words(column.values)
    holes = _rows_of(np.flatnonzero(found.values.is_null().to_numpy(zero_copy_only=False)), found.lengths)
    faults = {
        "no list": ~found.valid,
        "empty lists": found.valid & (found.lengths == 0),
        "missing steps": holes,
    }
    return replace(
        column,
        shape="texts",
        counts=_counts(found.values),
        is_name=True,
        lengths=found.lengths,
        faults=_only(faults),
    )


def _numbers(column: Column) -> Column:
    found = nested(column.values)
    depth = innermost(column.values.type)[1]
    widths = found.row_widths[found.row_widths > 0]
    usual = int(np.bincount(widths).argmax()) if len(widths) else 1
    gaps = ~found.value_valid
    infinite = np.zeros(len(gaps), bool)
    numbers = found.values
    if np.issubdtype(numbers.dtype, np.floating):
        gaps = gaps | np.isnan(numbers)
        infinite = np.isinf(numbers)
        numbers = numbers[~(gaps | infinite)]
    elif gaps.any():
        numbers = numbers[~gaps]
    faults = {
        "no list": ~found.valid,
        "empty lists": found.valid & (found.lengths == 0),
        "steps without a list": _steps_in(found, ~found.step_valid) if depth == 2 else np.zeros(0, bool),
        f"steps of other than {usual} features": _steps_in(found, found.widths != usual),
        "infinite numbers": _values_in(found, infinite),
    }
    is_whole = bool(len(numbers)) and bool((numbers == np.round(numbers)).all())
    return replace(
        column,
        shape="numbers",
        counts=_whole_counts(numbers) if depth == 1 and is_whole else {},
        is_name=depth == 1 and not text_fault(column.values.type.value_type),
        is_whole=is_whole,
        lengths=found.lengths,
        num_features=usual,
        gaps=_values_in(found, gaps),
        num_gaps=int(gaps.sum()),
        faults=_only(faults),
        low=_bound(np.min, numbers),
        high=_bound(np.max, numbers),
    )


def fingerprints(columns: Sequence[Column]) -> list[int]:
    """A number for each row, the same for rows that hold the same in these columns, (n,)."""
    found = [0] * len(columns[0].values) if columns else []
    for column in columns:
        if column.shape == "numbers":
            flat = nested(column.values)
            values, ends, lengths = np.ascontiguousarray(flat.values), flat.row_ends, flat.lengths
            starts = np.concatenate([[0], ends[:-1]])
            own = [
                hash((values[a:b].tobytes(), length))
                for a, b, length in zip(starts, ends, lengths, strict=True)
            ]
        else:
            own = [
                hash(tuple(each) if isinstance(each, list) else each) for each in column.values.to_pylist()
            ]
        found = [hash(pair) for pair in zip(found, own, strict=True)]
    return found


def _lists_of_cells(values: pa.Array) -> pa.Array:
    """The lists that the cells spell, or the cells where they do not; what is no list becomes null."""
    there = pc.utf8_trim_whitespace(values.drop_null())
    if not len(there):
        return values
    if pc.all(pc.match_substring_regex(there, NUMBERS_IN_A_CELL)).as_py():
        steps = [
            None if cell is None else [float(word) for word in cell.split()] for cell in _numeric(values)
        ]
        return pa.array(steps, pa.list_(pa.float64()))
    if pc.mean(pc.cast(pc.starts_with(there, "["), pa.float64())).as_py() < 0.5:
        return values
    found = [_json_list(cell) for cell in values.to_pylist()]
    for kind in (pa.list_(pa.float64()), pa.list_(pa.list_(pa.float64())), pa.list_(pa.string())):
        try:
            return pa.array(found, kind)
        except (pa.ArrowException, TypeError):
            continue
    return values


def _numeric(values: pa.Array) -> list[str | None]:
    """The cells, null where a word of one is no number after all."""

    def fits(cell: str) -> bool:
        try:
            return bool([float(word) for word in cell.split()])
        except ValueError:
            return False

    return [cell if cell is not None and fits(cell) else None for cell in values.to_pylist()]


def _json_list(cell: str | None) -> list[object] | None:
    try:
        found = json.loads(cell or "null")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _counts(values: pa.Array) -> dict[str, int]:
    """How often each text stands, the most frequent first."""
    pairs = [(each["values"], each["counts"]) for each in pc.value_counts(values).to_pylist()]
    there = [pair for pair in pairs if pair[0] is not None]
    return dict(sorted(there, key=lambda pair: (-pair[1], pair[0])))


def _whole_counts(numbers: np.ndarray) -> dict[str, int]:
    return _counts(
        pa.array(numbers).cast(pa.float64(), safe=False).cast(pa.int64(), safe=False).cast(pa.string())
    )


def _bound(of: Callable[[np.ndarray], Any], numbers: np.ndarray) -> float:
    return float(of(numbers)) if len(numbers) else float("nan")


def _only(faults: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: mask for name, mask in faults.items() if mask.any()}


def _rows_of(steps: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows that these steps belong to, (n,) bool."""
    rows = np.zeros(len(lengths), bool)
    rows[np.searchsorted(np.cumsum(lengths), steps, side="right")] = True
    return rows


def _steps_in(found: Nested, mask: np.ndarray) -> np.ndarray:
    return _rows_of(np.flatnonzero(mask), found.lengths)


def _values_in(found: Nested, mask: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(found.lengths), bool)
    rows[np.searchsorted(found.row_ends, np.flatnonzero(mask), side="right")] = True
    return rows


def _examples(values: pa.Array) -> tuple[str, ...]:
    """A few values as they would be written, each once."""
    if is_extension(values.type) or not len(values):
        return ()
    places = np.unique(np.linspace(0, len(values) - 1, NUM_LOOKED_AT).astype(int))
    there = [values[int(i)] for i in places if values[int(i)].is_valid]
    shown = dict.fromkeys(map(_shown, there))
    return tuple(shown)[: 1 if is_list(values.type) else NUM_EXAMPLES]


def _shown(value: pa.Scalar) -> str:
    if is_list(value.type):
        count = 1 if is_list(value.type.value_type) else NUM_EXAMPLES
        inner = ", ".join(_shown(item) for item in value.values[:count]) if value.is_valid else "null"
        return f"[{inner}{', ...' if value.is_valid and len(value.values) > count else ''}]"
    found = value.as_py()
    text = f"{found:.4g}" if isinstance(found, float) else str(found)
    return text if len(text) <= EXAMPLE_CHARS else text[: EXAMPLE_CHARS - 3] + "..."
