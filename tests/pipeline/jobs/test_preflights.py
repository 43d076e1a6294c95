"""What would stop a job, told from what a cluster says of itself."""

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs import preflights, submissions
from pipeline.jobs.preflights import NotReady, There
from pipeline.jobs.submissions import Submission, Wanted
from tests.end_to_end.test_cluster import free_port


def submission(place: Path, *overrides: str, **given: Any) -> Submission:
    variables = {
        "RECURRA_STORAGE": str(place / "runs"),
        "RECURRA_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
        **given.pop("variables", {}),
    }
    wanted = Wanted([Path("lines.yaml")], overrides, variables=variables, **given)
    return submissions.make(wanted, runs=place / "runs", touch_nothing=True)


def script() -> dict[str, Any]:
    """The functions of the script that looks around."""
    found: dict[str, Any] = {}
    exec(preflights.SCRIPT.read_text("utf8").rpartition("\nmain(")[0], found)
    return found


def there(asked: Submission, *, machines: int = 1, resources: Any = None, **changes: Any) -> There:
    """A cluster of machines like this one."""
    questions = preflights.questions(asked)
    look = script()["look"](questions)
    nodes = [
        {
            "name": f"10.0.0.{number}",
            "resources": resources or {"CPU": 4.0},
            "seen": json.loads(json.dumps(look)),
        }
        for number in range(machines)
    ]
    versions = {name: script()["version"](name) for name in questions["libraries"]}
    found = There(
        "3.12.1", versions, dict.fromkeys(questions["names"], True), {}, preflights.this_machine(), nodes
    )
    found = dataclasses.replace(found, **changes)
    for node in found.nodes:
        node["seen"]["machine"] = found.machine[0]
    return found


def told(asked: Submission, cluster: There, **options: Any) -> list[tuple[str, str, int]]:
    found = preflights.objections(asked, cluster, **options)
    return [(each.place, each.message, each.exit_code) for each in found]


def test_this_machine_can_do_it(place: Path) -> None:
    asked = submission(place)
    assert told(asked, there(asked)) == []
    (difference,) = [line for line in preflights.differences(there(asked)) if "python" in line]
    assert difference.startswith("The cluster has python 3.12.1, this machine 3.")


def test_libraries_that_are_missing_or_too_old_are_named_together(place: Path) -> None:
    asked = submission(place)
    cluster = there(asked)
    versions = {**cluster.versions, "ray": "2.40.0", "mlflow": None}
    ((where, message, code),) = told(asked, dataclasses.replace(cluster, versions=versions))
    assert (where, code) == ("cluster", 3)
    assert "no mlflow" in message and "ray 2.40.0, expected" in message
    ((_, message, _),) = told(asked, dataclasses.replace(cluster, python="3.9.2"))
    assert "Python is 3.9.2 there" in message


@pytest.mark.parametrize(
    ("devices", "resources", "holds"),
    [
        ("auto", {"CPU": 4.0}, True),
        ("cpu:8", {"CPU": 4.0}, False),
        ("gpu:2", {"CPU": 4.0, "GPU": 1.0}, False),
        ("gpu:2", {"CPU": 4.0, "GPU": 2.0}, True),
        ("gpu:all", {"CPU": 4.0}, False),
    ],
)
def test_devices_asked_against_devices_there(
    place: Path, devices: str, resources: dict[str, float], holds: bool
) -> None:
    asked = submission(place, f"train.devices={devices}")
    found = told(asked, there(asked, resources=resources))
    assert (found == []) is holds
    if not holds:
        assert found[0][0] == "devices" and found[0][2] == 3
        assert f"the largest of 1 there has 4 CPUs and {resources.get('GPU', 0):g} GPUs" in found[0][1]


def test_a_gpu_that_is_required_must_be_there(place: Path) -> None:
    asked = submission(place, "train.devices=auto")
    assert told(asked, there(asked)) == []
    assert told(asked, there(asked), require_gpu=True)[0][0] == "devices"


def test_rows_that_one_machine_does_not_see_are_named_with_it(place: Path) -> None:
    asked = submission(place)
    rows = str(place / "lines.parquet")
    cluster = there(asked, machines=2)
    for node in cluster.nodes:
        node["seen"]["folders"] = {}
    assert told(asked, cluster) == []
    cluster.nodes[1]["seen"]["files"][rows] = None
    assert told(asked, cluster) == [("data", f"10.0.0.1 does not see {rows}", 2)]
    cluster.nodes[1]["seen"]["files"][rows] = 5
    ((_, message, _),) = told(asked, cluster)
    assert message.startswith(f"10.0.0.1 has another file {rows} than this machine: 5 bytes, here ")
    cluster.nodes[1]["seen"] = None
    assert ("cluster", "10.0.0.1 did not answer", 3) in told(asked, cluster)


def test_rows_that_are_not_here_must_be_there(place: Path) -> None:
    (place / "shared").mkdir()
    asked = submission(place, f"data.path={place / 'shared' / 'rows.parquet'}")
    assert told(asked, there(asked))[0][:2] == (
        "data",
        f"10.0.0.0 does not see {place / 'shared/rows.parquet'}",
    )
    (place / "shared" / "rows.parquet").write_bytes(b"rows")
    assert told(asked, there(asked)) == []


def test_folders_that_nobody_made_are_refused_elsewhere_and_made_here(place: Path) -> None:
    asked = submission(place)
    elsewhere = there(asked, machine=["head", "another boot"])
    assert told(asked, elsewhere) == [("storage", f"10.0.0.0 has no folder {place / 'runs'}", 2)]
    assert told(asked, there(asked)) == []
    assert told(asked, there(asked, machines=2)) == []
    shared = there(asked, machines=2, machine=["head", "another boot"])
    shared.nodes[1]["seen"]["machine"] = "worker"
    assert [message for _, message, _ in told(asked, shared)] == [f"10.0.0.0 has no folder {place / 'runs'}"]
    (place / "runs").mkdir()
    assert told(asked, there(asked, machine=["head", "another boot"])) == []


def test_a_tracker_that_the_cluster_does_not_reach_and_secrets_that_it_lacks(place: Path) -> None:
    port = free_port()
    asked = submission(
        place, secrets=["TOKEN"], variables={"RECURRA_TRACKING_URI": f"http://127.0.0.1:{port}"}
    )
    assert preflights.questions(asked)["hosts"] == [["127.0.0.1", port]]
    said = script()["reach"]("127.0.0.1", port)
    assert said
    cluster = there(asked, hosts={f"127.0.0.1:{port}": said}, names={"TOKEN": False})
    assert told(asked, cluster) == [
        ("tracker", f"the cluster does not reach 127.0.0.1:{port}: {said}", 3),
        ("secrets", "the cluster does not have TOKEN", 2),
    ]
    with socket.create_server(("127.0.0.1", port)):
        assert script()["reach"]("127.0.0.1", port) is None


def test_a_password_in_the_tracker_is_looked_up_there(place: Path) -> None:
    asked = submission(place, variables={"RECURRA_TRACKING_URI": "postgresql://u:S3CR3T-xyz@db/mlflow"})
    questions = preflights.questions(asked)
    assert questions["uris"] == questions["names"] == ["RECURRA_TRACKING_URI"]
    assert questions["hosts"] == []
    assert "S3CR3T" not in json.dumps(questions)


def test_all_objections_come_together_and_settings_go_before_surroundings(place: Path) -> None:
    asked = submission(place, "train.devices=gpu:2")
    found = list(preflights.objections(asked, there(asked, machine=["head", ""])))
    error = NotReady(found)
    assert error.exit_code == 2
    assert "devices: " in str(error) and "storage: " in str(error)
    assert "--storage" in error.hint and "train.devices" in error.hint
    assert NotReady(found[:1]).exit_code == 3


def test_only_so_many_files_are_asked_about(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflights, "MAX_FILES", 0)
    assert preflights.questions(submission(place))["files"] == {}
