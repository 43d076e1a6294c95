"""Several TensorFlow processes that share jobs out, and take over from one that dies.

    jobs 0, 1, 2, ... ─┬─▶ process, one job at a time ─ items ─┬─▶ what each job says, as it comes
                       └─▶ process ...                        ─┘

A job's items wait for whoever reads them, so memory stays bounded. A job whose process died begins again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import RecurraError
from pipeline.backends.cluster import Cluster, Worker, WorkerLost, result

MAX_PROCESSES = 8
WAITING_ITEMS = 4  # of one process, before it pauses


@dataclass(frozen=True)
class Begun:
    """A job begins, perhaps not for the first time: what it said before no longer counts."""

    job: int


@dataclass(frozen=True)
class Item:
    """One thing that a job said."""

    job: int
    value: Any


@dataclass(frozen=True)
class Ended:
    """A job has said all, or raised an error of the user's."""

    job: int
    error: RecurraError | None = None


Event = Begun | Item | Ended


class Pool:
    """The processes of a cluster for work that can be cut into jobs."""

    def __init__(self, cluster: Cluster, *, max_restarts: int = 2, warn: Callable[[str], None]) -> None:
        """A pool that has no process yet.

        Args:
            max_restarts: of one job whose process died.
            warn: is told of processes that died.
        """
        self.cluster, self.max_restarts, self.warn = cluster, max_restarts, warn

    def room(self) -> int:
        """How many processes are worth starting where there is work for all: one for each GPU or two CPUs."""
        if gpus := self.cluster.room_for({"GPU": 1}) if self.cluster.num_gpus else 0:
            return gpus
        return max(1, min(MAX_PROCESSES, self.cluster.room_for({"CPU": 2})))

    def share(
        self,
        function: Callable[..., Iterator[Any]],
        jobs: range | list[int],
        kwargs: Callable[[int], Mapping[str, Any]],
        *,
        processes: int,
    ) -> Iterator[Event]:
        """Do all jobs; each is `function(**kwargs(job))`, an importable generator function.

        Jobs begin in their order. The items of one job come in order, those of several in turns.

        Raises:
            ClusterError: there is no room for even one process.
            WorkerLost: a job's process died once more than allowed.
        """
        ray = self.cluster.ray
        left, restarts = list(jobs), dict.fromkeys(jobs, 0)
        workers = self.cluster.workers(min(processes, len(left)))
        running: dict[Any, tuple[int, Worker]] = {}
        idle = list(workers)
        while left or running:
            while left and idle:
                job, worker = left.pop(0), idle.pop()
                yield Begun(job)
                items = worker.begin(function, kwargs(job), waiting_items=WAITING_ITEMS)
                running[items] = (job, worker)
            ready, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
            job, worker = running[ready[0]]
            try:
                event = _next(ready[0], job)
            except WorkerLost as error:
                del running[ready[0]]
                restarts[job] += 1
                if restarts[job] > self.max_restarts:
                    raise
                self.warn(f"{error} Its rows are answered again.")
                left.insert(0, job)
                idle.append(self.cluster.replacement(worker))
                continue
            if isinstance(event, Ended):
                del running[ready[0]]
                idle.append(worker)
            yield event


def _next(items: Any, job: int) -> Event:
    try:
        return Item(job, result(next(items)))
    except StopIteration:
        return Ended(job)
    except WorkerLost:
        raise
    except RecurraError as error:
        return Ended(job, error)
