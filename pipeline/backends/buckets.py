"""A part of an S3 bucket: objects by their key below a prefix, and writes that only the first one wins.

    bucket = Bucket("s3://runs/team")
    bucket.put("words/a.json", b"...", over=None)     only where there is no such object yet
    bucket.put("words/a.json", b"...", over=etag)     only where it is still the one that was read

A request without an answer is made again, longer and longer apart, for half a minute. Credentials, region and
endpoint come from the AWS_* variables.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from components.errors import StorageError

# Seconds between attempts; boto3's own come within one.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
CONNECT_SECONDS, READ_SECONDS = 5, 60
CONNECTIONS = 16
DELETED_AT_ONCE = 1000
ANY = "*"

_MISSING = {"NoSuchKey", "404"}
_OVERTAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403"}


class Overtaken(Exception):
    """Another process has written the object meanwhile."""


class Away(StorageError):
    """The store gives no answer, or one of a server in trouble."""


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _patient(method: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Tries again while the store is away."""

    @functools.wraps(method)
    def tried(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        for wait in WAITS:
            try:
                return method(*args, **kwargs)
            except Away:
                time.sleep(wait)
        return method(*args, **kwargs)

    return tried


@dataclass(frozen=True)
class Stored:
    """An object as it was read. `age` is in seconds, by the store's own clock."""

    content: bytes
    etag: str
    age: float


class Bucket:
    """The objects below a URL, s3://bucket/prefix. Nothing is asked before the first call.

    Raises, in every method:
        StorageError: the store cannot be reached, refuses the credentials, or has no such bucket.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.name = url, parts.netloc
        self.prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            config=Config(
                retries={"mode": "standard"},
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=CONNECTIONS,
                # Stores that are not Amazon's may know no other checksums; ours are in the manifests.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @_patient
    def get(self, key: str) -> Stored | None:
        """An object; None where there is none."""
        with self._refusals(key):
            try:
                answer = self._client.get_object(Bucket=self.name, Key=self.prefix + key)
                content = answer["Body"].read()
            except Exception as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return Stored(content, answer["ETag"], _age(answer))

    @_patient
    def put(self, key: str, content: bytes, *, over: str | None = ANY) -> str:
        """Write an object; its tag, which changes with its content.

        Args:
            over: the tag of the object that may be replaced; None for none at all, `ANY` for any.

        Raises:
            Overtaken: there is another one.
        """
        conditions = {} if over == ANY else {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with self._refusals(key):
            try:
                return str(
                    self._client.put_object(
                        Bucket=self.name, Key=self.prefix + key, Body=content, **conditions
                    )["ETag"]
                )
            except Exception as error:
                # What was to be replaced may have been deleted.
                if conditions and _code(error) in _OVERTAKEN | _MISSING:
                    raise Overtaken(key) from None
                raise

    @_patient
    def upload(self, path: Path, key: str) -> None:
        """Write an object from a file of any size."""
        with self._refusals(key), path.open("rb") as file:
            self._client.upload_fileobj(file, self.name, self.prefix + key)

    @_patient
    def download(self, key: str, path: Path) -> bool:
        """Read an object into a file; False where there is none."""
        with self._refusals(key):
            try:
                self._client.download_file(self.name, self.prefix + key, str(path))
            except Exception as error:
                if _code(error) in _MISSING:
                    return False
                raise
        return True

    @_patient
    def tags(self, folder: str) -> dict[str, str]:
        """The keys that begin with `folder`, and the tag of each object."""
        with self._refusals(folder):
            return {
                each["Key"].removeprefix(self.prefix): each["ETag"]
                for page in self._pages(Prefix=self.prefix + folder)
                for each in page.get("Contents", ())
            }

    @_patient
    def folders(self) -> list[str]:
        """The first parts of all keys that have several."""
        with self._refusals(""):
            found = [
                each["Prefix"].removeprefix(self.prefix).rstrip("/")
                for page in self._pages(Prefix=self.prefix, Delimiter="/")
                for each in page.get("CommonPrefixes", ())
            ]
        return sorted(found)

    @_patient
    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there do not count."""
        for at in range(0, len(keys), DELETED_AT_ONCE):
            some = [{"Key": self.prefix + key} for key in keys[at : at + DELETED_AT_ONCE]]
            with self._refusals(keys[at]):
                self._client.delete_objects(Bucket=self.name, Delete={"Objects": some, "Quiet": True})

    def _pages(self, **asked: Any) -> Iterator[dict[str, Any]]:
        yield from self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, **asked)

    @contextmanager
    def _refusals(self, key: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, HTTPClientError) as error:
            raise self._told(key, error) from None

    def _told(self, key: str, error: Exception) -> StorageError:
        code, reason = _code(error), str(error).partition("\n")[0]
        place = f"{self.url.rstrip('/')}/{key}".rstrip("/")
        if code == "NoSuchBucket":
            return StorageError(
                f"There is no bucket {self.name!r}.", hint="Make it, or name another one with --storage."
            )
        if code in _REFUSED or type(error).__name__.endswith("CredentialsError"):
            return StorageError(
                f"{place}: the store refuses: {reason}",
                hint="Check the credentials, as in AWS_ACCESS_KEY_ID, and what they may read and write.",
            )
        kind = Away if _is_passing(error) else StorageError
        return kind(
            f"{place}: the store does not answer as it should: {reason}",
            hint="Check the network and the endpoint, as in AWS_ENDPOINT_URL; the same command goes on"
            " from what is stored.",
        )


def _code(error: Exception) -> str:
    answer: Any = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _is_passing(error: Exception) -> bool:
    """Whether the same request may be answered a little later."""
    from botocore.exceptions import ConnectionError, HTTPClientError

    answer: Any = getattr(error, "response", None) or {}
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return isinstance(error, ConnectionError | HTTPClientError) or status >= 500 or status in (408, 429)


def _age(answer: dict[str, Any]) -> float:
    """Seconds since an object was written, by the store's own clock, whatever ours says."""
    from email.utils import parsedate_to_datetime

    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not date:
        return 0.0
    return max(0.0, (parsedate_to_datetime(date) - answer["LastModified"]).total_seconds())
