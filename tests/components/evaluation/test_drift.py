import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from components.data.profiles import of_split
from components.evaluation.drift import Limits, Reference, Seen, by_chance, compare, psi

LEVELS = np.linspace(0, 1, 21)


def profile(values, lengths, labels, *, coverage=0.98):
    features = [{"quantiles": np.quantile(values, LEVELS).tolist()}]
    return {
        "splits": {"train": of_split(lengths, labels)},
        "inputs": [
            {"column": "x", "kind": "numeric", "num_features": 1, "features": features},
            {"column": "word", "kind": "token", "coverage": {"train": 1.0, "valid": coverage}},
        ],
    }


def rows(n, *, mean=0.0, longer=0, share=0.5, unknown=0.02, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1 + longer, 10 + longer, n)
    labels = Counter({"a": int(n * share), "b": n - int(n * share)})
    return rng.normal(mean, 1.0, (int(lengths.sum()), 1)), lengths, labels, unknown


def seen(then, now):
    values, lengths, labels, unknown = now
    found = Seen.of(then)
    for part in (slice(0, 100), slice(100, None)):  # as batches come
        found.add_numbers("x", values[part])
        found.add_lengths(lengths[part])
    found.add_labels(labels)
    found.add_symbols("word", 10_000, int(10_000 * unknown))
    return found


@pytest.fixture
def then():
    values, lengths, labels, _ = rows(2000)
    return profile(values[:, 0], lengths, labels)


def shifts(then, now, **limits):
    return {(each.kind, each.measure): each for each in compare(then, seen(then, now), Limits(**limits))}


def test_rows_like_those_of_training_have_no_shift_that_counts(then):
    found = shifts(then, rows(1500, seed=1))
    assert set(found) == {
        ("feature", "psi"),
        ("feature", "ks"),
        ("unknown", "share"),
        ("lengths", "psi"),
        ("labels", "psi"),
    }
    assert not any(each.counts for each in found.values())
    assert all(each.value < 0.02 for each in found.values())


@pytest.mark.parametrize(
    ("change", "which"),
    [
        ({"mean": 1.0}, {("feature", "psi"), ("feature", "ks")}),
        ({"longer": 4}, {("lengths", "psi")}),
        ({"share": 0.9}, {("labels", "psi")}),
        ({"unknown": 0.2}, {("unknown", "share")}),
    ],
)
def test_each_kind_of_shift_is_told_from_the_others(then, change, which):
    found = shifts(then, rows(1500, seed=1, **change))
    assert {key for key, each in found.items() if each.counts} == which


def test_the_distance_is_that_of_kolmogorov_and_smirnov(then):
    values = rows(1500, mean=0.7, seed=1)[0][:, 0]
    training = rows(2000)[0][:, 0]
    exact = stats.ks_2samp(training, values).statistic
    assert Reference.of(np.quantile(training, LEVELS)).ks(
        Reference.of(np.quantile(training, LEVELS)).count(values)
    ) == pytest.approx(exact, abs=0.03)  # only at the edges


def test_the_index_is_the_one_of_the_book():
    # Siddiqi's formula by hand: (0.4 - 0.5) ln(0.4 / 0.5) + (0.6 - 0.5) ln(0.6 / 0.5)
    value, bins = psi(np.array([0.5, 0.5]), np.array([0.4, 0.6]), 10**9, 10**9)
    assert value == pytest.approx(0.1 * math.log(0.5 / 0.4) + 0.1 * math.log(0.6 / 0.5), rel=1e-6)
    assert bins == 2


def test_few_rows_that_differ_by_chance_alone_do_not_count(then):
    found = [shifts(then, rows(15, seed=seed)) for seed in range(40)]
    values = [each["feature", "psi"].value for each in found]
    assert max(values) < 1.0
    flagged = sum(any(shift.counts for shift in each.values()) for each in found)
    assert flagged <= 4


@pytest.mark.parametrize(("n", "m"), [(200, 300), (1000, 100)])
def test_chance_is_what_rows_without_drift_stay_below(n, m):
    rng = np.random.default_rng(0)
    draws = [
        psi(rng.multinomial(n, [0.1] * 10) / n, rng.multinomial(m, [0.1] * 10) / m, n, m)[0]
        for _ in range(2000)
    ]
    assert 0.97 < np.mean(np.array(draws) < by_chance(10, n, m)) < 1.0


def test_a_feature_with_few_values_has_a_bin_for_each(then):
    training = np.repeat([0.0, 1.0], [900, 100])
    reference = Reference.of(np.quantile(training, LEVELS))
    value, bins = reference.psi(reference.count(np.repeat([0.0, 1.0], [500, 500])), 1000, 1000)
    exact = 0.4 * math.log(0.9 / 0.5) + 0.4 * math.log(0.5 / 0.1)
    assert bins == 2 and 0.6 * exact < value < 1.4 * exact  # the quantiles stand five percent apart


def test_a_constant_feature_that_moves_is_seen():
    reference = Reference.of([3.0] * 21)
    assert reference.ks(reference.count(np.full(50, 3.0))) == 0.0
    assert reference.ks(reference.count(np.full(50, 2.0))) == 0.0  # below the only edge, as at it
    assert reference.ks(reference.count(np.full(50, 4.0))) == 1.0


def test_missing_values_are_no_values(then):
    values, lengths, labels, unknown = rows(1500, seed=1)
    values[::2] = np.nan
    found = seen(then, (values, lengths, labels, unknown))
    assert found.missing["x", 0] == len(values[::2])
    assert found.features["x", 0].sum() == len(values) - len(values[::2])


def test_labels_that_training_had_not_are_named(then):
    now = rows(1500, seed=1)
    now[2]["c"] = 3
    found = shifts(then, now)
    assert "Labels that training had not: 'c'." in found["labels", "psi"].sentence


def test_a_limit_of_none_lets_everything_pass(then):
    found = shifts(then, rows(1500, mean=3.0), psi=None, ks=None)
    assert not found["feature", "psi"].counts and found["feature", "psi"].value > 1
    assert found["feature", "psi"].to_json()["counts"] is False


def test_the_shares_of_a_shift_are_whole_distributions_with_bins_in_order(then):
    found = shifts(then, rows(1500, mean=1.0, longer=4, share=0.9, seed=1))
    for key in (("feature", "psi"), ("lengths", "psi"), ("labels", "psi")):
        shares = found[key].shares
        assert sum(share.then for share in shares) == pytest.approx(1.0)
        assert sum(share.now for share in shares) == pytest.approx(1.0)
    first, *_, last = found["feature", "psi"].shares
    assert first.name.startswith("up to -") and last.name.startswith("over ")
    assert first.now < first.then and last.now > last.then
    assert found["lengths", "psi"].shares[-1].name.startswith("from ")
    assert {share.name for share in found["labels", "psi"].shares} == {"a", "b"}
    assert found["unknown", "share"].shares[0].now == pytest.approx(0.02)
    assert found["feature", "psi"].to_json()["shares"][0]["name"] == first.name
