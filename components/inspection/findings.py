"""What is wrong with the rows looked at, or worth a look, once it is known what each column is for.

    bad     rows that `prepare` would refuse: empty, ragged, infinite, of unequal lengths, without a label
    copies  rows whose inputs are the same; contradictions: such rows under different labels
    rare    labels that few rows have

Letters: n rows, C labels.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import texts
from components.inspection.looks import Column, Inspection, fingerprints
from components.inspection.roles import Roles, rows_per_value

FEW_ROWS = 10
NUM_NAMED = 5
FRACTION = re.compile(r"-?[0-9]+\.[0-9]+")
NUMBER_LIKE = set("+-.0123456789eE")


@dataclass(frozen=True)
class Findings:
    """What was found."""

    bad: np.ndarray  # (n,) bool
    copies: np.ndarray  # (n,) the same number where the inputs are the same
    label_rows: Mapping[str, np.ndarray]  # (k,) the good rows that have a label
    rare: tuple[str, ...]  # labels of fewer than FEW_ROWS rows
    problems: tuple[str, ...]

    @property
    def num_bad(self) -> int:
        return int(self.bad.sum())


def findings(roles: Roles) -> Findings:
    """What is wrong with the rows, in the columns that are used."""
    problems: list[str] = []
    bad = np.zeros(roles.found.num_rows, bool)
    for mask, message in _faults(roles):
        row = int(np.flatnonzero(mask)[0])
        problems.append(f"{message}: {_rows(int(mask.sum()))}, first {roles.found.sample.place(row)}")
        bad |= mask
    copies = np.array(fingerprints(roles.inputs) or range(len(bad)), dtype=np.int64)
    label_rows = _label_rows(roles, ~bad)
    few = [(len(rows), label) for label, rows in label_rows.items() if len(rows) < FEW_ROWS]
    rare = tuple(label for _, label in sorted(few))
    problems += [*_missing(roles), *_rare(roles, label_rows, rare), *_contradictions(roles, copies, ~bad)]
    problems += header_faults(roles.raw)
    return Findings(bad, copies, label_rows, rare, tuple(problems))


def _faults(roles: Roles) -> Iterator[tuple[np.ndarray, str]]:
    """Rows at fault, and what it is."""
    found = roles.found
    num_rows = found.num_rows
    used = [*roles.inputs, *(each for each in (roles.target, roles.split, roles.group) if each is not None)]
    if roles.id is not None and roles.layout == "sequence":
        used.append(found.column(roles.id))
    names = {"", *(each.name for each in used), *(name for each in roles.families for name in each.columns)}
    unread = {
        row: each for row, each in found.sample.faults.items() if not each.column or each.column in names
    }
    if unread:
        mask = np.zeros(num_rows, bool)
        mask[list(unread)] = True
        yield mask, f"cannot be read ({next(iter(unread.values())).message})"
    for column in used:
        for what, mask in column.faults.items():
            yield mask, f"{column.name}: {what}"
        if not column.is_steps and column.num_missing:
            yield column.values.is_null().to_numpy(zero_copy_only=False), f"{column.name}: no value"
    parallel = [each for each in used if each.lengths is not None]
    for column in parallel[1:]:
        mask = np.not_equal(column.lengths, parallel[0].lengths)  # type: ignore[arg-type]
        if mask.any():
            yield mask, f"{column.name} and {parallel[0].name} have different lengths"
    if roles.id is not None and roles.layout == "sequence":
        doubled = _doubled(found.column(roles.id))
        if doubled.any():
            yield doubled, f"{roles.id}: the id stands more than once"


def _doubled(column: Column) -> np.ndarray:
    """Rows whose value stood in an earlier one, (n,) bool."""
    codes = texts(column.values).dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    doubled = np.ones(len(codes), bool)
    doubled[np.unique(codes, return_index=True)[1]] = False
    return doubled & (codes >= 0)


def _label_rows(roles: Roles, good: np.ndarray) -> dict[str, np.ndarray]:
    """The good rows that have each label, the most frequent label first."""
    if roles.target is None:
        return {}
    values = roles.target.values
    rows = np.arange(len(values))
    if roles.target.lengths is not None:
        rows, values = np.repeat(rows, roles.target.lengths), values.flatten()
    if pa.types.is_floating(values.type):  # whole ones, of a file that says no types
        values = values.cast(pa.int64(), safe=False)
    encoded = texts(values).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    taken = good[rows] & (codes >= 0)
    pairs = np.unique(codes[taken] * len(good) + rows[taken])
    if not len(pairs):
        return {}
    by_code: dict[int, np.ndarray] = {}
    labels, starts = np.unique(pairs // len(good), return_index=True)
    for label, own in zip(labels.tolist(), np.split(pairs % len(good), starts[1:]), strict=True):
        by_code[label] = own
    named = {encoded.dictionary[code].as_py(): own for code, own in by_code.items()}
    return dict(sorted(named.items(), key=lambda each: (-len(each[1]), each[0])))


def _missing(roles: Roles) -> Iterator[str]:
    for column in roles.inputs:
        if column.num_gaps and column.gaps is not None:
            gaps = f"{column.num_gaps:,} number{'s are' if column.num_gaps > 1 else ' is'} missing or NaN"
            yield f"{column.name}: {gaps}, in {_rows(int(column.gaps.sum()))}"
    if roles.ties:
        yield f"{roles.order}: in {_rows(roles.ties)} it is the same as in another row of the same {roles.id}"


def _rare(roles: Roles, label_rows: Mapping[str, np.ndarray], rare: tuple[str, ...]) -> Iterator[str]:
    if roles.target is not None and len(label_rows) < 2:
        yield f"{roles.target.name}: only {len(label_rows)} label in the good rows; two are needed"
    elif rare and roles.target is not None:
        shown = ", ".join(f"{label!r} ({len(label_rows[label])})" for label in rare[:NUM_NAMED])
        more = f" and {len(rare) - NUM_NAMED} more" if len(rare) > NUM_NAMED else ""
        few = f"{len(rare)} of {len(label_rows)} labels stand in fewer than {FEW_ROWS} sequences"
        yield f"{roles.target.name}: {few}: {shown}{more}"


def _contradictions(roles: Roles, copies: np.ndarray, good: np.ndarray) -> Iterator[str]:
    if not roles.inputs or roles.target is None:
        return
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(good).tolist():
        rows_of[copies[row]].append(row)
    several = [rows for rows in rows_of.values() if len(rows) > 1]
    if not several:
        return
    labels = fingerprints([roles.target])
    split = [rows for rows in several if len({labels[row] for row in rows}) > 1]
    num_copies = sum(len(rows) - 1 for rows in several)
    yield f"{_rows(num_copies)} repeat the inputs of an earlier one"
    if split:
        one, other = split[0][0], next(row for row in split[0] if labels[row] != labels[split[0][0]])
        place = roles.found.sample.place
        many = f"{len(split):,} sequence{'s stand' if len(split) > 1 else ' stands'} under different labels"
        yield f"{many}, such as {place(one)} and {place(other)}: no model can tell those apart"


def repeated(roles: Roles) -> Iterator[str]:
    """Columns whose values stand in several rows, which a random split would tear apart."""
    for column in (*((roles.group,) if roles.group else ()), *roles.groups):
        values = f"{column.num_distinct:,} values, each in {rows_per_value(column):,.1f} rows on average"
        kept = "the proposed split keeps them together"
        torn = "if those belong together, the proposed split may tear them apart"
        yield f"{column.name}: {values}; {kept if column is roles.group else torn}"


def header_faults(raw: Inspection) -> Iterator[str]:
    """What is wrong with the names of the columns."""
    names = raw.sample.rows.schema.names
    is_row = all(set(name) <= NUMBER_LIKE for name in names) or any(map(FRACTION.fullmatch, names))
    if {"csv", "tsv"} & set(raw.sample.formats) and is_row:
        yield "the first line looks like a row, not like a header; name the columns with data.columns"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count != 1 else ''}"


def num_copies_apart(copies: np.ndarray, codes: np.ndarray, good: np.ndarray) -> int:
    """Good rows whose inputs also stand in another split, where these are the rows' splits."""
    table = pa.table({"copy": copies[good], "code": codes[good]})
    spans = table.group_by("copy").aggregate([("code", "min"), ("code", "max"), ("code", "count")])
    apart = spans.filter(pc.not_equal(spans["code_min"], spans["code_max"]))
    return int(pc.sum(apart["code_count"]).as_py() or 0) - len(apart)
