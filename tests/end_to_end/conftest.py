"""Small real runs: `recurra` as a process of its own, on data and settings that train in seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.backends.conftest import make_postgres_database as make_postgres_database

ROOT = Path(__file__).parents[2]

SETTINGS = """
name: words
task: labelling
data:
  path: words.parquet
  id: id
  inputs: [{column: frames, kind: numeric, scale: standard}]
  target: {column: labels}
  split: {column: fold, valid: [1], test: [0]}
model: {cell: gru, units: 16, bidirectional: true, dropout: {output: 0.1}}
train: {epochs: 4, batch_size: 16, learning_rate: 2e-2, devices: "cpu:1"}
evaluate: {bootstrap: 200}
gate: {floors: {accuracy: 0.6}}
"""


def words(num_rows: int = 240, *, seed: int = 0) -> pa.Table:
    """Sequences of 1 to 9 steps of 4 features; a step's label is its largest feature, seen through noise."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"id": [], "frames": [], "labels": [], "fold": []}
    for row in range(num_rows):
        truth = rng.integers(0, 4, rng.integers(1, 10))
        frames = np.eye(4)[truth] * 2.0 + rng.normal(0.0, 0.6, (len(truth), 4))
        rows["id"].append(f"w{row:04d}")
        rows["frames"].append(frames.tolist())
        rows["labels"].append(["abcd"[label] for label in truth])
        rows["fold"].append(row % 6)
    return pa.table(rows)


@dataclass(frozen=True)
class Place:
    """A folder with data and settings, in which `recurra` runs as a user would run it."""

    path: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """The command, still running."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def ended(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The command, ended in whatever way."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """The command, ended with the exit code expected and without a bug of ours."""
        done = self.ended(*arguments)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """What the command prints with --json."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def write(self, table: pa.Table, name: str = "words.parquet") -> None:
        pq.write_table(table, self.path / name)

    def runs(self) -> list[Path]:
        """The run folders, oldest first."""
        return sorted(path.parent for path in self.path.glob("runs/*/*/run.json"))


def furnish(path: Path, *, settings: str = SETTINGS, rows: Sequence[int] = (240,)) -> Place:
    """A folder with the words and their settings."""
    path.mkdir(parents=True, exist_ok=True)
    place = Place(path)
    place.write(words(*rows))
    (path / "words.yaml").write_text(settings, "utf8")
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A fresh place."""
    return furnish(tmp_path / "place")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any]]:
    """A place in which one run has been done, and what it printed. Tests leave it as it is.

    Its model has a temperature, so that all that serves it has to apply it.
    """
    settings = SETTINGS.replace("epochs: 4,", "epochs: 4, temperature_scaling: true,")
    place = furnish(tmp_path_factory.mktemp("finished"), settings=settings)
    return place, place.json("run", "words.yaml")
