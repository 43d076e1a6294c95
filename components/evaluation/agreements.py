"""Whether a model answers elsewhere as it did when it was evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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


def agreement(one: pa.Table, other: pa.Table) -> dict[str, Any]:
    """How far two sets of predictions of the same rows agree.

    Gives the number of rows, the share of them with the same labels, and the largest difference between the
    probabilities of what was said; 1.0 where one says nothing of a row or of a step.
    """
    ours, theirs = (
        table.select([name for name in ("row", *ANSWERS) if name in table.column_names]).to_pylist()
        for table in (one, other)
    )
    rows = {row["row"]: row for row in theirs}
    same, most = 0, 0.0
    for row in ours:
        answer = rows.get(row["row"], {})
        name = "labels" if "labels" in row else "label"
        same += row[name] == answer.get(name)
        most = max(most, _apart(row, answer, "probabilities" if name == "labels" else "probability"))
    return {"rows": one.num_rows, "same_labels": same / max(one.num_rows, 1), "probability": most}


def _apart(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> float:
    ours, theirs = np.atleast_1d(one[name]), np.atleast_1d(other.get(name, []))
    if ours.shape != theirs.shape:
        return 1.0
    return float(np.abs(ours - theirs).max(initial=0.0))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE
    return one == other
