import pyarrow as pa
import pytest

from components.data import readers
from components.data.buckets import num_buckets, number_key, pieces, read_bucket, spread, united
from components.data.layouts import StepInput, StepLayout
from components.data.readers import arrow

LAYOUT = StepLayout("id", "t", (StepInput("x"),), constants=("label",))
TYPES = {"x": pa.int64()}


@pytest.fixture
def make_spreads(tmp_path):
    """Writes tables as Arrow files and spreads each."""

    def make(*tables, buckets):
        sources = []
        for number, table in enumerate(map(pa.table, tables)):
            path = tmp_path / f"{number}.arrow"
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
            sources.append(arrow.describe(str(path), path.name))
        return [spread(part, LAYOUT, buckets, str(tmp_path)) for part in readers.parts(sources)]

    return make


def rows(first, last):
    numbers = range(first, last)
    return {
        "id": [n % 7 for n in numbers],
        "t": list(numbers),
        "x": list(numbers),
        "label": ["a"] * len(numbers),
    }


def test_all_rows_of_an_id_are_in_one_bucket_and_none_is_lost(make_spreads):
    spreads = make_spreads(rows(0, 30), rows(30, 41), buckets=3)
    found = [read_bucket(pieces(spreads, bucket), LAYOUT, TYPES) for bucket in range(3)]
    assert sorted(place for each in found for place in each["position"].to_pylist()) == list(range(41))
    ids = [set(each["id"].to_pylist()) for each in found]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 7
    for each in found:
        assert each[number_key("x")].to_pylist() == each["position"].to_pylist()


def test_an_ids_bucket_depends_on_its_text_alone(make_spreads):
    def buckets_of(spreads):
        read = [read_bucket(pieces(spreads, bucket), LAYOUT, TYPES) for bucket in range(4)]
        return [set(each["id"].to_pylist()) for each in read]

    typed = buckets_of(make_spreads(rows(0, 9), buckets=4))
    written = {**rows(5, 40), "id": [str(n % 7) for n in range(5, 40)]}
    assert buckets_of(make_spreads(written, buckets=4)) == typed


def test_what_is_held_is_written_once_it_is_large(make_spreads, monkeypatch):
    monkeypatch.setattr("components.data.buckets.SPREAD_BYTES", 1)
    (found,) = make_spreads(rows(0, 30), buckets=1)
    assert found.batches == (tuple(range(15)),)
    assert read_bucket(pieces([found], 0), LAYOUT, TYPES)["position"].to_pylist() == list(range(30))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([pa.uint8(), pa.uint8()], pa.uint8()),
        ([pa.uint8(), pa.null()], pa.uint8()),
        ([pa.uint8(), pa.int64()], pa.float64()),
        ([pa.float32(), pa.float64()], pa.float64()),
        ([pa.list_(pa.int8()), pa.list_(pa.int8())], pa.list_(pa.int8())),
        ([pa.list_(pa.int8()), pa.list_(pa.int16())], pa.list_(pa.float64())),
        ([pa.list_(pa.null())], pa.list_(pa.float64())),
        ([pa.null()], pa.null()),
    ],
)
def test_types_that_differ_are_united_as_double(kinds, expected):
    assert united(kinds) == expected


def test_buckets_follow_from_size_alone():
    assert num_buckets(0, 0) == 1
    assert num_buckets(10, 1 << 22) == 1
    assert num_buckets(10, (1 << 22) + 1) == 2
