"""What simple rules reach on the same rows, so that one sees what the network adds.

    labelling        majority           the most frequent training label
                     lookup             the most frequent label of the very same step in training
                     logistic_step      logistic regression on the single step
    classification   majority
                     logistic_summary   logistic regression on each feature's mean, standard deviation,
                                        minimum, maximum, first and last value, and on the length

They read prepared data only, so they can be worked out while the network trains. Where there are more
training rows than `MAX_VALUES` numbers, a random part is used, and the result says how many.
Letters: S steps, n sequences, U units, F features, C classes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.data.batches import SequenceSet
from components.evaluation.answers import Answers
from components.evaluation.scoring import measure

# Of the regressions' training sample: 128 MiB.
MAX_VALUES = 1 << 25
# Of the lookup table.
MAX_STEPS = 1_000_000
CHUNK = 1 << 14
# Sequences summarised at a time.
ROWS = 1 << 10

Predict = Callable[[SequenceSet], np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """A rule fitted on training rows, or the reason why there is none."""

    name: str
    sentence: str
    num_trained: int = 0  # units seen
    num_available: int = 0
    predict: Predict | None = None
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


def baselines(
    train: SequenceSet,
    test: SequenceSet,
    *,
    labels: Sequence[str],
    bootstrap: int,
    confidence: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Each baseline of the task with its scores on `test`; `metrics` is None where `reason` says why."""
    task = "labelling" if train.per_step else "classification"
    found = []
    for fit in BASELINES[task]:
        baseline = fit(train, test, labels, seed)
        entry: dict[str, Any] = {
            "name": baseline.name,
            "sentence": baseline.sentence,
            "num_trained": baseline.num_trained,
            "num_available": baseline.num_available,
            "metrics": None,
            "reason": baseline.reason,
            **baseline.notes,
        }
        if baseline.predict is not None and len(test):
            entry["metrics"] = measure(
                _answers(test, baseline.predict(test), num_classes=len(labels)),
                task=task,
                bootstrap=bootstrap,
                confidence=confidence,
                metrics=("accuracy", "sequence_accuracy", "macro_f1"),
            )
        found.append(entry)
    return found


def _answers(test: SequenceSet, predicted: np.ndarray, *, num_classes: int) -> Answers:
    return Answers(
        truth=test.y.astype(np.int64),
        predicted=predicted.astype(np.int64),
        confidence=np.ones(len(predicted)),
        losses=np.zeros(len(test)),
        units=test.lengths if test.per_step else np.ones(len(test), np.int64),
        lengths=test.lengths,
        places=np.arange(len(test)),
        num_classes=num_classes,
    )


def _majority(train: SequenceSet, test: SequenceSet, labels: Sequence[str], seed: int) -> Baseline:
    most = _most_frequent(train, labels)
    return Baseline(
        "majority",
        f"always {labels[most]!r}, the most frequent label in training",
        len(train.y),
        len(train.y),
        lambda split: np.full(len(split.y), most),
    )


def _most_frequent(train: SequenceSet, labels: Sequence[str]) -> int:
    return int(np.bincount(train.y, minlength=len(labels)).argmax())


def _lookup(train: SequenceSet, test: SequenceSet, labels: Sequence[str], seed: int) -> Baseline:
    known: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    num_trained = min(len(train.y), MAX_STEPS)
    for digest, label in zip(_digests(train.x[:num_trained]), train.y[:num_trained].tolist(), strict=True):
        known[digest][label] += 1
    # Of equally frequent labels the first, so that the order of the rows has no say.
    table = {digest: min(seen, key=lambda label: (-seen[label], label)) for digest, seen in known.items()}
    most = _most_frequent(train, labels)
    found = np.array([table.get(digest, -1) for digest in _digests(test.x)], np.int64)
    share = float((found >= 0).mean()) if len(found) else 0.0
    blank = Baseline(
        "lookup",
        "the most frequent label of the very same step in training, or else the most frequent label",
        num_trained,
        len(train.y),
        notes={"share_found": share},
    )
    if share == 0.0:
        return _without(blank, "No step of the test rows stands in training.")
    return _with(blank, lambda split: np.where(found >= 0, found, most))


def _digests(x: np.ndarray) -> Iterator[bytes]:
    # Adding zero makes -0.0 and 0.0 the same bytes.
    for start in range(0, len(x), CHUNK):
        for step in x[start : start + CHUNK] + np.float32(0):
            yield hashlib.blake2b(step.tobytes(), digest_size=16).digest()


def _logistic_step(train: SequenceSet, test: SequenceSet, labels: Sequence[str], seed: int) -> Baseline:
    blank = Baseline("logistic_step", "logistic regression on the single step", 0, len(train.y))
    return _logistic(blank, lambda split, places: split.x[places], train, labels, seed)


def _logistic_summary(train: SequenceSet, test: SequenceSet, labels: Sequence[str], seed: int) -> Baseline:
    sentence = "logistic regression on each feature's mean, deviation, minimum, maximum, first and last value"
    return _logistic(Baseline("logistic_summary", sentence, 0, len(train)), summaries, train, labels, seed)


def summaries(split: SequenceSet, places: np.ndarray) -> np.ndarray:
    """Summary statistics of sequences, (len(places), 6 F + 1)."""
    parts = [_summaries(split, places[at : at + ROWS]) for at in range(0, len(places), ROWS)]
    return np.concatenate(parts) if parts else np.zeros((0, 6 * split.x.shape[1] + 1), np.float32)


def _summaries(split: SequenceSet, places: np.ndarray) -> np.ndarray:
    lengths = split.lengths[places]
    starts = np.cumsum(lengths) - lengths
    x = split.x[np.repeat(split.offsets[places] - starts, lengths) + np.arange(lengths.sum())]
    counts = lengths[:, np.newaxis]
    mean = np.add.reduceat(x, starts, dtype=np.float64) / counts
    off = x - np.repeat(mean, lengths, axis=0).astype(np.float32)
    deviation = np.sqrt(np.add.reduceat(off * off, starts, dtype=np.float64) / counts)
    extremes = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    ends = x[starts], x[starts + lengths - 1]
    return np.concatenate([mean, deviation, *extremes, *ends, counts], axis=1).astype(np.float32)


def _logistic(
    blank: Baseline,
    inputs: Callable[[SequenceSet, np.ndarray], np.ndarray],
    train: SequenceSet,
    labels: Sequence[str],
    seed: int,
) -> Baseline:
    available = len(train.y)
    width = inputs(train, np.arange(0)).shape[1]
    num = min(available, max(1, MAX_VALUES // width))
    places = np.sort(np.random.default_rng(seed).permutation(available)[:num])
    y = train.y[places]
    if len(np.unique(y)) < 2:
        return _without(blank, "The training rows hold one label only.")
    predict = regression(inputs(train, places), y, num_classes=len(labels), seed=seed)

    def predict_split(split: SequenceSet) -> np.ndarray:
        every = np.arange(len(split.y))
        cuts = [every[at : at + CHUNK] for at in range(0, len(every), CHUNK)]
        return np.concatenate([predict(inputs(split, cut)) for cut in cuts])

    return _with(blank, predict_split, num_trained=num)


def regression(
    x: np.ndarray, y: np.ndarray, *, num_classes: int, seed: int = 0, num_steps: int = 3_000
) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic regression on standardised inputs, as a function from (U, F) to classes (U,).

    The penalty is that of scikit-learn's C=1. Adam on small batches reaches its accuracy on 42,000 letters in
    0.4 s, where L-BFGS takes 2 to 5 s from the cores that train the network.
    """
    rng = np.random.default_rng(seed)
    n, size = len(x), min(len(x), 256)
    center, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = (1.0 / np.where(spread > 0, spread, 1.0)).astype(np.float32)

    def prepared(x: np.ndarray) -> np.ndarray:
        return np.pad((x - center.astype(np.float32)) * scale, ((0, 0), (0, 1)), constant_values=1.0)

    weights, mean, square = np.zeros((3, x.shape[1] + 1, num_classes), np.float32)
    for step in range(num_steps):
        rows = rng.integers(0, n, size)
        batch = prepared(x[rows])
        logits = batch @ weights
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(size), y[rows]] -= 1.0
        gradient = batch.T @ error / size
        gradient[:-1] += weights[:-1] / n
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (gradient**2 - square)
        # Adam (Kingma and Ba 2015, arXiv:1412.6980), its rate falling to zero.
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.99 ** (step + 1))
        weights -= 0.01 * (1 - step / num_steps) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return lambda x: (prepared(x) @ weights).argmax(axis=1)


def _with(blank: Baseline, predict: Predict, *, num_trained: int | None = None) -> Baseline:
    trained = blank.num_trained if num_trained is None else num_trained
    return Baseline(blank.name, blank.sentence, trained, blank.num_available, predict, notes=blank.notes)


def _without(blank: Baseline, reason: str) -> Baseline:
    return Baseline(blank.name, blank.sentence, 0, blank.num_available, reason=reason, notes=blank.notes)


BASELINES: Mapping[str, tuple[Callable[[SequenceSet, SequenceSet, Sequence[str], int], Baseline], ...]] = {
    "labelling": (_majority, _lookup, _logistic_step),
    "classification": (_majority, _logistic_summary),
}
