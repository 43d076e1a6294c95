"""How two versions differ, from what stands with them in a real registry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components import bundles
from components.errors import ModelError
from pipeline.backends.packages import Packaging
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.differences import difference, show

SETTINGS = ("name: w\ntrain: {epochs: 3, seed: 0}\n", "name: w\ntrain: {epochs: 5, seed: 0}\ngate: {x: 1}\n")
LABELS, COLUMNS = (("a", "b", "c"), ("a", "c", "d")), ((("frames", 2),), (("frames", 3), ("more", 1)))
ACCURACIES, ROWS = (0.9, 0.95), (100, 140)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> str:
    """Two versions of `w` that differ in all parts, and a third that another tool made."""
    place = tmp_path_factory.mktemp("differences")
    registry = Registry(Store(f"sqlite:///{place}/mlflow.db"))
    entities = registry.store.mlflow.entities
    experiment = registry.store.experiment("w")
    for number in range(2):
        folder = place / str(number)
        bundle = make_bundle(
            folder / "bundle", labels=LABELS[number], columns=COLUMNS[number], id_column=None
        )
        (folder / "settings.yaml").write_text(SETTINGS[number], "utf8")
        about = bundles.describe(bundle)
        run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
        profile = json.dumps({"rows": ROWS[number], "steps": 700})
        dataset = entities.Dataset("w-train", f"d{number}", "local", "{}", None, profile)
        registry.store.call(
            lambda client, run=run, dataset=dataset: client.log_inputs(run, [entities.DatasetInput(dataset)])
        )
        example = {column: [[[0] * features]] for column, features in COLUMNS[number]}
        columns = {column: 2 for column, _ in COLUMNS[number]}
        packaging = Packaging(bundle, about, columns, example, (folder / "settings.yaml",))
        model = registry.log(packaging, run=run, experiment=experiment, key=f"run-{number}")
        score = ACCURACIES[number]
        metrics = {"accuracy": score, "accuracy_low": score - 0.01, "accuracy_high": score + 0.01, "loss": 1}
        tags = {
            "recurra.metrics": json.dumps(metrics),
            "recurra.code_version": f"0.{number}",
            "recurra.data_digest": "same",
        }
        registry.create("w", model_id=model, run=run, key=f"run-{number}", tags=tags)
    registry.store.call(lambda client: client.create_model_version("w", str(place)))
    return registry.store.uri


def test_every_part_tells_what_changed_and_nothing_else(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = difference("w", 1, 2, tracking_uri=uri)
    assert found["settings"] == {"train.epochs": {"from": 3, "to": 5}, "gate.x": {"from": None, "to": 1}}
    assert found["data"] == {
        "train.digest": {"from": "d0", "to": "d1"},
        "train.rows": {"from": 100, "to": 140},
        "labels": {"added": ["d"], "removed": ["b"]},
    }
    assert found["schema"]["inputs.frames.features"] == {"from": 2, "to": 3}
    assert found["schema"]["inputs.more.kind"] == {"from": None, "to": "numeric"}
    assert found["metrics"] == {
        "accuracy": {
            "from": 0.9,
            "from_interval": [0.89, 0.91],
            "to": 0.95,
            "to_interval": [pytest.approx(0.94), pytest.approx(0.96)],
            "difference": pytest.approx(0.05),
        }
    }
    assert found["code"] == {"version": {"from": "0.0", "to": "0.1"}}
    assert found["libraries"] == found["unknown"] == {}
    show(found, console=Console())
    out = capsys.readouterr().out
    assert "settings: train.epochs" in out
    assert "+0.0500" in out
    assert "0.9000 (0.8900 to 0.9100)" in out
    show(found, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == found


def test_a_version_does_not_differ_from_itself(uri: str) -> None:
    found = difference("w", 2, 2, tracking_uri=uri)
    assert [found[part] for part in ("settings", "data", "schema", "code", "libraries")] == [{}] * 5
    assert found["metrics"]["accuracy"]["difference"] == 0


def test_what_a_version_of_another_tool_does_not_tell_is_said(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = difference("w", 1, 3, tracking_uri=uri)
    assert found["settings"] == {}
    assert found["unknown"]["settings"] == [3]
    show(found, console=Console())
    assert "settings: not told by version 3" in capsys.readouterr().err


def test_a_version_that_is_not_there_is_named(uri: str) -> None:
    with pytest.raises(ModelError, match="'w' has no version 7"):
        difference("w", 1, 7, tracking_uri=uri)
