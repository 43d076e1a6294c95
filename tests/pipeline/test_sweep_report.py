"""The section Search: counts, names the best, draws within limits, and harmless whatever the settings say."""

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline import report, sweep_report
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from pipeline.report import SHOWN_METRICS
from tests.pipeline.conftest import line_settings

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('1')</script>"
BRANCH = {"filters": [16, 32], "widths": [8, 5], "strides": [1, 2]}
SPACE = {
    "model.units": {"kind": "choice", "values": [64, 128]},
    "train.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-2},
    "train.optimizer": {"kind": "choice", "values": ["adam", "sgd"]},
    "train.momentum": {"kind": "uniform", "low": 0.0, "high": 0.9, "when": {"train.optimizer": ["sgd"]}},
}


def trial(number: int, value: float | None, /, **changes: Any) -> dict[str, Any]:
    given = {
        "number": number,
        "state": "finished" if value is not None else "failed",
        "point": {"model.units": 64, "train.learning_rate": 1e-3, "train.optimizer": "adam"},
        "value": value,
        "best_epoch": None if value is None else 2,
        "curve": [] if value is None else [[1, 2 * value], [2, value]],
        "seconds": 12.34,
        "seed": None,
        "error": "" if value is not None else "TrainingDiverged: the loss became NaN.\nIn epoch 3.",
        "from_run": None,
    }
    return {**given, **changes}


def sweep(trials: list[dict[str, Any]], /, **changes: Any) -> dict[str, Any]:
    """What a search leaves behind, the best trial found by its loss."""
    known = [each for each in trials if each["value"] is not None and each["seed"] is None]
    given = {
        "metric": "loss",
        "higher_is_better": False,
        "search": "optuna",
        "scheduler": "asha",
        "epochs": 15,
        "concurrency": 2,
        "seconds": 312.4,
        "best": min(known, key=lambda each: each["value"])["number"] if known else None,
        "space": SPACE,
        "importances": {"train.learning_rate": 0.7, "model.units": 0.3},
        "trials": trials,
        "saved": {"epochs": 0, "seconds": 0.0},
    }
    return {**given, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return workspace.create(tmp_path, "lines", plan={}, versions={"python": "3.11"})


def leave(folder: RunFolder, found: dict[str, Any]) -> None:
    (folder.path / "tune").mkdir(exist_ok=True)
    (folder.path / "tune" / "trials.json").write_text(json.dumps(found), "utf8")


def contents(folder: RunFolder, found: dict[str, Any]) -> dict[str, Any]:
    leave(folder, found)
    section = sweep_report.contents(folder, names=SHOWN_METRICS)
    assert section is not None
    return section


def page(folder: RunFolder, found: dict[str, Any]) -> str:
    leave(folder, found)
    return report.write(folder, line_settings(folder.path / "no.parquet")).read_text("utf8")


def words(html: str) -> str:
    """The text that a reader sees, without that of the charts."""
    body = re.sub(r"<(style|svg|title).*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", body))


def lines(drawing: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawing).iter(f"{SVG}polyline"))


def heights(line: ElementTree.Element) -> list[float]:
    return [float(pair.split(",")[1]) for pair in (line.get("points") or "").split()]


def test_a_run_that_searched_nothing_has_no_section(folder: RunFolder) -> None:
    assert sweep_report.contents(folder, names=SHOWN_METRICS) is None
    html = report.write(folder, line_settings(folder.path / "no.parquet")).read_text("utf8")
    assert "Search" not in words(html)


def test_the_sentences_say_how_many_trials_there_were_and_how_they_ended(folder: RunFolder) -> None:
    found = sweep(
        [
            trial(0, 0.5),
            trial(1, 0.25, from_run="20261127-010203-abcdef"),
            trial(2, 0.75, state="stopped"),
            trial(3, 0.6, state="cut"),
            trial(4, None),
        ]
    )
    text = words(page(folder, found))
    assert "5 trials: 2 finished, 1 stopped early, 1 cut off when the time" in text
    assert "were up, 1 failed." in text
    assert "Taken over from 20261127-010203-abcdef: 1 trial." in text
    assert "suggested by Optuna" in text
    assert "At most 15 epochs each, 2 at once, 5 min in all." in text


def test_a_search_that_was_interrupted_shows_what_it_has(folder: RunFolder) -> None:
    under_way = trial(1, 0.5, state="running")
    begun = trial(2, None, state="running", error="")
    section = contents(folder, sweep([trial(0, 0.25), under_way, begun]))
    assert section["sentences"][0] == "3 trials: 1 finished, 2 interrupted together with the search."
    assert [row["state"] for row in section["rows"]] == ["finished", "interrupted", "interrupted"]
    assert section["failures"] == []
    assert len(lines(section["charts"]["parallel"])) == 2


def test_the_best_trial_is_named_with_its_settings(folder: RunFolder) -> None:
    found = sweep(
        [trial(0, 0.5), trial(7, 0.25, point={"model.units": 128, "train.learning_rate": 0.00123456})]
    )
    text = words(page(folder, found))
    assert "Trial 7 is the best: loss 0.2500 on the validation rows after epoch 2" in text
    assert "with model.units: 128, train.learning_rate: 0.001235." in text


def test_other_seeds_are_no_trials_of_the_search_but_say_how_much_is_luck(folder: RunFolder) -> None:
    section = contents(
        folder, sweep([trial(0, 0.5), trial(1, 0.2), trial(2, 0.3, seed=1), trial(3, 0.1, seed=2)])
    )
    assert section["best"]["number"] == 1
    assert section["sentences"][0] == "2 trials: 2 finished."
    (sentence,) = section["outcome"]
    assert "with 3 seeds" in sentence
    assert "loss 0.2000 on average, from 0.1000 to 0.3000." in sentence
    assert len(lines(section["charts"]["parallel"])) == len(section["rows"]) == 2


def test_what_stopping_saved_is_told_beside_all_epochs_of_this_search(folder: RunFolder) -> None:
    trials = [
        trial(0, 0.5),
        trial(1, 0.6, state="stopped", curve=[[1, 0.6]]),
        trial(2, 0.4, from_run="another"),
    ]
    section = contents(folder, sweep(trials, saved={"epochs": 14, "seconds": 80.0}))
    assert section["outcome"] == ["Stopping saved an estimated 14 of 17 epochs (about 80 s)."]


def test_a_metric_of_which_more_is_better_is_drawn_as_it_is(folder: RunFolder) -> None:
    for higher_is_better, best in ((True, 1), (False, 0)):
        metric = "macro_f1" if higher_is_better else "loss"
        found = sweep(
            [trial(0, 0.5), trial(1, 0.9)], metric=metric, higher_is_better=higher_is_better, best=best
        )
        section = contents(folder, found)
        assert section["metric"] == SHOWN_METRICS[metric]
        assert [row["number"] for row in section["rows"]] == [best, 1 - best]
        worse, better = lines(section["charts"]["parallel"])
        assert heights(better)[-1] < heights(worse)[-1]


def test_the_best_comes_first_and_failed_trials_last_with_the_first_line_of_their_error(
    folder: RunFolder,
) -> None:
    section = contents(folder, sweep([trial(0, None), trial(1, 0.5), trial(2, 0.25), trial(3, math.nan)]))
    assert [row["number"] for row in section["rows"]] == [2, 1, 0, 3]
    assert section["rows"][2]["error"] == "TrainingDiverged: the loss became NaN."
    assert section["rows"][2]["value"] is None
    assert section["failures"] == ["1 trial failed: TrainingDiverged: the loss became NaN."]
    assert len(lines(section["charts"]["parallel"])) == 2


def test_a_search_of_which_every_trial_failed_has_no_charts(folder: RunFolder) -> None:
    html = page(folder, sweep([trial(i, None, error=f"Error {i // 2}") for i in range(14)]))
    text = words(html)
    assert "14 trials: 14 failed." in text
    assert "No trial has a loss" in text
    assert "2 trials failed: Error 0" in text
    assert "2 other errors: see tune/trials.json." in text
    assert "<svg" not in html


def test_a_single_trial_has_every_chart_but_no_importances(folder: RunFolder) -> None:
    section = contents(folder, sweep([trial(0, 0.5)], importances={}))
    assert section["charts"]["shares"] == ""
    assert len(lines(section["charts"]["parallel"])) == 1
    assert [each["key"] for each in section["charts"]["scatters"]] == [
        "model.units",
        "train.learning_rate",
        "train.optimizer",
    ]


def test_one_setting_makes_two_axes_and_needs_no_bars(folder: RunFolder) -> None:
    key = "train.learning_rate"
    trials = [
        trial(i, value, point={key: rate}) for i, (value, rate) in enumerate([(0.5, 1e-4), (0.2, 1e-2)])
    ]
    section = contents(folder, sweep(trials, space={key: SPACE[key]}, importances={key: 1.0}))
    worse, better = (heights(line) for line in lines(section["charts"]["parallel"]))
    assert len(worse) == len(better) == 2
    # Both stand at the ends of both axes.
    assert (better[0], better[1]) == (worse[0] - (worse[1] - better[1]), better[0])
    assert section["charts"]["shares"] == ""


def test_settings_come_by_importance_and_those_beyond_the_limit_are_left_out(folder: RunFolder) -> None:
    space = {f"model.s{i}": {"kind": "uniform", "low": 0.0, "high": 1.0} for i in range(15)}
    importances = {f"model.s{i}": (i + 1) / 120 for i in range(15)}
    trials = [trial(0, 0.5, point=dict.fromkeys(space, 0.5))]
    section = contents(folder, sweep(trials, space=space, importances=importances))
    drawn = [each["key"] for each in section["charts"]["scatters"]]
    assert drawn == [f"model.s{i}" for i in range(14, 2, -1)]
    assert section["limits"] == ["The charts show the 12 most important of 15 settings."]
    assert section["keys"][-1] == "model.s0"
    assert len(section["rows"][0]["settings"]) == 15
    unknown = contents(folder, sweep(trials, space=space, importances={}))
    assert unknown["limits"] == ["The charts show the first 12 of 15 settings."]


def test_a_conditional_setting_is_shown_only_where_it_was_searched(folder: RunFolder) -> None:
    point = {"model.units": 64, "train.learning_rate": 1e-3, "train.optimizer": "sgd", "train.momentum": 0.5}
    section = contents(folder, sweep([trial(0, 0.5), trial(1, 0.2, point=point)]))
    assert ">not searched<" in section["charts"]["parallel"]
    (momentum,) = [each for each in section["charts"]["scatters"] if each["key"] == "train.momentum"]
    assert momentum["drawing"].count("<circle") == 1
    assert momentum["importance"] is None
    at = section["keys"].index("train.momentum")
    assert [row["settings"][at] for row in section["rows"]] == ["0.5", None]


def test_choices_may_be_null_lists_and_mappings_and_like_values_stay_apart(folder: RunFolder) -> None:
    values = [None, BRANCH, [1, 2], True, 1, "1"]
    trials = [trial(i, 0.1 + i, point={"model.branch": value}) for i, value in enumerate(values)]
    space = {"model.branch": {"kind": "choice", "values": values}}
    section = contents(folder, sweep(trials, space=space, importances={}))
    shown = [row["settings"][0] for row in section["rows"]]
    assert shown == ["null", "{filters: [16, 32], widths: […", "[1, 2]", "true", "1", "1"]
    places = [heights(line)[0] for line in lines(section["charts"]["parallel"])]
    assert len(set(places)) == len(values)
    assert places == sorted(places)


def test_values_from_outside_the_space_have_places_too(folder: RunFolder) -> None:
    point = {"model.units": 256, "train.learning_rate": 0.1, "train.optimizer": "adam"}
    section = contents(folder, sweep([trial(0, 0.5), trial(1, 0.2, point=point, from_run="another")]))
    assert ">256<" in section["charts"]["parallel"]
    root = ElementTree.fromstring(section["charts"]["parallel"])
    height = float(root.get("height") or 0)
    assert all(0 < y < height for line in root.iter(f"{SVG}polyline") for y in heights(line))


def test_text_from_settings_and_errors_is_never_markup(folder: RunFolder) -> None:
    space = {EVIL: {"kind": "choice", "values": [EVIL, {EVIL: EVIL}]}}
    trials = [
        trial(0, 0.5, point={EVIL: EVIL}, from_run=EVIL),
        trial(1, None, point={EVIL: {EVIL: EVIL}}, error=EVIL),
    ]
    found = sweep(
        trials, space=space, importances={EVIL: 0.5, "b": 0.5}, metric=EVIL, search=EVIL, scheduler=EVIL
    )
    html = page(folder, found)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_the_page_of_many_trials_stays_small_and_says_what_it_leaves_out(folder: RunFolder) -> None:
    space = {f"model.part.setting_{i}": {"kind": "uniform", "low": 0.0, "high": 1.0} for i in range(12)}
    trials = [
        trial(
            i,
            0.1 + i / 1000,
            point={key: (i * (j + 7) % 101) / 101 for j, key in enumerate(space)},
            curve=[[epoch, 1.0 / epoch + i / 1000] for epoch in range(1, 201)],
        )
        for i in range(500)
    ]
    html = page(folder, sweep(trials, space=space))
    assert len(html) < 700_000
    text = words(html)
    assert "Lines show the best 150 of 500 trials, dots the best 300." in text
    assert "The best 50 of 500 trials; all of them are in tune/trials.json." in text
    section = contents(folder, sweep(trials, space=space))
    drawn = lines(section["charts"]["curves"])
    assert len(drawn) == 150
    assert all(len(heights(line)) == 60 for line in drawn)
    assert len(section["rows"]) == 50
    assert section["charts"]["unshrinkable"]
