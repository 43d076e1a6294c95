import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pipeline
from components.errors import BusyError
from pipeline.backends import buckets, claims, mirrors
from pipeline.jobs import processes
from pipeline.jobs.diary import Slot
from pipeline.jobs.processes import Processes, in_slot

SLOT = Slot("m", datetime(2026, 3, 29, 1, tzinfo=UTC), "running")


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """Starts a Python program in place of `recurra`, given as the first word of the command."""
    monkeypatch.setattr(processes, "program", lambda: [sys.executable, "-c"])
    monkeypatch.chdir(tmp_path)

    def start(program, **variables):
        made = Processes(tmp_path / "runs", "m", [program], variables, journal=tmp_path / "retrain.jsonl")
        return made, made.start(SLOT)

    return start


def until(done, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (found := done()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_what_it_prints_is_its_outcome_and_its_log_is_kept(starts, tmp_path):
    program = "import json, os, sys; print(json.dumps({'x': os.environ['X']})); sys.stderr.write('hello')"
    _, process = starts(program, X="a 'b' $HOME")
    assert until(process.ended) == (0, {"x": "a 'b' $HOME"})
    assert (tmp_path / "runs/.schedules/m/20260329T010000Z.log").read_text() == "hello"


def test_its_exit_code_is_told_with_what_it_said(starts):
    _, process = starts('import sys; print(\'{"error": "no rows"}\'); sys.exit(2)')
    assert until(process.ended) == (2, {"error": "no rows"})


def test_one_that_was_killed_is_lost_whatever_it_printed(starts):
    _, process = starts('import os; print(\'{"verdict": "kept"}\', flush=True); os.kill(os.getpid(), 9)')
    assert until(process.ended) == (None, None)


def test_a_later_scheduler_finds_what_runs_and_what_it_came_to(starts, tmp_path):
    go = tmp_path / "go"
    program = (
        "import os, time\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        'print(\'{"verdict": "rejected"}\')'
    )
    made, process = starts(program)
    found = made.find(SLOT)
    assert process.ended() is None and found.ended() is None
    go.touch()
    assert until(found.ended) == (4, {"verdict": "rejected"})
    assert until(process.ended) == (0, {"verdict": "rejected"})


def test_one_that_died_unseen_is_lost(starts):
    made, process = starts("import os; os.kill(os.getpid(), 9)")
    until(process.ended)
    assert made.find(SLOT).ended() == (None, None)


def test_one_that_was_never_started_is_lost(tmp_path):
    assert Processes(tmp_path, "m", [], {}, journal=tmp_path / "j").find(SLOT).ended() == (None, None)


def test_the_lock_is_held_from_the_first_moment_and_through_the_schedulers_death(tmp_path):
    """The scheduler is a process of its own that is killed at once after it started a run."""
    checkout = str(Path(processes.__file__).parents[2])
    program = f"""
import os, sys
sys.path.insert(0, {checkout!r})
from datetime import UTC, datetime
from pathlib import Path
from pipeline.jobs import processes
from pipeline.jobs.diary import Slot
processes.program = lambda: [sys.executable, "-c"]
command = ["import time; time.sleep(60)"]
made = processes.Processes(Path({str(tmp_path)!r}) / "runs", "m", command, {{}}, journal=Path("journal"))
process = made.start(Slot("m", datetime(2026, 3, 29, 1, tzinfo=UTC), "running"))
print(process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    pid = int(done.stdout)
    found = Processes(tmp_path / "runs", "m", ["x"], {}, journal=tmp_path / "j").find(SLOT)
    assert found.ended() is None
    found.kill()
    assert until(found.ended) == (None, None)
    with pytest.raises(ProcessLookupError):
        until(lambda: os.kill(pid, 0))


STOPS = """
import json, signal, sys, time
def stop(*_):
    print(json.dumps({"error": "Terminated.", "exit_code": 143}), flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open("ready", "w").close()
time.sleep(60)
"""


def test_stopping_asks_and_killing_ends(starts, tmp_path):
    made, process = starts(STOPS)
    until(lambda: (tmp_path / "ready").exists() or None)
    made.find(SLOT).stop()
    assert until(process.ended) == (143, {"error": "Terminated.", "exit_code": 143})
    _, process = starts("import time; time.sleep(60)")
    process.kill()
    assert until(process.ended) == (None, None)


def test_it_does_not_hear_the_schedulers_ctrl_c(starts):
    _, process = starts("import json, os; print(json.dumps({'group': os.getpgrp(), 'pid': os.getpid()}))")
    code, outcome = until(process.ended)
    assert code == 0 and outcome["group"] == outcome["pid"] != os.getpgrp()


# What `recurra retrain` does of it: hold the slot, and leave a line.
IN_SLOT = """
import os, sys, time
sys.path.insert(0, {checkout!r})
from pathlib import Path
from pipeline.backends import claims, mirrors
from pipeline.jobs.processes import in_slot
claims.RENEW_SECONDS = 0.3
storage = mirrors.open_mirror({url!r}).root
with in_slot(storage) as slot:
    Path("begun").touch()
    while not os.path.exists("go"):
        time.sleep(0.01)
    line = {{"slot": slot, "verdict": "rejected", "notes": ["A note."], "run_id": "r"}}
    mirrors.append(storage / "m" / "retrain.jsonl", line)
"""


@pytest.fixture
def on_machine(object_store, tmp_path, monkeypatch):
    """The processes of a schedule as a machine of that name has them, with runs in one object store."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(processes, "program", lambda: [sys.executable, "-c"])
    monkeypatch.chdir(tmp_path)
    checkout = str(Path(pipeline.__file__).parents[1])
    program = IN_SLOT.format(checkout=checkout, url=f"{object_store}/team")

    def made(machine):
        cache = str(tmp_path / machine)
        monkeypatch.setenv("RECURRA_CACHE", cache)
        root = mirrors.open_mirror(f"{object_store}/team").root
        variables = {"RECURRA_CACHE": cache}
        return root, Processes(root, "m", [program], variables, journal=root / "m" / "retrain.jsonl")

    yield made
    mirrors._OPENED.clear()


def test_with_an_object_store_another_machine_sees_that_it_goes_on_and_what_came_of_it(
    on_machine, tmp_path, monkeypatch
):
    _, here = on_machine("here")
    process = here.start(SLOT)
    until(lambda: (tmp_path / "begun").exists() or None)
    root, there = on_machine("there")
    found = there.find(SLOT)
    time.sleep(2.5)  # longer than a claim lasts that nobody renews
    assert found.ended() is None and not found.is_here()
    # It may find the number of some process of its own where the other's is: it must not be stopped.
    found.stop()
    found.kill()
    monkeypatch.setenv(processes.SLOT, "m/20260329T010000Z")
    with pytest.raises(BusyError, match="Another machine is at slot m/20260329T010000Z"), in_slot(root):
        pass
    (tmp_path / "go").touch()
    assert until(process.ended) == (0, None)
    assert until(found.ended) == (4, {"verdict": "rejected", "reasons": ["A note."], "run_id": "r"})


def test_with_an_object_store_one_that_died_elsewhere_is_lost_once_its_claim_is_old(on_machine, tmp_path):
    _, here = on_machine("here")
    process = here.start(SLOT)
    until(lambda: (tmp_path / "begun").exists() or None)
    _, there = on_machine("there")
    found = there.find(SLOT)
    assert found.ended() is None
    process.kill()
    assert until(process.ended) == (None, None)
    assert until(found.ended) == (None, None)


def test_while_the_object_store_is_away_nothing_is_said_to_have_ended(on_machine, monkeypatch):
    _, there = on_machine("there")
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    monkeypatch.setattr(buckets, "WAITS", ())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed}")
    found = there.find(SLOT)
    assert found.ended() is None
    # Nor where it goes away between the two questions.
    monkeypatch.setattr(found._elsewhere, "goes_on", lambda: False)
    assert found.ended() is None


def test_outside_of_a_slot_nothing_is_held(on_machine, monkeypatch):
    root, _ = on_machine("here")
    with in_slot(root) as slot:
        assert slot == ""
        assert mirrors.of(root).bucket.tags("") == {}
