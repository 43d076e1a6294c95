"""Workers on several machines that do one thing together, kept going by Ray Train.

    stream ─▶ _Crew ─▶ Ray Train's controller ─▶ worker 0, the first ─ items ─▶ queue ─▶ stream
                                               └▶ worker 1, ...

A worker that dies takes its group with it; Ray Train starts a new one, and what the function left in the
storage is all it goes on from. When one hangs, the others wait for its part of the gradient, and nobody can
tell which it is: `stream` ends them all, which counts as a death like any other. Ray Train's own checkpoints,
reports and TensorFlow set-up are not used: the last one would switch Keras to its old version.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import ClusterError, RecurraError
from pipeline.backends.cluster import HANG_HINT, START_SECONDS, Cluster, WorkerLost, result
from pipeline.backends.drains import ToldToEnd, leaving
from pipeline.backends.staging import Returned

POLL_SECONDS, END_SECONDS = 1.0, 30.0
# What Python raises is a mistake of ours and would come again; TensorFlow's own errors are lost connections.
MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, OSError, RuntimeError,
            TypeError, ValueError)  # fmt: skip

_terminated = threading.Event()
_handlers: list[int | None] = []
_get_handler = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
_set_handler = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
    ("PyOS_setsig", ctypes.pythonapi)
)


def stream(
    cluster: Cluster,
    function: Callable[..., Iterator[Any]],
    *,
    scratch: Path,
    max_restarts: int,
    warn: Callable[[str], None],
    patience: float | None = None,
    **kwargs: Any,
) -> Iterator[Any]:
    """The items of a generator function that runs on all workers at once, as the first one yields them.

    Each calls `function(**kwargs, writes=..., told_to_end=...)`: whether it is the one that writes, and what
    says why its process should end, if it should. Raising WorkerLost there asks for a new group.

    Args:
        cluster: gives each worker its CPUs and GPUs.
        function: an importable generator function.
        scratch: a folder for Ray Train's own notes, one on each machine; it is removed on this one.
        max_restarts: of the group.
        warn: is told of lost workers.
        patience: seconds without an item after which the workers are ended, which is one of the restarts;
            None: they are waited for without end.

    Raises:
        ClusterError: no room for all workers within two minutes.
        WorkerLost: workers were lost, or hung, more than `max_restarts` times.
    """
    from ray.util.queue import Queue

    ray = cluster.ray
    items = Queue(actor_options=cluster.beside())
    crew = ray.remote(_Crew).options(**cluster.beside()).remote()
    carried, around = cluster.carried(function, kwargs, streams=True)
    job = {"function": carried, "kwargs": around, "items": items}
    running = crew.run.remote(job, cluster.resources_each(), cluster.num_nodes, str(scratch), max_restarts)
    group = _Group(cluster, patience, warn)
    try:
        yield from _items(group, items, running)
    finally:
        _end(ray, running, group.controllers)
        ray.kill(crew)
        items.shutdown(force=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _end(ray: Any, running: Any, controllers: Sequence[Any]) -> None:
    """Have the controller end its workers, if it has not yet, and give back what they hold.

    A controller that is killed leaves that to an actor which, without a dashboard, never learns of it (2.60).
    """
    if ray.wait([running], timeout=0)[0]:
        return
    for controller in controllers:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(controller.abort.remote(), timeout=END_SECONDS)


class _Group:
    """What is known here of the workers: who they are, and since when nothing was heard of them."""

    def __init__(self, cluster: Cluster, patience: float | None, warn: Callable[[str], None]) -> None:
        self.cluster, self.patience, self.warn = cluster, patience, warn
        self.controllers: list[Any] = []
        self.workers: Sequence[Any] = ()
        self._is_starting, self._since = True, time.monotonic()
        self._hung = ""

    def started(self) -> None:
        """The first worker is at work."""
        self._is_starting, self._hung = False, ""
        self.heard()

    def heard(self) -> None:
        """There was a sign of life."""
        self._since = time.monotonic()

    def lost(self, reason: str) -> None:
        """They were ended by what is said, and others will start."""
        self.warn(f"{self._hung or reason} All workers start again from the last checkpoint.")
        self._is_starting = True
        self.heard()

    def look(self) -> None:
        """See whether it takes too long until something is heard; workers that hang are ended.

        Raises:
            ClusterError: they did not start in time.
        """
        silent = time.monotonic() - self._since
        if self._is_starting and silent > START_SECONDS:
            raise ClusterError(
                f"The cluster had no room for {self.cluster.num_nodes} workers within {START_SECONDS:.0f} s.",
                hint="Wait for other jobs, or ask for less with train.nodes or train.devices.",
            )
        if self._is_starting or self.patience is None or silent <= self.patience:
            return
        self._hung = f"Training workers gave no sign of life for {self.patience:.0f} s."
        for worker in self.workers:
            self.cluster.ray.kill(worker)
        self.heard()

    def ended(self, running: Any) -> None:
        """Nothing more will be heard.

        Raises:
            WorkerLost: workers were lost or hung too often.
        """
        try:
            result(running)
        except WorkerLost as error:
            if not self._hung:
                raise
            raise WorkerLost(f"{self._hung} {error.message.partition('.')[0]}.", hint=HANG_HINT) from error


def _items(group: _Group, items: Any, running: Any) -> Iterator[Any]:
    from ray.util.queue import Empty

    while True:
        # Asked first: whatever a finished crew has said is then in the queue.
        done, _ = group.cluster.ray.wait([running], timeout=0)
        try:
            kind, item = items.get(timeout=POLL_SECONDS)
        except Empty:
            if done:
                group.ended(running)
                return
            group.look()
            continue
        if kind == "item":
            yield item.opened() if isinstance(item, Returned) else item
            group.heard()
        elif kind == "failed":
            raise item
        elif kind == "controller":
            group.controllers.append(item)
        elif kind == "workers":
            group.workers = item
        elif kind == "started":
            group.started()
        elif kind == "lost":
            group.lost(item)


class _Crew:
    """The actor that holds Ray Train's controller; it ends with its owner, and all workers with it."""

    def run(
        self, job: dict[str, Any], resources: dict[str, int], count: int, scratch: str, max_restarts: int
    ) -> None:
        from ray import train

        trainer = _trainer(job["items"])(
            _work,
            train_loop_config=job,
            backend_config=_backend_config(job["items"]),
            scaling_config=train.ScalingConfig(
                num_workers=count,
                use_gpu=resources["GPU"] > 0,
                resources_per_worker=resources,
                placement_strategy="SPREAD",
            ),
            run_config=train.RunConfig(
                name="workers",
                storage_path=scratch,
                failure_config=train.FailureConfig(
                    max_failures=max_restarts, controller_failure_limit=max_restarts
                ),
                callbacks=[_listener(job["items"])],
            ),
        )
        try:
            trainer.fit()
        except train.TrainingFailedError as error:
            failures = getattr(error, "worker_failures", None)
            said = _lost(failures) if failures else _last_line(error)
            raise WorkerLost(
                f"Workers were lost more than {max_restarts} times. {said}",
                hint="Out of memory? The same command goes on from the last checkpoint.",
            ) from error


def _trainer(items: Any) -> Any:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        """Hands its controller out, in place of giving Ctrl-C to it."""

        def _register_sigint_handler(self, controller: Any) -> None:
            items.put(("controller", controller))

    return Trainer


def _work(job: dict[str, Any]) -> None:
    """What each worker runs."""
    from ray import train

    first = train.get_context().get_world_rank() == 0
    items = job["items"]
    if first:
        items.put(("started", None))
    try:
        for item in job["function"](**job["kwargs"], writes=first, told_to_end=_told_to_end):
            if first:
                items.put(("item", item))
    except WorkerLost:
        raise
    except RecurraError as error:
        items.put(("failed", error))
    except MISTAKES as error:
        said = f"A worker on {socket.gethostname()} failed:\n{''.join(traceback.format_exception(error))}"
        items.put(("failed", RuntimeError(said)))


def _listener(items: Any) -> Any:
    from ray.train import UserCallback

    class Listener(UserCallback):
        """Tells of workers that died, from the controller's process."""

        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            items.put(("lost", _lost(worker_exceptions)))

    return Listener()


def _lost(errors: Mapping[int, Exception]) -> str:
    from ray.exceptions import RayActorError

    # A failed question after a worker's health wraps the reason.
    reasons = {rank: getattr(error, "health_check_failure", error) for rank, error in errors.items()}
    dead = sorted(rank for rank, reason in reasons.items() if isinstance(reason, RayActorError))
    if dead:
        return f"Training worker {', '.join(map(str, dead))} died."
    for reason in reasons.values():
        # Ray Train wraps what a worker raised; of those that only stopped with it there is nothing to say.
        raised = getattr(reason, "_base_exc", reason)
        if isinstance(raised, ToldToEnd):
            return raised.message
    rank, reason = next(iter(reasons.items()))
    return f"Training worker {rank} failed: {_last_line(reason)}"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _backend_config(items: Any) -> Any:
    from ray.train.backend import Backend, BackendConfig

    class Connected(Backend):
        """Says who the workers are, and tells TensorFlow on each where the others are."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            items.put(("workers", [worker.actor for worker in worker_group.get_workers()]))
            addresses = worker_group.execute(_address)
            for index in range(len(addresses)):
                worker_group.execute_single(index, _connect, addresses, index)

    class Config(BackendConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Connected

    return Config()


def _address() -> str:
    """This machine's address, and a port that is free there."""
    from ray.util import get_node_ip_address

    host = get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((host, 0))
        port = server.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connect(addresses: Sequence[str], index: int) -> None:
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": index}}
    )
    # Python handles a signal when the main thread is next at work, which here means within two seconds:
    # that is how often the controller asks after its workers.
    signal.signal(signal.SIGTERM, lambda number, frame: _terminated.set())
    _handlers.append(_get_handler(signal.SIGTERM))


def _told_to_end() -> ToldToEnd | None:
    """Why this process should end: it got SIGTERM, or its machine will be taken back.

    TensorFlow takes the signal for itself when the workers connect, and Python sets handlers from the main
    thread only, which is not ours here; so the one that was set is put back from below.
    """
    for handler in _handlers:
        _set_handler(signal.SIGTERM, handler)
    return ToldToEnd("A training worker was told to end.") if _terminated.is_set() else leaving()
