"""A slot's pod against an API server that keeps RayJobs, as much of one as the pod may use."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.errors import ClusterError
from pipeline.jobs.rayjobs import Api, main, run_slot

PATH = "/apis/ray.io/v1/namespaces/models/rayjobs"
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "exit code 2",
}


@dataclass
class Server:
    """What it keeps, and what it answers instead at first."""

    address: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(
        default_factory=lambda: [{}, {"jobDeploymentStatus": "Running"}, DONE]
    )
    faults: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(method)
        if self.faults:
            return self.faults.pop(0)
        if token != "Bearer T0KEN":
            return 401, b'{"message": "Unauthorized"}'
        if method == "POST" and path == PATH:
            job = json.loads(body)
            name = job["metadata"]["name"]
            if name in self.jobs:
                return 409, b'{"message": "already exists"}'
            self.jobs[name] = job
            return 201, body
        job = self.jobs.get(path.removeprefix(f"{PATH}/"))
        if job is None:
            return 404, b'{"message": "not found"}'
        status = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, json.dumps({**job, "status": status}).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    kept = Server()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "")
            code, said = kept.answer(self.command, self.path, token, body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        kept.address = f"http://127.0.0.1:{http.server_port}"
        yield kept
        http.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Api:
    (tmp_path / "token").write_text("T0KEN\n", "utf8")
    (tmp_path / "namespace").write_text("models", "utf8")
    return Api(server.address, tmp_path, look_seconds=0.01, patience_seconds=0.5)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "rayjob.yaml"
    path.write_text(
        "kind: RayJob\nmetadata: {namespace: models, labels: {a: b}}\nspec: {backoffLimit: 0}\n", "utf8"
    )
    return path


def run(template: Path, api: Api) -> tuple[bool, dict[str, Any], list[str]]:
    notes: list[str] = []
    succeeded, status = run_slot(template, name="lines-29876543", uid="u-1", api=api, note=notes.append)
    return succeeded, status, notes


def test_the_slots_rayjob_is_created_owned_by_its_job_and_waited_for(
    server: Server, api: Api, template: Path
) -> None:
    succeeded, status, notes = run(template, api)
    assert succeeded and status == DONE
    (job,) = server.jobs.values()
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "lines-29876543", "uid": "u-1"}
    assert job["metadata"] == {
        "namespace": "models",
        "labels": {"a": "b"},
        "name": "lines-29876543",
        "ownerReferences": [owner],
    }
    assert job["spec"] == {"backoffLimit": 0}
    assert [note.rpartition(" ")[2] for note in notes] == ["created.", "Running", "Complete"]


def test_a_second_pod_of_the_same_slot_waits_for_the_rayjob_of_the_first(
    server: Server, api: Api, template: Path
) -> None:
    run(template, api)
    succeeded, _, notes = run(template, api)
    assert succeeded and "there already" in notes[0]
    assert len(server.jobs) == 1


@pytest.mark.parametrize(
    "fault", [(503, b"busy"), (429, b"{}"), (500, b'{"message": "etcd"}'), (200, b"no JSON")]
)
def test_a_server_that_is_busy_is_asked_again(
    server: Server, api: Api, template: Path, fault: tuple[int, bytes]
) -> None:
    server.faults = [fault, fault]
    assert run(template, api)[0]
    assert server.asked[:3] == ["POST"] * 3


def test_a_server_that_stays_away_is_named(api: Api, template: Path, server: Server) -> None:
    server.faults = [(503, b"busy")] * 1000
    with pytest.raises(ClusterError, match="of no use: it answers 503"):
        run(template, api)


@pytest.mark.parametrize(
    ("fault", "said", "hint"),
    [
        ((403, b'{"message": "rayjobs is forbidden"}'), "rayjobs is forbidden", "RoleBinding"),
        ((404, b"page not found"), "404", "KubeRay"),
        ((422, b'{"message": "spec is invalid"}'), "spec is invalid", ""),
    ],
)
def test_a_refusal_is_said_once_and_not_tried_again(
    server: Server, api: Api, template: Path, fault: tuple[int, bytes], said: str, hint: str
) -> None:
    server.faults = [fault]
    with pytest.raises(ClusterError, match=said) as caught:
        run(template, api)
    assert hint in caught.value.hint
    assert server.asked == ["POST"]


def test_a_rayjob_that_somebody_deletes_is_no_success(server: Server, api: Api, template: Path) -> None:
    api.create({"metadata": {"name": "other"}})
    with pytest.raises(ClusterError, match="cannot be seen: not found"):
        api.get("lines-29876543")


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        (DONE, 0, "Complete"),
        (FAILED, 1, "failed: AppFailed; exit code 2"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 1, "it says no reason"),
    ],
)
def test_the_exit_code_is_that_of_the_run(
    server: Server,
    api: Api,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: dict[str, Any],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("JOB_NAME", "lines-29876543")
    monkeypatch.setenv("JOB_UID", "u-1")
    server.states = [state]
    assert main([str(template)], api=api) == code
    assert said in capsys.readouterr().err
    server.faults = [(403, b"{}")]
    assert main([str(template)], api=api) == ClusterError.exit_code
    assert "Hint: Apply the Role" in capsys.readouterr().err


def test_it_loads_nothing_large_into_its_small_pod(root: Path) -> None:
    code = "import pipeline.jobs.rayjobs, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    large = {"mlflow", "numpy", "pandas", "pyarrow", "pydantic", "ray", "sqlalchemy", "tensorflow"}
    assert not large & set(done.stdout.split())


def test_it_ends_on_sigterm_as_the_first_process_of_its_container_too(
    server: Server, api: Api, template: Path, root: Path
) -> None:
    server.states = [{"jobDeploymentStatus": "Running"}]
    code = (
        "import sys; from pathlib import Path; from pipeline.jobs.rayjobs import Api, main; "
        "sys.exit(main(sys.argv[3:], api=Api(sys.argv[1], Path(sys.argv[2]), look_seconds=0.05)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, api.address, str(api.account), str(template)],
        cwd=root,
        env={"JOB_NAME": "lines-1", "JOB_UID": "u"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        while "Running" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert "Traceback" not in process.stderr.read()
