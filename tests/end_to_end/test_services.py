"""The services of the compose file as processes of this machine, started by the very commands that it names.

    PostgreSQL, S3 ─ mlflow ─ ray-head ─ ray-worker ─ scheduler

Only what containers have of their own is replaced: names of hosts, ports, and folders. The store is SeaweedFS
where `weed` is on the path, and moto's server elsewhere. Of PostgreSQL the tests have one already.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import psycopg
import pytest
import yaml

from conf.load import load
from pipeline.jobs.kubernetes import submitted
from tests.docker.conftest import command_of, read
from tests.end_to_end.conftest import SETTINGS, words
from tests.end_to_end.test_cluster import free_port
from tests.pipeline.backends.test_cluster import descendants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what stands for tini needs prctl(2)"),
]

# The first process of a container: what its children leave behind stays below it.
TINI = """#!{python}
import ctypes, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
child = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
sys.exit(child.wait())
"""
RECURRA = '#!/bin/sh\nexec "{python}" -m pipeline "$@"\n'
HEALTHY_SECONDS = 180
JOB_SECONDS = 300


@dataclass
class Services:
    """Processes in place of containers."""

    compose: dict[str, Any]
    folder: Path
    places: dict[str, str]  # what only a container has, by what stands for it here
    more: dict[str, list[str]]  # arguments that keep several nodes apart on one machine
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    below: set[int] = field(default_factory=set)

    def here(self, text: str) -> str:
        pattern = "|".join(re.escape(each) for each in sorted(self.places, key=len, reverse=True))
        return re.sub(pattern, lambda match: self.places[match[0]], text)

    def environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{kept['PATH']}"
        own = self.compose["services"][name]["environment"]
        return {
            **kept,
            **{key: self.here(value) for key, value in own.items()},
            "PATH": path,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def start(self, name: str) -> None:
        command = [self.here(word) for word in command_of(self.compose["services"][name])]
        command += self.more.get(name, [])
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.folder / "project",
                env=self.environment(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_health(self, name: str) -> None:
        """Wait until the check of the compose file passes."""
        check = [self.here(word) for word in self.compose["services"][name]["healthcheck"]["test"][1:]]
        until = time.monotonic() + HEALTHY_SECONDS
        while True:
            done = subprocess.run(
                check, env=self.environment(name), capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0:
                return
            said = self.log(name) + done.stdout + done.stderr
            assert self.running[name].poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf8", errors="replace")

    def note_processes(self) -> None:
        for process in self.running.values():
            self.below |= {process.pid, *descendants(process.pid)}

    def stop(self) -> None:
        self.note_processes()
        for name in reversed(self.running):
            self.running[name].terminate()
        for process in reversed(self.running.values()):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def write_programs(folder: Path) -> None:
    for name, text in (("tini", TINI), ("recurra", RECURRA)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable), "utf8")
        path.chmod(0o755)


def database_of_mlflow(uri: str) -> str:
    """Its host, port and name, once there is the user that the compose file names."""
    with psycopg.connect(uri.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute("CREATE ROLE mlflow LOGIN SUPERUSER")
    return uri.partition("@")[2]


@pytest.fixture
def services(
    root: Path,
    tmp_path: Path,
    make_postgres_database: Callable[[], str],
    store_address: str,
) -> Iterator[Services]:
    for name in ("project/conf", "data", "bin"):
        (tmp_path / name).mkdir(parents=True)
    write_programs(tmp_path / "bin")
    subprocess.run(["sh", root / "docker" / "make-secrets", tmp_path / "secrets"], check=True)
    mlflow, ray, dashboard, store = (free_port() for _ in range(4))
    real_store = shutil.which("weed") is not None
    places = {
        "postgres:5432/mlflow": database_of_mlflow(make_postgres_database()),
        "store:8333": f"127.0.0.1:{store}" if real_store else store_address,
        "-s3.port=8333": f"-s3.port={store}",
        "127.0.0.1:8333": f"127.0.0.1:{store}",
        "mlflow:5000": f"127.0.0.1:{mlflow}",
        "localhost:5000": f"localhost:{mlflow}",
        "127.0.0.1:5000": f"127.0.0.1:{mlflow}",
        "--port 5000": f"--port {mlflow}",
        "ray-head:6379": f"127.0.0.1:{ray}",
        "--port=6379": f"--port={ray}",
        "/run/secrets/": f"{tmp_path / 'secrets'}/",
        "/runs": str(tmp_path / "project" / "runs"),
        "=/data": f"={tmp_path / 'data'}",
        "0.0.0.0": "127.0.0.1",
    }
    # The scheduler's node is started within a shell, and keeps what Ray finds free.
    apart = [
        ["--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}"] for _ in range(2)
    ]
    more = {
        "ray-head": [*apart[0], f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"],
        "ray-worker": [*apart[1], "--num-cpus=4"],
        "store": [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")],
    }
    variables = {"RECURRA_CONF": "conf/words.yaml", "RECURRA_CRON": "*/10 * * * * *"}
    compose = read(root / "docker" / "compose.yaml", variables)
    compose["services"]["store"]["environment"] = {}
    found = Services(compose, tmp_path, places, more)
    try:
        if real_store:
            found.start("store")
        yield found
    finally:
        found.stop()


def store_of(services: Services) -> Any:
    """A client of the store with the keys that only the tracker has."""
    keys = re.findall(r"= (\w+)", (services.folder / "secrets" / "store_credentials").read_text("utf8"))
    address = f"http://{services.places['store:8333']}"
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )


def ask_ray(services: Services, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """The Jobs API, asked as KubeRay does in its HTTP mode."""
    (port,) = [word.partition("=")[2] for word in services.more["ray-head"] if "dashboard-port" in word]
    token = (services.folder / "secrets" / "ray_token").read_text("utf8")
    request = Request(
        f"http://127.0.0.1:{port}/api/jobs/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"x-ray-authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def run_as_a_rayjob(services: Services, settings: Path) -> None:
    """What `--print kubernetes` renders, its settings mounted and its entrypoint submitted."""
    text = submitted(
        "words-0123456789ab",
        settings=load([settings], []),
        conf=[settings],
        overrides=["evaluate.bootstrap=100"],
        variables={"RECURRA_TRACKING_URI": "http://mlflow:5000"},
        options={"image": "recurra:cpu", "claim": "project"},
    )
    made, job = yaml.safe_load_all(text)
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RECURRA_TRACKING_URI", "value": "http://mlflow:5000"} in head["env"]
    for name, content in made["data"].items():
        (services.folder / "project" / "conf" / name).write_text(content, "utf8")
    name = job["metadata"]["name"]
    entrypoint = job["spec"]["entrypoint"].replace("/project/", f"{services.folder / 'project'}/")
    runtime = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    ask_ray(services, "", {"entrypoint": entrypoint, "submission_id": name, "runtime_env": runtime})
    until = time.monotonic() + JOB_SECONDS
    while (info := ask_ray(services, name))["status"] not in ("SUCCEEDED", "FAILED", "STOPPED"):
        assert time.monotonic() < until, ask_ray(services, f"{name}/logs")["logs"]
        time.sleep(1)
    assert info["status"] == "SUCCEEDED", ask_ray(services, f"{name}/logs")["logs"]


def recurra(services: Services, *arguments: str) -> Any:
    done = subprocess.run(
        ["recurra", *arguments, "--json"],
        cwd=services.folder / "project",
        env=services.environment("scheduler"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_the_services_train_register_and_keep_a_schedule(services: Services) -> None:
    import pyarrow.parquet as pq

    project = services.folder / "project"
    pq.write_table(words(), project / "words.parquet")
    settings = services.folder / "words.yaml"
    settings.write_text(
        SETTINGS.replace("path: words", "path: ../words").replace("epochs: 4", "epochs: 2"), "utf8"
    )
    if "store" in services.running:
        services.await_health("store")
    else:
        store_of(services).create_bucket(Bucket="artifacts")
    for name in ("mlflow", "ray-head"):
        services.start(name)
    for name in ("ray-head", "mlflow"):
        services.await_health(name)
    services.start("ray-worker")
    services.await_health("ray-worker")

    run_as_a_rayjob(services, settings)
    (version,) = recurra(services, "models", "words")["versions"]
    assert version["aliases"] == ["champion"]
    # The run, which holds no key of the store, wrote there through the tracker.
    kept = [each["Key"] for each in store_of(services).list_objects_v2(Bucket="artifacts")["Contents"]]
    assert any(key.endswith("MLmodel") for key in kept)

    services.start("scheduler")
    services.await_health("scheduler")
    until = time.monotonic() + HEALTHY_SECONDS
    while not (
        slots := [
            slot for slot in recurra(services, "schedule", "history", "words")["slots"] if slot["ended"]
        ]
    ):
        assert time.monotonic() < until, services.log("scheduler")
        time.sleep(1)
    assert slots[0]["state"] == "skipped" and slots[0]["verdict"] == "skipped", slots

    services.note_processes()
    said = [services.log(name) for name in services.running]
    for pid in services.below:
        path = Path(f"/proc/{pid}/cmdline")
        said.append(path.read_text("utf8", errors="replace") if path.exists() else "")
    for secret in (services.folder / "secrets").iterdir():
        for value in re.findall(r"\b[0-9a-f]{48}\b", secret.read_text("utf8")):
            assert not [text for text in said if value in text], secret.name
