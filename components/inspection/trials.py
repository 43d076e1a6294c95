"""Proposed settings tried on all rows, and changed until these pass.

propose ─▶ audit ─ refused ─▶ leave bad rows out ─▶ hold more rows out ─▶ another seed ─▶ refuse
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from components.data import intake, readers
from components.data.audits import Audit, audit
from components.data.preparation import scan_part
from components.data.readers.paths import File
from components.data.records import Layout, check_agreement, check_schema
from components.errors import DataError
from components.inspection.holdouts import LARGE_SHARE
from components.inspection.proposals import NO_BAD_ROW, Proposal
from conf.schema import Settings

MAX_TRIALS = 40
FEW_ROWS = 1000  # of more rows, no split is empty by chance


def settle(proposal: Proposal, files: Sequence[File], *, scratch: str) -> Proposal:
    """The proposal, or one like it whose settings no row contradicts.

    Raises:
        DataError: nothing that was tried passes, with what the first trial was refused for.
    """
    refusals: list[DataError] = []
    if strict := _without_fear(proposal):
        with suppress(DataError), tempfile.TemporaryDirectory(dir=scratch) as folder:
            _pass(strict, files, scratch=folder)
            return strict
    for _ in range(MAX_TRIALS):
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                _pass(proposal, files, scratch=folder)
                return proposal
        except DataError as error:
            refusals.append(error)
        changed = _changed(proposal, refusals[-1])
        if changed is None:
            break
        proposal = changed
    first = refusals[0]
    raise DataError(
        "No settings were found that these rows allow. " + first.message,
        problems=first.problems,
        hint="Add rows, or write the settings by hand: see docs/guides/your_own_data.md.",
    )


def _pass(proposal: Proposal, files: Sequence[File], *, scratch: str) -> Audit:
    """What `check` does with the data."""
    data = {**proposal.settings["data"], "path": [file.path for file in files]}
    settings = Settings.model_validate({**proposal.settings, "data": data})
    layout = Layout.of(settings)
    sources = intake.open_sources(
        files, intake.Reading.of(settings, layout), run=intake.Here, scratch=scratch
    )
    problems = [each for source in sources for each in check_schema(source.schema, layout, file=source.name)]
    problems = problems or check_agreement([(source.name, source.schema) for source in sources], layout)
    intake.refuse(problems)
    scans = [scan_part(part, layout=layout, scratch=scratch) for part in readers.parts(sources)]
    return audit(scans, layout=layout, settings=settings)


def _without_fear(proposal: Proposal) -> Proposal | None:
    """With `on_bad_row: fail`, where rows would be left out for what may happen, not for what was seen."""
    data = proposal.settings["data"]
    if data["on_bad_row"] == "fail" or proposal.findings.num_bad:
        return None
    settings = {**proposal.settings, "data": {**data, "on_bad_row": "fail"}}
    return replace(proposal, settings=settings, reasons={**proposal.reasons, "data.on_bad_row": [NO_BAD_ROW]})


def _changed(proposal: Proposal, refused: DataError) -> Proposal | None:
    """The next proposal to try."""
    data: dict[str, Any] = dict(proposal.settings["data"])
    split = dict(data["split"])
    reasons = dict(proposal.reasons)
    if data["on_bad_row"] == "fail" and any(each.row is not None or each.line for each in refused.problems):
        data["on_bad_row"] = "drop"
        first = str(refused.problems[0])
        reasons["data.on_bad_row"] = [f"Rows are left out, counted, and kept in rejected.parquet: {first}."]
    elif split.get("by") == "stratified" and any("stratified" in each.message for each in refused.problems):
        split = {"by": "hash", "valid": split["valid"], "test": split["test"]}
        reasons["data.split"] = [
            "A row's place follows from its content; some classes are too small to stratify."
        ]
    elif len(proposal.findings.bad) > FEW_ROWS:
        return None
    elif isinstance(split.get("valid"), float) and split["valid"] < LARGE_SHARE:
        split |= {key: LARGE_SHARE for key in ("valid", "test") if isinstance(split[key], float)}
    elif isinstance(split.get("valid"), float):
        split["seed"] = split.get("seed", 0) + 1
    else:
        return None
    if split.get("valid") != data["split"].get("valid") or split.get("seed") != data["split"].get("seed"):
        first, *_ = reasons["data.split"]
        reasons["data.split"] = [first, "Shares and seed are such that every split has rows."]
    settings = {**proposal.settings, "data": {**data, "split": split}}
    return replace(proposal, settings=settings, reasons=reasons)
