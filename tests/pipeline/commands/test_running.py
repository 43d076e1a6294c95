"""Commands that run the pipeline, at their edge: exit codes, refusals, what they leave."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.backends import ledger
from tests.pipeline.conftest import Started, call, failure, line_settings, listing, write_rows
from tests.pipeline.test_run import as_if_run

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize(
    ("verdict", "code"), [("promoted", 0), ("kept", 0), ("registered", 0), ("rejected", 4)]
)
@pytest.mark.parametrize("command", ["run", "register"])
def test_the_exit_code_follows_the_verdict(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, verdict: str, code: int
) -> None:
    settings = line_settings(place / "lines.parquet")
    folder = as_if_run(place, settings, uri=f"sqlite:///{place}/mlflow.db")
    folder.update_stage("register", summary={"verdict": verdict, "reasons": ["So it is."], "model": None})
    assert call(command, "lines.yaml", "--json") == code
    said = json.loads(capsys.readouterr().out)
    assert (said["run_id"], said["verdict"], said["reasons"]) == (folder.run_id, verdict, ["So it is."])
    assert {stage["status"] for stage in said["stages"]} == {"reused"}


@pytest.mark.slow
def test_a_rejected_model_exits_with_4_and_one_that_is_overridden_with_0(
    place: Path, capsys: pytest.CaptureFixture[str], evaluated: Started
) -> None:
    settings = line_settings(place / "lines.parquet")
    folder = as_if_run(place, settings, uri=f"sqlite:///{place}/mlflow.db", until="evaluate")
    for name in ("data", "bundle", "evaluation"):
        path = folder.path / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
        shutil.copytree(evaluated.folder.path / name, path)
    command = ["register", "lines.yaml", "--set", "gate.ceilings.loss=0.0001", "--json"]

    def said(*more: str, code: int) -> dict[str, Any]:
        assert call(*command, *more) == code
        return json.loads(capsys.readouterr().out)

    rejected = said(code=4)
    assert (rejected["verdict"], rejected["model"]) == ("rejected", None)
    assert rejected["gate"]["outcome"] == "rule missed"
    assert "ceiling: loss" in [rule["title"] for rule in rejected["gate"]["rules"]]
    assert said(code=4)["stages"][-1]["status"] == "reused"
    promoted = said("--override", " We need it today. ", code=0)
    assert (promoted["verdict"], promoted["model"]["aliases"]) == ("promoted", ["champion"])
    assert promoted["run_id"] == rejected["run_id"]
    assert [stage["status"] for stage in promoted["stages"]] == ["reused", "reused", "reused", "ran"]
    assert promoted["gate"]["override"] == "We need it today."
    assert promoted["gate"]["gate_decision"] == "rejected"
    (change,) = ledger.read(place / "runs" / "lines")
    assert change["why"].startswith("Promoted by an override: We need it today. loss ")
    assert "Promoted by an override" in Path(promoted["report"]).read_text("utf8")
    again = said("--override", "Once more.", code=0)
    assert again["gate"] == promoted["gate"]
    assert again["stages"][-1]["status"] == "reused"


@pytest.mark.slow
def test_rows_that_cannot_be_used_leave_no_run(place: Path) -> None:
    before = listing(place)
    rows = pq.read_table(place / "lines.parquet").to_pylist()
    rows[3]["frames"] = []
    write_rows(place / "lines.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--json"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "lines.parquet, row 3, column frames: empty sequence" in json.loads(done.stdout)["error"]
    left = set(listing(place)) - set(before)
    assert not [name for name in left if name.endswith(("run.json", ".db")) or "mlartifacts" in name]


@pytest.mark.slow
def test_a_dead_address_ends_within_half_a_minute(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--address", f"127.0.0.1:{port}", "--json"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - begun < 30
    assert done.returncode == 3
    assert f"Nothing answers at 127.0.0.1:{port}" in json.loads(done.stdout)["error"]


@pytest.mark.slow
def test_what_is_no_cluster_ends_a_command_of_rays_client_in_words(place: Path) -> None:  # B40
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"ray://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--address", address],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert time.monotonic() - begun < 60  # three tries of 5 s, and the start of Python and Ray
    assert done.returncode == 3
    assert f"The cluster at {address} does not answer" in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "register"])
def test_a_gpu_can_be_required_of_every_command_that_trains(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    said = failure(capsys, command, "lines.yaml", "--require-gpu", "--json")
    assert said["exit_code"] == 2
    assert "--require-gpu: train.devices: received cpu:1" in said["error"]
    assert not list(place.glob("runs/lines/*/run.json"))


@pytest.mark.slow
def test_a_required_gpu_that_is_not_there_is_an_error_of_the_surroundings(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "lines.yaml", "--set", "train.devices=auto", "--require-gpu", "--json"]
    said = failure(capsys, *given)
    assert said["exit_code"] == 3
    assert "sees no GPU that it can use" in said["error"]
    assert not list(place.glob("runs/lines/*/run.json"))
    assert not (place / "mlflow.db").exists()


@pytest.mark.parametrize("tolerance", ["-1", "nan", "2"])
def test_a_tolerance_that_cannot_be_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tolerance: str
) -> None:
    said = failure(capsys, "reproduce", "models:/lines/1", "--tolerance", tolerance, "--json")
    assert said["exit_code"] == 2
    assert "--tolerance" in said["error"]
