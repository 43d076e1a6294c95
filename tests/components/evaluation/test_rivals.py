import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.evaluation import answers, rivals
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding
from components.served.symbols import CategoryEncoding, TokenEncoding


@pytest.fixture
def ours(make_bundle, tmp_path):
    return make_bundle(tmp_path / "ours")


def test_models_of_the_same_labels_in_any_order_are_comparable(make_bundle, tmp_path, ours):
    assert rivals.incomparable(make_bundle(tmp_path / "theirs", labels=("c", "a", "b"), seed=1), ours) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "classification"}, "its task is classification, this model's is labelling"),
        ({"labels": ("a", "b", "z")}, "its labels are others: it lacks 'c' and it also has 'z'"),
        ({"labels": ("a", "b")}, "its labels are others: it lacks 'c'"),
        ({"labels": tuple("abcdefghij")}, "it also has 'd', 'e', 'f', 'g', 'h' and 2 more"),
        (
            {"columns": [("frames", 3)]},
            "its inputs are frames with 3 features, this model's are frames with 2",
        ),
        ({"columns": [("pixels", 2)]}, "its inputs are pixels with 2 features"),
    ],
)
def test_other_models_are_not_and_the_difference_is_told(make_bundle, tmp_path, ours, changes, reason):
    obstacle = rivals.incomparable(make_bundle(tmp_path / "theirs", **changes), ours)
    assert reason in obstacle.reason
    assert "--override" in obstacle.hint
    assert "recurra promote NAME VERSION --why TEXT" in obstacle.hint


def test_inputs_of_every_kind_are_told_apart(make_bundle, tmp_path):
    one = Encoding(
        "labelling",
        (TokenEncoding("word", ("a",), 2), NumericEncoding("x", 1, "none", (0.0,), (1.0,))),
        ("a", "b"),
        context=(CategoryEncoding("speaker", ("1",), 2),),
    )
    same = replace(one, inputs=(TokenEncoding("word", ("other", "words"), 5), one.inputs[1]))
    other = replace(one, inputs=(CategoryEncoding("word", ("a",), 2), replace(one.inputs[1], fill=(0.0,))))
    folders = [make_bundle(tmp_path / str(i), encoding=each) for i, each in enumerate((one, same, other))]
    assert rivals.incomparable(folders[1], folders[0]) is None
    assert rivals.incomparable(folders[2], folders[0]).reason == (
        "its inputs are word as categories, x with 1 features, some missing, speaker as categories of the"
        " sequence, this model's are word as tokens, x with 1 features, speaker as categories of the sequence"
    )


def test_a_rival_answers_raw_rows_in_its_own_encoding_with_its_own_order_of_labels(
    make_bundle, tmp_path, ours
):
    theirs = make_bundle(tmp_path / "theirs", labels=("c", "a", "b"), seed=1)
    rng = np.random.default_rng(0)
    lengths = [3, 1, 4]
    rows = [rng.integers(0, 9, (n, 2)) for n in lengths]
    data = tmp_path / "data"
    (data / "test").mkdir(parents=True)
    table = pa.table(
        {
            "row": pa.array([0, 1, 2], pa.int64()),
            "id": pa.array(["x", "y", "z"]),
            "length": pa.array(lengths, pa.int32()),
            "x0": pa.array([row.ravel().tolist() for row in rows], pa.list_(pa.int64())),
            "y": pa.array([[0, 1, 2], [1], [2, 2, 0, 0]], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, data / "test" / "part-00000.parquet")
    shards = [{"file": "part-00000.parquet", "rows": 3, "sha256": ""}]
    manifest = {"splits": {"test": {"rows": 3, "steps": 8, "shards": shards}}}
    (data / "manifest.json").write_text(json.dumps(manifest), "utf8")
    (data / "encoding.json").write_text((ours / "encoding.json").read_text("utf8"), "utf8")
    assert rivals.answer(bundle=theirs, data=data, out=tmp_path / "out.parquet") is None
    said = pq.read_table(tmp_path / "out.parquet")
    assert said["truth"].to_pylist() == [["a", "b", "c"], ["b"], ["c", "c", "a", "a"]]
    direct = bundles.open(theirs).predict({"frames": rows})
    assert said["labels"].to_pylist() == direct["labels"]
    for one, other in zip(said["probabilities"].to_pylist(), direct["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert [path.name for path in tmp_path.glob(".out*")] == []
    spoilt = table.set_column(3, "x0", pa.array([row.ravel().tolist()[:-1] for row in rows]))
    pq.write_table(spoilt, data / "test" / "part-00000.parquet")
    obstacle = rivals.answer(bundle=theirs, data=data, out=tmp_path / "none.parquet")
    assert obstacle.reason.startswith("it cannot answer these test rows: ")
    assert "Compare the data" in obstacle.hint
    assert not (tmp_path / "none.parquet").exists()


def test_a_rival_gives_every_probability_in_the_order_of_the_labels_of_the_data(make_bundle, tmp_path):
    ours = make_bundle(tmp_path / "ours", task="classification")
    theirs = make_bundle(tmp_path / "theirs", task="classification", labels=("c", "a", "b"), seed=1)
    rows = [[[1, 2], [3, 4]], [[5, 6]], [[0, 7]]]
    data = tmp_path / "data"
    (data / "test").mkdir(parents=True)
    table = pa.table(
        {
            "row": pa.array([2, 0, 1], pa.int64()),
            "id": pa.array(["z", "x", "y"]),
            "length": pa.array([2, 1, 1], pa.int32()),
            "x0": pa.array([np.ravel(row).tolist() for row in rows], pa.list_(pa.int64())),
            "y": pa.array([2, 0, 1], pa.int32()),
        }
    )
    pq.write_table(table, data / "test" / "part-00000.parquet")
    shards = [{"file": "part-00000.parquet", "rows": 3, "sha256": ""}]
    manifest = {"splits": {"test": {"rows": 3, "steps": 4, "shards": shards}}}
    (data / "manifest.json").write_text(json.dumps(manifest), "utf8")
    (data / "encoding.json").write_text((ours / "encoding.json").read_text("utf8"), "utf8")
    out = tmp_path / "out.parquet"
    assert rivals.answer(bundle=theirs, data=data, out=out, distribution=True) is None
    said = pq.read_table(out)
    direct = bundles.open(theirs).predict({"frames": [rows[1], rows[2], rows[0]]}, distribution=True)
    np.testing.assert_allclose(
        said["distribution"].to_pylist(), np.array(direct["distribution"])[:, [1, 2, 0]], atol=1e-6
    )
    read = answers.read(said, task="classification", labels=("a", "b", "c"))
    np.testing.assert_allclose(read.probabilities.max(axis=1), read.confidence, atol=1e-6)
    assert (read.probabilities.argmax(axis=1) == read.predicted).all()
