"""The loop: `fit` checks and builds when called, then yields what happens.

    for progress in fit(train, valid, ...):     # the caller logs, draws, reports, decides
        ...

It knows no tracker, no bar and no cluster. Stopping early is the caller's `break`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from components.data.batches import Batch, Packed, Plan, SequenceSet, ahead, static_lengths, training_plan
from components.errors import CheckpointError, DataError, TrainingDiverged
from components.metrics import SUMS, Sums, Tally
from components.networks import models
from components.networks.crf import Allowed
from components.served.predictor import batches
from components.spans import Tagging, find
from components.training import kernels, optimizers, strategy
from components.training.calls import Call, Pace
from components.training.checkpoints import Checkpoints
from components.training.progress import Progress, is_better, plateau_scale
from components.training.steps import Steps
from components.training.weighing import Weighing
from components.training.workers import Votes, Workers
from conf.schema import ModelSettings, TrainSettings

REPORT_EVERY_SECONDS = 0.5
MAX_UNREAD_LOSSES = 50


@dataclass
class _Position:
    """Where a run is: saved with every checkpoint, enough to go on from."""

    epoch: int = 0  # the epoch being trained, from 0
    batch: int = 0  # batches of it done
    step: int = 0
    loss_sum: float = 0.0  # of the epoch so far
    mass: float = 0.0  # what loss_sum is divided by: of the sequences seen
    num_steps_done: int = 0
    seconds: float = 0.0  # of the epoch so far
    step_seconds: float = 0.0  # of those, inside training steps
    waiting_seconds: float = 0.0  # of those, with no batch ready
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    train: SequenceSet,
    valid: SequenceSet,
    *,
    task: str,
    labels: Sequence[str],
    model: ModelSettings,
    training: TrainSettings,
    checkpoints: Checkpoints,
    rules: Allowed | None = None,
    tagging: Tagging | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Train from the newest checkpoint, or from the start, and yield progress.

    Yields `resumed` first where there was a checkpoint, `step` about twice a second, `epoch` after each
    validation, and `stopped` once `should_stop()` is true, after a checkpoint. The best epoch by
    `training.early_stopping.metric` is kept as the best checkpoint.

    Args:
        train: encoded training rows.
        valid: encoded validation rows.
        task: labelling or classification.
        labels: names of the classes.
        model: settings of the network.
        training: settings of its training.
        checkpoints: where it is kept.
        rules: which label of a step may follow which; for networks that heed them.
        tagging: what the labels spell, for the scores of spans.
        should_stop: asked after every call of the graph, which is one step or several; of several workers
            about once a second, and any can stop all.

    Raises:
        DataError: a class weight is given for a label that the rows do not have, or the best epoch is to be
            chosen by spans and the validation rows hold none.
        TrainingDiverged: the loss became NaN or infinite; no checkpoint holds such weights.
        ClusterError: the devices or the workers asked for are not there.
        CheckpointError: the checkpoints belong to other settings, all are damaged, or workers read different
            ones.
    """
    run = _Run(train, valid, task, tuple(labels), model, training, checkpoints, rules, tagging, should_stop)
    return run.epochs()


class _Run:
    def __init__(
        self,
        train: SequenceSet,
        valid: SequenceSet,
        task: str,
        labels: tuple[str, ...],
        model: ModelSettings,
        training: TrainSettings,
        checkpoints: Checkpoints,
        rules: Allowed | None,
        tagging: Tagging | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.train, self.valid, self.task, self.num_classes = train, valid, task, len(labels)
        self.training, self.checkpoints = training, checkpoints
        self.model, self.tagging, self.lengths = model, tagging, train.lengths
        self.metric = training.early_stopping.metric
        self._require_spans()
        self.static = static_lengths(np.concatenate([train.lengths, valid.lengths])) if model.unroll else None
        self.weighing = Weighing.of(train, training, labels)
        self.at = _Position()
        steps_per_epoch = self._num_steps()
        self.devices = devices = strategy.choose(training.devices, workers=training.nodes)
        if devices.kind == "CPU":
            strategy.use_cores(model)
        strategy.settle()
        distribution = strategy.strategy(devices, workers=training.nodes)
        with distribution.scope():
            self.network = models.build(
                model,
                task=task,
                slots=train.slots,
                tables=train.tables,
                num_classes=len(labels),
                seed=training.seed,
                unroll=model.unroll,
                precision=training.precision,
                allowed=rules,
            )
            if training.truncate is not None:
                kernels.use_loops(self.network)
            self.optimizer, self.schedule = optimizers.build(
                training, total_steps=training.epochs * steps_per_epoch
            )
            self.steps = Steps(
                self.network,
                self.optimizer,
                strategy=distribution,
                clip_norm=training.clip_norm,
                seed=training.seed,
                criterion=self.weighing.criterion,
                accumulate=training.accumulate,
                ema=training.ema,
                loss_scaling=training.precision == "float16",
                unrolled=model.unroll,
            )
        one_by_one = model.unroll or training.truncate is not None
        self.pace = Pace(1 if one_by_one else training.steps_per_call)
        self.votes = Votes(self.steps.workers, should_stop)
        self.resumed = self._resume()

    def _require_spans(self) -> None:
        """A score of spans tells epochs apart only where the validation rows hold some."""
        if self.tagging is None or "span" not in self.metric:
            return
        if not len(find(self.valid.y, self.valid.lengths, self.tagging, reading="strict")):
            raise DataError(
                f"train.early_stopping.metric is {self.metric}, and no validation row holds a span.",
                hint="Choose the best epoch by loss or accuracy, or give validation rows with spans.",
            )

    def _resume(self) -> bool:
        saved = self.checkpoints.load()
        steps = self.steps.workers.gathered(np.array([-1 if saved is None else saved.state["step"]]))
        if (steps != steps[0]).any():
            raise CheckpointError(
                f"The workers read different checkpoints in {self.checkpoints.folder}.",
                hint="The storage must be one folder that all machines share.",
            )
        if saved is None:
            return False
        for variable, value in zip(self._variables(), saved.arrays, strict=True):
            variable.assign(value)
        names = _Position.__dataclass_fields__
        self.at = _Position(**{name: saved.state[name] for name in names})
        return True

    def _variables(self) -> list[Any]:
        return [*self.network.variables, *self.steps.state]

    def epochs(self) -> Iterator[Progress]:
        if self.resumed:
            yield self._progress("resumed")
        while self.at.epoch < self.training.epochs:
            for progress in self._train_epoch():
                yield progress
                if progress.kind == "stopped":
                    return
            yield self._finish_epoch()

    def _plan(self) -> list[Plan]:
        """The batches of each step of this epoch."""
        plan = training_plan(
            self.lengths,
            batch_size=self.training.batch_size,
            batch_steps=self.training.batch_steps,
            seed=self.training.seed,
            epoch=self.at.epoch,
        )
        each = self.training.accumulate
        return [plan[at : at + each] for at in range(0, len(plan), each)]

    def _num_steps(self) -> int:
        """Optimizer steps of this epoch; those of others may differ a little."""
        plan = self._plan()
        if self.training.truncate is None:
            return len(plan)
        longest = [self.lengths[batch[0]].max() for batch in plan]
        return int(sum(-(-length // self.training.truncate) for length in longest))

    def _train_epoch(self) -> Iterator[Progress]:
        self.schedule.scale.assign(self._plateau())
        unread: list[tuple[Any, list[float]]] = []
        reported = saved = entered = left = time.monotonic()
        self.pace.begin()
        plan = self.pace.groups(self._plan()[self.at.batch :], self._num_bytes)
        for call in ahead(self._call, plan):
            begun = time.monotonic()
            self.at.waiting_seconds += begun - left
            unread.append((self._take(call), call.masses))
            self.pace.count(call.num_batches)
            if sum(len(masses) for _, masses in unread) >= MAX_UNREAD_LOSSES:
                self._read(unread)
            now = time.monotonic()
            self.at.step_seconds += now - begun
            self.at.mass += call.mass
            self.at.batch += call.num_batches
            self.at.step += call.num_updates
            self.at.num_steps_done += call.num_steps
            stop = self._vote(call.num_batches)
            checkpoint_due = now - saved >= self.training.checkpoint_seconds
            if stop or checkpoint_due or now - reported >= REPORT_EVERY_SECONDS:
                self._read(unread)
                self.at.seconds, entered = self.at.seconds + now - entered, now
                if stop or checkpoint_due:
                    self._save()
                    saved = now
                yield self._progress("stopped" if stop else "step")
                reported = now
                if stop:
                    return
                self.pace.begin()  # what the caller did is not a step's time
            left = time.monotonic()
        self._read(unread)
        self.at.seconds += time.monotonic() - entered

    def _plateau(self) -> float:
        if self.training.schedule != "plateau":
            return 1.0
        how = self.training.plateau
        return plateau_scale(self.at.history, self.metric, patience=how.patience, factor=how.factor)

    def _take(self, call: Call) -> Any:
        """Let the steps of a call be computed; the losses of its batches, a list or a tensor."""
        if isinstance(call.parts, Packed):
            return self.steps.train_packed(call.parts)
        take = self.steps.train_stretches if self.training.truncate else self.steps.train
        return take(call.parts)

    def _vote(self, num_steps: int) -> bool:
        """Whether to stop; workers agree with this on the size of calls too, which must be alike."""
        stop = self.votes.stop(num_steps)
        if self.votes.step_seconds is not None:
            self.pace.adapt(self.votes.step_seconds)
        return stop

    def _num_bytes(self, plan: Plan) -> int:
        """The size of a step's batches."""
        cells = sum(len(rows) * int(self.lengths[rows].max()) for rows in plan)
        return cells * self.train.x.shape[1] * self.train.x.itemsize

    def _call(self, plans: list[Plan]) -> Call:
        """What one call trains on, given the rows of each of its steps."""
        steps, masses = zip(*map(self._training_batches, plans), strict=True)
        in_stretches = self.training.truncate is not None
        return Call(
            parts=steps[0] if self.pace.most == 1 else Packed.of(steps),
            masses=[mass for each in masses for mass in each],
            mass=sum(sum(each) if in_stretches else each[0] for each in masses),
            num_batches=len(plans),
            num_updates=len(steps[0]) if in_stretches else len(plans),
            num_steps=sum(int(self.lengths[rows].sum()) for plan in plans for rows in plan),
        )

    def _training_batches(self, plan: Plan) -> tuple[list[Batch], list[float]]:
        """The batches of one step, weighted as one, or the stretches of a batch; and their masses.

        Weights, masses and padding are those of the whole batches, the rows this worker's.
        """
        workers = self.steps.workers
        if self.training.truncate is not None:
            rows = plan[0]
            weights = self.weighing.factors[rows]
            batch = self.train.batch(rows, weights=weights, multiple_of=self.steps.num_replicas)
            stretches = self.weighing.stretches(batch, self.training.truncate)
            return [part.part(*workers.share) for part, _ in stretches], [mass for _, mass in stretches]
        mass = float(sum(self.weighing.masses[rows].sum() for rows in plan))
        parts = [
            self.train.batch(
                rows,
                weights=self.weighing.factors[rows] / mass,
                multiple_of=self.steps.num_replicas,
                pad_to=self._static_length(self.train, rows),
                share=workers.share,
            )
            for rows in plan
        ]
        return parts, [mass] * len(parts)

    def _static_length(self, split: SequenceSet, rows: np.ndarray) -> int | None:
        if self.static is None:
            return None
        return int(self.static[np.searchsorted(self.static, split.lengths[rows].max())])

    def _read(self, unread: list[tuple[Any, list[float]]]) -> None:
        """Wait for the steps under way and add their losses up; NaN ends the run here."""
        for losses, masses in unread:
            found = losses if isinstance(losses, list) else losses.numpy()
            for loss, mass in zip(found, masses, strict=True):
                self.at.loss_sum += float(loss) * mass
        unread.clear()
        if self.steps.workers.count == 1:
            self.pace.measure()
        if not math.isfinite(self.at.loss_sum):
            raise self._diverged("The training loss")

    def _finish_epoch(self) -> Progress:
        kept = self.steps.averaged()
        scores = self._scores(kept)
        if not math.isfinite(scores["loss"]):
            raise self._diverged("The validation loss")
        at = self.at
        best = [entry["valid"][self.metric] for entry in at.history if entry["best"]]
        is_best = is_better(self.metric, scores[self.metric], best[-1] if best else None)
        entry = {
            "epoch": at.epoch + 1,
            "step": at.step,
            "loss": at.loss_sum / at.mass,
            "valid": scores,
            "best": is_best,
            "seconds": at.seconds,
            "step_seconds": at.step_seconds,
            "waiting_seconds": at.waiting_seconds,
            "steps_per_second": at.num_steps_done / max(at.seconds, 1e-9),
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "kernel": self.kernel,
        }
        done = self._progress("epoch", metrics=scores, is_best=is_best, epoch=at.epoch + 1)
        self.at = _Position(epoch=at.epoch + 1, step=at.step, history=[*at.history, entry])
        if is_best:
            self.checkpoints.save_best(kept, {"epoch": at.epoch + 1, "valid": scores})
        self._save()
        self.checkpoints.write_history(self.at.history)
        return Progress(**{**done.__dict__, "history": tuple(self.at.history)})

    @cached_property
    def kernel(self) -> str:
        """What the recurrence runs on; to be asked once steps were taken."""
        graphs = self.steps.training_graphs()
        return kernels.describe(self.model, self.training, self.devices, graphs=graphs)

    def _scores(self, weights: list[np.ndarray]) -> dict[str, float]:
        """Scores on the validation rows under these weights, which are put away again afterwards."""
        trained = self.network.weights()
        self.network.load(weights)
        scores = evaluate(
            self.steps,
            self.valid,
            num_classes=self.num_classes,
            tagging=self.tagging,
            pad_to=self._static_length,
        )
        self.network.load(trained)
        return scores

    def _save(self) -> None:
        if not self.checkpoints.writes:
            return
        arrays = [variable.numpy() for variable in self._variables()]
        if not all(np.isfinite(array).all() for array in arrays):
            raise self._diverged("A weight")
        self.checkpoints.save(arrays, asdict(self.at))

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what} is no longer finite in epoch {self.at.epoch + 1}, by step {self.at.step}.",
            hint="Lower train.learning_rate, set train.clip_norm, or scale the inputs (scale: standard).",
        )

    def _progress(
        self,
        kind: Any,
        *,
        metrics: dict[str, float] | None = None,
        is_best: bool = False,
        epoch: int | None = None,
    ) -> Progress:
        at = self.at
        return Progress(
            kind=kind,
            epoch=at.epoch if epoch is None else epoch,
            step=at.step,
            num_epochs=self.training.epochs,
            num_steps_done=at.num_steps_done,
            num_steps=int(self.train.offsets[-1]),
            loss=at.loss_sum / at.mass if at.mass else math.nan,
            metrics=metrics or {},
            steps_per_second=at.num_steps_done / max(at.seconds, 1e-9),
            seconds=at.seconds,
            waiting_seconds=at.waiting_seconds,
            is_best=is_best,
            history=tuple(at.history),
        )


def evaluate(
    steps: Steps,
    split: SequenceSet,
    *,
    num_classes: int,
    tagging: Tagging | None = None,
    pad_to: Callable[[SequenceSet, np.ndarray], int | None] = lambda split, rows: None,
) -> dict[str, float]:
    """Scores of the network on every row of a split, once each, whatever the batches and replicas.

    Workers take turns at the batches, and all get the scores of the whole.
    """
    task = "labelling" if split.per_step else "classification"
    tally = Tally.empty(num_classes, task, tagging=tagging)

    def build(rows: np.ndarray) -> Batch:
        return split.batch(rows, multiple_of=steps.num_local, pad_to=pad_to(split, rows))

    workers = steps.workers
    for batch in ahead(build, batches(split.lengths)[workers.index :: workers.count]):
        predicted = steps.evaluate(batch)
        real = batch.rows >= 0
        lengths = batch.lengths[real]
        if split.per_step:
            steps_mask = np.arange(batch.x.shape[1]) < lengths[:, np.newaxis]
            truth, labels, confidence = (
                values[real][steps_mask] for values in (batch.targets, predicted.labels, predicted.confidence)
            )
        else:
            truth, labels, confidence = (
                batch.targets[real],
                predicted.labels[real],
                predicted.confidence[real],
            )
        tally.update(truth, labels, confidence, lengths, predicted.losses[real])
    return Tally(_over_workers(tally.sums, workers), task, tagging).scores()


def _over_workers(sums: Sums, workers: Workers) -> Sums:
    """The sums of all workers, added in the same order on each."""
    fields = [np.asarray(getattr(sums, name)) for name in SUMS]
    total = workers.gathered(np.concatenate([field.ravel() for field in fields])).sum(axis=0)
    ends = np.cumsum([field.size for field in fields])[:-1]
    parts = np.split(total, ends)
    return Sums(*(part.reshape(field.shape) for part, field in zip(parts, fields, strict=True)))
