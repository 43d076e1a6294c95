"""Areas under a classifier's curves, of all rows together, of resampled ones, and without each of them.

    probabilities, truth ─ Areas ─▶ values      of the rows as they are
                                    weighted    each row as often as a resample has it
                                    without     all rows but one, each in turn
                                    placements  what a row adds: how many of the other side stand below it

ROC-AUC is the chance that a row of the class gets a larger probability of it than a row of another class;
PR-AUC is average precision, as scikit-learn has it. Both are means over the classes for which they exist.
Letters: n rows, C classes, B resamples, U different probabilities.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn import metrics

from components.evaluation.answers import Answers
from components.evaluation.intervals import Resamples, in_order

MAX_WORK = 2_000_000_000  # rows times classes times resamples; fewer resamples where there would be more
MIN_RESAMPLES = 100
MAX_ENTRIES = 1 << 22
TOPS = (3, 5)


class Areas:
    """Probabilities (n, C) and classes (n,) of all rows."""

    def __init__(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        self.probabilities, self.truth = probabilities, truth
        n, self.num_classes = probabilities.shape
        self.are_numbers = not np.isnan(probabilities).any()
        counts = np.bincount(truth, minlength=self.num_classes)
        # The classes that have an area; with a probability that is not a number none has.
        self.defined = [c for c in range(self.num_classes) if 0 < counts[c] < n and self.are_numbers]

    @cached_property
    def _ranks(self) -> np.ndarray:
        """How many labels stand above the true one, (n,)."""
        own = self.probabilities[np.arange(len(self.truth)), self.truth][:, np.newaxis]
        # Of equal probabilities the label that comes first stands above.
        before = np.arange(self.num_classes) < self.truth[:, np.newaxis]
        return ((self.probabilities > own) | ((self.probabilities == own) & before)).sum(axis=1)

    @property
    def _tops(self) -> list[int]:
        return [k for k in TOPS if k < self.num_classes]

    def values(self) -> dict[str, float]:
        """The scores of all rows together; NaN where there is none."""
        each = [self.of_class(place) for place in self.defined]
        roc, precision = np.mean(each, axis=0).tolist() if each else (math.nan, math.nan)
        tops = {f"top_{k}_accuracy": float(np.mean(self._ranks < k)) for k in self._tops}
        if not self.are_numbers:
            tops = dict.fromkeys(tops, math.nan)
        return {"roc_auc": roc, "pr_auc": precision, **tops}

    def of_class(self, place: int) -> tuple[float, float]:
        """ROC-AUC and average precision of one of the classes that have them."""
        rows = self.truth == place, self.probabilities[:, place]
        return float(metrics.roc_auc_score(*rows)), float(metrics.average_precision_score(*rows))

    def reason(self, place: int) -> str:
        """Why a class has no area; empty where it has one."""
        if not self.are_numbers:
            return "a probability is not a number"
        if place in self.defined:
            return ""
        return "every test row is of it" if (self.truth == place).any() else "no test row is of it"

    def per_class(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Each class against all others, with the reason where there is no area."""
        rows = []
        for place, label in enumerate(labels):
            reason = self.reason(place)
            roc, precision = (None, None) if reason else self.of_class(place)
            rows.append({"label": label, "roc_auc": roc, "pr_auc": precision, "reason": reason})
        return rows

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The scores with each row as often as a resample has it, (B, n) in, (B,) out."""
        tops = {f"top_{k}_accuracy": weights @ (self._ranks < k) / weights.sum(axis=1) for k in self._tops}
        return {**_means([self._weighted(place, weights) for place in self.defined], len(weights)), **tops}

    def without(self) -> dict[str, np.ndarray]:
        """Both areas of all rows but one, each row left out in turn, (n,)."""
        return _means([self._sorted(place).without() for place in self.defined], len(self.truth))

    def placements(self) -> np.ndarray:
        """For each class how many rows of the other side a row stands above, (n, C).

        Below, for a row that is not of the class. A row of equal probability counts one half (DeLong, DeLong
        & Clarke-Pearson 1988, doi:10.2307/2531595). Models with the same placements have the same areas.
        """
        found = np.zeros(self.probabilities.shape)
        for place in self.defined:
            found[:, place] = self._sorted(place).placements
        return found

    def _sorted(self, place: int) -> "_Sorted":
        own = self.probabilities[:, place]
        order = np.argsort(-own, kind="stable")
        first = np.flatnonzero(np.diff(own[order], prepend=math.inf))
        return _Sorted(order, first, (self.truth[order] == place).astype(np.float64))

    def _weighted(self, place: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision of one class in each resample, (B,); NaN where there are none."""
        rows = self._sorted(place)
        ordered = weights[:, rows.order]
        hits = np.add.reduceat(ordered * rows.is_class, rows.first, axis=1)  # (B, U)
        every = np.add.reduceat(ordered, rows.first, axis=1)
        above, total = hits.cumsum(axis=1), every.cumsum(axis=1)
        num_hits, num_others = above[:, -1], total[:, -1] - above[:, -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            roc = ((every - hits) * (above - hits / 2)).sum(axis=1) / (num_hits * num_others)
            precision = np.where(total > 0, above / total, 0.0)
            average = (hits * precision).sum(axis=1) / num_hits
        average[num_others == 0] = math.nan
        return roc, average


@dataclass(frozen=True)
class _Sorted:
    """The rows by falling probability of one class."""

    order: np.ndarray  # (n,)
    first: np.ndarray  # (U,) of each different probability
    is_class: np.ndarray  # (n,) float64, in that order

    @cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the class and all rows with each probability, and with one at least so large, (U,)."""
        hits = np.add.reduceat(self.is_class, self.first)
        every = np.diff(self.first, append=len(self.order)).astype(np.float64)
        return hits, every, hits.cumsum(), every.cumsum()

    @cached_property
    def _owners(self) -> np.ndarray:
        """Which of the different probabilities a row has, (n,) in the order of the probabilities."""
        return np.repeat(np.arange(len(self.first)), np.diff(self.first, append=len(self.order)))

    @property
    def placements(self) -> np.ndarray:
        """See `Areas.placements`; (n,) in the order of the rows."""
        hits, every, above, total = self._counts
        others = every - hits
        of_class = others.sum() - (total - above) + others / 2
        found = np.where(self.is_class > 0, of_class[self._owners], (above - hits / 2)[self._owners])
        return self._as_given(found)

    def without(self) -> tuple[np.ndarray, np.ndarray]:
        """ROC-AUC and average precision without each row in turn, (n,); NaN where there are none."""
        hits, _, above, total = self._counts
        is_class = self._as_given(self.is_class) > 0
        num_hits, num_others = above[-1], total[-1] - above[-1]
        left_hits, left_others = num_hits - is_class, num_others - ~is_class
        own = self.placements
        with np.errstate(invalid="ignore", divide="ignore"):
            roc = (own[is_class].sum() - own) / (left_hits * left_others)
            # A row of the class takes itself from those above, and any row from those at all.
            of_hit = np.where(total > 1, (above - 1) / (total - 1), 0.0)
            of_other = np.where(total > 1, above / (total - 1), 0.0)
            higher = np.concatenate([[0.0], np.cumsum(hits * above / total)[:-1]])
            sums_hit = higher + _below(hits * of_hit) + (hits - 1) * of_hit
            sums_other = higher + _below(hits * of_other) + hits * of_other
            sums = np.where(self.is_class > 0, sums_hit[self._owners], sums_other[self._owners])
            average = self._as_given(sums) / left_hits
        average[left_others == 0] = math.nan
        return roc, average

    def _as_given(self, values: np.ndarray) -> np.ndarray:
        """Values by falling probability in the order of the rows."""
        found = np.empty(len(values))
        found[self.order] = values
        return found


def _below(values: np.ndarray) -> np.ndarray:
    """The sum of all values that come after each."""
    return values.sum() - values.cumsum()


def _means(areas: Sequence[tuple[np.ndarray, np.ndarray]], size: int) -> dict[str, np.ndarray]:
    """Both areas as means over the classes that have them, (size,)."""
    if not areas:
        return {name: np.full(size, math.nan) for name in ("roc_auc", "pr_auc")}
    roc, precision = (np.stack(each) for each in zip(*areas, strict=True))
    return {"roc_auc": _mean(roc), "pr_auc": _mean(precision)}


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the classes that a resample has, (C, B) in, (B,) out."""
    there = ~np.isnan(values)
    sums = np.where(there, values, 0.0).sum(axis=0)
    return np.divide(sums, there.sum(axis=0), out=np.full(len(sums), math.nan), where=there.any(axis=0))


def resample(answers: Answers, metric: str, *, bootstrap: int, seed: int = 0) -> Resamples:
    """An area on resampled rows or groups of them, and without each row or group in turn.

    The same seed and number of rows give the same resamples, and so two models on the same rows are paired.
    What a group changes is the sum of what its rows change.

    Args:
        answers: with the probabilities of every label.
        metric: roc_auc or pr_auc.
        bootstrap: how often rows are drawn; fewer times where `num_resamples` says so.
        seed: draws others.
    """
    answers, owners = in_order(answers)
    assert answers.probabilities is not None
    areas = Areas(answers.probabilities, answers.truth)
    times = num_resamples(answers.probabilities.size, bootstrap)
    groups = None if answers.groups is None else owners
    draws = [areas.weighted(drawn)[metric] for drawn in weights(len(owners), groups, times, seed)]
    without = areas.without()[metric]
    if groups is not None:
        value = areas.values()[metric]
        without = value + np.bincount(groups, without - value)
    return Resamples(np.concatenate(draws), without)


def num_resamples(work: int, bootstrap: int) -> int:
    """How often rows are drawn where that many probabilities have to be gone through each time."""
    return min(bootstrap, max(MIN_RESAMPLES, MAX_WORK // max(work, 1)))


def weights(n: int, groups: np.ndarray | None, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row stands in some of the resamples, (at most B, n); whole groups are drawn."""
    rng = np.random.default_rng(seed)
    num_units = n if groups is None else int(groups.max()) + 1
    most = max(1, MAX_ENTRIES // n)
    for start in range(0, bootstrap, most):
        size = min(most, bootstrap - start)
        drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size).astype(np.float64)
        yield drawn if groups is None else drawn[:, groups]
