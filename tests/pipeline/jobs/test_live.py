"""The live score of a real small model: falls where the world changed, holds where it did not."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.errors import ClusterError, DataError
from pipeline.backends import mirrors, workspace
from pipeline.backends.registry import DIGEST_TAG, RUN_TAG, Registry, Version
from pipeline.backends.signals import Signals
from pipeline.backends.tracking import Store
from pipeline.jobs import live
from pipeline.jobs.retrain import look, retrain
from pipeline.run import Surroundings, data_digests
from pipeline.stages.judging import METRICS_TAG
from pipeline.stages.register import ROWS_TAG, SOURCES_TAG
from tests.pipeline.conftest import Noting, line_settings, lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(evaluated, tmp_path_factory):
    """A champion that was trained, with its run and its score."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(evaluated.folder.path, folder / "runs" / "lines" / evaluated.folder.run_id)
    shutil.copy(evaluated.settings.data.path, folder / "lines.parquet")
    shutil.copytree(evaluated.folder.bundle, folder / "model" / "artifacts" / "bundle")
    sources = data_digests(line_settings(folder / "lines.parquet"), storage=folder / "runs")
    scores = json.loads((evaluated.folder.evaluation / "metrics.json").read_text("utf8"))["test"]
    tags = {
        SOURCES_TAG: workspace.fingerprint(sources), ROWS_TAG: "120", METRICS_TAG: json.dumps(scores),
        RUN_TAG: evaluated.folder.run_id,
        DIGEST_TAG: bundles.describe(evaluated.folder.bundle)["digest"],
    }  # fmt: skip
    store = Store(f"sqlite:///{folder}/mlflow.db")
    store.call(lambda client: client.create_registered_model("lines"))
    store.call(lambda client: client.create_model_version("lines", (folder / "model").as_uri(), tags=tags))
    Registry(store).point("lines", "champion", 1)
    return folder


def around(folder):
    return Surroundings(folder / "runs", f"sqlite:///{folder}/mlflow.db", None, Noting(), Signals())


def write(path, rows, *, turned=False):
    """Rows as a file; turned: with each label the other one, as after a change of the world."""
    if turned:
        other = {"up": "down", "down": "up"}
        rows = {**rows, "labels": [[other[label] for label in labels] for labels in rows["labels"]]}
    pq.write_table(pa.table(rows), path)
    return str(path)


@pytest.fixture
def here(monkeypatch, fallen):
    """Scores in this process, where TensorFlow is loaded already."""
    monkeypatch.setattr(live, "_apart", live.score)


@pytest.fixture(scope="module")
def fallen(made):
    """What is found of new rows whose labels are turned round, and the settings that named them."""
    path = write(made / "turned.parquet", lines(150, seed=7), turned=True)
    settings = line_settings(made / "lines.parquet", retrain={"live_score": {"path": path}})
    return settings, look(settings, around=around(made), journal=[])


def test_a_score_that_fell_is_a_reason_and_says_both_figures(made, fallen):
    _, found = fallen
    seen = found.live_score
    assert seen["fell"] and seen["rows"] == 150 and seen["value"] < 0.5 < seen["registered_low"]
    assert seen["low"] <= seen["value"] <= seen["high"] < seen["registered"]
    (reason,) = found.reasons
    assert reason.startswith(f"The live score fell: models:/lines/1 scores accuracy {seen['value']:.4f} (")
    assert f"on 150 new rows, and scored {seen['registered']:.4f} (" in reason
    assert json.loads(json.dumps(seen)) == seen


def test_the_score_holds_on_rows_like_those_of_training(made, here):
    path = write(made / "alike.parquet", lines(150, seed=8))
    settings = line_settings(made / "lines.parquet", retrain={"live_score": {"path": path}})
    outcome = retrain(settings, around=around(made), dry_run=True)
    assert outcome["verdict"] == "skipped" and not outcome["live_score"]["fell"]
    assert any(reason.startswith("The live score holds:") for reason in outcome["reasons"])


def test_rows_that_the_champion_was_made_from_do_not_count(made):
    rows = lines(120)
    more = {name: [*values, *lines(30, seed=9)[name]] for name, values in rows.items()}
    more["id"] = [f"r{place}" for place in range(150)]
    path = write(made / "grown.parquet", more, turned=True)
    settings = line_settings(made / "lines.parquet", retrain={"live_score": {"path": path, "min_rows": 31}})
    found = look(settings, around=around(made), journal=[])
    assert not found.reasons and found.live_score["rows"] == 30
    assert "needs 31 labelled rows" in found.notes[-1] and "there are 30." in found.notes[-1]


def test_without_new_files_nothing_is_read(made):
    settings = line_settings(made / "lines.parquet", retrain={"live_score": {}})
    found = look(settings, around=around(made), journal=[])
    assert found.live_score is None and not found.reasons


def test_after_an_attempt_the_same_rows_are_no_reason_and_others_rest(made, fallen, here):
    settings, found = fallen
    attempt = {"at": "2999-01-01T00:00:00+00:00", "sources": "x", "verdict": "kept", "run_id": "r1"}
    again = look(settings, around=around(made), journal=[{**attempt, "scored": found.scored}])
    assert not again.reasons and "Run r1 was made with the rows of the live score" in again.notes[-1]
    rules = {**settings.retrain.live_score.model_dump(), "cooldown_days": 1}
    resting = line_settings(made / "lines.parquet", retrain={"live_score": rules})
    rested = look(resting, around=around(made), journal=[attempt])
    assert not rested.reasons and "days since the last attempt" in rested.notes[-1]


@pytest.mark.parametrize(("margin", "fell"), [(0.0, True), (0.9, False)])
def test_a_fall_within_the_margin_does_not_count(made, fallen, margin, fell, monkeypatch):
    settings, found = fallen
    seen = found.live_score
    answer = live.Live(seen["rows"], seen["value"], seen["low"], seen["high"])
    monkeypatch.setattr(live, "_apart", lambda *args, **options: answer)
    rules = {**settings.retrain.live_score.model_dump(), "margin": margin}
    wanted = line_settings(made / "lines.parquet", retrain={"live_score": rules})
    registry = Registry(Store(around(made).tracking_uri))
    version = registry.resolve("models:/lines@champion")
    where = {"registry": registry, "storage": made / "runs", "console": Noting()}
    assert live.live_score(wanted, version=version, **where)["fell"] is fell


def test_files_that_are_not_there_are_told_with_the_setting_that_names_them(made):
    missing = str(made / "missing.parquet")
    settings = line_settings(made / "lines.parquet", retrain={"live_score": {"path": missing}})
    with pytest.raises(DataError, match="cannot be found") as caught:
        look(settings, around=around(made), journal=[])
    assert caught.value.hint == "See retrain.live_score.path."


def test_a_process_that_is_lost_while_it_scores_is_worth_another_try(made, fallen, monkeypatch):
    settings, _ = fallen
    monkeypatch.setattr(live, "_quiet", os.abort)
    with pytest.raises(ClusterError, match="was lost") as caught:
        look(settings, around=around(made), journal=[])
    assert caught.value.exit_code == 3


def test_rows_of_the_champion_come_from_an_object_store(object_store, tmp_path, monkeypatch):
    settings = line_settings(tmp_path / "lines.parquet")

    def storage(machine):
        monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / machine))
        return mirrors.open_mirror(object_store).root

    folder = workspace.create(storage("here"), "lines", plan={}, versions={})
    (folder.data / "train").mkdir(parents=True)
    (folder.data / "train" / "part-0.parquet").write_text("rows")
    folder.publish()
    version = Version("lines", 1, "2026-01-01T00:00:00+00:00", "r", {RUN_TAG: folder.run_id}, ())
    known = live._rows_of(version, settings, storage=storage("there"))
    assert known.is_relative_to(tmp_path / "there")
    assert (known / "train" / "part-0.parquet").read_text() == "rows"
    other = Version("lines", 2, version.created, "r", {RUN_TAG: "another"}, ())
    assert live._rows_of(other, settings, storage=storage("there")) is None
    mirrors._OPENED.clear()
