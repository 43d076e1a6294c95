"""A chain against all of its sequences, one by one: sums, the best of them, posteriors and gradients."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.networks.crf import (
    FORBIDDEN,
    Allowed,
    Chain,
    Scores,
    constraints,
    decode,
    log_likelihood,
    log_marginals,
    n_best,
)

C = 3
LENGTHS = np.array([4, 1, 3, 2], np.int32)
SEEDS = range(3)
# O, B and I: I only after B or I.
BIO = Allowed(
    start=np.array([True, True, False]),
    follows=np.array([[True, True, False], [True, True, True], [True, True, True]]),
    end=np.array([True, True, True]),
)


def random_case(seed: int, *, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray, Scores]:
    """Logits (4, 4, C), targets (4, 4) and scores."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, spread, (4, 4, C)).astype(np.float32)
    targets = rng.integers(0, C, (4, 4)).astype(np.int32)
    scores = Scores(*(tf.constant(rng.normal(size=shape), tf.float32) for shape in (C, (C, C), C)))
    return logits, targets, scores


def every_sequence(length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(C), repeat=length)))


def every_score(logits: Any, length: int, scores: Scores) -> tf.Tensor:
    """Scores of `every_sequence` under one row of logits (T, C), float64."""
    paths = every_sequence(length)
    start, transitions, end = (tf.cast(values, tf.float64) for values in scores)
    total = tf.gather(start, paths[:, 0]) + tf.gather(end, paths[:, -1])
    for t in range(length):
        total += tf.gather(tf.cast(logits[t], tf.float64), paths[:, t])
    for t in range(1, length):
        total += tf.gather_nd(transitions, paths[:, t - 1 : t + 1])
    return total


def every_log_probability(logits: Any, length: int, scores: Scores) -> tf.Tensor:
    return tf.nn.log_softmax(every_score(logits, length, scores))


def place(path: np.ndarray) -> int:
    """Where a path stands in `every_sequence`."""
    return int(np.ravel_multi_index(tuple(path), (C,) * len(path)))


def spoilt(logits: np.ndarray, targets: np.ndarray, extra: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """More padding, NaN, infinity and tags that do not exist in it."""
    num_rows, num_steps, _ = logits.shape
    padded = np.full((num_rows, num_steps + extra, C), np.nan, np.float32)
    padded[:, -1] = np.inf
    tags = np.full((num_rows, num_steps + extra), -7, np.int32)
    for row, length in enumerate(LENGTHS):
        padded[row, :length], tags[row, :length] = logits[row, :length], targets[row, :length]
    return padded, tags


def is_legal(path: np.ndarray, allowed: Allowed) -> bool:
    inner = allowed.follows[path[:-1], path[1:]].all()
    return bool(allowed.start[path[0]] and inner and allowed.end[path[-1]])


@pytest.mark.parametrize("seed", SEEDS)
def test_likelihood_is_the_share_among_all_sequences(seed: int) -> None:
    logits, targets, scores = random_case(seed)
    found = log_likelihood(logits, targets, LENGTHS, scores).numpy()
    assert found.dtype == np.float32
    for row, length in enumerate(LENGTHS):
        expected = every_log_probability(logits[row], length, scores)[place(targets[row, :length])]
        assert found[row] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_is_that_of_the_sum_over_all_sequences(seed: int) -> None:
    logits, targets, scores = random_case(seed)
    weights = np.array([1.0, 0.5, -2.0, 3.0])
    inputs = [tf.constant(logits), *scores]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        likelihood = log_likelihood(inputs[0], targets, LENGTHS, Scores(*inputs[1:]))
        loss = tf.reduce_sum(weights.astype(np.float32) * likelihood)
    found = tape.gradient(loss, inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        rows = [
            every_log_probability(inputs[0][row], length, Scores(*inputs[1:]))[place(targets[row, :length])]
            for row, length in enumerate(LENGTHS)
        ]
        loss = tf.reduce_sum(weights * tf.stack(rows))
    for one, other in zip(found, tape.gradient(loss, inputs), strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(other), atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_marginals_are_shares_of_the_sequences_through_a_tag(seed: int) -> None:
    logits, _, scores = random_case(seed)
    found = log_marginals(logits, LENGTHS, scores).numpy()
    for row, length in enumerate(LENGTHS):
        shares = np.exp(every_log_probability(logits[row], length, scores).numpy())
        for t, tag in itertools.product(range(length), range(C)):
            expected = shares[every_sequence(length)[:, t] == tag].sum()
            assert found[row, t, tag] == pytest.approx(np.log(expected), abs=1e-5)
        np.testing.assert_allclose(found[row, length:], -np.log(C), atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_n_best_are_the_first_of_all_sequences_in_order(seed: int, n: int) -> None:
    logits, _, scores = random_case(seed)
    tags, found = (tensor.numpy() for tensor in n_best(logits, LENGTHS, scores, n))
    assert tags.shape == (4, n, 4) and tags.dtype == np.int32 and found.dtype == np.float32
    for row, length in enumerate(LENGTHS):
        expected = every_log_probability(logits[row], length, scores).numpy()
        order = np.argsort(-expected)[:n]
        np.testing.assert_array_equal(tags[row, : len(order), :length], every_sequence(length)[order])
        np.testing.assert_allclose(found[row, : len(order)], expected[order], atol=1e-5)
        assert (found[row, len(order) :] == -np.inf).all()
        assert not tags[row, :, length:].any() and not tags[row, len(order) :].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_is_the_best_of_all_sequences(seed: int) -> None:
    logits, _, scores = random_case(seed)
    found = decode(logits, LENGTHS, scores).numpy()
    assert found.dtype == np.int32
    for row, length in enumerate(LENGTHS):
        assert place(found[row, :length]) == every_score(logits[row], length, scores).numpy().argmax()
        assert not found[row, length:].any()


def test_n_below_one_is_refused() -> None:
    logits, _, scores = random_case(0)
    with pytest.raises(ValueError, match="n is 0, expected at least 1"):
        n_best(logits, LENGTHS, scores, 0)


def test_scores_of_zero_are_a_softmax_at_every_step() -> None:
    logits, targets, _ = random_case(0)
    scores = Chain(C).scores
    expected = tf.nn.log_softmax(logits).numpy()
    found = log_marginals(logits, LENGTHS, scores).numpy()
    likelihood = log_likelihood(logits, targets, LENGTHS, scores).numpy()
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], atol=1e-5)
        steps = expected[row, np.arange(length), targets[row, :length]]
        assert likelihood[row] == pytest.approx(steps.sum(), abs=1e-5)


def everything(
    logits: tf.Tensor, targets: tf.Tensor, lengths: tf.Tensor, scores: Scores
) -> dict[str, tf.Tensor]:
    """What there is to know of a batch; of what has a time axis, the first 4 steps."""
    inputs = [tf.convert_to_tensor(logits), *scores]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        likelihood = log_likelihood(inputs[0], targets, lengths, Scores(*inputs[1:]))
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(likelihood, inputs)]
    tags, probabilities = n_best(logits, lengths, scores, 3)
    return {
        "likelihood": likelihood,
        "logits": gradients[0][:, :4],
        "padding": gradients[0][:, 4:],
        "start": gradients[1],
        "transitions": gradients[2],
        "end": gradients[3],
        "marginals": log_marginals(logits, lengths, scores)[:, :4],
        "decoded": decode(logits, lengths, scores)[:, :4],
        "tags": tags[..., :4],
        "probabilities": probabilities,
    }


def test_padding_what_stands_in_it_and_graphs_of_any_shape_make_no_difference() -> None:
    logits, targets, scores = random_case(1)
    shapes = [tf.TensorSpec(values.shape, tf.float32) for values in scores]
    specs = [
        tf.TensorSpec((None, None, C), tf.float32),
        tf.TensorSpec((None, None), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        Scores(*shapes),
    ]
    graph = tf.function(everything, input_signature=specs)
    expected = everything(logits, targets, LENGTHS, scores)
    for x, y in ((logits, targets), spoilt(logits, targets)):
        found = graph(x, y, LENGTHS, scores)
        assert not found.pop("padding").numpy().any()
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)
        for row, length in enumerate(LENGTHS):
            assert not found["logits"][row, length:].numpy().any()
    single = everything(logits[:, :1], targets[:, :1], np.ones(4, np.int32), scores)
    graphed = graph(logits[:, :1], targets[:, :1], np.ones(4, np.int32), scores)
    for name, values in single.items():
        np.testing.assert_allclose(values, graphed[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spread", [2.0, 1e6])
def test_the_search_keeps_to_the_rules_however_strongly_logits_speak_against_them(
    seed: int, spread: float
) -> None:
    logits, _, free = random_case(seed, spread=spread)
    chain = Chain(C, allowed=BIO)
    for variable, values in zip(chain.trainable_variables, free, strict=True):
        variable.assign(values)
    for scores in (constraints(BIO), chain.scores):
        found, (tags, _) = decode(logits, LENGTHS, scores).numpy(), n_best(logits, LENGTHS, scores, 2)
        np.testing.assert_array_equal(found, tags[:, 0])
        for row, length in enumerate(LENGTHS):
            legal = np.array([is_legal(path, BIO) for path in every_sequence(length)])
            expected = np.where(legal, every_score(logits[row], length, scores), -np.inf).argmax()
            assert place(found[row, :length]) == expected
            assert all(is_legal(path[:length], BIO) for path in tags[row].numpy())


def test_where_nothing_is_legal_the_fewest_rules_are_broken() -> None:
    # BIOES without O and S: no sequence of one step is legal.
    begin_end = Allowed(np.array([1, 0], bool), np.array([[0, 1], [1, 0]], bool), np.array([0, 1], bool))
    scores = constraints(begin_end)
    logits = np.zeros((2, 3, 2), np.float32)
    logits[0, 0], logits[1, 0], logits[1, 1] = (0, 3), (0, 9), (9, 0)
    lengths = np.array([1, 2], np.int32)
    np.testing.assert_array_equal(decode(logits, lengths, scores), [[1, 0, 0], [0, 1, 0]])
    likelihood = log_likelihood(logits, [[1, 0, 0], [0, 1, 0]], lengths, scores).numpy()
    assert likelihood[0] == pytest.approx(-np.log1p(np.exp(-3.0)), abs=1e-2)
    assert likelihood[1] == pytest.approx(0.0, abs=1e-5)


def test_a_forbidden_target_has_a_finite_loss_and_gradient() -> None:
    logits, _, _ = random_case(2)
    chain = Chain(C, allowed=BIO)
    variables = [variable.value for variable in chain.trainable_variables]
    targets = np.full((4, 4), 2, np.int32)  # begins inside a span
    inputs = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        likelihood = log_likelihood(inputs, targets, LENGTHS, chain.scores)
    assert (np.abs(likelihood - FORBIDDEN) < 50).all()
    of_logits, *gradients = tape.gradient(likelihood, [inputs, *variables])
    assert np.isfinite(of_logits).all() and np.abs(of_logits).max() <= 1.0
    for gradient, mask in zip(gradients, (BIO.start, BIO.follows, BIO.end), strict=True):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(gradient).all() and not gradient[~mask].any()


def test_a_tag_that_only_an_unlikely_one_leads_to_is_not_lost() -> None:
    # Inside speaks by 300 nats where outside spoke by 200: e**-200 is nothing in float32.
    logits = np.array([[[200.0, 0.0, 0.0], [0.0, 0.0, 300.0]]], np.float32)
    lengths, scores = np.array([2], np.int32), constraints(BIO)
    assert log_likelihood(logits, [[1, 2]], lengths, scores).numpy() == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_array_equal(decode(logits, lengths, scores), [[1, 2]])
    assert log_marginals(logits, lengths, scores)[0, 0, 0].numpy() == pytest.approx(np.log(2) - 100, abs=1e-3)


def test_long_sequences_stay_exact() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 30.0, (1, 3000, C)).astype(np.float32)
    targets, lengths = logits.argmax(axis=2).astype(np.int32), np.array([3000], np.int32)
    scores = Scores(*(tf.zeros(shape) for shape in (C, (C, C), C)))
    expected = tf.reduce_sum(tf.reduce_max(tf.nn.log_softmax(logits.astype(np.float64)), axis=-1)).numpy()
    run = tf.function(log_likelihood)
    assert run(logits, targets, lengths, scores).numpy() == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_logits_of_any_float_type_are_read_as_float32(dtype: tf.DType) -> None:
    logits, targets, scores = random_case(3)
    narrow = tf.cast(spoilt(logits, targets)[0][:, :4], dtype)
    wide = tf.cast(narrow, tf.float32)
    for call in calls(targets, scores):
        for one, other in zip(tf.nest.flatten(call(narrow)), tf.nest.flatten(call(wide)), strict=True):
            assert one.dtype in (tf.float32, tf.int32)
            np.testing.assert_array_equal(one, other)


def calls(targets: np.ndarray, scores: Scores) -> list[Callable[[tf.Tensor], Any]]:
    """The four functions of logits alone."""
    return [
        lambda logits: log_likelihood(logits, targets, LENGTHS, scores),
        lambda logits: log_marginals(logits, LENGTHS, scores),
        lambda logits: decode(logits, LENGTHS, scores),
        lambda logits: n_best(logits, LENGTHS, scores, 2),
    ]


def test_a_chain_has_its_variables_in_order_and_learns() -> None:
    chain = Chain(C, allowed=BIO)
    variables = chain.trainable_variables
    tensors = [variable.value for variable in variables]
    assert [tuple(variable.shape) for variable in variables] == [(C,), (C, C), (C,)]
    assert [variable.name for variable in variables] == ["start", "transitions", "end"]
    logits, targets = np.zeros((4, 4, C), np.float32), np.tile(np.int32([1, 2, 0, 1]), (4, 1))
    for _ in range(10):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(log_likelihood(logits, targets, LENGTHS, chain.scores))
        for variable, gradient in zip(variables, tape.gradient(loss, tensors), strict=True):
            variable.assign(variable.value - 0.3 * tf.convert_to_tensor(gradient))
    np.testing.assert_array_equal(decode(logits, np.int32([3] * 4), chain.scores)[:, :3], targets[:, :3])
    assert (chain.scores.transitions.numpy()[~BIO.follows] == FORBIDDEN).all()


def test_a_saved_model_answers_alike_at_any_batch_size_and_length(tmp_path: Path) -> None:
    chain = Chain(C, allowed=BIO)
    for seed, variable in enumerate(chain.trainable_variables):
        variable.assign(np.random.default_rng(seed).normal(size=variable.shape))

    class Exported(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec((None, None, C), tf.float32), tf.TensorSpec((None,), tf.int32)]
        )
        def serve(self, logits: tf.Tensor, lengths: tf.Tensor) -> dict[str, tf.Tensor]:
            tags, probabilities = n_best(logits, lengths, chain.scores, 3)
            return {
                "decoded": decode(logits, lengths, chain.scores),
                "marginals": log_marginals(logits, lengths, chain.scores),
                "tags": tags,
                "probabilities": probabilities,
            }

    exported = Exported()
    exported.weights = [variable.value for variable in chain.trainable_variables]
    tf.saved_model.save(exported, str(tmp_path / "model"), signatures=exported.serve)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    logits, targets, _ = random_case(0)
    for x, lengths in (
        (logits, LENGTHS),
        (spoilt(logits, targets)[0], LENGTHS),
        (logits[:1, :1], np.int32([1])),
    ):
        found = loaded.signatures["serving_default"](logits=tf.constant(x), lengths=tf.constant(lengths))
        tags, probabilities = n_best(x, lengths, chain.scores, 3)
        np.testing.assert_array_equal(found["decoded"], decode(x, lengths, chain.scores))
        np.testing.assert_allclose(found["marginals"], log_marginals(x, lengths, chain.scores), atol=1e-5)
        np.testing.assert_array_equal(found["tags"], tags)
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
