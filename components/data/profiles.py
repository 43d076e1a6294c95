"""What the data looks like: the page of the report, and the reference that drift is measured against.

profile.json
  splits    {train: {rows, steps, lengths: {min, mean, median, max, histogram}, labels: {label: count}}}
  inputs    of training steps, one entry for each input and context column
            numeric          {column, kind, features: [{mean, std, min, max, missing, quantiles, histogram}],
                              constant: [..]}; quantiles (0, 5, .. 100 %) and histogram are of a sample
            token, category  {column, kind, distinct, known, most_frequent, coverage: {train: 0.98, ..}}
                             with a file of vectors also vectors: {file, found, tokens, further, repeated}
            with a tag scheme also illegal_tags: {"O > I-PER": count}
  padding   {unsorted, by_length}   share of padded steps in batches of 64
  notices   [sentence]              what is no fault but worth a look
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.data.encoders import Counts, Statistics
from components.served.encoding import InputEncoding, kind_of
from components.served.numbers import NumericEncoding
from components.served.symbols import UNKNOWN, CategoryEncoding, TokenEncoding

NUM_BINS = 20
MAX_FEATURES = 1024
MAX_DRAWN = 256
BATCH_SIZE = 64


def of_split(lengths: np.ndarray, label_counts: Mapping[str, int]) -> dict[str, Any]:
    """One split's rows: their number, lengths (n,) and labels."""
    edges = np.unique(np.linspace(lengths.min(), lengths.max() + 1, NUM_BINS + 1).astype(np.int64))
    counts, _ = np.histogram(lengths, bins=edges)
    return {
        "rows": len(lengths),
        "steps": int(lengths.sum()),
        "lengths": {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        },
        "labels": dict(label_counts),
    }


def of_columns(
    fitted: Sequence[InputEncoding],
    statistics: Mapping[str, Sequence[Statistics | Counts]],
    samples: Sequence[np.ndarray | None],
) -> list[dict[str, Any]]:
    """Each input's and context column's values over the training steps.

    Args:
        fitted: the columns' encodings.
        statistics: by split, of each column.
        samples: numbers of some training steps of each column, (S', F); None for text.
    """
    found = []
    for i, (part, sample) in enumerate(zip(fitted, samples, strict=True)):
        train = statistics["train"][i]
        if isinstance(train, Statistics):
            found.append(_of_numbers(part.column, train, sample))
        else:
            counts = {name: each[i].numbers for name, each in statistics.items()}  # type: ignore[union-attr]
            found.append(_of_symbols(part, counts))
    return found


def _of_numbers(column: str, statistics: Statistics, sample: np.ndarray | None) -> dict[str, Any]:
    """The first 1,024 features; the distribution of the first 256."""
    names = ("mean", "deviation", "low", "high", "missing")
    columns = [getattr(statistics, name)[:MAX_FEATURES].tolist() for name in names]
    features: list[dict[str, Any]] = [
        {"mean": mean, "std": std, "min": low, "max": high, "missing": missing}
        for mean, std, low, high, missing in zip(*columns, strict=True)
    ]
    if sample is not None:
        for feature, values in zip(features[:MAX_DRAWN], sample.T, strict=False):
            feature |= _distribution(values[~np.isnan(values)])
    return {
        "column": column,
        "kind": "numeric",
        "features": features,
        "num_features": len(statistics.mean),
        "constant": np.flatnonzero(statistics.constant).tolist(),
    }


def _distribution(values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {}
    quantiles = {"quantiles": np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)).tolist()}
    # Of numbers that nearly agree some edges may be the same float.
    edges = np.unique(np.linspace(values.min(), values.max(), NUM_BINS + 1))
    if len(edges) == 1:
        return quantiles
    counts, _ = np.histogram(values, bins=edges)
    return {**quantiles, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _of_symbols(part: InputEncoding, counts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    assert not isinstance(part, NumericEncoding)
    known = part.tokens if isinstance(part, TokenEncoding) else part.categories
    frequent = sorted(counts["train"].items(), key=lambda item: (-item[1], item[0]))[:NUM_BINS]
    return {
        "column": part.column,
        "kind": kind_of(part),
        "distinct": len(counts["train"]),
        "known": len(known),
        "most_frequent": dict(frequent),
        "coverage": {name: _coverage(part, numbers) for name, numbers in counts.items()},
    }


def _coverage(part: TokenEncoding | CategoryEncoding, numbers: Counter[str]) -> float:
    """Share of the steps whose symbol is known."""
    texts = list(numbers)
    is_known = part.apply(texts)[:, 0] != UNKNOWN
    return sum(numbers[text] for text, known in zip(texts, is_known, strict=True) if known) / max(
        1, sum(numbers.values())
    )


def padding_waste(lengths: np.ndarray, *, batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """Share of a batch's steps that are padding: rows as they come, and rows sorted by length."""

    def waste(ordered: np.ndarray) -> float:
        starts = np.arange(0, len(ordered), batch_size)
        sizes = np.diff(np.append(starts, len(ordered)))
        padded = (np.maximum.reduceat(ordered, starts) * sizes).sum()
        return float(1.0 - ordered.sum() / padded)

    return {"unsorted": waste(lengths), "by_length": waste(np.sort(lengths))}
