"""train: the best epoch is frozen with its encoding; signals, lost workers and bad losses end as promised."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.errors import ClusterError, DataError, Terminated, TrainingDiverged
from components.training.progress import Progress
from conf.points import with_point
from pipeline.backends.cluster import WorkerLost
from pipeline.backends.drains import MachineLeaves
from pipeline.backends.recorders import Recorder
from pipeline.console import Console
from pipeline.stages.search import train_trial, trial_folder
from pipeline.stages.train import (
    MAX_RESTARTS,
    _require_best,
    _sentence,
    _tell_waiting,
    adopt,
    require_gpu,
    train_on_worker,
)
from tests.pipeline.conftest import QUIET, InProcess, Noting, Started, lines, num_threads, start

pytestmark = pytest.mark.slow


def history(run: Started) -> list[dict[str, Any]]:
    return json.loads((run.folder.checkpoints / "history.json").read_text("utf8"))


def test_the_epoch_that_is_frozen_is_the_best_one_not_the_last(tmp_path: Path) -> None:
    # A learning rate that grows too large for the last epochs: they are worse than an earlier one.
    run = start(tmp_path, train={"epochs": 6, "learning_rate": 0.4, "clip_norm": None})
    summary = run.train()
    losses = [entry["valid"]["loss"] for entry in history(run)]
    best = int(np.argmin(losses))
    assert best != len(losses) - 1
    assert summary["best_epoch"] == history(run)[best]["epoch"]
    assert summary["valid"]["loss"] == losses[best]
    assert bundles.describe(run.folder.bundle)["metrics"]["loss"] == losses[best]
    assert run.evaluate()["metrics"]["valid"]["loss"] == pytest.approx(losses[best], abs=1e-6)


def test_early_stopping_ends_training_when_nothing_gets_better(tmp_path: Path) -> None:
    stopping = {"metric": "loss", "patience": 2}
    run = start(
        tmp_path,
        train={"epochs": 40, "learning_rate": 0.5, "clip_norm": None, "early_stopping": stopping},
    )
    summary = run.train()
    losses = [entry["valid"]["loss"] for entry in history(run)]
    assert summary["epochs"] == len(losses) < 40
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_without_any_epoch_that_has_a_score_there_is_no_best_one(tmp_path: Path) -> None:
    run = start(tmp_path, train={"early_stopping": {"metric": "accuracy"}})
    entries = [{"epoch": epoch, "valid": {"accuracy": math.nan}, "best": False} for epoch in (1, 2)]
    (tmp_path / "history.json").write_text(json.dumps(entries), "utf8")
    with pytest.raises(DataError, match="None of the 2 epochs has a number for accuracy") as caught:
        _require_best(run.settings, tmp_path)
    assert "train.early_stopping.metric" in caught.value.hint


def test_what_is_kept_of_training_is_the_best_checkpoint_and_the_history(evaluated: Started) -> None:
    names = {path.name for path in evaluated.folder.checkpoints.iterdir() if not path.name.startswith(".")}
    assert names == {"best", "history.json"}
    assert [entry["epoch"] for entry in history(evaluated)] == [1, 2, 3]


def test_every_epoch_is_logged_under_the_stage(evaluated: Started) -> None:
    spool = (evaluated.folder.path / "tracking.jsonl").read_text("utf8")
    values = [entry for entry in map(json.loads, spool.splitlines()) if entry.get("stage") == "train"]
    logged = [entry["metrics"]["valid_loss"] for entry in values if "valid_loss" in entry.get("metrics", {})]
    assert logged == [entry["valid"]["loss"] for entry in history(evaluated)]


def test_a_stop_that_is_asked_for_raises_after_a_checkpoint_and_leaves_no_bundle(tmp_path: Path) -> None:
    run = start(tmp_path)

    class Stopped(InProcess):
        def stream(
            self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            for progress in function(**kwargs):
                yield progress
                run.folder.stop.touch()  # as the first signal does

    with pytest.raises(Terminated, match="checkpointed"):
        run.train(cluster=Stopped())
    assert not run.folder.bundle.exists()
    assert not run.folder.stop.exists()
    assert list(run.folder.checkpoints.glob("step-*"))
    assert run.train()["epochs"] == 3


def test_a_worker_that_dies_is_replaced_and_the_result_is_the_same(
    tmp_path: Path, evaluated: Started, capfd: pytest.CaptureFixture[str]
) -> None:
    run = start(tmp_path)
    deaths = iter([1, 2])

    class Mortal(InProcess):
        def stream(
            self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            last = next(deaths, None)
            for number, progress in enumerate(function(**kwargs)):
                if number == last:
                    raise WorkerLost("A worker process died: killed.")
                yield progress

        replace_worker = InProcess.worker

    run.train(cluster=Mortal(), console=Console())
    assert capfd.readouterr().err.count("Going on from the last checkpoint") == 2
    for one, other in zip(history(run), history(evaluated), strict=True):
        assert one["valid"] == pytest.approx(other["valid"], abs=1e-6)


@pytest.mark.fault("out of memory, or killed for it")
def test_workers_that_keep_dying_end_the_run(tmp_path: Path) -> None:
    run = start(tmp_path)
    streams = []

    class Dying(InProcess):
        def stream(
            self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            streams.append(function)
            raise WorkerLost("A worker process died: out of memory.")

        replace_worker = InProcess.worker

    with pytest.raises(WorkerLost, match="out of memory"):
        run.train(cluster=Dying())
    assert streams == [train_on_worker] * (MAX_RESTARTS + 1)


def test_machines_are_left_as_often_as_the_cluster_takes_them_back(tmp_path: Path) -> None:
    run = start(tmp_path)
    left: list[str] = []

    class Spot(InProcess):
        def stream(
            self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            if function is train_on_worker and len(left) <= MAX_RESTARTS:
                left.append("a machine")
                raise MachineLeaves("The cluster will take back a machine; training stopped there.")
            return function(**kwargs)

        replace_worker = InProcess.worker

    run.train(cluster=Spot())
    assert len(left) == MAX_RESTARTS + 1
    assert (run.folder.bundle / "bundle.json").exists()


def test_a_loss_that_is_no_number_leaves_no_bundle(tmp_path: Path) -> None:
    run = start(tmp_path)

    class Diverging(InProcess):
        def stream(
            self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
        ) -> Iterator[Any]:
            (kwargs["data"] / "encoding.json").write_text(spoilt, "utf8")
            return function(**kwargs)

    encoding = json.loads((run.folder.data / "encoding.json").read_text("utf8"))
    encoding["inputs"][0]["center"] = [float("inf")] * 2
    spoilt = json.dumps(encoding)
    with pytest.raises(TrainingDiverged):
        run.train(cluster=Diverging())
    assert not run.folder.bundle.exists()


@pytest.mark.parametrize("fixed", [False, True])
def test_vectors_of_a_file_reach_the_network_and_what_is_exported(tmp_path: Path, fixed: bool) -> None:
    import tensorflow as tf

    rows = lines(40)
    rows["words"] = [[f"w{step % 3}" for step in range(len(each))] for each in rows["frames"]]
    (tmp_path / "v.txt").write_text("w0 9 8\nnever 7 6\nw2 5 4\n", "utf8")
    given = {"column": "words", "kind": "token", "vectors": str(tmp_path / "v.txt"), "fixed_vectors": fixed}
    inputs = [{"column": "frames", "scale": "standard"}, given]
    run = start(tmp_path / "run", rows, data={"inputs": inputs}, train={"epochs": 1})
    run.train()
    weights = tf.saved_model.load(str(run.folder.bundle / "model")).weights
    tables = [weight.numpy() for weight in weights if weight.shape in [(2, 2), (3, 2), (5, 2)]]
    assert [table.shape for table in tables] == ([(2, 2), (3, 2)] if fixed else [(5, 2)])
    # Unknown and w1 stand before those of the file.
    trained = tables[-1][-3:]
    expected = [[9, 8], [5, 4], [7, 6]]
    if fixed:
        np.testing.assert_array_equal(trained, expected)
    else:
        assert 0 < np.abs(trained - expected).max() < 1
        np.testing.assert_array_equal(trained[2], expected[2])


def logged(run: Started, stage: str = "train") -> list[dict[str, Any]]:
    """What MLflow is told of a stage."""
    spool = (run.folder.path / "tracking.jsonl").read_text("utf8")
    return [entry for entry in map(json.loads, spool.splitlines()) if entry.get("stage") == stage]


def test_what_trained_is_said_in_the_history_the_summary_and_the_tracker(evaluated: Started) -> None:
    kernel = "plain loop (train.devices is cpu:1)"
    assert {entry["kernel"] for entry in history(evaluated)} == {kernel}
    assert evaluated.folder.summary("train")["kernel"] == kernel  # type: ignore[index]
    tags = [entry["tags"] for entry in logged(evaluated) if "recurra.kernel" in entry.get("tags", {})]
    assert tags == [{"recurra.kernel": kernel}]


def test_where_the_time_of_an_epoch_went_is_logged(evaluated: Started) -> None:
    epochs = history(evaluated)
    for name in ("seconds", "step_seconds", "waiting_seconds", "steps_per_second"):
        values = [entry["metrics"][name] for entry in logged(evaluated) if name in entry.get("metrics", {})]
        assert values == [entry[name] for entry in epochs]
    summary = evaluated.folder.summary("train")
    assert summary is not None
    assert summary["waiting_seconds"] == pytest.approx(sum(entry["waiting_seconds"] for entry in epochs))


def entry_of(waited: float, seconds: float = 10.0) -> dict[str, Any]:
    scores = {"loss": 0.5, "accuracy": 0.75}
    timings = {"seconds": seconds, "step_seconds": seconds - waited, "waiting_seconds": waited}
    return {"epoch": 1, "loss": 0.25, "valid": scores, **timings}


@pytest.mark.parametrize(("waited", "said"), [(0.0, ""), (1.0, ""), (1.5, "; waited 15% for input")])
def test_an_epoch_that_waited_for_its_input_says_so(waited: float, said: str) -> None:
    progress = Progress(
        kind="epoch",
        epoch=1,
        step=9,
        num_epochs=2,
        num_steps_done=9,
        num_steps=9,
        history=(entry_of(waited),),
    )
    assert _sentence(progress) == f"epoch 1: loss 0.2500; valid loss 0.5000 accuracy 0.7500{said}"


@pytest.mark.parametrize(
    ("entry", "told"), [(entry_of(1.9), False), (entry_of(2.5), True), (entry_of(0.5, seconds=1.0), False)]
)
def test_training_that_waited_much_ends_with_a_hint(
    entry: dict[str, Any], told: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    _tell_waiting(Console(), [entry])
    assert ("waited 25% of its time for batches" in capfd.readouterr().err) == told


def test_a_worker_without_a_gpu_says_what_it_sees() -> None:
    with pytest.raises(ClusterError, match="--require-gpu: where training would run"):
        require_gpu()


def test_what_was_trained_beside_a_gpu_is_frozen_without_its_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path, train={"epochs": 1})

    class Beside(InProcess):
        def call(self, function: Callable[..., Any], **kwargs: Any) -> Any:
            # Keras traces what it would trace beside a GPU; by its name, since the package hides the module.
            keras_rnn = sys.modules["keras.src.backend.tensorflow.rnn"]
            with monkeypatch.context() as patched:
                patched.setattr(keras_rnn, "_is_gpu_available", lambda: True)
                return function(**kwargs)

    run.train(cluster=Beside())
    assert b"CudnnRNN" not in (run.folder.bundle / "model" / "saved_model.pb").read_bytes()
    assert run.evaluate()["metrics"]["test"]["loss"] > 0


def test_a_temperature_is_fitted_on_the_validation_rows_and_served(tmp_path: Path) -> None:
    # Smoothed labels teach a network to be less sure than it is right.
    run = start(tmp_path, train={"label_smoothing": 0.4, "temperature_scaling": True})
    console = Noting()
    summary = run.train(console=console)
    scaling = summary["scaling"]
    temperature = bundles.describe(run.folder.bundle)["temperature"]
    assert temperature == scaling["temperature"] < 0.9
    (told,) = [note for note in console.notes if note.startswith("temperature")]
    assert told.startswith(f"temperature {temperature:.4f}, fitted on {scaling['num_units']} validation")

    served = run.evaluate()["metrics"]["valid"]
    assert served["loss"] == pytest.approx(scaling["loss"], abs=1e-6)
    assert summary["valid"]["loss"] == pytest.approx(scaling["loss_before"], abs=1e-6)
    assert served["accuracy"] == pytest.approx(summary["valid"]["accuracy"], abs=1e-9)
    details = json.loads((run.folder.evaluation / "details.json").read_text("utf8"))
    for name, value in summary["valid"].items():
        assert details["again"]["bundle"][name] == pytest.approx(value, abs=1e-6)
    assert details["calibration"]["temperature_in_use"] == temperature
    assert details["calibration"]["wanted"]["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert "fitted on the validation rows" in details["calibration"]["sentence"]


def test_a_temperature_fitted_on_few_answers_is_stored_with_a_warning(tmp_path: Path) -> None:
    rows = lines(60)
    rows["fold"] = [1] * 5 + [0] * 5 + [2] * 50
    run = start(tmp_path, rows, train={"epochs": 1, "temperature_scaling": True})
    console = Noting()
    summary = run.train(console=console)
    assert summary["scaling"]["num_units"] < 50
    assert any("are few to fit it on" in note for note in console.notes)
    assert bundles.describe(run.folder.bundle)["temperature"] == summary["scaling"]["temperature"]


def test_a_trial_that_is_adopted_is_frozen_at_the_epoch_it_was_judged_by(tmp_path: Path) -> None:
    space = {"train.learning_rate": {"loguniform": [0.01, 1.0]}, "model.units": {"choice": [4, 6]}}
    training = {"epochs": 6, "clip_norm": None, "temperature_scaling": True}
    run = start(tmp_path, model={"units": 5}, train=training, tune={"space": space})
    (run.folder.checkpoints / "step-00000001").mkdir(parents=True)  # of an earlier try
    point, scores = {"train.learning_rate": 0.4, "model.units": 6}, []

    def told(epoch: int, score: float, **more: Any) -> None:
        scores.append(score)

    job: dict[str, Any] = {"settings": run.settings, "folder": run.folder, "key": "k"}
    job["num_threads"] = num_threads()
    train_trial(report=told, restored=None, number=3, point=point, seed=None, copies=False, **job)
    trial = trial_folder(run.folder, 3)

    recorder: Any = Recorder(lambda entry: None, earlier=())
    cluster: Any = InProcess()
    given = {"key": "k", "cluster": cluster, "tracker": recorder, "console": QUIET}
    found = Started(with_point(run.settings, point), run.folder, run.uri)
    summary = adopt(found.settings, trial=trial, folder=run.folder, **given)
    losses = [entry["valid"]["loss"] for entry in history(run)]
    best = int(np.argmin(losses))
    assert best != len(losses) - 1
    assert (summary["best_epoch"], summary["epochs"]) == (best + 1, 6)
    assert summary["valid"]["loss"] == losses[best] == scores[-1]
    assert bundles.describe(run.folder.bundle)["metrics"]["loss"] == scores[-1]
    assert summary["scaling"]["loss_before"] == pytest.approx(scores[-1], abs=1e-6)
    valid = found.evaluate()["metrics"]["valid"]
    assert valid["loss"] == pytest.approx(summary["scaling"]["loss"], abs=1e-6)
    assert not list(run.folder.checkpoints.glob("step-*"))
    assert (trial / "best").exists()


def test_b35_a_rare_label_and_padding_weigh_what_they_should(tmp_path: Path) -> None:
    rows = lines()
    for number, labels in enumerate(rows["labels"]):
        rows["labels"][number] = ["rare" if (number + step) % 17 == 0 else "O" for step in range(len(labels))]
    run = start(tmp_path, rows, train={"epochs": 1, "learning_rate": 1e-9, "class_weights": "balanced"})
    run.train()
    (entry,) = history(run)
    training = [number for number, fold in enumerate(rows["fold"]) if fold > 1]
    predictor = bundles.open(run.folder.bundle)
    labels = list(predictor.encoding.labels)
    said = predictor.predict({"frames": [rows["frames"][number] for number in training]}, distribution=True)
    truth = [labels.index(label) for number in training for label in rows["labels"][number]]
    counts = np.bincount(truth)
    assert counts[labels.index("rare")] < 0.1 * len(truth)
    weights = (len(truth) / (2 * counts))[truth]
    steps = [step for each in said["distribution"] for step in each]
    nats = -np.log([step[label] for step, label in zip(steps, truth, strict=True)])
    assert entry["loss"] == pytest.approx((weights * nats).sum() / weights.sum(), abs=1e-5)


def test_b35_a_label_of_validation_alone_is_named_before_training(tmp_path: Path) -> None:
    rows = lines()
    rows["labels"][1] = ["of validation"] * len(rows["labels"][1])
    assert rows["fold"][1] == 1
    told = (
        "row 1, column labels, step 0: the label 'of validation' stands in 1 held-out row and in no training"
    )
    with pytest.raises(DataError, match=told):
        start(tmp_path, rows)


def test_b35_rows_with_a_label_of_validation_alone_are_left_out_on_request(tmp_path: Path) -> None:
    rows = lines()
    rows["labels"][1] = ["of validation"] * len(rows["labels"][1])
    weighed = {"epochs": 1, "class_weights": "balanced"}
    run = start(tmp_path, rows, data={"on_bad_row": "drop"}, train=weighed)
    run.train()
    (entry,) = history(run)
    assert np.isfinite([entry["loss"], entry["valid"]["loss"]]).all()
    assert bundles.open(run.folder.bundle).encoding.labels == ("down", "up")
    manifest = json.loads((run.folder.data / "manifest.json").read_text("utf8"))
    assert manifest["splits"]["valid"]["rows"] == rows["fold"].count(1) - 1
    (reason,) = pq.read_table(run.folder.data / "rejected.parquet")["reason"].to_pylist()
    assert reason.endswith("no training row has the label 'of validation'")
