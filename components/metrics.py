"""Scores as functions of sums, so that batches, replicas and resamples merge exactly.

    answers ─ count ─▶ Sums (per owner) ─ METRICS[name].of ─▶ value
                         │
                         ├ one owner      Tally: a running total over batches
                         └ n owners       evaluation: one per sequence, resampled by weights

Letters: U units (real steps for labelling, sequences for classification), n sequences, C classes,
K confidence bins, T types of spans (none without a tag scheme). A field of Sums may carry leading axes, one
entry per owner or per resample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from components.spans import Reading, Tagging, find

NUM_BINS = 15
TASKS = ("classification", "labelling")
# What the names of the counts begin with.
SPAN_READINGS: Mapping[str, Reading] = {"": "strict", "lenient_": "lenient"}


@dataclass(frozen=True)
class Sums:
    """What every metric is computed from. All float64."""

    loss: np.ndarray  # (...) nats
    units: np.ndarray  # (...)
    right: np.ndarray  # (...) units whose label is right
    sequences: np.ndarray  # (...)
    right_sequences: np.ndarray  # (...) sequences without a wrong unit
    truths: np.ndarray  # (..., C) units of each class
    predicted: np.ndarray  # (..., C)
    hits: np.ndarray  # (..., C) right units of each class
    binned: np.ndarray  # (..., K) units by confidence
    binned_right: np.ndarray  # (..., K)
    binned_confidence: np.ndarray  # (..., K) sum of confidences
    true_spans: np.ndarray  # (..., T) read strictly, by type
    said_spans: np.ndarray  # (..., T)
    right_spans: np.ndarray  # (..., T)
    lenient_true_spans: np.ndarray  # (..., T)
    lenient_said_spans: np.ndarray  # (..., T)
    lenient_right_spans: np.ndarray  # (..., T)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) + getattr(other, name) for name in SUMS))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, name) - getattr(other, name) for name in SUMS))

    def total(self) -> "Sums":
        """All owners together: the first axis summed away."""
        return Sums(*(getattr(self, name).sum(axis=0) for name in SUMS))


SUMS = tuple(field.name for field in fields(Sums))


def count(
    truth: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    *,
    lengths: np.ndarray,
    losses: np.ndarray,
    owners: np.ndarray,
    num_owners: int,
    num_classes: int,
    tagging: Tagging | None = None,
) -> Sums:
    """Sums of each owner, with one leading axis.

    Args:
        truth, predicted: class of each unit, (U,).
        confidence: probability of what was predicted, (U,).
        lengths: units of each sequence, (n,), at least 1.
        losses: nats of each sequence, summed over its units, (n,).
        owners: owner of each sequence, (n,), below `num_owners`.
        tagging: what the classes spell, for counts of spans.
    """
    of_unit = np.repeat(owners, lengths)
    right = (truth == predicted).astype(np.float64)
    num_wrong = np.bincount(np.repeat(np.arange(len(lengths)), lengths), 1.0 - right, minlength=len(lengths))

    def add(values: np.ndarray | None, by: np.ndarray) -> np.ndarray:
        return np.bincount(by, values, minlength=num_owners).astype(np.float64)

    def spread(column: np.ndarray, width: int, values: np.ndarray | None = None) -> np.ndarray:
        flat = np.bincount(of_unit * width + column, values, minlength=num_owners * width)
        return flat.astype(np.float64).reshape(num_owners, width)

    confidence = np.asarray(confidence, np.float64)
    bins = _bins(confidence)
    return Sums(
        loss=add(np.asarray(losses, np.float64), owners),
        units=add(None, of_unit),
        right=add(right, of_unit),
        sequences=add(None, owners),
        right_sequences=add((num_wrong == 0).astype(np.float64), owners),
        truths=spread(truth, num_classes),
        predicted=spread(predicted, num_classes),
        hits=spread(truth, num_classes, right),
        binned=spread(bins, NUM_BINS),
        binned_right=spread(bins, NUM_BINS, right),
        binned_confidence=spread(bins, NUM_BINS, confidence),
        **_spans(truth, predicted, lengths=lengths, of_unit=of_unit, num_owners=num_owners, tagging=tagging),
    )


def _spans(
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    lengths: np.ndarray,
    of_unit: np.ndarray,
    num_owners: int,
    tagging: Tagging | None,
) -> dict[str, np.ndarray]:
    """The fields of Sums that count spans, each (num_owners, T)."""
    if tagging is None:
        return {name: np.zeros((num_owners, 0)) for name in SUMS if name.endswith("_spans")}
    num_types = len(tagging.names)

    def spread(starts: np.ndarray, types: np.ndarray) -> np.ndarray:
        flat = np.bincount(of_unit[starts] * num_types + types, minlength=num_owners * num_types)
        return flat.astype(np.float64).reshape(num_owners, num_types)

    counts: dict[str, np.ndarray] = {}
    for before, reading in SPAN_READINGS.items():
        true, said = (find(tags, lengths, tagging, reading=reading) for tags in (truth, predicted))
        right = said.are_in(true, num_steps=len(truth))
        counts[f"{before}true_spans"] = spread(true.starts, true.types)
        counts[f"{before}said_spans"] = spread(said.starts, said.types)
        counts[f"{before}right_spans"] = spread(said.starts[right], said.types[right])
    return counts


def _bins(confidence: np.ndarray) -> np.ndarray:
    """Bins (0, 1/K], (1/K, 2/K], ...; NaN goes to the first and makes its sum, and the score, NaN."""
    return np.clip(np.ceil(np.nan_to_num(confidence) * NUM_BINS) - 1, 0, NUM_BINS - 1).astype(np.int64)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """sums / counts, NaN where nothing was counted."""
    sums = np.asarray(sums, np.float64)
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=np.asarray(counts) > 0)


def f1(sums: Sums) -> np.ndarray:
    """F1 of each class, (..., C); NaN for a class in neither truth nor prediction."""
    return _ratio(2.0 * sums.hits, sums.truths + sums.predicted)


def macro_f1(sums: Sums) -> np.ndarray:
    """Mean F1 over the classes that stand in truth or prediction, as scikit-learn's f1_score has it."""
    scores = f1(sums)
    present = ~np.isnan(scores)
    return _ratio(np.where(present, scores, 0.0).sum(axis=-1), present.sum(axis=-1))


def _span_share(sums: Sums, of: np.ndarray) -> np.ndarray:
    """Right spans as a share of others, all types together.

    As conlleval and seqeval have it, 0 where there are none of those but some on the other side; NaN where
    neither truth nor prediction has any.
    """
    right, counted = sums.right_spans.sum(axis=-1), of.sum(axis=-1)
    any_spans = (sums.true_spans + sums.said_spans).sum(axis=-1) > 0
    return _ratio(np.where(any_spans, right, 0.0), np.where(any_spans, np.maximum(counted, 1.0), 0.0))


def _span_f1(true: np.ndarray, said: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Micro F1: all types together."""
    return _ratio(2.0 * right.sum(axis=-1), true.sum(axis=-1) + said.sum(axis=-1))


def ece(sums: Sums) -> np.ndarray:
    """Expected calibration error in 15 equal bins (Guo et al. 2017, arXiv:1706.04599)."""
    return _ratio(np.abs(sums.binned_right - sums.binned_confidence).sum(axis=-1), sums.units)


@dataclass(frozen=True)
class Metric:
    """A score of a model."""

    of: Callable[[Sums], np.ndarray]
    uses: tuple[str, ...]  # the fields of Sums it reads
    tasks: tuple[str, ...] = TASKS
    higher_is_better: bool = True
    best: float = 1.0
    needs_tagging: bool = False


METRICS: Mapping[str, Metric] = {
    "loss": Metric(
        lambda sums: _ratio(sums.loss, sums.units), ("loss", "units"), higher_is_better=False, best=0.0
    ),
    "accuracy": Metric(lambda sums: _ratio(sums.right, sums.units), ("right", "units")),
    "sequence_accuracy": Metric(
        lambda sums: _ratio(sums.right_sequences, sums.sequences),
        ("right_sequences", "sequences"),
        tasks=("labelling",),
    ),
    "macro_f1": Metric(macro_f1, ("truths", "predicted", "hits")),
    "ece": Metric(ece, ("binned_right", "binned_confidence", "units"), higher_is_better=False, best=0.0),
    "span_precision": Metric(
        lambda sums: _span_share(sums, sums.said_spans),
        ("true_spans", "said_spans", "right_spans"),
        tasks=("labelling",),
        needs_tagging=True,
    ),
    "span_recall": Metric(
        lambda sums: _span_share(sums, sums.true_spans),
        ("true_spans", "said_spans", "right_spans"),
        tasks=("labelling",),
        needs_tagging=True,
    ),
    "span_f1": Metric(
        lambda sums: _span_f1(sums.true_spans, sums.said_spans, sums.right_spans),
        ("true_spans", "said_spans", "right_spans"),
        tasks=("labelling",),
        needs_tagging=True,
    ),
    "lenient_span_f1": Metric(
        lambda sums: _span_f1(sums.lenient_true_spans, sums.lenient_said_spans, sums.lenient_right_spans),
        ("lenient_true_spans", "lenient_said_spans", "lenient_right_spans"),
        tasks=("labelling",),
        needs_tagging=True,
    ),
}


def of_task(task: str, *, tagging: Tagging | None = None) -> tuple[str, ...]:
    """The names of a task's metrics; those of spans only where the labels are tags of a scheme."""
    return tuple(
        name
        for name, metric in METRICS.items()
        if task in metric.tasks and (tagging is not None or not metric.needs_tagging)
    )


class Tally:
    """A running total over batches, in any order and any cut."""

    def __init__(self, sums: Sums, task: str, tagging: Tagging | None = None) -> None:
        self.sums, self.task, self.tagging = sums, task, tagging

    @classmethod
    def empty(cls, num_classes: int, task: str, *, tagging: Tagging | None = None) -> "Tally":
        """Nothing counted yet. `task` is classification or labelling; `tagging` is what the labels spell."""
        plain = (*np.zeros(5), *np.zeros((3, num_classes)), *np.zeros((3, NUM_BINS)))
        spans = np.zeros((6, 0 if tagging is None else len(tagging.names)))
        return cls(Sums(*plain, *spans), task, tagging)

    def update(
        self,
        truth: np.ndarray,
        predicted: np.ndarray,
        confidence: np.ndarray,
        lengths: np.ndarray,
        losses: np.ndarray,
    ) -> None:
        """Count one batch. For labelling the first three hold the real steps of its sequences end to end.

        Args:
            truth, predicted: classes, (U,).
            confidence: probability of `predicted`, (U,).
            lengths: real steps of each sequence, (n,).
            losses: nats of each sequence, summed over its real steps, (n,).
        """
        self.sums += count(
            truth,
            predicted,
            confidence,
            lengths=np.asarray(lengths) if self.task == "labelling" else np.ones(len(losses), np.int64),
            losses=losses,
            owners=np.zeros(len(losses), np.int64),
            num_owners=1,
            num_classes=self.sums.truths.shape[-1],
            tagging=self.tagging,
        ).total()

    def merge(self, other: "Tally") -> "Tally":
        """Both counts together."""
        return Tally(self.sums + other.sums, self.task, self.tagging)

    def scores(self) -> dict[str, float]:
        """The task's metrics; the loss is per real step, or per sequence; NaN where nothing was counted."""
        return {name: float(METRICS[name].of(self.sums)) for name in of_task(self.task, tagging=self.tagging)}
