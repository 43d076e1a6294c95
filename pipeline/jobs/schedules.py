"""The commands over schedules: lead one, list, look back, pause, run one now."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from components.errors import ModelError
from components.lookup import nearest
from pipeline.backends.addresses import redact, sqlite_path
from pipeline.backends.signals import Signals
from pipeline.backends.workspace import check_place, check_runs
from pipeline.console import Console
from pipeline.jobs.diary import PENDING, RUNNING, Diary, Schedule, Slot
from pipeline.jobs.processes import FOLDER, Processes
from pipeline.jobs.schedule import Rules, Scheduler, plan_of
from pipeline.jobs.slots import Timetable, moment

NUM_EXPLAINED = 10
STATE = "schedules.db"


def open_diary(state: str | None, storage: Path, *, to_write: bool = False) -> Diary:
    """The schedules' database: the one asked for, or one in the storage.

    Args:
        to_write: makes it where it is not there yet.

    Raises:
        PlaceError: it is to be made where nothing can be written.
        StorageError: it cannot be opened.
        ModelError: it is not there.
    """
    uri = state if state is not None else f"sqlite:///{storage / FOLDER / STATE}"
    path = sqlite_path(uri)
    if path is not None and not path.exists() and not to_write:
        raise ModelError(
            f"There are no schedules: {path} is not there yet.",
            hint="`recurra schedule CONF --cron ...` makes one; or name another database with --state.",
        )
    if path is not None and to_write:
        option = "--storage" if state is None else "--state sqlite:///PATH"
        check_place(path.parent, of="Schedules", option=option)
    return Diary(uri)


def lead(
    name: str,
    *,
    cron: str,
    zone: str,
    command: Sequence[str],
    rules: Rules,
    state: str | None,
    storage: Path,
    variables: Mapping[str, str],
    console: Console,
    signals: Signals,
) -> None:
    """Write a schedule down and lead it until a signal.

    Raises:
        SettingsError: the expression or the zone is none.
        PlaceError: the schedules, or the runs, have no place that can be written.
        BusyError: another process leads it.
        RecurraError: the signal that ended it.
    """
    (first,) = Timetable.of(cron, zone).explain(datetime.now(UTC), count=1)
    check_runs(storage)
    diary = open_diary(state, storage, to_write=True)
    lease = diary.lease(name, now=datetime.now(UTC).timestamp())
    schedule = plan_of(name, cron=cron, zone=zone, command=tuple(command), rules=rules, diary=diary)
    console.note(f"Schedule {name!r}, {cron!r} in {zone}: next at {first['at']}")
    if schedule.paused:
        console.warn(f"It is paused: {schedule.paused}. `recurra schedule resume {name}` ends that.")
    starter = Processes(storage, name, command, variables)
    Scheduler(schedule, diary=diary, lease=lease, starter=starter, console=console).run(signals)


def explain(cron: str, zone: str, start: str | None, *, console: Console) -> None:
    """The next ten slots, with what clock changes do to them."""
    table = Timetable.of(cron, zone)
    begin = datetime.now(UTC) if start is None else moment(start, table.zone)
    rows = table.explain(begin, count=NUM_EXPLAINED)
    if not console.as_json:
        shown = [[row["at"], row["utc"], row["note"]] for row in rows]
        console.table(f"{cron!r} in {zone}", ["local", "UTC", ""], shown)
    console.result("", {"cron": cron, "timezone": zone, "fires": rows})


def show_all(diary: Diary, *, console: Console) -> None:
    """Every schedule: when it runs next, who leads it, how the last one ended."""
    now = datetime.now(UTC)
    found = [_about(schedule, diary, now) for schedule in diary.schedules()]
    if not console.as_json:
        columns = ("name", "cron", "timezone", "next", "led_by", "paused", "last")
        rows = [[str(each[column] or "-") for column in columns] for each in found]
        console.table("", [column.replace("_", " ") for column in columns], rows)
    console.result("" if found else "There are no schedules.", {"schedules": found})


def _about(schedule: Schedule, diary: Diary, now: datetime) -> dict[str, Any]:
    latest = diary.slots(schedule.name, most=1)
    coming = Timetable.of(schedule.cron, schedule.zone).explain(now, count=1)
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.zone,
        "next": None if schedule.paused else coming[0]["at"],
        "led_by": diary.leader(schedule.name, now=now.timestamp()) or None,
        "paused": schedule.paused or None,
        "last": latest[0].state if latest else None,
        "command": shlex.join(["recurra", *schedule.command]),
        "options": dict(schedule.options),
    }


def show_history(diary: Diary, name: str, *, most: int, console: Console) -> None:
    """What became of the latest slots, newest first."""
    schedule = known(diary, name)
    zone = ZoneInfo(schedule.zone)
    found = [_entry(slot, zone) for slot in reversed(diary.slots(name, most=most))]
    if not console.as_json:
        columns = ("slot", "state", "started", "ended", "exit_code", "reason")
        rows = [["-" if each[column] is None else str(each[column]) for column in columns] for each in found]
        console.table(name, [column.replace("_", " ") for column in columns], rows)
    console.result("", {"name": name, "slots": found})


def _entry(slot: Slot, zone: ZoneInfo) -> dict[str, Any]:
    outcome = slot.outcome or {}
    return {
        "slot": slot.instant.astimezone(zone).isoformat(timespec="seconds"),
        "state": slot.state,
        "reason": slot.reason,
        "by_hand": slot.by_hand,
        "attempts": slot.attempts,
        "started": slot.started and slot.started.astimezone(zone).isoformat(timespec="seconds"),
        "ended": slot.ended and slot.ended.astimezone(zone).isoformat(timespec="seconds"),
        "exit_code": slot.exit_code,
        "run_id": outcome.get("run_id"),
        "verdict": outcome.get("verdict"),
        "model": outcome.get("model"),
    }


def pause(diary: Diary, name: str, reason: str, *, console: Console) -> None:
    """Start nothing of a schedule until it is resumed; what runs goes on."""
    known(diary, name)
    diary.pause(name, reason or "by hand")
    console.result(f"{name} is paused: {reason or 'by hand'}", {"name": name, "paused": reason or "by hand"})


def resume(diary: Diary, name: str, *, console: Console) -> None:
    """Start slots again; those that passed meanwhile stay skipped."""
    known(diary, name)
    diary.pause(name, "")
    console.result(f"{name} goes on", {"name": name, "paused": None})


def run_now(diary: Diary, name: str, *, console: Console) -> None:
    """One more slot, at this moment; whoever leads the schedule starts it."""
    known(diary, name)
    now = datetime.now(UTC)
    if waiting := diary.slots(name, states=(PENDING, RUNNING)):
        states = ", ".join(f"{slot.instant.isoformat(timespec='seconds')} {slot.state}" for slot in waiting)
        console.note(f"There are already: {states}")
    diary.add(replace(Slot(name, now, PENDING), by_hand=True))
    leader = diary.leader(name, now=now.timestamp())
    if not leader:
        console.warn(f"Nobody leads {name!r} now: it runs once `recurra schedule` does.")
    at = now.isoformat(timespec="seconds")
    console.result(f"{name} runs now (slot {at})", {"name": name, "slot": at, "led_by": leader or None})


def known(diary: Diary, name: str) -> Schedule:
    """The schedule of a name.

    Raises:
        ModelError: there is none.
    """
    schedule = diary.schedule(name)
    if schedule is None:
        names = [each.name for each in diary.schedules()]
        near = nearest(name, names)
        hint = f"Did you mean {near!r}?" if near else "`recurra schedule CONF --cron ...` makes one."
        raise ModelError(f"There is no schedule {name!r} in {redact(diary.uri)}.", hint=hint)
    return schedule


def retrain_command(conf: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """The arguments of `recurra retrain` that mean the same in any folder."""
    command = ["retrain", *(str(path.absolute()) for path in conf)]
    for override in overrides:
        command += ["--set", override]
    return command
