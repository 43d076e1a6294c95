"""Runs as jobs of a Ray cluster that somebody else started, through its dashboard on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.end_to_end.conftest import Place, furnish
from tests.end_to_end.test_cluster import RAY, free_port
from tests.end_to_end.test_interruptions import assert_gone
from tests.pipeline.backends.test_cluster import descendants

CANARY = "S3CR3T-xyz"
AWKWARD = """{'a': "x y; $HOME"} `id` \\ *"""
LONG = (
    "--set",
    "train.epochs=3000",
    "--set",
    "train.early_stopping=null",
    "--set",
    "train.checkpoint_seconds=1",
)
WAIT_SECONDS = 240

pytestmark = pytest.mark.slow


@contextmanager
def head(mode: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """A head node with its dashboard on loopback: the dashboard's address, and where its sessions are."""
    ports = {"port": free_port(), "dashboard-port": free_port(), "dashboard-agent-listen-port": free_port()}
    command = [sys.executable, "-c", RAY, "start", "--head", "--num-cpus=4", "--num-gpus=1", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    environment = {
        **os.environ,
        # As an activated environment has it, so that `python` is the one that has Ray.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": mode,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything on loopback
        "A_SECRET": CANARY,
    }
    log = folder / f"{mode}.txt"
    # Of its own: `auto` is the cluster that was started last in it. And short: it holds sockets.
    short = TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with short as place, log.open("w", encoding="utf8") as output:
        command += [f"--temp-dir={place}"]
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=environment
        )
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while "Ray runtime started" not in log.read_text("utf8"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf8")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{ports['dashboard-port']}", Path(place)
        finally:
            started = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            for each in started:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A cluster that asks for a token, which this machine has: its dashboard, and where its sessions are."""
    if not Path("~/.ray/auth_token").expanduser().exists():
        subprocess.run(
            [sys.executable, "-c", RAY, "get-auth-token", "--generate"], check=True, capture_output=True
        )
    with head("token", tmp_path_factory.mktemp("head")) as found:
        yield found


@pytest.fixture
def there(cluster: tuple[str, Path]) -> tuple[str, str]:
    return "--address", cluster[0]


def jobs(place: Place, there: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.json("jobs", *there)["jobs"]
    return found


def files_below(top: Path) -> list[Path]:
    """Those that can be read: Ray has sockets and links beside them."""
    return [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]


def until(process: "subprocess.Popen[str]", text: str) -> list[str]:
    """What a command prints up to a line with this text."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if re.search(text, line):
            return lines
    raise AssertionError("".join(lines) + process.communicate()[1])


def command_lines(part: str) -> list[list[str]]:
    """The arguments of the running processes that have this one among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode("utf8", "replace").split("\0")[:-1]
            if part in words:
                found.append(words)
    return found


def job_processes() -> set[int]:
    """What runs for a job below the heads of these tests: its command, and the process that trains."""
    found = set()
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if line.startswith(b"ray::_Host") or b"\0pipeline\0" in line:
                found.add(pid)
    assert len(found) >= 2
    return found


def test_a_job_is_followed_to_its_end_and_is_not_run_twice(
    place: Place,
    there: tuple[str, str],
    cluster: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "another value")
    submission = ("submit", "words.yaml", "--secret", "A_SECRET", *there)
    done = place.run(*submission)
    assert "promoted: words version 1, @champion" in done.stdout
    assert re.search(r"^words-[0-9a-f]{12} succeeded$", done.stdout, re.MULTILINE)
    (version,) = place.json("models", "words")["versions"]
    assert version["aliases"] == ["champion"]

    again = place.json(*submission)
    assert (again["status"], again["exit_code"], again["attached"]) == ("SUCCEEDED", 0, True)
    assert len(place.runs()) == 1
    assert [job["id"] for job in jobs(place, there)] == [again["id"]]
    log = place.run("logs", again["id"], *there).stdout
    assert "promoted: words version 1" in log

    listed = json.dumps(jobs(place, there)) + log + done.stderr
    assert CANARY not in listed and "another value" not in listed
    token = Path("~/.ray/auth_token").expanduser().read_text("utf8").strip()
    written = {path: path.read_bytes() for top in (place.path, cluster[1]) for path in files_below(top)}
    assert any("job-driver-" in path.name for path in written)
    secrets = [each.encode() for each in (CANARY, "another value", token)]
    assert not [path for path, content in written.items() if any(each in content for each in secrets)]


def test_a_job_that_raises_ends_with_its_code_and_its_last_lines(
    place: Place, there: tuple[str, str]
) -> None:
    text = 'def read(path):\n    raise ValueError("the sensor was off")\n'
    (place.path / "sensors.py").write_text(text, "utf8")
    (place.path / ".env").write_text(f"TOKEN={CANARY}", "utf8")
    submission = ("submit", "words.yaml", "--set", "data.format=sensors:read", *there)
    done = place.run(*submission, code=2)
    assert "the sensor was off" in done.stdout
    assert re.search(r"Job words-[0-9a-f]{12} failed: exit code 2", done.stderr)
    assert not place.runs()

    refused = place.run(*submission, code=2)
    assert "--retry runs it again" in refused.stderr
    again = place.json(*submission, "--retry", "--quiet", code=2)
    assert again["id"].endswith("-2")
    assert any("the sensor was off" in line for line in again["last_lines"])


def test_a_job_outlives_who_follows_it_and_checkpoints_when_it_is_stopped(
    place: Place, there: tuple[str, str]
) -> None:
    submission = ("submit", "words.yaml", *LONG, "--override", AWKWARD, *there)
    following = place.start(*submission)
    until(following, r"^train: +\d+%")
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=WAIT_SECONDS)
    assert following.returncode == 130
    assert "still runs" in said and "recurra logs words-" in said and "recurra stop words-" in said
    assert "Traceback" not in said
    (job,) = [each for each in jobs(place, there) if each["status"] == "RUNNING"]
    assert AWKWARD in [words[words.index("--override") + 1] for words in command_lines(AWKWARD)]

    # The same submission attaches to it, and leaves it as it is.
    before = job_processes()
    second = place.json(*submission, "--no-follow")
    assert (second["id"], second["attached"], second["status"]) == (job["id"], True, "RUNNING")
    assert job_processes() == before
    assert len(place.runs()) == 1

    ended = place.json("stop", job["id"], *there)
    assert (ended["status"], ended["exit_code"]) == ("STOPPED", 143)
    assert command_lines(AWKWARD) == []
    assert_gone(before)
    assert "The run is checkpointed." in place.run("logs", job["id"], *there).stdout
    (run,) = place.runs()
    reached = max(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))

    # The same submission goes on from there; this time Ctrl-C is to stop it.
    following = place.start(*submission, "--cancel-on-interrupt")
    (line, *_) = [line for line in until(following, r"^train: +\d+% ") if line.startswith("train: ")]
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=WAIT_SECONDS)
    assert following.returncode == 130
    assert f"Job {job['id']}-2 is stopped." in said
    assert place.runs() == [run]
    (epoch,) = re.findall(r"epoch (\d+)/3000", line)
    assert int(epoch) > reached // 10 - 1  # 160 rows in batches of 16
    assert max(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")) > reached


def test_what_would_fail_there_is_not_sent(place: Place, there: tuple[str, str]) -> None:
    changes = ("--set", "train.devices=gpu:2", "--set", "data.path=/nowhere/rows.parquet")
    done = place.run("submit", "words.yaml", *changes, "--secret", "NOT_THERE", *there, code=2)
    assert "the largest of 1 there has 4 CPUs and 1 GPUs" in done.stderr
    assert "127.0.0.1 does not see /nowhere/rows.parquet" in done.stderr
    assert "the cluster does not have NOT_THERE" in done.stderr
    assert place.runs() == []
    missing = place.run("submit", "words.yaml", "--python", "no-such-python", *there, code=3)
    assert "The cluster has no command 'no-such-python'" in missing.stderr


def test_a_token_that_is_not_the_clusters_is_refused_in_words(
    place: Place, there: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    done = place.run("jobs", *there, code=3)
    assert "does not accept this machine's token" in done.stderr


def test_a_cluster_without_token_on_loopback_will_do(tmp_path: Path) -> None:
    place = furnish(tmp_path / "place")
    with head("disabled", tmp_path) as (found, _):
        submission = ("submit", "words.yaml", "--command", "prepare", "--address", found, "--json")
        both = [place.start(*submission, "--no-follow") for _ in range(2)]
        said = [json.loads(process.communicate(timeout=WAIT_SECONDS)[0]) for process in both]
        assert [process.returncode for process in both] == [0, 0]
        # Sent by one of the two, at whatever moment the other came.
        assert sorted(each["attached"] for each in said) == [False, True]
        done = json.loads(place.run(*submission).stdout)
        assert {done["id"]} == {each["id"] for each in said}
        assert [stage["name"] for stage in done["outcome"]["stages"]] == ["prepare"]
        assert [job["id"] for job in jobs(place, ("--address", found))] == [done["id"]]
