"""Cross-validation: which rows a fold holds out, which folds there are, and what they say together."""

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.splits import TEST, TRAIN, VALID, assign
from components.errors import DataError
from conf import schema
from conf.load import SettingsError
from conf.schema import FractionSplit, Settings
from pipeline import cli, folds
from pipeline.backends.signals import Signals
from pipeline.commands import running
from pipeline.folds import column_values, folds_of, run_folds, scores_of, summarise
from pipeline.run import Outcome, Surroundings
from tests.pipeline.conftest import QUIET, line_settings, lines, write_rows
from tests.pipeline.test_run import changed

NAMES = st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=60)
BY_HASH = {"by": "hash", "valid": 0.2, "test": 0.1}
BY_GROUP = {"by": "group", "column": "fold", "valid": 0.2, "test": 0.1}


def digests_of(names: list[int]) -> pa.FixedSizeBinaryArray:
    return pa.array([blake2b(str(name).encode(), digest_size=16).digest() for name in names], pa.binary(16))


def codes_of(split: dict[str, Any], names: list[int], *, num_folds: int, seed: int = 0) -> np.ndarray:
    """The split of each row in each fold, (folds, n); a row's group is the last digit of its name."""
    keys = pa.array([str(name % 10) for name in names], pa.string())
    each = [
        FractionSplit.model_validate({**split, "seed": seed, "folds": num_folds, "fold": fold})
        for fold in range(num_folds)
    ]
    return np.stack([assign(one, keys=keys, digests=digests_of(names)) for one in each])


@given(NAMES, st.integers(2, 100), st.integers(0, 2**32 - 1), st.sampled_from([BY_HASH, BY_GROUP]))
def test_every_row_tests_in_exactly_one_fold(
    names: list[int], num_folds: int, seed: int, split: dict[str, Any]
) -> None:
    codes = codes_of(split, names, num_folds=num_folds, seed=seed)
    assert ((codes == TEST).sum(axis=0) == 1).all()
    assert set(np.unique(codes)) <= {TRAIN, VALID, TEST}


@given(NAMES, NAMES, st.integers(2, 10), st.randoms(), st.sampled_from([BY_HASH, BY_GROUP]))
def test_rows_that_are_added_or_reordered_move_nobody(
    names: list[int], more: list[int], num_folds: int, random: Any, split: dict[str, Any]
) -> None:
    before = dict(zip(names, codes_of(split, names, num_folds=num_folds).T.tolist(), strict=True))
    everybody = [*names, *(name for name in more if name not in before)]
    random.shuffle(everybody)
    after = dict(zip(everybody, codes_of(split, everybody, num_folds=num_folds).T.tolist(), strict=True))
    assert all(after[name] == before[name] for name in names)


@given(NAMES, st.integers(2, 10))
def test_a_group_stays_together(names: list[int], num_folds: int) -> None:
    codes = codes_of(BY_GROUP, names, num_folds=num_folds)
    for group in {name % 10 for name in names}:
        members = codes[:, [name % 10 == group for name in names]]
        assert (members == members[:, :1]).all()


def test_folds_are_about_equal_and_the_share_is_of_the_other_rows() -> None:
    codes = codes_of({**BY_HASH, "valid": 0.25}, list(range(8000)), num_folds=4)
    # Four standard deviations of a binomial.
    for fold in codes:
        assert abs((fold == TEST).mean() - 0.25) < 4 * (0.25 * 0.75 / 8000) ** 0.5
        others = fold[fold != TEST]
        assert abs((others == VALID).mean() - 0.25) < 4 * (0.25 * 0.75 / len(others)) ** 0.5
    # Whether a row chooses says nothing of where it tests, nor of whether it chooses in another fold.
    both = ((codes[0] == VALID) & (codes[1] == VALID)).mean()
    assert abs(both - 0.5 * 0.25**2) < 0.02
    assert (codes == TRAIN).any(axis=0).mean() > 0.98


def test_another_seed_gives_other_folds() -> None:
    names = list(range(200))
    first, other = (codes_of(BY_HASH, names, num_folds=5, seed=seed) for seed in (0, 1))
    assert (first != other).any()
    assert (first == codes_of(BY_HASH, names, num_folds=5)).all()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "lines.parquet")


def splits_of(settings: Settings, num_folds: int) -> list[dict[str, Any]]:
    return [fold.settings.data.split.model_dump() for fold in folds_of(settings, num_folds)]


def test_a_split_by_share_is_cut_into_as_many_folds_as_asked_for(data: Path) -> None:
    settings = changed(line_settings(data), data={"split": {**BY_HASH, "seed": 7}})
    found = folds_of(settings, 3)
    assert [fold.name for fold in found] == [0, 1, 2]
    for fold in found:
        split = fold.settings.data.split
        assert isinstance(split, FractionSplit)
        assert (split.folds, split.fold, split.seed, split.valid) == (3, fold.name, 7, 0.2)
        # All else is as it was.
        assert fold.settings.model_dump(exclude={"data": {"split"}}) == settings.model_dump(
            exclude={"data": {"split"}}
        )


def test_each_value_of_a_column_tests_once_and_the_next_one_chooses(data: Path) -> None:
    found = splits_of(line_settings(data), 5)
    assert [split["test"] for split in found] == [(0,), (1,), (2,), (3,), (4,)]
    assert [split["valid"] for split in found] == [(1,), (2,), (3,), (4,), (0,)]
    # The settings' own split is one of the folds, so its run is reused.
    assert line_settings(data).data.split.model_dump() == found[0]


def test_as_many_values_choose_as_the_settings_name_or_the_share_they_say(data: Path) -> None:
    column = {"column": "fold", "test": [0]}
    two = splits_of(changed(line_settings(data), data={"split": {**column, "valid": [3, 4]}}), 5)
    assert [split["valid"] for split in two] == [(1, 2), (2, 3), (3, 4), (4, 0), (0, 1)]
    share = splits_of(changed(line_settings(data), data={"split": {**column, "valid": 0.3, "seed": 4}}), 5)
    assert {(split["valid"], split["seed"]) for split in share} == {(0.3, 4)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 9, 2, None, 9], ("2", "9", "10")),
        (["b", "10", "a", "b"], ("10", "a", "b")),
        ([True, False, True], ("false", "true")),
    ],
)
def test_the_values_are_read_in_order(tmp_path: Path, values: list[Any], expected: tuple[str, ...]) -> None:
    rows = lines(len(values))
    data = write_rows(tmp_path / "lines.parquet", {**rows, "fold": values})
    assert column_values(line_settings(data), "fold") == expected


def test_the_values_are_read_from_text_files_and_from_steps_too(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_text("id,t,x,y,part\na,0,1,u,one\na,1,2,u,one\nb,0,3,v,two\n", "utf8")
    settings = changed(
        line_settings(tmp_path / "steps.csv"),
        data={
            "layout": "step",
            "order": "t",
            "inputs": [{"column": "x"}],
            "target": {"column": "y"},
            "split": {"column": "part", "valid": 0.1, "test": ["one"]},
        },
    )
    assert column_values(settings, "part") == ("one", "two")


def test_a_column_that_is_not_there_is_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"column folds: no such column.*did you mean 'fold'"):
        column_values(line_settings(data), "folds")


@pytest.mark.parametrize(
    ("split", "num_folds", "said"),
    [
        ({"column": "fold", "valid": [1], "test": [0]}, 4, "has 5: 0, 1, 2, 3, 4 .give --folds 5."),
        ({"column": "id", "valid": 0.1, "test": ["r0"]}, 4, "has more than 100: r0, r1,"),
        ({"column": "fold", "valid": [1, 2, 3, 4], "test": [0]}, 5, "none is left to train"),
        ({"by": "stratified", "valid": 0.1, "test": 0.1}, 3, "by: stratified has no folds .use by: hash"),
        (
            {"by": "time", "column": "when", "valid": "2024-01-01", "test": "2024-02-01"},
            3,
            "by: time has no folds",
        ),
    ],
)
def test_folds_that_make_no_sense_are_refused(
    data: Path, split: dict[str, Any], num_folds: int, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as refusal:
        folds_of(changed(line_settings(data), data={"split": split, "id": None}), num_folds)
    assert refusal.value.exit_code == 2
    assert f"--folds {num_folds}: data.split: " in str(refusal.value)


def evaluated(fold: int | str, **test: float | None) -> dict[str, Any]:
    return {"fold": fold, "metrics": {"test": test}, "baseline": {"name": "rule", "accuracy": 0.5}}


def test_what_the_folds_say_together_is_what_numpy_says() -> None:
    values = [0.25, 0.5, 0.9]
    each = [evaluated(i, accuracy=v, accuracy_low=0.0, num_steps=9) for i, v in enumerate(values)]
    found = summarise(each)
    assert found["mean"] == {"accuracy": np.mean(values), "baseline_accuracy": 0.5}
    assert found["std"] == {"accuracy": np.std(values), "baseline_accuracy": 0.0}
    assert (found["min"]["accuracy"], found["max"]["accuracy"]) == (0.25, 0.9)


def test_a_metric_that_one_fold_lacks_has_no_mean() -> None:
    one, other = evaluated(0, accuracy=0.5, ece=None), {**evaluated(1, accuracy=0.7, ece=0.1)}
    other["baseline"] = None
    found = summarise([one, other])
    assert found["mean"] == {"accuracy": 0.6, "ece": None, "baseline_accuracy": None}


def test_a_fold_that_fails_is_named_and_the_others_do_not_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(settings: Settings, *, until: str, around: Surroundings) -> Outcome:
        seen.append(settings)
        raise DataError("The rows are bad.", hint="Mend them.")

    monkeypatch.setattr(folds, "execute", fail)
    around = Surroundings(data.parent / "runs", "sqlite:///mlflow.db", None, QUIET, Signals())
    with pytest.raises(DataError, match="Fold 1 of 5, with 0 as test: The rows are bad") as failure:
        run_folds(line_settings(data), 5, around=around)
    assert failure.value.hint == "Mend them."
    assert len(seen) == 1


def test_the_command_and_the_settings_allow_as_many_folds() -> None:
    assert running.MAX_FOLDS == schema.MAX_FOLDS


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("num_folds", "said"),
    [("1", "--folds"), ("101", "--folds"), ("2", "values of column fold, which has 5: 0, 1, 2, 3, 4")],
)
def test_the_command_refuses_with_exit_code_2_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], num_folds: str, said: str
) -> None:
    furnish(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "lines.yaml", "--folds", num_folds, "--json"])
    assert ended.value.code == 2
    assert said in json.loads(capsys.readouterr().out)["error"]
    assert sorted(folder.rglob("*")) == before


def furnish(place: Path, **split: Any) -> None:
    """Rows and settings in a folder."""
    write_rows(place / "lines.parquet")
    settings = line_settings(Path("lines.parquet"))
    if split:
        settings = changed(settings, data={"split": split})
    (place / "lines.yaml").write_text(settings.model_dump_json(by_alias=True), "utf8")


def start(place: Path, root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "lines.yaml", "--folds", "3", "--json"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_with(place: Path, stage: str, status: str) -> list[dict[str, Any]]:
    runs = [json.loads(path.read_text("utf8")) for path in sorted(place.glob("runs/lines/*/run.json"))]
    return [run for run in runs if run["stages"].get(stage, {}).get("status") == status]


def wait_for_the_second_fold(place: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 180
    while not (runs_with(place, "evaluate", "done") and runs_with(place, "train", "running")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.fault("SIGTERM")
@pytest.mark.thorough
@pytest.mark.slow
def test_three_folds_terminated_and_started_again(tmp_path: Path, root: Path) -> None:
    furnish(tmp_path, **BY_HASH)
    first = start(tmp_path, root)
    wait_for_the_second_fold(tmp_path, first)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 143, err
    assert "Fold 2 of 3, with 1 as test: Terminated." in err
    (done,) = runs_with(tmp_path, "evaluate", "done")
    assert not list(tmp_path.glob("runs/lines/folds/*"))

    again = start(tmp_path, root)
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0, err
    found = json.loads(out)
    assert [fold["fold"] for fold in found["folds"]] == [0, 1, 2]
    assert found["folds"][0]["run_id"] == done["run_id"]
    assert err.count("evaluate  reused: ") == 1
    assert err.count("evaluate  runs: ") == 2
    check_folds(tmp_path, found)


def check_folds(place: Path, found: dict[str, Any]) -> None:
    """Rows, figures and files of three folds that are done."""
    rows = {name: [fold["rows"][name] for fold in found["folds"]] for name in ("train", "valid", "test")}
    assert sum(rows["test"]) == 120
    assert set(np.sum(list(rows.values()), axis=0)) == {120}
    metrics = []
    tested: list[str] = []
    for fold in found["folds"]:
        run = Path(fold["run_dir"])
        metrics.append(json.loads((run / "evaluation/metrics.json").read_text("utf8")))
        assert fold["metrics"] == metrics[-1]
        assert not (run / "evaluation/verdict.json").exists()
        tested += pq.read_table(run / "data/test")["id"].to_pylist()
    assert sorted(tested) == sorted(lines()["id"])
    for name in ("accuracy", "loss", "macro_f1"):
        values = [each["test"][name] for each in metrics]
        assert found["mean"][name] == pytest.approx(np.mean(values))
        assert found["std"][name] == pytest.approx(np.std(values))
        assert (found["min"][name], found["max"][name]) == (min(values), max(values))
    best = [fold["baseline"]["accuracy"] for fold in found["folds"]]
    assert found["mean"]["baseline_accuracy"] == pytest.approx(np.mean(best))
    assert set(scores_of(found["folds"][0])) == set(found["mean"])
    (report,) = place.glob("runs/lines/folds/*.json")
    assert found.pop("report") == str(report)
    assert json.loads(report.read_text("utf8")) == found


@pytest.mark.slow
@pytest.mark.usefixtures("handlers")
def test_folds_that_are_done_are_reused_and_shown_as_a_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    furnish(folder)
    write_rows(folder / "lines.parquet", {**lines(), "fold": [row % 3 for row in range(120)]})
    arguments = ["run", "lines.yaml", "--folds", "3", "--set", "train.epochs=1"]
    cli.main(arguments)
    first = capsys.readouterr().out
    lines_shown = first.splitlines()
    assert lines_shown[0].split() == ["sequence", "macro", "baseline"]
    assert lines_shown[1].split()[:4] == ["fold", "run", "rows", "loss"]
    assert [line.split()[0] for line in lines_shown[2:9]] == [*"012", "mean", "std", "min", "max"]
    (report,) = folder.glob("runs/lines/folds/*.json")
    assert str(report) in lines_shown[-1]
    cli.main(arguments)
    again = capsys.readouterr()
    assert again.out == first
    assert again.err.count("evaluate  reused: unchanged") == 3
    # A fold by hand is the same run.
    cli.main(["evaluate", "lines.yaml", "--set", "train.epochs=1", "--json"])
    found = json.loads(report.read_text("utf8"))
    assert json.loads(capsys.readouterr().out)["run_id"] == found["folds"][0]["run_id"]
