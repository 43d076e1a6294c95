"""The commands over jobs: submit and follow, list, show a log, stop.

recurra submit CONF ─ what is there of this submission?
     ├─ nothing, or it was stopped ─▶ look around ─▶ upload ─▶ follow
     ├─ it goes on                 ─▶ follow
     ├─ it is done                 ─▶ say so
     └─ it failed                  ─▶ --retry, or an error
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ClusterError, Interrupted, Terminated
from conf.load import Problem, SettingsError
from pipeline.console import Console, clean
from pipeline.jobs import preflights
from pipeline.jobs.dashboards import FAILED, STOPPED, Dashboard, Job
from pipeline.jobs.followers import follow, whole_log
from pipeline.jobs.parcels import shown_size
from pipeline.jobs.submissions import STOP_SECONDS, Submission

GATE_REFUSED = 4
BY_SIGNAL = (130, 143)
# Ray's own, for jobs that were submitted by others.
DEFAULT_STOP_SECONDS = 3
NUM_LAST_LINES = 20
POLL_SECONDS = 1.0
SLACK_SECONDS = 15.0


@dataclass(frozen=True)
class Manner:
    """How to submit: what to do about earlier jobs, and what after."""

    new: bool = False
    retry: bool = False
    wait: bool = True
    cancel_on_interrupt: bool = False
    require_gpu: bool = False


def submit(submission: Submission, *, address: str, manner: Manner, console: Console) -> int:
    """Send what is not there yet, follow it, and say how it ended; the exit code.

    Raises:
        SettingsError: the address is none or open to others, or the submission failed before.
        NotReady: it would fail there.
        ClusterError: the cluster does not answer, or is lost.
        Interrupted, Terminated: following ended; the job goes on, unless it is to be cancelled.
    """
    dashboard = _connect(address, console)
    earlier = attempts(submission, dashboard.jobs())
    verb, job = decide(submission, earlier, manner)
    if verb == "done":
        console.note(f"Job {job} is done; --new runs it again.")
        return _end(earlier[-1], verb, dashboard, console)
    if verb == "attach":
        console.note(f"Job {job} was submitted before and goes on.")
    else:
        for line in preflights.check(submission, dashboard, require_gpu=manner.require_gpu):
            console.warn(line)
    try:
        if verb == "send":
            verb = _send(submission, job, dashboard, console)
        if not manner.wait:
            _tell_commands(job, dashboard, console)
            return _end(dashboard.known(job), verb, dashboard, console)
        ended = follow(dashboard, job, say=_speaker(console))
    except (Interrupted, Terminated) as error:
        raise _detach(job, dashboard, console, error, cancel=manner.cancel_on_interrupt) from None
    return _end(ended, verb, dashboard, console)


def attempts(submission: Submission, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of a submission, the first one first."""
    by_id = {job.id: job for job in jobs}
    found: list[Job] = []
    while (job := by_id.get(submission.attempt(len(found) + 1))) is not None:
        found.append(job)
    return found


def decide(submission: Submission, earlier: Sequence[Job], manner: Manner) -> tuple[str, str]:
    """What to do, `send`, `attach` or `done`, and with which job.

    Raises:
        SettingsError: the last attempt failed, and nobody asked to try again.
    """
    following = submission.attempt(len(earlier) + 1)
    if not earlier or manner.new:
        return "send", following
    last = earlier[-1]
    if not last.is_over:
        return "attach", last.id
    if last.exit_code in (0, GATE_REFUSED):
        return "done", last.id
    # Whoever stopped it left a checkpoint to go on from.
    if manner.retry or last.exit_code in BY_SIGNAL:
        return "send", following
    message = f"job {last.id} of the same settings, code and data failed with exit code {last.exit_code}"
    hint = f"`recurra logs {last.id}` says why; --retry runs it again"
    raise SettingsError([Problem("recurra submit", "", message, hint)])


def show(submission: Submission, *, console: Console) -> None:
    """What would be sent."""
    found = submission.describe()
    package = found["package"]
    lines = [f"id: {found['id']}", f"entrypoint: {found['entrypoint']}", "runtime environment:"]
    lines += [f"  {line}" for line in json.dumps(found["runtime_env"], indent=1).splitlines()]
    lines += [f"package: {package['num_files']} files, {shown_size(package['bytes'])}"]
    lines += [f"  {top}: {count} files, {shown_size(size)}" for top, count, size in submission.parcel.tops]
    lines += ["the largest:"]
    lines += [f"  {shown_size(each['bytes']):>10}  {each['name']}" for each in package["largest"]]
    if package["left_out"]:
        lines += ["left out:", *(f"  {each['name']} ({each['reason']})" for each in package["left_out"])]
    data = ["they cannot be seen from here"] if found["data"] is None else found["data"]
    lines += ["data, which are read where they are:", *(f"  {path}" for path in data)]
    lines += [f"{submission.settings_file}:", *(f"  {line}" for line in found["settings"].splitlines())]
    console.result("\n".join(lines), found)


def show_jobs(address: str, *, console: Console) -> None:
    """Every job that was submitted to the cluster."""
    found = _connect(address, console).jobs()
    if not console.as_json and found:
        rows = [
            [job.id, job.status.lower(), _shown(job.exit_code), *_times(job), job.metadata.get("model", "-")]
            for job in found
        ]
        console.table("", ["job", "status", "exit", "started", "took", "model"], rows)
    console.result("" if found else "There are no jobs.", {"jobs": [job.to_json() for job in found]})


def show_log(address: str, job: str, *, follow_it: bool, console: Console) -> int:
    """What a job has said; with `follow_it` until it ends, and then its exit code."""
    dashboard = _connect(address, console)
    found = dashboard.known(job)
    if not follow_it:
        text = dashboard.log(job)
        console.result(text.rstrip("\n"), {**found.to_json(), "log": text})
        return 0
    try:
        found = follow(dashboard, job, say=_speaker(console))
    except (Interrupted, Terminated) as error:
        raise _detach(job, dashboard, console, error, cancel=False) from None
    return _end(found, "attach", dashboard, console)


def stop(address: str, job: str, *, grace: float | None, console: Console) -> None:
    """Ask a job to checkpoint and end, and wait for that.

    Raises:
        ModelError: there is no such job.
        ClusterError: it still runs after that time.
    """
    dashboard = _connect(address, console)
    found = dashboard.known(job)
    if found.is_over:
        console.result(f"{job} is over already: {found.status.lower()}", found.to_json())
        return
    given = stop_seconds(found)
    wait = given if grace is None else grace
    if wait > given:
        console.warn(
            f"Ray kills {job} {given:.0f} s after it was asked to stop, as was said when it was submitted "
            "(`recurra submit --stop-grace`)."
        )
    ended = _stop(found, dashboard, console, seconds=min(wait, given))
    console.result(f"{job} {ended.status.lower()}", ended.to_json())


def stop_seconds(job: Job) -> float:
    """How long Ray waits between asking this job to stop and killing it."""
    given = job.variables.get(STOP_SECONDS, "")
    return float(given) if given.isdecimal() else float(DEFAULT_STOP_SECONDS)


def _stop(job: Job, dashboard: Dashboard, console: Console, *, seconds: float) -> Job:
    console.note(f"Stopping {job.id}: it has {stop_seconds(job):.0f} s to checkpoint.")
    dashboard.stop(job.id)
    until = time.monotonic() + seconds + SLACK_SECONDS
    while time.monotonic() < until:
        found = dashboard.known(job.id)
        if found.is_over:
            return found
        time.sleep(POLL_SECONDS)
    raise ClusterError(
        f"{job.id} was asked to stop and still runs after {seconds:.0f} s.",
        hint=f"Ray ends it {stop_seconds(job):.0f} s after the request; `recurra jobs` says when it did.",
    )


def _connect(address: str, console: Console) -> Dashboard:
    dashboard = Dashboard(address)
    for warning in dashboard.warnings:
        console.warn(warning)
    return dashboard


def _send(submission: Submission, job: str, dashboard: Dashboard, console: Console) -> str:
    with tempfile.TemporaryDirectory(prefix="recurra-") as name:
        submission.parcel.write(Path(name))
        size = shown_size(submission.parcel.size)
        console.note(f"Sending {len(submission.parcel.files)} files, {size}, to {dashboard.address}.")
        is_new = dashboard.submit(
            job,
            entrypoint=submission.entrypoint,
            runtime_env=submission.runtime_env(name),
            metadata=submission.metadata,
        )
    # Somebody else may have sent the same meanwhile.
    console.note(f"Job {job} is submitted." if is_new else f"Job {job} was submitted meanwhile.")
    return "send" if is_new else "attach"


def _speaker(console: Console) -> Callable[[str], None]:
    """Where lines of a log go: with --json to stderr, with -q nowhere."""
    if console.level < 0:
        return lambda line: None
    return console.note if console.as_json else console.result


def _tell_commands(job: str, dashboard: Dashboard, console: Console) -> None:
    console.note(f"Next: recurra logs {job} -f --address {dashboard.address}")
    console.note(f"Next: recurra stop {job} --address {dashboard.address}")


def _detach(
    job: str, dashboard: Dashboard, console: Console, error: Interrupted | Terminated, *, cancel: bool
) -> Interrupted | Terminated:
    """What to raise when a signal ended the following; the job is stopped first if that was asked for."""
    where = f"--address {dashboard.address}"
    found = dashboard.job(job)
    if found is None:
        return error  # it had not got there
    if not cancel:
        hint = f"`recurra logs {job} -f {where}` follows it, `recurra stop {job} {where}` stops it."
        return type(error)(f"{error} Job {job} still runs.", hint=hint)
    if not found.is_over:
        found = _stop(found, dashboard, console, seconds=stop_seconds(found))
    hint = "The same submission goes on from its last checkpoint."
    return type(error)(f"{error} Job {job} is {found.status.lower()}.", hint=hint)


def _end(job: Job, verb: str, dashboard: Dashboard, console: Console) -> int:
    """Say how a job is, or how it ended; its exit code."""
    code = job.exit_code
    data: dict[str, Any] = {**job.to_json(), "address": dashboard.address, "attached": verb != "send"}
    if job.is_over:
        text = whole_log(dashboard, job.id)
        data["outcome"] = outcome(text)
        if code:
            data["last_lines"] = text.splitlines()[-NUM_LAST_LINES:]
    if job.status == FAILED and code != GATE_REFUSED:
        if verb == "done" or console.level < 0:
            for line in data["last_lines"]:
                console.err.print(clean(line), markup=False)
        why = f"exit code {code}" if job.code is not None else f"it was lost: {_first_line(job.message)}"
        console.error(f"Job {job.id} failed: {why}.")
    console.result(f"{job.id} {_state(job)}", data)
    return code or 0


def _state(job: Job) -> str:
    """How it is, for people."""
    if job.status == STOPPED:
        return "stopped; the same submission goes on from its last checkpoint"
    if job.exit_code == GATE_REFUSED:
        return "done: the gate refused the model"
    return job.status.lower()


def outcome(log: str) -> dict[str, Any] | None:
    """What the job's own --json said, if it was asked to."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            return found if isinstance(found, dict) else None
    return None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["nobody knows why"])[0]


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _times(job: Job) -> list[str]:
    started = f"{job.started.astimezone():%Y-%m-%d %H:%M:%S}" if job.started else "-"
    return [started, "-" if job.seconds is None else f"{job.seconds:.0f} s"]
