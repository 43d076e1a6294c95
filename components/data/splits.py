"""Who trains, who chooses the best epoch, who tests: from a row's content alone, never from its place.

    column      the values named for valid and test; all other rows train, or a share of them chooses
    hash        the content's hash, a number in [0, 1):   [ test | valid |        train        ]
    stratified  the same order of hashes, cut class by class in exact proportions

Equal sequences have equal hashes, so hash and stratified keep them together; rows added later move nobody
else under hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.schema import ColumnSplit, FractionSplit

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
SMALLEST_CLASS = 3


@dataclass(frozen=True)
class Strata:
    """The split of every distinct sequence, and the classes too small to be in all three."""

    digests: pa.FixedSizeBinaryArray  # (U,)
    codes: np.ndarray  # (U,) int8
    too_small: Mapping[int, int]  # class to its number of distinct sequences


def assign(
    split: ColumnSplit | FractionSplit,
    *,
    keys: pa.StringArray,
    digests: pa.FixedSizeBinaryArray,
    strata: Strata | None = None,
) -> np.ndarray:
    """The split of each row, (n,) int8: TRAIN, VALID or TEST.

    Args:
        split: the settings.
        keys: values of the split's column; read only for a ColumnSplit.
        digests: of the rows' inputs.
        strata: from `stratify`; needed only for a stratified split.
    """
    if isinstance(split, ColumnSplit):
        return _by_column(split, keys, digests)
    if strata is not None:
        return strata.codes[pc.index_in(digests, value_set=strata.digests).to_numpy()]
    places = hashes(digests, seed=split.seed)
    test, both = _threshold(split.test), _threshold(split.test + split.valid)
    return np.select([places < test, places < both], [TEST, VALID], TRAIN).astype(np.int8)


def named_values(split: ColumnSplit) -> tuple[str, ...]:
    """The values that the settings expect in the column, as text."""
    return _texts(split.test) + (_texts(split.valid) if isinstance(split.valid, tuple) else ())


def hashes(digests: pa.FixedSizeBinaryArray, *, seed: int) -> np.ndarray:
    """A place in 0..2**64 for each digest, (n,) uint64; another seed gives other places."""
    prefix = seed.to_bytes(8, "little")
    return np.fromiter(
        (
            int.from_bytes(blake2b(prefix + digest, digest_size=8).digest(), "little")
            for digest in digests.to_pylist()
        ),
        np.uint64,
        len(digests),
    )


def stratify(
    split: FractionSplit, *, digests: pa.FixedSizeBinaryArray, classes: np.ndarray, task: str
) -> Strata:
    """Every distinct sequence's split, class by class, at least one of each class in each split.

    Classes of fewer than three distinct sequences are `too_small`. For a labeller the class is a sequence's
    rarest label, and such sequences train: their label may well stand in others too.
    """
    table = pa.table({"digest": digests, "class": pa.array(classes, pa.int32())})
    distinct = table.group_by("digest").aggregate([("class", "min")]).combine_chunks()
    digests = _one_array(distinct["digest"])
    classes = distinct["class_min"].to_numpy()
    order = np.lexsort((hashes(digests, seed=split.seed), classes))
    present, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    codes = np.empty(len(order), np.int8)
    for start, count in zip(starts, counts, strict=True):
        codes[order[start : start + count]] = _cut(int(count), split)
    too_small = {
        int(name): int(count) for name, count in zip(present, counts, strict=True) if count < SMALLEST_CLASS
    }
    return Strata(digests, codes, {} if task == "labelling" else too_small)


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


def _by_column(split: ColumnSplit, keys: pa.StringArray, digests: pa.FixedSizeBinaryArray) -> np.ndarray:
    test = _is_in(keys, _texts(split.test))
    if isinstance(split.valid, tuple):
        valid = _is_in(keys, _texts(split.valid))
    else:
        valid = hashes(digests, seed=split.seed) < _threshold(split.valid)
    return np.select([test, valid], [TEST, VALID], TRAIN).astype(np.int8)


def _cut(count: int, split: FractionSplit) -> np.ndarray:
    """Splits of a class's sequences in order of their hashes."""
    codes = np.full(count, TRAIN, np.int8)
    if count < SMALLEST_CLASS:
        return codes
    test, valid = (max(1, int(count * share + 0.5)) for share in (split.test, split.valid))
    while test + valid >= count:
        test, valid = (test - 1, valid) if test > valid else (test, valid - 1)
    codes[:test] = TEST
    codes[test : test + valid] = VALID
    return codes


def _threshold(share: float) -> np.uint64:
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def _is_in(keys: pa.StringArray, values: Sequence[str]) -> np.ndarray:
    return pc.is_in(keys, value_set=pa.array(values, pa.string())).to_numpy(zero_copy_only=False)


def _texts(values: Sequence[str | int | bool]) -> tuple[str, ...]:
    """As the column's values are spelt: Arrow writes booleans in lower case."""
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
