"""Doors without a lock, tried on servers of the tests' own."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import exposures
from pipeline.exposures import as_rows


class Door(ThreadingHTTPServer):
    """Answers everybody with a status, and says its version."""

    daemon_threads = True
    status, version = 200, "3.20.0"

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Answer)
        self.headers: list[dict[str, str]] = []


class Answer(BaseHTTPRequestHandler):
    server: Door

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers.items()))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.version.encode() if self.path == "/version" else b"{}")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def door() -> Iterator[Door]:
    server = Door()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, door: Door) -> None:
    """The dashboard's port is that of the tests' server, and no token lies in this machine's home."""
    monkeypatch.setattr(exposures, "DASHBOARD_PORT", door.server_port)
    monkeypatch.setattr(exposures, "TOKEN", tmp_path / "token")
    # Another address of this machine's own: all of 127.0.0.0/8 is, on Linux.
    monkeypatch.setattr(exposures, "_own_addresses", lambda: ["127.0.0.2"])


def found(address: str | None, uri: str) -> dict[str, tuple[str, str]]:
    every = exposures.exposures(address=address, tracking_uri=uri)
    return {each.what: (each.status, each.found) for each in every}


@pytest.mark.parametrize(("status", "told"), [(200, "open"), (401, "closed"), (403, "closed")])
@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:6379", "ray://localhost:10001"])
def test_a_jobs_api_without_token_is_open(
    door: Door, tmp_path: Path, address: str | None, status: int, told: str
) -> None:
    door.status = status
    seen = found(address, f"sqlite:///{tmp_path}/none.db")
    assert seen["Ray's Jobs API"][0] == told
    assert ("without a token" in seen["Ray's Jobs API"][1]) == (told == "open")


def test_a_door_that_answers_otherwise_is_neither_open_nor_closed(door: Door) -> None:
    door.status = 503
    seen = found(None, f"http://127.0.0.1:{door.server_port}")
    assert not {"Ray's Jobs API", "MLflow server"} & seen.keys()


def test_an_address_of_a_dashboard_is_asked_as_it_is(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposures, "DASHBOARD_PORT", 1)
    seen = found(f"http://127.0.0.1:{door.server_port}", "sqlite:////nowhere/none.db")
    assert seen["Ray's Jobs API"][0] == "open"


def test_a_server_for_this_machine_alone_is_closed_and_sees_no_password(door: Door) -> None:
    seen = found("10.255.255.1:1", f"http://me:S3CR3T@127.0.0.1:{door.server_port}")
    assert seen["MLflow server"] == (
        "closed",
        f"http://127.0.0.1:{door.server_port} answers on this machine alone",
    )
    assert "MLflow server's version" not in seen
    assert not any("Authorization" in headers for headers in door.headers)
    assert "S3CR3T" not in str(seen)


def test_a_server_that_others_reach_is_open_unless_it_asks_who_is_there(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposures, "_is_loopback", lambda host: False)  # as if it were elsewhere
    uri = f"http://127.0.0.1:{door.server_port}"
    assert found(None, uri)["MLflow server"][0] == "open"
    door.status = 401
    assert found(None, uri)["MLflow server"][0] == "closed"


def test_a_server_here_that_listens_for_others_too_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with Door("0.0.0.0") as wide:
        threading.Thread(target=wide.serve_forever, daemon=True).start()
        monkeypatch.setattr(exposures, "DASHBOARD_PORT", wide.server_port)
        seen = found(None, f"http://127.0.0.1:{wide.server_port}")
        wide.shutdown()
    assert seen["MLflow server"][0] == "open"
    assert "from whoever reaches it" in seen["Ray's Jobs API"][1]


def test_what_does_not_speak_http_is_no_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greet(listening: socket.socket) -> None:
        caller, _ = listening.accept()
        with caller:
            caller.recv(1000)
            caller.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet, args=(listening,), daemon=True).start()
        monkeypatch.setattr(exposures, "DASHBOARD_PORT", listening.getsockname()[1])
        assert "Ray's Jobs API" not in found(None, f"sqlite:///{tmp_path}/none.db")


def test_addresses_for_others_are_never_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not any(address.startswith("127.") for address in exposures._own_addresses())


def test_an_old_server_is_named(door: Door) -> None:
    door.version = "2.9.2"
    seen = found(None, f"http://127.0.0.1:{door.server_port}")
    assert seen["MLflow server's version"] == ("open", "2.9, before 3.17")


def test_files_that_others_can_read_or_write_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, database = tmp_path / "serve.txt", tmp_path / "mlflow.db"
    monkeypatch.setenv("RECURRA_TOKEN_FILE", str(token))
    for path, mode in ((token, 0o640), (database, 0o666)):
        path.write_text("x", "utf8")
        path.chmod(mode)
    seen = found(None, f"sqlite:///{database}")
    assert seen["token file"] == ("open", f"{token} can be read by others on this machine (mode 0640)")
    assert seen["tracker's database"][0] == "open"
    assert "written by others" in seen["tracker's database"][1]
    token.chmod(0o600)
    database.chmod(0o644)
    closed = found(None, f"sqlite:///{database}")
    assert {closed[name][0] for name in ("token file", "tracker's database")} == {"closed"}


def test_rows_say_what_to_do() -> None:
    (row,) = as_rows([exposures.Exposure("a door", "http://me:S3CR3T@host is open", "open", "Close it.")])
    assert row == {
        "what": "a door", "found": "http://***@host is open", "status": "open", "hint": "Close it."
    }  # fmt: skip
