"""The loop against a clock and runs of the tests' own; real processes are in test_processes.py."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from components.errors import Terminated
from pipeline.backends.signals import Signals
from pipeline.jobs.diary import DONE, FAILED, PENDING, RUNNING, SKIPPED, Diary, LeaseLost, Slot
from pipeline.jobs.schedule import Clock, Rules, Scheduler, plan_of
from pipeline.jobs.slots import jitter
from tests.pipeline.conftest import Noting

BERLIN = ZoneInfo("Europe/Berlin")
KEPT = (0, {"verdict": "kept", "reasons": ["A tie."]})


class Hand(Clock):
    """A clock that is set by hand."""

    def __init__(self, at):
        self.at, self.passed, self.on_sleep = at, 0.0, lambda: None

    def now(self):
        return self.at

    def monotonic(self):
        return self.passed

    def sleep(self, seconds):
        self.advance(seconds)
        self.on_sleep()

    def advance(self, seconds):
        self.at += timedelta(seconds=seconds)
        self.passed += seconds


class Fake:
    """A run that ends when it is told to."""

    def __init__(self, ends=None, stops=(143, None)):
        self.ends, self.stops, self.was_stopped, self.was_killed = ends, stops, False, False

    def ended(self):
        return self.ends

    def stop(self):
        self.was_stopped, self.ends = True, self.stops

    def kill(self):
        self.was_killed, self.ends = True, (None, None)


class Runs:
    """Starts fakes, each as the next of `ends` says; the last of them for ever."""

    def __init__(self, *ends):
        self.ends, self.started, self.found = list(ends) or [KEPT], [], {}

    def start(self, slot):
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        run = end if isinstance(end, Fake) else Fake(end)
        self.started.append((slot.instant, run))
        return run

    def find(self, slot):
        return self.found.get(slot.instant, Fake((None, None)))


class Case:
    """A schedule of its own, led from the start."""

    def __init__(self, path, start, runs, *, cron="0 * * * *", zone="UTC", **rules):
        self.clock, self.runs = Hand(start), runs
        self.diary = Diary(f"sqlite:///{path}/schedules.db")
        self.options = {"cron": cron, "zone": zone, "rules": Rules(**rules)}
        self.lead()

    def lead(self):
        now = self.clock.now
        self.lease = self.diary.lease("m", now=now().timestamp())
        schedule = plan_of("m", command=("retrain",), diary=self.diary, now=now, **self.options)
        self.console = Noting()
        around = {"lease": self.lease, "starter": self.runs, "console": self.console, "clock": self.clock}
        self.scheduler = Scheduler(schedule, diary=self.diary, **around)

    def go(self, hours, step=1.0):
        for _ in range(round(hours / step)):
            self.clock.advance(3600 * step)
            self.scheduler.step()

    @property
    def slots(self):
        return self.diary.slots("m")

    @property
    def states(self):
        return [slot.state for slot in self.slots]


@pytest.fixture
def case(tmp_path):
    return lambda *runs, start=datetime(2026, 1, 1, 0, 30, tzinfo=UTC), **options: Case(
        tmp_path, start, Runs(*runs), **options
    )


@pytest.mark.parametrize("cron", ["0 3 * * *", "30 2 * * *", "0 0 * * *"])
@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)])
def test_over_a_clock_change_each_local_day_has_one_run(case, cron, day):  # B45
    # From half an hour before the midnight of the first day to before that of the sixth.
    start = (day - timedelta(days=2, minutes=30)).astimezone(UTC)
    led = case(start=start, cron=cron, zone="Europe/Berlin")
    led.go(5 * 24 - 1)
    days = Counter(at.astimezone(BERLIN).date() for at, _ in led.runs.started)
    assert days == Counter({(day + timedelta(days=n)).date(): 1 for n in range(-2, 3)})
    assert set(led.states) == {DONE}


@pytest.mark.slow
def test_a_year_of_nights_has_one_run_each(case):  # B45
    start = datetime(2026, 1, 1, tzinfo=BERLIN).astimezone(UTC)
    led = case(start=start, cron="0 3 * * *", zone="Europe/Berlin", misfire_grace=24 * 3600)
    led.go(365 * 24, step=24)
    days = Counter(at.astimezone(BERLIN).date() for at, _ in led.runs.started)
    assert len(days) == 365 and set(days.values()) == {1}


def test_what_a_run_says_becomes_the_slots_state_and_reason(case):
    led = case(
        KEPT,
        (0, {"verdict": "skipped", "reasons": ["Nothing changed."]}),
        (4, {"verdict": "rejected", "reasons": ["A floor."]}),
        (2, {"error": "no rows", "exit_code": 2}),
        (1, None),
    )
    led.go(6, step=0.5)
    told = [(slot.state, slot.reason) for slot in led.slots][:5]
    assert told == [
        (DONE, "kept A tie."),
        (SKIPPED, "skipped Nothing changed."),
        (DONE, "rejected A floor."),
        (FAILED, "no rows"),
        (FAILED, "it ended with exit code 1"),
    ]


def test_a_retry_waits_and_gives_up_after_three(case):
    led = case((3, {"error": "the tracker is away"}), cron="0 12 * * *")
    led.go(12)
    led.scheduler.step()
    tries = []
    for _ in range(20):
        led.go(0.01, step=0.01)  # 36 s
        tries.append(led.slots[0].attempts)
    assert tries[:7] == [1, 2, 2, 2, 2, 2, 3]  # after a minute, then after two
    (slot,) = led.slots
    assert (slot.state, slot.reason) == (FAILED, "the tracker is away, 3 times")
    assert len(led.runs.started) == 3


def test_a_slot_that_comes_while_a_run_goes_on_is_skipped(case):  # B45
    long = Fake()
    led = case(long, KEPT)
    led.go(3, step=0.5)
    assert led.states == [RUNNING, SKIPPED, SKIPPED]
    assert led.slots[1].reason == "the run before it still goes on"
    skipped = [note for note in led.console.notes if "skipped" in note]
    assert len(skipped) == 2
    assert all("2026-01-01" in note and note.endswith(led.slots[1].reason) for note in skipped)
    long.ends = KEPT
    led.go(1, step=0.5)
    assert led.states == [DONE, SKIPPED, SKIPPED, DONE]


def test_queue_runs_it_afterwards(case):
    long = Fake()
    led = case(long, KEPT, overlap="queue")
    led.go(2.5, step=0.5)
    assert led.states == [RUNNING, PENDING, PENDING]
    long.ends = KEPT
    led.go(0.4, step=0.1)
    assert led.states == [DONE, DONE, DONE]


def test_replace_stops_the_run_before_it(case):
    long = Fake()
    led = case(long, KEPT, overlap="replace")
    led.go(2, step=0.25)
    assert long.was_stopped
    assert led.states == [FAILED, DONE]
    assert "replaced by slot 2026-01-01T02:00:00+00:00" in led.slots[0].reason


def test_allow_runs_both(case):
    led = case(Fake(), Fake(), overlap="allow")
    led.go(2, step=0.5)
    assert led.states == [RUNNING, RUNNING]


@pytest.mark.parametrize(
    ("catchup", "expected"),
    [
        ("none", [SKIPPED] * 5),
        ("latest", [SKIPPED] * 4 + [DONE]),
        ("all", [SKIPPED] * 2 + [DONE] * 3),
    ],
)
def test_what_was_missed_is_caught_up_with_as_asked(case, catchup, expected):
    led = case(catchup=catchup, max_catchup=3)
    led.clock.advance(5 * 3600)
    led.lead()
    for _ in range(5):
        led.scheduler.step()
        led.clock.advance(1)
    assert led.states == expected
    assert all("missed" in slot.reason for slot in led.slots if slot.state == SKIPPED)


@pytest.mark.fault("clock moved by an hour")
def test_a_clock_that_is_set_loses_and_doubles_no_slot(case):
    led = case()
    led.go(2, step=0.25)
    led.clock.at -= timedelta(hours=1)
    led.go(3, step=0.25)
    assert [at.hour for at, _ in led.runs.started] == [1, 2, 3, 4]
    led.clock.at += timedelta(hours=1)
    led.go(1, step=0.25)
    assert Counter(led.states)[DONE] == len(led.runs.started)
    assert [slot.instant.hour for slot in led.slots] == list(range(1, 7))


@pytest.mark.fault("scheduler killed")
def test_a_scheduler_killed_before_its_run_began_starts_it_once(case):
    led = case()
    led.diary.plan([Slot("m", led.clock.now(), PENDING)], until=led.clock.now(), lease=led.lease)
    for _ in range(2):  # killed between the row and the run, twice
        led.clock.advance(100)
        led.lead()
    led.scheduler.step()
    led.scheduler.step()
    assert led.states == [DONE] and len(led.runs.started) == 1


@pytest.mark.fault("scheduler killed")
def test_a_scheduler_killed_while_a_run_went_on_finds_it_again(case):
    led = case()
    running = Slot("m", led.clock.now(), RUNNING, attempts=1)
    led.diary.plan([running], until=led.clock.now(), lease=led.lease)
    alive = led.runs.found[running.instant] = Fake()
    led.clock.advance(100)
    led.lead()
    led.scheduler.step()
    assert led.states == [RUNNING] and not led.runs.started
    alive.ends = KEPT
    led.scheduler.step()
    assert led.states == [DONE] and not led.runs.started


def test_a_run_that_died_with_its_scheduler_is_done_again(case):
    led = case()
    running = Slot("m", led.clock.now(), RUNNING, attempts=1)
    led.diary.plan([running], until=led.clock.now(), lease=led.lease)
    led.clock.advance(100)
    led.lead()
    for _ in range(3):
        led.scheduler.step()
    assert led.states == [DONE] and len(led.runs.started) == 1
    assert led.slots[0].attempts == 2


def test_a_run_that_takes_too_long_is_stopped_and_then_killed(case):
    stubborn = Fake(stops=None)
    led = case(stubborn, KEPT, cron="0 1 * * *", max_run=1800.0, stop_grace=60.0)
    led.go(1)
    led.clock.advance(1801)
    led.scheduler.step()
    assert stubborn.was_stopped and not stubborn.was_killed
    led.clock.advance(61)
    led.scheduler.step()
    led.scheduler.step()
    assert stubborn.was_killed
    assert led.states == [FAILED] and "more than 1800 s" in led.slots[0].reason


def test_failures_in_a_row_pause_the_schedule_until_it_is_resumed(case):
    led = case((2, {"error": "no rows"}), pause_after=2)
    led.go(5, step=0.5)
    assert led.states == [FAILED, FAILED, SKIPPED, SKIPPED, SKIPPED]
    assert led.diary.schedule("m").paused == "2 runs in a row failed"
    led.diary.pause("m", "")
    led.runs.ends = [KEPT]
    led.go(1, step=0.5)
    assert led.states[5:] == [DONE]


def test_a_slot_by_hand_runs_at_once_also_between_slots(case):
    led = case()
    led.diary.add(Slot("m", led.clock.now(), PENDING, by_hand=True))
    led.scheduler.step()
    assert len(led.runs.started) == 1


def test_the_signal_lets_runs_checkpoint_and_the_next_start_goes_on_with_them(case):
    long = Fake()
    led = case(long, KEPT)
    led.go(1)
    signals = Signals()

    def arrive():
        signals.received = 15
        signals._ask()

    led.clock.on_sleep = lambda: signals._ask and signals.received is None and arrive()
    with pytest.raises(Terminated):
        led.scheduler.run(signals)
    assert long.was_stopped
    assert (led.slots[0].state, led.slots[0].attempts) == (PENDING, 0)
    led.lead()  # at once, since the lease was let go of
    led.scheduler.step()
    led.scheduler.step()
    assert led.states[0] == DONE


def test_a_scheduler_whose_lease_was_taken_stops_and_leaves_the_run_alone(case):
    long = Fake()
    led = case(long)
    led.go(1)
    led.diary.lease("m", now=led.clock.now().timestamp() + 61)
    with pytest.raises(LeaseLost):
        led.go(1)
    assert not long.was_stopped


def test_another_timetable_begins_now(case):
    led = case()
    led.go(2, step=0.5)
    led.clock.advance(7200)
    led.options["cron"] = "*/30 * * * *"
    led.lease.release()
    led.lead()
    led.scheduler.step()
    assert len(led.slots) == 2
    assert replace(led.diary.schedule("m"), planned_until=None).cron == "*/30 * * * *"


def test_rules_of_another_version_are_read():
    assert Rules.of({"overlap": "queue", "unknown": 1}) == Rules(overlap="queue")
    assert Rules.of(Rules(jitter=3.0).to_json()) == Rules(jitter=3.0)


def test_jitter_starts_later_and_once(case):
    led = case(jitter=1200.0)
    instant = datetime(2026, 1, 1, 1, tzinfo=UTC)
    later = jitter("m", instant, 1200.0).total_seconds()
    assert later > 1
    led.clock.advance(1800 + later - 1)
    led.scheduler.step()
    assert led.states == [PENDING]
    led.clock.advance(2)
    led.scheduler.step()
    led.scheduler.step()
    assert led.states == [DONE] and len(led.runs.started) == 1
