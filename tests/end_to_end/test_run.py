"""`recurra run` from raw rows to a registered model, and again, and changed."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import ROOT, Place, words

pytestmark = pytest.mark.slow

Finished = tuple[Place, dict[str, Any]]


def statuses(outcome: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in outcome["stages"]}


def reasons(outcome: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["reason"] for stage in outcome["stages"]}


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Place:
    """A finished place of one's own to change. The database keeps pointing at the original's artefacts."""
    shutil.copytree(finished[0].path, tmp_path / "copy", symlinks=True)
    return Place(tmp_path / "copy")


def test_a_run_reports_what_the_contract_says(finished: Finished) -> None:
    place, outcome = finished
    assert set(outcome) == {
        "run_id", "run_dir", "verdict", "reasons", "metrics", "gate", "model", "report", "mlflow_run_id",
        "stages",
    }  # fmt: skip
    assert outcome["verdict"] == "promoted"
    assert outcome["model"]["name"] == "words"
    assert outcome["model"]["aliases"] == ["champion"]
    assert set(statuses(outcome).values()) == {"ran"}
    for split in ("valid", "test"):
        scores = outcome["metrics"][split]
        assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
        assert scores["accuracy"] > 0.8
    run = Path(outcome["run_dir"])
    assert run.parent == place.path / "runs" / "words"
    for name in (
        "settings.yaml", "run.json", "data/encoding.json", "data/profile.json", "bundle/bundle.json",
        "evaluation/metrics.json", "evaluation/predictions.parquet", "evaluation/slices.json",
        "evaluation/examples.json", "evaluation/verdict.json", "report.html",
    ):  # fmt: skip
        assert (run / name).exists(), name


def test_the_temperature_is_in_mlflow_and_on_the_card(finished: Finished) -> None:
    place, outcome = finished
    run = Path(outcome["run_dir"])
    temperature = json.loads((run / "bundle" / "bundle.json").read_text("utf8"))["temperature"]
    with sqlite3.connect(place.path / "mlflow.db") as database:
        logged = database.execute("select value from metrics where key = 'temperature'").fetchall()
    assert logged == [(temperature,)]
    assert f"at temperature {temperature:.4f}" in (run / "evaluation" / "README.md").read_text("utf8")


def test_the_same_run_again_reuses_everything_at_once(finished: Finished) -> None:
    place, first = finished
    code = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "main(['run', 'words.yaml', '--json'])\n"
        "slow = [name for name in ('ray', 'tensorflow', 'mlflow') if name in sys.modules]\n"
        "assert not slow, slow\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place.path,
        env=place.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - begun < 5
    again = json.loads(done.stdout)
    assert set(statuses(again).values()) == {"reused"}
    assert all(reason == f"unchanged since run {first['run_id']}" for reason in reasons(again).values())
    assert {key: again[key] for key in ("run_id", "verdict", "metrics", "model")} == {
        key: first[key] for key in ("run_id", "verdict", "metrics", "model")
    }


def test_the_plan_says_what_a_changed_setting_or_file_would_run(copy: Place) -> None:
    def planned(*options: str) -> dict[str, tuple[str, str]]:
        stages = copy.json("plan", "words.yaml", *options)["stages"]
        return {stage["name"]: (stage["status"], stage["reason"]) for stage in stages}

    epochs = planned("--set", "train.epochs=5")
    assert epochs["prepare"][0] == "reuse"
    assert epochs["train"] == ("run", "train.epochs changed from 4 to 5")
    assert epochs["evaluate"] == ("run", "train runs anew")
    gate = planned("--set", "gate.floors={accuracy: 0.5}")
    assert [status for status, _ in gate.values()] == ["reuse", "reuse", "reuse", "run"]
    assert planned("--set", "train.checkpoint_seconds=5")["train"][0] == "reuse"
    copy.write(words(240, seed=1))
    changed = planned()
    assert changed["prepare"] == ("run", "data changed: words.parquet")
    assert all(status == "run" for status, _ in changed.values())
    assert len(copy.runs()) == 1


def test_more_epochs_train_again_on_the_same_data(copy: Place) -> None:
    outcome = copy.json("train", "words.yaml", "--set", "train.epochs=5")
    assert statuses(outcome) == {"prepare": "reused", "train": "ran"}
    old, new = copy.runs()
    assert (new / "data/manifest.json").read_bytes() == (old / "data/manifest.json").read_bytes()
    shutil.rmtree(old)
    assert pq.ParquetFile(next((new / "data/train").glob("*.parquet"))).metadata.num_rows > 0


def test_rows_in_another_order_and_several_files_give_the_same_metrics(
    finished: Finished, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sets of text are walked in another order.
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    table = words(240).take(pa.array(list(range(239, -1, -1))))
    (place.path / "words.parquet").unlink()
    (place.path / "words").mkdir()
    place.write(table.slice(0, 100), "words/b.parquet")
    place.write(table.slice(100), "words/a.parquet")
    same = ("--set", "train.temperature_scaling=true")  # as that of the finished run
    outcome = place.json("evaluate", "words.yaml", "--set", "data.path=words", *same)
    for split, scores in finished[1]["metrics"].items():
        assert outcome["metrics"][split] == pytest.approx(scores, abs=1e-6)


def test_a_missed_floor_registers_nothing_and_exits_4(copy: Place) -> None:
    missed = ("run", "words.yaml", "--set", "gate.floors={accuracy: 0.9999}")
    elsewhere = ("--tracking-uri", "sqlite:///empty.db")
    outcome = copy.json(*missed, *elsewhere, code=4)
    assert outcome["verdict"] == "rejected"
    assert outcome["model"] is None
    assert any("0.9999" in reason for reason in outcome["reasons"])
    again = copy.json(*missed, *elsewhere, code=4)
    assert set(statuses(again).values()) == {"reused"}
    assert copy.run("models", "words", *elsewhere, code=2).stderr


def test_a_loss_that_is_no_number_fails_the_run_and_registers_nothing(place: Place) -> None:
    # Nothing that passes the checks makes these small networks diverge, so the prepared rows are spoilt.
    place.run("prepare", "words.yaml")
    (run,) = place.runs()
    (shard,) = (run / "data/train").glob("*.parquet")
    table = pq.read_table(shard)
    spoilt = [[float("inf")] * len(values) for values in table["x0"].to_pylist()]
    column = pa.array(spoilt, table.schema.field("x0").type)
    pq.write_table(table.set_column(table.schema.get_field_index("x0"), "x0", column), shard)
    done = place.run("run", "words.yaml", code=2)
    assert "finite" in done.stderr
    assert "train.learning_rate" in done.stderr
    stages = json.loads((run / "run.json").read_text("utf8"))["stages"]
    assert stages["train"]["status"] == "failed"
    assert not (run / "bundle").exists()
    assert place.run("models", "words", code=2).stderr


@pytest.mark.fault("two retrains at once")
@pytest.mark.thorough
def test_three_runs_started_together_in_an_empty_folder_all_arrive(place: Place) -> None:
    started = [place.start("run", "words.yaml", "--json", "-q") for _ in range(3)]
    outcomes = []
    for process in started:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        outcomes.append(json.loads(out))
    assert len({outcome["run_id"] for outcome in outcomes}) == 3
    listed = place.json("models", "words")
    assert len(listed["versions"]) == 3
    champions = [version for version in listed["versions"] if "champion" in version["aliases"]]
    assert len(champions) == 1
    code = (
        "import mlflow\n"
        f"client = mlflow.MlflowClient('sqlite:///{place.path}/mlflow.db')\n"
        "for experiment in client.search_experiments():\n"
        "    runs = client.search_runs([experiment.experiment_id])\n"
        "    top = [run for run in runs if 'mlflow.parentRunId' not in run.data.tags]\n"
        "    print(experiment.name, len(top), {run.info.status for run in runs})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert sorted(done.stdout.splitlines()) == ["Default 0 set()", "words 3 {'FINISHED'}"]


@pytest.mark.slow
def test_a_slice_of_a_column_that_is_not_there_is_refused_before_anything_starts(place: Place) -> None:
    for command in ("check", "run"):
        done = place.run(command, "words.yaml", "--set", "evaluate.slices=[{column: folds}]", code=2)
        assert "words.parquet, column folds: no such column" in done.stdout + done.stderr
        assert "did you mean 'fold'?" in done.stdout + done.stderr
    assert not place.runs()
