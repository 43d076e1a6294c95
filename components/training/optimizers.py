"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from components.lookup import find
from conf.schema import TrainSettings

# What an exponential schedule has left of the learning rate at the end of training.
EXPONENTIAL_END = 0.01


class Adam(keras.optimizers.Adam):
    """Keras's Adam in one operation for each variable: a pass over a table of vectors costs its size.

    The same numbers from the same state (Kingma & Ba 2015, arXiv:1412.6980), so checkpoints fit either.
    """

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """Move one variable."""
        index = self._get_variable_index(variable)
        done = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.pow(self.beta_1, done),
            beta2_power=tf.pow(self.beta_2, done),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def _handle(variable: Any) -> tf.Tensor:
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


OPTIMIZERS: Mapping[str, Callable[..., keras.Optimizer]] = {
    "adam": lambda rate, momentum: Adam(rate),
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
