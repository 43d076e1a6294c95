"""What every command promises at its edge: options, exit codes, errors as text and as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands import running
from tests.pipeline.conftest import call, failure, listing

pytestmark = pytest.mark.usefixtures("handlers")

COMMANDS = [
    "inspect", "check", "plan", "run", "prepare", "tune", "train", "evaluate", "register", "retrain",
    "drift", "schedule", "submit", "jobs", "logs", "stop", "predict", "serve", "models", "promote",
    "rollback", "prune", "report", "reproduce", "doctor", "schema",
]  # fmt: skip


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
        (["predict", "m", "d", "-o", "x", "--n-best-sequences", "1001"], "--n-best-sequences"),
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


def test_a_bug_of_ours_ends_with_1_and_all_that_a_report_needs(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing a caller can bring about, so it is put there by force.
    monkeypatch.setattr(running, "surroundings", None)
    code = call("run", "lines.yaml", "--json")
    out, err = capsys.readouterr()
    assert (code, json.loads(out)["exit_code"]) == (1, 1)
    assert "Traceback" in err
    assert "please report it" in err
