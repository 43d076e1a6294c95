"""Vectors of tokens that were learnt elsewhere: read from a file and joined to a vocabulary.

    words.vec.gz   word2vec text: a line `count width`, then lines `token number .. number`
    words.txt      GloVe text: such lines only
    words.npy      an array (n, width), and beside it words.txt with one token a line

    vocabulary     [lack a vector | have one | stand in the file only], up to `max_size`
    table                         [ vectors (n, width)               ]

Text may be compressed, and all of it may lie in an object store. Only the vectors that are kept are held in
memory, and only their numbers are looked at; of other lines just how many there are.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa

from components.data.readers import stores
from components.data.readers.paths import File, find
from components.data.readers.sources import damaged
from components.data.readers.texts import lines
from components.errors import NUM_SHOWN, DataError, Problem
from components.served.symbols import TokenEncoding, normal_form
from conf.schema import TokenInput

ARRAY = ".npy"
ARRAY_NAME = re.compile(r"\.npy(\.\w+)?$", re.IGNORECASE)
BLOCK_BYTES = 1 << 22
MAX_WIDTH = 4096
HINT = "See `vectors` of the input."

# A line's number, its token, and its numbers, which may still be text.
Entry: TypeAlias = tuple[int, str, Sequence[Any]]


@dataclass(frozen=True)
class Coverage:
    """How a file and a vocabulary fit together."""

    file: str
    found: int  # tokens of the training rows that have a vector
    tokens: int  # of the training rows, those that are known
    further: int  # tokens that stand in the file only
    repeated: int  # tokens that stand in the file again; the first vector counts


@dataclass(frozen=True)
class Joined:
    """A vocabulary with the vectors of its last n tokens."""

    encoding: TokenEncoding
    table: np.ndarray  # (n, width) float32
    coverage: Coverage


def files(setting: TokenInput) -> list[File]:
    """The file of vectors, and that of the tokens if it is another one; none where no vectors are named.

    Raises:
        DataError: there is no such file, or it is more than one.
        StorageError: the object store cannot be reached, or refuses.
    """
    if setting.vectors is None:
        return []
    file = _only(setting.vectors, setting)
    if file.suffix != ARRAY:
        return [file]
    return [file, _only(_beside(file), setting)]


def check(setting: TokenInput, *, whole: bool = False) -> None:
    """Refuse a file of vectors that cannot be used; of its lines only the first is read, unless `whole`.

    Raises:
        DataError: it cannot be read, or does not fit the settings.
        StorageError: the object store cannot be reached, or refuses.
    """
    source = _open(setting)
    if whole:
        _read(source, _Kept(setting, ()), setting)


def join(setting: TokenInput, encoding: TokenEncoding) -> Joined:
    """The vocabulary of the training rows with that of the file.

    Raises:
        DataError: the file cannot be read, does not fit the settings, or knows no token of the training rows.
        StorageError: the object store cannot be reached, or refuses.
    """
    source = _open(setting)
    kept = _Kept(setting, encoding.tokens)
    _read(source, kept, setting)
    places = {token: place for token in encoding.tokens if (place := kept.place(token)) is not None}
    if not places:
        message = f"none of the {len(encoding.tokens):,} tokens of the training rows stands in it"
        hint = "Is it of another language, or are its tokens spelt in another way?"
        raise _refused(source.file, setting, message, hint=hint)
    places |= {token: place for token in kept.further if (place := kept.place(token)) is not None}
    lacking = [token for token in encoding.tokens if token not in places]
    return Joined(
        encoding=replace(
            encoding,
            tokens=(*lacking, *places),
            embedding=source.width,
            vectors=len(places),
            fixed=setting.fixed_vectors,
        ),
        table=np.stack([kept.rows[place] for place in places.values()]),
        coverage=Coverage(
            file=source.file.name,
            found=len(encoding.tokens) - len(lacking),
            tokens=len(encoding.tokens),
            further=len(kept.further),
            repeated=kept.num_repeated,
        ),
    )


class _Kept:
    """The vectors of the vocabulary's tokens, and of further ones while there is room.

    A token of the file counts in the form that the settings ask for; one that has this form already goes
    before those that are brought to it, and the first of several goes before the others.
    """

    def __init__(self, setting: TokenInput, tokens: Sequence[str]) -> None:
        self.setting = setting
        self.tokens = frozenset(tokens)
        self.lower = frozenset(token.lower() for token in tokens)
        self.room = setting.max_size - len(tokens)
        self.further: dict[str, None] = {}
        self.rows: list[np.ndarray] = []
        self.num_repeated = 0
        self._exact: dict[str, int] = {}
        self._formed: dict[str, int] = {}

    def add(self, text: str, values: Sequence[Any]) -> None:
        """One token of the file. Raises ValueError for what is not a finite number."""
        token = normal_form(text, normalise=self.setting.normalise, lowercase=self.setting.lowercase)
        if token not in self.tokens and token not in self.further:
            if len(self.further) < self.room:
                self.further[token] = None
            elif token not in self.lower:
                return
        places = self._exact if token == text else self._formed
        if token in places:
            self.num_repeated += token == text
            return
        self.rows.append(_numbers(values))
        places[token] = len(self.rows) - 1

    def place(self, token: str) -> int | None:
        """The row of a token as it is written, or else in lower case."""
        for form in (token, token.lower()):
            for places in (self._exact, self._formed):
                if form in places:
                    return places[form]
        return None


class _TextFile:
    """Lines of a token and its numbers, maybe after one with their count and width."""

    def __init__(self, file: File, setting: TokenInput) -> None:
        self.file, self.setting = file, setting
        self.count: int | None = None
        first = next(self._lines(), None)
        if first is None:
            raise _refused(file, setting, "the file is empty")
        parts = first[1].split(" ")
        if len(parts) == 2 and all(part.isdecimal() for part in parts):
            self.count, self.width = int(parts[0]), int(parts[1])
        else:
            self.width = len(parts) - 1
        if not self.width:
            message = "no numbers; expected a token and its numbers, or `count width`"
            raise _refused(file, setting, message, line=first[0])

    def entries(self, problems: list[Problem]) -> Iterator[Entry]:
        """Every token; the first faults of lines, and of their number, go to `problems`."""
        num_lines = 0
        for number, line in self._lines():
            if number == 1 and self.count is not None:
                continue
            num_lines += 1
            token, *values = line.rsplit(" ", self.width)
            # Some tokens of GloVe hold spaces, none of them ends in a number.
            before, _, last = token.rpartition(" ")
            surplus = 0
            while before and _is_number(last):
                surplus += 1
                before, _, last = before.rpartition(" ")
            if (found := len(values) + surplus) == self.width:
                yield number, token, values
            else:
                problems.append(
                    _problem(self.file, f"{found:,} numbers, expected {self.width:,}", line=number)
                )
                if len(problems) >= NUM_SHOWN:
                    return
        if self.count not in (None, num_lines) and not problems:
            message = f"the first line says {self.count:,} tokens, there are {num_lines:,}; is it cut off?"
            problems.append(_problem(self.file, message))

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Those with something in them, with single spaces between."""
        for number, line in _lines(self.file, self.setting):
            if text := line.rstrip(" \t").replace("\t", " "):
                yield number, text


class _ArrayFile:
    """An array of vectors in NumPy's own format, and a file of their tokens."""

    def __init__(self, file: File, tokens: File, setting: TokenInput) -> None:
        self.file, self.tokens, self.setting = file, tokens, setting
        with _readable(file, setting), file.stream() as stream:
            shape, by_column, self.dtype = _array_head(stream)
        if len(shape) != 2 or not all(shape) or by_column or self.dtype.kind not in "fiu":
            what = f"shape {shape}, {self.dtype}{', stored by columns' if by_column else ''}"
            raise _refused(file, setting, f"an array of {what}; expected numbers (n, width), stored by rows")
        self.count, self.width = shape

    def entries(self, problems: list[Problem]) -> Iterator[Entry]:
        """Every token; what is wrong with their number goes to `problems`."""
        rows = self._rows()
        num_lines = 0
        for number, token in _lines(self.tokens, self.setting):
            num_lines = number
            if number <= self.count:
                yield number, token, next(rows)
        if num_lines != self.count:
            message = f"{num_lines:,} tokens, but {self.count:,} vectors in {self.file.name}"
            problems.append(_problem(self.tokens, message))

    def _rows(self) -> Iterator[Any]:
        row_bytes = self.width * self.dtype.itemsize
        block = max(1, BLOCK_BYTES // row_bytes)
        with _readable(self.file, self.setting), self.file.stream() as stream:
            _array_head(stream)
            for at in range(0, self.count, block):
                size = min(block, self.count - at)
                content = stream.read(size * row_bytes)
                if len(content) < size * row_bytes:
                    raise EOFError("it ends too early")
                yield from np.frombuffer(content, self.dtype).reshape(size, self.width)


def _open(setting: TokenInput) -> _TextFile | _ArrayFile:
    """The file of vectors, its beginning read, whose width is that of the settings."""
    file, *tokens = files(setting)
    source = _ArrayFile(file, tokens[0], setting) if tokens else _TextFile(file, setting)
    if setting.embedding not in (None, source.width):
        message = f"its vectors have {source.width:,} numbers, but embedding is {setting.embedding:,}"
        hint = f"Leave embedding out, or set it to {source.width}."
        raise _refused(file, setting, message, hint=hint)
    if source.width > MAX_WIDTH:
        message = f"its vectors have {source.width:,} numbers, at most {MAX_WIDTH:,} can be used"
        raise _refused(file, setting, message)
    return source


def _read(source: _TextFile | _ArrayFile, kept: _Kept, setting: TokenInput) -> None:
    problems: list[Problem] = []
    for number, token, values in source.entries(problems):
        try:
            kept.add(token, values)
        except ValueError as error:
            problems.append(_problem(source.file, str(error), line=number))
        if len(problems) >= NUM_SHOWN:
            break
    if problems:
        raise DataError(f"The vectors of {setting.column!r} cannot be used.", problems=problems, hint=HINT)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            row = np.array(values, np.float32)
    except ValueError:
        row = np.array([math.nan])
    if not np.isfinite(row).all():
        place, wrong = next(
            (i, value) for i, value in enumerate(values) if not (_is_number(value) and _fits(value))
        )
        raise ValueError(f"number {place + 1} of the vector is {str(wrong)!r}, expected a finite number")
    return row


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fits(value: Any) -> bool:
    return abs(float(value)) <= float(np.finfo(np.float32).max)


def _array_head(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of a stored array. Raises ValueError if it is none."""
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(stream)


def _lines(file: File, setting: TokenInput) -> Iterator[tuple[int, str]]:
    with _readable(file, setting), file.stream() as stream:
        yield from lines(stream, file.shown)


@contextmanager
def _readable(file: File, setting: TokenInput) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        kind = file.compression or ("NumPy" if file.suffix == ARRAY else "text")
        raise _refused(file, setting, damaged(kind, error)) from error


def _beside(file: File) -> str:
    """Where the tokens of an array are."""
    if not file.is_remote:
        return ARRAY_NAME.sub(r".txt\1", file.path)
    address = stores.parse(file.path)
    return address.url(ARRAY_NAME.sub(r".txt\1", address.key))


def _only(path: str, setting: TokenInput) -> File:
    try:
        found = find(path, (), any_suffix=True)
    except DataError as error:
        raise DataError(
            f"The vectors of {setting.column!r} cannot be read.", problems=error.problems, hint=HINT
        ) from error
    if len(found) > 1:
        raise _refused(found[0], setting, f"one of {len(found):,} files; expected the name of a single one")
    return found[0]


def _problem(file: File, message: str, *, line: int | None = None) -> Problem:
    return Problem(file=file.shown, line=line, message=message)


def _refused(
    file: File, setting: TokenInput, message: str, *, line: int | None = None, hint: str = HINT
) -> DataError:
    return DataError(
        f"The vectors of {setting.column!r} cannot be used.",
        problems=[_problem(file, message, line=line)],
        hint=hint,
    )
