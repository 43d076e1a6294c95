"""From answers to scores with intervals: over all rows, per class, on unseen label sequences.

table ─ score ─▶ Scores   metrics  accuracy, accuracy_low, accuracy_high, ..., num_sequences, num_steps
                          per_class  confusion  reliability  spans
table ─ unseen ─▶ the score on label sequences that do not stand in training
table ─ worst  ─▶ the most confidently wrong sequences
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.tags import illegal, transitions
from components.evaluation.answers import Answers, read
from components.evaluation.intervals import Interval, interval, resample, without_exception
from components.metrics import METRICS, NUM_BINS, Sums, of_task
from components.spans import errors, find

MAX_CONFUSIONS = 2_000


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one set of rows; every part can be written as JSON."""

    metrics: dict[str, float | int | None]  # None where the data give no number
    per_class: tuple[dict[str, Any], ...]
    confusion: tuple[dict[str, Any], ...]  # wrong units only, most frequent first
    reliability: tuple[dict[str, float], ...]  # bins of confidence that hold anything
    spans: dict[str, Any] | None = None  # by_type, errors, confused, illegal; None without a tag scheme


def score(
    predictions: pa.Table,
    *,
    task: str,
    labels: Sequence[str],
    bootstrap: int,
    confidence: float,
    seed: int = 0,
    scheme: str = "none",
) -> Scores:
    """Scores of a predictions table, all its rows together; with a tag scheme also those of spans."""
    answers = read(predictions, task=task, labels=labels, scheme=scheme)
    sums = _total(answers)
    return Scores(
        metrics=measure(answers, task=task, bootstrap=bootstrap, confidence=confidence, seed=seed),
        per_class=tuple(_per_class(sums, labels)),
        confusion=tuple(_confusion(answers, labels)),
        reliability=tuple(_reliability(sums)),
        spans=_spans(answers, sums, labels),
    )


def measure(
    answers: Answers,
    *,
    task: str,
    bootstrap: int,
    confidence: float,
    seed: int = 0,
    metrics: Collection[str] | None = None,
) -> dict[str, float | int | None]:
    """The task's metrics, or some of them, each with `_low` and `_high`, and the counts they rest on."""
    names = [name for name in of_task(task, tagging=answers.tagging) if metrics is None or name in metrics]
    sums = _total(answers)
    resamples = resample(answers, names, bootstrap=bootstrap, seed=seed)
    flat: dict[str, float | int | None] = {}
    for name in names:
        value = float(METRICS[name].of(sums))
        bounds = interval(value, resamples[name], confidence=confidence)
        # No metric is below zero.
        bounds = Interval(max(bounds.low, 0.0), bounds.high) if bounds.is_known else bounds
        if name in ("accuracy", "sequence_accuracy"):
            bounds = _open(bounds, value, n=answers.num_independent, confidence=confidence)
        flat |= {name: number(value), f"{name}_low": number(bounds.low), f"{name}_high": number(bounds.high)}
    counts = {"num_sequences": len(answers), "num_steps": int(answers.lengths.sum())}
    return {**flat, **counts, **({} if answers.groups is None else {"num_groups": answers.num_independent})}


def _open(bounds: Interval, value: float, *, n: int, confidence: float) -> Interval:
    """A bound where the bootstrap has none to give: when every answer is right, or every answer wrong."""
    if value == 1.0:
        return Interval(1.0 - without_exception(n, confidence=confidence), 1.0)
    if value == 0.0:
        return Interval(0.0, without_exception(n, confidence=confidence))
    return bounds


def number(value: float) -> float | None:
    """The value, or None for what JSON has no number for."""
    return value if math.isfinite(value) else None


def _total(answers: Answers) -> Sums:
    return answers.sums(np.zeros(len(answers), np.int64), 1).total()


def _per_class(sums: Sums, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Classes that stand in truth or prediction, in the order of the labels."""
    rows = []
    for index in np.flatnonzero(sums.truths + sums.predicted).tolist():
        support, predicted, hits = (int(part[index]) for part in (sums.truths, sums.predicted, sums.hits))
        rows.append({"label": labels[index], **_counted(support, predicted, hits)})
    return rows


def _spans(answers: Answers, sums: Sums, labels: Sequence[str]) -> dict[str, Any] | None:
    """Spans by type, why they are wrong, and which tags said may not follow one another."""
    if (tagging := answers.tagging) is None:
        return None
    true, said = (
        find(tags, answers.units, tagging, reading="strict") for tags in (answers.truth, answers.predicted)
    )
    wrong = errors(true, said, tagging.names, num_steps=len(answers.truth))
    follow = transitions(answers.predicted, answers.units, len(labels)) if len(answers) else None
    confused = [
        {"truth": truth, "predicted": predicted, "count": number}
        for truth, predicted, number in wrong.confused[:MAX_CONFUSIONS]
    ]
    return {
        "by_type": _by_type(sums, tagging.names),
        "errors": wrong.counts,
        "confused": confused,
        "illegal": {} if follow is None else illegal(follow, labels, tagging.scheme),
    }


def _by_type(sums: Sums, names: Sequence[str]) -> list[dict[str, Any]]:
    """Types that stand in truth or prediction, read strictly."""
    rows = []
    for index in np.flatnonzero(sums.true_spans + sums.said_spans).tolist():
        support, predicted, hits = (
            int(part[index]) for part in (sums.true_spans, sums.said_spans, sums.right_spans)
        )
        rows.append({"type": names[index], **_counted(support, predicted, hits)})
    return rows


def _counted(support: int, predicted: int, hits: int) -> dict[str, Any]:
    return {
        "support": support,
        "predicted": predicted,
        "hits": hits,
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + predicted),
    }


def _confusion(answers: Answers, labels: Sequence[str]) -> list[dict[str, Any]]:
    wrong = answers.truth != answers.predicted
    pairs = answers.truth[wrong] * answers.num_classes + answers.predicted[wrong]
    found, counts = np.unique(pairs, return_counts=True)
    return [
        {
            "truth": labels[found[place] // answers.num_classes],
            "predicted": labels[found[place] % answers.num_classes],
            "count": int(counts[place]),
        }
        for place in np.argsort(-counts, kind="stable")[:MAX_CONFUSIONS]
    ]


def _reliability(sums: Sums) -> list[dict[str, float]]:
    return [
        {
            "low": k / NUM_BINS,
            "high": (k + 1) / NUM_BINS,
            "count": int(sums.binned[k]),
            "confidence": float(sums.binned_confidence[k] / sums.binned[k]),
            "accuracy": float(sums.binned_right[k] / sums.binned[k]),
        }
        for k in np.flatnonzero(sums.binned).tolist()
        if math.isfinite(sums.binned_confidence[k])
    ]


def unseen(
    predictions: pa.Table,
    *,
    task: str,
    labels: Sequence[str],
    bootstrap: int,
    confidence: float,
    scheme: str = "none",
) -> dict[str, Any] | None:
    """How many label sequences stand in training too, and the score on the others; None for a classifier.

    A labeller that has met every label sequence in training may know them by heart; the score on the others
    says what it can do beyond that. `metrics` is None where there are no others; `sentence` says all this to
    people.
    """
    if task != "labelling":
        return None
    known = predictions["seen"].to_numpy(zero_copy_only=False).astype(bool)
    sequences = {
        tuple(truth): bool(seen) for truth, seen in zip(predictions["truth"].to_pylist(), known, strict=True)
    }
    found: dict[str, Any] = {
        "num_sequences": len(known),
        "num_seen": int(known.sum()),
        "num_distinct": len(sequences),
        "num_distinct_seen": sum(sequences.values()),
        "metrics": None,
    }
    if not known.all():
        others = read(predictions.filter(pa.array(~known)), task=task, labels=labels, scheme=scheme)
        found["metrics"] = measure(others, task=task, bootstrap=bootstrap, confidence=confidence)
    return {**found, "sentence": _unseen_sentence(found)}


def _unseen_sentence(found: Mapping[str, Any]) -> str:
    seen, total, metrics = found["num_seen"], found["num_sequences"], found["metrics"]
    if not total:
        return "There are no rows."
    text = f"{seen:,} of {total:,} label sequences also stand in training"
    if not metrics or metrics["accuracy"] is None:
        return f"{text}: the score says nothing of label sequences never seen."
    low, high = metrics["accuracy_low"], metrics["accuracy_high"]
    bounds = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    return f"{text}; on the other {total - seen:,} the accuracy is {metrics['accuracy']:.4f}{bounds}."


def worst(answers: Answers, *, most: int) -> list[int]:
    """Places of the sequences with the most confident wrong answer in them, worst first."""
    wrong = np.where(answers.truth != answers.predicted, np.nan_to_num(answers.confidence, nan=1.0), -1.0)
    if not len(wrong):
        return []
    peaks = np.maximum.reduceat(wrong, answers.starts)
    return [int(place) for place in np.argsort(-peaks, kind="stable")[:most] if peaks[place] >= 0]
