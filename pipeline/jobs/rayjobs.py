"""What the Job of a slot does in Kubernetes: create the slot's RayJob, and wait for its end.

    python -m pipeline.jobs.rayjobs rayjob.yaml      with JOB_NAME and JOB_UID, the Job that it runs in

The RayJob has the Job's name: of two pods of one slot the second waits for the RayJob of the first. The Job
owns it, so that it goes when the Job is deleted. The exit code is 0 where the run succeeded.
"""

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ruamel.yaml import YAML

from components.errors import ClusterError, RecurraError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ADDRESS = "https://kubernetes.default.svc"
LOOK_SECONDS = 10.0
ANSWER_SECONDS = 30.0
PATIENCE_SECONDS = 600.0  # without an answer of use
ENDED = ("Complete", "Failed")
WAITED_FOR = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT)
SERVER_FAULT = 500


@dataclass(frozen=True)
class Api:
    """The API server, as a pod with a service account reaches it."""

    address: str = ADDRESS
    account: Path = ACCOUNT
    look_seconds: float = LOOK_SECONDS
    patience_seconds: float = PATIENCE_SECONDS

    def create(self, job: Mapping[str, Any]) -> bool:
        """Whether it was created; False where one of its name is there already.

        Raises:
            ClusterError: the server refuses it, or does not answer.
        """
        code, answer = self._asked("POST", "", job)
        if code == HTTPStatus.CONFLICT:
            return False
        if code != HTTPStatus.CREATED:
            raise _refused(f"RayJob {job['metadata']['name']!r} cannot be created", code, answer)
        return True

    def get(self, name: str) -> dict[str, Any]:
        """The RayJob.

        Raises:
            ClusterError: it is not there, the server refuses to show it, or does not answer.
        """
        code, answer = self._asked("GET", f"/{name}")
        if code != HTTPStatus.OK:
            raise _refused(f"RayJob {name!r} cannot be seen", code, answer)
        return answer

    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Code and answer; asked again while the server is too busy, away or starting."""
        namespace = (self.account / "namespace").read_text("utf8").strip()
        url = f"{self.address}/apis/ray.io/v1/namespaces/{namespace}/rayjobs{path}"
        until = time.monotonic() + self.patience_seconds
        while True:
            try:
                code, answer = self._once(method, url, body)
                said = f"it answers {code}"
                if code < SERVER_FAULT and code not in WAITED_FOR:
                    return code, answer
            except OSError as error:
                said = str(getattr(error, "reason", None) or error)
            if time.monotonic() >= until:
                raise ClusterError(f"The API server at {self.address} is of no use: {said}.")
            time.sleep(self.look_seconds)

    def _once(self, method: str, url: str, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
        # Read each time: the token is replaced about once an hour.
        token = (self.account / "token").read_text("utf8").strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data=data, headers=headers, method=method)
        context = None
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        try:
            with urlopen(request, timeout=ANSWER_SECONDS, context=context) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, _read(error)
        except ValueError as error:
            raise OSError(f"it answers no JSON ({error})") from error


def _read(error: HTTPError) -> dict[str, Any]:
    try:
        found = json.load(error)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refused(what: str, code: int, answer: Mapping[str, Any]) -> ClusterError:
    hint = ""
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        hint = "Apply the Role and the RoleBinding that `recurra schedule --print kubernetes` prints."
    elif code == HTTPStatus.NOT_FOUND:
        hint = "Is KubeRay installed? Did somebody delete the RayJob?"
    return ClusterError(f"{what}: {answer.get('message') or f'the API server answers {code}'}", hint=hint)


def run_slot(
    template: Path, *, name: str, uid: str, api: Api, note: Callable[[str], None]
) -> tuple[bool, dict[str, Any]]:
    """Create a slot's RayJob unless it is there, and wait for its end.

    Args:
        name: of the Job, and so of the RayJob.
        uid: of the Job.

    Returns:
        whether it succeeded, and its status.

    Raises:
        ClusterError: it cannot be created or seen.
    """
    job = YAML(typ="safe", pure=True).load(template.read_text("utf8"))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    job["metadata"] = {**job.get("metadata", {}), "name": name, "ownerReferences": [owner]}
    note(f"RayJob {name} is created." if api.create(job) else f"RayJob {name} is there already.")
    before = ""
    while True:
        status = api.get(name).get("status") or {}
        state = status.get("jobDeploymentStatus") or ""
        if state != before:
            note(f"RayJob {name}: {state}")
            before = state
        if state in ENDED:
            return status.get("jobStatus") == "SUCCEEDED", status
        time.sleep(api.look_seconds)


def main(arguments: list[str], *, api: Api) -> int:
    """The exit code; what happens goes to stderr."""
    # The first process of a container is deaf to SIGTERM unless it asks for it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        (template,) = arguments
        name, uid = os.environ["JOB_NAME"], os.environ["JOB_UID"]
        succeeded, status = run_slot(Path(template), name=name, uid=uid, api=api, note=note)
    except RecurraError as error:
        note(f"Error: {error}" + (f"\n\nHint: {error.hint}" if error.hint else ""))
        return error.exit_code
    if succeeded:
        return 0
    reasons = [str(status[key]) for key in ("reason", "message") if status.get(key)]
    note(f"RayJob {name} failed: {'; '.join(reasons) or 'it says no reason'}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], api=Api()))
