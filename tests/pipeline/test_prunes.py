"""Old versions go, with their files; what somebody may need stays."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from components.errors import ModelError
from pipeline.backends import workspace
from pipeline.backends.aliases import Aliases
from pipeline.backends.ledger import Change
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.prunes import prune, show, shown

NUM_VERSIONS = 7
FILE = b"x" * 1000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(Store(f"sqlite:///{tmp_path_factory.mktemp('prunes')}/mlflow.db"))


def filled(registry: Registry, name: str, storage: Path) -> list[RunFolder]:
    """A name with seven versions of 1,000 bytes: 1, 3, 4 were champion in turn, 2 is another tool's."""
    experiment = registry.store.experiment(name)
    run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
    folders = []
    for number in range(1, NUM_VERSIONS + 1):
        folder = workspace.create(storage, name, plan={}, versions={})
        # Run ids of one second would sort by their random digits.
        folder = RunFolder(folder.path.rename(folder.path.with_name(f"2026010{number}-000000-abcdef")))
        (folder.path / "weights").write_bytes(FILE)
        model = registry.store.call(
            lambda client: client.create_logged_model(experiment, name=name, source_run_id=run)
        )
        (storage / "MLmodel").write_bytes(FILE)
        registry.attach(model.model_id, storage / "MLmodel")
        if number == 2:
            place = model.artifact_location
            registry.store.call(lambda client, place=place: client.create_model_version(name, place))
        else:
            registry.create(name, model_id=model.model_id, run=run, key=folder.run_id, tags={})
        folders.append(folder)
    with Aliases(registry, name, storage / name).held() as turn:
        for before, after in ((None, 1), (1, 3), (3, 4)):
            turn.move(Change("champion", before, after, "better", "r"))
    registry.store.call(lambda client: client.delete_registered_model_alias(name, "previous"))
    return folders


def pruned(registry: Registry, name: str, storage: Path, **options: Any) -> dict[str, Any]:
    given = {"keep": 2, "runs": False, "dry_run": False, **options}
    return prune(name, storage=storage, tracking_uri=registry.store.uri, **given)


def stored(registry: Registry, experiment: str) -> Path:
    """Where the files of an experiment lie."""
    assert registry.store.artifacts is not None
    return Path(urlsplit(registry.store.artifacts).path) / experiment


def numbers(found: dict[str, Any], key: str = "versions") -> list[int]:
    return [each["version"] for each in found[key]]


def test_only_versions_that_nobody_needs_go_and_a_dry_run_says_which(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = filled(registry, "words", tmp_path)
    planned = pruned(registry, "words", tmp_path, dry_run=True)
    assert len(registry.versions("words")) == NUM_VERSIONS
    found = pruned(registry, "words", tmp_path)
    assert {**planned, "dry_run": False} == found
    assert numbers(found) == [1, 5]
    assert found["bytes"] == 2 * len(FILE)
    assert {each["version"]: each["because"] for each in found["kept"]} == {
        7: "among the newest 2",
        6: "among the newest 2",
        4: "@champion",
        3: "the one before @champion",
        2: "not registered by recurra",
    }
    assert [version.number for version in registry.versions("words")] == [7, 6, 4, 3, 2]
    files = [path for path in stored(registry, "words").rglob("MLmodel") if path.is_file()]
    assert len(files) == NUM_VERSIONS - 2
    assert all(folder.path.exists() for folder in folders)
    assert pruned(registry, "words", tmp_path)["versions"] == []
    show(found, console=Console())
    out = capsys.readouterr().out
    assert "2 versions removed, which freed 2.0 kB." in out
    assert "stays: the one before @champion" in out
    show(planned, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == planned


def test_run_folders_go_on_request_but_not_those_held_or_of_a_version_that_stays(
    registry: Registry, tmp_path: Path
) -> None:
    folders = filled(registry, "letters", tmp_path)
    with folders[4].held():
        found = pruned(registry, "letters", tmp_path, runs=True)
    # 2 has a folder but its version is another tool's, so no version of it stays.
    assert [each["run"] for each in found["runs"]] == [folders[0].run_id, folders[1].run_id]
    left = [number for number, folder in enumerate(folders, start=1) if folder.path.exists()]
    assert left == [3, 4, 5, 6, 7]
    assert found["bytes"] > 2 * len(FILE) + 2 * len(FILE)
    later = pruned(registry, "letters", tmp_path, runs=True)
    assert [each["run"] for each in later["runs"]] == [folders[4].run_id]
    assert not list((tmp_path / "letters").glob(".*.removed"))


def test_files_that_another_version_shares_stay_and_free_nothing(registry: Registry, tmp_path: Path) -> None:
    experiment = registry.store.experiment("shared")
    run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
    model = registry.store.call(lambda client: client.create_logged_model(experiment, name="shared"))
    (tmp_path / "MLmodel").write_bytes(FILE)
    registry.attach(model.model_id, tmp_path / "MLmodel")
    for key in ("a", "b"):
        registry.create("shared", model_id=model.model_id, run=run, key=key, tags={})
    found = pruned(registry, "shared", tmp_path, keep=1)
    assert (numbers(found), found["bytes"]) == ([1], 0)
    assert list(stored(registry, "shared").glob("models/*/artifacts/MLmodel"))


def test_an_unknown_model_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no registered model 'nobody'"):
        pruned(registry, "nobody", tmp_path)


def test_bytes_are_shown_as_people_read_them() -> None:
    assert [shown(size) for size in (0, 999, 1500, 2_500_000, 3 * 10**12)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "3,000.0 GB"
    ]  # fmt: skip
