"""Settings from YAML files stacked left to right, then `--set` options; all mistakes at once, with places.

    base.yaml ─┐
    gpu.yaml  ─┼─ merge ─ --set train.epochs=3 ─ Settings
               │          (the last word wins)
               └─ mappings merge; lists and single values replace

YAML 1.2: `1e-3` is a number and `NO` is text. Tags, anchors and doubled keys are refused.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from conf.names import nearest
from conf.schema import Settings

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
LEADING_ZERO = re.compile(r"^[-+]?0[0-9_]+$")
# What pydantic puts into a place for the branch of a union it took.
BRANCHES = ("one", "a list", "split by column", "split by share", "[key]")

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake and where it stands."""

    location: str  # file:line, or the --set option
    key: str  # dotted
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = ": ".join(filter(None, (self.location, self.key)))
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class SettingsError(Exception):
    """The settings are at fault; `problems` has every mistake."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)
        self.hint = "`recurra schema` prints the JSON Schema; docs/reference/settings.md has every key."

    def __str__(self) -> str:
        count = len(self.problems)
        head = "The settings have a mistake:" if count == 1 else f"The settings have {count} mistakes:"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


@dataclass
class _Draft:
    """Values merged so far, where each key was last said, and what is wrong with them."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    folders: dict[Key, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def complain(self, location: str, key: Key, message: str, hint: str = "") -> None:
        self.problems.append(Problem(location, dotted(key), message, hint))

    def place(self, key: Key) -> str:
        """Where a key stands, or the nearest mapping around it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, "")


def load(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> Settings:
    """The settings of these files and options.

    Args:
        paths: YAML files; later ones have the last word.
        overrides: `section.key=value` each, the value in YAML; list items by number, `data.inputs.0.scale`.

    Raises:
        SettingsError: with every mistake: unreadable files, unknown keys, wrong types, impossible values.
    """
    draft = _Draft()
    for path in map(Path, paths):
        _read_file(draft, path)
    for option in overrides:
        _read_option(draft, option)
    _resolve_paths(draft)
    unread = any(not problem.key and not problem.location.startswith("--set") for problem in draft.problems)
    settings = None if unread else _validate(draft)
    if settings is None:
        raise SettingsError(sorted(draft.problems, key=lambda each: _order(each.location)))
    return settings


def resolved(settings: Settings) -> dict[str, Any]:
    """All settings, defaults too, as they would stand in a file; JSON-able."""
    return settings.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a settings file."""
    return Settings.model_json_schema(by_alias=True)


def dotted(key: Key) -> str:
    """`('data', 'inputs', 0)` as `data.inputs.0`."""
    return ".".join(map(str, key))


def _read_file(draft: _Draft, path: Path) -> None:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        draft.complain(str(path), (), f"cannot be read: {error.strerror or error}")
        return
    except UnicodeDecodeError as error:
        draft.complain(str(path), (), f"is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}")
        return
    if len(content) > MAX_BYTES:
        draft.complain(str(path), (), f"has {len(content):,} bytes, at most {MAX_BYTES:,} are read")
        return
    values = _Reader(draft, path.name, str(path)).read(text, at=())
    if values is None:
        draft.complain(str(path), (), "is empty", "expected a mapping such as `name: my-model`")
    elif not isinstance(values, dict):
        draft.complain(f"{path}:1", (), f"holds {_kind(values)}, expected a mapping")
    else:
        folder = path.absolute().parent
        _merge(draft.values, values)
        data = values.get("data")
        if isinstance(data, dict) and "path" in data:
            draft.folders["data", "path"] = folder


def _read_option(draft: _Draft, option: str) -> None:
    name, equals, text = option.partition("=")
    location = f"--set {option}"
    if not equals or not all(name.split(".")):
        draft.complain(location, (), "expected section.key=value")
        return
    key: Key = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    value = _Reader(draft, location, location).read(text, at=key)
    node: Any = draft.values
    for part, following in itertools.pairwise(key):
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif isinstance(node, dict):
            if not isinstance(node.get(part), dict | list):
                node[part] = [] if isinstance(following, int) else {}
            node = node[part]
        else:
            draft.complain(location, key, f"there is no item {part} to change")
            return
    last = key[-1]
    is_item = isinstance(node, list) and isinstance(last, int) and last < len(node)
    if is_item or isinstance(node, dict):
        node[last] = value
    else:
        draft.complain(location, key, f"there is no item {last} to change")
        return
    draft.places[key] = location
    if key == ("data",) or key[:2] == ("data", "path"):
        draft.folders["data", "path"] = Path.cwd()


class _Reader:
    """YAML text to plain values, noting where each key stands."""

    def __init__(self, draft: _Draft, short: str, location: str) -> None:
        self.draft, self.location = draft, location
        self.is_file = not location.startswith("--set")

    def read(self, text: str, *, at: Key) -> Any:
        """The value, or None where there is none or it cannot be read."""
        yaml = YAML(typ="safe", pure=True)
        try:
            documents = list(yaml.compose_all(text))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.complain(mark.line if mark else 0, at, f"is not YAML: {error.problem or error.context}")
            return None
        except YAMLError as error:
            self.complain(0, at, f"is not YAML: {str(error).splitlines()[0]}")
            return None
        if len(documents) > 1:
            self.complain(documents[1].start_mark.line, at, "holds a second document, expected one")
        return self.value(documents[0], at) if documents else None

    def complain(self, line: int, key: Key, message: str, hint: str = "") -> None:
        self.draft.complain(self.at(line), key, message, hint)

    def at(self, line: int) -> str:
        return f"{self.location}:{line + 1}" if self.is_file else self.location

    def value(self, node: Node, key: Key) -> Any:
        line = node.start_mark.line
        if key:
            self.draft.places[key] = self.at(line)
        if len(key) > MAX_DEPTH:
            self.complain(line, key, "is nested too deeply")
            return None
        if node.anchor is not None:
            self.complain(
                line, key, f"has the anchor &{node.anchor}", "write the value out where it is needed"
            )
        if isinstance(node, MappingNode):
            return self.mapping(node, key)
        if isinstance(node, SequenceNode):
            self.check_tag(node, key, "tag:yaml.org,2002:seq")
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # nothing else is composed: aliases are the node they name
        return self.scalar(node, key)

    def mapping(self, node: MappingNode, key: Key) -> dict[str, Any]:
        self.check_tag(node, key, "tag:yaml.org,2002:map")
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line
            if not isinstance(name_node, ScalarNode):
                self.complain(line, key, "a key must be plain text")
                continue
            name = name_node.value
            if name in found:
                self.complain(line, (*key, name), f"stands twice, first in line {lines[name] + 1}")
            lines[name] = line
            found[name] = self.value(value_node, (*key, name))
            self.draft.places[(*key, name)] = self.at(line)
        return found

    def scalar(self, node: ScalarNode, key: Key) -> Any:
        line, text, tag = node.start_mark.line, node.value, str(node.tag).rpartition(":")[2]
        if node.style is None and LEADING_ZERO.match(text):
            plain = text.lstrip("+-0_") or "0"
            self.complain(line, key, f"{text} could mean two numbers", f"write {plain}, or '{text}' for text")
            return None
        match tag:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text.replace("_", ""), 0)
            case "float":
                lowered = text.lower().replace("_", "")
                return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))
        self.complain(line, key, f"has the tag {node.tag}", "tags are not read; write a plain value")
        return None

    def check_tag(self, node: Node, key: Key, plain: str) -> None:
        if node.tag != plain:
            self.complain(
                node.start_mark.line, key, f"has the tag {node.tag}", "tags are not read; write a plain value"
            )


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            _merge(below[name], value)
        else:
            below[name] = value


def _resolve_paths(draft: _Draft) -> None:
    """Make data.path absolute against the file that says it."""
    data = draft.values.get("data")
    if not isinstance(data, dict) or "path" not in data:
        return
    folder = draft.folders.get(("data", "path"), Path.cwd())

    def absolute(path: Any) -> Any:
        if not isinstance(path, str) or not path:
            return path
        if URL.match(path):
            where = draft.place(("data", "path"))
            draft.complain(
                where, ("data", "path"), f"{path!r} is a URL", "local files, folders and globs are read"
            )
            return path
        return str((folder / Path(path).expanduser()).resolve())

    data["path"] = (
        [absolute(path) for path in data["path"]]
        if isinstance(data["path"], list)
        else absolute(data["path"])
    )


def _validate(draft: _Draft) -> Settings | None:
    try:
        settings = Settings.model_validate(draft.values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        for fault in faults:
            # A list whose only item is at fault counts as too short: the item's own fault says it better.
            within = any(
                len(other["loc"]) > len(fault["loc"]) and other["loc"][: len(fault["loc"])] == fault["loc"]
                for other in faults
            )
            if not (fault["type"] == "too_short" and within):
                _explain(draft, fault)
        return None
    return None if draft.problems else settings


def _explain(draft: _Draft, fault: Mapping[str, Any]) -> None:
    """One pydantic error as a problem with a place, in the words of the settings."""
    key: Key = tuple(part for part in fault["loc"] if part not in BRANCHES)
    context = fault.get("ctx", {})
    hint = ""
    match fault["type"]:
        case "extra_forbidden":
            message = "there is no such setting"
            hint = _nearest_setting(key)
        case "missing":
            message = "is missing"
        case "conflict":
            message, hint = context.get("message", fault["msg"]), context.get("hint", "")
            key += tuple(
                int(part) if part.isdigit() else part for part in context.get("at", "").split(".") if part
            )
        case "literal_error":
            message = f"received {_shown(fault['input'])}, expected {context['expected']}"
            near = nearest(str(fault["input"]), re.findall(r"'([^']+)'", context["expected"]))
            hint = f"did you mean {near!r}?" if near else ""
        case "none_required":
            message = f"received {_shown(fault['input'])}, expected null: not supported yet"
        case _:
            message = f"received {_shown(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    where = draft.place(key)
    if any(problem.location == where and problem.key == dotted(key) for problem in draft.problems):
        return  # already said while reading
    draft.complain(where, key, message, hint)


def _nearest_setting(key: Key) -> str:
    """The setting that was likely meant: beside the wrong one, or a level off."""
    name, section = str(key[-1]), dotted(key[:-1])
    known = list(setting_keys())
    here = [each for each in known if each.rpartition(".")[0] == section]
    near = nearest(name, [each.rpartition(".")[2] for each in here])
    if near:
        return f"did you mean {'.'.join(filter(None, (section, near)))}?"
    elsewhere = {each.rpartition(".")[2]: each for each in reversed(known)}
    near = nearest(name, elsewhere)
    if near:
        return f"did you mean {elsewhere[near]}?"
    return f"known here: {', '.join(each.rpartition('.')[2] for each in here)}" if here else ""


def setting_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every key of the schema, dotted."""
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        yield key
        for section in sections_in(info.annotation):
            yield from setting_keys(section, f"{key}.")


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field holds, also within unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in getattr(annotation, "__args__", ()):
        yield from sections_in(part)
    if hasattr(annotation, "__origin__") and not getattr(annotation, "__args__", ()):
        yield from sections_in(annotation.__origin__)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else "a single value"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _order(location: str) -> tuple[int, str, int]:
    file, _, line = location.rpartition(":")
    return (int(location.startswith("--set")), file, int(line)) if line.isdigit() else (1, location, 0)
