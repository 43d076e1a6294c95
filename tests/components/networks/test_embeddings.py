"""Embeddings: what they make of numbers, symbols and characters, and that padding has no say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.networks import embeddings, models
from components.networks.embeddings import FILTERS, SPELLING_UNITS, Embeddings
from components.networks.layers import Noise
from components.served.encoding import Slot
from conf.schema import ModelSettings

SLOTS = (
    Slot("numbers", 2),
    Slot("symbol", 1, size=7, embedding=3),
    Slot("characters", 5, size=9),
    Slot("symbol", 1, size=4, embedding=2),
)
WORD = [0.5, -2.0, 6, 2, 8, 1, 0, 0, 3]


def steps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random steps of SLOTS, with tokens of 0 to 5 characters."""
    spelt = np.arange(5) < rng.integers(0, 6, (*shape, 1))
    parts = [
        rng.normal(size=(*shape, 2)),
        rng.integers(0, 7, (*shape, 1)),
        rng.integers(1, 9, (*shape, 5)) * spelt,
        rng.integers(0, 4, (*shape, 1)),
    ]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def randomise(thing: Any) -> Any:
    rng = np.random.default_rng(5)
    for variable in thing.variables:
        variable.assign(rng.normal(0.0, 0.6, variable.shape))
    return thing


def features(front: Embeddings, *rows: list[float], noise: Noise | None = None) -> np.ndarray:
    """Of rows of one step each."""
    return front(tf.constant([[row] for row in rows], tf.float32), noise).numpy()[:, 0]


def test_numbers_pass_and_make_no_variables() -> None:
    front = Embeddings((Slot("numbers", 2), Slot("numbers", 1)), seed=0)
    x = tf.constant([[[1.0, 2.0, 3.0]]])
    assert front(x, None) is x
    assert (front.width, front.variables) == (3, [])


def test_slots_stand_side_by_side_in_their_order() -> None:
    front = randomise(Embeddings(SLOTS, seed=0))
    assert front.width == 2 + 3 + FILTERS + 2
    assert [tuple(v.shape) for v in front.variables] == [
        (7, 3),
        (9, 16),
        (3, 16, FILTERS),
        (FILTERS,),
        (4, 2),
    ]
    found = features(front, WORD)[0]
    words, *_, tags = (variable.numpy() for variable in front.variables)
    np.testing.assert_array_equal(found[:2], [0.5, -2.0])
    np.testing.assert_array_equal(found[2:5], words[6])
    np.testing.assert_array_equal(found[-2:], tags[3])


def test_a_spelling_is_the_largest_answer_of_each_filter_over_its_characters() -> None:
    front = randomise(Embeddings(SLOTS, seed=0))
    table, kernel, bias = (variable.numpy() for variable in front.variables[1:4])
    vectors = np.pad(table[[2, 8, 1]], ((1, 1), (0, 0)))
    answers = [np.tensordot(vectors[at : at + 3], kernel, 2) + bias for at in range(3)]
    np.testing.assert_allclose(features(front, WORD)[0, 5:-2], np.max(answers, axis=0), rtol=1e-5)


def test_a_token_without_characters_has_zeros_for_its_spelling() -> None:
    front = randomise(Embeddings(SLOTS, seed=0))
    assert not features(front, [0, 0, 1, 0, 0, 0, 0, 0, 0])[0, 5:-2].any()


def test_how_many_characters_are_kept_at_most_has_no_say() -> None:
    narrow, wide = (randomise(Embeddings((Slot("characters", length, size=9),), seed=0)) for length in (3, 8))
    np.testing.assert_allclose(
        features(narrow, [2, 8, 1]), features(wide, [2, 8, 1, 0, 0, 0, 0, 0]), rtol=1e-6
    )


def test_tables_begin_small_and_differ_by_place_and_seed() -> None:
    pair = (Slot("symbol", 1, size=500, embedding=4),) * 2
    first, second = (variable.numpy() for variable in Embeddings(pair, seed=0).variables)
    assert 0.04 < np.abs(first).max() <= 0.05
    assert (first != second).all()
    np.testing.assert_array_equal(Embeddings(pair, seed=0).variables[1].numpy(), second)
    assert (Embeddings(pair, seed=1).variables[0].numpy() != first).any()


def test_a_few_symbols_and_characters_are_unknown_while_training_and_padding_stays() -> None:
    front = Embeddings((Slot("symbol", 1, size=3, embedding=1), Slot("characters", 2, size=4)), seed=0)
    words, characters, *_ = front.variables
    words.assign([[-1.0], [1.0], [2.0]])
    # Only the unknown character says anything.
    characters.assign(np.eye(4, 16, -1) * [[0], [1], [0], [0]])
    x = tf.constant(np.tile([1.0, 3.0, 0.0], (40, 50, 1)), tf.float32)
    noise = Noise(tf.constant([0, 1]), 0)
    assert (front(x, None).numpy()[..., 0] == 1.0).all()
    found = front(x, noise).numpy()
    unknown, misspelt = found[..., 0] == -1.0, (found[..., 1:] != 0).any(axis=-1)
    for share in (unknown.mean(), misspelt.mean()):
        assert 0.004 < share < 0.02
    assert (unknown != misspelt).any()
    np.testing.assert_array_equal(front(x[15:], Noise(noise.seed, 15)).numpy(), found[15:])
    assert (front(x, Noise(tf.constant([0, 2]), 0)).numpy() != found).any()


def test_as_many_tokens_are_unknown_while_training_as_asked_on_any_number_of_replicas() -> None:
    slots = (Slot("symbol", 1, size=3, embedding=1, unknown_rate=0.3), Slot("symbol", 1, size=3, embedding=1))
    front = Embeddings(slots, seed=0)
    for table in front.variables:
        table.assign([[-1.0], [1.0], [2.0]])
    x, noise = tf.ones((40, 50, 2)), Noise(tf.constant([0, 1]), 0)
    assert (front(x, None).numpy() == 1.0).all()
    found = front(x, noise).numpy()
    assert 0.25 < (found[..., 0] == -1.0).mean() < 0.35
    assert 0.004 < (found[..., 1] == -1.0).mean() < 0.02
    np.testing.assert_array_equal(front(x[15:], Noise(noise.seed, 15)).numpy(), found[15:])
    never = Embeddings((Slot("symbol", 1, size=3, embedding=1, unknown_rate=0.0),), seed=0)
    np.testing.assert_array_equal(never(x[..., :1], noise).numpy(), never(x[..., :1], None).numpy())


def test_the_vector_of_the_unknown_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "UNKNOWN_RATE", 0.5)
    front = Embeddings((Slot("symbol", 1, size=3, embedding=1),), seed=0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(front(tf.ones((20, 10, 1)), Noise(tf.constant([0, 1]), 0)))
    gradient = tf.convert_to_tensor(tape.gradient(total, front.variables[0].value)).numpy()[:, 0]
    assert 70 < gradient[0] < 130
    assert gradient.tolist() == [gradient[0], 200 - gradient[0], 0]


@pytest.mark.parametrize("task", ["labelling", "classification"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_row_of_symbols_is_answered_the_same_alone_and_in_a_padded_batch(task: str, cell: Any) -> None:
    settings = ModelSettings(cell=cell, units=4, layers=2, bidirectional=True, readout="mean")
    network = randomise(models.build(settings, task=task, slots=SLOTS, num_classes=3, seed=0))
    lengths = np.array([6, 1, 4], np.int32)
    x = steps(np.random.default_rng(1), 3, 6)
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    together = network.logits(tf.constant(x), tf.constant(lengths)).numpy()
    for row, length in enumerate(lengths):
        one = tf.constant(x[row : row + 1, :length])
        alone = network.logits(one, tf.constant([length], tf.int32)).numpy()[0]
        real = together[row, :length] if task == "labelling" else together[row]
        np.testing.assert_allclose(real, alone, atol=1e-5)


def test_an_exported_network_with_symbols_says_the_same(tmp_path: Path) -> None:
    settings = ModelSettings(units=4, bidirectional=True)
    network = randomise(models.build(settings, task="labelling", slots=SLOTS, num_classes=3, seed=0))
    models.export(network, tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    x, lengths = tf.constant(steps(np.random.default_rng(2), 4, 7)), tf.constant([7, 7, 7, 7])
    assert x.shape[-1] == network.num_features == 9
    expected = tf.nn.log_softmax(network.logits(x, lengths)).numpy()
    np.testing.assert_allclose(loaded(x=x, length=lengths)["log_probabilities"], expected, atol=1e-6)


GIVEN = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def symbols(*numbers: int) -> tf.Tensor:
    return tf.constant([[[number] for number in numbers]], tf.float32)


def test_the_last_symbols_begin_with_the_vectors_given_and_are_trained_further() -> None:
    slots = (Slot("numbers", 2), Slot("symbol", 1, size=5, embedding=2))
    drawn = Embeddings(slots, seed=0).variables[0].numpy()
    begun = Embeddings(slots, seed=0, tables={1: GIVEN})
    np.testing.assert_array_equal(begun.variables[0].numpy(), np.concatenate([drawn[:3], GIVEN]))
    assert begun.frozen == []


def test_fixed_vectors_are_no_variables_and_the_other_symbols_are_learnt() -> None:
    slots = (Slot("symbol", 1, size=5, embedding=2, fixed=2),)
    fixed = Embeddings(slots, seed=0, tables={0: GIVEN})
    assert [tuple(variable.shape) for variable in fixed.variables] == [(3, 2)]
    assert [tuple(variable.shape) for variable in fixed.frozen] == [(2, 2)]
    with tf.GradientTape() as tape:
        found = fixed(symbols(0, 1, 2, 3, 4), None)
        total = tf.reduce_sum(found)
    learnt = fixed.variables[0].numpy()
    np.testing.assert_array_equal(found.numpy()[0], np.concatenate([learnt, GIVEN]))
    gradient = tf.convert_to_tensor(tape.gradient(total, fixed.variables[0].value)).numpy()
    np.testing.assert_array_equal(gradient, np.ones((3, 2)))


def test_fixed_vectors_that_are_not_given_are_refused() -> None:
    with pytest.raises(ValueError, match="has fixed vectors, but they are not given"):
        Embeddings((Slot("symbol", 1, size=5, embedding=2, fixed=2),), seed=0)


SPELLING = (Slot("spelling", 5, size=9),)


def spelt(*tokens: list[float], seed: int = 0) -> np.ndarray:
    """What a recurrence makes of tokens that stand in one row."""
    layer = randomise(Embeddings(SPELLING, seed=seed))
    x = np.zeros((1, len(tokens), 5), np.float32)
    for place, token in enumerate(tokens):
        x[0, place, : len(token)] = token
    return layer(tf.constant(x), None).numpy()[0]


def test_a_recurrence_over_characters_says_its_last_states_whatever_stands_beside_the_token() -> None:
    together = spelt([2, 8, 1], [], [5], [3, 4, 5, 6, 7])
    assert together.shape == (4, 2 * SPELLING_UNITS)
    assert not together[1].any()
    for place, token in [(0, [2, 8, 1]), (2, [5]), (3, [3, 4, 5, 6, 7])]:
        np.testing.assert_allclose(spelt(token)[0], together[place], atol=1e-6)
    wide = randomise(Embeddings((Slot("spelling", 8, size=9),), seed=0))
    np.testing.assert_allclose(features(wide, [2, 8, 1, 0, 0, 0, 0, 0])[0], together[0], atol=1e-6)


def test_a_recurrence_reads_characters_from_both_ends() -> None:
    layer = randomise(Embeddings(SPELLING, seed=0))
    # The second direction becomes the first: then a word backwards says the halves the other way round.
    _, *weights = layer.variables
    for forward, backward in zip(weights[:3], weights[3:], strict=True):
        backward.assign(forward.value)
    word, backwards = features(layer, [2, 8, 1, 0, 0], [1, 8, 2, 0, 0])
    np.testing.assert_allclose(np.roll(word, SPELLING_UNITS), backwards, atol=1e-6)
    assert np.abs(word - backwards).max() > 0.01


def test_a_few_characters_are_unknown_to_a_recurrence_while_training() -> None:
    layer = randomise(Embeddings(SPELLING, seed=0))
    x = tf.constant(np.tile([3.0, 0, 0, 0, 0], (40, 50, 1)), tf.float32)
    quiet, noisy = layer(x, None).numpy(), layer(x, Noise(tf.constant([0, 1]), 0)).numpy()
    assert 0.004 < (np.abs(quiet - noisy).max(axis=-1) > 1e-4).mean() < 0.02
    assert layer.frozen == []


@pytest.mark.parametrize(
    ("kind", "width", "shapes"),
    [
        ("characters", 7, [(9, 16), (3, 16, 7), (7,)]),
        ("spelling", 14, [(9, 25), (25, 28), (7, 28), (28,), (25, 28), (7, 28), (28,)]),
    ],
)
def test_what_reads_characters_is_as_wide_as_asked(
    kind: str, width: int, shapes: list[tuple[int, ...]]
) -> None:
    layer = randomise(Embeddings((Slot(kind, 5, size=9, units=7),), seed=0))
    assert [tuple(variable.shape) for variable in layer.variables] == shapes
    assert layer.width == width
    assert features(layer, [2, 8, 1, 0, 0]).shape == (1, width)


def test_context_is_made_unknown_for_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "UNKNOWN_RATE", 0.5)
    front = randomise(Embeddings((Slot("symbol", 1, size=4, embedding=2, once=True),), seed=0))
    x = tf.ones((40, 6, 1))
    found = front(x, Noise(tf.constant([0, 0]), 0)).numpy()
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 6, axis=1))
    assert 0 < len(np.unique(found[:, 0], axis=0)) - 1 < 40
