"""The same command on a Ray cluster that somebody else started."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Place
from tests.pipeline.backends.test_cluster import descendants

RAY = "from ray.scripts.scripts import main; main()"

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head node with four logical CPUs, a GPU that is only counted, and a token, as Ray starts one."""
    token = Path("~/.ray/auth_token").expanduser()
    if not token.exists():
        subprocess.run(
            [sys.executable, "-c", RAY, "get-auth-token", "--generate"], check=True, capture_output=True
        )
    port = free_port()
    log = tmp_path_factory.mktemp("ray") / "log.txt"
    command = [sys.executable, "-c", RAY, "start", "--head"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=4", "--num-gpus=1"]
    command += ["--include-dashboard=false"]
    with log.open("w", encoding="utf8") as output:
        head = subprocess.Popen(
            [*command, "--block"],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "token"},
        )
        try:
            deadline = time.monotonic() + 90
            while "Ray runtime started" not in log.read_text("utf8"):
                assert head.poll() is None and time.monotonic() < deadline, log.read_text("utf8")
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            started = descendants(head.pid)
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                head.kill()
            for process in started:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def test_a_run_on_a_given_cluster_gives_what_a_local_one_gives(
    finished: tuple[Place, dict[str, object]], place: Place, address: str
) -> None:
    there = ("--address", address)
    outcome = place.json("run", "words.yaml", "--set", "train.temperature_scaling=true", *there)
    assert outcome["verdict"] == "promoted"
    assert {stage["status"] for stage in outcome["stages"]} == {"ran"}
    expected = finished[1]["metrics"]
    for split in ("valid", "test"):
        assert outcome["metrics"][split] == pytest.approx(expected[split], abs=1e-6)  # type: ignore[index]
    assert Path(outcome["report"]).exists()
    done = place.json("predict", "models:/words@champion", "words.parquet", "-o", "out.parquet", *there)
    assert done["rows"] == 240


def test_a_token_that_is_not_the_clusters_is_refused_in_words(
    place: Place, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    done = place.run("run", "words.yaml", "--address", address, code=3)
    assert "does not accept this machine's token" in done.stderr
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr


def test_more_than_the_cluster_has_is_refused_within_half_a_minute(place: Place, address: str) -> None:
    begun = time.monotonic()
    done = place.run("run", "words.yaml", "--address", address, "--set", "train.devices=gpu:2", code=3)
    assert time.monotonic() - begun < 45  # 30 s and the start of Python and Ray
    assert "2 GPUs" in done.stderr
    assert "1 GPUs" in done.stderr


def test_two_trials_share_a_gpu(place: Place, address: str) -> None:
    search = "trials: 4, search: random, scheduler: none, trials_per_gpu: 2"
    space = "space: {model.units: {int: [4, 16]}}"
    changes = ("--set", "train.devices=auto", "--set", f"tune={{{search}, {space}}}")
    place.run("tune", "words.yaml", "--address", address, *changes)
    (run,) = place.runs()
    assert json.loads((run / "tune/trials.json").read_text("utf8"))["concurrency"] == 2
    under_way: set[int] = set()
    most = 0
    for line in map(json.loads, (run / "tune/ledger.jsonl").read_text("utf8").splitlines()):
        if line["kind"] == "start":
            under_way.add(line["number"])
        elif line["kind"] == "end":
            assert line["state"] == "finished"
            under_way.remove(line["number"])
        most = max(most, len(under_way))
    assert most == 2
    assert not under_way
