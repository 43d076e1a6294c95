"""How long a bundle takes to answer one row at a time, as a caller who waits for each answer would see it."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components import bundles
from components.data.examples import examples

NUM_ROWS, NUM_WARMING, MAX_SECONDS = 200, 10, 5.0
PERCENTILE = 95


@dataclass(frozen=True)
class Latency:
    """What was measured, and where."""

    milliseconds: float  # within which 95 of 100 rows were answered
    num_rows: int
    machine: str


def measure(*, bundle: Path, data: Path, max_seconds: float = MAX_SECONDS) -> Latency:
    """Answer test rows one at a time, from raw values to labels, after warming up.

    Args:
        bundle: what ships.
        data: prepared rows; those asked are spread from the shortest to the longest.
        max_seconds: after which no further row is asked.
    """
    predictor = bundles.open(bundle)
    columns = examples(data / "test", most=NUM_ROWS).columns(None)
    num_rows = len(next(iter(columns.values())))
    rows = [{name: [values[place]] for name, values in columns.items()} for place in range(num_rows)]
    # The first calls trace the graph and fill caches, for short rows and for long ones.
    for place in np.linspace(0, num_rows - 1, min(NUM_WARMING, num_rows)).astype(int):
        predictor.predict(rows[place])
    # Shuffled, so that rows of every length were asked when the time is up.
    order = np.random.default_rng(0).permutation(num_rows)
    seconds: list[float] = []
    until = time.perf_counter() + max_seconds
    for place in order:
        begun = time.perf_counter()
        predictor.predict(rows[place])
        ended = time.perf_counter()
        seconds.append(ended - begun)
        if ended > until:
            break
    found = float(np.percentile(seconds, PERCENTILE, method="higher"))
    return Latency(1000 * found, len(seconds), _machine())


def _machine() -> str:
    import tensorflow as tf

    gpus = len(tf.config.list_logical_devices("GPU"))
    return f"{socket.gethostname()} with {os.cpu_count()} CPUs and {gpus or 'no'} GPU{'s' * (gpus > 1)}"
