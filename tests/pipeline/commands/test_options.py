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
    monkeypatch.setenv("RECURRA_ADDRESS", "127.0.0.1:1")
    for address, arguments in (("127.0.0.1:1", []), ("127.0.0.1:2", ["--address", "127.0.0.1:2"])):
        assert call("check", "lines.yaml", *arguments, "--json") == 3
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert f"Nothing answers at {address}" in problem["message"]


@pytest.mark.parametrize("command", [["doctor"], ["check", "lines.yaml"], ["jobs"]])
@pytest.mark.parametrize("address", ["nowhere", "http://[::1", "http://head:99999", "me:S3CR3T@head:6379"])
def test_an_address_that_is_none_is_refused_before_anything_is_tried(
    place: Path, capsys: pytest.CaptureFixture[str], command: list[str], address: str
) -> None:
    assert call(*command, "--address", address, "--json") == 2
    out, err = capsys.readouterr()
    assert "expected host:port, ray://host:port or auto" in json.loads(out)["error"]
    assert "S3CR3T" not in out + err


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


def test_an_object_store_gets_a_working_folder_of_its_own_and_makes_no_folder_here(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    object_store: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RECURRA_CACHE", str(cache))
    before = listing(place)
    said = failure(capsys, "report", "nothing", "--json", "--storage", f"{object_store}/team/")
    assert f"There is no run 'nothing' in {object_store}/team." in said["error"]
    assert len(list(cache.glob("stores/*"))) == 1
    assert listing(place) == before


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("gs://bucket/runs", "expected a folder or s3://bucket/prefix"),
        ("s3://", "expected a folder or s3://bucket/prefix"),
        ("s3://bucket/runs?region=x", "expected a folder or s3://bucket/prefix"),
        ("s3://me:S3CR3T@bucket/runs", "carries a password"),
        ("abfs://account:S3CR3T@host/runs", "expected a folder or s3://bucket/prefix"),
        ("ftp://me:S3CR3T@host/runs", "expected a folder or s3://bucket/prefix"),
        ("gopher://host/runs", "expected a folder or s3://bucket/prefix"),
        ("jar:file:///runs.zip", "expected a folder or s3://bucket/prefix"),
        ("data:runs", "expected a folder or s3://bucket/prefix"),
        ("s3:bucket/runs", "expected a folder or s3://bucket/prefix"),
    ],
)
def test_a_storage_that_cannot_be_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], url: str, told: str
) -> None:
    before = listing(place)
    assert call("plan", "lines.yaml", "--storage", url, "--json") == 2
    out, err = capsys.readouterr()
    assert told in json.loads(out)["error"]
    assert "S3CR3T" not in out + err
    assert listing(place) == before


def test_a_file_is_no_storage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, "plan", "lines.yaml", "--storage", "lines.yaml", "--json")
    assert (said["exit_code"], "is a file" in said["error"]) == (2, True)


def test_a_crontab_with_an_object_store_is_refused(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path_factory.mktemp("cache")))
    before = listing(place)
    when = ("--cron", "0 3 * * *", "--print", "crontab")
    said = failure(capsys, "schedule", "lines.yaml", *when, "--storage", "s3://bucket/runs", "--json")
    assert said["exit_code"] == 2
    assert "s3://bucket/runs is an object store. Name a folder with --storage." in said["error"]
    assert listing(place) == before


@pytest.mark.parametrize(
    "command",
    [("run", "lines.yaml"), ("predict", "models:/lines@champion", "rows.parquet", "-o", "out.parquet")],
)
def test_a_cluster_needs_a_working_folder_that_was_chosen(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    before = listing(place)
    there = ("--address", "ray://head:10001")
    said = failure(capsys, *command, *there, "--storage", "s3://bucket/runs", "--json")
    assert said["exit_code"] == 2
    assert "--address ray://head:10001 needs a folder that all machines see" in said["error"]
    assert "or one with RECURRA_CACHE" in said["error"]
    assert listing(place) == before
