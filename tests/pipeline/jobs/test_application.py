"""The application behind a real uvicorn, with a model of the tests' own."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
import uvicorn

from pipeline.jobs.application import Serving, application
from pipeline.jobs.batching import Batcher, Model
from pipeline.jobs.protocol import Limits
from pipeline.jobs.replicas import BadRows


class Echo:
    def answer(self, columns, *, n_best, distribution):
        if columns["x"] == [0]:
            raise BadRows("'x', row 0: zero")
        if columns["x"] == [-1]:
            raise KeyError("a bug")
        if columns["x"] == ["slow"]:
            time.sleep(1)
        return {"label": [str(value) for value in columns["x"]]}


@contextlib.contextmanager
def served(*, limits=None, token=None, hosts=(), has_model=True):
    log = []

    async def main(listening, started, stop):
        batcher = Batcher(wait=0.0, max_rows=10, max_waiting=10)
        if has_model:
            await batcher.serve(Model("models:/m/3", [Echo()], contextlib.ExitStack()))
        serving = Serving(
            batcher=batcher,
            limits=limits or Limits(max_bytes=1000, max_rows=5, timeout=0.3),
            mlflow_version="3.17.2",
            about=lambda: {"model": "models:/m/3"},
            token=token,
            hosts=hosts,
            begin=lambda: asyncio.sleep(0),
            log=log.append,
        )
        server = uvicorn.Server(uvicorn.Config(application(serving), log_level="critical", lifespan="on"))
        server.capture_signals = contextlib.nullcontext  # signals are for the main thread
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        started.set()
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await task

    with socket.create_server(("127.0.0.1", 0)) as listening:
        started, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(main(listening, started, stop)))
        thread.start()
        assert started.wait(20)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", log
        finally:
            stop.set()
            thread.join()


def ask(url, body=None, **headers):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


@pytest.fixture(scope="module")
def server():
    with served() as found:
        yield found


def test_rows_are_answered_with_the_version_that_did_it(server):
    status, headers, body = ask(f"{server[0]}/invocations", {"inputs": {"x": [1, 2]}})
    assert status == 200 and headers["x-recurra-model"] == "models:/m/3"
    assert json.loads(body) == {"predictions": [{"label": "1"}, {"label": "2"}]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "BAD_REQUEST"),
        ({"inputs": {"x": [0]}}, 400, "BAD_DATA"),
        ({"inputs": {"x": [1] * 6}}, 413, "TOO_LARGE"),
        ({"inputs": {"x": ["a" * 1000]}}, 413, "TOO_LARGE"),
        ({"inputs": {"x": [-1]}}, 500, "INTERNAL_ERROR"),
        ({"inputs": {"x": ["slow"]}}, 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_each_fault_has_its_status_and_its_code(server, body, status, code, capsys):
    found, _, answer = ask(f"{server[0]}/invocations", body)
    if status == 504:
        time.sleep(1)  # the replica is still at it
    assert (found, json.loads(answer)["error_code"]) == (status, code)
    assert "Traceback" not in answer.decode()


def test_a_body_without_its_length_is_cut_off_at_the_limit(server):
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(4):
            connection.sendall(b"200\r\n" + b"x" * 512 + b"\r\n")
        assert b" 413 " in connection.recv(1000)


def test_other_paths_and_methods_are_told_apart(server):
    assert ask(f"{server[0]}/nothing")[0] == 404
    assert ask(f"{server[0]}/invocations")[0] == 405


def test_health_version_model_and_metrics(server):
    url = server[0]
    assert [ask(f"{url}/{path}")[0] for path in ("ping", "health", "ready")] == [200, 200, 200]
    assert ask(f"{url}/version")[2] == b"3.17.2"
    assert json.loads(ask(f"{url}/model")[2]) == {"model": "models:/m/3"}
    ask(f"{url}/invocations", {"inputs": {"x": [1, 2, 3]}})
    metrics = ask(f"{url}/metrics")[2].decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in metrics if not line.startswith("#"))
    assert float(values['recurra_requests_total{status="200"}']) >= 4
    assert float(values["recurra_rows_total"]) >= 3


def test_requests_are_logged_in_one_printable_line(server):
    url, log = server
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"GET /ping%0d%0aforged%1b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        while connection.recv(1000):
            pass
    ask(f"{url}/ping")
    assert any("GET /ping 200" in line for line in log)
    assert all("\n" not in line and "\x1b" not in line for line in log)


def test_without_a_model_it_lives_but_is_not_ready():
    with served(has_model=False) as (url, _):
        assert ask(f"{url}/ping")[0] == 200
        status, _, body = ask(f"{url}/ready")
        assert status == 503 and json.loads(body)["error_code"] == "TEMPORARILY_UNAVAILABLE"


def test_a_token_is_asked_for_except_by_probes():
    with served(token="0123456789abcdef") as (url, _):
        body = {"inputs": {"x": [1]}}
        assert ask(f"{url}/ping")[0] == ask(f"{url}/ready")[0] == 200
        status, headers, _ = ask(f"{url}/invocations", body)
        assert status == 401 and headers["www-authenticate"] == "Bearer"
        assert ask(f"{url}/model")[0] == ask(f"{url}/metrics")[0] == 401
        assert ask(f"{url}/invocations", body, Authorization="Bearer 0123456789abcdeF")[0] == 401
        assert ask(f"{url}/invocations", body, Authorization="Bearer 0123456789abcdef")[0] == 200


def test_a_name_that_is_not_this_servers_is_refused():
    with served(hosts=("127.0.0.1",)) as (url, _):
        assert ask(f"{url}/ping")[0] == 200
        assert ask(f"{url}/ping", Host="evil.example")[0] == 400
