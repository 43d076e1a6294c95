"""What the loop says of itself, readable where TensorFlow is not loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from components.metrics import METRICS

# The share of the time from which waiting for batches is what slows training down.
MUCH_WAITING = 0.2


@dataclass(frozen=True)
class Progress:
    """One thing that happened in training."""

    kind: Literal["resumed", "step", "epoch", "stopped"]
    epoch: int  # finished epochs
    step: int  # finished optimizer steps
    num_epochs: int
    num_steps_done: int  # real time steps of this epoch so far
    num_steps: int  # real time steps of an epoch
    loss: float = math.nan  # training loss of this epoch so far
    metrics: dict[str, float] = field(default_factory=dict)  # on the validation split, once per epoch
    steps_per_second: float = 0.0  # real time steps
    seconds: float = 0.0  # of this epoch so far
    waiting_seconds: float = 0.0  # of those, with no batch ready
    is_best: bool = False
    history: tuple[dict[str, Any], ...] = ()


def is_better(metric: str, value: float, than: float | None) -> bool:
    """Whether a score beats the best so far; NaN never does, a first number does."""
    if math.isnan(value):
        return False
    if than is None:
        return True
    return value > than if METRICS[metric].higher_is_better else value < than


def epochs_without_gain(history: Sequence[dict[str, Any]], metric: str) -> int:
    """Finished epochs since the best one by `metric` on the validation split."""
    best, since = None, 0
    for entry in history:
        value = entry["valid"][metric]
        best, since = (value, 0) if is_better(metric, value, best) else (best, since + 1)
    return since


def waiting_share(history: Sequence[Mapping[str, Any]]) -> float:
    """The share of these epochs' time in which the devices had no batch, 0 to 1."""
    seconds = sum(entry["seconds"] for entry in history)
    return sum(entry["waiting_seconds"] for entry in history) / seconds if seconds else 0.0


def plateau_scale(history: Sequence[dict[str, Any]], metric: str, *, patience: int, factor: float) -> float:
    """What a plateau schedule has taken from the learning rate after these epochs, 1 or less.

    A pure function of the learning curve, so a resumed run goes on with the rate it had.
    """
    best, since, scale = None, 0, 1.0
    for entry in history:
        value = entry["valid"][metric]
        best, since = (value, 0) if is_better(metric, value, best) else (best, since + 1)
        if since == patience:
            since, scale = 0, scale * factor
    return scale
