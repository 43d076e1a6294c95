"""What stands open around an installation: doors without a lock, files that others can read.

    a cluster's dashboard    whoever reaches its Jobs API without a token can run anything there
    an MLflow server         whoever reaches it can change models and aliases
    token files, databases   read by others on this machine

Nothing is changed, and no secret is sent: every door is tried as a stranger would try it.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pipeline.backends.addresses import AUTO, PORTS, cluster_address, redact, sqlite_path
from pipeline.backends.cluster import TOKEN

DASHBOARD_PORT = 8265
ASK_SECONDS = 3.0
REFUSED = (401, 403)  # any other answer says nothing of who is let in
# What setup.cfg asks of the library here; older servers lack guards such as a list of allowed hosts.
MLFLOW_FLOOR = (3, 17)
# Reserved for documentation: asking which address would be used to reach them sends nothing.
ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN_PATH", "RECURRA_TOKEN_FILE")

Status = Literal["closed", "open"]


@dataclass(frozen=True)
class Exposure:
    """A door that was tried."""

    what: str
    found: str
    status: Status
    hint: str = ""


def exposures(*, address: str | None, tracking_uri: str) -> list[Exposure]:
    """Every door that is there; what is not there is left out.

    Raises:
        ValueError: the address is none.
    """
    return [*_dashboard(address), *_tracker(tracking_uri), *_token_files(), *_database(tracking_uri)]


def _dashboard(address: str | None) -> Iterator[Exposure]:
    at = cluster_address(address or AUTO)
    host, port, scheme = at.host, DASHBOARD_PORT, "http"
    if at.scheme in PORTS:
        scheme, port = at.scheme, at.port or PORTS[at.scheme]
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    answer = _ask(f"{url}/api/jobs/")
    if answer is None or answer[0] not in (200, *REFUSED):
        return
    if answer[0] in REFUSED:
        yield Exposure("Ray's Jobs API", f"{url} asks for a token", "closed")
        return
    who = "users of this machine" if _is_private(host, port) else "whoever reaches it"
    yield Exposure(
        "Ray's Jobs API",
        f"{url} takes jobs from {who} without a token",
        "open",
        "Start the cluster with RAY_AUTH_MODE=token, and keep port 8265 on 127.0.0.1 behind a tunnel.",
    )


def _tracker(uri: str) -> Iterator[Exposure]:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    bare = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path.rstrip('/')}"
    answer = _ask(f"{bare}/api/2.0/mlflow/registered-models/search?max_results=1")
    if answer is None or answer[0] not in (200, *REFUSED):
        return
    if answer[0] in REFUSED:
        yield Exposure("MLflow server", f"{bare} asks who is there", "closed")
    elif _is_private(host, parts.port or PORTS[parts.scheme]):
        yield Exposure("MLflow server", f"{bare} answers on this machine alone", "closed")
    else:
        yield Exposure(
            "MLflow server",
            f"{bare} lets whoever reaches it change models and aliases",
            "open",
            "Put it behind a proxy that asks for a login, or start it with --app-name basic-auth.",
        )
    version = _ask(f"{bare}/version")
    numbers = _numbers(version[1]) if version is not None and version[0] == 200 else ()
    if numbers and numbers < MLFLOW_FLOOR:
        floor = ".".join(map(str, MLFLOW_FLOOR))
        yield Exposure(
            "MLflow server's version",
            f"{'.'.join(map(str, numbers))}, before {floor}",
            "open",
            f"Upgrade it to {floor} or later: earlier servers have fewer guards, and were not tried.",
        )


def _token_files() -> Iterator[Exposure]:
    named = [Path(os.environ[name]) for name in TOKEN_VARIABLES if os.environ.get(name)]
    for path in dict.fromkeys([TOKEN.expanduser(), *named]):
        yield from _file("token file", path, stat.S_IRWXG | stat.S_IRWXO)


def _database(uri: str) -> Iterator[Exposure]:
    path = sqlite_path(uri)
    if path is not None:
        yield from _file("tracker's database", path, stat.S_IWGRP | stat.S_IWOTH)


def _file(what: str, path: Path, forbidden: int) -> Iterator[Exposure]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & forbidden:
        does = "written" if forbidden & stat.S_IWOTH and not forbidden & stat.S_IROTH else "read"
        found = f"{path} can be {does} by others on this machine (mode {mode:04o})"
        yield Exposure(what, found, "open", f"chmod go-{'w' if does == 'written' else 'rwx'} {path}")
    else:
        does = "read" if forbidden & stat.S_IROTH else "written"
        yield Exposure(what, f"{path} can be {does} by its owner alone (mode {mode:04o})", "closed")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private(host: str, port: int) -> bool:
    """Whether a server that answers here is for this machine alone: it may listen on other addresses, too."""
    return _is_loopback(host) and not any(_listens(own, port) for own in _own_addresses())


def _own_addresses() -> list[str]:
    """Addresses under which other machines reach this one."""
    found = []
    for family, elsewhere in ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.append(str(probe.getsockname()[0]))
    return [address for address in found if not _is_loopback(address)]


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=ASK_SECONDS).close()
    except OSError:
        return False
    return True


def _ask(url: str) -> tuple[int, str] | None:
    """Status and beginning of the answer to a stranger; None where nobody answers in HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
            return answer.status, answer.read(1000).decode("utf8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.strip().strip('"').split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def as_rows(found: list[Exposure]) -> list[dict[str, str]]:
    """Rows for the doctor, with nothing secret in them."""
    return [json.loads(redact(json.dumps(vars(each)))) for each in found]
