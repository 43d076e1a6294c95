"""A frozen model and its encoding, answering raw rows.

    bundle/
      bundle.json      what it is, its temperature, and the SHA-256 of every other file
      encoding.json    raw rows to numbers, classes to labels
      model/           SavedModel: (x (B, T, W), length (B,)) to log probabilities and classes
      code/            a copy of this package, so that the bundle needs nothing else

Letters: n rows, S all steps, m windows, B batch, T padded time, W numbers of a step, C classes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .encoding import Encoding, InputEncoding
from .numbers import NumericEncoding, flatten_rows, row_numbers
from .seals import verify
from .symbols import TokenEncoding, as_text, flatten_texts
from .temperatures import scaled
from .windows import Windows, shares, windows

MAX_BATCH_STEPS = 1 << 14
MAX_BATCH_ROWS = 1 << 11
MAX_SEARCH = 1 << 24  # numbers that a search for the best sequences of a batch may hold at a time

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Said:
    """What a model says, steps laid end to end for labelling: (S, C) and (S,), else (n, C) and (n,)."""

    log_probabilities: np.ndarray  # float32; of each step's label, whatever the others are
    best: np.ndarray  # int64; under a CRF or constraints the best sequence, else the most probable label

    @property
    def confidence(self) -> np.ndarray:
        """Probabilities of `best`, float64."""
        return np.exp(self.log_probabilities[np.arange(len(self.best)), self.best].astype(np.float64))


@dataclass(frozen=True)
class Unscaled:
    """What the network itself says: of each step (S, C), each row (n, C), or each window (m, C) of rows."""

    log_probabilities: np.ndarray  # float32
    best: np.ndarray  # int64
    cut: Windows | None = None  # a classifier's windows, where some rows have several

    def at(self, temperature: float) -> Said:
        """What a model with this temperature says. Windows are scaled first, and their mean taken then."""
        values = scaled(self.log_probabilities, temperature)
        if self.cut is None:
            return Said(values, self.best)
        whole = _mean(values, self.cut)
        return Said(whole, whole.argmax(axis=1))


@dataclass(frozen=True)
class BestSequences:
    """The most probable label sequences of rows as wholes: row after row, best first."""

    counts: np.ndarray  # (n,) int64, sequences of each row, at least 1
    log_probabilities: np.ndarray  # float64 nats, of each sequence
    classes: np.ndarray  # int64, of each step of each sequence; a sequence has its row's steps


class Predictor:
    """An opened bundle. Whatever the batches inside, a row's answer is the same to 1e-6."""

    def __init__(self, folder: str | Path) -> None:
        """Check every file of the bundle, then load the model.

        Raises:
            CorruptBundle: a file is missing, changed or not listed.
        """
        folder = Path(folder)
        self.about = verify(folder)
        self.encoding = Encoding.from_json(json.loads((folder / "encoding.json").read_text("utf8")))
        self.id_column: str | None = self.about["id"]
        # Models from before there were temperatures have none.
        self.temperature = float(self.about.get("temperature", 1.0))
        self._labels = np.array(self.encoding.labels, object)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        # The signature alone does not keep the variables alive.
        self._model = tf.saved_model.load(str(folder / "model"))
        self._serve = self._model.signatures["serving_default"]
        self._tensor = tf.constant

    @property
    def per_step(self) -> bool:
        """Whether every step has its own label."""
        return self.encoding.task == "labelling"

    @property
    def is_crf(self) -> bool:
        """Whether label sequences are scored as wholes."""
        return "sequences" in self._model.signatures

    def predict(self, rows: Any, *, n_best: int = 0, distribution: bool = False) -> dict[str, list[Any]]:
        """One answer per raw row, in the order given, as columns of plain Python values.

        Args:
            rows: columns by name, a data frame, or a list of records; each with every column of the inputs
                and of the context.
            n_best: also the n most probable labels, best first, with their probabilities.
            distribution: also the probability of every label, in the order of `encoding.labels`.

        Raises:
            ValueError: naming the column, row, step and feature that do not fit.
        """
        columns = self._columns(rows)
        x, lengths = self._encode(columns)
        answers = self.decode(
            self.predict_encoded(x, lengths), lengths, n_best=n_best, distribution=distribution
        )
        if self.id_column is not None and self.id_column in columns:
            return {"id": [_text(value) for value in columns[self.id_column]], **answers}
        return answers

    def best_sequences(self, rows: Any, n: int) -> dict[str, list[Any]]:
        """The n most probable label sequences of each row as wholes, best first; of a CRF.

        Args:
            rows: as for `predict`.
            n: at least 1; rows that have fewer sequences give fewer.

        Returns:
            `sequences`, for each row lists of labels, and `log_probabilities` (nats) and `probabilities` of
            them as wholes. Those of long sequences may be too small for anything but their logarithms.

        Raises:
            ValueError: the model is no CRF, a row is longer than its windows; and whatever `predict` finds.
        """
        x, lengths = self._encode(self._columns(rows))
        best = self.best_encoded(x, lengths, n)
        labels, log_probabilities = iter(self._labels[best.classes]), iter(best.log_probabilities.tolist())
        found: dict[str, list[Any]] = {"sequences": [], "log_probabilities": [], "probabilities": []}
        for length, count in zip(lengths.tolist(), best.counts.tolist(), strict=True):
            own = list(islice(log_probabilities, count))
            found["sequences"].append([list(islice(labels, length)) for _ in range(count)])
            found["log_probabilities"].append(own)
            found["probabilities"].append(np.exp(own).tolist())
        return found

    def best_encoded(self, x: np.ndarray, lengths: np.ndarray, n: int) -> BestSequences:
        """What `best_sequences` says of encoded sequences laid end to end.

        Args:
            x: (S, W) float32.
            lengths: steps of each sequence, (n,), at least 1.
            n: at least 1; rows that have fewer sequences give fewer.

        Raises:
            ValueError: the model is no CRF, or a row is longer than its windows.
        """
        if not self.is_crf:
            raise ValueError("this model does not score label sequences as wholes: it is no CRF (model.crf)")
        if n < 1:
            raise ValueError(f"n is {n}, expected at least 1")
        longest = self.encoding.max_length
        for row in np.flatnonzero(lengths > (longest or np.inf))[:1]:
            raise ValueError(f"row {row}: {lengths[row]} steps, but the model reads windows of {longest}")
        starts = np.cumsum(lengths) - lengths
        # One more than there are rows, so that no rows give empty arrays as well.
        scores = [np.zeros(0)] * (len(lengths) + 1)
        classes = [np.zeros(0, np.int64)] * (len(lengths) + 1)
        width = self.encoding.num_classes * n
        caps = {
            "max_steps": min(MAX_BATCH_STEPS, MAX_SEARCH // width),
            "max_rows": max(1, min(MAX_BATCH_ROWS, MAX_SEARCH // (self.encoding.num_classes * width))),
        }
        for some in batches(lengths, **caps):
            answers = self._model.signatures["sequences"](
                x=self._tensor(_padded(x, starts[some], lengths[some])),
                length=self._tensor(lengths[some].astype(np.int32)),
                n=self._tensor(np.int32(n)),
            )
            tags = answers["tags"].numpy().astype(np.int64)
            log_probabilities = answers["log_probabilities"].numpy().astype(np.float64)
            # What is forbidden, or not there, has no share beside the best one.
            real = np.exp(log_probabilities - log_probabilities[:, :1]) > 0
            real[:, 0] = True
            for place, row in enumerate(some.tolist()):
                scores[row] = log_probabilities[place, real[place]]
                classes[row] = tags[place, real[place], : lengths[row]].ravel()
        counts = np.array([len(each) for each in scores[:-1]], np.int64)
        return BestSequences(counts, *(np.concatenate(each) for each in (scores, classes)))

    def step(
        self, rows: Any, state: Sequence[np.ndarray] | None = None
    ) -> tuple[dict[str, list[Any]], list[np.ndarray]]:
        """Answers to the next steps of some sequences, and the state to hand in with those that follow.

        Stretch after stretch gives what `predict` says of whole sequences. A classifier's answer is the one
        to all steps so far.

        Args:
            rows: as for `predict`; row after row the same sequences as before.
            state: what the call before gave back; None where the sequences begin.

        Raises:
            ValueError: the model cannot answer step after step, or the state is not one of so many rows; and
                whatever `predict` finds wrong.
        """
        if (reason := self.about.get("not_stepwise", "it was exported without that")) is not None:
            raise ValueError(f"this model cannot answer step after step: {reason}")
        x, lengths = self._encode(self._columns(rows))
        run = self._model.signatures["step"]
        shapes = [
            spec.shape for name, spec in sorted(run.structured_input_signature[1].items()) if "_" in name
        ]
        if state is None:
            state = [np.zeros((len(lengths), shape[1]), np.float32) for shape in shapes]
        expected = [(len(lengths), shape[1]) for shape in shapes]
        if (received := [np.shape(each) for each in state]) != expected:
            raise ValueError(f"received a state of shapes {received}, expected {expected}")
        padded = _padded(x, np.cumsum(lengths) - lengths, lengths)
        given = {f"state_{i}": self._tensor(each) for i, each in enumerate(state)}
        length = self._tensor(lengths.astype(np.int32))
        answers = run(x=self._tensor(padded), length=length, **given)
        log_probabilities = scaled(answers["log_probabilities"].numpy(), self.temperature)
        best = answers["best"].numpy()
        if self.per_step:
            real = np.arange(padded.shape[1]) < lengths[:, np.newaxis]
            log_probabilities, best = log_probabilities[real], best[real]
        after = [answers[f"next_state_{i}"].numpy() for i in range(len(given))]
        return self.decode(Said(log_probabilities, best.astype(np.int64)), lengths), after

    def predict_encoded(self, x: np.ndarray, lengths: np.ndarray) -> Said:
        """What the model says of encoded sequences laid end to end.

        Sequences longer than `encoding.max_length` are read in windows. Each step's answer is that of the
        window that keeps it; a classifier's is the mean of its windows' probabilities, weighted by the steps
        they keep.

        Args:
            x: (S, W) float32.
            lengths: steps of each sequence, (n,), at least 1.
        """
        return self.unscaled(x, lengths).at(self.temperature)

    def unscaled(self, x: np.ndarray, lengths: np.ndarray) -> Unscaled:
        """What `predict_encoded` says, before the temperature."""
        lengths = np.asarray(lengths, np.int64)
        if len(lengths) and lengths.min() < 1:
            raise ValueError(f"row {int(lengths.argmin())}: empty sequence, expected at least 1 step")
        cut = windows(lengths, self.encoding.max_length, self.encoding.overlap)
        size = int(lengths.sum()) if self.per_step else len(cut.owners)
        result = np.empty((size, self.encoding.num_classes), np.float32)
        best = np.empty(size, np.int64)
        for some in batches(cut.lengths):
            output, classes = self._run(x, cut.starts[some], cut.lengths[some])
            if not self.per_step:
                result[some], best[some] = output, classes
                continue
            sizes = cut.kept_stops[some] - cut.kept_starts[some]
            kept = _steps_of(cut.kept_starts[some], sizes)
            read = np.repeat(np.arange(len(some)), sizes), kept - np.repeat(cut.starts[some], sizes)
            result[kept], best[kept] = output[read], classes[read]
        if self.per_step or len(cut.owners) == len(lengths):
            return Unscaled(result, best)
        return Unscaled(result, best, cut)

    def decode(
        self,
        said: Said,
        lengths: np.ndarray,
        *,
        n_best: int = 0,
        distribution: bool = False,
    ) -> dict[str, list[Any]]:
        """Answers from what `predict_encoded` gave: see `predict`."""
        if not 0 <= n_best <= self.encoding.num_classes:
            raise ValueError(
                f"n_best is {n_best}, expected 0 to {self.encoding.num_classes} (the number of labels)"
            )
        probabilities = np.exp(said.log_probabilities.astype(np.float64))
        names = ("labels", "probabilities") if self.per_step else ("label", "probability")
        flat = dict(zip(names, (self._labels[said.best], said.confidence), strict=True))
        if n_best:
            order = np.argsort(-said.log_probabilities, axis=1, kind="stable")[:, :n_best]
            flat["n_best_labels"] = self._labels[order]
            flat["n_best_probabilities"] = np.take_along_axis(probabilities, order, axis=1)
        if distribution:
            flat["distribution"] = probabilities
        if not self.per_step or not len(lengths):
            return {name: values.tolist() for name, values in flat.items()}
        cuts = np.cumsum(lengths)[:-1]
        return {name: [part.tolist() for part in np.split(values, cuts)] for name, values in flat.items()}

    def _columns(self, rows: Any) -> Columns:
        """The columns of the inputs, of the context, and of the id where there is one."""
        parts = (*self.encoding.inputs, *self.encoding.context)
        return _columns(rows, [part.column for part in parts], self.id_column)

    def _encode(self, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and context as (S, W) float32, and the lengths (n,)."""
        values: dict[str, Any] = {}
        lengths: dict[str, np.ndarray] = {}
        for part in self.encoding.inputs:
            values[part.column], lengths[part.column] = _steps(part, columns[part.column])
        first, *others = lengths
        for other in others:
            _check_rows(other, len(lengths[other]), first, len(lengths[first]))
            for row in np.flatnonzero(lengths[first] != lengths[other])[:1]:
                raise ValueError(
                    f"row {row}: {other!r} has {lengths[other][row]} steps,"
                    f" {first!r} has {lengths[first][row]}"
                )
        for part in self.encoding.context:
            _check_rows(part.column, len(columns[part.column]), first, len(lengths[first]))
            values[part.column] = _once(part, columns[part.column])
        return self.encoding.encode(values, lengths[first]), lengths[first]

    def _run(self, x: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities and classes for one batch of stretches of x."""
        length = self._tensor(lengths.astype(np.int32))
        answers = self._serve(x=self._tensor(_padded(x, starts, lengths)), length=length)
        log_probabilities = answers["log_probabilities"].numpy()
        # Models exported before labels were decoded say their probabilities alone.
        best = answers["best"].numpy() if "best" in answers else log_probabilities.argmax(axis=-1)
        return log_probabilities, best


def _padded(x: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Stretches of x (S, W) as one batch (B, T, W), zeros on the right."""
    padded = np.zeros((len(lengths), int(lengths.max(initial=1)), x.shape[1]), np.float32)
    padded[np.arange(padded.shape[1]) < lengths[:, np.newaxis]] = x[_steps_of(starts, lengths)]
    return padded


def _steps_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places of the steps of all stretches, one stretch after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def batches(
    lengths: np.ndarray, *, max_steps: int = MAX_BATCH_STEPS, max_rows: int = MAX_BATCH_ROWS
) -> list[np.ndarray]:
    """Every row once, like lengths together, each batch within the caps but never empty."""
    order = np.argsort(lengths, kind="stable")
    found: list[np.ndarray] = []
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop - start == max_rows
        if stop == len(order) or full or (stop + 1 - start) * lengths[order[stop]] > max_steps:
            found.append(order[start:stop])
            start = stop
    return found


def _mean(log_probabilities: np.ndarray, cut: Windows) -> np.ndarray:
    """Of windows (m, C) one answer for each sequence, (n, C) float32."""
    first = np.flatnonzero(np.diff(cut.owners, prepend=-1))
    weighted = log_probabilities.astype(np.float64) + np.log(shares(cut))[:, np.newaxis]
    return np.logaddexp.reduceat(weighted, first, axis=0).astype(np.float32)


def _steps(part: InputEncoding, rows: Sequence[Any]) -> tuple[Any, np.ndarray]:
    """One input's values of all steps, and the lengths (n,)."""
    if isinstance(part, NumericEncoding):
        return flatten_rows(rows, column=part.column, features=part.features, missing=part.fill is not None)
    return flatten_texts(rows, column=part.column, split=isinstance(part, TokenEncoding))


def _once(part: InputEncoding, values: Sequence[Any]) -> Any:
    """One context's value of each row."""
    if isinstance(part, NumericEncoding):
        return row_numbers(values, column=part.column, missing=part.fill is not None)
    return [as_text(value, f"{part.column!r}, row {row}") for row, value in enumerate(values)]


def _check_rows(column: str, num_rows: int, other: str, expected: int) -> None:
    if num_rows != expected:
        raise ValueError(f"{column!r} has {num_rows} rows, {other!r} has {expected}")


def _columns(rows: Any, read: Sequence[str], id_column: str | None) -> Columns:
    """The columns read, and the id's where there is one, from columns, a data frame or records."""
    wanted = [*read, *([id_column] if id_column is not None else [])]
    if isinstance(rows, Mapping) or hasattr(rows, "columns"):
        columns = {name: list(rows[name]) for name in wanted if name in rows}
        received = list(rows)
    else:
        received = list(dict.fromkeys(name for row in rows for name in _record(row))) or list(read)
        columns = {name: [row.get(name) for row in rows] for name in wanted if name in received}
    if lacking := [name for name in read if name not in columns]:
        raise ValueError(f"missing columns {lacking}; received {received}")
    return columns


def _record(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"received a row of type {type(row).__name__}, expected a record of columns by name")
    return row


def _text(value: Any) -> str | None:
    if value is None or type(value).__name__ == "NAType":  # pandas.NA, without importing pandas
        return None
    return None if isinstance(value, float) and value != value else str(value)
