"""How fast training goes on so many devices: a few seconds of the real loop, first steps left out.

    measure ─ Progress, Progress, ... ─▶ windows of about half a second ─▶ the median one

One process measures once: devices cannot be set up anew after TensorFlow's first operation.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from components.data.batches import SequenceSet
from components.data.tags import tagging
from components.served.encoding import Encoding
from components.training.checkpoints import Checkpoints
from components.training.loop import fit
from components.training.progress import Progress
from components.training.rules import rules_of
from conf.schema import Settings

# Fewer windows say nothing, however long they take; without end, the first graphs being slow to build.
LEAST_WINDOWS, MOST_SECONDS = 3, 120.0
# Validation is not what is measured.
NUM_VALID = 8


@dataclass(frozen=True)
class Throughput:
    """What was measured."""

    steps_per_second: float  # real time steps
    waiting_share: float  # of the time, with no batch ready, 0 to 1


def measure(settings: Settings, data: Path, *, devices: str, seconds: float) -> Throughput:
    """Train on prepared rows for some seconds, and keep nothing of it.

    Args:
        settings: of the run; its devices do not count.
        data: the prepared rows, `data/` of a run folder.
        devices: as in `train.devices`.
        seconds: to measure, the first steps not counted.

    Raises:
        ClusterError: the devices are not there.
        TrainingDiverged: the loss became NaN.
    """
    encoding = Encoding.from_json(json.loads((data / "encoding.json").read_text("utf8")))
    train = SequenceSet.open(data / "train", encoding).cut(encoding.max_length)
    # More epochs than there is time for.
    changes = {"devices": devices, "nodes": 1, "epochs": 1_000_000, "checkpoint_seconds": 86_400.0}
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        progress = fit(
            train,
            _first(train, NUM_VALID),
            task=settings.task,
            labels=encoding.labels,
            rules=rules_of(encoding),
            tagging=tagging(encoding.labels, encoding.scheme),
            model=settings.model,
            training=settings.train.model_copy(update=changes),
            checkpoints=Checkpoints(Path(scratch), "throughput"),
        )
        return summarise(_until(progress, seconds=seconds))


def _first(rows: SequenceSet, count: int) -> SequenceSet:
    stop = rows.offsets[min(count, len(rows))]
    return replace(
        rows,
        x=rows.x[:stop],
        offsets=rows.offsets[: count + 1],
        y=rows.y[:stop] if rows.per_step else rows.y[:count],
        row=rows.row[:count],
        ids=rows.ids[:count],
    )


def _until(progress: Iterable[Progress], *, seconds: float) -> list[Progress]:
    """What happens within so many seconds of the first steps."""
    seen: list[Progress] = []
    for each in progress:
        seen.append(each)
        now = time.monotonic()
        if len(seen) == 1:
            begun = now
        enough = now - begun >= seconds and len(seen) > LEAST_WINDOWS
        if enough or now - begun >= MOST_SECONDS:
            break
    return seen


def summarise(seen: Sequence[Progress]) -> Throughput:
    """The median rate between one progress and the next, and the share of waiting over all of them."""
    rates, waited, took = [], 0.0, 0.0
    for before, after in pairwise(seen):
        if before.kind == "epoch":  # counts begin anew
            before = replace(before, num_steps_done=0, seconds=0.0, waiting_seconds=0.0)
        spent = after.seconds - before.seconds
        if spent > 0:
            rates.append((after.num_steps_done - before.num_steps_done) / spent)
            waited, took = waited + after.waiting_seconds - before.waiting_seconds, took + spent
    return Throughput(median(rates) if rates else 0.0, waited / took if took else 0.0)
