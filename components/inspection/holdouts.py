"""Which rows to hold out: as a column says, else by groups, else by content; and why.

split, fold          train/valid/test as words, or three numbers and more
speaker, document    rows of one value stay together
neither              hash; few or unbalanced classes: stratified
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import texts
from components.data.splits import SPLITS, TEST, TRAIN, VALID, assign
from components.inspection.findings import FEW_ROWS, Findings
from components.inspection.looks import Column
from components.inspection.roles import Roles, rows_per_value
from conf.schema import FractionSplit

TRAIN_WORDS = ("train", "training", "trn", "tr")
VALID_WORDS = ("valid", "validation", "val", "dev", "development")
TEST_WORDS = ("test", "testing", "tst", "heldout", "held_out", "held-out")
SHARE, LARGE_SHARE = 0.1, 0.2
FEW_TO_SPLIT = 100
MIN_GROUPS = 5
NUM_SEEDS = 20
FOLD = re.compile(r"[0-9]{1,9}")
UNBALANCED = 5


@dataclass(frozen=True)
class Split:
    """Settings of the split, why, and where the good rows go as far as can be told from their columns."""

    settings: Mapping[str, Any]
    reason: str
    codes: np.ndarray | None = None  # (n,) places in SPLITS


def hold_out(found: Roles, wrong: Findings) -> Split:
    """A split that the rows looked at allow."""
    why_not = ""
    if found.split is not None:
        by_column = _by_column(found.split, wrong)
        if isinstance(by_column, Split):
            return replace(by_column, reason=by_column.reason + _torn(found.group, by_column))
        why_not = by_column + " "
    if found.group is not None and (by_group := _by_group(found.group, wrong)):
        return by_group
    return _by_hash(found, wrong, why_not)


def _torn(group: Column | None, split: Split) -> str:
    """What a split by a column does to groups."""
    if group is None or split.codes is None:
        return ""
    table = pa.table({"group": texts(group.values), "code": split.codes}).group_by("group")
    spans = table.aggregate([("code", "min"), ("code", "max")])
    num_torn = pc.sum(pc.not_equal(spans["code_min"], spans["code_max"])).as_py() or 0
    return (
        f" But {num_torn:,} of the {group.num_distinct:,} values of {group.name} stand in several."
        if num_torn
        else ""
    )


def _by_column(column: Column, wrong: Findings) -> Split | str:
    """The split that the column says, or why it says none."""
    values = [value for value in column.counts]
    shown = ", ".join(values[:8])
    named = {
        name: [v for v in values if v.strip().lower() in words]
        for name, words in (("train", TRAIN_WORDS), ("valid", VALID_WORDS), ("test", TEST_WORDS))
    }
    if named["train"] and named["test"]:
        valid: list[Any] | float = sorted(named["valid"])
        reason = f"{column.name} says which rows train and which test ({shown})"
        if not valid:
            num_train = len(column.values) - sum(column.counts[value] for value in named["test"])
            valid = SHARE if num_train >= FEW_TO_SPLIT else LARGE_SHARE
            reason += "; none are named for choosing the best epoch, so a share of the others does"
        test = sorted(named["test"])
    elif len(values) >= 3 and all(map(FOLD.fullmatch, values)):
        folds = sorted(values, key=int)
        test, valid = folds[:1], folds[1:2]
        reason = (
            f"{column.name} numbers {len(folds)} folds: {test[0]} tests, {valid[0]} chooses the best epoch"
        )
        reason += ", the others train"
    else:
        return f"{column.name} ({shown}) does not say which rows test."
    keys = texts(column.values).to_numpy(zero_copy_only=False)
    in_valid = np.isin(keys, valid) if isinstance(valid, list) else np.zeros(len(keys), bool)
    codes = np.select([np.isin(keys, test), in_valid], [TEST, VALID], TRAIN)
    present = set(codes[~wrong.bad].tolist()) | ({VALID} if not isinstance(valid, list) else set())
    if len(present) < len(SPLITS):
        return f"{column.name} ({shown}) leaves no good rows to train, to choose or to test."
    listed = [_number_or_text(value) for value in valid] if isinstance(valid, list) else valid
    settings = {"column": column.name, "valid": listed, "test": [_number_or_text(value) for value in test]}
    return Split(settings, reason + ".", codes)


def _number_or_text(value: str) -> int | str:
    return int(value) if FOLD.fullmatch(value) and str(int(value)) == value else value


def _by_group(column: Column, wrong: Findings) -> Split | None:
    """The groups in shares that leave every split some rows, and training every label if that can be."""
    if column.num_distinct < MIN_GROUPS:
        return None
    keys = texts(column.values)
    best: tuple[int, dict[str, Any], np.ndarray] | None = None
    for share in (SHARE, LARGE_SHARE):
        for seed in range(NUM_SEEDS):
            settings = {"by": "group", "column": column.name, "valid": share, "test": share, "seed": seed}
            digests = keys.cast("binary")
            codes = assign(FractionSplit.model_validate(settings), keys=keys.fill_null(""), digests=digests)
            if len(set(codes[~wrong.bad].tolist())) < len(SPLITS):
                continue
            absent = len(untrained(wrong, codes))
            if best is None or absent < best[0]:
                best = (absent, settings, codes)
            if not best[0]:
                break
        if best is not None:
            break
    if best is None:
        return None
    each = f"{column.num_distinct:,} values, {rows_per_value(column):,.1f} rows each on average"
    reason = (
        f"{column.name} repeats ({each}): all rows of one value go to the same split, or the score would "
        "reward remembering them."
    )
    if best[1]["seed"]:
        reason += " With seed 0 a split has no rows, or training lacks a label."
    settings = best[1] if best[1]["seed"] else {key: value for key, value in best[1].items() if key != "seed"}
    return Split(settings, reason, best[2])


def untrained(wrong: Findings, codes: np.ndarray) -> list[str]:
    """Labels that no training row has."""
    return [label for label, rows in wrong.label_rows.items() if not (codes[rows] == TRAIN).any()]


def _by_hash(found: Roles, wrong: Findings, why_not: str) -> Split:
    distinct = {label: len(np.unique(wrong.copies[rows])) for label, rows in wrong.label_rows.items()}
    num_distinct = len(np.unique(wrong.copies[~wrong.bad]))
    share = SHARE if num_distinct >= FEW_TO_SPLIT else LARGE_SHARE
    settings: dict[str, Any] = {"by": "hash", "valid": share, "test": share}
    fewest, most = min(distinct.values()), max(distinct.values())
    exact = found.raw.sample.is_whole and not found.per_step and fewest >= 3
    if exact and num_distinct < FEW_TO_SPLIT:
        settings["by"] = "stratified"
        return Split(
            settings,
            why_not + f"With {num_distinct} sequences, chance alone may leave a class out of a split.",
        )
    if exact and fewest >= FEW_ROWS and most > UNBALANCED * fewest:
        settings["by"] = "stratified"
        reason = f"The classes are unbalanced ({fewest:,} to {most:,} rows): each is split alike."
        return Split(settings, why_not + reason)
    reason = "No column says who tests" if not why_not else "So the rows' content decides"
    reason += ": a row's place follows from its content, so it stays when rows are added."
    if found.groups:
        names = ", ".join(column.name for column in found.groups)
        instead = f"{{by: group, column: {found.groups[0].name}, valid: {share}, test: {share}}}"
        reason += f" If rows of one {names} belong together: {instead}."
    return Split(settings, why_not + reason)
