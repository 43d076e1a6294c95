"""The step is exact on any number of replicas, in any batches, at random weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.data.batches import Batch, Packed, SequenceSet, training_plan
from components.networks import embeddings, models
from components.training import optimizers, strategy
from components.training import steps as steps_module
from components.training.loop import evaluate
from components.training.rules import allowed
from components.training.steps import Steps
from components.training.weighing import Weighing
from conf.schema import DropoutSettings, ModelSettings, TrainSettings

MakeSet = Callable[..., SequenceSet]
TAGS = ("O", "B-X", "I-X", "B-Y")
SEVENTEEN = [1, 8, 3, 5, 8, 2, 7, 1, 4, 6, 2, 8, 3, 3, 5, 1, 7]


def make_steps(
    num_replicas: int,
    *,
    data: SequenceSet,
    model: dict[str, Any] | None = None,
    drop: float = 0.0,
    **training: Any,
) -> Steps:
    """Steps over a small network whose weights and biases are random, the same each time."""
    task = "labelling" if data.per_step else "classification"
    is_own = "own" in (model or {})
    values: dict[str, Any] = {
        **({} if is_own else {"cell": "lstm" if data.per_step else "gru", "units": 3}),
        "readout": "last" if data.per_step else "mean",
        "dropout": DropoutSettings(input=drop, output=drop, **({} if is_own else {"recurrent": drop})),
        **(model or {}),
    }
    settings = ModelSettings(**values)
    train = TrainSettings(**{"optimizer": "sgd", "learning_rate": 0.5, "clip_norm": 0.5, **training})
    devices = strategy.Devices("CPU", tuple(f"CPU:{i}" for i in range(num_replicas)))
    distribution = strategy.strategy(devices)
    with distribution.scope():
        network = models.build(
            settings,
            task=task,
            slots=data.slots,
            num_classes=4,
            seed=0,
            unroll=settings.unroll,
            precision=train.precision,
            allowed=allowed(TAGS, "BIO"),
        )
        optimizer, _ = optimizers.build(train, total_steps=10)
        steps = Steps(
            network,
            optimizer,
            strategy=distribution,
            clip_norm=train.clip_norm,
            seed=3,
            criterion=Weighing.of(data, train, TAGS).criterion,
            accumulate=train.accumulate,
            ema=train.ema,
            loss_scaling=train.precision == "float16",
            unrolled=settings.unroll,
        )
    rng = np.random.default_rng(7)
    network.load([rng.normal(0.0, 0.5, value.shape).astype(np.float32) for value in network.weights()])
    return steps


def batches_of(
    steps: Steps, data: SequenceSet, parts: list[np.ndarray], pad_to: int | None, **training: Any
) -> list[Batch]:
    """The batches of one optimizer step on these rows."""
    weighing = Weighing.of(data, TrainSettings(**training), TAGS)
    mass = sum(weighing.masses[rows].sum() for rows in parts)
    return [
        data.batch(
            rows,
            weights=weighing.factors[rows] / mass,
            multiple_of=steps.num_replicas,
            pad_to=pad_to,
            share=steps.workers.share,
        )
        for rows in parts
    ]


def step(steps: Steps, data: SequenceSet, parts: list[np.ndarray], **training: Any) -> float:
    """One optimizer step on these rows; its loss."""
    batches = batches_of(steps, data, parts, max(8, int(data.lengths.max())), **training)
    return sum(map(float, steps.train(batches)))


def plan_of(data: SequenceSet, batch_size: int, **training: Any) -> list[list[np.ndarray]]:
    """The rows of each batch of each step of an epoch."""
    plan = training_plan(data.lengths, batch_size=batch_size, seed=0, epoch=0)
    each = training.get("accumulate", 1)
    return [plan[at : at + each] for at in range(0, len(plan), each)]


def train(steps: Steps, data: SequenceSet, *, batch_size: int = 8, **training: Any) -> list[float]:
    """One epoch; the loss of each step."""
    return [step(steps, data, parts, **training) for parts in plan_of(data, batch_size, **training)]


EVERYTHING_BESIDE = {"filters": (2,), "widths": (3,), "norm": "sequence"}
OWN = "tests.components.training.own_network:build"
SMOOTH_AND_WEIGHED = {"label_smoothing": 0.1, "class_weights": {"B-X": 3.0, "O": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_step", "drop", "symbols", "model", "training"),
    [
        (True, 0.3, True, {"bidirectional": True}, {"loss_mean": "sequence"}),
        (True, 0.0, False, {"unroll": True}, {"class_weights": "balanced", "accumulate": 2}),
        (
            True,
            0.3,
            False,
            {"crf": True, "constrained": True, "skip": True},
            {"ema": 0.5, "optimizer": "adam"},
        ),
        (True, 0.3, False, {"skip": True, "encoder": {"units": (4,), "dropout": 0.3}}, SMOOTH_AND_WEIGHED),
        (False, 0.3, False, {"readout": "attention", "branch": EVERYTHING_BESIDE}, SMOOTH_AND_WEIGHED),
        (False, 0.0, True, {"cell": "rnn", "front": EVERYTHING_BESIDE}, {"class_weights": "effective"}),
        (False, 0.0, False, {"layers": 2, "residual": True, "layer_norm": True}, {"precision": "float16"}),
        (True, 0.0, False, {"crf": True}, {"precision": "float16"}),
        (True, 0.0, False, {"constrained": True, "bidirectional": True}, {}),
        (True, 0.3, False, {"own": OWN}, {"ema": 0.5}),
    ],
    ids=[
        "dropout",
        "unroll",
        "crf",
        "encoder",
        "branch",
        "front",
        "float16",
        "crf float16",
        "constrained",
        "own",
    ],
)
def test_one_and_several_replicas_train_alike(
    make_set: MakeSet,
    monkeypatch: pytest.MonkeyPatch,
    per_step: bool,
    drop: float,
    symbols: bool,
    model: dict[str, Any],
    training: dict[str, Any],
) -> None:
    """Every head, every loss and everything that carries state; odd rows leave a replica with filler."""
    monkeypatch.setattr(embeddings, "UNKNOWN_RATE", 0.3)
    data = make_set(SEVENTEEN, per_step=per_step, symbols=symbols)
    exact = training.get("precision") is None
    longest = int(data.lengths.max())
    for num_replicas in (1, 2, 3):
        steps = make_steps(num_replicas, data=data, model=model, drop=drop, **training)
        losses = train(steps, data, **training)
        scores = evaluate(steps, data, num_classes=4, pad_to=lambda split, rows: longest)
        weights = steps.averaged()
        if num_replicas == 1:
            expected = losses, weights, scores
            continue
        np.testing.assert_allclose(losses, expected[0], rtol=1e-6 if exact else 1e-3)
        for one, other in zip(expected[1], weights, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5 if exact else 2e-3)
        assert scores["loss"] == pytest.approx(expected[2]["loss"], rel=1e-5 if exact else 1e-2)
        assert scores["accuracy"] == pytest.approx(expected[2]["accuracy"], abs=0 if exact else 0.05)


@pytest.mark.parametrize(
    ("num_replicas", "per_step", "model", "training"),
    [
        (1, True, {"bidirectional": True}, {}),
        pytest.param(
            1,
            True,
            {"crf": True, "constrained": True, "cell": "gru"},
            {"ema": 0.5, "optimizer": "adam", "accumulate": 2, "schedule": "onecycle"},
            marks=pytest.mark.slow,
        ),
        pytest.param(1, False, {"readout": "attention"}, SMOOTH_AND_WEIGHED, marks=pytest.mark.slow),
        pytest.param(
            1, True, {"cell": "rnn"}, {"precision": "float16", "accumulate": 3}, marks=pytest.mark.slow
        ),
        pytest.param(
            2,
            True,
            {"skip": True},
            {"ema": 0.5, "accumulate": 2, "optimizer": "rmsprop", **SMOOTH_AND_WEIGHED},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "crf", "classifier", "float16", "two replicas"],
)
def test_steps_in_one_call_are_those_one_by_one(
    make_set: MakeSet,
    num_replicas: int,
    per_step: bool,
    model: dict[str, Any],
    training: dict[str, Any],
) -> None:
    """To the last bit, with dropout, batches of several lengths and a last step of fewer batches."""
    data = make_set(SEVENTEEN, per_step=per_step, symbols=True)
    losses, states = [], []
    for num_calls in (None, 1, 2):
        steps = make_steps(num_replicas, data=data, model=model, drop=0.3, **training)
        each = [batches_of(steps, data, parts, None, **training) for parts in plan_of(data, 4, **training)]
        if num_calls is None:
            losses.append([float(loss) for batches in each for loss in steps.train(batches)])
        else:
            cuts = np.array_split(np.arange(len(each)), num_calls)
            packed = [Packed.of([each[place] for place in cut]) for cut in cuts]
            losses.append([float(loss) for call in packed for loss in steps.train_packed(call)])
        states.append([value.numpy() for value in [*steps.network.variables, *steps.state]])
    assert len({batch.x.shape for batches in each for batch in batches}) > 1
    assert losses[1] == losses[2] == losses[0]
    for one_by_one, in_one_call, in_two in zip(*states, strict=True):
        np.testing.assert_array_equal(in_one_call, one_by_one)
        np.testing.assert_array_equal(in_two, one_by_one)


def test_a_step_of_a_call_that_overflows_float16_moves_nothing(make_set: MakeSet) -> None:
    data = make_set([4, 4])
    steps = make_steps(1, data=data, precision="float16", optimizer="adam")
    rows, scale = np.arange(2), float(steps.scaling.scale.numpy())
    batches = [data.batch(rows, weights=np.full(2, weight)) for weight in (0.1, 1e30, 0.1)]
    steps.train_packed(Packed.of([[batch] for batch in batches]))
    assert int(steps.optimizer.iterations.numpy()) == 2
    assert float(steps.scaling.scale.numpy()) == scale / 2


@pytest.mark.parametrize(
    "training", [{}, {"loss_mean": "sequence", **SMOOTH_AND_WEIGHED}], ids=["plain", "weighed"]
)
def test_accumulated_batches_are_one_large_batch(make_set: MakeSet, training: dict[str, Any]) -> None:
    data = make_set(SEVENTEEN)
    results = []
    for parts in ([np.arange(17)], [np.arange(3), np.arange(3, 9), np.arange(9, 17)]):
        steps = make_steps(1, data=data, accumulate=len(parts), **training)
        losses = [step(steps, data, parts, **training) for _ in range(2)]
        results.append((losses, steps.network.weights()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def stretches(steps: Steps, data: SequenceSet, size: int, **training: Any) -> tuple[list[float], list[float]]:
    """One batch of all rows in stretches: losses and masses."""
    weighing = Weighing.of(data, TrainSettings(**training), TAGS)
    rows = np.arange(len(data))
    whole = data.batch(rows, weights=weighing.factors, multiple_of=steps.num_replicas)
    parts, masses = zip(*weighing.stretches(whole, size), strict=True)
    return [float(loss) for loss in steps.train_stretches(parts)], list(masses)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_stretches_carry_the_state_on(make_set: MakeSet, cell: str) -> None:
    """Where weights stand still, all stretches together have the loss of the whole."""
    data, options = (
        make_set(SEVENTEEN),
        {"loss_mean": "sequence", **SMOOTH_AND_WEIGHED, "learning_rate": 1e-30},
    )
    model = {"cell": cell, "layers": 2, "units": 3}
    whole = step(make_steps(1, data=data, model=model, **options), data, [np.arange(17)], **options)
    losses, masses = stretches(make_steps(1, data=data, model=model, **options), data, 3, **options)
    assert len(losses) == 3
    assert np.average(losses, weights=masses) == pytest.approx(whole, rel=1e-5)


def test_one_stretch_is_an_ordinary_step_and_replicas_take_stretches_alike(make_set: MakeSet) -> None:
    data, model = make_set(SEVENTEEN), {"cell": "gru"}
    weights = []
    for num_replicas, size in ((1, None), (1, 8), (1, 3), (2, 3)):
        steps = make_steps(num_replicas, data=data, model=model, drop=0.3 if size == 3 else 0.0)
        if size is None:
            step(steps, data, [np.arange(17)])
        else:
            stretches(steps, data, size)
        weights.append(steps.network.weights())
    for one, other in ((weights[0], weights[1]), (weights[2], weights[3])):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_weight_of_two_counts_like_a_sequence_given_twice(make_set: MakeSet) -> None:
    data = make_set([1, 1, 1, 1, 1, 1], per_step=False)
    heavy = TAGS[data.y[0]]
    mine = np.flatnonzero(data.y == data.y[0])
    once, twice = make_steps(1, data=data, class_weights={heavy: 2.0}), make_steps(1, data=data)
    loss = step(once, data, [np.arange(6)], class_weights={heavy: 2.0})
    assert loss == pytest.approx(step(twice, data, [np.concatenate([np.arange(6), mine])]), rel=1e-6)
    for one, other in zip(once.network.weights(), twice.network.weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_the_average_of_the_weights_follows_them(make_set: MakeSet) -> None:
    data = make_set([4, 4])
    steps = make_steps(1, data=data, ema=0.9)
    for average, variable in zip(steps.averages, steps.network.variables, strict=True):
        average.assign(variable.value)
    expected = steps.averaged()
    for done in (1, 2, 3):
        step(steps, data, [np.arange(2)])
        decay = min(0.9, (1 + done) / (10 + done))
        weights = steps.network.weights()
        expected = [decay * a + (1 - decay) * w for a, w in zip(expected, weights, strict=True)]
    for average, value in zip(steps.averaged(), expected, strict=True):
        np.testing.assert_allclose(average, value, atol=1e-6)


def test_a_step_that_overflows_float16_moves_nothing_and_halves_the_scale(make_set: MakeSet) -> None:
    data = make_set([4, 4])
    steps = make_steps(1, data=data, precision="float16", optimizer="adam")
    before, scale = steps.network.weights(), float(steps.scaling.scale.numpy())
    rows = np.arange(2)
    steps.train([data.batch(rows, weights=np.full(2, 1e30))])
    assert float(steps.scaling.scale.numpy()) == scale / 2
    assert int(steps.optimizer.iterations.numpy()) == 0
    for one, other in zip(before, steps.network.weights(), strict=True):
        np.testing.assert_array_equal(other, one)
    step(steps, data, [rows])
    assert int(steps.optimizer.iterations.numpy()) == 1
    assert any((a != b).any() for a, b in zip(before, steps.network.weights(), strict=True))


def test_steps_without_overflow_double_the_scale_of_float16(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "STEPS_TO_DOUBLE", 3)
    data = make_set([4, 4])
    steps = make_steps(1, data=data, precision="float16")
    scales = []
    for _ in range(6):
        step(steps, data, [np.arange(2)])
        scales.append(float(steps.scaling.scale.numpy()))
    first = steps_module.FIRST_SCALE
    assert scales == [first, first, 2 * first, 2 * first, 2 * first, 4 * first]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_low_precision_has_the_gradient_of_float32_within_its_digits(
    make_set: MakeSet, precision: str
) -> None:
    data = make_set([8, 5, 2, 7])
    changes = []
    for numbers in ("float32", precision):
        steps = make_steps(1, data=data, precision=numbers, learning_rate=1.0, clip_norm=None)
        before = steps.network.weights()
        step(steps, data, [np.arange(4)])
        after = steps.network.weights()
        changes.append(np.concatenate([(a - b).ravel() for a, b in zip(before, after, strict=True)]))
    error = np.linalg.norm(changes[1] - changes[0]) / np.linalg.norm(changes[0])
    assert 0 < error < (0.01 if precision == "float16" else 0.06)


@pytest.mark.parametrize("symbols", [False, True])
def test_the_gradient_is_the_same_on_two_replicas(make_set: MakeSet, symbols: bool) -> None:
    """With SGD at rate 1 and no clipping, the change of the weights is the gradient."""
    data = make_set([12, 1, 1], symbols=symbols)
    gradients = []
    for num_replicas in (1, 2):
        steps = make_steps(num_replicas, data=data, learning_rate=1.0, clip_norm=None)
        before = steps.network.weights()
        step(steps, data, [np.arange(3)])
        after = steps.network.weights()
        gradients.append([a - b for a, b in zip(before, after, strict=True)])
    for one, two in zip(*gradients, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_fewer_sequences_than_replicas_train_and_count_once(make_set: MakeSet) -> None:
    data = make_set([5])
    results = []
    for num_replicas in (1, 3):
        steps = make_steps(num_replicas, data=data)
        loss = step(steps, data, [np.array([0])])
        results.append((loss, steps.network.weights(), evaluate(steps, data, num_classes=4)))
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-6)
    assert results[1][2] == pytest.approx(results[0][2], abs=1e-6)
    for one, several in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(several, one, atol=1e-6)


def test_the_evaluated_loss_is_the_mean_over_real_steps_in_any_batches(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_set([8, 8, 1, 1])
    steps = {1: make_steps(1, data=data), 2: make_steps(2, data=data)}
    total = 0.0
    for row in range(4):
        x = tf.constant(data.x[data.offsets[row] : data.offsets[row + 1]][np.newaxis])
        logits = steps[1].network.logits(x, tf.constant([len(x[0])])).numpy()[0].astype(np.float64)
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
    steps = make_steps(1, data=data, learning_rate=1.0, clip_norm=0.01)
    before = steps.network.weights()
    step(steps, data, [np.arange(2)])
    changes = [a - b for a, b in zip(before, steps.network.weights(), strict=True)]
    assert np.sqrt(sum(float((change**2).sum()) for change in changes)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("column", [3, 4], ids=["symbol", "first character"])
def test_labels_that_only_symbols_tell_are_learnt(make_set: MakeSet, column: int) -> None:
    data = make_set([5] * 60, symbols=True)
    data = replace(data, y=(data.x[:, column] % 4).astype(np.int32))
    steps = make_steps(1, data=data, optimizer="adam", learning_rate=0.03, clip_norm=5.0)
    for _ in range(25):
        train(steps, data, batch_size=20)
    assert evaluate(steps, data, num_classes=4)["accuracy"] > 0.9
