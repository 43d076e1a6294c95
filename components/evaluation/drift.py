"""How new rows differ from the rows that a model was trained on.

    profile.json of training + Seen (counts of new rows) ─ compare ─▶ [Shift]

Population stability index (PSI; Siddiqi, Credit Risk Scorecards, 2006) over about ten bins of equal training
share, and the distance of Kolmogorov and Smirnov (KS), the largest gap between the two distributions, of each
numeric feature; PSI of labels and lengths; the share of steps whose word was not in training. Few rows differ
by chance alone: PSI / (1/n + 1/m) of n and m sequences without drift is about chi-squared (Yurdakul,
Statistical Properties of the Population Stability Index, 2018), and less than its 99th percentile counts as
none.

Letters: S steps, F features, B bins, n sequences.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

NUM_BINS = 10
CHANCE = 0.99
MOST_LABELS = 20  # those that moved most are told

Kind = Literal["feature", "unknown", "missing", "labels", "lengths"]


@dataclass(frozen=True)
class Limits:
    """Values from which a shift counts; None: it is not looked at."""

    psi: float | None = 0.2
    ks: float | None = 0.2
    labels: float | None = 0.2
    lengths: float | None = 0.2
    unknown: float | None = 0.05


@dataclass(frozen=True)
class Share:
    """The part of the values that falls into one bin, in training and in the new rows."""

    name: str
    then: float
    now: float


@dataclass(frozen=True)
class Shift:
    """One property of the rows, then and now."""

    kind: Kind
    name: str
    measure: str  # psi, ks, or a share of steps
    value: float
    limit: float | None
    by_chance: float  # what few rows reach without any drift
    sentence: str
    shares: tuple[Share, ...] = ()  # where it is of bins

    @property
    def counts(self) -> bool:
        """Whether it is more than the limit and more than chance."""
        return self.limit is not None and self.value > max(self.limit, self.by_chance)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able copy."""
        shares = [asdict(share) for share in self.shares]
        return {**asdict(self), "shares": shares, "counts": self.counts}


@dataclass(frozen=True)
class Reference:
    """The distribution of one numeric feature in training."""

    edges: np.ndarray  # (E,) increasing
    below: np.ndarray  # (E,) share of training values up to and with each edge

    @classmethod
    def of(cls, quantiles: Sequence[float]) -> "Reference":
        """From quantiles at equal distances; values that several of them share become one edge."""
        values = np.asarray(quantiles, np.float64)
        levels = np.linspace(0.0, 1.0, len(values))
        edges = np.unique(values)
        last = np.searchsorted(values, edges, side="right") - 1
        return cls(edges, levels[last])

    def count(self, values: np.ndarray) -> np.ndarray:
        """How many values lie up to the first edge, up to the second, ..., above the last; (E + 1,)."""
        places = np.searchsorted(self.edges, values, side="left")
        return np.bincount(places, minlength=len(self.edges) + 1)

    def ks(self, counts: np.ndarray) -> float:
        """The largest gap between the two distributions, at the edges."""
        return float(np.abs(np.cumsum(counts[:-1]) / counts.sum() - self.below).max())

    def psi(self, counts: np.ndarray, num_then: int, num_now: int) -> tuple[float, int]:
        """PSI, and the number of bins it is over; of so many sequences."""
        then, now, _ = self._bins(counts)
        return psi(then, now, num_then, num_now)

    def shares(self, counts: np.ndarray) -> tuple[Share, ...]:
        """The bins that PSI is over."""
        then, now, starts = self._bins(counts)
        ends = [*starts[1:] - 1, len(self.edges)]
        return tuple(
            Share(_range(self.edges, first - 1, last, up_to="up to", beyond="over"), float(a), float(b))
            for first, last, a, b in zip(starts, ends, then, now, strict=True)
        )

    def _bins(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        then = np.diff(self.below, prepend=0.0, append=1.0)
        return _merged(then, counts / counts.sum())


def _range(edges: np.ndarray, low: int, high: int, *, up_to: str, beyond: str) -> str:
    """A bin between two of the edges in words; before the first one, or behind the last one."""
    if low < 0 and high >= len(edges):
        return "all"
    if low < 0:
        return f"{up_to} {edges[high]:.4g}"
    return f"{beyond} {edges[low]:.4g}" if high >= len(edges) else f"{edges[low]:.4g} to {edges[high]:.4g}"


def psi(then: np.ndarray, now: np.ndarray, num_then: int, num_now: int) -> tuple[float, int]:
    """The index of two distributions over the same bins, and the number of bins that hold anything.

    Half a sequence is added to each bin (Jeffreys' prior), so that an empty one is as rare as its rows allow.

    Args:
        then, now: shares, (B,).
        num_then, num_now: sequences that they are of.
    """
    some = (then > 0) | (now > 0)
    bins = int(some.sum())
    old = (then[some] * num_then + 0.5) / (num_then + 0.5 * bins)
    new = (now[some] * num_now + 0.5) / (num_now + 0.5 * bins)
    return float(np.sum((new - old) * np.log(new / old))), bins


def by_chance(bins: int, num_then: int, num_now: int) -> float:
    """PSI that rows without drift stay below 99 times in 100."""
    if bins < 2 or not num_then or not num_now:
        return math.inf if bins >= 2 else 0.0
    return float(stats.chi2.ppf(CHANCE, bins - 1)) * (1 / num_then + 1 / num_now)


def _merged(then: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring bins together until each holds about a tenth of training; the last takes what is left.

    Gives back both shares, and with which of the old bins each new one starts.
    """
    starts, held = [0], 0.0
    for place, share in enumerate(then[:-1]):
        held += share
        if held >= 1 / NUM_BINS - 1e-9 and then[place + 1 :].sum() > 1e-9:
            starts.append(place + 1)
            held = 0.0
    return np.add.reduceat(then, starts), np.add.reduceat(now, starts), np.asarray(starts)


@dataclass
class Seen:
    """Counts of new rows, added up batch by batch in bounded memory."""

    references: Mapping[tuple[str, int], Reference]
    num_rows: int = 0
    num_steps: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    features: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    missing: Counter[tuple[str, int]] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)  # values of each column of symbols
    unknown: Counter[str] = field(default_factory=Counter)  # of them those that training had not

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> "Seen":
        """Nothing seen yet, to be compared with this profile."""
        references = {
            (each["column"], place): Reference.of(feature["quantiles"])
            for each in profile["inputs"]
            for place, feature in enumerate(each.get("features", ()))
            if feature.get("quantiles")
        }
        return cls(references)

    def add_lengths(self, lengths: np.ndarray) -> None:
        """The steps of some rows, (n,)."""
        self.num_rows += len(lengths)
        self.num_steps += int(lengths.sum())
        self.lengths.update(lengths.tolist())

    def add_numbers(self, column: str, values: np.ndarray) -> None:
        """Values of a numeric column, (S, F)."""
        for place in range(values.shape[1]):
            key = (column, place)
            there = values[:, place][~np.isnan(values[:, place])]
            self.missing[key] += len(values) - len(there)
            if key in self.references:
                counts = self.references[key].count(there)
                self.features[key] = self.features.get(key, 0) + counts

    def add_symbols(self, column: str, num: int, num_unknown: int) -> None:
        """Values of a column of words or categories."""
        self.units[column] += num
        self.unknown[column] += num_unknown

    def add_labels(self, labels: Counter[str]) -> None:
        """Labels of steps (labelling) or rows."""
        self.labels.update(labels)


def compare(profile: Mapping[str, Any], seen: Seen, limits: Limits) -> list[Shift]:
    """Every shift, those that count first, the largest first within."""
    found = [*_features(profile, seen, limits), *_symbols(profile, seen, limits)]
    train = profile["splits"]["train"]
    found += _lengths(train, seen, limits)
    if seen.labels:
        found.append(_labels(train, seen, limits))
    return sorted(found, key=lambda shift: (not shift.counts, -shift.value))


def _features(profile: Mapping[str, Any], seen: Seen, limits: Limits) -> list[Shift]:
    num_then = profile["splits"]["train"]["rows"]
    single = {each["column"] for each in profile["inputs"] if each.get("num_features") == 1}
    found = []
    for (column, place), reference in seen.references.items():
        counts = seen.features.get((column, place))
        if counts is None or not counts.sum():
            continue
        name = column if column in single else f"{column} {place}"
        value, bins = reference.psi(counts, num_then, seen.num_rows)
        chance = by_chance(bins, num_then, seen.num_rows)
        shift = _shift("feature", name, "psi", value, limits.psi, chance)
        found.append(replace(shift, shares=reference.shares(counts)))
        # The 99th percentile of the distance of two samples (Smirnov 1948).
        chance = 1.63 * math.sqrt(1 / num_then + 1 / max(seen.num_rows, 1))
        found.append(_shift("feature", name, "ks", reference.ks(counts), limits.ks, chance))
    return found


def _symbols(profile: Mapping[str, Any], seen: Seen, limits: Limits) -> list[Shift]:
    found = []
    for each in profile["inputs"]:
        column = each["column"]
        if not seen.units[column]:
            continue
        # Of rows that training has not seen either.
        then = 1.0 - each["coverage"].get("valid", each["coverage"]["train"])
        now = seen.unknown[column] / seen.units[column]
        spread = math.sqrt(max(then * (1 - then), now * (1 - now)) / max(seen.num_rows, 1))
        told = f"{now:.1%} of the values of {column} are unknown, {then:.1%} were on the validation rows"
        shift = Shift("unknown", column, "share", now - then, limits.unknown, 2.33 * spread, f"{told}.")
        found.append(replace(shift, shares=(Share("unknown values", then, now),)))
    return found


def _lengths(train: Mapping[str, Any], seen: Seen, limits: Limits) -> list[Shift]:
    histogram = train["lengths"]["histogram"]
    edges, counts = np.asarray(histogram["edges"]), np.asarray(histogram["counts"], np.float64)
    if not seen.num_rows or not counts.sum():
        return []
    lengths = np.fromiter(seen.lengths.keys(), np.int64, len(seen.lengths))
    numbers = np.fromiter(seen.lengths.values(), np.float64, len(seen.lengths))
    # A bin for what is shorter than all of training, and one for what is longer.
    places = np.searchsorted(edges, lengths, side="right")
    now = np.bincount(places, numbers, minlength=len(edges) + 1) / seen.num_rows
    then = np.concatenate([[0.0], counts / counts.sum(), [0.0]])
    old, new, starts = _merged(then, now)
    value, bins = psi(old, new, train["rows"], seen.num_rows)
    chance = by_chance(bins, train["rows"], seen.num_rows)
    shares = tuple(
        Share(_range(edges, first - 1, last, up_to="below", beyond="from"), float(a), float(b))
        for first, last, a, b in zip(starts, [*starts[1:] - 1, len(edges)], old, new, strict=True)
    )
    return [replace(_shift("lengths", "length", "psi", value, limits.lengths, chance), shares=shares)]


def _labels(train: Mapping[str, Any], seen: Seen, limits: Limits) -> Shift:
    names = sorted(train["labels"].keys() | seen.labels.keys())
    then = np.array([train["labels"].get(name, 0) for name in names], np.float64)
    now = np.array([seen.labels[name] for name in names], np.float64)
    value, bins = psi(then / then.sum(), now / now.sum(), train["rows"], seen.num_rows)
    chance = by_chance(bins, train["rows"], seen.num_rows)
    shares = [
        Share(*each)
        for each in zip(names, (then / then.sum()).tolist(), (now / now.sum()).tolist(), strict=True)
    ]
    moved = sorted(shares, key=lambda share: -abs(share.now - share.then))
    shift = replace(
        _shift("labels", "label", "psi", value, limits.labels, chance), shares=tuple(moved[:MOST_LABELS])
    )
    fresh = [name for name in names if name not in train["labels"]]
    if not fresh:
        return shift
    shown = ", ".join(map(repr, fresh[:5])) + (f" and {len(fresh) - 5} more" if len(fresh) > 5 else "")
    told = f"{shift.sentence} Labels that training had not: {shown}."
    return Shift("labels", "label", "psi", value, shift.limit, chance, told)


def _shift(kind: Kind, name: str, measure: str, value: float, limit: float | None, chance: float) -> Shift:
    told = f"{name}: {measure.upper()} {value:.3f}"
    if limit is not None:
        judged = "more than" if value > max(limit, chance) else "within"
        told += f", {judged} {limit:g}"
        if value > limit and value <= chance:
            told += f" allowing for chance ({chance:.3f} with so few rows)"
    return Shift(kind, name, measure, value, limit, chance, f"{told}.")
