import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pipeline
from pipeline.jobs.diary import DONE, FAILED, PENDING, SKIPPED, Diary, Schedule, Slot

CHECKOUT = Path(pipeline.__file__).parents[1]
START = datetime(2026, 3, 28, 2, tzinfo=UTC)

# Loaded before a process's libraries, it shows that process another time of day.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*actual)(clockid_t, struct timespec *);
    long seconds = 0;
    if (!actual) actual = dlsym(RTLD_NEXT, "clock_gettime");
    int status = actual(clock, at);
    FILE *offset = clock == CLOCK_REALTIME ? fopen(getenv("CLOCK_OFFSET"), "r") : NULL;
    if (offset) {
        if (fscanf(offset, "%ld", &seconds) == 1) at->tv_sec += seconds;
        fclose(offset);
    }
    return status;
}
"""


def recurra(folder, *arguments, **variables):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(folder, *arguments):
    process = recurra(folder, "schedule", *arguments, "--json")
    out, err = process.communicate(timeout=60)
    return process.returncode, json.loads(out), err


@pytest.fixture
def folder(tmp_path):
    """A folder with one schedule, and settings that name files which are not there."""
    database = tmp_path / "runs" / ".schedules" / "schedules.db"
    diary = Diary(f"sqlite:///{database}")
    diary.put(Schedule("m", "0 3 * * *", "Europe/Berlin", ("retrain", "/a.yaml"), {}, START, START))
    lease = diary.lease("m", now=0.0)
    day = timedelta(days=1)
    slots = [
        Slot("m", START, DONE, "kept A tie.", 1, exit_code=0, outcome={"run_id": "r1", "verdict": "kept"}),
        Slot("m", START + day, SKIPPED, "missed, and catchup is none"),
        Slot("m", START + 2 * day, FAILED, "no rows", 1, exit_code=2),
    ]
    diary.plan(slots, until=START + 2 * day, lease=lease)
    lease.release()
    diary.close()
    (tmp_path / "conf.yaml").write_text(
        "name: absent\ntask: labelling\ndata:\n  path: absent.parquet\n  inputs: [{column: x}]\n"
        "  target: {column: y}\n  split: {by: hash, valid: 0.1, test: 0.1}\n"
    )
    return tmp_path


def test_list_history_pause_resume_and_run_now(folder):
    code, found, _ = answer(folder, "list")
    (listed,) = found["schedules"]
    assert code == 0 and listed["name"] == "m" and listed["last"] == FAILED and listed["led_by"] is None
    assert listed["next"].endswith("T03:00:00+01:00") or listed["next"].endswith("T03:00:00+02:00")
    code, found, _ = answer(folder, "history", "m", "--most", "2")
    assert [(each["slot"], each["state"], each["reason"]) for each in found["slots"]] == [
        ("2026-03-30T04:00:00+02:00", FAILED, "no rows"),
        ("2026-03-29T04:00:00+02:00", SKIPPED, "missed, and catchup is none"),
    ]
    assert answer(folder, "pause", "m", "--why", "holidays")[1]["paused"] == "holidays"
    assert answer(folder, "list")[1]["schedules"][0]["next"] is None
    assert answer(folder, "resume", "m")[0] == 0
    code, found, err = answer(folder, "run-now", "m")
    assert code == 0 and found["led_by"] is None and "Nobody leads" in err
    diary = Diary(f"sqlite:///{folder}/runs/.schedules/schedules.db")
    assert [(slot.state, slot.by_hand) for slot in diary.slots("m", most=1)] == [(PENDING, True)]
    diary.close()


def test_what_is_not_there_is_told_with_the_nearest_and_made_by_nobody(folder, tmp_path_factory):
    code, found, _ = answer(folder, "history", "n")
    assert code == 2 and found["hint"].startswith("Did you mean") is False and "'n'" in found["error"]
    empty = tmp_path_factory.mktemp("empty")
    assert answer(empty, "list")[0] == 2
    assert list(empty.iterdir()) == []


def test_explain_tells_the_next_ten(folder):
    asked = ("conf.yaml", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--from", "2026-10-24")
    code, found, _ = answer(folder, "explain", *asked)
    assert code == 0 and len(found["fires"]) == 10
    assert [row["at"] for row in found["fires"]][1] == "2026-10-25T02:30:00+02:00"


def test_a_schedule_is_printed_for_others(folder):
    code, found, _ = answer(folder, "conf.yaml", "--cron", "0 3 * * *", "--print", "crontab")
    assert code == 0 and str(folder / "conf.yaml") in found["manifest"]
    assert not (folder / "mlflow.db").exists()


@pytest.mark.slow
def test_a_schedule_that_is_killed_twice_and_stopped_loses_and_doubles_no_slot(folder):
    """Each second a slot, whose run ends with exit code 2 because its data are not there."""
    asked = ("schedule", "conf.yaml", "--cron", "* * * * * *", "--pause-after", "1000", "--catchup", "all")
    for _ in range(2):
        leader = recurra(folder, *asked, "--overlap", "queue")
        time.sleep(4)
        leader.kill()
        leader.communicate()
        _free(folder)
    leader = recurra(folder, *asked, "--overlap", "queue")
    time.sleep(4)
    leader.send_signal(signal.SIGTERM)
    _, err = leader.communicate(timeout=60)
    assert leader.returncode == 143, err
    slots = _slots(folder)
    instants = [slot.instant for slot in slots]
    assert len(set(instants)) == len(instants) > 3
    assert all(slot.attempts <= 3 for slot in slots)
    ended = [slot for slot in slots if slot.state == FAILED]
    assert ended and all("absent.parquet" in slot.reason for slot in ended)
    assert not any(slot.state == "running" for slot in slots)


@pytest.fixture
def movable_clock(tmp_path):
    """Variables under which a process sees the clock set by as many seconds as a file says, and that file."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("setting the clock of one process takes Linux and a C compiler")
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(CLOCK, "utf8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    offset.write_text("0", "utf8")
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}, offset


@pytest.mark.fault("clock moved by an hour")
@pytest.mark.slow
def test_a_process_whose_clock_is_set_loses_and_doubles_no_slot(folder, movable_clock):
    variables, offset = movable_clock
    leader = recurra(folder, "schedule", "conf.yaml", "--cron", "* * * * *", **variables)
    _until(lambda: "absent" in _names(folder))
    moved = []
    for hours in (1, 0, 1):
        offset.write_text(str(3600 * hours), "utf8")
        if not moved:
            _until(lambda: len(_slots(folder)) >= 60)
        time.sleep(3)  # several looks at the clock
        moved.append(_slots(folder))
    leader.send_signal(signal.SIGTERM)
    _, err = leader.communicate(timeout=60)
    assert leader.returncode == 143, err
    forward, back, again = moved
    assert [slot.instant for slot in back] == [slot.instant for slot in forward]
    minutes = [int(slot.instant.timestamp()) // 60 for slot in again]
    assert minutes == list(range(minutes[0], minutes[0] + len(minutes)))
    assert len(forward) <= len(again) <= len(forward) + 2
    assert all(slot.attempts <= 1 for slot in again)


def _until(reached):
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _names(folder):
    diary = Diary(f"sqlite:///{folder}/runs/.schedules/schedules.db")
    names = [each.name for each in diary.schedules()]
    diary.close()
    return names


def _slots(folder):
    diary = Diary(f"sqlite:///{folder}/runs/.schedules/schedules.db")
    slots = diary.slots("absent")
    diary.close()
    return slots


def _free(folder):
    """Take the dead leader's lease away, as a minute's silence would."""
    diary = Diary(f"sqlite:///{folder}/runs/.schedules/schedules.db")
    diary.lease("absent", now=time.time() + 61).release()
    diary.close()
