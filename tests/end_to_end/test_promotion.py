"""Two runs that finish at the same moment: the better one is champion, every time, on either database."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.batches import SequenceSet
from components.evaluation import answers, scoring
from pipeline.backends import workspace
from pipeline.backends.aliases import Aliases
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.backends.workspace import RunFolder
from tests.pipeline.backends.conftest import make_postgres_database  # noqa: F401
from tests.pipeline.stages import test_register as stage

NUM_ROUNDS = 20
SCORES = {"better": 0.9, "worse": 0.8}
SKILLS = {"better": (0.03, 0), "worse": (0.12, 0)}  # noise in the weights, and its seed

# One of two retrains: URI SETTINGS CHECKOUT RUN_FOLDER..., a run of another name in every round. A byte on
# stdin lets it go on, so that both begin a round together. The proof in a fresh process is left out: it takes
# seconds, which would pull the two apart, and has tests of its own.
RACER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import tensorflow
from conf.schema import Settings
from pipeline.backends import lineages, tracking
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.stages.register import _Registration
from tests.pipeline.conftest import InProcess

class Racer(_Registration):
    def _prove(self, version):
        pass

for path in map(Path, sys.argv[4:]):
    run = RunFolder(path)
    settings = Settings.model_validate({**json.loads(sys.argv[2]), "name": path.parent.name})
    lineages.write(run)
    with tracking.open_run(sys.argv[1], folder=run, settings=settings) as tracker:
        tracker.require()
        print("ready", flush=True)
        sys.stdin.read(1)
        told = Racer(settings, run, InProcess(), tracker, Console(level=-1), None).run()
    print(json.dumps(told), flush=True)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("make_postgres_database")()
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def finished_run(tmp_path: Path) -> Callable[[str], RunFolder]:
    """Makes a run folder that is done up to and with its evaluation."""

    def make(skill: str) -> RunFolder:
        run = workspace.create(tmp_path / "runs", "given", plan={}, versions={})
        run.settings.write_text("name: given\n", "utf8")
        stage.write_data(run.data, "x")
        encoding = stage.encoding()
        (run.data / "encoding.json").write_text(json.dumps(encoding.to_json()), "utf8")
        bundles.write(
            run.bundle,
            export=lambda path: stage.export(path, skill),
            encoding=encoding,
            name="given",
            epoch=1,
            metrics={},
            id_column="key",
        )
        rows = SequenceSet.open(run.data / "test", encoding)
        table = answers.predict(bundles.open(run.bundle), rows, labels=stage.LABELS, split="test")
        run.evaluation.mkdir()
        pq.write_table(table, run.evaluation / "predictions.parquet")
        scores = scoring.score(
            table, task="classification", labels=stage.LABELS, bootstrap=100, confidence=0.95
        )
        assert scores.metrics["accuracy"] == pytest.approx(SCORES[skill], abs=0.01)
        (run.evaluation / "metrics.json").write_text(json.dumps({"test": scores.metrics}), "utf8")
        return run

    return make


def as_other_name(run: RunFolder, name: str) -> RunFolder:
    """The same finished run under another name. Its model is stored once for all names."""
    path = run.storage.parent / name / run.run_id
    shutil.copytree(run.path, path)
    return RunFolder(path)


def start(uri: str, runs: list[RunFolder], *, root: Path) -> subprocess.Popen[str]:
    settings = json.dumps(stage.wanted())
    command = [sys.executable, "-c", RACER, uri, settings, str(root), *(str(run.path) for run in runs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """One round: both wait at the line, both go; what came of each."""
    assert [said(process) for process in processes] == ["ready", "ready"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [json.loads(said(process)) for process in processes]


@pytest.mark.fault("two retrains at once")
@pytest.mark.slow
def test_of_two_that_finish_at_once_the_better_is_champion_twenty_times(
    uri: str,
    finished_run: Callable[[str], RunFolder],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(stage, "SKILLS", SKILLS)
    names = [f"round-{number:02d}" for number in range(NUM_ROUNDS)]
    runs = [finished_run(skill) for skill in SCORES]
    racers = [start(uri, [as_other_name(run, name) for name in names], root=root) for run in runs]
    for racer in racers:
        request.addfinalizer(racer.kill)
    registry = Registry(Store(uri))
    both_promoted = 0
    for name in names:
        told = race(racers)
        assert told[0]["verdict"] == "promoted"
        versions = {version.tags["recurra.run_id"]: version for version in registry.versions(name)}
        better, worse = (versions[run.run_id] for run in runs)
        aliases = {alias: version.number for version in versions.values() for alias in version.aliases}
        history = Aliases(registry, name, runs[0].storage.parent / name).history()
        moves = [(line["from"], line["to"]) for line in history]
        if told[1]["verdict"] == "promoted":
            both_promoted += 1
            assert aliases == {"champion": better.number, "previous": worse.number}
            assert moves == [(None, worse.number), (worse.number, better.number)]
            assert "accuracy" in history[1]["why"]
        else:
            assert told[1]["verdict"] == "kept"
            assert aliases == {"champion": better.number}
            assert moves == [(None, better.number)]
            assert worse.tags["recurra.parent_champion"] == str(better.number)
        assert [line["number"] for line in history] == list(range(1, len(history) + 1))
    for process in racers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    print(f"{both_promoted} of {NUM_ROUNDS} times the worse was first")
