"""What a page says of drift: the answer, the shifts that count in words and charts, and a table of all.

drift as `recurra drift --json` prints it ─ contents ─▶ the section Drift of a run's report
                                         └ write ────▶ a page of its own
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.evaluation import charts
from pipeline import pages

MOST_ROWS, MOST_CHARTS, MOST_BARS = 100, 8, 12
# What moved, and by how much, for people who do not know the measures.
KINDS = {"feature": "Values of", "unknown": "Unknown values of", "labels": "Labels:", "lengths": "Lengths:"}
WORDS = ((0.1, "hardly moved"), (0.2, "moved somewhat"), (float("inf"), "moved much"))


def contents(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the section shows, by the names that the template uses."""
    shifts = found["shifts"]
    counting = [each for each in shifts if each["counts"]]
    # Labels, lengths and unknown values are drawn whether they moved or not.
    general = [each for each in shifts if each["kind"] != "feature"]
    drawn = [*general, *(each for each in counting if each["kind"] == "feature")]
    drawn = [each for each in drawn if each.get("shares")]
    return {
        **found,
        "num_counting": len(counting),
        "answer": _answer(found, len(counting)),
        "sentences": [_sentence(each) for each in counting[:MOST_CHARTS]],
        "num_untold": max(len(counting) - MOST_CHARTS, 0),
        "rows_shown": [{**each, "words": _words(each)} for each in shifts[:MOST_ROWS]],
        "num_left": max(len(shifts) - MOST_ROWS, 0),
        "drawings": [_drawing(each) for each in drawn[:MOST_CHARTS]],
        "is_alone": False,
    }


def write(found: Mapping[str, Any], path: Path) -> Path:
    """Write a page about the drift; gives back its path.

    Args:
        found: as `recurra drift --json` prints it.
        path: in a folder that is there.
    """
    drift = {**contents(found), "is_alone": True}
    anchors = [("drift", "What moved", True), ("files", "What was compared", True)]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    return pages.write(
        path, "drift.html.j2", {"drift": drift, "now": now, "sections": pages.sections(anchors)}
    )


def _answer(found: Mapping[str, Any], num_counting: int) -> str:
    rows = f"{found['rows']:,} new rows against the {found['trained_on']:,} that trained {found['model']}"
    if not num_counting:
        return f"{rows}: nothing moved by more than its limit and more than chance."
    are = "measure is" if num_counting == 1 else "measures are"
    return f"{rows}: {num_counting} of {len(found['shifts'])} {are} beyond the limit and beyond chance."


def _words(shift: Mapping[str, Any]) -> str:
    """How much it moved."""
    if shift["measure"] == "share":
        return "more unknown" if shift["counts"] else "as many unknown"
    if shift["value"] <= shift["by_chance"]:
        return "no more than by chance"
    return next(words for limit, words in WORDS if shift["value"] < limit)


def _sentence(shift: Mapping[str, Any]) -> str:
    """A shift with what its number means."""
    if shift["measure"] == "share":
        return shift["sentence"]
    return f"{shift['name']} {_words(shift)}{shift['sentence'].removeprefix(shift['name'])}"


def _drawing(shift: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(each["name"], each["then"], each["now"]) for each in shift["shares"][:MOST_BARS]]
    title = f"{KINDS[shift['kind']]} {shift['name']}, training and new rows"
    return {
        "drawing": Markup(charts.pairs(rows, title=title, names=("in training", "in the new rows"))),
        "sentence": _sentence(shift),
    }
