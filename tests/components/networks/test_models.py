"""Networks from settings: every option keeps to the real steps, and the SavedModel says the same."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.data.tags import is_legal
from components.networks import models
from components.networks.layers import Noise
from components.served.encoding import Slot
from components.training.rules import allowed
from conf.schema import ModelSettings

TAGS = ("O", "B-X", "E-X", "S-X")
SIZES: dict[str, Any] = {
    "slots": (Slot("numbers", 3), Slot("numbers", 1, once=True)),
    "num_classes": 4,
    "seed": 0,
}
LENGTHS = np.array([6, 1, 4, 2], np.int32)
DROP = {"input": 0.3, "output": 0.3}
CONVOLUTIONS = {"filters": [3, 2], "widths": [3, 2], "dropout": 0.3}
IMAGE = {"shape": [2, 2], "filters": [3], "units": [3], "dropout": 0.3}

LABELLERS: dict[str, dict[str, Any]] = {
    "plain": {"bidirectional": True, "dropout": {**DROP, "recurrent": 0.3}},
    "gru, dropout by sequence": {"cell": "gru", "dropout": {**DROP, "per": "sequence"}},
    "lstm": {"cell": "lstm", "bidirectional": True},
    "residual": {"layers": 3, "bidirectional": True, "residual": True},
    "layer_norm": {"layers": 2, "layer_norm": True},
    "dense encoder": {"encoder": {"units": [5, 3], "dropout": 0.3}},
    "image encoder": {"encoder": IMAGE},
    "front": {"front": CONVOLUTIONS},
    "skip": {"skip": True, "dropout": {**DROP, "context": 0.5}},
    "context in the first state": {"context": "state", "cell": "lstm", "layers": 2, "bidirectional": True},
    "context past the recurrence": {"context": "readout", "skip": True},
    "crf": {"crf": True},
    "constrained": {"constrained": True},
    "crf, constrained": {"crf": True, "constrained": True},
}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "last": {"bidirectional": True},
    "mean": {"readout": "mean", "bidirectional": True},
    "max": {"readout": "max", "bidirectional": True},
    "attention": {"readout": "attention", "bidirectional": True},
    "branch": {"branch": CONVOLUTIONS, "encoder": {"units": [3]}},
    "context": {"context": "readout", "branch": CONVOLUTIONS},
    "branch by channel": {"branch": {**CONVOLUTIONS, "norm": "channel", "pool": "max"}},
    "branch by sequence": {"branch": {**CONVOLUTIONS, "norm": "sequence", "pool": "both"}},
}
CASES = [
    *(("labelling", name, model) for name, model in LABELLERS.items()),
    *(("classification", name, model) for name, model in CLASSIFIERS.items()),
]


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings.model_validate({"cell": "rnn", "units": 3, **changes})


def build(task: str, model: dict[str, Any], **options: Any) -> Any:
    rules = allowed(TAGS, "BIOES")
    made = settings(**{"dropout": DROP, **model})
    return models.build(made, task=task, allowed=rules, **{**SIZES, **options})


def randomised(network: Any) -> Any:
    """Random biases too: with zero biases some cells stay at zero over padding."""
    rng = np.random.default_rng(5)
    network.load([rng.normal(0.0, 0.6, value.shape).astype(np.float32) for value in network.weights()])
    return network


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[1])
def case(request: pytest.FixtureRequest) -> tuple[Any, str, dict[str, Any]]:
    """A network with each of the options, its task and its settings."""
    task, _, model = request.param
    return randomised(build(task, model)), task, model


def sequences(*, beyond: float = 1e3) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(4, 6, 4)).astype(np.float32)
    x[..., 3] = x[:, :1, 3]  # the context
    x[np.arange(6) >= LENGTHS[:, np.newaxis]] = beyond
    return x


def truth(task: str) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 4, (4, 6) if task == "labelling" else 4).astype(np.int32)


def noise(*, step: int = 0, first_row: int = 0) -> Noise:
    return Noise(tf.constant([0, step], tf.int32), first_row)


def losses(network: Any, task: str, rows: slice = slice(None), noise: Noise | None = None) -> np.ndarray:
    x, lengths, targets = (tf.constant(each[rows]) for each in (sequences(), LENGTHS, truth(task)))
    return network.losses(x, lengths, targets, noise).numpy()


def test_padding_and_what_stands_in_it_change_neither_answers_nor_losses(
    case: tuple[Any, str, dict[str, Any]],
) -> None:
    network, task, _ = case
    x, y = sequences(), truth(task)
    together = network.answers(tf.constant(x), tf.constant(LENGTHS))
    of_all = losses(network, task)
    assert together.log_probabilities.shape == ((4, 6, 4) if task == "labelling" else (4, 4))
    assert together.best.dtype == tf.int32
    for row, length in enumerate(LENGTHS):
        read = tf.constant(x[row : row + 1, :length]), tf.constant([length])
        alone = network.answers(*read)
        for one, other in zip(together, alone, strict=True):
            found = one[row, :length] if task == "labelling" else one[row]
            np.testing.assert_allclose(found, other[0], atol=1e-5)
        target = tf.constant(y[row : row + 1, :length] if task == "labelling" else y[row : row + 1])
        np.testing.assert_allclose(of_all[row], network.losses(*read, target)[0], rtol=1e-5, atol=1e-5)


def test_a_share_of_the_batch_has_the_noise_it_has_in_the_whole(
    case: tuple[Any, str, dict[str, Any]],
) -> None:
    network, task, _ = case
    whole = losses(network, task, noise=noise())
    shares = [losses(network, task, slice(at, at + 2), noise(first_row=at)) for at in (0, 2)]
    np.testing.assert_allclose(np.concatenate(shares), whole, rtol=1e-5, atol=1e-5)
    assert np.abs(losses(network, task, noise=noise(step=1)) - whole).max() > 1e-3
    assert np.abs(losses(network, task) - whole).max() > 1e-3


def test_the_same_seed_gives_the_same_first_weights(case: tuple[Any, str, dict[str, Any]]) -> None:
    _, task, model = case
    one, same, other = (build(task, model, seed=seed).weights() for seed in (3, 3, 4))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        # What begins as zeros or ones does so with every seed.
        assert (a != c).any() or len(np.unique(a)) == 1 or a.ndim == 1
    drawn = [a for a in one if len(np.unique(a)) > 2]
    assert not any(a.shape == b.shape and (a == b).all() for a, b in itertools.combinations(drawn, 2))


def test_half_precision_says_nearly_the_same(case: tuple[Any, str, dict[str, Any]]) -> None:
    network, task, model = case
    half = build(task, model, precision="float16")
    half.load(network.weights())
    assert all(weights.dtype == np.float32 for weights in half.weights())
    # Zeros in the padding, as batches have them: large numbers there overflow float16.
    x, lengths, y = tf.constant(sequences(beyond=0.0)), tf.constant(LENGTHS), tf.constant(truth(task))
    for at in (None, noise()):
        found, expected = half.losses(x, lengths, y, at), network.losses(x, lengths, y, at)
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.05)
    full, found = network.answers(x, lengths), half.answers(x, lengths)
    real = tf.sequence_mask(lengths, 6).numpy() if task == "labelling" else slice(None)
    difference = np.exp(full.log_probabilities.numpy()[real]) - np.exp(found.log_probabilities.numpy()[real])
    assert np.abs(difference).max() < 0.02


@pytest.mark.parametrize(("cell", "gates", "biases"), [("gru", 3, 2), ("lstm", 4, 1), ("rnn", 1, 1)])
def test_the_number_of_parameters_follows_the_formula(cell: str, gates: int, biases: int) -> None:
    network = build("labelling", {"cell": cell, "units": 5, "layers": 2, "bidirectional": True})
    per_layer = [2 * gates * 5 * (width + 5 + biases) for width in (4, 10)]
    assert network.num_parameters == sum(per_layer) + (10 + 1) * 4


@pytest.mark.parametrize(
    ("task", "model", "more"),
    [
        ("labelling", {"crf": True}, 4 + 16 + 4),
        ("labelling", {"constrained": True}, 0),
        ("labelling", {"skip": True}, 4 * 4),
        ("labelling", {"layer_norm": True}, 2 * 3),
        ("labelling", {"encoder": {"units": [4]}}, 4 * 4 + 4),
        ("classification", {"readout": "attention"}, 3 * 3 + 3 + 3),
        ("classification", {"branch": {"filters": [2], "widths": [5]}}, (5 * 4 * 2 + 2) + 2 * 2 + 2 * 4),
        (
            "classification",
            {"branch": {"filters": [2], "widths": [5], "pool": "both"}},
            (5 * 4 * 2 + 2) + 2 * 2 + 4 * 4,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_adds_as_many_parameters_as_it_needs(task: str, model: dict[str, Any], more: int) -> None:
    assert build(task, model).num_parameters == build(task, {}).num_parameters + more


def test_layers_and_directions_have_cells_of_their_own() -> None:
    network = build("labelling", {"cell": "gru", "units": 5, "layers": 2, "bidirectional": True})
    assert len({id(variable) for variable in network.variables}) == len(network.variables) == 2 * 2 * 3 + 2
    recurrent = [weights for weights in network.weights() if weights.shape == (5, 15)]
    assert len(recurrent) == 4
    assert all((one != other).any() for i, one in enumerate(recurrent) for other in recurrent[:i])


def test_a_residual_layer_adds_what_the_layer_below_says() -> None:
    network = randomised(build("labelling", {"layers": 2, "bidirectional": True, "residual": True}))
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    below = [direction(x, lengths, None) for direction in network.layers[0]]
    above = [direction(tf.concat(below, axis=-1), lengths, None) for direction in network.layers[1]]
    both = tf.concat([low + high for low, high in zip(below, above, strict=True)], axis=-1)
    np.testing.assert_allclose(network.logits(x, lengths), network.head(both), atol=1e-5)


def test_context_dropout_hides_the_recurrence_of_whole_sequences_and_scales_nothing() -> None:
    network = randomised(build("labelling", {"skip": True, "dropout": {"context": 0.3}}))
    x = tf.constant(np.random.default_rng(3).normal(size=(600, 3, 4)).astype(np.float32))
    lengths = tf.fill([600], 3)
    with_context = network.logits(x, lengths).numpy()
    without = network.head(tf.concat([tf.zeros((600, 3, 3)), x], axis=-1)).numpy()
    found = network.logits(x, lengths, noise()).numpy()
    is_hidden = np.abs(found - without).max(axis=(1, 2)) < 1e-5
    np.testing.assert_allclose(found[~is_hidden], with_context[~is_hidden], atol=1e-5)
    assert is_hidden.mean() == pytest.approx(0.3, abs=0.06)
    assert np.abs(with_context - without).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_a_first_state_from_the_context_changes_the_logits_and_is_learnt(task: str, cell: str) -> None:
    model = {"context": "state", "cell": cell, "layers": 2, "bidirectional": True}
    network = randomised(build(task, model))
    x, other = sequences(beyond=0.0), sequences(beyond=0.0)
    other[..., 3] += 1.0
    lengths, y = tf.constant(LENGTHS), tf.constant(truth(task))
    one, another = (network.logits(tf.constant(each), lengths).numpy() for each in (x, other))
    # Every row, and of a labeller its first step, which every direction's state reaches.
    moved = np.abs(one - another).reshape(4, -1, 4)[:, 0]
    assert moved.max(axis=1).min() > 1e-3
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network.losses(tf.constant(x), lengths, y))
    gradients = tape.gradient(loss, [variable.value for variable in network.variables])
    idle = [
        variable.path
        for variable, gradient in zip(network.variables, gradients, strict=True)
        if gradient is None or not np.abs(gradient).max() > 0.0
    ]
    assert not idle


def every_sequence(network: Any, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All label sequences of these steps, (C**T, T), and their probabilities under the chain."""
    scores = [each.numpy().astype(np.float64) for each in network.chain.scores]
    paths = np.array(list(itertools.product(range(4), repeat=len(logits))))
    total = logits[np.arange(len(logits)), paths].sum(axis=1)
    total += scores[0][paths[:, 0]] + scores[2][paths[:, -1]]
    total += scores[1][paths[:, :-1], paths[:, 1:]].sum(axis=1)
    weights = np.exp(total - total.max())
    return paths, weights / weights.sum()


@pytest.mark.parametrize("constrained", [False, True])
def test_under_a_crf_answers_are_marginals_and_the_best_sequence_and_losses_that_of_the_whole(
    constrained: bool,
) -> None:
    network = randomised(build("labelling", {"crf": True, "constrained": constrained}))
    x, y = sequences(), truth("labelling")
    said = network.answers(tf.constant(x), tf.constant(LENGTHS))
    logits = network.logits(tf.constant(x), tf.constant(LENGTHS)).numpy().astype(np.float64)
    probabilities = np.exp(said.log_probabilities.numpy())
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-5)
    for row, length in enumerate(LENGTHS):
        paths, shares = every_sequence(network, logits[row, :length])
        marginals = [np.bincount(tags, shares, minlength=4) for tags in paths.T]
        np.testing.assert_allclose(probabilities[row, :length], marginals, atol=1e-5)
        assert said.best[row, :length].numpy().tolist() == paths[shares.argmax()].tolist()
        share = shares[(paths == y[row, :length]).all(axis=1)][0]
        if share > 1e-30:
            assert losses(network, "labelling")[row] == pytest.approx(-np.log(share), rel=1e-4)


def is_illegal(tags: list[str]) -> bool:
    pairs = itertools.pairwise([None, *tags, None])
    return not all(is_legal(before, after, "BIOES") for before, after in pairs)


@pytest.mark.parametrize("model", [{"constrained": True}, {"constrained": True, "crf": True}])
def test_a_constrained_labeller_breaks_no_rule(model: dict[str, Any]) -> None:
    network = randomised(build("labelling", model))
    free = randomised(build("labelling", {}))
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 8, 40).astype(np.int32)
    x = rng.normal(0.0, 3.0, (40, 7, 4)).astype(np.float32)
    best, unbound = (
        each.answers(tf.constant(x), tf.constant(lengths)).best.numpy() for each in (network, free)
    )
    tags = [[TAGS[tag] for tag in row[:length]] for row, length in zip(best, lengths, strict=True)]
    assert not any(map(is_illegal, tags))
    spelt = [[TAGS[tag] for tag in row[:length]] for row, length in zip(unbound, lengths, strict=True)]
    assert any(map(is_illegal, spelt))
    assert len({tag for row in tags for tag in row}) == 4


def test_constraints_alone_change_no_probability() -> None:
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    bound, free = (randomised(build("labelling", {"constrained": on})) for on in (True, False))
    one, other = bound.answers(x, lengths), free.answers(x, lengths)
    np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities)
    np.testing.assert_array_equal(losses(bound, "labelling"), losses(free, "labelling"))


EVERYTHING = {
    "cell": "lstm",
    "layers": 2,
    "bidirectional": True,
    "residual": True,
    "layer_norm": True,
    "encoder": IMAGE,
    "front": CONVOLUTIONS,
    "skip": True,
    "crf": True,
    "constrained": True,
    "dropout": {"recurrent": 0.3, "context": 0.3},
}


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("labelling", EVERYTHING),
        ("labelling", {"constrained": True}),
        ("classification", {"cell": "gru", "readout": "attention", "branch": CONVOLUTIONS}),
    ],
    ids=["everything", "constrained", "classifier"],
)
def test_the_exported_model_says_the_same_at_any_length_and_batch_size(
    task: str, model: dict[str, Any], tmp_path: Path
) -> None:
    network = randomised(build(task, model))
    models.export(network, tmp_path / "model")
    exported = tf.saved_model.load(str(tmp_path / "model"))
    serve = exported.signatures["serving_default"]
    assert ("sequences" in exported.signatures) == model.get("crf", False)
    for rows, length in ((1, 1), (2, 7), (5, 12)):
        rng = np.random.default_rng(length)
        x = tf.constant(rng.normal(size=(rows, length, 4)).astype(np.float32))
        lengths = tf.constant(rng.integers(1, length + 1, rows).astype(np.int32))
        found, expected = serve(x=x, length=lengths), network.answers(x, lengths)
        assert set(found) == {"log_probabilities", "best"}
        np.testing.assert_allclose(found["log_probabilities"], expected.log_probabilities, atol=1e-5)
        np.testing.assert_array_equal(found["best"], expected.best)


STEPWISE: list[tuple[str, dict[str, Any]]] = [
    ("labelling", {"cell": "lstm", "layers": 2, "residual": True, "layer_norm": True, "skip": True}),
    ("labelling", {"cell": "gru", "encoder": {"units": [3]}, "context": "readout"}),
    ("labelling", {"cell": "rnn", "layers": 2}),
    ("classification", {"cell": "gru"}),
    ("classification", {"cell": "rnn", "layers": 2, "layer_norm": True}),
]


@pytest.mark.parametrize(
    ("task", "model"), STEPWISE, ids=["lstm", "gru", "rnn", "classifier", "rnn classifier"]
)
def test_answers_step_after_step_are_those_of_the_whole(
    task: str, model: dict[str, Any], tmp_path: Path
) -> None:
    """In stretches of 2, 1 and 3 steps; a row that has ended keeps its state."""
    network = randomised(build(task, model))
    assert models.why_not_stepwise(settings(**model), task=task, max_length=None) is None
    models.export(network, tmp_path / "model", stepwise=True)
    step = tf.saved_model.load(str(tmp_path / "model")).signatures["step"]
    x, whole = sequences(beyond=0.0), network.answers(tf.constant(sequences()), tf.constant(LENGTHS))
    state = {f"state_{i}": np.zeros((4, 3), np.float32) for i in range(network.num_states)}
    at = 0
    for size in (2, 1, 3):
        here = np.clip(LENGTHS - at, 0, size)
        given = {name: tf.constant(value) for name, value in state.items()}
        found = step(x=tf.constant(x[:, at : at + size]), length=tf.constant(here), **given)
        state = {name: found[f"next_{name}"].numpy() for name in state}
        answers = found["log_probabilities"].numpy()
        if task == "labelling":
            real = np.arange(size) < here[:, np.newaxis]
            expected = whole.log_probabilities.numpy()[:, at : at + size]
            np.testing.assert_allclose(answers[real], expected[real], atol=1e-5)
        at += size
        ended = (at - size < LENGTHS) & (at >= LENGTHS)
        if task == "classification":
            np.testing.assert_allclose(answers[ended], whole.log_probabilities.numpy()[ended], atol=1e-5)


@pytest.mark.parametrize(
    ("task", "model", "reason"),
    [
        ("labelling", {"bidirectional": True}, "bidirectional"),
        ("labelling", {"front": CONVOLUTIONS}, "convolutions"),
        ("labelling", {"crf": True}, "as a whole"),
        ("labelling", {"context": "state"}, "first state"),
        ("labelling", {"constrained": True}, "as a whole"),
        ("classification", {"branch": CONVOLUTIONS}, "convolutions"),
        ("classification", {"readout": "mean"}, "'mean'"),
        ("classification", {"readout": "max"}, "'max'"),
        ("classification", {"readout": "attention"}, "'attention'"),
    ],
)
def test_what_needs_the_whole_sequence_is_not_answered_step_after_step(
    task: str, model: dict[str, Any], reason: str
) -> None:
    assert reason in str(models.why_not_stepwise(settings(**model), task=task, max_length=None))
    assert "windows of 9" in str(models.why_not_stepwise(settings(), task=task, max_length=9))


def test_weights_of_another_network_are_refused() -> None:
    network = build("labelling", {})
    with pytest.raises(ValueError, match="zip"):
        network.load(network.weights()[:-1])


def test_an_image_that_is_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.shape is \[3, 2\], that is 6 numbers; a step has 4"):
        build("labelling", {"encoder": {"shape": [3, 2], "filters": [2]}})
