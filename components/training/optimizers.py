"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from components.lookup import find
from conf.schema import TrainSettings

# What an exponential schedule has left of the learning rate at the end of training.
EXPONENTIAL_END = 0.01

OPTIMIZERS: Mapping[str, Callable[..., keras.Optimizer]] = {
    "adam": lambda rate, momentum: keras.optimizers.Adam(rate),
    "sgd": lambda rate, momentum: keras.optimizers.SGD(rate, momentum=momentum),
    "rmsprop": lambda rate, momentum: keras.optimizers.RMSprop(rate, momentum=momentum),
}

# One cycle (Smith & Topin 2018, arXiv:1708.07120): where it is highest, and what it begins and ends with.
ONE_CYCLE_TOP, ONE_CYCLE_BEGIN, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000


def _one_cycle(done: tf.Tensor) -> tf.Tensor:
    up = 0.5 * (1.0 - tf.cos(math.pi * tf.minimum(done / ONE_CYCLE_TOP, 1.0)))
    down = 0.5 * (1.0 + tf.cos(math.pi * tf.maximum(done - ONE_CYCLE_TOP, 0.0) / (1.0 - ONE_CYCLE_TOP)))
    rising = ONE_CYCLE_BEGIN + (1.0 - ONE_CYCLE_BEGIN) * up
    falling = ONE_CYCLE_END + (1.0 - ONE_CYCLE_END) * down
    return tf.where(done < ONE_CYCLE_TOP, rising, falling)


# Share of training done, 0 to 1, to a factor of the learning rate.
SCHEDULES: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "constant": tf.ones_like,
    "cosine": lambda done: 0.5 * (1.0 + tf.cos(math.pi * done)),
    "exponential": lambda done: tf.exp(math.log(EXPONENTIAL_END) * done),
    "onecycle": _one_cycle,
    "plateau": tf.ones_like,
}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up over `warmup_steps`, then the named schedule down to the last step.

    `scale` multiplies all of it: what a plateau has taken away so far, set by the loop.
    """

    def __init__(self, name: str, *, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.factor = find(SCHEDULES, name, kind="schedule")
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps
        self.scale = tf.Variable(1.0, trainable=False, dtype=tf.float32)

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        after = tf.maximum(step - self.warmup_steps, 0.0)
        done = tf.minimum(after / max(1, self.total_steps - self.warmup_steps), 1.0)
        warm = tf.minimum((step + 1.0) / (self.warmup_steps + 1), 1.0)
        return self.peak * self.scale * warm * self.factor(done)


def build(settings: TrainSettings, *, total_steps: int) -> tuple[keras.Optimizer, Schedule]:
    """The optimizer of these settings and its schedule; its clipping is the step's (see `steps.py`)."""
    schedule = Schedule(
        settings.schedule,
        peak=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        total_steps=total_steps,
    )
    return find(OPTIMIZERS, settings.optimizer, kind="optimizer")(schedule, settings.momentum), schedule
