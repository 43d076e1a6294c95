"""What the gate can compare two models on: a metric of all rows as a whole, and how far rows can tell.

    of(name) ─▶ Measure   value         of one model's answers
                          resample      that value on resampled rows, and without each of them
                          num_differing rows on which two models count differently
                          least         the label with the fewest rows, where they limit what can be told
                          reason        why there is no value

None of them has to be a mean over rows: each resample works the metric out anew from all of its rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from components.evaluation import areas, intervals
from components.evaluation.answers import Answers
from components.evaluation.intervals import Resamples
from components.metrics import METRICS
from conf.sections import AREA_METRICS


class Measure(Protocol):
    """One metric on which models are compared."""

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def best(self) -> float:
        """The best value that there can be."""
        ...

    def value(self, answers: Answers) -> float:
        """NaN where there is none."""
        ...

    def resample(self, answers: Answers, *, bootstrap: int, seed: int) -> Resamples:
        """The same seed pairs models on the same rows."""
        ...

    def num_resamples(self, answers: Answers, bootstrap: int) -> int:
        """How often `resample` draws when asked for so many."""
        ...

    def num_differing(self, ours: Answers, theirs: Answers) -> int:
        """Sequences on which two models count differently; of none, both have the same value."""
        ...

    def least(self, answers: Answers) -> tuple[int, int] | None:
        """The class with the fewest independent rows, and how many; None where a class needs no rows."""
        ...

    @property
    def tie(self) -> str:
        """What is so where none differs, for people."""
        ...

    def reason(self, answers: Answers, labels: Sequence[str]) -> str:
        """Why there is no value, for people; empty where nothing can be said."""
        ...


def of(name: str) -> Measure:
    """The metric of this name."""
    return _OfAreas(name) if name in AREA_METRICS else _OfSums(name)


@dataclass(frozen=True)
class _OfSums:
    """A metric that follows from sums over the rows."""

    name: str

    @property
    def higher_is_better(self) -> bool:
        return METRICS[self.name].higher_is_better

    @property
    def best(self) -> float:
        return METRICS[self.name].best

    def value(self, answers: Answers) -> float:
        return float(METRICS[self.name].of(answers.sums(np.zeros(len(answers), np.int64), 1).total()))

    def resample(self, answers: Answers, *, bootstrap: int, seed: int) -> Resamples:
        return intervals.resample(answers, [self.name], bootstrap=bootstrap, seed=seed)[self.name]

    def num_resamples(self, answers: Answers, bootstrap: int) -> int:
        return bootstrap

    def num_differing(self, ours: Answers, theirs: Answers) -> int:
        n = len(ours)
        one, other = (answers.sums(np.arange(n), n) for answers in (ours, theirs))
        pairs = [(getattr(one, name), getattr(other, name)) for name in METRICS[self.name].uses]
        return int(np.any([(a != b).reshape(n, -1).any(axis=1) for a, b in pairs], axis=0).sum())

    @property
    def tie(self) -> str:
        return f"both models have the same {self.name} on every sequence"

    def least(self, answers: Answers) -> tuple[int, int] | None:
        return None

    def reason(self, answers: Answers, labels: Sequence[str]) -> str:
        return ""


@dataclass(frozen=True)
class _OfAreas:
    """An area under a classifier's curve, which every pair of rows of different labels has a say in."""

    name: str
    higher_is_better: bool = True
    best: float = 1.0
    tie: str = "both models rank the sequences in the same way"

    def value(self, answers: Answers) -> float:
        if answers.probabilities is None or not len(answers):
            return math.nan
        return _areas(answers).values()[self.name]

    def resample(self, answers: Answers, *, bootstrap: int, seed: int) -> Resamples:
        return areas.resample(answers, self.name, bootstrap=bootstrap, seed=seed)

    def num_resamples(self, answers: Answers, bootstrap: int) -> int:
        probabilities = answers.probabilities
        return bootstrap if probabilities is None else areas.num_resamples(probabilities.size, bootstrap)

    def num_differing(self, ours: Answers, theirs: Answers) -> int:
        one, other = (_areas(answers).placements() for answers in (ours, theirs))
        return int((one != other).any(axis=1).sum())

    def least(self, answers: Answers) -> tuple[int, int] | None:
        units = np.arange(len(answers)) if answers.groups is None else answers.groups
        pairs = np.unique(np.stack([answers.truth, units]), axis=1)
        classes, counts = np.unique(pairs[0], return_counts=True)
        fewest = counts.argmin()
        return int(classes[fewest]), int(counts[fewest])

    def reason(self, answers: Answers, labels: Sequence[str]) -> str:
        if answers.probabilities is None:
            return "The rows and labels are too many for one evaluation to keep every probability."
        if np.isnan(answers.probabilities).any():
            return "A probability is not a number."
        if len(classes := np.unique(answers.truth)) == 1:
            return f"Every test row is of the label {labels[classes[0]]!r}, so there is none to tell it from."
        return ""


def _areas(answers: Answers) -> areas.Areas:
    assert answers.probabilities is not None
    return areas.Areas(answers.probabilities, answers.truth)
