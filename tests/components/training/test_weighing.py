"""What each sequence counts, against sums over single steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from components.data.batches import SequenceSet, training_plan
from components.errors import DataError
from components.training.weighing import BETA, Weighing, class_weights
from conf.schema import TrainSettings

MakeSet = Callable[..., SequenceSet]
LABELS = ("a", "b", "c", "d")
LENGTHS = [7, 1, 3, 5, 2, 6, 1, 4]
GIVEN = {"b": 4.0, "d": 0.25}


def weights_of(train: SequenceSet, setting: Any) -> np.ndarray:
    counts = np.bincount(train.y, minlength=4)
    found = class_weights(setting, counts, LABELS)
    return np.ones(4) if found is None else found.astype(np.float64)


def by_hand(train: SequenceSet, loss: np.ndarray, setting: Any, loss_mean: str) -> float:
    """The mean over units, or over sequences of their means, from the loss of every unit."""
    weights = weights_of(train, setting)[train.y]
    if not train.per_step:
        # A sequence in parts is one sequence: each part has its share of the steps.
        steps = np.bincount(train.row, train.lengths)
        weights = weights * train.lengths / steps[train.row]
        return float((weights * loss).sum() / weights.sum())
    if loss_mean == "step":
        return float((weights * loss).sum() / weights.sum())
    rows = np.repeat(train.row, train.lengths)
    means = [(weights * loss)[rows == row].sum() / weights[rows == row].sum() for row in np.unique(train.row)]
    return float(np.mean(means))


def weighed(train: SequenceSet, weighing: Weighing, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As training has it: factor times the criterion's sum for each row, and the masses."""
    of_unit = np.ones(4) if weighing.criterion.class_weights is None else weighing.criterion.class_weights
    sums = of_unit[train.y] * loss
    if train.per_step:
        sums = np.add.reduceat(sums, train.offsets[:-1])
    return weighing.factors * sums, weighing.masses


@pytest.mark.parametrize("max_length", [None, 3], ids=["whole", "windows"])
@pytest.mark.parametrize("setting", ["none", "balanced", "effective", GIVEN], ids=str)
@pytest.mark.parametrize(
    ("per_step", "loss_mean"),
    [(True, "step"), (True, "sequence"), (False, "step")],
    ids=["steps", "sequences", "classifier"],
)
def test_the_loss_of_all_rows_is_the_weighted_mean(
    make_set: MakeSet, per_step: bool, loss_mean: str, setting: Any, max_length: int | None
) -> None:
    train = make_set(LENGTHS, per_step=per_step).cut(max_length)
    settings = TrainSettings.model_validate({"class_weights": setting, "loss_mean": loss_mean})
    weighing = Weighing.of(train, settings, LABELS)
    loss = np.random.default_rng(3).uniform(0.1, 5.0, len(train.y))
    losses, masses = weighed(train, weighing, loss)
    assert losses.sum() / masses.sum() == pytest.approx(by_hand(train, loss, setting, loss_mean), rel=1e-6)
    # Of batches: each with the mass of its own rows, added up as the loop reports an epoch.
    plan = training_plan(train.lengths, batch_size=3, seed=0, epoch=0)
    epoch = sum(float((losses[rows] / masses[rows].sum()).sum()) * masses[rows].sum() for rows in plan)
    assert epoch / masses.sum() == pytest.approx(losses.sum() / masses.sum())


@pytest.mark.parametrize("per_step", [True, False])
def test_windows_of_a_sequence_share_its_mass_by_their_steps(make_set: MakeSet, per_step: bool) -> None:
    settings = TrainSettings(loss_mean="sequence")
    cut = make_set([7, 2], per_step=per_step).cut(3)
    assert cut.lengths.tolist() in ([3, 2, 2, 2], [2, 2, 3, 2], [2, 3, 2, 2])
    masses = Weighing.of(cut, settings, LABELS).masses
    np.testing.assert_allclose(masses, cut.lengths / np.array([7, 7, 7, 2]))


def test_without_weights_every_step_or_sequence_counts_one(make_set: MakeSet) -> None:
    train = make_set(LENGTHS)
    by_step, by_sequence = (
        Weighing.of(train, TrainSettings.model_validate({"loss_mean": mean}), LABELS)
        for mean in ("step", "sequence")
    )
    assert by_step.criterion.class_weights is None
    assert (by_step.factors.tolist(), by_step.masses.tolist()) == ([1.0] * 8, LENGTHS)
    np.testing.assert_allclose(by_sequence.factors, 1 / np.array(LENGTHS))
    assert by_sequence.masses.tolist() == [1.0] * 8


@pytest.mark.parametrize("loss_mean", ["step", "sequence"])
def test_the_stretches_of_a_batch_weigh_what_their_steps_weigh(make_set: MakeSet, loss_mean: str) -> None:
    train = make_set(LENGTHS)
    settings = TrainSettings.model_validate({"class_weights": GIVEN, "loss_mean": loss_mean})
    weighing = Weighing.of(train, settings, LABELS)
    rows = np.arange(8)
    whole = train.batch(rows, weights=weighing.factors, multiple_of=3)
    stretches = weighing.stretches(whole, 3)
    assert [part.x.shape[1] for part, _ in stretches] == [3, 3, 1]
    assert sum(part.lengths for part, _ in stretches).tolist() == whole.lengths.tolist()
    assert sum(mass for _, mass in stretches) == pytest.approx(weighing.masses.sum(), rel=1e-6)
    of_step = weights_of(train, GIVEN)
    for part, mass in stretches:
        real = np.arange(part.x.shape[1]) < part.lengths[:, np.newaxis]
        in_all = (of_step[part.targets] * real).sum(axis=1) * part.weights
        assert in_all.sum() == pytest.approx(1.0, rel=1e-6)
        np.testing.assert_allclose(part.weights * mass, whole.weights, rtol=1e-6)


def test_smoothing_goes_into_the_criterion(make_set: MakeSet) -> None:
    assert Weighing.of(make_set([2]), TrainSettings(label_smoothing=0.1), LABELS).criterion.smoothing == 0.1


def test_balanced_gives_every_class_the_same_sum() -> None:
    counts = np.array([800, 150, 49, 1])
    weights = class_weights("balanced", counts, LABELS)
    assert weights is not None
    np.testing.assert_allclose(weights * counts, 250, rtol=1e-6)


def test_effective_lies_between_all_alike_and_balanced() -> None:
    counts = np.array([100_000, 5_000, 50, 1])
    weights = class_weights("effective", counts, LABELS)
    balanced = class_weights("balanced", counts, LABELS)
    assert weights is not None
    assert balanced is not None
    number = (1 - BETA**counts) / (1 - BETA)
    np.testing.assert_allclose(weights / weights[0], number[0] / number, rtol=1e-5)
    assert (weights * counts).sum() == pytest.approx(counts.sum(), rel=1e-5)
    assert (np.diff(weights) > 0).all()
    assert (weights[1:] / weights[0] < balanced[1:] / balanced[0]).all()


@pytest.mark.parametrize("setting", ["balanced", "effective"])
def test_a_label_that_no_training_row_has_gets_a_finite_weight(setting: str) -> None:
    weights = class_weights(setting, np.array([10, 0, 3, 0]), LABELS)
    assert weights is not None
    assert np.isfinite(weights).all()
    assert weights[1] == weights.max()


def test_labels_that_are_not_named_count_one() -> None:
    weights = class_weights(GIVEN, np.array([1, 1, 1, 1]), LABELS)
    assert weights is not None
    assert weights.tolist() == [1.0, 4.0, 1.0, 0.25]


def test_a_weight_of_an_unknown_label_is_refused(make_set: MakeSet) -> None:
    settings = TrainSettings.model_validate({"class_weights": {"b": 2.0, "x": 3.0}})
    with pytest.raises(DataError, match=r"train\.class_weights names 'x', which no row has") as caught:
        Weighing.of(make_set([2]), settings, LABELS)
    assert caught.value.hint == "Their labels are 'a', 'b', 'c', 'd'."
