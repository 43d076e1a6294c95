"""The arithmetic of a training step as a single matrix product: as fast as this machine multiplies."""

import time
from collections.abc import Iterator

import tensorflow as tf

from benchmarks.peers.cases import Case, Epoch, Part

VERSION = f"TensorFlow {tf.__version__}"
REPEATED = 20


def epochs(train: Part, valid: Part, case: Case) -> Iterator[Epoch]:
    """Each is REPEATED products, every one as large as the training step of a mean batch."""
    steps = float(train.lengths.mean()) * case.batch
    size = round((steps * case.flops(train.x.shape[1]) / 2) ** (1 / 3))
    steps = 2.0 * size**3 / case.flops(train.x.shape[1])
    a, b = (tf.random.stateless_normal((size, size), (0, seed)) for seed in range(2))
    while True:
        begun = time.perf_counter()
        for _ in range(REPEATED):
            product = tf.matmul(a, b)
        product[0, 0].numpy()
        seconds = time.perf_counter() - begun
        done = round(REPEATED * steps)
        yield Epoch(done, done, seconds, seconds)
