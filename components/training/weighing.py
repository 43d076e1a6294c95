"""What each sequence counts in the loss, so that neither batches nor replicas have a say in it.

    loss of some sequences = sum(factor * loss) / sum(mass)

    loss_mean: step       factor 1                  mass the weights of its steps
    loss_mean: sequence   factor 1 / those weights  mass 1
    a classifier          factor, mass              the weight of its class

A sequence that is read in parts counts as one: its parts share its mass by their steps
(docs/concepts/loss_weighting.md). Letters: n sequences, S all steps, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.data.batches import Batch, SequenceSet
from components.errors import DataError
from components.networks.losses import Criterion
from conf.schema import TrainSettings

# Of the effective number of examples; the middle one of the paper's.
BETA = 0.999


@dataclass(frozen=True)
class Weighing:
    """The criterion of single answers, and what each training sequence counts."""

    criterion: Criterion
    factors: np.ndarray  # (n,) float64
    masses: np.ndarray  # (n,) float64

    @classmethod
    def of(cls, train: SequenceSet, settings: TrainSettings, labels: Sequence[str]) -> "Weighing":
        """What the settings say of the training rows.

        Raises:
            DataError: weights are given for a label that the training rows do not have.
        """
        counts = np.bincount(train.y, minlength=len(labels))
        weights = class_weights(settings.class_weights, counts, labels)
        of_unit = np.ones(len(train.y)) if weights is None else weights[train.y].astype(np.float64)
        criterion = Criterion(weights, settings.label_smoothing)
        _, owners = np.unique(train.row, return_inverse=True)
        if not train.per_step:
            share = train.lengths / np.bincount(owners, train.lengths)[owners]
            return cls(criterion, share, share * of_unit)
        mass = np.add.reduceat(of_unit, train.offsets[:-1]) if len(train) else np.zeros(0)
        if settings.loss_mean == "step":
            return cls(criterion, np.ones(len(train)), mass)
        whole = np.bincount(owners, mass)[owners]
        return cls(criterion, 1.0 / whole, mass / whole)

    def stretches(self, batch: Batch, size: int) -> list[tuple[Batch, float]]:
        """A labeller's batch cut after every `size` steps, each part weighted on its own, and their masses.

        A row that has ended has length 0 in the stretches that follow.

        Args:
            batch: whose weights are the factors of its rows.
            size: steps of a stretch.
        """
        of_class = self.criterion.class_weights
        of_step = np.ones(batch.targets.shape) if of_class is None else of_class[batch.targets]
        of_step = of_step * (np.arange(batch.x.shape[1]) < batch.lengths[:, np.newaxis])
        found = []
        for at in range(0, batch.x.shape[1], size):
            part = slice(at, at + size)
            mass = float((of_step[:, part].sum(axis=1) * batch.weights).sum())
            lengths = np.clip(batch.lengths - at, 0, size)
            weights = (batch.weights / mass).astype(np.float32)
            stretch = Batch(batch.rows, batch.x[:, part], lengths, batch.targets[:, part], weights)
            found.append((stretch, mass))
        return found


def class_weights(
    setting: str | Mapping[str, float], counts: np.ndarray, labels: Sequence[str]
) -> np.ndarray | None:
    """Weight of each class, (C,) float32; None where all count alike.

    `balanced` gives every class the same sum of weights (King & Zeng 2001). `effective` divides by the
    effective number of its examples, `(1 - b**n) / (1 - b)` (Cui et al. 2019, doi:10.1109/CVPR.2019.00949).

    Args:
        setting: none, balanced, effective, or weights by label.
        counts: how often each class stands in the training rows, (C,).
        labels: names of the classes.

    Raises:
        DataError: a weight is given for a label that is not one of `labels`.
    """
    if setting == "none":
        return None
    if not isinstance(setting, str):
        _check_known(setting, labels)
        return np.array([setting.get(label, 1.0) for label in labels], np.float32)
    seen = np.maximum(counts, 1)
    if setting == "balanced":
        weights = counts.sum() / (len(labels) * seen)
    else:
        weights = (1.0 - BETA) / (1.0 - BETA**seen)
        weights *= counts.sum() / max((weights * counts).sum(), 1e-300)
    return weights.astype(np.float32)


def _check_known(setting: Mapping[str, float], labels: Sequence[str]) -> None:
    unknown = [label for label in setting if label not in labels]
    if unknown:
        raise DataError(
            f"train.class_weights names {', '.join(map(repr, unknown))}, which no row has.",
            hint=f"Their labels are {', '.join(map(repr, labels[:20]))}{', …' if len(labels) > 20 else ''}.",
        )
