"""The options that all commands share."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import call, failure, listing

pytestmark = pytest.mark.usefixtures("handlers")


def test_storage_and_tracker_are_made_absolute_and_can_come_from_variables(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_STORAGE", "elsewhere")
    said = failure(capsys, "report", "nothing", "--json")
    assert str(place / "elsewhere") in said["error"]
    said = failure(capsys, "report", "nothing", "--json", "--storage", "here")
    assert str(place / "here") in said["error"]
    said = failure(capsys, "models", "nobody", "--json", "--tracking-uri", "sqlite:///")
    assert "--tracking-uri" in said["error"]


def test_tracker_and_cluster_can_come_from_variables_and_an_option_goes_before(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_TRACKING_URI", "sqlite:///theirs.db")
    assert str(place / "theirs.db") in failure(capsys, "models", "nobody", "--json")["error"]
    option = ["--tracking-uri", "sqlite:///ours.db"]
    assert str(place / "ours.db") in failure(capsys, "models", "nobody", *option, "--json")["error"]
    monkeypatch.setenv("RECURRA_ADDRESS", "nowhere")
    for address, arguments in (("nowhere", []), ("elsewhere", ["--address", "elsewhere"])):
        assert call("check", "lines.yaml", *arguments, "--json") == 3
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert f"--address is '{address}', expected host:port" in problem["message"]


@pytest.mark.parametrize(
    "uri", ["ftp://me:S3CR3T@host", "http://me:S3CR3T/x@host", "http://me:S3CR3T@host:x"]
)
def test_a_tracker_that_cannot_be_is_refused_without_its_password(
    place: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    assert call("models", "nobody", "--tracking-uri", uri, "--json") == 2
    out, err = capsys.readouterr()
    assert "--tracking-uri" in json.loads(out)["error"]
    assert "***@host" in out
    assert "S3CR3T" not in out + err


def test_a_place_for_files_is_refused_where_a_server_decides(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(place)
    said = failure(
        capsys, "run", "lines.yaml", "--tracking-uri", "http://127.0.0.1:1", "--artifacts", "files", "--json"
    )
    assert said["exit_code"] == 2
    assert "--artifacts" in said["error"]
    assert "a tracking server decides itself" in said["error"]
    assert listing(place) == before


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "0", "two"])
def test_a_number_that_is_none_lies_in_no_range(
    place: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    said = failure(capsys, "check", "lines.yaml", "--sample", number, "--json")
    assert said["exit_code"] == 2
    assert "--sample" in said["error"]
