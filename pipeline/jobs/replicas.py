"""What answers: the model in this process, or in worker processes of a cluster."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.backends.cluster import Cluster, Worker, WorkerLost

if TYPE_CHECKING:
    from components.served.predictor import Predictor

Columns = Mapping[str, Sequence[Any]]


class BadRows(ValueError):
    """Rows that the model cannot read; the message names column, row, step and feature."""


class Replica(Protocol):
    """One copy of a model; it answers one batch at a time."""

    def answer(self, columns: Columns, *, n_best: int, distribution: bool) -> dict[str, list[Any]]:
        """One answer per row.

        Raises:
            BadRows: rows that do not fit.
        """


class Here:
    """The model in this process."""

    def __init__(self, bundle: Path) -> None:
        self._bundle = bundle
        # What TensorFlow calls errors later on are remarks on this machine; errors come as exceptions.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _hushed():
            _opened(bundle)

    def answer(self, columns: Columns, *, n_best: int, distribution: bool) -> dict[str, list[Any]]:
        """One answer per row; see Replica."""
        answers, fault = answer(
            bundle=self._bundle, columns=columns, n_best=n_best, distribution=distribution
        )
        if answers is None:
            raise BadRows(fault)
        return answers


class Elsewhere:
    """The model in a worker process, which is replaced when it dies."""

    def __init__(self, bundle: Path, worker: Worker, cluster: Cluster, warn: Callable[[str], None]) -> None:
        self._bundle, self._worker, self._cluster, self._warn = bundle, worker, cluster, warn

    def answer(self, columns: Columns, *, n_best: int, distribution: bool) -> dict[str, list[Any]]:
        """One answer per row; see Replica. A batch whose process died is done again by the next one."""
        wanted = {"columns": columns, "n_best": n_best, "distribution": distribution}
        try:
            answers, fault = self._worker.call(answer, bundle=self._bundle, **wanted)
        except WorkerLost as error:
            self._warn(f"{error} Starting another one.")
            self._worker = self._cluster.replacement(self._worker)
            answers, fault = self._worker.call(answer, bundle=self._bundle, **wanted)
        if answers is None:
            raise BadRows(fault)
        return answers


def answer(
    *, bundle: Path, columns: Columns, n_best: int, distribution: bool
) -> tuple[dict[str, list[Any]] | None, str]:
    """The answers, or what is wrong with the rows."""
    try:
        return _opened(bundle).predict(columns, n_best=n_best, distribution=distribution), ""
    except ValueError as error:
        return None, str(error)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on stderr, unless it ends with an error.

    TensorFlow says at its start what nobody needs to know, whatever its log level (2.21).
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@functools.lru_cache(maxsize=2)  # the old one and the new one while they change places
def _opened(bundle: Path) -> "Predictor":
    from components import bundles

    return bundles.open(bundle)
