"""Statistics that merge exactly, and the encoding that follows from them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data import encoders
from components.data.encoders import Counts, Quantiles, Statistics, fit, merged, needs_quantiles
from components.errors import DataError
from components.served.encoding import slots_of
from conf.schema import CategoryContext, CategoryInput, NumericContext, NumericInput, TokenInput

RNG = np.random.default_rng(0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_parts_merged_are_the_whole(sizes, seed):
    values = np.random.default_rng(seed).normal(50.0, 3.0, (sum(sizes), 3)) * [1.0, 1e6, 1e-6]
    cuts = np.split(values, np.cumsum(sizes)[:-1])
    together = merged([Statistics.of(part) for part in cuts])
    assert (together.count == len(values)).all()
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
    standard = fit(NumericInput(column="x", scale="standard"), statistics).apply(values)
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(standard.std(axis=0), 1.0, rtol=1e-6)
    minmax = fit(NumericInput(column="x", scale="minmax"), statistics).apply(values)
    assert minmax.min(axis=0).tolist() == [0.0, 0.0]
    assert minmax.max(axis=0).tolist() == [1.0, 1.0]
    assert (fit(NumericInput(column="x"), statistics).apply(values) == values.astype(np.float32)).all()


@pytest.mark.parametrize("scale", ["standard", "minmax"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30, 1 / 3])
def test_a_feature_that_is_constant_in_training_keeps_its_unit(scale, value):
    statistics = merged([Statistics.of(np.full((7, 1), value)), Statistics.of(np.full((3, 1), value))])
    assert statistics.constant.all()
    encoding = fit(NumericInput(column="x", scale=scale), statistics)
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
    assert fit(NumericInput(column="x", scale="minmax"), tiny).spread == (1.0,)


def test_whole_numbers_and_booleans_are_counted_as_numbers():
    bits = Statistics.of(np.array([[0], [1], [1], [0]], np.uint8))
    assert bits.mean.tolist() == [0.5]
    assert bits.deviation.tolist() == [0.5]
    # The difference of unsigned numbers would wrap around.
    assert Statistics.of(np.array([[250], [2]], np.uint8)).high.tolist() == [250.0]


def robust(values: np.ndarray, **settings):
    setting = NumericInput(column="x", scale="robust", **settings)
    return fit(setting, Statistics.of(values, quantiles=needs_quantiles(setting)))


def quantile(values, share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


WHOLE = st.lists(st.integers(-4096, 4096), min_size=1, max_size=60)


@given(WHOLE)
@settings(deadline=None, max_examples=80)
def test_median_and_quartiles_of_whole_numbers_are_exact(numbers):
    encoding = robust(np.array(numbers)[:, None])
    low, median, high = (quantile(numbers, share) for share in (0.25, 0.5, 0.75))
    assert encoding.center == (median,)
    if high > low:
        assert encoding.spread == (high - low,)


FLOATS = st.floats(-1e30, 1e30).filter(lambda number: abs(number) > 1e-30 or number == 0)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.sampled_from([0.25, 0.5, 0.75]))
@settings(deadline=None, max_examples=120)
def test_a_quantile_of_any_numbers_is_right_to_one_part_in_2048(numbers, share):
    (found,) = Quantiles.of(np.array(numbers)[:, None]).at(share, features=1)
    expected = quantile(numbers, share)
    assert abs(found - expected) <= abs(expected) / 2048


def test_quantiles_are_of_each_feature_alone():
    values = np.stack([np.arange(101.0), -10 * np.arange(101.0), np.full(101, 7.0)], axis=1)
    assert Quantiles.of(values).at(0.25, features=3).tolist() == [25.0, -750.0, 7.0]
    encoding = robust(values)
    assert encoding.center == (50.0, -500.0, 7.0)
    assert encoding.spread == (50.0, 500.0, 1.0)


def test_a_feature_that_is_the_same_in_most_steps_is_scaled_by_its_deviation():
    values = np.array([0.0] * 9 + [100.0])[:, None]
    encoding = robust(values)
    assert (encoding.center, encoding.spread) == ((0.0,), (values.std(),))


ROWS = st.lists(
    st.tuples(*[st.one_of(st.just(float("nan")), st.integers(-9, 9), st.floats(-1e6, 1e6))] * 2),
    min_size=1,
    max_size=30,
)


@given(ROWS, st.data())
@settings(deadline=None, max_examples=80)
def test_parts_with_gaps_merged_in_any_order_are_the_whole(rows, data):
    values = np.array(rows, np.float64)
    cuts = sorted(data.draw(st.lists(st.integers(1, max(1, len(rows) - 1)), max_size=4, unique=True)))
    parts = [part for part in np.split(values, cuts) if len(part)]
    order = data.draw(st.permutations(range(len(parts))))
    found = merged([Statistics.of(parts[i], quantiles=True) for i in order])
    whole = Statistics.of(values, quantiles=True)
    for name in ("count", "missing", "low", "high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.quantiles.keys.tolist() == whole.quantiles.keys.tolist()
    assert found.quantiles.counts.tolist() == whole.quantiles.counts.tolist()
    for feature in range(2):
        there = values[~np.isnan(values[:, feature]), feature]
        assert (found.count[feature], found.missing[feature]) == (len(there), len(values) - len(there))
        if len(there):
            scale = max(1.0, np.abs(there).max())
            assert found.mean[feature] == pytest.approx(there.mean(), abs=1e-12 * scale)
            assert found.deviation[feature] == pytest.approx(there.std(), abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("impute", "fill"), [("none", None), ("mean", (4.0, 0.0)), ("median", (2.0, 0.0)), ("zero", (0.0, 0.0))]
)
def test_what_stands_in_for_a_gap_follows_from_the_values_that_are_there(impute, fill):
    nan = np.nan
    values = np.array([[1.0, nan], [nan, nan], [9.0, nan], [2.0, nan]])
    setting = NumericInput(column="x", impute=impute, indicator=impute != "none")
    assert needs_quantiles(setting) == (impute == "median")
    encoding = fit(setting, Statistics.of(values, quantiles=needs_quantiles(setting)))
    assert encoding.fill == fill
    if fill:
        assert encoding.apply(values)[1].tolist() == [*fill, 1.0, 1.0]
        assert encoding.apply(values)[0].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("scale", ["standard", "minmax", "robust"])
def test_a_feature_without_any_value_is_nought_at_every_step(scale):
    values = np.full((5, 1), np.nan)
    setting = NumericContext(column="x", scale=scale, impute="mean")
    whole = merged([Statistics.of(part, quantiles=True) for part in (values[:2], values[2:])])
    encoding = fit(setting, whole)
    assert (encoding.center, encoding.spread, encoding.fill) == ((0.0,), (1.0,), (0.0,))
    assert (whole.count.tolist(), whole.missing.tolist()) == ([0], [5])
    assert encoding.apply(values).tolist() == [[0.0]] * 5


def test_a_part_without_values_does_not_move_the_others():
    there, gaps = Statistics.of(np.array([[3.0], [5.0]])), Statistics.of(np.array([[np.nan]]))
    for found in (there.merge(gaps), gaps.merge(there)):
        numbers = [float(getattr(found, name)[0]) for name in ("mean", "deviation", "low", "high")]
        assert numbers == [4.0, 1.0, 3.0, 5.0]
        assert (found.count.tolist(), found.missing.tolist()) == ([2], [1])


def tokens(texts: list[str], **settings):
    setting = TokenInput(column="words", kind="token", **settings)
    assert not needs_quantiles(setting)
    return fit(setting, Counts.of(pa.array(texts)))


WORDS = ["b", "a", "der", "der", "Der", "b", "c", "der", "a"]  # der 3, a 2, b 2, Der 1, c 1


def test_tokens_stand_in_order_of_how_often_they_are_met_then_of_their_text():
    assert tokens(WORDS).tokens == ("der", "a", "b", "Der", "c")
    assert tokens(WORDS, min_count=2).tokens == ("der", "a", "b")
    assert tokens(WORDS, max_size=2).tokens == ("der", "a")
    assert tokens(WORDS, lowercase=True, max_size=1).tokens == ("der",)


def test_spellings_that_become_one_token_are_counted_together():
    spellings = ["\u00e9", "e\u0301", "\u00c9", "x", "x", "x"]
    assert tokens(spellings, min_count=2).tokens == ("x", "\u00e9")
    assert tokens(spellings, min_count=3, lowercase=True).tokens == ("x", "\u00e9")
    assert tokens(spellings, min_count=2, normalise="none").tokens == ("x",)
    assert tokens(["\ufb01", "fi"], min_count=2, normalise="NFKC").tokens == ("fi",)
    encoding = tokens(spellings, lowercase=True)
    assert encoding.tokens == ("x", "\u00e9")
    assert encoding.apply(spellings)[:, 0].tolist() == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]


def test_characters_are_those_of_all_tokens_the_commonest_first():
    encoding = tokens(["aab", "aab", "ba", "c"], min_count=2, characters=True)
    assert encoding.tokens == ("aab",)
    assert encoding.characters == ("a", "b", "c")
    assert encoding.max_characters == 3
    assert tokens(["aab"]).characters == ()
    assert tokens(["aab"]).max_characters == 0


def test_what_settings_say_about_training_comes_to_the_network():
    encoding = tokens(["aab"], characters="recurrent", character_units=7, unknown_rate=0.2)
    word, slot = slots_of(encoding)
    assert (word.kind, word.unknown_rate) == ("symbol", 0.2)
    assert (slot.kind, slot.units) == ("spelling", 7)
    _, plain = slots_of(tokens(["aab"], characters=True))
    assert (plain.kind, plain.units) == ("characters", 0)


def test_of_long_tokens_and_large_alphabets_a_part_is_kept(monkeypatch):
    monkeypatch.setattr(encoders, "MAX_CHARACTERS", 4)
    monkeypatch.setattr(encoders, "MAX_ALPHABET", 2)
    encoding = tokens(["aabbbc" * 3], characters=True)
    assert (encoding.max_characters, encoding.characters) == (4, ("b", "a"))


def test_where_no_token_is_frequent_enough_the_column_is_named():
    with pytest.raises(DataError, match="no token stands 4 times in the training rows") as caught:
        tokens(WORDS, min_count=4)
    assert caught.value.problems[0].column == "words"


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=5), st.randoms())
@settings(deadline=None, max_examples=50)
def test_texts_counted_in_parts_give_the_encoding_of_the_whole(parts, random):
    whole = [text for part in parts for text in part]
    random.shuffle(parts)
    together = merged([Counts.of(pa.array(part)) for part in parts])
    setting = TokenInput(column="words", kind="token", characters=True)
    assert fit(setting, together) == tokens(whole, characters=True)
    assert together.numbers == {text: whole.count(text) for text in whole}


@pytest.mark.parametrize("setting", [CategoryInput, CategoryContext])
def test_categories_stand_in_order_of_their_text(setting):
    encoding = fit(setting(column="x", kind="category"), Counts.of(pa.array(["b", "", "B", "b", "a"])))
    assert encoding.categories == ("", "B", "a", "b")
    assert encoding.apply(["a", "new"])[:, 0].tolist() == [3.0, 0.0]


@pytest.mark.parametrize(
    ("characters", "spelling"),
    [(True, "convolution"), ("convolution", "convolution"), ("recurrent", "recurrent")],
)
def test_the_settings_say_how_characters_are_read(characters, spelling):
    encoding = tokens(["aab"], characters=characters)
    assert (encoding.spelling, encoding.max_characters) == (spelling, 3)


def test_vectors_are_64_wide_unless_the_settings_say_otherwise():
    assert tokens(["a"]).embedding == 64
    assert tokens(["a"], embedding=5).embedding == 5
