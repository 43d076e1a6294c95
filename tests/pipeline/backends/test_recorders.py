import math
from pathlib import Path

import pytest

from components.errors import GateRefused, Interrupted, TrainingDiverged
from pipeline.backends.recorders import Recorder, status_of


@pytest.fixture
def entries():
    return []


@pytest.fixture
def recorder(entries):
    return Recorder(entries.append, earlier=[])


def test_a_stage_begins_and_ends(recorder, entries):
    with recorder.stage("train"):
        recorder.log_metrics({"loss": 0.5}, step=3, stage="train", at=12.5)
    assert [(entry["kind"], entry["stage"]) for entry in entries] == [
        ("start", "train"),
        ("values", "train"),
        ("end", "train"),
    ]
    assert entries[1]["metrics"] == {"loss": 0.5}
    assert (entries[1]["step"], entries[1]["at"]) == (3, 12500)
    assert entries[2]["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingDiverged("NaN"), "FAILED"),
        (Interrupted("^C"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (GateRefused("too low"), "FINISHED"),
    ],
)
def test_how_a_stage_ended_is_told(recorder, entries, error, status):
    with pytest.raises(type(error)), recorder.stage("train"):
        raise error
    assert entries[-1]["status"] == status == status_of(error)


def test_a_nested_run_has_the_tags_it_is_given_and_ends_when_that_is_said(recorder, entries):
    recorder.begin_nested("trial 3", tags={"recurra.trial": "3"})
    recorder.log_metrics({"loss": 0.5}, step=1, stage="trial 3")
    assert (entries[0]["kind"], entries[0]["stage"], entries[0]["tags"]) == (
        "start",
        "trial 3",
        {"recurra.trial": "3"},
    )
    assert [entry["kind"] for entry in entries] == ["start", "values"]
    recorder.end("FINISHED", stage="trial 3")
    assert not recorder.end_all("KILLED")


def test_nested_runs_at_the_same_time_end_each_for_itself(recorder, entries):
    recorder.start({})
    for number in range(3):
        recorder.begin_nested(f"trial {number}", tags={"recurra.trial": str(number)})
    recorder.end("FAILED", stage="trial 1")
    later = Recorder(entries.append, earlier=list(entries))
    assert later.is_open("trial 0")
    assert not later.is_open("trial 1")
    assert later.end_all("KILLED")
    ends = {entry["stage"]: entry["status"] for entry in entries if entry["kind"] == "end"}
    assert ends == {"trial 0": "KILLED", "trial 1": "FAILED", "trial 2": "KILLED", "": "KILLED"}
    assert entries[-1]["stage"] == ""


def test_a_nested_run_gone_on_with_keeps_what_it_logged(recorder, entries):
    recorder.begin_nested("trial 0", tags={})
    recorder.log_metrics({"loss": 0.5}, step=1, stage="trial 0")
    resumed = Recorder(entries.append, earlier=list(entries))
    resumed.begin_nested("trial 0", tags={})
    resumed.log_metrics({"loss": 0.5}, step=1, stage="trial 0")
    resumed.log_metrics({"loss": 0.4}, step=2, stage="trial 0")
    assert [entry["step"] for entry in entries if entry["kind"] == "values"] == [1, 2]


def test_a_step_done_again_after_a_kill_is_logged_once(recorder, entries):
    recorder.log_metrics({"loss": 0.5, "accuracy": 0.9}, step=1, stage="train")
    resumed = Recorder(entries.append, earlier=list(entries))
    resumed.log_metrics({"loss": 0.5, "accuracy": 0.9}, step=1, stage="train")
    resumed.log_metrics({"loss": 0.4, "accuracy": 0.9}, step=2, stage="train")
    assert [entry["step"] for entry in entries] == [1, 2]


def test_numbers_outside_a_curve_may_be_logged_again(recorder, entries):
    recorder.log_metrics({"accuracy": 0.5})
    recorder.log_metrics({"accuracy": 0.6})
    assert len(entries) == 2


def test_a_setting_that_changed_becomes_a_tag_because_mlflow_refuses_it(recorder, entries):
    recorder.log_params({"train": {"learning_rate": 0.1, "epochs": 3}})
    resumed = Recorder(entries.append, earlier=list(entries))
    resumed.log_params({"train": {"learning_rate": 0.2, "epochs": 3}})
    assert entries[0]["params"] == {"train.learning_rate": "0.1", "train.epochs": "3"}
    assert entries[1]["params"] == {}
    assert entries[1]["tags"] == {"changed.train.learning_rate": "0.2"}
    resumed.log_params({"train": {"epochs": 3}})
    assert len(entries) == 2


def test_infinite_numbers_become_nan(recorder, entries):
    recorder.log_metrics({"loss": math.inf, "rate": 1})
    assert math.isnan(entries[0]["metrics"]["loss"])
    assert entries[0]["metrics"]["rate"] == 1.0


def test_long_settings_are_cut_and_secrets_masked(recorder, entries):
    recorder.log_params({"labels": ["x" * 50] * 400, "data.path": "s3://me:S3CR3T@host/x"})
    recorder.log_tags({"note": "http://me:S3CR3T@host " + "y" * 9000})
    params, tags = entries[0]["params"], entries[1]["tags"]
    assert len(params["labels"]) == 6000
    assert params["data.path"] == "s3://***@host/x"
    assert len(tags["note"]) == 5000
    assert "S3CR3T" not in str(entries)


def test_data_is_described_with_a_digest_that_fits(recorder, entries):
    recorder.log_input(
        "words", digest="a" * 64, source="/data/words.parquet", context="training", profile={"rows": 5}
    )
    assert entries[0]["dataset"]["digest"] == "a" * 36
    assert entries[0]["dataset"]["profile"] == '{"rows": 5}'


def test_files_are_logged_by_their_path(recorder, entries):
    recorder.log_artifact(Path("/runs/x/report.html"), folder="report")
    assert (entries[0]["path"], entries[0]["folder"]) == ("/runs/x/report.html", "report")


def test_what_has_no_number_is_not_logged(recorder, entries):
    recorder.log_metrics({"accuracy": 0.5, "accuracy_low": None})
    assert entries[0]["metrics"] == {"accuracy": 0.5}
    recorder.log_metrics({"accuracy_low": None})
    assert len(entries) == 1


def test_what_a_kill_left_open_can_be_ended(recorder, entries):
    recorder.start({})
    with recorder.stage("prepare"):
        pass
    recorder._append("start", "train", tags={})
    later = Recorder(entries.append, earlier=list(entries))
    assert later.end_all("KILLED")
    assert [(entry["stage"], entry["status"]) for entry in entries[-2:]] == [
        ("train", "KILLED"),
        ("", "KILLED"),
    ]
    assert not Recorder(entries.append, earlier=list(entries)).end_all("KILLED")
