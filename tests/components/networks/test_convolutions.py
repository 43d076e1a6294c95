"""Convolutions over time at random weights and shifts: padding is nowhere, dropout is reproducible."""

import numpy as np
import pytest
import tensorflow as tf

from components.networks.convolutions import EPSILON, POOLS, Convolutions, Normalisation, mean_over_time
from components.networks.layers import Noise
from conf.schema import ConvolutionSettings

LENGTHS = np.array([6, 1, 3, 2], np.int32)
# An even width too, which reads one step more on the right than on the left, and one beyond all sequences.
SETTINGS = ConvolutionSettings(filters=(5, 4, 3), widths=(3, 4, 15), dropout=0.4)
NORMS = ["step", "sequence", "channel"]


def by(norm: str) -> ConvolutionSettings:
    return SETTINGS.model_copy(update={"norm": norm})


def convolutions(settings: ConvolutionSettings = SETTINGS, *, dtype: str = "float32") -> Convolutions:
    """Random shifts too: with zero shifts a layer stays at zero over padding."""
    built = Convolutions(settings, num_features=2, dtype=dtype, seed=1, first_place=3_000)
    rng = np.random.default_rng(0)
    for part in built.parts:
        for variable in part.trainable_variables:
            variable.assign(rng.normal(0.3, 0.6, variable.shape))
    return built


def noise(*, step: int = 0, first_row: int = 0) -> Noise:
    return Noise(tf.constant([0, step], tf.int32), first_row)


def sequences(*, beyond: float = np.nan) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(4, 9, 2)).astype(np.float32)
    x[np.arange(9) >= LENGTHS[:, np.newaxis]] = beyond
    return x


def output(built: Convolutions, noise: Noise | None = None, rows: slice = slice(None)) -> np.ndarray:
    return built(tf.constant(sequences()[rows]), tf.constant(LENGTHS[rows]), noise).numpy()


def gradients(built: Convolutions, x: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Of a loss that weighs every output differently: of x, then of the variables."""
    x, variables = tf.constant(x), [v.value for part in built.parts for v in part.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = built(x, tf.constant(lengths), None)
        pooled = mean_over_time(y, tf.constant(lengths))
        loss = tf.reduce_sum(y * y * tf.range(1.0, 4.0)) + tf.reduce_sum(pooled * tf.range(1.0, 4.0))
    return [gradient.numpy() for gradient in tape.gradient(loss, [x, *variables])]


@pytest.mark.parametrize("norm", NORMS)
def test_padding_and_what_stands_in_it_make_no_difference(norm: str) -> None:
    built, x = convolutions(by(norm)), sequences()
    found = output(built)
    assert found.shape == (4, 9, built.width) == (4, 9, 3)
    for row, length in enumerate(LENGTHS):
        alone = built(tf.constant(x[row : row + 1, :length]), tf.constant([length]), None).numpy()
        np.testing.assert_allclose(found[row, :length], alone[0], atol=1e-5)
        assert alone.any()
        assert not found[row, length:].any()


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_do_not_see_the_padding(norm: str) -> None:
    built, x = convolutions(by(norm)), sequences()
    of_x, *of_variables = gradients(built, x, LENGTHS)
    alone = [
        gradients(built, x[row : row + 1, :length], LENGTHS[row : row + 1])
        for row, length in enumerate(LENGTHS)
    ]
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(of_x[row, :length], alone[row][0][0], rtol=1e-3, atol=1e-3)
        assert not of_x[row, length:].any()
    for place, gradient in enumerate(of_variables, start=1):
        expected = sum(gradients[place] for gradients in alone)
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def of_mean_and_deviation(x: np.ndarray, axis: int | None) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + EPSILON)


@pytest.mark.parametrize(("norm", "axis"), [("step", 1), ("sequence", None), ("channel", 0)])
def test_values_are_normalised_over_real_steps_then_scaled_and_shifted(norm: str, axis: int | None) -> None:
    layer, x = Normalisation(norm), sequences() * 3 + 5
    layer.build((None, None, 2))
    layer.set_weights([np.array([2.0, 0.5], np.float32), np.array([1.0, -1.0], np.float32)])
    found = layer(tf.constant(x), tf.constant(LENGTHS)).numpy()
    for row, length in enumerate(LENGTHS):
        expected = of_mean_and_deviation(x[row, :length], axis) * [2.0, 0.5] + [1.0, -1.0]
        np.testing.assert_allclose(found[row, :length], expected, atol=1e-4)


def test_a_step_is_read_with_its_neighbours() -> None:
    built = convolutions(ConvolutionSettings(filters=(4,), widths=(3,)))
    before, x = output(built)[0], sequences()
    x[0, 4] += 1
    after = built(tf.constant(x), tf.constant(LENGTHS), None).numpy()[0]
    assert (np.abs(after - before).max(axis=-1) > 1e-3)[3:6].all()


def test_dropout_is_off_without_noise_and_reproducible_with_it() -> None:
    built = convolutions()
    still = convolutions(SETTINGS.model_copy(update={"dropout": 0.0}))
    np.testing.assert_array_equal(output(built), output(still, noise()))
    np.testing.assert_array_equal(output(built, noise()), output(built, noise()))
    assert (output(built, noise()) != output(built, noise(step=1))).any()
    assert (output(built, noise()) != output(built)).any()


def test_a_share_of_the_batch_is_as_in_the_whole() -> None:
    built = convolutions()
    shares = [output(built, noise(first_row=row), slice(row, row + 2)) for row in (0, 2)]
    np.testing.assert_allclose(np.concatenate(shares), output(built, noise()), atol=1e-5)


def test_dropout_does_not_depend_on_how_far_a_batch_is_padded() -> None:
    built, x = convolutions(), sequences()
    shorter = built(tf.constant(x[:, :6]), tf.constant(LENGTHS), noise()).numpy()
    np.testing.assert_allclose(shorter, output(built, noise())[:, :6], atol=1e-5)


def test_dropout_drops_channels_of_a_row_and_keeps_the_mean() -> None:
    settings = ConvolutionSettings(filters=(60,), widths=(3,), dropout=0.3)
    built = Convolutions(settings, num_features=2, dtype="float32", seed=0, first_place=0)
    x, lengths = tf.random.stateless_normal((40, 8, 2), [0, 0]), tf.fill([40], 8)
    kept, dropped = built(x, lengths, None).numpy(), built(x, lengths, noise()).numpy()
    ratio = np.where(kept > 1e-3, dropped / kept.clip(1e-3), np.nan)
    ratio = ratio[:, :, (kept > 1e-3).any(axis=(0, 1))]
    seen = np.isfinite(ratio).any(axis=1)
    least, most = np.nanmin(ratio, axis=1, initial=9), np.nanmax(ratio, axis=1, initial=-9)
    np.testing.assert_allclose(least[seen], most[seen], rtol=1e-4)
    assert np.unique(most[seen].round(3)) == pytest.approx([0, 1.429])
    assert most[seen].mean() == pytest.approx(1.0, abs=0.04)


def test_another_place_has_noise_and_weights_of_its_own() -> None:
    one, other = (
        Convolutions(SETTINGS, num_features=2, dtype="float32", seed=1, first_place=place)
        for place in (3_000, 4_000)
    )
    assert (one.parts[0].kernel.numpy() != other.parts[0].kernel.numpy()).all()
    for ours, theirs in zip(one.parts, other.parts, strict=True):
        theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(output(one), output(other))
    assert (output(one, noise()) != output(other, noise())).any()


def test_what_is_pooled_is_of_real_steps() -> None:
    x = np.random.default_rng(2).normal(size=(4, 9, 3)).astype(np.float32)
    x[np.arange(9) >= LENGTHS[:, np.newaxis]] = np.nan
    found = {name: pool(tf.constant(x), tf.constant(LENGTHS)).numpy() for name, pool in POOLS.items()}
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found["mean"][row], x[row, :length].mean(axis=0), atol=1e-6)
        np.testing.assert_array_equal(found["max"][row], x[row, :length].max(axis=0))
    np.testing.assert_array_equal(found["both"], np.concatenate([found["mean"], found["max"]], axis=1))


def test_mean_over_time_of_a_long_sequence_fits_half_precision() -> None:
    found = mean_over_time(tf.fill((1, 9_000, 1), tf.constant(8.0, tf.float16)), tf.constant([9_000]))
    assert found.dtype == tf.float16
    assert found.numpy() == 8.0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_near_full(dtype: str, norm: str) -> None:
    built = convolutions(by(norm), dtype=dtype)
    half = built(tf.constant(sequences()), tf.constant(LENGTHS), noise())
    assert half.dtype == dtype.removeprefix("mixed_")
    assert {v.dtype for part in built.parts for v in part.trainable_variables} == {"float32"}
    full = output(convolutions(by(norm)), noise())
    tolerance = (0.005 if dtype == "mixed_float16" else 0.04) * np.abs(full).max()
    np.testing.assert_allclose(tf.cast(half, tf.float32).numpy(), full, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
def test_normalisation_of_large_numbers_fits_half_precision(norm: str) -> None:
    built = convolutions(by(norm), dtype="mixed_float16")
    large = tf.constant(sequences(beyond=0) * 3_000)
    assert np.isfinite(built(large, tf.constant(LENGTHS), None).numpy()).all()


def test_batch_and_time_may_be_unknown() -> None:
    built = convolutions()
    signature = [tf.TensorSpec([None, None, 2]), tf.TensorSpec([None], tf.int32)]
    graph = tf.function(lambda x, lengths: built(x, lengths, noise()), input_signature=signature)
    x, lengths = tf.constant(sequences()), tf.constant(LENGTHS)
    assert graph.get_concrete_function().structured_outputs.shape.as_list() == [None, None, 3]
    np.testing.assert_allclose(graph(x, lengths).numpy(), output(built, noise()), atol=1e-5)
    assert graph(x[:1, :2], tf.constant([1])).shape == (1, 2, 3)


def test_variables_have_a_fixed_order_and_follow_from_the_seed() -> None:
    first, again, other = (
        [
            variable.numpy()
            for part in Convolutions(
                SETTINGS, num_features=2, dtype="float32", seed=seed, first_place=0
            ).parts
            for variable in part.trainable_variables
        ]
        for seed in (3, 3, 4)
    )
    kernels = [(3, 2, 5), (4, 5, 4), (15, 4, 3)]
    assert [v.shape for v in first] == [shape for kernel in kernels for shape in (kernel, *[kernel[-1:]] * 3)]
    for ours, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert ours.ndim == 1 or (ours != different).all()
