"""Where a run writes: one store for all of it, and refused at once where that cannot be."""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SETTINGS, Place, furnish

SEARCH = """
tune: {trials: 2, search: random, scheduler: none, space: {model.units: {choice: [4, 8]}}}
"""

# root writes in spite of a folder's mode, unless it is without this capability.
ORDINARY = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []

pytestmark = pytest.mark.slow


class Bound(Place):
    """A place in which commands are bound by the modes of files, as those of any user but root are."""

    def command(self, *arguments: str) -> list[str]:
        return [*ORDINARY, *super().command(*arguments)]


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Bound]:
    """A place whose folder can be read but not written."""
    if ORDINARY and (
        shutil.which("setpriv") is None or subprocess.run([*ORDINARY, "true"], check=False).returncode
    ):
        pytest.skip("root without setpriv, or that may not give up a capability, writes everywhere")
    settings = SETTINGS.replace("epochs: 4", "epochs: 2")
    place = Bound(furnish(tmp_path / "place", settings=settings + SEARCH).path)
    place.path.chmod(0o555)
    try:
        yield place
    finally:
        place.path.chmod(0o755)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "Runs cannot be kept in {here}/runs: {here} cannot be written."),
        (
            "--storage {out}/runs",
            "MLflow's database cannot be kept in {here}: {here} cannot be written.",
        ),
        (
            "--storage {out}/runs --tracking-uri sqlite:///{out}/m.db --artifacts files",
            "Files of models cannot be kept in {here}/files: {here} cannot be written.",
        ),
        (
            "--storage {out}/runs --tracking-uri sqlite:///{out}/old/m.db",
            "MLflow's database {out}/old/m.db cannot be written.",
        ),
    ],
    ids=["storage", "tracker", "artifacts", "database"],
)
def test_b27_a_place_that_cannot_be_written_is_refused_before_anything_starts(
    reading: Bound, tmp_path: Path, options: str, told: str
) -> None:
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / "old" / "m.db").touch(mode=0o444)
    names = {"here": reading.path, "out": out}
    begun = time.monotonic()
    done = reading.run("run", "words.yaml", *options.format(**names).split(), code=2)
    assert time.monotonic() - begun < 30
    assert told.format(**names) in done.stderr
    assert "Choose another" in done.stderr
    assert [path.name for path in out.rglob("*")] == ["old", "m.db"]
    assert sorted(path.name for path in reading.path.iterdir()) == ["words.parquet", "words.yaml"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("plan words.yaml", "Runs cannot be kept in"),
        ("retrain words.yaml", "Runs cannot be kept in"),
        ("check words.yaml", "Runs cannot be kept in"),
        ("schedule words.yaml --cron 0|3|*|*|*", "Runs cannot be kept in"),
        ("schedule words.yaml --cron 0|3|*|*|* --storage ../runs --state sqlite:///s.db", "Schedules cannot"),
    ],
)
def test_b27_so_it_is_with_every_command_that_writes(reading: Bound, command: str, told: str) -> None:
    done = reading.run(*(word.replace("|", " ") for word in command.split()), code=2)
    assert told in done.stderr
    assert f"{reading.path} cannot be written." in done.stderr


@pytest.mark.thorough
def test_b27_every_run_and_file_of_a_search_is_in_the_store_that_the_driver_named(
    reading: Bound, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    relative = ("--storage", "../out/runs", "--tracking-uri", "sqlite:///../out/m.db")
    outcome = reading.json("run", "words.yaml", *relative)
    assert outcome["verdict"] == "promoted"
    assert Path(outcome["run_dir"]).resolve().is_relative_to(out / "runs")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.db")] == ["out/m.db"]
    with sqlite3.connect(out / "m.db") as database:
        names = {name for (name,) in database.execute("select name from runs")}
        places = [place for (place,) in database.execute("select artifact_uri from runs")]
        places += [place for (place,) in database.execute("select storage_location from model_versions")]
    assert names >= {outcome["run_id"], "train", "tune", "trial 0", "trial 1"}
    assert all(place.startswith((out / "mlartifacts").as_uri()) for place in places)
    assert sorted(path.name for path in reading.path.iterdir()) == ["words.parquet", "words.yaml"]
