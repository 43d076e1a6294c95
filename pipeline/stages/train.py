"""train: fit the network on the prepared rows and freeze its best epoch as one bundle.

The worker holds TensorFlow and runs the loop; this process shows, logs and handles signals.

    train_on_worker ─ Progress ─▶ train ─▶ bar, MLflow, early stopping, SIGTERM

With `train.nodes` above 1 several workers run the same loop, and the first one's progress counts.
"""

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.errors import DataError, StorageError
from components.training.checkpoints import HISTORY
from components.training.progress import MUCH_WAITING, Progress, epochs_without_gain, waiting_share
from conf.schema import EarlyStopping, Settings
from pipeline.backends import workers
from pipeline.backends.cluster import Cluster, WorkerLost
from pipeline.backends.drains import MachineLeaves, ToldToEnd, leaving
from pipeline.backends.mirrors import publishing
from pipeline.backends.recorders import Recorder
from pipeline.backends.signals import Signals
from pipeline.backends.workspace import RunFolder
from pipeline.console import Bar, Console

MAX_RESTARTS = 3
# From which share of an epoch, or how many seconds of training, waiting for batches is worth a word.
TOLD_SHARE, TOLD_SECONDS = 0.1, 1.0


def train(
    settings: Settings,
    *,
    folder: RunFolder,
    key: str,
    cluster: Cluster,
    tracker: Recorder,
    signals: Signals,
    console: Console,
    nearly_done: Callable[[], None] = lambda: None,
    most_epochs: int | None = None,
) -> dict[str, Any]:
    """Train, or go on training, and write `bundle/`; what run.json keeps of it.

    `nearly_done` is called when the last epoch begins; early stopping may end training before. `most_epochs`
    ends it after so many although the learning rate is planned for all.

    Raises:
        TrainingDiverged: the loss became NaN.
        Interrupted, Terminated: stopped by a signal, after a checkpoint.
        WorkerLost: the TensorFlow process died more than `MAX_RESTARTS` times.
    """
    folder.stop.unlink(missing_ok=True)
    job = {"settings": settings, "data": folder.data, "checkpoints": folder.checkpoints, "key": key}
    watched = {**job, "stop": folder.stop, "most_epochs": most_epochs}
    history: tuple[dict[str, Any], ...] = ()
    published = time.monotonic()
    try:
        with signals.grace(folder.stop.touch), console.progress("train", unit="steps") as bar:
            for progress in _progress(settings, folder, cluster, console, watched):
                history = progress.history
                _show(bar, progress, settings)
                if progress.kind == "epoch":
                    if progress.epoch == progress.num_epochs - 1:
                        nearly_done()
                    _log(tracker, progress)
                    console.detail(_sentence(progress))
                    if time.monotonic() - published >= settings.train.checkpoint_seconds:
                        # What MLflow has got, so that it need not hear of it twice from elsewhere.
                        folder.publish_meanwhile()
                        published = time.monotonic()
                if progress.kind == "stopped":
                    raise signals.stopped()
    finally:
        folder.stop.unlink(missing_ok=True)
    best = cluster.worker().call(freeze, **job, target=folder.bundle)
    _tell_temperature(console, best["scaling"])
    _tell_waiting(console, history)
    return _summary(best, history, tracker)


def _summary(
    best: Mapping[str, Any], history: Sequence[Mapping[str, Any]], tracker: Recorder
) -> dict[str, Any]:
    kernel = history[-1].get("kernel", "") if history else ""
    tracker.log_tags({"recurra.kernel": kernel}, stage="train")
    return {**best, "epochs": len(history), **_seconds(history), "kernel": kernel}


def adopt(
    settings: Settings,
    *,
    trial: Path,
    folder: RunFolder,
    key: str,
    cluster: Cluster,
    tracker: Recorder,
    console: Console,
) -> dict[str, Any]:
    """Freeze a trial's best epoch as what this run has trained; like `train`, what run.json keeps of it."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    shutil.copytree(trial, folder.checkpoints)
    history = json.loads((folder.checkpoints / HISTORY).read_text("utf8"))
    job = {"settings": settings, "data": folder.data, "checkpoints": folder.checkpoints, "key": key}
    best = cluster.worker().call(freeze, **job, target=folder.bundle)
    console.note(f"Trial {int(trial.name)} is taken as it is: epoch {best['best_epoch']} of {len(history)}.")
    _tell_temperature(console, best["scaling"])
    return _summary(best, history, tracker)


def require_gpu() -> None:
    """Nothing where this process, a worker, has a GPU to train on.

    Raises:
        ClusterError: it has none.
    """
    from components.training import strategy

    strategy.require_gpu()


def train_on_worker(
    *,
    settings: Settings,
    data: Path,
    checkpoints: Path,
    key: str,
    stop: Path,
    most_epochs: int | None = None,
    writes: bool = True,
    told_to_end: Callable[[], ToldToEnd | None] = lambda: None,
) -> Iterator[Progress]:
    """Progress of the loop, ended by early stopping where the settings ask for it, or after `most_epochs`.

    Of several workers only one writes checkpoints. `told_to_end` says why this process should end, if it
    should; then all of them do, after a checkpoint.

    Raises:
        WorkerLost: a worker was told to end.
        StorageError: this machine does not see the run's folder.
    """
    from components.data.batches import SequenceSet
    from components.data.tags import tagging
    from components.training.checkpoints import Checkpoints
    from components.training.loop import fit
    from components.training.rules import rules_of

    if not data.exists():
        raise StorageError(
            f"{data} is not there on {socket.gethostname()}.",
            hint="Training on several machines needs a --storage that all of them see under one path.",
        )
    encoding = _encoding(data)
    stopping = settings.train.early_stopping
    with publishing(checkpoints) if writes else nullcontext(_nothing) as saved:
        run = fit(
            SequenceSet.open(data / "train", encoding).cut(encoding.max_length),
            SequenceSet.open(data / "valid", encoding).cut(encoding.max_length),
            task=settings.task,
            labels=encoding.labels,
            rules=rules_of(encoding),
            tagging=tagging(encoding.labels, encoding.scheme),
            model=settings.model,
            training=settings.train,
            checkpoints=Checkpoints(
                checkpoints, key, keep=settings.train.keep_checkpoints, writes=writes, on_saved=saved
            ),
            should_stop=lambda: stop.exists() or told_to_end() is not None,
        )
        for progress in run:
            if progress.kind == "stopped" and not stop.exists():
                raise told_to_end() or WorkerLost("Another training worker was told to end.")
            yield progress
            if _is_enough(progress, stopping, most_epochs):
                return


def _is_enough(progress: Progress, stopping: EarlyStopping, most_epochs: int | None) -> bool:
    """Whether training ends after what was just told."""
    if progress.kind not in ("epoch", "resumed"):
        return False
    if most_epochs is not None and len(progress.history) >= most_epochs:
        return True
    if stopping.patience is None:
        return False
    return epochs_without_gain(progress.history, stopping.metric) >= stopping.patience


def _nothing() -> None:
    """What is to be done about a new checkpoint of a worker that writes none."""


def freeze(*, settings: Settings, data: Path, checkpoints: Path, key: str, target: Path) -> dict[str, Any]:
    """Export the best epoch with its encoding as a bundle; its epoch and validation scores.

    The scores are at temperature 1; `scaling` says what was fitted, None where the settings ask for nothing.
    """
    from components import bundles
    from components.data.batches import tables
    from components.networks import models
    from components.training import kernels
    from components.training.checkpoints import Checkpoints
    from components.training.rules import rules_of

    encoding = _encoding(data)
    kept = Checkpoints(checkpoints, key)
    _require_best(settings, checkpoints)
    best = kept.load_best()
    network = models.build(
        settings.model,
        task=settings.task,
        slots=encoding.slots,
        num_classes=encoding.num_classes,
        seed=settings.train.seed,
        allowed=rules_of(encoding),
        tables=tables(data, encoding),
    )
    network.load(best.arrays)
    # What was trained on a GPU has to answer without one.
    kernels.use_loops(network)
    reason = models.why_not_stepwise(settings.model, task=settings.task, max_length=encoding.max_length)
    bundles.write(
        target,
        export=lambda path: models.export(network, path, stepwise=reason is None),
        encoding=encoding,
        name=settings.name,
        epoch=best.state["epoch"],
        metrics=best.state["valid"],
        id_column=settings.data.id,
        layout=_layout(settings),
        not_stepwise=reason,
    )
    scaling = _scale(target, data) if settings.train.temperature_scaling else None
    kept.clear()
    return {
        "best_epoch": best.state["epoch"],
        "valid": best.state["valid"],
        "parameters": network.num_parameters,
        "scaling": scaling,
    }


def _require_best(settings: Settings, checkpoints: Path) -> None:
    """One epoch at least has a score; there is no precision of spans where a model never says one."""
    history = json.loads((checkpoints / HISTORY).read_text("utf8"))
    if not any(entry["best"] for entry in history):
        metric = settings.train.early_stopping.metric
        raise DataError(
            f"None of the {len(history)} epochs has a number for {metric} on the validation rows.",
            hint="Train longer, or choose the best epoch by loss (train.early_stopping.metric).",
        )


def _scale(bundle: Path, data: Path) -> dict[str, Any]:
    """Fit a bundle's temperature on the validation rows, store it in the bundle, and say what it did."""
    from components import bundles
    from components.data.batches import SequenceSet
    from components.evaluation import calibration

    predictor = bundles.open(bundle)
    found = calibration.fit(predictor, SequenceSet.open(data / "valid", predictor.encoding))
    bundles.set_temperature(bundle, found.temperature)
    return asdict(found)


def _progress(
    settings: Settings, folder: RunFolder, cluster: Cluster, console: Console, job: dict[str, Any]
) -> Iterator[Progress]:
    if settings.train.nodes == 1:
        yield from _surviving(cluster, console, job)
        return
    # Its CPUs and GPUs may be those that the workers need.
    cluster.release_worker()
    yield from workers.stream(
        cluster,
        train_on_worker,
        scratch=folder.workers,
        max_restarts=MAX_RESTARTS,
        warn=console.warn,
        patience=settings.train.hang_seconds,
        **job,
    )


def _surviving(cluster: Cluster, console: Console, job: dict[str, Any]) -> Iterator[Progress]:
    """The worker's progress; a lost worker is replaced and goes on from its last checkpoint."""
    worker, patience = cluster.worker(), job["settings"].train.hang_seconds
    num_lost = 0
    while True:
        try:
            yield from worker.stream(train_on_worker, patience=patience, **job, told_to_end=leaving)
            return
        except WorkerLost as error:
            num_lost += not isinstance(error, MachineLeaves)  # which are as many as the cluster wants
            if num_lost > MAX_RESTARTS:
                raise
            console.warn(f"{error.message} Going on from the last checkpoint in a new one.")
            worker = cluster.replace_worker()


def _encoding(data: Path) -> Any:
    from components.served.encoding import Encoding

    return Encoding.from_json(json.loads((data / "encoding.json").read_text("utf8")))


def _layout(settings: Settings) -> dict[str, Any]:
    """How files of rows are read, for whoever has new ones."""
    data = settings.data
    vectors = {part.column: getattr(part, "columns", None) for part in data.inputs}
    return {
        "layout": data.layout,
        "order": data.order,
        "names": data.columns and list(data.columns),
        "columns": {column: list(names) for column, names in vectors.items() if names},
    }


def _show(bar: Bar, progress: Progress, settings: Settings) -> None:
    done = progress.epoch * progress.num_steps + (progress.num_steps_done if progress.kind == "step" else 0)
    notes = {"epoch": f"{min(progress.epoch + 1, progress.num_epochs)}/{progress.num_epochs}"}
    if progress.history:
        last = progress.history[-1]
        notes |= {"loss": f"{last['loss']:.4f}", "valid_accuracy": f"{last['valid']['accuracy']:.4f}"}
    bar.at(done, total=progress.num_epochs * progress.num_steps, **notes)


def _log(tracker: Recorder, progress: Progress) -> None:
    tracker.log_metrics(values_of(progress.history[-1]), step=progress.epoch, stage="train")


def values_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow gets of one epoch."""
    values = {"train_loss": entry["loss"], "learning_rate": entry["learning_rate"]}
    timings = ("steps_per_second", "seconds", "step_seconds", "waiting_seconds")
    values |= {name: entry[name] for name in timings}
    return values | {f"valid_{name}": value for name, value in entry["valid"].items()}


def _sentence(progress: Progress) -> str:
    entry = progress.history[-1]
    scores = " ".join(f"{name} {value:.4f}" for name, value in entry["valid"].items())
    mark = " (best)" if progress.is_best else ""
    share = waiting_share([entry])
    waited = f"; waited {share:.0%} for input" if share > TOLD_SHARE else ""
    return f"epoch {progress.epoch}: loss {entry['loss']:.4f}; valid {scores}{mark}{waited}"


def _tell_waiting(console: Console, history: Sequence[Mapping[str, Any]]) -> None:
    if waiting_share(history) > MUCH_WAITING and _seconds(history)["waiting_seconds"] > TOLD_SECONDS:
        console.note(
            f"Training waited {waiting_share(history):.0%} of its time for batches: larger ones "
            "(train.batch_size) or faster CPU cores would help more than faster devices."
        )


def _tell_temperature(console: Console, scaling: Mapping[str, Any] | None) -> None:
    """The temperature that was fitted, where one was, and what speaks against it."""
    if scaling is None:
        return
    text = f"temperature {scaling['temperature']:.4f}, fitted on {scaling['num_units']:,} validation answers"
    if scaling["loss"] is not None:
        text += f": loss {scaling['loss_before']:.4f} to {scaling['loss']:.4f}"
    if scaling["doubt"]:
        console.warn(f"{text}; {scaling['doubt']}")
    else:
        console.note(text)


def _seconds(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: sum(entry[name] for entry in history) for name in ("step_seconds", "waiting_seconds")}
