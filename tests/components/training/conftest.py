"""Small sequence sets for training tests."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from components.data.batches import SequenceSet
from components.served.encoding import Slot

SYMBOLS = (Slot("symbol", 1, size=5, embedding=2), Slot("characters", 4, size=6))


@pytest.fixture
def make_set() -> Callable[..., SequenceSet]:
    """Sequences whose label is the sign pattern of their first two features, seen through noise.

    With `symbols`, a symbol and the characters of a token, 0 to 4, stand beside them and say nothing.
    """

    def make(
        lengths: list[int],
        *,
        per_step: bool = True,
        seed: int = 0,
        features: int = 3,
        symbols: bool = False,
    ) -> SequenceSet:
        rng = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        x = rng.normal(size=(offsets[-1], features)).astype(np.float32)
        of_step = ((x[:, 0] > 0) + 2 * (x[:, 1] > 0)).astype(np.int32)
        y = of_step if per_step else of_step[offsets[:-1]]
        ids = pa.array([f"s{i}" for i in range(len(lengths))])
        slots: tuple[Slot, ...] = (Slot("numbers", features),)
        if symbols:
            spelt = np.arange(4) < rng.integers(0, 5, (len(x), 1))
            numbers = [rng.integers(0, 5, (len(x), 1)), rng.integers(1, 6, (len(x), 4)) * spelt]
            x, slots = np.concatenate([x, *numbers], axis=1).astype(np.float32), slots + SYMBOLS
        return SequenceSet(x, offsets, y, np.arange(len(lengths)), ids, per_step, slots)

    return make
