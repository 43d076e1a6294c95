"""Calls take as many steps as asked for, unless that takes long or much memory."""

import time

import numpy as np
import pytest

from components.data.batches import Plan
from components.training.calls import MAX_BYTES, MAX_SECONDS, Pace

PLAN: list[Plan] = [[np.array([row])] for row in range(10)]


def sizes(pace: Pace, *, num_bytes: int = 1) -> list[int]:
    """Steps of each call of a plan of ten; none is left out or comes twice."""
    groups = list(pace.groups(PLAN, lambda plan: num_bytes))
    assert [step for group in groups for step in group] == PLAN
    return [len(group) for group in groups]


def measured(pace: Pace, *, per_step: float) -> Pace:
    """After a hundred steps that took so many seconds each."""
    pace.begin()
    pace.since -= 100 * per_step
    pace.count(60)
    pace.count(40)
    pace.measure()
    return pace


def test_calls_are_as_large_as_asked_for_once_steps_are_known_to_be_quick() -> None:
    pace = Pace(4)
    assert sizes(pace) == [1] * 10
    assert sizes(measured(pace, per_step=0.001)) == [4, 4, 2]


@pytest.mark.parametrize(("per_step", "size"), [(0.4, 1), (1000.0, 1), (0.15, 3), (0.0, 8)])
def test_slow_steps_make_short_calls(per_step: float, size: int) -> None:
    pace = measured(Pace(8), per_step=per_step)
    assert pace.size == size
    assert pace.size == 1 or pace.size * per_step <= MAX_SECONDS


def test_a_size_changes_in_the_middle_of_a_plan() -> None:
    pace = Pace(4)
    groups = pace.groups(PLAN, lambda plan: 1)
    assert len(next(groups)) == 1
    measured(pace, per_step=0.001)
    assert [len(group) for group in groups] == [4, 4, 1]


def test_nothing_measured_changes_nothing() -> None:
    pace = measured(Pace(4), per_step=0.001)
    pace.begin()
    time.sleep(0.01)
    pace.measure()
    assert pace.size == 4


@pytest.mark.parametrize(
    ("num_bytes", "expected"), [(MAX_BYTES // 3, [3, 3, 3, 1]), (2 * MAX_BYTES, [1] * 10)]
)
def test_large_batches_make_small_calls(num_bytes: int, expected: list[int]) -> None:
    assert sizes(measured(Pace(4), per_step=0.001), num_bytes=num_bytes) == expected
