"""CSV and TSV: every cell as text, exactly as it is written, parsed by Arrow block by block.

    id,label,x          line 1, the header
    001,"two            line 2: a quoted cell may hold line ends
    lines",[1,2]
    7,b                 line 4: the row's fault, "2 cells, the header has 3"

Where rows begin is found here, by the positions of quotation marks and line ends, so that each block given to
Arrow is made of whole rows and each row knows its line. A quotation mark counts only where a cell begins; an
unquoted empty cell is null, a quoted one is an empty text.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from components.data.readers.sources import NUMBERS, TEXTS, Wanted, damaged, file_problem
from components.data.readers.texts import not_utf8, refuse_other_encodings
from components.data.readers.values import Columns, Faults, Unfit, refuse_own_names, shown
from components.errors import DataError

BLOCK_BYTES = 1 << 22
# The header is looked for in the first block, which is at least this long.
HEAD_BYTES = 1 << 16
# Longer ones are taken for a quotation mark that nothing closes.
MAX_ROW_BYTES = 1 << 29

DELIMITERS = b",;\t|"
SKIPPED = "_"
QUOTE, CR, LF = b'"\r\n'


def rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, whose delimiter is the commonest in its first line.

    Raises:
        DataError: the file is empty or not UTF-8, its header names a column twice or not at all, or a
            quotation mark is never closed.
    """
    return _Table(stream, name, wanted, delimiter=None).batches()


def tsv_rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows of a file whose cells are parted by tabs; raises as `rows` does."""
    return _Table(stream, name, wanted, delimiter=ord("\t")).batches()


class _Text:
    """The bytes of a file, without its byte order mark, checked to be UTF-8 as they are read."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        chunk = self._stream.read(size)
        if self._at == 0:
            # A pipe may give less than a byte order mark at first.
            while len(chunk) < 4 and (more := self._stream.read(size)):
                chunk += more
            refuse_other_encodings(chunk, self._name)
            if chunk.startswith(codecs.BOM_UTF8):
                self._at = len(codecs.BOM_UTF8)
                chunk = chunk[self._at :] or self._stream.read(size)
        pending = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = self._at - pending + error.start
            raise not_utf8(self._name, at, error.object[error.start]) from error
        self._at += len(chunk)
        return chunk


@dataclass(frozen=True)
class _Block:
    """Whole rows: where each that is not blank begins, in bytes and in lines, both from 0."""

    data: bytes
    starts: np.ndarray
    lines: np.ndarray
    num_lines: int

    @property
    def num_rows(self) -> int:
        return len(self.starts)

    def row(self, number: int) -> bytes:
        after = self.starts[number + 1] if number + 1 < self.num_rows else len(self.data)
        return self.data[self.starts[number] : after]

    def without(self, num_rows: int) -> "_Block":
        """The block from that row on; the lines still count from the old beginning."""
        at = self.starts[num_rows] if num_rows < self.num_rows else len(self.data)
        return _Block(self.data[at:], self.starts[num_rows:] - at, self.lines[num_rows:], self.num_lines)


class _Table:
    """One file being read. `line` is that of the first row of the next block."""

    def __init__(self, stream: BinaryIO, name: str, wanted: Wanted, *, delimiter: int | None) -> None:
        self._text = _Text(stream, name)
        self._name = name
        self._wanted = wanted
        self._delimiter = delimiter or DELIMITERS[0]
        self._is_delimited = delimiter is not None
        self._columns = Columns(wanted.kinds)
        self._names: tuple[str, ...] | None = None
        self._line = 1

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._wanted.names is not None:
            self._names = self._checked(self._wanted.names, line=None)
        num_rows, is_filled = 0, False
        for block in self._blocks():
            is_filled = is_filled or bool(block.data.strip())
            rest = self._after_header(block) if self._names is None else block
            if rest.num_rows and (batch := self._record_batch(rest)).num_rows:
                num_rows += batch.num_rows
                yield batch
            self._line += block.num_lines
        if not is_filled or not (num_rows or self._wanted.names is None):
            problem = file_problem(self._name, "no rows: the file is empty")
            raise DataError("A file has no rows.", problems=[problem])
        if not num_rows:
            yield self._empty()

    def _blocks(self) -> Iterator[_Block]:
        """The file in blocks of whole rows. For a row that no block holds, more is read each time."""
        rest, size, is_last = b"", max(BLOCK_BYTES, HEAD_BYTES), False
        while not is_last:
            chunk = self._text.read(size)
            is_last = not chunk
            data = rest + chunk
            if is_last and data and data[-1] not in b"\r\n":
                data += b"\n"
            if not self._is_delimited and data.strip():
                self._delimiter, self._is_delimited = _delimiter(data), True
            block = _whole_rows(data, self._delimiter, is_last=is_last)
            if block.num_lines:
                yield block
            rest = data[len(block.data) :]
            if (is_last and rest) or len(rest) > MAX_ROW_BYTES:
                raise self._unclosed()
            size = max(BLOCK_BYTES, len(rest))

    def _unclosed(self) -> DataError:
        message = "a quotation mark begins a cell and none ends it"
        return DataError(
            "A file cannot be read.",
            problems=[file_problem(self._name, message, line=self._line)],
            hint="Close the cell; a quotation mark that is content is written twice, in a quoted cell.",
        )

    def _after_header(self, block: _Block) -> _Block:
        """The block after its header, whose names are taken; empty rows before it are passed over."""
        for number in range(block.num_rows):
            if block.row(number).strip():
                cells = self._cells(block.row(number))
                line = self._line + int(block.lines[number])
                self._names = self._checked(cells, line=line)
                return block.without(number + 1)
        return block.without(block.num_rows)

    def _cells(self, row: bytes) -> list[str]:
        table, _ = _parsed(row, self._delimiter, num_columns=None)
        return [column[0].as_py() or "" for column in table.columns]

    def _checked(self, names: Sequence[str], *, line: int | None) -> tuple[str, ...]:
        """The names, if each column has its own."""
        seen: dict[str, int] = {}
        problems = []
        for number, column in enumerate(names, start=1):
            if column == SKIPPED and line is None:
                continue
            if not column:
                problems.append(file_problem(self._name, f"column {number} has no name", line=line))
            elif column in seen:
                message = f"columns {seen[column]} and {number} are both named {column!r}"
                problems.append(file_problem(self._name, message, line=line))
            seen.setdefault(column, number)
        if problems:
            raise DataError("A file's header names no clear set of columns.", problems=problems)
        refuse_own_names(names, self._name, line=line)
        return tuple(names)

    def _read(self) -> dict[str, int]:
        """The columns to read and their places."""
        named = self._wanted.names is not None
        return {
            column: number
            for number, column in enumerate(self._names or ())
            if self._wanted.has(column) and not (named and column == SKIPPED)
        }

    def _empty(self) -> pa.RecordBatch:
        arrays = {column: self._columns.empty(column) for column in self._read()}
        return pa.RecordBatch.from_pydict(arrays | Faults([]).own_columns())

    def _record_batch(self, block: _Block) -> pa.RecordBatch:
        """A block's rows: those that Arrow read, and nulls with a fault in the places of the others."""
        places = self._read()
        table, wrong = self._parsed(block, sorted(places.values()))
        blank = {row for row in wrong if not block.row(row).strip()}
        kept = np.ones(block.num_rows, dtype=bool)
        kept[list(blank)] = False
        faults = Faults(self._line + block.lines[kept])
        if wrong:
            table = table.take(_places(wrong, kept))
            self._add_faults(faults, wrong, blank)
        arrays = {
            column: self._column(column, table[str(number)].combine_chunks(), faults)
            for column, number in places.items()
        }
        return pa.RecordBatch.from_pydict(arrays | faults.own_columns())

    def _parsed(self, block: _Block, include: Sequence[int]) -> tuple[pa.Table, dict[int, int]]:
        try:
            table, wrong = _parsed(
                block.data, self._delimiter, num_columns=len(self._names or ()), include=include
            )
        except pa.ArrowInvalid as error:
            problem = file_problem(self._name, damaged("CSV", error), line=self._line)
            raise DataError("A file cannot be read.", problems=[problem]) from error
        if table.num_rows + len(wrong) != block.num_rows:
            raise AssertionError(
                f"{self._name}: {table.num_rows} rows and {len(wrong)}, not {block.num_rows}"
            )
        return table, wrong

    def _add_faults(self, faults: Faults, wrong: dict[int, int], blank: set[int]) -> None:
        expected = len(self._names or ())
        whose = "the header has" if self._wanted.names is None else "names given:"
        num_blank = 0
        for row in sorted(wrong):
            if row in blank:
                num_blank += 1
                continue
            cells = "1 cell" if wrong[row] == 1 else f"{wrong[row]} cells"
            faults.add(row - num_blank, f"{cells}, {whose} {expected}")

    def _column(self, column: str, cells: pa.Array, faults: Faults) -> pa.Array:
        kind = self._wanted.kinds.get(column)
        if kind not in (TEXTS, NUMBERS):
            return cells
        plain = _plain_numbers(cells) if kind == NUMBERS else None
        if plain is not None and self._columns.has_depth(column, 1):
            return plain
        values: list[Any] = []
        for row, cell in enumerate(cells.to_pylist()):
            try:
                values.append(_list(cell, kind))
            except Unfit as error:
                faults.add(row, error.message, column=column, step=error.step)
                values.append(None)
        return self._columns.column(column, values, faults, exact=values.__getitem__)


def _parsed(
    data: bytes, delimiter: int, *, num_columns: int | None, include: Sequence[int] = ()
) -> tuple[pa.Table, dict[int, int]]:
    """Arrow's reading of whole rows, and how many cells each row has that has the wrong number.

    Columns are named for their places. Without their number, that of the first row's cells is right.
    """
    wrong: dict[int, int] = {}

    def skip(row: Any) -> str:
        wrong[row.number - 1] = row.actual_columns
        return "skip"

    # Without a column to include Arrow would read them all, so one is read to count the rows.
    included = include or (0,) if num_columns is not None else range(0)
    num_named = data.count(bytes([delimiter])) + 1 if num_columns is None else num_columns
    names = [str(number) for number in range(num_named)]
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,  # with threads the rows skipped have no number
            block_size=len(data) + 1,
            column_names=None if num_columns is None else names,
            autogenerate_column_names=num_columns is None,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=chr(delimiter), newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            check_utf8=False,  # done while reading
            column_types=dict.fromkeys([*names, *(f"f{name}" for name in names)], pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            include_columns=[str(number) for number in included],
        ),
    )
    return table, wrong


def _places(wrong: dict[int, int], kept: np.ndarray) -> pa.Array:
    """For each row kept its place among those that Arrow read; null for a wrong one."""
    is_wrong = np.zeros(len(kept), dtype=bool)
    is_wrong[list(wrong)] = True
    place = np.cumsum(~is_wrong) - 1
    return pa.array(place[kept], mask=is_wrong[kept])


def _delimiter(data: bytes) -> int:
    """The delimiter that the first line has most of outside quotation marks; the comma on a tie."""
    header = re.match(rb'(?:"[^"]*"|[^"\r\n])*', data.lstrip(b"\r\n \t"))
    outside = re.sub(rb'"[^"]*"', b"", header[0] if header else b"")
    return max(DELIMITERS, key=outside.count)


def _whole_rows(data: bytes, delimiter: int, *, is_last: bool) -> _Block:
    """As many whole rows as the bytes hold; the first byte begins a row."""
    array = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    ends = _line_ends(data, array, is_last=is_last)
    quotes = _quotes(data, array, delimiter)
    # A line end after an odd number of them is inside a cell.
    at = np.flatnonzero(np.searchsorted(quotes, ends) % 2 == 0) if len(quotes) else np.arange(len(ends))
    if not len(at):
        return _Block(b"", at, at, 0)
    lasts = ends[at]
    starts = np.concatenate(([0], lasts[:-1] + 1))
    lines = np.concatenate(([0], at[:-1] + 1))
    length = lasts - starts
    filled = (length > 1) | ((length == 1) & (array[starts] != CR))
    return _Block(data[: lasts[-1] + 1], starts[filled], lines[filled], int(at[-1]) + 1)


def _line_ends(data: bytes, array: np.ndarray, *, is_last: bool) -> np.ndarray:
    """The last byte of each line end: LF, CRLF or CR. A CR at the end may be half of a CRLF."""
    feeds = np.flatnonzero(array == LF)
    if data.count(b"\r") == data.count(b"\r\n"):
        return feeds
    returns = np.flatnonzero(array == CR)
    following = np.append(array[1:], 0 if is_last else LF)[returns]
    return np.sort(np.concatenate((feeds, returns[following != LF])))


def _quotes(data: bytes, array: np.ndarray, delimiter: int) -> np.ndarray:
    """The quotation marks that begin and end quoted stretches, in turn.

    One begins a stretch only at the beginning of a cell; two in a quoted cell are content, which is the same
    as an end and a beginning. Hence the marks simply alternate, unless one is found in an unquoted cell.
    """
    if b'"' not in data:
        return np.empty(0, np.int64)
    quotes = np.flatnonzero(array == QUOTE)
    openers = quotes[::2]
    before = array[openers[openers > 0] - 1]
    if np.isin(before, (delimiter, CR, LF, QUOTE)).all():
        return quotes
    return np.array(list(_true_quotes(data, quotes.tolist(), delimiter)), np.int64)


def _true_quotes(data: bytes, quotes: list[int], delimiter: int) -> Iterator[int]:
    is_open, passed = False, -1
    begins = bytes((delimiter, CR, LF))
    for at in quotes:
        if at == passed:
            continue
        if not is_open:
            if at == 0 or data[at - 1] in begins:
                is_open = True
                yield at
        elif data[at + 1 : at + 2] == b'"':
            passed = at + 1
        else:
            is_open = False
            yield at


def _plain_numbers(cells: pa.Array) -> pa.Array | None:
    """The cells as lists of numbers, if all are spelled alike and plainly: what `_list` reads, but faster."""
    trimmed = pc.ascii_trim_whitespace(cells)
    is_json = pc.and_(pc.starts_with(trimmed, "["), pc.ends_with(trimmed, "]"))
    bounds = pc.min_max(is_json).as_py()
    if bounds["min"] is None or bounds["min"] != bounds["max"]:
        return None
    if bounds["min"]:
        words = pc.split_pattern(pc.utf8_slice_codeunits(trimmed, 1, -1), ",")
    else:
        words = pc.ascii_split_whitespace(trimmed)
    try:
        steps = pc.cast(pc.ascii_trim_whitespace(words.values), pa.float64())
    except pa.ArrowInvalid:
        return None
    return pa.ListArray.from_arrays(words.offsets, steps, mask=words.is_null())


def _list(cell: str | None, kind: str) -> list[Any] | None:
    """A cell as a list: JSON, or words parted by white space; null for nothing.

    Raises:
        Unfit: it is neither.
    """
    whole = (cell or "").strip()
    if not whole:
        return None
    if not whole.startswith("["):
        words = whole.split()
        return words if kind == TEXTS else [_float(step, word) for step, word in enumerate(words)]
    if kind == TEXTS:
        return _json(whole, SPELLED)
    if whole.endswith("]") and not _NESTED.search(whole, 1):
        inner = whole[1:-1].strip()
        return [_float_or_null(step, word) for step, word in enumerate(inner.split(","))] if inner else []
    return _json(whole if '"' in whole else _NOT_FINITE.sub(_json_spelling, whole), FLOATS)


def _json(cell: str, decoder: json.JSONDecoder) -> list[Any]:
    try:
        return decoder.decode(cell)
    except json.JSONDecodeError as error:
        raise Unfit(f"not a JSON list: {error.msg} (character {error.colno} of the cell)") from error
    except RecursionError as error:
        raise Unfit("nested too deeply") from error


SPELLED = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
FLOATS = json.JSONDecoder(parse_int=float)
_NESTED = re.compile(r'["{\[]')
_NOT_FINITE = re.compile(r"\+?\b(?:(nan)|inf(?:inity)?)\b", re.IGNORECASE)


def _json_spelling(found: re.Match[str]) -> str:
    return "NaN" if found[1] else "Infinity"


def _float_or_null(step: int, word: str) -> float | None:
    return None if word.strip() == "null" else _float(step, word.strip())


def _float(step: int, word: str) -> float:
    # Python would also take 1_000 and the digits of other scripts.
    if word.isascii() and "_" not in word:
        try:
            return float(word)
        except ValueError:
            pass
    raise Unfit(f"received {shown(word)}, expected a number", step)
