import socket
import time

import pytest

from components.errors import TrackerError
from pipeline.backends.addresses import (
    ClusterAddress,
    absolute,
    artifact_root,
    cluster_address,
    probe,
    redact,
    scheme_of,
    sqlite_path,
)


def test_a_relative_database_is_resolved_against_the_folder(tmp_path):
    assert absolute("sqlite:///mlflow.db", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute("sqlite:///../m.db?timeout=5", tmp_path) == f"sqlite:///{tmp_path.parent}/m.db?timeout=5"


@pytest.mark.parametrize(
    "uri", ["sqlite:////srv/mlflow.db", "http://host:5000", "postgresql+psycopg://host/mlflow"]
)
def test_what_is_absolute_already_stays_as_it_is(tmp_path, uri):
    assert absolute(uri, tmp_path) == uri


@pytest.mark.parametrize(
    "uri", ["", "mlflow.db", "file:///mlruns", "./mlruns", "ftp://host", "sqlite://", "sqlite:///:memory:"]
)
def test_what_cannot_be_used_is_refused_with_what_can(tmp_path, uri):
    with pytest.raises(ValueError, match=r"the tracking URI is '.*', expected sqlite:///"):
        absolute(uri, tmp_path)


def test_the_path_of_a_database_is_known_and_a_server_has_none(tmp_path):
    assert sqlite_path(f"sqlite:///{tmp_path}/mlflow.db") == tmp_path / "mlflow.db"
    assert sqlite_path("http://host") is None
    assert scheme_of("postgresql+psycopg://host") == "postgresql"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:S3CR3T@host/x failed", "https://***@host/x failed"),
        ("postgresql://me:S3CR3T/@@host/db", "postgresql://***@host/db"),
        ("postgresql://host/db?password=S3CR3T&a=1", "postgresql://host/db?password=***&a=1"),
        ("https://host?X-Token=S3CR3T", "https://host?X-Token=***"),
        ("https://host/a?sv=1&sig=S3CR3T", "https://host/a?sv=1&sig=***"),
        ("https://host/a?X-Amz-Signature=S3CR3T&x=1", "https://host/a?X-Amz-Signature=***&x=1"),
        ("abfs://account:S3CR3T@host/a", "abfs://***@host/a"),
        ("https://host/a?design=2", "https://host/a?design=2"),
        ("models:/words@champion in http://host", "models:/words@champion in http://host"),
    ],
)
def test_secrets_are_masked_and_the_rest_is_kept(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("address", "scheme", "host", "port"),
    [
        ("auto", "", "127.0.0.1", None),
        ("head:6379", "", "head", 6379),
        ("[::1]:6379", "", "::1", 6379),
        ("ray://head:10001", "ray", "head", 10001),
        ("http://head:8265", "http", "head", 8265),
        ("https://ray.example.org", "https", "ray.example.org", None),
    ],
)
def test_the_address_of_a_cluster_is_taken_apart(address, scheme, host, port):
    assert cluster_address(address) == ClusterAddress(scheme, host, port)


@pytest.mark.parametrize(
    "address",
    [
        *("", "head", "head:port", ":6379", "head:0", "head:70000", "head:6379/x", "a b:1", "a..b:6379"),
        *("http://", "http://head:port", "http://[::1", "gopher://head:70", "ray://head", "ray://me@head:1"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused_in_words(address):
    with pytest.raises(ValueError, match=r"^--address is .*, expected host:port, ray://host:port or auto"):
        cluster_address(address)


@pytest.mark.parametrize("address", ["me:S3CR3T@head:6379", "ray://me:S3CR3T@head:1", "http://S3CR3T@h:x"])
def test_a_password_in_an_address_is_not_repeated(address):
    with pytest.raises(ValueError, match=r"\*\*\*@h") as refused:
        cluster_address(address)
    assert "S3CR3T" not in str(refused.value)


def test_a_dead_address_is_found_dead_soon_and_named_without_its_password():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(TrackerError, match=rf"does not answer at http://\*\*\*@127.0.0.1:{port}: ") as caught:
        probe(f"http://me:S3CR3T@127.0.0.1:{port}")
    assert time.monotonic() - begun < 6
    assert caught.value.exit_code == 3


def test_a_listening_address_passes():
    with socket.create_server(("127.0.0.1", 0)) as server:
        probe(f"http://127.0.0.1:{server.getsockname()[1]}/path")


def test_a_database_in_a_new_folder_passes(tmp_path):
    probe(f"sqlite:///{tmp_path}/new/mlflow.db")


def test_a_database_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("", "utf8")
    with pytest.raises(TrackerError, match=r"file/mlflow\.db cannot be written"):
        probe(f"sqlite:///{tmp_path}/file/mlflow.db")


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("files", "file://{folder}/files"),
        ("/srv/files", "file:///srv/files"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_files_go_to_a_folder_or_an_object_store(tmp_path, place, uri):
    found = artifact_root(place, tmp_path, tracking_uri="sqlite:////srv/mlflow.db")
    assert found == uri.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("place", "tracking_uri", "said"),
    [
        ("gs://bucket", "sqlite:////srv/mlflow.db", "expected a folder or s3://bucket/prefix"),
        ("data:files", "sqlite:////srv/mlflow.db", "expected a folder or s3://bucket/prefix"),
        ("abfs://account:S3CR3T@host", "sqlite:////srv/mlflow.db", "expected a folder or s3://bucket/prefix"),
        ("s3://", "sqlite:////srv/mlflow.db", "expected a folder or s3://bucket/prefix"),
        ("s3://key:S3CR3T@bucket", "postgresql://host/mlflow", "carries a password"),
        ("s3://key:S3CR3T@[bucket", "postgresql://host/mlflow", "expected a folder or s3://bucket/prefix"),
        ("s3://bucket?secret=S3CR3T", "postgresql://host/mlflow", "expected a folder"),
        ("files", "http://mlflow.example.org", "a tracking server decides itself"),
    ],
)
def test_other_places_for_files_are_refused_without_telling_a_secret(tmp_path, place, tracking_uri, said):
    with pytest.raises(ValueError, match=said) as caught:
        artifact_root(place, tmp_path, tracking_uri=tracking_uri)
    assert "S3CR3T" not in str(caught.value)


def test_an_object_store_without_its_library_is_refused_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"recurra\[s3\]"):
        artifact_root("s3://bucket", tmp_path, tracking_uri="sqlite:////srv/mlflow.db")
