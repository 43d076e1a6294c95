"""What stands in the registry: versions with their scores, who was champion when, how two versions differ.

recurra models                          all registered models
recurra models words                    versions and changes of aliases
recurra models words --at 2026-03-01    who was champion then
recurra models words --diff 3 5         (differences.py)
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from components.errors import ModelError
from pipeline.backends.aliases import Aliases
from pipeline.backends.ledger import Entry
from pipeline.backends.registry import RUN_TAG, Version, opened
from pipeline.console import Console, with_interval

CHAMPION = "champion"
# The first of these that a version was scored on stands in the tables.
SCORES = ("accuracy", "loss")


def models(name: str, *, storage: Path, tracking_uri: str) -> dict[str, Any]:
    """A registered model's versions, newest first, and the changes of its aliases, oldest first.

    Raises:
        ModelError: there is no such model.
        TrackerError: MLflow cannot be reached.
    """
    registry = opened(tracking_uri)
    versions = registry.known(name)
    return {
        "name": name,
        "versions": [_about(version) for version in versions],
        "ledger": Aliases(registry, name, storage / name).history(),
    }


def _about(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "created": version.created,
        "aliases": list(version.aliases),
        "verdict": version.tags.get("verdict"),
        "reasons": json.loads(version.tags.get("recurra.reasons", "[]")),
        "metrics": json.loads(version.tags.get("recurra.metrics", "{}")),
        "run_id": version.tags.get(RUN_TAG),
        "parent_champion": version.tags.get("recurra.parent_champion") or None,
        "uri": version.uri,
    }


def all_models(*, tracking_uri: str) -> list[dict[str, Any]]:
    """Every registered model by name, with its number of versions and its champion."""
    registry = opened(tracking_uri)
    found = []
    for name in sorted(registry.names()):
        versions = registry.versions(name)
        champion = next((version for version in versions if CHAMPION in version.aliases), None)
        found.append(
            {
                "name": name,
                "versions": len(versions),
                "champion": None if champion is None else _about(champion),
            }
        )
    return found


def champion_at(moment: str, known: Mapping[str, Any], *, alias: str = CHAMPION) -> dict[str, Any]:
    """Which version had the alias at a moment, since when and until when, as the ledger tells.

    Args:
        moment: an ISO date, which means its end, or an ISO instant; local time unless it says its zone.
        known: what `models` found.
        alias: whose history to look at.

    Raises:
        ModelError: it is no date.
    """
    at = _instant(moment)
    changes = [line for line in known["ledger"] if line["alias"] == alias]
    past = [line for line in changes if datetime.fromisoformat(line["at"]) <= at]
    later = changes[len(past)] if len(past) < len(changes) else None
    return {
        "name": known["name"],
        "alias": alias,
        "at": at.isoformat(timespec="seconds"),
        "version": past[-1]["to"] if past else None,
        "since": past[-1]["at"] if past else None,
        "until": later["at"] if past and later else None,
        "why": past[-1]["why"] if past else None,
        "who": past[-1]["who"] if past else None,
    }


def _instant(moment: str) -> datetime:
    try:
        if len(moment) == len("2026-01-31"):
            day = date.fromisoformat(moment) + timedelta(days=1)
            return datetime(day.year, day.month, day.day).astimezone() - timedelta(seconds=1)
        return datetime.fromisoformat(moment).astimezone()
    except (ValueError, OverflowError) as error:
        raise ModelError(
            f"--at: received {moment!r}, expected a date such as 2026-03-01 or an instant such as "
            "2026-03-01T14:00+01:00.",
            hint="A date means its end; without an offset local time is meant.",
        ) from error


def show_models(known: Mapping[str, Any], *, console: Console) -> None:
    """A registered model's versions and the changes of its aliases."""
    rows = []
    for version in known["versions"]:
        aliases = " ".join(f"@{alias}" for alias in version["aliases"])
        score = shown_score(version["metrics"])
        rows.append(
            [version["version"], aliases, version["verdict"] or "", score, _moment(version["created"])]
        )
    if not console.as_json:
        console.table(known["name"], ["version", "alias", "verdict", "on its test rows", "created"], rows)
        changes = [_change(line) for line in known["ledger"]]
        console.table("\nPromotions", ["when", "alias", "from", "to", "who", "why"], changes)
    console.result("", known)


def _change(line: Entry) -> list[Any]:
    kind = line.get("kind", "promotion")
    why = line["why"] if kind == "promotion" else f"({kind}) {line['why']}".rstrip()
    return [_moment(line["at"]), f"@{line['alias']}", line["from"] or "-", line["to"], line["who"], why]


def show_all(found: Sequence[Mapping[str, Any]], *, console: Console) -> None:
    """The registered models, one a line."""
    if not console.as_json:
        rows = [
            [
                model["name"],
                model["versions"],
                model["champion"]["version"] if model["champion"] else "-",
                shown_score(model["champion"]["metrics"]) if model["champion"] else "",
            ]
            for model in found
        ]
        console.table("", ["model", "versions", "champion", "on its test rows"], rows)
    console.result("", {"models": list(found)})


def show_champion(found: Mapping[str, Any], *, console: Console) -> None:
    """Who had the alias then."""
    if found["version"] is None:
        console.result(f"Nothing was @{found['alias']} of {found['name']} at {found['at']}.", found)
        return
    until = f"until {found['until']}" if found["until"] else "and still is"
    text = (
        f"{found['name']} version {found['version']} was @{found['alias']} at {found['at']}: "
        f"since {found['since']}, {until}.\n  {found['why']}"
    )
    console.result(text, found)


def shown_score(metrics: Mapping[str, float]) -> str:
    """The leading score with its interval, or nothing."""
    name = next((name for name in SCORES if metrics.get(name) is not None), None)
    if name is None:
        return ""
    return with_interval(name, metrics)


def _moment(iso: str) -> str:
    """An ISO instant as people read it."""
    return iso[:16].replace("T", " ")
