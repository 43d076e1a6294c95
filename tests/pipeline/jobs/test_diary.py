import multiprocessing
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from components.errors import AddressError, BusyError, StorageError
from pipeline.jobs.diary import DONE, PENDING, RUNNING, SKIPPED, Diary, LeaseLost, Schedule, Slot

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/schedules.db"
    return request.getfixturevalue("make_postgres_database")()


@pytest.fixture
def diary(uri):
    opened = Diary(uri)
    yield opened
    opened.close()


def schedule(**changes):
    values = {
        "name": "m",
        "cron": "0 3 * * *",
        "zone": "Europe/Berlin",
        "command": ("retrain", "a b.yaml", "--set", "x={'a': \"y; $HOME\"}"),
        "options": {"overlap": "forbid"},
        "created": START,
        "planned_until": START,
    }
    return Schedule(**{**values, **changes})


def test_a_schedule_comes_back_as_it_was_written(diary):
    diary.put(schedule())
    assert diary.schedule("m") == schedule()
    diary.put(schedule(cron="0 4 * * *"))
    assert [each.cron for each in diary.schedules()] == ["0 4 * * *"]
    assert diary.schedule("n") is None
    diary.pause("m", "too dear")
    assert diary.schedule("m").paused == "too dear"


def test_a_slot_is_written_once_whoever_tries_it_again(diary):
    diary.put(schedule())
    lease = diary.lease("m", now=0.0)
    diary.plan([Slot("m", START, PENDING)], until=START, lease=lease)
    done = Slot("m", START, DONE, exit_code=0, attempts=1, outcome={"verdict": "kept"}, started=START)
    diary.move(done, lease=lease)
    later = START + timedelta(days=1)
    diary.plan([Slot("m", START, PENDING), Slot("m", later, SKIPPED)], until=later, lease=lease)
    assert diary.slots("m") == [done, Slot("m", later, SKIPPED)]
    assert diary.slots("m", states=(SKIPPED,)) == [Slot("m", later, SKIPPED)]
    assert diary.slots("m", most=1) == [Slot("m", later, SKIPPED)]
    assert diary.schedule("m").planned_until == later


def test_one_process_leads_and_the_next_takes_over_after_a_minute_of_silence(diary):  # B45
    diary.put(schedule())
    first = diary.lease("m", now=100.0)
    with pytest.raises(BusyError, match="is led by"):
        diary.lease("m", now=159.0)
    first.beat(now=150.0)
    with pytest.raises(BusyError):
        diary.lease("m", now=200.0)
    second = diary.lease("m", now=211.0)
    assert second.token > first.token
    assert diary.leader("m", now=212.0) != "" == diary.leader("m", now=1000.0)


def test_a_holder_whose_lease_was_taken_changes_nothing(diary):
    diary.put(schedule())
    stale = diary.lease("m", now=0.0)
    diary.plan([Slot("m", START, PENDING)], until=START, lease=stale)
    fresh = diary.lease("m", now=100.0)
    slot = Slot("m", START, RUNNING)
    for attempt in (
        lambda: stale.beat(now=101.0),
        lambda: diary.move(slot, lease=stale),
        lambda: diary.plan([Slot("m", START + timedelta(1), PENDING)], until=START, lease=stale),
        stale.release,
    ):
        with pytest.raises(LeaseLost):
            attempt()
    assert [each.state for each in diary.slots("m")] == [PENDING]
    diary.move(slot, lease=fresh)
    assert [each.state for each in diary.slots("m")] == [RUNNING]


def test_a_released_lease_is_free_at_once(diary):
    first = diary.lease("m", now=0.0)
    first.release()
    assert diary.lease("m", now=1.0).token == first.token + 1


def test_a_clock_that_was_set_back_keeps_nobody_out(diary):
    diary.lease("m", now=3600.0)
    assert diary.lease("m", now=0.0).token == 2


def _lease(uri, barrier, results):
    barrier.wait()
    diary = Diary(uri)
    try:
        results.put(diary.lease("m", now=1000.0).token)
    except BusyError:
        results.put(None)


def test_of_several_that_come_at_once_one_leads(uri):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_lease, args=(uri, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found, key=str) == [1, None, None, None]


def test_a_database_that_cannot_be_opened_is_told_without_its_password(tmp_path):
    with pytest.raises(StorageError) as caught:
        Diary("postgresql+psycopg://me:S3CR3T@127.0.0.1:1/none")
    assert "S3CR3T" not in str(caught.value)
    (tmp_path / "file").write_text("no database")
    with pytest.raises(StorageError, match="file"):
        Diary(f"sqlite:///{tmp_path}/file")


@pytest.mark.parametrize(
    "uri", ["schedules.db", "postgresql://me:S3CR3T@host:x/db", "ftp://me:S3CR3T@host/db"]
)
def test_what_is_no_database_is_refused_without_its_password(uri):
    with pytest.raises(AddressError, match="The schedules' database is") as refused:
        Diary(uri)
    assert refused.value.exit_code == 2
    assert "S3CR3T" not in str(refused.value)


def test_a_slot_by_hand_keeps_that(diary):
    diary.put(schedule())
    diary.add(replace(Slot("m", START, PENDING), by_hand=True))
    assert [each.by_hand for each in diary.slots("m")] == [True]


@pytest.mark.slow
def test_a_database_that_says_nothing_is_not_waited_for_long():  # B40
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(StorageError, match=address):
            Diary(f"postgresql+psycopg://{address}/none")
    assert time.monotonic() - begun < 30
