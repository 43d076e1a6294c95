"""The step encoder at random weights and biases: padding is nowhere, and images are read row by row."""

import numpy as np
import pytest
import tensorflow as tf

from components.networks.encoders import StepEncoder
from components.networks.layers import Noise
from conf.schema import EncoderSettings

LENGTHS = np.array([5, 1, 3, 2], np.int32)
DENSE = EncoderSettings(units=(7, 4), dropout=0.4)
IMAGE = EncoderSettings(shape=(3, 5), filters=(4, 3), units=(6,), dropout=0.4)
BARE = EncoderSettings(shape=(5, 3), filters=(2,), dropout=0.4)
ALL = pytest.mark.parametrize("settings", [DENSE, IMAGE, BARE], ids=["dense", "image", "bare"])


def encoder(settings: EncoderSettings, *, dtype: str = "float32") -> StepEncoder:
    """Random biases too: with zero biases a dense layer stays at zero over padding."""
    built = StepEncoder(settings, num_features=15, dtype=dtype, seed=1)
    rng = np.random.default_rng(0)
    for part in built.parts:
        for variable in part.trainable_variables:
            variable.assign(rng.normal(0.2, 0.4, variable.shape))
    return built


def noise(*, step: int = 0, first_row: int = 0) -> Noise:
    return Noise(tf.constant([0, step], tf.int32), first_row)


def sequences(*, beyond: float = np.nan) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(4, 6, 15)).astype(np.float32)
    x[np.arange(6) >= LENGTHS[:, np.newaxis]] = beyond
    return x


def output(built: StepEncoder, noise: Noise | None = None, rows: slice = slice(None)) -> np.ndarray:
    return built(tf.constant(sequences()[rows]), tf.constant(LENGTHS[rows]), noise).numpy()


def gradients(built: StepEncoder, x: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Of a loss that weighs every output differently: of x, then of the variables."""
    x, variables = tf.constant(x), [v.value for part in built.parts for v in part.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = built(x, tf.constant(lengths), None)
        loss = tf.reduce_sum(y * y * tf.range(1.0, built.width + 1))
    return [gradient.numpy() for gradient in tape.gradient(loss, [x, *variables])]


@ALL
def test_a_step_is_read_alone_and_the_padding_not_at_all(settings: EncoderSettings) -> None:
    built, x = encoder(settings), sequences()
    found = output(built)
    assert found.shape == (4, 6, built.width)
    for row, length in enumerate(LENGTHS):
        for step in range(length):
            alone = built(tf.constant(x[row : row + 1, step : step + 1]), tf.constant([1]), None).numpy()
            np.testing.assert_allclose(found[row, step], alone[0, 0], atol=1e-6)
        assert not found[row, length:].any()
    assert (found != 0).any(axis=-1).sum() == LENGTHS.sum()


@ALL
def test_gradients_do_not_see_the_padding(settings: EncoderSettings) -> None:
    built, x = encoder(settings), sequences()
    of_x, *of_variables = gradients(built, x, LENGTHS)
    alone = [
        gradients(built, x[row : row + 1, :length], LENGTHS[row : row + 1])
        for row, length in enumerate(LENGTHS)
    ]
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(of_x[row, :length], alone[row][0][0], rtol=1e-4, atol=1e-4)
        assert not of_x[row, length:].any()
    for place, gradient in enumerate(of_variables, start=1):
        expected = sum(gradients[place] for gradients in alone)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


def test_an_image_is_read_row_by_row() -> None:
    built = encoder(BARE)
    kernel, bias = (variable.numpy() for variable in built.parts[0].trainable_variables)
    image = sequences()[0, 0].reshape(5, 3)
    padded = np.pad(image, 1)
    by_hand = np.array(
        [
            [
                np.maximum(np.tensordot(padded[y : y + 3, x : x + 3], kernel[:, :, 0], 2) + bias, 0)
                for x in range(3)
            ]
            for y in range(5)
        ]
    )
    found = output(built)[0, 0].reshape(3, 2, 2)
    np.testing.assert_allclose(found[0, 0], by_hand[:2, :2].max(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[1, 1], by_hand[2:4, 2:].max(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[2, 1], by_hand[4, 2], atol=1e-6)


def test_width_is_that_of_the_last_layer() -> None:
    halved = EncoderSettings(shape=(16, 8), filters=(32, 64))
    assert StepEncoder(halved, num_features=128, dtype="float32", seed=0).width == 4 * 2 * 64
    assert [encoder(settings).width for settings in (DENSE, IMAGE, BARE)] == [4, 6, 3 * 2 * 2]


def test_an_image_of_another_size_is_refused() -> None:
    settings = EncoderSettings(shape=(16, 8), filters=(2,))
    with pytest.raises(ValueError, match=r"encoder\.shape is \[16, 8\], that is 128 numbers; a step has 26$"):
        StepEncoder(settings, num_features=26, dtype="float32", seed=0)


@ALL
def test_dropout_is_off_without_noise_and_reproducible_with_it(settings: EncoderSettings) -> None:
    built = encoder(settings)
    still = encoder(settings.model_copy(update={"dropout": 0.0}))
    np.testing.assert_array_equal(output(built), output(still, noise()))
    np.testing.assert_array_equal(output(built, noise()), output(built, noise()))
    assert (output(built, noise()) != output(built, noise(step=1))).any()
    assert (output(built, noise()) != output(built)).any()


@ALL
def test_a_share_of_the_batch_is_as_in_the_whole(settings: EncoderSettings) -> None:
    built = encoder(settings)
    shares = [output(built, noise(first_row=row), slice(row, row + 2)) for row in (0, 2)]
    np.testing.assert_allclose(np.concatenate(shares), output(built, noise()), atol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    settings = EncoderSettings(units=(50,), dropout=0.3)
    built = StepEncoder(settings, num_features=2, dtype="float32", seed=0)
    for variable in built.parts[0].trainable_variables:
        variable.assign(tf.ones_like(variable.value))
    x, lengths = tf.ones((40, 10, 2)), tf.fill([40], 10)
    dropped = built(x, lengths, noise()).numpy() / 3
    assert np.unique(dropped) == pytest.approx([0, 1 / 0.7])
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)


def test_dropout_of_a_convolution_drops_whole_filters_of_a_step() -> None:
    built = encoder(BARE)
    kept, dropped = output(built)[0], output(built, noise())[0]
    for step in range(LENGTHS[0]):
        ratio = np.where(kept[step] > 0, dropped[step] / kept[step].clip(1e-9), np.nan).reshape(6, 2)
        for drawn in ratio.T:
            drawn = drawn[np.isfinite(drawn)]
            np.testing.assert_allclose(drawn, drawn[0], rtol=1e-5)
            assert drawn[0] == pytest.approx(0) or drawn[0] == pytest.approx(1 / 0.6)


def test_layers_draw_masks_of_their_own() -> None:
    settings = EncoderSettings(units=(30, 30), dropout=0.5)
    built = StepEncoder(settings, num_features=2, dtype="float32", seed=0)
    for part in built.parts:
        kernel, bias = part.trainable_variables
        kernel.assign(tf.eye(*kernel.shape))
        bias.assign(tf.ones_like(bias.value))
    dropped = built(tf.zeros((1, 1, 2)), tf.constant([1]), noise()).numpy()
    # 1 where only the first layer dropped, 3 where neither, doubled by the second; 0 where it dropped.
    assert set(np.unique(dropped)) == {0.0, 2.0, 6.0}


@ALL
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_near_full(settings: EncoderSettings, dtype: str) -> None:
    built = encoder(settings, dtype=dtype)
    half = built(tf.constant(sequences()), tf.constant(LENGTHS), noise())
    assert half.dtype == dtype.removeprefix("mixed_")
    assert {v.dtype for part in built.parts for v in part.trainable_variables} == {"float32"}
    full = output(encoder(settings), noise())
    tolerance = (0.005 if dtype == "mixed_float16" else 0.04) * np.abs(full).max()
    np.testing.assert_allclose(tf.cast(half, tf.float32).numpy(), full, atol=tolerance)


@ALL
def test_batch_and_time_may_be_unknown(settings: EncoderSettings) -> None:
    built = encoder(settings)
    signature = [tf.TensorSpec([None, None, 15]), tf.TensorSpec([None], tf.int32)]
    graph = tf.function(lambda x, lengths: built(x, lengths, noise()), input_signature=signature)
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    assert graph.get_concrete_function().structured_outputs.shape.as_list() == [None, None, built.width]
    np.testing.assert_allclose(graph(x, lengths).numpy(), output(built, noise()), atol=1e-6)
    assert graph(x[:1, :2], tf.constant([1])).shape == (1, 2, built.width)


def test_variables_have_a_fixed_order_and_follow_from_the_seed() -> None:
    first, again, other = (
        [
            variable.numpy()
            for part in StepEncoder(IMAGE, num_features=15, dtype="float32", seed=seed).parts
            for variable in part.trainable_variables
        ]
        for seed in (3, 3, 4)
    )
    assert [v.shape for v in first] == [(3, 3, 1, 4), (4,), (3, 3, 4, 3), (3,), (6, 6), (6,)]
    for ours, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert ours.ndim == 1 or (ours != different).all()
