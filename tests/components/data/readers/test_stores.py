"""What a URL of an object store says, and what is never shown; test_paths asks a real server."""

import re
import socket

import pytest

from components.data.readers import stores
from components.errors import DataError, StorageError


@pytest.mark.parametrize(
    ("url", "parts", "shown"),
    [
        ("s3://bucket/a/b.csv", ("s3", "", "bucket", "a/b.csv", ""), "s3://bucket/a/b.csv"),
        ("s3://key:se/cret@bucket/a", ("s3", "key:se/cret", "bucket", "a", ""), "s3://bucket/a"),
        (
            "s3://bucket/a?endpoint_override=127.0.0.1:9000&scheme=http",
            ("s3", "", "bucket", "a", "?endpoint_override=127.0.0.1:9000&scheme=http"),
            "s3://bucket/a",
        ),
        ("gs://bucket", ("gs", "", "bucket", "", ""), "gs://bucket"),
        ("hdfs://host:8020/a", ("hdfs", "", "host:8020", "a", ""), "hdfs://host:8020/a"),
        (
            "abfs://container@account/a",
            ("abfs", "container", "account", "a", ""),
            "abfs://container@account/a",
        ),
        (
            "abfs://container:key@account/a",
            ("abfs", "container:key", "account", "a", ""),
            "abfs://container@account/a",
        ),
    ],
)
def test_a_url_is_taken_apart_and_shown_without_what_is_secret(
    url: str, parts: tuple[str, ...], shown: str
) -> None:
    address = stores.parse(url)
    assert (address.scheme, address.user, address.host, address.key, address.query) == parts
    assert address.shown == shown


def test_a_question_mark_in_a_key_is_part_of_it() -> None:
    assert stores.parse("s3://bucket/what?.csv").key == "what?.csv"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (OSError("AWS Error NO_SUCH_BUCKET during HeadBucket"), DataError, 2),
        (OSError("AWS Error ACCESS_DENIED for sesame-open"), StorageError, 3),
        (OSError("AWS Error NETWORK_CONNECTION: curlCode: 7"), StorageError, 3),
    ],
)
def test_what_a_retry_can_help_has_another_exit_code_and_no_secret_is_told(
    error: OSError, kind: type[Exception], code: int
) -> None:
    with pytest.raises(kind) as caught, stores.refusals("s3://key:sesame-open@bucket/a.csv"):
        raise error
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert "sesame" not in str(caught.value)
    assert "s3://bucket/a.csv" in str(caught.value)


@pytest.mark.parametrize(
    "scheme", ["nowhere", "gopher", "ftp", "sftp", "jar", "data", "memory", "zip", "github", "smb", "local"]
)
def test_a_scheme_that_rows_are_not_read_by_is_refused_with_those_that_are(scheme: str) -> None:
    url = f"{scheme}://bucket/a.csv"
    with pytest.raises(DataError, match=rf"{scheme}:// is not read, expected .*s3://.*https://") as caught:
        stores.connect(url)
    assert caught.value.exit_code == 2


def test_a_scheme_whose_library_is_missing_names_it() -> None:
    url = "hf://datasets/someone/rows/a.csv"
    with pytest.raises(DataError, match="huggingface_hub"), stores.refusals(url):
        stores.connect(url)


def test_a_file_that_a_library_misses_is_told_without_its_query() -> None:
    url = "https://host/a.csv?sig=S3CR3T"
    with pytest.raises(FileNotFoundError) as caught, stores.refusals(url):
        raise FileNotFoundError(url)
    assert (caught.value.filename, "S3CR3T" in str(caught.value)) == ("https://host/a.csv", False)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/a.csv",
        "http://[fd00:ec2::254]/latest/a.csv",
        "http://[::ffff:169.254.169.254]/a.csv",
        "http://2852039166/a.csv",
        "http://0xa9fea9fe/a.csv",
        "http://[64:ff9b::a9fe:a9fe]/a.csv",
        "s3://bucket/a.parquet?endpoint_override=x@169.254.169.254",
        "s3://bucket/a.parquet?endpoint_override=fd00:ec2::254",
        "s3://bucket/a.parquet?endpoint_override=169.254.169.254:80&scheme=http",
        "s3://bucket/a.parquet?endpoint_override=http://100.100.100.200",
        "gs://bucket/a.csv?endpoint_override=169.254.169.254&endpoint_override=example.invalid",
        "abfs://c@account.dfs.core.windows.net/a.csv?blob_storage_authority=169.254.169.254",
        "abfs://c@account.dfs.core.windows.net/a.csv?dfs_storage_authority=169.254.169.254:80",
    ],
)
def test_addresses_where_clouds_give_credentials_away_are_refused(url: str) -> None:
    with pytest.raises(DataError, match="an address of this machine's network itself") as caught:
        stores.connect(url)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["169.254.169.254#.example.org", "169.254.169.254\\.example.org"])
def test_a_host_that_libraries_may_read_differently_is_refused(host: str) -> None:
    with pytest.raises(DataError, match="in the name of a host") as caught:
        stores.connect(f"http://{host}/a.csv")
    assert caught.value.exit_code == 2


def test_a_name_with_an_empty_part_is_no_fault_of_ours() -> None:
    assert stores.connect("http://a..b/a.csv")[1] == "http://a..b/a.csv"


AZURE = "abfs://c@account.dfs.core.windows.net/a.csv?blob_storage_authority="


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://innocent.example.org/a.csv", "innocent.example.org"),
        ("http://metadata/a.csv", "metadata"),
        (f"{AZURE}.example.org", "account.example.org"),
    ],
)
def test_a_name_that_leads_there_is_refused_too(monkeypatch: pytest.MonkeyPatch, url: str, name: str) -> None:
    # No name server of the tests' own.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, port: found)
    with pytest.raises(DataError, match=f"{re.escape(name)} is an address of this machine's network"):
        stores.connect(url)
