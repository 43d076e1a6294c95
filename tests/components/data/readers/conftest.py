"""A real object store on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

STARTUP_SECONDS = 60


@pytest.fixture(scope="module")
def store_address() -> Iterator[str]:
    """Host and port of an S3-compatible server, moto's, which is stopped at the end."""
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    # Its requests are logged to where nobody reads: a pipe would fill up.
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    try:
        _wait_for(server, host, port)
        yield f"{host}:{port}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture
def object_store(store_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a new bucket; AWS_* variables lead there. Put files in it by `store_files`."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store_address}")
    bucket = f"bucket-{time.time_ns()}"
    _store(store_address).create_dir(bucket)
    return f"s3://{bucket}"


@pytest.fixture
def store_files(object_store: str, store_address: str) -> fs.FileSystem:
    """The bucket as a file system whose paths are keys."""
    return fs.SubTreeFileSystem(object_store.removeprefix("s3://"), _store(store_address))


def _store(address: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key="key",
        secret_key="secret",
        endpoint_override=address,
        scheme="http",
        allow_bucket_creation=True,
    )


def _wait_for(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    until = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.1)
    pytest.fail("moto's server did not start")
