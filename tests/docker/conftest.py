"""The compose file as Docker reads it, for whoever starts the same processes without Docker."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}")


def read(path: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A compose file with its variables replaced."""
    found: dict[str, Any] = _replaced(YAML(typ="safe").load(path.read_text("utf8")), variables or {})
    return found


def _replaced(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def meant(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1]) or match[2] or ""

    return VARIABLE.sub(meant, value)


def command_of(service: Mapping[str, Any]) -> list[str]:
    """What a container of the service runs."""
    return [*service["entrypoint"], *service["command"]]
