"""The only door to MLflow: what a run logs, sent from the side, and what the registry needs.

    with open_run(uri, folder=..., settings=...) as tracker:     one MLflow run, named after the run folder
        with tracker.stage("train"):                             one nested run
            tracker.log_metrics({"loss": 0.1}, step=3, stage="train")

Everything goes into the run folder's spool first (spool.py); MLflow itself is imported by the thread that
sends, so neither its import nor its absence holds anybody up.
"""

import contextlib
import getpass
import hashlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock, Timeout

from components.errors import DataError, PlaceError, TrackerError
from conf.load import resolved
from conf.schema import Settings
from pipeline.backends.addresses import no_answer, probe, redact, scheme_of, sqlite_path
from pipeline.backends.deliveries import Delivery, NotThere, Refused
from pipeline.backends.proofs import Proof, start_proof
from pipeline.backends.recorders import Recorder, status_of
from pipeline.backends.spool import Deliver, Sender, Spool, last_entry, sent_so_far
from pipeline.backends.workspace import check_place

# Read by MLflow when it is imported, or at each request.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # seven by default, which block for four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "PGCONNECT_TIMEOUT": "10",  # over two minutes by default where something listens and says nothing
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its log holds tracebacks of errors that are dealt with here
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # runs `pip install --dry-run` without a time limit
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
    "GIT_PYTHON_REFRESH": "quiet",
}

PATIENCE_SECONDS = 90.0
SCHEMA_SECONDS = 120.0
SCHEMA_LOCK = 0x7265637572726100  # "recurra": an advisory lock is a number that nobody else uses
CLOSE_SECONDS = 30.0
SPOOL = "tracking.jsonl"
SQLITE_OPTION = "--tracking-uri sqlite:///PATH"

T = TypeVar("T")


class Store:
    """One MLflow, opened on first use; safe to share between threads."""

    def __init__(
        self,
        uri: str,
        *,
        artifacts: str | None = None,
        beside: Path | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`artifacts` is the URI below which files go when this is a database.

        Without it they go beside the file for SQLite, else into the folder `beside`. A server decides itself.
        """
        self.uri, self.patience = uri, patience
        self._database = sqlite_path(uri)
        self._asked = artifacts
        folder = self._database.parent if self._database else beside
        if scheme_of(uri) in ("http", "https"):
            folder = None
        beside_it = None if folder is None else (folder / "mlartifacts").as_uri()
        self.artifacts = beside_it if artifacts is None else artifacts
        self._client: Any = None
        self._opening = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether it is a SQLite database that is not there yet; asking it anything would make it."""
        return self._database is not None and not self._database.exists()

    def call(self, action: Callable[[Any], T]) -> T:
        """`action(client)`, once.

        Raises:
            Refused: MLflow will not do it.
            TrackerError: MLflow is away, or in trouble; trying again may help.
        """
        self._open_once()
        with self._errors_as_ours():
            return action(self._client)

    def load(self) -> None:
        """Import MLflow here, before somebody else does: two threads at it at once block each other."""
        with self._opening:
            self._import()

    @property
    def mlflow(self) -> Any:
        """The mlflow module, imported in quiet."""
        self._open_once()
        import mlflow

        return mlflow

    def patiently(self, action: Callable[[Any], T]) -> T:
        """`action(client)`, tried again for `patience` seconds while MLflow is away."""
        deadline = time.monotonic() + self.patience
        wait = 0.5
        while True:
            try:
                return self.call(action)
            except Refused:
                raise
            except TrackerError:
                if time.monotonic() + wait > deadline:
                    raise
            time.sleep(wait)
            wait = min(2 * wait, 10.0)

    def experiment(self, name: str) -> str:
        """The id of the experiment, created if need be, also when several processes do so at once."""
        found = self.call(lambda client: client.get_experiment_by_name(name))
        if found is None:
            place = f"{self.artifacts}/{quote(name)}" if self.artifacts else None
            try:
                return self.call(lambda client: client.create_experiment(name, artifact_location=place))
            except Refused:  # another process was faster
                found = self.call(lambda client: client.get_experiment_by_name(name))
        if found is None or found.lifecycle_stage == "deleted":
            raise TrackerError(
                f"The MLflow experiment {name!r} was deleted.",
                hint="Restore it (`mlflow experiments restore`), remove it for good (`mlflow gc`), or train "
                "under another name.",
            )
        return found.experiment_id

    def elsewhere(self, experiment: str) -> str:
        """That an experiment keeps its files elsewhere than asked; empty where it does not.

        MLflow fixes the place when the experiment is made.
        """
        place = self.call(lambda client: client.get_experiment(experiment)).artifact_location
        if self._asked is None or place.startswith(f"{self._asked}/"):
            return ""
        return f"Files stay in {place}, where the MLflow experiment began, and not in {self._asked}."

    def _open_once(self) -> None:
        with self._opening:
            if self._client is None:
                self._client = self._open()

    def _open(self) -> Any:
        probe(self.uri)
        self._import()
        from mlflow.store.db import utils

        # Fifteen by default: an hour for a database that refuses the password.
        utils.MAX_RETRY_COUNT = 2
        logging.getLogger("alembic").setLevel(logging.CRITICAL)
        with self._errors_as_ours(), self._alone():
            return self._connected()

    def _import(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
        import mlflow  # noqa: F401

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """MLflow makes the tables on first use, and two processes that do so at once break each other."""
        if self._database is not None:
            try:
                with FileLock(f"{self._database}.lock", timeout=SCHEMA_SECONDS):
                    yield
            except Timeout as error:
                raise TrackerError(f"Another process has held {self._database}.lock for too long.") from error
        elif scheme_of(self.uri) == "postgresql":
            import sqlalchemy

            engine = sqlalchemy.create_engine(self.uri, poolclass=sqlalchemy.pool.NullPool)
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"SET lock_timeout = '{SCHEMA_SECONDS:.0f}s'"))
                # Gone with the connection, and so with the process.
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({SCHEMA_LOCK})"))
                yield
        else:
            yield

    def _connected(self) -> Any:
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
        return client

    @contextmanager
    def _errors_as_ours(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            kind: type[TrackerError] = TrackerError
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                kind = NotThere
            elif error.get_http_status_code() in (400, 409, 422):
                kind = Refused
            raise self._told(error, kind) from error
        except (OSError, SQLAlchemyError) as error:
            raise self._told(error, TrackerError) from error
        except _store_errors() as error:
            raise TrackerError(f"The store of MLflow's files: {_first_line(error)}") from error

    def _told(self, error: Exception, kind: type[TrackerError]) -> TrackerError:
        said = _first_line(error)
        if self._database is not None and "database is locked" in said:
            return TrackerError(
                f"MLflow's database {self._database} is locked by another process.",
                hint="Once that process is done with it, the same command goes on. It may be one that was "
                "stopped in the middle (`fuser FILE` names it).",
            )
        if scheme_of(self.uri) in ("http", "https") and isinstance(error.__context__, OSError):
            return no_answer(self.uri, _innermost(error))
        return kind(f"MLflow at {redact(self.uri)}: {said}")


class Folder(Protocol):
    """What of a run folder is needed here."""

    @property
    def path(self) -> Path: ...
    @property
    def settings(self) -> Path: ...
    @property
    def storage(self) -> Path: ...
    @property
    def run_id(self) -> str: ...
    def held(self) -> AbstractContextManager[bool]: ...


class Tracker(Recorder):
    """What one pipeline run tells MLflow. Nothing here waits for MLflow unless it says so."""

    def __init__(self, store: Store, *, spool: Path, experiment: str, run_id: str) -> None:
        self.store, self.experiment, self.run_id = store, experiment, run_id
        self.problems: list[str] = []
        self.proof: Proof | None = None
        self._spool = Spool(spool, target=_target(store.uri))
        self._sender = Sender(self._spool, self._connect)
        super().__init__(self._sender.append, earlier=self._spool.entries())

    @property
    def has_begun(self) -> bool:
        """Whether MLflow may know of this run."""
        return self._sender.has_begun

    def begin(self) -> None:
        """Start to send, also what was logged before."""
        self._sender.begin()

    def start_proof(self, stack: ExitStack) -> None:
        """Start the process that will prove the registered model; it is gone when the stack closes."""
        self.proof = stack.enter_context(start_proof())

    @property
    def failure(self) -> TrackerError | None:
        """Why nothing gets through at the moment."""
        return self._sender.failure

    def flush(self, timeout: float) -> bool:
        """Wait until MLflow has everything logged so far; False when `timeout` seconds were not enough."""
        return self._sender.flush(timeout)

    def require(self) -> None:
        """Wait, as patiently as the store says, until MLflow has everything.

        Raises:
            TrackerError: it could not be reached in that time.
        """
        if not self.flush(self.store.patience):
            raise self.failure or TrackerError(
                f"MLflow at {redact(self.store.uri)} took nothing for {self.store.patience:.0f} s.",
                hint="The same command goes on from here.",
            )

    def mlflow_run_id(self, stage: str = "", *, timeout: float = 30.0) -> str | None:
        """MLflow's own id of the run, or of a stage's; None while MLflow is away."""
        self.flush(timeout)
        return self._spool.memory.get("runs", {}).get(stage)

    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment, once something was sent."""
        return self._spool.memory.get("experiment")

    def close(self, timeout: float) -> bool:
        """Send what is left and stop; False when some of it stays in the spool."""
        done = self._sender.close(timeout)
        self._spool.close()
        return done

    def drop(self) -> None:
        """Stop without having sent anything."""
        self._spool.close()

    def _connect(self) -> Deliver:
        parent = self._spool.memory.get("runs", {}).get("")
        if parent is not None:
            try:
                self.store.call(lambda client: client.get_run(parent))
            except NotThere:  # another database at the same place
                self._spool.rewind()
        return Delivery(
            self.store.call,
            entities=self.store.mlflow.entities,
            experiment=self._own_experiment,
            run_id=self.run_id,
            memory=self._spool.memory,
            problems=self.problems,
        )

    def _own_experiment(self) -> str:
        found = self.store.experiment(self.experiment)
        if problem := self.store.elsewhere(found):
            self.problems.append(problem)
        return found


@contextmanager
def open_run(
    uri: str,
    *,
    folder: Folder,
    settings: Settings,
    tags: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    patience: float = PATIENCE_SECONDS,
    others: Iterable[Folder] = (),
    artifacts: str | None = None,
) -> Iterator[Tracker]:
    """The MLflow run of a run folder, begun or gone on with; it ends as FINISHED, FAILED or KILLED.

    Nothing is sent before `begin`, or the end. When the rows turn out useless before that, MLflow never hears
    of the run.

    Args:
        uri: the MLflow.
        folder: the run folder.
        settings: become its parameters; their name is the experiment's.
        tags: more about the run.
        warn: hears what MLflow refused, and what could not be sent by the end.
        patience: seconds that `require` and the registry wait for an MLflow that is away.
        others: run folders of which some may have been left open by a kill: those are ended as KILLED.
        artifacts: the URI below which files go when the MLflow is a database; None for beside the database's
            file, or beside the storage where it has none.
    """
    store = Store(uri, artifacts=artifacts, beside=folder.storage.parent, patience=patience)
    spool = folder.path / SPOOL
    tracker = Tracker(store, spool=spool, experiment=settings.name, run_id=folder.run_id)
    tracker.start({**_origin(folder), **(tags or {})})
    tracker.log_params(resolved(settings))
    tracker.log_artifact(folder.settings)
    useless = False
    try:
        yield tracker
    except BaseException as error:
        useless = isinstance(error, DataError) and not tracker.has_begun
        tracker.log_tags({"error": f"{type(error).__name__}: {error}"})
        tracker.end(status_of(error))
        raise
    else:
        tracker.end("FINISHED")
    finally:
        if useless:
            tracker.drop()
        else:
            _close(tracker, spool, others, warn=warn)


def _close(tracker: Tracker, spool: Path, others: Iterable[Folder], *, warn: Callable[[str], None]) -> None:
    """Send what is left, and end the runs that kills left open."""
    store = tracker.store
    # One that has been away for a while is not waited for again.
    if not tracker.close(timeout=CLOSE_SECONDS if tracker.failure is None else 5.0):
        warn(f"MLflow at {redact(store.uri)} is away; {spool} keeps what it lacks for the next time.")
    else:
        for other in others:
            if other.path / SPOOL != spool and not _has_ended(other.path / SPOOL):
                _end_abandoned(store, other, experiment=tracker.experiment)
    for problem in tracker.problems:
        warn(problem)


def _end_abandoned(store: Store, folder: Folder, *, experiment: str) -> None:
    """End a run that a killed process left open, unless another process is at it."""
    with folder.held() as ours:
        # Once it is held: another machine may have gone on with it and ended it.
        if ours and not _has_ended(folder.path / SPOOL):
            left = Tracker(store, spool=folder.path / SPOOL, experiment=experiment, run_id=folder.run_id)
            left.end_all("KILLED")
            left.close(timeout=CLOSE_SECONDS)


def _has_ended(spool: Path) -> bool:
    """Whether a run said how it ended, or never said anything; only the last line is read."""
    with contextlib.suppress(FileNotFoundError):
        last = last_entry(spool)
        return last is not None and last["kind"] == "end" and last["stage"] == ""
    return True


def has_unsent(folder: Folder, uri: str) -> bool:
    """Whether a run folder still holds values that this MLflow has not got; MLflow is not asked."""
    path = folder.path / SPOOL
    return path.exists() and sent_so_far(path, target=_target(uri)) < path.stat().st_size


def send_rest(
    uri: str,
    *,
    folder: Folder,
    settings: Settings,
    artifacts: str | None = None,
    timeout: float = CLOSE_SECONDS,
) -> bool:
    """Send what a finished run could not; False when MLflow is still away, or another process is at it."""
    with folder.held() as ours:
        return ours and Tracker(
            Store(uri, artifacts=artifacts, beside=folder.storage.parent),
            spool=folder.path / SPOOL,
            experiment=settings.name,
            run_id=folder.run_id,
        ).close(timeout)


def check(uri: str, *, artifacts: str | None = None) -> None:
    """Open MLflow once; a SQLite database that is not there yet only needs a folder that can be written.

    Raises:
        PlaceError: what it keeps on this machine cannot be written.
        TrackerError: it cannot be reached or used.
    """
    check_places(uri, artifacts=artifacts)
    store = Store(uri)
    if not store.is_empty:
        store.call(lambda client: None)


def check_places(uri: str, *, artifacts: str | None = None) -> None:
    """Make sure, without opening MLflow, that what it keeps on this machine can be written.

    Args:
        uri: the MLflow.
        artifacts: the URI below which files go when it is a database; None for beside a SQLite file.

    Raises:
        PlaceError: the database, or the folder of the files, cannot be written.
    """
    database = sqlite_path(uri)
    if database is not None:
        # The folder too: locks and journals lie beside the database.
        check_place(database.parent, of="MLflow's database", option=SQLITE_OPTION)
        if database.exists() and not os.access(database, os.W_OK):
            raise PlaceError(
                f"MLflow's database {database} cannot be written.",
                hint=f"Choose another one with {SQLITE_OPTION}.",
            )
    files = Store(uri, artifacts=artifacts).artifacts
    if files is not None and scheme_of(files) == "file":
        check_place(Path(unquote(urlsplit(files).path)), of="Files of models", option="--artifacts")


def _store_errors() -> tuple[type[Exception], ...]:
    """What an object store's client raises, where it is in use."""
    if "boto3" not in sys.modules:
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return Boto3Error, BotoCoreError, ClientError


def _origin(folder: Folder) -> dict[str, str]:
    tags = {
        "recurra.run_id": folder.run_id,
        "recurra.folder": str(folder.path),
        "mlflow.source.name": "recurra",
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _target(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()


def _innermost(error: BaseException) -> BaseException:
    """What an error came from, below all that it was wrapped in."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _first_line(error: BaseException) -> str:
    return redact(str(error).strip().partition("\n")[0])
