"""One HTML page about a run: what it came to on the first screen, then what that rests on.

    run.json, data/profile.json, tune/trials.json, checkpoints/history.json, evaluation/*.json,
    retrain.json ─▶ report.html

A stage that has not run has no section, so the page can be written at any time.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.evaluation import behaviours, charts, slices, verdicts
from components.training.progress import MUCH_WAITING, waiting_share
from conf.schema import Settings
from pipeline import drift_report, pages, sweep_report
from pipeline.backends.workspace import RETRAIN, RunFolder

MEANING = {
    "promoted": "It passed its gate, and answers under the alias from now on.",
    "kept": "It passed its gate, but is not proved better: the champion goes on answering.",
    "rejected": "It did not pass its gate, and nothing that answers has changed.",
}
SHOWN_METRICS = {
    "accuracy": "accuracy",
    "sequence_accuracy": "sequence accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC-AUC, mean of classes",
    "pr_auc": "PR-AUC, mean of classes",
    "top_3_accuracy": "right label among the top 3",
    "top_5_accuracy": "right label among the top 5",
    "span_f1": "span F1",
    "span_precision": "span precision",
    "span_recall": "span recall",
    "lenient_span_f1": "lenient span F1",
    "loss": "loss",
    "ece": "calibration error",
}
MOST_CLASSES, MOST_CONFUSED = 60, 40
NUM_DISTRIBUTIONS = 4
MOST_OPEN_SLICES = 8
MOST_WRONG_EXAMPLES = 50
# What stands in the table of scores only.
NOT_DRAWN = (
    "loss",
    "ece",
    "span_precision",
    "span_recall",
    "lenient_span_f1",
    "roc_auc",
    "pr_auc",
    "top_3_accuracy",
    "top_5_accuracy",
)
MOST_TOLD = 3  # confusions in words
SPAN_ERRORS = {
    "type": "right bounds, wrong type",
    "boundary": "right type, wrong bounds",
    "both": "wrong bounds and wrong type",
    "invented": "said where there is no span",
    "missed": "a true span, nothing said there",
}


def write(folder: RunFolder, settings: Settings) -> Path:
    """Write `report.html` from what the stages have left; the page's path."""
    return pages.write(folder.report, "report.html.j2", contents(folder, settings))


def contents(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """Everything the page shows, by the names that the template uses."""
    run = folder.read()
    metrics = _read(folder.evaluation / "metrics.json") or {}
    details = _read(folder.evaluation / "details.json") or {}
    history = _read(folder.checkpoints / "history.json") or []
    profile = _read(folder.data / "profile.json")
    baselines = (_read(folder.evaluation / "baselines.json") or {}).get("baselines", [])
    stages = [{"name": name, "seconds": None, "reason": "", **each} for name, each in run["stages"].items()]
    state, sentence = _state(stages)
    verdict = _read(folder.evaluation / "verdict.json")
    why = _read(folder.path / RETRAIN)
    test = metrics.get("test")
    shown = {
        "name": run["name"],
        "run_id": run["run_id"],
        "started": run["started"][:16].replace("T", " "),
        "task": settings.task,
        "verdict": verdict,
        "rules": {"header": verdicts.HEADER, "rows": verdicts.rows(verdict or {})},
        "model": (folder.summary("register") or {}).get("model"),
        "state": state,
        "state_sentence": sentence,
        "unseen": (details.get("unseen") or {}).get("sentence", ""),
        "calibration": (details.get("calibration") or {}).get("sentence", ""),
        "meaning": MEANING.get((verdict or {}).get("decision", ""), ""),
        "valid": metrics.get("valid", {}),
        "test": test,
        "main_metric": settings.gate.better_on,
        "tiles": _tiles(settings, test, verdict, baselines, profile) if test else [],
        "confidence": settings.gate.confidence,
        "shown_metrics": SHOWN_METRICS,
        "spans": details.get("spans"),
        "span_errors": SPAN_ERRORS,
        "baselines": baselines,
        "search": sweep_report.contents(folder, names=SHOWN_METRICS),
        "history": history,
        "training_sentence": _training(history, folder.summary("train")),
        "training_hint": _training_hint(history),
        "worst": [_worst(each, settings.task) for each in details.get("worst", [])],
        "per_class": details.get("per_class", []),
        "confused": _confused(details.get("confusion", [])),
        "areas": {each["label"]: each for each in (details.get("ranking") or {}).get("per_class", [])},
        "most_classes": MOST_CLASSES,
        "most_wrong": MOST_WRONG_EXAMPLES,
        "examples": _examples(_read(folder.evaluation / "examples.json")),
        "slices": _slices((_read(folder.evaluation / "slices.json") or {}).get("test", {})),
        "profile": profile,
        "rejected": (folder.summary("prepare") or {}).get("rejected", 0),
        "stages": stages,
        "versions": run["versions"],
        "settings": folder.settings.read_text("utf8") if folder.settings.exists() else "",
        "why": why,
        "drift": drift_report.contents(why["drift"]) if why and why.get("drift") else None,
        "charts": _charts(metrics, details, history, profile, baselines),
    }
    return {**shown, "sections": _sections(shown)}


def _sections(shown: Mapping[str, Any]) -> list[dict[str, str]]:
    """Those that have something to show, the most important first."""
    spans = shown["spans"]
    return pages.sections(
        [
            ("verdict", "Verdict", shown["rules"]["rows"]),
            ("scores", "Scores", shown["test"]),
            ("slices", "By kind of row", shown["slices"]["families"]),
            ("examples", "Behaviour examples", shown["examples"]),
            ("spans", "By span type", spans and spans["by_type"]),
            ("classes", "By class", shown["per_class"]),
            ("worst", "Worst answers", shown["worst"]),
            ("drift", "Drift", shown["drift"]),
            ("search", "Search", shown["search"]),
            ("learning", "Learning", shown["history"]),
            ("data", "Data", shown["profile"]),
            ("history", "How it came about", True),
        ]
    )


def _tiles(
    settings: Settings,
    test: Mapping[str, Any],
    verdict: Mapping[str, Any] | None,
    baselines: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any] | None,
) -> list[dict[str, str]]:
    """The score that decides, and what it is to be seen beside."""
    metric = settings.gate.better_on
    name = SHOWN_METRICS.get(metric, metric)
    percent = f"{100 * settings.gate.confidence:g} % interval"
    tiles = []
    if (value := test.get(metric)) is not None:
        low, high = test.get(f"{metric}_low"), test.get(f"{metric}_high")
        beside = f"{percent} {low:.4f} to {high:.4f}" if low is not None and high is not None else ""
        tiles.append({"name": f"Test {name}", "value": f"{value:.4f}", "beside": beside})
    if verdict and verdict.get("champion_value") is not None:
        tiles.append(_against(verdict, percent))
    known = [each for each in baselines if each["metrics"] and each["metrics"]["accuracy"] is not None]
    if known and test.get("accuracy") is not None:
        best = max(known, key=lambda each: each["metrics"]["accuracy"])
        accuracy = best["metrics"]["accuracy"]
        gap = test["accuracy"] - accuracy
        beside = f"{best['name'].replace('_', ' ')}; the network's accuracy is {abs(gap):.4f} "
        beside += "higher" if gap > 0 else "lower"
        tiles.append({"name": "Best simple rule, accuracy", "value": f"{accuracy:.4f}", "beside": beside})
    if profile:
        rows = {split: each["rows"] for split, each in profile["splits"].items()}
        beside = f"{rows.get('train', 0):,} trained it, {rows.get('valid', 0):,} chose its best epoch"
        tiles.append({"name": "Test sequences", "value": f"{rows.get('test', 0):,}", "beside": beside})
    return tiles


def _against(verdict: Mapping[str, Any], percent: str) -> dict[str, str]:
    """The champion on the same rows."""
    name = SHOWN_METRICS.get(verdict["metric"], verdict["metric"])
    beside = ""
    if verdict.get("difference") is not None:
        beside = f"this model {verdict['difference']:+.4f}"
    if beside and verdict.get("low") is not None and verdict.get("high") is not None:
        beside += f", {percent} {verdict['low']:+.4f} to {verdict['high']:+.4f}"
    return {
        "name": f"Champion's {name}, same rows",
        "value": f"{verdict['champion_value']:.4f}",
        "beside": beside,
    }


def _confused(confusion: Sequence[Mapping[str, Any]]) -> str:
    """The most frequent confusions in words."""
    wrong = [each for each in confusion if each["truth"] != each["predicted"] and each["count"]]
    most = sorted(wrong, key=lambda each: -each["count"])[:MOST_TOLD]
    return ", ".join(f"{each['truth']} answered as {each['predicted']} ({each['count']:,})" for each in most)


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf8")) if path.exists() else None


def _state(stages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What a run without a verdict has come to."""
    for stage in stages:
        if stage["status"] == "failed":
            return "failed", f"The stage {stage['name']} failed: {stage.get('error', '')}"
    done = [stage["name"] for stage in stages if stage["status"] == "done"]
    return "unfinished", f"Done so far: {', '.join(done) or 'nothing'}. `recurra run` goes on from here."


def _training(history: Sequence[Mapping[str, Any]], summary: Mapping[str, Any] | None) -> str:
    if not history:
        return ""
    seconds = sum(entry["seconds"] for entry in history)
    rate = sorted(entry["steps_per_second"] for entry in history)[len(history) // 2]
    text = f"{len(history)} epochs in {seconds:.0f} s, {rate:,.0f} time steps per second (median)"
    text += f", {waiting_share(history):.1%} of the time waiting for input"
    if summary:
        text += f"; {summary['parameters']:,} parameters; epoch {summary['best_epoch']} was kept"
    kernel = history[-1].get("kernel")
    return f"{text}. Kernel: {kernel}." if kernel else f"{text}."


def _training_hint(history: Sequence[Mapping[str, Any]]) -> str:
    if waiting_share(history) <= MUCH_WAITING:
        return ""
    return (
        "Training waited for its batches: larger ones (train.batch_size) or faster CPU cores would help more "
        "than faster devices."
    )


def _worst(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    """One wrong answer: drawn, and told label by label."""
    per_step = task == "labelling"
    truth = row["truth"] if per_step else [row["truth"]]
    answers = row["labels"] if per_step else [row["label"]]
    probability = "" if per_step else f", probability {row['probability']:.3f}"
    wide = per_step and any(len(label) > 1 for label in [*truth, *answers])
    width = max((len(label) for label in [*truth, *answers]), default=1) + 1 if wide else 1
    return {
        "drawings": [
            Markup(charts.frames(each["values"], per_step=per_step, title=f"{each['column']} of {row['id']}"))
            for each in row["inputs"]
            if not _is_text(each)
        ],
        "texts": [" ".join(each["values"]) for each in row["inputs"] if _is_text(each)],
        "parts": [
            {
                "truth": one.ljust(width),
                "answer": other,
                "space": " " * (width - len(other)),
                "right": one == other,
            }
            for one, other in zip(truth, answers, strict=True)
        ],
        "name": (row["id"] or f"row {row['row']}") + probability,
        "loss": row["loss"],
    }


def _examples(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The behaviour examples: how many came out right, and those that did not."""
    if not found or not found["num"]:
        return None
    wrong = [behaviours.sentence(row) for row in found["rows"] if not row["right"]]
    return {"num": found["num"], "num_right": found["num_right"], "wrong": wrong}


def _slices(families: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The slices that are surely worse than all other rows, then all, family by family."""
    return {
        "flagged": [each["sentence"] for each in slices.flagged(families)],
        "looked_at": slices.looked_at(families),
        "families": [
            {"name": name, "rows": rows, "long": len(rows) > MOST_OPEN_SLICES}
            for name, rows in families.items()
        ],
    }


def _is_text(drawn: Mapping[str, Any]) -> bool:
    return bool(drawn["values"]) and isinstance(drawn["values"][0], str)


def _charts(
    metrics: Mapping[str, Any],
    details: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    profile: Mapping[str, Any] | None,
    baselines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    drawn = {name: "" for name in ("loss", "accuracy", "beside", "confusion", "reliability", "lengths")}
    features: list[str] = []
    if history:
        drawn |= _curves(history)
    if metrics:
        known = [("the network", metrics["test"])]
        known += [(each["name"].replace("_", " "), each["metrics"]) for each in baselines if each["metrics"]]
        rows = [
            (name, scores["accuracy"], scores.get("accuracy_low"), scores.get("accuracy_high"))
            for name, scores in known
            if scores["accuracy"] is not None
        ]
        drawn["beside"] = (
            charts.dots(rows, title="Accuracy of the network and of simple rules") if rows else ""
        )
    if details:
        labels = [each["label"] for each in details["per_class"]]
        if len(labels) <= MOST_CONFUSED:
            counts = {(each["truth"], each["predicted"]): each["count"] for each in details["confusion"]}
            counts |= {(each["label"], each["label"]): each["hits"] for each in details["per_class"]}
            drawn["confusion"] = charts.heat(labels, counts, title="Confusion matrix")
        drawn["reliability"] = charts.reliability(details["reliability"], title="Reliability curve")
    if profile:
        histogram = profile["splits"]["train"]["lengths"]["histogram"]
        title = "Training sequences by length"
        drawn["lengths"] = charts.bars(histogram["edges"], histogram["counts"], title=title, x_label="steps")
        features = list(_distributions(profile))
    return {**{name: Markup(chart) for name, chart in drawn.items()}, "features": list(map(Markup, features))}


def _distributions(profile: Mapping[str, Any]) -> Iterator[str]:
    """Histograms of the first few features of the numeric columns."""
    for each in profile["inputs"]:
        for number, feature in enumerate(each.get("features", ())[:NUM_DISTRIBUTIONS]):
            if histogram := feature.get("histogram"):
                name = each["column"] + (f" {number}" if each["num_features"] > 1 else "")
                yield charts.bars(
                    histogram["edges"], histogram["counts"], title=f"Training steps by {name}", x_label=name
                )


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    best = [entry["epoch"] for entry in history if entry["best"]]
    losses = {
        "training": [(entry["epoch"], entry["loss"]) for entry in history],
        "validation": [(entry["epoch"], entry["valid"]["loss"]) for entry in history],
    }
    names = [name for name in SHOWN_METRICS if name in history[0]["valid"] and name not in NOT_DRAWN]
    scores = {
        SHOWN_METRICS[name]: [
            (entry["epoch"], entry["valid"][name]) for entry in history if math.isfinite(entry["valid"][name])
        ]
        for name in names
    }
    scores = {name: points for name, points in scores.items() if points}
    options: dict[str, Any] = {"x_label": "epoch", "mark": best[-1] if best else None}
    return {
        "loss": charts.lines(losses, title="Loss by epoch", log=True, **options),
        "accuracy": charts.lines(scores, title="Validation scores by epoch", **options),
    }
