"""Checks over all rows together, and each row's fate: train, valid, test or rejected.

    widths    every row has as many features as most have
    ids       no id stands twice
    splits    every value named occurs, no sequence stands in two splits, every split has rows
    labels    two at least; what is held out has no label that training lacks

Of rows that cannot stay together, the one kept does not depend on the order of files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.copies import separate_splits, unique_ids
from components.data.fates import Fates
from components.data.indexes import Scan
from components.data.labels import (
    MAX_LABELS,
    Labels,
    Pins,
    common_labels,
    label_counts,
    reject_labels,
    strata_of,
    too_many_labels,
    unseen_labels,
)
from components.data.records import Layout
from components.data.splits import IN_GAP, NOT_A_TIME, SPLITS, TRAIN, assign, bounds_fault, named_values
from components.data.tags import PREFIXES, unfit
from components.errors import NUM_SHOWN, DataError, Problem
from components.lookup import nearest
from conf.schema import ColumnSplit, FractionSplit, Settings, Split, TimeSplit


@dataclass(frozen=True)
class Audit:
    """What the checks decided."""

    codes: tuple[np.ndarray, ...]  # of each part: (n,) int8, a split or REJECTED
    reasons: tuple[Mapping[int, str], ...]  # of each part: by row
    labels: tuple[str, ...]
    label_codes: tuple[np.ndarray, ...]  # of each part: from its own code of a label to its place in `labels`
    widths: tuple[int, ...]  # features of each input
    num_rows: tuple[int, ...]  # of each split
    num_steps: tuple[int, ...]  # of each split
    pins: Pins | None = None  # what a stratified split was made by

    @property
    def num_rejected(self) -> int:
        return sum(len(reasons) for reasons in self.reasons)


def audit(
    scans: Sequence[Scan],
    *,
    layout: Layout,
    settings: Settings,
    pins: Pins | None = None,
    record: Callable[[Iterator[Problem]], None] | None = None,
) -> Audit:
    """Every row's fate.

    Args:
        scans: of all parts.
        layout: which columns make a row.
        settings: how rows are split, and what becomes of bad ones.
        pins: what an earlier stratified split was made by.
        record: given every problem, of the whole and of each row, before any is refused.

    Raises:
        DataError: a row is bad and `on_bad_row` is fail, or the rows as a whole cannot be used.
    """
    split, dropping = settings.data.split, settings.data.on_bad_row == "drop"
    fates, labels = Fates(scans), common_labels(scans)
    if len(labels.names) > MAX_LABELS:
        raise too_many_labels(layout.target)
    whole = [*_absent_values(fates, split), *_too_few(labels.names, layout, "the rows")]
    whole += [*_unfit_tags(labels.names, settings), *_unknown_weights(labels.names, settings, "no row")]
    widths = _equal_widths(fates, layout)
    unique_ids(fates, layout)
    small, pins = _assign(fates, labels, split, layout, pins)
    separate_splits(fates, layout)
    # While bad rows may still be corrected, what is missing without them is no fault of the whole.
    if dropping or not fates.num_problems:
        counts = label_counts(fates, labels)
        unseen = np.flatnonzero((counts[TRAIN] == 0) & (counts.sum(axis=0) > 0))
        whole += small
        if dropping:
            reject_labels(fates, labels, unseen, layout)
        else:
            whole += unseen_labels(fates, labels, unseen, layout)
        labels = labels.only(counts[TRAIN] > 0)
        if not whole:
            whole += _too_few(labels.names, layout, "the training rows")
            whole += _unknown_weights(labels.names, settings, "no training row")
        whole += _empty_splits(fates)
    if record is not None:
        record(chain(whole, fates.every_problem()))
    _refuse(whole, fates, dropping=dropping)
    num_rows, num_steps = _sizes(fates)
    return Audit(
        codes=tuple(fates.codes),
        reasons=tuple(fates.reasons),
        labels=labels.names,
        label_codes=labels.codes,
        widths=widths,
        num_rows=num_rows,
        num_steps=num_steps,
        pins=pins,
    )


def _refuse(whole: Sequence[Problem], fates: Fates, *, dropping: bool) -> None:
    by_row = [] if dropping else fates.problems
    total = len(whole) + (0 if dropping else fates.num_problems)
    if not total:
        return
    shown = [*whole, *by_row][:NUM_SHOWN]
    first = f", the first {len(shown)}" if total > len(shown) else ""
    message = f"The data has {total:,} problem{'s' if total > 1 else ''}{first}:"
    hint = "Rows and steps count from 0." + (
        " Correct the rows, or leave them out with data.on_bad_row: drop." if by_row else ""
    )
    raise DataError(message, problems=shown, hint=hint)


def _absent_values(fates: Fates, split: Split) -> Iterator[Problem]:
    """Values that the settings name for a split and no row has."""
    if not isinstance(split, ColumnSplit):
        return
    seen: Counter[str] = Counter()
    for scan in fates.scans:
        for entry in pc.value_counts(scan.index.array("key")).to_pylist():
            if entry["values"] is not None:
                seen[entry["values"]] += entry["counts"]
    shown = ", ".join(sorted(seen)[:NUM_SHOWN]) + (" ..." if len(seen) > NUM_SHOWN else "")
    for value in named_values(split):
        if value not in seen:
            near = nearest(value, seen)
            message = f"no row has the value {value!r} that the split names; there are {shown or 'none'}"
            yield Problem(
                column=split.column, message=message + (f"; did you mean {near!r}?" if near else "")
            )


def _unfit_tags(labels: Sequence[str], settings: Settings) -> Iterator[Problem]:
    """Labels that the tag scheme of the settings has no meaning for."""
    target = settings.data.target
    if target.scheme == "none":
        return
    for label in unfit(labels, target.scheme)[:NUM_SHOWN]:
        expected = ", ".join(f"{prefix}-..." for prefix in PREFIXES[target.scheme])
        message = f"{label!r} is no tag of the scheme {target.scheme}, which has {expected} and O"
        yield Problem(column=target.column, message=message)


def _unknown_weights(labels: Sequence[str], settings: Settings, where: str) -> Iterator[Problem]:
    """Labels that have a weight in the loss but are none of `labels`, so that `where` has them."""
    weights = settings.train.class_weights
    if isinstance(weights, str):
        return
    for label in [label for label in weights if label not in labels][:NUM_SHOWN]:
        near = nearest(label, labels)
        message = f"train.class_weights names {label!r}, which {where} has"
        yield Problem(
            column=settings.data.target.column,
            message=message + (f"; did you mean {near!r}?" if near else ""),
        )


def _too_few(labels: Sequence[str], layout: Layout, where: str) -> Iterator[Problem]:
    if len(labels) < 2:
        have = f"only {labels[0]!r}" if labels else "no label"
        yield Problem(column=layout.target, message=f"need 2 classes, {where} have {have}")


def _equal_widths(fates: Fates, layout: Layout) -> tuple[int, ...]:
    """Features of each input in most rows; rows that have others are rejected."""
    usual = []
    for i, column in enumerate(layout.inputs):
        arrays = [scan.index.array(f"w{i}").to_numpy() for scan in fates.scans]
        counts: Counter[int] = Counter()
        for part, widths in enumerate(arrays):
            values, numbers = np.unique(widths[fates.accepted(part)], return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        most = max(counts, key=lambda width: (counts[width], -width), default=0)
        usual.append(most)
        for part, widths in enumerate(arrays if len(counts) > 1 else []):
            for row in np.flatnonzero(fates.accepted(part) & (widths != most)).tolist():
                message = f"{widths[row]} features, {counts[most]:,} other rows have {most}"
                fates.reject(part, row, column, message)
    return tuple(usual)


def _assign(
    fates: Fates, labels: Labels, split: Split, layout: Layout, pins: Pins | None
) -> tuple[list[Problem], Pins | None]:
    """Give every accepted row its split; the classes too small to stratify, and what they were cut by."""
    strata, kept = None, None
    if isinstance(split, TimeSplit) and (message := bounds_fault(split)):
        raise DataError(f"data.split cannot be used: {message}.")
    if isinstance(split, FractionSplit) and split.by == "stratified":
        strata, kept = strata_of(fates, labels, split, layout, pins)
    for part, scan in enumerate(fates.scans):
        accepted = fates.accepted(part)
        mask = pa.array(accepted)
        fates.codes[part][accepted] = assign(
            split,
            keys=scan.index.array("key").filter(mask),
            digests=scan.index.array("digest").filter(mask),
            strata=strata,
        )
        if isinstance(split, TimeSplit):
            _leave_out(fates, part, split)
    small = [
        Problem(
            column=layout.target,
            message=f"the class {labels.names[code]!r} has {count} distinct"
            f" sequence{'s' if count > 1 else ''},"
            " a stratified split needs 3 of each; add rows, or use by: hash",
        )
        for code, count in (strata.too_small if strata else {}).items()
    ]
    return small, kept


def _leave_out(fates: Fates, part: int, split: TimeSplit) -> None:
    """Set aside rows in a gap, and reject those whose time cannot be compared with the settings'."""
    for row in np.flatnonzero(fates.codes[part] == IN_GAP).tolist():
        fates.set_aside(part, row, f"column {split.column}: in the gap of {split.gap} before valid or test")
    keys = fates.scans[part].index.array("key")
    for row in np.flatnonzero(fates.codes[part] == NOT_A_TIME).tolist():
        message = f"received {keys[row].as_py()!r}, expected a value like {split.valid!r} of the settings"
        fates.reject(part, row, split.column, message)


def _empty_splits(fates: Fates) -> Iterator[Problem]:
    num_rows, _ = _sizes(fates)
    for name, count in zip(SPLITS, num_rows, strict=True):
        if not count:
            yield Problem(message=f"no rows are left for {name}, out of {sum(num_rows):,} good rows")


def _sizes(fates: Fates) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and steps of each split."""
    num_rows, num_steps = np.zeros(len(SPLITS), np.int64), np.zeros(len(SPLITS), np.int64)
    for part, scan in enumerate(fates.scans):
        accepted = fates.accepted(part)
        codes = fates.codes[part][accepted]
        lengths = scan.index.array("length").to_numpy()[accepted].astype(np.int64)
        num_rows += np.bincount(codes, minlength=len(SPLITS))
        np.add.at(num_steps, codes, lengths)
    return tuple(num_rows.tolist()), tuple(num_steps.tolist())
