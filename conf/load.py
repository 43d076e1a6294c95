"""Settings from YAML files stacked left to right, then `--set` options; all mistakes at once, with places.

    base.yaml ─┐
    gpu.yaml  ─┼─ merge ─ --set train.epochs=3 ─ validate ─ Settings
               │          (the last word wins)
               └─ mappings merge; lists and single values replace

Relative paths (`data.path`, `evaluate.examples`, `vectors` of inputs, also where a search chooses among some)
are taken from the file that says them, and from the current folder in `--set`.
"""

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from conf import urls
from conf.documents import Entry, read
from conf.mistakes import Key, Mistakes, Place, Problem, SettingsError
from conf.points import check
from conf.schema import Settings
from conf.spaces import KINDS
from conf.validation import SPACE, validate

__all__ = ["Problem", "SettingsError", "json_schema", "load", "recorded", "resolved"]

MAX_BYTES = 1 << 18
# Keys that cannot stand together: the one above pushes the others out, so that a split can be stacked.
RIVALS: dict[Key, tuple[str, ...]] = {("data", "split"): ("column", "by"), (*SPACE, "*"): tuple(KINDS)}
SEARCHED_VECTORS = re.compile(r"data\.inputs\.[0-9]+\.vectors")
PATHS: tuple[tuple[str, ...], ...] = (
    ("data", "path"),
    ("evaluate", "examples"),
    ("retrain", "drift", "path"),
    ("retrain", "live_score", "path"),
)


def load(paths: Sequence[str | Path], overrides: Sequence[str] = ()) -> Settings:
    """The settings of these files and options.

    Args:
        paths: YAML files; later ones have the last word.
        overrides: `section.key=value` each, the value in YAML; it replaces what was there, mappings too.
            List items go by number: `data.inputs.0.scale=minmax`. What is searched goes by the key of its
            setting: `tune.space.train.epochs={int: [1, 9]}`, `tune.space.train.epochs.int=[1, 9]`.

    Raises:
        SettingsError: with every mistake: unreadable files, unknown keys, wrong types, impossible values.
    """
    mistakes = Mistakes()
    files = [_file(Path(path), order=order, mistakes=mistakes) for order, path in enumerate(paths)]
    root = Entry({}, Place(0, 1, str(paths[0]) if paths else "settings"))
    for file in filter(None, files):
        _merge(root, file, ())
    for order, option in enumerate(overrides, len(paths)):
        _set(root, option, order=order, mistakes=mistakes)
    # What a file that could not be read would have said is not missing.
    settings = None if None in files else validate(root, mistakes)
    if settings is not None:
        check(settings, root, mistakes)
    if settings is None or mistakes.found:
        raise SettingsError(mistakes.problems())
    return settings


def recorded(path: str | Path) -> Settings:
    """The settings of a run's `settings.yaml`, in which every default stands too.

    What equals its default counts as not given, so that it can be written, searched and changed again.

    Raises:
        SettingsError: with every mistake, as of `load`.
    """
    mistakes = Mistakes()
    root = _file(Path(path), order=0, mistakes=mistakes)
    settings = None if root is None else validate(root, mistakes, recorded=True)
    if settings is None or mistakes.found:
        raise SettingsError(mistakes.problems())
    return Settings.model_validate(settings.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def resolved(settings: Settings) -> dict[str, Any]:
    """All settings, defaults too, as they would stand in a file; JSON-able."""
    return settings.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a settings file."""
    return Settings.model_json_schema(by_alias=True)


def _file(path: Path, *, order: int, mistakes: Mistakes) -> Entry | None:
    text = _text(path, order=order, mistakes=mistakes)
    if text is None:
        return None
    entry = read(text, Place(order, 1, str(path)), mistakes)
    if entry is None:
        return None
    if not isinstance(entry.value, dict):
        kind = {list: "holds a list", str: "holds text", type(None): "is empty"}
        message = kind.get(type(entry.value), "holds a single value")
        mistakes.add(entry.place, (), f"{message}, expected a mapping such as `name: my-model`")
        return None
    _make_absolute(entry, folder=os.path.abspath(path.parent), mistakes=mistakes)
    return entry


def _text(path: Path, *, order: int, mistakes: Mistakes) -> str | None:
    place = Place(order, 0, str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            mistakes.add(
                place, (), f"is too large, at most {MAX_BYTES:,} bytes are read", "expected a settings file"
            )
            return None
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistakes.add(
            place,
            (),
            f"is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            "save it as UTF-8",
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        mistakes.add(place, (), f"cannot be read: {reason}", "expected a YAML file")
    return None


def _merge(below: Entry, above: Entry, key: Key) -> None:
    _push_out_rivals(below, above.value, key)
    for name, entry in above.value.items():
        old = below.value.get(name)
        if old is not None and isinstance(old.value, dict) and isinstance(entry.value, dict):
            _merge(old, entry, (*key, name))
        else:
            below.value[name] = entry


def _push_out_rivals(below: Entry, above: Collection[str], key: Key) -> None:
    rivals = RIVALS.get((*SPACE, "*") if key[:2] == SPACE and len(key) == 3 else key, ())
    if any(name in above for name in rivals):
        for rival in rivals:
            if rival not in above:
                below.value.pop(rival, None)


def _set(root: Entry, option: str, *, order: int, mistakes: Mistakes) -> None:
    name, equals, text = option.partition("=")
    parts = _parts(name.strip())
    place = Place(order, 0, f"--set {option}")
    if not equals or not all(name.strip().split(".")):
        mistakes.add(place, (), "expected section.key=value")
        return
    entry = read(text, place, mistakes, at=tuple(parts))
    if entry is None:
        return
    above = entry
    for part in reversed(parts):
        above = Entry({part: above}, place)
    _make_absolute(above, folder=os.getcwd(), mistakes=mistakes)
    _put(root, parts, entry, mistakes=mistakes)


def _parts(name: str) -> list[str]:
    """The keys of each level; those of tune.space have dots of their own."""
    parts = name.split(".")
    searched = parts[len(SPACE) :]
    if tuple(parts[: len(SPACE)]) != SPACE or not searched:
        return parts
    words = (number for number, part in enumerate(searched) if number and part in (*KINDS, "when"))
    end = next(words, len(searched))
    word, condition = searched[end : end + 1], searched[end + 1 :]
    return [*SPACE, ".".join(searched[:end]), *word, *([".".join(condition)] if condition else [])]


def _put(root: Entry, parts: list[str], entry: Entry, *, mistakes: Mistakes) -> None:
    """Set the value of a key, making the mappings on the way to it."""
    node = root
    for index, part in enumerate(parts):
        inner = entry if index == len(parts) - 1 else None
        if isinstance(node.value, list):
            number = int(part) if part.isdecimal() else len(node.value)
            if number >= len(node.value):
                message = f"there is no item {part} of the {len(node.value)}, counted from 0"
                mistakes.add(entry.place, tuple(parts), message)
                return
            node.value[number] = inner or node.value[number]
            node = node.value[number]
            continue
        if not isinstance(node.value, dict):
            node.value, node.place = {}, entry.place
        _push_out_rivals(node, [part], tuple(parts[:index]))
        node.value[part] = inner or node.value.get(part) or Entry({}, entry.place)
        node = node.value[part]


def _make_absolute(root: Entry, *, folder: str, mistakes: Mistakes) -> None:
    """Resolve paths, each text or a list, and files of vectors against the folder of whoever says them."""
    for key, item in _paths(root):
        if not isinstance(item.value, str) or not item.value:
            continue
        if urls.has_secret(item.value):
            # Settings are written beside the run and sent to the tracker.
            hint = "give keys by the store's variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            mistakes.add(item.place, key, "the URL carries a password", hint)
        elif scheme := urls.unknown_scheme(item.value, folder=folder):
            mistakes.add(item.place, key, f"received the scheme {scheme!r}, {urls.EXPECTED}")
        elif not urls.is_url(item.value):
            item.value = _absolute(item.value, folder)


def _paths(root: Entry) -> Iterator[tuple[Key, Entry]]:
    """The values that are paths, with their keys."""
    for named in PATHS:
        if path := _reach(root, *named):
            for _, item in _items(path) if isinstance(path.value, list | dict) else [("", path)]:
                yield named, item
    if inputs := _reach(root, "data", "inputs"):
        for number, each in _items(inputs):
            if vectors := each.child("vectors"):
                yield ("data", "inputs", number, "vectors"), vectors
    if space := _reach(root, *SPACE):
        for key, dimension in _items(space):
            choices = dimension.child("choice")
            if choices and SEARCHED_VECTORS.fullmatch(str(key)):
                for _, item in _items(choices):
                    yield (*SPACE, key), item


def _reach(entry: Entry, *key: str) -> Entry | None:
    """What stands there, if anything does."""
    for part in key:
        inner = entry.child(part)
        if inner is None:
            return None
        entry = inner
    return entry


def _items(entry: Entry) -> Iterator[tuple[str | int, Entry]]:
    """Of a list; `--set data.path.1=x` comes as a mapping of item numbers."""
    if isinstance(entry.value, list):
        yield from enumerate(entry.value)
    elif isinstance(entry.value, dict):
        yield from entry.value.items()


def _absolute(path: str, folder: str) -> str:
    path = os.path.expanduser(path)
    whole = os.path.abspath(os.path.join(folder, path))
    if glob.has_magic(path) and glob.has_magic(folder) and not os.path.exists(whole):
        # The brackets of a folder's own name are no pattern.
        return os.path.abspath(os.path.join(glob.escape(folder), path))
    return whole
