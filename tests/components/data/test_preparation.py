"""Scanning, sorting into pieces and describing the whole: no row is lost on the way."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import labels as label_module
from components.data import preparation
from components.data.audits import audit
from components.data.preparation import Order, finish, scan_part, write_part
from components.data.records import Layout
from components.data.shards import write_shard
from components.data.splits import SPLITS
from components.errors import DataError
from components.served.encoding import Encoding


def table(n: int = 40, *, first: int = 0) -> dict:
    rng = np.random.default_rng(first)
    lengths = rng.integers(1, 5, n)
    return {
        "id": [f"r{first + i}" for i in range(n)],
        "x": [rng.normal(5.0, 2.0, (length, 2)).tolist() for length in lengths],
        "label": [["ab"[i % 2]] * length for i, length in enumerate(lengths)],
        "fold": [i % 4 for i in range(n)],
    }


def prepared(settings, scans, folder: Path):
    """What the stage does with its workers, one after another."""
    layout = Layout.of(settings)
    found = audit(scans, layout=layout, settings=settings)
    order = Order.of(found, scans, layout)
    pieces = [
        write_part(
            scan, order=order, codes=found.codes[i], reasons=found.reasons[i],
            label_codes=found.label_codes[i], scratch=str(folder),
        )
        for i, scan in enumerate(scans)
    ]  # fmt: skip
    shards = {}
    for split, name in enumerate(SPLITS):
        for_shard = [
            [each.by_shard[split, shard] for each in pieces if (split, shard) in each.by_shard]
            for shard in range(order.shards[split])
        ]
        shards[name] = [
            write_shard(
                of_shard, target=str(folder), name=f"{name}/part-{i:05d}.parquet", features=found.widths,
                num_labels=len(found.labels),
            )
            for i, of_shard in enumerate(for_shard) if of_shard
        ]  # fmt: skip
    manifest = finish(shards, audit=found, settings=settings, order=order, target=folder)
    return manifest, pieces


def rows_of(folder: Path, split: str) -> list[dict]:
    return pq.read_table(folder / split).to_pylist()


def test_every_row_arrives_once_with_its_values_and_its_place(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling")
    tables = [table(), table(20, first=100)]
    manifest, _ = prepared(settings, make_scans(settings, *tables), tmp_path)
    source = [row for each in tables for row in pa.table(each).to_pylist()]
    arrived = {row["id"]: (split, row) for split in SPLITS for row in rows_of(tmp_path, split)}
    assert len(arrived) == 60 == sum(each["rows"] for each in manifest["splits"].values())
    for place, row in enumerate(source):
        split, found = arrived[row["id"]]
        assert split == {0: "test", 1: "valid"}.get(row["fold"], "train")
        assert found["row"] == place
        assert found["file"] == ("a.parquet" if place < 40 else "b.parquet")
        np.testing.assert_array_equal(np.reshape(found["x0"], (-1, 2)), row["x"])
        assert [manifest["labels"][code] for code in found["y"]] == row["label"]


def test_the_encoding_is_fitted_on_training_rows_only(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling", inputs=[{"column": "x", "scale": "standard"}])
    prepared(settings, make_scans(settings, table()), tmp_path)
    encoding = Encoding.from_json(json.loads((tmp_path / "encoding.json").read_text("utf8")))
    train = np.concatenate([np.reshape(row["x0"], (-1, 2)) for row in rows_of(tmp_path, "train")])
    np.testing.assert_allclose(encoding.inputs[0].center, train.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(encoding.inputs[0].spread, train.std(axis=0), rtol=1e-12)
    assert encoding.labels == ("a", "b")


def test_what_comes_in_is_what_goes_out_and_what_is_kept_aside(make_settings, make_scans, tmp_path):
    rows = table()
    rows["x"][3], rows["label"][8], rows["id"][9] = [], None, "r10"
    settings = make_settings("labelling", on_bad_row="drop")
    manifest, (pieces,) = prepared(settings, make_scans(settings, rows), tmp_path)
    kept = pq.read_table(pieces.rejected)
    assert manifest["rejected"] == len(kept) == 3
    assert sum(each["rows"] for each in manifest["splits"].values()) == 37
    assert kept["row"].to_pylist()[:2] == [3, 8]
    assert all(kept["reason"].to_pylist())


def test_the_profile_counts_labels_and_steps_of_each_split(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling")
    prepared(settings, make_scans(settings, table()), tmp_path)
    profile = json.loads((tmp_path / "profile.json").read_text("utf8"))
    for split in SPLITS:
        found = [label for row in rows_of(tmp_path, split) for label in row["y"]]
        assert profile["splits"][split]["steps"] == len(found)
        assert profile["splits"][split]["labels"] == {"a": found.count(0), "b": found.count(1)}


def test_many_shards_hold_the_same_rows_as_one(make_settings, make_scans, tmp_path, monkeypatch):
    settings = make_settings("labelling")
    scans = make_scans(settings, table())
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    prepared(settings, scans, tmp_path / "one")
    monkeypatch.setattr("components.data.shards.SHARD_VALUES", 100)
    manifest, _ = prepared(settings, scans, tmp_path / "many")
    assert len(manifest["splits"]["train"]["shards"]) > 3
    for split in SPLITS:
        assert rows_of(tmp_path / "many", split) == rows_of(tmp_path / "one", split)


def test_ids_given_as_the_target_are_stopped_early(make_settings, make_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "MAX_LABELS", 5)
    monkeypatch.setattr(label_module, "MAX_LABELS", 5)
    rows = {**table(), "label": [f"r{i}" for i in range(40)]}
    (part,) = make_parts(rows)
    with pytest.raises(DataError, match="more than 5 different labels; is this the target, or an id"):
        scan_part(part, layout=Layout.of(make_settings()), scratch=str(tmp_path))
