"""How an alias moves: under a lease, fenced by the ledger's numbers, and mended after a kill.

    judge, and note the number of the alias's last entry ─▶ take the lease ─▶ still the same number?
      │
      ▼
    line in ledger.jsonl ─▶ `previous` ─▶ the alias ─▶ tag in the registry

A kill before the alias moves leaves everything as it was: the line without a tag does not count. A kill after
it leaves an alias that the ledger does not know of, and whoever takes the lease next writes the entry.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import BusyError
from pipeline.backends import ledger
from pipeline.backends.addresses import redact
from pipeline.backends.leases import LEASE_SECONDS, Lease, lease
from pipeline.backends.ledger import Change, Entry
from pipeline.backends.registry import RUN_TAG, Registry, Version

PREVIOUS = "previous"
ELSEWHERE = "Found there: moved with something else than recurra, or by a process that was killed."


class Aliases:
    """The aliases of a registered model and their ledger."""

    def __init__(self, registry: Registry, name: str, folder: Path) -> None:
        """`folder` is that of the name's runs."""
        self.registry, self.name, self.folder = registry, name, folder
        self.mark = hashlib.sha256(redact(registry.store.uri).encode()).hexdigest()[:12]

    def history(self) -> list[Entry]:
        """All changes, oldest first."""
        return ledger.merged(ledger.read(self.folder), self.registry.name_tags(self.name))

    def fence(self, alias: str) -> int:
        """The number of the alias's last change. Who decides something notes it before."""
        return max((line["number"] for line in self.history() if line["alias"] == alias), default=0)

    @contextmanager
    def held(self, *, timeout: float = LEASE_SECONDS) -> Iterator["Turn"]:
        """The lease on all aliases of the name.

        Raises:
            BusyError: another process held it for `timeout` seconds.
        """
        with lease(self.registry.store.uri, self.name, folder=self.folder, timeout=timeout) as held:
            yield Turn(self, held)


@dataclass(frozen=True)
class Turn:
    """What may be done while the lease is held."""

    aliases: Aliases
    lease: Lease

    def settle(self, alias: str) -> Version | None:
        """Enter a change that reached the alias but not the ledger; the version that has the alias."""
        ours = self.aliases
        now, entries = ours.registry.by_alias(ours.name, alias), ours.history()
        trail = ledger.trail(entries, alias)
        if now is None or trail[-1:] == [now.number]:
            return now
        number, local = _next(entries), ledger.read(ours.folder)
        line = ledger.cut_short(local, number=number, alias=alias, to=now.number, registry=ours.mark)
        if line is None:
            change = _found(alias, trail[-1] if trail else None, now)
            line = ledger.entry(change, number=number, registry=ours.mark)
            ledger.append(ours.folder, line)
        self._guard(number)
        ours.registry.tag_name(ours.name, *ledger.tag(line))
        return now

    def move(self, change: Change) -> Entry:
        """Let the alias point to another version, `previous` to the one before, and enter it.

        Raises:
            BusyError: the lease was lost, or the ledger has grown although it is ours.
        """
        ours = self.aliases
        number = _next(ours.history())
        line = ledger.entry(change, number=number, registry=ours.mark)
        ledger.append(ours.folder, line)
        if change.before is not None:
            self._guard(number)
            ours.registry.point(ours.name, PREVIOUS, change.before)
        self._guard(number)
        ours.registry.point(ours.name, change.alias, change.after)
        ours.registry.tag_name(ours.name, *ledger.tag(line))
        return line

    def _guard(self, number: int) -> None:
        """Make sure that nobody else is at it, also where no lock reaches: behind an MLflow server."""
        self.lease.check()
        if _next(self.aliases.history()) != number:
            raise BusyError(
                f"Another process changed the aliases of {self.aliases.name!r} at the same time.",
                hint="The same command judges again.",
            )


def _next(entries: list[Entry]) -> int:
    return 1 + max((line["number"] for line in entries), default=0)


def _found(alias: str, before: int | None, now: Version) -> Change:
    """The change that must have led to this version, for the reasons that it carries."""
    run_id = now.tags.get(RUN_TAG, "")
    if now.tags.get("verdict") == "promoted":
        reasons = " ".join(json.loads(now.tags.get("recurra.reasons", "[]")))
        return Change(alias, before, now.number, reasons or ELSEWHERE, run_id)
    return Change(alias, before, now.number, ELSEWHERE, run_id, kind="found")
