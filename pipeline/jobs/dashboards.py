"""The Jobs API of a cluster's dashboard: one place for its addresses, tokens, answers and refusals.

    http://127.0.0.1:8265       this machine, or a tunnel: ssh -L 8265:127.0.0.1:8265 head
    https://ray.example.org     through a proxy that knows who asks
    http://head:8265            only where the cluster asks for a token, and there is one here

Whoever reaches the Jobs API of a cluster without token can run anything on it.
"""

import http.client
import ipaddress
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from components.errors import ClusterError, ModelError
from components.lookup import nearest
from conf.load import Problem, SettingsError
from pipeline.backends.addresses import cluster_address, redact
from pipeline.backends.cluster import check_address, has_token

DEFAULT_PORT = 8265
PORTS = {"http": 80, "https": 443}
REQUEST_SECONDS = 30.0
# Ray's head answers before the agent that starts jobs is there.
AGENT_SECONDS = 45.0
HINT = (
    "Is the dashboard there? `ray start --head` prints its address; it is on port 8265 unless told otherwise."
)
TUNNEL = "make a tunnel, `ssh -L 8265:127.0.0.1:8265 HEAD`, and give --address http://127.0.0.1:8265"
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# Marks a job in its metadata as one that only helps others.
ASIDE = "aside"

PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED = "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"
# By the shell's convention 128 + the signal's number.
TERMINATED = 143
LOST = 3


class Unanswered(ClusterError):
    """The dashboard does not answer at the moment."""


@dataclass(frozen=True)
class Job:
    """What the cluster knows of a job; times are of its clock."""

    id: str
    status: str
    message: str
    code: int | None  # of its process, where that ended by itself
    started: datetime | None
    ended: datetime | None
    entrypoint: str
    metadata: Mapping[str, str]
    variables: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        return self.status in (SUCCEEDED, FAILED, STOPPED)

    @property
    def exit_code(self) -> int | None:
        """Its own; 143 when it was stopped, 3 when it was lost; None while it goes on."""
        if not self.is_over:
            return None
        if self.status == STOPPED:
            return TERMINATED
        if self.status == SUCCEEDED:
            return 0
        return LOST if self.code is None else self.code

    @property
    def seconds(self) -> float | None:
        """How long it has run."""
        if self.started is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """What `--json` shows; of the runtime environment nothing."""
        return {
            "id": self.id,
            "status": self.status,
            "exit_code": self.exit_code,
            "started": self.started and self.started.isoformat(timespec="seconds"),
            "ended": self.ended and self.ended.isoformat(timespec="seconds"),
            "entrypoint": redact(self.entrypoint),
            "metadata": dict(self.metadata),
        }


class Dashboard:
    """A cluster's Jobs API at an address.

    Raises:
        SettingsError: the address is none, or one at which nothing protects the cluster or the token.
        ClusterError: nothing answers there, or it does not take this machine's token.
    """

    def __init__(self, address: str) -> None:
        parts = parse(address)
        self.address = f"{parts.scheme}://{parts.netloc}"
        self.warnings: list[str] = []
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        check_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", hint=HINT)
        self._protect(parts, mode=_mode(self.address))
        with self._answers("is no Ray to send jobs to"):
            self._client = _client(self.address)
        self.version: str = self._client._server_ray_version

    def submit(
        self, job: str, *, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> bool:
        """Upload what is to be uploaded and start a job; False when there is one of that id already."""
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                with self._answers():
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job,
                        runtime_env=dict(runtime_env),
                        metadata=dict(metadata),
                    )
                return True
            except RuntimeError as error:
                said = str(error)
            if "already exists" in said:
                return False
            if "No available agent" not in said:
                raise ClusterError(f"{self.address} did not take the job: {_last_line(said)}")
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{self.address} has no agent that starts jobs.",
                    hint="Two Rays on one machine need ports of their own: `ray start"
                    " --dashboard-agent-listen-port`. The head's dashboard_agent.log says more.",
                )

    def job(self, job: str) -> Job | None:
        """A job by its submission id; None where the cluster knows of none."""
        try:
            with self._answers():
                return _job(self._client.get_job_info(job))
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise Unanswered(f"{self.address} cannot say how the job is: {_last_line(str(error))}") from error

    def known(self, job: str) -> Job:
        """A job by its submission id.

        Raises:
            ModelError: there is none.
        """
        found = self.job(job)
        if found is None:
            near = nearest(job, [each.id for each in self.jobs()])
            hint = f"Did you mean {near!r}?" if near else "`recurra jobs` lists them."
            raise ModelError(f"There is no job {job!r} at {self.address}.", hint=hint)
        return found

    def jobs(self) -> list[Job]:
        """Every job that was submitted, in the order of their start, but for those that help others."""
        with self._answers("cannot list jobs"):
            found = self._client.list_jobs()
        # Not deleted when they are over: Ray would list them again, as failed and without a start (2.60).
        submitted = [
            _job(each) for each in found if each.submission_id and ASIDE not in (each.metadata or {})
        ]
        return sorted(submitted, key=lambda job: (job.started or datetime.max.replace(tzinfo=UTC), job.id))

    def log(self, job: str) -> str:
        """All that a job has said."""
        with self._answers("cannot show the log"):
            return str(self._client.get_job_logs(job))

    async def tail(self, job: str) -> AsyncIterator[str]:
        """What a job says, from its first word, as long as the connection lasts.

        Raises:
            Unanswered: it broke.
        """
        import aiohttp

        try:
            async for text in self._client.tail_job_logs(job):
                yield text
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise Unanswered(f"{self.address} broke off the log: {type(error).__name__}.") from error

    def stop(self, job: str) -> None:
        """Ask a job to end; how long it may take was said when it was submitted."""
        with self._answers("cannot stop the job"):
            self._client.stop_job(job)

    def _protect(self, parts: SplitResult, *, mode: str) -> None:
        """See that neither the cluster nor the token is open to others.

        Raises:
            SettingsError: they would be.
        """
        # Read when Ray is imported. A token goes to nobody who does not ask for one.
        os.environ["RAY_AUTH_MODE"] = "token" if mode == "token" else "disabled"
        if is_loopback(parts.hostname or ""):
            return
        if mode != "token":
            if parts.scheme == "http":
                message = "takes jobs from everybody who reaches it: it asks for no token"
                raise SettingsError([Problem(f"--address {self.address}", "", message, TUNNEL)])
            self.warnings.append(f"{self.address} asks for no token: is there a proxy that knows who asks?")
        elif not has_token():
            message = "asks for a token, and there is none here"
            hint = "put it into ~/.ray/auth_token, or name it in RAY_AUTH_TOKEN_PATH"
            raise SettingsError([Problem(f"--address {self.address}", "", message, hint)])
        elif parts.scheme == "http":
            self.warnings.append(f"The token goes to {self.address} unencrypted; better {TUNNEL}.")

    @contextmanager
    def _answers(self, otherwise: str = "") -> Iterator[None]:
        """Turns what goes wrong on the way into our errors, and with `otherwise` what is refused, too."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.address} does not accept this machine's token, or there is none here.",
                hint="Put the cluster's token into ~/.ray/auth_token, or name it in RAY_AUTH_TOKEN or"
                " RAY_AUTH_TOKEN_PATH.",
            ) from error
        except OSError as error:  # those of requests are, too
            raise Unanswered(f"{self.address} does not answer: {type(error).__name__}.", hint=HINT) from error
        except RuntimeError as error:
            if not otherwise:
                raise
            raise Unanswered(f"{self.address} {otherwise}: {_last_line(str(error))}") from error


def parse(address: str) -> SplitResult:
    """The parts of a dashboard's address.

    Raises:
        SettingsError: it is none.
    """
    url = address if "://" in address else f"http://{address}"
    shown, message = redact(address), ""
    try:
        parts, scheme = urlsplit(url), cluster_address(url).scheme
    except ValueError:
        parts, scheme = urlsplit(""), ""
    if scheme not in PORTS:
        message = "expected the dashboard's http://host:8265"
    elif "@" in parts.netloc:
        message = "holds a password, which would be shown in many places"
    elif parts.path.strip("/") or parts.query or parts.fragment:
        message = "has more than scheme, host and port"
    if message:
        hint = "jobs go to the dashboard, not to the port that `recurra run --address` takes"
        raise SettingsError([Problem(f"--address {shown}", "", message, hint)])
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def _mode(address: str) -> str:
    """`token` or `disabled`, as the cluster says itself to everybody who asks."""
    try:
        with urllib.request.urlopen(f"{address}/api/authentication_mode", timeout=REQUEST_SECONDS) as answer:
            return str(json.load(answer)["authentication_mode"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else "no Ray"
        raise ClusterError(
            f"There is no dashboard of Ray 2.60 or later at {address}: {reason}.", hint=HINT
        ) from error


def _client(address: str) -> Any:
    # They would be taken in place of the address that was given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        """Ray's, which waits for ever for an answer, with a limit."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST_SECONDS, **options})

    return Client(address)


def _job(details: Any) -> Job:
    environment = details.runtime_env or {}
    return Job(
        id=details.submission_id or details.job_id,
        status=str(details.status.value),
        message=details.message or "",
        code=details.driver_exit_code,
        started=_instant(details.start_time),
        ended=_instant(details.end_time),
        entrypoint=details.entrypoint,
        metadata=details.metadata or {},
        variables=environment.get("env_vars") or {},
    )


def _instant(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _last_line(text: str) -> str:
    """Of a whole traceback the line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    return lines[-1] if lines else "no reason given"
