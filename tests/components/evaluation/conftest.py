"""Made-up answers with known sums."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest


@pytest.fixture(scope="session")
def label_table() -> Callable[..., pa.Table]:
    """A predictions table of a labeller from label sequences."""

    def make(
        truth: Sequence[Sequence[str]],
        said: Sequence[Sequence[str]],
        *,
        probability: float = 0.9,
        split: str = "test",
        seen: Sequence[bool] | None = None,
        loss: float = 0.5,
    ) -> pa.Table:
        n = len(truth)
        return pa.table(
            {
                "split": pa.array([split] * n, pa.string()),
                "row": pa.array(range(n), pa.int64()),
                "id": pa.array([f"w{i}" for i in range(n)], pa.string()),
                "length": pa.array([len(each) for each in truth], pa.int32()),
                "truth": pa.array([list(each) for each in truth], pa.list_(pa.string())),
                "labels": pa.array([list(each) for each in said], pa.list_(pa.string())),
                "probabilities": pa.array(
                    [[probability] * len(each) for each in said], pa.list_(pa.float64())
                ),
                "loss": pa.array([loss * len(each) for each in truth], pa.float64()),
                "seen": pa.array(seen if seen is not None else [None] * n, pa.bool_()),
                "place": pa.array(range(n), pa.int64()),
            }
        )

    return make


@pytest.fixture(scope="session")
def class_table() -> Callable[..., pa.Table]:
    """A predictions table of a classifier from labels."""

    def make(
        truth: Sequence[str],
        said: Sequence[str],
        *,
        probability: float | Sequence[float] = 0.9,
        split: str = "test",
        loss: float | Sequence[float] = 0.5,
    ) -> pa.Table:
        n = len(truth)
        return pa.table(
            {
                "split": pa.array([split] * n, pa.string()),
                "row": pa.array(range(n), pa.int64()),
                "id": pa.nulls(n, pa.string()),
                "length": pa.array([3] * n, pa.int32()),
                "truth": pa.array(list(truth), pa.string()),
                "label": pa.array(list(said), pa.string()),
                "probability": pa.array(np.broadcast_to(probability, n), pa.float64()),
                "loss": pa.array(np.broadcast_to(loss, n), pa.float64()),
                "seen": pa.nulls(n, pa.bool_()),
                "place": pa.array(range(n), pa.int64()),
            }
        )

    return make


@pytest.fixture(scope="session")
def with_distribution() -> Callable[[pa.Table, np.ndarray], pa.Table]:
    """A classifier's table with the probability of every label, (n, C)."""

    def make(table: pa.Table, probabilities: np.ndarray) -> pa.Table:
        column = pa.array(np.asarray(probabilities).tolist(), pa.list_(pa.float64()))
        return table.append_column("distribution", column)

    return make
