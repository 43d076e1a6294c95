"""What every command promises at its edge: options, exit codes, errors as text and as JSON."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import cli, scaling
from pipeline.backends import ledger
from tests.pipeline.conftest import Started, line_settings, write_rows
from tests.pipeline.test_run import as_if_run

pytestmark = pytest.mark.usefixtures("handlers")

COMMANDS = [
    "inspect", "check", "plan", "run", "prepare", "tune", "train", "evaluate", "register", "retrain",
    "drift", "schedule", "predict", "serve", "models", "promote", "rollback", "prune", "report", "reproduce",
    "doctor", "schema",
]  # fmt: skip


@pytest.fixture
def place(folder: Path) -> Path:
    """The current folder, with rows and settings."""
    write_rows(folder / "lines.parquet")
    settings = line_settings(Path("lines.parquet")).model_dump(mode="json", by_alias=True)
    # YAML holds JSON.
    (folder / "lines.yaml").write_text(json.dumps(settings, indent=1), "utf8")
    return folder


def call(*arguments: str) -> int:
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
        sys.exit(0)
    return int(ended.value.code or 0)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one JSON object on stdout of a command that fails."""
    code = call(*arguments)
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert set(said) == {"error", "hint", "exit_code"}
    assert said["exit_code"] == code > 0
    # People get the same words.
    assert said["error"].splitlines()[-1] in err
    return said


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_help_lists_the_commands_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    lines = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == COMMANDS


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["schema"]])
def test_help_loads_no_large_library(root: Path, tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code\n"
        "large = {'ray', 'tensorflow', 'mlflow', 'pyarrow', 'pandas', 'sklearn', 'jinja2'}\n"
        "assert not large & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    assert listing(tmp_path) == []


def test_every_mistake_of_the_settings_is_one_error_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place / "lines.yaml").read_text("utf8").replace('"learning_rate"', '"learning_rat"')
    (place / "lines.yaml").write_text(text, "utf8")
    line = next(i for i, each in enumerate(text.splitlines(), 1) if "learning_rat" in each)
    before = listing(place)
    for command in ("check", "plan", "run", "prepare", "tune", "train", "evaluate", "register"):
        said = failure(capsys, command, "lines.yaml", "--set", "train.epochs=0", "--json")
        assert said["exit_code"] == 2
        assert f"lines.yaml:{line}: train.learning_rat: there is no such setting" in said["error"]
        assert "learning_rate" in said["error"]
        assert "--set train.epochs=0: train.epochs: received 0" in said["error"]
        assert listing(place) == before


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_a_rate_that_cannot_be_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    said = failure(capsys, "plan", "lines.yaml", "--set", f"train.learning_rate={value}", "--json")
    assert said["exit_code"] == 2
    assert "train.learning_rate" in said["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument"),
        (["run", "lines.yaml", "--sett", "a=1"], "No such option"),
        (["rum"], "No such command"),
        (["predict", "m", "d", "-o", "x", "--n-best", "-1"], "--n-best"),
        (["check", "nothing.yaml"], "nothing.yaml"),
        (["run", "lines.yaml", "--override", ""], "--override"),
        (["register", "lines.yaml", "--override", "  "], "say why: the text must not be empty"),
        (["run", "lines.yaml", "--folds", "3", "--override", "so be it"], "nothing to --override"),
        (["models", "nobody"], "There is no registered model 'nobody'"),
        (["report", "nothing"], "There is no run 'nothing'"),
        (["predict", "models:/nobody@champion", "lines.parquet", "-o", "out.parquet"], "nobody"),
        (["predict", "elsewhere", "lines.parquet", "-o", "out.parquet"], "elsewhere"),
    ],
)
def test_a_mistake_of_the_caller_ends_with_2_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = listing(place)
    found = failure(capsys, *arguments, "--json")
    assert said in found["error"]
    assert found["exit_code"] == 2
    assert listing(place) == before


def test_without_json_an_error_is_text_on_stderr_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("models", "nobody") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: There is no registered model 'nobody': ")
    assert "Hint: " in err


@pytest.mark.parametrize(
    ("value", "as_json"), [("1", True), ("true", True), ("false", False), ("0", False), ("", False)]
)
def test_a_variable_that_says_false_is_false(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    as_json: bool,
) -> None:
    monkeypatch.setenv("RECURRA_JSON", value)
    for arguments in (["plan", "lines.yaml"], ["models", "nobody"]):
        call(*arguments)
        out = capsys.readouterr().out
        assert out.lstrip().startswith("{") == as_json


def test_storage_and_tracker_are_made_absolute_and_can_come_from_variables(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_STORAGE", "elsewhere")
    said = failure(capsys, "report", "nothing", "--json")
    assert str(place / "elsewhere") in said["error"]
    said = failure(capsys, "report", "nothing", "--json", "--storage", "here")
    assert str(place / "here") in said["error"]
    said = failure(capsys, "models", "nobody", "--json", "--tracking-uri", "sqlite:///")
    assert "--tracking-uri" in said["error"]


def test_tracker_and_cluster_can_come_from_variables_and_an_option_goes_before(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRA_TRACKING_URI", "sqlite:///theirs.db")
    assert str(place / "theirs.db") in failure(capsys, "models", "nobody", "--json")["error"]
    option = ["--tracking-uri", "sqlite:///ours.db"]
    assert str(place / "ours.db") in failure(capsys, "models", "nobody", *option, "--json")["error"]
    monkeypatch.setenv("RECURRA_ADDRESS", "nowhere")
    for address, arguments in (("nowhere", []), ("elsewhere", ["--address", "elsewhere"])):
        assert call("check", "lines.yaml", *arguments, "--json") == 3
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert f"--address is '{address}', expected host:port" in problem["message"]


@pytest.mark.parametrize(
    "uri", ["ftp://me:S3CR3T@host", "http://me:S3CR3T/x@host", "http://me:S3CR3T@host:x"]
)
def test_a_tracker_that_cannot_be_is_refused_without_its_password(
    place: Path, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    assert call("models", "nobody", "--tracking-uri", uri, "--json") == 2
    out, err = capsys.readouterr()
    assert "--tracking-uri" in json.loads(out)["error"]
    assert "***@host" in out
    assert "S3CR3T" not in out + err


@pytest.mark.parametrize(
    ("verdict", "code"), [("promoted", 0), ("kept", 0), ("registered", 0), ("rejected", 4)]
)
@pytest.mark.parametrize("command", ["run", "register"])
def test_the_exit_code_follows_the_verdict(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, verdict: str, code: int
) -> None:
    settings = line_settings(place / "lines.parquet")
    folder = as_if_run(place, settings, uri=f"sqlite:///{place}/mlflow.db")
    folder.update_stage("register", summary={"verdict": verdict, "reasons": ["So it is."], "model": None})
    assert call(command, "lines.yaml", "--json") == code
    said = json.loads(capsys.readouterr().out)
    assert (said["run_id"], said["verdict"], said["reasons"]) == (folder.run_id, verdict, ["So it is."])
    assert {stage["status"] for stage in said["stages"]} == {"reused"}


@pytest.mark.slow
def test_a_rejected_model_exits_with_4_and_one_that_is_overridden_with_0(
    place: Path, capsys: pytest.CaptureFixture[str], evaluated: Started
) -> None:
    settings = line_settings(place / "lines.parquet")
    folder = as_if_run(place, settings, uri=f"sqlite:///{place}/mlflow.db", until="evaluate")
    for name in ("data", "bundle", "evaluation"):
        path = folder.path / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
        shutil.copytree(evaluated.folder.path / name, path)
    command = ["register", "lines.yaml", "--set", "gate.ceilings.loss=0.0001", "--json"]

    def said(*more: str, code: int) -> dict[str, Any]:
        assert call(*command, *more) == code
        return json.loads(capsys.readouterr().out)

    rejected = said(code=4)
    assert (rejected["verdict"], rejected["model"]) == ("rejected", None)
    assert rejected["gate"]["outcome"] == "rule missed"
    assert "ceiling: loss" in [rule["title"] for rule in rejected["gate"]["rules"]]
    assert said(code=4)["stages"][-1]["status"] == "reused"
    promoted = said("--override", " We need it today. ", code=0)
    assert (promoted["verdict"], promoted["model"]["aliases"]) == ("promoted", ["champion"])
    assert promoted["run_id"] == rejected["run_id"]
    assert [stage["status"] for stage in promoted["stages"]] == ["reused", "reused", "reused", "ran"]
    assert promoted["gate"]["override"] == "We need it today."
    assert promoted["gate"]["gate_decision"] == "rejected"
    (change,) = ledger.read(place / "runs" / "lines")
    assert change["why"].startswith("Promoted by an override: We need it today. loss ")
    assert "Promoted by an override" in Path(promoted["report"]).read_text("utf8")
    again = said("--override", "Once more.", code=0)
    assert again["gate"] == promoted["gate"]
    assert again["stages"][-1]["status"] == "reused"


def test_a_report_is_a_path_on_stdout(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = as_if_run(place, line_settings(place / "lines.parquet"))
    folder.report.write_text("<html>", "utf8")
    assert call("report", "lines") == 0
    assert capsys.readouterr().out == f"{folder.report}\n"
    assert call("report", folder.run_id, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(folder.report)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models", "--at", "2026-01-01"), "--at and --diff need a NAME"),
        (("models", "words", "--at", "2026-01-01", "--diff", "1", "2"), "do not go together"),
        (("models", "words"), "There is no registered model 'words'"),
        (("models", "words", "--diff", "1", "2"), "There is no registered model 'words'"),
        (("promote", "words", "0", "--why", "x"), "0 is not in the range"),
        (("promote", "words", "1"), "Missing option '--why'"),
        (("promote", "words", "1", "--why", "x"), "There is no registered model 'words'"),
        (("rollback", "words"), "There is no registered model 'words'"),
        (("prune", "words", "--keep", "0", "--yes"), "0 is not in the range"),
        (("prune", "words", "--keep", "1"), "give --dry-run, or --yes"),
        (("prune", "words", "--keep", "1", "--yes"), "There is no registered model 'words'"),
    ],
)
def test_a_registry_that_lacks_the_model_is_not_made(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    said = failure(capsys, *arguments, "--json")
    assert message in said["error"]
    assert said["exit_code"] == 2
    assert listing(folder) == []


def test_without_a_name_all_models_are_listed_of_which_there_may_be_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"models": []}
    assert listing(folder) == []


def test_the_plan_of_a_first_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "lines.yaml", "--json") == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [(stage["name"], stage["status"]) for stage in stages] == [
        ("prepare", "run"),
        ("train", "run"),
        ("evaluate", "run"),
        ("register", "run"),
    ]
    assert not list(place.glob("runs/lines/*/run.json"))


def test_the_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"name", "task", "data", "model", "train", "evaluate", "gate", "register"} <= set(
        schema["properties"]
    )
    assert call("schema", "--reference") == 0
    assert "`learning_rate`" in capsys.readouterr().out


def test_check_names_everything_that_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", "lines.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"problems": []}
    changes = ["--set", "data.path=nothing.parquet", "--set", "train.devices=gpu:9"]
    assert call("check", "lines.yaml", *changes, "--json") == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["place"] for problem in problems] == ["data", "devices"]
    assert listing(place) == ["lines.parquet", "lines.yaml"]


def test_a_bug_of_ours_ends_with_1_and_all_that_a_report_needs(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing a caller can bring about, so it is put there by force.
    monkeypatch.setattr(cli, "_surroundings", None)
    code = call("run", "lines.yaml", "--json")
    out, err = capsys.readouterr()
    assert (code, json.loads(out)["exit_code"]) == (1, 1)
    assert "Traceback" in err
    assert "please report it" in err


@pytest.mark.slow
def test_rows_that_cannot_be_used_leave_no_run(place: Path) -> None:
    before = listing(place)
    rows = pq.read_table(place / "lines.parquet").to_pylist()
    rows[3]["frames"] = []
    write_rows(place / "lines.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--json"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "lines.parquet, row 3, column frames: empty sequence" in json.loads(done.stdout)["error"]
    left = set(listing(place)) - set(before)
    assert not [name for name in left if name.endswith(("run.json", ".db")) or "mlartifacts" in name]


@pytest.mark.slow
def test_a_dead_address_ends_within_half_a_minute(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--address", f"127.0.0.1:{port}", "--json"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - begun < 30
    assert done.returncode == 3
    assert f"Nothing answers at 127.0.0.1:{port}" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    "arguments",
    [["--scaling"], ["lines.yaml"], ["--devices", "cpu:2"], ["--set", "train.epochs=1"]],
)
def test_a_doctor_that_measures_needs_settings_and_one_that_looks_takes_none(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert failure(capsys, "doctor", *arguments, "--json")["exit_code"] == 2


def test_devices_to_measure_are_checked_like_the_setting(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, "doctor", "lines.yaml", "--scaling", "--devices", "tpu:2", "--json")
    assert said["exit_code"] == 2
    assert "train.devices" in said["error"]


def test_a_measurement_without_prepared_rows_says_what_to_do_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, "doctor", "lines.yaml", "--scaling", "--devices", "cpu:2", "--json")
    assert said["exit_code"] == 2
    assert "recurra prepare" in said["hint"]


@pytest.mark.slow
def test_the_doctor_measures_what_more_devices_bring(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "MEASURED_SECONDS", 0.5)
    assert call("prepare", "lines.yaml") == 0
    before = listing(place)
    capsys.readouterr()
    assert call("doctor", "lines.yaml", "--scaling", "--devices", "cpu:2", "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [row["devices"] for row in found["rows"]] == [1, 2]
    assert all(row["steps_per_second"] > 0 for row in found["rows"])
    assert found["rows"][0]["speed_up"] == 1.0
    assert "train.devices: cpu:" in found["advice"]
    assert "cpu:1: " in err and "cpu:2: " in err
    assert listing(place) == before


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "register"])
def test_a_gpu_can_be_required_of_every_command_that_trains(
    place: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    said = failure(capsys, command, "lines.yaml", "--require-gpu", "--json")
    assert said["exit_code"] == 2
    assert "--require-gpu: train.devices: received cpu:1" in said["error"]
    assert not list(place.glob("runs/lines/*/run.json"))


@pytest.mark.slow
def test_a_required_gpu_that_is_not_there_is_an_error_of_the_surroundings(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "lines.yaml", "--set", "train.devices=auto", "--require-gpu", "--json"]
    said = failure(capsys, *given)
    assert said["exit_code"] == 3
    assert "sees no GPU that it can use" in said["error"]
    assert not list(place.glob("runs/lines/*/run.json"))
    assert not (place / "mlflow.db").exists()


def test_a_place_for_files_is_refused_where_a_server_decides(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(place)
    said = failure(
        capsys, "run", "lines.yaml", "--tracking-uri", "http://127.0.0.1:1", "--artifacts", "files", "--json"
    )
    assert said["exit_code"] == 2
    assert "--artifacts" in said["error"]
    assert "a tracking server decides itself" in said["error"]
    assert listing(place) == before


@pytest.mark.parametrize("tolerance", ["-1", "nan", "2"])
def test_a_tolerance_that_cannot_be_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tolerance: str
) -> None:
    said = failure(capsys, "reproduce", "models:/lines/1", "--tolerance", tolerance, "--json")
    assert said["exit_code"] == 2
    assert "--tolerance" in said["error"]
