"""A Ray cluster of several machines: each node a raylet of its own that may not see a folder of the others.

A mount namespace stands for the other machine's disk: what is mounted over the folder in it is empty, and
seen by that node alone.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.backends.test_cluster import descendants

RAY = "from ray.scripts.scripts import main; main()"
START_SECONDS = 120


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def require_namespaces() -> None:
    """Skip where a process may not have mounts of its own."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace (root)")


class Node:
    """A machine of the cluster."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("w", encoding="utf8") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "RAY_AUTH_MODE": "token"},
            )
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text("utf8"):
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text("utf8")
            time.sleep(0.2)

    @property
    def id(self) -> str:
        """What Ray calls it."""
        for process in descendants(self.process.pid):
            for word in Path(f"/proc/{process}/cmdline").read_text("utf8").split("\0"):
                if word.startswith("--node_id="):
                    return word.partition("=")[2]
        raise AssertionError("no raylet")

    def kill(self) -> None:
        """End it at once, with all that it started."""
        processes = {self.process.pid, *descendants(self.process.pid)}
        for process in processes:
            with _gone():
                os.kill(process, signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """End it in order, with all that it started."""
        started = descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
        for process in started:
            with _gone():
                os.kill(process, signal.SIGKILL)


class Machines:
    """A head without CPUs, on the machine of the commands, and nodes that are added."""

    def __init__(self, folder: Path, *, hides: Path) -> None:
        hides.mkdir(parents=True, exist_ok=True)
        self.folder, self.hides, self.workers = folder, hides, list[Node]()
        self._num_started = 0
        token = Path("~/.ray/auth_token").expanduser()
        if not token.exists():
            generate = [sys.executable, "-c", RAY, "get-auth-token", "--generate"]
            subprocess.run(generate, check=True, capture_output=True)
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.head = self._start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")

    def add(self, *, cpus: int) -> None:
        """A machine that does not see the folder."""
        node = self._start(f"--address={self.address}", f"--num-cpus={cpus}", hides=self.hides)
        self.workers.append(node)

    def kill(self, node: Node) -> None:
        """End a machine as one that loses its power does."""
        self.workers.remove(node)
        node.kill()

    def take_back(self, node: Node, *, seconds: int) -> None:
        """Announce that a machine will be gone in so many seconds, as a cloud does of a spot machine."""
        drain = [sys.executable, "-c", RAY, "drain-node", f"--address={self.address}", f"--node-id={node.id}"]
        drain += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        drain += [f"--deadline-remaining-seconds={seconds}"]
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        done = subprocess.run(drain, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _start(self, *arguments: str, hides: Path | None = None) -> Node:
        number = self._num_started
        self._num_started += 1
        command = [sys.executable, "-c", RAY, "start", *arguments]
        command += ["--node-ip-address=127.0.0.1", "--block"]
        if hides is not None:
            disk = self.folder / f"disk-{number}"
            disk.mkdir()
            mounted = 'mount --bind "$0" "$1" && shift && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mounted, str(disk), str(hides), *command]
        return Node(command, self.folder / f"node-{number}.txt")

    def end(self) -> None:
        for node in (*self.workers, self.head):
            node.end()


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return
