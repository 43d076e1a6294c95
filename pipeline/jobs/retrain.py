"""Why: what makes it worth training again; then the run.

    champion, files, earlier looks ─ look ─▶ no reason: skipped
                                        └──▶ reasons: run ─▶ promoted | kept | rejected

<storage>/<name>/retrain.jsonl   one line for every look: {"at", "sources", "watched", "drift", "scored",
                                 "live_score", "reasons", "notes", "verdict", "run_id", "slot"}

Rows that a run has already been made from are not new, whether its model became champion or not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from conf.schema import RetrainSettings, Settings
from pipeline.backends import journals, mirrors, workspace
from pipeline.backends.registry import Registry, Version
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.jobs.drift import drift, files_to_watch, sentences
from pipeline.jobs.live import files_to_score, live_score
from pipeline.jobs.live import sentence as of_score
from pipeline.outcomes import as_data
from pipeline.outcomes import show as show_run
from pipeline.run import Surroundings, data_digests, data_files, execute
from pipeline.stages.prepare import num_rows
from pipeline.stages.register import ROWS_TAG, SOURCES_TAG

SKIPPED = "skipped"
PATIENCE_SECONDS = 20.0


@dataclass
class Look:
    """What was found: reasons to train, and what is none and why."""

    champion: Version | None
    sources: str  # fingerprint of the files' content
    watched: str = ""  # the same of the files that were looked at for drift
    drift: bool | None = None  # None: not looked for
    shifts: dict[str, Any] | None = None  # what was found then, as `recurra drift --json` prints it
    scored: str = ""  # fingerprint of the files that the champion was scored on
    live_score: dict[str, Any] | None = None  # None: not looked at
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def retrain(
    settings: Settings,
    *,
    around: Surroundings,
    force: bool = False,
    dry_run: bool = False,
    slot: str = "",
) -> dict[str, Any]:
    """Run if there is a reason; what `--json` prints.

    Args:
        settings: what to train, and in `retrain` what makes a reason.
        around: where.
        force: run without a reason, too.
        dry_run: only say what would be done.
        slot: of a schedule, for the journal.

    Raises:
        DataError: the files are at fault.
        TrackerError: the registry cannot be asked.
    """
    journal = around.storage / settings.name / journals.LOOKS
    found = look(settings, around=around, journal=mirrors.read(journal))
    if force and not found.reasons:
        found.reasons.append("It was asked for with --force.")
    if dry_run or not found.reasons:
        verdict = "would run" if found.reasons else SKIPPED
        if not dry_run:
            _enter(journal, found, verdict=SKIPPED, run_id=None, slot=slot)
        return _without_run(found, verdict)
    for reason in found.reasons:
        around.console.note(f"retrain: {reason}")
    why = {
        "reasons": found.reasons,
        "notes": found.notes,
        "drift": found.shifts,
        "live_score": found.live_score,
    }
    outcome = as_data(execute(settings, until="register", around=replace(around, why=why)))
    _enter(journal, found, verdict=outcome["verdict"], run_id=outcome["run_id"], slot=slot)
    return {**outcome, "why": found.reasons, "live_score": found.live_score}


def look(settings: Settings, *, around: Surroundings, journal: Sequence[Mapping[str, Any]]) -> Look:
    """Every reason to train now."""
    registry = Registry(Store(around.tracking_uri, patience=PATIENCE_SECONDS))
    champion = None
    if not registry.store.is_empty:
        champion = registry.by_alias(settings.name, settings.registration.alias)
    sources = workspace.fingerprint(data_digests(settings, storage=around.storage))
    found = Look(champion, sources)
    if champion is None:
        found.reasons.append(f"There is no {settings.registration.alias} yet.")
        return found
    runs = [entry for entry in journal if entry.get("run_id")]
    rows: Callable[[], int] = lambda: num_rows(settings, console=around.console)  # noqa: E731
    _new_rows(found, champion, runs, settings, rows=rows)
    _age(found, champion, runs, settings.retrain)
    if settings.retrain.drift is not None:
        _drift(found, champion, journal, settings, registry=registry, storage=around.storage)
    if settings.retrain.live_score is not None:
        _live_score(found, champion, runs, settings, registry=registry, around=around)
    return found


def _new_rows(
    found: Look,
    champion: Version,
    runs: Sequence[Mapping[str, Any]],
    settings: Settings,
    *,
    rows: Callable[[], int],
) -> None:
    rules = settings.retrain
    if champion.tags.get(SOURCES_TAG) == found.sources:
        found.notes.append(f"The files are those that version {champion.number} was made from.")
        return
    made = next((entry for entry in reversed(runs) if entry["sources"] == found.sources), None)
    if made is not None:
        found.notes.append(f"Run {made['run_id']} was made from these very files, and {made['verdict']}.")
        return
    if (quiet := _seconds_since_change(settings)) is not None and quiet < rules.settle_seconds:
        found.notes.append(
            f"The files changed {quiet:.0f} s ago; they count once nothing changes for "
            f"{rules.settle_seconds:g} s."
        )
        return
    known = champion.tags.get(ROWS_TAG)
    if known is None:
        found.reasons.append(f"It is not known from which files version {champion.number} was made.")
        return
    now, then = rows(), int(known)
    told = f"{now:,} rows now, {then:,} when version {champion.number} was made"
    if now - then < rules.min_rows:
        found.notes.append(
            f"The files changed, but {rules.min_rows:,} rows more make a reason, and there are {told}."
        )
    else:
        found.reasons.append(f"The files changed: {told}.")


def _seconds_since_change(settings: Settings) -> float | None:
    """Since the latest change of a file of this machine; None where there is none."""
    times = [Path(file.path).stat().st_mtime for file in data_files(settings) if not file.is_remote]
    return time.time() - max(times) if times else None


def _age(found: Look, champion: Version, runs: Sequence[Mapping[str, Any]], rules: RetrainSettings) -> None:
    if rules.max_age_days is None:
        return
    # A run whose model was not better shows that age alone is no fault.
    days = min(_days_since(at) for at in [champion.created, *(entry["at"] for entry in runs)])
    told = f"{days:.1f} days since version {champion.number} or the last attempt at a better one"
    if days > rules.max_age_days:
        found.reasons.append(f"It is {told}, and {rules.max_age_days:g} are allowed.")
    else:
        found.notes.append(f"It is {told}.")


def _drift(
    found: Look,
    champion: Version,
    journal: Sequence[Mapping[str, Any]],
    settings: Settings,
    *,
    registry: Registry,
    storage: Path,
) -> None:
    rules = settings.retrain.drift
    assert rules is not None
    files = files_to_watch(settings, champion, storage=storage)
    if not files:
        if champion.tags.get(SOURCES_TAG) != found.sources:
            found.notes.append(f"There are no files that version {champion.number} was not made from.")
        return
    digests = workspace.file_digests(files, cache=storage / settings.name / ".digests.json")
    found.watched = workspace.fingerprint(digests)
    seen = found.shifts = drift(settings, files, version=champion, registry=registry)
    found.drift = seen["drift"]
    if not found.drift:
        found.notes.append(f"No drift in {seen['rows']:,} rows.")
        return
    told = f"{seen['rows']:,} rows differ from those of training. {' '.join(sentences(seen))}"
    runs = [entry for entry in journal if entry.get("run_id")]
    earlier = list(takewhile(lambda entry: entry.get("drift"), reversed(journal)))
    made = next((entry for entry in reversed(runs) if entry.get("watched") == found.watched), None)
    if made is not None:
        found.notes.append(f"Run {made['run_id']} was made with these rows at hand. {told}")
    elif len(earlier) + 1 < rules.sustained:
        looks = f"{len(earlier) + 1} of {rules.sustained} looks in a row"
        found.notes.append(f"Drift at {looks}: {told}")
    elif runs and (days := _days_since(runs[-1]["at"])) < rules.cooldown_days:
        rest = f"{days:.1f} of {rules.cooldown_days:g} days since the last attempt"
        found.notes.append(f"Drift, but it is {rest}: {told}")
    else:
        found.reasons.append(f"Drift: {told}")


def _live_score(
    found: Look,
    champion: Version,
    runs: Sequence[Mapping[str, Any]],
    settings: Settings,
    *,
    registry: Registry,
    around: Surroundings,
) -> None:
    rules = settings.retrain.live_score
    assert rules is not None
    if rules.path is None and champion.tags.get(SOURCES_TAG) == found.sources:
        return  # that there are no new rows is said already
    files = files_to_score(settings)
    digests = workspace.file_digests(files, cache=around.storage / settings.name / ".digests.json")
    found.scored = workspace.fingerprint(digests)
    made = next((entry for entry in reversed(runs) if entry.get("scored") == found.scored), None)
    if made is not None:
        found.notes.append(f"Run {made['run_id']} was made with the rows of the live score at hand.")
        return
    seen = found.live_score = live_score(
        settings, version=champion, registry=registry, storage=around.storage, console=around.console
    )
    if seen["value"] is None:
        found.notes.append(
            f"The live score needs {rules.min_rows:,} labelled rows that version {champion.number} was not "
            f"made from, and there are {seen['rows']:,}."
        )
    elif not seen["fell"]:
        found.notes.append(f"The live score holds: {of_score(seen)}.")
    elif runs and (days := _days_since(runs[-1]["at"])) < rules.cooldown_days:
        rest = f"{days:.1f} of {rules.cooldown_days:g} days since the last attempt"
        found.notes.append(f"The live score fell, but it is {rest}: {of_score(seen)}.")
    else:
        found.reasons.append(f"The live score fell: {of_score(seen)}.")


def _days_since(iso: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(iso)) / timedelta(days=1)


def _enter(journal: Path, found: Look, *, verdict: str, run_id: str | None, slot: str) -> None:
    mirrors.append(
        journal,
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": found.sources,
            "watched": found.watched,
            "drift": found.drift,
            "scored": found.scored,
            "live_score": None if found.live_score is None else found.live_score["value"],
            "reasons": found.reasons,
            "notes": found.notes,
            "verdict": verdict,
            "run_id": run_id,
            "slot": slot,
        },
    )


def _without_run(found: Look, verdict: str) -> dict[str, Any]:
    champion = found.champion
    model = None
    if champion is not None:
        model = {
            "name": champion.name,
            "version": champion.number,
            "aliases": list(champion.aliases),
            "uri": champion.uri,
        }
    return {
        "run_id": None,
        "run_dir": None,
        "verdict": verdict,
        "reasons": found.reasons or found.notes,
        "notes": found.notes,
        "metrics": {},
        "live_score": found.live_score,
        "model": model,
        "report": None,
        "mlflow_run_id": None,
        "stages": [],
    }


def show(outcome: Mapping[str, Any], *, console: Console) -> None:
    """The end of a look: what a run ends with, or why there was none."""
    if outcome["run_id"] is not None:
        show_run(outcome, console=console)
        return
    model, is_skipped = outcome["model"], outcome["verdict"] == SKIPPED
    of = f": {model['name']} version {model['version']} stays" if model and is_skipped else ""
    told = outcome["reasons"] if is_skipped else [*outcome["reasons"], *outcome["notes"]]
    lines = [f"{outcome['verdict']}{of}", *(f"  {sentence}" for sentence in told)]
    console.result("\n".join(lines), outcome)
