"""What is tried next, and what becomes of each trial; the body of a trial is a train.

    Search.next_trial ─ point ─▶ train_trial, in a process of Ray Tune's
    Search.reported   ◀ epochs ─┘
          └─▶ ledger, MLflow (a run for each trial), table

Without a scheduler a trial's settings follow from the seed and from trials well before it alone. So a search
that was killed and taken up finds what an undisturbed one finds, whichever trial was faster than another.
"""

import json
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from components.errors import BusyError, ClusterError, DataError
from components.metrics import METRICS
from components.training.checkpoints import BEST, Checkpoints
from components.training.progress import Progress, epochs_without_gain, is_better
from components.tuning import searches
from components.tuning.searches import Known
from conf.load import SettingsError, resolved
from conf.points import with_point
from conf.schema import Settings
from pipeline.backends import staging
from pipeline.backends.cluster import Aside, Cluster
from pipeline.backends.staging import Shared
from pipeline.backends.sweeps import FAILURE, GROWN, SECONDS, Assignment, Report
from pipeline.backends.tracking import Tracker
from pipeline.backends.trials import State, Trial, TrialLedger, best_of
from pipeline.backends.workspace import RunFolder, fingerprint
from pipeline.console import Console, LiveTable
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train_on_worker, values_of

MOST_SHOWN = 12
REPORTED = ".reported"
# These schedulers set trials aside to run others, and must see all of them.
SETTING_ASIDE = ("hyperband", "pbt")
QUOTE = '"'


class Trials:
    """Trials that run, as Ray Tune tells of them: written down, logged and shown."""

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: TrialLedger,
        folder: RunFolder,
        tracker: Tracker,
        console: Console,
        table: LiveTable,
    ) -> None:
        assert settings.tune is not None
        self.settings, self.tune = settings, settings.tune
        self.ledger, self.folder = ledger, folder
        self.tracker, self.console, self.table = tracker, console, table
        self.metric = metric_of(settings)
        self.stopping = False
        self.is_tired = False  # the processes have grown, and new ones are to go on
        self._running: set[int] = set()
        self._finished: set[int] = set()
        self._cut: set[int] = set()
        self._failures: dict[int, dict[str, Any]] = {}
        for trial in list(ledger.trials.values()):
            # A kill may have come between the ledger and MLflow.
            if trial.has_ended and tracker.is_open(_nested(trial.number)):
                self._wrap_up(trial)

    def ask_to_stop(self) -> None:
        """Nothing new begins, and what runs ends after a checkpoint."""
        self.stopping = True
        self.folder.stop.touch()

    def started(self, number: int, point: Mapping[str, Any]) -> None:
        """A process has taken the trial up."""
        seed = self.ledger.trials[number].seed if number in self.ledger.trials else self.seed_of(number)
        first = number not in self._running
        if first or self.ledger.trials[number].point != dict(point):
            self.ledger.start(number, point, seed=seed)
            self._publish()
        self._running.add(number)
        if first:
            self.tracker.begin_nested(_nested(number), tags={"recurra.trial": str(number)})
        chosen = {**point, **({} if seed is None else {"train.seed": seed})}
        self.tracker.log_params(chosen, stage=_nested(number))

    def seed_of(self, number: int) -> int | None:
        """The seed of a trial, where it is not the settings' own."""
        return None

    def reported(self, number: int, report: Mapping[str, Any]) -> None:
        """The trial said something: an epoch, or how it failed."""
        if FAILURE in report:
            self._failures[number] = {**report[FAILURE], SECONDS: report[SECONDS]}
            return
        entry, trial = report["entry"], self.ledger.trials[number]
        self.is_tired |= report[GROWN] and self.tune.scheduler not in SETTING_ASIDE
        if report.get("history") is not None and trial.history != report["history"][: len(trial.history)]:
            self.ledger.lineage(number, report["history"][:-1])
        if not _is_known(entry, trial):
            self.ledger.epoch(number, entry, seconds=report[SECONDS])
        if report["last"]:
            self._finished.add(number)
        self.tracker.log_metrics(values_of(entry), step=entry["epoch"], stage=_nested(number))

    def must_end(self, number: int) -> bool:
        """Whether there is no time or epoch left for it."""
        if number in self._finished or not self.is_spent:
            return False
        self._cut.add(number)
        return True

    @property
    def is_spent(self) -> bool:
        """Whether the time or the epochs of the search are used up."""
        return False

    def ended(self, number: int) -> None:
        """The trial is over: by itself, stopped, or because it failed."""
        state: State = "stopped"
        if (failure := self._failures.get(number)) is not None:
            self._end(number, "failed", **failure)
            return
        if number in self._finished:
            state = "finished"
        elif self.stopping:
            # It left a checkpoint, and goes on from there some other time.
            self.tracker.end("KILLED", stage=_nested(number))
            self._publish()
            return
        elif number in self._cut:
            state = "cut"
        self._end(number, state)

    def died(self, number: int, error: str) -> None:
        """The trial's processes died too often."""
        self._end(number, "failed", error=f"WorkerLost: {error}", retry=True)

    def _end(
        self, number: int, state: State, *, slot_seconds: float = 0.0, retry: bool = False, **failure: str
    ) -> None:
        self.ledger.end(number, state, seconds=slot_seconds, retry=retry, **failure)
        trial = self.ledger.trials[number]
        self._running.discard(number)
        self._wrap_up(trial)
        self._publish()
        seed = "" if trial.seed is None else f", seed {trial.seed}"
        self.console.note(f"trial {number}{seed}: {self._outcome(trial)}; {shown_point(trial.point)}")

    def _publish(self) -> None:
        """Let other machines know, where the run is in an object store."""
        try:
            self.folder.publish_meanwhile()
        except BusyError:
            # Said again, and raised, at the end of the stage.
            self.ask_to_stop()

    def _wrap_up(self, trial: Trial) -> None:
        """Drop the files of an ended trial that nobody needs, and end its run in MLflow."""
        self._keep_best(trial.number)
        stage, has_failed = _nested(trial.number), trial.state == "failed"
        tags = {"recurra.state": trial.state, **({"error": trial.error} if trial.error else {})}
        self.tracker.log_tags(tags, stage=stage)
        self.tracker.log_metrics({f"best_{self.metric}": trial.value(self.metric)}, stage=stage)
        self.tracker.end("FAILED" if has_failed else "FINISHED", stage=stage)

    def _outcome(self, trial: Trial) -> str:
        """How a trial ended, in words."""
        if trial.state == "failed":
            return f"failed: {trial.error}"
        best = trial.best(self.metric)
        if best is None:
            return f"{trial.state} before its first epoch"
        more = "" if trial.state == "finished" else f", {trial.state} after epoch {trial.num_epochs}"
        return f"{self.metric} {best['valid'][self.metric]:.4f} at epoch {best['epoch']}{more}"

    def _keep_best(self, number: int) -> None:
        """Drop what nobody will go on from: the weights of all but the best, and steps of what has ended."""
        folder = trial_folder(self.folder, number)
        if not self.ledger.trials[number].retry:
            Checkpoints(folder, "").clear()
        (folder / REPORTED).unlink(missing_ok=True)
        # In the order in which the search is judged in the end, which decides between equals.
        best = best_of([trial for trial in self.ledger.searched if trial.has_ended], self.metric)
        for trial in self.ledger.trials.values():
            if trial.has_ended and (best is None or trial.number != best.number):
                shutil.rmtree(trial_folder(self.folder, trial.number) / BEST, ignore_errors=True)

    def tick(self) -> None:
        """Show how far everything is."""
        if self.table.is_due():
            self.table.show(["trial", "state", "epoch", self.metric, "left", "settings"], self._rows())

    def _rows(self) -> list[list[str]]:
        running = [self._row(number) for number in sorted(self._running)]
        ended = [trial for trial in self.ledger.trials.values() if trial.has_ended]
        known = [trial for trial in ended if trial.value(self.metric) is not None]
        sign = -1.0 if METRICS[self.metric].higher_is_better else 1.0
        known.sort(key=lambda trial: sign * (trial.value(self.metric) or 0.0))
        rows = running + [self._row(trial.number) for trial in known[: max(MOST_SHOWN - len(running), 1)]]
        failed = sum(trial.state == "failed" for trial in ended)
        summary = f"{len(ended)} of {self.num_trials} done" + (f", {failed} failed" if failed else "")
        return [*rows, ["", "", "", "", self._left(ended), summary]]

    def _left(self, ended: Sequence[Trial]) -> str:
        """The time that the others take, if they are like those that ended."""
        if not ended:
            return ""
        num_left = max(self.num_trials - len(ended), 0)
        each = sum(trial.seconds for trial in ended) / len(ended)
        return f"{each * num_left / max(len(self._running), 1):.0f} s"

    def _row(self, number: int) -> list[str]:
        trial = self.ledger.trials[number]
        value, epochs = trial.value(self.metric), num_epochs(self.settings, trial.point)
        left = ""
        if number in self._running and trial.num_epochs:
            left = f"{trial.seconds / trial.num_epochs * (epochs - trial.num_epochs):.0f} s"
        score = "-" if value is None else f"{value:.4f}"
        epoch = f"{trial.num_epochs}/{epochs}"
        return [str(number), trial.state, epoch, score, left, shown_point(trial.point)]

    @property
    def num_trials(self) -> int:
        """How many there will be."""
        return len(self.ledger.trials)


class Search(Trials):
    """Says what to try next, from what the trials so far have come to."""

    def __init__(self, settings: Settings, *, cluster: Cluster, lag: int, **around: Any) -> None:
        """`lag` is how many trials before a trial its settings do not depend on."""
        super().__init__(settings, **around)
        self.lag = lag
        self._cluster = cluster
        self._since = time.monotonic() - self.ledger.seconds
        self._to_resume = [t.number for t in self.ledger.searched if t.retry or not t.has_ended]
        self._next = 0
        self._past_the_end = False
        for number in self._to_resume:
            (trial_folder(self.folder, number) / REPORTED).unlink(missing_ok=True)

    @property
    def num_trials(self) -> int:
        return self.tune.trials if self.tune.search != "grid" else min(self.tune.trials, self._grid_size)

    @property
    def num_unseen(self) -> int:
        """Points of a grid for which there are no trials."""
        return max(self._grid_size - self.tune.trials, 0) if self.tune.search == "grid" else 0

    @cached_property
    def _grid_size(self) -> int:
        size = searches.num_points(self.tune.space)
        assert size is not None, "the schema refuses a grid without an end"
        return size

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to begin, or not in these processes."""
        if self.stopping or self.is_tired or self.is_spent:
            return True
        return not self._to_resume and self._upcoming() is None

    @property
    def is_spent(self) -> bool:
        limits = self.tune
        if limits.max_epochs is not None and self.ledger.num_epochs >= limits.max_epochs:
            return True
        return limits.seconds is not None and time.monotonic() - self._since >= limits.seconds

    def next_trial(self) -> Assignment | None:
        """What to try next; None while trials that it depends on still run, or when there is nothing."""
        if self._to_resume:
            trial = self.ledger.trials[self._to_resume.pop(0)]
            self._prepared(with_point(self.settings, trial.point))
            return Assignment(trial.number, trial.point)
        while (number := self._upcoming()) is not None:
            known = self._known(number)
            if known is None:
                return None
            point = searches.suggest(
                self.tune.space,
                search=self.tune.search,
                seed=self.tune.seed,
                number=number,
                known=known,
                higher_is_better=METRICS[self.metric].higher_is_better,
            )
            if point is None:
                self._past_the_end = True
                return None
            self._next = number + 1
            try:
                self._prepared(with_point(self.settings, point))
            except (SettingsError, DataError) as error:
                self.started(number, point)
                self._failures[number] = {"error": f"{type(error).__name__}: {error}"}
                self.ended(number)
                continue
            return Assignment(number, point)
        return None

    def _upcoming(self) -> int | None:
        """The number of the next new trial."""
        while self._next in self.ledger.trials:
            self._next += 1
        return None if self._past_the_end or self._next >= self.tune.trials else self._next

    def _known(self, number: int) -> list[Known] | None:
        """What the settings of this trial may depend on; None while some of it is still to come."""
        if self.tune.search != "optuna":
            return []
        trials = self.ledger.searched
        if self.tune.scheduler == "none":
            trials = [trial for trial in trials if trial.number < number - self.lag]
            if not all(trial.has_ended for trial in trials):
                return None
        return [Known(trial.point, trial.value(self.metric)) for trial in trials if trial.has_ended]

    def _prepared(self, settings: Settings) -> None:
        """Prepare the rows anew where the trial's settings of the data say so; equal ones share them."""
        target = data_of(self.folder, self.settings, settings)
        if not target.exists():
            self.console.detail(f"Preparing the rows with the data settings of this trial in {target}.")
            variant = _Variant(target.parent, run=self.folder)
            variant.path.mkdir(parents=True, exist_ok=True)
            # Every CPU may be held by a trial that waits for this process to listen.
            prepare(settings, folder=variant, cluster=Aside(self._cluster), console=self.console)


class Repeats(Trials):
    """A list of trials: the best settings under other seeds, or once more where their weights are gone."""

    def __init__(self, settings: Settings, *, queue: Sequence[Assignment], **around: Any) -> None:
        super().__init__(settings, **around)
        self.queue = list(queue)
        self._seeds = {each.number: each.seed for each in queue}

    def seed_of(self, number: int) -> int | None:
        return self._seeds[number]

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to begin."""
        return self.stopping or not self.queue

    def next_trial(self) -> Assignment | None:
        """The next of the list."""
        assignment = self.queue.pop(0)
        (trial_folder(self.folder, assignment.number) / REPORTED).unlink(missing_ok=True)
        return assignment


@dataclass(frozen=True)
class _Variant(RunFolder):
    """Rows prepared with the data settings of some trials; cut into the same splits as the run's own."""

    run: RunFolder

    @property
    def storage(self) -> Path:
        return self.run.storage


def train_trial(
    *,
    report: Report,
    restored: Any,
    number: int,
    point: Mapping[str, Any],
    seed: int | None,
    settings: Settings,
    folder: RunFolder,
    key: str,
    num_threads: int,
    copies: bool,
    shared: Shared | None = None,
) -> None:
    """Train one trial and report each epoch; the body that Ray Tune runs. `key` is that of the search.

    A trial that was taken up before goes on from its last checkpoint. With `copies` every report carries the
    trial's state, and `restored` is that of the trial to go on from. `shared` gives the folder to machines
    that do not see it.

    Raises:
        ClusterError: states are to be copied, and this machine does not see where Ray Tune keeps them.
    """
    from components.training import strategy

    if copies:
        _require_states(shared)
    # Of the search, not of the trial: the next trial finds TensorFlow begun.
    strategy.limit_threads(num_threads, settings.model)
    own = trial_settings(settings, point, seed)
    places = (trial_folder(folder, number), data_of(folder, settings, own), folder.stop)
    try:
        with staging.at_hand(shared, *places) as ((checkpoints, data, stop), push):
            if restored is not None:
                _take_up(restored, checkpoints)
            done = _reported(checkpoints)
            # States that go from trial to trial belong to them all.
            own_key = fingerprint([key, None if copies else point, seed])
            for progress in train_on_worker(
                settings=own, data=data, checkpoints=checkpoints, key=own_key, stop=stop
            ):
                push()
                if progress.kind == "stopped":
                    return
                if progress.kind == "step":
                    continue
                for entry in progress.history[done:]:
                    done = entry["epoch"]
                    _write_reported(checkpoints, done)
                    push()
                    report(
                        entry["epoch"],
                        _score(progress, entry, own.train.early_stopping.metric, copies=copies),
                        entry=entry,
                        history=list(progress.history) if copies else None,
                        last=_is_last(progress, entry, own),
                        checkpoint=_state(checkpoints) if copies else None,
                    )
    finally:
        strategy.forget()


def _require_states(shared: Shared | None) -> None:
    """Nothing where this machine sees the folder in which Ray Tune keeps what trials take over."""
    if shared is not None and not shared.is_here:
        raise ClusterError(
            f"tune.scheduler is pbt, whose trials take over weights, and {socket.gethostname()} does not see"
            f" {shared.folder}.",
            hint="Name a --storage that all machines see, or another scheduler.",
        )


def trial_settings(settings: Settings, point: Mapping[str, Any], seed: int | None) -> Settings:
    """The settings of one trial."""
    own = with_point(settings, point)
    if seed is None:
        return own
    return own.model_copy(update={"train": own.train.model_copy(update={"seed": seed})})


def metric_of(settings: Settings) -> str:
    """What the trials are judged by."""
    assert settings.tune is not None
    return settings.tune.metric or settings.train.early_stopping.metric


def num_epochs(settings: Settings, point: Mapping[str, Any]) -> int:
    """The epochs that a trial trains at most."""
    return int(point.get("train.epochs", settings.train.epochs))


def trial_folder(folder: RunFolder, number: int) -> Path:
    """Where a trial keeps its checkpoints."""
    return folder.tune / "trials" / f"{number:04d}"


def data_of(folder: RunFolder, settings: Settings, own: Settings) -> Path:
    """The prepared rows for these settings: the run's own, or others where the data settings differ."""
    ours, theirs = resolved(settings)["data"], resolved(own)["data"]
    if ours == theirs:
        return folder.path / "data"
    return folder.tune / "prepared" / fingerprint(theirs)[:16] / "data"


def shown_point(point: Mapping[str, Any]) -> str:
    """A point in one line, keys by their last part."""
    shown = []
    for key, value in point.items():
        text = (
            f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip(QUOTE)
        )
        shown.append(f"{key.rpartition('.')[2]} {text}")
    return ", ".join(shown)


def _is_known(entry: Mapping[str, Any], trial: Trial) -> bool:
    """Whether a trial that was taken up again says what it said before; it took another time for it."""
    return any(each["epoch"] == entry["epoch"] and each["valid"] == entry["valid"] for each in trial.history)


def _nested(number: int) -> str:
    return f"trial {number}"


def _score(progress: Progress, entry: Mapping[str, Any], metric: str, *, copies: bool) -> float:
    """What a scheduler compares: trials are judged by their best epoch, not by their last.

    With `copies` by the last: who goes on from whose weights depends on what these weights are worth.
    """
    if copies:
        return float(entry["valid"][metric])
    best: float | None = None
    for each in progress.history[: entry["epoch"]]:
        value = each["valid"][metric]
        best = value if is_better(metric, value, best) else best
    return float("nan") if best is None else best


def _is_last(progress: Progress, entry: Mapping[str, Any], settings: Settings) -> bool:
    stopping = settings.train.early_stopping
    if entry["epoch"] < len(progress.history):
        return False
    if entry["epoch"] >= progress.num_epochs:
        return True
    return stopping.patience is not None and (
        epochs_without_gain(progress.history, stopping.metric) >= stopping.patience
    )


def _reported(checkpoints: Path) -> int:
    """How many epochs this trial has reported since the search began or was taken up."""
    with suppress(OSError, ValueError):
        return int((checkpoints / REPORTED).read_text("utf8"))
    return 0


def _write_reported(checkpoints: Path, epoch: int) -> None:
    (checkpoints / REPORTED).write_text(str(epoch), "utf8")


def _take_up(state: Any, checkpoints: Path) -> None:
    """Go on from what another trial left."""
    with state.as_directory() as source:
        shutil.rmtree(checkpoints, ignore_errors=True)
        shutil.copytree(source, checkpoints)


def _state(checkpoints: Path) -> Any:
    """What another trial may go on from, as Ray Tune copies it."""
    from ray.tune import Checkpoint

    return Checkpoint.from_directory(str(checkpoints))
