"""Which stages run, which are reused, and why."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.errors import ClusterError, DataError, StorageError
from conf.load import SettingsError, resolved
from conf.schema import GateSettings, Settings
from pipeline import run
from pipeline.backends import workspace
from pipeline.backends.signals import Signals
from pipeline.backends.trials import TrialLedger
from pipeline.backends.workspace import RunFolder
from pipeline.run import STAGES, Plan, Surroundings, execute, flatten, plan, resources, stages_of
from tests.pipeline.conftest import QUIET, Noting, line_settings, lines, write_rows

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
        values[name] = {**(values[name] or {}), **section} if isinstance(section, dict) else section
    return Settings.model_validate(values)


def as_if_run(
    tmp_path: Path, settings: Settings, *, uri: str = TRACKER, until: str = "register"
) -> RunFolder:
    """A run folder as a finished run leaves it, up to a stage."""
    found = planned(tmp_path, settings, uri=uri)
    folder = workspace.create(tmp_path / "runs", settings.name, plan=found.keys, versions={})
    for stage in [each for each in found.stages if STAGES.index(each.name) <= STAGES.index(until)]:
        for name in workspace.OUTPUTS[stage.name]:
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.path / name).write_text("{}", "utf8")
        folder.update_stage(stage.name, status="done", key=stage.key, inputs=stage.inputs)
    return folder


def test_a_first_run_runs_everything(tmp_path: Path, settings: Settings) -> None:
    found = planned(tmp_path, settings)
    assert [stage.name for stage in found.stages] == ["prepare", "train", "evaluate", "register"]
    assert set(reasons(found).values()) == {"never run before"}
    assert not found.nothing_to_do
    assert [stage.name for stage in planned(tmp_path, settings, until="train").stages] == ["prepare", "train"]


def searching(settings: Settings, **changes: Any) -> Settings:
    """The settings with a search."""
    return changed(settings, tune={"space": {"model.units": {"choice": [4, 8]}}, **changes})


def test_a_search_stands_between_the_rows_and_the_training(tmp_path: Path, settings: Settings) -> None:
    as_if_run(tmp_path, searching(settings))
    found = planned(tmp_path, searching(settings, trials=7))
    assert [stage.name for stage in found.stages] == list(STAGES)
    assert [stage.source is not None for stage in found.stages] == [True, False, False, False, False]
    assert reasons(found)["tune"] == "tune.trials changed from 20 to 7"
    assert reasons(found)["train"] == "tune runs anew"
    # How many trials run at once does not matter.
    assert planned(tmp_path, searching(settings, concurrency=1, cpus=2)).nothing_to_do


def test_without_a_space_there_is_nothing_to_search(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(SettingsError, match="there is nothing to search"):
        planned(tmp_path, settings, until="tune")


def test_a_search_through_rays_client_is_refused(tmp_path: Path, settings: Settings) -> None:
    client = replace(around(tmp_path), address="ray://127.0.0.1:10001")
    with pytest.raises(SettingsError, match="cannot be led through Ray's client"):
        execute(searching(settings), around=client)
    assert workspace.runs(tmp_path / "runs", settings.name) == []


def unfinished_search(tmp_path: Path, settings: Settings) -> RunFolder:
    """A run that was killed while it searched, with one trial done."""
    folder = as_if_run(tmp_path, settings, uri=around(tmp_path).tracking_uri, until="tune")
    folder.update_stage("tune", status="running")
    (folder.path / "tune").unlink()
    ledger = TrialLedger(folder.tune)
    ledger.begin(lag=2)
    ledger.start(0, {"model.units": 4})
    ledger.end(0, "finished")
    return folder


def test_an_unfinished_search_over_other_settings_is_not_forgotten(
    tmp_path: Path, settings: Settings
) -> None:
    folder = unfinished_search(tmp_path, searching(settings))
    other = planned(tmp_path, searching(settings, trials=7), uri=around(tmp_path).tracking_uri)
    with pytest.raises(SettingsError) as caught:
        run._leave_other_searches(other, around(tmp_path))
    (problem,) = caught.value.problems
    assert problem.message.endswith("1 trials done, and now tune.trials changed from 20 to 7")
    assert "--new-search" in problem.hint and f"--reuse {folder.run_id}" in problem.hint
    run._leave_other_searches(other, replace(around(tmp_path), new_search=True))
    assert folder.stage("tune")["status"] == "left"
    run._leave_other_searches(other, around(tmp_path))
    # With its own settings it is still gone on with.
    assert run._fits(folder, planned(tmp_path, searching(settings), uri=around(tmp_path).tracking_uri))


def test_trials_are_reused_only_from_the_same_rows_and_code(tmp_path: Path, settings: Settings) -> None:
    folder = unfinished_search(tmp_path, searching(settings))
    other = planned(tmp_path, searching(settings, trials=7), uri=around(tmp_path).tracking_uri)
    assert run._to_reuse(other, replace(around(tmp_path), reuse=folder.run_id)) == folder
    assert run._to_reuse(other, replace(around(tmp_path), reuse=str(folder.path))) == folder
    with pytest.raises(SettingsError, match="no trials of such a run") as caught:
        run._to_reuse(other, replace(around(tmp_path), reuse="nobody"))
    assert folder.run_id in caught.value.problems[0].hint
    folder.update_stage("prepare", key="other")
    with pytest.raises(SettingsError, match="or are others"):
        run._to_reuse(other, replace(around(tmp_path), reuse=folder.run_id))
    folder.update_stage("prepare", key=other.keys["prepare"])
    folder.update_stage("tune", inputs={**folder.stage("tune")["inputs"], "code": "other"})
    with pytest.raises(SettingsError, match="another version of the code"):
        run._to_reuse(other, replace(around(tmp_path), reuse=folder.run_id))


def test_a_stopped_run_is_gone_on_with_although_what_it_had_not_got_to_has_changed(
    tmp_path: Path, settings: Settings
) -> None:
    folder = as_if_run(tmp_path, settings, until="train")
    other = planned(tmp_path, changed(settings, evaluate={"bootstrap": 300}), uri="sqlite:///moved.db")
    assert not run._fits(folder, other)  # it was not stopped
    folder.update_stage("train", status="running")
    assert run._fits(folder, other)
    assert not run._fits(folder, planned(tmp_path, changed(settings, train={"epochs": 9})))


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
    stages = stages_of(settings)
    at = stages.index(first)
    assert [stage.source is not None for stage in found.stages] == [True] * at + [False] * (4 - at)
    said = reasons(found)
    assert reason in said[first]
    above = first
    for name in stages[at + 1 :]:
        assert said[name] == f"{above} runs anew"
        above = name


@pytest.mark.parametrize(
    "section",
    [{"checkpoint_seconds": 7}, {"keep_checkpoints": 5}, {"hang_seconds": 60}, {"steps_per_call": 8}],
)
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


def planned_by(code: Path, folder: Path, settings: Settings) -> dict[str, str]:
    """The reasons that a checkout somewhere else gives for the run of this folder."""
    (folder / "settings.yaml").write_text(settings.model_dump_json(by_alias=True), "utf8")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "plan", "settings.yaml", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {stage["name"]: stage["reason"] for stage in json.loads(done.stdout)["stages"]}


def append(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text('utf8')}{line}\n", "utf8")


def test_changed_code_runs_the_stages_that_use_it(tmp_path: Path, settings: Settings, root: Path) -> None:
    as_if_run(tmp_path, settings, uri=f"sqlite:///{tmp_path}/mlflow.db")
    code = tmp_path / "code"
    for package in ("pipeline", "components", "conf"):
        shutil.copytree(root / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    append(code / "pipeline" / "console.py", "# of no effect on any result")
    same = planned_by(code, tmp_path, settings)
    assert [reason.partition(" since")[0] for reason in same.values()] == ["unchanged"] * 4
    append(code / "components" / "evaluation" / "scoring.py", "# edited")
    said = planned_by(code, tmp_path, settings)
    assert [reason.startswith("unchanged") for reason in said.values()] == [True, True, False, False]
    assert said["evaluate"] == "code changed"
    assert said["register"] == "evaluate runs anew"


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


@pytest.mark.parametrize("content", ["{", "[]", "{}", ""])
def test_a_folder_whose_run_json_is_not_ours_is_passed_over(
    tmp_path: Path, settings: Settings, content: str
) -> None:
    folder = as_if_run(tmp_path, settings)
    other = tmp_path / "runs" / "lines" / "99990101-000000-abcdef"
    other.mkdir()
    (other / workspace.RUN).write_text(content, "utf8")
    assert planned(tmp_path, settings).folder == folder


def test_a_storage_that_cannot_be_is_an_error_of_the_surroundings(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(StorageError, match="cannot be written") as caught:
        plan(settings, storage=tmp_path / "lines.parquet" / "runs", tracking_uri=TRACKER)
    assert "--storage" in caught.value.hint


def around(tmp_path: Path) -> Surroundings:
    return Surroundings(
        storage=tmp_path / "runs",
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        address=None,
        console=QUIET,
        signals=Signals(),
    )


def test_nothing_to_do_gives_back_the_earlier_run_and_makes_none(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings, uri=around(tmp_path).tracking_uri)
    outcome = execute(settings, around=around(tmp_path))
    assert outcome.folder == folder
    assert [(stage.name, stage.status) for stage in outcome.stages] == [
        (name, "reused") for name in stages_of(settings)
    ]
    assert workspace.runs(tmp_path / "runs", settings.name) == [folder]
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("busy", [False, True])
def test_an_unfinished_run_is_gone_on_with_unless_somebody_is_at_it(
    tmp_path: Path, settings: Settings, busy: bool
) -> None:
    keys = planned(tmp_path, settings, uri=around(tmp_path).tracking_uri).keys
    unfinished = workspace.create(tmp_path / "runs", settings.name, plan=keys, versions={})
    with unfinished.held() if busy else nullcontext():
        outcome = execute(settings, until="prepare", around=around(tmp_path))
    assert (outcome.folder != unfinished) == busy
    assert [(stage.name, stage.status) for stage in outcome.stages] == [("prepare", "ran")]
    assert outcome.folder.is_done("prepare", keys["prepare"])
    assert (outcome.folder.data / "encoding.json").exists()
    assert YAML(typ="safe", pure=True).load(outcome.folder.settings) == resolved(settings)
    assert len(workspace.runs(tmp_path / "runs", settings.name)) == 1 + busy


def test_an_override_judges_again_what_was_not_promoted(tmp_path: Path, settings: Settings) -> None:
    uri = around(tmp_path).tracking_uri
    folder = as_if_run(tmp_path, settings, uri=uri)

    def overridden() -> Plan:
        return plan(settings, storage=tmp_path / "runs", tracking_uri=uri, override=True)

    for verdict in ("rejected", "kept"):
        folder.update_stage("register", summary={"verdict": verdict})
        found = overridden()
        assert [stage.name for stage in found.stages if stage.source is None] == ["register"]
        assert reasons(found)["register"] == f"run {folder.run_id} was not promoted, and this is overridden"
        # In the same run, so that its version is promoted and no second one made.
        assert run._fits(folder, found) and not found.is_fulfilled(folder)
        assert planned(tmp_path, settings, uri=uri).is_fulfilled(folder)
    folder.update_stage("register", summary={"verdict": "promoted"})
    assert overridden().nothing_to_do and overridden().is_fulfilled(folder)


def test_an_override_of_a_promoted_run_is_said_to_be_of_no_use(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings, uri=around(tmp_path).tracking_uri)
    folder.update_stage("register", summary={"verdict": "promoted"})
    console = Noting()
    outcome = execute(settings, around=replace(around(tmp_path), override="why", console=console))
    assert outcome.folder == folder
    assert any("The override was not used" in note for note in console.notes)


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
    # What makes a reason to train again changes nothing about a run.
    assert set(settings.model_dump(by_alias=True)) == sections | {"retrain"}
    for keys in run.CODE.values():
        assert run._sources(keys)


def test_vectors_are_known_by_their_content_not_by_their_place(tmp_path: Path, settings: Settings) -> None:
    words = {"column": "words", "kind": "token"}
    without = changed(settings, data={"inputs": [words]})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "v.txt").write_text("der 1 2\n", "utf8")
    here, there = (
        changed(settings, data={"inputs": [{**words, "vectors": str(tmp_path / name / "v.txt")}]})
        for name in ("a", "b")
    )
    as_if_run(tmp_path, here)
    assert planned(tmp_path, here).nothing_to_do
    assert planned(tmp_path, there).nothing_to_do
    assert "data changed: words: v.txt" in reasons(planned(tmp_path, without))["prepare"]
    (tmp_path / "b" / "v.txt").write_text("der 1 3\n", "utf8")
    assert reasons(planned(tmp_path, there))["prepare"] == "data changed: words: v.txt"
    (tmp_path / "b" / "v.txt").unlink()
    with pytest.raises(DataError, match="no such file"):
        planned(tmp_path, there)


@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_a_gpu_that_is_required_and_not_there_ends_the_run_before_it_begins(
    tmp_path: Path, settings: Settings
) -> None:
    wanting = dataclasses.replace(around(tmp_path), require_gpu=True)
    free = changed(settings, train={"devices": "auto"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ClusterError, match="sees no GPU that it can use") as caught:
        execute(free, around=wanting)
    assert caught.value.exit_code == 3
    assert workspace.runs(tmp_path / "runs", settings.name) == []
    assert sorted(path for path in tmp_path.iterdir() if path.name != "runs") == before
    import ray

    assert not ray.is_initialized()


def test_a_required_gpu_contradicts_settings_that_ask_for_cpus(tmp_path: Path, settings: Settings) -> None:
    wanting = dataclasses.replace(around(tmp_path), require_gpu=True)
    with pytest.raises(SettingsError, match=r"--require-gpu: train\.devices: received cpu:1"):
        execute(settings, around=wanting)
    assert workspace.runs(tmp_path / "runs", settings.name) == []


def test_what_is_trained_already_needs_no_gpu(tmp_path: Path, settings: Settings) -> None:
    folder = as_if_run(tmp_path, settings, uri=around(tmp_path).tracking_uri)
    wanting = dataclasses.replace(around(tmp_path), require_gpu=True)
    assert execute(settings, around=wanting).folder == folder


def test_rows_are_prepared_again_only_for_columns_that_slices_or_groups_need(
    tmp_path: Path, settings: Settings
) -> None:
    plain = planned(tmp_path, settings).keys
    same = planned(tmp_path, changed(settings, evaluate={"slices": [{"length": [1, 3]}]})).keys
    other = planned(tmp_path, changed(settings, evaluate={"slices": [{"column": "fold"}]})).keys
    assert same["prepare"] == plain["prepare"] != other["prepare"]
    assert same["evaluate"] != plain["evaluate"]


def test_every_probability_is_kept_only_for_a_gate_that_compares_areas(
    tmp_path: Path, settings: Settings
) -> None:
    plain, floor, *areas = (
        planned(tmp_path, settings.model_copy(update={"gate": GateSettings.model_validate(gate)})).keys
        for gate in ({}, {"floors": {"roc_auc": 0.9}}, {"better_on": "roc_auc"}, {"better_on": "pr_auc"})
    )
    assert floor["evaluate"] == plain["evaluate"]
    assert areas[0]["evaluate"] == areas[1]["evaluate"] != plain["evaluate"]
    assert areas[0]["register"] != areas[1]["register"]


def test_examples_count_by_their_content_not_by_their_place(tmp_path: Path, settings: Settings) -> None:
    keys = []
    for folder, text in (("a", "{}\n"), ("b", "{}\n"), ("b", "{ }\n")):
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / "must.jsonl"
        file.write_text(text, "utf8")
        keys.append(planned(tmp_path, changed(settings, evaluate={"examples": str(file)})).keys)
    assert keys[0] == keys[1]
    assert keys[1]["train"] == keys[2]["train"]
    assert keys[1]["evaluate"] != keys[2]["evaluate"]
