"""train: fit the network on the prepared rows and freeze its best epoch as one bundle.

The worker holds TensorFlow and runs the loop; this process shows, logs and handles signals.

    train_on_worker ─ Progress ─▶ train ─▶ bar, MLflow, early stopping, SIGTERM
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.training.progress import Progress, epochs_without_gain
from conf.schema import Settings
from pipeline.backends.cluster import Cluster, WorkerLost
from pipeline.backends.signals import Signals
from pipeline.backends.tracking import Tracker
from pipeline.backends.workspace import RunFolder
from pipeline.console import Bar, Console

MAX_RESTARTS = 3


def train(
    settings: Settings,
    *,
    folder: RunFolder,
    key: str,
    cluster: Cluster,
    tracker: Tracker,
    signals: Signals,
    console: Console,
    nearly_done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train, or go on training, and write `bundle/`; what run.json keeps of it.

    `nearly_done` is called when the last epoch begins; early stopping may end training before.

    Raises:
        TrainingDiverged: the loss became NaN.
        Interrupted, Terminated: stopped by a signal, after a checkpoint.
        WorkerLost: the TensorFlow process died more than `MAX_RESTARTS` times.
    """
    folder.stop.unlink(missing_ok=True)
    job = {"settings": settings, "data": folder.data, "checkpoints": folder.checkpoints, "key": key}
    history: tuple[dict[str, Any], ...] = ()
    try:
        with signals.grace(folder.stop.touch), console.progress("train", unit="steps") as bar:
            for progress in _surviving(cluster, console, {**job, "stop": folder.stop}):
                history = progress.history
                _show(bar, progress, settings)
                if progress.kind == "epoch":
                    if progress.epoch == progress.num_epochs - 1:
                        nearly_done()
                    _log(tracker, progress)
                    console.detail(_sentence(progress))
                if progress.kind == "stopped":
                    raise signals.stopped()
    finally:
        folder.stop.unlink(missing_ok=True)
    best = cluster.worker().call(freeze, **job, target=folder.bundle)
    return {**best, "epochs": len(history), "step_seconds": sum(entry["step_seconds"] for entry in history)}


def train_on_worker(
    *, settings: Settings, data: Path, checkpoints: Path, key: str, stop: Path
) -> Iterator[Progress]:
    """Progress of the loop, ended by early stopping where the settings ask for it."""
    from components.data.batches import SequenceSet
    from components.training.checkpoints import Checkpoints
    from components.training.loop import fit

    encoding = _encoding(data)
    stopping = settings.train.early_stopping
    run = fit(
        SequenceSet.open(data / "train", encoding).cut(encoding.max_length),
        SequenceSet.open(data / "valid", encoding).cut(encoding.max_length),
        task=settings.task,
        labels=encoding.labels,
        scheme=encoding.scheme,
        model=settings.model,
        training=settings.train,
        checkpoints=Checkpoints(checkpoints, key, keep=settings.train.keep_checkpoints),
        should_stop=stop.exists,
    )
    for progress in run:
        yield progress
        if stopping.patience is None or progress.kind not in ("epoch", "resumed"):
            continue
        if epochs_without_gain(progress.history, stopping.metric) >= stopping.patience:
            return


def freeze(*, settings: Settings, data: Path, checkpoints: Path, key: str, target: Path) -> dict[str, Any]:
    """Export the best epoch with its encoding as a bundle; its epoch and validation scores."""
    from components import bundles
    from components.data.batches import tables
    from components.networks import models
    from components.training.checkpoints import Checkpoints
    from components.training.rules import allowed

    encoding = _encoding(data)
    kept = Checkpoints(checkpoints, key)
    best = kept.load_best()
    network = models.build(
        settings.model,
        task=settings.task,
        slots=encoding.slots,
        num_classes=encoding.num_classes,
        seed=settings.train.seed,
        allowed=allowed(encoding.labels, encoding.scheme),
        tables=tables(data, encoding),
    )
    network.load(best.arrays)
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
    kept.clear()
    return {
        "best_epoch": best.state["epoch"],
        "valid": best.state["valid"],
        "parameters": network.num_parameters,
    }


def _surviving(cluster: Cluster, console: Console, job: dict[str, Any]) -> Iterator[Progress]:
    """The worker's progress; a lost worker is replaced and goes on from its last checkpoint."""
    worker = cluster.worker()
    for lost in range(MAX_RESTARTS + 1):
        try:
            yield from worker.stream(train_on_worker, **job)
            return
        except WorkerLost as error:
            if lost == MAX_RESTARTS:
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


def _log(tracker: Tracker, progress: Progress) -> None:
    entry = progress.history[-1]
    values = {"train_loss": entry["loss"], "learning_rate": entry["learning_rate"]}
    values |= {"steps_per_second": entry["steps_per_second"]}
    values |= {f"valid_{name}": value for name, value in entry["valid"].items()}
    tracker.log_metrics(values, step=progress.epoch, stage="train")


def _sentence(progress: Progress) -> str:
    entry = progress.history[-1]
    scores = " ".join(f"{name} {value:.4f}" for name, value in entry["valid"].items())
    mark = " (best)" if progress.is_best else ""
    return f"epoch {progress.epoch}: loss {entry['loss']:.4f}; valid {scores}{mark}"
