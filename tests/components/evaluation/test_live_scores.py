"""New labelled rows: which of them a model has not seen, and what it scores on them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.readers import expand
from components.errors import DataError
from components.evaluation.live_scores import fresh, score
from tests.pipeline.conftest import evaluated as evaluated
from tests.pipeline.conftest import line_settings, lines, write_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path):
    def make(rows, name="new.parquet"):
        return expand([str(write_rows(tmp_path / name, rows))], "auto")

    return make


def joined(*every):
    rows = {name: [value for each in every for value in each[name]] for name in every[0]}
    return {**rows, "id": [f"n{place}" for place in range(len(rows["id"]))]}


def test_rows_that_were_prepared_before_are_known_whatever_their_place_and_name(evaluated, files):
    rows = joined(lines(5, seed=3), lines())
    found = fresh(files(rows), evaluated.settings, known=evaluated.folder.data)
    assert np.flatnonzero(found.is_new).tolist() == [0, 1, 2, 3, 4] and found.num_bad == 0
    assert list(found.expected[:5]) == lines(5, seed=3)["labels"]
    assert fresh(files(rows), evaluated.settings, known=None).num_new == 125


def test_bad_rows_are_counted_and_are_not_new(evaluated, files):
    rows = lines(6, seed=4)
    rows["frames"][2] = []
    rows["labels"][2] = []
    found = fresh(files(rows), evaluated.settings, known=None)
    assert found.num_bad == 1 and not found.is_new[2] and found.num_new == 5


def test_files_without_labels_are_refused(evaluated, tmp_path):
    rows = lines(6)
    del rows["labels"]
    pq.write_table(pa.table(rows), tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="labels"):
        fresh(expand([str(tmp_path / "bare.parquet")], "auto"), evaluated.settings, known=None)


def test_the_score_is_that_of_the_evaluation_on_the_same_rows(evaluated, files):
    rows = lines()
    test = [place for place, fold in enumerate(rows["fold"]) if fold == 0]
    own = files({name: [values[place] for place in test] for name, values in rows.items()})
    found = fresh(own, evaluated.settings, known=None)
    bundle, metrics = evaluated.folder.bundle, evaluated.folder.summary("evaluate")["metrics"]["test"]
    for metric in ("accuracy", "macro_f1", "sequence_accuracy"):
        now = score(own, evaluated.settings, found, bundle=bundle, metric=metric)
        assert now.num_rows == len(test)
        assert now.value == pytest.approx(metrics[metric])
    assert now.low <= now.value <= now.high


def test_a_label_that_the_model_does_not_know_is_a_wrong_answer(evaluated, files):
    rows = lines(40, seed=5)
    rows["labels"] = [["sideways"] * len(labels) for labels in rows["labels"]]
    own = files(rows)
    found = fresh(own, evaluated.settings, known=None)
    now = score(own, evaluated.settings, found, bundle=evaluated.folder.bundle, metric="accuracy")
    assert now.value == 0.0 and now.high < 0.2


def test_without_a_new_row_there_is_no_score(evaluated, files):
    own = files(lines())
    found = fresh(own, evaluated.settings, known=evaluated.folder.data)
    assert (
        score(own, evaluated.settings, found, bundle=evaluated.folder.bundle, metric="accuracy").value is None
    )


def test_settings_may_name_the_score():
    rules = line_settings("x.parquet", retrain={"live_score": {"metric": "macro_f1"}}).retrain.live_score
    assert rules.metric == "macro_f1" and rules.min_rows == 100
