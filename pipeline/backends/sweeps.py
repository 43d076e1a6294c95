"""The only door to Ray Tune: it says which trial runs when, and which is stopped early.

    search ── next_trial ──▶ Tune ──▶ process 0: body(trial 0), body(trial 2), ...
      ▲                        │      process 1: body(trial 1), ...
      └── started, reported, ended, died ◀┘

A process trains one trial after another, so TensorFlow is loaded once. Nothing that Tune keeps on the disk is
ever read again: what a search must not lose is its caller's to keep (pipeline/backends/trials.py).
"""

import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from components.errors import RecurraError
from pipeline.backends.cluster import Cluster

# Read by Tune when it begins.
ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are the caller's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may be stopped before it has a score
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
MAX_RESTARTS = 3
# TensorFlow keeps something of every graph: when one process grew by so much, all are replaced.
MAX_GROWTH_BYTES = int(os.environ.get("RECURRA_TRIAL_GROWTH_BYTES", 1 << 30))
# What a report holds beside what the body says.
EPOCH, SCORE, SECONDS, FAILURE, GROWN = "epoch", "score", "slot_seconds", "failure", "grown"

_first_bytes = 0


@dataclass(frozen=True)
class Assignment:
    """What one trial is to train; `seed` is given where it is not the settings' own."""

    number: int
    point: dict[str, Any]
    seed: int | None = None


class Search(Protocol):
    """Who decides what is tried, and hears what came of it; all in the process that called `run`."""

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to begin in these processes."""

    def next_trial(self) -> Assignment | None:
        """What to try next; None: nothing yet."""

    def started(self, number: int, point: Mapping[str, Any]) -> None:
        """A process has taken the trial up."""

    def reported(self, number: int, report: Mapping[str, Any]) -> None:
        """The trial said something: an epoch, or how it failed. Some of it may be said twice."""

    def must_end(self, number: int) -> bool:
        """Whether the trial is to end with the epoch that it just reported."""

    def ended(self, number: int) -> None:
        """The trial is over, by itself or stopped."""

    def died(self, number: int, error: str) -> None:
        """The trial's processes died too often."""

    def tick(self) -> None:
        """Called some ten times a second."""


# body(report=..., number=..., point=..., seed=..., restored=..., **job)
Body = Callable[..., None]
Report = Callable[..., None]


@dataclass(frozen=True)
class Room:
    """What each trial has, and how many run at once."""

    resources: dict[str, float]  # CPU and GPU
    num_threads: int
    concurrency: int
    limited: bool = True  # whether trials that run are counted; else there is room for no more of them


def load() -> None:
    """Import Ray Tune, which takes a second or two, before the time of the search begins."""
    from ray import tune  # noqa: F401


def run(
    cluster: Cluster,
    body: Body,
    search: Search,
    *,
    job: Mapping[str, Any],
    scheduler: Any,
    higher_is_better: bool,
    room: Room,
    scratch: Path,
) -> None:
    """Run trials until the search is over and the last one has ended.

    Args:
        cluster: gives each trial its CPUs and GPUs.
        body: an importable function that trains one trial and reports its epochs; what it raises is reported.
        search: decides and listens.
        job: further keyword arguments of the body.
        scheduler: one of Tune's, or None: no trial is stopped early.
        higher_is_better: of the scores reported.
        room: what each trial has.
        scratch: a folder of Tune's own; only states that trials take over need one that all machines see.
    """
    # Trials that wait for their process count as well, so all may wait at once.
    os.environ.update({**ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(room.concurrency)})
    _ = cluster.ray  # attached now, or Tune would start a Ray of its own
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    mode = "max" if higher_is_better else "min"
    heard = _Heard(search, {})
    tuner = _tuner(_trainable(body, dict(job)), heard, scheduler, mode=mode, room=room, scratch=scratch)
    try:
        tuner.fit()
    except Exception as error:
        fault = heard.fault or _own(error)
        if fault is error:
            raise
        raise fault from error
    if heard.fault is not None:
        raise heard.fault


def _tuner(trainable: type, heard: "_Heard", scheduler: Any, *, mode: str, room: Room, scratch: Path) -> Any:
    from ray import tune

    resources = {name.lower(): value for name, value in room.resources.items() if value}
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            max_concurrent_trials=room.concurrency if room.limited else None,
            search_alg=_searcher(heard, mode),
            scheduler=scheduler and _guarded(scheduler, mode),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[_listener(heard)],
            stop=_stopper(heard),
            failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )


@dataclass
class _Heard:
    """Calls of the search; what one raises ends the sweep, where Tune would take it for a trial's failure."""

    search: Any
    numbers: dict[str, int]
    fault: Exception | None = None

    def __reduce__(self) -> Any:
        # Tune keeps a copy of everything on the disk, which is never read.
        return _Heard, (None, {})

    def tell(self, what: str, trial_id: str | None = None, *values: Any) -> Any:
        if self.fault is not None:
            raise self.fault
        number = () if trial_id is None else (self.numbers[trial_id],)
        try:
            return getattr(self.search, what)(*number, *values)
        except Exception as error:
            self.fault = error
            raise


def _own(error: Exception) -> Exception:
    """The error of ours that Tune wrapped, or the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RecurraError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def scheduler(
    name: str,
    *,
    max_epochs: int,
    grace: int,
    reduction: int,
    interval: int,
    explore: Callable[[dict[str, Any]], dict[str, Any]],
) -> Any:
    """Ray Tune's scheduler of this name; None for none.

    Args:
        name: none, asha, median, hyperband or pbt.
        max_epochs: of the longest trial.
        grace: epochs before a trial may be stopped.
        reduction: of how many trials one goes on.
        interval: epochs between two exchanges.
        explore: the point to go on with from the point of a better trial.
    """
    from ray.tune import schedulers

    grace = min(grace, max_epochs)
    match name:
        case "asha":
            return schedulers.ASHAScheduler(
                time_attr=EPOCH, max_t=max_epochs, grace_period=grace, reduction_factor=reduction
            )
        case "median":
            return schedulers.MedianStoppingRule(time_attr=EPOCH, grace_period=grace)
        case "hyperband":
            return schedulers.HyperBandScheduler(
                time_attr=EPOCH, max_t=max_epochs, reduction_factor=reduction
            )
        case "pbt":
            return schedulers.PopulationBasedTraining(
                time_attr=EPOCH,
                perturbation_interval=interval,
                custom_explore_fn=lambda config: {**config, "point": explore(config["point"])},
                log_config=False,
            )
    return None


def _trainable(body: Body, job: Mapping[str, Any]) -> type:
    from ray.train._internal.session import get_session
    from ray.tune.result import RESULT_DUPLICATE
    from ray.tune.trainable.function_trainable import FunctionTrainable

    class Trials(FunctionTrainable):
        """A process that trains one trial after another."""

        _name = "trial"

        def _trainable_func(self, config: dict[str, Any]) -> None:
            session = get_session()
            _train(body, config, job, report=session.report, restored=session.loaded_checkpoint)
            session.report({RESULT_DUPLICATE: True})

    return Trials


def _train(
    body: Body, config: Mapping[str, Any], job: Mapping[str, Any], *, report: Any, restored: Any
) -> None:
    """Run the body; what it raises is said in place of a result, and the process stays for the next trial."""
    said = {EPOCH: 0, SCORE: float("nan")}
    since = time.monotonic()

    def tell(epoch: int, score: float, *, checkpoint: Any = None, **more: Any) -> None:
        nonlocal since
        said.update({EPOCH: epoch, SCORE: score})
        before, since = since, time.monotonic()
        spent = {SECONDS: since - before, GROWN: _has_grown()}
        report({**said, **more, **spent}, checkpoint=checkpoint)

    try:
        body(report=tell, restored=restored, **config, **job)
    except Exception as error:
        shown = "".join(traceback.format_exception(error))
        failure = {"error": f"{type(error).__name__}: {error}", "traceback": shown}
        report({**said, FAILURE: failure, SECONDS: time.monotonic() - since})


def _has_grown() -> bool:
    """Whether this process takes much more memory than after its first epoch."""
    global _first_bytes
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    _first_bytes = _first_bytes or most
    return most - _first_bytes > MAX_GROWTH_BYTES


def _searcher(heard: _Heard, mode: str) -> Any:
    from ray.tune.search import Searcher

    class Assignments(Searcher):
        def __init__(self) -> None:
            super().__init__(metric=SCORE, mode=mode)

        def suggest(self, trial_id: str) -> Any:
            assignment = None if heard.search.is_over else heard.tell("next_trial")
            if assignment is None:
                return Searcher.FINISHED if heard.search.is_over else None
            heard.numbers[trial_id] = assignment.number
            return {"number": assignment.number, "point": assignment.point, "seed": assignment.seed}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            """The listener hears of it."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the ledger of trials is what is gone on from."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, likewise."""

    return Assignments()


def _as_itself(trial: Any, config: dict[str, Any], operations: Any) -> tuple[dict[str, Any], Any]:
    """What a trial takes over from a better one, less whose it was."""
    return {**config, "number": trial.config["number"], "seed": trial.config["seed"]}, operations


def _guarded(scheduler: Any, mode: str) -> Any:
    """The scheduler, which never sees a failure, and judges by our epochs and scores."""
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

    decide, complete = scheduler.on_trial_result, scheduler.on_trial_complete

    def on_trial_result(controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if FAILURE in result:
            return TrialScheduler.STOP
        return decide(controller, trial, result)

    def on_trial_complete(controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        complete(controller, trial, {EPOCH: 0, SCORE: float("nan"), **result})

    scheduler.on_trial_result, scheduler.on_trial_complete = on_trial_result, on_trial_complete
    if isinstance(scheduler, PopulationBasedTraining):
        # It refuses what suggests trials, lest that learns from settings that have changed. Ours does not.
        add, clone = scheduler.on_trial_add, scheduler._get_new_config
        scheduler.on_trial_add = lambda controller, trial: add(SimpleNamespace(search_alg=None), trial)
        scheduler._get_new_config = lambda trial, better: _as_itself(trial, *clone(trial, better))
    # Otherwise Tune would say so itself, and be refused where they were set by `replay`.
    scheduler.set_search_properties(SCORE, mode)
    return scheduler


# Who is told of results is `_stopper`: Tune asks it first, and what it says follows from them.
def _listener(heard: _Heard) -> Any:
    from ray import tune

    class Listener(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            heard.tell("started", trial.trial_id, trial.config["point"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            heard.tell("ended", trial.trial_id)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            said = str(trial.get_pickled_error() or "").strip().splitlines()
            heard.tell("died", trial.trial_id, said[-1] if said else "its process died")

        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            heard.tell("tick")

    return Listener()


def _stopper(heard: _Heard) -> Any:
    from ray import tune

    class Budget(tune.Stopper):
        def __call__(self, trial_id: str, result: Any) -> bool:
            if EPOCH in result:
                heard.tell("reported", trial_id, result)
            return bool(heard.tell("must_end", trial_id))

        def stop_all(self) -> bool:
            return False

    return Budget()


def replay(scheduler: Any, curves: Sequence[Sequence[tuple[int, float]]], *, higher_is_better: bool) -> None:
    """Let a new scheduler see the scores of trials that ended before it was made, as (epoch, score)."""
    scheduler.set_search_properties(SCORE, "max" if higher_is_better else "min")
    for number, curve in enumerate(curves):
        trial = _Past(f"past-{number}")
        scheduler.on_trial_add(trial, trial)
        for epoch, score in curve:
            scheduler.on_trial_result(trial, trial, {EPOCH: epoch, SCORE: score})
            # It would refuse to hear more of one that it would have stopped.
            getattr(scheduler, "_stopped_trials", set()).discard(trial)
        if curve:
            scheduler.on_trial_complete(trial, trial, {EPOCH: curve[-1][0], SCORE: curve[-1][1]})


@dataclass(frozen=True)
class _Past:
    """What of a trial, and of the controller, a scheduler asks for when the trial is over."""

    trial_id: str

    def get_live_trials(self) -> tuple[()]:
        return ()
