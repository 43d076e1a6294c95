"""check and doctor: what would go wrong, found before anything starts."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from components.errors import RecurraError
from conf.schema import Settings, TokenInput
from pipeline import exposures
from pipeline.backends import cluster, tracking
from pipeline.backends.workspace import check_storage, nearest_existing
from pipeline.run import Surroundings, resources
from pipeline.stages.prepare import check_data, check_vectors

LIBRARIES = ("recurra", "tensorflow", "keras", "ray", "mlflow", "pyarrow", "numpy")
LOW_DISK_BYTES = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that would stop a run."""

    place: str  # data, vectors, devices, cluster, tracker, storage
    message: str
    hint: str
    exit_code: int


def check(
    settings: Settings, around: Surroundings, *, problems: Path | None = None, sample: float = 1.0
) -> list[Finding]:
    """Everything wrong with the data, the devices, the cluster, the tracker and the storage.

    Args:
        settings: of the run that is to be.
        around: where it is to happen.
        problems: a file for every single problem of the data.
        sample: the share of the data to look at.
    """
    steps: dict[str, Callable[[], None]] = {
        "data": lambda: check_data(settings, console=around.console, problems=problems, sample=sample),
        "devices": lambda: _check_devices(settings, around),
        "tracker": lambda: tracking.check(around.tracking_uri, artifacts=around.artifacts),
        "storage": lambda: check_storage(around.storage),
    }
    if any(isinstance(part, TokenInput) and part.vectors for part in settings.data.inputs):
        steps["vectors"] = lambda: check_vectors(settings, whole=True)
    findings = []
    for place, step in steps.items():
        try:
            step()
        except RecurraError as error:
            findings.append(Finding(place, str(error), error.hint, error.exit_code))
        else:
            around.console.note(f"{place}: fine")
    return findings


def _check_devices(settings: Settings, around: Surroundings) -> None:
    if around.address is not None:
        cluster.check_address(around.address)
        return
    cpus, gpus = resources(settings.train.devices)
    if settings.train.nodes > (room := cluster.local_cpus(cpus) // cpus):
        raise cluster.ClusterError(
            f"train.nodes is {settings.train.nodes}: {cpus} CPUs for each asked, and this machine has room "
            f"for {room}.",
            hint="Ask for less with train.nodes, or name a cluster with --address.",
        )
    wanted, there = {"auto": 0, "all": 1}.get(str(gpus), gpus), len(local_gpus())
    if int(wanted) > there:
        raise cluster.ClusterError(
            f"train.devices is {settings.train.devices!r}: {wanted} GPUs asked, {there} on this machine.",
            hint="Set train.devices to auto or cpu:1, or name a cluster with --address.",
        )


def local_gpus() -> list[str]:
    """NVIDIA GPUs of this machine, by the driver's own tool."""
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")]


def doctor(around: Surroundings) -> tuple[list[dict[str, Any]], bool]:
    """Facts about this installation as rows of what and found, and whether all is well.

    What stands open has the status `open` and a hint; that alone is not unhealthy.
    """
    facts: dict[str, str] = {"Python": platform.python_version()}
    facts |= {library: metadata.version(library) for library in LIBRARIES}
    healthy = True
    facts |= _examine_tensorflow()
    facts["GPUs seen by the driver"] = "; ".join(local_gpus()) or "none"
    ray_facts, ray_well = _examine_ray(around)
    tracker, tracker_well = _examine_tracker(around.tracking_uri)
    free = shutil.disk_usage(nearest_existing(around.storage)).free
    facts |= ray_facts | {"tracker": tracker, "disk": f"{free / 2**30:.1f} GiB free at {around.storage}"}
    healthy = ray_well and tracker_well and free >= LOW_DISK_BYTES
    rows: list[dict[str, Any]] = [
        {"what": what, "found": found, "status": "", "hint": ""} for what, found in facts.items()
    ]
    open_doors = exposures.exposures(address=around.address, tracking_uri=around.tracking_uri)
    return [*rows, *exposures.as_rows(open_doors)], healthy


def _examine_tensorflow() -> dict[str, str]:
    """What TensorFlow sees, asked in a process of its own: it talks to stderr while it looks for GPUs."""
    code = "import json; from components.training.strategy import describe; print(json.dumps(describe()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        return {"TensorFlow": f"cannot be imported: {done.stderr.strip().splitlines()[-1]}"}
    return dict(json.loads(done.stdout))


def _examine_ray(around: Surroundings) -> tuple[dict[str, str], bool]:
    try:
        with cluster.Cluster(address=around.address, note=around.console.detail) as attached:
            resources = attached.ray.cluster_resources()
    except RecurraError as error:
        return {"Ray": str(error)}, False
    where = around.address or "a local one of our own, on 127.0.0.1"
    seen = {
        "CPUs seen by Ray": f"{resources.get('CPU', 0):g}",
        "GPUs seen by Ray": f"{resources.get('GPU', 0):g}",
    }
    return {"Ray": where, **seen}, True


def _examine_tracker(uri: str) -> tuple[str, bool]:
    try:
        tracking.check(uri)
    except RecurraError as error:
        return str(error), False
    if tracking.Store(uri).is_empty:
        return f"{tracking.redact(uri)} is not there yet; a run makes it", True
    return f"{tracking.redact(uri)} answers", True
