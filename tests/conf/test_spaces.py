"""Dimensions, and what a search refuses of itself."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from conf.spaces import FINITE, Dimension, TuneSettings, canonical

SPACE = {"model.units": {"choice": [64, 128]}, "train.optimizer": {"choice": ["adam", "sgd"]}}


def dimension(**values: Any) -> Dimension:
    return Dimension.model_validate(values)


def tune(**values: Any) -> TuneSettings:
    return TuneSettings.model_validate({"space": SPACE, **values})


def conflict_of(**values: Any) -> dict[str, Any]:
    """What the one conflict says, where, and the way out."""
    with pytest.raises(ValidationError) as caught:
        tune(**values)
    (fault,) = caught.value.errors()
    assert fault["type"] == "conflict"
    return fault["ctx"]


def test_a_search_needs_only_its_space() -> None:
    plain = tune()
    assert (plain.trials, plain.concurrency, plain.search, plain.scheduler) == (20, "auto", "optuna", "asha")
    assert (plain.metric, plain.grace, plain.reduction, plain.interval) == (None, 1, 3, 1)
    assert (plain.seconds, plain.max_epochs, plain.seeds, plain.seed) == (None, None, 1, 0)
    assert (plain.cpus, plain.trials_per_gpu) == (None, 1)
    assert pickle.loads(pickle.dumps(plain)) == plain


@pytest.mark.parametrize(
    ("values", "kind", "low", "high", "step"),
    [
        ({"choice": [None, {"units": [8]}]}, "choice", None, None, None),
        ({"uniform": [0, 1]}, "uniform", 0.0, 1.0, None),
        ({"loguniform": [1e-4, 1e-2]}, "loguniform", 1e-4, 1e-2, None),
        ({"int": [1, 3]}, "int", 1, 3, None),
        ({"logint": [16, 256]}, "logint", 16, 256, None),
        ({"quantised": [0.0, 0.5, 0.1]}, "quantised", 0.0, 0.5, 0.1),
        ({"quantised": [16, 64, 16]}, "quantised", 16, 64, 16),
    ],
)
def test_each_kind_says_what_it_is(values: Any, kind: str, low: Any, high: Any, step: Any) -> None:
    found = dimension(**values)
    assert (found.kind, found.low, found.high, found.step) == (kind, low, high, step)
    assert found.values == tuple(values.get("choice", ()))
    assert found.when == {}


def test_a_single_value_of_a_condition_stands_without_a_list() -> None:
    found = dimension(
        uniform=[0, 1], when={"train.optimizer": "sgd", "model.layers": [1, 2], "model.own": None}
    )
    assert found.when == {"train.optimizer": ("sgd",), "model.layers": (1, 2), "model.own": (None,)}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "received none of them, expected one of choice, uniform, loguniform, int, logint or quantised"),
        ({"when": {"a": 1}}, "received none of them"),
        ({"choice": [1], "uniform": [0, 1]}, "received choice and uniform"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": [1, 1.0]}, "1 stands twice"),
        ({"choice": [{"a": [1]}, {"a": [1]}]}, "stands twice"),
        ({"choice": list(range(1_001))}, "at most 1000 items"),
        ({"uniform": [0.5, 0.1]}, "received 0.5 and 0.1: low must be below high"),
        ({"int": [3, 3]}, "low must be below high"),
        ({"int": [1, 2.5]}, "valid integer"),
        ({"int": [True, 2]}, "valid integer"),
        ({"uniform": ["0", 1]}, "valid number"),
        ({"uniform": [0, float("inf")]}, "finite number"),
        ({"loguniform": [0, 1]}, "greater than 0"),
        ({"logint": [0, 8]}, "greater than or equal to 1"),
        ({"quantised": [0, 1, 0]}, "greater than 0"),
        ({"quantised": [0, 1, 1.5]}, "received a step of 1.5, larger than from 0 to 1"),
        ({"uniform": [0, 1, 2]}, "at most 2"),
        ({"uniform": [0, 1], "when": {"a": []}}, "at least 1 item"),
    ],
)
def test_a_dimension_that_holds_no_values_is_refused(values: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        dimension(**values)


def test_values_that_mean_different_things_are_different() -> None:
    assert len(dimension(choice=[0, False, None, "0", [], {}]).values) == 6
    assert canonical({"b": 1.0, "a": [2]}) == canonical({"a": (2.0,), "b": 1})
    assert canonical(True) != canonical(1)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ({"quantised": [0.0, 0.3, 0.1]}, (0.0, 0.3)),
        ({"quantised": [0.0, 0.35, 0.1]}, (0.0, 0.3)),
        ({"quantised": [0, 10, 4]}, (0, 8)),
        ({"quantised": [0, 1, 0.5]}, (0.0, 1.0)),
        ({"quantised": [0, 1e30, 1e-5]}, (0.0, 1e30)),
        ({"int": [1, 3]}, (1, 3)),
        ({"choice": [3, None]}, (3, None)),
    ],
)
def test_the_outermost_values_are_those_that_can_be_drawn(values: Any, ends: tuple[Any, ...]) -> None:
    found = dimension(**values).outermost()
    assert found == ends
    assert [type(each) for each in found] == [type(each) for each in ends]


@pytest.mark.parametrize(
    ("values", "taken", "not_taken"),
    [
        ({"choice": [1, None, [2]]}, [1, 1.0, None, [2]], [True, 2, "1", [], {}]),
        ({"int": [1, 10**12]}, [1, 3.0, 10**12], [0, 2.5, True, None, "1", float("nan"), float("inf")]),
        ({"quantised": [0.0, 0.5, 0.1]}, [0, 0.3, 0.5], [0.05, 0.6, False, "0.1"]),
    ],
)
def test_a_finite_dimension_takes_its_own_values_only(
    values: Any, taken: list[Any], not_taken: list[Any]
) -> None:
    found = dimension(**values)
    assert all(map(found.takes, taken))
    assert not any(map(found.takes, not_taken))


@given(
    st.integers(-1_000, 1_000),
    st.integers(1, 1_000),
    st.integers(1, 1_000),
    st.sampled_from([1, 0.1, 0.01, 1e-6]),
)
def test_the_ends_of_any_grid_are_on_it(low: int, span: int, step: int, unit: float) -> None:
    ends = [low, low + max(span, step), step]
    found = dimension(quantised=ends if unit == 1 else [float(f"{each * unit:.9g}") for each in ends])
    assert all(map(found.takes, found.outermost()))


@pytest.mark.parametrize(
    ("values", "at", "said"),
    [
        ({"scheduler": "none", "grace": 1}, "grace", "grace has no effect with scheduler none"),
        ({"scheduler": "hyperband", "grace": 2}, "grace", "no effect with scheduler hyperband"),
        ({"scheduler": "median", "reduction": 3}, "reduction", "no effect with scheduler median"),
        ({"interval": 2}, "interval", "interval has no effect with scheduler asha"),
        ({"search": "grid", "scheduler": "pbt"}, "search", "so there is no grid of them"),
        (
            {"search": "grid", "space": {**SPACE, "train.momentum": {"uniform": [0, 0.9]}}},
            "space.train.momentum",
            "a grid has an end, and uniform has none",
        ),
        (
            {
                "scheduler": "pbt",
                "space": {**SPACE, "train.momentum": {"int": [0, 1], "when": {"model.units": 64}}},
            },
            "space.train.momentum.when",
            "every trial has the same settings",
        ),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused_with_a_way_out(values: Any, at: str, said: str) -> None:
    found = conflict_of(**values)
    assert found["at"] == at
    assert said in found["message"]
    assert found["hint"]


@pytest.mark.parametrize(
    "values",
    [
        {"grace": 2, "reduction": 2},
        {"scheduler": "median", "grace": 2},
        {"scheduler": "hyperband", "reduction": 2},
        {"scheduler": "pbt", "interval": 2},
        {"search": "grid", "scheduler": "none"},
    ],
)
def test_what_the_scheduler_asks_for_may_be_given(values: Any) -> None:
    assert tune(**values)


def test_a_grid_is_of_the_finite_kinds() -> None:
    ends = {"choice": [1], "int": [1, 2], "quantised": [0, 1, 0.5]}
    assert set(ends) == set(FINITE)
    assert tune(search="grid", space={f"model.{kind}": {kind: each} for kind, each in ends.items()})
