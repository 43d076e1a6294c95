import copy
import shutil
from pathlib import Path

import pytest

from components.errors import ClusterError, DataError, ModelError, Terminated
from conf.schema import Settings
from pipeline import reproduction
from pipeline.backends import claims, mirrors, workspace
from pipeline.backends.buckets import Bucket
from pipeline.backends.registry import DIGEST_TAG, Version
from pipeline.backends.signals import Signals
from pipeline.console import Console
from pipeline.reproduction import Difference, Figure, differences, exit_code
from pipeline.run import Surroundings
from tests.pipeline.conftest import QUIET, line_settings, lines, write_rows

LINEAGE = {
    "splits": {
        split: {"rows": 10, "steps": 30, "digest": digest * 64}
        for split, digest in (("train", "a"), ("valid", "b"), ("test", "c"))
    },
    "encoding": "e" * 64,
    "code": "0.1.0+0123456789ab",
    "versions": {"python": "3.11.9", "recurra": "0.1.0", "tensorflow": "2.21.0"},
    "machine": "x86_64",
    "kernel": "cuDNN",
    "epochs": 3,
}


def changed(**changes):
    return {**copy.deepcopy(LINEAGE), **changes}


def settings(**changes):
    return Settings.model_validate(
        {
            "name": "words",
            "task": "labelling",
            "data": {
                "path": "/data/words.parquet",
                "inputs": [{"column": "frames"}],
                "target": {"column": "labels"},
                "split": {"by": "hash", "valid": 0.1, "test": 0.1},
            },
            **changes,
        }
    )


def test_the_same_lineage_has_no_differences():
    assert differences(LINEAGE, changed()) == []


def test_differences_come_with_the_likeliest_cause_first():
    now = changed(
        code="0.2.0+ba9876543210",
        encoding="f" * 64,
        versions={"python": "3.11.9", "recurra": "0.2.0", "tensorflow": "2.22.0"},
        kernel="loops",
    )
    now["splits"]["train"] = {"rows": 11, "steps": 31, "digest": "d" * 64}
    assert differences(LINEAGE, now) == [
        Difference(
            "data",
            "train rows",
            f"10 rows, 30 steps, digest {'a' * 12}",
            f"11 rows, 31 steps, digest {'d' * 12}",
        ),
        Difference("encoding", "scales and vocabulary", "e" * 64, "f" * 64),
        Difference("code", "recurra", "0.1.0+0123456789ab", "0.2.0+ba9876543210"),
        Difference("library", "tensorflow", "2.21.0", "2.22.0"),
        Difference("machine", "recurrence computed by", "cuDNN", "loops"),
    ]


def test_what_an_earlier_release_did_not_record_is_passed_over():
    assert differences({}, LINEAGE) == []


def test_a_kernel_is_not_compared_before_training():
    assert differences(LINEAGE, changed(kernel="")) == []


@pytest.mark.parametrize(
    ("before", "now", "within"),
    [(0.5, 0.5, True), (0.5, 0.5 + 5e-7, True), (0.5, 0.6, False), (None, None, True), (0.5, None, False)],
)
def test_a_figure_is_within_the_tolerance_or_not(before, now, within):
    assert reproduction._figure("test accuracy", before, now, 1e-6).within is within


def conclude(found, figures, lineage=LINEAGE):
    record = reproduction._Record(settings(), lineage, [], {})
    return reproduction._reasons(found, figures, record, tolerance=1e-6)


def test_the_reasons_name_what_changed_and_what_it_did():
    good, bad = Figure("test loss", 1.0, 1.0, 0.0, True), Figure("test accuracy", 0.9, 0.8, 0.1, False)
    code = Difference("code", "recurra", "a", "b")
    assert conclude([code], [good]) == [
        "All 1 figures agree to 1e-06.",
        "Changed since: the code; it changed nothing here.",
    ]
    assert conclude([code], [good, bad]) == [
        "1 of 2 figures differ by more than 1e-06.",
        "Changed since: the code; the likely cause is the first.",
    ]
    assert "adds numbers up" in conclude([], [bad])[1]
    assert "earlier release" in conclude([], [good], lineage={})[1]


def test_exit_codes_tell_other_data_from_a_missed_tolerance():
    assert exit_code({"verdict": "reproduced", "figures": []}) == 0
    assert exit_code({"verdict": "not reproduced", "figures": []}) == 2
    assert exit_code({"verdict": "not reproduced", "figures": [{}]}) == 4


class Carrying:
    """A version and the files it carries, as far as they are asked for."""

    uri = "models:/words/1"


@pytest.mark.parametrize(
    ("scheduler", "files", "said"), [("asha", {}, "does not carry"), ("pbt", {"best.yaml": ""}, "pbt")]
)
def test_a_search_without_its_result_or_with_copied_weights_cannot_be_repeated(scheduler, files, said):
    space = {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    searching = settings(tune={"trials": 4, "scheduler": scheduler, "space": space})
    with pytest.raises(ModelError, match=said):
        reproduction._tuned(searching, files, Carrying())  # type: ignore[arg-type]


def test_where_data_have_moved_to_is_kept_and_so_holds_no_password():
    assert reproduction._moved(["s3://bucket/a.csv", "/rows/a.csv"]) == ("s3://bucket/a.csv", "/rows/a.csv")
    with pytest.raises(DataError, match="carries a password") as refused:
        reproduction._moved(["/rows/a.csv", "https://host/a.csv?sig=S3CR3T"])
    assert (refused.value.exit_code, "S3CR3T" in str(refused.value)) == (2, False)


def test_the_tables_and_the_verdict_are_shown(capsys):
    found = {
        "model": "models:/words/1",
        "verdict": "not reproduced",
        "reasons": ["1 of 1 figures differ by more than 1e-06."],
        "differences": [{"kind": "code", "what": "recurra", "recorded": "a", "now": "b"}],
        "figures": [{"what": "test loss", "recorded": 1.0, "now": None, "difference": None, "within": False}],
    }
    reproduction.show(found, console=Console())
    out, err = capsys.readouterr()
    assert out == "models:/words/1: not reproduced\n  1 of 1 figures differ by more than 1e-06.\n"
    assert "test loss" in err
    assert "recurra" in err


VERSION = Version("lines", 1, "2026-01-01T00:00:00+00:00", "r", {DIGEST_TAG: "d" * 64}, ())


@pytest.fixture
def begin(object_store, tmp_path, monkeypatch):
    """Begins, or goes on with, a reproduction on a machine of that name, which has the rows; its folder."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.1)

    def on(machine, version=VERSION, rows=None, epochs=3):
        monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / machine / "cache"))
        root = mirrors.open_mirror(f"{object_store}/team").root
        around = Surroundings(root, "sqlite:///nowhere.db", None, QUIET, Signals())
        data = write_rows(tmp_path / machine / "lines.parquet", rows)
        record = reproduction._Record(line_settings(data), {**LINEAGE, "epochs": epochs}, [], {})
        return reproduction._own_folder(around, version, record)

    yield on
    mirrors._OPENED.clear()


def stop_in_training(begun, error=Terminated):
    """Go as far as the first checkpoint; the run's id."""
    with pytest.raises(error), begun as folder:
        reproduction._stage(folder, "prepare", lambda: write(folder.data / "train" / "rows", "rows"))
        folder.update_stage("train", status="running")
        write(folder.checkpoints / "step-00000001" / "state.npz", "weights")
        raise error("Stopped.")
    return folder.run_id


def write(path: Path, text: str) -> dict[str, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")
    return {"wrote": text}


def refuse():
    raise AssertionError("it was done before")


@pytest.mark.parametrize("error", [Terminated, ClusterError])
def test_one_that_was_stopped_is_gone_on_with_elsewhere_from_the_bucket(begin, tmp_path, error):
    stopped = stop_in_training(begin("here"), error)
    shutil.rmtree(tmp_path / "here")
    with begin("there") as folder:
        assert folder.run_id == stopped and folder.path.is_relative_to(tmp_path / "there")
        assert (folder.checkpoints / "step-00000001" / "state.npz").read_text("utf8") == "weights"
        assert str(tmp_path / "there") in folder.settings.read_text("utf8")
        reproduction._stage(folder, "prepare", refuse)
        assert folder.summary("prepare") == {"wrote": "rows"}


def test_what_is_compared_is_in_the_bucket_and_one_that_ended_is_done_anew(begin):
    record = reproduction._Record(settings(), LINEAGE, [], {})
    with begin("here") as folder:
        folder.evaluation.mkdir()
        found = reproduction._conclude(VERSION, folder, [], [], record, tolerance=1e-6)
        ended = folder.run_id
    assert found["verdict"] == "reproduced"
    with begin("there") as folder:
        assert folder.run_id != ended
        (other,) = [
            each
            for each in workspace.runs(mirrors.of(folder.path).root, "reproductions/lines")
            if each.run_id == ended
        ]
        other.bring("evaluation")
        compared = (other.evaluation / "comparison.json").read_text("utf8")
        assert '"verdict": "reproduced"' in compared


@pytest.mark.parametrize(
    "other",
    [
        {"version": Version("lines", 2, VERSION.created, "r", VERSION.tags, ())},
        {"version": Version("lines", 1, VERSION.created, "r", {DIGEST_TAG: "e" * 64}, ())},
        {"rows": lines(60)},
        {"epochs": 2},
    ],
)
def test_of_another_version_or_with_other_rows_it_begins_anew(begin, other):
    stopped = stop_in_training(begin("here"))
    with begin("there", **other) as folder:
        assert folder.run_id != stopped
        assert not folder.checkpoints.exists()


def test_with_rows_at_fault_nothing_is_left_not_even_in_the_bucket(begin, object_store):
    with pytest.raises(DataError), begin("here") as folder:
        raise DataError("Bad rows.")
    assert not folder.path.exists()
    assert Bucket(f"{object_store}/team").tags("") == {}
