"""Whether probabilities can be believed, and the one temperature that would make them more so.

    network's answers on validation rows ─ Evidence ─ fit ─▶ Fit         train: stored with the model
    network's answers on test rows       ─ Check ─▶ loss and calibration error as served, and with that Fit

A temperature leaves the order of the labels of a step, or of a row, as it is (Guo et al. 2017,
arXiv:1706.04599). Where a classifier reads a row in windows, each is scaled before the mean over them is
taken, and the mean may then fall to another label.
Letters: U units (steps of a labeller, rows of a classifier), m windows (one for each unit, unless a
classifier's row has several), C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import optimize

from components.data.batches import SequenceSet
from components.evaluation import answers
from components.evaluation.scoring import number
from components.metrics import METRICS, Sums, count
from components.served.predictor import Predictor, Said, Unscaled
from components.served.temperatures import scaled
from components.served.windows import shares, windows

LOWEST, HIGHEST = 0.05, 20.0
FEW_UNITS = 50
MAX_PROBABILITIES = 2_000_000  # that a temperature is fitted on, windows times classes
MIN_GAIN = 0.005  # in calibration error; less is not worth a setting
# What has a value for single units, whatever sequences they stand in.
OF_UNITS = ("loss", "accuracy", "macro_f1", "ece")
OF_PROBABILITIES = ("loss", "ece")


@dataclass(frozen=True)
class Fit:
    """A temperature and what speaks for it."""

    temperature: float
    loss: float | None  # nats per unit on what it was fitted on; None where that is no number
    loss_before: float | None  # the same at temperature 1
    num_units: int
    doubt: str  # why not to rely on it, as the rest of a sentence; empty where nothing is known against it


class Evidence:
    """What a network says of validation rows, part by part: all of it, or units drawn by a fixed seed."""

    def __init__(self, sizes: np.ndarray, *, num_classes: int, most: int = MAX_PROBABILITIES) -> None:
        """Draw the units that `add` will keep.

        Args:
            sizes: windows of each unit, in the order in which they will be added, (U,).
            most: of how many probabilities at most; one unit is kept in any case.
        """
        order = np.random.default_rng(0).permutation(len(sizes))
        num_kept = int(np.searchsorted(np.cumsum(sizes[order]) * num_classes, most, side="right"))
        self._kept = np.zeros(len(sizes), bool)
        self._kept[order[: max(1, num_kept)]] = True
        self._at = 0
        self._parts: list[tuple[np.ndarray, ...]] = []

    @classmethod
    def of(cls, predictor: Predictor, sequences: SequenceSet) -> "Evidence":
        """For the answers to encoded sequences, in their order."""
        encoding = predictor.encoding
        if predictor.per_step:
            sizes = np.ones(int(sequences.lengths.sum()), np.int64)
        else:
            cut = windows(sequences.lengths, encoding.max_length, encoding.overlap)
            sizes = np.bincount(cut.owners, minlength=len(sequences))
        return cls(sizes, num_classes=encoding.num_classes)

    def add(self, said: Unscaled, truth: np.ndarray) -> None:
        """Keep what was drawn of the next units; `truth` holds their classes, (U,)."""
        kept = self._kept[self._at : self._at + len(truth)]
        owners = np.arange(len(truth)) if said.cut is None else said.cut.owners
        weights = np.ones(len(truth)) if said.cut is None else shares(said.cut)
        rows = np.flatnonzero(kept[owners])
        self._parts.append(
            (said.log_probabilities[rows], truth[owners[rows]], owners[rows] + self._at, weights[rows])
        )
        self._at += len(truth)

    def fit(self) -> Fit:
        """The temperature with the least loss on what was kept, and never a larger loss than at 1.

        Of units read in one window each the loss has a single minimum: it is convex in 1 / temperature.
        """
        if not self._at:
            return Fit(1.0, None, None, 0, "there are no validation rows")
        log_probabilities, truth, owners, weights = map(np.concatenate, zip(*self._parts, strict=True))
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        places, log_weights = np.arange(len(truth)), np.log(weights)

        def loss(log_temperature: float) -> float:
            of_windows = scaled(log_probabilities, math.exp(log_temperature))[places, truth]
            of_units = np.logaddexp.reduceat(of_windows.astype(np.float64) + log_weights, first)
            return float(-of_units.mean())

        before = loss(0.0)
        if not math.isfinite(before):
            return Fit(1.0, None, None, len(first), "the validation loss is no number")
        bounds = math.log(LOWEST), math.log(HIGHEST)
        found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
        best, after = (math.exp(found.x), float(found.fun)) if found.fun < before else (1.0, before)
        return Fit(best, after, before, len(first), _doubt(best, len(first)))


def _doubt(temperature: float, num_units: int) -> str:
    if num_units < FEW_UNITS:
        return f"{num_units} validation answers are few to fit it on"
    if temperature < LOWEST * 1.01:
        return "it lies at its lower bound, as where every validation answer is right: use harder rows"
    if temperature > HIGHEST * 0.99:
        return "it lies at its upper bound, as where the answers are no better than guesses"
    return ""


def fit(predictor: Predictor, sequences: SequenceSet) -> Fit:
    """The temperature that validation rows, encoded by the predictor's own encoding, ask for."""
    evidence = Evidence.of(predictor, sequences)
    labels = predictor.encoding.labels
    for _ in answers.predict_parts(predictor, sequences, labels=labels, split="valid", observe=evidence.add):
        pass
    return evidence.fit()


class Check:
    """What the probabilities of a model are worth as they are served, and at other temperatures.

    The rows pass by once, first valid, then test. All test rows count; memory holds sums, and the Evidence.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._unscaled: dict[str, Sums] = {}
        self._wanted: Sums | None = None
        self._fit = Fit(1.0, None, None, 0, "")

    def watching(self, split: str, sequences: SequenceSet) -> answers.Observer | None:
        """What is to be called with each part of a split's answers; None for a CRF."""
        if self._predictor.is_crf:
            return None
        if split == "valid":
            self._evidence = Evidence.of(self._predictor, sequences)
            return self._see_valid
        self._fit = self._evidence.fit()
        return self._see_test

    def _see_valid(self, said: Unscaled, truth: np.ndarray) -> None:
        self._evidence.add(said, truth)
        self._count_unscaled("valid", said, truth)

    def _see_test(self, said: Unscaled, truth: np.ndarray) -> None:
        self._count_unscaled("test", said, truth)
        sums = self._sums(said.at(self._fit.temperature), truth)
        self._wanted = sums if self._wanted is None else self._wanted + sums

    def _count_unscaled(self, split: str, said: Unscaled, truth: np.ndarray) -> None:
        sums = self._sums(said.at(1.0), truth)
        self._unscaled[split] = sums if split not in self._unscaled else self._unscaled[split] + sums

    def _sums(self, said: Said, truth: np.ndarray) -> Sums:
        num_units = len(truth)
        return count(
            truth,
            said.best,
            said.confidence,
            lengths=np.ones(num_units, np.int64),
            losses=-said.log_probabilities[np.arange(num_units), truth].astype(np.float64),
            owners=np.zeros(num_units, np.int64),
            num_owners=1,
            num_classes=self._predictor.encoding.num_classes,
        ).total()

    def details(self, served: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What details.json keeps: `calibration`, and validation `again` beside what training said of it.

        Training knows no temperature, so its scores are met at temperature 1.

        Args:
            served: the metrics of valid and of test.
        """
        unscaled = {split: _scores(sums) for split, sums in self._unscaled.items()}
        return {
            "calibration": self._calibration(served["test"], unscaled),
            "again": {
                "training": self._predictor.about["metrics"],
                "bundle": {**served["valid"], **unscaled.get("valid", {})},
            },
        }

    def _calibration(self, served: Mapping[str, Any], unscaled: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "temperature_in_use": self._predictor.temperature,
            **{name: served[name] for name in OF_PROBABILITIES},
            "unscaled": None,
            "wanted": None,
        }
        if self._wanted is None:
            why = "A CRF's probabilities come from whole label sequences and are served as they are."
            return {**found, "sentence": why}
        wanted = _scores(self._wanted)
        kept = ("accuracy", *OF_PROBABILITIES)
        found["unscaled"] = {name: unscaled["test"][name] for name in kept}
        found["wanted"] = {**asdict(self._fit), "test": {name: wanted[name] for name in kept}}
        return {**found, "sentence": _sentence(found)}


def _scores(sums: Sums) -> dict[str, float | None]:
    return {name: number(float(METRICS[name].of(sums))) for name in OF_UNITS}


def _sentence(found: Mapping[str, Any]) -> str:
    wanted, ece, in_use = found["wanted"], found["ece"], found["temperature_in_use"]
    scaled_to = wanted["test"]["ece"]
    if ece is None or scaled_to is None or found["unscaled"]["ece"] is None:
        return "The calibration error is not known."
    if in_use != 1.0:
        return (
            f"Probabilities are scaled by {in_use:.2f}, fitted on the validation rows: the calibration error"
            f" is {ece:.3f}, and would be {found['unscaled']['ece']:.3f} without."
        )
    if wanted["temperature"] == 1.0:
        because = f": {wanted['doubt']}" if wanted["doubt"] else ""
        return f"The calibration error is {ece:.3f}; the validation rows ask for no scaling{because}."
    scaling = f"Scaling by {wanted['temperature']:.2f}, fitted on the validation rows, would"
    change = f"the calibration error from {ece:.3f} to {scaled_to:.3f}"
    if ece - scaled_to < MIN_GAIN or wanted["test"]["loss"] > found["loss"]:
        return f"{scaling} not help: it takes {change} on the test rows."
    # Only of a classifier that reads windows: otherwise every label stays.
    if (accuracy := wanted["test"]["accuracy"]) != (before := found["unscaled"]["accuracy"]):
        change += f", and the accuracy from {before:.4f} to {accuracy:.4f}"
    beware = f" ({wanted['doubt']})" if wanted["doubt"] else ""
    return f"{scaling} bring {change}: set train.temperature_scaling{beware}."
