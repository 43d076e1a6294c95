"""What came of a run, as data and as text, and where its report is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.errors import ModelError
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.outcomes import as_data, find_report, show
from pipeline.run import Outcome, StageReport

METRICS = {
    "test": {"accuracy": 0.91234, "accuracy_low": 0.9, "accuracy_high": 0.92, "loss": 0.5, "num_steps": 10}
}
MODEL = {"name": "lines", "version": 3, "aliases": ["champion"], "uri": "models:/lines@champion"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return workspace.create(tmp_path / "runs", "lines", plan={}, versions={})


def finished(folder: RunFolder, **register: Any) -> dict[str, Any]:
    folder.update_stage("evaluate", status="done", summary={"metrics": METRICS})
    if register:
        folder.update_stage("register", status="done", summary=register)
    folder.update(mlflow_run_id="abc")
    folder.report.write_text("<html>", "utf8")
    stages = (StageReport("prepare", "reused", 0.0, "unchanged"), StageReport("train", "ran", 2.5, "new"))
    return as_data(Outcome(folder, stages))


def test_the_object_has_the_keys_of_the_contract(folder: RunFolder) -> None:
    found = finished(folder, verdict="promoted", reasons=["It is the first."], model=MODEL)
    assert found == {
        "run_id": folder.run_id,
        "run_dir": str(folder.path),
        "verdict": "promoted",
        "reasons": ["It is the first."],
        "metrics": METRICS,
        "gate": None,
        "model": MODEL,
        "report": str(folder.report),
        "mlflow_run_id": "abc",
        "stages": [
            {"name": "prepare", "status": "reused", "seconds": 0.0, "reason": "unchanged"},
            {"name": "train", "status": "ran", "seconds": 2.5, "reason": "new"},
        ],
    }
    assert json.loads(json.dumps(found)) == found


def test_a_search_says_its_best_settings_and_what_luck_had_to_do_with_it(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {
        "best": 3, "metric": "loss", "value": 0.25, "best_epoch": 2, "valid": {"loss": 0.25}, "epochs": 9,
        "point": {"model.units": 8, "model.branch": None}, "trials": {"failed": 1, "finished": 4},
        "seeds": [0.5, None, 0.125],
    }  # fmt: skip
    folder.update_stage("tune", status="done", summary=summary)
    found = as_data(Outcome(folder, ()))
    assert found["search"] == {**summary, "settings": str(folder.tune / "best.yaml")}
    show(found, console=Console())
    assert capsys.readouterr().out.splitlines()[:5] == [
        "best: trial 3 of 5 (1 failed, 4 finished): loss 0.2500 at epoch 2",
        "  model.units: 8",
        "  model.branch: null",
        "  with 3 seeds 0.1250 to 0.5000",
        f"settings: {folder.tune / 'best.yaml'}",
    ]


def test_a_run_that_stopped_before_the_end_has_no_verdict(folder: RunFolder) -> None:
    found = as_data(Outcome(folder, ()))
    assert (found["verdict"], found["model"], found["report"], found["mlflow_run_id"]) == (None,) * 4
    assert found["metrics"] == {}


def test_people_read_scores_verdict_and_report_and_what_to_do_next(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = finished(folder, verdict="promoted", reasons=["It is the first."], model=MODEL)
    show(found, console=Console())
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "test: accuracy 0.9123 (0.9000 to 0.9200), loss 0.5000",
        "promoted: lines version 3, @champion",
        "  It is the first.",
        f"report: {folder.report}",
    ]
    assert "train    ran     2.5 s  new" in err
    assert f"Next: recurra report {folder.run_id} --open" in err
    assert "Next: recurra predict models:/lines@champion DATA -o predictions.parquet" in err


GATE = {
    "decision": "promoted", "overridden": True, "gate_decision": "kept", "hint": "Hold more rows out.",
    "notes": ["About 900 test sequences would tell."],
    "rules": [
        {"title": "floor: accuracy", "asked": "at least 0.9", "found": "0.9123 (0.9 to 0.92)", "holds": True},
        {"title": "enough data", "asked": "about 900 test sequences", "found": "400", "holds": False},
    ],
}  # fmt: skip


def judged(folder: RunFolder) -> dict[str, Any]:
    """What came of a run whose verdict was kept."""
    folder.evaluation.mkdir()
    (folder.evaluation / "verdict.json").write_text(json.dumps(GATE), "utf8")
    return finished(folder, verdict="promoted", reasons=["Promoted by an override: so be it."], model=MODEL)


def test_the_verdict_is_a_table_with_what_to_do(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = judged(folder)
    assert found["gate"] == GATE
    show(found, console=Console())
    out, err = capsys.readouterr()
    table = [re.split(" {2,}", line.rstrip()) for line in out.splitlines()[:3]]
    assert table == [
        ["rule", "asked", "found", "holds"],
        ["floor: accuracy", "at least 0.9", "0.9123 (0.9 to 0.92)", "yes"],
        ["enough data", "about 900 test sequences", "400", "no"],
    ]
    assert "promoted (the gate: kept): lines version 3, @champion" in out
    assert "  Promoted by an override: so be it.\n  About 900 test sequences would tell.\n" in out
    assert "Hint: Hold more rows out." in err


def test_json_holds_the_table_and_prints_none(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(folder)
    show(found, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == found


def test_a_rejected_run_suggests_no_model(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    show(finished(folder, verdict="rejected", reasons=["Missed."], model=None), console=Console())
    out, err = capsys.readouterr()
    assert "rejected\n  Missed." in out
    assert "predict" not in err


def test_json_is_the_object_and_nothing_else_on_stdout(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    found = finished(folder, verdict="kept", reasons=[], model=MODEL)
    show(found, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == found


def test_a_report_is_found_by_folder_by_id_and_by_name(folder: RunFolder, tmp_path: Path) -> None:
    finished(folder)
    storage = tmp_path / "runs"
    for name in (str(folder.path), folder.run_id, "lines"):
        assert find_report(name, storage=storage) == folder.report


def test_a_name_means_its_newest_run(folder: RunFolder, tmp_path: Path) -> None:
    finished(folder)
    newer = RunFolder(tmp_path / "runs" / "lines" / "99990101-000000-abcdef")
    newer.path.mkdir()
    workspace.write_json(newer.path / workspace.RUN, {**folder.read(), "run_id": newer.path.name})
    with pytest.raises(ModelError, match="99990101-000000-abcdef has no report yet"):
        find_report("lines", storage=tmp_path / "runs")
    newer.report.touch()
    assert find_report("lines", storage=tmp_path / "runs") == newer.report


@pytest.mark.parametrize("name", ["nothing", "../lines", "20200101-000000-abcdef"])
def test_a_run_that_is_not_there_is_named(folder: RunFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="There is no run") as caught:
        find_report(name, storage=tmp_path / "runs")
    assert name in str(caught.value)
    assert caught.value.exit_code == 2
