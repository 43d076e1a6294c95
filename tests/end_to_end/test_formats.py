"""The same words in every format and layout: the same prepared data, the same scores, the same answers."""

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem

from conf.load import load
from pipeline.backends import workspace
from pipeline.console import Console
from pipeline.stages.prepare import prepare
from tests.end_to_end.conftest import Place, furnish, words
from tests.pipeline.stages.test_prepare import InThisProcess

# Rows and files come in another order: only content may count.
STEPS = """
data:
  path: steps.csv
  layout: step
  order: t
  inputs: [{column: frames, columns: ["p*"], scale: standard}]
  target: {column: letter}
"""


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(folder / "words.jsonl.gz", "wt", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "words.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([row["id"], json.dumps(row["frames"]), " ".join(row["labels"]), row["fold"]])


def as_arrow(folder: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(folder / "words.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=17)


def as_folders(folder: Path, rows: list[dict[str, Any]]) -> None:
    for fold in {row["fold"] for row in rows}:
        part = folder / "words" / f"fold={fold}"
        part.mkdir(parents=True)
        own = [{**row} for row in rows if row["fold"] == fold]
        pq.write_table(pa.Table.from_pylist(own).drop_columns("fold"), part / "part.parquet")


def as_steps(folder: Path, rows: list[dict[str, Any]]) -> None:
    steps = [
        [row["id"], step, row["fold"], letter, *frame]
        for row in rows
        for step, (frame, letter) in enumerate(zip(row["frames"], row["labels"], strict=True))
    ]
    Random(1).shuffle(steps)
    with (folder / "steps.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["id", "t", "fold", "letter", "p0", "p1", "p2", "p3"])
        writer.writerows(steps)


FORMATS: Mapping[str, tuple[Callable[[Path, list[dict[str, Any]]], None], list[str]]] = {
    "words.jsonl.gz": (as_jsonl, []),
    "words.csv": (as_csv, []),
    "words.arrow": (as_arrow, []),
    "words": (as_folders, []),
    "steps.csv": (as_steps, ["steps.yaml"]),
}


def prepared(place: Path, data: str, *others: str) -> dict[str, Any]:
    """What `prepare` writes, but for the places that rows had in their files."""
    settings = load([place / "words.yaml", *(place / name for name in others)], [f"data.path={place / data}"])
    folder = workspace.create(place / f"runs-{data}", "words", plan={}, versions={})
    prepare(settings, folder=folder, cluster=InThisProcess(), console=Console(level=-1))  # type: ignore[arg-type]
    found: dict[str, Any] = {
        name: json.loads((folder.data / f"{name}.json").read_text("utf8")) for name in ("encoding", "profile")
    }
    for split in ("train", "valid", "test"):
        table = pq.read_table(folder.data / split).drop_columns(["row", "file"])
        found[split] = table.to_pylist()
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = furnish(tmp_path_factory.mktemp("formats"))
    (place.path / "steps.yaml").write_text(STEPS, "utf8")
    for write, _ in FORMATS.values():
        rows = words().to_pylist()
        Random(write.__name__).shuffle(rows)
        write(place.path, rows)
    return place


@pytest.mark.parametrize("data", FORMATS)
def test_the_same_words_are_the_same_prepared_data_in_every_format(place: Place, data: str) -> None:
    assert prepared(place.path, data, *FORMATS[data][1]) == prepared(place.path, "words.parquet")


@pytest.fixture
def registry(finished: tuple[Place, dict[str, Any]]) -> tuple[str, str]:
    """Where the words from Parquet are registered, as options."""
    return "--tracking-uri", f"sqlite:///{finished[0].path}/mlflow.db"


def answers(place: Place, model: str, data: str, *options: str) -> list[dict[str, Any]]:
    """What a model predicts, by id."""
    place.run("predict", f"models:/{model}@champion", data, "-o", "answers.parquet", *options)
    return pq.read_table(place.path / "answers.parquet").sort_by("id").select(["id", "labels"]).to_pylist()


@pytest.mark.slow
def test_the_same_words_have_the_same_scores_and_answers_in_every_format(
    place: Place, finished: tuple[Place, dict[str, Any]], registry: tuple[str, str]
) -> None:
    same = ("--set", "train.temperature_scaling=true")  # as that of the finished run
    steps = place.json("run", "words.yaml", "steps.yaml", "--set", "name=steps", *same)
    for split in ("valid", "test"):
        # Sums over rows in another order may differ in the last bit.
        assert steps["metrics"][split] == pytest.approx(finished[1]["metrics"][split], rel=1e-12)
    expected = answers(place, "words", "words.parquet", *registry)
    assert answers(place, "words", "words.jsonl.gz", *registry) == expected
    assert answers(place, "steps", "steps.csv") == expected


@pytest.mark.slow
@pytest.mark.thorough
def test_the_same_words_are_read_from_an_object_store(
    place: Place, registry: tuple[str, str], object_store: str, store_files: FileSystem
) -> None:
    name = "words.jsonl.gz"
    with store_files.open_output_stream(f"folder/{name}", compression=None) as stream:
        stream.write((place.path / name).read_bytes())
    url = f"{object_store}/folder/{name}"
    place.run("prepare", "words.yaml", "--set", f"data.path={url}", "--storage", "stored")
    (data,) = (place.path / "stored" / "words").glob("*/data")
    table = pq.read_table(data / "train").drop_columns(["row", "file"])
    assert table.to_pylist() == prepared(place.path, "words.parquet")["train"]
    assert answers(place, "words", url, *registry) == answers(place, "words", name, *registry)
