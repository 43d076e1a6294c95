"""Scanning, sorting into pieces and describing the whole: no row is lost on the way."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import intake, preparation, readers
from components.data import labels as label_module
from components.data.audits import audit
from components.data.encoders import needs_quantiles
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
    data = settings.data
    quantiles = [needs_quantiles(part) for part in (*data.inputs, *data.context)]
    shards = {}
    for split, name in enumerate(SPLITS):
        for_shard = [
            [each.by_shard[split, shard] for each in pieces if (split, shard) in each.by_shard]
            for shard in range(order.shards[split])
        ]
        shards[name] = [
            write_shard(
                of_shard, target=str(folder), name=f"{name}/part-{i:05d}.parquet", features=order.features,
                quantiles=quantiles, num_labels=len(found.labels), follow=data.target.scheme != "none",
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


MIXED = {
    "inputs": [
        {"column": "words", "kind": "token", "min_count": 2},
        {"column": "x", "impute": "median", "scale": "robust", "indicator": True},
    ],
    "context": [{"column": "age", "impute": "mean"}, {"column": "sex", "kind": "category"}],
    "target": {"column": "tag", "scheme": "BIO"},
}


def mixed_table() -> dict:
    """Sentences of two words, some numbers of which are missing; a held-out one begins with I-X."""
    nan = float("nan")
    return {
        "id": [f"r{i}" for i in range(12)],
        "words": [f"wort wort{i % 4}" for i in range(12)],
        "x": [[float(i), nan if i % 3 else 1.0] for i in range(12)],
        "age": [None if i == 2 else float(i) for i in range(12)],
        "sex": ["fm"[i % 2] for i in range(12)],
        "tag": [["I-X" if i == 4 else "B-X", "I-X" if i % 2 else "O"] for i in range(12)],
        "fold": [i % 4 for i in range(12)],
    }


def test_tokens_gaps_and_context_arrive_as_they_were(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling", **MIXED)
    manifest, _ = prepared(settings, make_scans(settings, mixed_table()), tmp_path)
    source = {row["id"]: row for row in pa.table(mixed_table()).to_pylist()}
    found = [row for split in SPLITS for row in rows_of(tmp_path, split)]
    assert len(found) == 12
    for row in found:
        expected = source[row["id"]]
        assert row["x0"] == expected["words"].split()
        np.testing.assert_array_equal(row["x1"], expected["x"])
        np.testing.assert_array_equal(row["c0"], np.float64(expected["age"]))
        assert row["c1"] == expected["sex"]
        assert [manifest["labels"][code] for code in row["y"]] == expected["tag"]
    assert [tuple(each.values()) for each in (*manifest["inputs"], *manifest["context"])] == [
        ("words", "token", 1, "string"),
        ("x", "numeric", 1, "double"),
        ("age", "numeric", 1, "double"),
        ("sex", "category", 1, "string"),
    ]


def test_the_encoding_of_all_kinds_is_that_of_the_training_rows(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling", **MIXED, max_length=2, overlap=1)
    prepared(settings, make_scans(settings, mixed_table()), tmp_path)
    encoding = Encoding.from_json(json.loads((tmp_path / "encoding.json").read_text("utf8")))
    words, numbers = encoding.inputs
    age, sex = encoding.context
    # Training has the rows 2, 3, 6, 7, 10 and 11; row 2 has no age.
    assert words.tokens == ("wort", "wort2", "wort3")
    there = [float(i) for i in (2, 3, 6, 7, 10, 11)] + [1.0, 1.0]
    assert numbers.center == numbers.fill == (np.quantile(there, 0.5, method="inverted_cdf"),)
    assert age.fill == (np.mean([3, 6, 7, 10, 11]),)
    assert sex.categories == ("f", "m")
    assert (encoding.max_length, encoding.overlap, encoding.num_features) == (2, 1, 5)
    columns = {"words": ["neu", "wort"], "x": np.array([[np.nan], [1.0]]), "age": [np.nan], "sex": ["m"]}
    first, second = encoding.encode(columns, np.array([2]))
    assert first.tolist() == [0.0, 0.0, 1.0, np.float32(age.fill[0]), 2.0]
    assert second[0] == 1.0 and second[2] == 0.0 and second[4] == 2.0


def test_the_profile_tells_of_tags_gaps_and_unknown_tokens(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling", **MIXED)
    prepared(settings, make_scans(settings, mixed_table()), tmp_path)
    profile = json.loads((tmp_path / "profile.json").read_text("utf8"))
    assert [each["column"] for each in profile["inputs"]] == ["words", "x", "age", "sex"]
    assert profile["splits"]["test"]["illegal_tags"] == {"the beginning > I-X": 1}
    assert profile["splits"]["train"]["illegal_tags"] == {}
    assert profile["inputs"][0]["coverage"] == {"train": 1.0, "valid": 0.5, "test": 0.5}
    assert profile["inputs"][3]["coverage"]["valid"] == 1.0
    for sentence in (
        "Tags in test that follow one they may not, 1: the beginning > I-X (1).",
        "Values of 'x' missing in training, and filled in: 4.",
        "Values of 'age' missing in training, and filled in: 1.",
        "Only 50.0% of the steps of 'words' in test are known from training.",
    ):
        assert sentence in profile["notices"]


def test_without_a_scheme_no_tags_are_judged(make_settings, make_scans, tmp_path):
    settings = make_settings("labelling", **{**MIXED, "target": {"column": "tag"}})
    prepared(settings, make_scans(settings, mixed_table()), tmp_path)
    profile = json.loads((tmp_path / "profile.json").read_text("utf8"))
    assert not any("illegal_tags" in split for split in profile["splits"].values())


def test_sequences_made_of_steps_name_the_file_and_row_of_their_first(make_settings, tmp_path):
    settings = make_settings(layout="step", order="t", on_bad_row="drop", context=[{"column": "age"}])
    header = "id,t,x,age,label,fold\n"
    rows = [f"r{i},{t},{i + t / 10},{40 + i},{'ab'[i // 4 % 2]},{i % 4}" for i in range(12) for t in (2, 1)]
    # The steps of r11 lie in two files, and r5 has an age that is none.
    files = {"a.csv": rows[:23], "b.csv": ["r5,3,9.0,old,b,1", *rows[23:]]}
    for name, lines in files.items():
        (tmp_path / name).write_text(header + "\n".join(lines), "utf8")
    layout = Layout.of(settings)
    reading = intake.Reading.of(settings, layout)
    sources = intake.open_sources(
        readers.expand(str(tmp_path)), reading, run=intake.Here, scratch=str(tmp_path)
    )
    scans = [scan_part(part, layout=layout, scratch=str(tmp_path)) for part in readers.parts(sources)]
    _, (pieces,) = prepared(settings, scans, tmp_path)
    arrived = {row["id"]: row for split in SPLITS for row in rows_of(tmp_path, split)}
    assert sorted(arrived) == sorted(f"r{i}" for i in range(12) if i != 5)
    assert arrived["r3"]["x0"] == [3.1, 3.2]
    assert arrived["r3"]["c0"] == 43.0
    assert [(arrived[name]["row"], arrived[name]["file"]) for name in ("r3", "r11")] == [
        (6, "a.csv"),
        (22, "a.csv"),
    ]
    (rejected,) = pq.read_table(pieces.rejected).to_pylist()
    assert (rejected["source.id"], rejected["file"], rejected["row"]) == ("r5", "a.csv", 10)
    assert rejected["reason"] == "column age, step 2: the age is '45' at step 0 and 'old' at step 2"
