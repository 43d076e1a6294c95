"""What an inspection found, as rows of tables and as JSON: columns, lengths, labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.inspection.looks import Column, Inspection
from components.inspection.roles import MAX_LABELS, Roles, is_text

HEADER = ("column", "kind", "used as", "type", "distinct", "missing", "examples")


def columns(roles: Roles) -> list[dict[str, Any]]:
    """One entry for each column of the files; those of a family, such as p0 to p127, together."""
    found = []
    members = {name: family for family in roles.families for name in family.columns}
    told = set()
    for column in roles.raw.columns:
        family = members.get(column.name)
        if family is None:
            found.append(_entry(column, roles, column.name))
        elif family.name not in told:
            told.add(family.name)
            both = f"{family.columns[0]} ... {family.columns[-1]} ({len(family.columns)})"
            whole = roles.found.column(family.name)
            entry = _entry(column, roles, both) | {"kind": f"number per step, {whole.num_features} features"}
            entry |= {"used_as": _use(whole, roles), "missing": whole.num_gaps}
            found.append(entry | {"members": list(family.columns)})
    return found


def lengths(roles: Roles) -> dict[str, float] | None:
    """Steps of a sequence: fewest, median, most."""
    column = next(
        (each for each in (*roles.inputs, roles.target) if each is not None and each.is_steps), None
    )
    if column is None:
        column = roles.inputs[0] if roles.inputs else None
        sizes = np.array(_num_words(column)) if column is not None else np.array([])
    else:
        sizes = column.lengths if column.lengths is not None else np.array([])
    if not len(sizes):
        return None
    return {"min": int(sizes.min()), "median": float(np.median(sizes)), "max": int(sizes.max())}


def labels(roles: Roles) -> dict[str, int]:
    """How often each label stands, the most frequent first."""
    return dict(roles.target.counts) if roles.target is not None else {}


def files(raw: Inspection) -> dict[str, Any]:
    """What was looked at."""
    sample = raw.sample
    return {
        "formats": list(sample.formats),
        "names": list(sample.files),
        "num_files": sample.num_files,
        "rows_looked_at": raw.num_rows,
        "rows": sample.num_rows,
        "whole": sample.is_whole,
    }


def _num_words(column: Column | None) -> list[int]:
    if column is None:
        return []
    return [len((text or "").split()) for text in column.values.to_pylist()]


def _entry(column: Column, roles: Roles, name: str) -> dict[str, Any]:
    missing = column.num_gaps + (column.num_missing if column.shape != "number" else 0)
    return {
        "column": name,
        "kind": _kind(column, roles),
        "used_as": _use(column, roles),
        "type": column.type,
        "distinct": column.num_distinct if column.counts else None,
        "missing": missing,
        "examples": list(column.examples),
    }


def _kind(column: Column, roles: Roles) -> str:
    """What the column holds, in the words of the settings."""
    labels = {each.name for each in (roles.target, *roles.rivals) if each is not None}
    whole: Mapping[str, Column] = {each.name: each for each in roles.found.columns}
    per_step = roles.layout == "step" and column.name in whole and whole[column.name].is_steps
    if column.name == roles.id:
        return "id"
    if column.name == roles.order:
        return "order of the steps"
    if column.shape in ("nothing", "other"):
        return "empty" if column.shape == "nothing" else "not usable"
    if column.name in labels:
        return "label per step" if column.is_steps or per_step else "label per sequence"
    if column.shape == "numbers":
        features = f", {column.num_features} features" if column.num_features > 1 else ""
        return f"sequence of numbers{features}"
    if column.shape == "texts":
        many = column.num_distinct > MAX_LABELS or column.name in {each.name for each in roles.inputs}
        return "sequence of tokens" if many else "category per step"
    if per_step:
        return "number per step" if column.shape == "number" else "text per step"
    if column.name in {each.name for each in (roles.group, *roles.groups) if each is not None}:
        return "group"
    return "running text" if is_text(column) else column.shape


def _use(column: Column, roles: Roles) -> str:
    uses = {each.name: "input" for each in roles.inputs}
    for name, role in ((roles.id, "id"), (roles.order, "order")):
        if name is not None:
            uses[name] = role
    for each, role in ((roles.target, "target"), (roles.split, "split"), (roles.group, "group")):
        if each is not None:
            uses[each.name] = role
    return uses.get(column.name, "unused")
