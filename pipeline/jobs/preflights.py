"""What would stop a job, found before anything is sent: libraries, devices, rows, folders, tracker, secrets.

A small job looks around on the cluster (pipeline/templates); all else happens here.
"""

import json
import platform
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from components.errors import ClusterError, RecurraError
from pipeline.backends.addresses import PORTS, sqlite_path
from pipeline.backends.cluster import room
from pipeline.checks import Finding
from pipeline.jobs.dashboards import ASIDE, SUCCEEDED, Dashboard, Job
from pipeline.jobs.submissions import TRACKER, Submission
from pipeline.run import resources

SCRIPT = Path(__file__).parents[1] / "templates" / "look_around.py.txt"
MARK = "recurra found: "
LOOK_SECONDS = 120.0
POLL_SECONDS = 0.3
# The whole command line is one argument of a shell, which takes 128 KiB.
MAX_FILES, MAX_CHARACTERS = 200, 30_000
COMPARED = ("ray", "tensorflow")
NOT_FOUND = 127


class NotReady(RecurraError):
    """The job would fail; nothing was sent."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        lines = [f"  {each.place}: {each.message}" for each in findings]
        hints = list(dict.fromkeys(each.hint for each in findings if each.hint))
        super().__init__(
            "\n".join(["The job would fail there, so nothing was sent:", *lines]), hint=" ".join(hints)
        )
        # 3 would say that a retry may help, which it does not while the settings or the rows are wrong.
        self.exit_code = min(each.exit_code for each in findings)  # type: ignore[misc]


@dataclass(frozen=True)
class There:
    """What the cluster said of itself."""

    python: str
    versions: Mapping[str, str | None]
    names: Mapping[str, bool]
    hosts: Mapping[str, str | None]
    machine: Sequence[str]
    nodes: Sequence[Mapping[str, Any]]


def check(submission: Submission, dashboard: Dashboard, *, require_gpu: bool = False) -> list[str]:
    """See that the job can work there; what is worth knowing all the same comes back.

    Raises:
        NotReady: with everything that would stop it.
        ClusterError: the cluster could not be asked.
    """
    there = look_around(submission, dashboard)
    found = list(objections(submission, there, require_gpu=require_gpu))
    if found:
        raise NotReady(found)
    return differences(there)


def questions(submission: Submission) -> dict[str, Any]:
    """What is asked of every machine of the cluster, and of its head."""
    variables = submission.variables
    tracker = variables.get(TRACKER, "")
    database = sqlite_path(tracker)
    parts = urlsplit(tracker)
    host = [] if database or not parts.hostname else [[parts.hostname, _port(tracker)]]
    return {
        "files": _local_files(submission),
        "patterns": []
        if submission.files is not None
        else [path for path in _paths(submission) if "://" not in path and not set("*?[") & set(path)],
        "folders": [*_folders(variables), *([str(database.parent)] if database else [])],
        "hosts": host,
        "uris": [TRACKER] if TRACKER in submission.secrets else [],
        "ports": PORTS,
        "libraries": [each.name for each in requirements()],
        "names": list(submission.secrets),
    }


def look_around(submission: Submission, dashboard: Dashboard) -> There:
    """Ask the cluster.

    Raises:
        ClusterError: it gave no answer.
    """
    asked = json.dumps(questions(submission))
    job = f"{submission.id}-look-{uuid.uuid4().hex[:6]}"
    entrypoint = shlex.join([submission.argv[0], "-c", SCRIPT.read_text("utf8"), asked])
    meta = {**submission.metadata, ASIDE: "looks around before the job is sent"}
    dashboard.submit(job, entrypoint=entrypoint, runtime_env={}, metadata=meta)
    ended, log = None, ""
    try:
        ended = _wait(dashboard, job)
        log = dashboard.log(job)
    finally:
        if ended is None:
            dashboard.stop(job)
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    if ended.status != SUCCEEDED or not lines:
        raise _no_look(ended, log, submission.argv[0])
    return There(**json.loads(lines[-1].removeprefix(MARK)))


def _wait(dashboard: Dashboard, job: str) -> Job:
    until = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < until:
        found = dashboard.job(job)
        if found is not None and found.is_over:
            return found
        time.sleep(POLL_SECONDS)
    raise ClusterError(
        f"A job that only looks around did not end within {LOOK_SECONDS:.0f} s at {dashboard.address}.",
        hint="Is the head out of CPU or memory? `ray status` there says more.",
    )


def _no_look(ended: Job, log: str, python: str) -> ClusterError:
    if ended.code == NOT_FOUND:
        return ClusterError(
            f"The cluster has no command {python!r}.",
            hint="Name the interpreter that Ray was started with: --python /path/to/bin/python.",
        )
    last = (log.strip().splitlines() or ["it said nothing"])[-1]
    return ClusterError(f"The job that looks around on the cluster failed: {last}")


def objections(submission: Submission, there: There, *, require_gpu: bool = False) -> Iterator[Finding]:
    """Everything that would stop the job."""
    yield from _libraries(there)
    yield from _devices(submission, there, require_gpu=require_gpu)
    for node in there.nodes:
        if node["seen"] is None:
            yield Finding("cluster", f"{node['name']} did not answer", "Is that machine well?", 3)
    yield from _rows(submission, there)
    yield from _writable(submission, there)
    for host, error in there.hosts.items():
        if error is not None:
            hint = "Name a server that the cluster reaches with --tracking-uri."
            yield Finding("tracker", f"the cluster does not reach {host}: {error}", hint, 3)
    if missing := [name for name, known in there.names.items() if not known]:
        hint = (
            "Secrets are not sent: start Ray there with these variables, or mount them into its containers."
        )
        yield Finding("secrets", f"the cluster does not have {', '.join(missing)}", hint, 2)


def requirements() -> list[Requirement]:
    """What Recurra needs wherever it runs."""
    try:
        listed = metadata.requires("recurra") or []
    except metadata.PackageNotFoundError:
        return []
    return [each for each in map(Requirement, listed) if each.marker is None or each.marker.evaluate()]


def differences(there: There) -> list[str]:
    """Versions that are others than here, though they will do."""
    here = {"python": platform.python_version(), **{name: metadata.version(name) for name in COMPARED}}
    found = {"python": there.python, **{name: there.versions.get(name) for name in COMPARED}}
    return [
        f"The cluster has {name} {found[name]}, this machine {version}."
        for name, version in here.items()
        if found[name] is not None and found[name] != version
    ]


def _libraries(there: There) -> Iterator[Finding]:
    pythons = _python_range()
    if not pythons.contains(there.python):
        message = f"Python is {there.python} there, expected {pythons}"
        yield Finding("cluster", message, "Name another interpreter with --python.", 3)
    wrong = []
    for each in requirements():
        version = there.versions.get(each.name)
        if version is None:
            wrong.append(f"no {each.name}")
        elif not each.specifier.contains(version, prereleases=True):
            wrong.append(f"{each.name} {version}, expected {each.specifier}")
    if wrong:
        hint = "Install Recurra's requirements there, or name the interpreter that has them with --python."
        yield Finding("cluster", f"its Python has {'; '.join(wrong)}", hint, 3)


def _python_range() -> SpecifierSet:
    try:
        return SpecifierSet(metadata.metadata("recurra")["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        return SpecifierSet("")


def _devices(submission: Submission, there: There, *, require_gpu: bool) -> Iterator[Finding]:
    train = submission.settings.train
    cpus, gpus = resources(train.devices)
    least = {"auto": int(require_gpu), "all": 1}.get(str(gpus), gpus)
    wanted = {"CPU": cpus, "GPU": int(least)}
    nodes = [node["resources"] for node in there.nodes]
    if nodes and room(nodes, wanted) < train.nodes:
        most = {name: max(node.get(name, 0) for node in nodes) for name in wanted}
        times = f"{train.nodes} times " if train.nodes > 1 else ""
        message = (
            f"train.devices {train.devices} asks for {times}{cpus} CPUs and {wanted['GPU']} GPUs on one"
            f" machine; the largest of {len(nodes)} there has {most['CPU']:g} CPUs and {most['GPU']:g} GPUs"
        )
        yield Finding("devices", message, "Ask for less with train.devices or train.nodes.", 3)


def _rows(submission: Submission, there: There) -> Iterator[Finding]:
    """Files that a machine does not see, or of which it has others."""
    here = _local_files(submission)
    hint = (
        "Data are not sent. Put them on a disk or into an object store that every machine of the cluster"
        " reads, and name them in data.path."
    )
    for node in there.nodes:
        seen = node["seen"] or {"files": {}, "patterns": {}}
        missing = [path for path, size in seen["files"].items() if size is None]
        missing += [path for path, known in seen["patterns"].items() if not known]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            yield Finding("data", f"{node['name']} does not see {', '.join(missing[:3])}{more}", hint, 2)
        others = [path for path, size in seen["files"].items() if size not in (None, here[path])]
        if others:
            message = f"{node['name']} has another file {others[0]} than this machine"
            yield Finding(
                "data", f"{message}: {seen['files'][others[0]]:,} bytes, here {here[others[0]]:,}", hint, 2
            )


def _writable(submission: Submission, there: There) -> Iterator[Finding]:
    """Folders that the head, where the command runs, cannot write, or that nobody made where it is not here.

    Machines that do not see them get a run's files from the head.
    """
    is_here = list(there.machine) == this_machine()
    hint = (
        "Make a folder on a disk that outlives the cluster, and name it with --storage, or a bucket; give a"
        " server with --tracking-uri."
    )
    heads = [node for node in there.nodes if node["seen"] and node["seen"]["machine"] == there.machine[0]]
    for node in heads:
        for folder, state in node["seen"]["folders"].items():
            if state == "read-only":
                yield Finding("storage", f"{node['name']} cannot write {folder}", hint, 2)
            elif state == "missing" and not is_here:
                yield Finding("storage", f"{node['name']} has no folder {folder}", hint, 2)


def this_machine() -> list[str]:
    """What tells machines apart, as far as this can be told."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return [socket.gethostname(), boot.read_text("utf8").strip() if boot.exists() else ""]


def _local_files(submission: Submission) -> dict[str, int]:
    """Bytes of the files that a run reads, as many as can be asked about."""
    found: dict[str, int] = {}
    characters = 0
    for file in submission.files or ():
        characters += len(file.path)
        if not file.is_remote and len(found) < MAX_FILES and characters < MAX_CHARACTERS:
            found[file.path] = file.size()
    return found


def _paths(submission: Submission) -> list[str]:
    path = submission.settings.data.path
    return [path] if isinstance(path, str) else list(path)


def _folders(variables: Mapping[str, str]) -> Iterator[str]:
    storage = variables.get("RECURRA_STORAGE", "")
    if place := variables.get("RECURRA_CACHE") if "://" in storage else storage:
        yield place
    artifacts = urlsplit(variables.get("RECURRA_ARTIFACTS", ""))
    if artifacts.scheme == "file":
        yield artifacts.path


def _port(uri: str) -> int:
    parts = urlsplit(uri)
    return parts.port or PORTS[parts.scheme.partition("+")[0]]
