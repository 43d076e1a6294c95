"""Who trains, who chooses the best epoch, who tests: from a row's content alone, never from its place.

    column      the values named for valid and test; all other rows train, or a share of them chooses
    hash        the content's hash, a number in [0, 1):   [ test | valid |        train        ]
    group       the same with the hash of a column's value, so that equal values stay together
    folds       of hash or group: the line in equal stretches, one of which tests; of the other rows, those
                that a second hash takes choose
    time        train before `valid`, choose before `test`; whoever falls in a gap is left out
    stratified  the same order of hashes, cut class by class in exact proportions

Equal sequences have equal hashes, so hash and stratified keep them together; rows added later move nobody
else under column, hash, group, folds and time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.instants import NANOSECONDS, Kind, OrderValues, order_values
from conf.schema import MAX_SEED, ColumnSplit, FractionSplit, TimeSplit

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
IN_GAP, NOT_A_TIME = 3, 4
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
SMALLEST_CLASS = 3


# Hashes below the first are tested on, below the second choose the best epoch, the others train.
Cuts: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Strata:
    """The split of every distinct sequence, and the classes too small to be in all three."""

    digests: pa.FixedSizeBinaryArray  # (U,)
    codes: np.ndarray  # (U,) int8
    too_small: Mapping[int, int]  # class to its number of distinct sequences
    cuts: Mapping[int, Cuts]  # of each class


def assign(
    split: ColumnSplit | FractionSplit | TimeSplit,
    *,
    keys: pa.StringArray,
    digests: pa.FixedSizeBinaryArray,
    strata: Strata | None = None,
) -> np.ndarray:
    """The split of each row, (n,) int8: TRAIN, VALID or TEST, by time also IN_GAP or NOT_A_TIME.

    Args:
        split: the settings.
        keys: values of the split's column; read only where there is one.
        digests: of the rows' inputs.
        strata: from `stratify`; needed only for a stratified split.
    """
    if isinstance(split, ColumnSplit):
        return _by_column(split, keys, digests)
    if isinstance(split, TimeSplit):
        return _by_time(split, keys)
    if strata is not None:
        return strata.codes[pc.index_in(digests, value_set=strata.digests).to_numpy()]
    content = keys if split.by == "group" else digests
    if split.folds is not None:
        return _by_fold(split, split.folds, content)
    places = hashes(content, seed=split.seed)
    test, both = _threshold(split.test), _threshold(split.test + split.valid)
    return np.select([places < test, places < both], [TEST, VALID], TRAIN).astype(np.int8)


def _by_fold(
    split: FractionSplit, folds: int, content: pa.FixedSizeBinaryArray | pa.StringArray
) -> np.ndarray:
    # Whole numbers, so that neighbours share an edge to the last bit.
    edges = np.array([number * 2**64 // folds for number in range(1, folds)], np.uint64)
    test = np.searchsorted(edges, hashes(content, seed=split.seed), side="right") == split.fold
    # No user's seed is as large. Another one in each fold, so that no row only ever chooses.
    other_seed = split.seed + (1 + split.fold) * (MAX_SEED + 1)
    valid = hashes(content, seed=other_seed) < _threshold(split.valid)
    return np.select([test, valid], [TEST, VALID], TRAIN).astype(np.int8)


def named_values(split: ColumnSplit) -> tuple[str, ...]:
    """The values that the settings expect in the column, as text."""
    return _texts(split.test) + (_texts(split.valid) if isinstance(split.valid, tuple) else ())


def hashes(values: pa.FixedSizeBinaryArray | pa.StringArray, *, seed: int) -> np.ndarray:
    """A place in 0..2**64 for each digest or text, (n,) uint64; another seed gives other places."""
    prefix = seed.to_bytes(8, "little")
    contents = values.cast(pa.binary()).to_pylist()
    return np.fromiter(
        (int.from_bytes(blake2b(prefix + content, digest_size=8).digest(), "little") for content in contents),
        np.uint64,
        len(values),
    )


def stratify(
    split: FractionSplit,
    *,
    digests: pa.FixedSizeBinaryArray,
    classes: np.ndarray,
    task: str,
    pinned: Mapping[int, Cuts] | None = None,
) -> Strata:
    """Every distinct sequence's split, class by class, at least one of each class in each split.

    A class that is `pinned` keeps its cuts, so that sequences added to it move no other one. Classes of
    fewer than three distinct sequences are `too_small`. For a labeller the class is a sequence's rarest
    label, and such sequences train: their label may well stand in others too.
    """
    table = pa.table({"digest": digests, "class": pa.array(classes, pa.int32())})
    distinct = table.group_by("digest").aggregate([("class", "min")]).combine_chunks()
    digests = _one_array(distinct["digest"])
    classes = distinct["class_min"].to_numpy()
    places = hashes(digests, seed=split.seed)
    order = np.lexsort((places, classes))
    present, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    codes = np.empty(len(order), np.int8)
    cuts: dict[int, Cuts] = {}
    for name, start, count in zip(present.tolist(), starts, counts, strict=True):
        own = order[start : start + count]
        cuts[name] = (pinned or {}).get(name) or _cuts(places[own], split)
        test, both = map(np.uint64, cuts[name])
        codes[own] = np.select([places[own] < test, places[own] < both], [TEST, VALID], TRAIN)
    too_small = {
        int(name): int(count) for name, count in zip(present, counts, strict=True) if count < SMALLEST_CLASS
    }
    return Strata(digests, codes, {} if task == "labelling" else too_small, cuts)


def rarest(labels: np.ndarray, lengths: np.ndarray, num_rows: np.ndarray) -> np.ndarray:
    """Each sequence's rarest label, (n,).

    Args:
        labels: codes of all steps, (S,).
        lengths: steps of each sequence, at least 1, (n,).
        num_rows: in how many sequences each label stands, (C,).
    """
    order = np.lexsort((np.arange(len(num_rows)), num_rows))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    starts = np.cumsum(lengths) - lengths
    return order[np.minimum.reduceat(rank[labels], starts)]


def bounds_fault(split: TimeSplit) -> str:
    """Why the two instants of the settings cannot be compared; empty when they can."""
    bounds = _bounds(split)
    kinds = [Kind(kind) for kind in bounds.kinds]
    if Kind.OTHER in kinds or Kind.MISSING in kinds:
        return "expected two dates, times or numbers, as in 2024-05-01 or 2024-05-01T12:00:00Z"
    if Kind.NUMBER in kinds and split.gap[-1] in SECONDS:
        return f"the gap {split.gap} is a time, but valid and test are numbers"
    if kinds[0] != kinds[1]:
        return "valid and test must both be numbers, both times with a zone, or both times without"
    if _before(bounds, 0, bounds)[1]:
        return "valid must be earlier than test"
    if _equal(bounds):
        return "valid and test are the same instant, so nothing would choose the best epoch"
    return ""


def _by_time(split: TimeSplit, keys: pa.StringArray) -> np.ndarray:
    values, bounds = order_values(keys), _bounds(split)
    valid, test = (~_before(values, at, bounds) for at in (0, 1))
    earlier = _earlier(bounds, split.gap)
    near_valid, near_test = (~_before(values, at, earlier) for at in (0, 1))
    codes = np.select([test, near_test, valid, near_valid], [TEST, IN_GAP, VALID, IN_GAP], TRAIN)
    codes[values.kinds != bounds.kinds[0]] = NOT_A_TIME
    return codes.astype(np.int8)


def _bounds(split: TimeSplit) -> OrderValues:
    return order_values(pa.array([str(split.valid), str(split.test)]))


def _before(values: OrderValues, at: int, bounds: OrderValues) -> np.ndarray:
    """Which values are less than a bound, (n,) bool."""
    whole, rest = bounds.whole[at], bounds.rest[at]
    return (values.whole < whole) | ((values.whole == whole) & (values.rest < rest))


def _equal(bounds: OrderValues) -> bool:
    return bool(bounds.whole[0] == bounds.whole[1] and bounds.rest[0] == bounds.rest[1])


def _earlier(bounds: OrderValues, gap: str) -> OrderValues:
    """The bounds less the gap, in seconds or in the numbers' own unit."""
    unit = SECONDS.get(gap[-1], 1)
    length = float(gap.rstrip("".join(SECONDS))) * unit
    if bounds.kinds[0] == Kind.NUMBER:
        return OrderValues(bounds.kinds, bounds.whole - length, bounds.rest)
    carried, rest = np.divmod(bounds.rest - round(length % 1 * NANOSECONDS), NANOSECONDS)
    return OrderValues(bounds.kinds, bounds.whole - length // 1 + carried, rest)


def _by_column(split: ColumnSplit, keys: pa.StringArray, digests: pa.FixedSizeBinaryArray) -> np.ndarray:
    test = _is_in(keys, _texts(split.test))
    if isinstance(split.valid, tuple):
        valid = _is_in(keys, _texts(split.valid))
    else:
        valid = hashes(digests, seed=split.seed) < _threshold(split.valid)
    return np.select([test, valid], [TEST, VALID], TRAIN).astype(np.int8)


def _cuts(places: np.ndarray, split: FractionSplit) -> Cuts:
    """Where a class's sequences are cut, from their hashes in order."""
    count = len(places)
    if count < SMALLEST_CLASS:
        return 0, 0
    test, valid = (max(1, int(count * share + 0.5)) for share in (split.test, split.valid))
    while test + valid >= count:
        test, valid = (test - 1, valid) if test > valid else (test, valid - 1)
    return int(places[test]), int(places[test + valid])


def _threshold(share: float) -> np.uint64:
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def _is_in(keys: pa.StringArray, values: Sequence[str]) -> np.ndarray:
    return pc.is_in(keys, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)


def _texts(values: Sequence[str | int | bool]) -> tuple[str, ...]:
    """As the column's values are spelt: Arrow writes booleans in lower case."""
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
