"""What a path is, and what in a URL is secret."""

from pathlib import Path

import pytest

from conf import urls


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rows.csv", False),
        ("/rows.csv", False),
        ("C:/rows.csv", False),
        ("data:text/csv,id", False),
        ("jar:file:///rows.zip", False),
        ("s3://bucket/rows.csv", True),
        ("gopher://host/rows.csv", True),
    ],
)
def test_a_url_is_told_from_a_path(path: str, expected: bool) -> None:
    assert urls.is_url(path) is expected


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("rows.csv", ""),
        ("C:/rows.csv", ""),
        ("S3://bucket/rows.csv", ""),
        ("file:///rows.csv", ""),
        ("run:*.csv", ""),
        ("data:text/csv,id", "data"),
        ("JAR:file:///rows.zip!/rows.csv", "jar"),
        ("ftp://host/*.csv", "ftp"),
    ],
)
def test_a_scheme_that_rows_are_not_read_by_is_named(path: str, scheme: str) -> None:
    assert urls.unknown_scheme(path) == scheme


def test_a_name_with_a_colon_has_no_scheme_where_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "run:1.csv").touch()
    assert urls.unknown_scheme("run:1.csv", folder=str(tmp_path)) == ""
    assert urls.unknown_scheme("run:2.csv", folder=str(tmp_path)) == "run"


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/rows.csv",
        "s3://key:se/cret@bucket/rows.csv",
        "abfs://account:secret@host/rows.csv",
        "http://token@host/rows.csv",
        "https://host/rows.csv?sv=1&sig=secret",
        "https://host/rows.csv?X-Amz-Security-Token=secret",
        "https://host/rows.csv?key=secret",
        "abfs://box@account/rows.csv?client_secret=secret",
    ],
)
def test_a_secret_is_seen(url: str) -> None:
    assert urls.has_secret(url)


@pytest.mark.parametrize(
    "url",
    [
        "rows:1@2.csv",
        "s3://bucket/a:b@c.csv",
        "s3://key@bucket/rows.csv",
        "hdfs://host:8020/a@b.csv",
        "abfs://box@account/rows.csv?credential_kind=cli",
        "s3://bucket/rows.csv?endpoint_override=127.0.0.1:9000&scheme=http",
        "https://host/rows.csv?sort_key=1&design=2",
    ],
)
def test_what_is_no_secret_is_left_alone(url: str) -> None:
    assert not urls.has_secret(url)
