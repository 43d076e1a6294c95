"""What the Keras guides show: everything padded to the longest row, a mask, and `Model.fit`."""

import time
from collections.abc import Iterator
from typing import Any

import keras

from benchmarks.peers.cases import Case, Epoch, Part

VERSION = f"Keras {keras.__version__}"
FILL = -1.0  # not 0: rows of letters have steps of nothing but zeros, which Masking would drop
LAYERS = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}


class _Clock(keras.callbacks.Callback):
    """Times the epochs of `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.first_batch: float | None = None
        self.begun = self.trained = 0.0
        self.accuracy: float | None = None
        self.seconds = self.wall = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun, self.trained = time.perf_counter(), 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.first_batch is None:
            self.first_batch = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        counted = max(self.begun, self.first_batch or 0.0)
        self.seconds, self.wall = (self.trained or now) - self.begun, now - counted
        self.accuracy = (logs or {}).get("val_accuracy")


def epochs(train: Part, valid: Part, case: Case) -> Iterator[Epoch]:
    """One after another, without end."""
    keras.utils.set_random_seed(case.seed)
    x, y = _padded(train, case)
    model = network(case, train)
    model.compile(
        keras.optimizers.Adam(case.rate, global_clipnorm=case.clip_norm),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"] if case.validate else None,
    )
    checked = _padded(valid, case) if case.validate else None
    clock = _Clock()
    while True:
        model.fit(x, y, batch_size=case.batch, verbose=0, validation_data=checked, callbacks=[clock])
        steps = int(train.offsets[-1])
        yield Epoch(steps, len(x) * x.shape[1], clock.seconds, clock.wall, clock.accuracy)


def network(case: Case, train: Part) -> keras.Model:
    """The same layers and sizes as Recurra's."""
    if case.symbols:
        # One more: padding is 0, which Recurra keeps for the unknown.
        front = keras.layers.Embedding(case.symbols + 1, case.embedding, mask_zero=True)
        given = keras.Input((None,), dtype="int32")
    else:
        front = keras.layers.Masking(FILL)
        given = keras.Input((None, train.x.shape[1]))
    layer = LAYERS[case.cell](case.units, return_sequences=train.per_step)
    if case.bidirectional:
        layer = keras.layers.Bidirectional(layer)
    return keras.Model(given, keras.layers.Dense(case.classes)(layer(front(given))))


def _padded(part: Part, case: Case) -> tuple[Any, Any]:
    x, y = part.padded(case.longest, FILL)
    return ((x[..., 0] + 1).astype("int32") if case.symbols else x), y
