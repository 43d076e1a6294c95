"""What is known of prepared rows: read shard by shard, in the order of their places."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluation.properties import Properties, group_codes, rare_labels, with_groups
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding
from components.served.symbols import TokenEncoding

ENCODING = Encoding(
    task="classification",
    inputs=(TokenEncoding("words", ("a", "b"), embedding=4),),
    labels=("x", "y"),
    context=(NumericEncoding("age", 1, "none", (0.0,), (1.0,)),),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two shards of two rows: a speaker, an age and words, of which only a and b are known."""
    folder = tmp_path_factory.mktemp("data")
    shards = [
        {"k0": ["s", None], "c0": [1.0, 2.0], "x0": [["a", "b"], ["a", "z", "z", "z"]]},
        {"k0": ["t", "s"], "c0": [3.0, 4.0], "x0": [["z"], ["b"]]},
    ]
    (folder / "test").mkdir()
    for number, shard in enumerate(shards):
        table = pa.table({"row": pa.array([7, 8], pa.int64()), **shard})
        pq.write_table(table, folder / f"test/part-{number}.parquet")
    files = [{"file": f"test/part-{number}.parquet"} for number in range(2)]
    empty = {"shards": []}
    splits = {"test": {"shards": files}, "valid": empty}
    (folder / "manifest.json").write_text(json.dumps({"kept": ["speaker"], "splits": splits}), "utf8")
    return folder


def test_properties_stand_in_the_order_of_places_and_follow_the_rows_taken(prepared):
    found = Properties.read(prepared / "test", ENCODING)
    assert found.kept["speaker"].to_pylist() == ["s", None, "t", "s"]
    assert found.unknown["words"].tolist() == [0.0, 0.75, 1.0, 0.0]
    few = found.take(np.array([3, 1]))
    assert few.kept["speaker"].to_pylist() == ["s", None]
    assert few.context["age"].to_pylist() == [4.0, 2.0]
    assert few.unknown["words"].tolist() == [0.0, 0.75]


def test_a_split_without_shards_has_no_values(prepared):
    found = Properties.read(prepared / "valid", ENCODING)
    assert (found.kept, found.context) == ({}, {})
    assert len(found.unknown["words"]) == 0


def test_predictions_get_the_kept_columns_and_the_groups(prepared):
    found = Properties.read(prepared / "test", ENCODING)
    table = pa.table({"row": [0, 1, 2, 3]})
    assert with_groups(table, found, groups=None).column_names == ["row", "slice_speaker"]
    assert with_groups(table, found, groups="speaker")["group"].to_pylist() == ["s", None, "t", "s"]


def test_groups_have_the_same_numbers_whatever_the_order_of_the_rows():
    names = pa.array(["t", "s", "t", "u"])
    assert group_codes(names).tolist() == [1, 0, 1, 2]
    assert group_codes(names.take(pa.array([3, 1, 0]))).tolist() == [2, 0, 1]


def test_a_label_is_rare_below_one_in_a_hundred_training_units():
    assert set(rare_labels({"a": 990, "b": 10, "c": 9, "d": 0})) == {"b", "c", "d"}
    assert not rare_labels({"a": 50, "b": 50})
