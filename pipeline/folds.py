"""k-fold cross-validation: each fold an ordinary run up to its evaluation, and what they say together.

settings ─ folds_of ─▶ the same settings once for each fold, with a split of its own
                         │ run, or reuse, until evaluate
                         ▼
<storage>/<name>/<run_id>/ ...         one run folder each
                         │ summarise
                         ▼
<storage>/<name>/folds/<key>.json      {"folds": [...], "mean", "std", "min", "max": {metric: value}}
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from components.data import readers
from components.data.columns import texts
from components.data.intake import Here, Reading, open_sources, refuse
from components.data.labels import in_order
from components.data.readers.sources import TEXT
from components.data.records import Layout, check_schema
from components.errors import NUM_SHOWN, RecurraError, StorageError
from conf.load import Problem, SettingsError
from conf.schema import MAX_FOLDS, ColumnSplit, FractionSplit, Settings
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.run import Surroundings, execute

BASELINE = "baseline_accuracy"
BOUNDS, COUNT = ("_low", "_high"), "num_"
# The deviation is that of these folds, divided by their number.
STATISTICS: Mapping[str, Callable[..., Any]] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}


@dataclass(frozen=True)
class Fold:
    """One fold: its number from 0, or the value of the split's column; and the settings that hold it out."""

    name: int | str
    settings: Settings


def run_folds(settings: Settings, num_folds: int, *, around: Surroundings) -> dict[str, Any]:
    """Run or reuse every fold; the object that `--json` prints.

    Raises:
        SettingsError: the rows cannot be cut into so many folds.
        RecurraError: what a fold raised, with its place; those after it have not run.
    """
    folds = folds_of(settings, num_folds)
    places = [
        f"Fold {number} of {num_folds}, with {fold.name} as test" for number, fold in enumerate(folds, 1)
    ]
    folders = [_run(fold, place, around) for fold, place in zip(folds, places, strict=True)]
    each = [_as_data(fold, folder) for fold, folder in zip(folds, folders, strict=True)]
    found = {"folds": each, **summarise(each)}
    return {**found, "report": str(_write(found, folders))}


def _run(fold: Fold, place: str, around: Surroundings) -> RunFolder:
    around.console.note(place)
    try:
        return execute(fold.settings, until="evaluate", around=around).folder
    except RecurraError as error:
        error.message = f"{place}: {error.message}"
        raise


def folds_of(settings: Settings, num_folds: int) -> list[Fold]:
    """The settings of each fold.

    Raises:
        SettingsError: the split has no folds, or not so many.
    """
    split = settings.data.split
    splits: Mapping[int | str, ColumnSplit | FractionSplit]
    if isinstance(split, ColumnSplit):
        splits = _by_value(split, column_values(settings, split.column), num_folds)
    elif isinstance(split, FractionSplit) and split.by != "stratified":
        values = split.model_dump()
        splits = {
            fold: FractionSplit.model_validate({**values, "folds": num_folds, "fold": fold})
            for fold in range(num_folds)
        }
    else:
        hint = "use by: hash, by: group, or a column that names the folds"
        raise _refused(num_folds, f"a split by: {split.by} has no folds", hint)
    return [
        Fold(name, settings.model_copy(update={"data": settings.data.model_copy(update={"split": each})}))
        for name, each in splits.items()
    ]


def _by_value(
    split: ColumnSplit, found: Sequence[str], num_folds: int
) -> Mapping[int | str, ColumnSplit | FractionSplit]:
    """A split for each value of the column; where values choose the epoch, it is those next in turn."""
    if len(found) != num_folds:
        count = f"more than {MAX_FOLDS}" if len(found) > MAX_FOLDS else str(len(found))
        shown = ", ".join(found[:NUM_SHOWN]) + (" ..." if len(found) > NUM_SHOWN else "")
        message = f"the folds are the values of column {split.column}, which has {count}: {shown or 'none'}"
        hint = f"give --folds {count}" if 2 <= len(found) <= MAX_FOLDS else "or use by: hash, or by: group"
        raise _refused(num_folds, message, hint)
    num_valid = len(split.valid) if isinstance(split.valid, tuple) else 0
    if num_valid + 1 >= num_folds:
        message = (
            f"one of {num_folds} values tests and {num_valid} choose the epoch, so none is left to train"
        )
        raise _refused(num_folds, message, "give data.split.valid as a share, such as 0.1")
    values = [_as_written(text) for text in found]
    return {
        value: ColumnSplit.model_validate(
            {
                **split.model_dump(),
                "test": (value,),
                "valid": tuple((values + values)[at + 1 : at + 1 + num_valid]) if num_valid else split.valid,
            }
        )
        for at, value in enumerate(values)
    }


def column_values(settings: Settings, column: str) -> tuple[str, ...]:
    """The values of a column in order, no other column being read; of very many only some.

    Raises:
        DataError: files cannot be read, or lack the column.
    """
    data = settings.data
    files = readers.expand([data.path] if isinstance(data.path, str) else list(data.path), data.format)
    # A row for each sequence or for each step, the values are the same.
    reading = Reading(data.format, data.columns, {column: TEXT})
    layout = Layout(id=None, fields=(), target=column, split=column, per_step=False)
    values: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        sources = open_sources(files, reading, run=Here, scratch=scratch)
        refuse([each for source in sources for each in check_schema(source.schema, layout, file=source.name)])
        for part in readers.parts(sources):
            for batch in readers.scan(part, [column]):
                values.update(pc.unique(texts(batch.column(column))).drop_null().to_pylist())
                if len(values) > MAX_FOLDS:
                    return in_order(values)
    return in_order(values)


def _as_written(text: str) -> int | str:
    """As somebody would write it in the settings, so that a fold run by hand is the same run."""
    return int(text) if text.isdecimal() and len(text) < 19 and str(int(text)) == text else text


def _refused(num_folds: int, message: str, hint: str) -> SettingsError:
    return SettingsError([Problem(f"--folds {num_folds}", "data.split", message, hint)])


def _as_data(fold: Fold, folder: RunFolder) -> dict[str, Any]:
    prepared, evaluated = folder.summary("prepare") or {}, folder.summary("evaluate") or {}
    known = [(score, name) for name, score in evaluated["baselines"].items() if score is not None]
    return {
        "fold": fold.name,
        "run_id": folder.run_id,
        "run_dir": str(folder.path),
        "rows": prepared["rows"],
        "metrics": evaluated["metrics"],
        "baseline": {"name": max(known)[1], "accuracy": max(known)[0]} if known else None,
    }


def summarise(folds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean, standard deviation and range over the folds of each metric; None where a fold has no value."""
    scores = [scores_of(fold) for fold in folds]
    columns = {name: [each[name] for each in scores] for name in scores[0]}
    return {
        statistic: {
            name: None if any(value is None for value in values) else float(function(values))
            for name, values in columns.items()
        }
        for statistic, function in STATISTICS.items()
    }


def scores_of(fold: Mapping[str, Any]) -> dict[str, float | None]:
    """A fold's scores on its test rows, and that of the best baseline."""
    own = {
        name: value
        for name, value in fold["metrics"]["test"].items()
        if not name.endswith(BOUNDS) and not name.startswith(COUNT)
    }
    return {**own, BASELINE: fold["baseline"]["accuracy"] if fold["baseline"] else None}


def _write(found: Mapping[str, Any], folders: Sequence[RunFolder]) -> Path:
    """Write the summary; its name follows from what the folds followed from."""
    key = workspace.fingerprint([folder.stage("evaluate")["key"] for folder in folders])
    path = folders[0].storage / "folds" / f"{key[:16]}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        workspace.write_json(path, found)
        workspace.keep(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """A line for each fold, then what they say together."""
    names = list(found["mean"])
    rows = [
        [fold["fold"], fold["run_id"], f"{fold['rows']['test']:,}", *map(_shown, scores_of(fold).values())]
        for fold in found["folds"]
    ]
    rows += [[name, "", "", *(_shown(found[name][metric]) for metric in names)] for name in STATISTICS]
    if not console.as_json:
        # Underneath each other, so that a terminal of 100 columns has room for all.
        headings = [name.replace("_", "\n") for name in names]
        console.table("", ["fold", "run", "rows", *headings], rows)
    console.result(f"folds: {found['report']}", found)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
