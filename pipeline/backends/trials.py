"""The trials of a search, kept in a file that only grows: whatever is killed, what was found stays found.

<run folder>/tune/ledger.jsonl
{"kind": "search", "lag": 4}                           first, and again when it is gone on with
{"kind": "start", "number": 0, "point": {...}}         again when a trial goes on after a kill
{"kind": "epoch", "number": 0, "entry": {...}}         one entry of the learning curve
{"kind": "lineage", "number": 0, "history": [...]}     it goes on from the state of another trial
{"kind": "end", "number": 0, "state": "finished", ...}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from components.training.progress import is_better
from pipeline.backends import journals

LEDGER = "ledger.jsonl"

# finished: trained to its own end; stopped: by the scheduler; cut: the search had no time or epochs left.
State = Literal["running", "finished", "stopped", "cut", "failed"]


@dataclass
class Trial:
    """One training of a search. `seed` is given where the best settings are trained once more."""

    number: int
    point: dict[str, Any]
    seed: int | None = None
    from_run: str | None = None  # the earlier run that it was taken over from
    state: State = "running"
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0  # that it held its slot
    error: str = ""
    traceback: str = ""
    retry: bool = False  # whether it failed because of its surroundings, and deserves another try

    @property
    def has_ended(self) -> bool:
        return self.state != "running"

    @property
    def num_epochs(self) -> int:
        return len(self.history)

    def best(self, metric: str) -> dict[str, Any] | None:
        """The entry of its best validated epoch; None where it has none, and of a failed trial."""
        best: dict[str, Any] | None = None
        for entry in self.history if self.state != "failed" else ():
            if is_better(metric, entry["valid"][metric], None if best is None else best["valid"][metric]):
                best = entry
        return best

    def value(self, metric: str) -> float | None:
        """What it is judged by: the score of its best validated epoch."""
        best = self.best(metric)
        return None if best is None else best["valid"][metric]


class TrialLedger:
    """All trials of one search, as the file has them; every change is written before it is known."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self.search: dict[str, Any] = {}
        self.seconds = 0.0  # that processes were at it
        self.num_epochs = 0  # that all trials together have trained here
        self._last: datetime | None = None
        self.trials: dict[int, Trial] = {}
        for entry in journals.read(self._path):
            self._apply(entry)

    def begin(self, **search: Any) -> None:
        """Say that a process is at it, and how it searches; what the first one said stays."""
        self._append("search", **{**search, **self.search})

    def start(self, number: int, point: Mapping[str, Any], *, seed: int | None = None) -> None:
        """A trial begins, or goes on."""
        self._append("start", number=number, point=dict(point), seed=seed)

    def epoch(self, number: int, entry: Mapping[str, Any], *, seconds: float) -> None:
        """A trial has finished and validated an epoch; `seconds` are those of its slot."""
        self._append("epoch", number=number, entry=dict(entry), seconds=round(seconds, 3))

    def lineage(self, number: int, history: Sequence[Mapping[str, Any]]) -> None:
        """A trial went on from the state of another: this is the learning curve of its weights."""
        self._append("lineage", number=number, history=[dict(entry) for entry in history])

    def end(
        self,
        number: int,
        state: State,
        *,
        seconds: float = 0.0,
        error: str = "",
        traceback: str = "",
        retry: bool = False,
    ) -> None:
        """A trial is over, so many seconds after its last epoch."""
        failure = {"error": error, "traceback": traceback, "retry": retry}
        self._append("end", number=number, state=state, seconds=round(seconds, 3), **failure)

    def take_over(self, trial: Trial, *, number: int, point: Mapping[str, Any], run_id: str) -> None:
        """Make an ended trial of another search one of this one."""
        self._append("start", number=number, point=dict(point), seed=None, from_run=run_id)
        for entry in trial.history:
            self.epoch(number, entry, seconds=trial.seconds / len(trial.history))
        self.end(number, trial.state, error=trial.error, traceback=trial.traceback)

    @property
    def searched(self) -> list[Trial]:
        """The trials of the search itself, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.seed is None]

    @property
    def repeated(self) -> list[Trial]:
        """The best settings under other seeds, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.seed is not None]

    def _append(self, kind: str, **values: Any) -> None:
        entry = {"kind": kind, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **values}
        journals.append(self._path, entry)
        self._apply(entry)

    def _apply(self, entry: Mapping[str, Any]) -> None:
        at = datetime.fromisoformat(entry["at"])
        self.seconds += (
            0.0 if self._last is None or entry["kind"] == "search" else (at - self._last).total_seconds()
        )
        self._last = at
        if entry["kind"] == "search":
            self.search = {key: value for key, value in entry.items() if key not in ("kind", "at")}
            return
        number = entry["number"]
        if entry["kind"] == "start" and number not in self.trials:
            self.trials[number] = Trial(
                number, entry["point"], seed=entry.get("seed"), from_run=entry.get("from_run")
            )
        trial = self.trials[number]
        if entry["kind"] == "start":
            trial.point = entry["point"]
            trial.state, trial.error, trial.traceback, trial.retry = "running", "", "", False
        elif entry["kind"] == "lineage":
            trial.history = list(entry["history"])
        elif entry["kind"] == "epoch":
            # A killed driver may not have heard of an epoch that the trial then reports once more.
            kept = [each for each in trial.history if each["epoch"] < entry["entry"]["epoch"]]
            known = any(each["epoch"] == entry["entry"]["epoch"] for each in trial.history)
            self.num_epochs += not known and trial.from_run is None
            trial.history = [*kept, entry["entry"]]
            trial.seconds += entry["seconds"]
        elif entry["kind"] == "end":
            trial.state, trial.seconds = entry["state"], trial.seconds + entry["seconds"]
            trial.error, trial.traceback, trial.retry = entry["error"], entry["traceback"], entry["retry"]


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The trial with the best validated epoch, of equals the first; None where none has one."""
    best: Trial | None = None
    for trial in trials:
        value = trial.value(metric)
        if value is not None and is_better(metric, value, None if best is None else best.value(metric)):
            best = trial
    return best
