"""Whether a model answers elsewhere as it did when it was evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ANSWERS = ("label", "labels", "probability", "probabilities")
TOLERANCE = 1e-6


def evaluated(path: Path, rows: Sequence[int]) -> dict[str, list[Any]]:
    """What the evaluation said of some test rows, in their order."""
    filters = [("split", "==", "test"), ("row", "in", list(rows))]
    found = {row["row"]: row for row in pq.read_table(path, filters=filters).to_pylist()}
    names = [name for name in ANSWERS if name in found[rows[0]]]
    return {name: [found[row][name] for row in rows] for name in names}


def mismatch(answers: Mapping[str, Sequence[Any]], expected: Mapping[str, Sequence[Any]]) -> str | None:
    """Where two sets of answers differ by more than rounding; None when they do not."""
    for name, values in expected.items():
        if name not in answers or len(answers[name]) != len(values):
            return f"it gave {len(answers.get(name, []))} values of {name!r} for {len(values)} rows"
        for row, (one, other) in enumerate(zip(answers[name], values, strict=True)):
            if not _same(one, other):
                return f"{name} of row {row} is {one!r}, expected {other!r}"
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE
    return one == other
