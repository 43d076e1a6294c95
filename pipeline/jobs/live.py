"""The champion on labelled rows that came after it, beside the score it was registered with.

version ─ bundle, registered score ─┐
files ─ those rows that are new ────┴─ score, in a process of its own ─▶ has it fallen?
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from components.data.readers import File, expand
from components.errors import ClusterError, DataError
from components.evaluation.live_scores import Fresh, Live, fresh, score
from conf.schema import LiveScoreSettings, Settings
from pipeline.backends import workspace
from pipeline.backends.registry import RUN_TAG, Registry, Version
from pipeline.console import Console
from pipeline.run import data_files
from pipeline.stages.judging import METRICS_TAG


def files_to_score(settings: Settings) -> list[File]:
    """Those named for the live score, or else the files of the data.

    Raises:
        DataError: they are not there.
    """
    rules = settings.retrain.live_score
    if rules is None or rules.path is None:
        return data_files(settings)
    paths = [rules.path] if isinstance(rules.path, str) else list(rules.path)
    try:
        return expand(paths, settings.data.format)
    except DataError as error:
        hint = "See retrain.live_score.path."
        raise DataError(error.message, problems=error.problems, hint=hint) from error


def live_score(
    settings: Settings, *, version: Version, registry: Registry, storage: Path, console: Console
) -> dict[str, Any]:
    """What the version scores on rows that it was not made from, as `--json` prints it.

    `fell` is true where the score lies below the interval of the registered figure by more than the margin,
    and the figure above the interval of the score: then neither is explained by chance. `value` is None where
    there are too few new rows.

    Raises:
        DataError: files that cannot be read, or that lack a column.
        ModelError: the version's files are gone.
        ClusterError: the process that scores was lost.
    """
    rules = settings.retrain.live_score or LiveScoreSettings()
    files = files_to_score(settings)
    known = _rows_of(version, settings, storage=storage)
    rows = fresh(files, settings, known=known)
    registered = json.loads(version.tags.get(METRICS_TAG) or "{}")
    then, low = registered.get(rules.metric), registered.get(f"{rules.metric}_low")
    found: dict[str, Any] = {
        "model": version.uri,
        "metric": rules.metric,
        "rows": rows.num_new,
        "bad_rows": rows.num_bad,
        "own_rows_left_out": known is not None,
        "registered": then,
        "registered_low": low,
        "registered_high": registered.get(f"{rules.metric}_high"),
        "value": None,
        "low": None,
        "high": None,
        "fell": False,
    }
    if rows.num_new < rules.min_rows:
        return found
    console.note(f"Scoring {rows.num_new:,} new rows with {version.uri}")
    with registry.fetch(version) as bundle:
        now = _apart(files, settings, rows, bundle=bundle, metric=rules.metric)
    found |= {"rows": now.num_rows, "value": now.value, "low": now.low, "high": now.high}
    if now.value is not None and then is not None:
        floor = (then if low is None else low) - rules.margin
        found["fell"] = now.value < floor and (now.high is None or now.high < then)
    return found


def _rows_of(version: Version, settings: Settings, *, storage: Path) -> Path | None:
    """What the version was trained, chosen and tested with, if its run is in the storage."""
    run_id = version.tags.get(RUN_TAG, "")
    for folder in workspace.runs(storage, settings.name):
        if folder.run_id == run_id:
            folder.bring("data", "tune/data")
            return folder.data if folder.data.exists() else None
    return None


def _apart(files: list[File], settings: Settings, rows: Fresh, *, bundle: Path, metric: str) -> Live:
    """Score in a process of its own, so that no device of this one is held while the next model trains.

    Raises:
        ClusterError: the process was lost.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet) as process:
        try:
            return process.submit(score, files, settings, rows, bundle=bundle, metric=metric).result()
        except BrokenProcessPool as error:
            raise ClusterError(
                "The process that scored the champion on new rows was lost.",
                hint="Was there too little memory? Try again, or name fewer rows in retrain.live_score.path.",
            ) from error


def _quiet() -> None:
    """Keep what TensorFlow says of the machine from the terminal; a failure comes back as an error."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def sentence(found: dict[str, Any]) -> str:
    """The score now and then, in words."""
    where = f"on {found['rows']:,} new rows" if found["own_rows_left_out"] else f"on {found['rows']:,} rows"
    then = _figure(found["registered"], found["registered_low"], found["registered_high"])
    told = f"{found['model']} scores {found['metric']} {_figure(found['value'], found['low'], found['high'])}"
    told += f" {where}, and scored {then} when it was registered"
    return told if found["own_rows_left_out"] else f"{told}; its own rows may be among them"


def _figure(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "an unknown figure"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} to {high:.4f})"
