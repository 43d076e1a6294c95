"""Small sequence sets for training tests."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from components.data.batches import SequenceSet


@pytest.fixture
def make_set() -> Callable[..., SequenceSet]:
    """Sequences whose label is the sign pattern of their first two features, seen through noise."""

    def make(lengths: list[int], *, per_step: bool = True, seed: int = 0, features: int = 3) -> SequenceSet:
        rng = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        x = rng.normal(size=(offsets[-1], features)).astype(np.float32)
        of_step = ((x[:, 0] > 0) + 2 * (x[:, 1] > 0)).astype(np.int32)
        y = of_step if per_step else of_step[offsets[:-1]]
        ids = pa.array([f"s{i}" for i in range(len(lengths))])
        return SequenceSet(x, offsets, y, np.arange(len(lengths)), ids, per_step)

    return make
