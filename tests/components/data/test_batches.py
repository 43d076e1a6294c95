"""Batches: every row once, lengths explicit, order from the seed alone."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import batches as module
from components.data.batches import Packed, SequenceSet, ahead, static_lengths, tables, training_plan
from components.served.encoding import Encoding, Slot
from components.served.numbers import NumericEncoding
from components.served.symbols import CategoryEncoding, TokenEncoding

LENGTHS = np.array([3, 1, 5, 2, 4, 4, 1, 3, 2, 5, 3])


def make(per_step: bool = True) -> SequenceSet:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    x = np.arange(offsets[-1] * 2, dtype=np.float32).reshape(-1, 2)
    y = np.arange(offsets[-1] if per_step else len(LENGTHS), dtype=np.int32)
    ids = pa.array([f"s{i}" for i in range(len(LENGTHS))])
    return SequenceSet(x, offsets, y, np.arange(len(LENGTHS)), ids, per_step, (Slot("numbers", 2),))


def test_a_batch_holds_its_rows_padded_on_the_right() -> None:
    batch = make().batch(np.array([1, 0]), multiple_of=4)
    assert batch.lengths.tolist() == [1, 3, 1, 1]
    assert batch.rows.tolist() == [1, 0, -1, -1]
    np.testing.assert_array_equal(batch.x[0], [[6, 7], [0, 0], [0, 0]])
    np.testing.assert_array_equal(batch.x[1], [[0, 1], [2, 3], [4, 5]])
    assert batch.targets.tolist() == [[3, 0, 0], [0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert batch.num_steps == 4


@pytest.mark.parametrize("per_step", [True, False])
def test_rows_have_the_weights_given_and_filler_has_none(per_step: bool) -> None:
    rows = np.array([2, 1, 0])
    given = make(per_step).batch(rows, weights=np.array([0.5, 0.25, 2.0]), multiple_of=4)
    assert given.weights.tolist() == [0.5, 0.25, 2.0, 0.0]
    assert given.weights.dtype == np.float32
    plain = make(per_step).batch(rows, multiple_of=2)
    assert plain.weights.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert per_step or plain.targets.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 50])
def test_every_row_stands_in_an_epoch_once(batch_size: int) -> None:
    plan = training_plan(LENGTHS, batch_size=batch_size, seed=0, epoch=0)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(LENGTHS)))
    assert len(plan) == -(-len(LENGTHS) // batch_size)


@pytest.mark.parametrize("per_step", [True, False])
def test_the_parts_of_a_batch_are_those_of_the_whole(per_step: bool) -> None:
    data = make(per_step)
    rows, weights = np.array([0, 2, 1]), np.array([0.5, 2.0, 1.0])
    whole = data.batch(rows, weights=weights, multiple_of=4)
    for index in range(4):
        built = data.batch(rows, weights=weights, multiple_of=4, share=(index, 4))
        for name in ("rows", "x", "lengths", "targets", "weights"):
            expected = getattr(whole, name)[index : index + 1]
            np.testing.assert_array_equal(getattr(built, name), expected)
            np.testing.assert_array_equal(getattr(whole.part(index, 4), name), expected)


@pytest.mark.parametrize("per_step", [True, False])
def test_packed_batches_stand_end_to_end_without_padding_between_them(per_step: bool) -> None:
    data = make(per_step)
    batches = [
        data.batch(np.array(rows), weights=np.array(rows, float), multiple_of=2)
        for rows in ([0, 2, 1], [6, 1], [4])
    ]
    packed = Packed.of([batches[:2], batches[2:]])
    # B, T, place in the step, whether it ends the step
    assert packed.layout.tolist() == [[4, 5, 0, 0], [2, 1, 1, 1], [2, 4, 0, 1]]
    cells = np.cumsum([0, 20, 2, 8])
    rows = np.cumsum([0, 4, 2, 2])
    assert (len(packed.x), len(packed.lengths)) == (30, 8)
    of_targets = cells if per_step else rows
    for n, batch in enumerate(batches):
        np.testing.assert_array_equal(packed.x[cells[n] : cells[n + 1]].reshape(batch.x.shape), batch.x)
        found = packed.targets[of_targets[n] : of_targets[n + 1]].reshape(batch.targets.shape)
        np.testing.assert_array_equal(found, batch.targets)
        for name in ("lengths", "weights"):
            np.testing.assert_array_equal(getattr(packed, name)[rows[n] : rows[n + 1]], getattr(batch, name))
    assert (packed.x.dtype, packed.targets.dtype, packed.layout.dtype) == (np.float32, np.int32, np.int32)


def test_the_plan_follows_from_seed_and_epoch_alone() -> None:
    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in training_plan(LENGTHS, batch_size=3, seed=seed, epoch=epoch)]

    assert plan(0, 0) == plan(0, 0)
    assert plan(0, 0) != plan(0, 1) != plan(1, 1)


def test_batches_of_like_lengths_waste_less_padding_and_stay_random() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 2000)

    def padded(plan: list[np.ndarray]) -> int:
        return sum(int(lengths[rows].max()) * len(rows) for rows in plan)

    plain = np.split(np.random.default_rng(1).permutation(2000), range(32, 2000, 32))
    bucketed = training_plan(lengths, batch_size=32, seed=0, epoch=0)
    assert padded(bucketed) < 0.75 * padded(plain)
    other = training_plan(lengths, batch_size=32, seed=0, epoch=1)
    assert {frozenset(rows.tolist()) for rows in bucketed}.isdisjoint(
        {frozenset(rows.tolist()) for rows in other}
    )


MANY = np.concatenate([np.random.default_rng(0).integers(1, 60, 2000), [400]])


@pytest.mark.parametrize("batch_steps", [1, 100, 1000, 10**6])
def test_a_batch_keeps_its_cap_of_steps_unless_it_is_one_sequence(batch_steps: int) -> None:
    plan = training_plan(MANY, batch_size=64, batch_steps=batch_steps, seed=0, epoch=0)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(MANY)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * MANY[rows].max() <= batch_steps
    if batch_steps == 1000:
        # Short sequences go many at a time: no batch could have taken the next one as well.
        taken = [len(rows) * int(MANY[rows].max()) for rows in plan]
        assert np.median(taken) > 900
        assert max(map(len, plan)) > 3 * min(len(rows) for rows in plan if MANY[rows].max() < 60)


def test_the_plan_of_steps_follows_from_seed_and_epoch_alone_and_stays_random() -> None:
    def plan(seed: int, epoch: int) -> list[list[int]]:
        batches = training_plan(MANY, batch_size=64, batch_steps=1000, seed=seed, epoch=epoch)
        return [rows.tolist() for rows in batches]

    assert plan(0, 0) == plan(0, 0)
    one, other = ({frozenset(rows) for rows in plan(0, epoch) if len(rows) > 1} for epoch in (0, 1))
    assert one.isdisjoint(other)
    assert plan(0, 0) != plan(1, 0)
    lengths = [float(MANY[rows].mean()) for rows in plan(0, 0)]
    assert lengths != sorted(lengths)


def test_static_lengths_cover_every_sequence_with_a_few() -> None:
    lengths = np.arange(1, 101)
    found = static_lengths(lengths, most=4)
    assert found.tolist() == [26, 51, 75, 100] or (len(found) <= 4 and found[-1] == 100)
    assert static_lengths(np.array([7, 7])).tolist() == [7]


def test_batches_are_built_ahead_in_order_and_their_errors_come_out() -> None:
    def build(rows: np.ndarray) -> int:
        if rows[0] == 2:
            raise ValueError("broken")
        return int(rows[0])

    plan = [np.array([i]) for i in range(4)]
    assert list(ahead(build, plan[:2])) == [0, 1]
    assert list(ahead(build, [])) == []
    consumer: Iterator[int] = ahead(build, plan)
    with pytest.raises(ValueError, match="broken"):
        list(consumer)


def test_a_plan_is_read_one_entry_ahead() -> None:
    read: list[int] = []

    def plan() -> Iterator[int]:
        for entry in range(5):
            read.append(entry)
            yield entry

    for built in ahead(lambda entry: entry, plan()):
        assert read == list(range(min(built + 2, 5)))


@pytest.mark.parametrize("task", ["labelling", "classification"])
@pytest.mark.parametrize("resident", [1 << 30, 8])
def test_a_prepared_split_opens_encoded_from_all_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, resident: int
) -> None:
    monkeypatch.setattr(module, "MAX_RESIDENT_BYTES", resident)
    labels: Any = [[0, 1], [1], [2, 0, 0]] if task == "labelling" else [0, 1, 2]
    kind = pa.list_(pa.int32()) if task == "labelling" else pa.int32()
    rows = [[0, 255, 10, 20], [1, 2], [3, 4, 5, 6, 7, 8]]
    table = pa.table(
        {
            "row": pa.array([5, 3, 4], pa.int64()),
            "id": ["a", "b", "c"],
            "length": pa.array([2, 1, 3], pa.int32()),
            "x0": pa.array(rows, pa.list_(pa.uint8())),
            "x1": pa.array([[1, 2], [3], [4, 5, 6]], pa.list_(pa.float64())),
            "y": pa.array(labels, kind),
        }
    )
    (tmp_path / "train").mkdir()
    for name, part in (("0", table.slice(0, 2)), ("1", table.slice(2))):
        pq.write_table(part, tmp_path / "train" / f"part-{name}.parquet")
    shards = [{"file": f"train/part-{name}.parquet"} for name in "01"]
    manifest = {"splits": {"train": {"rows": 3, "steps": 6, "shards": shards}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf8")
    encoding = Encoding(
        task,
        (
            NumericEncoding("pixels", 2, "minmax", (0.0, 0.0), (255.0, 255.0)),
            NumericEncoding("speed", 1, "none", (0.0,), (1.0,)),
        ),
        ("x", "y", "z"),
    )
    found = SequenceSet.open(tmp_path / "train", encoding)
    assert isinstance(found.x, np.memmap) == (resident == 8)
    assert found.lengths.tolist() == [2, 1, 3]
    assert found.row.tolist() == [5, 3, 4]
    assert found.ids.to_pylist() == ["a", "b", "c"]
    np.testing.assert_allclose(found.x[0], [0, 1, 1])
    np.testing.assert_allclose(found.x[5], [7 / 255, 8 / 255, 6], rtol=1e-6)
    assert [found.targets(row).tolist() for row in range(3)] == (
        labels if task == "labelling" else [[0], [1], [2]]
    )
    assert found.slots == encoding.slots


def test_inputs_and_context_of_every_kind_open(tmp_path: Path) -> None:
    table = pa.table(
        {
            "row": pa.array([0, 1], pa.int64()),
            "id": pa.nulls(2, pa.string()),
            "length": pa.array([2, 1], pa.int32()),
            "x0": [["der", "Hund"], ["?"]],
            "x1": pa.array([[1.0, None, math.nan, 4.0], [5.0, 6.0]], pa.list_(pa.float32())),
            "x2": pa.array([[3, None], [4]], pa.list_(pa.int64())),
            "x3": pa.array([[True, None], [False]], pa.list_(pa.bool_())),
            "c0": pa.array([math.nan, 7.0], pa.float64()),
            "c1": pa.array([None, 7.0], pa.float64()),
            "c2": ["w", "new"],
            "y": pa.array([1, 0], pa.int32()),
        }
    )
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "part-0.parquet")
    manifest = {"splits": {"train": {"rows": 2, "steps": 3, "shards": [{"file": "train/part-0.parquet"}]}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf8")
    one: dict[str, Any] = {"features": 1, "scale": "none", "center": (0.0,), "spread": (1.0,), "fill": (9.0,)}
    encoding = Encoding(
        "classification",
        (
            TokenEncoding("word", ("der", "Hund"), 4),
            NumericEncoding("v", 2, "none", (0.0, 0.0), (1.0, 1.0), fill=(8.0, 9.0)),
            NumericEncoding("n", **one, indicator=True),
            NumericEncoding("b", **one),
        ),
        ("no", "yes"),
        context=(
            NumericEncoding("a", **one),
            NumericEncoding("z", **one),
            CategoryEncoding("sex", ("w",), 2),
        ),
    )
    found = SequenceSet.open(tmp_path / "train", encoding)
    assert found.x.tolist() == [
        [1, 1, 9, 3, 0, 1, 9, 9, 1],
        [2, 8, 4, 9, 1, 9, 9, 9, 1],
        [0, 5, 6, 4, 0, 0, 7, 7, 0],
    ]
    assert found.slots == encoding.slots


def test_a_set_is_cut_into_parts_of_nearly_equal_length() -> None:
    whole = make()
    cut = whole.cut(3)
    longest = int(LENGTHS.argmax())
    parts = np.flatnonzero(cut.row == longest)
    assert cut.lengths.max() <= 3
    assert len(parts) == -(-LENGTHS.max() // 3)
    assert np.ptp(cut.lengths[parts]) <= 1
    assert cut.ids.take(pa.array(parts)).to_pylist() == [f"s{longest}"] * len(parts)
    joined = np.concatenate([cut.targets(part) for part in parts])
    np.testing.assert_array_equal(joined, whole.targets(longest))
    assert cut.x is whole.x
    assert cut.slots == whole.slots
    assert cut.batch(parts).x.shape == (len(parts), cut.lengths[parts].max(), 2)


def test_each_part_of_a_classifiers_sequence_has_its_label() -> None:
    cut = make(per_step=False).cut(2)
    np.testing.assert_array_equal(cut.y, cut.row)
    assert len(cut) == len(cut.ids) == int((-(-LENGTHS // 2)).sum())


def test_a_set_that_needs_no_cut_stays_as_it_is() -> None:
    whole = make()
    assert whole.cut(None) is whole
    np.testing.assert_array_equal(whole.cut(100).offsets, whole.offsets)


def test_tables_stand_at_the_slot_of_their_column_and_those_that_do_not_fit_are_left_out(
    tmp_path: Path,
) -> None:
    inputs = [
        {"column": "n"},
        {"column": "a", "vectors": {"file": "vectors-1.npy", "rows": 2}},
        {"column": "b", "vectors": {"file": "vectors-2.npy", "rows": 1}},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": inputs}), "utf8")
    given = {1: np.eye(2, 3, dtype=np.float32), 2: np.ones((1, 3), np.float32)}
    for number, table in given.items():
        np.save(tmp_path / f"vectors-{number}.npy", table)
    a = TokenEncoding("a", ("x", "y", "z"), 3, characters=("x",), max_characters=4, vectors=2)
    b = TokenEncoding("b", ("x",), 3, vectors=1)
    number = NumericEncoding("n", 1, "none", (0.0,), (1.0,))
    encoding = Encoding("labelling", (number, a, b), ("p", "q"))
    found = tables(tmp_path, encoding)
    assert {place: table.tolist() for place, table in found.items()} == {
        1: given[1].tolist(), 3: given[2].tolist()
    }  # fmt: skip
    others = (number, TokenEncoding("a", ("x",), 3), CategoryEncoding("b", ("x",), 2))
    assert tables(tmp_path, Encoding("labelling", others, ("p", "q"))) == {}
