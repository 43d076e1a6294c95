"""CoNLL files to sentences: one token a line, in columns, and a blank line after each sentence.

    EU       B-ORG      ->   token: [EU, rejects]   label: [B-ORG, O]   recurra.line: 1
    rejects  O
                             token: [UK]            label: [B-LOC]      recurra.line: 4
    UK       B-LOC

Plain CoNLL (`rows`) has any number of columns, without names, and `-DOCSTART-` lines that are no tokens.
CoNLL-U (`conllu_rows`) has ten with names, and comments that say a sentence's `sent_id`, `text` and document.
The lines of a file do not say which of the two it is; its suffix does.
"""

import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from components.data.readers.sources import (
    FAULT,
    LINE,
    NUMBERS,
    OWN_TYPES,
    TEXT,
    TEXTS,
    Wanted,
    fault,
    file_problem,
)
from components.data.readers.texts import lines
from components.errors import DataError

BATCH_ROWS = 8192
BATCH_TOKENS = 200_000

UNIVERSAL = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
OF_SENTENCE = ("sent_id", "text", "newdoc_id")

TYPES = {TEXT: pa.string(), TEXTS: pa.list_(pa.string()), NUMBERS: pa.list_(pa.float64())}

# White space other than these may be part of a token: "1\u00a0000" is one in many corpora.
BLANKS = re.compile(r"[ \t]+")
DOCUMENT = re.compile(r"-DOCSTART-(?:[ \t]|$)")
MULTIWORD = re.compile(r"([0-9]+)-[0-9]+")
EMPTY_NODE = re.compile(r"([0-9]+)\.[0-9]+")


def rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The sentences of a plain CoNLL file, one a row; each column is a list with an entry for each token.

    Columns are called as `wanted.names` says, else `token`, `column_2`, ..., `label`. They are separated by
    tabs if the first token line has any, else by runs of blanks.

    Raises:
        DataError: the file is not UTF-8, has no rows, or has another number of columns than there are names.
    """
    numbered = lines(stream, name)
    start: list[tuple[int, str]] = []
    for place in numbered:
        start.append(place)
        # A line that begins with `#` may be a comment, so it cannot say how many columns there are.
        if _ends_sentence(place[1]) or place[1].startswith("#"):
            continue
        break
    layout = _layout(start, name, wanted.names)
    return _batches(_sentences(chain(start, numbered), layout), layout.names, name, wanted)


def conllu_rows(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The sentences of a CoNLL-U file, one a row; each of its ten columns is a list, an entry for each word.

    Multiword tokens (`1-2`) and empty nodes (`1.1`) are left out. `sent_id`, `text` and `newdoc_id` are one
    text a row, null where no comment says them.

    Raises:
        DataError: the file is not UTF-8, or has no rows.
    """
    return _batches(_universal_sentences(lines(stream, name)), UNIVERSAL, name, wanted, OF_SENTENCE)


@dataclass
class _Sentence:
    """What the lines since the last blank one have said; `begin` is the first that is not a comment."""

    begin: int = 0
    tokens: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of the tokens
    texts: dict[str, str | None] = field(default_factory=dict)
    fault: dict[str, object] | None = None
    torn: bool = False  # a line could not be read, so no column is whole

    @property
    def line(self) -> int:
        return self.lines[0] if self.lines and not self.torn else self.begin

    def add(self, line: int, cells: list[str]) -> None:
        self.tokens.append(cells)
        self.lines.append(line)

    def tear(self, line: int, message: str, column: str = "") -> None:
        self.torn = True
        self.blame(column, message, line=line)

    def blame(self, column: str, message: str, *, line: int | None, step: int | None = None) -> None:
        """Keep the first fault only."""
        self.fault = self.fault or fault(column, message, step=step, line=line)


@dataclass(frozen=True)
class _Layout:
    """How a line falls into columns."""

    has_tabs: bool
    names: tuple[str, ...]

    def cells(self, line: str) -> list[str]:
        return line.split("\t") if self.has_tabs else BLANKS.split(line.strip(" \t"))


def _layout(start: Sequence[tuple[int, str]], name: str, names: tuple[str, ...] | None) -> _Layout:
    """The layout that a file's lines up to its first certain token line show."""
    comments = [line for _, line in start if line.startswith("#")]
    number, line = start[-1] if start else (0, "")
    if _ends_sentence(line) or line.startswith("#"):
        # Not one certain token line; with names given, lines that begin with `#` can still be told apart.
        if names is None:
            raise _no_rows(name)
        return _Layout(any("\t" in comment for comment in comments), names)
    layout = _Layout("\t" in line.strip(), names or ())
    width = len(layout.cells(line))
    if names is None:
        return _Layout(layout.has_tabs, _default_names(width))
    if width != len(names) and all(len(layout.cells(comment)) != len(names) for comment in comments):
        message = f"{_columns(width)}, but {len(names)} name{'s' * (len(names) != 1)}: {', '.join(names)}"
        raise DataError(
            "A file has another number of columns than names.",
            problems=[file_problem(name, message, line=number)],
            hint="Name every column in the file's order; `_` skips one.",
        )
    return layout


def _default_names(width: int) -> tuple[str, ...]:
    between = [f"column_{number}" for number in range(2, width)]
    return ("token", *between, "label")[: max(width, 1)]


def _columns(count: int) -> str:
    return f"{count} column{'s' * (count != 1)}"


def _ends_sentence(line: str) -> bool:
    return not line or line.isspace() or (line.startswith("-") and DOCUMENT.match(line) is not None)


def _sentences(numbered: Iterable[tuple[int, str]], layout: _Layout) -> Iterator[_Sentence]:
    width = len(layout.names)
    sentence = _Sentence()
    for number, line in numbered:
        if _ends_sentence(line):
            if sentence.begin:
                yield sentence
                sentence = _Sentence()
            continue
        cells = layout.cells(line)
        if len(cells) != width and line.startswith("#") and not sentence.begin:
            continue
        sentence.begin = sentence.begin or number
        if len(cells) == width:
            sentence.add(number, cells)
        else:
            sentence.tear(number, f"{_columns(len(cells))}, expected {width}")
    if sentence.begin:
        yield sentence


def _universal_sentences(numbered: Iterable[tuple[int, str]]) -> Iterator[_Sentence]:
    sentence, document = _Sentence(), None
    for number, line in numbered:
        if not line.strip():
            if sentence.begin:
                yield sentence
            sentence = _Sentence(texts={"newdoc_id": document})
        elif not line.startswith("#"):
            sentence.begin = sentence.begin or number
            _read_word(sentence, number, line.split("\t"))
        elif sentence.begin:
            sentence.tear(number, "a comment within a sentence; is a blank line missing before it?")
        else:
            key, value = _comment(line)
            if key in ("newdoc", "newdoc id"):
                document = sentence.texts["newdoc_id"] = value
            elif key in ("sent_id", "text"):
                sentence.texts[key] = value
    if sentence.begin:
        yield sentence


def _comment(line: str) -> tuple[str, str | None]:
    """Key and value of `# key = value`; the value of `# key` is None."""
    key, equals, value = line[1:].partition("=")
    return " ".join(key.split()), value.strip(" \t") if equals else None


def _read_word(sentence: _Sentence, number: int, cells: list[str]) -> None:
    if len(cells) != len(UNIVERSAL):
        sentence.tear(number, f"{_columns(len(cells))}, expected {len(UNIVERSAL)}")
        return
    # Compared as text: int() refuses numbers of thousands of digits, and reads `01` and `1_0`.
    last, expected = str(len(sentence.tokens)), str(len(sentence.tokens) + 1)
    if cells[0] == expected:
        sentence.add(number, cells)
        return
    multiword, empty = MULTIWORD.fullmatch(cells[0]), EMPTY_NODE.fullmatch(cells[0])
    if (multiword and multiword[1] == expected) or (empty and empty[1] == last):
        return
    sentence.tear(number, f"{reprlib.repr(cells[0])}, expected {expected}", "id")


def _batches(
    sentences: Iterable[_Sentence],
    names: Sequence[str],
    name: str,
    wanted: Wanted,
    of_sentence: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    held: list[_Sentence] = []
    num_tokens, has_rows = 0, False
    for sentence in sentences:
        held.append(sentence)
        num_tokens += len(sentence.tokens)
        has_rows = True
        if len(held) >= BATCH_ROWS or num_tokens >= BATCH_TOKENS:
            yield _batch(held, names, of_sentence, wanted)
            held, num_tokens = [], 0
    if not has_rows:
        raise _no_rows(name)
    if held:
        yield _batch(held, names, of_sentence, wanted)


def _batch(
    sentences: list[_Sentence], names: Sequence[str], of_sentence: Sequence[str], wanted: Wanted
) -> pa.RecordBatch:
    arrays = {}
    for at, column in enumerate(names):
        if column != "_" and wanted.has(column):
            kind = wanted.kinds.get(column, TEXTS)
            values = [None if each.torn else _value(each, at, column, kind) for each in sentences]
            arrays[column] = pa.array(values, TYPES[kind])
    for column in filter(wanted.has, of_sentence):
        arrays[column] = pa.array([each.texts.get(column) for each in sentences], pa.string())
    arrays[LINE] = pa.array([each.line for each in sentences], OWN_TYPES[LINE])
    arrays[FAULT] = pa.array([each.fault for each in sentences], OWN_TYPES[FAULT])
    return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))


def _value(sentence: _Sentence, at: int, column: str, kind: str) -> list[str] | list[float] | str | None:
    """A sentence's value of a column; None, with the reason as its fault, if it has none."""
    values = [cells[at] for cells in sentence.tokens]
    if kind == TEXTS:
        return values
    if kind == NUMBERS:
        numbers: list[float] = []
        for step, text in enumerate(values):
            number = _number(text)
            if number is None:
                message = f"{reprlib.repr(text)} is not a number"
                sentence.blame(column, message, step=step, line=sentence.lines[step])
                return None
            numbers.append(number)
        return numbers
    for step, text in enumerate(values):
        if text != values[0]:
            message = "several values in one sentence"
            sentence.blame(column, message, step=step, line=sentence.lines[step])
            return None
    return values[0] if values else None


def _number(text: str) -> float | None:
    # float() alone would also read `1_000` and digits of other scripts.
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _no_rows(name: str) -> DataError:
    message = "no rows: the file is empty, or holds only comments and blank lines"
    return DataError("A file holds no sentences.", problems=[file_problem(name, message)])
