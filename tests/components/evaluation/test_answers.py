"""What a real network says of prepared rows, as a table and as arrays."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.batches import SequenceSet
from components.evaluation import answers
from components.evaluation.answers import gather, label_sequences, predict, predict_parts, read
from components.served.encoding import Slot

LABELS = ("a", "b", "c")
SLOTS = (Slot("numbers", 2),)


def sequences(n: int = 17, *, per_step: bool = True, seed: int = 0) -> SequenceSet:
    """Sequences of 1 to 6 steps of two encoded numbers, from the last row of the input to the first."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, n)
    steps = int(lengths.sum())
    return SequenceSet(
        x=rng.normal(size=(steps, 2)).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        y=rng.integers(0, 3, steps if per_step else n).astype(np.int32),
        row=np.arange(n)[::-1].copy(),
        ids=pa.array([f"r{n - 1 - i}" for i in range(n)]),
        per_step=per_step,
        slots=SLOTS,
    )


@pytest.fixture(scope="module")
def labeller(make_bundle, tmp_path_factory):
    return bundles.open(make_bundle(tmp_path_factory.mktemp("answers") / "labeller"))


@pytest.fixture(scope="module")
def classifier(make_bundle, tmp_path_factory):
    return bundles.open(make_bundle(tmp_path_factory.mktemp("answers") / "one", task="classification"))


def test_each_sequence_has_one_row_in_the_order_of_the_input(labeller):
    split = sequences()
    table = predict(labeller, split, labels=LABELS, split="test")
    assert table["row"].to_pylist() == list(range(17))
    assert table["id"].to_pylist() == [f"r{i}" for i in range(17)]
    assert set(table["split"].to_pylist()) == {"test"}
    assert table["seen"].null_count == 17
    for row in table.to_pylist():
        at = slice(split.offsets[row["place"]], split.offsets[row["place"] + 1])
        said = labeller.predict_encoded(split.x[at], np.array([row["length"]]))
        assert row["truth"] == [LABELS[label] for label in split.y[at]]
        assert row["labels"] == [LABELS[label] for label in said.best]
        np.testing.assert_allclose(row["probabilities"], said.confidence, rtol=1e-5)
        own = -said.log_probabilities[np.arange(row["length"]), split.y[at]].sum()
        assert row["loss"] == pytest.approx(own, rel=1e-5)


def test_under_a_crf_the_best_sequence_stands_beside_the_loss_of_single_steps(make_bundle, tmp_path):
    chained = bundles.open(make_bundle(tmp_path / "bundle", model={"crf": True}))
    split = sequences(40)
    table = predict(chained, split, labels=LABELS, split="test")
    differing = 0
    for row in table.to_pylist():
        at = slice(split.offsets[row["place"]], split.offsets[row["place"] + 1])
        said = chained.predict_encoded(split.x[at], np.array([row["length"]]))
        assert row["labels"] == [LABELS[label] for label in said.best]
        steps = np.arange(row["length"])
        np.testing.assert_allclose(
            row["probabilities"], np.exp(said.log_probabilities)[steps, said.best], rtol=1e-4
        )
        own = -said.log_probabilities[steps, split.y[at]].sum()
        assert row["loss"] == pytest.approx(own, rel=1e-4)
        differing += int((said.best != said.log_probabilities.argmax(axis=1)).sum())
    assert differing


def test_a_classifier_says_one_label_for_each_sequence(classifier):
    table = predict(classifier, sequences(per_step=False), labels=LABELS, split="valid")
    assert table["label"].type == pa.string()
    said = read(table, task="classification", labels=LABELS)
    assert said.units.tolist() == [1] * 17
    assert len(said.truth) == 17
    assert (said.lengths == table["length"].to_numpy()).all()


def test_parts_are_the_whole(labeller, monkeypatch):
    split = sequences(40)
    whole = predict(labeller, split, labels=LABELS, split="test")
    monkeypatch.setattr(answers, "MAX_STEPS", 5)
    parts = list(predict_parts(labeller, split, labels=LABELS, split="test"))
    assert len(parts) > 20
    together = gather(parts)
    for name in ("row", "id", "truth", "labels", "place", "length"):
        assert together[name].to_pylist() == whole[name].to_pylist()
    np.testing.assert_allclose(together["loss"].to_numpy(), whole["loss"].to_numpy(), rtol=1e-5)


def test_no_sequences_give_a_table_without_rows(labeller):
    table = predict(labeller, sequences(0), labels=LABELS, split="test")
    assert len(table) == 0
    assert read(table, task="labelling", labels=LABELS).truth.shape == (0,)


def test_a_model_that_numbers_its_labels_differently_is_asked_by_name(labeller):
    split = sequences()
    theirs = ("c", "a", "b")
    renamed = np.array([theirs.index(label) for label in LABELS], np.int32)
    other = replace(split, y=renamed[split.y])
    straight = predict(labeller, split, labels=LABELS, split="test")
    crossed = predict(labeller, other, labels=theirs, split="test")
    assert crossed.equals(straight)


def test_label_sequences_that_stand_in_training_are_marked(labeller, tmp_path):
    train = pa.table({"y": pa.array([[0, 1], [2]], pa.list_(pa.int32()))})
    pq.write_table(train, tmp_path / "part-00000.parquet")
    pq.write_table(pa.table({"y": pa.array([[1]], pa.list_(pa.int32()))}), tmp_path / "part-00001.parquet")
    known = label_sequences(tmp_path)
    assert len(known) == 3
    split = SequenceSet(
        x=np.zeros((7, 2), np.float32),
        offsets=np.array([0, 2, 4, 5, 7]),
        y=np.array([0, 1, 1, 0, 2, 0, 1], np.int32),
        row=np.arange(4),
        ids=pa.nulls(4, pa.string()),
        per_step=True,
        slots=SLOTS,
    )
    table = predict(labeller, split, labels=LABELS, split="test", seen=known)
    assert table["seen"].to_pylist() == [True, False, True, True]


def test_taking_some_sequences_takes_their_units_along(label_table):
    table = label_table([["a"], ["b", "c"], ["a", "a", "b"]], [["a"], ["c", "c"], ["b", "a", "b"]])
    every = read(table, task="labelling", labels=LABELS)
    some = every.take(np.array([2, 0]))
    assert [LABELS[label] for label in some.truth] == ["a", "a", "b", "a"]
    assert [LABELS[label] for label in some.predicted] == ["b", "a", "b", "a"]
    assert some.starts.tolist() == [0, 3]
    assert some.places.tolist() == [2, 0]
    masked = every.take(np.array([True, False, True]))
    assert masked.units.tolist() == [1, 3]


def test_a_label_that_is_not_known_is_named(label_table):
    table = label_table([["a"]], [["z"]])
    with pytest.raises(ValueError, match="the label 'z', expected one of"):
        read(table, task="labelling", labels=LABELS)


def test_the_table_is_the_same_after_a_round_through_a_file(labeller, tmp_path):
    table = predict(labeller, sequences(), labels=LABELS, split="test")
    pq.write_table(table, tmp_path / "predictions.parquet")
    assert pq.read_table(tmp_path / "predictions.parquet").equals(table)
    json.dumps(table.to_pylist(), allow_nan=False)
