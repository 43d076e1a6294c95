"""From merged entries to Settings; what the schema refuses becomes mistakes in the words of the settings."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from conf.documents import Entry, plain
from conf.mistakes import Key, Mistakes, Place, dotted
from conf.names import nearest
from conf.schema import Settings
from conf.spaces import KINDS

# A file of anything else can have a fault in every line; nobody reads that many.
MAX_EXPLAINED = 500

# pydantic's kinds of fault, and what was expected instead; {braces} are filled from the fault.
EXPECTED = {
    "string_type": "text",
    "string_too_short": "some text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least one item",
    "too_long": "at most {max_length} items",
}
SPACE = ("tune", "space")
SPELT = re.compile(r"\b(True|False|None)\b")


@dataclass(frozen=True)
class Refusal:
    """What the schema says of one key, and what it would rather have."""

    key: Key
    message: str
    hint: str
    types: tuple[str, ...]  # pydantic's, one of each branch of a union


def validate(root: Entry, mistakes: Mistakes, *, recorded: bool = False) -> Settings | None:
    """The settings, or None and the reasons in `mistakes`.

    Args:
        root: what the files and options say.
        mistakes: gets what is wrong with it.
        recorded: every default stands there too, and is at odds with nothing.
    """
    try:
        return Settings.model_validate(plain(root), context={"recorded": recorded})
    except ValidationError as error:
        found = error.errors(include_url=False)
    for each in _refusals(found, root):
        # What was said while reading stands.
        if not mistakes.has(each.key):
            mistakes.add(place_of(root, each.key), each.key, each.message, each.hint)
    return None


def refusals(values: dict[str, Any], key: Key) -> list[Refusal]:
    """What is wrong with the value of this key whatever the others are; empty where that is nothing.

    Args:
        values: as in a settings file, complete but for what is wrong at the key.
    """
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        root = entries(values, Place(0, 0, ""))
        own = [fault for fault in error.errors(include_url=False) if _is_own(fault, key, root)]
        return list(_refusals(own, root))
    return []


def _is_own(fault: Mapping[str, Any], key: Key, root: Entry) -> bool:
    """Whether the fault is in the value itself; a whole section may also be at odds with another."""
    where = _location(fault, root)
    return where[: len(key)] == key and not (fault["type"] == "conflict" and len(where) == 1)


def _refusals(found: Iterable[Mapping[str, Any]], root: Entry) -> Iterator[Refusal]:
    faults: dict[Key, list[Mapping[str, Any]]] = {}
    for fault in found:
        faults.setdefault(_key(fault, root), []).append(fault)
    for key, same in itertools.islice(faults.items(), MAX_EXPLAINED):
        # A list whose items are at fault also counts as too short.
        within = any(len(other) > len(key) and other[: len(key)] == key for other in faults)
        if not (same[0]["type"] == "too_short" and within):
            yield Refusal(key, *_explain(key, same), types=tuple(fault["type"] for fault in same))


def entries(value: Any, place: Place) -> Entry:
    """The value with everything in it at one place."""
    if isinstance(value, dict):
        value = {name: entries(inner, place) for name, inner in value.items()}
    elif isinstance(value, list):
        value = [entries(inner, place) for inner in value]
    return Entry(value, place)


def fields(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted key, sections too.

    What stands in a list, or in a mapping under free names, has the key of the whole.
    """
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        yield key, info
        for section in _sections(info.annotation):
            yield from fields(section, f"{key}.")


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _sections(part)


def _key(fault: Mapping[str, Any], root: Entry) -> Key:
    """The key that the fault is about."""
    at = fault.get("ctx", {}).get("at", "")
    parts = (int(part) if part.isdigit() else part for part in at.split(".") if part)
    return (*_location(fault, root), *parts)


def _location(fault: Mapping[str, Any], root: Entry) -> Key:
    """Where the fault was found in the settings: pydantic's place without the branches of unions."""
    key: list[str | int] = []
    entry = root
    for part in fault["loc"]:
        inner = entry.child(part)
        if inner is None and (fault["type"] != "missing" or part != fault["loc"][-1]):
            continue
        key.append(part)
        entry = inner or entry
    return tuple(key)


def place_of(root: Entry, key: Key) -> Place:
    """Of the entry, or of the nearest one around it."""
    entry = root
    for number, part in enumerate(key):
        # The keys of tune.space have dots of their own.
        inner = entry.child(part) or entry.child(dotted(key[number:]))
        if inner is None:
            break
        entry = inner
    return entry.place


def _explain(key: Key, faults: list[Mapping[str, Any]]) -> tuple[str, str]:
    """Message and hint for the faults of one key; several when it is of no branch of a union."""
    fault = faults[0]
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return "there is no such setting", nearest_setting(key)
        case "missing":
            return "is missing", _sentence(key)
        case "conflict":
            return context.get("message", fault["msg"]), context.get("hint", "")
        case "string_pattern_mismatch":
            return f"received {shown(fault['input'])}", _sentence(key)
    expected = " or ".join(dict.fromkeys(map(_expected, faults)))
    return f"received {shown(fault['input'])}, expected {expected}", _correction(key, fault)


def _expected(fault: Mapping[str, Any]) -> str:
    limits = {
        name: f"{value:g}" if isinstance(value, float) else value
        for name, value in fault.get("ctx", {}).items()
    }
    words = EXPECTED.get(fault["type"], fault["msg"]).format_map(limits)
    return SPELT.sub(lambda found: "null" if found[0] == "None" else found[0].lower(), words)


def _correction(key: Key, fault: Mapping[str, Any]) -> str:
    """What to write instead where that can be told, or what the setting is for."""
    value = fault["input"]
    if isinstance(value, str):
        if fault["type"] == "literal_error":
            near = nearest(value, re.findall(r"'([^']+)'", fault["ctx"]["expected"]))
            return f"did you mean {near}?" if near else _sentence(key)
        if fault["type"] in ("int_type", "float_type") and re.fullmatch(r"[-+.0-9eE]+", value):
            return f"write {value} without quotes"
        if fault["type"] == "bool_type" and value.lower() in ("yes", "no", "on", "off", "y", "n"):
            return f"write {str(value.lower() in ('yes', 'on', 'y')).lower()}; in YAML 1.2 {value} is text"
    return _sentence(key) if fault["type"].endswith(("_type", "_error")) else ""


def _sentence(key: Key) -> str:
    """The setting's own description; none where two ways to split the rows would say different things."""
    if key[:2] == SPACE:
        key = (*key[:2], *key[3:])
    path = dotted(tuple(part for part in key if isinstance(part, str)))
    found = {(info.description or "").rstrip(".") for name, info in fields() if name == path}
    return found.pop() if len(found) == 1 else ""


def nearest_setting(key: Key) -> str:
    """The setting that was likely meant: one beside the wrong one, or at most a level up and then down."""
    if key[:2] == SPACE and len(key) > 3:
        return _nearest_kind(key)
    path = [part for part in key if isinstance(part, str)]
    if not path:
        return ""
    *section, name = path
    known = [each.split(".") for each, _ in fields()]
    if "." in name:
        wanted = [*section, *name.split(".")]
        near = wanted if wanted in known else _likely(wanted, known)
        return "a dot joins keys in --set only" + (f"; here nest {'.'.join(near)}" if near else "")
    near = _likely(path, known)
    if near:
        return f"did you mean {'.'.join(near)}?"
    here = dict.fromkeys(each[-1] for each in known if each[:-1] == section)
    return f"known here: {', '.join(here)}" if here else ""


def _nearest_kind(key: Key) -> str:
    """Within a dimension: the kind that was likely meant, or how the setting's key is written."""
    path = dotted(tuple(part for part in key[2:] if isinstance(part, str)))
    if any(name == path for name, _ in fields()):
        return f"write the key with dots, in one line: {dotted(key[2:])}"
    words = (*KINDS, "when")
    near = nearest(str(key[3]), words)
    return f"did you mean {near}?" if near else f"known here: {', '.join(words)}"


def _likely(path: list[str], known: list[list[str]]) -> list[str] | None:
    *section, name = path
    reach = sorted((each for each in known if _levels_up(section, each[:-1]) <= 1), key=len)
    if same := next((each for each in reach if each[-1] == name), None):
        return same
    for candidates in ([each for each in reach if each[:-1] == section], reach):
        by_name = {each[-1]: each for each in reversed(candidates)}
        if near := nearest(name, by_name):
            return by_name[near]
    return None


def _levels_up(section: list[str], other: list[str]) -> int:
    """How many sections to leave on the way from one to the other."""
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(section, other, strict=False))
    return len(section) - len(list(shared))


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
