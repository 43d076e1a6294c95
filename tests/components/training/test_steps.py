"""The step is exact on any number of replicas, in any batches, at random weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.data.batches import SequenceSet, training_plan
from components.networks import embeddings, models
from components.served.encoding import Slot
from components.training import optimizers, strategy
from components.training.loop import evaluate
from components.training.steps import Steps
from conf.schema import DropoutSettings, ModelSettings, TrainSettings

MakeSet = Callable[..., SequenceSet]
SEVENTEEN = [1, 8, 3, 5, 8, 2, 7, 1, 4, 6, 2, 8, 3, 3, 5, 1, 7]


def make_steps(
    num_replicas: int,
    *,
    slots: tuple[Slot, ...] = (Slot("numbers", 3),),
    task: str = "labelling",
    drop: float = 0.0,
    unroll: bool = False,
    **training: Any,
) -> Steps:
    """Steps over a small network whose weights and biases are random, the same each time."""
    settings = ModelSettings(
        cell="lstm" if task == "labelling" else "gru",
        units=4,
        layers=2,
        bidirectional=True,
        readout="mean" if task == "classification" else "last",
        dropout=DropoutSettings(input=drop, output=drop, recurrent=drop),
    )
    values = {"optimizer": "sgd", "learning_rate": 0.5, "clip_norm": 0.5, **training}
    devices = strategy.Devices("CPU", tuple(f"CPU:{i}" for i in range(num_replicas)))
    distribution = strategy.strategy(devices)
    with distribution.scope():
        network = models.build(settings, task=task, slots=slots, num_classes=4, seed=0, unroll=unroll)
        train = TrainSettings(**values)
        optimizer = optimizers.build(train, total_steps=10)
        steps = Steps(
            network,
            optimizer,
            strategy=distribution,
            clip_norm=train.clip_norm,
            seed=3,
            unrolled=unroll,
        )
    rng = np.random.default_rng(7)
    network.load([rng.normal(0.0, 0.5, value.shape).astype(np.float32) for value in network.weights()])
    return steps


def train(steps: Steps, data: SequenceSet, *, batch_size: int = 8, loss_mean: str = "step") -> list[float]:
    """One epoch; the loss of each step."""
    plan = training_plan(data.lengths, batch_size=batch_size, seed=0, epoch=0)
    batches = (
        data.batch(rows, loss_mean=loss_mean, multiple_of=steps.num_replicas, pad_to=8) for rows in plan
    )
    return [float(steps.train(batch)) for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "drop", "loss_mean", "unroll", "symbols"),
    [
        ("labelling", 0.0, "step", False, False),
        ("labelling", 0.3, "sequence", False, False),
        ("classification", 0.3, "step", False, False),
        ("labelling", 0.0, "step", True, False),
        ("labelling", 0.3, "step", False, True),
        ("classification", 0.0, "step", False, True),
    ],
)
def test_one_two_and_three_replicas_train_alike(
    make_set: MakeSet,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    drop: float,
    loss_mean: str,
    unroll: bool,
    symbols: bool,
) -> None:
    monkeypatch.setattr(embeddings, "UNKNOWN_RATE", 0.3)
    data = make_set(SEVENTEEN, per_step=task == "labelling", symbols=symbols)
    losses, weights = {}, {}
    for num_replicas in (1, 2, 3):
        steps = make_steps(num_replicas, slots=data.slots, task=task, drop=drop, unroll=unroll)
        losses[num_replicas] = train(steps, data, loss_mean=loss_mean)
        weights[num_replicas] = steps.network.weights()
    for num_replicas in (2, 3):
        np.testing.assert_allclose(losses[num_replicas], losses[1], rtol=1e-6, atol=1e-6)
        for one, several in zip(weights[1], weights[num_replicas], strict=True):
            np.testing.assert_allclose(several, one, atol=1e-5)


@pytest.mark.parametrize("symbols", [False, True])
def test_the_gradient_is_the_same_on_two_replicas(make_set: MakeSet, symbols: bool) -> None:
    """With SGD at rate 1 and no clipping, the change of the weights is the gradient."""
    data = make_set([12, 1, 1], symbols=symbols)
    gradients = []
    for num_replicas in (1, 2):
        steps = make_steps(num_replicas, slots=data.slots, learning_rate=1.0, clip_norm=None)
        before = steps.network.weights()
        steps.train(data.batch(np.arange(3), multiple_of=num_replicas))
        after = steps.network.weights()
        gradients.append([a - b for a, b in zip(before, after, strict=True)])
    for one, two in zip(*gradients, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_fewer_sequences_than_replicas_train_and_count_once(make_set: MakeSet) -> None:
    data = make_set([5])
    results = []
    for num_replicas in (1, 3):
        steps = make_steps(num_replicas)
        loss = float(steps.train(data.batch(np.array([0]), multiple_of=num_replicas)))
        results.append((loss, steps.network.weights(), evaluate(steps, data, num_classes=4)))
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-6)
    assert results[1][2] == pytest.approx(results[0][2], abs=1e-6)
    for one, several in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(several, one, atol=1e-6)


def test_the_evaluated_loss_is_the_mean_over_real_steps_in_any_batches(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_set([8, 8, 1, 1])
    steps = {1: make_steps(1), 2: make_steps(2)}
    total = 0.0
    for row in range(4):
        x = tf.constant(data.x[data.offsets[row] : data.offsets[row + 1]][np.newaxis])
        logits = steps[1].network(x, tf.constant([len(x[0])])).numpy()[0].astype(np.float64)
        chosen = logits[np.arange(len(logits)), data.targets(row)]
        total += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
    for num_replicas in (1, 2):
        for size in (1, 2, 4):
            cut = [np.arange(4)[at : at + size] for at in range(0, 4, size)]
            monkeypatch.setattr("components.training.loop.batches", lambda lengths, cut=cut: cut)
            scores = evaluate(steps[num_replicas], data, num_classes=4)
            assert scores["loss"] == pytest.approx(total / 18, abs=1e-6)


@pytest.mark.parametrize("symbols", [False, True])
def test_clipping_bounds_the_whole_gradient(make_set: MakeSet, symbols: bool) -> None:
    """A symbol that stands at several steps counts with the sum of its gradients."""
    data = make_set([4, 4], symbols=symbols)
    steps = make_steps(1, slots=data.slots, learning_rate=1.0, clip_norm=0.01)
    before = steps.network.weights()
    steps.train(data.batch(np.arange(2)))
    changes = [a - b for a, b in zip(before, steps.network.weights(), strict=True)]
    assert np.sqrt(sum(float((change**2).sum()) for change in changes)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("column", [3, 4], ids=["symbol", "first character"])
def test_labels_that_only_symbols_tell_are_learnt(make_set: MakeSet, column: int) -> None:
    data = make_set([5] * 60, symbols=True)
    data = replace(data, y=(data.x[:, column] % 4).astype(np.int32))
    steps = make_steps(1, slots=data.slots, optimizer="adam", learning_rate=0.03, clip_norm=5.0)
    for _ in range(25):
        train(steps, data, batch_size=20)
    assert evaluate(steps, data, num_classes=4)["accuracy"] > 0.9
