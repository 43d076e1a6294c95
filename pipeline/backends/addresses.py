"""Where MLflow and a cluster live, as users write it: checked, shown without secrets, tried out cheaply.

sqlite:///mlflow.db                     a file, relative to the current folder
postgresql://user:password@host/mlflow  a database (extra `postgres`)
https://mlflow.example.org              a tracking server

The files of models go beside a database: into a folder, or below s3://bucket/prefix (extra `s3`).

auto                                    a Ray cluster that runs on this machine
head:6379                               a Ray cluster, as a machine of it sees it
ray://head:10001                        the same through Ray Client
http://head:8265                        its dashboard, for jobs
"""

import re
import socket
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from components.errors import TrackerError

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
CLUSTER_SCHEMES = ("ray", "http", "https")
AUTO = "auto"
SQLITE = "sqlite:///"
CONNECT_SECONDS = 5.0

# Two letters at least: a drive of Windows is no scheme.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_USER_AND_PASSWORD = re.compile(r"(?<=://)\S*@")
_SECRET_OPTION = re.compile(
    r"(?i)([?&](?:[^=&\s]*(?:passw|pwd|secret|token|key|signature)[^=&\s]*|(?:[^=&\s]*[-_.])?sig)=)[^&\s]+"
)


def absolute(uri: str, folder: Path) -> str:
    """The URI with a relative SQLite path resolved against `folder`.

    Raises:
        ValueError: it is none of the kinds that can be used.
    """
    if scheme_of(uri) not in SCHEMES or "://" not in uri:
        raise ValueError(
            f"the tracking URI is {redact(uri)!r}, expected sqlite:///file.db, http(s)://host or "
            f"postgresql://host/database"
        )
    if not uri.startswith("sqlite:"):
        try:
            _ = urlsplit(uri).port
        except ValueError:
            # What Python says may quote a password that holds a slash.
            raise ValueError(f"the tracking URI {redact(uri)!r} has no usable host and port") from None
        return uri.rstrip("/")
    path, _, options = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or path in ("", ":memory:"):
        raise ValueError(f"the tracking URI is {uri!r}, expected sqlite:/// and the path of a file")
    return f"{SQLITE}{(folder / path).resolve()}{'?' if options else ''}{options}"


def artifact_root(place: str, folder: Path, *, tracking_uri: str) -> str:
    """The URI below which the files of runs and models go; a folder is resolved against `folder`.

    Raises:
        ValueError: it is none of the kinds that can be used, holds a password, needs a library that is not
            there, or a tracking server decides instead.
    """
    if scheme_of(tracking_uri) in ("http", "https"):
        raise ValueError(
            "a tracking server decides itself where files go (`mlflow server --artifacts-destination`); "
            "leave it out"
        )
    if is_folder(place, folder):
        return (folder / place).resolve().as_uri()
    return store_url(place)


def is_folder(place: str, folder: Path) -> bool:
    """Whether a place for files is a folder: `s3:bucket` is no new one, but a URL with a mistake."""
    return not _SCHEME.match(place) or ("://" not in place and (folder / place).exists())


def store_url(place: str) -> str:
    """The URL of a part of an S3 bucket, as it can be used.

    Raises:
        ValueError: it is of another kind, holds a password, or needs a library that is not there.
    """
    try:
        parts = urlsplit(place)
    except ValueError:  # Python's own may quote a password
        parts = urlsplit("")
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"received {redact(place)!r}, expected a folder or s3://bucket/prefix")
    if "@" in parts.netloc:
        raise ValueError(
            "the URL carries a password; give keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if util.find_spec("boto3") is None:
        raise ValueError("s3:// needs boto3: pip install 'recurra[s3]'")
    return place.rstrip("/")


@dataclass(frozen=True)
class ClusterAddress:
    """What the address of a cluster says; `scheme` is empty for `host:port` and for `auto`."""

    scheme: str
    host: str  # without the brackets of IPv6
    port: int | None  # None where a dashboard's URL leaves it out, and for `auto`


def cluster_address(address: str) -> ClusterAddress:
    """The parts of the address of a cluster or of its dashboard.

    Raises:
        ValueError: it is none.
    """
    if address == AUTO:
        return ClusterAddress("", "127.0.0.1", None)
    shown = redact(address) if "://" in address else re.sub(r"^\S*@", "***@", address)
    wrong = ValueError(
        f"--address is {shown!r}, expected host:port, ray://host:port or auto; for jobs http://host:8265"
    )
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        found = ClusterAddress(parts.scheme, parts.hostname or "", parts.port)
        found.host.encode("idna")  # as whoever looks the name up will do
    except ValueError:  # Python's own may quote a password
        raise wrong from None
    needs_port = found.scheme not in ("http", "https")
    if (
        found.scheme not in ("", *CLUSTER_SCHEMES)
        or not found.host
        or re.search(r"\s", address)
        or (needs_port and not found.port)
        or (needs_port and (parts.path or parts.query or parts.fragment or "@" in parts.netloc))
    ):
        raise wrong
    return found


def scheme_of(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg://...`."""
    return uri.partition(":")[0].partition("+")[0].lower()


def redact(text: str) -> str:
    """`text` with user names, passwords and secret options of the URIs in it masked."""
    return _SECRET_OPTION.sub(r"\1***", _USER_AND_PASSWORD.sub("***@", text))


def sqlite_path(uri: str) -> Path | None:
    """The file of an absolute SQLite URI; None for other kinds."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def probe(uri: str) -> None:
    """Fail soon where nothing can be there: MLflow itself tries for minutes, or, with a database, an hour.

    Raises:
        TrackerError: nothing listens at the address, or the file's folder cannot be written.
    """
    path = sqlite_path(uri)
    if path is not None:
        _probe_file(path)
        return
    parts = urlsplit(uri)
    host, port = parts.hostname, parts.port or PORTS[scheme_of(uri)]
    # A database's Unix socket, or a server that only a proxy reaches.
    if host is None or (parts.scheme in getproxies() and not proxy_bypass(host)):
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise no_answer(uri, error) from error


def no_answer(uri: str, why: BaseException) -> TrackerError:
    """The error of an MLflow that cannot be reached, or that answers with nothing of use."""
    return TrackerError(
        f"MLflow does not answer at {redact(uri)}: {getattr(why, 'strerror', None) or redact(str(why))}.",
        hint="Is the server up? Another one can be named with --tracking-uri.",
    )


def _probe_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise TrackerError(
            f"MLflow's database {path} cannot be written: {error.strerror or error}.",
            hint="Choose another place with --tracking-uri sqlite:///PATH.",
        ) from error
