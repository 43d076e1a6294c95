"""No Docker engine is needed: these read the files as Docker would and hold them to our rules."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

FILES = ("compose.yaml", "compose.gpu.yaml")


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text("utf8"))


@pytest.fixture
def compose(root: Path) -> dict[str, Any]:
    return read(root / "docker" / "compose.yaml")


def test_the_cluster_has_a_database_a_tracker_a_head_and_a_worker(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "mlflow", "ray-head", "ray-worker"}


def test_ports_are_published_on_loopback_only(root: Path) -> None:
    for name in FILES:
        for service, settings in read(root / "docker" / name)["services"].items():
            for port in settings.get("ports", ()):
                assert str(port).startswith("127.0.0.1:"), f"{name}: {service} publishes {port}"


def test_no_secret_stands_in_a_file(root: Path, compose: dict[str, Any]) -> None:
    secret = re.compile(r"(?i)(password|token|secret|key)")
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if secret.search(variable) and value != "token":
                assert str(value).startswith("/run/secrets/"), f"{name}: {variable}"
        for secret_name in service.get("secrets", ()):
            assert secret_name in compose["secrets"], f"{name}: {secret_name} is not declared"
    for name, source in compose["secrets"].items():
        assert source == {"file": f"secrets/{name}"}
    ignored = (root / ".gitignore").read_text("utf8").splitlines()
    assert "docker/secrets/" in ignored


def test_every_service_says_whether_it_is_healthy_and_what_it_waits_for(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for other, wait in service.get("depends_on", {}).items():
            assert other in compose["services"], f"{name} waits for {other}"
            assert wait == {"condition": "service_healthy"}, name


def test_volumes_are_declared_or_lie_in_the_checkout(root: Path, compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (root / "docker" / source).resolve().is_dir(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"


def test_the_gpu_file_only_adds_to_services_that_exist(root: Path, compose: dict[str, Any]) -> None:
    assert set(read(root / "docker" / "compose.gpu.yaml")["services"]) <= set(compose["services"])


def instructions(root: Path) -> list[str]:
    text = (root / "docker" / "Dockerfile").read_text("utf8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_the_image_runs_as_a_user_with_a_health_check(root: Path) -> None:
    last_stage = "\n".join(instructions(root)).rpartition("\nFROM ")[2]
    assert "USER recurra" in last_stage
    assert re.search(r'^HEALTHCHECK .* CMD \["recurra", "doctor", "--json"\]$', last_stage, re.MULTILINE)
    assert last_stage.index("USER recurra") < last_stage.index("ENTRYPOINT")


def test_the_image_installs_the_pinned_versions_with_bytecode(root: Path) -> None:
    installs = [line for line in instructions(root) if "pip install" in line]
    assert len(installs) == 2
    assert all("--compile" in line for line in installs)
    assert "-c constraints.txt" in installs[0]


def test_everything_the_image_copies_exists_and_is_sent_to_the_builder(root: Path) -> None:
    sent = {
        line.removeprefix("!")
        for line in (root / ".dockerignore").read_text("utf8").splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in instructions(root):
        if line.startswith("COPY ") and "--from=" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == sent
    for name in copied:
        assert (root / name).exists(), name


def test_the_variants_are_extras_of_the_package(root: Path) -> None:
    setup = (root / "setup.cfg").read_text("utf8")
    for extras in re.findall(r"extras=([\w,]+)", (root / "docker" / "Dockerfile").read_text("utf8")):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} =$", setup, re.MULTILINE), extra
