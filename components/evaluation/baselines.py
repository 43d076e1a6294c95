"""What simple rules reach on the same rows, so that one sees what the network adds.

    labelling        majority           the most frequent training label
                     lookup             the most frequent label of the very same step in training
                     logistic_step      logistic regression on the single step
    classification   majority
                     logistic_summary   logistic regression on each feature's mean, standard deviation,
                                        minimum, maximum, first and last value, and on the length

Symbols are one-hot, of a sequence their share of its steps; the `MAX_SYMBOLS` most frequent ones are told
apart, and characters are left out.
They read prepared data only, so they can be worked out while the network trains. Where there are more
training rows than `MAX_VALUES` numbers, a random part is used, and the result says how many.
Letters: S steps, n sequences, U units, F features, V symbols, D columns, C classes.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from components.data.batches import SequenceSet
from components.evaluation.answers import Answers
from components.evaluation.scoring import measure
from components.served.encoding import Slot

# Of the regressions' training sample: 128 MiB.
MAX_VALUES = 1 << 25
MAX_SYMBOLS = 20_000
# Of the lookup table.
MAX_STEPS = 1_000_000
CHUNK = 1 << 14
# Rows of one step of a regression.
BATCH = 256
# Sequences summarised at a time.
ROWS = 1 << 10

Predict = Callable[[SequenceSet], np.ndarray]
Inputs: TypeAlias = Callable[[SequenceSet, np.ndarray], Any]


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
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Each baseline of the task with its scores on `test`; `metrics` is None where `reason` says why.

    `groups` are those of the test sequences that are not independent, (n,); None: all are.
    """
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
                _answers(test, baseline.predict(test), num_classes=len(labels), groups=groups),
                task=task,
                bootstrap=bootstrap,
                confidence=confidence,
                metrics=("accuracy", "sequence_accuracy", "macro_f1"),
            )
        found.append(entry)
    return found


def _answers(
    test: SequenceSet, predicted: np.ndarray, *, num_classes: int, groups: np.ndarray | None
) -> Answers:
    return Answers(
        truth=test.y.astype(np.int64),
        predicted=predicted.astype(np.int64),
        confidence=np.ones(len(predicted)),
        losses=np.zeros(len(test)),
        units=test.lengths if test.per_step else np.ones(len(test), np.int64),
        lengths=test.lengths,
        places=np.arange(len(test)),
        num_classes=num_classes,
        groups=groups,
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
    columns, symbols = _number_columns(train.slots), _symbol_columns(train.slots)

    def numbers(split: SequenceSet, places: np.ndarray) -> np.ndarray:
        return split.x[np.ix_(places, columns)]

    if not len(symbols):
        return _logistic(blank, numbers, train, labels, seed)
    blank = replace(blank, sentence=f"{blank.sentence}, its symbols one-hot")
    return _logistic_with_symbols(blank, numbers, one_hot, train, labels, seed, size=len(symbols))


def _logistic_summary(train: SequenceSet, test: SequenceSet, labels: Sequence[str], seed: int) -> Baseline:
    sentence = "logistic regression on each feature's mean, deviation, minimum, maximum, first and last value"
    blank = Baseline("logistic_summary", sentence, 0, len(train))
    symbols = _symbol_columns(train.slots)
    if not len(symbols) or not len(train):
        return _logistic(blank, summaries, train, labels, seed)
    blank = replace(blank, sentence=f"{sentence}, and on each symbol's share of the steps")
    size = len(symbols) * int(np.ceil(train.lengths.mean()))
    return _logistic_with_symbols(blank, summaries, shares, train, labels, seed, size=size)


def _number_columns(slots: Sequence[Slot]) -> np.ndarray:
    """Which numbers of a step are just numbers."""
    kinds = [slot.kind for slot in slots for _ in range(slot.width)]
    return np.flatnonzero(np.array(kinds) == "numbers")


def _symbol_columns(slots: Sequence[Slot]) -> np.ndarray:
    """Which numbers of a step stand for symbols."""
    kinds = [slot.kind for slot in slots for _ in range(slot.width)]
    return np.flatnonzero(np.array(kinds) == "symbol")


def one_hot(split: SequenceSet, places: np.ndarray) -> sparse.csr_array:
    """One-hot symbols of steps, (len(places), V)."""
    sizes = np.array([slot.size for slot in split.slots if slot.kind == "symbol"], np.int64)
    found = split.x[np.ix_(places, _symbol_columns(split.slots))].astype(np.int64)
    symbols = found + np.cumsum(sizes) - sizes
    starts = np.arange(0, symbols.size + 1, len(sizes))
    return sparse.csr_array(
        (np.ones(symbols.size, np.float32), symbols.ravel(), starts), (len(places), sizes.sum())
    )


def shares(split: SequenceSet, places: np.ndarray) -> sparse.csr_array:
    """The share of each sequence's steps that each symbol has, (len(places), V)."""
    steps, lengths = _steps_of(split, places)
    weights = np.repeat(1.0 / lengths, lengths).astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    mean = sparse.csr_array((weights, np.arange(len(steps)), ends), (len(places), len(steps)))
    return mean @ one_hot(split, steps)


def summaries(split: SequenceSet, places: np.ndarray) -> np.ndarray:
    """Summary statistics of sequences, (len(places), 6 F + 1)."""
    columns = _number_columns(split.slots)
    parts = [_summaries(split, places[at : at + ROWS], columns) for at in range(0, len(places), ROWS)]
    return np.concatenate(parts) if parts else np.zeros((0, 6 * len(columns) + 1), np.float32)


def _summaries(split: SequenceSet, places: np.ndarray, columns: np.ndarray) -> np.ndarray:
    steps, lengths = _steps_of(split, places)
    starts = np.cumsum(lengths) - lengths
    x = split.x[np.ix_(steps, columns)]
    counts = lengths[:, np.newaxis]
    mean = np.add.reduceat(x, starts, dtype=np.float64) / counts
    off = x - np.repeat(mean, lengths, axis=0).astype(np.float32)
    deviation = np.sqrt(np.add.reduceat(off * off, starts, dtype=np.float64) / counts)
    extremes = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    ends = x[starts], x[starts + lengths - 1]
    return np.concatenate([mean, deviation, *extremes, *ends, counts], axis=1).astype(np.float32)


def _steps_of(split: SequenceSet, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the steps of some sequences, and the lengths of these."""
    lengths = split.lengths[places]
    starts = np.cumsum(lengths) - lengths
    return np.repeat(split.offsets[places] - starts, lengths) + np.arange(lengths.sum()), lengths


def _logistic(
    blank: Baseline, inputs: Inputs, train: SequenceSet, labels: Sequence[str], seed: int
) -> Baseline:
    places = _sample(train, inputs(train, np.arange(0)).shape[1], seed)
    y = train.y[places]
    if len(np.unique(y)) < 2:
        return _without(blank, "The training rows hold one label only.")
    predict = regression(inputs(train, places), y, num_classes=len(labels), seed=seed)
    return _with(blank, _in_chunks(predict, inputs), num_trained=len(places))


def _logistic_with_symbols(
    blank: Baseline,
    numbers: Inputs,
    symbols: Inputs,
    train: SequenceSet,
    labels: Sequence[str],
    seed: int,
    *,
    size: int,
) -> Baseline:
    """`size` is how many symbols a unit has."""
    # A value takes three times its room with its place beside it.
    places = _sample(train, 3 * (numbers(train, np.arange(0)).shape[1] + size), seed)
    y = train.y[places]
    if len(np.unique(y)) < 2:
        return _without(blank, "The training rows hold one label only.")
    inputs, told = _joined(numbers, symbols, train, places)
    predict = sparse_regression(inputs(train, places), y, num_classes=len(labels), seed=seed)
    blank = replace(blank, sentence=blank.sentence + told)
    return _with(blank, _in_chunks(predict, inputs), num_trained=len(places))


def _joined(numbers: Inputs, symbols: Inputs, train: SequenceSet, places: np.ndarray) -> tuple[Inputs, str]:
    """Numbers and symbols as one sparse matrix, scaled as the training rows ask, and what was left out."""
    dense, found = numbers(train, places), symbols(train, places)
    center, scale = _center_and_scale(dense)
    counts = np.bincount(found.indices, minlength=found.shape[1])
    known = int(np.count_nonzero(counts))
    kept = np.sort(np.argsort(-counts, kind="stable")[: min(known, MAX_SYMBOLS)])
    # A unit's symbols together weigh as much as one number; rare ones would grow if each had deviation 1.
    factor = np.float32(np.sqrt(len(places) / np.square(found.data).sum()))

    def inputs(split: SequenceSet, places: np.ndarray) -> sparse.csr_array:
        scaled = (numbers(split, places) - center) * scale
        parts = [sparse.csr_array(scaled), symbols(split, places)[:, kept] * factor]
        return sparse.hstack(parts, format="csr", dtype=np.float32)

    return inputs, f", the {len(kept):,} most frequent of {known:,}" if known > len(kept) else ""


def _sample(train: SequenceSet, width: int, seed: int) -> np.ndarray:
    """Places of random units, as many as may be when each has `width` numbers."""
    num = min(len(train.y), max(1, MAX_VALUES // width))
    return np.sort(np.random.default_rng(seed).permutation(len(train.y))[:num])


def _in_chunks(predict: Callable[[Any], np.ndarray], inputs: Inputs) -> Predict:
    def predict_split(split: SequenceSet) -> np.ndarray:
        every = np.arange(len(split.y))
        cuts = [every[at : at + CHUNK] for at in range(0, len(every), CHUNK)]
        return np.concatenate([predict(inputs(split, cut)) for cut in cuts])

    return predict_split


def regression(
    x: np.ndarray, y: np.ndarray, *, num_classes: int, seed: int = 0, num_steps: int = 3_000
) -> Callable[[np.ndarray], np.ndarray]:
    """A logistic regression on standardised inputs, as a function from (U, F) to classes (U,).

    The penalty is that of scikit-learn's C=1. Adam on small batches reaches its accuracy on 42,000 letters in
    0.4 s, where L-BFGS takes 2 to 5 s from the cores that train the network.
    """
    center, scale = _center_and_scale(x)

    def prepared(x: np.ndarray) -> np.ndarray:
        return np.pad((x - center) * scale, ((0, 0), (0, 1)), constant_values=1.0)

    penalty = np.full((x.shape[1] + 1, 1), 1.0 / len(x), np.float32)
    weights = _descended(
        lambda rows: (prepared(x[rows]), slice(None)), y, penalty, num_classes, seed, num_steps
    )
    return lambda x: (prepared(x) @ weights).argmax(axis=1)


def sparse_regression(
    x: sparse.csr_array, y: np.ndarray, *, num_classes: int, seed: int = 0, num_steps: int = 3_000
) -> Callable[[sparse.csr_array], np.ndarray]:
    """The same on inputs as they are, (U, D), mostly 0: a step touches the columns of its batch only."""
    n, size = x.shape[0], min(x.shape[0], BATCH)

    def prepared(x: sparse.csr_array) -> sparse.csr_array:
        return sparse.hstack([x, np.ones((x.shape[0], 1), np.float32)], format="csr")

    def draw(rows: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        batch = every[rows]
        touched, indices = np.unique(batch.indices, return_inverse=True)
        return sparse.csr_array((batch.data, indices, batch.indptr), (size, len(touched))), touched

    every = prepared(x)
    counts = np.bincount(every.indices, minlength=every.shape[1])
    # What is touched rarely is held down the more when it is, so the penalty is the same over all steps.
    touches = 1.0 - (1.0 - np.minimum(counts / n, 1.0)) ** size
    penalty = (1.0 / (n * np.maximum(touches, 1.0 / n)))[:, np.newaxis].astype(np.float32)
    weights = _descended(draw, y, penalty, num_classes, seed, num_steps)
    return lambda x: (prepared(x) @ weights).argmax(axis=1)


def _center_and_scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What makes the mean 0 and the deviation 1, but for constant columns; both (F,) float32."""
    center, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return center.astype(np.float32), (1.0 / np.where(spread > 0, spread, 1.0)).astype(np.float32)


def _descended(
    draw: Callable[[np.ndarray], tuple[Any, Any]],
    y: np.ndarray,
    penalty: np.ndarray,
    num_classes: int,
    seed: int,
    num_steps: int,
) -> np.ndarray:
    """Weights (D, C) of a softmax regression; the last column is the constant, which has no penalty.

    Args:
        draw: some rows as a matrix (B, d), and which of the D columns these d are.
        penalty: of each column's squared weights, (D, 1).
    """
    rng = np.random.default_rng(seed)
    n, size = len(y), min(len(y), BATCH)
    weights, mean, square = np.zeros((3, len(penalty), num_classes), np.float32)
    for step in range(num_steps):
        rows = rng.integers(0, n, size)
        batch, at = draw(rows)
        logits = batch @ weights[at]
        error = np.exp(logits - logits.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(size), y[rows]] -= 1.0
        gradient = batch.T @ error / size
        gradient[:-1] += (penalty[at] * weights[at])[:-1]
        mean[at] += 0.1 * (gradient - mean[at])
        square[at] += 0.01 * (gradient**2 - square[at])
        # Adam (Kingma and Ba 2015, arXiv:1412.6980), its rate falling to zero.
        unbiased = mean[at] / (1 - 0.9 ** (step + 1)), square[at] / (1 - 0.99 ** (step + 1))
        weights[at] -= 0.01 * (1 - step / num_steps) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return weights


def _with(blank: Baseline, predict: Predict, *, num_trained: int | None = None) -> Baseline:
    trained = blank.num_trained if num_trained is None else num_trained
    return Baseline(blank.name, blank.sentence, trained, blank.num_available, predict, notes=blank.notes)


def _without(blank: Baseline, reason: str) -> Baseline:
    return Baseline(blank.name, blank.sentence, 0, blank.num_available, reason=reason, notes=blank.notes)


BASELINES: Mapping[str, tuple[Callable[[SequenceSet, SequenceSet, Sequence[str], int], Baseline], ...]] = {
    "labelling": (_majority, _lookup, _logistic_step),
    "classification": (_majority, _logistic_summary),
}
