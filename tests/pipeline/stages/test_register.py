import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.batches import SequenceSet
from components.errors import ModelError, TrackerError
from components.evaluation import answers, scoring
from components.served.encoding import Encoding, NumericEncoding
from conf.schema import Settings
from pipeline.backends import ledger, tracking, workspace
from pipeline.backends.deliveries import key_of
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.stages.register import attach_report, register, scores_by_class
from pipeline.versions import models
from tests.pipeline.backends.test_tracking import locked
from tests.pipeline.conftest import InProcess

LABELS = ("a", "b", "c")
NUM_ROWS = 120
SKILLS = {"good": (0.0, 0), "fair": (0.3, 3), "poor": (2.0, 0)}  # accuracy 0.93, 0.65 and 0.28

# A process of its own that registers a finished run: RUN_FOLDER URI SETTINGS CHECKOUT.
REGISTER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from conf.schema import Settings
from pipeline.backends import tracking
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.stages.register import register
from tests.pipeline.conftest import InProcess

run, settings = RunFolder(Path(sys.argv[1])), Settings.model_validate(json.loads(sys.argv[3]))
with tracking.open_run(sys.argv[2], folder=run, settings=settings) as tracker:
    quiet = Console(level=-1)
    summary = register(settings, folder=run, cluster=InProcess(), tracker=tracker, console=quiet)
print(json.dumps(summary))
"""


def wanted(**changes):
    return {
        "name": "shapes",
        "task": "classification",
        "data": {
            "path": "/data/shapes.parquet",
            "id": "key",
            "inputs": [{"column": "x"}],
            "target": {"column": "label"},
            "split": {"by": "hash", "valid": 0.1, "test": 0.1},
        },
        "evaluate": {"bootstrap": 200},
        **changes,
    }


def write_data(folder, column):
    """Test rows of three features, labelled with the one that is largest over all steps, but for noise."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 7, NUM_ROWS)
    rows = [rng.integers(0, 200, (n, 3)) for n in lengths]
    truth = np.array([row.sum(0).argmax() for row in rows])
    noisy = rng.random(NUM_ROWS) < 0.05
    y = np.where(noisy, rng.integers(0, 3, NUM_ROWS), truth)
    table = pa.table(
        {
            "row": pa.array(range(NUM_ROWS), pa.int64()),
            "id": pa.array([f"k{i}" for i in range(NUM_ROWS)]),
            "length": pa.array(lengths, pa.int32()),
            "x0": pa.array([row.ravel().tolist() for row in rows], pa.list_(pa.uint8())),
            "y": pa.array(y, pa.int32()),
        }
    )
    (folder / "test").mkdir(parents=True)
    pq.write_table(table, folder / "test" / "part-00000.parquet")
    shard = {"file": "part-00000.parquet", "rows": NUM_ROWS, "sha256": "0" * 64}
    split = {"rows": NUM_ROWS, "steps": int(lengths.sum()), "shards": [shard]}
    none = {"rows": 0, "steps": 0, "shards": []}
    manifest = {
        "splits": {"train": none, "valid": none, "test": split},
        "inputs": [{"column": column, "kind": "numeric", "features": 3, "dtype": "uint8"}],
        "context": [],
        "labels": list(LABELS),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf8")


def encoding(labels=LABELS, column="x"):
    return Encoding("classification", (NumericEncoding(column, 3, "none", (0.0,) * 3, (1.0,) * 3),), labels)


def export(path, skill):
    """A model that adds the features up, with more or less noise in its weights."""
    import tensorflow as tf

    noise, seed = SKILLS[skill]
    table = np.eye(3) + np.random.default_rng(seed).normal(0, noise, (3, 3))

    class Sum(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(table / 100, dtype=tf.float32)

        @tf.function(
            input_signature=[tf.TensorSpec((None, None, 3), tf.float32), tf.TensorSpec((None,), tf.int32)]
        )
        def serve(self, x, length):
            real = tf.sequence_mask(length, tf.shape(x)[1], tf.float32)[..., tf.newaxis]
            return {"log_probabilities": tf.nn.log_softmax(tf.reduce_sum(x * real, 1) @ self.weights)}

    model = Sum()
    tf.saved_model.save(model, str(path), signatures=model.serve)


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def finished_run(tmp_path):
    """Makes run folders that are done up to and with the evaluation."""

    def make(skill="good", *, labels=LABELS, column="x"):
        run = workspace.create(tmp_path / "runs", "shapes", plan={}, versions={})
        run.settings.write_text("name: shapes\n", "utf8")
        write_data(run.data, column)
        mine = encoding(labels, column)
        (run.data / "encoding.json").write_text(json.dumps(mine.to_json()), "utf8")
        bundles.write(
            run.bundle,
            export=lambda path: export(path, skill),
            encoding=mine,
            name="shapes",
            epoch=1,
            metrics={},
            id_column="key",
        )
        rows = SequenceSet.open(run.data / "test", mine)
        table = answers.predict(bundles.open(run.bundle), rows, labels=labels, split="test")
        run.evaluation.mkdir()
        pq.write_table(table, run.evaluation / "predictions.parquet")
        scores = scoring.score(table, task="classification", labels=labels, bootstrap=100, confidence=0.95)
        (run.evaluation / "metrics.json").write_text(json.dumps({"test": scores.metrics}), "utf8")
        return run

    return make


def registered(run, uri, *, patience=60.0, cluster=None, override=None, **changes):
    """What the stage says of a finished run."""
    cluster = cluster or InProcess()
    settings = Settings.model_validate(wanted(**changes))
    with tracking.open_run(uri, folder=run, settings=settings, patience=patience) as tracker:
        around = {"cluster": cluster, "tracker": tracker, "console": Console(level=-1), "override": override}
        return register(settings, folder=run, **around)


def verdict_of(run):
    """The verdict that the stage left."""
    return json.loads((run.evaluation / "verdict.json").read_text("utf8"))


def in_process(run, uri, root):
    """The stage in a process of its own."""
    command = [sys.executable, "-c", REGISTER, str(run.path), uri, json.dumps(wanted()), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run.path)


def aliases(uri):
    found = Registry(Store(uri)).versions("shapes")
    return {alias: version.number for version in found for alias in version.aliases}


@pytest.mark.slow
def test_the_first_model_above_its_floor_is_promoted_with_all_it_carries(tmp_path, uri, finished_run):
    run = finished_run()
    summary = registered(run, uri, gate={"floors": {"accuracy": 0.5}})
    assert summary["verdict"] == "promoted"
    assert summary["model"] == {
        "name": "shapes", "version": 1, "aliases": ["champion"], "uri": "models:/shapes@champion"
    }  # fmt: skip
    assert any("first model" in reason for reason in summary["reasons"])
    version = Registry(Store(uri)).resolve("models:/shapes@champion")
    assert version.tags["verdict"] == "promoted"
    assert version.tags["recurra.run_id"] == run.run_id
    assert version.tags["recurra.bundle_digest"] == bundles.describe(run.bundle)["digest"]
    assert {"recurra.data_digest", "recurra.settings_hash", "recurra.code_version"} <= version.tags.keys()
    assert version.tags["recurra.outcome"] == "first"
    table = json.loads(version.tags["recurra.verdict"])
    assert [rule["rule"] for rule in table["rules"]] == ["number", "floor: accuracy", "champion"]
    assert table["rules"][1]["asked"] == "at least 0.5"
    assert version.tags["recurra.override"] == ""
    (model,) = (tmp_path / "mlartifacts" / "shapes" / "models").iterdir()
    files = {path.name for path in (model / "artifacts").iterdir()}
    assert {"MLmodel", "pyfunc_model.py", "artifacts", "requirements.txt", "input_example.json"} <= files
    assert {"settings.yaml", "metrics.json", "verdict.json"} <= files
    stored = json.loads((model / "artifacts" / "verdict.json").read_text("utf8"))
    assert stored == json.loads((run.evaluation / "verdict.json").read_text("utf8"))
    (change,) = ledger.read(run.storage)
    assert (change["from"], change["to"], change["alias"]) == (None, 1, "champion")
    client = Store(uri).call(lambda client: client)
    mlflow_run = client.get_run(version.run_id)
    assert {each.dataset.name for each in mlflow_run.inputs.dataset_inputs} == {
        "shapes-train", "shapes-valid", "shapes-test"
    }  # fmt: skip
    assert mlflow_run.outputs.model_outputs[0].model_id == summary["mlflow_model_id"]
    scores = json.loads((run.evaluation / "metrics.json").read_text("utf8"))["test"]
    assert mlflow_run.data.metrics["test_accuracy"] == scores["accuracy"]
    assert mlflow_run.data.metrics["test_accuracy_low"] == scores["accuracy_low"]


def of_classes(labels, types=()):
    return {
        "per_class": [{"label": label, "f1": i / 100} for i, label in enumerate(labels)],
        "spans": {"by_type": [{"type": name, "f1": 0.5} for name in types]} if types else None,
    }


@pytest.mark.slow
def test_the_f1_of_each_class_is_a_metric_whatever_the_labels_hold(uri, finished_run):
    run = finished_run()
    labels = ["B-LOC", "a=b(c)", "a=b[c)", "é/ü", "ü/é", "", "."]
    (run.evaluation / "details.json").write_text(json.dumps(of_classes(labels, ["LOC", "x=y"])), "utf8")
    summary = registered(run, uri)
    version = Registry(Store(uri)).resolve(f"models:/shapes/{summary['model']['version']}")
    sent = Store(uri).call(lambda client: client.get_run(version.run_id)).data.metrics
    for i, label in enumerate(labels):
        assert sent[key_of(f"test_f1.{label}")] == i / 100
    assert sent["test_f1.B-LOC"] == 0.0
    assert sent["test_span_f1.LOC"] == sent[key_of("test_span_f1.x=y")] == 0.5


def test_many_classes_have_no_metrics_of_their_own():
    assert len(scores_by_class(of_classes([f"c{i}" for i in range(50)]))) == 50
    assert scores_by_class(of_classes([f"c{i}" for i in range(2000)], ["LOC"])) == {"test_span_f1.LOC": 0.5}


@pytest.mark.slow
def test_a_report_stands_beside_the_model(tmp_path, uri, finished_run):
    run = finished_run()
    run.report.write_text("<p>", "utf8")
    settings = Settings.model_validate(wanted())
    with tracking.open_run(uri, folder=run, settings=settings) as tracker:
        attach_report(run, tracker=tracker)
        quiet = Console(level=-1)
        summary = register(settings, folder=run, cluster=InProcess(), tracker=tracker, console=quiet)
        run.update_stage("register", status="done", summary=summary)
        attach_report(run, tracker=tracker)
    (model,) = (tmp_path / "mlartifacts" / "shapes" / "models").iterdir()
    assert (model / "artifacts" / "report.html").read_text("utf8") == "<p>"


@pytest.mark.slow
def test_the_alias_moves_only_to_a_model_that_is_surely_better(uri, finished_run):
    first = registered(finished_run("fair"), uri)
    same_run = finished_run("fair")
    same = registered(same_run, uri)
    worse = registered(finished_run("poor"), uri)
    assert [each["verdict"] for each in (first, same, worse)] == ["promoted", "kept", "kept"]
    assert "tie" in " ".join(same["reasons"])
    assert verdict_of(same_run)["outcome"] == "not better"
    (note,) = verdict_of(same_run)["notes"]
    assert note.startswith("Version 1, the champion, scored accuracy 0.6")
    assert note.endswith("on the test rows of now.")
    assert same["model"]["aliases"] == []
    assert aliases(uri) == {"champion": 1}
    better_run = finished_run()
    better = registered(better_run, uri)
    assert better["verdict"] == "promoted"
    assert aliases(uri) == {"champion": 4, "previous": 1}
    changes = ledger.read(better_run.storage)
    assert [(change["from"], change["to"]) for change in changes] == [(None, 1), (1, 4)]
    assert "accuracy" in changes[1]["why"]
    listed = models("shapes", storage=better_run.storage.parent, tracking_uri=uri)
    assert [each["version"] for each in listed["versions"]] == [4, 3, 2, 1]
    assert [each["verdict"] for each in listed["versions"]] == ["promoted", "kept", "kept", "promoted"]
    assert listed["versions"][0]["parent_champion"] == "1"
    assert {"accuracy", "accuracy_low", "accuracy_high"} <= listed["versions"][0]["metrics"].keys()
    assert listed["ledger"] == changes


@pytest.mark.slow
def test_a_missed_floor_registers_nothing_but_is_told(uri, finished_run):
    run = finished_run("poor")
    summary = registered(run, uri, gate={"floors": {"accuracy": 0.99}})
    assert (summary["verdict"], summary["model"]) == ("rejected", None)
    assert "0.99" in summary["reasons"][0]
    assert Registry(Store(uri)).versions("shapes") == []
    assert json.loads((run.evaluation / "verdict.json").read_text("utf8"))["decision"] == "rejected"
    assert ledger.read(run.storage) == []
    client = Store(uri).call(lambda client: client)
    experiment = client.get_experiment_by_name("shapes").experiment_id
    (mlflow_run,) = client.search_runs([experiment])
    assert mlflow_run.data.tags["verdict"] == "rejected"
    files = client.list_artifacts(mlflow_run.info.run_id, "evaluation")
    assert {file.path for file in files} == {"evaluation/metrics.json", "evaluation/verdict.json"}
    overridden = registered(run, uri, gate={"floors": {"accuracy": 0.99}}, override="Better than none.")
    assert (overridden["verdict"], overridden["model"]["aliases"]) == ("promoted", ["champion"])
    stored = verdict_of(run)
    assert (stored["overridden"], stored["gate_decision"]) == (True, "rejected")
    assert stored["gate_reasons"] == summary["reasons"]
    (change,) = ledger.read(run.storage)
    assert change["why"].startswith("Promoted by an override: Better than none. accuracy 0.2")
    tags = Registry(Store(uri)).resolve("models:/shapes@champion").tags
    assert (tags["verdict"], tags["recurra.override"]) == ("promoted", "Better than none.")
    assert json.loads(tags["recurra.verdict"])["overridden"] is True
    assert client.get_run(mlflow_run.info.run_id).data.tags["override"] == "Better than none."


def test_a_model_whose_scores_are_no_numbers_is_rejected_even_with_an_override(uri, finished_run):
    run = finished_run()
    path = run.evaluation / "predictions.parquet"
    table = pq.read_table(path)
    spoilt = pa.array([float("nan")] * NUM_ROWS)
    pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", spoilt), path)
    summary = registered(run, uri, override="So be it.")
    assert (summary["verdict"], summary["model"]) == ("rejected", None)
    assert verdict_of(run)["outcome"] == "not a number"
    assert "The override has no effect" in verdict_of(run)["notes"][0]
    assert Registry(Store(uri)).versions("shapes") == []


@pytest.mark.slow
def test_a_champion_that_cannot_be_compared_is_kept_and_the_reason_told(tmp_path, uri, finished_run):
    registered(finished_run("fair"), uri)
    labelled = finished_run(labels=("a", "b", "z"))
    other_labels = registered(labelled, uri)
    assert other_labels["verdict"] == "kept"
    assert "it lacks 'z' and it also has 'c'" in other_labels["reasons"][-1]
    assert verdict_of(labelled)["outcome"] == "not comparable"
    assert "recurra promote NAME VERSION --why TEXT" in verdict_of(labelled)["hint"]
    other_inputs = registered(finished_run(column="frames"), uri)
    assert other_inputs["verdict"] == "kept"
    assert "x with 3 features" in other_inputs["reasons"][-1]
    champion = Registry(Store(uri)).resolve("models:/shapes@champion")
    digest = champion.tags["recurra.bundle_digest"]
    for model in (tmp_path / "mlartifacts" / "shapes" / "models").iterdir():
        if digest in (model / "artifacts" / "MLmodel").read_text("utf8"):
            shutil.rmtree(model / "artifacts" / "artifacts")
    last = finished_run()
    gone = registered(last, uri)
    assert gone["verdict"] == "kept"
    assert "not there" in gone["reasons"][-1]
    assert "Put the champion's files back" in verdict_of(last)["hint"]
    assert aliases(uri) == {"champion": 1}
    # The same run again, overridden: its version is promoted, and no second one made.
    overridden = registered(last, uri, override="The old files are lost.")
    assert overridden["verdict"] == "promoted"
    assert overridden["model"]["version"] == gone["model"]["version"]
    assert aliases(uri) == {"champion": gone["model"]["version"], "previous": 1}


@pytest.mark.slow
def test_a_champion_whose_files_were_changed_is_not_trusted(tmp_path, uri, finished_run):
    registered(finished_run("fair"), uri)
    (model,) = (tmp_path / "mlartifacts" / "shapes" / "models").iterdir()
    shutil.rmtree(model / "artifacts" / "artifacts" / "bundle")
    shutil.copytree(finished_run("poor").bundle, model / "artifacts" / "artifacts" / "bundle")
    summary = registered(finished_run(), uri)
    assert summary["verdict"] == "kept"
    assert "not those that were registered" in summary["reasons"][-1]


@pytest.mark.slow
def test_a_model_that_answers_otherwise_than_it_was_evaluated_gets_no_alias(uri, finished_run):
    run = finished_run()
    path = run.evaluation / "predictions.parquet"
    table = pq.read_table(path)
    shifted = pa.array([value - 1e-5 for value in table["probability"].to_pylist()])
    pq.write_table(
        table.set_column(table.schema.get_field_index("probability"), "probability", shifted), path
    )
    with pytest.raises(ModelError, match="does not answer as the evaluation did: probability of row 0"):
        registered(run, uri)
    with pytest.raises(ModelError, match="does not answer as the evaluation did"):
        registered(run, uri, gate={"floors": {"accuracy": 0.99}}, override="Not even so.")
    assert aliases(uri) == {}
    assert Registry(Store(uri)).versions("shapes")[0].tags["verdict"] == "unproven"
    assert ledger.read(run.storage) == []


def test_an_absent_tracker_ends_registration_in_bounded_time(finished_run):
    begun = time.monotonic()
    with pytest.raises(TrackerError, match="does not answer") as caught:
        registered(finished_run(), "http://127.0.0.1:9", patience=2)
    assert caught.value.exit_code == 3
    assert time.monotonic() - begun < 30


@pytest.mark.fault("SQLite locked")
@pytest.mark.slow
@pytest.mark.thorough
def test_a_database_locked_beyond_patience_ends_registration_which_goes_on_later(tmp_path, uri, finished_run):
    Store(uri).call(lambda client: None)
    run = finished_run()
    with locked(tmp_path / "mlflow.db"), pytest.raises(TrackerError) as caught:
        registered(run, uri, patience=4)
    assert caught.value.exit_code == 3
    # Which of the two is said depends on whether SQLite, which waits as well, has given up by then.
    told = r"mlflow\.db (is locked by another process|took nothing for 4 s)\.$"
    assert str(tmp_path) in str(caught.value) and re.search(told, str(caught.value))
    assert registered(run, uri)["verdict"] == "promoted"
    assert [version.number for version in Registry(Store(uri)).versions("shapes")] == [1]


@pytest.mark.fault("kill -9 while a version is registered")
@pytest.mark.slow
def test_a_registration_killed_after_the_version_was_made_makes_no_second_one(uri, finished_run, root):
    run = finished_run()
    process = in_process(run, uri, root)
    registry = Registry(Store(uri))
    deadline = time.monotonic() + 120
    while not registry.versions("shapes") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert aliases(uri) == {}
    summary = registered(run, uri)
    assert summary["verdict"] == "promoted"
    assert [version.number for version in registry.versions("shapes")] == [1]
    assert aliases(uri) == {"champion": 1}
    assert len(ledger.read(run.storage)) == 1


@pytest.mark.fault("kill -9 while a version is registered")
@pytest.mark.slow
def test_a_promotion_cut_short_after_the_alias_was_set_still_enters_the_ledger(uri, finished_run):
    registered(finished_run("fair"), uri)
    run = finished_run()
    assert registered(run, uri)["verdict"] == "promoted"
    key, _ = ledger.tag(ledger.read(run.storage)[-1])
    Store(uri).call(lambda client: client.delete_registered_model_tag("shapes", key))
    again = registered(run, uri)
    assert again["verdict"] == "promoted"
    expected = [(None, 1), (1, 2)]
    assert [(change["from"], change["to"]) for change in ledger.read(run.storage)] == expected
    assert models("shapes", storage=run.storage.parent, tracking_uri=uri)["ledger"] == ledger.read(
        run.storage
    )
    assert registered(run, uri) == again
    assert len(ledger.read(run.storage)) == 2


@pytest.mark.slow
def test_a_champion_that_changed_meanwhile_is_compared_with_anew(uri, finished_run):
    registered(finished_run("poor"), uri)
    good, fair = finished_run("good"), finished_run("fair")

    class Meddling(InProcess):
        def call(self, function, **kwargs):
            super().call(function, **kwargs)
            if not aliases(uri).get("previous"):
                assert registered(good, uri)["verdict"] == "promoted"

    summary = registered(fair, uri, cluster=Meddling())
    assert summary["verdict"] == "kept"
    assert "0.93" in summary["reasons"][-1]
    assert aliases(uri) == {"champion": 2, "previous": 1}
    version = Registry(Store(uri)).of_run("shapes", fair.run_id)
    assert (version.tags["verdict"], version.tags["recurra.parent_champion"]) == ("kept", "2")


@pytest.mark.fault("two retrains at once")
@pytest.mark.thorough
@pytest.mark.slow
def test_of_two_at_once_the_better_ends_as_champion(uri, finished_run, root):
    runs = [finished_run("poor"), finished_run()]
    processes = [in_process(run, uri, root) for run in runs]
    outcomes = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        outcomes.append(json.loads(out))
    champion = Registry(Store(uri)).resolve("models:/shapes@champion")
    assert champion.tags["recurra.run_id"] == runs[1].run_id
    assert outcomes[1]["verdict"] == "promoted"
    changes = ledger.read(runs[0].storage)
    assert changes[-1]["to"] == champion.number
    assert [change["from"] for change in changes] == [None, *(change["to"] for change in changes[:-1])]


def test_an_unknown_name_gets_the_nearest_one(tmp_path, uri):
    store = Store(uri)
    store.call(lambda client: client.create_registered_model("shapes"))
    with pytest.raises(ModelError, match="There is no registered model 'shape'"):
        models("shape", storage=Path(tmp_path), tracking_uri=uri)
    assert os.path.exists(tmp_path / "mlflow.db")
    with pytest.raises(ModelError, match="The registered model 'shapes' has no versions"):
        models("shapes", storage=Path(tmp_path), tracking_uri=uri)
