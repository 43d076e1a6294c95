import json
import py_compile
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import replace
from py_compile import PycInvalidationMode
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.errors import ModelError
from pipeline.backends.packages import Packaging
from pipeline.backends.registry import ENTRY_TAG, Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.jobs import serve
from pipeline.jobs.protocol import Limits
from pipeline.stages import predict as predictions
from pipeline.stages.predict import predict
from tests.pipeline.conftest import InProcess

ROWS = [[[0, 1]], [[2, 3], [0, 0], [1, 1]]]

# A user of the model, with nothing of this project: URI MODEL FILE.
STRANGER = """
import os, sys
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
asked = pd.read_json(sys.argv[3], orient="split", convert_dates=False)
answers = model.predict(asked, params={"n_best": 2, "distribution": True})
print(answers.to_json(orient="records", double_precision=15))
print([name for name in sys.modules if name.split(".")[0] in ("pipeline", "components", "conf")])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(place):
    return Registry(Store(f"sqlite:///{place}/mlflow.db"))


@pytest.fixture(scope="module")
def mlflow_run(registry):
    experiment = registry.store.experiment("words")
    run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
    return SimpleNamespace(experiment=experiment, run=run)


@pytest.fixture(scope="module")
def log(registry, mlflow_run, make_bundle, place):
    """Registers a small model under a name, and gives back its version and bundle."""

    def log_one(name, *, key="run-1", columns=(("frames", 2),), rows=ROWS, **options):
        folder = place / name / key
        bundle = make_bundle(folder / "bundle", columns=columns, **options)
        (folder / "settings.yaml").write_text("name: words", "utf8")
        about = bundles.describe(bundle)
        example = {column: rows for column, _ in columns}
        if about["id"] is not None:
            example = {about["id"]: [f"w{i}" for i in range(len(rows))], **example}
        packaging = Packaging(
            bundle=bundle,
            description=about,
            columns=dict(columns),
            example=example,
            files=(folder / "settings.yaml",),
        )
        ids = {"run": mlflow_run.run, "key": key}
        model = registry.log(packaging, experiment=mlflow_run.experiment, **ids)
        tags = {"recurra.bundle_digest": about["digest"]}
        version = registry.create(name, model_id=model, tags=tags, **ids)
        return SimpleNamespace(version=version, bundle=bundle, model=model, packaging=packaging)

    return log_one


@pytest.fixture(scope="module")
def words(log, registry):
    words = log("words")
    registry.point("words", "champion", words.version.number)
    return words


def test_the_same_run_makes_one_model_and_one_version_however_often(log, registry, mlflow_run, words):
    again = registry.log(words.packaging, experiment=mlflow_run.experiment, run=mlflow_run.run, key="run-1")
    assert again == words.model
    version = registry.create("words", model_id=again, run=mlflow_run.run, key="run-1", tags={})
    assert version.number == words.version.number
    assert registry.of_run("words", "run-1").number == version.number
    assert registry.of_run("words", "run-2") is None


def test_an_alias_a_number_and_nothing_else_name_a_version(registry, words):
    assert registry.resolve("models:/words@champion").number == 1
    assert registry.resolve("models:/words/1").uri == "models:/words/1"
    assert registry.by_alias("words", "champion").number == 1
    assert registry.by_alias("words", "previous") is None
    assert registry.versions("nobody") == []


@pytest.mark.parametrize(
    ("uri", "message", "hint"),
    [
        ("models:/wrods@champion", "no registered model 'wrods'", "Did you mean 'words'?"),
        ("models:/words@champoin", "'words' has no alias 'champoin'", "Its versions: 1 @champion"),
        ("models:/words/7", "'words' has no version 7", "Its versions: 1 @champion"),
        ("models:/words", "expected models:/name@alias", ""),
        ("models:/../x/1", "expected models:/name@alias", ""),
        ("models:/words' or name like '%/1", "no registered model", ""),
    ],
)
def test_what_names_no_version_is_told_with_what_there_is(registry, words, uri, message, hint):
    with pytest.raises(ModelError, match=message) as caught:
        registry.resolve(uri)
    assert hint in caught.value.hint


def test_a_versions_bundle_is_fetched_whole_and_gone_afterwards(registry, words, tmp_path):
    with registry.fetch(words.version, parent=tmp_path) as bundle:
        assert bundles.describe(bundle)["digest"] == bundles.describe(words.bundle)["digest"]
        assert tmp_path in bundle.parents
    assert list(tmp_path.iterdir()) == []


def test_code_compiled_in_the_store_is_not_taken_along(registry, log, place, tmp_path):
    version = log("compiled")
    files = place / "mlartifacts" / "words" / "models" / version.model / "artifacts"
    code = files / "artifacts" / "bundle" / "code"
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "predictor.cpython-311.pyc").write_bytes(b"anything")
    with registry.fetch(version.version, parent=tmp_path) as bundle:
        assert not list(bundle.rglob("__pycache__"))


def test_a_version_that_lost_its_digest_is_not_trusted(registry, log):
    version = log("bare")
    bare = replace(version.version, tags={})
    with pytest.raises(ModelError, match="not those that were registered"), registry.fetch(bare):
        pass


@pytest.fixture(scope="module")
def shelf(log, place):
    """A version, and the folder of its files."""
    made = log("shelf")
    return SimpleNamespace(
        version=made.version, folder=place / "mlartifacts" / "words" / "models" / made.model / "artifacts"
    )


@contextmanager
def changed(path, content):
    """The file with another content, or gone, for as long as the block lasts."""
    before = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


def leaving(mark):
    """Code that leaves a mark where it is run."""
    return f"open({str(mark)!r}, 'w').close()\n".encode()


@pytest.mark.parametrize("name", ["MLmodel", "pyfunc_model.py"])
def test_files_by_which_mlflow_gets_to_the_bundle_are_compared(registry, shelf, name):
    registry.check_entry(shelf.version)
    path = shelf.folder / name
    for content in (path.read_bytes() + b"\n", b"# another\n"):
        with (
            changed(path, content),
            pytest.raises(ModelError, match=f"{name} of models:/shelf/1 is not the one that was registered"),
        ):
            registry.check_entry(shelf.version)
    with changed(path, None), pytest.raises(ModelError, match=f"{name} of models:/shelf/1 is gone"):
        registry.check_entry(shelf.version)
    registry.check_entry(shelf.version)


def test_a_version_of_a_release_that_kept_no_digests_of_these_files_passes(registry, words):
    tags = {name: value for name, value in words.version.tags.items() if name != ENTRY_TAG}
    registry.check_entry(replace(words.version, tags=tags))


@pytest.mark.parametrize("name", ["__init__.py", "predictor.py", "seals.py", "added.py"])
def test_code_that_was_tampered_with_is_refused_and_not_imported(registry, shelf, tmp_path, name):
    mark, path = tmp_path / "was run", shelf.folder / "artifacts" / "bundle" / "code" / name
    with changed(path, leaving(mark) + (path.read_bytes() if path.exists() else b"")):
        with (
            pytest.raises(ModelError, match=r"was changed after|were not written with it"),
            registry.fetch(shelf.version),
        ):
            pass
        # As whoever uses MLflow alone loads it.
        with pytest.raises(ValueError, match=r"was changed after it was written, or added"):
            registry.store.mlflow.pyfunc.load_model(str(shelf.folder))
    assert not mark.exists()


def predicting(uri, folder):
    pq.write_table(pa.table({"id": ["a", "b"], "frames": ROWS}), folder / "rows.parquet")
    predict(
        "models:/shelf/1",
        [str(folder / "rows.parquet")],
        out=folder / "out.parquet",
        tracking_uri=uri,
        cluster=InProcess(),
        pool=InProcess(),
        options=predictions.Options(),
        console=Console(level=-1),
    )


def serving(uri, folder):
    options = serve.Options(
        **{"host": "127.0.0.1", "port": 0, "token": None, "hosts": (), "replicas": 1, "limits": Limits()},
        **{"batch_wait": 0.002, "max_batch_rows": 256, "follow": False, "poll": 15.0, "grace": 30.0},
    )
    alone = SimpleNamespace(address=None)
    serve.serve(
        "models:/shelf/1",
        options=options,
        tracking_uri=uri,
        cluster=alone,
        scratch=None,
        console=Console(level=-1),
    )


@pytest.mark.parametrize("command", [predicting, serving])
def test_a_command_refuses_a_version_with_code_that_was_tampered_with(registry, shelf, tmp_path, command):
    mark, path = tmp_path / "was run", shelf.folder / "artifacts" / "bundle" / "code" / "predictor.py"
    with (
        changed(path, leaving(mark) + path.read_bytes()),
        pytest.raises(ModelError, match="was changed after it was written"),
    ):
        command(registry.store.uri, tmp_path)
    assert not mark.exists()


def test_code_compiled_beside_a_model_is_not_run(registry, shelf, tmp_path):
    mark, code = tmp_path / "was run", shelf.folder / "artifacts" / "bundle" / "code"
    (tmp_path / "predictor.py").write_bytes(leaving(mark) + (code / "predictor.py").read_bytes())
    compiled = code / "__pycache__" / f"predictor.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(tmp_path / "predictor.py"), str(compiled), invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )
    try:
        model = registry.store.mlflow.pyfunc.load_model(str(shelf.folder))
    finally:
        shutil.rmtree(compiled.parent)
    assert len(model.predict(pd.DataFrame({"frames": ROWS}))) == len(ROWS)
    assert not mark.exists()


def test_files_beside_the_bundle_are_fetched_as_far_as_they_are_there(registry, words):
    with registry.carried(words.version, ("settings.yaml", "history.json")) as files:
        assert set(files) == {"settings.yaml"}
        assert files["settings.yaml"].read_text("utf8") == words.packaging.files[0].read_text("utf8")
    assert not files["settings.yaml"].exists()


def test_text_files_are_read_wherever_they_stand_and_missing_ones_are_none(registry, words):
    assert registry.read(words.version, "settings.yaml") == words.packaging.files[0].read_text("utf8")
    encoding = registry.read(words.version, "artifacts/bundle/encoding.json")
    assert encoding == (words.packaging.bundle / "encoding.json").read_text("utf8")
    assert registry.read(words.version, "history.json") is None
    assert registry.read(words.version, "artifacts/nowhere/encoding.json") is None


def test_of_a_version_that_lost_its_files_nothing_is_read_and_none_are_carried(registry, log, place):
    lost = log("lost")
    shutil.rmtree(place / "mlartifacts" / "words" / "models" / lost.model)
    assert registry.read(lost.version, "settings.yaml") is None
    with (
        pytest.raises(ModelError, match=r"The files of .+ are gone"),
        registry.carried(lost.version, ("settings.yaml",)),
    ):
        pass


def test_files_that_are_gone_damaged_or_exchanged_are_not_used(registry, log, place, tmp_path, make_bundle):
    gone = log("gone")
    folder = place / "mlartifacts" / "words" / "models" / gone.model / "artifacts" / "artifacts" / "bundle"
    other = make_bundle(tmp_path / "other", seed=1)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    with pytest.raises(ModelError, match="not those that were registered"), registry.fetch(gone.version):
        pass
    (folder / "encoding.json").write_text("{}", "utf8")
    with pytest.raises(ModelError, match=r"encoding\.json was changed"), registry.fetch(gone.version):
        pass
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="they are not there") as caught, registry.fetch(gone.version):
        pass
    assert caught.value.exit_code == 2


def test_tags_are_set_and_cut_to_what_mlflow_takes(registry, words):
    registry.tag(words.version, {"verdict": "kept", "long": "x" * 9000})
    tags = registry.get("words", 1).tags
    assert tags["verdict"] == "kept"
    assert len(tags["long"]) == 5000


def test_a_model_carries_pinned_requirements_a_ragged_example_and_no_pickle(words, place):
    folder = place / "mlartifacts" / "words" / "models" / words.model / "artifacts"
    requirements = (folder / "requirements.txt").read_text("utf8").splitlines()
    assert {line.partition("==")[0] for line in requirements} == {"mlflow", "tensorflow", "numpy", "pandas"}
    assert all("==" in line for line in requirements)
    example = json.loads((folder / "input_example.json").read_text("utf8"))
    assert [len(row) for row in (values[1] for values in example["data"])] == [1, 3]
    assert (folder / "settings.yaml").exists()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".keras", ".h5")]
    assert str(place / "words") not in (folder / "MLmodel").read_text("utf8").replace(str(words.bundle), "")


@pytest.fixture(scope="module")
def loaded(registry, words):
    mlflow = registry.store.mlflow
    mlflow.set_tracking_uri(registry.store.uri)
    model = mlflow.pyfunc.load_model("models:/words@champion")
    mlflow.set_tracking_uri(None)
    return model


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [[[0.0, 1.0]], [[2.0, 3.0], [0.0, 0.0], [1.0, 1.0]]],
        [np.array(row, np.uint8) for row in ROWS],
        [np.array([np.array(step) for step in row] + [None], object)[:-1] for row in ROWS],
    ],
    ids=["whole numbers", "fractions", "uint8 arrays", "object arrays"],
)
def test_the_model_takes_ragged_rows_of_any_kind_of_number(loaded, words, rows):
    answers = loaded.predict(pd.DataFrame({"frames": rows}))
    expected = bundles.open(words.bundle).predict({"frames": ROWS})
    assert answers["labels"].tolist() == expected["labels"]
    for one, other in zip(answers["probabilities"], expected["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_the_model_takes_rows_read_from_parquet(loaded, words, tmp_path):
    kind = pa.list_(pa.list_(pa.uint8()))
    pq.write_table(pa.table({"frames": pa.array(ROWS, kind)}), tmp_path / "rows.parquet")
    answers = loaded.predict(pd.read_parquet(tmp_path / "rows.parquet"))
    assert answers["labels"].tolist() == bundles.open(words.bundle).predict({"frames": ROWS})["labels"]


def test_the_model_hands_ids_through_as_text(loaded):
    answers = loaded.predict(pd.DataFrame({"id": [7, 8], "frames": ROWS}))
    assert answers["id"].tolist() == ["7", "8"]


def test_a_row_that_does_not_fit_is_named_by_the_model(loaded):
    with pytest.raises(ValueError, match="'frames', row 1: empty sequence"):
        loaded.predict(pd.DataFrame({"frames": [ROWS[0], []]}))


@pytest.mark.parametrize("rows", [[[1.5, 2.5], [3.0]], [[[1.5], [2.5]], [[3.0]]]], ids=["flat", "nested"])
def test_steps_of_one_feature_may_be_flat_or_nested(registry, log, rows):
    model = log(
        "flat", key=f"run-{len(str(rows))}", columns=(("x", 1),), rows=[[1, 2], [3]], task="classification",
        labels=("9", "07"),
    )  # fmt: skip
    mlflow = registry.store.mlflow
    mlflow.set_tracking_uri(registry.store.uri)
    answers = mlflow.pyfunc.load_model(model.version.uri).predict(pd.DataFrame({"x": rows}))
    mlflow.set_tracking_uri(None)
    expected = bundles.open(model.bundle).predict({"x": [[1.5, 2.5], [3.0]]})
    assert answers["label"].tolist() == expected["label"]
    assert answers["probability"].tolist() == pytest.approx(expected["probability"], abs=1e-6)


def test_mlflow_knows_the_columns_and_the_example_predicts(loaded, registry):
    assert loaded.metadata.get_input_schema().input_names() == ["frames", "id"]
    example = loaded.input_example
    answers = loaded.predict(example)
    assert [len(labels) for labels in answers["labels"]] == [len(frames) for frames in example["frames"]]


@pytest.mark.slow
def test_mlflows_evaluation_of_a_classifier_counts_its_labels(registry, log):
    model = log(
        "evaluated", key="run-evaluated", columns=(("x", 1),), rows=[[1, 2], [3]], task="classification",
        labels=("9", "07"),
    )  # fmt: skip
    rows = pd.DataFrame({"x": [[1.5, 2.5], [3.0], [-4.0, 0.5], [2.0]], "label": ["9", "9", "9", "07"]})
    expected = bundles.open(model.bundle).predict({"x": rows["x"].tolist()})["label"]
    mlflow = registry.store.mlflow
    mlflow.set_tracking_uri(registry.store.uri)
    rows["predicted"] = mlflow.pyfunc.load_model(model.version.uri).predict(rows[["x"]])["label"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own making
        with mlflow.start_run(experiment_id=mlflow.create_experiment("evaluations")):
            # As docs/guides/registry.md says it.
            result = mlflow.models.evaluate(
                data=rows.drop(columns="x"), targets="label", predictions="predicted", model_type="classifier"
            )
    mlflow.set_tracking_uri(None)
    right = sum(said == true for said, true in zip(expected, rows["label"], strict=True))
    assert result.metrics["accuracy_score"] == pytest.approx(right / 4)


@pytest.mark.slow
def test_a_stranger_without_this_project_gets_the_same_answers(registry, words, tmp_path):
    asked = pd.DataFrame({"id": ["a", "b"], "frames": ROWS})
    asked.to_json(tmp_path / "rows.json", orient="split")
    command = [sys.executable, "-I", "-c", STRANGER, registry.store.uri, "models:/words@champion"]
    done = subprocess.run(
        [*command, str(tmp_path / "rows.json")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    answers, ours = done.stdout.splitlines()
    assert ours == "[]"
    expected = bundles.open(words.bundle).predict(asked, n_best=2, distribution=True)
    for row, answer in enumerate(json.loads(answers)):
        assert answer["id"] == expected["id"][row]
        assert answer["labels"] == expected["labels"][row]
        assert answer["n_best_labels"] == expected["n_best_labels"][row]
        assert np.allclose(answer["distribution"], expected["distribution"][row], atol=1e-6)


@pytest.mark.slow
def test_mlflows_own_command_gives_the_same_answers(registry, words, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.store.uri)
    asked = {"dataframe_records": [{"id": "a", "frames": ROWS[0]}, {"id": "b", "frames": ROWS[1]}]}
    (tmp_path / "rows.json").write_text(json.dumps(asked), "utf8")
    command = [sys.executable, "-P", "-m", "mlflow", "models", "predict", "-m", "models:/words@champion"]
    command += ["-i", "rows.json", "-t", "json", "-o", "out.json", "--env-manager", "local"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    answers = json.loads((tmp_path / "out.json").read_text("utf8"))["predictions"]
    expected = bundles.open(words.bundle).predict({"frames": ROWS})
    assert [answer["labels"] for answer in answers] == expected["labels"]
    for answer, probabilities in zip(answers, expected["probabilities"], strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, abs=1e-6)
