"""Objects of a bucket, of which only the first writer wins; and what a store that is away is told of."""

import socket
import time
from pathlib import Path

import pytest

from components.errors import StorageError
from pipeline.backends import buckets
from pipeline.backends.buckets import Bucket, Overtaken


@pytest.fixture
def bucket(object_store: str) -> Bucket:
    return Bucket(f"{object_store}/deep/er")


def test_objects_are_written_read_listed_and_deleted_below_the_prefix(
    bucket: Bucket, object_store: str, tmp_path: Path
) -> None:
    tag = bucket.put("words/a.json", b"one")
    (tmp_path / "b").write_bytes(b"two")
    bucket.upload(tmp_path / "b", "words/b")
    found = bucket.get("words/a.json")
    assert found is not None
    assert (found.content, found.etag) == (b"one", tag)
    assert 0 <= found.age < 60
    assert list(bucket.tags("words/")) == ["words/a.json", "words/b"]
    assert bucket.folders() == ["words"]
    assert list(Bucket(object_store).tags("")) == ["deep/er/words/a.json", "deep/er/words/b"]
    assert bucket.download("words/b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"two"
    bucket.delete(["words/a.json", "words/b", "words/never"])
    assert bucket.get("words/a.json") is None
    assert not bucket.download("words/b", tmp_path / "d")
    assert bucket.tags("") == {}


def test_of_two_writers_the_first_one_wins(bucket: Bucket) -> None:
    first = bucket.put("claim", b"mine", over=None)
    with pytest.raises(Overtaken):
        bucket.put("claim", b"yours", over=None)
    second = bucket.put("claim", b"mine, later", over=first)
    with pytest.raises(Overtaken):
        bucket.put("claim", b"yours", over=first)
    bucket.delete(["claim"])
    with pytest.raises(Overtaken):
        bucket.put("claim", b"yours", over=second)


def test_a_bucket_that_is_not_there_is_named(object_store: str) -> None:
    with pytest.raises(StorageError, match="There is no bucket 'nobodys'"):
        Bucket("s3://nobodys/runs").put("a", b"")


def test_a_store_that_is_away_is_tried_again_and_then_told_of(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host, port = closed.getsockname()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setattr(buckets, "WAITS", (0.1, 0.2))
    began = time.monotonic()
    with pytest.raises(StorageError, match="does not answer") as caught:
        Bucket(f"{object_store}/runs").get("words/a.json")
    assert f"{object_store}/runs/words/a.json" in str(caught.value)
    assert "AWS_ENDPOINT_URL" in caught.value.hint
    assert time.monotonic() - began >= 0.3


def test_a_refusal_is_told_without_the_secret(object_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(StorageError, match="the store refuses") as caught:
        Bucket(object_store).get("a")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
