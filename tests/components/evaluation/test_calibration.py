"""Temperatures found for real networks, and what they would do to the rows of a test."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from components import bundles
from components.data.batches import SequenceSet
from components.evaluation import calibration
from components.evaluation.answers import predict, predict_parts
from components.evaluation.calibration import HIGHEST, LOWEST, Check, Evidence
from components.evaluation.scoring import score
from components.served.encoding import Encoding, Slot
from components.served.numbers import NumericEncoding
from components.served.predictor import Unscaled

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def folders(make_bundle, tmp_path_factory):
    """A labeller, and a classifier that reads windows of 4 steps."""
    path = tmp_path_factory.mktemp("calibration")
    column = NumericEncoding("frames", 2, "standard", (0.5, 0.5), (2.0, 2.0))
    windowed = Encoding("classification", (column,), LABELS, max_length=4, overlap=1)
    return {
        "labeller": make_bundle(path / "labeller"),
        "classifier": make_bundle(path / "classifier", encoding=windowed),
    }


def rows(n, *, per_step, seed=0):
    """Sequences of 1 to 9 steps without labels yet."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 10, n)
    steps = int(lengths.sum())
    return SequenceSet(
        x=rng.normal(0, 2, (steps, 2)).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        y=np.zeros(steps if per_step else n, np.int32),
        row=np.arange(n),
        ids=pa.array([f"r{i}" for i in range(n)], pa.string()),
        per_step=per_step,
        slots=(Slot("numbers", 2),),
    )


def drawn(predictor, n, *, temperature, seed=0):
    """Sequences whose labels are drawn from what the model says at a temperature."""
    found = rows(n, per_step=predictor.per_step, seed=seed)
    said = predictor.unscaled(found.x, found.lengths).at(temperature)
    sums = np.exp(said.log_probabilities.astype(np.float64)).cumsum(axis=1)
    chances = np.random.default_rng(seed + 100).random((len(sums), 1)) * sums[:, -1:]
    return replace(found, y=(chances > sums).sum(axis=1).astype(np.int32))


@pytest.mark.parametrize("kind", ["labeller", "classifier"])
@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_temperature_that_the_labels_were_drawn_at_is_found_again(folders, kind, temperature):
    predictor = bundles.open(folders[kind])
    found = calibration.fit(predictor, drawn(predictor, 12_000, temperature=temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.loss < found.loss_before
    assert not found.doubt


@pytest.mark.parametrize("kind", ["labeller", "classifier"])
def test_the_loss_of_a_fit_is_the_loss_of_the_model_that_serves_it(folders, kind, make_copy):
    predictor = bundles.open(folders[kind])
    valid = drawn(predictor, 300, temperature=2.0)
    found = calibration.fit(predictor, valid)
    scaled = make_copy(folders[kind], found.temperature)
    for model, loss in ((predictor, found.loss_before), (scaled, found.loss)):
        table = predict(model, valid, labels=LABELS, split="valid")
        assert sum(table["loss"].to_pylist()) / found.num_units == pytest.approx(loss, abs=1e-6)


@pytest.fixture
def make_copy(tmp_path):
    """Opens a copy of a bundle that has a temperature."""

    def make(folder, temperature):
        copied = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, copied)
        bundles.set_temperature(copied, temperature)
        return bundles.open(copied)

    return make


def evidence_of(log_probabilities, truth, **options):
    """Evidence from what a network says of rows, each read in one window."""
    values = np.asarray(log_probabilities, np.float32)
    found = Evidence(np.ones(len(truth), np.int64), num_classes=values.shape[1], **options)
    for at in range(0, len(truth), 7):
        part = slice(at, at + 7)
        found.add(Unscaled(values[part], values[part].argmax(axis=1)), np.asarray(truth)[part])
    return found


def of_two(confidences, right):
    """Log probabilities of two classes, the first one said with these confidences; and the truth."""
    sure = np.asarray(confidences, np.float64)
    return np.log(np.stack([sure, 1 - sure], axis=1)), np.where(right, 0, 1)


def test_where_every_answer_is_right_the_temperature_keeps_its_bound_and_is_doubted():
    found = evidence_of(*of_two(np.linspace(0.6, 0.9, 200), np.ones(200, bool))).fit()
    assert LOWEST <= found.temperature < 1.01 * LOWEST
    assert found.loss <= found.loss_before
    assert "every validation answer is right" in found.doubt


def test_where_answers_are_guesses_the_temperature_keeps_its_bound_and_is_doubted():
    found = evidence_of(*of_two(np.full(200, 0.9), np.arange(200) % 2 == 0)).fit()
    assert 0.99 * HIGHEST < found.temperature <= HIGHEST
    assert "no better than guesses" in found.doubt


@pytest.mark.parametrize("seed", range(20))
def test_no_temperature_loses_against_none(seed):
    rng = np.random.default_rng(seed)
    values = np.log(rng.dirichlet(np.full(4, rng.uniform(0.1, 3)), 60))
    found = evidence_of(values, rng.integers(0, 4, 60)).fit()
    assert LOWEST <= found.temperature <= HIGHEST
    assert found.loss <= found.loss_before


def test_what_is_calibrated_is_left_alone():
    confidences = np.repeat(np.linspace(0.55, 0.95, 9), 2_000)
    right = np.tile(np.arange(2_000) / 2_000, 9) < confidences
    assert evidence_of(*of_two(confidences, right)).fit().temperature == pytest.approx(1.0, abs=0.01)


def test_few_answers_are_enough_for_a_fit_but_not_for_trust():
    found = evidence_of(*of_two(np.full(49, 0.99), np.arange(49) % 4 > 0)).fit()
    assert found.temperature > 1
    assert found.doubt == "49 validation answers are few to fit it on"
    assert not evidence_of(*of_two(np.full(50, 0.99), np.arange(50) % 4 > 0)).fit().doubt


def test_without_rows_or_with_an_endless_loss_nothing_is_scaled():
    none = Evidence(np.zeros(0, np.int64), num_classes=2).fit()
    assert (none.temperature, none.num_units, none.doubt) == (1.0, 0, "there are no validation rows")
    with np.errstate(divide="ignore"):
        endless = evidence_of(*of_two([1.0, 0.5], [False, True])).fit()
    assert (endless.temperature, endless.loss) == (1.0, None)
    assert endless.doubt == "the validation loss is no number"


def test_what_it_is_fitted_on_is_bounded_and_the_same_each_time():
    rng = np.random.default_rng(3)
    values, truth = np.log(rng.dirichlet(np.full(4, 0.3), 5_000)), rng.integers(0, 4, 5_000)
    found = evidence_of(values, truth, most=4_003).fit()
    assert found.num_units == 1_000
    assert found == evidence_of(values, truth, most=4_003).fit()
    assert found.temperature == pytest.approx(evidence_of(values, truth).fit().temperature, rel=0.15)


def test_windows_count_against_the_bound():
    sizes = np.array([3, 1, 4, 2])
    kept = Evidence(sizes, num_classes=10, most=60)._kept
    assert 0 < sizes[kept].sum() <= 6
    assert Evidence(np.array([50]), num_classes=10, most=60)._kept.all()


def checked(predictor, valid, test):
    """What a check finds, as the evaluation asks for it, and the scores of the test rows."""
    check, scores = Check(predictor), {}
    for split, sequences in (("valid", valid), ("test", test)):
        observe = check.watching(split, sequences)
        parts = predict_parts(predictor, sequences, labels=LABELS, split=split, observe=observe)
        table = pa.concat_tables(list(parts))
        task = predictor.encoding.task
        scores[split] = score(table, task=task, labels=LABELS, bootstrap=100, confidence=0.95).metrics
    return check.details(scores), scores


@pytest.mark.parametrize("kind", ["labeller", "classifier"])
def test_what_scaling_would_bring_is_what_it_brings(folders, kind, make_copy):
    predictor = bundles.open(folders[kind])
    valid = drawn(predictor, 3_000, temperature=3.0)
    test = drawn(predictor, 3_000, temperature=3.0, seed=1)
    before, scores = checked(predictor, valid, test)
    found = before["calibration"]
    assert (found["temperature_in_use"], found["loss"], found["ece"]) == (
        1.0,
        scores["test"]["loss"],
        scores["test"]["ece"],
    )
    wanted = found["wanted"]
    assert wanted["test"]["loss"] < found["loss"]
    before_it, after_it = found["unscaled"]["accuracy"], wanted["test"]["accuracy"]
    # The mean of windows may fall to another label; a labeller's steps keep theirs.
    assert (before_it == after_it) == (kind == "labeller")
    moved = "" if kind == "labeller" else f", and the accuracy from {before_it:.4f} to {after_it:.4f}"
    assert found["sentence"] == (
        f"Scaling by {wanted['temperature']:.2f}, fitted on the validation rows, would bring the calibration"
        f" error from {found['ece']:.3f} to {wanted['test']['ece']:.3f}{moved}:"
        " set train.temperature_scaling."
    )

    after, served = checked(make_copy(folders[kind], wanted["temperature"]), valid, test)
    scaled = after["calibration"]
    assert served["test"]["accuracy"] == pytest.approx(after_it, abs=1e-9)
    for name in ("loss", "ece"):
        assert served["test"][name] == pytest.approx(wanted["test"][name], abs=1e-6)
        assert scaled["unscaled"][name] == pytest.approx(found[name], abs=1e-6)
        assert scaled["wanted"]["test"][name] == pytest.approx(wanted["test"][name], abs=1e-6)
        # Of validation what training would find again, whatever is served.
        assert after["again"]["bundle"][name] == pytest.approx(before["again"]["bundle"][name], abs=1e-6)
        assert served["valid"][name] != pytest.approx(scores["valid"][name], abs=1e-3)
    assert scaled["sentence"] == (
        f"Probabilities are scaled by {wanted['temperature']:.2f}, fitted on the validation rows: the"
        f" calibration error is {scaled['ece']:.3f}, and would be {found['ece']:.3f} without."
    )


def test_scaling_that_brings_little_is_not_recommended(folders):
    predictor = bundles.open(folders["labeller"])
    valid, test = (drawn(predictor, 2_000, temperature=1.0, seed=seed) for seed in (0, 1))
    sentence = checked(predictor, valid, test)[0]["calibration"]["sentence"]
    assert "would not help" in sentence or "ask for no scaling" in sentence


def test_a_temperature_in_doubt_says_so_where_it_is_recommended(folders):
    predictor = bundles.open(folders["classifier"])
    valid, test = (drawn(predictor, n, temperature=5.0, seed=n) for n in (40, 900))
    sentence = checked(predictor, valid, test)[0]["calibration"]["sentence"]
    assert sentence.endswith(": set train.temperature_scaling (40 validation answers are few to fit it on).")


@pytest.mark.parametrize("empty", ["valid", "test"])
def test_a_split_without_rows_has_a_sentence_too(folders, empty):
    predictor = bundles.open(folders["labeller"])
    sets = {"valid": 50, "test": 50, empty: 0}
    found, _ = checked(predictor, *(rows(n, per_step=True, seed=n) for n in sets.values()))
    expected = {"valid": "there are no validation rows", "test": "is not known"}
    assert expected[empty] in found["calibration"]["sentence"]


def test_a_crf_is_served_as_it_is(make_bundle, tmp_path):
    predictor = bundles.open(make_bundle(tmp_path / "bundle", model={"crf": True}))
    found, scores = checked(predictor, rows(20, per_step=True), rows(20, per_step=True, seed=1))
    assert found["calibration"]["wanted"] is None
    assert found["calibration"]["ece"] == scores["test"]["ece"]
    assert "A CRF's probabilities" in found["calibration"]["sentence"]
    assert found["again"]["bundle"] == scores["valid"]
