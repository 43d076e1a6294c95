"""What the page says of a search over settings: in words, charts and a table.

tune/trials.json ─▶ contents ─▶ {"sentences", "best", "charts", "rows", ...} ─▶ the section Search
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from components.evaluation import sweep_charts
from components.evaluation.sweep_charts import Axis, Trial, shortened
from pipeline.backends.workspace import RunFolder

MOST_SETTINGS, MOST_LINES, MOST_DOTS, MOST_ROWS = 12, 150, 300, 50
MOST_LETTERS, MOST_BEST_LETTERS, MOST_ERROR_LETTERS, MOST_FAILURES = 30, 160, 160, 5
MOST_POINTS = 60  # of a curve
MOST_SHRINKABLE = 9  # settings whose chart stays legible when it shrinks to the page

ENDED = {
    "finished": "finished",
    "stopped": "stopped early",
    "cut": "cut off when the time or the epochs of the search were up",
    "failed": "failed",
    "running": "interrupted together with the search",
}
SEARCHES = {
    "optuna": "suggested by Optuna from how the trials before had done",
    "random": "drawn at random",
    "grid": "the points of a grid, in turn",
}
SCHEDULERS = {
    "none": "every trial might run to its end",
    "asha": "ASHA stopped those that fell behind",
    "hyperband": "Hyperband stopped those that fell behind",
    "median": "those behind the median of the others were stopped",
    "pbt": "those that fell behind went on from copies of better ones (population-based training)",
}


def contents(folder: RunFolder, *, names: Mapping[str, str]) -> dict[str, Any] | None:
    """What the section shows, by the names that the template uses; None if the run searched no settings.

    Args:
        names: what a metric is called on the page.
    """
    path = folder.tune / "trials.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text("utf8"))
    metric = names.get(found["metric"], found["metric"])
    tried = [each for each in found["trials"] if each["seed"] is None]
    ranked = _ranked(tried, best=found["best"], higher_is_better=found["higher_is_better"])
    keys = _by_importance(found["space"], found["importances"])
    return {
        "metric": metric,
        "sentences": [_counts(tried), _manner(found), *_taken_over(tried)],
        "best": _best(ranked[0]) if ranked else None,
        "outcome": [*_spread(found, metric), *_saved(found, tried)],
        "failures": _failures(found["trials"]),
        "limits": _limits(keys, found["importances"], len(ranked)),
        "charts": _charts(found, ranked, keys, metric) if ranked else None,
        "keys": keys,
        "rows": _rows([*ranked, *(each for each in tried if not _has_value(each))], keys),
        "num_trials": len(tried),
    }


def _has_value(trial: Mapping[str, Any]) -> bool:
    return trial["state"] != "failed" and _is_number(trial["value"])


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _ranked(
    trials: Sequence[Mapping[str, Any]], *, best: int | None, higher_is_better: bool
) -> list[Mapping[str, Any]]:
    """The trials that have a value, the best first."""
    sign = -1 if higher_is_better else 1
    return sorted(
        filter(_has_value, trials),
        key=lambda each: (each["number"] != best, sign * each["value"], each["number"]),
    )


def _by_importance(space: Mapping[str, Any], importances: Mapping[str, float]) -> list[str]:
    """The keys of the space, the most important first, then those of unknown importance as they come."""
    return sorted(space, key=lambda key: -importances.get(key, 0.0))


def _counts(trials: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(each["state"] for each in trials)
    parts = [f"{counts[state]:,} {words}" for state, words in ENDED.items() if counts[state]]
    return f"{_plural(len(trials), 'trial')}: {', '.join(parts)}." if parts else "No trials."


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _manner(found: Mapping[str, Any]) -> str:
    search = SEARCHES.get(found["search"], f"chosen by {found['search']}")
    scheduler = SCHEDULERS.get(found["scheduler"], f"{found['scheduler']} chose which were stopped")
    return (
        f"Settings were {search}; {scheduler}. At most {_plural(found['epochs'], 'epoch')} each, "
        f"{found['concurrency']:,} at once, {_duration(found['seconds'])} in all."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _taken_over(trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    sources = Counter(each["from_run"] for each in trials if each["from_run"])
    if sources:
        yield f"Taken over from {', '.join(sources)}: {_plural(sum(sources.values()), 'trial')}."


def _best(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": trial["number"],
        "value": _number(trial["value"]),
        "epoch": trial["best_epoch"],
        "settings": {
            key: shortened(_yaml(value), MOST_BEST_LETTERS) for key, value in trial["point"].items()
        },
    }


def _number(value: float) -> str:
    return f"{value:#.4g}"


def _shown(value: Any) -> str:
    """A value of a setting as short YAML."""
    return shortened(_yaml(value), MOST_LETTERS)


def _yaml(value: Any) -> str:
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case float():
            return f"{value:.4g}"
        case list():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
        case _:
            return str(value)


def _spread(found: Mapping[str, Any], metric: str) -> Iterator[str]:
    """What other seeds make of the best settings."""
    again = [each for each in found["trials"] if each["seed"] is not None]
    values = [
        each["value"]
        for each in found["trials"]
        if _has_value(each) and (each["seed"] is not None or each["number"] == found["best"])
    ]
    if again and values:
        yield (
            f"The best settings with {_plural(len(values), 'seed')}, that of the search among them: {metric} "
            f"{_number(sum(values) / len(values))} on average, from {_number(min(values))} to "
            f"{_number(max(values))}."
        )


def _saved(found: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    saved = found["saved"]
    trained = sum(each["curve"][-1][0] for each in tried if each["curve"] and not each["from_run"])
    if saved["epochs"]:
        yield (
            f"Stopping saved an estimated {saved['epochs']:,} of {saved['epochs'] + trained:,} epochs "
            f"(about {_duration(saved['seconds'])})."
        )


def _failures(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """The errors of failed trials, the most frequent first."""
    counts = Counter(_error(each) for each in trials if each["state"] == "failed")
    shown = [
        f"{_plural(count, 'trial')} failed: {error}" for error, count in counts.most_common(MOST_FAILURES)
    ]
    others = len(counts) - len(shown)
    return [*shown, f"{_plural(others, 'other error')}: see tune/trials.json."] if others else shown


def _error(trial: Mapping[str, Any]) -> str:
    first, *_ = trial["error"].strip().splitlines() or ["no error was recorded"]
    return shortened(first, MOST_ERROR_LETTERS)


def _limits(keys: Sequence[str], importances: Mapping[str, float], num_ranked: int) -> list[str]:
    """What the charts leave out."""
    said = []
    if len(keys) > MOST_SETTINGS:
        which = f"{MOST_SETTINGS} most important" if importances else f"first {MOST_SETTINGS}"
        said.append(f"The charts show the {which} of {len(keys)} settings.")
    if num_ranked > MOST_LINES:
        dots = f", dots the best {MOST_DOTS:,}" if num_ranked > MOST_DOTS else ""
        said.append(f"Lines show the best {MOST_LINES:,} of {num_ranked:,} trials{dots}.")
    return said


def _charts(
    found: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]], keys: Sequence[str], metric: str
) -> dict[str, Any]:
    importances = found["importances"]
    space = {key: found["space"][key] for key in keys[:MOST_SETTINGS]}
    choices = {key: _choices(key, space[key], ranked) for key in space if space[key]["kind"] == "choice"}
    axes = [
        Axis(key, labels=tuple(map(_shown, choices[key].values())))
        if key in choices
        else _axis(key, space[key], ranked)
        for key in space
    ]
    trials = [_trial(each, axes, choices, metric) for each in ranked[:MOST_DOTS]]
    drawn = trials[:MOST_LINES]
    log = found["metric"] == "loss"
    options = {"log": log, "turned": not found["higher_is_better"]}
    score = _score(metric, trials, **options)
    beside = {
        axis.name: sweep_charts.scatter(axis, score, trials, title=f"{metric} by {axis.name}")
        for axis in axes
    }
    title = f"Settings and {metric} of the trials"
    every = sweep_charts.parallel(axes, _score(metric, drawn, **options), drawn, title=title)
    shares = [(key, importances[key]) for key in keys if key in importances] if len(importances) > 1 else []
    return {
        "parallel": Markup(every),
        "unshrinkable": len(axes) > MOST_SHRINKABLE,
        "curves": Markup(sweep_charts.curves(drawn, title=f"{metric} of the trials by epoch", log=log)),
        "shares": Markup(sweep_charts.shares(shares, title=f"What the {metric} hangs on")),
        "scatters": [
            {"key": key, "drawing": Markup(drawing), "importance": importances.get(key)}
            for key, drawing in beside.items()
            if drawing
        ],
    }


def _choices(key: str, dimension: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a choice in their order, each under its JSON text: some cannot be keys themselves."""
    values = [*dimension["values"], *_values(key, trials)]
    return {_text(value): value for value in values}


def _values(key: str, trials: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [each["point"][key] for each in trials if key in each["point"]]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _axis(key: str, dimension: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> Axis:
    """The axis of a number: as far as it was searched, and as trials taken over from elsewhere go."""
    known = [dimension["low"], dimension["high"], *_values(key, trials)]
    kind = dimension["kind"]
    whole = all(isinstance(value, int) for value in known)
    return Axis(key, min(known), max(known), log=kind in ("loguniform", "logint"), whole=whole)


def _score(metric: str, trials: Sequence[Trial], *, log: bool, turned: bool) -> Axis:
    """The axis of the score, with the best of it above."""
    low, high = min(each.score for each in trials), max(each.score for each in trials)
    start, end = (high, low) if turned else (low, high)
    return Axis(metric, start, end, log=log and low > 0)


def _trial(
    trial: Mapping[str, Any], axes: Sequence[Axis], choices: Mapping[str, Mapping[str, Any]], metric: str
) -> Trial:
    point = {axis.name: trial["point"][axis.name] for axis in axes if axis.name in trial["point"]}
    said = ", ".join(f"{key} {_shown(value)}" for key, value in point.items())
    return Trial(
        number=trial["number"],
        shown=f"trial {trial['number']}, {metric} {_number(trial['value'])}: {said}",
        score=trial["value"],
        places={
            key: list(choices[key]).index(_text(value)) if key in choices else value
            for key, value in point.items()
        },
        curve=_thinned([(x, y) for x, y in trial["curve"] if _is_number(y)]),
        ended_early=trial["state"] != "finished",
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of the points, about equally far apart, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _rows(trials: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The table's rows: one for each of the first trials."""
    return [
        {
            "number": each["number"],
            "state": _state(each),
            "error": _error(each) if each["state"] == "failed" else "",
            "value": _number(each["value"]) if _is_number(each["value"]) else None,
            "epoch": each["best_epoch"],
            "seconds": f"{each['seconds']:.1f}",
            "settings": [_shown(each["point"][key]) if key in each["point"] else None for key in keys],
        }
        for each in trials[:MOST_ROWS]
    ]


def _state(trial: Mapping[str, Any]) -> str:
    state = "interrupted" if trial["state"] == "running" else trial["state"]
    return f"{state}, taken over" if trial["from_run"] else state
