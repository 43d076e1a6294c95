"""How sure a score is: a bootstrap over whole sequences, since the steps of one are not independent.

Where sequences belong to groups, such as the recordings of one speaker, whole groups are drawn (the cluster
bootstrap: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8).

    Answers ─ resample ─▶ {metric: Resamples} ─ interval ─▶ low, high

The same seed and number of sequences give the same resamples, so two models on the same rows are paired,
and the difference of their Resamples is that of a paired bootstrap.
Letters: B resamples, n sequences or groups of them, C classes, K sums.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from components.evaluation.answers import Answers
from components.metrics import METRICS

MAX_ENTRIES = 1 << 22
SMALLEST = 1e-3
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


@dataclass(frozen=True)
class Resamples:
    """A metric on resampled sequences or groups, and on all but one of them."""

    draws: np.ndarray  # (B,)
    without: np.ndarray  # (n,) without each sequence or group in turn

    def __sub__(self, other: "Resamples") -> "Resamples":
        # Infinite losses of both give NaN, for which there is no interval.
        with np.errstate(invalid="ignore"):
            return Resamples(self.draws - other.draws, self.without - other.without)


def resample(
    answers: Answers, metrics: Sequence[str], *, bootstrap: int, seed: int = 0
) -> dict[str, Resamples]:
    """Each metric on `bootstrap` resamples of the sequences, or of their groups.

    They are drawn by place, so the order of the input has no say. Sequences are counted part by part, so
    memory hardly grows with them.
    """
    answers, owners = in_order(answers)
    n, fields = answers.num_independent, sorted({field for name in metrics for field in METRICS[name].uses})
    every = answers.sums(np.zeros(len(answers), np.int64), 1).total()
    sums: dict[str, np.ndarray] = {}
    without: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    most = max(64, MAX_ENTRIES // max(bootstrap, answers.num_classes))
    # An infinite loss makes NaN of every sum that counts it zero times or takes it away again.
    with np.errstate(invalid="ignore"):
        for start, weights in _weights(n, bootstrap=bootstrap, most=most, seed=seed):
            size = weights.shape[1]
            first, last = np.searchsorted(owners, [start, start + size])
            part = answers.take(np.arange(first, last)).sums(owners[first:last] - start, size)
            for field in fields:
                sums[field] = sums.get(field, 0.0) + weights @ getattr(part, field)
            rest = every - part
            for name in metrics:
                without[name].append(METRICS[name].of(rest))
    if n == 0:
        return {name: Resamples(np.full(bootstrap, math.nan), np.zeros(0)) for name in metrics}
    drawn = replace(every, **sums)
    return {name: Resamples(METRICS[name].of(drawn), np.concatenate(without[name])) for name in metrics}


def in_order(answers: Answers) -> tuple[Answers, np.ndarray]:
    """The answers by place, those of a group together; and what each sequence is drawn as, 0 to n - 1."""
    if answers.groups is None:
        return answers.take(np.argsort(answers.places, kind="stable")), np.arange(len(answers))
    answers = answers.take(np.lexsort((answers.places, answers.groups)))
    assert answers.groups is not None
    return answers, np.unique(answers.groups, return_inverse=True)[1]


def resample_sums(
    sums: np.ndarray, groups: np.ndarray | None, *, bootstrap: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over resampled sequences, (B, K), and those without each sequence or group in turn, (n, K).

    Args:
        sums: what each sequence adds, in an order that does not follow from that of the input, (N, K).
        groups: of the sequences, (N,); None: all are independent.
    """
    if groups is not None:
        codes = np.unique(groups, return_inverse=True)[1]
        grouped = np.zeros((codes.max(initial=-1) + 1, sums.shape[1]))
        np.add.at(grouped, codes, sums)
        sums = grouped
    drawn = np.zeros((bootstrap, sums.shape[1]))
    most = max(64, MAX_ENTRIES // bootstrap)
    for start, weights in _weights(len(sums), bootstrap=bootstrap, most=most, seed=seed):
        drawn += weights @ sums[start : start + weights.shape[1]]
    return drawn, sums.sum(axis=0) - sums


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


def interval(point: float, resamples: Resamples, *, confidence: float) -> Interval:
    """Bounds of a value; unknown for NaN and below two sequences, or groups of them.

    Percentiles of the draws, corrected for bias and skew (BCa: Efron 1987,
    doi:10.1080/01621459.1987.10478410), with Student's t and sqrt(n / (n - 1)) for few sequences (the
    expanded interval: Hesterberg 2015, doi:10.1080/00031305.2015.1089789). Plain percentiles of 25 to 50
    sequences held the truth 92 times in 100 where these hold it 94 to 96 times.
    """
    draws, n = resamples.draws[np.isfinite(resamples.draws)], len(resamples.without)
    if n < 2 or not math.isfinite(point) or len(draws) < len(resamples.draws) / 2:
        return UNKNOWN
    below = (np.sum(draws < point) + 0.5 * np.sum(draws == point)) / len(draws)
    if 2 * min(below, 1 - below) < 1 - confidence:
        return _recentred(point, draws, confidence=confidence)
    bias = NORMAL.inv_cdf(float(np.clip(below, 1 / (len(draws) + 1), len(draws) / (len(draws) + 1))))
    skew = _acceleration(resamples.without)
    normal = math.sqrt(n / (n - 1)) * student_quantile((1 - confidence) / 2, n - 1)
    ranks = [NORMAL.cdf(bias + (bias + z) / max(1 - skew * (bias + z), SMALLEST)) for z in (normal, -normal)]
    low, high = np.quantile(draws, ranks)
    return Interval(float(low), float(high))


def _recentred(point: float, draws: np.ndarray, *, confidence: float) -> Interval:
    """Percentiles moved so that their median is the value.

    The calibration error of a resample is nearly always larger than that of the sample (Kumar, Liang & Ma
    2019, arXiv:1909.10155): such draws say how far the value varies, not where it lies, and the correction
    for bias has nothing left to choose from.
    """
    tail = (1 - confidence) / 2
    low, middle, high = np.quantile(draws, [tail, 0.5, 1 - tail])
    return Interval(float(point - middle + low), float(point - middle + high))


def _acceleration(without: np.ndarray) -> float:
    """How the spread changes with the value: a sixth of the skewness of the influences; 0 without any."""
    if not np.isfinite(without).all():
        return 0.0
    influence = without.mean() - without
    square = float(np.sum(influence**2))
    return float(np.sum(influence**3)) / (6 * square**1.5) if square > 0 else 0.0


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
