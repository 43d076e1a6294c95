"""Searches: what is drawn, listed and asked for, and that nothing but the arguments has a say in it."""

import itertools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.tuning import searches
from components.tuning.searches import Known, active, contains, decode, encode, grid, num_points, suggest


@dataclass(frozen=True)
class Range:
    """A dimension without the checks of the settings file."""

    kind: str
    low: Any = None
    high: Any = None
    step: Any = None
    values: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def choice(*values: Any, **when: tuple[Any, ...]) -> Range:
    return Range("choice", values=values, when=when)


RATE = Range("loguniform", 1e-5, 1e-1)
CHAIN = {
    "nesterov": choice(True, False, momentum=("some",)),
    "momentum": choice("none", "some", optimizer=("sgd", "rmsprop")),
    "optimizer": choice("adam", "sgd", "rmsprop"),
    "layers": Range("int", 1, 3),
}
MIXED = {
    "rate": RATE,
    "optimizer": choice("adam", "sgd"),
    "momentum": Range("uniform", 0.0, 0.9, when={"optimizer": ("sgd",)}),
    "units": Range("logint", 16, 256),
    "layers": Range("int", 1, 3),
    "dropout": Range("quantised", 0.0, 0.5, 0.1),
    "branch": choice(None, {"filters": [16], "widths": [8]}, [1, 2]),
}


def asked(space, *, search="random", seed=0, number=0, known=(), higher_is_better=False) -> dict[str, Any]:
    point = suggest(
        space, search=search, seed=seed, number=number, known=known, higher_is_better=higher_is_better
    )
    assert point is not None
    return point


def draws(space, num: int) -> list[dict[str, Any]]:
    return [asked(space, number=number) for number in range(num)]


def tried(space, num: int, value: Callable[[dict[str, Any]], float | None]) -> list[Known]:
    return [Known(point, value(point)) for point in draws(space, num)]


def best(space, value: Callable[[dict[str, Any]], float], *, search: str, seed: int, num: int) -> float:
    known: list[Known] = []
    for number in range(num):
        point = asked(space, search=search, seed=seed, number=number, known=known)
        known.append(Known(point, value(point)))
    return min(each.value for each in known if each.value is not None)


# Draws


def test_a_draw_hangs_on_seed_and_number_alone():
    forwards = [asked(MIXED, number=number) for number in range(20)]
    backwards = [asked(MIXED, number=number) for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({json.dumps(point) for point in forwards}) == 20
    assert forwards != [asked(MIXED, seed=1, number=number) for number in range(20)]


def test_a_key_more_changes_no_other_key():
    alone = draws({"rate": RATE}, 20)
    assert alone == [{"rate": point["rate"]} for point in draws({"a": choice(1, 2), **MIXED}, 20)]


def test_half_of_a_logarithmic_draw_lies_below_the_geometric_mean():
    rates = [point["rate"] for point in draws({"rate": RATE}, 2000)]
    assert statistics.median(map(math.log10, rates)) == pytest.approx(-3, abs=0.15)
    assert min(rates) < 2e-5
    assert max(rates) > 5e-2


def test_whole_numbers_are_drawn_uniformly_in_their_logarithm():
    units = [point["units"] for point in draws({"units": Range("logint", 16, 256)}, 2000)]
    assert statistics.median(units) == pytest.approx(64, rel=0.1)
    small = Counter(point["units"] for point in draws({"units": Range("logint", 1, 3)}, 3000))
    assert set(small) == {1, 2, 3}
    assert small[1] / 3000 == pytest.approx(math.log(3) / math.log(7), abs=0.04)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (choice("a", None, 3), ["a", None, 3]),
        (Range("int", 2, 5), [2, 3, 4, 5]),
        (Range("quantised", 0.0, 0.5, 0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (Range("quantised", 0.0, 0.95, 0.3), [0.0, 0.3, 0.6, 0.9]),
        (Range("quantised", 10, 31, 10), [10, 20, 30]),
    ],
)
def test_every_value_of_a_finite_dimension_is_as_likely_and_as_it_was_written(dimension, expected):
    found = Counter(json.dumps(point["x"]) for point in draws({"x": dimension}, 3000))
    assert sorted(found) == sorted(map(json.dumps, expected))
    # Four standard deviations of a binomial.
    share = 1 / len(expected)
    for num in found.values():
        assert abs(num / 3000 - share) < 4 * (share * (1 - share) / 3000) ** 0.5
    assert json.dumps([point["x"] for point in grid({"x": dimension})]) == json.dumps(expected)


def test_a_uniform_draw_is_a_float_and_spread_evenly():
    values = [point["x"] for point in draws({"x": Range("uniform", 0, 2)}, 2000)]
    assert {type(value) for value in values} == {float}
    assert statistics.mean(values) == pytest.approx(1, abs=0.06)
    assert statistics.pstdev(values) == pytest.approx(2 / math.sqrt(12), abs=0.03)


def test_a_key_is_drawn_only_where_its_conditions_hold():
    for point in draws(CHAIN, 200):
        assert ("momentum" in point) == (point["optimizer"] != "adam")
        assert ("nesterov" in point) == (point.get("momentum") == "some")
        assert list(point) == [key for key in CHAIN if key in point]


def test_a_point_keeps_the_keys_whose_conditions_hold_also_through_others():
    space = {"c": choice(1, 2, b=(True,)), "b": choice(True, False, a=("x",)), "a": choice("x", "y")}
    assert active(space, {"a": "x", "b": True, "c": 2}) == {"a": "x", "b": True, "c": 2}
    assert active(space, {"a": "x", "b": False, "c": 2}) == {"a": "x", "b": False}
    assert active(space, {"a": "y", "b": True, "c": 2}) == {"a": "y"}
    assert active(space, {"b": True, "c": 2, "other": 1}) == {}


def test_conditions_in_a_circle_are_refused():
    with pytest.raises(ValueError, match="circle among a, b"):
        asked({"a": choice(1, b=(1,)), "b": choice(1, a=(1,))})


def test_a_point_may_be_changed_without_changing_the_space():
    space = {"branch": choice({"filters": [16]})}
    asked(space)["branch"]["filters"].append(32)
    assert asked(space) == {"branch": {"filters": [16]}}


# Grids


def test_a_grid_is_the_product_with_the_first_key_slowest():
    space = {"a": choice("x", [1], None), "b": Range("int", 1, 2), "c": Range("quantised", 0, 4, 2)}
    expected = [
        dict(zip("abc", values, strict=True))
        for values in itertools.product(("x", [1], None), (1, 2), (0, 2, 4))
    ]
    assert list(grid(space)) == expected
    assert num_points(space) == len(expected) == 18


def test_a_grid_has_each_point_once_where_keys_are_conditional():
    points = list(grid(CHAIN))
    assert len({json.dumps(point) for point in points}) == len(points) == num_points(CHAIN)
    # Momentum none or some with two values of nesterov, for two optimizers; adam alone; three layers of each.
    assert len(points) == 3 * (1 + 2 * 3)
    assert all(contains(CHAIN, point) for point in points)


def test_the_number_of_points_of_a_long_range_is_found_without_walking_it():
    space = {
        "a": Range("int", 1, 10**9),
        "b": Range("int", 1, 10**6, when={"a": (1, 7)}),
        "c": choice(1, 2, b=(5,)),
    }
    assert num_points(space) == (10**9 - 2) + 2 * (10**6 + 1)


def test_a_trial_past_the_end_of_a_grid_has_no_settings():
    space = {"a": choice(1, 2)}
    found = [
        suggest(space, search="grid", seed=0, number=number, known=(), higher_is_better=True)
        for number in range(4)
    ]
    assert found == [{"a": 1}, {"a": 2}, None, None]


def test_a_grid_of_a_space_without_end_is_refused():
    assert num_points(MIXED) is None
    with pytest.raises(ValueError, match="rate as loguniform, expected one of choice, int, quantised"):
        asked(MIXED, search="grid")


# What a space contains


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", 0.2),
        ("rate", 0.0),
        ("rate", math.nan),
        ("rate", "0.01"),
        ("rate", True),
        ("optimizer", "rmsprop"),
        ("units", 15),
        ("units", 64.0),
        ("layers", 0),
        ("layers", True),
        ("dropout", 0.25),
        ("dropout", 0.6),
        ("dropout", -0.1),
        ("branch", [2, 1]),
        ("momentum", 0.5),
        ("surprise", 1),
    ],
)
def test_a_point_with_a_wrong_value_or_key_is_not_in_the_space(key, value):
    point = {"rate": 0.01, "optimizer": "adam", "units": 64, "layers": 1, "dropout": 0.3, "branch": None}
    assert contains(MIXED, point)
    assert not contains(MIXED, {**point, key: value})


def test_a_point_without_an_active_key_is_not_in_the_space():
    point = {"rate": 0.01, "optimizer": "sgd", "units": 64, "layers": 1, "dropout": 0.3, "branch": None}
    assert not contains(MIXED, point)
    assert contains(MIXED, {**point, "momentum": 0})


def test_the_ends_may_be_missed_by_what_arithmetic_loses():
    assert contains({"x": RATE}, {"x": 0.1 + 2e-17})
    assert contains({"x": RATE}, {"x": 1e-5 * (1 - 1e-12)})
    assert contains({"x": Range("uniform", 0.0, 0.3)}, {"x": 0.1 * 3})
    assert contains({"x": Range("quantised", 0.0, 0.5, 0.1)}, {"x": 0.1 * 3})
    assert not contains({"x": Range("uniform", 0.0, 0.3)}, {"x": -1e-6})
    assert not contains({"x": Range("quantised", 0, 4, 2)}, {"x": 2.0})


NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 6))
POSITIVE = st.floats(1e-8, 1e6)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers()))


@st.composite
def dimensions(draw: st.DrawFn, when: Mapping[str, tuple[Any, ...]]) -> Range:
    kind = draw(st.sampled_from(("choice", "uniform", "loguniform", "int", "logint", "quantised")))
    if kind == "choice":
        values = draw(st.lists(VALUES, min_size=1, max_size=5, unique_by=searches.canonical))
        return Range(kind, values=tuple(values), when=when)
    if kind in ("int", "logint"):
        low = draw(st.integers(1 if kind == "logint" else -1000, 10**6))
        return Range(kind, low, low + draw(st.integers(1, 10**6)), when=when)
    low, high = sorted(draw(st.lists(POSITIVE if kind == "loguniform" else NUMBERS, min_size=2, max_size=2)))
    high = high if high > low else low + 1
    step = (high - low) / draw(st.integers(1, 50)) if kind == "quantised" else None
    return Range(kind, low, high, step, when=when)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Range]:
    space = {"first": draw(dimensions({}))}
    for key in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        choices = {name: each.values for name, each in space.items() if each.kind == "choice"}
        named = draw(st.sampled_from(sorted(choices))) if choices and draw(st.booleans()) else None
        when = {} if named is None else {named: (draw(st.sampled_from(choices[named])),)}
        space[key] = draw(dimensions(when))
    return space


@given(space=spaces(), seed=st.integers(0, 2**63), number=st.integers(0, 10**6))
def test_whatever_is_drawn_lies_in_the_space_and_survives_a_file(space, seed, number):
    point = asked(space, seed=seed, number=number)
    assert contains(space, point)
    assert json.loads(json.dumps(point)) == point
    assert contains(space, json.loads(json.dumps(point)))
    again = {key: decode(space[key], encode(space[key], value)) for key, value in point.items()}
    assert again == point


@settings(max_examples=25, deadline=None)
@given(space=spaces(), seed=st.integers(0, 2**63))
def test_whatever_is_asked_for_lies_in_the_space_and_survives_a_file(space, seed):
    known = [
        Known(point, None if number % 4 == 3 else number) for number, point in enumerate(draws(space, 12))
    ]
    point = asked(space, search="optuna", seed=seed, number=12, known=known)
    assert contains(space, point)
    assert json.loads(json.dumps(point)) == point
    for value in point.values():
        assert type(value) in (int, float, str, bool, list, dict, type(None))


# Optuna


def test_the_first_trials_are_drawn_at_random():
    for num in range(searches.MIN_STARTUP):
        known = tried({"x": RATE}, num, lambda point: point["x"])
        assert asked({"x": RATE}, search="optuna", number=num, known=known) == asked({"x": RATE}, number=num)


def test_failures_do_not_count_as_the_first_trials():
    known = tried({"x": RATE}, 30, lambda point: None)
    assert asked({"x": RATE}, search="optuna", number=30, known=known) == asked({"x": RATE}, number=30)


def test_neither_the_order_of_the_known_nor_earlier_questions_have_a_say():
    known = tried(MIXED, 40, lambda point: abs(math.log10(point["rate"]) + 3))
    first = asked(MIXED, search="optuna", number=40, known=known)
    for number in (3, 41):
        assert asked(MIXED, search="optuna", number=number, known=known[::-1]) != first
    assert asked(MIXED, search="optuna", number=40, known=known[::-1]) == first
    assert asked(MIXED, search="optuna", number=40, known=known[20:] + known[:20]) == first


def test_another_process_with_other_hashes_asks_for_the_same():
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]);"
        "from test_searches import *;"
        "known = tried(MIXED, 12, lambda point: point['rate']);"
        "print(json.dumps(asked(MIXED, search='optuna', number=12, known=known)))"
    )
    here = asked(MIXED, search="optuna", number=12, known=tried(MIXED, 12, lambda point: point["rate"]))
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        )
        assert json.loads(there.stdout) == here
        assert there.stderr == ""


def test_tpe_comes_far_closer_than_chance_in_as_many_trials():
    space = {"a": RATE, "b": Range("loguniform", 1e-4, 1.0)}

    def bowl(point: dict[str, Any]) -> float:
        return (math.log10(point["a"]) + 2.7) ** 2 + (math.log10(point["b"]) + 1.3) ** 2

    chance, tpe = (
        statistics.median(best(space, bowl, search=search, seed=seed, num=40) for seed in range(7))
        for search in ("random", "optuna")
    )
    # Measured over twelve seeds: 0.18 and 0.011.
    assert tpe < chance / 4


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_tpe_looks_where_the_value_is_better(higher_is_better):
    known = tried({"x": Range("uniform", 0.0, 1.0)}, 40, lambda point: point["x"])
    space = {"x": Range("uniform", 0.0, 1.0)}
    found = [
        asked(space, search="optuna", number=number, known=known, higher_is_better=higher_is_better)["x"]
        for number in range(40, 60)
    ]
    assert (statistics.median(found) > 0.8) == higher_is_better
    assert (statistics.median(found) < 0.2) != higher_is_better


@pytest.mark.parametrize("failure", [None, math.nan, math.inf])
@pytest.mark.parametrize("higher_is_better", [False, True])
def test_tpe_keeps_away_from_where_trials_failed(failure, higher_is_better):
    space = {"x": RATE}
    # The value falls slowly towards the upper half, where everything fails.
    sign = -1 if higher_is_better else 1
    known = tried(space, 40, lambda point: -sign * math.log10(point["x"]) if point["x"] < 1e-3 else failure)
    assert sum(not each.has_value for each in known) > 10
    found = [
        asked(space, search="optuna", number=number, known=known, higher_is_better=higher_is_better)["x"]
        for number in range(40, 70)
    ]
    assert sum(rate > 1.5e-3 for rate in found) <= 3


def test_many_failures_do_not_pass_for_good_trials():
    space = {"x": Range("uniform", 0.0, 1.0)}
    known = tried(space, 300, lambda point: point["x"] if point["x"] < 0.03 else None)
    assert searches.MIN_STARTUP <= sum(each.has_value for each in known) < 30
    found = [asked(space, search="optuna", number=number, known=known)["x"] for number in range(300, 330)]
    assert statistics.median(found) < 0.1


def test_choices_that_cannot_be_hashed_are_searched_as_well():
    space = {"branch": choice(None, {"filters": [16]}, [1, 2], [3]), "rate": RATE}
    known = tried(space, 40, lambda point: 0.0 if point["branch"] == [1, 2] else 1.0)
    found = [asked(space, search="optuna", number=number, known=known)["branch"] for number in range(40, 60)]
    assert found.count([1, 2]) > 15


def test_tpe_learns_of_keys_that_are_active_in_some_trials_only():
    def value(point: dict[str, Any]) -> float:
        return 1.0 if point["optimizer"] == "adam" else abs(point["momentum"] - 0.7)

    space = {key: MIXED[key] for key in ("optimizer", "momentum")}
    results = [best(space, value, search="optuna", seed=seed, num=40) for seed in range(3)]
    assert statistics.median(results) < 0.02


def test_points_of_a_finite_space_are_not_tried_twice_until_all_are():
    space = {"a": choice(1, 2, 3), "b": choice("x", "y"), "c": Range("int", 1, 2)}
    known: list[Known] = []
    for number in range(12):
        point = asked(space, search="optuna", number=number, known=known)
        assert point not in [each.point for each in known]
        known.append(Known(point, float(point["a"])))
    assert asked(space, search="optuna", number=12, known=known) in [each.point for each in known]


def test_a_known_point_outside_the_space_is_refused():
    known = [Known({"x": 0.5}, 1.0)]
    with pytest.raises(ValueError, match=r"known point \{'x': 0\.5\}, expected one of the space over x"):
        asked({"x": RATE}, search="optuna", known=known)


def test_optuna_says_nothing_and_its_own_settings_stay(capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    asked({"x": RATE}, search="optuna", number=10, known=tried({"x": RATE}, 10, lambda point: point["x"]))
    assert optuna.logging.get_verbosity() == before == logging.INFO
    assert capfd.readouterr() == ("", "")


def test_optuna_is_imported_only_to_ask():
    script = "import sys; import components.tuning.searches; sys.exit('optuna' in sys.modules)"
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
