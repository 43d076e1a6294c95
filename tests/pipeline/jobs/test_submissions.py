"""One submission: arguments, variables, secrets, id."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.load import SettingsError, load, resolved
from pipeline.jobs import submissions
from pipeline.jobs.submissions import Submission, Wanted
from tests.pipeline.conftest import lines, listing, write_rows

CANARY = "S3CR3T-xyz"
AWKWARD = """{'a': "x y; $HOME"} `id` \\ \n*"""


def make(*overrides: str, touch_nothing: bool = True, runs: Path | None = None, **given: Any) -> Submission:
    wanted = Wanted([Path("lines.yaml")], overrides, **given)
    return submissions.make(wanted, runs=runs or Path("runs").absolute(), touch_nothing=touch_nothing)


def test_arguments_reach_the_job_byte_for_byte(place: Path) -> None:
    change = f"data.target={json.dumps({'column': AWKWARD})}"
    sent = make(change, options=["--override", AWKWARD])
    assert sent.argv == (
        *("python", "-m", "pipeline", "run", "lines.yaml", "--set", change),
        *("--override", AWKWARD, "--address", "auto"),
    )
    echo = shlex.join([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"])
    done = subprocess.run(f"{echo} {sent.entrypoint}", shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(sent.argv)


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (["train.epochs=1"], ["train.epochs=1"]),
        (["data.path=other.parquet"], []),
        (["train.epochs=1", "data.path=other.parquet", "train.epochs=2"], ["train.epochs=2"]),
        (["data.inputs.0.scale=minmax", "model={units: 3}"], ["model={units: 3}"]),
        (["retrain={drift: {path: new.parquet}}"], []),
    ],
)
def test_the_packaged_settings_and_options_mean_the_same_in_any_folder(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any, overrides: Any, left: Any
) -> None:
    write_rows(place / "other.parquet", lines(20, seed=1))
    sent = make(*overrides)
    given = [word for word in sent.argv if "=" in word]
    assert given == left
    expected = resolved(load([Path("lines.yaml")], overrides))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / sent.settings_file).write_text(sent.settings_text, "utf8")
    monkeypatch.chdir(elsewhere)
    assert resolved(load([Path(sent.settings_file)], given)) == expected


def test_settings_that_options_make_whole_are_packaged_with_them(place: Path) -> None:
    settings = json.loads((place / "lines.yaml").read_text("utf8"))
    del settings["task"]
    (place / "lines.yaml").write_text(json.dumps(settings), "utf8")
    sent = make("task=labelling", "train.epochs=7")
    assert "--set" not in sent.argv
    assert sent.settings.train.epochs == 7


def test_the_same_settings_code_and_data_have_one_id(place: Path) -> None:
    first = make().id
    assert first.startswith("lines-") and len(first) == len("lines-") + 12
    write_rows(place / "lines.parquet")  # the same rows, written anew
    assert make().id == first
    assert make(as_json=True).id == first
    assert make(stop_seconds=5).id == first
    assert make(python="python3").id == first
    others = {
        make("train.epochs=9").id,
        make(command="train").id,
        make(options=["--require-gpu"]).id,
        make(variables={"RECURRA_STORAGE": "/shared/runs"}).id,
        make(secrets=["TOKEN"]).id,
    }
    write_rows(place / "lines.parquet", lines(50))
    others.add(make().id)
    assert len(others) == 6
    assert first not in others
    assert make().attempt(1) == make().id
    assert make().attempt(3) == f"{make().id}-3"


def test_secrets_go_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", CANARY)
    variables = {
        "RECURRA_STORAGE": "/shared/runs",
        "RECURRA_TRACKING_URI": f"http://user:{CANARY}@mlflow:5000",
    }
    sent = make(variables=variables, secrets=["TOKEN"], stop_seconds=60)
    assert sent.secrets == ("RECURRA_TRACKING_URI", "TOKEN")
    assert sent.variables == {"RECURRA_STORAGE": "/shared/runs", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    described = sent.describe()
    assert described["runtime_env"]["env_vars"]["TOKEN"] == "***"
    everything = [
        json.dumps(described),
        json.dumps(sent.runtime_env("f")),
        str(sent.metadata),
        sent.entrypoint,
    ]
    assert not any(CANARY in text for text in everything)


def test_a_secret_with_its_value_is_refused_and_not_repeated(place: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        make(secrets=[f"TOKEN={CANARY}"])
    assert CANARY not in str(refused.value)


def test_nothing_is_kept_unless_there_are_runs_already(place: Path) -> None:
    before = listing(place)
    sent = make()
    make(touch_nothing=False)
    assert listing(place) == before
    (place / "runs").mkdir()
    assert make(touch_nothing=False).id == sent.id
    assert listing(place) == sorted([*before, "runs", "runs/lines", "runs/lines/.digests.json"])


def test_data_that_only_the_cluster_sees_do_not_hinder(place: Path) -> None:
    sent = make("data.path=/on/the/cluster/rows.parquet")
    assert sent.files is None
    assert sent.describe()["data"] is None
