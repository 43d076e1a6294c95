"""One YAML 1.2 document to values that know where they stand.

    train:             Entry({"train": Entry({"epochs": Entry(3, conf.yaml:2)}, conf.yaml:1)}, conf.yaml:1)
      epochs: 3

`1e-3` is a number; `NO`, `12:30` and `2024-01-01` are text. Tags, anchors, doubled keys and `010` are
refused. The document is read event by event: what is nested too deeply, or names itself, is never built.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)
from ruamel.yaml.reader import ReaderError

from conf.mistakes import Key, Mistakes, Place

MAX_DEPTH = 20
MAX_DIGITS = 100

# The core schema of YAML 1.2, chapter 10.3.2.
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
DECIMAL = re.compile(r"[-+]?[0-9]+")
OCTAL = re.compile(r"0o[0-7]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
NOT_A_NUMBER = frozenset({".nan", ".NaN", ".NAN"})

# YAML 1.1 reads it as octal, YAML 1.2 as decimal; whoever wrote it had one of the two in mind.
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass
class Entry:
    """A value and its place; mappings and lists hold entries."""

    value: Any
    place: Place

    def child(self, part: str | int) -> "Entry | None":
        """The entry of that key or number, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


def plain(entry: Entry) -> Any:
    """The value without places."""
    if isinstance(entry.value, dict):
        return {name: plain(inner) for name, inner in entry.value.items()}
    if isinstance(entry.value, list):
        return [plain(inner) for inner in entry.value]
    return entry.value


def read(text: str, place: Place, mistakes: Mistakes, *, at: Key = ()) -> Entry | None:
    """The document's value, or None where it cannot be read; what is wrong goes to `mistakes`.

    Args:
        place: of the document; a line of 0 means that its lines do not matter.
        at: the key whose value the document is.
    """
    try:
        return _Document(text, place, mistakes).read(at)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place.line_of(mark.line) if mark else place
        mistakes.add(where, at, f"is not YAML: {error.problem or error.context}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position)
        mistakes.add(place.line_of(line), at, f"is not YAML: {str(error).splitlines()[0]}")
    except _TooDeep as error:
        mistakes.add(error.place, at, f"is nested more than {MAX_DEPTH} levels deep")
    return None


class _TooDeep(Exception):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


class _Document:
    """One pass over the events of a text."""

    def __init__(self, text: str, place: Place, mistakes: Mistakes) -> None:
        self.events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)
        self.start = place
        self.mistakes = mistakes

    def read(self, at: Key) -> Entry | None:
        next(self.events)  # the start of the stream
        event = next(self.events)
        if not isinstance(event, DocumentStartEvent):
            return Entry(None, self.start)
        if event.version not in (None, (1, 2)):
            version = ".".join(map(str, event.version))
            self.mistakes.add(
                self.place(event), at, f"is YAML {version}, expected 1.2", "drop the %YAML line"
            )
        entry = self.entry(next(self.events), at, depth=0)
        next(self.events)  # the end of the document
        event = next(self.events)
        if isinstance(event, DocumentStartEvent):
            self.mistakes.add(self.place(event), at, "holds a second document, expected one")
        return entry

    def place(self, event: Event) -> Place:
        return self.start.line_of(event.start_mark.line)

    def entry(self, event: Event, key: Key, *, depth: int) -> Entry:
        place = self.place(event)
        if depth > MAX_DEPTH:
            raise _TooDeep(place)
        if isinstance(event, AliasEvent):
            self.mistakes.add(place, key, f"is the alias *{event.anchor}", "write the value out")
            return Entry(None, place)
        # Nothing else comes where a value stands: the parser closes what it opens.
        assert isinstance(event, ScalarEvent | CollectionStartEvent)
        self.check_plain(event, key)
        if isinstance(event, MappingStartEvent):
            return Entry(self.mapping(key, depth=depth), place)
        if isinstance(event, CollectionStartEvent):
            return Entry(self.items(key, depth=depth), place)
        return Entry(self.scalar(event, key), place)

    def check_plain(self, event: ScalarEvent | CollectionStartEvent, key: Key) -> None:
        if event.anchor is not None:
            hint = "write the value out where it is needed"
            self.mistakes.add(self.place(event), key, f"has the anchor &{event.anchor}", hint)
        if event.tag is not None:
            hint = "tags are not read; write a plain value"
            self.mistakes.add(self.place(event), key, f"has the tag {event.tag}", hint)

    def items(self, key: Key, *, depth: int) -> list[Entry]:
        found: list[Entry] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            found.append(self.entry(event, (*key, len(found)), depth=depth + 1))
        return found

    def mapping(self, key: Key, *, depth: int) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            name = self.name(event, key, depth=depth)
            entry = self.entry(next(self.events), (*key, name), depth=depth + 1)
            entry.place = self.place(event)
            if name in found:
                first = found[name].place.line
                message = f"stands twice, first in line {first}" if first else "stands twice"
                self.mistakes.add(entry.place, (*key, name), message)
            found[name] = entry
        return found

    def name(self, event: Event, key: Key, *, depth: int) -> str:
        """A mapping's key: as it is written, so that no key becomes a number or a truth value."""
        if isinstance(event, ScalarEvent):
            self.check_plain(event, (*key, event.value))
            self.check_characters(event, (*key, event.value))
            return str(event.value)
        self.mistakes.add(self.place(event), key, "has a key that is not plain text")
        self.entry(event, key, depth=depth + 1)
        return ""

    def scalar(self, event: ScalarEvent, key: Key) -> Any:
        self.check_characters(event, key)
        text = str(event.value)
        if event.style is not None or event.tag is not None:
            return text
        if LEADING_ZERO.fullmatch(text):
            number = int(text[:MAX_DIGITS])
            hint = f"write {number}, or '{text}' for text"
            self.mistakes.add(self.place(event), key, f"{text} could mean two numbers", hint)
            return None
        if len(text) > MAX_DIGITS and DECIMAL.fullmatch(text):
            hint = "put it in quotes if it is a name"
            self.mistakes.add(self.place(event), key, f"is a number of {len(text)} digits", hint)
            return None
        return resolve(text)

    def check_characters(self, event: ScalarEvent, key: Key) -> None:
        unfit = UNFIT.search(event.value)
        if unfit:
            self.mistakes.add(self.place(event), key, f"holds the character U+{ord(unfit[0]):04X}")


def resolve(text: str) -> Any:
    """What a plain scalar means in YAML 1.2."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if DECIMAL.fullmatch(text):
        return int(text)
    if OCTAL.fullmatch(text) or HEXADECIMAL.fullmatch(text):
        return int(text, 0)
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITY.fullmatch(text) or text in NOT_A_NUMBER:
        return float(text.replace(".", ""))
    return text
