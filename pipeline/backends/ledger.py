"""Who became champion, when and why: one entry for every change of an alias, never rewritten.

<storage>/<name>/ledger.jsonl    {"number", "at", "who", "alias", "from", "to", "why", "run_id",
                                  "kind", "token", "registry"}
recurra.ledger.000012            the same as a tag of the registered model, its `why` cut to what a tag holds

The line is written before the alias moves and the tag after it. So a line without its tag is a change that
was cut short: it counts only once the tag is there.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.backends import journals, mirrors
from pipeline.backends.deliveries import MAX_TAG, shortened

LEDGER = "ledger.jsonl"
TAG = "recurra.ledger."
Entry = dict[str, Any]
_KEYS = {"number", "at", "who", "alias", "from", "to", "why", "run_id", "token"}
Kind = Literal["promotion", "rollback", "found"]


@dataclass(frozen=True)
class Change:
    """An alias that moved from one version to another; `before` is None for the first.

    `found` is a change that somebody else made, as in MLflow's own pages, and that is entered afterwards.
    """

    alias: str
    before: int | None
    after: int
    why: str
    run_id: str
    kind: Kind = "promotion"


def entry(change: Change, *, number: int, registry: str) -> Entry:
    """A change as it is written down. `registry` tells registries apart that share a storage."""
    return {
        "number": number,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": journals.who(),
        "alias": change.alias,
        "from": change.before,
        "to": change.after,
        "why": change.why,
        "run_id": change.run_id,
        "kind": change.kind,
        "token": secrets.token_hex(8),
        "registry": registry,
    }


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Write an entry to the ledger of a name. The caller holds the lease under which it is made."""
    mirrors.append(folder / LEDGER, line)


def read(folder: Path) -> list[Entry]:
    """All entries, oldest first; of several with one number the last, as the others never came about."""
    lines = mirrors.read(folder / LEDGER)
    last = {(line.get("registry"), line["number"]): line for line in lines if "number" in line}
    return [
        line for line in lines if "number" not in line or line is last[line.get("registry"), line["number"]]
    ]


def tag(line: Mapping[str, Any]) -> tuple[str, str]:
    """Key and value of an entry's tag."""
    limit = MAX_TAG // 2
    while len(text := _text({**line, "why": shortened(line["why"], limit)})) > MAX_TAG:
        limit //= 2  # quotes and line ends take more room in JSON
    return f"{TAG}{line['number']:06d}", text


def merged(local: Sequence[Entry], tags: Mapping[str, str]) -> list[Entry]:
    """The entries of the registry with their full reasons, after those from before it kept any.

    Args:
        local: what `read` found.
        tags: of the registered model.
    """
    full = {line["token"]: line["why"] for line in local if "token" in line}
    numbered = enumerate((line for line in local if "number" not in line), start=1)
    old = [{**line, "number": number} for number, line in numbered]
    kept = filter(None, (_parsed(value) for key, value in sorted(tags.items()) if key.startswith(TAG)))
    return [*old, *({**line, "why": full.get(line["token"], line["why"])} for line in kept)]


def cut_short(local: Sequence[Entry], *, number: int, alias: str, to: int, registry: str) -> Entry | None:
    """The line of a change that reached the alias but not the registry's ledger, if it stands here."""
    return next(
        (
            line
            for line in local
            if (line.get("registry"), line.get("number")) == (registry, number)
            and (line["alias"], line["to"]) == (alias, to)
        ),
        None,
    )


def trail(entries: Sequence[Entry], alias: str) -> list[int]:
    """The versions an alias pointed to, without those that were rolled back; the last is the present one."""
    versions: list[int] = []
    for line in (line for line in entries if line["alias"] == alias):
        if not versions and line["from"] is not None:
            versions.append(line["from"])
        if line.get("kind") == "rollback" and line["to"] in versions:
            while versions[-1] != line["to"]:
                versions.pop()
        elif versions[-1:] != [line["to"]]:
            versions.append(line["to"])
    return versions


def _parsed(value: str) -> Entry | None:
    """The entry in a tag; None when somebody else wrote the tag."""
    try:
        line = json.loads(value)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() >= _KEYS else None


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)
