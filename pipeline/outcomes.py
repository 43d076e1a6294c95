"""What came of a run, as JSON and as text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import ModelError
from components.evaluation import verdicts
from pipeline.backends import mirrors, workspace
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console, with_interval
from pipeline.run import Outcome
from pipeline.stages.register import VERDICT
from pipeline.stages.tune import BEST_SETTINGS

SHOWN_METRICS = ("accuracy", "sequence_accuracy", "macro_f1", "span_f1", "loss", "ece")


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The object that `--json` prints."""
    folder = outcome.folder
    registered = folder.summary("register") or {}
    evaluated = folder.summary("evaluate") or {}
    return {
        "run_id": folder.run_id,
        "run_dir": str(folder.path),
        "verdict": registered.get("verdict"),
        "reasons": registered.get("reasons", []),
        "metrics": evaluated.get("metrics", {}),
        "gate": _gate(folder) if registered else None,
        "model": registered.get("model"),
        **_search(folder),
        "report": str(folder.report) if folder.report.exists() else None,
        "mlflow_run_id": folder.read().get("mlflow_run_id"),
        "stages": [
            {"name": stage.name, "status": stage.status, "seconds": stage.seconds, "reason": stage.reason}
            for stage in outcome.stages
        ],
    }


def _gate(folder: RunFolder) -> dict[str, Any] | None:
    """The whole verdict: its rules, its notes, and what to do about it."""
    path = folder.evaluation / VERDICT
    return json.loads(path.read_text("utf8")) if path.exists() else None


def _search(folder: RunFolder) -> dict[str, Any]:
    """Where there was a search over settings: what it found, and the file of settings to run."""
    found = folder.summary("tune")
    return {} if found is None else {"search": {**found, "settings": str(folder.tune / BEST_SETTINGS)}}


def show(outcome: Mapping[str, Any], *, console: Console) -> None:
    """The summary that ends a run: stages, scores, verdict, and what to do next."""
    rows = [
        [stage["name"], stage["status"], f"{stage['seconds']:.1f} s", stage["reason"]]
        for stage in outcome["stages"]
    ]
    console.table("", ["stage", "", "took", "because"], rows, err=True)
    gate = outcome["gate"] or {}
    if (rules := verdicts.rows(gate)) and not console.as_json:
        console.table("", list(verdicts.HEADER), rules)
    console.result("\n".join(_lines(outcome)), outcome)
    if gate.get("hint"):
        console.note(f"Hint: {gate['hint']}")
    for command in _next(outcome):
        console.note(f"Next: {command}")


def _lines(outcome: Mapping[str, Any]) -> list[str]:
    lines = _found(outcome["search"]) if "search" in outcome else []
    for split, metrics in outcome["metrics"].items():
        scores = [with_interval(name, metrics) for name in SHOWN_METRICS if metrics.get(name) is not None]
        lines.append(f"{split}: {', '.join(scores)}")
    if outcome["verdict"]:
        model = outcome["model"]
        where = f": {model['name']} version {model['version']}" if model else ""
        aliases = (
            f", {' and '.join('@' + alias for alias in model['aliases'])}"
            if model and model["aliases"]
            else ""
        )
        gate = outcome["gate"] or {}
        overridden = f" (the gate: {gate['gate_decision']})" if gate.get("overridden") else ""
        lines.append(f"{outcome['verdict']}{overridden}{where}{aliases}")
        lines += [f"  {sentence}" for sentence in (*outcome["reasons"], *gate.get("notes", ()))]
    if outcome["report"]:
        lines.append(f"report: {outcome['report']}")
    return lines


def _found(search: Mapping[str, Any]) -> list[str]:
    """The best trial, what luck had to do with it, and what became of the others."""
    counts = ", ".join(f"{count} {state}" for state, count in search["trials"].items())
    best = f"{search['metric']} {search['value']:.4f} at epoch {search['best_epoch']}"
    lines = [f"best: trial {search['best']} of {sum(search['trials'].values())} ({counts}): {best}"]
    lines += [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in search["point"].items()]
    values = [search["value"], *(value for value in search["seeds"] if value is not None)]
    if len(values) > 1:
        lines.append(f"  with {len(values)} seeds {min(values):.4f} to {max(values):.4f}")
    return [*lines, f"settings: {search['settings']}"]


def _next(outcome: Mapping[str, Any]) -> list[str]:
    commands = []
    if outcome["report"]:
        commands.append(f"recurra report {outcome['run_id']} --open")
    if outcome["model"]:
        commands.append(f"recurra predict {outcome['model']['uri']} DATA -o predictions.parquet")
    return commands


def find_report(run: str, *, storage: Path) -> Path:
    """The report of a run folder, a run id, or the newest run of a model's name.

    Raises:
        ModelError: there is no such run, or it has no report yet.
        StorageError: the runs are in an object store, which cannot be read.
    """
    place: Path | str = storage
    if (mirror := mirrors.of(storage)) is not None:
        mirror.refresh_all()
        place = mirror.url
    candidates = [Path(run), *storage.glob(f"*/{run}")]
    candidates += [folder.path for folder in workspace.runs(storage, run)] if Path(run).name == run else []
    for path in candidates:
        if (path / workspace.RUN).exists():
            folder = RunFolder(path.absolute())
            folder.bring("report.html")
            report = folder.report
            if report.exists():
                return report
            raise ModelError(
                f"Run {path.name} has no report yet.", hint="`recurra run` writes it at its end."
            )
    raise ModelError(f"There is no run {run!r} in {place}.", hint="Give a run folder, a run id or a name.")
