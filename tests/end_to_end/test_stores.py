"""The whole pipeline with PostgreSQL as the tracker and an object store for the files of runs and models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pyarrow.fs import FileSelector, FileSystem

from tests.end_to_end.conftest import SETTINGS, Place

pytestmark = pytest.mark.slow

SECRET = "S3CR3T-xyz"


def everything(folder: Path, files: FileSystem) -> dict[str, bytes]:
    """The content of every file of a folder and of a bucket."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for each in files.get_file_info(FileSelector("", recursive=True)):
        if each.is_file:
            with files.open_input_stream(each.path) as stream:
                found[f"s3: {each.path}"] = stream.read()
    return found


def rows_of(uri: str) -> dict[str, bytes]:
    """Every row of every table of a database, as text, by table and number."""
    engine = sa.create_engine(uri)
    tables = (
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    with engine.connect() as connection:
        found = {
            f"postgres: {table} {number}": str(row).encode()
            for table in connection.scalars(sa.text(tables)).all()
            for number, row in enumerate(connection.scalars(sa.text(f"SELECT t::text FROM {table} t")))
        }
    engine.dispose()
    return found


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a Ray of our own keeps its sessions. It holds sockets, so its path is short."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as place:
        monkeypatch.setenv("RAY_TMPDIR", place)
        yield Path(place)


def test_a_run_on_postgresql_and_an_object_store_is_whole_and_tells_no_secret(
    place: Place,
    tmp_path: Path,
    make_postgres_database: Callable[[], str],
    object_store: str,
    store_files: FileSystem,
    ray_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Case B44. This PostgreSQL and this store take whoever comes.
    uri = make_postgres_database().replace("me@", f"me:{SECRET}@")
    monkeypatch.setenv("RECURRA_TRACKING_URI", uri)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (place.path / "words.yaml").write_text(SETTINGS.replace("epochs: 4", "epochs: 2"), "utf8")
    done = place.run("run", "words.yaml", "--artifacts", f"{object_store}/deep", "--json", "-v")
    outcome = json.loads(done.stdout)
    assert outcome["verdict"] == "promoted"
    assert not (place.path / "mlflow.db").exists()
    assert not list(place.path.rglob("mlartifacts"))

    # Whoever uses the model names the tracker alone: the version knows where its files are.
    elsewhere = Place(tmp_path / "elsewhere")
    elsewhere.path.mkdir()
    data, out = str(place.path / "words.parquet"), elsewhere.path / "out.parquet"
    predicted = elsewhere.run("predict", "models:/words@champion", data, "-o", str(out), "-v")
    answers = {row["id"]: row["labels"] for row in pq.read_table(out).to_pylist()}
    evaluated = pq.read_table(Path(outcome["run_dir"]) / "evaluation" / "predictions.parquet").to_pylist()
    assert all(answers[row["id"]] == row["labels"] for row in evaluated)
    known = place.json("models", "words")
    assert [version["aliases"] for version in known["versions"]] == [["champion"]]

    written = everything(tmp_path, store_files)
    stored = [name for name in written if name.startswith("s3: deep/words/")]
    for name in ("bundle.json", "MLmodel", "report.html", "settings.yaml", "verdict.json"):
        assert any(each.endswith(name) for each in stored), name
    rows = rows_of(uri)
    assert any(name.startswith("postgres: public.model_versions ") for name in rows)
    logs = {str(path): path.read_bytes() for path in ray_folder.rglob("*") if path.is_file()}
    assert any("/logs/worker-" in name for name in logs)
    written |= rows | logs
    assert not [name for name, content in written.items() if SECRET.encode() in content]
    assert SECRET not in done.stdout + done.stderr + predicted.stdout + predicted.stderr
