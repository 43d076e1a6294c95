"""Recurra's own loop, as its training stage calls it."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from benchmarks.peers.cases import Case, Epoch, Part
from components.data.batches import SequenceSet, training_plan
from components.served.encoding import Slot
from components.training.checkpoints import Checkpoints
from components.training.loop import fit
from conf.schema import ModelSettings, TrainSettings

VERSION = f"TensorFlow {tf.__version__}"
MANY_EPOCHS = 100_000


def epochs(train: Part, valid: Part, case: Case) -> Iterator[Epoch]:
    """One after another, without end. Without `validate` a single row is validated on."""
    if not case.validate:
        valid = valid.take(np.arange(1))
    with tempfile.TemporaryDirectory(prefix="recurra-training-") as folder:
        training = TrainSettings(
            epochs=MANY_EPOCHS,
            batch_size=case.batch,
            learning_rate=case.rate,
            clip_norm=case.clip_norm,
            seed=case.seed,
            devices="cpu:1",
        )
        happenings = fit(
            _opened(train, case),
            _opened(valid, case),
            task="labelling" if train.per_step else "classification",
            labels=[str(label) for label in range(case.classes)],
            model=ModelSettings(cell=case.cell, units=case.units, bidirectional=case.bidirectional),
            training=training,
            checkpoints=Checkpoints(Path(folder), key="benchmark"),
        )
        begun = None
        for progress in happenings:
            begun = begun or time.perf_counter()  # the first word comes after the first batch
            if progress.kind == "epoch":
                now = time.perf_counter()
                entry = progress.history[-1]
                cells = _cells(train.lengths, training, entry["epoch"] - 1)
                accuracy = entry["valid"]["accuracy"]
                yield Epoch(int(train.offsets[-1]), cells, entry["seconds"], now - begun, accuracy)
                begun = time.perf_counter()


def _opened(part: Part, case: Case) -> SequenceSet:
    n = len(part.offsets) - 1
    width = part.x.shape[1]
    slot = Slot("symbol", 1, case.symbols, case.embedding) if case.symbols else Slot("numbers", width)
    names = pa.array([str(i) for i in range(n)])
    return SequenceSet(part.x, part.offsets, part.y, np.arange(n), names, part.per_step, (slot,))


def _cells(lengths: np.ndarray, training: TrainSettings, epoch: int) -> int:
    plan = training_plan(lengths, batch_size=training.batch_size, seed=training.seed, epoch=epoch)
    return sum(len(rows) * int(lengths[rows].max()) for rows in plan)
