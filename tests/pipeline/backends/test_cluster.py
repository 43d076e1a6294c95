"""A real local Ray: work done, errors as they were, nothing waited for without end, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from components.errors import AddressError, ClusterError, DataError, Problem
from pipeline.backends.cluster import Aside, Cluster, WorkerLost, check_address

DASHBOARD_PORT = 8265  # Ray's own choice

pytestmark = pytest.mark.slow


def square(*, value: int) -> int:
    return value * value


def refuse(*, path: str) -> None:
    raise DataError("Bad rows.", problems=[Problem(file=path, row=3, message="empty")], hint="Mend it.")


def countdown(*, start: int) -> Iterator[int]:
    yield from range(start, 0, -1)


def die(*, after: int, seen: Path) -> Iterator[int]:
    """Die once the items have arrived: Ray sends them from the side, and a kill takes those on their way."""
    yield from range(after)
    deadline = time.monotonic() + 60
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


def descendants(of: int) -> set[int]:
    """Processes that a process started, and those that these started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        parents[int(fields["Pid"])] = int(fields["PPid"])
    found = {of}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {of}


def listening() -> set[tuple[str, int]]:
    """Addresses, in hexadecimal, and ports on which this process and those below it listen."""
    inodes = set()
    for pid in {os.getpid(), *descendants(os.getpid())}:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].rpartition(":")
                found.add((host, int(port, 16)))
    return found


# First, since a process can be attached to one Ray only and the fixture stays.
def test_more_gpus_than_there_are_fail_at_once() -> None:
    begun = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"needs 1 CPUs and 7 GPUs.*largest there has .* 0 GPUs"),
        Cluster(address=None, num_gpus=7) as cluster,
    ):
        cluster.worker()
    assert time.monotonic() - begun < 30


class Machines:
    """In place of Ray's module: machines with so many CPUs and GPUs, and what tasks ask of them."""

    def __init__(self, *nodes: tuple[float, float], gone: tuple[float, float] | None = None) -> None:
        self._nodes = [(True, node) for node in nodes] + ([] if gone is None else [(False, gone)])
        self.asked: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}
            for alive, (cpus, gpus) in self._nodes
        ]

    def remote(self, call: Callable[..., Any]) -> "Machines":
        return self

    def options(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return type("Task", (), {"remote": staticmethod(lambda function, kwargs: function(**kwargs))})


def attached(machines: Machines) -> Cluster:
    cluster = Cluster(address=None)
    cluster._ray = machines
    return cluster


@pytest.mark.parametrize(
    ("wanted", "room"),
    [
        ({"CPU": 1}, 7),
        ({"CPU": 2}, 3),
        ({"CPU": 1, "GPU": 0}, 7),
        ({"GPU": 1}, 3),
        ({"CPU": 1, "GPU": 0.5}, 4),
        ({"CPU": 0.25, "GPU": 0.25}, 12),
        ({"CPU": 1, "GPU": 2}, 1),
        ({"CPU": 5}, 0),
        ({"CPU": 1, "GPU": 3}, 0),
    ],
)
def test_there_is_room_for_what_fits_on_single_machines(wanted: dict[str, float], room: int) -> None:
    machines = Machines((4, 1), (2, 2), (1, 0), gone=(64, 8))
    assert attached(machines).room_for(wanted) == room


@pytest.mark.parametrize("sharing", range(1, 17))
def test_a_gpu_has_room_for_as_many_as_share_it(sharing: int) -> None:
    for num_gpus in (1, 2, 4, 8):
        cluster = attached(Machines((256, num_gpus)))
        assert cluster.room_for({"CPU": 1, "GPU": 1 / sharing}) == num_gpus * sharing


def test_the_largest_machine_is_told_for_each_kind() -> None:
    cluster = attached(Machines((4, 1), (2, 2), gone=(64, 8)))
    assert (cluster.most("CPU"), cluster.most("GPU")) == (4, 2)
    assert (attached(Machines((4, 0))).most("GPU"), attached(Machines()).most("CPU")) == (0, 0)


def test_work_aside_waits_for_no_cpu() -> None:
    machines = Machines((1, 0))
    future = Aside(attached(machines)).task(square, value=3)
    assert future._reference == 9
    assert [asked["num_cpus"] for asked in machines.asked] == [0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        with suppress(OSError):  # another process has it already, which does as well
            stack.enter_context(socket.create_server(("127.0.0.1", DASHBOARD_PORT)))
        yield stack.enter_context(Cluster(address=None))


def test_a_task_gives_its_result(cluster: Cluster) -> None:
    futures = [cluster.task(square, value=value) for value in range(5)]
    assert [future.result() for future in futures] == [0, 1, 4, 9, 16]
    assert cluster.background(square, value=7).result() == 49


def test_an_error_of_ours_comes_out_whole(cluster: Cluster) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet, row 3: empty") as caught:
        cluster.task(refuse, path="rows.parquet").result()
    assert caught.value.hint == "Mend it."
    with pytest.raises(DataError, match="row 3"):
        cluster.worker().call(refuse, path="rows.parquet")


def test_items_come_one_by_one(cluster: Cluster) -> None:
    assert list(cluster.worker().stream(countdown, start=3)) == [3, 2, 1]


@pytest.mark.fault("out of memory, or killed for it")
def test_a_killed_worker_is_named_and_can_be_replaced(cluster: Cluster, tmp_path: Path) -> None:
    items = []
    with pytest.raises(WorkerLost):
        for item in cluster.worker().stream(die, after=2, seen=tmp_path / "seen"):
            items.append(item)
            if item == 1:
                (tmp_path / "seen").touch()
    assert items == [0, 1]
    assert cluster.replace_worker().call(square, value=3) == 9


def test_the_local_ray_listens_on_loopback_only(cluster: Cluster) -> None:
    assert cluster.task(square, value=2).result() == 4
    addresses = {host for host, _ in listening()}
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert addresses <= loopback


def test_a_taken_dashboard_port_hinders_nobody_as_there_is_no_dashboard(cluster: Cluster) -> None:  # B40
    assert cluster.task(square, value=2).result() == 4
    # Ray would take the next port that is free.
    assert not {port for _, port in listening()} & set(range(DASHBOARD_PORT + 1, DASHBOARD_PORT + 20))


def test_the_token_is_readable_by_its_owner_only(cluster: Cluster) -> None:
    assert cluster.task(square, value=2).result() == 4
    token = Path("~/.ray/auth_token").expanduser()
    assert not token.exists() or token.stat().st_mode & 0o077 == 0


def test_nothing_at_the_address_fails_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    begun = time.monotonic()
    with (
        pytest.raises(ClusterError, match=f"127.0.0.1:{port}"),
        Cluster(address=f"127.0.0.1:{port}") as cluster,
    ):
        cluster.worker()
    assert time.monotonic() - begun < 15


def test_something_else_at_the_address_fails_within_half_a_minute() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=address), Cluster(address=address) as cluster:
            cluster.worker()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "address", ["nonsense", "host:port", ":6379", "host:99999", "a..b:6379", "http://host:8265", "ray://[::1"]
)
def test_an_address_that_is_none_is_explained(address: str) -> None:
    with pytest.raises(AddressError, match="expected host:port") as refused:
        check_address(address)
    assert refused.value.exit_code == 2


def test_leaving_stops_every_process(root: Path) -> None:
    code = (
        "from pipeline.backends.cluster import Cluster\n"
        "with Cluster(address=None) as cluster:\n"
        "    cluster.worker()\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        pids = descendants(process.pid)
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert len(pids) > 2
    deadline = time.monotonic() + 15
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


class NeverThere:
    """A Ray on a machine that is too busy: what its start raises cannot be brought about at will."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.num_shutdowns = list(errors), 0

    def init(self, **options: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        self.num_shutdowns += 1


SLOW = "The current node timed out during startup. This could happen because some of the raylet failed"


def test_a_ray_that_starts_too_slowly_is_started_once_more() -> None:
    ray, notes = NeverThere(Exception(SLOW)), []
    Cluster(address=None, note=notes.append)._init_local(ray)
    assert ray.num_shutdowns == 1
    assert notes == ["Ray did not start within half a minute; once more."]


@pytest.mark.parametrize("errors", [[Exception(SLOW), Exception(SLOW)], [OSError("No space left on device")]])
def test_a_ray_that_does_not_start_is_an_error_of_the_surroundings(errors: list[Exception]) -> None:
    said = str(errors[-1])
    with pytest.raises(ClusterError, match="Ray could not be started on this machine: ") as caught:
        Cluster(address=None)._init_local(NeverThere(*errors))
    assert said in str(caught.value)
    assert caught.value.exit_code == 3
    assert "recurra doctor" in caught.value.hint


def test_a_mistake_of_ours_in_starting_ray_stays_one() -> None:
    with pytest.raises(ValueError, match="no such option"):
        Cluster(address=None)._init_local(NeverThere(ValueError("no such option")))
