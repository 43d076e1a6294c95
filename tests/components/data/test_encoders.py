"""Statistics that merge exactly, and the encoding that follows from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data import encoders
from components.data.encoders import Statistics, fit, merged

RNG = np.random.default_rng(0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_parts_merged_are_the_whole(sizes, seed):
    values = np.random.default_rng(seed).normal(50.0, 3.0, (sum(sizes), 3)) * [1.0, 1e6, 1e-6]
    cuts = np.split(values, np.cumsum(sizes)[:-1])
    together = merged([Statistics.of(part) for part in cuts])
    assert together.count == len(values)
    np.testing.assert_allclose(together.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(together.deviation, values.std(axis=0), rtol=1e-9, atol=1e-15)
    assert (together.low == values.min(axis=0)).all()
    assert (together.high == values.max(axis=0)).all()


def test_a_small_spread_far_from_zero_keeps_its_digits():
    values = 1e9 + RNG.normal(0.0, 1.0, (10_000, 1))
    parts = merged([Statistics.of(part) for part in np.split(values, 10)])
    np.testing.assert_allclose(parts.deviation, values.std(axis=0), rtol=1e-9)


def test_blocks_change_nothing(monkeypatch):
    values = RNG.normal(size=(1000, 4)).astype(np.float32)
    whole = Statistics.of(values)
    monkeypatch.setattr(encoders, "BLOCK_VALUES", 28)
    blocks = Statistics.of(values)
    np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(blocks.squares, whole.squares, rtol=1e-12)


def test_standard_and_minmax_give_what_they_are_known_for():
    values = RNG.normal(7.0, 3.0, (500, 2))
    statistics = Statistics.of(values)
    standard = fit("x", "standard", statistics).apply(values)
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(standard.std(axis=0), 1.0, rtol=1e-6)
    minmax = fit("x", "minmax", statistics).apply(values)
    assert minmax.min(axis=0).tolist() == [0.0, 0.0]
    assert minmax.max(axis=0).tolist() == [1.0, 1.0]
    assert (fit("x", "none", statistics).apply(values) == values.astype(np.float32)).all()


@pytest.mark.parametrize("scale", ["standard", "minmax"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30, 1 / 3])
def test_a_feature_that_is_constant_in_training_keeps_its_unit(scale, value):
    statistics = merged([Statistics.of(np.full((7, 1), value)), Statistics.of(np.full((3, 1), value))])
    assert statistics.constant.all()
    encoding = fit("x", scale, statistics)
    assert encoding.spread == (1.0,)
    seen, new = encoding.apply(np.array([[value], [value + 2.0]]))
    assert seen[0] == 0.0
    assert new[0] == np.float32(value + 2.0 - value)


def test_what_differs_by_rounding_only_is_constant_and_a_small_change_is_not():
    rounding = np.array([[0.1 + 0.2], [0.3]])
    assert Statistics.of(rounding).constant.all()
    assert not Statistics.of(np.array([[1.0], [1.0 + 1e-9]])).constant.any()


def test_a_spread_too_small_to_divide_by_is_left_alone():
    tiny = Statistics.of(np.array([[0.0], [5e-324]]))
    assert fit("x", "minmax", tiny).spread == (1.0,)


def test_whole_numbers_and_booleans_are_counted_as_numbers():
    bits = Statistics.of(np.array([[0], [1], [1], [0]], np.uint8))
    assert bits.mean.tolist() == [0.5]
    assert bits.deviation.tolist() == [0.5]
    # The difference of unsigned numbers would wrap around.
    assert Statistics.of(np.array([[250], [2]], np.uint8)).high.tolist() == [250.0]
