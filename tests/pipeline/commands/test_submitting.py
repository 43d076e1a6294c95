"""Commands over jobs, at their edge: what is refused, and what a dry run prints."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.end_to_end.test_cluster import free_port
from tests.pipeline.conftest import call, failure, listing

pytestmark = pytest.mark.usefixtures("handlers")


def test_a_dry_run_prints_what_would_be_sent_and_touches_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_TRACKING_URI", "http://user:S3CR3T-xyz@mlflow:5000")
    before = listing(place)
    changes = ["--set", "train.epochs=2", "--secret", "AWS_SECRET_ACCESS_KEY", "--require-gpu"]
    assert call("submit", "lines.yaml", *changes, "--stop-grace", "9", "--dry-run", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "S3CR3T" not in out + err
    assert found["argv"][3:8] == ["run", "lines.yaml", "--set", "train.epochs=2", "--require-gpu"]
    assert found["runtime_env"]["env_vars"] == {
        "AWS_SECRET_ACCESS_KEY": "***",
        "RAY_JOB_STOP_WAIT_TIME_S": "9",
        "RECURRA_STORAGE": str(place / "runs"),
        "RECURRA_TRACKING_URI": "***",
    }
    assert found["data"] == [str(place / "lines.parquet")]
    assert len(found["package"]["largest"]) == 10
    assert listing(place) == before


@pytest.mark.parametrize("command", [["submit", "lines.yaml"], ["jobs"], ["logs", "j"], ["stop", "j"]])
def test_without_an_address_the_dashboards_is_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    said = failure(capsys, *command, "--json")
    assert said["exit_code"] == 2
    assert "--address http://HOST:8265" in said["error"]


@pytest.mark.parametrize("command", [["submit", "lines.yaml"], ["jobs"], ["logs", "j"], ["stop", "j"]])
def test_a_dead_address_is_told_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = free_port()
    said = failure(capsys, *command, "--address", f"http://127.0.0.1:{port}", "--json")
    assert said["exit_code"] == 3
    assert f"127.0.0.1:{port}" in said["error"]
    assert listing(place) == ["lines.parquet", "lines.yaml"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--command", "prepare", "--require-gpu"], "--require-gpu"),
        (["--command", "retrain", "--new-search"], "--new-search"),
        (["--command", "train", "--override", "because"], "--override"),
        (["--command", "serve"], "--command"),
        (["--stop-grace", "0"], "--stop-grace"),
        (["--secret", "A=S3CR3T-xyz"], "--secret"),
        (["--set", "train.epochs=0"], "train.epochs"),
        (["--set", "data.format=nowhere_to_be.found:read"], "nowhere_to_be"),
        (["--address", "ray://head:10001"], "http://host:8265"),
    ],
)
def test_what_cannot_be_submitted_is_refused_before_anything_is_sent(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    found = failure(capsys, "submit", "lines.yaml", "--address", "http://127.0.0.1:9", *arguments, "--json")
    assert found["exit_code"] == 2
    assert said in found["error"]
    assert "S3CR3T" not in found["error"]
    assert listing(place) == ["lines.parquet", "lines.yaml"]


def test_for_kubernetes_a_run_is_printed_under_a_name_of_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["lines.yaml", "--print", "kubernetes", "--image", "recurra:cpu", "--command", "train", "--json"]
    said = failure(capsys, "submit", *given)
    assert "--tracking-uri" in said["error"] and "data.path" in said["error"]
    given += ["--claim", "data", "--tracking-uri", "http://mlflow:5000"]
    assert call("submit", *given) == 0
    settings, job = YAML(typ="safe").load_all(json.loads(capsys.readouterr().out)["manifest"])
    assert (settings["kind"], job["kind"]) == ("ConfigMap", "RayJob")
    assert job["metadata"]["name"].startswith("recurra-lines-2")
    assert "recurra train" in job["spec"]["entrypoint"]
    assert failure(capsys, "submit", *given, "--override", "so be it")["exit_code"] == 2


def test_for_kubernetes_runs_may_be_in_a_bucket_which_is_not_asked(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3CR3T-xyz")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    given = ["lines.yaml", "--print", "kubernetes", "--image", "recurra:cpu", "--storage", "s3://runs/team"]
    given += ["--tracking-uri", "http://mlflow:5000", "--set", "data.path=s3://rows/lines.parquet"]
    given += ["--env-from", "store", "--service-account", "trainer"]
    assert call("submit", *given, "--json") == 0
    text = json.loads(capsys.readouterr().out)["manifest"]
    assert "S3CR3T" not in text and str(tmp_path) not in text and "persistentVolumeClaim" not in text
    _, job = YAML(typ="safe").load_all(text)
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
