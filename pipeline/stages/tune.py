"""tune: many trains, and the settings of the best one.

    suggest ─ point ─▶ Ray Tune ─▶ train_trial, a train with these settings ─ epochs ─▶ ledger, MLflow, table
       ▲                                                                                   │
       └────────────────────────── scores of the trials that ended ◀───────────────────────┘

    tune/ledger.jsonl         every trial and epoch; what a killed search goes on from
    tune/trials/0007/         checkpoints of a trial; the weights of its best epoch while no other is better
    tune/given.yaml           the settings with their search
    tune/best.yaml            the settings found, to be run
    tune/trials.json          the same for the report

Trials see the training and the validation rows alone; the best one is that with the best validated epoch.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from components.errors import ClusterError, SearchFailed
from components.metrics import METRICS
from components.training.checkpoints import BEST
from components.tuning.importances import importances
from components.tuning.mutations import mutated
from components.tuning.searches import Known, active, contains
from conf.load import SettingsError, load, resolved
from conf.points import as_yaml, describe, with_point
from conf.schema import Settings
from pipeline.backends import sweeps
from pipeline.backends.cluster import Cluster
from pipeline.backends.signals import Signals
from pipeline.backends.sweeps import Assignment, Room
from pipeline.backends.tracking import Tracker
from pipeline.backends.trials import Trial, TrialLedger, best_of
from pipeline.backends.workspace import RunFolder, write_json
from pipeline.console import Console
from pipeline.stages.search import (
    SETTING_ASIDE,
    Repeats,
    Search,
    data_of,
    metric_of,
    num_epochs,
    train_trial,
    trial_folder,
    trial_settings,
)

TRIALS, GIVEN, BEST_SETTINGS, SCRATCH = "trials.json", "given.yaml", "best.yaml", ".ray"
# What a run's settings say that its trials do not depend on.
APART = ("name", "tune", "evaluate", "gate", "register")


def tune(
    settings: Settings,
    *,
    folder: RunFolder,
    key: str,
    cluster: Cluster,
    tracker: Tracker,
    signals: Signals,
    console: Console,
    reuse: RunFolder | None = None,
) -> dict[str, Any]:
    """Search, or go on searching, and keep the best trial; what run.json says of it.

    `key` names what the trials follow from, `reuse` an earlier run whose trials count where they lie in this
    space; its rows and code are the same.

    Raises:
        SearchFailed: every trial failed.
        Interrupted, Terminated: stopped by a signal; the trials under way are checkpointed.
        ClusterError: no machine has what a trial needs.
    """
    folder.stop.unlink(missing_ok=True)
    sweeps.load()
    cluster.release_worker()
    room = room_for(settings, cluster)
    ledger = TrialLedger(folder.tune)
    ledger.begin(lag=2 * room.concurrency)
    (folder.tune / GIVEN).write_text(as_yaml(settings), "utf8")
    if reuse is not None and not ledger.trials:
        console.note(f"{_take_over(settings, ledger, reuse)} trials are taken over from run {reuse.run_id}.")
    try:
        with console.live_table() as table:
            around: dict[str, Any] = {
                "ledger": ledger, "folder": folder, "tracker": tracker, "console": console, "table": table,
            }  # fmt: skip
            search = Search(settings, cluster=cluster, lag=ledger.search["lag"], **around)
            if (size := search.num_unseen) > 0:
                console.warn(f"The grid has {size} points more than tune.trials allows; they are left out.")
            while not search.is_over:
                _sweep(search, cluster, room, signals, key=key, scheduler=_scheduler(settings, ledger))
                search.is_tired = False
            again = Repeats(settings, queue=_to_repeat(settings, folder, ledger), **around)
            _sweep(again, cluster, room, signals, key=key, scheduler=None)
        return _conclude(settings, folder, ledger)
    finally:
        folder.stop.unlink(missing_ok=True)
        write_json(folder.tune / TRIALS, as_data(settings, ledger, concurrency=room.concurrency))


def tuned(settings: Settings, folder: RunFolder) -> Settings:
    """The settings that the search of this run found; those given where it has not searched."""
    path = folder.tune / BEST_SETTINGS
    return load([path]) if settings.tune is not None and path.exists() else settings


def best(ledger: TrialLedger, settings: Settings) -> Trial:
    """The trial with the best validated epoch.

    Raises:
        SearchFailed: none has one.
    """
    found = best_of(ledger.searched, metric_of(settings))
    if found is not None:
        return found
    failed = [trial for trial in ledger.searched if trial.state == "failed"]
    if not failed:
        raise SearchFailed(
            "The search ended before any trial had validated an epoch.",
            hint="Give it more with tune.seconds or tune.max_epochs.",
        )
    first = failed[0]
    said = first.traceback.rstrip() or first.error
    raise SearchFailed(
        f"All {len(failed)} trials failed. The first, trial {first.number}: {said}",
        hint=f"Its settings were {json.dumps(first.point, ensure_ascii=False)}.",
    )


def room_for(settings: Settings, cluster: Cluster) -> Room:
    """What a trial of these settings needs, and how many there is room for.

    Raises:
        ClusterError: not even for one.
    """
    tune = settings.tune
    assert tune is not None
    kind, _, count = settings.train.devices.partition(":")
    cpus = tune.cpus or (int(count) if kind == "cpu" else 1)
    gpus = 0.0
    if kind == "gpu":
        gpus = cluster.most("GPU") if count == "all" else float(count)
    elif kind == "auto" and cluster.most("GPU"):
        gpus = 1.0
    # Of several GPUs a trial has them whole; of one it may have a share.
    resources = {"CPU": float(cpus), "GPU": gpus / tune.trials_per_gpu if gpus == 1 else gpus}
    slots = cluster.room_for(resources)
    if not slots or (kind == "gpu" and not gpus):
        raise ClusterError(
            f"A trial needs {cpus} CPUs and {resources['GPU'] or (kind == 'gpu'):g} GPUs on one machine; the "
            f"largest there has {cluster.most('CPU'):g} CPUs and {cluster.most('GPU'):g} GPUs.",
            hint="Ask for less with tune.cpus or train.devices, or name a larger cluster with --address.",
        )
    concurrency = min(tune.trials, slots if tune.concurrency == "auto" else min(tune.concurrency, slots))
    if tune.scheduler in SETTING_ASIDE:
        # Tune may then not count the trials that have begun (ray#46965).
        wider = _keeping_out(resources, cluster, concurrency=concurrency)
        return Room(wider or resources, cpus, concurrency if wider else slots, limited=False)
    return Room(resources, cpus, concurrency)


def _keeping_out(
    resources: Mapping[str, float], cluster: Cluster, *, concurrency: int
) -> dict[str, float] | None:
    """So many CPUs for a trial that no more find room than may run; None where no number does that."""
    for cpus in range(int(resources["CPU"]), int(cluster.most("CPU")) + 1):
        wider = {**resources, "CPU": float(cpus)}
        if 1 <= cluster.room_for(wider) <= concurrency:
            return wider
    return None


def _sweep(
    search: Search | Repeats, cluster: Cluster, room: Room, signals: Signals, *, key: str, scheduler: Any
) -> None:
    """Run what the search gives; raises where a signal stopped it."""
    scratch = search.folder.tune / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    if search.is_over:
        return
    job = {
        "settings": search.settings,
        "folder": search.folder,
        "key": key,
        "num_threads": room.num_threads,
        "shared": cluster.shared,
        "copies": search.tune.scheduler == "pbt" and scheduler is not None,
    }
    try:
        with signals.grace(search.ask_to_stop):
            sweeps.run(
                cluster,
                train_trial,
                search,
                job=job,
                scheduler=scheduler,
                higher_is_better=METRICS[search.metric].higher_is_better,
                room=replace(room, limited=room.limited or scheduler is None),
                scratch=scratch,
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if search.stopping:
        raise signals.stopped()


def _scheduler(settings: Settings, ledger: TrialLedger) -> Any:
    """The scheduler of the settings, which knows what trials of an earlier process reported."""
    tune, metric = settings.tune, metric_of(settings)
    assert tune is not None
    count = 0

    def explore(point: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        count += 1
        return mutated(tune.space, point, seed=tune.seed, number=count)

    made = sweeps.scheduler(
        tune.scheduler,
        max_epochs=_most_epochs(settings),
        grace=tune.grace,
        reduction=tune.reduction,
        interval=tune.interval,
        explore=explore,
    )
    if tune.scheduler in ("asha", "median"):
        ended = [trial for trial in ledger.searched if trial.has_ended and trial.state != "failed"]
        better = METRICS[metric].higher_is_better
        sweeps.replay(made, [_scores(trial, metric) for trial in ended], higher_is_better=better)
    return made


def _scores(trial: Trial, metric: str) -> list[tuple[int, float]]:
    """The best score so far at each epoch, as the trial reported it."""
    better = max if METRICS[metric].higher_is_better else min
    values = [entry["valid"][metric] for entry in trial.history]
    return [(number, better(values[:number])) for number in range(1, len(values) + 1)]


def _most_epochs(settings: Settings) -> int:
    """The epochs of the longest trial that the space allows."""
    assert settings.tune is not None
    searched = settings.tune.space.get("train.epochs")
    return settings.train.epochs if searched is None else int(max(searched.outermost()))


def _to_repeat(settings: Settings, folder: RunFolder, ledger: TrialLedger) -> list[Assignment]:
    """The best settings once more where their weights are not here, and under the other seeds asked for."""
    tune = settings.tune
    assert tune is not None
    trial = best(ledger, settings)
    lost = not (trial_folder(folder, trial.number) / BEST).exists()
    queue = [Assignment(trial.number, trial.point)] if lost else []
    done = {each.number for each in ledger.repeated if each.has_ended}
    for each in range(1, tune.seeds):
        number = tune.trials + each - 1
        if number not in done:
            queue.append(Assignment(number, trial.point, (settings.train.seed + each) % 2**32))
    return queue


def _conclude(settings: Settings, folder: RunFolder, ledger: TrialLedger) -> dict[str, Any]:
    """Write the best settings, and take the rows they are for as this run's."""
    trial, metric = best(ledger, settings), metric_of(settings)
    found = with_point(settings, trial.point)
    rows = data_of(folder, settings, found)
    shutil.rmtree(folder.tune / "data", ignore_errors=True)
    if rows != folder.path / "data":
        shutil.copytree(rows, folder.tune / "data")
    shutil.rmtree(folder.tune / "prepared", ignore_errors=True)
    (folder.tune / BEST_SETTINGS).write_text(as_yaml(found), "utf8")
    states = [each.state for each in ledger.searched]
    entry = trial.best(metric)
    assert entry is not None
    return {
        "best": trial.number,
        "metric": metric,
        "value": trial.value(metric),
        "best_epoch": entry["epoch"],
        "valid": entry["valid"],
        "point": trial.point,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "epochs": ledger.num_epochs,
        "seeds": [each.value(metric) for each in ledger.repeated],
    }


def _take_over(settings: Settings, ledger: TrialLedger, source: RunFolder) -> int:
    """Count the finished trials of another search whose settings lie in this space; how many there were."""
    assert settings.tune is not None
    # The run's own settings.yaml has every default too, of which some conflict with what was given.
    theirs = load([source.tune / GIVEN])
    finished = [trial for trial in TrialLedger(source.tune).searched if trial.state == "finished"]
    if theirs.tune is not None and theirs.tune.scheduler == "pbt":
        finished = []  # their weights have seen other settings than the last
    number = 0
    for trial in finished:
        before = _without(resolved(trial_settings(theirs, trial.point, None)))
        values = {key: _value_at(before, key) for key in settings.tune.space}
        point = active(settings.tune.space, values)
        if number == settings.tune.trials or not contains(settings.tune.space, point):
            continue
        try:
            after = _without(resolved(trial_settings(settings, point, None)))
        except SettingsError:
            continue
        if after == before:
            ledger.take_over(trial, number=number, point=point, run_id=source.run_id)
            number += 1
    return number


def _without(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a trial depends on, its rows being the same."""
    data = {key: value for key, value in settings["data"].items() if key not in ("path", "format")}
    return {**{key: value for key, value in settings.items() if key not in APART}, "data": data}


def _value_at(settings: Any, key: str) -> Any:
    """The value of a dotted key; None where a section on the way is null."""
    for part in key.split("."):
        if settings is None:
            return None
        settings = settings[int(part)] if isinstance(settings, list) else settings[part]
    return settings


def as_data(settings: Settings, ledger: TrialLedger, *, concurrency: int) -> dict[str, Any]:
    """Everything that the report shows of a search."""
    tune, metric = settings.tune, metric_of(settings)
    assert tune is not None
    found = best_of(ledger.searched, metric)
    higher = METRICS[metric].higher_is_better
    known = [Known(trial.point, trial.value(metric)) for trial in ledger.searched if trial.has_ended]
    stopped = [trial for trial in ledger.searched if trial.state == "stopped" and trial.num_epochs]
    unspent = {t.number: max(num_epochs(settings, t.point) - t.num_epochs, 0) for t in stopped}
    return {
        "metric": metric,
        "higher_is_better": higher,
        "search": tune.search,
        "scheduler": tune.scheduler,
        "epochs": _most_epochs(settings),
        "concurrency": concurrency,
        "seconds": round(ledger.seconds, 3),
        "best": None if found is None else found.number,
        "space": {key: describe(dimension) for key, dimension in tune.space.items()},
        "importances": importances(tune.space, known),
        "trials": [_trial_as_data(trial, metric) for _, trial in sorted(ledger.trials.items())],
        "saved": {
            "epochs": sum(unspent.values()),
            "seconds": round(sum(t.seconds / t.num_epochs * unspent[t.number] for t in stopped), 1),
        },
    }


def _trial_as_data(trial: Trial, metric: str) -> dict[str, Any]:
    entry = trial.best(metric)
    return {
        "number": trial.number,
        "state": trial.state,
        "point": trial.point,
        "value": trial.value(metric),
        "best_epoch": None if entry is None else entry["epoch"],
        "curve": [[each["epoch"], each["valid"][metric]] for each in trial.history],
        "seconds": round(trial.seconds, 3),
        "step_seconds": round(sum(each["step_seconds"] for each in trial.history), 3),
        "seed": trial.seed,
        "error": trial.error,
        "from_run": trial.from_run,
    }
