"""Calls: several steps of the optimizer at once, and how many of them.

    plan ─ Pace.groups ─▶ rows of each step of a call ─ batches ─▶ Call ─▶ Steps ─▶ losses
               ▲                                                                     │
               └──────────────── seconds that a step takes ──────────────────────────┘

Between two calls stands the loop with its reports, checkpoints and wishes to stop, so calls have to be short.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from components.data.batches import Batch, Packed, Plan

MAX_SECONDS = 0.5
MAX_BYTES = 1 << 26  # a call's batches stand in memory together


@dataclass(frozen=True)
class Call:
    """What one call trains on; all numbers are those of all workers together."""

    parts: list[Batch] | Packed  # of one step, or of several
    masses: list[float]  # what the loss of each batch is a mean over
    mass: float  # of all its sequences
    num_batches: int  # entries of the plan
    num_updates: int  # steps of the optimizer
    num_steps: int  # real time steps


class Pace:
    """How many entries of a plan go into the next call: as many as asked for, if that takes half a second.

    The first call takes one: nothing is known of its time yet.
    """

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 1
        self.begin()

    def groups(self, plan: Sequence[Plan], num_bytes: Callable[[Plan], int]) -> Iterator[list[Plan]]:
        """The plan in groups of one call each; `num_bytes` says how large the batches of an entry are."""
        group: list[Plan] = []
        held = 0
        for step in plan:
            more = num_bytes(step)
            if group and (len(group) >= self.size or held + more > MAX_BYTES):
                yield group
                group, held = [], 0
            group.append(step)
            held += more
        if group:
            yield group

    def begin(self) -> None:
        """Measure from now on: nothing is under way."""
        self.since, self.num_steps = time.monotonic(), 0

    def count(self, num_steps: int) -> None:
        """So many steps were begun."""
        self.num_steps += num_steps

    def measure(self) -> None:
        """All steps that were begun have ended."""
        if self.num_steps:
            self.adapt((time.monotonic() - self.since) / self.num_steps)
        self.begin()

    def adapt(self, step_seconds: float) -> None:
        """A step takes so long."""
        self.size = int(min(max(MAX_SECONDS / max(step_seconds, 1e-9), 1), self.most))
