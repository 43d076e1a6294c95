"""The registered model gives what `evaluate` reported, also where Recurra cannot be imported."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import Place
from tests.end_to_end.test_serving import ask as http
from tests.end_to_end.test_serving import serving

pytestmark = pytest.mark.slow

Finished = tuple[Place, dict[str, Any]]

# Python runs a module of this name at its start: here, it makes the project impossible to import.
STRANGER = """
import importlib.abc, sys

class NotOurs(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("pipeline", "components", "conf"):
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, NotOurs())
"""


def of_test(outcome: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What evaluate said of each test sequence, by id."""
    table = pq.read_table(Path(outcome["run_dir"]) / "evaluation" / "predictions.parquet")
    return {row["id"]: row for row in table.to_pylist() if row["split"] == "test"}


def ask(
    place: Place, out: Path, *options: str, cwd: Path, data: Path | None = None
) -> dict[str, dict[str, Any]]:
    """What `recurra predict` says in another folder, by id; of all rows unless others are given."""
    command = place.command("predict", "models:/words@champion", str(data or place.path / "words.parquet"))
    command += ["-o", str(out), "--tracking-uri", f"sqlite:///{place.path}/mlflow.db", *options]
    done = subprocess.run(
        command, cwd=cwd, env=place.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {row["id"]: row for row in pq.read_table(out).to_pylist()}


def test_predict_in_an_empty_folder_repeats_what_evaluate_reported(
    finished: Finished, tmp_path: Path
) -> None:
    place, outcome = finished
    about = json.loads((Path(outcome["run_dir"]) / "bundle" / "bundle.json").read_text("utf8"))
    assert abs(about["temperature"] - 1.0) > 0.01
    expected = of_test(outcome)
    answers = ask(place, tmp_path / "answers.parquet", "--distribution", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.parquet"]
    losses, right, steps = 0.0, 0, 0
    labels = json.loads((Path(outcome["run_dir"]) / "data" / "encoding.json").read_text("utf8"))["labels"]
    for name, row in expected.items():
        answer = answers[name]
        assert answer["labels"] == row["labels"]
        assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)
        for truth, said, probabilities in zip(
            row["truth"], answer["labels"], answer["distribution"], strict=True
        ):
            losses -= math.log(probabilities[labels.index(truth)])
            right += truth == said
            steps += 1
    reported = outcome["metrics"]["test"]
    assert reported["num_steps"] == steps
    assert reported["accuracy"] == pytest.approx(right / steps, abs=1e-6)
    assert reported["loss"] == pytest.approx(losses / steps, abs=1e-6)


# What a data scientist without the project runs: URI, rows, where the answers go.
LOAD = """
import json, sys
import mlflow, pandas
rows = json.load(open(sys.argv[2]))
model = mlflow.pyfunc.load_model(sys.argv[1])
whole = model.predict(pandas.DataFrame(rows)).to_dict("records")
single = [model.predict(pandas.DataFrame([row])).to_dict("records")[0] for row in rows[:3]]
json.dump([whole, single], open(sys.argv[3], "w"), default=lambda value: value.tolist())
"""


@contextmanager
def mlflow_serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The URL of `mlflow models serve` with the champion; the group of its processes ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/words@champion", "--host", "127.0.0.1", "--port", str(port)]
    log = folder.parent / "mlflow.txt"
    with log.open("w", encoding="utf8") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text("utf8")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_all_ways_to_ask_give_the_same_answers(finished: Finished, tmp_path: Path) -> None:
    # Case B48: raw values, rows of the shortest and of the longest length of training, and longer ones.
    place, outcome = finished
    evaluated = of_test(outcome)
    folder, startup = tmp_path / "empty", tmp_path / "startup"
    folder.mkdir()
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(STRANGER, "utf8")
    words = pq.read_table(place.path / "words.parquet", columns=["id", "frames"]).to_pylist()
    rows = sorted((row for row in words if row["id"] in evaluated), key=lambda row: len(row["frames"]))
    assert (len(rows), len(rows[0]["frames"]), len(rows[-1]["frames"])) == (40, 1, 9)
    frames = rows[-1]["frames"]
    rows += [{"id": "max + 1", "frames": [*frames, frames[0]]}, {"id": "long", "frames": frames * 10}]
    rows = [rows[0], rows[-2], *rows[1:-2], rows[-1]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf8")
    uri = f"sqlite:///{place.path}/mlflow.db"
    programs = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvicorn is called by its name
    )
    stranger = {**os.environ, "PYTHONPATH": str(startup), "MLFLOW_TRACKING_URI": uri, "PATH": programs}
    refused = subprocess.run(
        [sys.executable, "-P", "-c", "import components"], cwd=folder, env=stranger, capture_output=True
    )
    assert b"is not here" in refused.stderr
    with mlflow_serving(folder, stranger) as theirs, serving(place) as (ours, _):
        answers = {
            url: (http(url, rows)[0], [http(url, [row])[0][0] for row in rows[:3]]) for url in (theirs, ours)
        }
    load = [sys.executable, "-P", "-c", LOAD, "models:/words@champion"]
    load += [str(tmp_path / "rows.json"), str(tmp_path / "out.json")]
    done = subprocess.run(load, cwd=folder, env=stranger, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    answers["pyfunc"] = tuple(json.loads((tmp_path / "out.json").read_text("utf8")))
    expected = ask(place, tmp_path / "answers.parquet", data=tmp_path / "rows.parquet", cwd=tmp_path)
    assert len(expected) == 42
    for whole, single in answers.values():
        assert [answer["id"] for answer in whole] == [row["id"] for row in rows]
        for answer in [*whole, *single]:
            for other in (expected[answer["id"]], evaluated.get(answer["id"], answer)):
                assert answer["labels"] == other["labels"]
                assert answer["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
        assert len(single[1]["labels"]) == 10


def test_five_rows_in_a_folder_of_files_come_back_in_their_order(finished: Finished, tmp_path: Path) -> None:
    place, outcome = finished
    table = pq.read_table(place.path / "words.parquet").slice(0, 5)
    (tmp_path / "rows").mkdir()
    pq.write_table(table.slice(3, 2), tmp_path / "rows" / "a.parquet")
    pq.write_table(table.slice(0, 3), tmp_path / "rows" / "b.parquet")
    done = place.json(
        "predict", outcome["run_dir"], str(tmp_path / "rows"), "-o", str(tmp_path / "out.parquet")
    )
    assert done["rows"] == 5
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [
        "w0003", "w0004", "w0000", "w0001", "w0002"
    ]  # fmt: skip


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.thorough
def test_two_processes_killed_and_begun_again_repeat_what_evaluate_reported(
    finished: Finished, tmp_path: Path
) -> None:
    place, outcome = finished
    words = pq.read_table(place.path / "words.parquet", columns=["id", "frames"])
    pq.write_table(pa.concat_tables([words] * (3 * 65_536 // len(words))), tmp_path / "many.parquet")
    out = tmp_path / "out.parquet"
    command = place.command("predict", outcome["run_dir"], str(tmp_path / "many.parquet"), "--workers", "2")
    command += ["-o", str(out), "--json"]
    folder = tmp_path / ".out.parquet.parts"
    with subprocess.Popen(
        command, cwd=place.path, env=place.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as killed:
        deadline = time.monotonic() + 120
        while not list(folder.glob("part-*.parquet")) and time.monotonic() < deadline:
            assert killed.poll() is None
            time.sleep(0.02)
        killed.kill()
    left = len(list(folder.glob("part-*.parquet")))
    assert left
    assert not out.exists()
    done = subprocess.run(
        command, cwd=place.path, env=place.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rows were answered before" in done.stderr
    table = pq.read_table(out)
    assert table["id"].to_pylist() == words["id"].to_pylist() * (len(table) // len(words))
    assert len(table) == json.loads(done.stdout)["rows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.parquet", "out.parquet"]
    expected = of_test(outcome)
    # The first rows, the last ones, and those about the end of a chunk.
    for first in (0, 65_536 - len(words), 2 * 65_536 - len(words), len(table) - len(words)):
        some = table.slice(first, 2 * len(words)).to_pylist()
        compared = [row for row in some if row["id"] in expected]
        assert {len(row["labels"]) for row in compared} >= {1, 9}
        for row in compared:
            assert row["labels"] == expected[row["id"]]["labels"]
            assert row["probabilities"] == pytest.approx(expected[row["id"]]["probabilities"], abs=1e-6)


def test_rows_that_do_not_fit_leave_no_answers(finished: Finished, tmp_path: Path) -> None:
    place, _ = finished
    pq.write_table(pa.table({"id": ["a"], "frames": [[[1.0, 2.0]]]}), tmp_path / "narrow.parquet")
    out = tmp_path / "out.parquet"
    done = place.run(
        "predict", "models:/words@champion", str(tmp_path / "narrow.parquet"), "-o", str(out), code=2
    )
    assert "narrow.parquet" in done.stderr
    assert "frames" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["narrow.parquet"]
