"""Machines that will be taken back: a cluster that knows so tells Ray, minutes or seconds before.

    cloud, autoscaler ─▶ Ray: this node is drained ─▶ leaving() on it ─▶ a checkpoint, then another machine

Ray gives a drained node nothing new, and lets what runs there go on until the machine is gone.
"""

import contextlib
import socket
import time

from pipeline.backends.cluster import WorkerLost

SECONDS_BETWEEN = 2.0


class ToldToEnd(WorkerLost):
    """A worker stopped after a checkpoint, since its process should end. Nothing it did is lost."""


class MachineLeaves(ToldToEnd):
    """Its machine will be taken back."""


class _Notice:
    """What Ray was told of this process's machine."""

    def __init__(self) -> None:
        self.given, self.asked = False, float("-inf")

    def look(self) -> bool:
        """Whether the machine will go; Ray is asked every two seconds at most."""
        now = time.monotonic()
        if not self.given and now - self.asked >= SECONDS_BETWEEN:
            self.given, self.asked = _is_drained(), now
        return self.given


_notice = _Notice()


def leaving() -> MachineLeaves | None:
    """Why this process should leave its machine; None while it need not."""
    if not _notice.look():
        return None
    return MachineLeaves(f"The cluster will take back {socket.gethostname()}; training stopped there.")


def _is_drained() -> bool:
    import ray
    from ray._private.state import state

    # There is no public way to ask; Ray Train's own watcher of such nodes asks so (2.60). Where the cluster
    # does not answer there is no notice: whoever waits for the worker sees to a head that is gone.
    # Asked without a cluster, Ray would start one.
    with contextlib.suppress(Exception):
        return ray.is_initialized() and ray.get_runtime_context().get_node_id() in state.get_draining_nodes()
    return False
