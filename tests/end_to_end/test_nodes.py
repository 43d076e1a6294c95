"""Training on several workers under Ray Train gives what one process gives, whatever becomes of a worker."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from tests.end_to_end.conftest import SETTINGS as WORDS
from tests.end_to_end.conftest import Place, furnish, words
from tests.end_to_end.test_interruptions import LONG, best_weights, wait_for_checkpoint
from tests.end_to_end.test_tune import nested
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


def test_more_nodes_than_there_is_room_for_are_refused_at_once(place: Place) -> None:
    begun = time.monotonic()
    done = place.run("train", "words.yaml", "--set", "train.nodes=900", code=3)
    assert time.monotonic() - begun < 60
    assert "train.nodes needs 900 times 1 CPUs" in done.stderr


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    """A run over two workers, five rows each to train, to validate and to test, and what it printed.

    It learns nothing, so that its weights are those by which the losses of the epoch came about.
    """
    settings = WORDS.replace("epochs: 4, batch_size: 16, learning_rate: 2e-2", "epochs: 1, batch_size: 2")
    settings = settings.replace(", dropout: {output: 0.1}", "").replace("0.6", "0.0")
    place = furnish(tmp_path_factory.mktemp("paired"), settings=settings)
    table = words(15, seed=1)
    fold = pa.array(np.repeat([0, 1, 2], 5))
    place.write(table.set_column(table.schema.get_field_index("fold"), "fold", fold))
    changes = ("--set", "train.nodes=2", "--set", "train.learning_rate=1e-12")
    return place, place.json("run", "words.yaml", *changes)


def test_b46_two_workers_lose_none_of_five_rows(paired: tuple[Place, dict[str, Any]]) -> None:
    place, outcome = paired
    run = Path(outcome["run_dir"])
    rows = pq.read_table(place.path / "words.parquet").to_pydict()
    predictor = bundles.open(run / "bundle")
    labels = list(predictor.encoding.labels)
    said = predictor.predict({"frames": rows["frames"]}, distribution=True)["distribution"]
    nats = [
        [-np.log(step[labels.index(label)]) for step, label in zip(steps, truth, strict=True)]
        for steps, truth in zip(said, rows["labels"], strict=True)
    ]
    (epoch,) = json.loads((run / "checkpoints/history.json").read_text("utf8"))
    assert epoch["loss"] == pytest.approx(np.concatenate(nats[10:]).mean(), abs=1e-5)
    assert epoch["valid"]["loss"] == pytest.approx(np.concatenate(nats[5:10]).mean(), abs=1e-5)
    assert outcome["metrics"]["test"]["loss"] == pytest.approx(np.concatenate(nats[:5]).mean(), abs=1e-5)
    evaluated = pq.read_table(run / "evaluation/predictions.parquet", filters=[("split", "=", "test")])
    assert evaluated["id"].to_pylist() == rows["id"][:5]


def test_b46_two_workers_answer_five_rows_in_their_order(
    paired: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, outcome = paired
    table = pq.read_table(place.path / "words.parquet").slice(0, 5)
    pq.write_table(table, tmp_path / "rows.parquet")
    command = ("predict", "models:/words@champion", str(tmp_path / "rows.parquet"), "--workers", "2")
    done = place.json(*command, "-o", str(tmp_path / "out.parquet"))
    assert done["rows"] == 5
    answers = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert answers["id"] == table["id"].to_pylist()
    expected = bundles.open(Path(outcome["run_dir"]) / "bundle").predict(
        {"frames": table["frames"].to_pylist()}
    )
    assert answers["labels"] == list(expected["labels"])


def test_b29_two_workers_make_one_run_and_one_version(paired: tuple[Place, dict[str, Any]]) -> None:
    place, outcome = paired
    found = nested(place)
    assert outcome["run_id"] in found[""]
    assert found[outcome["run_id"]] == ["evaluate", "prepare", "register", "train"]
    (version,) = place.json("models", "words")["versions"]
    assert (version["version"], version["aliases"]) == (1, ["champion"])
