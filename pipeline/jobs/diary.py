"""What every schedule was to do and did, in SQLite or PostgreSQL: written first, read after a crash.

    schedules   what to run and when; whether it is paused
    slots       one row for each scheduled instant:  pending ─▶ running ─▶ done | failed
                                                        └─▶ skipped (reason)
    leases      who leads a schedule now; the token grows with every new holder

A row is written once for (schedule, instant), whoever tries it a second time. Every change names the token
under which it is made: one whose lease another process has taken changes nothing (the fencing token of
Kleppmann, Designing Data-Intensive Applications, 2017, chapter 8).
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from components.errors import AddressError, BusyError, StorageError
from pipeline.backends.addresses import redact, sqlite_path

if TYPE_CHECKING:
    import sqlalchemy

PENDING, RUNNING, DONE, FAILED, SKIPPED = "pending", "running", "done", "failed", "skipped"
BACKENDS = ("sqlite", "postgresql", "mysql", "mssql")
LEASE_SECONDS = 60.0
BUSY_SECONDS = 30.0
CONNECT_SECONDS = 10
TABLES_LOCK = 0x7265637572726101  # "recurra": an advisory lock is a number that nobody else uses


class LeaseLost(BusyError):
    """Another process leads this schedule now."""


@dataclass(frozen=True)
class Schedule:
    """What runs, and when."""

    name: str
    cron: str
    zone: str
    command: tuple[str, ...]  # the arguments of `recurra retrain`
    options: Mapping[str, Any]  # overlap, catchup, ...: the fields of schedule.Rules
    created: datetime
    planned_until: datetime  # the slots up to here have their rows
    paused: str = ""  # why; empty when it is not


@dataclass(frozen=True)
class Slot:
    """One scheduled instant and what became of it."""

    schedule: str
    instant: datetime
    state: str
    reason: str = ""  # why it was skipped or failed
    attempts: int = 0
    by_hand: bool = False  # of `run-now`
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    outcome: Mapping[str, Any] | None = None  # what the run printed with --json


def _check_uri(uri: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        known = make_url(uri).get_backend_name() in BACKENDS
    except (ArgumentError, ValueError):  # what they say quotes the URI, or a part of its password
        known = False
    if not known:
        raise AddressError(
            f"The schedules' database is {redact(uri)!r}.",
            hint="Give --state sqlite:///PATH or --state postgresql://host/database.",
        )


def _tables() -> tuple["sqlalchemy.MetaData", Any, Any, Any]:
    import sqlalchemy as sa

    meta = sa.MetaData()
    text = sa.Text
    schedules = sa.Table(
        "recurra_schedules",
        meta,
        sa.Column("name", sa.String(63), primary_key=True),
        *(sa.Column(name, text, nullable=False) for name in ("cron", "zone", "command", "options")),
        *(sa.Column(name, text, nullable=False) for name in ("created", "planned_until", "paused")),
    )
    slots = sa.Table(
        "recurra_slots",
        meta,
        sa.Column("schedule", sa.String(63), primary_key=True),
        sa.Column("instant", sa.String(40), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", text, nullable=False, default=""),
        sa.Column("attempts", sa.Integer, nullable=False, default=0),
        sa.Column("by_hand", sa.Boolean, nullable=False, default=False),
        *(sa.Column(name, text) for name in ("started", "ended", "outcome")),
        sa.Column("exit_code", sa.Integer),
    )
    leases = sa.Table(
        "recurra_leases",
        meta,
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("owner", text, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("heartbeat", sa.Float, nullable=False),  # seconds since 1970
    )
    return meta, schedules, slots, leases


class Diary:
    """The state of all schedules in one database."""

    def __init__(self, uri: str) -> None:
        """Open the database, and make its tables where they are not there yet.

        Args:
            uri: sqlite:///PATH or postgresql://user@host/database.

        Raises:
            AddressError: it is no such URI.
            StorageError: it cannot be opened.
        """
        import sqlalchemy as sa

        self.uri = uri
        _check_uri(uri)
        if (path := sqlite_path(uri)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        connect = {"connect_timeout": CONNECT_SECONDS} if path is None else {"timeout": BUSY_SECONDS}
        with self._errors_as_ours():
            self._engine = sa.create_engine(uri, connect_args=connect, pool_pre_ping=True)
            self._meta, self._schedules, self._slots, self._leases = _tables()
            if path is not None:
                _write_at_once(self._engine)
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    # Two that make the same table at once break each other; SQLite has just taken its lock.
                    connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({TABLES_LOCK})"))
                self._meta.create_all(connection)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def _errors_as_ours(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, ImportError) as error:
            first = redact(str(error).strip().partition("\n")[0])
            raise StorageError(f"The schedules' database {redact(self.uri)}: {first}") from error

    @contextmanager
    def _change(self, lease: "Lease | None" = None) -> Iterator["sqlalchemy.Connection"]:
        """A transaction; with a lease it fails unless that lease is still held."""
        with self._errors_as_ours(), self._engine.begin() as connection:
            if lease is not None:
                lease.check(connection)
            yield connection

    # Schedules

    def put(self, schedule: Schedule) -> None:
        """Write a schedule, in place of an earlier one of its name."""
        values = {
            "name": schedule.name,
            "cron": schedule.cron,
            "zone": schedule.zone,
            "command": json.dumps(schedule.command),
            "options": json.dumps(schedule.options),
            "created": _text(schedule.created),
            "planned_until": _text(schedule.planned_until),
            "paused": schedule.paused,
        }
        with self._change() as connection:
            connection.execute(self._schedules.delete().where(self._schedules.c.name == schedule.name))
            connection.execute(self._schedules.insert().values(values))

    def schedules(self) -> list[Schedule]:
        """All of them, by name."""
        query = self._schedules.select().order_by(self._schedules.c.name)
        with self._change() as connection:
            return [_schedule(row) for row in connection.execute(query).mappings()]

    def schedule(self, name: str) -> Schedule | None:
        """One of them, or None."""
        return next((each for each in self.schedules() if each.name == name), None)

    def pause(self, name: str, reason: str) -> None:
        """Start nothing of this schedule any more; an empty reason ends that."""
        with self._change() as connection:
            connection.execute(
                self._schedules.update().where(self._schedules.c.name == name).values(paused=reason)
            )

    # Slots

    def plan(self, slots: list[Slot], *, until: datetime, lease: "Lease") -> None:
        """Give slots their rows, leaving those that have one as they are, and remember how far it went."""
        with self._change(lease) as connection:
            for slot in slots:
                self._insert(connection, slot)
            connection.execute(
                self._schedules.update()
                .where(self._schedules.c.name == lease.name)
                .values(planned_until=_text(until))
            )

    def add(self, slot: Slot) -> None:
        """A slot by hand."""
        with self._change() as connection:
            self._insert(connection, slot)

    def _insert(self, connection: "sqlalchemy.Connection", slot: Slot) -> None:
        table = self._slots.c
        there = self._slots.select().where(
            table.schedule == slot.schedule, table.instant == _text(slot.instant)
        )
        if connection.execute(there).first() is None:
            connection.execute(self._slots.insert().values(_row(slot)))

    def move(self, slot: Slot, *, lease: "Lease") -> None:
        """Write what became of a slot."""
        table = self._slots.c
        with self._change(lease) as connection:
            connection.execute(
                self._slots.update()
                .where(table.schedule == slot.schedule, table.instant == _text(slot.instant))
                .values(_row(slot))
            )

    def slots(self, name: str, *, states: tuple[str, ...] = (), most: int | None = None) -> list[Slot]:
        """A schedule's slots in these states, or all, oldest first; of `most` the latest."""
        table = self._slots.c
        query = self._slots.select().where(table.schedule == name).order_by(table.instant.desc())
        if states:
            query = query.where(table.state.in_(states))
        if most is not None:
            query = query.limit(most)
        with self._change() as connection:
            found = [_slot(row) for row in connection.execute(query).mappings()]
        return found[::-1]

    # Leases

    def lease(self, name: str, *, now: float) -> "Lease":
        """Lead a schedule from now on.

        Raises:
            BusyError: another process leads it, and was heard of within the last minute.
        """
        from sqlalchemy.exc import IntegrityError

        table, owner = self._leases.c, f"{socket.gethostname()}, process {os.getpid()}"
        with self._change() as connection:
            held = connection.execute(self._leases.select().where(table.name == name)).mappings().first()
            if held is not None and held["owner"] and 0 <= now - held["heartbeat"] < LEASE_SECONDS:
                raise BusyError(
                    f"Schedule {name!r} is led by {held['owner']}.",
                    hint="Stop that one first; one that was killed is passed over after a minute.",
                )
            token = 1 + (held["token"] if held is not None else 0)
            values = {"owner": owner, "token": token, "heartbeat": now}
            if held is None:
                try:
                    connection.execute(self._leases.insert().values(name=name, **values))
                except IntegrityError as error:  # of two that come first at once, one
                    raise BusyError(f"Another process has just begun to lead schedule {name!r}.") from error
            else:
                # Two that come at once read the same token, and one of them changes no row.
                changed = connection.execute(
                    self._leases.update()
                    .where(table.name == name, table.token == held["token"])
                    .values(**values)
                )
                if changed.rowcount != 1:
                    raise BusyError(f"Another process has just begun to lead schedule {name!r}.")
        return Lease(self, name, token)

    def leader(self, name: str, *, now: float) -> str:
        """Who leads a schedule; empty when nobody has been heard of within the last minute."""
        with self._change() as connection:
            held = (
                connection.execute(self._leases.select().where(self._leases.c.name == name))
                .mappings()
                .first()
            )
        return held["owner"] if held and 0 <= now - held["heartbeat"] < LEASE_SECONDS else ""


@dataclass(frozen=True)
class Lease:
    """The right to lead a schedule, for as long as nobody else takes it."""

    diary: Diary
    name: str
    token: int

    def check(self, connection: "sqlalchemy.Connection") -> None:
        """See that it is still held.

        Raises:
            LeaseLost: it is not.
        """
        leases = self.diary._leases
        query = leases.select().where(leases.c.name == self.name).with_for_update()
        held = connection.execute(query).mappings().first()
        if held is None or held["token"] != self.token:
            raise LeaseLost(
                f"Another process leads schedule {self.name!r} now.",
                hint="This one was not heard of for a minute; it stops without touching anything.",
            )

    def beat(self, *, now: float) -> None:
        """Be heard of.

        Raises:
            LeaseLost: too late.
        """
        self._set(heartbeat=now)

    def release(self) -> None:
        """Let the next one lead at once."""
        self._set(owner="", heartbeat=0.0)

    def _set(self, **values: Any) -> None:
        leases = self.diary._leases
        with self.diary._change(self) as connection:
            connection.execute(leases.update().where(leases.c.name == self.name).values(**values))


def _write_at_once(engine: "sqlalchemy.Engine") -> None:
    """Take SQLite's write lock when a transaction begins: one that reads first would fail instead of wait."""
    import sqlalchemy as sa

    @sa.event.listens_for(engine, "connect")
    def without_own_begin(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _schedule(row: "sqlalchemy.RowMapping") -> Schedule:
    return Schedule(
        name=row["name"],
        cron=row["cron"],
        zone=row["zone"],
        command=tuple(json.loads(row["command"])),
        options=json.loads(row["options"]),
        created=datetime.fromisoformat(row["created"]),
        planned_until=datetime.fromisoformat(row["planned_until"]),
        paused=row["paused"],
    )


def _row(slot: Slot) -> dict[str, Any]:
    return {
        "schedule": slot.schedule,
        "instant": _text(slot.instant),
        "state": slot.state,
        "reason": slot.reason,
        "attempts": slot.attempts,
        "by_hand": slot.by_hand,
        "started": None if slot.started is None else _text(slot.started),
        "ended": None if slot.ended is None else _text(slot.ended),
        "exit_code": slot.exit_code,
        "outcome": None if slot.outcome is None else json.dumps(slot.outcome),
    }


def _slot(row: "sqlalchemy.RowMapping") -> Slot:
    return Slot(
        schedule=row["schedule"],
        instant=datetime.fromisoformat(row["instant"]),
        state=row["state"],
        reason=row["reason"],
        attempts=row["attempts"],
        by_hand=bool(row["by_hand"]),
        started=_instant(row["started"]),
        ended=_instant(row["ended"]),
        exit_code=row["exit_code"],
        outcome=None if row["outcome"] is None else json.loads(row["outcome"]),
    )
