"""Real worker processes train what one process trains, score alike and stop together.

Run as a program it is one of the workers: what to do comes from a file, and the first one answers in another.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.batches import SequenceSet
from components.training import calls, strategy
from components.training.checkpoints import Checkpoints
from components.training.loop import evaluate, fit
from components.training.workers import MAX_STEPS_BETWEEN, Votes, Workers
from conf.schema import DropoutSettings, ModelSettings, TrainSettings
from tests.components.training.test_steps import (
    EVERYTHING_BESIDE,
    OWN,
    SEVENTEEN,
    SMOOTH_AND_WEIGHED,
    TAGS,
    make_steps,
    train,
)

NUM_WORKERS = 2
SECONDS = 300
CASES: dict[str, dict[str, Any]] = {
    "crf": {"model": {"crf": True, "constrained": True}, "ema": 0.5, "optimizer": "adam"},
    "weighed": {"drop": 0.3, "accumulate": 2, **SMOOTH_AND_WEIGHED},
    "branch": {
        "per_step": False,
        "model": {"readout": "attention", "branch": EVERYTHING_BESIDE},
        **SMOOTH_AND_WEIGHED,
    },
    "own": {"model": {"own": OWN}},
    "float16": {"model": {"layers": 2}, "precision": "float16"},
}
ROOT = Path(__file__).parents[3]


@dataclass
class Answers:
    """What one process found, or the first of several."""

    losses: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[np.ndarray]] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    in_calls: list[dict[str, Any]] = field(default_factory=list)
    stopped_at: int = 0


def all_steps(data: dict[str, SequenceSet]) -> Answers:
    """Three optimizer steps of every case, and the scores after them."""
    found = Answers()
    for name, case in CASES.items():
        training = {key: value for key, value in case.items() if key not in ("per_step", "model", "drop")}
        steps = make_steps(
            1, data=data[name], model=case.get("model"), drop=case.get("drop", 0.0), **training
        )
        found.losses[name] = train(steps, data[name], **training)
        found.weights[name] = steps.averaged()
        found.scores[name] = evaluate(steps, data[name], num_classes=4)
    return found


STRETCHES: dict[str, Any] = {"batch_size": 5, "truncate": 3}
ACCUMULATED: dict[str, Any] = {"batch_size": 2, "accumulate": 2, "steps_per_call": 1}


def a_fit(
    data: SequenceSet,
    folder: Path,
    *,
    worker: int = 0,
    nodes: int = 1,
    training: dict[str, Any] = STRETCHES,
    **options: Any,
) -> Any:
    """A training with dropout."""
    return fit(
        data,
        data,
        task="labelling",
        labels=TAGS,
        model=ModelSettings(cell="gru", units=3, dropout=DropoutSettings(output=0.2)),
        training=TrainSettings(epochs=2, devices="cpu:1", nodes=nodes, **training),
        checkpoints=Checkpoints(folder, "key", writes=worker == 0),
        **options,
    )


def work(folder: Path) -> None:
    """What a worker process does."""
    worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    data = pickle.loads((folder / "data.pickle").read_bytes())
    distribution = strategy.strategy(strategy.choose("cpu:1", workers=NUM_WORKERS), workers=NUM_WORKERS)
    # A process can be configured for its cluster only once.
    strategy.strategy = lambda devices, *, workers=1: distribution  # type: ignore[assignment]
    found = all_steps(data)
    *_, last = a_fit(data["crf"], folder / "fit", worker=worker, nodes=NUM_WORKERS)
    found.history = list(last.history)
    calls.MAX_SECONDS = 60.0  # no step is too slow for a call of several
    in_calls = {**ACCUMULATED, "steps_per_call": 3}
    *_, last = a_fit(data["crf"], folder / "calls", worker=worker, nodes=NUM_WORKERS, training=in_calls)
    found.in_calls = list(last.history)
    # Only the second one wants to stop.
    *_, last = a_fit(
        data["crf"],
        folder / "stopped",
        worker=worker,
        nodes=NUM_WORKERS,
        should_stop=lambda: worker == 1,
    )
    assert last.kind == "stopped", last
    found.stopped_at = last.step
    (folder / f"answers-{worker}.pickle").write_bytes(pickle.dumps(found.__dict__))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [server.getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()


@pytest.fixture(scope="module")
def data() -> dict[str, SequenceSet]:
    from tests.components.training.conftest import make_set

    make = make_set.__wrapped__()
    return {name: make(SEVENTEEN, per_step=case.get("per_step", True)) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def answers(data: dict[str, SequenceSet], tmp_path_factory: pytest.TempPathFactory) -> list[Answers]:
    """What each of two worker processes found; the folder is that of their checkpoints."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "data.pickle").write_bytes(pickle.dumps(data))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(NUM_WORKERS)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.components.training.test_workers", str(folder)],
            cwd=ROOT,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(NUM_WORKERS)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * NUM_WORKERS, "\n\n".join(said)
    found = [pickle.loads((folder / f"answers-{index}.pickle").read_bytes()) for index in range(NUM_WORKERS)]
    assert {path.name for path in (folder / "fit").glob("step-*")}
    return [Answers(**each) for each in found]


@pytest.mark.slow
def test_two_workers_train_what_one_process_trains(
    answers: list[Answers], data: dict[str, SequenceSet]
) -> None:
    alone = all_steps(data)
    for found in answers:
        for name, case in CASES.items():
            # Sums of float16 depend on their order in the third digit.
            atol = 2e-3 if "precision" in case else 1e-5
            np.testing.assert_allclose(found.losses[name], alone.losses[name], rtol=atol)
            assert found.scores[name] == pytest.approx(alone.scores[name], abs=atol)
            for one, other in zip(found.weights[name], alone.weights[name], strict=True):
                np.testing.assert_allclose(one, other, atol=atol)
    assert answers[0].scores == answers[1].scores


@pytest.mark.slow
def test_the_loop_over_two_workers_is_the_loop_of_one(
    answers: list[Answers], data: dict[str, SequenceSet], tmp_path: Path
) -> None:
    *_, last = a_fit(data["crf"], tmp_path / "stretches")
    *_, accumulated = a_fit(data["crf"], tmp_path / "accumulated", training=ACCUMULATED)
    for found in answers:
        assert len(found.history) == len(found.in_calls) == 2
        both = zip([*found.history, *found.in_calls], [*last.history, *accumulated.history], strict=True)
        for one, other in both:
            assert one["valid"] == pytest.approx(other["valid"], abs=1e-5)
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
            assert (one["step"], one["best"]) == (other["step"], other["best"])


@pytest.mark.slow
def test_one_that_wants_to_stop_stops_all(answers: list[Answers]) -> None:
    assert answers[0].stopped_at == answers[1].stopped_at > 0


class Others(Workers):
    """Two workers of which the other one never wants to stop; counts how often they voted."""

    votes = 0

    def gathered(self, values: np.ndarray) -> np.ndarray:
        Others.votes += 1
        return np.array([values, [0.0, 0.001]], np.float64)


def test_votes_are_rare_where_steps_are_fast() -> None:
    votes = Votes(Others(None, count=2), lambda: False)
    assert not any(votes.stop() for _ in range(1_000))
    assert 1_000 / MAX_STEPS_BETWEEN <= Others.votes <= 30


def test_votes_come_after_steps_not_after_calls_and_tell_what_a_step_takes() -> None:
    votes = Votes(Others(None, count=2), lambda: False)
    votes.since -= 4.0
    votes.stop(10)
    assert votes.step_seconds == pytest.approx(0.4, rel=0.1)
    before = Others.votes
    votes.stop(1)
    assert Others.votes == before
    votes.stop(1)
    assert Others.votes == before + 1


def test_a_process_of_its_own_stops_at_once() -> None:
    answers: Callable[[], bool] = iter([False, True]).__next__
    votes = Votes(Workers(None), answers)
    assert [votes.stop(), votes.stop()] == [False, True]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
