"""evaluate: the bundle's scores on rows it has not seen, worked out again here; nobody left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from components import bundles
from tests.pipeline.conftest import Started, lines, start


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
