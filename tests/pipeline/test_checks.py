"""What check and doctor find, with nothing started and nothing written."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.schema import Settings
from pipeline.backends.signals import Signals
from pipeline.checks import check, doctor, local_gpus
from pipeline.run import Surroundings
from tests.pipeline.conftest import QUIET, line_settings, lines, write_rows


def around(folder: Path, **changes: Any) -> Surroundings:
    given = {
        "storage": folder / "runs",
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "address": None,
        "console": QUIET,
        "signals": Signals(),
        **changes,
    }
    return Surroundings(**given)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return line_settings(write_rows(tmp_path / "lines.parquet"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_good_place_has_no_findings_and_stays_as_it_is(tmp_path: Path, settings: Settings) -> None:
    assert check(settings, around(tmp_path)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["lines.parquet"]


def test_everything_wrong_is_found_at_once(tmp_path: Path) -> None:
    rows = lines()
    rows["frames"][4] = []
    rows["labels"][6] = ["up"] * 99
    port = free_port()
    settings = line_settings(write_rows(tmp_path / "lines.parquet", rows), train={"devices": "gpu:7"})
    found = check(settings, around(tmp_path, tracking_uri=f"http://127.0.0.1:{port}"))
    assert [(each.place, each.exit_code) for each in found] == [("data", 2), ("devices", 3), ("tracker", 3)]
    data, devices, tracker = (each.message for each in found)
    assert "lines.parquet, row 4, column frames: empty sequence" in data
    assert "lines.parquet, row 6, column labels: 99 labels for" in data
    assert f"7 GPUs asked, {len(local_gpus())} on this machine" in devices
    assert f"127.0.0.1:{port}" in tracker


def test_a_dead_cluster_is_found(tmp_path: Path, settings: Settings) -> None:
    port = free_port()
    (found,) = check(settings, around(tmp_path, address=f"127.0.0.1:{port}"))
    assert (found.place, found.exit_code) == ("devices", 3)
    assert f"Nothing answers at 127.0.0.1:{port}" in found.message


def test_a_password_is_shown_to_nobody(tmp_path: Path, settings: Settings) -> None:
    uri = f"http://me:S3CR3T@127.0.0.1:{free_port()}"
    (found,) = check(settings, around(tmp_path, tracking_uri=uri))
    assert "S3CR3T" not in f"{found.message}{found.hint}"


def test_a_storage_below_a_file_is_found(tmp_path: Path, settings: Settings) -> None:
    (found,) = check(settings, around(tmp_path, storage=tmp_path / "lines.parquet" / "runs"))
    assert (found.place, found.exit_code) == ("storage", 2)
    assert f"{tmp_path / 'lines.parquet'} cannot be written" in found.message


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ("auto", []),
        ("gpu:all", []),
        ("gpu:2", []),
        ("gpu:3", ["train.devices is 'gpu:3': 3 GPUs asked, 2 on this machine."]),
    ],
)
def test_gpus_are_counted_as_the_driver_lists_them(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, devices: str, found: list[str]
) -> None:
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho GPU 0: A\necho '  MIG 1g.10gb'\necho GPU 1: B\n", "utf8")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(driver.parent))
    assert local_gpus() == ["GPU 0: A", "GPU 1: B"]
    wanted = settings.train.model_copy(update={"devices": devices})
    problems = check(settings.model_copy(update={"train": wanted}), around(tmp_path))
    assert [each.message for each in problems] == found


def test_without_a_driver_one_gpu_is_too_much(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = settings.train.model_copy(update={"devices": "gpu:all"})
    (found,) = check(settings.model_copy(update={"train": wanted}), around(tmp_path))
    assert (found.place, found.exit_code) == ("devices", 3)
    assert "1 GPUs asked, 0 on this machine" in found.message


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_storage_that_cannot_be_written_or_looked_into_is_found(
    tmp_path: Path, root: Path, mode: int
) -> None:
    (tmp_path / "locked").mkdir(mode=mode)
    # root may do everything, so it becomes nobody, who cannot read this test's folder either.
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from components.errors import StorageError\n"
        "from pipeline.backends.workspace import check_storage\n"
        "if os.geteuid() == 0:\n"
        "    os.setuid(65534)\n"
        "try:\n"
        "    check_storage(Path(sys.argv[1]))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "locked" / "runs")],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("cannot be written.\n")


@pytest.mark.slow
def test_the_doctor_says_what_is_installed_and_seen(tmp_path: Path) -> None:
    rows, healthy = doctor(around(tmp_path))
    facts = {row["what"]: row["found"] for row in rows}
    assert healthy
    for name in ("Python", "tensorflow", "ray", "mlflow", "cuDNN", "GPUs seen by TensorFlow", "disk"):
        assert facts[name]
    assert int(facts["CPUs seen by Ray"]) >= 2
    assert int(facts["GPUs seen by Ray"]) == len(local_gpus())
    assert facts["tracker"].endswith("is not there yet; a run makes it")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_doctor_names_a_tracker_that_is_away(tmp_path: Path) -> None:
    port = free_port()
    rows, healthy = doctor(around(tmp_path, tracking_uri=f"http://127.0.0.1:{port}"))
    assert not healthy
    assert f"127.0.0.1:{port}" in next(row["found"] for row in rows if row["what"] == "tracker")


def test_vectors_that_cannot_be_used_are_found_beside_everything_else(tmp_path: Path) -> None:
    vectors = tmp_path / "v.txt"
    data = {"inputs": [{"column": "labels2", "kind": "token", "vectors": str(vectors)}]}
    settings = line_settings(write_rows(tmp_path / "lines.parquet"), data=data)
    vectors.write_text("up 1 2\ndown 1\n", "utf8")
    found = {finding.place: finding for finding in check(settings, around(tmp_path))}
    assert list(found) == ["data", "vectors"]
    assert "v.txt, line 2: 1 numbers, expected 2" in found["vectors"].message
    assert found["vectors"].exit_code == 2


def test_more_nodes_than_this_machine_has_room_for_are_found_before_a_run(
    tmp_path: Path, settings: Settings
) -> None:
    two = settings.train.model_copy(update={"nodes": 2})
    assert check(settings.model_copy(update={"train": two}), around(tmp_path)) == []
    many = settings.train.model_copy(update={"nodes": 900})
    (found,) = check(settings.model_copy(update={"train": many}), around(tmp_path))
    assert (found.place, found.exit_code) == ("devices", 3)
    assert "train.nodes is 900" in found.message
    assert "--address" in found.hint
