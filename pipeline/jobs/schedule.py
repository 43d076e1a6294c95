"""The loop that keeps retraining: slots get their rows, due ones run as processes of their own.

    every second   beat ─▶ plan (new slots: pending or skipped) ─▶ reap (what ended) ─▶ start (what is due)

A row is written before its work, and the run holds a lock that the system lets go of with its last process:
a scheduler that was killed in between finds on its next start what still runs, what ended and what never
began, so that no slot is lost or run twice.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from pipeline.backends.signals import Signals
from pipeline.console import Console
from pipeline.jobs.diary import DONE, FAILED, PENDING, RUNNING, SKIPPED, Diary, Lease, Schedule, Slot
from pipeline.jobs.slots import Timetable, jitter

TICK_SECONDS = 1.0
MAX_PLANNED = 10_000
MAX_ATTEMPTS = 3
RETRY_SECONDS = 60.0
RETRY, STOPPED, GATE = 3, (130, 143), 4


@dataclass(frozen=True)
class Rules:
    """What happens when slots are missed, meet one another or fail."""

    overlap: Literal["forbid", "queue", "replace", "allow"] = "forbid"
    catchup: Literal["latest", "none", "all"] = "latest"
    max_catchup: int = 10
    misfire_grace: float = 60.0  # seconds after which a slot that did not start counts as missed
    jitter: float = 0.0  # seconds over which starts are spread
    max_run: float | None = None  # seconds
    stop_grace: float = 120.0  # seconds a run has to checkpoint
    pause_after: int = 3  # failures in a row

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Rules":
        """From what the diary keeps; options of other versions are passed over."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        """What the diary keeps."""
        return asdict(self)


class Run(Protocol):
    """One slot's process."""

    def ended(self) -> tuple[int | None, Mapping[str, Any] | None] | None:
        """Exit code, None where nobody knows it, and outcome; None while it runs."""

    def stop(self) -> None:
        """Ask it to checkpoint and end."""

    def kill(self) -> None:
        """End it at once."""

    def is_here(self) -> bool:
        """Whether this machine can end it; one of another machine is waited for."""


class Starter(Protocol):
    """Where slots run."""

    def start(self, slot: Slot) -> Run: ...

    def find(self, slot: Slot) -> Run:
        """One that an earlier scheduler started, running or not."""


class Clock:
    """The time, and waiting for it."""

    def now(self) -> datetime:
        """The wall clock, which may be set meanwhile."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait; a clock that is set meanwhile is seen a second later."""
        time.sleep(seconds)


@dataclass
class _Started:
    slot: Slot
    run: Run
    begun: float  # monotonic seconds
    stopping: float | None = None
    why: str = ""  # it is stopped


class Scheduler:
    """Leads one schedule for as long as its lease lasts."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        diary: Diary,
        lease: Lease,
        starter: Starter,
        console: Console,
        clock: Clock | None = None,
    ) -> None:
        self.name, self.diary, self.lease, self.starter = schedule.name, diary, lease, starter
        self.console, self.clock = console, clock or Clock()
        self.table, self.rules = Timetable.of(schedule.cron, schedule.zone), Rules.of(schedule.options)
        self.started: dict[datetime, _Started] = {}
        self._find_earlier()

    def run(self, signals: Signals) -> None:
        """Go on until a signal, then let what runs checkpoint.

        Raises:
            RecurraError: the signal, once everything is stopped.
            LeaseLost: another process leads now; what runs is left to it.
        """
        asked: list[bool] = []
        with signals.grace(lambda: asked.append(True)):
            while not asked:
                self.step()
                self.clock.sleep(TICK_SECONDS)
            self.console.note("Stopping: what runs has time to checkpoint.")
            self._stop_all()
        self.lease.release()
        raise signals.stopped()

    def step(self) -> None:
        """What is to be done at this moment."""
        now = self.clock.now()
        self.lease.beat(now=now.timestamp())
        schedule = self.diary.schedule(self.name)
        assert schedule is not None
        self._plan(schedule, now)
        self._reap(now)
        if not schedule.paused:
            self._start(now)

    # New slots

    def _plan(self, schedule: Schedule, now: datetime) -> None:
        slots = self.table.between(schedule.planned_until, now, most=MAX_PLANNED)
        if not slots:
            return
        rows = [Slot(self.name, instant, PENDING) for instant in slots]
        if schedule.paused:
            rows = [replace(row, state=SKIPPED, reason=f"paused: {schedule.paused}") for row in rows]
        else:
            rows = self._caught_up(rows, now)
        self.diary.plan(rows, until=slots[-1], lease=self.lease)
        for row in rows:
            if row.state == SKIPPED:
                self.console.note(f"{self._shown(row)} skipped: {row.reason}")

    def _caught_up(self, rows: list[Slot], now: datetime) -> list[Slot]:
        """Those that are too late skipped, but for as many as are caught up with."""
        grace = timedelta(seconds=self.rules.misfire_grace)
        late = [row for row in rows if now - self._due(row) > grace]
        most = {"none": 0, "latest": 1, "all": self.rules.max_catchup}[self.rules.catchup]
        on_time = [row for row in rows if row not in late]
        # With one on time, the latest of those that were missed has nothing left to say.
        if self.rules.catchup == "latest" and on_time:
            most = 0
        cut = len(late) - min(most, len(late))
        reason = f"missed, and catchup is {self.rules.catchup}"
        skipped = [replace(row, state=SKIPPED, reason=reason) for row in late[:cut]]
        return [*skipped, *late[cut:], *on_time]

    def _due(self, slot: Slot) -> datetime:
        return slot.instant + (
            timedelta() if slot.by_hand else jitter(self.name, slot.instant, self.rules.jitter)
        )

    # What ended

    def _reap(self, now: datetime) -> None:
        for instant, started in list(self.started.items()):
            ended = started.run.ended()
            if ended is None:
                self._watch(started)
                continue
            del self.started[instant]
            slot = self._judged(started, *ended, now=now)
            self.diary.move(slot, lease=self.lease)
            told = f": {slot.reason}" if slot.reason else ""
            self.console.note(f"{self._shown(slot)} {slot.state}{told}")
            if slot.state == FAILED:
                self._pause_if_hopeless()

    def _judged(
        self, started: _Started, code: int | None, outcome: Mapping[str, Any] | None, *, now: datetime
    ) -> Slot:
        """What an ended run makes of its slot."""
        slot = replace(started.slot, ended=now, exit_code=code, outcome=outcome)
        told = outcome or {}
        if code in (0, GATE):
            state = SKIPPED if told.get("verdict") == "skipped" else DONE
            reasons = [told.get("verdict"), *told.get("reasons", [])]
            return replace(slot, state=state, reason=" ".join(filter(None, reasons)))
        again = replace(slot, state=PENDING, started=None)
        if code is None or code in STOPPED:
            if started.why:
                return replace(slot, state=FAILED, reason=started.why)
            if started.stopping is not None:
                return replace(again, attempts=slot.attempts - 1, reason="stopped with its scheduler")
            return self._once_more(again, "its process was lost" if code is None else "it was stopped")
        error = told.get("error") or f"it ended with exit code {code}"
        return self._once_more(again, error) if code == RETRY else replace(slot, state=FAILED, reason=error)

    def _once_more(self, slot: Slot, reason: str) -> Slot:
        if slot.attempts < MAX_ATTEMPTS:
            return replace(slot, reason=f"{reason}; tried {slot.attempts} of {MAX_ATTEMPTS} times")
        return replace(slot, state=FAILED, reason=f"{reason}, {slot.attempts} times")

    def _watch(self, started: _Started) -> None:
        """End what runs for too long, gently at first."""
        now = self.clock.monotonic()
        if started.stopping is None:
            if self.rules.max_run is not None and now - started.begun > self.rules.max_run:
                self._stop(started, f"it ran for more than {self.rules.max_run:g} s")
        elif now - started.stopping > self.rules.stop_grace:
            started.run.kill()

    def _stop(self, started: _Started, why: str) -> None:
        started.run.stop()
        started.stopping, started.why = self.clock.monotonic(), why

    def _pause_if_hopeless(self) -> None:
        latest = self.diary.slots(self.name, states=(DONE, FAILED), most=self.rules.pause_after)
        if len(latest) == self.rules.pause_after and all(slot.state == FAILED for slot in latest):
            reason = f"{self.rules.pause_after} runs in a row failed"
            self.diary.pause(self.name, reason)
            resume = f"`recurra schedule resume {self.name}` ends that."
            self.console.warn(f"Schedule {self.name!r} is paused: {reason}. {resume}")

    # What is due

    def _start(self, now: datetime) -> None:
        for slot in self.diary.slots(self.name, states=(PENDING,)):
            if self._due(slot) > now or not self._rested(slot, now):
                continue
            if self.started and self.rules.overlap != "allow":
                if self.rules.overlap == "forbid" and self._met_a_run(slot):
                    self._skip(slot, "the run before it still goes on")
                elif self.rules.overlap == "replace":
                    for started in self.started.values():
                        if started.stopping is None:
                            self._stop(started, f"replaced by {self._shown(slot)}")
                continue
            self._begin(slot, now)

    def _met_a_run(self, slot: Slot) -> bool:
        """Whether it came due while another one ran; one caught up with or tried again waits its turn."""
        begun = [started.slot.started for started in self.started.values()]
        return not slot.attempts and any(at is not None and at <= self._due(slot) for at in begun)

    def _rested(self, slot: Slot, now: datetime) -> bool:
        """Whether one that is tried again has waited; a clock that was set back does not hold it up."""
        if slot.ended is None or not slot.attempts:
            return True
        waited = (now - slot.ended).total_seconds()
        return not 0 <= waited < RETRY_SECONDS * slot.attempts if slot.exit_code == RETRY else True

    def _skip(self, slot: Slot, reason: str) -> None:
        self.diary.move(replace(slot, state=SKIPPED, reason=reason), lease=self.lease)
        self.console.note(f"{self._shown(slot)} skipped: {reason}")

    def _begin(self, slot: Slot, now: datetime) -> None:
        slot = replace(slot, state=RUNNING, reason="", attempts=slot.attempts + 1, started=now, ended=None)
        self.diary.move(slot, lease=self.lease)
        self.started[slot.instant] = _Started(slot, self.starter.start(slot), self.clock.monotonic())
        self.console.note(f"{self._shown(slot)} runs")

    # Beginning and end

    def _find_earlier(self) -> None:
        """What an earlier scheduler left running, or dead: the next look says which."""
        for slot in self.diary.slots(self.name, states=(RUNNING,)):
            run = self.starter.find(slot)
            self.started[slot.instant] = _Started(slot, run, self.clock.monotonic())

    def _stop_all(self) -> None:
        for started in self.started.values():
            if started.stopping is None:
                started.run.stop()
                started.stopping = self.clock.monotonic()
        self._reap(self.clock.now())
        # What another machine is at is left to it, and to the next leader.
        self.started = {at: each for at, each in self.started.items() if each.run.is_here()}
        while self.started:
            now = self.clock.now()
            self.lease.beat(now=now.timestamp())
            self._reap(now)
            self.clock.sleep(TICK_SECONDS / 4)

    def _shown(self, slot: Slot) -> str:
        by_hand = " by hand" if slot.by_hand else ""
        return f"slot {slot.instant.astimezone(self.table.zone).isoformat(timespec='seconds')}{by_hand}"


def plan_of(
    name: str,
    *,
    cron: str,
    zone: str,
    command: tuple[str, ...],
    rules: Rules,
    diary: Diary,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Schedule:
    """The schedule of a name as it is now wanted, written down; slots before its first start are no matter.

    Raises:
        SettingsError: the expression or the zone is none.
    """
    Timetable.of(cron, zone)
    known = diary.schedule(name)
    schedule = Schedule(
        name=name,
        cron=cron,
        zone=zone,
        command=command,
        options=rules.to_json(),
        created=now() if known is None else known.created,
        planned_until=now() if known is None else known.planned_until,
        paused="" if known is None else known.paused,
    )
    if known is not None and (known.cron, known.zone) != (cron, zone):
        # Another timetable: the old one's slots up to now are not the new one's.
        schedule = replace(schedule, planned_until=now())
    diary.put(schedule)
    return schedule
