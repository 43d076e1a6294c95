"""The labels of all parts in one order, and which rows have which.

names   ("2", "10") by number where all are whole numbers, ("10", "2", "a") by text otherwise
codes   of each part: from its own code of a label to its place in `names`
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from components.data.columns import is_list, list_lengths
from components.data.fates import Fates
from components.data.indexes import Scan
from components.data.records import Layout
from components.data.splits import SPLITS, Cuts, Strata, rarest, stratify
from components.errors import DataError, Problem
from conf.schema import FractionSplit

MAX_LABELS = 1 << 16
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Labels:
    """The label set, and for each part the way from its own codes to places in `names`."""

    names: tuple[str, ...]
    codes: tuple[np.ndarray, ...]  # of each part: (own labels + 1,) int32, -1 for no label, which is last

    def of(self, part: int, scan: Scan, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and label code of every label of the part's rows that the mask takes, both (k,)."""
        y = scan.index.array("y")
        places = np.arange(len(y))
        if is_list(y.type):
            places = np.repeat(places, list_lengths(y))
            y = y.flatten()
        taken = rows[places]
        return places[taken], self.codes[part][y.to_numpy()[taken]]

    def only(self, kept: np.ndarray) -> "Labels":
        """The labels that the mask (C,) takes; the others have code -1."""
        places = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1).astype(np.int32)
        names = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return replace(self, names=names, codes=tuple(places[codes] for codes in self.codes))


def common_labels(scans: Sequence[Scan]) -> Labels:
    """All labels that the parts have."""
    names = in_order({label for scan in scans for label in scan.labels})
    place = {name: i for i, name in enumerate(names)}
    codes = tuple(np.array([*(place[label] for label in scan.labels), -1], np.int32) for scan in scans)
    return Labels(names, codes)


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Sorted; 2 before 10 where all are whole numbers."""
    if all(WHOLE_NUMBER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def too_many_labels(column: str, *, file: str = "") -> DataError:
    """The error of a column with more different labels than a network could tell apart."""
    message = f"more than {MAX_LABELS:,} different labels; is this the target, or an id?"
    return DataError(
        "The labels cannot be used.", problems=[Problem(file=file, column=column, message=message)]
    )


def label_counts(fates: Fates, labels: Labels) -> np.ndarray:
    """How often each split has each label, (3, C)."""
    num_labels = len(labels.names)
    counts = np.zeros(len(SPLITS) * num_labels, np.int64)
    for part, scan in enumerate(fates.scans):
        rows, codes = labels.of(part, scan, fates.accepted(part))
        splits = fates.codes[part][rows].astype(np.int64)
        counts += np.bincount(splits * num_labels + codes, minlength=len(counts))
    return counts.reshape(len(SPLITS), num_labels)


def unseen_labels(fates: Fates, labels: Labels, unseen: np.ndarray, layout: Layout) -> Iterator[Problem]:
    """A problem for each label that held-out rows have and training has not, at its first place."""
    found: dict[int, list[tuple[int, int, int]]] = {int(code): [] for code in unseen}
    for part, row, step, code in _rows_with(fates, labels, unseen):
        found[code].append((part, row, step))
    for code, places in found.items():
        part, row, step = places[0]
        message = (
            f"the label {labels.names[code]!r} stands in {len(places)} held-out"
            f" row{'s' if len(places) > 1 else ''} and in no training row"
        )
        yield fates.problem(part, row, layout.target, message, step=step if layout.per_step else None)


def reject_labels(fates: Fates, labels: Labels, unseen: np.ndarray, layout: Layout) -> None:
    """Reject held-out rows that have a label which training has not."""
    for part, row, step, code in _rows_with(fates, labels, unseen):
        if fates.accepted(part)[row]:
            message = f"no training row has the label {labels.names[code]!r}"
            fates.reject(part, row, layout.target, message, step=step if layout.per_step else None)


@dataclass(frozen=True)
class Pins:
    """What a stratified split was made by, kept so that the next one with more rows moves none of the old.

    Attributes:
        order: the labels, the rarest first: the class of a labeller's sequence is its rarest label.
        cuts: where the hashes of each class are cut.
    """

    order: tuple[str, ...] = ()
    cuts: Mapping[str, Cuts] = field(default_factory=dict)


def strata_of(
    fates: Fates, labels: Labels, split: FractionSplit, layout: Layout, pins: Pins | None = None
) -> tuple[Strata, Pins]:
    """The split of every distinct sequence among the accepted rows, and what it was made by.

    A label that is new since the pins were made counts as rarer than the old ones, whose order stays.
    """
    pins = pins or Pins()
    num_labels = len(labels.names)
    num_rows = np.zeros(num_labels, np.int64)
    for part, scan in enumerate(fates.scans):
        rows, codes = labels.of(part, scan, fates.accepted(part))
        num_rows += np.bincount(np.unique(rows * num_labels + codes) % num_labels, minlength=num_labels)
    known = {name: place for place, name in enumerate(pins.order)}
    order = sorted(
        range(num_labels),
        key=lambda code: (labels.names[code] in known, known.get(labels.names[code], num_rows[code]), code),
    )
    rank = np.empty(num_labels, np.int64)
    rank[order] = np.arange(num_labels)
    classes, digests = [np.zeros(0, np.int64)], [pa.array([], pa.binary(16))]
    for part, scan in enumerate(fates.scans):
        rows, codes = labels.of(part, scan, fates.accepted(part))
        if len(rows):
            classes.append(rarest(codes, np.unique(rows, return_counts=True)[1], rank))
            digests.append(scan.index.array("digest").filter(pa.array(fates.accepted(part))))
    task = "labelling" if layout.per_step else "classification"
    strata = stratify(
        split,
        digests=pa.concat_arrays(digests),
        classes=np.concatenate(classes),
        task=task,
        pinned={code: pins.cuts[name] for code, name in enumerate(labels.names) if name in pins.cuts},
    )
    cuts = {labels.names[code]: found for code, found in strata.cuts.items()}
    names = tuple(labels.names[code] for code in order)
    # What no row has any more may come back.
    gone = tuple(name for name in pins.order if name not in set(names))
    return strata, Pins((*names, *gone), {**pins.cuts, **cuts})


def _rows_with(fates: Fates, labels: Labels, wanted: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """(part, row, step, label) of each accepted row and wanted label that it has, at its first step."""
    for part, scan in enumerate(fates.scans) if len(wanted) else ():
        rows, codes = labels.of(part, scan, fates.accepted(part))
        at = np.flatnonzero(np.isin(codes, wanted))
        _, first = np.unique(rows[at] * len(labels.names) + codes[at], return_index=True)
        for i in at[first].tolist():
            row = int(rows[i])
            yield part, row, i - int(np.searchsorted(rows, row)), int(codes[i])
