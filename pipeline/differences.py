"""How two versions of a model differ: settings, data, schema, scores, code and libraries.

recurra models words --diff 3 5
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import ModelError
from pipeline.backends.deliveries import flat
from pipeline.backends.registry import DIGEST_TAG, Registry, Version, opened
from pipeline.console import Console

PARTS = ("settings", "data", "schema", "metrics", "code", "libraries")
CODE_TAGS = {
    "version": "recurra.code_version",
    "settings_hash": "recurra.settings_hash",
    "bundle": DIGEST_TAG,
}


def difference(name: str, first: int, second: int, *, tracking_uri: str) -> dict[str, Any]:
    """What changed from one version to another: by part and key, both values.

    A part that one of the versions does not tell of stands under `unknown` with the versions that lack it.

    Raises:
        ModelError: there is no such version.
        TrackerError: MLflow cannot be reached.
    """
    registry = opened(tracking_uri)
    versions = [registry.resolve(f"models:/{name}/{number}") for number in (first, second)]
    one, other = (_facts(registry, version) for version in versions)
    unknown = {
        part: [
            version.number for version, facts in zip(versions, (one, other), strict=True) if not facts[part]
        ]
        for part in PARTS
    }
    found: dict[str, Any] = {"name": name, "versions": [first, second]}
    for part in PARTS:
        found[part] = {} if unknown[part] else _changed(one[part], other[part])
    found["metrics"] = _scores(one["metrics"], other["metrics"])
    found["unknown"] = {part: numbers for part, numbers in unknown.items() if numbers}
    return found


def _facts(registry: Registry, version: Version) -> dict[str, dict[str, Any]]:
    """What a version tells of itself, by part; empty where it does not."""
    encoding = _json(registry.read(version, "artifacts/bundle/encoding.json"))
    requirements = registry.read(version, "requirements.txt") or ""
    data = registry.inputs(version)
    if digest := version.tags.get("recurra.data_digest"):
        data = {"all": {"digest": digest}, **data}
    pinned = (line.partition("==") for line in requirements.splitlines() if "==" in line)
    return {
        "settings": flat(_yaml(registry.read(version, "settings.yaml"))),
        "data": {**flat(data), **({"labels": encoding["labels"]} if "labels" in encoding else {})},
        "schema": _schema(encoding),
        "metrics": _json(version.tags.get("recurra.metrics")),
        "code": {key: version.tags[tag] for key, tag in CODE_TAGS.items() if tag in version.tags},
        "libraries": {package: number for package, _, number in pinned},
    }


def _schema(encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and number of features of each input column, and the kind of the target."""
    found: dict[str, Any] = {"task": encoding["task"]} if "task" in encoding else {}
    for group in ("inputs", "context"):
        for part in encoding.get(group, []):
            about = {key: part[key] for key in ("kind", "features", "scale") if key in part}
            found |= {f"{group}.{part['column']}.{key}": value for key, value in about.items()}
    return found


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key in [*one, *(key for key in other if key not in one)]:
        before, after = one.get(key), other.get(key)
        if before == after:
            continue
        found[key] = {"from": before, "to": after}
        if key == "labels":
            found[key] = {
                "added": [label for label in after or [] if label not in (before or [])],
                "removed": [label for label in before or [] if label not in (after or [])],
            }
    return found


def _scores(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Every score that has an interval, of both versions; each was scored on test rows of its own run."""
    names = [name for name in {**one, **other} if f"{name}_low" in {**one, **other}]
    found = {}
    for name in names:
        values = [facts.get(name) for facts in (one, other)]
        found[name] = {
            "from": values[0],
            "from_interval": _interval(one, name),
            "to": values[1],
            "to_interval": _interval(other, name),
            "difference": None if None in values else values[1] - values[0],  # type: ignore[operator]
        }
    return found


def _interval(metrics: Mapping[str, Any], name: str) -> list[float] | None:
    ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
    return None if None in ends else ends  # type: ignore[return-value]


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """What changed, part by part; what is the same is left out."""
    if not console.as_json:
        first, second = (f"version {number}" for number in found["versions"])
        console.table(found["name"], ["what", first, second, "difference"], list(_rows(found)))
    console.result("", found)
    for part, numbers in found["unknown"].items():
        console.note(f"{part}: not told by version {' and '.join(map(str, numbers))}")


def _rows(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for part in PARTS:
        for key, change in found[part].items():
            what = f"{part}: {key}"
            if part == "metrics":
                told = change["difference"]
                difference = "" if told is None else f"{told:+.4f}"
                yield [what, _score(change, "from"), _score(change, "to"), difference]
            elif "added" in change:
                yield [what, f"without {_text(change['removed'])}", f"with {_text(change['added'])}", ""]
            else:
                yield [what, _text(change["from"]), _text(change["to"]), ""]


def _score(change: Mapping[str, Any], end: str) -> str:
    value, interval = change[end], change[f"{end}_interval"]
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ModelError(f"A file of the model is damaged: {error}.") from error
    return found if isinstance(found, dict) else {}


def _yaml(text: str | None) -> dict[str, Any]:
    try:
        found = YAML(typ="safe", pure=True).load(text or "{}")
    except YAMLError as error:
        raise ModelError("The settings of the model are damaged: they are no YAML.") from error
    return found if isinstance(found, dict) else {}
