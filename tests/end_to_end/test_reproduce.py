"""A registered version is trained again: the same from the same, and otherwise told why not."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import Place

pytestmark = pytest.mark.slow

Finished = tuple[Place, dict[str, Any]]


def listing(place: Place) -> list[str]:
    return sorted(str(path) for path in place.path.rglob("*") if ".digests" not in path.name)


def test_the_same_rows_code_and_machine_give_the_same_model(finished: Finished, tmp_path: Path) -> None:
    place, outcome = finished
    storage = tmp_path / "runs"
    found = place.json("reproduce", "models:/words@champion", "--storage", str(storage))
    assert found["model"] == "models:/words/1"
    assert found["verdict"] == "reproduced"
    assert found["differences"] == []
    figures = {each["what"]: each for each in found["figures"]}
    assert figures["test accuracy"]["recorded"] == outcome["metrics"]["test"]["accuracy"]
    assert figures["epochs"]["now"] == 4
    assert all(each["difference"] <= 1e-6 for each in found["figures"] if each["difference"] is not None)
    assert Path(found["run_dir"]).parent == storage / "reproductions" / "words"
    # Nothing is registered, and MLflow has heard nothing.
    assert len(place.json("models", "words")["versions"]) == 1


def test_a_changed_row_is_told_with_its_split_and_nothing_is_left(finished: Finished, tmp_path: Path) -> None:
    place, _ = finished
    table = pq.read_table(place.path / "words.parquet")
    rows = table.to_pylist()
    changed = next(row for row in rows if row["fold"] == 0)
    changed["frames"][0][0] += 0.5
    moved = tmp_path / "moved.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), moved)
    storage = tmp_path / "runs"
    found = place.json(
        "reproduce", "models:/words/1", "--data", str(moved), "--storage", str(storage), code=2
    )
    assert found["verdict"] == "not reproduced"
    assert [(each["kind"], each["what"]) for each in found["differences"]] == [("data", "test rows")]
    assert "test rows are others" in found["reasons"][0]
    assert found["run_dir"] is None
    assert not list(storage.rglob("run.json"))


def test_data_that_are_gone_are_an_error_that_says_how_to_name_them(
    finished: Finished, tmp_path: Path
) -> None:
    place = Place(tmp_path / "copy")
    shutil.copytree(finished[0].path, place.path)
    (place.path / "words.parquet").unlink()
    nowhere = str(tmp_path / "nowhere.parquet")
    done = place.run("reproduce", "models:/words@champion", "--data", nowhere, code=2)
    assert nowhere in done.stderr
    assert "--data" in done.stderr
    assert not (place.path / "runs" / "reproductions").exists()
