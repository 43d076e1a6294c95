"""The settings as a Markdown page: every key with its type, default, limits and sentence."""

from collections.abc import Iterator
from typing import Any

from conf.load import json_schema

HEAD = """# Settings

Every key of a settings file. Generated from the schema by `scripts/reference.py`; `recurra schema` prints
the same as JSON Schema for editors. How files stack and what `--set` takes: `recurra run --help`.
"""


def page() -> str:
    """The reference of all settings."""
    schema = json_schema()
    definitions = schema.pop("$defs")
    lines = [HEAD]
    for prefix, section in _sections(schema, definitions, ""):
        lines.append(f"## {prefix or 'At the top'}\n\n{section['description'].strip()}\n")
        lines.append("| key | type | default | what it does |\n|---|---|---|---|")
        required = section.get("required", [])
        for name, field in section["properties"].items():
            default = "required" if name in required else _default(field)
            kind = _escape(_kind(field, definitions))
            lines.append(f"| `{name}` | {kind} | {default} | {_escape(_description(field, definitions))} |")
        lines.append("")
    return "\n".join(lines)


def _sections(section: Any, definitions: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    yield prefix, section
    for name, field in section["properties"].items():
        for reference in _references(field):
            title = f"{prefix}.{name}".lstrip(".") + (
                " (each key)" if "additionalProperties" in field else ""
            )
            several = len(list(_references(field))) > 1
            inner = definitions[reference]
            yield from _sections(inner, definitions, f"{title} ({inner['title']})" if several else title)


def _references(field: Any) -> Iterator[str]:
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2]
    for branch in [*field.get("anyOf", []), *field.get("oneOf", []), *field.get("allOf", [])]:
        yield from _references(branch)
    for inner in ("items", "additionalProperties"):
        if isinstance(field.get(inner), dict):
            yield from _references(field[inner])


def _kind(field: Any, definitions: Any) -> str:
    if "$ref" in field:
        return "section"
    branches = field.get("anyOf") or field.get("oneOf") or field.get("allOf")
    if branches:
        return " or ".join(dict.fromkeys(_kind(branch, definitions) for branch in branches))
    if "enum" in field:
        return ", ".join(f"`{_literal(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{_literal(field['const'])}`"
    if "prefixItems" in field:
        kinds = dict.fromkeys(_kind(item, definitions) for item in field["prefixItems"])
        return f"list of {len(field['prefixItems'])}: {'; '.join(kinds)}"
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}), definitions)}"
    if field.get("type") == "object":
        return "mapping"
    return str(field.get("type", "any")) + _limits(field)


def _description(field: Any, definitions: Any) -> str:
    """The field's own sentence, or its section's where the schema leaves out one that says the same."""
    sections = (definitions[name]["description"] for name in _references(field))
    return str(field.get("description") or next(sections, ""))


def _default(field: Any) -> str:
    return "see below" if any(_references(field)) and field["default"] else f"`{_literal(field['default'])}`"


def _limits(field: Any) -> str:
    signs = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "pattern": "like",
    }
    found = [f"{words} `{field[name]}`" for name, words in signs.items() if name in field]
    return f", {', '.join(found)}" if found else ""


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
