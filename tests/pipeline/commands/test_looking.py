"""Commands that look, at their edge."""

import json
from pathlib import Path

import pytest

from pipeline import scaling
from tests.pipeline.conftest import call, failure, line_settings, listing
from tests.pipeline.test_run import as_if_run

pytestmark = pytest.mark.usefixtures("handlers")


def test_a_report_is_a_path_on_stdout(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = as_if_run(place, line_settings(place / "lines.parquet"))
    folder.report.write_text("<html>", "utf8")
    assert call("report", "lines") == 0
    assert capsys.readouterr().out == f"{folder.report}\n"
    assert call("report", folder.run_id, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(folder.report)}


def test_the_plan_of_a_first_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "lines.yaml", "--json") == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [(stage["name"], stage["status"]) for stage in stages] == [
        ("prepare", "run"),
        ("train", "run"),
        ("evaluate", "run"),
        ("register", "run"),
    ]
    assert not list(place.glob("runs/lines/*/run.json"))


def test_the_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "task", "data", "model", "train", "evaluate", "gate", "register"} <= set(
        schema["properties"]
    )
    assert call("schema", "--reference") == 0
    assert "`learning_rate`" in capsys.readouterr().out


def test_check_names_everything_that_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", "lines.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"problems": []}
    changes = ["--set", "data.path=nothing.parquet", "--set", "train.devices=gpu:9"]
    assert call("check", "lines.yaml", *changes, "--json") == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["place"] for problem in problems] == ["data", "devices"]
    assert listing(place) == ["lines.parquet", "lines.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [["--scaling"], ["lines.yaml"], ["--devices", "cpu:2"], ["--set", "train.epochs=1"]],
)
def test_a_doctor_that_measures_needs_settings_and_one_that_looks_takes_none(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert failure(capsys, "doctor", *arguments, "--json")["exit_code"] == 2


def test_devices_to_measure_are_checked_like_the_setting(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, "doctor", "lines.yaml", "--scaling", "--devices", "tpu:2", "--json")
    assert said["exit_code"] == 2
    assert "train.devices" in said["error"]


def test_a_measurement_without_prepared_rows_says_what_to_do_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, "doctor", "lines.yaml", "--scaling", "--devices", "cpu:2", "--json")
    assert said["exit_code"] == 2
    assert "recurra prepare" in said["hint"]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_doctor_measures_what_more_devices_bring(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "MEASURED_SECONDS", 0.5)
    assert call("prepare", "lines.yaml") == 0
    before = listing(place)
    capsys.readouterr()
    assert call("doctor", "lines.yaml", "--scaling", "--devices", "cpu:2", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["devices"] for row in found["rows"]] == [1, 2]
    assert all(row["steps_per_second"] > 0 for row in found["rows"])
    assert found["rows"][0]["speed_up"] == 1.0
    assert "train.devices: cpu:" in found["advice"]
    assert "cpu:1: " in err and "cpu:2: " in err
    assert listing(place) == before
