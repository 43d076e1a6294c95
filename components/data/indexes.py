"""What the whole-data checks need of a row: all but its values. One file for each part.

id      text, null where there is none        y       code(s) in the part's own list of labels
digest  16 bytes of the inputs, null if bad   key     the split column's value as text
length  steps                                 reason  what is wrong with the row, null if it is good
w0 w1.. features of each input                line    of its file, null where it has none
at      place in the whole input of a row that is made of several, else null
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from components.data.columns import Nested, Words
from components.data.readers.sources import Part
from components.data.records import Checked, Layout
from components.errors import Problem

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Index:
    """One part's index, read column by column from its file."""

    path: str

    def table(self, *columns: str) -> pa.Table:
        """The columns named, mapped from the file rather than held in memory."""
        with pa.memory_map(self.path) as file:
            return pa.ipc.open_file(file).read_all().select(list(columns))

    def array(self, column: str) -> pa.Array:
        """One column in one piece."""
        return self.table(column)[column].combine_chunks()


@dataclass(frozen=True)
class Scan:
    """What scanning one part found."""

    part: Part
    index: Index
    labels: tuple[str, ...]  # in order of their codes in the index
    problems: tuple[Problem, ...]  # the first few
    num_problems: int


class IndexWriter:
    """Writes a part's index while the part is scanned. `labels` fills up on the way."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.labels: dict[str, int] = {}
        self.schema = schema(layout)
        self._file = pa.ipc.new_file(str(path), self.schema)

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, checked: Checked, layout: Layout) -> None:
        """One batch."""
        columns = {
            "id": checked.ids,
            "digest": pa.array(digests_of(checked), pa.binary(DIGEST_BYTES)),
            "length": checked.inputs[0].lengths.astype(np.int32),
            "key": checked.keys,
            "y": self._codes(checked, layout),
            "line": checked.lines,
            "at": checked.positions,
            "reason": pa.array(_reasons(checked), pa.string()),
        }
        for i, values in enumerate(checked.inputs):
            columns[f"w{i}"] = values.row_widths.astype(np.int32)
        self._file.write_batch(pa.record_batch([columns[name] for name in self.schema.names], self.schema))

    def _codes(self, checked: Checked, layout: Layout) -> pa.Array:
        encoded = checked.labels.dictionary_encode()
        own = [self.labels.setdefault(label, len(self.labels)) for label in encoded.dictionary.to_pylist()]
        lookup = np.array([*own, -1], np.int32)  # -1 for null, which only bad rows have
        codes = lookup[encoded.indices.fill_null(-1).to_numpy()]
        if not layout.per_step:
            return pa.array(codes)
        offsets = np.concatenate([[0], np.cumsum(checked.num_labels)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, codes)


def schema(layout: Layout) -> pa.Schema:
    """The columns of an index file."""
    columns = {
        "id": pa.string(),
        "digest": pa.binary(DIGEST_BYTES),
        "length": pa.int32(),
        "key": pa.string(),
        "y": pa.list_(pa.int32()) if layout.per_step else pa.int32(),
        "reason": pa.string(),
        "line": pa.int64(),
        "at": pa.int64(),
    }
    return pa.schema({**columns, **{f"w{i}": pa.int32() for i in range(len(layout.inputs))}})


def digests_of(checked: Checked) -> list[bytes | None]:
    """A hash of each good row's inputs and context.

    Numbers are taken as float64, so that the file's number type makes no difference.
    """
    hashers = [blake2b(digest_size=DIGEST_BYTES) if good else None for good in checked.good]
    columns = [_contents(values) for values in checked.inputs]
    columns += [_scalar_contents(values) for values in checked.context]
    for contents in columns:
        for hasher, content in zip(hashers, contents, strict=True):
            if hasher is not None:
                for piece in content:
                    hasher.update(piece)
    return [None if hasher is None else hasher.digest() for hasher in hashers]


def _contents(values: Nested | Words) -> Iterable[tuple[bytes | memoryview, ...]]:
    """Shape and content of each row."""
    if isinstance(values, Words):
        return _text_contents(values.values, values.lengths)
    view = memoryview(_canonical(values.values).tobytes())
    ends = 8 * values.row_ends
    starts = np.concatenate([[0], ends[:-1]]).tolist()
    shapes = np.stack([values.lengths, values.row_widths], axis=1).astype("<i8")
    return [
        (shape.tobytes(), view[start:end])
        for shape, start, end in zip(shapes, starts, ends.tolist(), strict=True)
    ]


def _scalar_contents(values: np.ndarray | pa.StringArray) -> Iterable[tuple[bytes | memoryview, ...]]:
    if isinstance(values, np.ndarray):
        return [(number.tobytes(),) for number in _canonical(values)]
    return _text_contents(values, np.ones(len(values), np.int64))


def _canonical(numbers: np.ndarray) -> np.ndarray:
    """Little-endian float64 with one spelling of zero and of NaN."""
    wide = numbers.astype("<f8")
    wide += 0.0  # -0.0 equals 0.0
    wide[np.isnan(wide)] = np.nan
    return wide


def _text_contents(texts: pa.StringArray, lengths: np.ndarray) -> Iterable[tuple[bytes | memoryview, ...]]:
    """The bytes of each row's texts, and of their lengths so that no two rows look the same."""
    if not len(texts):  # Arrow may give no offsets then; all rows are bad
        yield from [()] * len(lengths)
        return
    texts = texts.fill_null("")
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = memoryview(texts.buffers()[2] or b"")
    sizes = memoryview(np.diff(offsets).astype("<i8").tobytes())
    stops = np.cumsum(lengths)
    starts = stops - lengths
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        number = np.int64(stop - start).tobytes()
        yield number, sizes[8 * start : 8 * stop], content[int(offsets[start]) : int(offsets[stop])]


def _reasons(checked: Checked) -> list[str | None]:
    reasons: list[str | None] = [None] * len(checked.good)
    for row, problem in zip(checked.rows, checked.problems, strict=True):
        text = str(replace(problem, file="", row=None, line=None))
        reasons[row] = text if reasons[row] is None else f"{reasons[row]}; {text}"
    return reasons
