"""A proposal as a settings file that says why: YAML with a comment above each choice.

# 26 different labels, one for each step.
target: {column: labels}
"""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from components.inspection.proposals import Proposal
from conf.names import printable

WIDTH = 110
PLAIN = re.compile(r"(\.{0,2}/)*[A-Za-z_][A-Za-z0-9_./-]*")
# What YAML, in one version or another, takes for something else than text.
WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def draft(proposal: Proposal, *, title: Sequence[str]) -> str:
    """The text of a settings file."""
    settings, reasons = proposal.settings, proposal.reasons
    lines = [line for sentence in title for line in _comment(sentence, "")]
    lines += [f"name: {_scalar(settings['name'])}", f"task: {settings['task']}", "data:"]
    for key, value in settings["data"].items():
        lines += [line for sentence in reasons.get(f"data.{key}", ()) for line in _comment(sentence, "  ")]
        if key != "inputs":
            lines += _entry(key, value, "  ")
            continue
        lines.append("  inputs:")
        for i, each in enumerate(value):
            lines += [
                line
                for sentence in reasons.get(f"data.inputs.{i}", ())
                for line in _comment(sentence, "    ")
            ]
            lines.append(f"    - {_flow(each)}")
    for key in ("model", "train", "gate", "register"):
        lines += [line for sentence in reasons.get(key, ()) for line in _comment(sentence, "")]
        lines += _entry(key, settings[key], "")
    return "\n".join(lines) + "\n"


def _comment(sentence: str, indent: str) -> list[str]:
    begin = f"{indent}# "
    if sentence.startswith(" "):  # a command, kept as it is
        return [f"{indent}#{sentence}"]
    return textwrap.wrap(
        printable(sentence), WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False
    ) or [begin.rstrip()]


def _entry(key: str, value: Any, indent: str) -> list[str]:
    """A key and its value; a long mapping goes on over lines."""
    whole = f"{indent}{key}: {_flow(value)}"
    if len(whole) <= WIDTH or not isinstance(value, Mapping):
        return [whole]
    begin = f"{indent}{key}: {{"
    items = [f"{_scalar(name)}: {_flow(each)}" for name, each in value.items()]
    lines, current = [], begin
    for i, item in enumerate(items):
        piece = item + ("," if i < len(items) - 1 else "}")
        if len(current) + len(piece) > WIDTH and current.strip() and current != begin:
            lines.append(current.rstrip())
            current = " " * len(begin)
        current += piece + " "
    return [*lines, current.rstrip()]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(name)}: {_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A value as YAML 1.2 reads it; text in quotes unless it can be nothing else."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return str(value)
    return UNPRINTABLE.sub(
        lambda found: f"\\u{ord(found.group()):04x}", json.dumps(value, ensure_ascii=False)
    )
