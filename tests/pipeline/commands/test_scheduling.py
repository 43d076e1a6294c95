"""The commands of `recurra schedule`, at their edge."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import call, failure, listing

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lines.yaml"], "--cron"),
        (["lines.yaml", "--cron", "61 3 * * *"], "61 3 * * *"),
        (["lines.yaml", "--cron", "0 3 * * *", "--timezone", "Europe/Atlantis"], "Europe/Atlantis"),
        (["lines.yaml", "--cron", "0 3 * * *", "--jitter", "nan"], "--jitter"),
        (["nothing.yaml", "--cron", "0 3 * * *"], "nothing.yaml"),
        (["explain", "lines.yaml", "--cron", "0 3 * *", "--timezone", "UTC"], "0 3 * *"),
        (["history", "nobody"], "There are no schedules"),
        (["pause"], "NAME"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = listing(place)
    found = failure(capsys, "schedule", *arguments, "--json")
    assert said in found["error"]
    assert found["exit_code"] == 2
    assert listing(place) == before


def test_without_a_command_a_schedule_is_started_or_printed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["lines.yaml", "--cron", "0 3 * * *", "--print", "crontab", "--json"]
    assert call("schedule", *given) == 0
    short = json.loads(capsys.readouterr().out)
    assert call("schedule", "start", *given) == 0
    assert json.loads(capsys.readouterr().out) == short
    assert "0 3 * * *" in short["manifest"]
    assert "retrain" in short["manifest"]


def test_for_kubernetes_a_schedule_is_printed_whole_or_not_at_all(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["lines.yaml", "--cron", "0 3 * * *", "--print", "kubernetes"]
    said = failure(capsys, "schedule", *given, "--json")["error"]
    assert "--image" in said
    given += ["--image", "recurra:cpu"]
    said = failure(capsys, "schedule", *given, "--json")["error"]
    assert "--storage" in said and "--tracking-uri" in said and "data.path" in said
    given += ["--claim", "data", "--tracking-uri", "http://mlflow:5000", "--namespace", "models"]
    assert call("schedule", *given) == 0
    shown = capsys.readouterr().out
    assert call("schedule", *given, "--json") == 0
    # Long lines too, whatever the width of the terminal.
    assert json.loads(capsys.readouterr().out)["manifest"].rstrip() == shown.rstrip()
    assert shown.count("namespace: models") == 8
    assert failure(capsys, "schedule", *given, "--overlap", "queue", "--json")["exit_code"] == 2


def test_with_runs_in_a_bucket_a_cron_job_is_printed_and_what_writes_to_a_folder_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "cache"))
    given = ["lines.yaml", "--cron", "0 3 * * *", "--storage", "s3://runs/team"]
    given += ["--tracking-uri", "http://mlflow:5000", "--set", "data.path=s3://rows/lines.parquet"]
    kubernetes = ["--print", "kubernetes", "--image", "recurra:cpu", "--env-from", "store"]
    assert call("schedule", *given, *kubernetes) == 0
    shown = capsys.readouterr().out
    assert "s3://runs/team" in shown and "kind: CronJob" in shown
    for manifest in ("crontab", "systemd"):
        said = failure(capsys, "schedule", *given, "--print", manifest, "--json")
        assert said["exit_code"] == 2 and "a folder for locks and logs" in said["error"]


@pytest.mark.parametrize(
    "arguments", [["lines.yaml", "--cron", "0 3 * * *"], ["list"], ["history", "lines"], ["run-now", "lines"]]
)
def test_with_runs_in_a_bucket_a_schedule_needs_a_database_that_lasts(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "cache"))
    said = failure(capsys, "schedule", *arguments, "--storage", "s3://runs/team", "--json")
    assert said["exit_code"] == 2
    assert "s3://runs/team is an object store" in said["error"]
    assert "--state postgresql+psycopg://" in said["error"]
    # One that was named is used, and here is not there.
    if arguments[0] != "lines.yaml":
        named = ["--state", f"sqlite:///{tmp_path}/slots.db"]
        said = failure(capsys, "schedule", *arguments, "--storage", "s3://runs/team", *named, "--json")
        assert "slots.db is not there yet" in said["error"]
