"""What every test stands in: a quiet environment that no setting of the machine leaks into."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.reliability import chance as chance
from tests.reliability import mark_faults
from tests.reliability import pytest_addoption as pytest_addoption
from tests.reliability import pytest_runtest_logreport as pytest_runtest_logreport
from tests.reliability import pytest_runtest_makereport as pytest_runtest_makereport
from tests.reliability import pytest_sessionfinish as pytest_sessionfinish

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # two test processes may start a Ray each at the same moment
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "NO_COLOR": "1",
    "COLUMNS": "100",
}
NUM_DEVICES = 3
STARTING_RAY = ("pipeline", "end_to_end")
STARTUP_SECONDS = 60
LEAKS = ("RECURRA_", "MLFLOW_TRACKING", "MLFLOW_REGISTRY", "RAY_ADDRESS", "RAY_JOB", "RAY_AUTH")


def pytest_configure() -> None:
    """Before any test module is imported: TensorFlow and Ray read their environment only once."""
    for name in [name for name in os.environ if name.startswith(LEAKS)]:
        del os.environ[name]
    os.environ.update(QUIET)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several test processes (`-n`), the files that start Ray come first: they take longest."""
    mark_faults(items)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.relative_to(config.rootpath).parts[1] not in STARTING_RAY)


@pytest.fixture(scope="session", autouse=True)
def logical_devices() -> None:
    """Three CPU devices for the tests of one, two and three replicas, before TensorFlow's first operation."""
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or ()) < NUM_DEVICES:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES
        )


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is also the current one."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """Writes a small bundle with random weights and biases: a real network, never trained.

    An `encoding` stands in place of task, labels and columns. `model` changes the network's settings.
    """

    def write(
        folder: Path,
        *,
        task: str = "labelling",
        labels: Sequence[str] = ("a", "b", "c"),
        columns: Sequence[tuple[str, int]] = (("frames", 2),),
        encoding: Any = None,
        model: dict[str, Any] | None = None,
        seed: int = 0,
        id_column: str | None = "id",
    ) -> Path:
        import numpy as np

        from components import bundles
        from components.networks import models
        from components.served.encoding import Encoding
        from components.served.numbers import NumericEncoding
        from components.training.rules import rules_of
        from conf.schema import ModelSettings

        inputs = [
            NumericEncoding(column, features, "standard", (0.5,) * features, (2.0,) * features)
            for column, features in columns
        ]
        encoding = encoding or Encoding(task, tuple(inputs), tuple(labels))
        settings = ModelSettings.model_validate(
            {"cell": "gru", "units": 4, "bidirectional": True, **(model or {})}
        )
        reason = models.why_not_stepwise(settings, task=encoding.task, max_length=encoding.max_length)
        network = models.build(
            settings,
            task=encoding.task,
            slots=encoding.slots,
            num_classes=encoding.num_classes,
            seed=seed,
            allowed=rules_of(encoding),
        )
        rng = np.random.default_rng(seed)
        network.load([rng.normal(size=value.shape).astype(np.float32) for value in network.weights()])
        bundles.write(
            folder,
            export=lambda path: models.export(network, path, stepwise=reason is None),
            not_stepwise=reason,
            encoding=encoding,
            name="small",
            epoch=3,
            metrics={"accuracy": 0.5},
            id_column=id_column,
        )
        return folder

    return write


@pytest.fixture(scope="session")
def store_address() -> Iterator[str]:
    """Host and port of an S3-compatible server, moto's, which is stopped at the end."""
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
def store_files(object_store: str, store_address: str) -> "FileSystem":
    """The bucket as a file system whose paths are keys."""
    from pyarrow import fs

    return fs.SubTreeFileSystem(object_store.removeprefix("s3://"), _store(store_address))


def _store(address: str) -> "FileSystem":
    from pyarrow import fs

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
