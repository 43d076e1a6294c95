"""Machines that share no folder do the work all the same, and losing one of them loses nothing."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import Place, furnish, words
from tests.end_to_end.machines import Machines, Node, require_namespaces
from tests.end_to_end.test_interruptions import LONG, best_weights, wait_for_checkpoint
from tests.pipeline.backends.test_cluster import descendants

pytestmark = pytest.mark.slow

NUM_FILES = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What no other machine sees is below this folder."""
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    require_namespaces()
    found = Machines(tmp_path_factory.mktemp("nodes"), hides=folder / "runs")
    yield found
    found.end()


@pytest.fixture
def machines(cluster: Machines) -> Machines:
    """Three machines that see the words, and not where the runs are kept."""
    while len(cluster.workers) < 3:
        cluster.add(cpus=1)
    return cluster


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Place:
    """A fresh place whose runs lie where other machines have none."""
    place = furnish(tmp_path / "place")
    (folder / "runs" / tmp_path.name).mkdir()
    (place.path / "runs").symlink_to(folder / "runs" / tmp_path.name)
    return place


def kill_who_is_at(
    work: str, machines: Machines, process: "subprocess.Popen[str]", until: Callable[[], bool] = lambda: True
) -> None:
    """End a machine that has a process for such work, once it is time."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for node in machines.workers:
            if until() and is_at(work, node):
                machines.kill(node)
                return
        time.sleep(0.02)
    raise AssertionError(f"no machine was at {work}")


def is_at(work: str, node: Node) -> bool:
    for process in descendants(node.process.pid):
        try:
            if work.encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def ended(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err, err
    return err


def test_a_run_away_from_its_folder_gives_what_a_local_one_gives(
    finished: tuple[Place, dict[str, Any]], place: Place, machines: Machines
) -> None:
    there = ("--address", machines.address)
    outcome = place.json("run", "words.yaml", "--set", "train.temperature_scaling=true", *there)
    assert outcome["verdict"] == "promoted"
    for split in ("valid", "test"):
        assert outcome["metrics"][split] == pytest.approx(finished[1]["metrics"][split], abs=1e-6)
    (run,) = place.runs()
    assert not (run / ".staging").exists()
    done = place.json("predict", "models:/words@champion", "words.parquet", "-o", "out.parquet", *there)
    assert done["rows"] == 240
    local = place.json("predict", str(run), "words.parquet", "-o", "local.parquet")
    assert local["rows"] == 240
    assert pq.read_table(place.path / "out.parquet").equals(pq.read_table(place.path / "local.parquet"))


@pytest.mark.fault("a machine that is gone")
@pytest.mark.thorough
def test_a_machine_lost_while_rows_are_prepared(place: Place, machines: Machines) -> None:
    (place.path / "rows").mkdir()
    for number in range(NUM_FILES):
        table = words(seed=number)
        names = [f"{number}-{row}" for row in range(len(table))]
        place.write(table.set_column(0, "id", [names]), f"rows/{number:03d}.parquet")
    many = ("words.yaml", "--set", "data.path=rows")
    process = place.start("prepare", *many, "--address", machines.address)
    kill_who_is_at(
        "ray::_call",
        machines,
        process,
        lambda: len(list(place.path.glob("runs/words/*/.prepare-*/index-*"))) > NUM_FILES // 4,
    )
    ended(process)
    (run,) = place.runs()
    local = place.json("prepare", *many, "--storage", "local")
    manifests = [
        json.loads((Path(each) / "data/manifest.json").read_text("utf8")) for each in (run, local["run_dir"])
    ]
    assert manifests[0] == manifests[1]


@pytest.mark.fault("a machine that is gone")
@pytest.mark.thorough
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_machine_lost_while_training(place: Place, machines: Machines, nodes: int) -> None:
    # Under Adam the last digit of a sum, which its order decides, grows to 1e-4 within hundreds of steps.
    plain = ("--set", "train.optimizer=sgd", "--set", "train.learning_rate=0.1")
    settings = ("words.yaml", *LONG, *plain)
    alone = place.json("train", *settings, "--storage", "local")
    process = place.start("train", *settings, "--set", f"train.nodes={nodes}", "--address", machines.address)
    wait_for_checkpoint(place, process)
    kill_who_is_at("ray::RayTrainWorker" if nodes > 1 else "ray::_Host", machines, process)
    assert "from the last checkpoint" in ended(process)
    (run,) = place.runs()
    for one, other in zip(best_weights(run), best_weights(Path(alone["run_dir"])), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert not list((run / "checkpoints").glob("step-*"))


@pytest.mark.fault("a machine that is gone")
@pytest.mark.thorough
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_machine_that_is_taken_back_is_left_after_a_checkpoint(
    place: Place, machines: Machines, nodes: int
) -> None:
    place.write(words(6000))
    changes = (
        "train.epochs=2",
        "train.batch_size=2",
        "train.steps_per_call=1",  # so that an epoch lasts some seconds
        "train.checkpoint_seconds=3600",  # within one there is no other reason for a checkpoint
        "train.optimizer=sgd",
        "train.learning_rate=0.1",
    )
    settings = ["words.yaml", *(word for each in changes for word in ("--set", each))]
    alone = place.json("train", *settings, "--storage", "local")
    process = place.start("train", *settings, "--set", f"train.nodes={nodes}", "--address", machines.address)
    wait_until(lambda: any(at["epoch"] == 1 for at in positions(place)), process)
    work = "ray::RayTrainWorker" if nodes > 1 else "ray::_Host"
    left = next(node for node in machines.workers if is_at(work, node))
    machines.take_back(left, seconds=60)
    wait_until(lambda: any(at["batch"] for at in positions(place)), process)
    wait_until(lambda: not is_at(work, left), process)
    machines.kill(left)
    said = ended(process)
    assert "The cluster will take back" in said, said
    assert "from the last checkpoint" in said, said
    (run,) = place.runs()
    histories = [
        json.loads((Path(each) / "checkpoints/history.json").read_text("utf8"))
        for each in (run, alone["run_dir"])
    ]
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6 if nodes == 1 else 1e-4)


def positions(place: Place) -> list[dict[str, Any]]:
    """Where training was when the checkpoints were written that are there now."""
    found = []
    for state in place.path.glob("runs/words/*/checkpoints/step-*/state.json"):
        with suppress(FileNotFoundError, ValueError):
            found.append(json.loads(state.read_text("utf8")))
    return found


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.fault("a machine that is gone")
@pytest.mark.thorough
def test_a_machine_lost_while_searching(place: Place, machines: Machines) -> None:
    search = "trials: 6, search: random, scheduler: none"
    space = "space: {model.units: {int: [8, 32]}}"
    changes = ("--set", f"tune={{{search}, {space}}}", "--set", "train.batch_size=4")

    def has_trained() -> bool:
        ledgers = place.path.glob("runs/words/*/tune/ledger.jsonl")
        return any('"epoch"' in ledger.read_text("utf8") for ledger in ledgers)

    process = place.start("tune", "words.yaml", *changes, "--address", machines.address)
    kill_who_is_at(
        "ray::Trials",
        machines,
        process,
        has_trained,
    )
    ended(process)
    (run,) = place.runs()
    trials = json.loads((run / "tune/trials.json").read_text("utf8"))["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * 6
    assert [len(trial["curve"]) for trial in trials] == [4] * 6


@pytest.mark.fault("a machine that is gone")
@pytest.mark.thorough
def test_a_machine_lost_while_predicting(
    finished: tuple[Place, dict[str, Any]], place: Place, machines: Machines
) -> None:
    model = str(finished[1]["run_dir"])
    place.write(words(140_000), "many.parquet")
    process = place.start(
        "predict", model, "many.parquet", "-o", "out.parquet", "--workers", "2", "--address", machines.address
    )
    kill_who_is_at(
        "ray::_Host", machines, process, lambda: any(place.path.glob(".out.parquet.parts/*.parquet*"))
    )
    assert "answered again" in ended(process)
    place.run("predict", model, "many.parquet", "-o", "local.parquet")
    assert pq.read_table(place.path / "out.parquet").equals(pq.read_table(place.path / "local.parquet"))
