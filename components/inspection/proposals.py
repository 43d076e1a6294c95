"""Settings that run as they are, from what was found, with the reason for each choice.

roles ─ findings ─▶ split ─▶ on_bad_row ─▶ Proposal: settings by key, sentences by dotted key
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from components.data.tags import unfit
from components.errors import DataError
from components.inspection.findings import Findings, findings, header_faults, num_copies_apart, repeated
from components.inspection.holdouts import Split, hold_out, untrained
from components.inspection.looks import Column, Inspection
from components.inspection.roles import Roles, is_text, roles

LONG, MUCH_LONGER = 1000, 20
NO_BAD_ROW = "No bad row was seen; one that comes later stops the run."
GATE = "{floors: {accuracy: 0.90}, better_on: accuracy}."


@dataclass(frozen=True)
class Proposal:
    """What to write, and why."""

    roles: Roles
    findings: Findings
    settings: Mapping[str, Any]
    reasons: Mapping[str, Sequence[str]] = field(default_factory=dict)  # sentences by dotted key


def propose(raw: Inspection, *, name: str, path: str | list[str]) -> Proposal:
    """Settings for the rows looked at.

    Raises:
        DataError: there are no sequences, nothing to learn from them, or no good rows.
    """
    found = roles(raw)
    _refuse(found)
    wrong = findings(found)
    if wrong.bad.all() or len(wrong.label_rows) < 2:
        good = f"{int((~wrong.bad).sum()):,} of {len(wrong.bad):,} rows are good"
        message = f"{good}, with {len(wrong.label_rows)} labels."
        raise DataError(
            "There is too little to learn from: " + message,
            hint="Problems: " + "; ".join(wrong.problems or ("none",)),
        )
    split = hold_out(found, wrong)
    if found.group is not None and split.settings.get("by") != "group":
        found = replace(found, group=None, groups=(found.group, *found.groups))
    wrong = replace(wrong, problems=(*wrong.problems, *repeated(found)))
    drop = _why_drop(found, wrong, split)
    reasons = _reasons(found, wrong, split, drop)
    return Proposal(found, wrong, _settings(found, split, drop=bool(drop), name=name, path=path), reasons)


def _refuse(found: Roles) -> None:
    columns = found.raw.columns
    seen = "; ".join(f"{each.name}: {each.shape}, {each.num_distinct:,} distinct" for each in columns[:20])
    first = "".join(f"{fault[0].upper()}{fault[1:]}. " for fault in header_faults(found.raw))
    if found.target is None:
        raise DataError(
            f"There is no column to learn. Seen: {seen or 'no columns'}.",
            hint=first
            + "A target has few distinct values: one label for each sequence (classification), or a list "
            "of them as long as the inputs (labelling). A file with a row for each step also needs an id "
            "that repeats, and an order. See docs/guides/your_own_data.md.",
        )
    if not found.inputs:
        raise DataError(
            f"There are no sequences to learn {found.target.name!r} from. Seen: {seen}.",
            hint=first
            + "Inputs are columns of lists (numbers, lists of numbers, or texts) or of running text; a "
            "file with a row for each step needs an id that repeats, and an order that is unique in it.",
        )


# Bad rows


def _why_drop(found: Roles, wrong: Findings, split: Split) -> list[str]:
    """Why rows have to be left out for the settings to run."""
    reasons = []
    if wrong.num_bad:
        reasons.append(
            f"{wrong.num_bad:,} of the {len(wrong.bad):,} rows looked at are bad (see the problems)"
        )
    if found.ties:
        reasons.append(f"{found.order} stands twice in some sequences")
    if split.codes is not None:
        apart = num_copies_apart(wrong.copies, split.codes, ~wrong.bad)
        if apart:
            many = f"{apart:,} sequence{'s' if apart > 1 else ''}"
            reasons.append(f"{many} would stand in training and in a held-out split alike")
        absent = untrained(wrong, split.codes)
        if absent:
            reasons.append(f"{_some(absent)} would stand in held-out rows only")
    if wrong.rare and split.settings.get("by") != "stratified":
        reasons.append(f"{_some(wrong.rare)} may fall to held-out rows alone")
    return reasons


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:3])
    return f"the label{'s' if len(labels) > 1 else ''} {shown}" + (" and others" if len(labels) > 3 else "")


# Settings


def _settings(found: Roles, split: Split, *, drop: bool, name: str, path: str | list[str]) -> dict[str, Any]:
    assert found.target is not None
    data: dict[str, Any] = {"path": path}
    if found.layout == "step":
        data |= {"layout": "step", "id": found.id, "order": found.order}
    elif found.id is not None:
        data["id"] = found.id
    data["inputs"] = [_input(column, found) for column in found.inputs]
    scheme = _scheme(found.target) if found.per_step else "none"
    data["target"] = {"column": found.target.name} | ({"scheme": scheme} if scheme != "none" else {})
    data["split"] = dict(split.settings)
    if (longest := _max_length(found)) is not None:
        data["max_length"] = longest
    data["on_bad_row"] = "drop" if drop else "fail"
    return {
        "name": name,
        "task": "labelling" if found.per_step else "classification",
        "data": data,
        "model": {"cell": "gru", "units": 128, "bidirectional": found.per_step, "dropout": {"output": 0.3}},
        "train": {
            "epochs": 15, "batch_size": 64, "learning_rate": 2e-3, "schedule": "cosine",
            "early_stopping": {"metric": "loss", "patience": 3},
        },
        "gate": {"better_on": "accuracy"},
        "register": {"alias": "champion"},
    }  # fmt: skip


def _input(column: Column, found: Roles) -> dict[str, Any]:
    if column.shape != "numbers":
        chosen: dict[str, Any] = {"column": column.name, "kind": "token", "min_count": 2}
        return chosen | ({"characters": True} if found.per_step else {})
    chosen = {"column": column.name}
    if family := found.family(column.name):
        chosen["columns"] = list(family.patterns)
    chosen |= {"kind": "numeric", "scale": _scale(column)}
    return chosen | ({"impute": "mean", "indicator": True} if column.num_gaps else {})


def _scale(column: Column) -> str:
    return "none" if column.low >= 0 and column.high <= 1 else "standard"


def _scheme(target: Column) -> str:
    labels = list(target.counts)
    if not any(label.startswith("B-") for label in labels):
        return "none"
    return next((scheme for scheme in ("BIO", "BIOES") if not unfit(labels, scheme)), "none")


def _max_length(found: Roles) -> int | None:
    lengths = found.inputs[0].lengths
    if lengths is None or not len(lengths) or lengths.max() <= max(LONG, MUCH_LONGER * np.median(lengths)):
        return None
    return int(min(LONG, max(200, 100 * round(4 * float(np.median(lengths)) / 100))))


# Reasons


def _reasons(found: Roles, wrong: Findings, split: Split, drop: Sequence[str]) -> dict[str, list[str]]:
    assert found.target is not None
    reasons = {"data.split": [split.reason], "data.target": _target_reasons(found, wrong)}
    if found.layout == "step":
        reasons["data.layout"] = [
            f"A row is one step: {found.id} repeats, {found.order} is unique within it."
        ]
    elif found.id is not None:
        reasons["data.id"] = [f"Each value of {found.id} stands once in the rows looked at."]
    for i, column in enumerate(found.inputs):
        reasons[f"data.inputs.{i}"] = [_input_reason(column)]
    if found.aside:
        names = ", ".join(column.name for column in found.aside if column.name != found.target.name)
        reasons.setdefault("data.inputs", []).append(
            f"Left aside, as they may give the target away: {names}."
        )
    lengths = found.inputs[0].lengths
    if lengths is not None and _max_length(found) is not None:
        longest, median = int(lengths.max()), np.median(lengths)
        reasons["data.max_length"] = [f"The longest has {longest:,} steps, half have at most {median:,.0f}."]
    whole = "reads each sequence from both ends, as a label may depend on what follows"
    size = f"Of modest size; {whole}." if found.per_step else "Of modest size, to begin with."
    reasons |= {"model": [size], "gate": [f"No floor yet; once you know what is good: {GATE}"]}
    reasons["data.on_bad_row"] = (
        ["Rows are left out, counted, and kept in rejected.parquet: " + "; ".join(drop) + "."]
        if drop
        else [NO_BAD_ROW]
    )
    return reasons


def _target_reasons(found: Roles, wrong: Findings) -> list[str]:
    assert found.target is not None
    per = "step" if found.per_step else "sequence"
    reasons = [f"{len(wrong.label_rows):,} different labels, one for each {per}."]
    scheme = _scheme(found.target) if found.per_step else "none"
    if scheme != "none":
        reasons.append(f"All of them are tags of {scheme}.")
    others = [f"{each.name} ({each.num_distinct:,})" for each in found.rivals[:5]]
    if others:
        reasons.append(f"Other columns that could be the target: {', '.join(others)}.")
    return reasons


def _input_reason(column: Column) -> str:
    if column.shape != "numbers":
        many = f"{column.num_distinct:,} different tokens"
        what = "Running text, cut at white space" if is_text(column) else many
        return f"{what}; those that stand once in training count as unknown."
    features = f"{column.num_features} number{'s' if column.num_features > 1 else ''} a step"
    bounds = f"from {column.low:.4g} to {column.high:.4g}"
    scaled = "within 0..1 already" if _scale(column) == "none" else "brought to mean 0 and deviation 1"
    reason = f"{column.name}: {features}, {bounds}: {scaled}."
    if column.num_gaps:
        reason += f" {column.num_gaps:,} are missing: the mean stands in, and a further feature says so."
    return reason
