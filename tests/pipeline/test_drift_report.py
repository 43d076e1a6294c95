"""A page about drift: the answer first, in words and charts, whole and harmless."""

import re

from pipeline import drift_report
from tests.pipeline.conftest import page_faults


def shift(name, *, kind="feature", measure="psi", value=0.5, counts=True, by_chance=0.1):
    return {
        "kind": kind, "name": name, "measure": measure, "value": value, "limit": 0.2, "by_chance": by_chance,
        "sentence": f"{name}: {measure.upper()} {value:.3f}.", "counts": counts,
        "shares": [{"name": "up to 1", "then": 0.1, "now": 0.9}, {"name": "over 1", "then": 0.9, "now": 0.1}],
    }  # fmt: skip


def found(*shifts):
    return {
        "model": "models:/lines/1", "files": ["new.parquet"], "rows": 1200, "bad_rows": 3, "trained_on": 240,
        "drift": any(each["counts"] for each in shifts), "shifts": list(shifts),
    }  # fmt: skip


def written(tmp_path, *shifts):
    page = drift_report.write(found(*shifts), tmp_path / "drift.html").read_text("utf8")
    body = re.sub(r"<(style|svg|title).*?</\1>", " ", page, flags=re.DOTALL)
    return page, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_what_moved_is_told_in_words_charts_and_a_table(tmp_path):
    page, text = written(tmp_path, shift("x <b>"), shift("label", kind="labels", value=0.05, counts=False))
    assert page_faults(page) == []
    assert "The new rows differ from those of training" in text
    assert "1,200 new rows against the 240 that trained models:/lines/1: 1 of 2" in text
    assert "x &lt;b&gt; PSI 0.500 0.20 0.100 moved much yes" in text
    assert "label PSI 0.050 0.20 0.100 no more than by chance no" in text
    assert "3 bad ones left out" in text and "new.parquet" in text
    # What did not move is drawn where it is of labels or lengths.
    assert page.count("<svg") == 2 and "up to 1 10.0% then, 90.0% now" in page


def test_no_drift_says_so(tmp_path):
    page, text = written(tmp_path, shift("x", counts=False, value=0.15))
    assert page_faults(page) == []
    assert "No drift 1,200 new rows" in text and "nothing moved by more than its limit" in text
    assert "moved somewhat" in text and "<svg" not in page


def test_many_shifts_are_not_all_drawn(tmp_path):
    shifts = [*(shift(f"frames {place}") for place in range(127)), shift("length", kind="lengths")]
    page, text = written(tmp_path, *shifts)
    assert "length moved much: PSI" in page[page.index("<figcaption>") :][:60]
    assert page.count("<svg") == drift_report.MOST_CHARTS
    assert "frames 0 moved much: PSI 0.500." in text
    assert "And 120 more, in the table." in text and "And 28 smaller ones" in text


def test_nothing_is_left_beside_the_page(tmp_path):
    written(tmp_path, shift("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["drift.html"]
