"""Schedules against known numbers, optimizers by name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.errors import ModelError
from components.training.optimizers import OPTIMIZERS, SCHEDULES, Adam, Schedule, build
from conf.schema import TrainSettings


def rates(name: str, *, warmup_steps: int = 0, total_steps: int = 10) -> list[float]:
    schedule = Schedule(name, peak=2.0, warmup_steps=warmup_steps, total_steps=total_steps)
    return [float(schedule(step)) for step in range(total_steps + 1)]


def test_constant_stays() -> None:
    assert rates("constant") == [2.0] * 11


def test_cosine_falls_from_the_peak_over_its_half_to_zero() -> None:
    found = rates("cosine")
    assert (found[0], found[5], found[10]) == pytest.approx((2.0, 1.0, 0.0), abs=1e-6)
    assert found == sorted(found, reverse=True)


def test_exponential_ends_at_a_hundredth() -> None:
    found = rates("exponential")
    assert (found[0], found[5], found[10]) == pytest.approx((2.0, 0.2, 0.02), rel=1e-5)


def test_warm_up_rises_in_equal_steps_and_then_the_schedule_begins() -> None:
    found = rates("cosine", warmup_steps=3, total_steps=13)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[8] == pytest.approx(1.0, abs=1e-6)


def test_a_schedule_stays_at_its_end_after_the_last_step() -> None:
    schedule = Schedule("exponential", peak=1.0, warmup_steps=0, total_steps=2)
    assert float(schedule(50)) == pytest.approx(0.01)


def test_one_cycle_rises_to_the_peak_at_three_tenths_and_falls_to_nearly_zero() -> None:
    found = rates("onecycle", total_steps=100)
    assert found[0] == pytest.approx(2.0 / 25)
    assert max(found) == found[30] == pytest.approx(2.0)
    assert 0 < found[100] < 1e-4 * 2.0 / 25
    assert found[:31] == sorted(found[:31])
    assert found[30:] == sorted(found[30:], reverse=True)
    # Halfway up and halfway down a cosine is halfway between its ends.
    assert found[15] == pytest.approx((2.0 / 25 + 2.0) / 2, rel=1e-5)
    assert found[65] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["constant", "cosine", "plateau"])
def test_what_a_plateau_took_away_multiplies_the_whole_schedule(name: str) -> None:
    settings = TrainSettings.model_validate({"schedule": name, "warmup_steps": 2, "learning_rate": 3.0})
    optimizer, schedule = build(settings, total_steps=10)
    before = [float(schedule(step)) for step in range(11)]
    assert name != "plateau" or before[2:] == [3.0] * 9
    schedule.scale.assign(0.25)
    assert [float(schedule(step)) for step in range(11)] == pytest.approx([rate / 4 for rate in before])
    assert float(optimizer.learning_rate) == pytest.approx(before[0] / 4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_settings_is_built_with_its_rate(name: str) -> None:
    settings = TrainSettings.model_validate({"optimizer": name, "learning_rate": 0.5})
    assert float(build(settings, total_steps=3)[0].learning_rate) == 0.5


def test_the_settings_name_exactly_what_there_is() -> None:
    fields = TrainSettings.model_fields
    assert set(fields["optimizer"].annotation.__args__) == set(OPTIMIZERS)  # type: ignore[union-attr]
    assert set(fields["schedule"].annotation.__args__) == set(SCHEDULES)  # type: ignore[union-attr]


def test_an_unknown_schedule_gets_the_nearest_name() -> None:
    with pytest.raises(ModelError) as caught:
        Schedule("cosin", peak=1.0, warmup_steps=0, total_steps=1)
    assert "cosine" in caught.value.hint


def test_adam_moves_as_keras_has_it_move() -> None:
    moved = []
    for kind in (keras.optimizers.Adam, Adam):
        rng = np.random.default_rng(0)
        variable = keras.Variable(rng.normal(size=(3, 2)).astype(np.float32))
        optimizer = kind(0.1)
        optimizer.build([variable])
        for _ in range(5):
            optimizer.apply([tf.constant(rng.normal(size=(3, 2)), tf.float32)], [variable])
        moved.append([variable.numpy(), *(each.numpy() for each in optimizer.variables)])
    for ours, theirs in zip(*moved, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
