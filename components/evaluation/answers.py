"""What a model said of each held-out row, as a table to keep and as arrays to count.

    Predictor + SequenceSet ─ predict ─▶ table ─ read ─▶ Answers

    table   split  row  id  length  truth  label|labels  probability|probabilities  loss  seen  place

One row per sequence, in the order of the input, in which it is number `row`. `place` is its number among the
prepared rows of the split, which follows from content alone; `seen` says whether the very label sequence also
stands in training (labelling; null for classification). A column `group` says which sequences are not
independent of each other; without it all are. On request a classifier's table has `distribution`, the
probability of every label.
Letters: S all steps, U units, n sequences, C classes.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.data.batches import SequenceSet
from components.data.tags import tagging
from components.evaluation.properties import group_codes
from components.metrics import Sums, count
from components.served.predictor import Predictor, Unscaled
from components.spans import Tagging

# Of one part.
MAX_STEPS = 1 << 17
MAX_PROBABILITIES = 1 << 24
# The column of a classifier's probabilities, in the order of the labels.
DISTRIBUTION = "distribution"

LabelSequences = frozenset[bytes]
# Gets what the network said of each part before the temperature, and the true classes of its units.
Observer = Callable[[Unscaled, np.ndarray], None]


@dataclass(frozen=True)
class Answers:
    """Classes said and true. A unit is a real step (labelling) or a sequence (classification)."""

    truth: np.ndarray  # (U,) int64
    predicted: np.ndarray  # (U,) int64
    confidence: np.ndarray  # (U,) float64, probability of `predicted`
    losses: np.ndarray  # (n,) float64 nats, summed over a sequence's units
    units: np.ndarray  # (n,) int64, units of each sequence
    lengths: np.ndarray  # (n,) int64, steps of each sequence
    places: np.ndarray  # (n,) int64, orders the sequences whatever the order of the input
    num_classes: int
    # (n,) int64: sequences of one group are not independent; None: all are
    groups: np.ndarray | None = None
    tagging: Tagging | None = None  # what the classes spell, where they are tags of a scheme
    probabilities: np.ndarray | None = None  # (n, C) float64, of a classifier whose table has them

    def __len__(self) -> int:
        return len(self.units)

    @property
    def starts(self) -> np.ndarray:
        """First unit of each sequence, (n,)."""
        return np.cumsum(self.units) - self.units

    @property
    def num_independent(self) -> int:
        """What an interval rests on: groups where there are any, else sequences."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    def take(self, sequences: np.ndarray) -> "Answers":
        """Those of some sequences, given by place or by mask."""
        units, starts = self.units[sequences], self.starts[sequences]
        first = np.cumsum(units) - units
        of_unit = np.repeat(starts - first, units) + np.arange(units.sum())
        return replace(
            self,
            truth=self.truth[of_unit],
            predicted=self.predicted[of_unit],
            confidence=self.confidence[of_unit],
            losses=self.losses[sequences],
            units=units,
            lengths=self.lengths[sequences],
            places=self.places[sequences],
            groups=None if self.groups is None else self.groups[sequences],
            probabilities=None if self.probabilities is None else self.probabilities[sequences],
        )

    def sums(self, owners: np.ndarray, num_owners: int) -> Sums:
        """What the metrics need, summed by owner of each sequence."""
        return count(
            self.truth,
            self.predicted,
            self.confidence,
            lengths=self.units,
            losses=self.losses,
            owners=owners,
            num_owners=num_owners,
            num_classes=self.num_classes,
            tagging=self.tagging,
        )


def predict(
    predictor: Predictor,
    sequences: SequenceSet,
    *,
    labels: Sequence[str],
    split: str,
    seen: LabelSequences | None = None,
    distribution: bool = False,
) -> pa.Table:
    """A model's answers on one prepared split.

    Args:
        sequences: encoded by the predictor's own encoding.
        labels: what the classes of `sequences.y` mean; the predictor may hold the same labels in any order.
        split: goes into the column of that name.
        seen: label sequences that stand in training, of `label_sequences`; None leaves the column null.
        distribution: also a classifier's probability of every label, in the order of `labels`.
    """
    asked: dict[str, Any] = {"labels": labels, "split": split, "seen": seen, "distribution": distribution}
    return gather(list(predict_parts(predictor, sequences, **asked)))


def predict_parts(
    predictor: Predictor,
    sequences: SequenceSet,
    *,
    labels: Sequence[str],
    split: str,
    seen: LabelSequences | None = None,
    observe: Observer | None = None,
    distribution: bool = False,
) -> Iterator[pa.Table]:
    """What `predict` says, part by part; at least one part.

    `observe` is called with each part, in the order of `sequences`; classes are the predictor's.
    """
    for start, stop in _cuts(sequences, num_classes=len(labels)):
        asked: dict[str, Any] = {"labels": labels, "split": split, "seen": seen, "distribution": distribution}
        yield _part(predictor, sequences, start, stop, observe=observe, **asked)


def gather(parts: Sequence[pa.Table]) -> pa.Table:
    """The parts of one split in the order of the input."""
    table = pa.concat_tables(parts)
    return table.take(pc.sort_indices(table, sort_keys=[("row", "ascending")])).combine_chunks()


def without_distribution(table: pa.Table) -> pa.Table:
    """The table without the probability of every label, which few need and which takes most of its room."""
    return table.select([name for name in table.column_names if name != DISTRIBUTION])


def _cuts(sequences: SequenceSet, *, num_classes: int) -> Iterator[tuple[int, int]]:
    """Runs of sequences whose probabilities fit in memory; one, empty, run of an empty set."""
    most = max(1, min(MAX_STEPS, MAX_PROBABILITIES // num_classes))
    start, n = 0, len(sequences)
    while start < n:
        limit = sequences.offsets[start] + most
        stop = max(start + 1, int(np.searchsorted(sequences.offsets, limit, side="right")) - 1)
        yield start, stop
        start = stop
    if n == 0:
        yield 0, 0


def _part(
    predictor: Predictor,
    sequences: SequenceSet,
    start: int,
    stop: int,
    *,
    labels: Sequence[str],
    split: str,
    seen: LabelSequences | None,
    observe: Observer | None,
    distribution: bool,
) -> pa.Table:
    lengths = sequences.lengths[start:stop]
    steps = slice(int(sequences.offsets[start]), int(sequences.offsets[stop]))
    units = steps if sequences.per_step else slice(start, stop)
    truth = sequences.y[units]
    unscaled = predictor.unscaled(sequences.x[steps], lengths)
    said = unscaled.at(predictor.temperature)
    place = {label: index for index, label in enumerate(predictor.encoding.labels)}
    as_predicted = np.array([place[label] for label in labels], np.int64)
    if observe is not None:
        observe(unscaled, as_predicted[truth])
    losses = -said.log_probabilities[np.arange(len(truth)), as_predicted[truth]].astype(np.float64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    per_step = sequences.per_step
    columns: dict[str, pa.Array] = {
        "split": pa.array([split] * len(lengths), pa.string()),
        "row": pa.array(sequences.row[start:stop], pa.int64()),
        "id": sequences.ids[start:stop].cast(pa.string()),
        "length": pa.array(lengths, pa.int32()),
        "truth": _column(_texts(truth, labels), offsets, per_step=per_step),
        "labels" if per_step else "label": _column(
            _texts(said.best, predictor.encoding.labels), offsets, per_step=per_step
        ),
        "probabilities" if per_step else "probability": _column(
            pa.array(said.confidence),
            offsets,
            per_step=per_step,
        ),
        "loss": pa.array(_summed(losses, offsets) if per_step else losses),
        "seen": _seen(truth, offsets, seen) if per_step else pa.nulls(len(lengths), pa.bool_()),
        "place": pa.array(np.arange(start, stop), pa.int64()),
    }
    if distribution and not per_step:
        columns[DISTRIBUTION] = _distribution(said.log_probabilities[:, as_predicted])
    return pa.table(columns)


def _distribution(log_probabilities: np.ndarray) -> pa.ListArray:
    """Probabilities (n, C) as a column."""
    n, num_classes = log_probabilities.shape
    values = pa.array(np.exp(log_probabilities.astype(np.float64)).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * num_classes), values)


def _texts(classes: np.ndarray, labels: Sequence[str]) -> pa.Array:
    indices = pa.array(classes, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string())).cast(pa.string())


def _column(values: pa.Array, offsets: np.ndarray, *, per_step: bool) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values) if per_step else values


def _summed(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, offsets[:-1]) if len(values) else np.zeros(len(offsets) - 1)


def _seen(truth: np.ndarray, offsets: np.ndarray, seen: LabelSequences | None) -> pa.Array:
    if seen is None:
        return pa.nulls(len(offsets) - 1, pa.bool_())
    cuts = np.split(np.ascontiguousarray(truth, np.int32), offsets[1:-1])
    return pa.array([cut.tobytes() in seen for cut in cuts][: len(offsets) - 1], pa.bool_())


def label_sequences(folder: Path) -> LabelSequences:
    """Every distinct label sequence of a prepared split of a labeller, as int32 bytes."""
    found: set[bytes] = set()
    for shard in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(shard).iter_batches(columns=["y"], batch_size=8192):
            y = batch.column("y")
            values = y.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
            cuts = np.cumsum(pc.list_value_length(y).to_numpy())[:-1]
            found.update(cut.tobytes() for cut in np.split(values, cuts))
    return frozenset(found)


def read(table: pa.Table, *, task: str, labels: Sequence[str], scheme: str = "none") -> Answers:
    """The table's answers as classes of `labels`, which are tags of `scheme` (none, BIO, BIOES).

    Raises:
        ValueError: the table holds a label that is not one of them.
    """
    per_step = task == "labelling"
    said, sure = ("labels", "probabilities") if per_step else ("label", "probability")
    lengths = table["length"].to_numpy().astype(np.int64)
    return Answers(
        truth=_classes(table["truth"], labels, per_step=per_step),
        predicted=_classes(table[said], labels, per_step=per_step),
        confidence=_flat(table[sure], per_step=per_step).to_numpy().astype(np.float64),
        losses=table["loss"].to_numpy().astype(np.float64),
        units=lengths if per_step else np.ones(len(lengths), np.int64),
        lengths=lengths,
        places=table["place"].to_numpy().astype(np.int64),
        num_classes=len(labels),
        groups=_groups(table),
        tagging=tagging(labels, scheme),
        probabilities=_probabilities(table, len(labels)),
    )


def _probabilities(table: pa.Table, num_classes: int) -> np.ndarray | None:
    if DISTRIBUTION not in table.column_names:
        return None
    return pc.list_flatten(table[DISTRIBUTION]).to_numpy().reshape(len(table), num_classes)


def _groups(table: pa.Table) -> np.ndarray | None:
    return group_codes(table["group"]) if "group" in table.column_names else None


def _flat(column: pa.ChunkedArray, *, per_step: bool) -> pa.ChunkedArray:
    return pc.list_flatten(column) if per_step else column


def _classes(column: pa.ChunkedArray, labels: Collection[str], *, per_step: bool) -> np.ndarray:
    values = _flat(column, per_step=per_step)
    classes = pc.index_in(values, value_set=pa.array(labels, pa.string()))
    if classes.null_count:
        unknown = values.filter(pc.is_null(classes))[0].as_py()
        raise ValueError(f"received the label {unknown!r}, expected one of {list(labels)}")
    return classes.to_numpy().astype(np.int64)
