"""The Ray cluster: attached when a stage first needs it, an embedded one unless an address is given.

    with Cluster(address=None, ...) as cluster:
        cluster.task(function, **kwargs).result()      # a Ray task
        cluster.worker().call(function, **kwargs)      # the warm TensorFlow process
        cluster.worker().stream(generator, **kwargs)   # the same, one item at a time

Functions are plain importable ones; what they raise comes out as it was.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from components.errors import AddressError, ClusterError, RecurraError
from pipeline.backends import staging
from pipeline.backends.addresses import AUTO, cluster_address, redact

CONNECT_SECONDS = 10.0
IMPOSSIBLE_SECONDS = 20.0
START_SECONDS, MAX_STARTS = 120.0, 3
HEAD_SECONDS = 5.0  # of silence, after which the head is asked for
HANG_HINT = "Does a disk or a GPU hold it up? train.hang_seconds says how long is too long."
TOKEN = Path("~/.ray/auth_token")
PACKAGES = ("conf", "components", "pipeline")

# Quiet TensorFlow in workers; oneDNN's message about rounding is printed once per process otherwise.
WORKER_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}


class WorkerLost(ClusterError):
    """The process that held TensorFlow died: killed, out of memory, or its node went away."""


class ClusterLost(ClusterError):
    """The head of the cluster is gone, and with it everything that ran there."""


class Future:
    """The result of a task that may still be running."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self) -> Any:
        """Wait for the result; raises what the task raised."""
        return result(self._reference)


class Tasks(Protocol):
    """Where functions run beside this process."""

    def task(self, function: Callable[..., Any], **kwargs: Any) -> Future: ...


class Carry(Protocol):
    """A function and its arguments as they go to whatever machine."""

    def __call__(
        self, function: Callable[..., Any], kwargs: Mapping[str, Any], *, streams: bool = False
    ) -> tuple[Callable[..., Any], Mapping[str, Any]]: ...


class Worker:
    """The process that has TensorFlow loaded. It does one thing at a time."""

    def __init__(self, actor: Any, carried: Carry) -> None:
        self._actor, self._carried = actor, carried

    def call(self, function: Callable[..., Any], **kwargs: Any) -> Any:
        """The function's result."""
        return result(self._actor.call.remote(*self._carried(function, kwargs)))

    def stream(
        self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """The items of a generator function, as they come.

        Raises:
            WorkerLost: the process died, or said nothing for `patience` seconds; then it is ended.
        """
        import ray

        references = self.begin(function, kwargs)
        while True:
            begun = time.monotonic()
            while not ray.wait([references], timeout=HEAD_SECONDS, fetch_local=False)[0]:
                require_head()
                if patience is not None and time.monotonic() - begun > patience:
                    ray.kill(self._actor)
                    raise WorkerLost(
                        f"A worker process gave no sign of life for {patience:.0f} s.",
                        hint=HANG_HINT,
                    )
            try:
                reference = next(references)
            except StopIteration:
                return
            yield result(reference)

    def begin(
        self,
        function: Callable[..., Iterator[Any]],
        kwargs: Mapping[str, Any],
        *,
        waiting_items: int | None = None,
    ) -> Any:
        """References to the items; with `waiting_items`, the function pauses when so many were not read."""
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": waiting_items}
        given = {name: value for name, value in options.items() if value is not None}
        return self._actor.stream.options(**given).remote(*self._carried(function, kwargs, streams=True))


class Cluster:
    """A Ray cluster, not yet attached.

    `num_cpus` and `num_gpus` are what the worker holds, and so does each of `num_nodes` that train together.
    """

    def __init__(
        self,
        *,
        address: str | None,
        num_cpus: int = 1,
        num_gpus: int | str = 0,
        num_nodes: int = 1,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.address, self.note = address, note
        self.num_cpus, self.num_gpus, self.num_nodes = num_cpus, num_gpus, num_nodes
        self.on_attach: list[Callable[[], None]] = []
        self._ray: Any = None
        self._worker: Worker | None = None
        self._shares = 1  # how many workers share the GPUs
        self._folder: Path | None = None
        self._staging: staging.Folder | None = None

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Without its head Ray waits in vain, and ends this process before it could say why.
        if self._ray is not None and kind is not ClusterLost:
            if self._staging is not None:
                self._staging.close()
            self._ray.shutdown()

    def beside(self) -> dict[str, Any]:
        """Options of an actor that lives as long as this command does: on its machine, where it is in one.

        Elsewhere it could be lost while the command goes on.
        """
        return {"num_cpus": 0, **staging.on_this_machine(self.ray)}

    def share(self, folder: Path) -> None:
        """Let work on machines that do not see this folder have its files all the same."""
        self._folder = folder

    @property
    def shared(self) -> "staging.Shared | None":
        """The folder as work on any machine finds it; None where all of it is done on this one.

        From outside of the cluster, through ray://, no machine of it could hand the files out.
        """
        if self._folder is None or self.address is None or self.address.startswith("ray://"):
            return None
        if self._staging is None:
            self._staging = staging.Folder(self.ray, self._folder)
        return self._staging.shared

    def carried(
        self, function: Callable[..., Any], kwargs: Mapping[str, Any], *, streams: bool = False
    ) -> tuple[Callable[..., Any], Mapping[str, Any]]:
        """The function and its arguments as they go to whatever machine."""
        shared = self.shared
        return (
            (function, kwargs)
            if shared is None
            else staging.carried(shared, function, kwargs, streams=streams)
        )

    def task(self, function: Callable[..., Any], **kwargs: Any) -> Future:
        """Run a function in a worker process of its own, with one CPU."""
        return Future(self.ray.remote(_call).options(max_retries=2).remote(*self.carried(function, kwargs)))

    def background(self, function: Callable[..., Any], **kwargs: Any) -> Future:
        """Like `task`, for small work beside a stage: it waits for no CPU."""
        task = self.ray.remote(_call).options(num_cpus=0, max_retries=2)
        return Future(task.remote(*self.carried(function, kwargs)))

    def prewarm(self) -> None:
        """Let the worker load TensorFlow while something else goes on, where there is a CPU to spare."""
        if self.num_nodes == 1 and self.ray.cluster_resources().get("CPU", 0) > self.num_cpus:
            self._start()

    def worker(self) -> Worker:
        """The TensorFlow process, started if need be.

        Raises:
            ClusterError: no node has what it needs, or all that do stay busy.
        """
        self._worker = self._ready(self._start())
        return self._worker

    def workers(self, count: int) -> list[Worker]:
        """So many TensorFlow processes, or as many as there is room for at once; GPUs are shared out.

        Raises:
            ClusterError: there is no room for even one.
        """
        if count == 1:
            return [self.worker()]
        self.release_worker()
        self._shares = count
        workers = [self._new_worker() for _ in range(min(count, max(1, self._room_for_shares())))]
        return [self._ready(worker) for worker in workers]

    def replacement(self, lost: Worker) -> Worker:
        """A fresh TensorFlow process in place of one of `workers` that died."""
        require_head()
        if lost is self._worker:
            return self.replace_worker()
        return self._ready(self._new_worker())

    def _ready(self, worker: Worker) -> Worker:
        """The worker once it can work, or another one in place of one that was lost before."""
        num_lost = 0
        while True:
            ready, _ = self.ray.wait([worker._actor.ready.remote()], timeout=START_SECONDS)
            if not ready:
                free = self.ray.available_resources()
                raise ClusterError(
                    f"The cluster had no room for {self._wanted()} within {START_SECONDS:.0f} s; "
                    f"free now: {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs.",
                    hint="Wait for other jobs, or ask for less with train.devices.",
                )
            try:
                result(ready[0])
            except WorkerLost:
                require_head()
                num_lost += 1
                if num_lost == MAX_STARTS:
                    raise
                worker = self._new_worker()
            else:
                return worker

    def replace_worker(self) -> Worker:
        """A fresh TensorFlow process in place of one that was lost."""
        require_head()
        self._worker = None
        return self.worker()

    def release_worker(self) -> None:
        """End the TensorFlow process, if there is one: what it holds is free for others."""
        if self._worker is not None:
            self.ray.kill(self._worker._actor)
            self._worker = None

    def resources_each(self) -> dict[str, int]:
        """CPUs and GPUs of each worker that trains with others: of `auto` as many GPUs as all can have."""
        if not isinstance(self.num_gpus, str):
            return {"CPU": self.num_cpus, "GPU": self.num_gpus}
        nodes = self._nodes()
        most = int(max((node.get("GPU", 0) for node in nodes), default=0))
        fitting = (each for each in range(most, 0, -1) if room(nodes, {"GPU": each}) >= self.num_nodes)
        return {"CPU": self.num_cpus, "GPU": next(fitting, 0)}

    @property
    def ray(self) -> Any:
        """The attached ray module."""
        if self._ray is None:
            self._ray = self._attach()
            for callback in self.on_attach:
                callback()
            self._require()
        return self._ray

    def room_for(self, wanted: Mapping[str, float]) -> int:
        """How many times the machines have what is wanted, if nobody else uses them."""
        return room(self._nodes(), wanted)

    def most(self, name: str) -> float:
        """CPU or GPU of the machine that has most of them."""
        return max((node.get(name, 0) for node in self._nodes()), default=0)

    def _start(self) -> Worker:
        if self._worker is None:
            self._worker = self._new_worker()
        return self._worker

    def _new_worker(self) -> Worker:
        gpus: float = self._gpus_seen() if isinstance(self.num_gpus, str) else self.num_gpus
        if self._shares > 1 and gpus:
            # Whole ones where there are enough for all, else equal parts of one.
            most = self.room_for({"GPU": 1})
            gpus = most // self._shares if most >= self._shares else most / self._shares
        actor = self.ray.remote(_Host).options(num_cpus=self.num_cpus, num_gpus=gpus, max_concurrency=1)
        return Worker(actor.remote(), self.carried)

    def _room_for_shares(self) -> int:
        return min(self._shares, self.room_for({"CPU": self.num_cpus}))

    def _gpus_seen(self) -> int:
        return int(self.most("GPU"))

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _wanted(self) -> str:
        gpus = {"auto": "any", "all": "all"}.get(str(self.num_gpus), str(self.num_gpus))
        return f"{self.num_cpus} CPUs and {gpus} GPUs on one machine"

    def _attach(self) -> Any:
        self.note("Starting Ray." if self.address is None else f"Connecting to {self.address}.")
        if self.address is None:
            # Ray then uses 127.0.0.1 for all its own sockets; the name of the variable is history.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        elif has_token():
            # Ray shows a token to another cluster only when told to before its import (2.60).
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Three tries of 5, 10 and 15 s by default, also read at the import.
        os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "5")
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        if self.address is None:
            self._init_local(ray)
        else:
            self._init_remote(ray, self.address)
        return ray

    def _init_local(self, ray: Any) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in WORKER_ENVIRONMENT.items()})
        try:
            self._start_local(ray)
        except (TypeError, ValueError):
            raise  # a mistake of ours
        except Exception as error:
            # A plain Exception where half a minute was too short on a busy machine (2.60).
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise _not_started(error) from error
            self.note("Ray did not start within half a minute; once more.")
            try:
                self._start_local(ray)
            except Exception as again:
                raise _not_started(again) from again
        _protect_token()

    def _start_local(self, ray: Any) -> None:
        ray.init(
            address="local",
            num_cpus=local_cpus(self.num_cpus),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )

    def _init_remote(self, ray: Any, address: str) -> None:
        check_address(address)
        if not address.startswith("ray://"):
            # Ray's own connection attempt to a dead address waits for minutes; this one can be ended.
            _probe(address)
        modules = [str(package_folder(name)) for name in PACKAGES]
        warnings.filterwarnings("ignore", message="Ray Client connection timed out")  # it is raised, too
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={
                    "py_modules": modules,
                    "env_vars": WORKER_ENVIRONMENT,
                    "excludes": ["**/__pycache__/**"],
                },
            )
        except (OSError, RuntimeError, ConnectionError) as error:
            raise ClusterError(f"The cluster at {address} does not answer: {error}.") from error

    def _require(self) -> None:
        """Wait a little for nodes that have what the workers need (an autoscaler may bring some)."""
        deadline = time.monotonic() + (IMPOSSIBLE_SECONDS if self.address else 0.0)
        least = {"auto": 0, "all": 1}.get(str(self.num_gpus), self.num_gpus)
        wanted = {"CPU": self.num_cpus, "GPU": int(least)}
        while True:
            nodes = self._nodes()
            fitting = room(nodes, wanted)
            if fitting >= self.num_nodes:
                return
            if time.monotonic() >= deadline and self.num_nodes > 1:
                raise ClusterError(
                    f"train.nodes needs {self.num_nodes} times {self._wanted()}; there is room for {fitting}"
                    f" on {len(nodes)} machines.",
                    hint="Ask for less with train.nodes, or name a larger cluster with --address.",
                )
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"train.devices needs {self._wanted()}; the largest there has "
                    f"{self.most('CPU'):g} CPUs and {self.most('GPU'):g} GPUs.",
                    hint="Ask for less with train.devices, or name a larger cluster with --address.",
                )
            time.sleep(1.0)


class Aside:
    """The cluster for work that cannot wait for a CPU, since who holds them waits for it."""

    def __init__(self, cluster: Cluster) -> None:
        self.task = cluster.background


class _Host:
    """The actor behind `Worker`."""

    def __init__(self) -> None:
        import components.training.loop  # noqa: F401  TensorFlow loads here, beside the driver's work
        from components.training import strategy

        strategy.set_up_gpus()

    def ready(self) -> bool:
        return True

    def call(self, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
        return function(**kwargs)

    def stream(self, function: Callable[..., Iterator[Any]], kwargs: Mapping[str, Any]) -> Iterator[Any]:
        # Not `yield from`: Ray calls `send` on the generator, which not every iterator has.
        for item in function(**kwargs):  # noqa: UP028
            yield item


def room(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """How many times the nodes have what is wanted."""
    asked = {name: count for name, count in wanted.items() if count}
    # Five fifths of a GPU are a whole one, whatever their sum in binary.
    times = [[int(node.get(name, 0) / count + 1e-9) for name, count in asked.items()] for node in nodes]
    return sum(map(min, times))


def _not_started(error: Exception) -> ClusterError:
    return ClusterError(
        f"Ray could not be started on this machine: {_first_line(error)}",
        hint="Is it very busy, or short of memory or disk (`recurra doctor`)? The same command goes on.",
    )


def require_head() -> None:
    """See that the head of the attached cluster still answers.

    Ray itself ends the process, without a word of ours, a minute after it lost the head (2.60).

    Raises:
        ClusterLost: it does not.
    """
    import ray

    if not ray.is_initialized() or ray.util.client.ray.is_connected():
        return
    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    for attempt in range(3):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_SECONDS).close()
            return
        except OSError as error:
            said = error.strerror or str(error)
            time.sleep(attempt)
    raise ClusterLost(
        f"The cluster was lost: its head at {address} does not answer any more ({said}).",
        hint="The same command goes on from the last checkpoint, on the next cluster.",
    )


def local_cpus(wanted: int) -> int:
    """The CPUs that a Ray of our own counts: this machine's, and two at least, one beside the worker's."""
    return max(len(os.sched_getaffinity(0)), wanted, 2)


def check_address(
    address: str, *, hint: str = "Is the cluster up (`ray status`)? Leave --address out for a local Ray."
) -> None:
    """Fail soon when nothing listens at `host:port` or `ray://host:port`.

    Raises:
        AddressError: it is no such address.
        ClusterError: no such host, or no answer within ten seconds.
    """
    if address == AUTO:
        return
    printed = "`ray start --head` prints the address of a cluster."
    try:
        parts = cluster_address(address)
    except ValueError as error:
        raise AddressError(f"{error}.", hint=printed) from None
    if parts.scheme not in ("", "ray"):
        raise AddressError(
            f"--address is {redact(address)!r}, a dashboard for jobs; expected host:port, ray://host:port"
            " or auto.",
            hint=printed,
        )
    try:
        socket.create_connection((parts.host, parts.port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        shown = address.removeprefix("ray://")
        raise ClusterError(f"Nothing answers at {shown}: {error.strerror or error}.", hint=hint) from error


def _probe(address: str) -> None:
    code = "import sys; from ray.scripts.scripts import main; main()"
    command = [sys.executable, "-c", code, "health-check", "--address", address]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CONNECT_SECONDS * 2, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"No Ray answered at {address} within {CONNECT_SECONDS * 2:.0f} s.",
            hint="Something else may be listening there.",
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        said = " ".join(last)
        if "AuthenticationError" in said:
            raise ClusterError(
                f"The Ray at {address} does not accept this machine's token, or there is none here.",
                hint="Put the cluster's token into ~/.ray/auth_token, or name it in RAY_AUTH_TOKEN or"
                " RAY_AUTH_TOKEN_PATH.",
            )
        raise ClusterError(f"No usable Ray at {address}: {said or 'no answer'}.")


def has_token() -> bool:
    """Whether this machine has a token for clusters."""
    named = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or TOKEN.expanduser().exists()


def _call(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    return function(**kwargs)


def result(reference: Any) -> Any:
    """What a task gave, once it is done; raises what it raised, and WorkerLost when its process died."""
    import ray
    from ray import exceptions

    try:
        given = ray.get(reference)
        return given.opened() if isinstance(given, staging.Returned) else given
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, RecurraError):
            raise error.cause from None
        raise
    except (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
        raise WorkerLost(
            f"A worker process died: {_first_line(error)}",
            hint="Out of memory? Try a smaller train.batch_size; the same command goes on from the last"
            " checkpoint.",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def package_folder(name: str) -> Path:
    """Where one of our packages lies."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def _protect_token() -> None:
    """Ray writes its token file readable by everyone (2.60)."""
    with contextlib.suppress(FileNotFoundError):
        TOKEN.expanduser().chmod(0o600)
