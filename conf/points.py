"""The points of a search: whether its keys lead to settings, and the settings at one.

    tune.space ─ check ─▶ every mistake, at the line of its key
        │
        └─ {model.units: 64, train.learning_rate: 0.003} ─ with_point ─▶ Settings ─ as_yaml ─▶ a file

What is wrong with one value by itself is said at once. Values that do not go together are found where a point
has both, for other points may have neither.
"""

import copy
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from conf.documents import LEADING_ZERO, Entry, resolve
from conf.mistakes import Key, Mistakes, Place, SettingsError, dotted
from conf.names import nearest
from conf.schema import Section, Settings, TuneSettings
from conf.spaces import FINITE, Dimension
from conf.validation import (
    MAX_EXPLAINED,
    SPACE,
    Refusal,
    entries,
    fields,
    nearest_setting,
    place_of,
    refusals,
    shown,
    validate,
)

# What may not be searched, and why.
BARRED = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (
            r"task|data(\.(path|format|layout|columns|id|order|target|split|on_bad_row)(\..+)?)?"
            r"|data\.(inputs|context)(\.\d+(\.(column|kind|columns)(\..+)?)?)?",
            "trials would not be compared on the same rows",
        ),
        (r"name|(evaluate|gate|register)(\..+)?", "it has no effect on training"),
        (
            r"train\.(devices|nodes|checkpoint_seconds|keep_checkpoints|hang_seconds|steps_per_call)",
            "it changes how fast a trial is, not what it learns",
        ),
        (r"train\.early_stopping\.metric", "it is what trials are judged by; set tune.metric"),
        (r"train\.seed", "luck is no setting; see tune.seeds"),
        (r"tune(\..+)?", "it says how to search"),
    )
)
# What a trial can exchange while it trains.
EXCHANGED = re.compile(
    r"train\.(learning_rate|momentum|clip_norm|label_smoothing|batch_size)|model\.dropout\..+"
)
OF_NUMBERS = frozenset(
    ("int_type", "float_type", "greater_than", "greater_than_equal", "less_than", "less_than_equal")
)
TRIAL = Place(0, 0, "trial")
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
MAX_SHOWN = 80

Fault = tuple[str, str]  # message and hint


def with_point(settings: Settings, point: Mapping[str, Any]) -> Settings:
    """The settings with these values, by dotted key, in place of their own; they search for nothing more.

    What a search leaves alone stays: the metric that trials are judged by, and of a whole `train` what may
    not be searched. A value whose condition (`when`) does not hold stays too, unless it is at odds with the
    point; then it is left out.

    Raises:
        SettingsError: at `trial`, if a key leads to no setting, or the schema refuses the values or that they
            stand together.
    """
    values = _placed(settings, point)
    mistakes = Mistakes()
    found = validate(entries(values, TRIAL), mistakes)
    while found is None and _take_out_idle(values, settings.tune, point, mistakes):
        mistakes = Mistakes()
        found = validate(entries(values, TRIAL), mistakes)
    if found is None:
        raise SettingsError(mistakes.problems())
    tune = settings.tune
    return found if tune is None else _judged_by(found, tune.metric or settings.train.early_stopping.metric)


def as_yaml(settings: Settings) -> str:
    """The settings file that says what was given and leaves out what was not; `conf.load.load` reads it."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump(settings.model_dump(mode="json", by_alias=True, exclude_unset=True), text)
    return text.getvalue()


def describe(dimension: Dimension) -> dict[str, Any]:
    """Kind, ends, values and conditions of a dimension, as far as it has them; JSON-able."""
    parts = {
        "kind": dimension.kind,
        "low": dimension.low,
        "high": dimension.high,
        "step": dimension.step,
        "values": list(dimension.values) or None,
        "when": {key: list(values) for key, values in dimension.when.items()} or None,
    }
    return {name: value for name, value in parts.items() if value is not None}


def check(settings: Settings, root: Entry, mistakes: Mistakes) -> None:
    """What is wrong with the search's keys and values, each at its line.

    Args:
        settings: as validated from `root`.
        mistakes: gets what is found.
    """
    if settings.tune is None:
        return
    values = _given(settings)
    found = (
        (key, fault)
        for key, dimension in settings.tune.space.items()
        for fault in _faults(_parts(key), dimension, settings, values)
    )
    for key, fault in itertools.islice(found, MAX_EXPLAINED):
        mistakes.add(place_of(root, (*SPACE, key)), (*SPACE, key), *fault)


def _faults(key: Key, dimension: Dimension, settings: Settings, values: dict[str, Any]) -> Iterator[Fault]:
    """What is wrong with one dimension; with its values only where its key may be searched."""
    assert settings.tune is not None
    space = settings.tune.space
    if fault := _barred(key, settings.tune) or _astray(settings, key) or _within_another(key, space):
        yield fault
    else:
        yield from _refused(key, dimension, settings, values)
    yield from _unmet(dotted(key), space)


def _placed(settings: Settings, point: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of the settings, with the point's values in their places.

    Raises:
        SettingsError: if a key leads to no setting, or lies within another.
    """
    mistakes = Mistakes()
    values = _given(settings)
    for name, value in point.items():
        key = _parts(name)
        if fault := _astray(settings, key) or _within_another(key, point):
            mistakes.add(TRIAL, key, *fault)
        else:
            _put(values, settings, key, copy.deepcopy(value))
    if mistakes.found:
        raise SettingsError(mistakes.problems())
    return values


def _take_out_idle(
    values: dict[str, Any], tune: TuneSettings | None, point: Mapping[str, Any], mistakes: Mistakes
) -> bool:
    """Whether there were values at fault that the point does not search, and are gone now."""
    space = tune.space if tune is not None else {}
    idle = [key for key, dimension in space.items() if dimension.when and key not in point]
    return any([_take_out(values, _parts(key)) for key in idle if mistakes.has(_parts(key))])


def _take_out(values: dict[str, Any], key: Key) -> bool:
    """Whether there was such a value in a section, and is none any more."""
    node: Any = values
    for part in key[:-1]:
        node = node.get(part, {}) if isinstance(node, dict) else node[int(part)]
    if not isinstance(node, dict) or key[-1] not in node:
        return False
    del node[key[-1]]
    return True


def _parts(key: str) -> Key:
    return tuple(int(part) if NUMBER.fullmatch(part) else part for part in key.split("."))


def _given(section: Section) -> dict[str, Any]:
    """What was given of the section, without the search."""
    # Defaults stay out: what has no effect beside another setting is only refused where it was given.
    given = section.model_dump(mode="json", by_alias=True, exclude_unset=True)
    given.pop("tune", None)
    return given


def _put(values: dict[str, Any], settings: Settings, key: Key, value: Any) -> None:
    """Set the value of a key that leads to a setting; sections on the way begin as they are by default."""
    node: Any = values
    section: Any = settings
    for part in key[:-1]:
        section = _inner(section, part)
        if isinstance(node, dict) and part not in node:
            node[part] = _given(section) if isinstance(section, Section) else {}
        node = node[part]
    if key == ("train",) and isinstance(value, dict):
        # Another way to train is no reason to train elsewhere, or with another seed.
        kept = {name: each for name, each in values.get("train", {}).items() if _reason(("train", name))}
        value = {**value, **kept}
    node[key[-1]] = value


def _inner(value: Any, part: str | int) -> Any:
    """What a section, list or mapping has there.

    Raises:
        LookupError: if there is nothing of that name or number.
    """
    if isinstance(value, Section):
        names = {info.alias or name: name for name, info in type(value).model_fields.items()}
        return getattr(value, names[str(part)])
    return value[part]


def _judged_by(settings: Settings, metric: str) -> Settings:
    """The settings whose best epoch is the best by this metric, which suits the task."""
    stopping = settings.train.early_stopping
    if stopping.metric == metric:
        return settings
    stopping = stopping.model_copy(update={"metric": metric})
    return settings.model_copy(
        update={"train": settings.train.model_copy(update={"early_stopping": stopping})}
    )


def _reason(key: Key) -> str:
    """Why a setting may not be searched; empty where it may."""
    return next((reason for pattern, reason in BARRED if pattern.fullmatch(dotted(key))), "")


def _barred(key: Key, tune: TuneSettings) -> Fault | None:
    """That the key may not be searched, alone or within one of its choices."""
    if reason := _reason(key):
        return f"may not be searched: {reason}", ""
    if tune.scheduler == "pbt" and not EXCHANGED.fullmatch(dotted(key)):
        reason = "it changes the network or its optimizer between two epochs"
        return f"may not be searched with scheduler pbt: {reason}", "Use another scheduler, such as asha."
    for choice in tune.space[dotted(key)].values:
        for inner in _keys(choice, key):
            if reason := _reason(inner):
                return f"{dotted(inner)} may not be searched: {reason}", "Leave it out of the choices."
    return None


def _keys(value: Any, key: Key) -> Iterator[Key]:
    """The keys of all that stands in a value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*key, name)
            yield from _keys(inner, (*key, name))


def _astray(settings: Settings, key: Key) -> Fault | None:
    """Where a key leads to no setting; None where it leads to one."""
    value: Any = settings
    for number, part in enumerate(key):
        above = dotted(key[:number])
        try:
            value = _inner(value, part)
        except (LookupError, TypeError):
            # A mapping under free names takes any further one.
            if isinstance(value, dict) and number == len(key) - 1:
                return None
            if isinstance(value, tuple):
                return f"there is no item {part} of the {len(value)} of {above}, counted from 0", ""
            if not isinstance(value, Section) and _could_lead(key, above):
                hint = f"Give {above}, or search it as a whole by choice."
                return f"{above} is {shown(value)}, so there is nothing in it", hint
            return "there is no such setting", nearest_setting(key[: number + 1])
    return None


def _could_lead(key: Key, above: str) -> bool:
    """Whether there is a setting of that key once the one above is a section or a mapping."""
    path = dotted(tuple(part for part in key if isinstance(part, str)))
    return any(name == path or (name == above and _takes_names(info.annotation)) for name, info in fields())


def _takes_names(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_takes_names, getattr(annotation, "__args__", ())))


def _within_another(key: Key, keys: Iterable[str]) -> Fault | None:
    """Which other of the keys holds this one."""
    wholes = (dotted(key[:number]) for number in range(1, len(key)))
    if whole := next((each for each in wholes if each in keys), None):
        return f"lies within {whole}, which is searched too", "Search one of the two."
    return None


def _refused(key: Key, dimension: Dimension, settings: Settings, values: dict[str, Any]) -> Iterator[Fault]:
    """The values that no other settings could make right, in the words of the schema."""
    for value in dimension.outermost():
        changed = copy.deepcopy(values)
        _put(changed, settings, key, value)
        found = refusals(changed, key)
        if not found:
            continue
        words = "; ".join(_words(each, key) for each in found)
        types = {each for refusal in found for each in refusal.types}
        if dimension.kind != "choice" and not types & OF_NUMBERS:
            yield f"{dimension.kind} is for numbers: {words}", "Search it by choice."
            return
        if dimension.kind != "choice" and "int_type" in types:
            hint = "Use int or logint, or quantised with whole numbers."
            yield f"{dimension.kind} draws fractions: {words}", hint
            return
        yield f"{_written(value)} is refused: {words}", found[0].hint


def _words(refusal: Refusal, key: Key) -> str:
    below = dotted(refusal.key[len(key) :])
    return f"{below}: {refusal.message}" if below else refusal.message


def _written(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else shown(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _unmet(key: str, space: Mapping[str, Dimension]) -> Iterator[Fault]:
    """The conditions of a dimension that can never hold."""
    for other, wanted in space[key].when.items():
        if other not in space:
            near = None if _is_setting(other) else nearest(other, (each for each in space if each != key))
            hint = f"did you mean {near}?" if near else f"Search {other} too."
            yield f"when: {other} is not searched", hint
        elif space[other].kind not in FINITE:
            hint = "Conditions are on what is searched by choice, int or quantised."
            yield f"when: {other} is searched by {space[other].kind}", hint
        elif strangers := [value for value in wanted if not space[other].takes(value)]:
            values = ", ".join(map(_written, space[other].values))
            hint = f"It is one of {values}." if values else ""
            yield f"when: {other} is never {' or '.join(map(_written, strangers))}", hint
    if key in _conditions(key, space):
        yield "when: the conditions lead back to itself", "Leave one of the conditions out."


def _is_setting(name: str) -> bool:
    return any(name == each for each, _ in fields())


def _conditions(key: str, space: Mapping[str, Dimension]) -> set[str]:
    """All keys that must be searched for this one to be."""
    found: set[str] = set()
    ahead = list(space[key].when)
    while ahead:
        each = ahead.pop()
        if each in space and each not in found:
            found.add(each)
            ahead += space[each].when
    return found


class _Representer(SafeRepresenter):
    """Puts text in quotes that our own reading of YAML would take for something else."""

    def represent_text(self, text: str) -> ScalarNode:
        is_plain = isinstance(resolve(text), str) and not LEADING_ZERO.fullmatch(text)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Representer.add_representer(str, _Representer.represent_text)
