"""Importances: what mattered comes first, whatever the scale, and nothing is told from too little."""

import math
import random
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from components.tuning import importances as module
from components.tuning.importances import importances
from components.tuning.searches import Known, suggest


def dimension(kind: str, low=None, high=None, step=None, *, values=(), when=None) -> Any:
    return SimpleNamespace(kind=kind, low=low, high=high, step=step, values=values, when=when or {})


SPACE = {
    "rate": dimension("loguniform", 1e-5, 1.0),
    "units": dimension("logint", 16, 256),
    "layers": dimension("int", 1, 3),
    "dropout": dimension("quantised", 0.0, 0.5, 0.1),
    "optimizer": dimension("choice", values=("adam", "sgd", None)),
    "momentum": dimension("uniform", 0.0, 0.9, when={"optimizer": ("sgd",)}),
}


def tried(num: int, value: Callable[[dict[str, Any]], float | None], *, space=SPACE, seed=0) -> list[Known]:
    points = (
        suggest(space, search="random", seed=seed, number=number, known=(), higher_is_better=False)
        for number in range(num)
    )
    return [Known(point, value(point)) for point in points if point is not None]


def by_rate(point: dict[str, Any]) -> float:
    return (math.log10(point["rate"]) + 3) ** 2


def test_what_the_value_hangs_on_comes_first_and_all_sum_to_one():
    found = importances(SPACE, tried(40, by_rate))
    assert set(found) == set(SPACE)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.8
    assert {type(share) for share in found.values()} == {float}


@pytest.mark.parametrize("key", ["rate", "units", "layers", "dropout", "optimizer"])
def test_twenty_trials_are_enough_for_one_setting_of_any_kind(key):
    ranks = {"adam": 0, "sgd": 1, None: 2}
    noise = random.Random(0)

    def value(point: dict[str, Any]) -> float:
        place = ranks[point[key]] if key == "optimizer" else math.log(point[key] + 0.1)
        return place + noise.gauss(0, 0.1)

    shares = [importances(SPACE, tried(20, value, seed=seed)) for seed in range(3)]
    assert statistics.median(each[key] for each in shares) > 0.5


def test_a_setting_that_some_trials_lack_is_compared_with_the_others():
    def value(point: dict[str, Any]) -> float:
        return abs(point["momentum"] - 0.8) if "momentum" in point else 0.35

    assert next(iter(importances(SPACE, tried(40, value)))) == "momentum"


def test_a_trial_that_all_but_diverged_does_not_hide_the_rest():
    known = tried(40, lambda point: math.log(point["units"]))
    wild = Known(max((each.point for each in known), key=lambda point: point["rate"]), 1e30)
    assert next(iter(importances(SPACE, [*known, wild]))) == "units"


def test_neither_order_nor_failures_nor_the_direction_change_anything():
    known = tried(20, by_rate)
    found = importances(SPACE, known)
    failed = [
        Known(each.point, value) for each, value in zip(known, (None, math.nan, math.inf), strict=False)
    ]
    assert importances(SPACE, [*failed, *known[::-1]]) == found
    assert importances(SPACE, tried(20, by_rate), seed=1) != found


def test_better_upwards_or_downwards_is_the_same():
    up, down = (
        importances(SPACE, tried(30, lambda point, sign=sign: sign * by_rate(point))) for sign in (1, -1)
    )
    assert next(iter(up)) == next(iter(down)) == "rate"
    assert up["rate"] == pytest.approx(down["rate"], abs=0.1)


def test_too_little_to_tell_gives_nothing():
    assert importances(SPACE, []) == {}
    assert importances(SPACE, tried(3, by_rate)) == {}
    assert importances(SPACE, tried(20, lambda point: 0.5)) == {}
    assert importances(SPACE, tried(20, lambda point: None)) == {}
    assert importances({}, [Known({}, float(number)) for number in range(5)]) == {}


def test_trials_at_one_point_tell_nothing():
    point = tried(1, by_rate)[0].point
    assert importances(SPACE, [Known(point, float(number)) for number in range(6)]) == {}


def test_one_setting_explains_everything():
    space = {"rate": SPACE["rate"]}
    assert importances(space, tried(5, by_rate, space=space)) == {"rate": 1.0}


def test_a_setting_with_one_value_explains_nothing():
    space = {"a": dimension("choice", values=(7,)), "rate": SPACE["rate"]}
    assert importances(space, tried(10, by_rate, space=space)) == {"rate": 1.0, "a": 0.0}


def test_of_many_trials_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(module, "MAX_TRIALS", 30)
    known = tried(60, by_rate)
    assert importances(SPACE, known) == importances(SPACE, known[::-1])
    assert next(iter(importances(SPACE, known))) == "rate"
