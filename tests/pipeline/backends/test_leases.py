import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy

from components.errors import BusyError
from pipeline.backends import claims, mirrors
from pipeline.backends.leases import lease

# Holds the aliases of `words` until it is killed: URI FOLDER CHECKOUT.
HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pipeline.backends.leases import lease
with lease(sys.argv[1], "words", folder=Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["sqlite", "postgresql", "http"])
def uri(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("make_postgres_database")()
    return {"sqlite": f"sqlite:///{tmp_path}/m.db", "http": "http://127.0.0.1:9"}[request.param]


def test_one_at_a_time_and_the_next_is_told_who_until_a_kill_frees_it(uri, tmp_path, root):
    command = [sys.executable, "-c", HOLDER, uri, str(tmp_path), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        begun = time.monotonic()
        told = f"held the aliases of 'words' for 0 s.*process {other.pid}"
        with (
            pytest.raises(BusyError, match=told) as caught,
            lease(uri, "words", folder=tmp_path, timeout=0.3),
        ):
            pass
        assert caught.value.exit_code == 3
        assert time.monotonic() - begun < 10
        with lease(uri, "letters", folder=tmp_path / "letters", timeout=0.3) as free:
            free.check()
        other.send_signal(signal.SIGKILL)
        other.wait()
    with lease(uri, "words", folder=tmp_path, timeout=20) as ours:
        ours.check()


def test_a_lock_file_that_was_deleted_is_noticed_once_another_has_got_in(tmp_path):
    uri = f"sqlite:///{tmp_path}/m.db"
    with lease(uri, "words", folder=tmp_path) as ours:
        ours.check()
        next(tmp_path.glob("m.db.*.lock")).unlink()
        with lease(uri, "words", folder=tmp_path, timeout=1) as theirs:
            theirs.check()
            with pytest.raises(BusyError, match="lock on the aliases of 'words' was lost"):
                ours.check()


def test_a_broken_connection_is_a_lost_lease(make_postgres_database, tmp_path):
    uri = make_postgres_database()
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'recurra%'"
    with lease(uri, "words", folder=tmp_path) as ours:
        ours.check()
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(end_all))
        with pytest.raises(BusyError, match="was lost"):
            ours.check()
        with lease(uri, "words", folder=tmp_path, timeout=5) as theirs:
            theirs.check()


def test_in_an_object_store_other_machines_are_kept_out(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.1)
    folders = []
    for machine in ("one", "other"):
        monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / machine))
        folders.append(mirrors.open_mirror(f"{object_store}/team").root / "words")
    uri = "https://mlflow.example.org"
    with lease(uri, "words", folder=folders[0], timeout=5) as held:
        held.check()
        with (
            pytest.raises(BusyError, match="the aliases of 'words' for"),
            lease(uri, "words", folder=folders[1], timeout=0.5),
        ):
            pass
        held.check()
    with lease(uri, "words", folder=folders[1], timeout=5) as held:
        held.check()
        mirror = mirrors.of(folders[1])
        assert mirror is not None
        mirror.bucket.delete(["words/promotion.json"])
        with pytest.raises(BusyError, match="was lost"):
            held.check()
