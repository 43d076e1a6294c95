"""evaluate: the bundle's scores on rows it has not seen, worked out again here; nobody left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from components import bundles
from pipeline import report
from pipeline.backends.workspace import RunFolder
from tests.pipeline.conftest import Noting, Started, lines, start


def read(run: Started, name: str) -> Any:
    return json.loads((run.folder.evaluation / f"{name}.json").read_text("utf8"))


def predictions(run: Started, split: str = "test") -> list[dict[str, Any]]:
    table = pq.read_table(run.folder.evaluation / "predictions.parquet")
    return table.filter(pa.compute.equal(table["split"], split)).to_pylist()


def test_the_scores_are_those_of_raw_rows_given_to_the_bundle_one_by_one(evaluated: Started) -> None:
    rows = {row["id"]: row for row in pa.table(lines()).to_pylist()}
    predictor = bundles.open(evaluated.folder.bundle)
    truth, said, losses = [], [], []
    for answer in predictions(evaluated):
        row = rows[answer["id"]]
        # One row at a time: no padding, the file's own values, another batch than in the evaluation.
        alone = predictor.predict([{"frames": row["frames"]}], distribution=True)
        assert alone["labels"][0] == answer["labels"]
        np.testing.assert_allclose(alone["probabilities"][0], answer["probabilities"], atol=1e-6)
        spread = alone["distribution"][0]
        losses += [
            -np.log(step[predictor.encoding.labels.index(label)])
            for step, label in zip(spread, row["labels"], strict=True)
        ]
        truth += row["labels"]
        said += alone["labels"][0]
    scores = read(evaluated, "metrics")["test"]
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, said), abs=1e-9)
    assert scores["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(truth, said, average="macro"), abs=1e-9
    )
    assert scores["loss"] == pytest.approx(np.mean(losses), abs=1e-6)


def test_every_held_out_row_is_answered_once_in_the_order_of_the_file(evaluated: Started) -> None:
    folds = lines()["fold"]
    for split, fold in (("valid", 1), ("test", 0)):
        ids = [answer["id"] for answer in predictions(evaluated, split)]
        assert ids == [f"r{row}" for row, each in enumerate(folds) if each == fold]


def test_the_frozen_model_scores_as_training_said(evaluated: Started) -> None:
    again = read(evaluated, "details")["again"]
    for name, value in again["training"].items():
        assert again["bundle"][name] == pytest.approx(value, abs=1e-6)


def test_five_rows_give_five_answers_in_their_order(tmp_path: Path) -> None:
    # Rows lost by an equal share for each worker: https://github.com/ray-project/ray/issues/63285
    rows = lines(40)
    rows["fold"] = [0] * 5 + [1] * 5 + [2] * 30
    run = start(tmp_path, rows, train={"epochs": 1})
    run.train()
    run.evaluate()
    assert [answer["id"] for answer in predictions(run)] == ["r0", "r1", "r2", "r3", "r4"]
    steps = sum(len(labels) for labels in rows["labels"][:5])
    table = read(run, "details")["per_class"]
    assert sum(each["support"] for each in table) == steps


def test_simple_rules_stand_beside_the_network(evaluated: Started) -> None:
    summary = evaluated.folder.summary("evaluate")
    assert summary is not None
    assert set(summary["baselines"]) == {"majority", "lookup", "logistic_step"}
    known = [value for value in summary["baselines"].values() if value is not None]
    assert all(0 <= value <= 1 for value in known)


def test_the_worst_answers_keep_what_they_look_like_in_raw_values(evaluated: Started) -> None:
    rows = {row["id"]: row for row in pa.table(lines()).to_pylist()}
    worst = read(evaluated, "details")["worst"]
    assert worst
    for each in worst:
        row = rows[each["id"]]
        assert each["truth"] == row["labels"] != each["labels"]
        np.testing.assert_allclose(each["inputs"][0]["values"], row["frames"], rtol=1e-5)


def test_label_sequences_known_from_training_are_counted(evaluated: Started) -> None:
    rows = pa.table(lines()).to_pylist()
    known = {tuple(row["labels"]) for row in rows if row["fold"] not in (0, 1)}
    tested = [tuple(row["labels"]) for row in rows if row["fold"] == 0]
    unseen = read(evaluated, "details")["unseen"]
    assert unseen["num_sequences"] == len(tested)
    assert unseen["num_seen"] == sum(each in known for each in tested)
    assert 0 < unseen["num_seen"] < unseen["num_sequences"]
    right = [
        one == other
        for answer in predictions(evaluated)
        if tuple(answer["truth"]) not in known
        for one, other in zip(answer["truth"], answer["labels"], strict=True)
    ]
    assert unseen["metrics"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-9)


def test_slices_by_length_hold_all_rows(evaluated: Started) -> None:
    for split in ("valid", "test"):
        slices = read(evaluated, "slices")[split]["length"]
        assert sum(each["num_sequences"] for each in slices) == len(predictions(evaluated, split))


@pytest.mark.slow
def test_groups_and_slices_of_a_column_reach_the_scores_and_the_predictions(tmp_path: Path) -> None:
    rows = lines(60) | {"who": [f"s{row % 12}" for row in range(60)]}
    run = start(
        tmp_path, rows, train={"epochs": 1}, evaluate={"slices": [{"column": "who"}], "groups": "who"}
    )
    run.train()
    run.evaluate()
    who = dict(zip(rows["id"], rows["who"], strict=True))
    answers = predictions(run)
    assert {row["id"]: row["slice_who"] for row in answers} == {row["id"]: who[row["id"]] for row in answers}
    assert read(run, "metrics")["test"]["num_groups"] == len({row["slice_who"] for row in answers})
    slices = read(run, "slices")["test"]
    assert sum(each["num_sequences"] for each in slices["who"]) == len(answers)
    assert {"length", "label sequence", "who"} <= set(slices)
    baseline = read(run, "baselines")["baselines"][0]["metrics"]
    assert baseline["num_groups"] == read(run, "metrics")["test"]["num_groups"]


@pytest.mark.slow
def test_a_single_group_gives_no_intervals_and_says_so(tmp_path: Path) -> None:
    rows = lines(40) | {"who": ["one"] * 40}
    run = start(tmp_path, rows, train={"epochs": 1}, evaluate={"groups": "who"})
    run.train()
    notes = Noting()
    run.evaluate(console=notes)
    assert read(run, "metrics")["test"]["accuracy_low"] is None
    assert any("no intervals: all rows have one value of the column 'who'" in each for each in notes.notes)


def test_examples_are_answered_by_the_bundle_and_the_wrong_ones_told(
    evaluated: Started, tmp_path: Path
) -> None:
    rows = pa.table(lines()).to_pylist()[:4]
    answers = bundles.open(evaluated.folder.bundle).predict([{"frames": row["frames"]} for row in rows])
    flipped = {"up": "down", "down": "up"}
    expected = [list(labels) for labels in answers["labels"]]
    expected[2][0] = flipped[expected[2][0]]
    expected[3] = [None] * len(expected[3])
    asked = [{**row, "labels": labels} for row, labels in zip(rows, expected, strict=True)]
    file = tmp_path / "must.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in asked), "utf8")
    settings = evaluated.settings.model_copy(
        update={"evaluate": evaluated.settings.evaluate.model_copy(update={"examples": str(file)})}
    )
    shutil.copytree(evaluated.folder.path, tmp_path / "run")
    run, notes = Started(settings, RunFolder(tmp_path / "run"), evaluated.uri), Noting()
    run.evaluate(console=notes)
    found = read(run, "examples")
    assert (found["num"], found["num_right"]) == (4, 3)
    assert [row["right"] for row in found["rows"]] == [True, True, False, True]
    assert [row["answered"] for row in found["rows"]] == answers["labels"]
    wrong = f"must.jsonl row 2, step 0: expected {expected[2][0]}, answered {answers['labels'][2][0]}"
    assert f"examples: 3 of 4 right; {wrong}" in notes.notes
    page = report.write(run.folder, settings).read_text("utf8")
    assert "3 of 4 rows that must come out right do." in page
    assert wrong in page


def test_without_examples_none_are_counted(evaluated: Started) -> None:
    assert read(evaluated, "examples") == {"num": 0, "num_right": 0, "rows": []}
