"""The Jobs API: which addresses are taken, and what jobs come to."""

import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.errors import ClusterError
from conf.load import SettingsError
from pipeline.jobs import dashboards
from pipeline.jobs.dashboards import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED, Dashboard, Job
from tests.end_to_end.test_cluster import free_port


@pytest.fixture(autouse=True)
def no_token_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backends.cluster.TOKEN", tmp_path / "auth_token")
    monkeypatch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server on loopback that says which mode of authentication it has; anything else is refused."""
    servers: list[http.server.HTTPServer] = []

    def start(answer: object) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/api/authentication_mode"
                self.send_response(200 if known else 401)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode() if known else b"Unauthorized: Missing token")

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "Nothing answers"),
        ("ray://head:10001", "expected the dashboard's http://host:8265"),
        ("head:port", "expected the dashboard's"),
        ("http://", "expected the dashboard's"),
        ("http://[::1", "expected the dashboard's"),
        ("http://me:S3CR3T-xyz@[::1", "expected the dashboard's"),
        ("http://head:99999", "expected the dashboard's"),
        ("http://user:S3CR3T-xyz@head:8265", "holds a password"),
        ("http://head:8265/jobs", "more than scheme, host and port"),
    ],
)
def test_what_is_no_address_is_refused(address: str, said: str) -> None:
    if address == "auto":
        assert dashboards.parse(address).hostname == "auto"
        return
    with pytest.raises(SettingsError) as refused:
        dashboards.parse(address)
    assert said in str(refused.value)
    assert "S3CR3T" not in str(refused.value)


def test_a_host_and_port_are_enough() -> None:
    assert dashboards.parse("127.0.0.1:8265").geturl() == "http://127.0.0.1:8265"


def test_nothing_at_the_address_is_said_at_once_with_host_and_port() -> None:
    port = free_port()
    with pytest.raises(ClusterError, match=f"Nothing answers at 127.0.0.1:{port}") as error:
        Dashboard(f"http://127.0.0.1:{port}")
    assert "8265" in error.value.hint


@pytest.mark.parametrize("answer", ["no object", {"other": 1}])
def test_a_server_that_is_no_dashboard_is_told_apart(serve: Callable[..., str], answer: object) -> None:
    with pytest.raises(ClusterError, match="no dashboard of Ray"):
        Dashboard(serve(answer))


def test_a_port_that_speaks_something_else_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()  # of the look whether anything listens at all
            connection.close()
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\0\0\x06\4\0\0\0\0\0\0\5\0\0@\0")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ClusterError, match="no dashboard of Ray"):
            Dashboard(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_cluster_open_to_a_network_is_refused(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboards, "is_loopback", lambda host: False)
    with pytest.raises(SettingsError, match=r"everybody who reaches it.*ssh -L"):
        Dashboard(serve({"authentication_mode": "disabled"}))
    with pytest.raises(SettingsError, match=r"asks for a token, and there is none here"):
        Dashboard(serve({"authentication_mode": "token"}))


def test_a_token_that_is_refused_is_told_in_words(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    address = serve({"authentication_mode": "token"})
    with pytest.raises(ClusterError, match="does not accept this machine's token") as error:
        Dashboard(address)
    assert "0" * 64 not in str(error.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("192.0.2.7", False), ("no.such.host.", False)],
)
def test_loopback_is_this_machine_alone(host: str, expected: bool) -> None:
    assert dashboards.is_loopback(host) is expected


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (PENDING, None, None),
        (RUNNING, None, None),
        (SUCCEEDED, 0, 0),
        (FAILED, 2, 2),
        (FAILED, 4, 4),
        (FAILED, None, 3),
        (STOPPED, None, 143),
    ],
)
def test_the_exit_code_is_the_jobs_own(status: str, code: int | None, expected: int | None) -> None:
    job = Job("j", status, "", code, None, None, "", {}, {})
    assert job.exit_code == expected
    assert job.is_over is (expected is not None)


def test_what_is_shown_of_a_job_has_no_variables_and_no_password() -> None:
    began, ended = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
    job = Job(
        "j",
        SUCCEEDED,
        "",
        0,
        began,
        ended,
        "run http://u:S3CR3T-xyz@h",
        {"model": "m"},
        {"TOKEN": "S3CR3T-xyz"},
    )
    assert job.seconds == 60.0
    assert "S3CR3T" not in json.dumps(job.to_json())
    assert job.to_json()["ended"] == "2026-03-01T12:01:00+00:00"
