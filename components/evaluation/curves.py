"""How well a classifier ranks its labels: areas under curves and top-k accuracy, from all its probabilities.

    answers to test rows ─ Ranking ─ scores ─▶ roc_auc  pr_auc  top_3_accuracy  top_5_accuracy, with bounds
                                              and each class against all others

ROC-AUC is the chance that a row of the class gets a larger probability of it than a row of another class;
PR-AUC is average precision, as scikit-learn has it. Both are means over the classes for which they exist.
Letters: n rows, C classes, B resamples, U different probabilities.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from components.evaluation.scoring import number
from components.served.predictor import Predictor, Unscaled

MAX_PROBABILITIES = 20_000_000  # kept of the test rows, and told where there are more
MAX_WORK = 2_000_000_000  # rows times classes times resamples; fewer resamples where there would be more
MIN_RESAMPLES = 100
MAX_ENTRIES = 1 << 22
TOPS = (3, 5)


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
        found = _Found(np.exp(log_probabilities.astype(np.float64)), truth)
        values = found.values(labels)
        num_resamples = _resamples(found.probabilities.size, bootstrap)
        draws: dict[str, list[np.ndarray]] = {name: [] for name in values}
        for weights in _weights(len(truth), groups, num_resamples, seed):
            for name, drawn in found.weighted(weights).items():
                draws[name].append(drawn)
        flat: dict[str, Any] = {}
        for name, value in values.items():
            low, high = _bounds(np.concatenate(draws[name]), value, confidence)
            flat |= {name: number(value), f"{name}_low": number(low), f"{name}_high": number(high)}
        return {"metrics": flat, "per_class": found.per_class(labels), "resamples": num_resamples}


class _Found:
    """Probabilities and classes of all rows, each class sorted once."""

    def __init__(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        self.probabilities, self.truth = probabilities, truth
        n, self.num_classes = probabilities.shape
        own = probabilities[np.arange(n), truth]
        # Of equal probabilities the label that comes first stands above.
        before = np.arange(self.num_classes) < truth[:, np.newaxis]
        same = probabilities == own[:, np.newaxis]
        self._ranks = (probabilities > own[:, np.newaxis]).sum(axis=1) + (same & before).sum(axis=1)
        self._tops = [k for k in TOPS if k < self.num_classes]
        counts = np.bincount(truth, minlength=self.num_classes)
        self.defined = [c for c in range(self.num_classes) if 0 < counts[c] < n]

    def values(self, labels: Sequence[str]) -> dict[str, float]:
        """The scores of all rows together; NaN where there is none."""
        each = self.per_class(labels)
        areas = {name: [row[name] for row in each if row[name] is not None] for name in ("roc_auc", "pr_auc")}
        means = {name: float(np.mean(found)) if found else math.nan for name, found in areas.items()}
        tops = {f"top_{k}_accuracy": float(np.mean(self._ranks < k)) for k in self._tops}
        return {**means, **tops}

    def per_class(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Each class against all others, with the reason where there is no area."""
        rows = []
        for place, label in enumerate(labels):
            is_class = self.truth == place
            row: dict[str, Any] = {"label": label, "roc_auc": None, "pr_auc": None, "reason": ""}
            if place in self.defined:
                own = self.probabilities[:, place]
                row["roc_auc"] = float(metrics.roc_auc_score(is_class, own))
                row["pr_auc"] = float(metrics.average_precision_score(is_class, own))
            else:
                row["reason"] = "every test row is of it" if is_class.any() else "no test row is of it"
            rows.append(row)
        return rows

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The same scores with each row as often as a resample has it, (B, n) in, (B,) out."""
        roc, precision = [], []
        for place in self.defined:
            one, other = self._areas(place, weights)
            roc.append(one)
            precision.append(other)
        total = weights.sum(axis=1)
        tops = {f"top_{k}_accuracy": weights @ (self._ranks < k) / total for k in self._tops}
        nothing = np.full(len(weights), math.nan)
        means = {
            name: _mean(np.stack(found)) if found else nothing
            for name, found in (("roc_auc", roc), ("pr_auc", precision))
        }
        return {**means, **tops}

    def _areas(self, place: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision of one class in each resample, (B,); NaN where there are none."""
        own = self.probabilities[:, place]
        order = np.argsort(-own, kind="stable")
        first = np.flatnonzero(np.diff(own[order], prepend=math.inf))  # of each probability
        is_class = (self.truth[order] == place).astype(np.float64)
        ordered = weights[:, order]
        hits = np.add.reduceat(ordered * is_class, first, axis=1)  # (B, U)
        every = np.add.reduceat(ordered, first, axis=1)
        above, total = hits.cumsum(axis=1), every.cumsum(axis=1)
        num_hits, num_others = above[:, -1], total[:, -1] - above[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            roc = ((every - hits) * (above - hits / 2)).sum(axis=1) / (num_hits * num_others)
            precision = np.where(total > 0, above / total, 0.0)
            average = (hits * precision).sum(axis=1) / num_hits
        average[num_others == 0] = math.nan
        return roc, average


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the classes that a resample has, (C, B) in, (B,) out."""
    there = ~np.isnan(values)
    sums = np.where(there, values, 0.0).sum(axis=0)
    return np.divide(sums, there.sum(axis=0), out=np.full(len(sums), math.nan), where=there.any(axis=0))


def _resamples(work: int, bootstrap: int) -> int:
    return min(bootstrap, max(MIN_RESAMPLES, MAX_WORK // max(work, 1)))


def _weights(n: int, groups: np.ndarray | None, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row stands in some of the resamples, (at most B, n); whole groups are drawn."""
    rng = np.random.default_rng(seed)
    num_units = n if groups is None else int(groups.max()) + 1
    most = max(1, MAX_ENTRIES // n)
    for start in range(0, bootstrap, most):
        size = min(most, bootstrap - start)
        drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size).astype(np.float64)
        yield drawn if groups is None else drawn[:, groups]


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
