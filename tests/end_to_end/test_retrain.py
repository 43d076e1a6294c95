"""Retraining as a user sees it: trained for a reason, left alone without one, and told why."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import SETTINGS, Place, furnish, words
from tests.pipeline.conftest import page_faults

pytestmark = pytest.mark.slow

RULES = "retrain: {min_rows: 10, drift: {}, live_score: {min_rows: 30}}\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return furnish(tmp_path / "place", settings=SETTINGS.replace("epochs: 4", "epochs: 2") + RULES)


def test_rows_that_are_appended_are_seen_trained_with_and_told(place: Place) -> None:
    first = place.json("retrain", "words.yaml")
    assert first["verdict"] == "promoted" and first["why"] == ["There is no champion yet."]
    assert "There is no champion yet." in Path(first["report"]).read_text("utf8")

    nothing = place.json("retrain", "words.yaml")
    assert nothing["verdict"] == "skipped" and nothing["run_id"] is None
    assert nothing["reasons"] == ["The files are those that version 1 was made from."]
    assert len(place.runs()) == 1

    place.write(words(300))
    second = place.json("retrain", "words.yaml")
    assert second["verdict"] in ("kept", "promoted")
    assert second["why"][0] == "The files changed: 300 rows now, 240 when version 1 was made."
    # The sixty new ones alone are scored; those before them trained the champion.
    assert second["live_score"]["rows"] == 60 and second["live_score"]["own_rows_left_out"]
    page = Path(second["report"]).read_text("utf8")
    assert page_faults(page) == []
    assert "Why it was trained again" in page and second["why"][0] in page
    assert 'id="drift"' in page and "300 new rows against the" in page

    assert place.json("retrain", "words.yaml")["verdict"] == "skipped"
    journal = place.path / "runs" / "words" / "retrain.jsonl"
    entries = [json.loads(line) for line in journal.read_text("utf8").splitlines()]
    assert [entry["verdict"] for entry in entries] == ["promoted", "skipped", second["verdict"], "skipped"]


def test_drift_is_told_on_a_page(finished: tuple[Place, dict[str, Any]], tmp_path: Path) -> None:
    place, _ = finished
    pq.write_table(words(120, seed=5), tmp_path / "fresh.parquet")
    page = tmp_path / "pages" / "drift.html"
    asked = ("drift", "words.yaml", str(tmp_path / "fresh.parquet"), "--report", str(page))
    assert place.json(*asked)["report"] == str(page)
    text = page.read_text("utf8")
    assert page_faults(text) == [] and "fresh.parquet" in text and "120 new rows" in text
