"""One process at a time changes the aliases of a name, whoever shares its registry.

sqlite:///mlflow.db    a file lock beside the database        mlflow.db.<hash of the name>.lock
postgresql://...       an advisory lock of the session        gone with the connection
anything else          a file lock in the storage, or an      other storages: the ledger's numbers
                       object where that is an object store
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.errors import BusyError, TrackerError
from pipeline.backends import mirrors
from pipeline.backends.addresses import redact, scheme_of, sqlite_path
from pipeline.backends.claims import claimed
from pipeline.backends.journals import who

LEASE_SECONDS = 120.0
LOCK = "promotion.lock"
_HINT = "It lets go when its command ends. Try again later."
_LOST = "Nothing more was changed. The same command goes on from here."
_HOLDER = """
SELECT a.application_name, a.backend_start FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (
    SELECT oid FROM pg_database WHERE datname = current_database())
AND (l.classid::bigint << 32) + l.objid::bigint = :key AND l.objsubid = 1
"""
_OURS = _HOLDER.rstrip() + " AND l.pid = pg_backend_pid()"


@dataclass(frozen=True)
class Lease:
    """The right to change the aliases of a name."""

    name: str
    _is_held: Callable[[], bool]

    def check(self) -> None:
        """Make sure that it is still ours.

        Raises:
            BusyError: it was lost, as when the connection to the database broke.
        """
        if not self._is_held():
            raise BusyError(f"The lock on the aliases of {self.name!r} was lost.", hint=_LOST)


@contextmanager
def lease(uri: str, name: str, *, folder: Path, timeout: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold the aliases of a name; the system lets go of them when the process dies.

    Args:
        uri: of the registry.
        name: of the registered model.
        folder: of the name's runs; where the lock lies if the registry has no place for one. In an object
            store it is held against other machines, too.
        timeout: seconds to wait for another holder.

    Raises:
        BusyError: another process held them for that long; it is named.
        TrackerError: the database cannot be reached.
    """
    database = sqlite_path(uri)
    if database is not None:
        path = Path(f"{database}.{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock")
        holding = _file(path, name, timeout)
    elif scheme_of(uri) == "postgresql":
        holding = _session(uri, name, timeout)
    elif (mirror := mirrors.of(folder)) is not None:
        holding = _object(mirror, folder, name, timeout)
    else:
        holding = _file(folder / ".locks" / LOCK, name, timeout)
    with holding as held:
        yield held


@contextmanager
def _file(path: Path, name: str, timeout: float) -> Iterator[Lease]:
    """A file lock, and beside it a note of who holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note, token = path.with_suffix(".holder"), secrets.token_hex(8)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        holder = _note(note)
        told = f"{holder['who']}, process {holder['pid']}, since {holder['since']}" if holder else "unknown"
        raise _busy(name, timeout, told) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        note.write_text(
            json.dumps({"who": who(), "pid": os.getpid(), "since": since, "token": token}), "utf8"
        )
        # Somebody who deleted the lock's file has let another one in, who left a note too.
        yield Lease(name, lambda: _note(note).get("token") == token)
    finally:
        lock.release()


@contextmanager
def _object(mirror: mirrors.Mirror, folder: Path, name: str, timeout: float) -> Iterator[Lease]:
    """A file lock among the processes of this machine, and an object among machines."""
    path = folder / ".locks" / LOCK
    key = f"{folder.relative_to(mirror.root).as_posix()}/promotion.json"
    deadline = time.monotonic() + timeout
    with _file(path, name, timeout), ExitStack() as stack:
        while (claim := stack.enter_context(claimed(mirror.bucket, key, place=str(path)))) is None:
            if time.monotonic() >= deadline:
                raise _busy(name, timeout, f"see {mirror.url}/{key}")
        yield Lease(name, claim.is_held)


def _note(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text("utf8"))
    return {}


@contextmanager
def _session(uri: str, name: str, timeout: float) -> Iterator[Lease]:
    """An advisory lock of PostgreSQL, which belongs to a connection."""
    import sqlalchemy
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    # Each statement is on its own: a transaction left open would be ended by a server that limits those.
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT")
    key = {"key": _key(name)}
    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise TrackerError(f"MLflow at {redact(uri)}: {str(error).splitlines()[0]}") from error

    def ask(query: str) -> Any:
        return connection.execute(sqlalchemy.text(query), key).first()

    def is_held() -> bool:
        with suppress(SQLAlchemyError):
            return ask(_OURS) is not None
        return False

    with connection:
        holder = f"recurra {who()} process {os.getpid()}"[:63]
        connection.execute(
            sqlalchemy.text("SELECT set_config('application_name', :holder, false)"), {"holder": holder}
        )
        connection.execute(sqlalchemy.text(f"SET lock_timeout = '{timeout * 1000:.0f}ms'"))
        try:
            ask("SELECT pg_advisory_lock(:key)")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") != "55P03":  # lock_not_available
                raise TrackerError(f"MLflow at {redact(uri)}: {str(error).splitlines()[0]}") from error
            found = ask(_HOLDER)
            told = f"{found[0]}, connected since {found[1]:%Y-%m-%d %H:%M:%S%z}" if found else "unknown"
            raise _busy(name, timeout, told) from error
        yield Lease(name, is_held)


def _key(name: str) -> int:
    """The same 63 bits for a name everywhere: an advisory lock is a number."""
    return int.from_bytes(hashlib.sha256(f"recurra aliases of {name}".encode()).digest()[:8]) >> 1


def _busy(name: str, timeout: float, holder: str) -> BusyError:
    return BusyError(
        f"Another process has held the aliases of {name!r} for {timeout:.0f} s: {holder}.", hint=_HINT
    )
