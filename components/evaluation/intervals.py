"""How sure a score is: a bootstrap over whole sequences, since the steps of one are not independent.

    Answers ─ resample ─▶ {metric: (B,)} ─ interval ─▶ low, high

The same seed and number of sequences give the same resamples, so two models on the same rows are paired.
Letters: B resamples, n sequences, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from components.evaluation.answers import Answers
from components.metrics import METRICS, SUMS, Sums

MAX_ENTRIES = 1 << 22
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """Bounds of a value; NaN where the data cannot give any."""

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether both bounds are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


UNKNOWN = Interval(math.nan, math.nan)


def resample(
    answers: Answers, metrics: Sequence[str], *, bootstrap: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Each metric on `bootstrap` resamples of the sequences, (B,).

    Sequences are counted part by part, so memory does not grow with them.
    """
    used = {field for name in metrics for field in METRICS[name].uses}
    totals: dict[str, np.ndarray] = {}
    most = max(64, MAX_ENTRIES // max(bootstrap, answers.num_classes))
    for start, weights in _weights(len(answers), bootstrap=bootstrap, most=most, seed=seed):
        places = np.arange(start, start + weights.shape[1])
        part = answers.take(places).sums(places - start, len(places))
        for field in used:
            values = getattr(part, field)
            # An infinite loss times a weight of zero is NaN: right for a resample of such a sequence,
            # and `interval` has no bounds for a value that is not finite anyway.
            with np.errstate(invalid="ignore"):
                totals[field] = totals.get(field, 0.0) + weights @ values
    none = np.zeros(0)
    sums = Sums(**{field: totals.get(field, none) for field in SUMS})
    return {name: METRICS[name].of(sums) for name in metrics}


def _weights(n: int, *, bootstrap: int, most: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """How often each sequence stands in each resample, (B, at most `most`), part by part with its start.

    Together the parts are a multinomial draw of n out of n: a binomial says how many of the draws still
    to come fall into a part, and those fall evenly.
    """
    rng = np.random.default_rng(seed)
    left = np.full(bootstrap, n)
    for start in range(0, n, most):
        size = min(most, n - start)
        drawn = rng.binomial(left, size / (n - start))
        left = left - drawn
        owner = np.repeat(np.arange(bootstrap), drawn)
        cells = owner * size + rng.integers(0, size, len(owner))
        yield (
            start,
            np.bincount(cells, minlength=bootstrap * size).reshape(bootstrap, size).astype(np.float64),
        )


def interval(point: float, resamples: np.ndarray, *, n: int, confidence: float) -> Interval:
    """Percentiles of the resamples, moved out for few sequences; unknown below two sequences or for NaN.

    The bootstrap is too narrow by sqrt((n - 1) / n) and by the normal where Student's t belongs; the
    expanded percentile interval corrects both (Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
    """
    values = resamples[np.isfinite(resamples)]
    if n < 2 or not math.isfinite(point) or len(values) < len(resamples) / 2:
        return UNKNOWN
    tail = NORMAL.cdf(math.sqrt(n / (n - 1)) * student_quantile((1 - confidence) / 2, n - 1))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t (Abramowitz and Stegun 26.7.5), within 1 % from 4 degrees of freedom on."""
    z = NORMAL.inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


def without_exception(n: int, *, confidence: float) -> float:
    """The largest share of exceptions among sequences of which n showed none (Clopper and Pearson 1934)."""
    return 1 - ((1 - confidence) / 2) ** (1 / n)
