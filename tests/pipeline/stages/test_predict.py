import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.errors import DataError, ModelError, StorageError
from pipeline.backends.packages import Packaging
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.stages.predict import predict
from tests.pipeline.conftest import InProcess

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
        console=Console(level=-1),
        **options,
    )


def test_a_run_folder_answers_as_its_bundle_does(run, data, tmp_path):
    out = tmp_path / "new" / "out.parquet"
    summary = answered(run, data, out)
    assert summary == {
        "model": str(run),
        "rows": 3,
        "out": str(out),
        "digest": bundles.describe(run / "bundle")["digest"],
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


@pytest.mark.slow
def test_an_alias_is_resolved_once_and_the_number_is_kept(run, data, tmp_path):
    store = Store(f"sqlite:///{tmp_path}/mlflow.db")
    registry = Registry(store)
    about = bundles.describe(run / "bundle")
    experiment = store.experiment("words")
    ids = {"run": store.call(lambda client: client.create_run(experiment)).info.run_id, "key": "run-1"}
    packaging = Packaging(run / "bundle", about, {"frames": 2}, {"frames": ROWS}, ())
    model = registry.log(packaging, experiment=experiment, **ids)
    registry.create("words", model_id=model, tags={}, **ids)
    registry.point("words", "champion", 1)
    out = tmp_path / "out.parquet"
    summary = answered("models:/words@champion", data, out, uri=store.uri, scratch=tmp_path)
    assert summary["model"] == "models:/words/1"
    table = pq.read_table(out)
    assert table.schema.metadata[b"recurra.model"] == b"models:/words/1"
    assert table["labels"].to_pylist() == bundles.open(run / "bundle").predict({"frames": ROWS})["labels"]
    assert not list(tmp_path.glob(".bundle-*"))


def test_importing_this_module_imports_nothing_slow(root):
    code = (
        "import pipeline.stages.predict, pipeline.stages.register, sys; "
        "print([name for name in ('mlflow', 'tensorflow', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
