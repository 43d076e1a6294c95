import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.errors import BusyError, DataError, Interrupted, ModelError, StorageError
from components.evaluation import new_rows
from pipeline.backends.packages import Packaging
from pipeline.backends.parts import Parts
from pipeline.backends.pools import Begun
from pipeline.backends.registry import DIGEST_TAG, Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.stages.predict import Options, predict
from tests.pipeline.conftest import InProcess, Noting

ROWS = [[[0, 1]], [[2, 3], [0, 0], [1, 1]], [[5, 5], [1, 0]]]


@pytest.fixture(scope="module")
def run(make_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_bundle(folder / "bundle")
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "rows.parquet", ROWS, id=["w1", "w2", "w3"])


def write(path, frames, **columns):
    kind = pa.list_(pa.list_(pa.uint8()))
    pq.write_table(pa.table({"frames": pa.array(frames, kind), **columns}), path)
    return path


def answered(model, data, out, *, uri="sqlite:////nowhere/mlflow.db", **options):
    return predict(
        str(model),
        [str(data)],
        out=out,
        tracking_uri=uri,
        cluster=InProcess(),
        pool=options.pop("pool", InProcess()),
        console=options.pop("console", Console(level=-1)),
        restart=options.pop("restart", False),
        scratch=options.pop("scratch", None),
        options=Options(**options),
    )


def test_a_run_folder_answers_as_its_bundle_does(run, data, tmp_path):
    out = tmp_path / "new" / "out.parquet"
    summary = answered(run, data, out)
    assert summary == {
        "model": str(run),
        "rows": 3,
        "out": str(out),
        "digest": bundles.describe(run / "bundle")["digest"],
        "bad_rows": 0,
        "rejected": None,
    }
    table = pq.read_table(out)
    expected = bundles.open(run / "bundle").predict({"frames": ROWS})
    assert table.schema.names == ["id", "labels", "probabilities"]
    assert table["id"].to_pylist() == ["w1", "w2", "w3"]
    assert table["labels"].to_pylist() == expected["labels"]
    metadata = table.schema.metadata
    assert metadata[b"recurra.model"].decode() == str(run)
    assert json.loads(metadata[b"recurra.labels"]) == ["a", "b", "c"]
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_a_bundle_itself_will_do_and_more_is_given_on_request(run, data, tmp_path):
    out = tmp_path / "out.parquet"
    answered(run / "bundle", data, out, n_best=2, distribution=True)
    table = pq.read_table(out)
    assert table.schema.names[3:] == ["n_best_labels", "n_best_probabilities", "distribution"]
    assert [len(row) for row in table["distribution"].to_pylist()] == [1, 3, 2]
    assert len(table["n_best_labels"][0].as_py()[0]) == 2


def test_a_folder_of_files_keeps_their_order_and_every_row(run, tmp_path):
    (tmp_path / "in").mkdir()
    for number in (1, 0, 2):
        write(tmp_path / "in" / f"{number}.parquet", ROWS[:2], id=[f"{number}a", f"{number}b"])
    answered(run, tmp_path / "in", tmp_path / "out.parquet")
    ids = pq.read_table(tmp_path / "out.parquet")["id"].to_pylist()
    assert ids == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_another_column_may_be_the_id(run, tmp_path):
    data = write(tmp_path / "rows.parquet", ROWS, key=[7, 8, 9])
    answered(run, data, tmp_path / "out.parquet", id_column="key")
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["7", "8", "9"]
    with pytest.raises(DataError, match="column nokey: no such column"):
        answered(run, data, tmp_path / "out.parquet", id_column="nokey")


def test_a_bad_row_is_named_and_an_older_file_stays(run, tmp_path):
    out = tmp_path / "out.parquet"
    out.write_bytes(b"older")
    data = write(tmp_path / "rows.parquet", [ROWS[0], [], ROWS[1]])
    with pytest.raises(DataError, match="row 1, column frames: empty sequence"):
        answered(run, data, out)
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "rows.parquet"]


def test_bad_rows_may_be_dropped_into_a_file_of_their_own(run, tmp_path):
    out = tmp_path / "out.parquet"
    data = write(tmp_path / "rows.parquet", [ROWS[0], [], ROWS[1]], id=["a", "b", "c"])
    summary = answered(run, data, out, on_bad_row="drop")
    assert (summary["rows"], summary["bad_rows"]) == (3, 1)
    table = pq.read_table(out)
    assert table.schema.names == ["id", "labels", "probabilities", "problem"]
    assert [row is None for row in table["labels"].to_pylist()] == [False, True, False]
    rejected = tmp_path / "out.rejected.parquet"
    assert summary["rejected"] == str(rejected)
    assert pq.read_table(rejected).to_pylist() == [
        {
            "id": "b",
            "problem": "column frames: empty sequence, expected at least 1 step",
            "file": "rows.parquet",
            "row": 1,
            "line": None,
        }
    ]
    # What an earlier run listed no longer counts.
    answered(run, write(data, ROWS), out, on_bad_row="drop")
    assert not rejected.exists()


def test_bad_rows_of_all_chunks_are_named_together(run, tmp_path, monkeypatch):
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 1)
    data = write(tmp_path / "rows.parquet", [[], *ROWS, []])
    with pytest.raises(DataError) as caught:
        answered(run, data, tmp_path / "out.parquet")
    assert [problem.row for problem in caught.value.problems] == [0, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


class Power(InProcess):
    """Goes away after some chunks."""

    def __init__(self, chunks: int) -> None:
        self.chunks, self.begun = chunks, 0

    def share(self, function, jobs, kwargs, *, processes):
        for event in super().share(function, jobs, kwargs, processes=processes):
            self.begun += isinstance(event, Begun)
            if self.begun > self.chunks:
                raise Interrupted("Ctrl-C")
            yield event


@pytest.fixture
def stopped(run, data, tmp_path, monkeypatch):
    """An output of which two of three rows are there."""
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 1)
    out = tmp_path / "out.parquet"
    with pytest.raises(Interrupted):
        answered(run, data, out, pool=Power(2))
    assert not out.exists()
    return out


def test_what_was_stopped_goes_on(run, data, stopped):
    pool, console = Power(9), Noting()
    answered(run, data, stopped, pool=pool, console=console)
    assert pool.begun == 1
    assert "Going on: 2 rows were answered before." in console.notes
    whole = stopped.with_name("whole.parquet")
    answered(run, data, whole)
    assert pq.read_table(stopped).equals(pq.read_table(whole))
    assert sorted(path.name for path in stopped.parent.iterdir() if path.is_dir()) == []


@pytest.mark.parametrize("what", ["options", "files", "restart"])
def test_what_was_stopped_begins_anew_when_something_changed(run, data, stopped, what):
    pool, console, options = Power(9), Noting(), {}
    if what == "options":
        options["n_best"] = 1
    elif what == "restart":
        options["restart"] = True
    else:
        write(data, list(reversed(ROWS)), id=["w3", "w2", "w1"])
    answered(run, data, stopped, pool=pool, console=console, **options)
    assert pool.begun == 3
    assert any(f"the {what} changed since" in note for note in console.notes) == (what != "restart")


def test_two_commands_do_not_write_one_file(run, data, tmp_path):
    out = tmp_path / "out.parquet"
    with Parts(out).held({}), pytest.raises(BusyError, match="Another process is writing"):
        answered(run, data, out)


def test_no_rows_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="no rows"):
        answered(run, write(tmp_path / "rows.parquet", []), tmp_path / "out.parquet")


def test_a_file_is_not_written_over_what_is_read(run, data):
    with pytest.raises(DataError, match="is one of the files to read"):
        answered(run, data, data)
    assert pq.read_table(data).num_rows == 3


def test_a_place_that_cannot_be_written_is_named(run, data, tmp_path):
    (tmp_path / "file").write_text("", "utf8")
    with pytest.raises(StorageError, match=r"file/out\.parquet cannot be written"):
        answered(run, data, tmp_path / "file" / "out.parquet")


@pytest.mark.parametrize(
    ("model", "message"), [("nowhere", "There is no model in"), ("models:/x", "expected mod")]
)
def test_what_is_no_model_is_named(data, tmp_path, model, message):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(ModelError, match=message):
        answered(model, data, tmp_path / "out.parquet", uri=uri)


def test_more_best_labels_than_there_are_is_refused(run, data, tmp_path):
    with pytest.raises(ModelError, match=r"n_best is 9, but .* has 3 labels"):
        answered(run, data, tmp_path / "out.parquet", n_best=9)


@pytest.fixture(scope="module")
def chained(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("chained") / "bundle", model={"crf": True})


def test_best_sequences_stand_beside_the_labels(chained, data, tmp_path):
    out = tmp_path / "out.parquet"
    answered(chained, data, out, n_best_sequences=2)
    table = pq.read_table(out)
    assert table.schema.names == [
        "id", "labels", "probabilities", "n_best_sequences", "n_best_sequence_log_probabilities"
    ]  # fmt: skip
    found = bundles.open(chained).best_sequences({"frames": ROWS}, 2)
    assert table["n_best_sequences"].to_pylist() == found["sequences"]
    for one, other in zip(table[4].to_pylist(), found["log_probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_best_sequences_go_on_where_they_were_stopped(chained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 1)
    out, noting = tmp_path / "out.parquet", Noting()
    answered(chained, data, tmp_path / "whole.parquet", n_best_sequences=2)
    with pytest.raises(Interrupted):
        answered(chained, data, out, pool=Power(2), n_best_sequences=2)
    answered(chained, data, out, console=noting, n_best_sequences=2)
    assert "Going on: 2 rows were answered before." in noting.notes
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_best_sequences_are_refused_where_there_are_none_and_nothing_is_left(
    run, data, tmp_path, make_bundle
):
    out = tmp_path / "out.parquet"
    with pytest.raises(ModelError, match="it is no CRF"):
        answered(run, data, out, n_best_sequences=2)
    classifier = make_bundle(tmp_path / "classifier", task="classification")
    with pytest.raises(ModelError, match="one label for a whole sequence") as caught:
        answered(classifier, data, out, n_best_sequences=2)
    assert caught.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier", "rows.parquet"]


@pytest.mark.slow
def test_an_alias_is_resolved_once_and_the_number_is_kept(run, data, tmp_path, monkeypatch):
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    registry = Registry(store)
    about = bundles.describe(run / "bundle")
    experiment = store.experiment("words")
    ids = {"run": store.call(lambda client: client.create_run(experiment)).info.run_id, "key": "run-1"}
    packaging = Packaging(run / "bundle", about, {"frames": 2}, {"frames": ROWS}, ())
    model = registry.log(packaging, experiment=experiment, **ids)
    registry.create("words", model_id=model, tags={DIGEST_TAG: about["digest"]}, **ids)
    registry.point("words", "champion", 1)
    out = tmp_path / "out.parquet"
    summary = answered("models:/words@champion", data, out, uri=store.uri, scratch=tmp_path)
    assert summary["model"] == "models:/words/1"
    table = pq.read_table(out)
    assert table.schema.metadata[b"recurra.model"] == b"models:/words/1"
    assert table["labels"].to_pylist() == bundles.open(run / "bundle").predict({"frames": ROWS})["labels"]
    assert not list(tmp_path.glob(".bundle-*"))
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 1)
    with pytest.raises(Interrupted):
        answered("models:/words@champion", data, out, uri=store.uri, pool=Power(1))
    registry.create("words", model_id=model, tags={DIGEST_TAG: about["digest"]}, run=ids["run"], key="run-2")
    registry.point("words", "champion", 2)
    pool, console = Power(9), Noting()
    again = answered("models:/words@champion", data, out, uri=store.uri, pool=pool, console=console)
    assert (again["model"], pool.begun) == ("models:/words/1", 2)
    assert any("is models:/words/2 now" in note for note in console.notes)


def test_importing_this_module_imports_nothing_slow(root):
    code = (
        "import pipeline.stages.predict, pipeline.stages.register, sys; "
        "print([name for name in ('mlflow', 'tensorflow', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
