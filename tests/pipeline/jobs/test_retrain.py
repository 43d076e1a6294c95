import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.backends import journals, workspace
from pipeline.backends.registry import Registry
from pipeline.backends.signals import Signals
from pipeline.backends.tracking import Store
from pipeline.jobs import retrain as module
from pipeline.jobs.retrain import look, retrain, show
from pipeline.run import Surroundings, data_digests
from pipeline.stages.register import ROWS_TAG, SOURCES_TAG
from tests.pipeline.conftest import Noting, line_settings, lines


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "lines.parquet"
    pq.write_table(pa.table(lines(40)), path)
    return path


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow's tables, which take their time to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Store(f"sqlite:///{path}").call(lambda client: None)
    return path


@pytest.fixture
def around(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return Surroundings(tmp_path / "runs", uri, None, Noting(), Signals())


def settings(data, **retrain):
    return line_settings(data, retrain=retrain)


@pytest.fixture
def champion(empty_database, around):
    def make(data, around, **tags):
        shutil.copy(empty_database, around.storage.parent / "mlflow.db")
        register(data, around, **tags)

    return make


def register(data, around, **tags):
    """A version that was made from the data as it is now, and is champion."""
    wanted, store = settings(data), Store(around.tracking_uri)
    sources = workspace.fingerprint(data_digests(wanted, storage=around.storage))
    tags = {SOURCES_TAG: sources, ROWS_TAG: "40", **tags}
    store.call(lambda client: client.create_registered_model(wanted.name))
    store.call(
        lambda client: client.create_model_version(
            wanted.name, "file:///nowhere", tags={name: value for name, value in tags.items() if value}
        )
    )
    Registry(store).point(wanted.name, "champion", 1)


def append(data, num_rows):
    pq.write_table(pa.table(lines(num_rows)), data)


def looked(data, around, journal=(), **rules):
    return look(settings(data, **rules), around=around, journal=journal)


def test_without_a_champion_there_is_a_reason(data, around):
    found = looked(data, around)
    assert found.reasons == ["There is no champion yet."]
    assert not (around.storage.parent / "mlflow.db").exists()  # asking made no database


def test_nothing_new_is_skipped_and_said_and_entered(data, around, champion):
    champion(data, around)
    begun = time.monotonic()
    outcome = retrain(settings(data), around=around)
    assert time.monotonic() - begun < 10
    assert outcome["verdict"] == "skipped" and outcome["run_id"] is None
    assert outcome["reasons"] == ["The files are those that version 1 was made from."]
    assert outcome["model"]["version"] == 1
    (entry,) = journals.read(around.storage / "lines" / journals.LOOKS)
    assert entry["verdict"] == "skipped" and entry["run_id"] is None
    assert workspace.runs(around.storage, "lines") == []


def test_new_rows_are_a_reason_and_counted(data, around, champion):
    champion(data, around)
    append(data, 47)
    assert looked(data, around).reasons == ["The files changed: 47 rows now, 40 when version 1 was made."]


def test_a_file_that_changed_in_place_is_a_reason_unless_rows_are_asked_for(data, around, champion):
    champion(data, around)
    pq.write_table(pa.table(lines(40, seed=1)), data)
    assert looked(data, around).reasons
    assert not looked(data, around, min_rows=1).reasons


def test_fewer_new_rows_than_asked_for_are_none(data, around, champion):
    champion(data, around)
    append(data, 47)
    found = looked(data, around, min_rows=8)
    assert not found.reasons and "8 rows more make a reason" in found.notes[0]
    assert looked(data, around, min_rows=7).reasons


def test_rows_count_once_the_files_have_settled(data, around, champion):
    champion(data, around)
    append(data, 50)
    found = looked(data, around, settle_seconds=60)
    assert not found.reasons and "once nothing changes for 60 s" in found.notes[0]
    long_ago = time.time() - 61
    os.utime(data, (long_ago, long_ago))
    assert looked(data, around, settle_seconds=60).reasons


def test_files_that_a_run_was_already_made_from_are_not_new(data, around, champion):
    champion(data, around)
    append(data, 50)
    sources = workspace.fingerprint(data_digests(settings(data), storage=around.storage))
    entry = {"at": "2026-01-01T00:00:00+00:00", "sources": sources, "verdict": "kept", "run_id": "r1"}
    found = looked(data, around, [entry])
    assert not found.reasons and found.notes == ["Run r1 was made from these very files, and kept."]


def test_age_is_a_reason_where_it_is_asked_for_and_an_attempt_makes_it_young(data, around, champion):
    champion(data, around)
    now = datetime.now(UTC)
    assert not looked(data, around).reasons
    assert not looked(data, around, max_age_days=1).reasons
    old = looked(data, around, max_age_days=1e-9)
    assert "1e-09 are allowed" in old.reasons[0]
    attempt = {"at": (now + timedelta(days=1)).isoformat(), "sources": "x", "verdict": "kept", "run_id": "r"}
    assert not looked(data, around, [attempt], max_age_days=1e-9).reasons


def test_a_champion_of_an_earlier_version_of_recurra_is_a_reason(data, around, champion):
    champion(data, around, **{SOURCES_TAG: "", ROWS_TAG: ""})
    assert "not known" in looked(data, around).reasons[0]


def test_a_dry_run_and_force_say_so_and_change_nothing(data, around, champion, monkeypatch):
    champion(data, around)
    outcome = retrain(settings(data), around=around, dry_run=True, force=True)
    assert outcome["verdict"] == "would run" and outcome["reasons"] == ["It was asked for with --force."]
    assert retrain(settings(data), around=around, dry_run=True)["verdict"] == "skipped"
    assert not (around.storage / "lines" / journals.LOOKS).exists()


def test_a_run_that_fails_leaves_no_entry_so_that_the_next_look_tries_again(data, around, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("no cluster")

    monkeypatch.setattr(module, "execute", fails)
    with pytest.raises(OSError, match="no cluster"):
        retrain(settings(data), around=around)
    assert journals.read(around.storage / "lines" / journals.LOOKS) == []


def test_what_is_shown_names_the_model_that_stays(data, around, champion, capsys):
    champion(data, around)
    show(retrain(settings(data), around=around), console=around.console)
    assert capsys.readouterr().out.splitlines() == [
        "skipped: lines version 1 stays",
        "  The files are those that version 1 was made from.",
    ]
