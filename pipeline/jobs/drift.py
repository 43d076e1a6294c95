"""New files against the rows that the champion was trained on.

version ─ profile.json, encoding.json ─┐
files ─────────────────────────────────┴─ watch, compare ─▶ shifts, those that count first
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data.readers import File, expand
from components.errors import DataError, ModelError, StorageError
from components.evaluation.drift import Limits, compare
from components.evaluation.watching import watch
from components.served.encoding import Encoding
from conf.schema import DriftSettings, Settings
from pipeline import drift_report
from pipeline.backends import workspace
from pipeline.backends.registry import RUN_TAG, Registry, Version
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.run import data_files

PROFILE, ENCODING = "profile.json", "artifacts/bundle/encoding.json"
MOST_SHOWN = 20
PATIENCE_SECONDS = 20.0


def look(settings: Settings, data: Sequence[str], *, storage: Path, tracking_uri: str) -> dict[str, Any]:
    """The champion's training rows against these files, or against the new ones of the data.

    Raises:
        ModelError: there is no champion.
        DataError: there are no files.
    """
    registry = Registry(Store(tracking_uri, patience=PATIENCE_SECONDS))
    version = registry.resolve(f"models:/{settings.name}@{settings.registration.alias}")
    if data:
        files = expand(list(data), settings.data.format)
    elif not (files := files_to_watch(settings, version, storage=storage)):
        raise DataError(
            f"Every file of the data is one that {version.uri} was made from.",
            hint="Name new ones after the settings file.",
        )
    return drift(settings, files, version=version, registry=registry)


def files_to_watch(settings: Settings, champion: Version, *, storage: Path) -> list[File]:
    """Those named for drift, or those of the data that the champion was not made from, as far as is known."""
    rules = settings.retrain.drift
    if rules is not None and rules.path is not None:
        paths = [rules.path] if isinstance(rules.path, str) else list(rules.path)
        return expand(paths, settings.data.format)
    files = data_files(settings)
    run_id = champion.tags.get(RUN_TAG, "")
    made = (each for each in workspace.runs(storage, settings.name) if each.run_id == run_id)
    if (folder := next(made, None)) is None:
        return files
    known = set(folder.stage("prepare").get("inputs", {}).get("data", {}).values())
    digests = workspace.file_digests(files, cache=storage / settings.name / ".digests.json")
    return [file for file in files if digests[file.shown] not in known]


def drift(
    settings: Settings, files: Sequence[File], *, version: Version, registry: Registry
) -> dict[str, Any]:
    """What differs, as `--json` prints it.

    Args:
        settings: what a row is, and in `retrain.drift` from when on a shift counts.
        files: the new ones; labels are compared where they have them.
        version: of the model whose training rows are compared with.
        registry: where its files lie.

    Raises:
        DataError: files that cannot be read, or that hold no good row.
        ModelError: the version does not say what its rows were like.
    """
    profile, encoding = (_read(registry, version, file) for file in (PROFILE, ENCODING))
    limits = settings.retrain.drift or DriftSettings()
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        found = watch(
            files, settings, encoding=Encoding.from_json(encoding), profile=profile, scratch=scratch
        )
    shifts = compare(
        profile,
        found.seen,
        Limits(
            psi=limits.psi,
            ks=limits.ks,
            labels=limits.labels,
            lengths=limits.lengths,
            unknown=limits.unknown,
        ),
    )
    return {
        "model": version.uri,
        "files": [file.shown for file in files],
        "rows": found.seen.num_rows,
        "bad_rows": found.num_bad,
        "trained_on": profile["splits"]["train"]["rows"],
        "drift": any(shift.counts for shift in shifts),
        "shifts": [shift.to_json() for shift in shifts],
    }


def _read(registry: Registry, version: Version, file: str) -> dict[str, Any]:
    text = registry.read(version, file)
    if text is None:
        raise ModelError(
            f"{version.uri} does not say what its training rows were like: it has no {file}.",
            hint="Versions that this release registers do; `recurra retrain --force` makes one.",
        )
    return json.loads(text)


def sentences(found: Mapping[str, Any], *, most: int = 3) -> list[str]:
    """The shifts that count, in words."""
    told = [shift["sentence"] for shift in found["shifts"] if shift["counts"]]
    more = [f"and {len(told) - most} more shifts."] if len(told) > most else []
    return [*told[:most], *more]


def write_report(found: Mapping[str, Any], path: Path) -> Path:
    """The same as a page of its own; gives back its path.

    Raises:
        StorageError: the page cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return drift_report.write(found, path.absolute())
    except OSError as error:
        raise StorageError(
            f"The page {path} cannot be written: {error.strerror or error}.",
            hint="Name another file with --report.",
        ) from error


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """A table of the largest shifts, and the answer in one line."""
    if not console.as_json:
        rows = [
            [
                each["name"],
                each["measure"],
                f"{each['value']:.3f}",
                "-" if each["limit"] is None else f"{each['limit']:g}",
                f"{each['by_chance']:.3f}",
                "drift" if each["counts"] else "",
            ]
            for each in found["shifts"][:MOST_SHOWN]
        ]
        console.table("", ["what", "measure", "value", "limit", "by chance", ""], rows)
        if (left := len(found["shifts"]) - MOST_SHOWN) > 0:
            console.note(f"and {left} more, all of them with --json")
    if found["bad_rows"]:
        console.warn(f"{found['bad_rows']:,} rows are bad and were left out; `recurra check` names them.")
    counted = sum(each["counts"] for each in found["shifts"])
    told = f"{counted} of {len(found['shifts'])} measures say drift" if counted else "No drift"
    console.result(
        f"{told}: {found['rows']:,} rows against the {found['trained_on']:,} of {found['model']}", found
    )
    if "report" in found and not console.as_json:
        console.result(f"report: {found['report']}")
