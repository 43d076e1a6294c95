"""Changing an alias by hand: another version to the front, or the one before again.

recurra promote words 7 --why "tested by the support team"
recurra rollback words --why "wrong on long rows"
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.errors import ModelError
from conf.schema import RegisterSettings
from pipeline.backends import ledger
from pipeline.backends.aliases import PREVIOUS, Aliases
from pipeline.backends.ledger import Change, Entry
from pipeline.backends.registry import RUN_TAG, Registry, Version, opened
from pipeline.console import Console


@dataclass(frozen=True)
class Outcome:
    """What came of a change by hand; `entry` is None when there was nothing to do."""

    name: str
    alias: str
    version: int
    message: str
    entry: Entry | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "name": self.name,
            "alias": self.alias,
            "version": self.version,
            "changed": self.entry is not None,
            "message": self.message,
            "notes": list(self.notes),
            "entry": self.entry,
        }


def promote(name: str, number: int, *, why: str, alias: str, storage: Path, tracking_uri: str) -> Outcome:
    """Let an alias point to a version that the user has chosen.

    Raises:
        ModelError: there is no such version, or its files cannot be used, or it is unproven.
        BusyError: another process is changing the aliases.
        TrackerError: MLflow cannot be reached.
    """
    _check(alias, why)
    aliases = _aliases(name, storage, tracking_uri)
    version = aliases.registry.resolve(f"models:/{name}/{number}")
    with aliases.held() as turn:
        now = turn.settle(alias)
        if now is not None and now.number == number:
            return Outcome(name, alias, number, f"{name} version {number} is already @{alias}.", None)
        _check_files(aliases.registry, version)
        entry = turn.move(_change(alias, now, version, why, "promotion"))
    before = "" if now is None else f", in place of version {now.number}"
    message = f"{name} version {number} is now @{alias}{before}."
    return Outcome(name, alias, number, message, entry, _notes(version))


def rollback(
    name: str,
    *,
    why: str,
    alias: str,
    again: bool,
    to: int | None,
    storage: Path,
    tracking_uri: str,
) -> Outcome:
    """Let an alias point to the version before the present one, as the ledger tells.

    A second rollback right after does nothing, unless it is asked for with `again` or names a version.

    Raises:
        ModelError: there is no version before, or its files cannot be used.
        BusyError: another process is changing the aliases.
        TrackerError: MLflow cannot be reached.
    """
    _check(alias, why)
    aliases = _aliases(name, storage, tracking_uri)
    aliases.registry.known(name)
    with aliases.held() as turn:
        now = turn.settle(alias)
        if now is None:
            raise ModelError(f"{name!r} has no alias {alias!r}.", hint="`recurra models` lists its aliases.")
        entries = aliases.history()
        last = [line for line in entries if line["alias"] == alias][-1]
        if last.get("kind") == "rollback" and to is None and not again:
            message = (
                f"Already rolled back from {last['from']} to {last['to']} at {last['at']}; nothing to do."
            )
            return Outcome(
                name, alias, now.number, message, None, ("--again goes one version further back.",)
            )
        target = _target(aliases, entries, alias, now, to)
        if target.number == now.number:
            return Outcome(name, alias, now.number, f"{name} version {to} is already @{alias}.", None)
        _check_files(aliases.registry, target)
        entry = turn.move(_change(alias, now, target, why, "rollback"))
    message = f"{name} @{alias} is back from version {now.number} to version {target.number}."
    return Outcome(name, alias, target.number, message, entry)


def show(outcome: Outcome, *, console: Console) -> None:
    """One sentence of what was done, and what is worth knowing about it."""
    console.result(outcome.message, outcome.to_json())
    for note in outcome.notes:
        console.note(note)


def _aliases(name: str, storage: Path, tracking_uri: str) -> Aliases:
    return Aliases(opened(tracking_uri), name, storage / name)


def _check(alias: str, why: str) -> None:
    if alias == PREVIOUS:
        raise ModelError(
            f"--alias: {PREVIOUS!r} follows the other aliases by itself.", hint="Name the alias to change."
        )
    try:
        RegisterSettings(alias=alias)
    except ValidationError as error:
        raise ModelError(
            f"--alias: received {alias!r}, expected lower-case letters, digits, - and _.",
            hint="MLflow keeps `latest` and `v1`, `v2`, ... for itself.",
        ) from error
    if not why.strip():
        raise ModelError("--why is empty.", hint="A sentence: whoever reads the ledger later will be glad.")


def _check_files(registry: Registry, version: Version) -> None:
    if version.tags.get("verdict") == "unproven":
        raise ModelError(
            f"{version.uri} did not answer in a fresh process as it was evaluated.",
            hint="It must not become champion: train and register it again.",
        )
    registry.check_entry(version)
    with registry.fetch(version):
        pass


def _target(aliases: Aliases, entries: list[Entry], alias: str, now: Version, to: int | None) -> Version:
    """The version to go back to."""
    name = aliases.name
    if to is None:
        trail = ledger.trail(entries, alias)
        if len(trail) < 2:
            raise ModelError(
                f"There is no version of {name!r} before version {now.number}: the ledger of @{alias} begins"
                " there.",
                hint="`recurra promote` names any version.",
            )
        to = trail[-2]
    elif to not in {line[end] for line in entries for end in ("from", "to") if line["alias"] == alias}:
        raise ModelError(
            f"--to: version {to} of {name!r} was never @{alias}.", hint="`recurra promote` names any version."
        )
    version = aliases.registry.get(name, to)
    if version is None:
        raise ModelError(
            f"Version {to} of {name!r} is gone: it was deleted.",
            hint="--to names another that was there before; `recurra models` lists them.",
        )
    return version


def _change(alias: str, now: Version | None, version: Version, why: str, kind: ledger.Kind) -> Change:
    before = None if now is None else now.number
    return Change(alias, before, version.number, why, version.tags.get(RUN_TAG, ""), kind)


def _notes(version: Version) -> tuple[str, ...]:
    """What the gate said of a version that is promoted all the same."""
    verdict, tags = version.tags.get("verdict"), version.tags
    if verdict in (None, "promoted"):
        return ()
    reasons: Mapping[str, Any] | list[str] = json.loads(tags.get("recurra.reasons", "[]"))
    return (f"Its verdict was {verdict}. {' '.join(reasons)}".rstrip(),)
