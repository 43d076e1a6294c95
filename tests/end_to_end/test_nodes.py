"""Training on several workers under Ray Train gives what one process gives, whatever becomes of a worker."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.conftest import Place, furnish
from tests.end_to_end.test_interruptions import LONG, best_weights, wait_for_checkpoint
from tests.pipeline.backends.test_cluster import descendants

pytestmark = pytest.mark.slow

# Under Adam the last digit of a sum, which its order decides, grows to 1e-4 within hundreds of steps.
SETTINGS = (
    *LONG, "--set", "train.epochs=4", "--set", "train.optimizer=sgd", "--set", "train.learning_rate=0.1"
)  # fmt: skip


def training_workers(of: int) -> list[int]:
    """Ray Train's worker processes below a process, in the order of their start."""
    found = [
        pid for pid in descendants(of) if b"ray::RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 2
    return sorted(found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process that nothing disturbed."""
    place = furnish(tmp_path_factory.mktemp("alone"))
    return Path(place.json("train", "words.yaml", *SETTINGS)["run_dir"])


@pytest.mark.fault("kill -9 of a training worker")
@pytest.mark.thorough
@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, "died"), (signal.SIGTERM, "told to end")])
def test_a_signal_to_one_of_two_workers_ends_where_one_undisturbed_process_ends(
    place: Place, alone: Path, number: int, said: str
) -> None:
    process = place.start("train", "words.yaml", *SETTINGS, "--set", "train.nodes=2")
    wait_for_checkpoint(place, process)
    os.kill(training_workers(process.pid)[1], number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert said in err
    assert "All workers start again from the last checkpoint" in err
    assert "Traceback" not in err
    (run,) = place.runs()
    for one, other in zip(best_weights(run), best_weights(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert not list((run / "checkpoints").glob("step-*"))
    assert not (run / ".workers").exists()


@pytest.mark.fault("a worker that hangs")
@pytest.mark.thorough
def test_one_of_two_workers_that_hangs_ends_where_one_undisturbed_process_ends(
    place: Place, alone: Path
) -> None:
    changes = ("--set", "train.nodes=2", "--set", "train.hang_seconds=60")
    process = place.start("train", "words.yaml", *SETTINGS, *changes)
    wait_for_checkpoint(place, process)
    hung = training_workers(process.pid)[1]
    os.kill(hung, signal.SIGSTOP)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    # TensorFlow may miss a process that is stopped whole before we do; whoever does, all start again.
    assert "All workers start again from the last checkpoint" in err
    assert "Traceback" not in err
    assert not Path(f"/proc/{hung}").exists()
    (run,) = place.runs()
    for one, other in zip(best_weights(run), best_weights(alone), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_more_nodes_than_there_is_room_for_are_refused_at_once(place: Place) -> None:
    begun = time.monotonic()
    done = place.run("train", "words.yaml", "--set", "train.nodes=900", code=3)
    assert time.monotonic() - begun < 60
    assert "train.nodes needs 900 times 1 CPUs" in done.stderr
