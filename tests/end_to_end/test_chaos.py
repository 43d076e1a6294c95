"""Faults of a whole run with real processes; `pytest -m chaos` runs them, with others of their kind."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends.tracking import PATIENCE_SECONDS
from tests.end_to_end.conftest import Place, furnish
from tests.end_to_end.test_interruptions import LONG, assert_gone, assert_same_training, wait_for_checkpoint
from tests.pipeline.backends.test_cluster import descendants
from tests.pipeline.backends.test_tracking import mlflow_server, stop

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

HEAD = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nothing disturbed."""
    place = furnish(tmp_path_factory.mktemp("undisturbed"))
    return Path(place.json("train", "words.yaml", *LONG)["run_dir"])


def host(process: "subprocess.Popen[str]") -> int:
    """The process that trains below a command."""
    (found,) = [
        pid for pid in descendants(process.pid) if b"ray::_Host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


@pytest.mark.fault("kill -9 of the driver")
@pytest.mark.parametrize("attempt", range(2))
def test_a_driver_killed_at_any_moment_leaves_what_the_same_command_goes_on_from(
    place: Place, undisturbed: Path, chance: random.Random, attempt: int
) -> None:
    for _ in range(2):
        process = place.start("train", "words.yaml", *LONG)
        deadline = time.monotonic() + chance.uniform(3, 20)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        children = descendants(process.pid)
        process.kill()
        process.communicate()
        assert_gone(children)
    outcome = place.json("train", "words.yaml", *LONG)
    assert_same_training(Path(outcome["run_dir"]), undisturbed)
    # At most one kill came before there was a run to go on with.
    assert len(place.runs()) <= 2


@pytest.mark.fault("a worker that hangs")
def test_a_training_process_that_hangs_is_replaced(place: Place, undisturbed: Path) -> None:
    process = place.start("train", "words.yaml", *LONG, "--set", "train.hang_seconds=15")
    wait_for_checkpoint(place, process)
    hung = host(process)
    os.kill(hung, signal.SIGSTOP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "gave no sign of life for 15 s. Going on from the last checkpoint" in err
    assert not Path(f"/proc/{hung}").exists()
    (run,) = place.runs()
    assert_same_training(run, undisturbed)


@pytest.mark.fault("out of memory, or killed for it")
def test_a_training_process_that_is_always_killed_ends_the_run_with_a_hint(place: Place) -> None:
    process = place.start("train", "words.yaml", *LONG, "--set", "train.epochs=500")
    killed: set[int] = set()
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        for pid in descendants(process.pid) - killed:
            try:
                if b"ray::_Host" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
        time.sleep(0.2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "Out of memory?" in err
    assert "Traceback" not in err
    assert 1 <= len(killed) <= 8


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size, in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


@pytest.mark.fault("disk full")
def test_a_full_disk_is_named_and_the_same_command_goes_on_with_more_room(
    place: Place, tmp_path: Path, undisturbed: Path
) -> None:
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    with small_disk(tmp_path / "small", 24) as disk:
        command = ("train", "words.yaml", *LONG, "--storage", str(disk / "runs"))
        codes, said = [], ""
        for size in (48, 160, 320, 480, 640):  # it fills up while rows, checkpoints or the bundle are written
            resize(disk, size)
            done = place.ended(*command)
            codes.append(done.returncode)
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode:
                assert done.returncode == 3, done.stderr
                said += done.stderr
        assert codes[0] == 3
        assert re.search(r"The disk is full|No space left on device|are free", said)
        resize(disk, 64_000)
        outcome = place.json(*command)
        assert_same_training(Path(outcome["run_dir"]), undisturbed)


@pytest.mark.fault("truncated or empty file")
@pytest.mark.parametrize("size", [0, 4, 0.5, -4])
def test_a_file_cut_short_is_named_before_anything_is_trained(place: Place, size: float) -> None:
    path = place.path / "words.parquet"
    whole = path.read_bytes()
    cut = int(len(whole) * size) if 0 < size < 1 else int(size) or 0
    path.write_bytes(whole[:cut])
    done = place.run("run", "words.yaml", code=2)
    assert "words.parquet" in done.stderr
    assert not list(place.path.glob("runs/words/*/checkpoints"))
    assert not (place.path / "mlflow.db").exists()


class Faulty(ThreadingHTTPServer):
    """A proxy in front of a server: passes on, answers 503, or takes its time."""

    daemon_threads = True
    state = "passing"
    num_refused = 0

    def __init__(self, behind: int) -> None:
        self.behind = behind
        super().__init__(("127.0.0.1", 0), Passing)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Passing(BaseHTTPRequestHandler):
    server: Faulty

    def do_GET(self) -> None:
        if self.server.state == "failing":
            self.server.num_refused += 1
            self.send_error(503)
            return
        if self.server.state == "slow":
            time.sleep(1.0)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        url = f"http://127.0.0.1:{self.server.behind}{self.path}"
        request = urllib.request.Request(url, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, kind, content = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            status, kind, content = error.code, error.headers["Content-Type"], error.read()
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until_healthy(url: str) -> None:
    """Wait until an MLflow server answers."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Faulty]:
    """A real MLflow server behind a proxy that a test can make fail."""
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    server = mlflow_server(port, folder)
    faulty = Faulty(port)
    threading.Thread(target=faulty.serve_forever, daemon=True).start()
    try:
        wait_until_healthy(faulty.url)
        yield faulty
    finally:
        faulty.shutdown()
        faulty.server_close()
        stop(server)


@pytest.mark.fault("MLflow away, failing or slow")
def test_a_server_that_fails_in_mid_training_and_is_slow_gets_everything_once(
    place: Place, proxy: Faulty
) -> None:
    from mlflow import MlflowClient

    process = place.start("run", "words.yaml", *LONG, "--json", "--tracking-uri", proxy.url)
    wait_for_checkpoint(place, process)
    proxy.state = "failing"
    time.sleep(10)
    assert proxy.num_refused
    proxy.state = "slow"
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    outcome = json.loads(out)
    history = json.loads((Path(outcome["run_dir"]) / "checkpoints/history.json").read_text("utf8"))
    proxy.state = "passing"
    client = MlflowClient(proxy.url)
    (experiment,) = [each for each in client.search_experiments() if each.name == "words"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (trained,) = [run for run in runs if run.data.tags["recurra.stage"] == "train"]
    logged = client.get_metric_history(trained.info.run_id, "valid_loss")
    assert [(each.step, each.value) for each in sorted(logged, key=lambda each: each.step)] == [
        (entry["epoch"], pytest.approx(entry["valid"]["loss"])) for entry in history
    ]
    assert [each.version for each in client.search_model_versions("name = 'words'")] == ["1"]


@contextmanager
def serving(port: int, folder: Path) -> Iterator[str]:
    """The URL of a real MLflow server, which is killed where the block ends."""
    server, url = mlflow_server(port, folder), f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.fault("MLflow away, failing or slow")
def test_a_server_gone_when_registration_comes_is_waited_for_and_later_needs_no_training(
    place: Place, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    with serving(port, folder) as url:
        command = ("run", "words.yaml", *LONG, "--tracking-uri", url)
        process = place.start(*command)
        wait_for_checkpoint(place, process)
    begun = time.monotonic()
    _, err = process.communicate(timeout=400)
    assert process.returncode == 3, err
    assert "Traceback" not in err
    assert f"MLflow does not answer at {url}" in err
    assert time.monotonic() - begun > PATIENCE_SECONDS
    (run,) = place.runs()
    trained = (run / "checkpoints/history.json").read_text("utf8")
    with serving(port, folder):
        outcome = place.json(*command)
        client = MlflowClient(url)
        versions = client.search_model_versions("name = 'words'")
        experiment = client.get_experiment_by_name("words").experiment_id
        runs = {each.data.tags["recurra.stage"]: each for each in client.search_runs([experiment])}
        logged = client.get_metric_history(runs["train"].info.run_id, "valid_loss")
    assert outcome["run_dir"] == str(run)
    assert [(stage["name"], stage["status"]) for stage in outcome["stages"]] == [
        ("prepare", "reused"), ("train", "reused"), ("evaluate", "reused"), ("register", "ran")
    ]  # fmt: skip
    assert (run / "checkpoints/history.json").read_text("utf8") == trained
    assert len(logged) == len(json.loads(trained))
    assert [(each.version, each.run_id) for each in versions] == [("1", runs[""].info.run_id)]
    assert {each.info.status for each in runs.values()} == {"FINISHED"}


@contextmanager
def head(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A Ray that somebody else started, and its address."""
    port, log = free_port(), folder / f"head-{time.time_ns()}.txt"
    command = [*HEAD, "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=4"]
    with log.open("w", encoding="utf8") as output:
        process = subprocess.Popen(
            [*command, "--include-dashboard=false"], stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text("utf8"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf8")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", process
    finally:
        everything = [process.pid, *descendants(process.pid)]
        for pid in everything:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


@pytest.mark.fault("head node lost")
def test_a_lost_head_ends_the_command_and_the_next_cluster_goes_on(
    place: Place, tmp_path: Path, undisturbed: Path
) -> None:
    with head(tmp_path) as (address, cluster):
        process = place.start("train", "words.yaml", *LONG, "--address", address)
        wait_for_checkpoint(place, process)
        for pid in [cluster.pid, *descendants(cluster.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _, err = process.communicate(timeout=300)
        assert process.returncode == 3, err
        assert "cluster" in err
    with head(tmp_path) as (address, _):
        outcome = place.json("train", "words.yaml", *LONG, "--address", address)
    (run,) = place.runs()
    assert outcome["run_dir"] == str(run)
    assert_same_training(run, undisturbed)
