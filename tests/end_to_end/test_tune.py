"""Searches over settings, as a user starts, kills, moves and changes them."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from conf.load import load
from pipeline.backends.trials import Trial, TrialLedger, best_of
from tests.end_to_end.conftest import SETTINGS, Place, furnish
from tests.pipeline.backends.test_cluster import descendants

pytestmark = pytest.mark.slow

SPACE = """
tune:
  trials: {trials}
  concurrency: 2
  search: {search}
  scheduler: {scheduler}
  space:
    model.units: {{choice: [4, 8, 16]}}
    train.learning_rate: {{loguniform: [2.0e-3, 5.0e-2]}}
"""


def searching(path: Path, *, trials: int = 4, search: str = "random", scheduler: str = "none") -> Place:
    """A place whose settings hold a search."""
    found = SPACE.format(trials=trials, search=search, scheduler=scheduler)
    return furnish(path, settings=SETTINGS.replace("epochs: 4", "epochs: 3") + found)


def ledger(place: Place) -> TrialLedger:
    (run,) = place.runs()
    return TrialLedger(run / "tune")


def nested(place: Place) -> dict[str, list[str]]:
    """The names of MLflow's runs by that of the run above; those of the top under an empty name."""
    with sqlite3.connect(place.path / "mlflow.db") as database:
        names = dict(database.execute("select run_uuid, name from runs"))
        above = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
    found: dict[str, list[str]] = {}
    for run, name in names.items():
        found.setdefault(names.get(above.get(run, ""), ""), []).append(name)
    return {name: sorted(below) for name, below in found.items()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    """A whole run with a search and a second seed, without any test rows while it searched."""
    place = searching(tmp_path_factory.mktemp("searched"))
    place.run("prepare", "words.yaml")
    (run,) = place.runs()
    hidden = place.path / "hidden"
    (run / "data" / "test").rename(hidden)
    place.run("tune", "words.yaml", "--set", "tune.seeds=2")
    (run,) = [each for each in place.runs() if (each / "tune").exists()]
    shutil.rmtree(run / "data" / "test", ignore_errors=True)
    shutil.copytree(hidden, run / "data" / "test")
    return place, place.json("run", "words.yaml", "--set", "tune.seeds=2")


def test_the_best_trial_is_what_is_evaluated_and_registered(searched: tuple[Place, dict[str, Any]]) -> None:
    _, outcome = searched
    assert outcome["verdict"] == "promoted"
    found = TrialLedger(Path(outcome["run_dir"]) / "tune")
    best = best_of(found.searched, "loss")
    assert best is not None
    assert outcome["search"]["best"] == best.number
    assert outcome["search"]["point"] == best.point
    assert outcome["metrics"]["valid"]["loss"] == pytest.approx(best.value("loss"), abs=1e-6)
    assert [trial.seed for trial in found.repeated] == [1]
    assert found.repeated[0].point == best.point
    assert found.repeated[0].value("loss") != best.value("loss")


def test_the_settings_found_train_to_the_same_model(searched: tuple[Place, dict[str, Any]]) -> None:
    place, outcome = searched
    settings = outcome["search"]["settings"]
    assert load([settings]).tune is None
    again = place.json("train", settings, "--set", "name=again")
    history = json.loads((Path(again["run_dir"]) / "checkpoints/history.json").read_text("utf8"))
    best = TrialLedger(Path(outcome["run_dir"]) / "tune").trials[outcome["search"]["best"]]
    assert [entry["valid"] for entry in history] == [entry["valid"] for entry in best.history]


def test_there_is_one_parent_run_with_a_child_for_each_trial(searched: tuple[Place, dict[str, Any]]) -> None:
    place, outcome = searched
    children = nested(place)[outcome["run_id"]]
    assert [name for name in children if name.startswith("trial")] == [f"trial {n}" for n in range(5)]
    with sqlite3.connect(place.path / "mlflow.db") as database:
        assert {status for (status,) in database.execute("select status from runs")} == {"FINISHED"}
        of_versions = database.execute(
            "select runs.name from model_versions join runs on model_versions.run_id = runs.run_uuid"
        )
        makers = [name for (name,) in of_versions]
    # Neither a trial nor a seed makes a version of its own (B29).
    assert makers.count(outcome["run_id"]) == 1
    assert set(makers) <= set(nested(place)[""])


def test_nothing_is_done_twice(searched: tuple[Place, dict[str, Any]]) -> None:
    place, outcome = searched
    again = place.json("run", "words.yaml", "--set", "tune.seeds=2")
    assert again["run_id"] == outcome["run_id"]
    assert {stage["status"] for stage in again["stages"]} == {"reused"}
    # Another gate is judged anew, on the same search.
    gated = place.json("run", "words.yaml", "--set", "tune.seeds=2", "--set", "gate.floors.accuracy=0.5")
    assert gated["search"]["best"] == outcome["search"]["best"]
    assert [stage["name"] for stage in gated["stages"] if stage["status"] == "ran"] == ["register"]


def test_what_a_search_found_is_trained_again_from_its_version(
    searched: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, outcome = searched
    found = place.json("reproduce", "models:/words@champion", "--storage", str(tmp_path / "runs"))
    assert (found["verdict"], found["differences"]) == ("reproduced", [])
    figures = {each["what"]: each for each in found["figures"]}
    assert figures["test accuracy"]["recorded"] == outcome["metrics"]["test"]["accuracy"]
    assert all(each["difference"] <= 1e-6 for each in found["figures"] if each["difference"] is not None)


def test_the_report_shows_the_search(searched: tuple[Place, dict[str, Any]]) -> None:
    page = Path(searched[1]["report"]).read_text("utf8")
    assert re.search(r"<h2[^>]*>Search</h2>", page)
    assert "4 trials" in page


def test_processes_that_grow_are_replaced_and_paths_stay_those_of_the_caller(
    searched: tuple[Place, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_TRIAL_GROWTH_BYTES", "-1")
    place = searching(tmp_path / "place", trials=2)
    (place.path / "below").mkdir()
    below = Place(place.path / "below")
    outcome = below.json(
        "tune", "../words.yaml", "--storage", "out", "--tracking-uri", "sqlite:///m.db",
        "--set", "data.path=../words.parquet", "--set", "tune.concurrency=1",
    )  # fmt: skip
    expected = TrialLedger(Path(searched[1]["run_dir"]) / "tune").searched[:2]
    found = TrialLedger(Path(outcome["run_dir"]) / "tune").searched
    assert [as_told(trial) for trial in found] == [as_told(trial) for trial in expected]
    assert Path(outcome["run_dir"]).is_relative_to(below.path / "out")
    assert (below.path / "m.db").exists()
    assert not list(place.path.rglob("mlruns"))


def wait_for(
    place: Place, process: "subprocess.Popen[str]", *, num_ended: int, num_under_way: int = 0
) -> None:
    """Wait until so many trials have ended, and so many others have validated an epoch."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        for run in place.runs():
            trials = TrialLedger(run / "tune").trials.values()
            ended = sum(trial.has_ended for trial in trials)
            under_way = sum(not trial.has_ended and trial.num_epochs > 0 for trial in trials)
            if ended >= num_ended and under_way >= num_under_way:
                return
        time.sleep(0.05)
    raise AssertionError(f"not {num_ended} trials within three minutes")


def as_told(trial: Trial) -> tuple[Any, ...]:
    return trial.number, trial.point, trial.state, [entry["valid"] for entry in trial.history]


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.thorough
def test_a_killed_and_moved_search_ends_where_an_undisturbed_one_ends(tmp_path: Path) -> None:
    undisturbed = searching(tmp_path / "undisturbed", trials=8, search="optuna")
    undisturbed.run("tune", "words.yaml")
    place = searching(tmp_path / "here", trials=8, search="optuna")
    process = place.start("tune", "words.yaml")
    wait_for(place, process, num_ended=3)
    children = descendants(process.pid)
    process.kill()
    process.communicate()
    for pid in children:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    done = {number for number, trial in ledger(place).trials.items() if trial.has_ended}
    assert 3 <= len(done) < 8
    place.path.rename(tmp_path / "there")
    place = Place(tmp_path / "there")
    place.run("tune", "words.yaml")
    lines = [
        json.loads(line) for line in (place.runs()[0] / "tune/ledger.jsonl").read_text("utf8").splitlines()
    ]
    starts = [line["number"] for line in lines if line["kind"] == "start"]
    assert sorted(set(starts)) == list(range(8))
    assert all(starts.count(number) == 1 for number in done)
    found, expected = ledger(place), ledger(undisturbed)
    assert [as_told(trial) for trial in found.searched] == [as_told(trial) for trial in expected.searched]
    with sqlite3.connect(place.path / "mlflow.db") as database:
        assert {status for (status,) in database.execute("select status from runs")} == {"FINISHED"}
    assert nested(place)[place.runs()[0].name] == sorted(
        ["prepare", "tune", *(f"trial {number}" for number in range(8))]
    )


@pytest.mark.fault("kill -9 of a training worker")
@pytest.mark.thorough
def test_a_trial_whose_process_is_killed_goes_on_in_another_one(tmp_path: Path) -> None:
    changes = ("--set", "train.epochs=12", "--set", "train.batch_size=4")
    undisturbed = searching(tmp_path / "undisturbed", trials=2)
    undisturbed.run("tune", "words.yaml", *changes)
    place = searching(tmp_path / "disturbed", trials=2)
    process = place.start("tune", "words.yaml", *changes)
    wait_for(place, process, num_ended=0, num_under_way=1)
    trials = [
        pid for pid in descendants(process.pid) if b"Trainable" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert trials
    for pid in trials:
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    found, expected = ledger(place), ledger(undisturbed)
    assert [as_told(trial) for trial in found.searched] == [as_told(trial) for trial in expected.searched]


@pytest.mark.thorough
def test_a_signal_checkpoints_the_trials_and_other_settings_are_refused(tmp_path: Path) -> None:
    place = searching(tmp_path, trials=6)
    process = place.start("tune", "words.yaml", "--set", "train.epochs=40")
    wait_for(place, process, num_ended=1, num_under_way=1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "The same command goes on from there." in err
    before = ledger(place)
    (run,) = place.runs()
    under_way = [trial for trial in before.searched if not trial.has_ended]
    assert under_way
    assert all(list((run / f"tune/trials/{trial.number:04d}").glob("step-*")) for trial in under_way)
    refused = place.run("tune", "words.yaml", "--set", "train.epochs=41", code=2)
    assert "train.epochs changed from 40 to 41" in refused.stderr
    assert "--new-search" in refused.stderr and "--reuse" in refused.stderr
    assert len(place.runs()) == 1
    fewer = ("--set", "train.epochs=40", "--set", "tune.trials=1")
    outcome = place.json("tune", "words.yaml", *fewer, "--reuse", run.name)
    taken = TrialLedger(Path(outcome["run_dir"]) / "tune")
    reused = [trial for trial in taken.searched if trial.from_run is not None]
    assert reused == taken.searched
    finished = [trial for trial in before.searched if trial.has_ended]
    assert as_told(reused[0])[1:] == as_told(finished[0])[1:]


@pytest.mark.thorough
def test_failed_trials_are_counted_and_the_best_of_the_others_is_taken(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    space = "{train.class_weights: {choice: [none, balanced, effective, {nobody: 2.0}]}}"
    grid = ("--set", f"tune={{search: grid, scheduler: none, space: {space}}}")
    outcome = place.json("tune", "words.yaml", *grid)
    assert outcome["search"]["trials"] == {"failed": 1, "finished": 3}
    failed = TrialLedger(Path(outcome["run_dir"]) / "tune").trials[3]
    assert "nobody" in failed.error
    assert "Traceback" in failed.traceback
    assert "1 failed" in place.run("tune", "words.yaml", *grid).stdout


@pytest.mark.fault("all trials fail")
def test_where_the_only_trial_fails_nothing_is_registered(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    space = "{train.class_weights: {choice: [{nobody: 2.0}]}}"
    grid = f"tune={{search: grid, scheduler: none, space: {space}}}"
    done = place.ended("run", "words.yaml", "--set", grid)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "trials failed. The first, trial 0:" in done.stderr
    with sqlite3.connect(place.path / "mlflow.db") as database:
        assert not database.execute("select * from model_versions").fetchall()


@pytest.mark.thorough
def test_a_population_exchanges_weights_and_settings(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    rates = "{train.learning_rate: {loguniform: [1.0e-4, 5.0e-2]}}"
    population = f"tune={{trials: 3, search: random, scheduler: pbt, space: {rates}}}"
    outcome = place.json("evaluate", "words.yaml", "--set", population)
    assert outcome["search"]["trials"] == {"finished": 3}
    assert outcome["metrics"]["valid"]["loss"] == pytest.approx(outcome["search"]["value"], abs=1e-6)
    run = Path(outcome["run_dir"])
    lines = [json.loads(line) for line in (run / "tune/ledger.jsonl").read_text("utf8").splitlines()]
    points = [(line["number"], json.dumps(line["point"])) for line in lines if line["kind"] == "start"]
    assert len(set(points)) > 3
    for trial in TrialLedger(run / "tune").searched:
        kept = json.loads((run / f"tune/trials/{trial.number:04d}/history.json").read_text("utf8"))
        assert [entry["valid"] for entry in trial.history] == [entry["valid"] for entry in kept]


def test_settings_of_the_data_are_searched_on_the_same_rows(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    scales = "{choice: [none, standard, minmax]}"
    grid = f"tune={{search: grid, scheduler: none, space: {{data.inputs.0.scale: {scales}}}}}"
    outcome = place.json("evaluate", "words.yaml", "--set", grid, "--set", "train.epochs=2")
    best = outcome["search"]
    assert outcome["metrics"]["valid"]["loss"] == pytest.approx(best["value"], abs=1e-6)
    found = TrialLedger(Path(outcome["run_dir"]) / "tune")
    assert len({trial.value("loss") for trial in found.searched}) == 3
