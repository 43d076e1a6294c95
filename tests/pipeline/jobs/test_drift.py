import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import DataError, ModelError, StorageError
from pipeline.backends import workspace
from pipeline.backends.registry import RUN_TAG, Registry
from pipeline.backends.signals import Signals
from pipeline.backends.tracking import Store
from pipeline.jobs.drift import look as compared
from pipeline.jobs.drift import sentences, show, write_report
from pipeline.jobs.retrain import look
from pipeline.jobs.retrain import retrain as retrain_now
from pipeline.run import Surroundings, data_digests
from pipeline.stages.register import ROWS_TAG, SOURCES_TAG
from tests.pipeline.conftest import Noting, line_settings, lines, page_faults, start


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A champion that knows what its training rows were like, and the run it came from."""
    folder = tmp_path_factory.mktemp("made")
    trained = start(folder, lines(400))
    sources = data_digests(trained.settings, storage=folder / "runs")
    trained.folder.update_stage("prepare", inputs={"data": sources})
    model = folder / "model"
    (model / "artifacts" / "bundle").mkdir(parents=True)
    shutil.copy(trained.folder.data / "profile.json", model)
    shutil.copy(trained.folder.data / "encoding.json", model / "artifacts" / "bundle")
    store = Store(trained.uri)
    tags = {SOURCES_TAG: workspace.fingerprint(sources), ROWS_TAG: "400", RUN_TAG: trained.folder.run_id}
    store.call(lambda client: client.create_registered_model("lines"))
    store.call(lambda client: client.create_model_version("lines", model.as_uri(), tags=tags))
    Registry(store).point("lines", "champion", 1)
    return folder


@pytest.fixture
def case(made, tmp_path):
    shutil.copytree(made, tmp_path / "case")
    return tmp_path / "case"


def around(case):
    return Surroundings(case / "runs", f"sqlite:///{case}/mlflow.db", None, Noting(), Signals())


def write(case, name, *, moved=0.0, seed=1):
    rows = lines(200, seed=seed)
    rows["frames"] = [[[a + moved, b] for a, b in frame] for frame in rows["frames"]]
    pq.write_table(pa.table(rows), case / name)
    return str(case / name)


def settings(case, **drift):
    return line_settings(case / "lines.parquet", retrain={"drift": drift})


def found(case, *data, **drift):
    return compared(
        settings(case, **drift), list(data), storage=case / "runs", tracking_uri=f"sqlite:///{case}/mlflow.db"
    )


def test_rows_that_moved_are_told_from_those_that_did_not(case):
    same, moved = found(case, write(case, "a.parquet")), found(case, write(case, "b.parquet", moved=80.0))
    assert not same["drift"] and sentences(same) == []
    assert moved["drift"] and moved["shifts"][0]["name"] == "frames 0"
    assert "frames 0: PSI" in " ".join(sentences(moved))
    assert (moved["rows"], moved["trained_on"], moved["bad_rows"]) == (200, 240, 0)
    assert json.loads(json.dumps(moved)) == moved


def test_what_is_shown_is_a_table_and_one_line(case, capsys):
    show(found(case, write(case, "b.parquet", moved=80.0)), console=Noting())
    out = capsys.readouterr().out
    assert "frames 0" in out and "drift" in out
    assert "measures say drift: 200 rows against the 240 of models:/lines/1" in out


def test_without_files_the_new_ones_of_the_data_are_looked_at(case):
    with pytest.raises(DataError, match="Every file of the data"):
        found(case)
    folder = case / "all"
    folder.mkdir()
    shutil.move(case / "lines.parquet", folder / "lines.parquet")
    fresh = write(folder, "fresh.parquet")
    wanted = line_settings(folder, retrain={"drift": {}})
    seen = compared(wanted, [], storage=case / "runs", tracking_uri=f"sqlite:///{case}/mlflow.db")
    assert seen["files"] == [fresh]


def test_a_champion_that_does_not_know_its_rows_is_told(case):
    (case / "model" / "profile.json").unlink()
    store = Store(f"sqlite:///{case}/mlflow.db")
    store.call(lambda client: client.create_model_version("lines", (case / "model").as_uri()))
    Registry(store).point("lines", "champion", 2)
    with pytest.raises(ModelError, match="has no profile"):
        found(case, write(case, "a.parquet"))


def test_drift_is_a_reason_once_it_is_sustained(case):
    fresh = write(case, "fresh.parquet", moved=80.0)
    wanted = settings(case, path=fresh, sustained=2)
    first = retrain_now(wanted, around=around(case))
    assert first["verdict"] == "skipped" and any("1 of 2 looks" in reason for reason in first["reasons"])
    journal = case / "runs" / "lines" / "retrain.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    second = look(wanted, around=around(case), journal=entries)
    assert second.reasons[0].startswith("Drift: 200 rows differ from those of training. frames 0")
    calm = [*entries, {**entries[0], "drift": False}]
    assert not look(wanted, around=around(case), journal=calm).reasons


def test_after_an_attempt_drift_rests_and_the_same_rows_are_no_reason_again(case):
    fresh = write(case, "fresh.parquet", moved=80.0)
    wanted = settings(case, path=fresh, cooldown_days=1)
    reason = look(wanted, around=around(case), journal=[])
    attempt = {"at": "2999-01-01T00:00:00+00:00", "sources": "x", "verdict": "kept", "run_id": "r1"}
    rested = look(wanted, around=around(case), journal=[{**attempt, "watched": "other", "drift": True}])
    again = look(
        settings(case, path=fresh),
        around=around(case),
        journal=[{**attempt, "watched": reason.watched, "drift": True}],
    )
    assert reason.reasons and not rested.reasons and not again.reasons
    assert "since the last attempt" in rested.notes[-1] and "Run r1 was made with these" in again.notes[-1]


def test_limits_that_are_null_are_not_looked_at(case):
    fresh = write(case, "fresh.parquet", moved=80.0)
    assert not found(case, fresh, psi=None, ks=None)["drift"]


def test_a_page_that_cannot_be_written_is_told(case):
    (case / "file").write_text("")
    moved = found(case, write(case, "b.parquet", moved=80.0))
    with pytest.raises(StorageError, match=r"drift\.html cannot be written"):
        write_report(moved, case / "file" / "drift.html")
    page = write_report(moved, case / "pages" / "drift.html")
    assert page_faults(page.read_text("utf8")) == [] and "frames 0" in page.read_text("utf8")
