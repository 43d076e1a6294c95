"""Killed, terminated, interrupted: the same command goes on, and ends where an undisturbed run ends."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Place, furnish
from tests.pipeline.backends.test_cluster import descendants

pytestmark = pytest.mark.slow

# Small batches make epochs long enough to be interrupted in the middle of one.
LONG = (
    "--set", "train.epochs=8", "--set", "train.batch_size=2",
    "--set", "train.checkpoint_seconds=0.05", "--set", "model.units=64",
)  # fmt: skip


def wait_for_checkpoint(place: Place, process: "subprocess.Popen[str]") -> None:
    """Wait until training has saved something in the middle of an epoch."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        for state in place.path.glob("runs/words/*/checkpoints/step-*/state.json"):
            try:
                position = json.loads(state.read_text("utf8"))
            except (FileNotFoundError, ValueError):
                continue
            if position["batch"] and position["epoch"] >= 2:
                return
        time.sleep(0.01)
    raise AssertionError("no checkpoint within two minutes")


def best_weights(run: Path) -> list[np.ndarray]:
    with np.load(run / "checkpoints/best/state.npz", allow_pickle=False) as arrays:
        return [arrays[name] for name in sorted(arrays.files)]


def assert_gone(pids: set[int]) -> None:
    # After a kill, Ray's own agents look for their server for a minute before they give up.
    deadline = time.monotonic() + 90
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training that nothing disturbed."""
    place = furnish(tmp_path_factory.mktemp("undisturbed"))
    return Path(place.json("train", "words.yaml", *LONG)["run_dir"])


def assert_same_training(run: Path, undisturbed: Path) -> None:
    for one, other in zip(best_weights(run), best_weights(undisturbed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    paths = [each / "checkpoints/history.json" for each in (run, undisturbed)]
    histories = [json.loads(path.read_text("utf8")) for path in paths]
    for one, other in zip(*histories, strict=True):
        assert one["valid"] == pytest.approx(other["valid"], abs=1e-6)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert one["best"] == other["best"]


@pytest.mark.fault("kill -9 of the driver")
def test_kill_9_in_mid_epoch_then_the_same_command_equals_an_undisturbed_run(
    place: Place, undisturbed: Path
) -> None:
    process = place.start("train", "words.yaml", *LONG)
    wait_for_checkpoint(place, process)
    children = descendants(process.pid)
    process.kill()
    process.communicate()
    # Its processes may take a minute to notice, which this one does not wait for.
    outcome = place.json("train", "words.yaml", *LONG)
    (run,) = place.runs()
    assert outcome["run_dir"] == str(run)
    assert outcome["stages"][0]["status"] == "reused"
    assert_same_training(run, undisturbed)
    assert not list((run / "checkpoints").glob("step-*"))
    assert_gone(children)


@pytest.mark.fault("kill -9 of a training worker")
def test_kill_9_of_the_training_process_is_survived_within_the_same_run(
    place: Place, undisturbed: Path
) -> None:
    process = place.start("train", "words.yaml", *LONG)
    wait_for_checkpoint(place, process)
    workers = [
        pid for pid in descendants(process.pid) if b"ray::_Host" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(workers) == 1
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "Going on from the last checkpoint" in err
    (run,) = place.runs()
    assert_same_training(run, undisturbed)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.fault("SIGTERM")),
        pytest.param(signal.SIGINT, 130, marks=[pytest.mark.fault("Ctrl-C"), pytest.mark.thorough]),
    ],
)
def test_a_signal_checkpoints_and_the_same_command_goes_on(
    place: Place, undisturbed: Path, number: int, code: int
) -> None:
    process = place.start("train", "words.yaml", *LONG)
    wait_for_checkpoint(place, process)
    children = descendants(process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "checkpointed" in err
    assert "Traceback" not in err
    assert_gone(children)
    place.run("train", "words.yaml", *LONG)
    (run,) = place.runs()
    assert_same_training(run, undisturbed)
