"""What the data looks like: the page of the report, and the reference that drift is measured against.

profile.json
  splits    {train: {rows, steps, lengths: {min, mean, median, max, histogram}, labels: {label: count}}}
  inputs    [{column, features: [{mean, std, min, max}], constant: [..]}]   of training steps
  padding   {unsorted, by_length}   share of padded steps in batches of 64
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.data.encoders import Statistics

NUM_BINS = 20
MAX_FEATURES = 1024
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


def of_inputs(columns: Sequence[str], statistics: Sequence[Statistics]) -> list[dict[str, Any]]:
    """Each input's features over the training steps; the first 1,024 features of each."""
    return [
        {
            "column": column,
            "features": [
                {"mean": mean, "std": std, "min": low, "max": high}
                for mean, std, low, high in zip(
                    each.mean[:MAX_FEATURES].tolist(),
                    each.deviation[:MAX_FEATURES].tolist(),
                    each.low[:MAX_FEATURES].tolist(),
                    each.high[:MAX_FEATURES].tolist(),
                    strict=True,
                )
            ],
            "num_features": len(each.mean),
            "constant": np.flatnonzero(each.constant).tolist(),
        }
        for column, each in zip(columns, statistics, strict=True)
    ]


def padding_waste(lengths: np.ndarray, *, batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """Share of a batch's steps that are padding: rows as they come, and rows sorted by length."""

    def waste(ordered: np.ndarray) -> float:
        starts = np.arange(0, len(ordered), batch_size)
        sizes = np.diff(np.append(starts, len(ordered)))
        padded = (np.maximum.reduceat(ordered, starts) * sizes).sum()
        return float(1.0 - ordered.sum() / padded)

    return {"unsorted": waste(lengths), "by_length": waste(np.sort(lengths))}
