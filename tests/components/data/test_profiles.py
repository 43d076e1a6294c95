"""What the profile says of rows with known lengths, labels and features."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.encoders import Counts, Statistics, fit
from components.data.profiles import MAX_FEATURES, NUM_BINS, of_columns, of_split, padding_waste
from conf.schema import CategoryContext, NumericInput, TokenInput


def described(values, sample=None) -> list:
    statistics = Statistics.of(values)
    encoding = fit(NumericInput(column="x", impute="zero"), statistics)
    return of_columns([encoding], {"train": [statistics]}, [sample])


def test_lengths_and_labels_of_a_split():
    profile = of_split(np.array([1, 3, 3, 9]), {"a": 10, "b": 6})
    assert (profile["rows"], profile["steps"]) == (4, 16)
    lengths = profile["lengths"]
    assert [lengths[name] for name in ("min", "mean", "median", "max")] == [1, 4.0, 3.0, 9]
    assert profile["labels"] == {"a": 10, "b": 6}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_every_row_is_in_one_bar_of_the_histogram(lengths):
    histogram = of_split(np.array(lengths), {})["lengths"]["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert sum(counts) == len(lengths)
    assert len(edges) == len(counts) + 1 <= NUM_BINS + 1
    assert edges == sorted(set(edges))
    assert edges[0] == min(lengths)
    assert edges[-1] == max(lengths) + 1


def test_features_are_described_and_constant_ones_named():
    values = np.array([[1.0, 5.0], [3.0, 5.0]])
    (profile,) = described(values)
    assert profile["features"] == [
        {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0, "missing": 0},
        {"mean": 5.0, "std": 0.0, "min": 5.0, "max": 5.0, "missing": 0},
    ]
    assert profile["constant"] == [1]
    assert profile["num_features"] == 2
    assert json.loads(json.dumps(profile)) == profile


def test_the_distribution_is_that_of_the_sample_without_what_is_missing():
    sample = np.array([[0.0, 7.0, np.nan], [4.0, 7.0, np.nan], [1.0, 7.0, np.nan], [np.nan, 7.0, np.nan]])
    (profile,) = described(sample, sample)
    spread, constant, absent = profile["features"]
    assert spread["quantiles"][0] == 0.0 and spread["quantiles"][-1] == 4.0
    assert spread["quantiles"][NUM_BINS // 2] == 1.0
    assert sum(spread["histogram"]["counts"]) == 3
    assert constant["quantiles"] == [7.0] * (NUM_BINS + 1) and "histogram" not in constant
    assert "quantiles" not in absent
    assert json.loads(json.dumps(profile)) == profile


@given(st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=40))
def test_every_number_of_a_sample_is_in_one_bar(values):
    sample = np.array(values)[:, None]
    (profile,) = described(sample, sample)
    (feature,) = profile["features"]
    if len(set(values)) == 1:
        assert "histogram" not in feature
    else:
        histogram = feature["histogram"]
        assert sum(histogram["counts"]) == len(values)
        assert histogram["edges"] == sorted(set(histogram["edges"]))


def test_very_wide_inputs_are_described_in_part_and_say_so():
    (profile,) = described(np.zeros((2, MAX_FEATURES + 10)))
    assert len(profile["features"]) == MAX_FEATURES
    assert profile["num_features"] == MAX_FEATURES + 10
    assert len(profile["constant"]) == MAX_FEATURES + 10


def test_padding_is_what_a_batch_adds_to_its_rows():
    lengths = np.array([1, 4, 1, 4])
    waste = padding_waste(lengths, batch_size=2)
    # 16 places for 10 steps as they come; sorted, none is padded.
    assert waste["unsorted"] == pytest.approx(6 / 16)
    assert waste["by_length"] == 0.0


def test_a_last_batch_that_is_not_full_counts_its_own_rows_only():
    assert padding_waste(np.array([2, 2, 1, 4, 5]), batch_size=2)["unsorted"] == pytest.approx(1 - 14 / 17)


def described_texts(setting, **splits: list[str]) -> dict:
    counts = {name: [Counts.of(pa.array(texts, pa.string()))] for name, texts in splits.items()}
    (found,) = of_columns([fit(setting, counts["train"][0])], counts, [None])
    return found


def test_of_tokens_it_says_how_many_there_are_and_how_many_steps_are_known():
    setting = TokenInput(column="words", kind="token", min_count=2, lowercase=True)
    train = ["Der", "der", "der", "Hund", "hund", "bellt"]
    found = described_texts(setting, train=train, valid=["DER", "bellt", "Katze", "katze"], test=[])
    assert found == {
        "column": "words",
        "kind": "token",
        "distinct": 5,
        "known": 2,
        "most_frequent": {"der": 2, "Der": 1, "Hund": 1, "bellt": 1, "hund": 1},
        "coverage": {"train": 5 / 6, "valid": 1 / 4, "test": 0.0},
    }
    assert list(found["most_frequent"]) == ["der", "Der", "Hund", "bellt", "hund"]


def test_of_categories_all_that_training_has_are_known():
    setting = CategoryContext(column="c", kind="category")
    found = described_texts(setting, train=["a", "b"], test=["a", "a", "a", "z"])
    assert (found["kind"], found["known"], found["distinct"]) == ("category", 2, 2)
    assert found["coverage"] == {"train": 1.0, "test": 0.75}


def test_only_the_most_frequent_tokens_are_listed():
    train = [f"t{i:02}" for i in range(NUM_BINS + 5) for _ in range(1 + (i == 20))]
    found = described_texts(TokenInput(column="words", kind="token"), train=train)
    assert list(found["most_frequent"]) == ["t20", *(f"t{i:02}" for i in range(NUM_BINS - 1))]
    assert found["distinct"] == NUM_BINS + 5


def test_missing_values_are_counted_feature_by_feature():
    (found,) = described(np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 4.0]]))
    assert [each["missing"] for each in found["features"]] == [1, 2]
    assert [each["mean"] for each in found["features"]] == [2.0, 4.0]
    assert found["constant"] == [1]
