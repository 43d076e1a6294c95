"""When: the instants of a cron expression in a time zone, each local day's once.

    cron + zone ─ Timetable ─▶ slots, as instants in UTC

A slot that falls into the hour which a clock change skips comes right after it, and one in the hour that
comes twice comes once, as Debian's cron has it, and the library cronsim after it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from components.lookup import nearest
from conf.load import Problem, SettingsError

INSTANT = timedelta(seconds=1)


@dataclass(frozen=True)
class Timetable:
    """A cron expression in a time zone; `of` makes a checked one."""

    cron: str
    zone: ZoneInfo

    @classmethod
    def of(cls, cron: str, zone: str) -> "Timetable":
        """Check both.

        Raises:
            SettingsError: the expression cannot be read or never comes, or there is no such zone.
        """
        known = available_timezones()
        if zone not in known:
            near = nearest(zone, sorted(known))
            hint = f"did you mean {near!r}?" if near else "give a name of the IANA database, as Europe/Berlin"
            raise SettingsError([Problem("--timezone", "", f"there is no time zone {zone!r}", hint)])
        table = cls(cron, ZoneInfo(zone))
        try:
            next(table.after(datetime.now(UTC)))
        except CronSimError as error:
            hint = 'minute, hour, day, month and weekday, as in "0 3 * * *"'
            raise SettingsError([Problem("--cron", "", f"{cron!r} cannot be read: {error}", hint)]) from error
        except StopIteration:
            raise SettingsError([Problem("--cron", "", f"{cron!r} never comes", "")]) from None
        return table

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The slots later than an instant, in UTC, without end."""
        for slot in CronSim(self.cron, instant.astimezone(self.zone)):
            yield slot.astimezone(UTC)

    def between(self, start: datetime, stop: datetime, *, most: int) -> list[datetime]:
        """The slots in (start, stop]; only the last `most` where there are more."""
        found: list[datetime] = []
        for slot in self.after(start):
            if slot > stop:
                break
            found = [*found[-(most - 1) :], slot] if most > 1 else [slot]
        return found

    def explain(self, start: datetime, *, count: int) -> list[dict[str, Any]]:
        """The first slots from `start` on, it included: local instant, UTC, and what a clock change does."""
        rows: list[dict[str, Any]] = []
        before = (start - INSTANT).astimezone(self.zone)
        for slot in self.after(start - INSTANT):
            local = slot.astimezone(self.zone)
            rows.append({"at": local.isoformat(), "utc": slot.isoformat(), "note": self._note(before, local)})
            before = local
            if len(rows) == count:
                break
        return rows

    def _note(self, before: datetime, local: datetime) -> str:
        """What a clock change between two slots, or at the later one, means for people."""
        told = []
        if before.utcoffset() != local.utcoffset():
            told.append(f"the clock changed from UTC{before.isoformat()[-6:]} to UTC{local.isoformat()[-6:]}")
        if self._is_moved(local):
            told.append("its hour does not exist on this day, so it comes right after the gap")
        elif local.utcoffset() != local.replace(fold=1).utcoffset():
            told.append("this hour comes twice on this day")
        return "; ".join(told)

    def _is_moved(self, local: datetime) -> bool:
        """Whether a clock without changes would not show this time of the expression."""
        naive = local.replace(tzinfo=None)
        return next(CronSim(self.cron, naive - INSTANT)) != naive


def moment(text: str, zone: ZoneInfo) -> datetime:
    """An ISO date or instant, in this zone where it names none.

    Raises:
        SettingsError: it is neither.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        hint = "give a date, as 2026-03-28, or an instant, as 2026-03-28T02:30+01:00"
        raise SettingsError([Problem("--from", "", f"received {text!r}", hint)]) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)


def jitter(name: str, slot: datetime, seconds: float) -> timedelta:
    """How long after its instant a slot starts, the same at every asking: below `seconds`, spread by name."""
    digest = hashlib.sha256(f"{name} {slot.isoformat()}".encode()).digest()
    return timedelta(seconds=seconds * int.from_bytes(digest[:8], "big") / 2**64)
