import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.errors import DataError, Interrupted, PlaceError, TrackerError
from conf.schema import Settings
from pipeline.backends import tracking
from pipeline.backends.tracking import Store, Tracker
from pipeline.backends.workspace import RunFolder

SETTINGS = {
    "name": "words",
    "task": "labelling",
    "data": {
        "path": "/data/words.parquet",
        "inputs": [{"column": "frames"}],
        "target": {"column": "labels"},
        "split": {"column": "fold", "valid": [1], "test": [0]},
    },
}

# What a process of a pipeline does, run by itself: RUN_ID FOLDER URI HOW.
WORK = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from conf.schema import Settings
from pipeline.backends import tracking
from pipeline.backends.workspace import RunFolder
import json
run, uri, how = RunFolder(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
run.path.mkdir(parents=True, exist_ok=True)
run.settings.write_text("name: words", "utf8")
settings = Settings.model_validate(json.loads(sys.argv[4]))
warn = lambda text: print(text, file=sys.stderr)
with tracking.open_run(uri, folder=run, settings=settings, warn=warn) as tracker:
    with tracker.stage("train"):
        for step in range(20):
            tracker.log_metrics({"loss": 1 / (step + 1)}, step=step, stage="train")
            if how == "killed" and step == 15:
                tracker.log_metrics({"loss": 1 / 17}, step=16, stage="train")
                tracker.flush(60)
                tracker.log_metrics({"loss": 1 / 18}, step=17, stage="train")
                os.kill(os.getpid(), signal.SIGKILL)
"""

# Holds a database until its own input ends: DATABASE.
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def a_run(tmp_path, run_id="run-1"):
    run = RunFolder(tmp_path / "runs" / "words" / run_id)
    run.path.mkdir(parents=True)
    run.settings.write_text("name: words\n", "utf8")
    return run


def settings(**changes):
    return Settings.model_validate({**SETTINGS, **changes})


def work(run, uri, root, how="whole"):
    """A process that logs one run."""
    command = [sys.executable, "-c", WORK, str(run.path), uri, how, json.dumps(SETTINGS), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run.path)


def found(store, experiment="words"):
    """Every run of an experiment by name."""
    client = store.call(lambda client: client)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.info.run_name: run for run in runs}


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Refusing(BaseHTTPRequestHandler):
    """Answers 503 to everything."""

    def do_GET(self):
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, *args):
        pass


def refusing_server(port):
    server = ThreadingHTTPServer(("127.0.0.1", port), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def locked(database):
    """Another process that keeps everybody else out of a SQLite database until the block ends."""
    command = [sys.executable, "-c", HOLD, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield


def mlflow_server(port, folder):
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", f"{folder}/files"]
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    log.close()
    return process


def stop(server):
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(20)


def test_importing_this_module_imports_no_mlflow(root):
    code = "import pipeline.backends.tracking, sys; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_mlflow_can_be_loaded_while_another_thread_opens_the_store(root, uri):
    code = (
        "import sys, threading\n"
        "from pipeline.backends.tracking import Store\n"
        "store = Store(sys.argv[1])\n"
        "opened = []\n"
        "opening = threading.Thread(target=store.call, args=[opened.append])\n"
        "opening.start()\n"
        "store.load()\n"
        "loaded = 'mlflow' in sys.modules\n"
        "opening.join()\n"
        "print(loaded, len(opened))\n"
    )
    # A new process: what is imported is not imported again.
    command = [sys.executable, "-c", code, uri]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True 1\n"


def test_loading_mlflow_asks_nobody_anything(folder, uri, port):
    Store(uri).load()
    Store(f"http://127.0.0.1:{port}").load()
    assert list(folder.iterdir()) == []


def test_a_run_and_its_stages_are_found_in_mlflow(tmp_path, uri):
    run = a_run(tmp_path)
    (run.path / "report.html").write_text("<p>", "utf8")
    labels = [f"label-{i}" for i in range(2000)]
    with tracking.open_run(
        uri, folder=run, settings=settings(), tags={"recurra.code_version": "1"}
    ) as tracker:
        with tracker.stage("train"):
            for step in range(1200):
                values = {"loss": 1 / (step + 1), "f1[B-LOC]": 0.5, "broken": math.nan, "large": math.inf}
                tracker.log_metrics(values, step=step, stage="train")
        tracker.log_params({"labels": labels})
        tracker.log_metrics({"test_accuracy": 0.9})
        tracker.log_input("words", digest="d" * 64, source="/data", context="training", profile={"rows": 7})
        tracker.log_artifact(run.path / "report.html")
        parent_id = tracker.mlflow_run_id()
    runs = found(tracker.store)
    parent, child = runs["run-1"], runs["train"]
    assert len(runs) == 2
    assert parent.info.run_id == parent_id
    assert child.data.tags["mlflow.parentRunId"] == parent_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert parent.data.params["train.learning_rate"] == "0.001"
    assert len(parent.data.params["labels"]) == 6000
    assert "SHA-256" in parent.data.params["labels"]
    assert parent.data.tags["recurra.code_version"] == "1"
    assert parent.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert tracker.problems == []
    client = tracker.store.call(lambda client: client)
    history = client.get_metric_history(child.info.run_id, "loss")
    assert sorted((each.step, each.value) for each in history) == [(s, 1 / (s + 1)) for s in range(1200)]
    assert math.isnan(child.data.metrics["large"])
    assert any(key.startswith("f1_B-LOC_") for key in child.data.metrics)
    files = {file.path for file in client.list_artifacts(parent_id)}
    assert files == {"settings.yaml", "report.html"}
    assert parent.info.artifact_uri.startswith((tmp_path / "mlartifacts" / "words").as_uri())


def test_files_go_where_asked_and_stay_where_the_experiment_began(tmp_path, uri):
    first, other = (tmp_path / "first").as_uri(), (tmp_path / "other").as_uri()
    store = Store(uri, artifacts=first)
    experiment = store.experiment("words")
    place = store.call(lambda client: client.get_experiment(experiment)).artifact_location
    assert place == f"{first}/words"
    assert store.elsewhere(experiment) == ""
    assert Store(uri).elsewhere(experiment) == ""
    assert f"Files stay in {place}" in Store(uri, artifacts=other).elsewhere(experiment)


def test_nothing_is_written_outside_the_places_given(folder, uri):
    (folder / "elsewhere").mkdir()
    run = a_run(folder)
    os.chdir(folder / "elsewhere")
    with tracking.open_run(uri, folder=run, settings=settings()) as tracker:
        assert tracker.mlflow_run_id(timeout=60)
    assert list((folder / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(("error", "status"), [(ValueError("broken"), "FAILED"), (Interrupted(), "KILLED")])
def test_a_run_that_ends_badly_says_so(tmp_path, uri, error, status):
    with (
        pytest.raises(type(error)),
        tracking.open_run(uri, folder=a_run(tmp_path), settings=settings()) as tracker,
        tracker.stage("train"),
    ):
        raise error
    runs = found(tracker.store)
    assert {run.info.status for run in runs.values()} == {status}
    assert runs["run-1"].data.tags["error"].startswith(type(error).__name__)


def test_rows_that_are_useless_before_anything_was_sent_leave_no_run(folder, uri):
    with pytest.raises(DataError), tracking.open_run(uri, folder=a_run(folder), settings=settings()):
        raise DataError("no rows")
    assert not (folder / "mlflow.db").exists()
    with (
        pytest.raises(DataError),
        tracking.open_run(uri, folder=a_run(folder, "run-2"), settings=settings()) as tracker,
    ):
        tracker.begin()
        raise DataError("no rows")
    assert {name: run.info.status for name, run in found(tracker.store).items()} == {"run-2": "FAILED"}


def test_a_check_makes_no_database(folder, uri):
    tracking.check(uri)
    assert list(folder.iterdir()) == []
    with tracking.open_run(uri, folder=a_run(folder), settings=settings()):
        pass
    tracking.check(uri)


def test_places_that_cannot_be_written_are_named_without_opening_mlflow(tmp_path, uri):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    with pytest.raises(
        PlaceError, match=rf"MLflow's database .* {tmp_path}/file cannot be written"
    ) as caught:
        tracking.check(f"sqlite:///{below}/mlflow.db")
    assert caught.value.exit_code == 2
    with pytest.raises(PlaceError, match="Files of models cannot be kept in") as caught:
        tracking.check_places(uri, artifacts=below.as_uri())
    assert "--artifacts" in caught.value.hint
    (tmp_path / "mlartifacts").touch()
    with pytest.raises(PlaceError, match="mlartifacts cannot be written"):
        tracking.check_places(uri)
    tracking.check_places(uri, artifacts="s3://bucket/files")
    tracking.check_places("http://127.0.0.1:9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mlartifacts"]


def test_a_second_process_goes_on_with_the_same_run_and_the_same_stages(tmp_path, uri):
    run = a_run(tmp_path)
    ids = []
    for step in (1, 2):
        with tracking.open_run(uri, folder=run, settings=settings()) as tracker, tracker.stage("train"):
            tracker.log_metrics({"loss": 0.5}, step=1, stage="train")
            tracker.log_metrics({"loss": 0.25}, step=step, stage="train")
            ids.append(tracker.mlflow_run_id("train"))
    assert ids[0] == ids[1]
    client = tracker.store.call(lambda client: client)
    history = client.get_metric_history(ids[0], "loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.5), (2, 0.25)]


def test_a_new_database_at_the_same_place_gets_everything(tmp_path, uri):
    run = a_run(tmp_path)
    with tracking.open_run(uri, folder=run, settings=settings()) as tracker:
        tracker.log_metrics({"loss": 0.5}, step=1)
    tracker.store.call(lambda client: client._tracking_client.store.engine.dispose())
    (tmp_path / "mlflow.db").rename(tmp_path / "old.db")
    command = [sys.executable, "-c", WORK, str(run.path), uri, "whole", json.dumps(SETTINGS), os.getcwd()]
    subprocess.run(command, check=True)
    other = Store(f"sqlite:///{tmp_path}/mlflow.db?x=1")
    assert found(other)["run-1"].data.metrics["loss"] == 0.5


def test_a_deleted_experiment_is_named_with_the_way_out(tmp_path, uri):
    store = Store(uri)
    experiment = store.experiment("words")
    store.call(lambda client: client.delete_experiment(experiment))
    with pytest.raises(TrackerError, match="experiment 'words' was deleted") as caught:
        store.experiment("words")
    assert "mlflow experiments restore" in caught.value.hint


def test_a_dead_server_costs_a_warning_but_no_time_and_no_value(tmp_path, port):
    run, warnings = a_run(tmp_path), []
    uri = f"http://me:S3CR3T@127.0.0.1:{port}"
    begun = time.monotonic()
    with tracking.open_run(uri, folder=run, settings=settings(), warn=warnings.append, patience=1) as tracker:
        for step in range(100):
            tracker.log_metrics({"loss": 0.5}, step=step)
        assert time.monotonic() - begun < 2
        with pytest.raises(TrackerError, match=r"does not answer at http://\*\*\*@127"):
            tracker.require()
        assert tracker.mlflow_run_id(timeout=0.1) is None
    assert time.monotonic() - begun < 20
    assert "is away" in warnings[0]
    assert tracking.has_unsent(run, uri)
    written = b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    assert b"S3CR3T" not in written
    assert "S3CR3T" not in str(warnings)


def test_checking_an_address_answers_soon(tmp_path, port, uri):
    tracking.check(uri)
    begun = time.monotonic()
    with pytest.raises(TrackerError, match="does not answer"):
        tracking.check(f"http://127.0.0.1:{port}")
    server = refusing_server(port)
    with pytest.raises(TrackerError, match="503"):
        tracking.check(f"http://127.0.0.1:{port}")
    assert time.monotonic() - begun < 15
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
@pytest.mark.slow
def test_what_listens_and_says_nothing_is_not_waited_for_long(scheme):  # B40
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(TrackerError, match=address):
            tracking.check(f"{scheme}://{address}/mlflow")
    assert time.monotonic() - begun < 45  # 15 s, or twice 10 s, and the import of MLflow


def test_patience_has_an_end(port):
    server = refusing_server(port)
    store = Store(f"http://127.0.0.1:{port}", patience=2)
    begun = time.monotonic()
    with pytest.raises(
        TrackerError, match=rf"does not answer at http://127\.0\.0\.1:{port}: .*503 [a-z ]+\.$"
    ):
        store.patiently(lambda client: None)
    assert 1 < time.monotonic() - begun < 15
    server.shutdown()
    server.server_close()


def test_what_mlflow_refuses_is_not_tried_again(uri):
    store = Store(uri, patience=60)
    begun = time.monotonic()
    with pytest.raises(tracking.Refused):
        store.patiently(lambda client: client.set_registered_model_alias("nobody", "latest", "1"))
    with pytest.raises(tracking.NotThere):
        store.patiently(lambda client: client.get_registered_model("nobody"))
    assert time.monotonic() - begun < 30


@pytest.mark.fault("SQLite locked")
def test_a_locked_database_is_waited_for(tmp_path, uri):
    run = a_run(tmp_path)
    tracking.check(uri)
    with tracking.open_run(uri, folder=run, settings=settings()) as tracker:
        with locked(tmp_path / "mlflow.db"):
            tracker.log_metrics({"loss": 0.5}, step=1)
            assert not tracker.flush(3)
        assert tracker.flush(60)
    assert found(tracker.store)["run-1"].data.metrics == {"loss": 0.5}


@pytest.mark.slow
def test_a_killed_process_leaves_one_run_that_the_next_one_ends(tmp_path, uri, root):
    run = RunFolder(tmp_path / "runs" / "words" / "run-1")
    run.path.mkdir(parents=True)
    first = work(run, uri, root, "killed")
    assert first.wait(120) == -signal.SIGKILL
    first.communicate()
    again = work(run, uri, root)
    assert (again.wait(120), again.communicate()[1]) == (0, "")
    store = Store(uri)
    runs = found(store)
    assert {name: run.info.status for name, run in runs.items()} == {"run-1": "FINISHED", "train": "FINISHED"}
    history = store.call(lambda client: client.get_metric_history(runs["train"].info.run_id, "loss"))
    assert [(each.step, each.value) for each in history] == [(s, 1 / (s + 1)) for s in range(20)]


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.slow
def test_a_killed_run_that_nobody_takes_up_is_ended_by_the_next_one(tmp_path, uri, root):
    killed = RunFolder(tmp_path / "runs" / "words" / "run-1")
    killed.path.mkdir(parents=True)
    process = work(killed, uri, root, "killed")
    process.communicate(timeout=120)
    other = a_run(tmp_path, "run-2")
    with tracking.open_run(uri, folder=other, settings=settings(), others=[killed, other]) as tracker:
        status = {name: run.info.status for name, run in found(tracker.store).items()}
        assert status["run-1"] == status["train"] == "RUNNING"
    status = {name: run.info.status for name, run in found(tracker.store).items()}
    assert status == {"run-1": "KILLED", "train": "KILLED", "run-2": "FINISHED"}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, uri):
    """A database that is not there yet, or empty."""
    return uri if request.param == "sqlite" else request.getfixturevalue("make_postgres_database")()


@pytest.mark.slow
def test_four_processes_that_open_an_empty_database_at_once_all_succeed_at_once(database, root, tmp_path):
    code = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pipeline.backends.tracking import Store\n"
        "print(Store(sys.argv[1]).experiment('words'))\n"
    )
    command = [sys.executable, "-c", code, database, str(root)]
    started = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=240) for process in started]
    assert {out for out, _ in said} == {"1\n"}, said


@pytest.mark.slow
def test_four_processes_at_once_in_an_empty_folder_share_one_experiment(tmp_path, database, root):
    uri = database
    runs = [RunFolder(tmp_path / "runs" / "words" / f"run-{i}") for i in range(4)]
    for run in runs:
        run.path.mkdir(parents=True)
    processes = [work(run, uri, root) for run in runs]
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, out, err) == (0, "", "")
    client = Store(uri).call(lambda client: client)
    experiments = client.search_experiments()
    assert sorted(experiment.name for experiment in experiments) == ["Default", "words"]
    counts = {
        experiment.name: len(client.search_runs([experiment.experiment_id])) for experiment in experiments
    }
    assert counts == {"Default": 0, "words": 8}


@pytest.mark.fault("MLflow away, failing or slow")
@pytest.mark.slow
def test_a_server_that_answers_503_and_then_comes_back_has_everything_once(tmp_path, port):
    run = a_run(tmp_path)
    uri = f"http://127.0.0.1:{port}"
    refusing = refusing_server(port)
    longest = 0.0
    with tracking.open_run(uri, folder=run, settings=settings(), patience=120) as tracker:
        tracker.begin()
        with tracker.stage("train"):
            for step in range(300):
                begun = time.monotonic()
                tracker.log_metrics({"loss": 1 / (step + 1)}, step=step, stage="train", at=1e9 + step)
                longest = max(longest, time.monotonic() - begun)
                time.sleep(0.01)
        assert tracker.failure is not None
        refusing.shutdown()
        refusing.server_close()
        server = mlflow_server(port, tmp_path)
        tracker.require()
    assert longest < 0.5
    runs = found(tracker.store)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    client = tracker.store.call(lambda client: client)
    history = client.get_metric_history(runs["train"].info.run_id, "loss")
    assert [(each.step, each.value, each.timestamp) for each in history] == [
        (step, 1 / (step + 1), int((1e9 + step) * 1000)) for step in range(300)
    ]
    assert {file.path for file in client.list_artifacts(runs["run-1"].info.run_id)} == {"settings.yaml"}
    # The server keeps the files where it was told to, and this machine keeps none.
    assert list((tmp_path / "files").rglob("settings.yaml"))
    assert not list(tmp_path.rglob("mlartifacts"))
    stop(server)


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "https://mlflow.example.org/here"])
def test_a_server_decides_where_files_go(tmp_path, uri):
    assert Store(uri, beside=tmp_path).artifacts is None
    assert Store("postgresql://db/mlflow", beside=tmp_path).artifacts == (tmp_path / "mlartifacts").as_uri()


@pytest.mark.thorough
@pytest.mark.fault("MLflow away, failing or slow")
@pytest.mark.slow
def test_what_was_left_unsent_is_sent_later(tmp_path, port):
    run = a_run(tmp_path)
    uri = f"http://127.0.0.1:{port}"
    with tracking.open_run(uri, folder=run, settings=settings(), patience=1) as tracker:
        tracker.log_metrics({"loss": 0.5}, step=1)
        tracker.flush(1)
    assert tracking.has_unsent(run, uri)
    server = mlflow_server(port, tmp_path)
    assert tracking.send_rest(uri, folder=run, settings=settings(), timeout=120)
    assert not tracking.has_unsent(run, uri)
    store = Store(uri)
    assert found(store)["run-1"].data.metrics == {"loss": 0.5}
    assert found(store)["run-1"].info.status == "FINISHED"
    stop(server)


def test_a_run_held_by_another_process_is_left_to_it(tmp_path, uri):
    run = a_run(tmp_path)
    with run.held():
        assert not tracking.send_rest(uri, folder=run, settings=settings())


def test_a_proof_is_started_when_asked_for_and_gone_at_the_end(tmp_path, uri):
    from contextlib import ExitStack

    tracker = Tracker(Store(uri), spool=tmp_path / "spool.jsonl", experiment="words", run_id="r")
    assert tracker.proof is None
    with ExitStack() as stack:
        tracker.start_proof(stack)
        assert tracker.proof is not None
        process = tracker.proof._process
        assert process.poll() is None
    assert process.poll() is not None
    tracker.close(1)
