import asyncio
import socket

import pytest

from components.errors import BusyError, DataError, ModelError
from pipeline.console import Console
from pipeline.jobs.protocol import Limits
from pipeline.jobs.serve import Options, _bound, _Source, read_token, serve

OPTIONS = {
    "host": "127.0.0.1",
    "port": 0,
    "token": None,
    "hosts": (),
    "replicas": 1,
    "batch_wait": 0.002,
    "max_batch_rows": 256,
    "limits": Limits(),
    "follow": False,
    "poll": 15.0,
    "grace": 30.0,
}


class NoCluster:
    address = None


def begin(model, tmp_path, **options):
    serve(
        str(model),
        options=Options(**{**OPTIONS, **options}),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        cluster=NoCluster(),
        scratch=None,
        console=Console(level=-1),
    )


def test_a_host_that_others_reach_needs_a_token(tmp_path):
    with pytest.raises(DataError, match="there is no token"):
        begin(tmp_path, tmp_path, host="0.0.0.0")


def test_a_port_that_is_taken_is_told_before_a_model_is_looked_for(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"127.0.0.1:{port} cannot be used"):
            begin(tmp_path, tmp_path, port=port)


def test_answers_are_sent_at_once():
    async def connected():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        class Ours(asyncio.Protocol):
            def connection_made(self, transport):
                accepted.set_result(transport.get_extra_info("socket"))

        with _bound("127.0.0.1", 0) as listening:
            server = await loop.create_server(Ours, sock=listening)
            _, writer = await asyncio.open_connection(*listening.getsockname())
            delayed_not = (await accepted).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            server.close()
        return delayed_not

    assert asyncio.run(connected())


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelError, match="There is no model in"):
        begin(tmp_path, tmp_path)
    with pytest.raises(ModelError, match="no registered model"):
        begin("models:/m@champion", tmp_path)
    with pytest.raises(ModelError, match="expected models:/name@alias"):
        begin("models:m", tmp_path)


@pytest.mark.parametrize("model", ["models:m@champion", "models:/m/3@champion", "models:/m@", "models:/"])
def test_a_name_that_means_no_version_is_refused_alike_at_first_and_while_following(model, tmp_path):
    options = Options(**(OPTIONS | {"follow": True}))
    source = _Source(model, options, f"sqlite:///{tmp_path}/mlflow.db", NoCluster(), None, Console(level=-1))
    for ask in (source.now, source.load):
        with pytest.raises(ModelError) as caught:
            ask()
        assert caught.value.message == (
            f"received {model!r}, expected models:/name@alias or models:/name/version."
        )


@pytest.mark.parametrize("model", ["models:/m/3", "runs/lines@home/1"])
def test_following_needs_an_alias(model, tmp_path):
    with pytest.raises(ModelError, match="needs an alias"):
        begin(model, tmp_path, follow=True)


def test_a_token_has_a_length_and_a_file(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(DataError, match="cannot be read"):
        read_token(path)
    path.touch(mode=0o600)
    path.write_text("short\n")
    with pytest.raises(DataError, match="fewer than 16"):
        read_token(path)
    path.write_text(" 0123456789abcdef\n")
    assert read_token(path) == "0123456789abcdef"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_token_that_others_can_read_or_replace_is_refused(tmp_path, mode):
    path = tmp_path / "the token"
    path.write_text("0123456789abcdef\n")
    path.chmod(mode)
    with pytest.raises(DataError, match=f"open to others on this machine \\(mode {mode:04o}\\)") as refused:
        read_token(path)
    assert refused.value.hint == f"chmod 600 '{path}'"
    assert "0123456789abcdef" not in str(refused.value)
    path.chmod(0o600)
    assert read_token(path) == "0123456789abcdef"


def test_a_host_that_can_be_none_is_refused(tmp_path):
    for host in ("a..b", "ü" * 70):
        with pytest.raises(DataError, match=f"--host is '{host}', expected a name"):
            begin(tmp_path, tmp_path, host=host, token="0123456789abcdef")
