"""report.html: whole, self-contained, true to the run's files, and harmless whatever the data says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline import report
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from tests.pipeline.conftest import Started, line_settings, page_faults

DRIFT = {
    "model": "models:/lines/1", "files": ["new.parquet"], "rows": 200, "bad_rows": 0, "trained_on": 240,
    "drift": True,
    "shifts": [
        {"kind": "lengths", "name": "length", "measure": "psi", "value": 0.5, "limit": 0.2, "by_chance": 0.1,
         "sentence": "length: PSI 0.500, more than 0.2.", "counts": True,
         "shares": [{"name": "below 3", "then": 0.25, "now": 0.75}]}
    ],
}  # fmt: skip
VERDICT = {"decision": "rejected", "reasons": ["accuracy 0.5 is below the floor of 0.9."]}


@pytest.fixture
def folder(evaluated: Started, tmp_path: Path) -> RunFolder:
    """A copy of the evaluated run to write into."""
    shutil.copytree(evaluated.folder.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def words(page: str) -> str:
    """The text that a reader sees."""
    body = re.sub(r"<(style|svg|title).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_the_page_shows_the_scores_of_the_run_with_their_intervals(
    evaluated: Started, folder: RunFolder
) -> None:
    page = report.write(folder, evaluated.settings).read_text("utf8")
    text = words(page)
    scores = json.loads((folder.evaluation / "metrics.json").read_text("utf8"))
    for split in ("valid", "test"):
        for name in ("accuracy", "sequence_accuracy", "macro_f1", "loss", "ece"):
            assert f"{scores[split][name]:.4f}" in text
            assert f"{scores[split][f'{name}_low']:.4f} to {scores[split][f'{name}_high']:.4f}" in text
    for heading in ("Scores", "Learning", "Worst answers", "By class", "By kind of row", "Data", "Settings"):
        assert heading in text
    assert page.count("<svg") >= 6


def test_spans_are_told_by_type_and_by_kind_of_error(evaluated: Started, folder: RunFolder) -> None:
    assert "By span type" not in words(report.write(folder, evaluated.settings).read_text("utf8"))
    path = folder.evaluation / "details.json"
    details = json.loads(path.read_text("utf8"))
    details["spans"] = {
        "by_type": [
            {"type": "P<b>", "support": 1200, "predicted": 7, "hits": 1, "precision": 0.1428, "recall": None,
             "f1": 0.0017}
        ],
        "errors": {"type": 1, "boundary": 2, "both": 3, "invented": 4, "missed": 5},
        "confused": [{"truth": "P", "predicted": "Q", "count": 1}],
        "illegal": {"O > I-P": 6},
    }  # fmt: skip
    path.write_text(json.dumps(details), "utf8")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    assert re.search(r"P&lt;b&gt; 1,200 7 0\.143 \S 0\.002", text)
    assert "right type, wrong bounds 2" in text
    assert "a true span, nothing said there 5" in text
    assert "P answered as Q (1)" in text
    assert "Illegal pairs of tags in the answers: 6; O &gt; I-P 6" in text


def test_scores_that_are_no_number_in_an_epoch_are_not_drawn(evaluated: Started, folder: RunFolder) -> None:
    path = folder.checkpoints / "history.json"
    history = json.loads(path.read_text("utf8"))
    for entry in history:
        entry["valid"]["span_f1"] = float("nan")
    path.write_text(json.dumps(history), "utf8")
    assert ">span F1<" not in report.write(folder, evaluated.settings).read_text("utf8")


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(evaluated: Started, folder: RunFolder) -> None:
    page = report.write(folder, evaluated.settings).read_text("utf8")
    assert page_faults(page) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
    # Every chart of numbers says them in words, too; pictures of rows have only their name.
    assert page.count("<desc>") >= 6


def test_the_first_screen_has_the_deciding_score_beside_the_champion_and_the_best_rule(
    evaluated: Started, folder: RunFolder
) -> None:
    verdict = {
        **VERDICT, "metric": "accuracy", "champion_value": 0.4321, "difference": 0.0123, "low": -0.01,
        "high": 0.03,
    }  # fmt: skip
    (folder.evaluation / "verdict.json").write_text(json.dumps(verdict), "utf8")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    scores = json.loads((folder.evaluation / "metrics.json").read_text("utf8"))["test"]
    details = json.loads((folder.evaluation / "details.json").read_text("utf8"))
    found = json.loads((folder.evaluation / "baselines.json").read_text("utf8"))["baselines"]
    best = max(each["metrics"]["accuracy"] for each in found if each["metrics"])
    first = text[: text.index("With 95 % intervals")]
    assert f"Test accuracy {scores['accuracy']:.4f} 95 % interval {scores['accuracy_low']:.4f} to" in first
    assert "Champion&#39;s accuracy, same rows 0.4321 this model +0.0123" in first
    assert "95 % interval -0.0100 to +0.0300" in first
    assert f"Best simple rule, accuracy {best:.4f}" in first
    assert details["unseen"]["sentence"] in first
    assert (
        first.index("Rejected") < first.index("Read the scores with this in mind") < first.index("Test acc")
    )


def test_what_scaling_would_bring_stands_beside_the_reliability_curve(
    evaluated: Started, folder: RunFolder
) -> None:
    found = json.loads((folder.evaluation / "details.json").read_text("utf8"))["calibration"]
    page = report.write(folder, evaluated.settings).read_text("utf8")
    assert found["sentence"].startswith(("Scaling by", "The calibration error is"))
    assert page.index("Calibration:") < page.index(found["sentence"])


def test_a_run_from_before_calibration_was_told_has_a_page(evaluated: Started, folder: RunFolder) -> None:
    path = folder.evaluation / "details.json"
    details = json.loads(path.read_text("utf8"))
    del details["calibration"]
    path.write_text(json.dumps(details), "utf8")
    assert "Calibration:" in report.write(folder, evaluated.settings).read_text("utf8")


def test_the_verdict_stands_first(evaluated: Started, folder: RunFolder) -> None:
    (folder.evaluation / "verdict.json").write_text(json.dumps(VERDICT), "utf8")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    assert text.index("Rejected") < text.index("below the floor of 0.9.") < text.index("Scores")


def test_the_rules_of_the_verdict_are_a_table_before_the_scores(
    evaluated: Started, folder: RunFolder
) -> None:
    rule = {"title": "floor: accuracy", "asked": "at least 0.9", "found": "0.5 (0.4 to 0.6)", "holds": False}
    verdict = {
        **VERDICT, "decision": "promoted", "overridden": True, "gate_decision": "rejected", "rules": [rule],
        "notes": ["The champion scored 0.4."], "hint": "Train a better model.",
    }  # fmt: skip
    (folder.evaluation / "verdict.json").write_text(json.dumps(verdict), "utf8")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    assert "Promoted by an override" in text
    assert "Without the override: rejected." in text
    row = text.index("floor: accuracy at least 0.9 0.5 (0.4 to 0.6) no")
    assert text.index("Promoted by an override") < text.index("rule asked found holds") < row
    assert row < text.index("The champion scored 0.4.") < text.index("With 95 % intervals")
    assert text.index("What to do: Train a better model.") < row


def test_a_run_without_any_stage_has_a_page_too(tmp_path: Path) -> None:
    created = workspace.create(tmp_path, "lines", plan={}, versions={"python": "3.11"})
    text = words(report.write(created, line_settings(tmp_path / "no.parquet")).read_text("utf8"))
    assert "Done so far: nothing." in text
    assert "Scores" not in text


def test_a_stage_that_failed_says_why(evaluated: Started, folder: RunFolder) -> None:
    folder.update_stage("register", status="failed", error="TrackerError: MLflow is away.")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    assert "The stage register failed: TrackerError: MLflow is away." in text


def test_text_from_the_data_is_never_markup(evaluated: Started, folder: RunFolder) -> None:
    evil = "<script>alert(1)</script>"
    path = folder.evaluation / "details.json"
    details = path.read_text("utf8").replace('"up"', json.dumps(evil))
    path.write_text(details, "utf8")
    page = report.write(folder, evaluated.settings).read_text("utf8")
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_writing_again_replaces_the_page_and_leaves_nothing_beside_it(
    evaluated: Started, folder: RunFolder
) -> None:
    first = report.write(folder, evaluated.settings).read_text("utf8")
    before = set(folder.path.iterdir())
    assert report.write(folder, evaluated.settings).read_text("utf8") == first
    assert set(folder.path.iterdir()) == before


def test_what_trained_and_how_long_it_waited_stand_beside_the_rate(
    evaluated: Started, folder: RunFolder
) -> None:
    path = folder.checkpoints / "history.json"
    epochs = json.loads(path.read_text("utf8"))
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    waited = sum(entry["waiting_seconds"] for entry in epochs) / sum(entry["seconds"] for entry in epochs)
    assert f"time steps per second (median), {waited:.1%} of the time waiting for input;" in text
    assert "Kernel: plain loop (train.devices is cpu:1)." in text
    assert ("Training waited for its batches" in text) == (waited > 0.2)
    slow = [{**entry, "waiting_seconds": 0.21 * entry["seconds"]} for entry in epochs]
    path.write_text(json.dumps(slow), "utf8")
    assert "Training waited for its batches" in words(
        report.write(folder, evaluated.settings).read_text("utf8")
    )


def test_a_search_stands_before_the_training_that_came_of_it(evaluated: Started, folder: RunFolder) -> None:
    assert "Search" not in words(report.write(folder, evaluated.settings).read_text("utf8"))
    trial = {
        "number": 0, "state": "finished", "point": {"model.units": 6}, "value": 0.25, "best_epoch": 2,
        "curve": [[1, 0.5], [2, 0.25]], "seconds": 1.5, "seed": None, "error": "", "from_run": None,
    }  # fmt: skip
    found = {
        "metric": "loss", "higher_is_better": False, "search": "random", "scheduler": "none", "epochs": 2,
        "concurrency": 1, "seconds": 3.0, "best": 0, "importances": {}, "trials": [trial],
        "space": {"model.units": {"kind": "int", "low": 4, "high": 8}},
        "saved": {"epochs": 0, "seconds": 0.0},
    }  # fmt: skip
    (folder.path / "tune").mkdir()
    (folder.path / "tune" / "trials.json").write_text(json.dumps(found), "utf8")
    text = words(report.write(folder, evaluated.settings).read_text("utf8"))
    assert text.index("Scores") < text.index("Search") < text.index("Trial 0 is the best")
    assert text.index("Trial 0 is the best") < text.rindex("Learning")


def test_a_run_from_before_kernels_were_told_has_a_page(evaluated: Started, folder: RunFolder) -> None:
    path = folder.checkpoints / "history.json"
    before = [
        {name: value for name, value in entry.items() if name != "kernel"}
        for entry in json.loads(path.read_text("utf8"))
    ]
    path.write_text(json.dumps(before), "utf8")
    assert "Kernel" not in words(report.write(folder, evaluated.settings).read_text("utf8"))


def test_why_a_run_was_made_and_the_drift_seen_stand_in_its_page(
    evaluated: Started, folder: RunFolder
) -> None:
    assert "Drift" not in words(report.write(folder, evaluated.settings).read_text("utf8"))
    why = {"reasons": ["Drift: 200 rows <differ>."], "notes": ["No new rows."], "drift": DRIFT}
    (folder.path / workspace.RETRAIN).write_text(json.dumps(why), "utf8")
    page = report.write(folder, evaluated.settings).read_text("utf8")
    assert page_faults(page) == []
    text = words(page)
    assert "Why it was trained again: Drift: 200 rows &lt;differ&gt;." in text
    assert "What was looked at and was no reason: No new rows." in text
    assert "1 of 1 measure is beyond the limit" in text
