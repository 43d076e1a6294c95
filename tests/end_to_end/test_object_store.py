"""Runs that lie in an object store: killed here, gone on with elsewhere, from nothing but the bucket."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector, FileSystem

from pipeline.backends import journals
from pipeline.jobs.diary import DONE, PENDING, RUNNING, SKIPPED, Diary, Slot
from tests.end_to_end.conftest import Place, furnish
from tests.end_to_end.conftest import make_postgres_database as make_postgres_database
from tests.end_to_end.machines import Machines, require_namespaces
from tests.end_to_end.test_cluster import address as address
from tests.end_to_end.test_interruptions import LONG, assert_same_training
from tests.end_to_end.test_tune import searching
from tests.pipeline.backends.test_cluster import descendants

pytestmark = pytest.mark.slow

SHORT = (*LONG, "--set", "train.epochs=4")


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_store: str) -> str:
    """One tracker and one object store for all places of a test; a folder for caches of its own for each."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("RECURRA_TRACKING_URI", uri)
    monkeypatch.setenv("RECURRA_STORAGE", f"{object_store}/team")
    return uri


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Another folder with the same rows and settings, and an empty cache."""
    monkeypatch.setenv("RECURRA_CACHE", str(folder / "cache"))
    return furnish(folder)


def manifests(files: FileSystem, pattern: str) -> list[dict[str, Any]]:
    """The manifests in the bucket whose key holds these words."""
    found = []
    for each in files.get_file_info(FileSelector("team", recursive=True, allow_not_found=True)):
        if each.is_file and pattern in each.path:
            found.append(read_json(files, each.path))
    return found


def read_json(files: FileSystem, path: str) -> dict[str, object]:
    """An object; Arrow asks for its size first, so one that is replaced meanwhile may come cut off."""
    for _ in range(20):
        with files.open_input_stream(path) as stream, contextlib.suppress(json.JSONDecodeError):
            return dict(json.loads(stream.read()))
    raise AssertionError(f"{path} is no JSON")


def lose(place: Place, process: "subprocess.Popen[str]") -> None:
    """What remains when the whole machine goes: nothing."""
    for pid in (process.pid, *descendants(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(place.path)


def ended_trials(files: FileSystem) -> set[int]:
    """The trials that have ended, as far as the bucket says."""
    for each in files.get_file_info(FileSelector("team", recursive=True, allow_not_found=True)):
        if "/tune/ledger.jsonl." in each.path:
            with contextlib.suppress(FileNotFoundError), files.open_input_stream(each.path) as stream:
                lines = [json.loads(line) for line in stream.read().splitlines()]
                return {line["number"] for line in lines if line["kind"] == "end"}
    return set()


def wait_for_published_step(files: FileSystem, process: "subprocess.Popen[str]") -> None:
    """Wait until a checkpoint of more than one epoch is in the bucket."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        for manifest in manifests(files, "/parts/checkpoints.json"):
            paths = [path for path in manifest["files"] if path.endswith("state.npz") and "step-" in path]
            # Of 80 steps in an epoch: in the middle of the second one or later.
            if any(int(path.split("/")[1].removeprefix("step-")) > 100 for path in paths):
                return
        time.sleep(0.05)
    raise AssertionError("no checkpoint was published within two minutes")


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.thorough
def test_kill_9_then_the_same_command_with_nothing_but_the_bucket_equals_an_undisturbed_run(
    tmp_path: Path, tracker: str, store_files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = furnish(tmp_path / "calm")
    undisturbed = Path(calm.json("train", "words.yaml", *SHORT, "--storage", "runs")["run_dir"])

    here = elsewhere(tmp_path / "here", monkeypatch)
    process = here.start("train", "words.yaml", *SHORT)
    wait_for_published_step(store_files, process)
    lose(here, process)

    there = elsewhere(tmp_path / "there", monkeypatch)
    done = there.run("train", "words.yaml", *SHORT, "--json")
    assert "is held by" in done.stderr
    outcome = json.loads(done.stdout)
    assert [stage["status"] for stage in outcome["stages"]] == ["reused", "ran"]
    assert_same_training(Path(outcome["run_dir"]), undisturbed)
    (run,) = manifests(store_files, "/runs/")
    assert run["run"]["run_id"] == outcome["run_id"]
    assert run["run"]["stages"]["train"]["status"] == "done"
    assert not there.runs() and not list(there.path.glob("s3:*"))


@pytest.mark.thorough
def test_finished_runs_are_reused_and_used_from_an_empty_cache(
    tmp_path: Path, tracker: str, store_files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = elsewhere(tmp_path / "here", monkeypatch)
    first = here.json("run", "words.yaml", "--set", "train.epochs=2")
    assert first["verdict"] == "promoted"
    shutil.rmtree(here.path)

    there = elsewhere(tmp_path / "there", monkeypatch)
    again = there.json("run", "words.yaml", "--set", "train.epochs=2")
    assert {stage["status"] for stage in again["stages"]} == {"reused"}
    assert again["run_id"] == first["run_id"] and again["gate"] == first["gate"]
    assert Path(again["report"]).is_relative_to(there.path)
    # Nothing but what is shown has come here.
    assert not (Path(again["run_dir"]) / "data").exists()

    third = elsewhere(tmp_path / "third", monkeypatch)
    assert Path(third.json("report", first["run_id"])["report"]).exists()
    known = third.json("models", "words")
    assert known["ledger"][0]["why"] == " ".join(first["reasons"])
    skipped = third.json("retrain", "words.yaml", "--set", "train.epochs=2")
    assert skipped["verdict"] == "skipped"
    storage = f"{store_files.base_path.rstrip('/')}/team"
    third.run("predict", f"s3://{storage}/words/{first['run_id']}", "words.parquet", "-o", "out.parquet")
    assert pq.read_metadata(third.path / "out.parquet").num_rows == 240

    # Another evaluation: what stands above it is taken over, and its files are fetched for it.
    settings = ("--set", "train.epochs=2", "--set", "evaluate.bootstrap=100")
    other = third.json("evaluate", "words.yaml", *settings)
    assert [stage["status"] for stage in other["stages"]] == ["reused", "reused", "ran"]
    assert other["run_id"] != first["run_id"]
    gone = third.json("prune", "words", "--keep", "1", "--runs", "--yes")
    assert gone["runs"] == []
    assert len(manifests(store_files, "/runs/")) == 2


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.thorough
def test_a_reproduction_that_was_killed_goes_on_elsewhere(
    tmp_path: Path, tracker: str, store_files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = elsewhere(tmp_path / "here", monkeypatch)
    # Long enough that it can be met in the middle on a fast machine too.
    first = here.json("run", "words.yaml", *LONG, "--set", "train.epochs=24")
    process = here.start("reproduce", "models:/words/1")
    wait_for_published_step(store_files, process)
    lose(here, process)
    (stopped,) = manifests(store_files, "reproductions/words/runs/")

    there = elsewhere(tmp_path / "there", monkeypatch)
    found = there.json("reproduce", "models:/words/1", "--data", "words.parquet")
    assert found["verdict"] == "reproduced" and found["differences"] == []
    (ended,) = manifests(store_files, "reproductions/words/runs/")
    assert ended["run"]["run_id"] == stopped["run"]["run_id"] != first["run_id"]
    assert Path(found["run_dir"]).name == ended["run"]["run_id"]
    assert ended["run"]["stages"]["compare"]["summary"] == {"verdict": "reproduced"}
    assert "evaluation/comparison.json" in ended["files"]


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.thorough
def test_a_search_goes_on_elsewhere_and_trains_no_ended_trial_again(
    tmp_path: Path, tracker: str, store_files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "here" / "cache"))
    here = searching(tmp_path / "here", trials=6)
    process = here.start("tune", "words.yaml")
    deadline = time.monotonic() + 180
    while len(ended_trials(store_files)) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lose(here, process)
    done = ended_trials(store_files)
    assert 2 <= len(done) < 6

    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "there" / "cache"))
    there = searching(tmp_path / "there", trials=6)
    outcome = there.json("tune", "words.yaml")
    lines = journals.read(Path(outcome["run_dir"]) / "tune" / "ledger.jsonl")
    starts = [line["number"] for line in lines if line["kind"] == "start"]
    assert sorted(set(starts)) == list(range(6))
    assert all(starts.count(number) == 1 for number in done)
    assert outcome["search"]["trials"] == {"finished": 6}


def first_slot(diary: Diary, process: "subprocess.Popen[str]", *, leaves: str = "") -> Slot:
    """The first slot of the schedule that is not skipped, once it is in another state than this one."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        found = [slot for slot in diary.slots("words") if slot.attempts]
        if found and found[0].state != leaves:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"no slot began, or none left {leaves!r}, within three minutes")


@pytest.mark.fault("scheduler killed")
@pytest.mark.thorough
def test_a_scheduler_on_a_new_machine_neither_loses_nor_doubles_the_slot_that_goes_on(
    tmp_path: Path,
    tracker: str,
    store_files: FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    make_postgres_database: Callable[[], str],
) -> None:
    monkeypatch.setenv("RECURRA_STATE", make_postgres_database())
    asked = ("schedule", "words.yaml", "--cron", "* * * * * *", "--set", "train.epochs=40")
    here = elsewhere(tmp_path / "here", monkeypatch)
    leader = here.start(*asked)
    deadline = time.monotonic() + 120
    while not manifests(store_files, "/runs/"):
        assert leader.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    leader.kill()
    leader.communicate()

    diary = Diary(os.environ["RECURRA_STATE"])
    diary.lease("words", now=time.time() + 61).release()  # as after a minute's silence
    there = elsewhere(tmp_path / "there", monkeypatch)
    leader = there.start(*asked)
    running = first_slot(diary, leader)
    assert running.state == RUNNING
    ended = first_slot(diary, leader, leaves=RUNNING)
    leader.terminate()
    _, err = leader.communicate(timeout=120)
    assert leader.returncode == 143, err
    assert (ended.state, ended.attempts, ended.instant) == (DONE, 1, running.instant)
    assert ended.outcome is not None and ended.outcome["verdict"] == "promoted"
    (run,) = manifests(store_files, "words/runs/")
    assert run["run"]["run_id"] == ended.outcome["run_id"]
    states = [slot.state for slot in diary.slots("words") if slot.instant != ended.instant and slot.ended]
    assert set(states) <= {SKIPPED, PENDING}  # none has another run; the last was stopped with its scheduler
    diary.close()


def test_what_a_cluster_trained_outlives_it_and_its_working_folder(
    tmp_path: Path,
    tracker: str,
    store_files: FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    # Only now: its processes have to know the way to the store.
    cluster = request.getfixturevalue("address")
    here = elsewhere(tmp_path / "here", monkeypatch)
    first = here.json("train", "words.yaml", "--set", "train.epochs=1", "--address", cluster)
    shutil.rmtree(here.path)
    there = elsewhere(tmp_path / "there", monkeypatch)
    again = there.json("train", "words.yaml", "--set", "train.epochs=1")
    assert again["run_id"] == first["run_id"]
    assert {stage["status"] for stage in again["stages"]} == {"reused"}
    (part,) = manifests(store_files, "/parts/checkpoints.json")
    assert "checkpoints/best/state.npz" in part["files"]


@pytest.mark.fault("head node lost")
@pytest.mark.thorough
def test_a_cluster_that_shares_no_folder_is_lost_and_the_next_one_goes_on_from_the_bucket(
    tmp_path: Path, tracker: str, store_files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_namespaces()
    calm = furnish(tmp_path / "calm")
    undisturbed = Path(calm.json("train", "words.yaml", *SHORT, "--storage", "runs")["run_dir"])
    caches = tmp_path / "caches"
    with cluster_of_one(tmp_path / "first", hides=caches) as cluster:
        here = elsewhere(tmp_path / "here", monkeypatch)
        monkeypatch.setenv("RECURRA_CACHE", str(caches / "here"))
        process = here.start("train", "words.yaml", *SHORT, "--address", cluster)
        wait_for_published_step(store_files, process)
    lose(here, process)
    shutil.rmtree(caches)

    with cluster_of_one(tmp_path / "second", hides=caches) as cluster:
        there = elsewhere(tmp_path / "there", monkeypatch)
        monkeypatch.setenv("RECURRA_CACHE", str(caches / "there"))
        outcome = there.json("train", "words.yaml", *SHORT, "--address", cluster)
    assert [stage["status"] for stage in outcome["stages"]] == ["reused", "ran"]
    assert_same_training(Path(outcome["run_dir"]), undisturbed)


@contextlib.contextmanager
def cluster_of_one(folder: Path, *, hides: Path) -> Iterator[str]:
    """The address of a head without CPUs, and of a machine that does not see a folder; killed in the end."""
    folder.mkdir()
    machines = Machines(folder, hides=hides)
    machines.add(cpus=1)
    try:
        yield machines.address
    finally:
        for node in (*machines.workers, machines.head):
            node.kill()
