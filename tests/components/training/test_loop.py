"""The loop: resumed equals undisturbed, the best epoch is kept, and NaN ends it."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.batches import SequenceSet
from components.errors import CheckpointError, ClusterError, DataError, TrainingDiverged
from components.networks import embeddings
from components.spans import Tagging
from components.training import loop, steps
from components.training.checkpoints import Checkpoints, Saved
from components.training.loop import fit
from components.training.progress import Progress
from conf.schema import DropoutSettings, EarlyStopping, ModelSettings, TrainSettings

MakeSet = Callable[..., SequenceSet]
LABELS = ("a", "b", "c", "d")
LENGTHS = [3, 1, 5, 2, 4, 4, 1, 3, 2, 5, 3]


def start(
    make_set: MakeSet,
    folder: Path,
    *,
    key: str = "key",
    should_stop: Any = lambda: False,
    symbols: bool = False,
    **training: Any,
) -> Iterator[Progress]:
    """A training with dropout and a schedule, on 11 and 4 sequences."""
    settings = {
        "epochs": 3,
        **({} if "batch_steps" in training else {"batch_size": 3}),
        "learning_rate": 0.05,
        "schedule": "cosine",
        "devices": "cpu:1",
        "steps_per_call": 1,
        **training,
    }
    return fit(
        make_set(LENGTHS, symbols=symbols),
        make_set([2, 4, 1, 3], seed=9, symbols=symbols),
        task="labelling",
        labels=LABELS,
        model=ModelSettings(cell="rnn", units=4, dropout=DropoutSettings(output=0.2)),
        training=TrainSettings(**settings),
        checkpoints=Checkpoints(folder, key),
        should_stop=should_stop,
    )


# A learning rate under which nothing gets better for long.
STUCK: dict[str, Any] = {"learning_rate": 2.0, "epochs": 8, "plateau": {"patience": 1, "factor": 0.1}}


def outcome(folder: Path, progress: list[Progress]) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Best weights, and the history without its timings."""
    timings = ("seconds", "step_seconds", "waiting_seconds", "steps_per_second")
    history = [
        {name: value for name, value in entry.items() if name not in timings}
        for entry in progress[-1].history
    ]
    return Checkpoints(folder, "key").load_best().arrays, history


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert len(one[1]) == len(other[1])
    for a, b in zip(one[1], other[1], strict=True):
        assert a["valid"] == pytest.approx(b["valid"], abs=1e-6)
        assert (a["epoch"], a["step"], a["best"]) == (b["epoch"], b["step"], b["best"])
        assert (a["loss"], a["learning_rate"]) == pytest.approx((b["loss"], b["learning_rate"]), abs=1e-6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("undisturbed")}


def whole(make_set: MakeSet, undisturbed: dict[str, Any]) -> tuple[Any, Any]:
    """The outcome of a training that nothing disturbed, trained once."""
    if "outcome" not in undisturbed:
        progress = list(start(make_set, undisturbed["folder"]))
        undisturbed["outcome"] = outcome(undisturbed["folder"], progress)
    return undisturbed["outcome"]


def test_the_same_seed_gives_the_same_weights_and_scores(
    make_set: MakeSet, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    expected = whole(make_set, undisturbed)
    assert_same(outcome(tmp_path, list(start(make_set, tmp_path))), expected)
    assert expected[1][-1]["loss"] < expected[1][0]["loss"]


@pytest.mark.parametrize("stop_at", [2, 4, 7])
def test_a_stop_checkpoints_and_going_on_equals_never_stopping(
    make_set: MakeSet, tmp_path: Path, undisturbed: dict[str, Any], stop_at: int
) -> None:
    asked = iter(range(1, 100))
    first = list(start(make_set, tmp_path, should_stop=lambda: next(asked) == stop_at))
    assert (first[-1].kind, first[-1].step) == ("stopped", stop_at)
    second = list(start(make_set, tmp_path))
    assert (second[0].kind, second[0].step) == ("resumed", stop_at)
    assert_same(outcome(tmp_path, second), whole(make_set, undisturbed))


def test_going_on_equals_never_stopping_where_symbols_are_made_unknown_at_random(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "UNKNOWN_RATE", 0.3)
    expected = outcome(tmp_path / "a", list(start(make_set, tmp_path / "a", symbols=True)))
    asked = iter(range(1, 100))
    list(start(make_set, tmp_path / "b", symbols=True, should_stop=lambda: next(asked) == 6))
    assert_same(outcome(tmp_path / "b", list(start(make_set, tmp_path / "b", symbols=True))), expected)


@pytest.mark.parametrize(
    "training",
    [
        {"ema": 0.9, "accumulate": 2, "batch_size": 2, "schedule": "onecycle"},
        {"precision": "float16", "schedule": "plateau", **STUCK},
        {"batch_steps": 12, "class_weights": "balanced", "label_smoothing": 0.1, "optimizer": "rmsprop"},
        {"truncate": 2, "warmup_steps": 9},
        {"devices": "cpu:2", "ema": 0.9},
    ],
    ids=["average", "scale and plateau", "steps per batch", "stretches", "two devices"],
)
def test_going_on_equals_never_stopping_with_everything_that_carries_state(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    monkeypatch.setattr(steps, "STEPS_TO_DOUBLE", 3)
    asked = count(1)
    undisturbed = start(make_set, tmp_path / "a", should_stop=lambda: not next(asked), **training)
    expected = outcome(tmp_path / "a", list(undisturbed))
    stop_at = next(asked) // 2 + 1
    asked = count(1)
    first = start(make_set, tmp_path / "b", should_stop=lambda: next(asked) == stop_at, **training)
    assert list(first)[-1].kind == "stopped"
    assert_same(outcome(tmp_path / "b", list(start(make_set, tmp_path / "b", **training))), expected)
    # The optimizer's numbers too, the averages, and the loss scale.
    states = [saved.arrays for saved in map(last_saved, (tmp_path / "a", tmp_path / "b"))]
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    if "precision" in training:
        assert states[0][-2] != steps.FIRST_SCALE, "nothing was there to be gone on from"
        rates = [entry["learning_rate"] for entry in expected[1]]
        assert rates[-1] == pytest.approx(rates[0] * STUCK["plateau"]["factor"] ** rates_fell(rates))
        assert rates_fell(rates) >= 1


def rates_fell(rates: list[float]) -> int:
    """How often the learning rate became smaller."""
    return sum(after < before for before, after in pairwise(rates))


def last_saved(folder: Path) -> Saved:
    saved = Checkpoints(folder, "key").load()
    assert saved is not None
    return saved


def test_two_devices_choose_the_epoch_and_report_the_scores_of_one(
    make_set: MakeSet, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    found = outcome(tmp_path, list(start(make_set, tmp_path, devices="cpu:2")))
    assert_same(found, whole(make_set, undisturbed))


def test_time_spent_waiting_for_batches_is_measured(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = loop._Run._call
    calls: list[Any] = []

    def slowly(run: Any, plans: Any) -> Any:
        calls.append(plans)
        time.sleep(0.1)
        return build(run, plans)

    monkeypatch.setattr(loop._Run, "_call", slowly)
    (entry,) = list(start(make_set, tmp_path, epochs=1, devices="cpu:1"))[-1].history
    # Not all of it: batches are built while steps are computed, and the first step's graph is traced.
    assert entry["waiting_seconds"] >= 0.1 * (len(calls) - 1) / 2
    assert entry["waiting_seconds"] <= entry["seconds"]


@pytest.mark.parametrize(
    "training",
    [{}, {"accumulate": 2, "ema": 0.9, "class_weights": "balanced"}],
    ids=["plain", "average"],
)
def test_several_steps_per_call_change_nothing_and_are_gone_on_from(
    make_set: MakeSet, tmp_path: Path, training: dict[str, Any]
) -> None:
    training = {"batch_size": 1, "epochs": 4, **training}
    expected = outcome(tmp_path / "a", list(start(make_set, tmp_path / "a", **training)))
    num_steps = expected[1][-1]["step"]

    def in_calls(name: str, *, stop_at: int = 0) -> tuple[list[Progress], int]:
        """What happens, and how many calls there are."""
        asked = count(1)
        happened = start(
            make_set,
            tmp_path / name,
            should_stop=lambda: next(asked) == stop_at,
            **{"steps_per_call": 4, **training},
        )
        return list(happened), next(asked) - 1

    progress, num_calls = in_calls("b")
    assert num_calls < num_steps
    assert_same(outcome(tmp_path / "b", progress), expected)
    progress, _ = in_calls("c", stop_at=num_steps // 4 + 1)
    assert progress[-1].kind == "stopped"
    progress, _ = in_calls("c")
    assert_same(outcome(tmp_path / "c", progress), expected)


def test_a_loop_that_just_ends_in_mid_epoch_goes_on_from_its_last_checkpoint(
    make_set: MakeSet, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    progress = start(make_set, tmp_path, checkpoint_seconds=1e-6)
    for item in progress:
        if item.step == 6:
            break
    del progress
    assert_same(outcome(tmp_path, list(start(make_set, tmp_path))), whole(make_set, undisturbed))


def test_a_finished_training_does_nothing_when_started_again(make_set: MakeSet, tmp_path: Path) -> None:
    list(start(make_set, tmp_path, epochs=1))
    again = list(start(make_set, tmp_path, epochs=1))
    assert [item.kind for item in again] == ["resumed"]


def test_the_best_epoch_is_kept_though_later_ones_are_worse(make_set: MakeSet, tmp_path: Path) -> None:
    """A rate this large makes a first gain and then wanders."""
    options = {"epochs": 5, "learning_rate": 0.4, "schedule": "constant"}
    progress = list(start(make_set, tmp_path, **options))
    history = progress[-1].history
    losses = [entry["valid"]["loss"] for entry in history]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1, losses
    saved = Checkpoints(tmp_path, "key").load_best()
    assert saved.state["epoch"] == best + 1
    run = loop._Run(
        make_set(LENGTHS),
        make_set([2, 4, 1, 3], seed=9),
        "labelling",
        LABELS,
        ModelSettings(cell="rnn", units=4),
        TrainSettings(devices="cpu:1"),
        Checkpoints(tmp_path / "none", "key"),
        None,
        None,
        lambda: False,
    )
    run.network.load(saved.arrays)
    again = loop.evaluate(run.steps, run.valid, num_classes=4)
    assert again == pytest.approx(saved.state["valid"], abs=1e-6)


def test_the_metric_of_early_stopping_picks_the_best_epoch(make_set: MakeSet, tmp_path: Path) -> None:
    stopping = EarlyStopping(metric="accuracy", patience=None)
    progress = list(start(make_set, tmp_path, early_stopping=stopping))
    accuracies = [entry["valid"]["accuracy"] for entry in progress[-1].history]
    assert Checkpoints(tmp_path, "key").load_best().state["epoch"] == int(np.argmax(accuracies)) + 1


def test_epochs_are_not_told_apart_by_spans_that_the_validation_rows_do_not_hold(
    make_set: MakeSet, tmp_path: Path
) -> None:
    tagging = Tagging("BIO", np.array(["O", "B", "I", "O"]), np.array([-1, 0, 0, -1]), ("x",))
    given = {
        "task": "labelling",
        "labels": LABELS,
        "model": ModelSettings(units=4),
        "training": TrainSettings(devices="cpu:1", early_stopping=EarlyStopping(metric="span_f1")),
        "tagging": tagging,
    }
    train, valid = make_set(LENGTHS), make_set([2, 4], seed=9)
    valid.y[:] = 0
    with pytest.raises(DataError, match="span_f1, and no validation row holds a span") as caught:
        fit(train, valid, checkpoints=Checkpoints(tmp_path, "key"), **given)
    assert "loss or accuracy" in caught.value.hint
    valid.y[0] = 1
    fit(train, valid, checkpoints=Checkpoints(tmp_path, "key"), **given)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_the_run_and_no_checkpoint_holds_it(
    make_set: MakeSet, tmp_path: Path
) -> None:
    spoilt = make_set(LENGTHS)
    spoilt.x[5, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="epoch 1") as caught:
        list(
            fit(
                spoilt,
                make_set([2], seed=9),
                task="labelling",
                labels=LABELS,
                model=ModelSettings(units=4),
                training=TrainSettings(batch_size=3, devices="cpu:1", checkpoint_seconds=1e-6),
                checkpoints=Checkpoints(tmp_path, "key"),
            )
        )
    assert "train.learning_rate" in caught.value.hint
    for path in tmp_path.glob("*/state.npz"):
        with np.load(path) as arrays:
            assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_faults_show_when_fit_is_called_not_when_it_is_read(make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="GPUs asked"):
        start(make_set, tmp_path, devices="gpu:8")
    list(start(make_set, tmp_path, epochs=1))
    with pytest.raises(CheckpointError, match="other settings"):
        start(make_set, tmp_path, key="another")


def test_progress_says_where_the_training_is(make_set: MakeSet, tmp_path: Path) -> None:
    progress = list(start(make_set, tmp_path, epochs=2))
    epochs = [item for item in progress if item.kind == "epoch"]
    assert [item.epoch for item in epochs] == [1, 2]
    assert all(item.num_steps_done == item.num_steps == sum(LENGTHS) for item in epochs)
    assert all(item.metrics.keys() >= {"loss", "accuracy", "sequence_accuracy"} for item in epochs)
    assert len(list(tmp_path.glob("step-*"))) <= 2
    assert not list(tmp_path.glob(".*"))
