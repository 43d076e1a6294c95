"""How well a classifier ranks its labels: areas under curves and top-k accuracy, from all its probabilities.

    answers to test rows ─ Ranking ─ scores ─▶ roc_auc  pr_auc  top_3_accuracy  top_5_accuracy, with bounds
                                              and each class against all others

What the areas are: components/evaluation/areas.py.
Letters: n rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.evaluation.areas import Areas, num_resamples, weights
from components.evaluation.scoring import number
from components.served.predictor import Predictor, Unscaled

MAX_PROBABILITIES = 20_000_000  # kept of the test rows, and told where there are more


class Ranking:
    """Keeps a classifier's probabilities of the test rows, as they are served, in the order of the rows."""

    def __init__(self, predictor: Predictor, num_rows: int) -> None:
        self._temperature = predictor.temperature
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.is_kept = (
            not predictor.per_step and num_rows * predictor.encoding.num_classes <= MAX_PROBABILITIES
        )

    def see(self, said: Unscaled, truth: np.ndarray) -> None:
        """The next rows' answers and classes."""
        if self.is_kept:
            self._parts.append((said.at(self._temperature).log_probabilities, truth))

    def scores(
        self,
        labels: Sequence[str],
        *,
        groups: np.ndarray | None = None,
        bootstrap: int,
        confidence: float,
        seed: int = 0,
    ) -> dict[str, Any] | None:
        """`metrics` with bounds, and `per_class` with a `reason` where something does not exist.

        Args:
            labels: the predictor's.
            groups: codes of rows that are drawn together, (n,).
            bootstrap: how often rows are drawn again.
            confidence: of the bounds.

        Returns:
            None where nothing was kept.
        """
        if not self._parts:
            return None
        log_probabilities, truth = map(np.concatenate, zip(*self._parts, strict=True))
        found = Areas(np.exp(log_probabilities.astype(np.float64)), truth)
        values = found.values()
        times = num_resamples(found.probabilities.size, bootstrap)
        draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
        for drawn in weights(len(truth), groups, times, seed):
            for name, scored in found.weighted(drawn).items():
                draws[name].append(scored)
        flat: dict[str, Any] = {}
        for name, value in values.items():
            low, high = _bounds(np.concatenate(draws[name]), value, confidence)
            flat |= {name: number(value), f"{name}_low": number(low), f"{name}_high": number(high)}
        return {"metrics": flat, "per_class": found.per_class(labels), "resamples": times}


def _bounds(draws: np.ndarray, value: float, confidence: float) -> tuple[float, float]:
    """Percentiles, moved so that their median is the value.

    Average precision of a resample is nearly always larger than that of the sample: rows drawn twice stand
    together. The draws say how far the value varies, not where it lies.
    """
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(draws):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, middle, high = np.quantile(draws, [tail, 0.5, 1 - tail])
    return max(float(value - middle + low), 0.0), min(float(value - middle + high), 1.0)


def shown(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """What metrics.json takes over."""
    return {} if found is None else dict(found["metrics"])
