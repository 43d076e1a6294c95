"""Which stages run, which are reused, and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError
from conf.schema import Settings
from pipeline import run
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from pipeline.run import STAGES, Plan, flatten, plan, resources
from tests.pipeline.conftest import line_settings, lines, write_rows

TRACKER = "sqlite:///mlflow.db"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return line_settings(write_rows(tmp_path / "lines.parquet"))


def planned(tmp_path: Path, settings: Settings, *, uri: str = TRACKER, until: str = "register") -> Plan:
    return plan(settings, storage=tmp_path / "runs", tracking_uri=uri, until=until)


def reasons(found: Plan) -> dict[str, str]:
    return {stage.name: stage.reason for stage in found.stages}


def changed(settings: Settings, **sections: Any) -> Settings:
    """The settings with some keys of some sections changed."""
    values = settings.model_dump(mode="json", by_alias=True)
    for name, section in sections.items():
        values[name] = {**values[name], **section} if isinstance(section, dict) else section
    return Settings.model_validate(values)


def as_if_run(tmp_path: Path, settings: Settings, *, until: str = "register") -> RunFolder:
    """A run folder as a finished run leaves it, up to a stage."""
    found = planned(tmp_path, settings)
    folder = workspace.create(tmp_path / "runs", settings.name, plan=found.keys, versions={})
    for stage in found.stages[: STAGES.index(until) + 1]:
        for name in workspace.OUTPUTS[stage.name]:
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.path / name).touch()
        folder.update_stage(stage.name, status="done", key=stage.key, inputs=stage.inputs)
    return folder


def test_a_first_run_runs_everything(tmp_path: Path, settings: Settings) -> None:
    found = planned(tmp_path, settings)
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert set(reasons(found).values()) == {"never run before"}
    assert not found.nothing_to_do
    assert [stage.name for stage in planned(tmp_path, settings, until="train").stages] == ["prepare", "train"]


def test_the_same_again_reuses_everything(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings)
    found = planned(tmp_path, settings)
    assert found.nothing_to_do
    assert found.folder == folder
    assert set(reasons(found).values()) == {f"unchanged since run {folder.run_id}"}


@pytest.mark.parametrize(
    ("sections", "first", "reason"),
    [
        ({"data": {"on_bad_row": "drop"}}, "prepare", "data.on_bad_row changed from fail to drop"),
        ({"train": {"epochs": 9}}, "train", "train.epochs changed from 3 to 9"),
        ({"model": {"units": 8}}, "train", "model.units changed from 6 to 8"),
        ({"evaluate": {"bootstrap": 300}}, "evaluate", "evaluate.bootstrap changed from 200 to 300"),
        (
            {"gate": {"floors": {"accuracy": 0.5}}},
            "register",
            "gate.floors.accuracy changed from nothing to 0.5",
        ),
    ],
)
def test_a_changed_setting_runs_its_stage_and_what_follows(
    tmp_path: Path, settings: Settings, sections: dict[str, Any], first: str, reason: str
) -> None:
    as_if_run(tmp_path, settings)
    found = planned(tmp_path, changed(settings, **sections))
    at = STAGES.index(first)
    assert [stage.source is not None for stage in found.stages] == [True] * at + [False] * (4 - at)
    said = reasons(found)
    assert reason in said[first]
    above = first
    for name in STAGES[at + 1 :]:
        assert said[name] == f"{above} runs anew"
        above = name


@pytest.mark.parametrize("section", [{"checkpoint_seconds": 7}, {"keep_checkpoints": 5}])
def test_settings_that_change_no_result_run_nothing(
    tmp_path: Path, settings: Settings, section: dict[str, Any]
) -> None:
    as_if_run(tmp_path, settings)
    assert planned(tmp_path, changed(settings, train=section)).nothing_to_do


def test_rows_are_known_by_their_content_not_by_their_place(tmp_path: Path, settings: Settings) -> None:
    as_if_run(tmp_path, settings)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lines.parquet").rename(tmp_path / "elsewhere" / "lines.parquet")
    moved = changed(settings, data={"path": str(tmp_path / "elsewhere")})
    assert planned(tmp_path, moved).nothing_to_do
    write_rows(tmp_path / "elsewhere" / "lines.parquet", lines(seed=1))
    assert reasons(planned(tmp_path, moved))["prepare"] == "data changed: lines.parquet"


def test_many_changed_files_are_counted(tmp_path: Path, settings: Settings) -> None:
    as_if_run(tmp_path, settings)
    (tmp_path / "many").mkdir()
    for i in range(5):
        write_rows(tmp_path / "many" / f"{i}.parquet", lines(20, seed=i))
    found = planned(tmp_path, changed(settings, data={"path": str(tmp_path / "many")}))
    assert reasons(found)["prepare"] == "data changed: 0.parquet, 1.parquet, 2.parquet and 3 more"


def test_changed_code_runs_the_stages_that_use_it(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_run(tmp_path, settings)
    original = workspace.code_digest

    def digest(files: list[Path]) -> str:
        own = any("evaluation" in path.parts and path.name == "scoring.py" for path in files)
        return "edited" if own else original(files)

    monkeypatch.setattr(workspace, "code_digest", digest)
    said = reasons(planned(tmp_path, settings))
    assert [said[name].startswith("unchanged") for name in STAGES] == [True, True, False, False]
    assert said["evaluate"] == "code changed"


def test_another_version_of_a_library_runs_the_stages_that_use_it(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings)
    content = json.loads((folder.path / workspace.RUN).read_text("utf8"))
    for name in ("train", "evaluate"):
        content["stages"][name]["inputs"]["versions"]["tensorflow"] = "2.20.0"
        content["stages"][name]["key"] = "of another version"
    (folder.path / workspace.RUN).write_text(json.dumps(content), "utf8")
    said = reasons(planned(tmp_path, settings))
    assert said["prepare"].startswith("unchanged")
    assert said["train"].startswith("tensorflow changed from 2.20.0 to 2.")


def test_another_tracker_registers_anew_and_trains_nothing(tmp_path: Path, settings: Settings) -> None:
    as_if_run(tmp_path, settings)
    found = planned(tmp_path, settings, uri="sqlite:///other.db")
    assert [stage.source is not None for stage in found.stages] == [True, True, True, False]
    assert reasons(found)["register"] == "the tracking server changed"


def test_a_result_that_was_deleted_is_made_again(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings)
    (folder.path / workspace.OUTPUTS["evaluate"][0]).unlink()
    said = reasons(planned(tmp_path, settings))
    assert said["evaluate"] == f"its result in run {folder.run_id} is gone"
    assert said["train"].startswith("unchanged")


def test_a_stage_that_was_killed_is_taken_up(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings, until="prepare")
    train = planned(tmp_path, settings).stages[1]
    folder.update_stage("train", status="running", key=train.key, inputs=train.inputs)
    found = planned(tmp_path, settings)
    assert reasons(found)["train"] == f"unfinished in run {folder.run_id}"
    assert found.folder == folder


def test_each_stage_is_reused_from_the_run_that_has_it(tmp_path: Path, settings: Settings) -> None:
    first = as_if_run(tmp_path, settings)
    longer = changed(settings, train={"epochs": 9})
    as_if_run(tmp_path, longer, until="prepare")
    found = planned(tmp_path, settings)
    assert found.nothing_to_do
    assert {stage.source for stage in found.stages} == {first}


def test_no_data_is_an_error_of_the_rows(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"nothing\.parquet"):
        planned(tmp_path, changed(settings, data={"path": str(tmp_path / "nothing.parquet")}))


def test_a_plan_writes_no_run(tmp_path: Path, settings: Settings) -> None:
    planned(tmp_path, settings)
    assert workspace.runs(tmp_path / "runs", settings.name) == []


@pytest.mark.parametrize(
    ("devices", "expected"),
    [("auto", (1, "auto")), ("cpu:3", (3, 0)), ("gpu:2", (1, 2)), ("gpu:all", (1, "all"))],
)
def test_devices_say_what_the_worker_holds(devices: str, expected: tuple[int, int | str]) -> None:
    assert resources(devices) == expected


def test_nested_settings_become_dotted_keys_and_lists_stay_whole() -> None:
    nested = {"a": {"b": {"c": 1}, "d": []}, "e": [{"f": 2}], "g": {}}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [], "e": [{"f": 2}], "g": {}}


def test_every_setting_belongs_to_a_stage(settings: Settings) -> None:
    sections = {key.partition(".")[0] for keys in run.SETTINGS.values() for key in keys}
    # Not supported yet, and refused.
    assert set(settings.model_dump(by_alias=True)) - {"tune"} == sections
    for keys in run.CODE.values():
        assert run._sources(keys)
