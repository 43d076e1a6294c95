"""Scores by property of the row, and which kinds of rows are surely worse than all others.

    declared    a column and its values, or a range of lengths (`evaluate.slices`)
    length      bands of about equal numbers of sequences, from short to long
    unknown     how many of a sequence's tokens training does not know: none, up to a tenth, more
    rare        sequences that hold a label few training units have, and the others
    context     each feature: categories by value, numbers by quartile
    seen        label sequences that also stand in training, and those that do not (labelling)

Letters: n sequences, S slices of a family, B resamples.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.instants import parse_numbers
from components.evaluation.answers import Answers, read
from components.evaluation.intervals import Resamples, interval, resample_sums, student_quantile
from components.evaluation.properties import Properties
from components.evaluation.scoring import measure, number
from conf.schema import ColumnSlice, LengthSlice

NUM_BANDS, NUM_QUARTERS, MAX_VALUES = 5, 4, 20
# Fewer sequences, or groups of them, say too little of their kind.
MIN_SEQUENCES, MIN_GROUPS = 10, 5
FEW_UNKNOWN = 0.1


@dataclass(frozen=True)
class Slice:
    """Some of the rows, and what they have in common."""

    family: str
    name: str
    rows: np.ndarray  # (n,) bool
    bounds: Mapping[str, int] = field(default_factory=dict)  # low and high, of lengths


def slices(
    predictions: pa.Table,
    *,
    declared: Sequence[str | ColumnSlice | LengthSlice],
    properties: Properties,
    rare: Collection[str],
    task: str,
    labels: Sequence[str],
    bootstrap: int,
    confidence: float,
    scheme: str = "none",
) -> dict[str, list[dict[str, Any]]]:
    """By family, the scores of each slice and how far its accuracy is from that of all other rows.

    Every slice has its metrics with intervals, its counts, and

        difference     accuracy here minus accuracy on all other rows, with _low and _high; None where
                       there are none, or nothing can be told
        too_few        why too few rows are in it to tell; empty where they are enough
        surely_worse   whether the difference is below zero even though so many slices were looked at
        sentence       what to say of a slice that is

    Args:
        predictions: of one split.
        declared: of the settings.
        properties: of the same rows, in the same order.
        rare: labels that are rare in training.
        scheme: of the tags that the labels are: none, BIO or BIOES.
    """
    answers = read(predictions, task=task, labels=labels, scheme=scheme)
    found = [*_lengths(answers), *_declared(answers, properties, declared)]
    found += [
        each for each in _automatic(predictions, properties, rare, task) if each.family not in _of(found)
    ]
    looks = _looks(answers, found, bootstrap=bootstrap)
    looked_at = sum(not look.too_few and not math.isnan(look.difference) for look in looks)
    families: dict[str, list[dict[str, Any]]] = {family: [] for family in _of(found)}
    for each, look in zip(found, looks, strict=True):
        scores = measure(answers.take(each.rows), task=task, bootstrap=bootstrap, confidence=confidence)
        told = look.told(confidence=confidence, looked_at=looked_at)
        entry = {"name": each.name, **each.bounds, **scores, **told}
        families[each.family].append({**entry, "sentence": _sentence(entry)})
    return families


def flagged(families: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """The slices that are surely worse than all other rows, the worst first."""
    worse = [each for family in families.values() for each in family if each["surely_worse"]]
    return sorted(worse, key=lambda each: each["difference"])


def looked_at(families: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """How many slices were compared with all other rows."""
    every = [each for family in families.values() for each in family]
    return sum(not each["too_few"] and each["difference"] is not None for each in every)


def _of(found: Sequence[Slice]) -> list[str]:
    return list(dict.fromkeys(each.family for each in found))


@dataclass(frozen=True)
class _Look:
    """A slice beside all other rows."""

    difference: float
    resamples: Resamples
    num_independent: int  # of the smaller side
    too_few: str

    def told(self, *, confidence: float, looked_at: int) -> dict[str, Any]:
        bounds = interval(self.difference, self.resamples, confidence=confidence)
        return {
            "difference": number(self.difference),
            "difference_low": number(bounds.low),
            "difference_high": number(bounds.high),
            "too_few": self.too_few,
            "surely_worse": bool(
                not self.too_few
                and bounds.high < 0
                and self._highest(1 - (1 - confidence) / max(1, looked_at)) < 0
            ),
        }

    def _highest(self, confidence: float) -> float:
        """The upper bound of the difference by Student's t and the spread of the resamples.

        The more slices, the more of them look worse by chance alone: the confidence is corrected for their
        number (Bonferroni; Dunn 1961, doi:10.1080/01621459.1961.10482090), and a thousand resamples have no
        percentiles that far out.
        """
        draws = self.resamples.draws[np.isfinite(self.resamples.draws)]
        if len(draws) < len(self.resamples.draws) / 2 or self.num_independent < 2:
            return math.inf
        n = self.num_independent
        reach = -student_quantile((1 - confidence) / 2, n - 1)
        return self.difference + reach * float(draws.std()) * math.sqrt(n / (n - 1))


def _looks(answers: Answers, found: Sequence[Slice], *, bootstrap: int) -> list[_Look]:
    looks = []
    for family in _of(found):
        own = [each.rows for each in found if each.family == family]
        looks += _compared(answers, np.array(own).T, bootstrap=bootstrap)
    return looks


def _compared(answers: Answers, rows: np.ndarray, *, bootstrap: int) -> list[_Look]:
    """Each slice beside its complement; both from the same resamples, as groups may have rows in both.

    Args:
        rows: of each slice, (n, S) bool.
    """
    order = np.argsort(answers.places, kind="stable")
    answers, rows = answers.take(order), rows[order]
    of_unit = np.repeat(np.arange(len(answers)), answers.units)
    right = np.bincount(of_unit, answers.truth == answers.predicted, minlength=len(answers))
    # Right answers and units inside each slice, then outside.
    sides = [rows * right[:, None], rows * answers.units[:, None]]
    sides += [~rows * right[:, None], ~rows * answers.units[:, None]]
    sums = np.concatenate(sides, axis=1).astype(np.float64)
    drawn, without = resample_sums(sums, answers.groups, bootstrap=bootstrap)
    values, draws, rest = (_gap(each) for each in (sums.sum(axis=0), drawn, without))
    looks = []
    for i, inside in enumerate(rows.T):
        few, fewest = _too_few(answers, inside)
        looks.append(_Look(float(values[i]), Resamples(draws[:, i], rest[:, i]), fewest, few))
    return looks


def _gap(sums: np.ndarray) -> np.ndarray:
    """Accuracy inside less accuracy outside, (..., S), of sums (..., 4 S); NaN where a side is empty."""
    right, units, other_right, other_units = np.split(sums, 4, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / units - other_right / other_units


def _too_few(answers: Answers, inside: np.ndarray) -> tuple[str, int]:
    """Why a slice says too little, and the number of sequences or groups of the smaller side."""
    counts = [answers.take(side).num_independent for side in (inside, ~inside)]
    num_rows = int(inside.sum())
    if num_rows < MIN_SEQUENCES:
        return f"too few to tell: {num_rows} sequences, and it takes {MIN_SEQUENCES}", min(counts)
    if answers.groups is not None and counts[0] < MIN_GROUPS:
        groups = f"{counts[0]} group{'s' if counts[0] != 1 else ''} of sequences"
        return f"too few to tell: {groups}, and it takes {MIN_GROUPS}", min(counts)
    return "", min(counts)


def _sentence(entry: Mapping[str, Any]) -> str:
    if not entry["surely_worse"]:
        return ""
    return (
        f"{entry['name']}: accuracy {entry['accuracy']:.4f} on {entry['num_sequences']:,} sequences,"
        f" {-entry['difference']:.4f} below that of all others"
        f" ({-entry['difference_high']:.4f} to {-entry['difference_low']:.4f})"
    )


def _lengths(answers: Answers) -> Iterator[Slice]:
    for low, high, rows in _bands(answers.lengths, NUM_BANDS):
        yield Slice("length", _length_name(int(low), int(high)), rows, {"low": int(low), "high": int(high)})


def _length_name(low: int, high: int) -> str:
    return f"length {low}" if low == high else f"length {low} to {high}"


def _bands(values: np.ndarray, most: int) -> Iterator[tuple[float, float, np.ndarray]]:
    """At most so many bands of about equal numbers of rows: least and largest value, and (n,) bool."""
    known = ~np.isnan(values)
    if not known.any():
        return
    cuts = np.unique(np.quantile(values[known], np.linspace(0, 1, most + 1)[1:-1], method="higher"))
    band = np.where(known, np.searchsorted(cuts, values, side="left"), -1)
    for part in np.unique(band[known]).tolist():
        yield values[band == part].min(), values[band == part].max(), band == part


def _declared(
    answers: Answers, properties: Properties, declared: Sequence[str | ColumnSlice | LengthSlice]
) -> Iterator[Slice]:
    # A range that is one of the bands has the same rows.
    taken = {band.name for band in _lengths(answers)}
    for each in declared:
        if isinstance(each, LengthSlice):
            low, high = each.length
            rows = (answers.lengths >= low) & (answers.lengths <= high)
            bounds = {"low": low, "high": high}
            made = [Slice("declared lengths", _length_name(low, high), rows, bounds)]
        elif isinstance(each, ColumnSlice):
            family = f"column {each.column}" if each.column == "length" else each.column
            made = [
                Slice(family, name, rows)
                for name, rows in _by_column(each.column, properties.kept.get(each.column), each.values)
            ]
        else:
            made = []
        for one in made:
            if one.name not in taken:
                taken.add(one.name)
                yield one


def _by_column(
    column: str, texts: pa.Array | None, values: Sequence[str | int | bool] | None
) -> Iterator[tuple[str, np.ndarray]]:
    if texts is None:  # a split without rows
        return
    if values is not None:
        for value in values:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield f"{column} = {text}", _equal(texts, text)
        return
    numbers, wrong = parse_numbers(texts)
    if not wrong.any() and len(texts.unique().drop_null()) > MAX_VALUES:
        yield from _by_number(column, numbers.fill_null(math.nan).to_numpy(zero_copy_only=False), NUM_BANDS)
    else:
        yield from _by_value(column, texts)


def _by_value(column: str, texts: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
    """The most frequent values, all others together, and the rows without one."""
    counts = sorted(
        (-each["counts"], each["values"]) for each in pc.value_counts(texts.drop_null()).to_pylist()
    )
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    rest = ~missing
    for _, text in counts[:MAX_VALUES]:
        rows = _equal(texts, text)
        rest &= ~rows
        yield f"{column} = {text}", rows
    if rest.any():
        yield f"{column} other", rest
    if missing.any():
        yield f"{column} missing", missing


def _equal(texts: pa.Array, text: str) -> np.ndarray:
    return pc.equal(texts, text).fill_null(False).to_numpy(zero_copy_only=False)


def _by_number(column: str, values: np.ndarray, most: int) -> Iterator[tuple[str, np.ndarray]]:
    for low, high, rows in _bands(values, most):
        yield (f"{column} {low:.6g}" if low == high else f"{column} {low:.6g} to {high:.6g}"), rows
    if (missing := np.isnan(values)).any():
        yield f"{column} missing", missing


def _automatic(
    predictions: pa.Table, properties: Properties, rare: Collection[str], task: str
) -> Iterator[Slice]:
    """The families that tell rows apart."""
    made = [*_unknown(properties), *_context(properties)]
    if task == "labelling":
        seen = predictions["seen"].to_numpy(zero_copy_only=False).astype(bool)
        made += [("label sequence", [("label sequence seen", seen), ("label sequence unseen", ~seen)])]
    truth = predictions["truth"].combine_chunks()
    holds = _holds(truth, rare)
    made += [("rare labels", [("with a rare label", holds), ("without a rare label", ~holds)])]
    for family, parts in made:
        filled = [(name, rows) for name, rows in parts if rows.any()]
        if len(filled) > 1:
            for name, rows in filled:
                yield Slice(family, name, rows)


def _unknown(properties: Properties) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    for column, share in properties.unknown.items():
        of = f" of {column}" if len(properties.unknown) > 1 else ""
        parts = [
            (f"unknown tokens{of} none", share == 0),
            (f"unknown tokens{of} up to 10 %", (share > 0) & (share <= FEW_UNKNOWN)),
            (f"unknown tokens{of} more than 10 %", share > FEW_UNKNOWN),
        ]
        yield f"unknown tokens{of}", parts


def _context(properties: Properties) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    for column, values in properties.context.items():
        if pa.types.is_string(values.type):
            yield column, list(_by_value(column, values))
        else:
            yield column, list(_by_number(column, values.to_numpy(zero_copy_only=False), NUM_QUARTERS))


def _holds(truth: pa.Array, rare: Collection[str]) -> np.ndarray:
    """Which sequences have one of the labels, (n,) bool."""
    wanted = pa.array(sorted(rare), pa.string())
    if not pa.types.is_list(truth.type):
        return pc.is_in(truth, value_set=wanted).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(truth).to_numpy()
    hits = pc.is_in(truth.flatten(), value_set=wanted).to_numpy(zero_copy_only=False)
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), hits, minlength=len(lengths)) > 0
