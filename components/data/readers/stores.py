"""Object stores: what a URL says, the file system that answers it, and how a refusal is told.

    s3://key:secret@bucket/folder/a.parquet?endpoint_override=127.0.0.1:9000&scheme=http
    scheme  user    host   key              query

S3 takes the AWS_* variables (credentials, profile, region, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL); the URL
goes before them. Other schemes that pyarrow knows (gs, abfs, hdfs) take their own; http, https and hf are
fsspec's.
"""

import contextlib
import functools
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa
from pyarrow import fs

from components.data.readers import hosts
from components.errors import DataError, Problem, StorageError
from conf.urls import DATA_SCHEMES, EXPECTED, without_secret_options

URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    # A secret may hold slashes, though it should not; a port may not be taken for one.
    r"(?:(?P<user>[^/@:]*(?::(?!\d+(?:/|$))[^@]*)?)@)?"
    r"(?P<host>[^/?]*)(?P<key>/.*?)?"
    r"(?P<query>\?[A-Za-z_]+=[^?]*)?",
    re.DOTALL,
)
S3_SCHEMES = ("s3", "s3a", "s3n")
GCS_SCHEMES = ("gs", "gcs")
# There the name before the `@` is a container's, and only what follows its colon is secret.
AZURE_SCHEMES = ("abfs", "abfss")
WEB_SCHEMES = ("http", "https")
S3_KEYS = ("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion")

# Keys of a query that say where requests go.
ENDPOINTS = ("endpoint_override", "blob_storage_authority", "dfs_storage_authority")

# Three attempts that get no answer end within 30 seconds; a URL's own strategy tries for 100.
NUM_ATTEMPTS = 3
CONNECT_SECONDS = 3
REQUEST_SECONDS = 6
GCS_RETRY_SECONDS = 20
REGION_URL = "https://s3.amazonaws.com"

MISSING = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "NoSuchBucket", "not found")
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS|EXPIRED|UNAUTHORIZED"
    r"|HTTP status 40[13]|PERMISSION_DENIED|Unauthenticated|AuthenticationFailed|Anonymous caller"
)


@dataclass(frozen=True)
class Address:
    """What a URL says."""

    scheme: str
    user: str
    host: str
    key: str
    query: str  # with its `?`

    @property
    def shown(self) -> str:
        """Without credentials and query."""
        return self.with_key(self.key)

    @property
    def written(self) -> str:
        """As it may be written down: without credentials, with what else the query says."""
        return self.shown + without_secret_options(self.query)

    def with_key(self, key: str | None = None) -> str:
        """The URL of another key, or of this one, without credentials and query."""
        container = self.user.partition(":")[0] if self.scheme in AZURE_SCHEMES and self.user else ""
        at = f"{container}@" if container else ""
        return f"{self.scheme}://{at}{self.host}/{self.key if key is None else key}".rstrip("/")

    def url(self, key: str) -> str:
        """The whole URL of another key."""
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.host}/{key}{self.query}"


@functools.lru_cache(maxsize=4096)
def parse(url: str) -> Address:
    """The parts of a URL; empty parts between slashes do not count.

    Raises:
        DataError: it has no scheme or names no host.
    """
    hit = URL.fullmatch(url)
    if hit is None or not (hit["host"] or hit["key"]):
        raise _problem(url.partition("://")[0] + "://", "expected scheme://bucket/path")
    key = "/".join(part for part in (hit["key"] or "").split("/") if part)
    return Address(hit["scheme"].lower(), hit["user"] or "", hit["host"], key, hit["query"] or "")


def connect(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URL, and the path of its key there. See `refusals` for what goes wrong.

    Raises:
        DataError: rows are not read by its scheme, or it leads to an address of the network's own, where
            clouds give credentials away.
    """
    address = parse(url)
    _check(address)
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    store, base = _connected(address.url(""), environment)
    if isinstance(store, fs.PyFileSystem):
        return store, f"{base.rstrip('/')}/{address.key}{address.query}".rstrip("/")
    return store, f"{base.rstrip('/')}/{address.key}".rstrip("/") or "/"


@contextlib.contextmanager
def refusals(url: str) -> Iterator[None]:
    """Turns what a store answers into our errors, with nothing secret in them.

    Raises:
        FileNotFoundError: passes, as other errors with a number of the system's do.
        DataError: the URL cannot be understood, or there is no such bucket.
        StorageError: the store cannot be reached, or refuses the credentials.
    """
    address = parse(url)
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _problem(address.shown, f"not a URL that can be read: {_reason(address, error)}") from None
    except FileNotFoundError as error:
        if error.errno is None:  # fsspec's, which quotes the whole URL
            raise FileNotFoundError(2, "No such file or directory", address.shown) from None
        raise
    except OSError as error:
        reason = _reason(address, error)
        if any(sign in reason for sign in MISSING):
            raise _problem(address.shown, f"no such bucket: {reason}") from None
        hint = "Check the credentials, as in AWS_ACCESS_KEY_ID, and what they may read."
        if isinstance(error, PermissionError) or REFUSED.search(reason):
            raise StorageError(f"{address.shown}: the store refuses: {reason}", hint=hint) from None
        hint = "Check the network and the endpoint, as in AWS_ENDPOINT_URL."
        raise StorageError(f"{address.shown}: the store cannot be reached: {reason}", hint=hint) from None


def _check(address: Address) -> None:
    """Refuse a scheme that is not read, and hosts that nothing is to be read from."""
    if address.scheme not in DATA_SCHEMES:
        raise _problem(address.shown, f"{address.scheme}:// is not read, {EXPECTED}")
    # Where a key stands twice, libraries differ in which one they take.
    places = [value for key, value in parse_qsl(address.query.lstrip("?")) if key in ENDPOINTS]
    if address.scheme not in (*S3_SCHEMES, *GCS_SCHEMES, *AZURE_SCHEMES):  # there it is a bucket's name
        places.append(address.host)
    for name in filter(None, map(hosts.name_of, places)):
        if name.startswith("."):  # Azure's: it follows the account's name
            name = address.host.partition(".")[0] + name
        if message := hosts.objection(name):
            raise _problem(address.shown, message)


def _problem(shown: str, message: str) -> DataError:
    problem = Problem(file=shown, message=message)
    return DataError("The data cannot be found or read.", problems=[problem], hint="See data.path.")


def _reason(address: Address, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    secrets = [address.user, *address.user.split(":", 1), address.query.lstrip("?")]
    for secret in filter(
        None, [*secrets, *map(unquote, secrets), *(quote(one, safe=":%") for one in secrets)]
    ):
        reason = reason.replace(secret, "***") if len(secret) > 3 else reason
    return reason


# The environment is an argument because what it says is part of what is cached.
@functools.lru_cache(maxsize=64)
def _connected(url: str, environment: tuple[tuple[str, str], ...]) -> tuple[fs.FileSystem, str]:
    address = parse(url)
    if address.scheme in S3_SCHEMES:
        return _s3(address, dict(environment)), address.host
    if address.scheme in WEB_SCHEMES:
        return _web(address)
    user = quote(address.user, safe=":%") + "@" if address.user else ""
    query = address.query
    if address.scheme in GCS_SCHEMES and "retry_limit_seconds" not in query:
        query += f"{'&' if query else '?'}retry_limit_seconds={GCS_RETRY_SECONDS}"
    try:
        store, base = fs.FileSystem.from_uri(f"{address.scheme}://{user}{address.host}/{query}")
    except ImportError as error:  # it names the package that the scheme needs
        raise pa.ArrowInvalid(str(error)) from None
    return store, base


def _s3(address: Address, environment: dict[str, str]) -> fs.FileSystem:
    options = dict(parse_qsl(address.query.lstrip("?"), keep_blank_values=True))
    unknown = [key for key in options if key not in S3_KEYS]
    if unknown:
        raise pa.ArrowInvalid(f"unknown {unknown[0]!r} in the query, expected {', '.join(S3_KEYS)}")
    endpoint = options.get("endpoint_override")
    if not endpoint:
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    scheme, separator, rest = (endpoint or "").rpartition("://")
    key, _, secret = address.user.partition(":")
    region = options.get("region") or (None if endpoint else _region(address.host, environment))
    return fs.S3FileSystem(
        access_key=unquote(key) or None,
        secret_key=unquote(secret) or None,
        region=region or None,
        endpoint_override=rest.rstrip("/") or None,
        scheme=options.get("scheme") or (scheme if separator else "https"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=NUM_ATTEMPTS),
    )


def _region(bucket: str, environment: dict[str, str]) -> str:
    """Where a bucket of Amazon's is; pyarrow.fs.resolve_s3_region would try for minutes when cut off."""
    known = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
    request = urllib.request.Request(f"{REGION_URL}/{quote(bucket)}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return answer.headers.get("x-amz-bucket-region") or known
    except urllib.error.HTTPError as error:
        with error:
            found: str | None = error.headers.get("x-amz-bucket-region")
            return found or known
    except OSError:
        # A network that lets only its own region through.
        if known:
            return known
        raise


def _web(address: Address) -> tuple[fs.FileSystem, str]:
    # Imported where it is needed: it takes a third of a second.
    from components.data.readers.web import file_system

    return fs.PyFileSystem(fs.FSSpecHandler(file_system(address.host))), f"{address.scheme}://{address.host}/"
