"""Data behind http, on a server of the tests' own that redirects wherever it is asked to."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from components.data.readers import hosts
from components.data.readers.hosts import Reach
from components.data.readers.paths import find
from components.data.readers.web import Web, file_system
from components.errors import DataError, StorageError

KNOWN = (".csv",)
CONTENT = b"id,label\n1,a\n2,b\n"


class Server(ThreadingHTTPServer):
    """Has one file; `/to.csv?url=...` redirects, other names are a status, as `/403.csv`."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Answer)
        self.asked: list[str] = []

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def leading_to(self, url: str, host: str = "127.0.0.1") -> str:
        return self.url(f"/to.csv?url={quote(url, safe='')}", host)


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        url = urlsplit(self.path)
        if url.path == "/to.csv":
            self._answer(302, b"", Location=parse_qs(url.query)["url"][0])
        elif url.path == "/loop.csv":
            self._answer(302, b"", Location="/loop.csv")
        elif url.path != "/rows.csv":
            number = url.path[1:4]
            self._answer(int(number) if number.isdigit() else 404, b"")
        elif asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            some = CONTENT[int(first) : int(last) + 1]
            self._answer(206, some, Content_Range=f"bytes {first}-{last}/{len(CONTENT)}")
        else:
            self._answer(200, CONTENT, Accept_Ranges="bytes")

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def listening(host: str) -> Iterator[Server]:
    made = Server(host)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with listening("127.0.0.1") as made:
        yield made


def refusal(url: str) -> str:
    with pytest.raises(DataError) as caught:
        find(url, KNOWN)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_file_behind_http_is_read_in_place_and_as_a_stream(server: Server) -> None:
    (file,) = find(server.url("/rows.csv"), KNOWN)
    assert (file.size(), file.shown) == (len(CONTENT), server.url("/rows.csv"))
    assert file.stream().read() == CONTENT
    with file.open() as stored:
        stored.seek(3)
        assert stored.read(5) == CONTENT[3:8]


def test_a_redirect_to_where_the_named_host_is_is_followed(server: Server) -> None:
    # Twice: each hop is looked at for itself.
    url = server.leading_to(server.leading_to(server.url("/rows.csv", "localhost")))
    (file,) = find(url, KNOWN)
    assert file.stream().read() == CONTENT
    assert any(path == "/rows.csv" for path in server.asked)


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/a.csv",
        "http://[fd00:ec2::254]/a.csv",
        "http://[::ffff:169.254.169.254]/a.csv",
        "http://100.100.100.200/a.csv",
        "https://169.254.169.254:8443/a.csv",
    ],
)
def test_a_redirect_to_where_clouds_give_credentials_away_is_refused(server: Server, target: str) -> None:
    for url in (server.leading_to(target), server.leading_to(server.leading_to(target))):
        said = refusal(url)
        assert "127.0.0.1" in said and "the server leads to" in said
        assert "an address of this machine's network itself" in said


@pytest.fixture
def own_address() -> str:
    """An address of this machine under which others reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is on no network")
        return str(probe.getsockname()[0])


def test_a_redirect_from_the_network_to_this_machine_is_refused_on_every_hop(own_address: str) -> None:
    with listening("") as server:  # here and there
        directly = server.leading_to(server.url("/rows.csv"), own_address)
        for url in (directly, server.leading_to(directly, own_address)):
            assert f"leads to 127.0.0.1: this machine, and {own_address}" in refusal(url)
        assert "/rows.csv" not in server.asked
        # The network may lead to itself.
        (file,) = find(server.leading_to(server.url("/rows.csv", own_address), own_address), KNOWN)
        assert file.size() == len(CONTENT)


@pytest.mark.parametrize("target", ["http://2852039166/a.csv", "http://0xa9fea9fe/a.csv"])
def test_a_redirect_to_an_address_spelt_as_a_number_reads_nothing(server: Server, target: str) -> None:
    with pytest.raises((DataError, StorageError), match=r"no usable answer|this machine's network itself"):
        find(server.leading_to(target), KNOWN)


@pytest.mark.parametrize(
    ("named", "led_to", "allowed"),
    [
        (Reach.PUBLIC, "1.1.1.1", True),
        (Reach.PUBLIC, "10.0.0.1", False),
        (Reach.PUBLIC, "127.0.0.1", False),
        (Reach.PRIVATE, "1.1.1.1", True),
        (Reach.PRIVATE, "10.0.0.1", True),
        (Reach.PRIVATE, "127.0.0.1", False),
        (Reach.LOOPBACK, "1.1.1.1", True),
        (Reach.LOOPBACK, "10.0.0.1", True),
        (Reach.LOOPBACK, "127.0.0.1", True),
        (Reach.LOOPBACK, "169.254.169.254", False),
    ],
)
def test_no_connection_leads_further_in_than_the_host_that_was_named(
    named: Reach, led_to: str, allowed: bool
) -> None:
    place = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (led_to, 80))
    web = Web(host="data.example.org", farthest=named)
    if allowed:
        web._socket(place).close()
        return
    with pytest.raises(DataError, match=f"data.example.org: the server leads to {led_to}: "):
        web._socket(place)


def test_a_name_that_is_elsewhere_by_the_time_of_the_connection_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When it was checked, the name server said so; when it is connected to, it is this machine.
    monkeypatch.setattr(hosts, "addresses", lambda name: ["1.1.1.1"])
    web = file_system(f"localhost:{server.server_port}")
    with pytest.raises(DataError, match=r"leads to (127\.0\.0\.1|::1): this machine"):
        web.cat_file(server.url("/rows.csv", "localhost"))
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("/404.csv", DataError, "no such file"),
        ("/403.csv?sig=S3CR3T", StorageError, "the store refuses: HTTP status 403"),
        ("/500.csv?sig=S3CR3T", StorageError, "cannot be reached: HTTP status 500"),
    ],
)
def test_what_a_server_refuses_is_told_without_the_query(
    server: Server, path: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        find(server.url(path), KNOWN)
    assert "S3CR3T" not in str(caught.value)


def test_a_server_that_is_away_is_no_missing_file() -> None:
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1/a\.csv: the store cannot be reached") as caught:
        find("http://127.0.0.1:1/a.csv", KNOWN)
    assert caught.value.exit_code == 3


def test_redirects_without_end_are_told_as_such(server: Server) -> None:
    with pytest.raises(StorageError, match=r"no usable answer \(TooManyRedirects\)"):
        find(server.url("/loop.csv"), KNOWN)
