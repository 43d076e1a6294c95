"""Faults of data that others have reported, each with the answer that a user should get.

The ids are those of our table of public bug reports; where two answers could be defended, the one chosen is
in docs/guides/formats.md. Each case stands for its kind: the modules' own tests have more of each.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from conf.schema import Settings
from pipeline.backends import workspace
from pipeline.console import Console
from pipeline.stages.prepare import check_data, prepare
from tests.end_to_end.conftest import Place
from tests.pipeline.stages.test_prepare import InThisProcess

Make = Callable[..., Settings]
QUIET = Console(level=-1)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Settings for a file of that name and content; keyword arguments replace keys of the data section."""

    def make(name: str, content: bytes | str, task: str = "classification", **data: Any) -> Settings:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        section = {
            "path": str(tmp_path / name),
            "inputs": [{"column": "x"}],
            "target": {"column": "y"},
            "split": {"by": "hash", "valid": 0.3, "test": 0.3},
        }
        return Settings.model_validate({"name": "small", "task": task, "data": {**section, **data}})

    return make


def refusal(settings: Settings) -> str:
    """What is said of data that cannot be used."""
    with pytest.raises(DataError) as caught:
        check_data(settings, console=QUIET)
    assert caught.value.exit_code == 2
    return str(caught.value)


def prepared(
    settings: Settings, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any], pa.Table | None]:
    """All rows that were prepared, in their old order; the encoding; and what was rejected."""
    run = workspace.create(folder / "runs", settings.name, plan={}, versions={})
    prepare(settings, folder=run, cluster=InThisProcess(), console=QUIET)  # type: ignore[arg-type]
    splits = [pq.read_table(run.data / split) for split in ("train", "valid", "test")]
    rows = pa.concat_tables(splits, promote_options="permissive").sort_by("row").to_pylist()
    rejected = run.data / "rejected.parquet"
    encoding = json.loads((run.data / "encoding.json").read_text("utf8"))
    return rows, encoding, pq.read_table(rejected) if rejected.exists() else None


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def walks(num_rows: int = 40, **changes: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "x": [i, i + 0.5], "y": "ab"[i % 2], **changes} for i in range(num_rows)]


def test_b04_ids_and_labels_stay_as_they_are_written(make: Make, tmp_path: Path) -> None:
    odd = ["001", "1", "9007199254740993", "18446744073709551615", "2020-01-01", "true", "1e5", "NA"]
    labels = ["007", "7", "true", "2020-01-01"]
    lines = [f"{name},{labels[i % 4]},[{i}]" for i, name in enumerate(odd * 1)]
    lines += [f"more{i},{labels[i % 4]},[{100 + i}]" for i in range(60)]
    settings = make("rows.csv", "id,y,x\n" + "\n".join(lines), id="id")
    rows, encoding, _ = prepared(settings, tmp_path)
    assert [row["id"] for row in rows[: len(odd)]] == odd
    assert sorted(encoding["labels"]) == sorted(labels)
    assert [encoding["labels"][row["y"]] for row in rows[:4]] == labels


@pytest.mark.slow
def test_b04_ids_and_labels_come_back_in_the_predictions(place: Place) -> None:
    rng = np.random.default_rng(0)
    kinds = ["007", "7", "true"]
    lines = [
        f"{i:04d},{kinds[i % 3]},{' '.join(map(str, rng.normal(3 * (i % 3), 0.1, 3)))},{i % 6}"
        for i in range(120)
    ]
    (place.path / "rows.csv").write_text("id,y,x,fold\n" + "\n".join(lines))
    (place.path / "kinds.yaml").write_text(
        "name: kinds\ntask: classification\n"
        "data: {path: rows.csv, id: id, inputs: [{column: x, scale: standard}], target: {column: y},\n"
        "  split: {column: fold, valid: [1], test: [0]}}\n"
        'model: {units: 8}\ntrain: {epochs: 8, batch_size: 8, learning_rate: 3e-2, devices: "cpu:1"}\n'
    )
    trained = place.json("train", "kinds.yaml")
    place.run("predict", trained["run_dir"], "rows.csv", "-o", "answers.parquet")
    answers = pq.read_table(place.path / "answers.parquet")
    assert answers["id"].to_pylist() == [f"{i:04d}" for i in range(120)]
    assert set(answers["label"].to_pylist()) == set(kinds)


def test_b07_emptiness_at_every_level(make: Make, tmp_path: Path) -> None:
    rows = walks()
    rows[3]["x"] = []
    assert "line 4, column x: empty sequence, expected at least 1 step" in refusal(
        make("a.jsonl", jsonl(rows))
    )
    _, _, rejected = prepared(make("a.jsonl", jsonl(rows), on_bad_row="drop"), tmp_path)
    assert rejected is not None and rejected["line"].to_pylist() == [4]
    assert "b.csv: no rows: the file is empty" in refusal(make("b.csv", ""))
    assert "no rows" in refusal(make("c.csv", "id,x,y\n"))
    assert "no rows" in refusal(make("d.jsonl", "\n \n"))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("nan", "line 3, column x, step 1, feature 0: nan, expected a finite number"),
        ("inf", "line 3, column x, step 1, feature 0: inf, expected a finite number"),
        ("1e400", "line 3, column x, step 1, feature 0: inf, expected a finite number"),
        ("null", "line 3, column x, step 1"),
        ('"abc"', "line 3, column x, step 1: received 'abc', expected a number"),
    ],
)
def test_b08_numbers_that_are_none_are_named(make: Make, cell: str, said: str) -> None:
    lines = [f'"[{i}, {i}.5]",{"ab"[i % 2]}' for i in range(40)]
    lines[1] = '"[1, {}]",a'.format(cell.replace('"', '""'))
    assert said in refusal(make("rows.csv", "x,y\n" + "\n".join(lines)))


def test_b08_what_is_missing_is_filled_from_training_rows_only(make: Make, tmp_path: Path) -> None:
    rows = walks(60)
    for row in rows[::3]:
        row["x"][1] = None
    inputs = [{"column": "x", "impute": "mean", "indicator": True}]
    found, encoding, _ = prepared(make("rows.jsonl", jsonl(rows), inputs=inputs), tmp_path)
    train = pq.read_table(next((tmp_path / "runs" / "small").glob("*/data/train")))
    known = [value for row in train["x0"].to_pylist() for value in row if value == value]
    (filled,) = encoding["inputs"]
    assert filled["fill"] == pytest.approx([np.mean(known)])
    assert len(found) == 60
    unfit = walks(60)
    unfit[0]["x"][0] = 1e39
    assert "expected a finite number" in refusal(make("unfit.jsonl", jsonl(unfit), inputs=inputs))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_b10_blank_lines_of_any_kind_end_a_sentence(make: Make, tmp_path: Path, end: str) -> None:
    lines = "".join(f"EU{i} B-ORG{end}\t{end}{end}UK{i} B-LOC{end}{end}" for i in range(40))
    settings = make(
        "text.conll",
        lines.rstrip("\r\n"),
        "labelling",
        inputs=[{"column": "token", "kind": "token"}],
        target={"column": "label"},
    )
    rows, encoding, _ = prepared(settings, tmp_path)
    assert [row["x0"] for row in rows[:4]] == [["EU0"], ["UK0"], ["EU1"], ["UK1"]]
    assert len(rows) == 80
    assert encoding["labels"] == ["B-LOC", "B-ORG"]


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "x,y\n" + "\n".join(f"{i} {i + 1},{'ab'[i % 2]}" for i in range(40))),
        ("rows.jsonl", jsonl(walks())),
        (
            "rows.ts",
            "@problemName p\n@classLabel true a b\n@data\n"
            + "".join(f"{i},2:{'ab'[i % 2]}\n" for i in range(40)),
        ),
    ],
)
def test_b11_a_byte_order_mark_is_no_content(make: Make, name: str, content: str) -> None:
    names = {"inputs": [{"column": "frames"}], "target": {"column": "label"}} if name == "rows.ts" else {}
    check_data(make(name, BOM + content.encode(), **names), console=QUIET)
    assert "UTF-16" in refusal(make(name, content.encode("utf-16"), **names))
    latin = content.replace("a", "caf\xe9", 1).encode("latin-1")
    assert f"byte {latin.index(0xE9)} (0xe9) is not UTF-8" in refusal(make(name, latin, **names))


def test_b14_dialects_of_conll(make: Make, tmp_path: Path) -> None:
    start = "-DOCSTART- -X- O\n\n"
    good = "".join(f"# NN O\nword{i} NN B-X\n\n" for i in range(40))
    names = {"inputs": [{"column": "token", "kind": "token"}], "target": {"column": "label"}}
    rows, _, _ = prepared(make("text.conll", start + good, "labelling", **names), tmp_path)
    assert len(rows) == 40 and rows[0]["x0"] == ["#", "word0"]
    broken = start + "a NN O\n\nb NN O\n\nword\n\n" + good
    assert "line 7: 1 column, expected 3" in refusal(make("text.conll", broken, "labelling", **names))


def test_b17_limits_of_json_lines(make: Make, tmp_path: Path) -> None:
    long = [{"id": i, "x": list(range(200_000)), "y": ["a", 1, "2024-01-01"][i % 3]} for i in range(12)]
    for number, row in enumerate(long):
        row["x"][0] = -number
    rows, encoding, _ = prepared(make("long.jsonl", jsonl(long)), tmp_path)
    assert {row["length"] for row in rows} == {200_000}
    assert sorted(encoding["labels"]) == ["1", "2024-01-01", "a"]
    assert "not JSON Lines" in refusal(make("array.jsonl", json.dumps(walks())))
    assert "not JSON Lines" in refusal(make("pretty.jsonl", json.dumps(walks()[0], indent=1)))


def test_b32_labels_may_be_any_numbers(make: Make, tmp_path: Path) -> None:
    rows = [{**row, "y": [-1, 5, 300][i % 3]} for i, row in enumerate(walks(60))]
    _, encoding, _ = prepared(make("rows.jsonl", jsonl(rows)), tmp_path)
    assert encoding["labels"] == ["-1", "5", "300"]


def test_b33_a_split_that_cannot_be_made(make: Make) -> None:
    stratified = {"by": "stratified", "valid": 0.2, "test": 0.2}
    lonely = [{**row, "y": "b" if i == 0 else "ac"[i % 2]} for i, row in enumerate(walks())]
    assert "the class 'b' has 1 distinct sequence" in refusal(
        make("rows.jsonl", jsonl(lonely), split=stratified)
    )
    assert "need 2 classes" in refusal(make("one.jsonl", jsonl(walks(y="a"))))


@pytest.mark.slow
def test_b31_one_long_sequence_among_short_ones_gets_an_answer_at_every_step(place: Place) -> None:
    rng = np.random.default_rng(0)
    lengths = [20_000, *[5] * 300]
    truth = [rng.integers(0, 3, length) for length in lengths]
    rows = {
        "id": [f"s{i}" for i in range(len(lengths))],
        "x": [(each + rng.normal(0, 0.1, len(each))).tolist() for each in truth],
        "y": [["abc"[label] for label in each] for each in truth],
        "fold": [i % 3 for i in range(len(lengths))],
    }
    place.write(pa.table(rows), "long.parquet")
    (place.path / "long.yaml").write_text(
        "name: long\ntask: labelling\n"
        "data: {path: long.parquet, id: id, inputs: [{column: x}], target: {column: y}, max_length: 100,\n"
        "  overlap: 10, split: {column: fold, valid: [1], test: [2]}}\n"
        'model: {units: 8}\ntrain: {epochs: 1, batch_size: 16, devices: "cpu:1"}\n'
    )
    trained = place.json("train", "long.yaml")
    place.run("predict", trained["run_dir"], "long.parquet", "-o", "answers.parquet")
    answers = pq.read_table(place.path / "answers.parquet")
    assert [len(labels) for labels in answers["labels"].to_pylist()] == lengths
