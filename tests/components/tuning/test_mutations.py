"""Mutations: near where they come from, never outside the space, and of nothing but their arguments."""

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.tuning import mutations
from components.tuning.mutations import FACTORS, REDRAWN, mutated
from components.tuning.searches import contains, suggest
from conf.spaces import Dimension

RATE = Dimension(loguniform=(1e-5, 1e-1))
MIXED = {
    "rate": RATE,
    "momentum": Dimension(uniform=(0.0, 0.9)),
    "batch": Dimension(logint=(8, 512)),
    "layers": Dimension.model_validate({"int": [1, 30]}),
    "dropout": Dimension(quantised=(0.0, 0.5, 0.1)),
    "optimizer": Dimension(choice=("adam", "sgd", {"momentum": [0.9]}, None)),
}

SMALL = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 6))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers()))


@st.composite
def dimensions(draw: st.DrawFn) -> Dimension:
    kind = draw(st.sampled_from(("choice", "uniform", "loguniform", "int", "logint", "quantised")))
    if kind == "choice":
        values = draw(st.lists(VALUES, min_size=1, max_size=5, unique_by=lambda value: json.dumps(value)))
        return Dimension(choice=tuple(values))
    if kind in ("int", "logint"):
        low = draw(st.integers(1 if kind == "logint" else -1000, 10**6))
        return Dimension.model_validate({kind: [low, low + draw(st.integers(1, 10**6))]})
    low, high = sorted(draw(st.lists(SMALL, min_size=2, max_size=2)))
    if kind == "loguniform":
        low, high = 10 ** (low / 1e6), 10 ** (high / 1e6)
    high = high if high > low else low + 1
    steps = [(high - low) / draw(st.integers(2, 50))] if kind == "quantised" else []
    return Dimension.model_validate({kind: [low, high, *steps]})


def point_of(space: dict[str, Dimension], number: int = 0) -> dict[str, Any]:
    point = suggest(space, search="random", seed=1, number=number, known=(), higher_is_better=True)
    assert point is not None
    return point


def mutants(dimension: Dimension, value: Any, num: int = 400) -> list[Any]:
    return [mutated({"x": dimension}, {"x": value}, seed=0, number=number)["x"] for number in range(num)]


@pytest.fixture
def nothing_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "REDRAWN", 0.0)


@given(
    space=st.dictionaries(st.sampled_from("abcde"), dimensions(), min_size=1),
    seed=st.integers(0, 2**63),
    number=st.integers(0, 10**6),
)
def test_a_mutated_point_lies_in_its_space_and_survives_a_file(
    space: dict[str, Dimension], seed: int, number: int
) -> None:
    point = point_of(space)
    for generation in range(5):
        point = mutated(space, point, seed=seed, number=number + generation)
        assert contains(space, point)
        assert json.loads(json.dumps(point)) == point
        assert list(point) == list(space)


def test_a_mutation_hangs_on_seed_and_number_alone() -> None:
    point = point_of(MIXED)
    forwards = [mutated(MIXED, point, seed=0, number=number) for number in range(20)]
    backwards = [mutated(MIXED, point, seed=0, number=number) for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    shuffled = dict(reversed(point.items()))
    assert forwards == [mutated(MIXED, shuffled, seed=0, number=number) for number in range(20)]
    assert forwards != [mutated(MIXED, point, seed=1, number=number) for number in range(20)]
    assert len({json.dumps(each) for each in forwards}) == 20


def test_the_point_and_the_space_stay_as_they_are() -> None:
    point, space = point_of(MIXED), {"x": Dimension(choice=({"units": [1]}, {"units": [2]}))}
    before = json.dumps(point)
    for number in range(20):
        mutated(MIXED, point, seed=0, number=number)
        mutated(space, {"x": {"units": [1]}}, seed=0, number=number)["x"]["units"].append(3)
    assert json.dumps(point) == before
    assert space["x"].values == ({"units": [1]}, {"units": [2]})


@pytest.mark.parametrize(
    ("dimension", "value"), [(RATE, 1e-3), (Dimension(uniform=(-1, 1)), -0.5), (MIXED["momentum"], 0.6)]
)
def test_three_of_four_numbers_are_a_fifth_smaller_or_larger(dimension: Dimension, value: float) -> None:
    found = Counter(mutants(dimension, value, 2000))
    near = [found.pop(value * factor) for factor in FACTORS]
    # Four standard deviations of a binomial.
    assert sum(near) / 2000 == pytest.approx(1 - REDRAWN, abs=0.04)
    assert near[0] / sum(near) == pytest.approx(0.5, abs=0.06)
    assert set(found.values()) == {1}


def test_numbers_drawn_anew_are_spread_as_those_of_a_new_trial() -> None:
    drawn = [rate for rate in mutants(RATE, 1e-3, 4000) if rate not in (8e-4, 1.2e-3)]
    assert sum(rate < 1e-3 for rate in drawn) / len(drawn) == pytest.approx(0.5, abs=0.07)
    assert min(drawn) < 2e-5
    assert max(drawn) > 5e-2
    trials = [point_of({"x": RATE}, number)["x"] for number in range(100)]
    assert not set(drawn) & set(trials)


@pytest.mark.usefixtures("nothing_redrawn")
@given(dimension=dimensions().filter(lambda dimension: dimension.kind != "choice"), number=st.integers(0, 99))
def test_a_number_moves_within_the_factors_or_to_the_next_there_is(dimension: Dimension, number: int) -> None:
    value = point_of({"x": dimension}, number)["x"]
    moved = mutated({"x": dimension}, {"x": value}, seed=0, number=number)["x"]
    low, high = sorted(value * factor for factor in FACTORS)
    step = {"int": 1, "logint": 1, "quantised": dimension.step}.get(dimension.kind, 0.0)
    slack = 1e-9 * max(abs(dimension.low), abs(dimension.high), 1.0)
    assert min(low - step / 2, value - step) - slack <= moved <= max(high + step / 2, value + step) + slack


@pytest.mark.usefixtures("nothing_redrawn")
@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        ("loguniform", 1e-3, {8e-4, 1.2e-3}),
        ("loguniform", 1e-5, {1e-5, 1.2e-5}),
        ("loguniform", 1e-1, {1e-1 * 0.8, 1e-1}),
        ("whole", 20, {16, 24}),
        ("whole", 2, {1, 3}),
        ("whole", 1, {1, 2}),
        ("whole", 30, {24, 30}),
        ("logint", 100, {80, 120}),
        ("logint", 8, {8, 10}),
        ("quantised", 0.2, {0.1, 0.3}),
        ("quantised", 0.0, {0.0, 0.1}),
        ("quantised", 0.4, {0.3, 0.5}),
    ],
)
def test_small_numbers_move_by_a_step_and_the_ends_hold(
    dimension: str, value: Any, expected: set[Any]
) -> None:
    space = {
        "loguniform": RATE,
        "whole": MIXED["layers"],
        "logint": MIXED["batch"],
        "quantised": MIXED["dropout"],
    }
    assert set(mutants(space[dimension], value, 40)) == expected


@pytest.mark.usefixtures("nothing_redrawn")
def test_a_choice_becomes_one_of_those_beside_it() -> None:
    choice = MIXED["optimizer"]
    beside = {"adam": ["adam", "sgd"], "sgd": ["adam", {"momentum": [0.9]}]}
    for value, expected in beside.items():
        found = [json.dumps(each) for each in mutants(choice, value, 40)]
        assert set(found) == set(map(json.dumps, expected))


@pytest.mark.usefixtures("nothing_redrawn")
def test_choices_that_python_takes_for_equal_are_told_apart() -> None:
    choice = Dimension(choice=(1, "between", True))
    assert {json.dumps(each) for each in mutants(choice, True, 40)} == {'"between"', "true"}


def test_a_whole_number_among_quantised_ones_stays_in_the_space() -> None:
    for each in mutants(Dimension(quantised=(0.0, 2.0, 0.5)), 1):
        assert each in (0.0, 0.5, 1.0, 1.5, 2.0)
    tiny = Dimension(quantised=(0.0, 1e-12, 1e-13))
    assert not any(math.isnan(each) for each in mutants(tiny, 3e-13))
