"""Workers: the processes that train together, and what they must do alike.

    wanted here? ─┐
    wanted there? ┴ gathered about once a second ─ any ─▶ all stop, or none does

A worker that stopped alone would leave the others waiting for its part of the gradient. When to vote next
follows from gathered numbers only, so all vote after the same steps, and between votes nobody waits.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

SECONDS_BETWEEN = 1.0
MAX_STEPS_BETWEEN = 100


@dataclass(frozen=True)
class Workers:
    """How many there are, and which of them this process is; the strategy connects them."""

    strategy: Any
    count: int = 1
    index: int = 0

    @classmethod
    def of(cls, strategy: Any) -> "Workers":
        """Those of a strategy; only one over several processes knows of a cluster."""
        cluster = strategy.cluster_resolver
        if cluster is None:
            return cls(strategy)
        return cls(strategy, cluster.cluster_spec().num_tasks("worker"), cluster.task_id)

    @property
    def share(self) -> tuple[int, int]:
        """Which part of a batch is this process's, and of how many."""
        return self.index, self.count

    def gathered(self, values: np.ndarray) -> np.ndarray:
        """As many numbers of each worker, (workers, n) float64, the same on all. Each waits for all."""
        row = np.asarray(values, np.float64)[np.newaxis]
        if self.count == 1:
            return row
        of_replicas = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(row)
        )
        rows = self.strategy.gather(of_replicas, axis=0).numpy()
        return rows[:: len(rows) // self.count]


class Votes:
    """Asked after every call of steps: whether to stop. The answer is the same on all workers.

    `step_seconds` is what a step took the slowest of them when they last voted: known to all, and so a ground
    for what all must do alike.
    """

    def __init__(self, workers: Workers, wanted: Callable[[], bool]) -> None:
        self.workers, self.wanted = workers, wanted
        self.every, self.steps, self.since = 1, 0, time.monotonic()
        self.step_seconds: float | None = None

    def stop(self, num_steps: int = 1) -> bool:
        """Whether any worker wanted to stop when all were last asked; so many steps came since."""
        if self.workers.count == 1:
            return self.wanted()
        self.steps += num_steps
        if self.steps < self.every:
            return False
        votes = self.workers.gathered(np.array([self.wanted(), time.monotonic() - self.since]))
        self.step_seconds = float(votes[:, 1].max() / self.steps)
        self.every = int(np.clip(SECONDS_BETWEEN / max(self.step_seconds, 1e-6), 1, MAX_STEPS_BETWEEN))
        self.steps, self.since = 0, time.monotonic()
        return bool(votes[:, 0].any())
