"""Searches as Ray Tune drives them, without it: what is tried next, and what is kept of each trial."""

import json
import math
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.data.batches import SequenceSet
from components.errors import ClusterError
from conf.points import with_point
from pipeline.backends import journals
from pipeline.backends.recorders import Recorder
from pipeline.backends.signals import Signals
from pipeline.backends.staging import Shared
from pipeline.backends.sweeps import EPOCH, FAILURE, GROWN, SECONDS, Assignment, _train
from pipeline.backends.trials import LEDGER, Trial, TrialLedger, best_of
from pipeline.console import LiveTable
from pipeline.stages import search as searching
from pipeline.stages.search import (
    REPORTED,
    Repeats,
    Search,
    Trials,
    data_of,
    metric_of,
    num_epochs,
    shown_point,
    train_trial,
    trial_folder,
    trial_settings,
)
from pipeline.stages.train import _encoding, train
from tests.pipeline.conftest import QUIET, InProcess, Noting, Started, lines, num_threads, start

pytestmark = pytest.mark.slow

RATE, UNITS, SCALE = "train.learning_rate", "model.units", "data.inputs.0.scale"
RATES = {RATE: {"loguniform": [0.001, 0.1]}}
TIMINGS = ("seconds", "step_seconds", "waiting_seconds", "steps_per_second")


def prepared(folder: Path, /, *, space: Mapping[str, Any] = RATES, **changes: Any) -> Started:
    """A run with a search that is quick to train; `tune` and other sections change it."""
    tune = {"search": "random", "scheduler": "none", "space": dict(space), **changes.pop("tune", {})}
    model = {"units": 4, "bidirectional": False, **changes.pop("model", {})}
    return start(folder, tune=tune, model=model, **changes)


@dataclass
class Shown(LiveTable):
    """A table that is always due, and keeps its rows."""

    rows: list[Sequence[Any]] = field(default_factory=list)

    def is_due(self) -> bool:
        return True

    def show(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.rows = list(rows)


def surroundings(run: Started, **changes: Any) -> dict[str, Any]:
    """What a search is given beside its settings, as a new process has it."""
    run.folder.stop.unlink(missing_ok=True)
    ledger = TrialLedger(run.folder.tune)
    ledger.begin(lag=changes.pop("lag", 2))
    given = {"tracker": Recorder(lambda entry: None, earlier=()), "console": QUIET, "table": LiveTable()}
    return {"ledger": ledger, "folder": run.folder, **given, **changes}


def begin(run: Started, **changes: Any) -> Search:
    """The search of a new process."""
    around = surroundings(run, **changes)
    cluster: Any = InProcess()
    return Search(run.settings, cluster=cluster, lag=around["ledger"].search["lag"], **around)


def take_up(
    search: Trials,
    assignment: Assignment,
    *,
    restored: Any = None,
    copies: bool = False,
    paused: int | None = None,
    stopped: int | None = None,
    hear: Callable[[dict[str, Any], Any], None] = lambda report, checkpoint: None,
) -> list[dict[str, Any]]:
    """Train one trial and tell the search of it, in the order in which Ray Tune does; what was reported.

    After the epoch `paused` it is set aside, after `stopped` ended early. `hear` is given what is copied.
    """
    reports: list[dict[str, Any]] = []

    def report(said: dict[str, Any], *, checkpoint: Any = None) -> None:
        search.reported(assignment.number, said)
        must_end = search.must_end(assignment.number)
        reports.append(said)
        hear(said, checkpoint)
        if must_end or said[EPOCH] in (paused, stopped):
            raise SystemExit

    search.started(assignment.number, assignment.point)
    job = {"settings": search.settings, "folder": search.folder, "key": "k", "num_threads": num_threads()}
    with suppress(SystemExit):
        _train(train_trial, asdict(assignment), {**job, "copies": copies}, report=report, restored=restored)
    if paused is None:
        search.ended(assignment.number)
    search.tick()
    return reports


def drive(search: Search | Repeats) -> None:
    """One trial after another, until nothing new is to begin."""
    while not search.is_over:
        assignment = search.next_trial()
        if assignment is not None:
            take_up(search, assignment)


def curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A learning curve without what the clock said."""
    return [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in history]


def entry(epoch: int, loss: float) -> dict[str, Any]:
    valid = {"loss": loss, "accuracy": 0.5}
    return {
        "epoch": epoch,
        "loss": 0.25,
        "learning_rate": 0.01,
        "valid": valid,
        **dict.fromkeys(TIMINGS, 1.0),
    }


def say(search: Trials, number: int, *losses: float, last: bool = True) -> None:
    """Let a trial say these losses, one for each epoch; `last`: then it has finished."""
    for epoch, loss in enumerate(losses, start=1):
        report = {"entry": entry(epoch, loss), "last": last and epoch == len(losses), SECONDS: 1.0}
        search.reported(number, {EPOCH: epoch, "history": None, GROWN: False, **report})
        search.must_end(number)


def finish(search: Trials, number: int, *losses: float) -> None:
    """Let a trial that has begun finish with these losses."""
    say(search, number, *losses)
    search.ended(number)


def fail(search: Trials, number: int, error: str = "ValueError: no") -> None:
    failure = {"error": error, "traceback": f"Traceback\n{error}\n"}
    search.reported(number, {EPOCH: 0, FAILURE: failure, SECONDS: 0.5})
    search.ended(number)


def upcoming(search: Search) -> Assignment | None:
    """What is to be tried next, begun."""
    assignment = search.next_trial()
    if assignment is not None:
        search.started(assignment.number, assignment.point)
    return assignment


def begun(search: Search) -> int:
    """The number of the trial that is tried next."""
    assignment = upcoming(search)
    assert assignment is not None
    return assignment.number


def best(search: Trials) -> int:
    """The number of the best trial."""
    found = best_of(search.ledger.searched, search.metric)
    assert found is not None
    return found.number


@pytest.fixture
def run(tmp_path: Path) -> Started:
    return prepared(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A trial that was trained in one go."""
    run = prepared(tmp_path_factory.mktemp("undisturbed"))
    search = begin(run)
    take_up(search, Assignment(0, {RATE: 0.03}))
    return search.ledger.trials[0]


# A trial is a train


def test_a_trial_is_the_same_at_the_start_and_at_the_end_of_a_process(run: Started) -> None:
    search = begin(run)
    first, other = {UNITS: 4, "model.cell": "gru"}, {UNITS: 7, "model.cell": "lstm", RATE: 0.1}
    for number, point in enumerate((first, other, first)):
        take_up(search, Assignment(number, point))
    one, between, again = (curve(search.ledger.trials[number].history) for number in range(3))
    assert one == again
    assert [each["epoch"] for each in one] == [1, 2, 3]
    assert between != one


def test_a_trial_is_what_training_with_its_settings_is(run: Started, undisturbed: Trial) -> None:
    recorder = Recorder(lambda entry: None, earlier=())
    given: dict[str, Any] = {
        "cluster": InProcess(),
        "tracker": recorder,
        "signals": Signals(),
        "console": QUIET,
    }
    train(with_point(run.settings, undisturbed.point), folder=run.folder, key="k", **given)
    history = json.loads((run.folder.checkpoints / "history.json").read_text("utf8"))
    assert curve(history) == curve(undisturbed.history)


def test_a_report_says_the_epoch_and_the_best_score_so_far(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"metric": "accuracy"}, train={"epochs": 4, "learning_rate": 0.3})
    reports = take_up(begin(run), Assignment(0, {}))
    scores = [report["entry"]["valid"]["accuracy"] for report in reports]
    assert [report[EPOCH] for report in reports] == [1, 2, 3, 4]
    assert [report["score"] for report in reports] == [max(scores[:epoch]) for epoch in (1, 2, 3, 4)]
    assert [report["last"] for report in reports] == [False, False, False, True]


def test_a_trial_that_gains_nothing_more_ends_by_itself(tmp_path: Path) -> None:
    stopping = {"metric": "loss", "patience": 1}
    given = {"epochs": 40, "learning_rate": 0.5, "clip_norm": None, "early_stopping": stopping}
    run = prepared(tmp_path, train=given)
    search = begin(run)
    reports = take_up(search, Assignment(0, {}))
    assert len(reports) < 40
    assert [report["last"] for report in reports] == [False] * (len(reports) - 1) + [True]
    assert search.ledger.trials[0].state == "finished"


# Stopped, paused and taken up again


def test_a_trial_stopped_in_mid_training_goes_on_as_if_it_had_never_stopped(
    run: Started, undisturbed: Trial
) -> None:
    search = begin(run)
    assignment = Assignment(0, undisturbed.point)
    reports = take_up(search, assignment, hear=lambda report, checkpoint: search.ask_to_stop())
    assert [report[EPOCH] for report in reports] == [1]
    assert search.is_over
    assert list(trial_folder(run.folder, 0).glob("step-*"))
    assert (search.ledger.trials[0].state, search.ledger.trials[0].num_epochs) == ("running", 1)

    again = begin(run)
    assert again.next_trial() == assignment
    reports = take_up(again, assignment)
    assert [report[EPOCH] for report in reports] == [1, 2, 3]
    trial = again.ledger.trials[0]
    assert (trial.state, again.ledger.num_epochs) == ("finished", 3)
    assert curve(trial.history) == curve(undisturbed.history)


def test_what_a_trial_that_is_taken_up_says_again_costs_nothing_again(
    run: Started, undisturbed: Trial
) -> None:
    search = begin(run)
    take_up(search, Assignment(0, undisturbed.point), paused=2)
    before = search.ledger.trials[0]
    again = begin(run)
    take_up(again, Assignment(0, undisturbed.point), paused=2)
    after = again.ledger.trials[0]
    assert (after.history, after.seconds) == (before.history, before.seconds)


def test_a_trial_that_is_set_aside_says_no_epoch_twice(run: Started, undisturbed: Trial) -> None:
    search = begin(run)
    assignment = Assignment(0, undisturbed.point)
    reports = [*take_up(search, assignment, paused=1), *take_up(search, assignment, paused=2)]
    reports += take_up(search, assignment)
    assert [report[EPOCH] for report in reports] == [1, 2, 3]
    trial = search.ledger.trials[0]
    assert trial.state == "finished"
    assert curve(trial.history) == curve(undisturbed.history)
    starts = [line for line in journals.read(run.folder.tune / LEDGER) if line["kind"] == "start"]
    assert len(starts) == 1


def test_a_trial_that_was_killed_after_its_last_epoch_finishes_without_training(run: Started) -> None:
    take_up(begin(run), Assignment(0, {RATE: 0.03}), paused=3)
    again = begin(run)
    reports = take_up(again, Assignment(0, {RATE: 0.03}))
    assert [report["last"] for report in reports] == [False, False, True]
    assert again.ledger.trials[0].state == "finished"


def test_a_trial_ended_early_has_stopped_and_counts_with_its_best_epoch(run: Started) -> None:
    search = begin(run)
    take_up(search, Assignment(0, {RATE: 0.03}), stopped=2)
    trial = search.ledger.trials[0]
    assert (trial.state, trial.num_epochs) == ("stopped", 2)
    assert trial.value("loss") == min(each["valid"]["loss"] for each in trial.history)


def test_trials_under_way_come_first_and_in_their_order(run: Started) -> None:
    search = begin(run)
    points = [each.point for each in (upcoming(search), upcoming(search), upcoming(search)) if each]
    finish(search, 1, 0.5)
    again = begin(run)
    taken = [upcoming(again) for _ in range(3)]
    assert [each.number for each in taken if each] == [0, 2, 3]
    assert [each.point for each in taken if each][:2] == [points[0], points[2]]


# What is tried next


def optuna(folder: Path, **tune: Any) -> Started:
    return prepared(folder, tune={"search": "optuna", "trials": 12, **tune})


def loss_at(point: Mapping[str, Any]) -> float:
    """The better the nearer the learning rate is to 0.02."""
    return abs(math.log(point[RATE] / 0.02))


def test_what_is_tried_waits_for_the_trials_that_it_depends_on(tmp_path: Path) -> None:
    search = begin(optuna(tmp_path), lag=2)
    assert [begun(search) for _ in range(3)] == [0, 1, 2]
    assert search.next_trial() is None
    assert not search.is_over
    finish(search, 1, 0.5)
    assert search.next_trial() is None
    finish(search, 0, 0.5)
    assert [begun(search), begun(search)] == [3, 4]
    assert search.next_trial() is None


def points_of(run: Started, order: Sequence[int], *, spoilt: Sequence[int] = ()) -> list[dict[str, Any]]:
    """The points of a search of which three trials run at once; `order`: which of the three ends next."""
    search, points = begin(run, lag=2), []
    running: list[Assignment] = []
    turns = iter(order)
    while not search.is_over or running:
        if len(running) < 3 and (assignment := upcoming(search)) is not None:
            points.append(assignment.point)
            running.append(assignment)
            continue
        ending = running.pop(next(turns, 0) % len(running))
        if ending.number in spoilt:
            fail(search, ending.number)
        else:
            finish(search, ending.number, loss_at(ending.point))
    return points


def test_what_is_tried_does_not_hang_on_who_ended_first(tmp_path: Path) -> None:
    expected = points_of(optuna(tmp_path / "a"), [0] * 12)
    assert points_of(optuna(tmp_path / "b"), [2, 1, 0] * 4) == expected
    assert points_of(optuna(tmp_path / "c"), [1, 2, 2, 0, 1, 1] * 2) == expected
    assert len({json.dumps(point) for point in expected}) == 12


def test_what_is_tried_does_not_hang_on_the_trials_just_before(tmp_path: Path) -> None:
    expected = points_of(optuna(tmp_path / "a"), [0] * 12)
    assert points_of(optuna(tmp_path / "b"), [0] * 12, spoilt=[9, 10]) == expected
    assert points_of(optuna(tmp_path / "c"), [0] * 12, spoilt=[0, 1, 2]) != expected


def test_a_search_taken_up_tries_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    expected = points_of(optuna(tmp_path / "a"), [0] * 12)
    run = optuna(tmp_path / "b")
    search = begin(run, lag=2)
    for number in range(8):
        assignment = upcoming(search)
        assert assignment is not None
        if number < 7:
            finish(search, number, loss_at(assignment.point))
    assert points_of(run, [0] * 12) == expected[7:]


@pytest.mark.parametrize(
    ("tune", "space"),
    [
        ({"search": "optuna", "scheduler": "asha"}, RATES),
        ({"search": "random"}, RATES),
        ({"search": "grid"}, {UNITS: {"int": [1, 12]}}),
    ],
)
def test_what_depends_on_no_trial_waits_for_none(
    tmp_path: Path, tune: dict[str, Any], space: dict[str, Any]
) -> None:
    search = begin(prepared(tmp_path, space=space, tune={"trials": 12, **tune}), lag=2)
    assert [begun(search) for _ in range(12)] == list(range(12))
    assert search.next_trial() is None
    assert search.is_over


def test_a_search_is_over_when_all_its_trials_have_begun(tmp_path: Path) -> None:
    search = begin(prepared(tmp_path, tune={"trials": 2}))
    assert (begun(search), search.is_over) == (0, False)
    assert (begun(search), search.is_over) == (1, True)
    assert search.next_trial() is None
    assert search.num_trials == 2


@pytest.mark.parametrize(("trials", "num_trials", "num_unseen"), [(4, 4, 2), (6, 6, 0), (9, 6, 0)])
def test_a_grid_ends_with_its_last_point(
    tmp_path: Path, trials: int, num_trials: int, num_unseen: int
) -> None:
    space = {UNITS: {"choice": [4, 6, 8]}, "train.optimizer": {"choice": ["adam", "sgd"]}}
    search = begin(prepared(tmp_path, space=space, tune={"search": "grid", "trials": trials}))
    assert (search.num_trials, search.num_unseen) == (num_trials, num_unseen)
    points = []
    while (assignment := upcoming(search)) is not None:
        points.append(assignment.point)
    assert len({json.dumps(point) for point in points}) == len(points) == num_trials
    assert search.is_over


def test_where_there_is_no_grid_none_of_it_is_unseen(run: Started) -> None:
    assert begin(run).num_unseen == 0


# Budgets


def test_when_the_epochs_are_used_up_what_runs_ends_and_nothing_begins(tmp_path: Path) -> None:
    search = begin(prepared(tmp_path, tune={"trials": 3, "max_epochs": 4}))
    drive(search)
    states = [(trial.state, trial.num_epochs) for trial in search.ledger.searched]
    assert states == [("finished", 3), ("cut", 1)]
    assert search.is_over


def test_the_last_epoch_of_a_trial_is_its_end_even_when_it_is_the_last_of_all(tmp_path: Path) -> None:
    search = begin(prepared(tmp_path, tune={"trials": 3, "max_epochs": 3}))
    drive(search)
    assert [(trial.state, trial.num_epochs) for trial in search.ledger.searched] == [("finished", 3)]


def test_epochs_of_an_earlier_process_are_used_up_too(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 3, "max_epochs": 3})
    search = begin(run)
    begun(search)
    finish(search, 0, 0.5, 0.4, 0.3)
    again = begin(run)
    assert again.is_spent
    assert again.is_over


def spend(folder: Path, *, hours: int) -> None:
    """A ledger of one finished trial and one that runs, after so many hours."""
    nothing_wrong = {"error": "", "traceback": "", "retry": False}
    written = [
        (0, {"kind": "search", "lag": 2}),
        (0, {"kind": "start", "number": 0, "point": {RATE: 0.03}}),
        (hours, {"kind": "epoch", "number": 0, "entry": entry(1, 0.5), "seconds": 1.0}),
        (hours, {"kind": "end", "number": 0, "state": "finished", "seconds": 0.0, **nothing_wrong}),
        (hours, {"kind": "start", "number": 1, "point": {RATE: 0.01}}),
    ]
    for hour, line in written:
        journals.append(folder / LEDGER, {"at": f"2026-01-01T{hour:02d}:00:00+00:00", **line})


def test_when_the_time_is_used_up_what_runs_ends_and_nothing_begins(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 5, "seconds": 7200})
    spend(run.folder.tune, hours=2)
    search = begin(run)
    assert search.is_spent
    assert search.is_over
    search.started(1, {RATE: 0.01})
    say(search, 1, 0.4, last=False)
    assert search.must_end(1)
    search.ended(1)
    assert [trial.state for trial in search.ledger.searched] == ["finished", "cut"]


def test_time_that_is_left_is_used(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 5, "seconds": 7200})
    spend(run.folder.tune, hours=1)
    search = begin(run)
    assert not search.is_spent
    assert begun(search) == 1
    assert not search.must_end(1)


# Failures


def test_a_failure_says_why_counts_and_has_no_value(tmp_path: Path) -> None:
    search = begin(prepared(tmp_path, tune={"trials": 2}))
    begun(search)
    say(search, 0, 0.1, last=False)
    fail(search, 0, "MemoryError: too large")
    trial = search.ledger.trials[0]
    assert (trial.state, trial.error, trial.retry) == ("failed", "MemoryError: too large", False)
    assert trial.traceback == "Traceback\nMemoryError: too large\n"
    assert (trial.value("loss"), trial.seconds) == (None, 1.5)
    assert begun(search) == 1
    assert search.is_over


def test_a_trial_that_diverges_is_never_the_best_however_good_it_was(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 2})
    search = begin(run)
    assignment = search.next_trial()
    assert assignment is not None
    take_up(search, assignment, paused=1)
    path = run.folder.data / "encoding.json"
    intact = path.read_text("utf8")
    encoding = json.loads(intact)
    encoding["inputs"][0]["center"] = [float("inf")] * 2
    path.write_text(json.dumps(encoding), "utf8")
    take_up(search, assignment)
    path.write_text(intact, "utf8")
    diverged = search.ledger.trials[0]
    assert diverged.state == "failed"
    assert diverged.num_epochs == 1
    assert diverged.error.startswith("TrainingDiverged: ")
    assert "loop.py" in diverged.traceback

    begun(search)
    finish(search, 1, 99.0)
    assert best(search) == 1
    assert not (trial_folder(run.folder, 0) / "best").exists()
    assert begin(run).is_over


def test_a_trial_whose_process_died_is_tried_once_more_by_another_search(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 1})
    search = begin(run)
    first = upcoming(search)
    search.died(0, "killed by signal 9")
    trial = search.ledger.trials[0]
    assert (trial.state, trial.error) == ("failed", "WorkerLost: killed by signal 9")
    assert search.is_over

    again = begin(run)
    assert not again.is_over
    assert upcoming(again) == first
    finish(again, 0, 0.5)
    trial = again.ledger.trials[0]
    assert (trial.state, trial.error, trial.value("loss")) == ("finished", "", 0.5)
    assert begin(run).is_over


def test_settings_that_do_not_go_together_are_a_failed_trial_and_the_search_goes_on(tmp_path: Path) -> None:
    run = prepared(
        tmp_path,
        space={"model.residual": {"choice": [True, False]}},
        tune={"search": "grid"},
        train={"epochs": 1},
    )
    search = begin(run)
    drive(search)
    refused, trained = search.ledger.searched
    assert (refused.state, refused.point, refused.num_epochs) == ("failed", {"model.residual": True}, 0)
    assert refused.error.startswith("SettingsError: ")
    assert "residual has no effect with one layer" in refused.error
    assert not trial_folder(run.folder, 0).exists()
    assert (trained.state, trained.point) == ("finished", {"model.residual": False})


# What is kept


def test_only_the_best_of_the_trials_that_ended_keeps_its_weights(run: Started) -> None:
    search = begin(run)
    for number, rate in enumerate((0.001, 0.05, 0.002)):
        take_up(search, Assignment(number, {RATE: rate}), stopped=2)
    take_up(search, Assignment(3, {RATE: 0.003}), paused=1)
    losses = [search.ledger.trials[number].value("loss") or math.inf for number in range(3)]
    assert best(search) == losses.index(min(losses)) == 1
    kept = {number: {path.name for path in trial_folder(run.folder, number).iterdir()} for number in range(4)}
    assert kept[0] == kept[2] == {"history.json"}
    assert kept[1] == {"best", "history.json"}
    assert {"best", REPORTED} < kept[3]
    assert any(name.startswith("step-") for name in kept[3])


def test_another_seed_never_takes_the_weights_of_the_best(run: Started) -> None:
    search = begin(run)
    begun(search)
    (trial_folder(run.folder, 0) / "best").mkdir(parents=True)
    finish(search, 0, 0.5)
    again = Repeats(run.settings, queue=[Assignment(20, {RATE: 0.03}, 7)], **surroundings(run))
    assert again.next_trial() == Assignment(20, {RATE: 0.03}, 7)
    again.started(20, {RATE: 0.03})
    (trial_folder(run.folder, 20) / "best").mkdir(parents=True)
    finish(again, 20, 0.1)
    assert (trial_folder(run.folder, 0) / "best").exists()
    assert not (trial_folder(run.folder, 20) / "best").exists()


def test_a_trial_killed_between_the_ledger_and_mlflow_does_not_stay_open_there(run: Started) -> None:
    before: list[dict[str, Any]] = []
    search = begin(run, tracker=Recorder(before.append, earlier=()))
    number = begun(search)
    say(search, number, 0.5)
    search.ledger.end(number, "finished")  # here it was killed
    after: list[dict[str, Any]] = []
    begin(run, tracker=Recorder(after.append, earlier=before))
    assert [each["kind"] for each in after] == ["values", "values", "end"]
    assert after[0]["tags"]["recurra.state"] == "finished"
    assert after[1]["metrics"] == {"best_loss": 0.5}
    assert after[2]["status"] == "FINISHED"
    assert {each["stage"] for each in after} == {"trial 0"}
    again: list[dict[str, Any]] = []
    begin(run, tracker=Recorder(again.append, earlier=before + after))
    assert again == []


# Rows of a trial's own


def ids(data: Path) -> dict[str, list[str]]:
    encoding = _encoding(data)
    splits = ("train", "valid", "test")
    return {name: SequenceSet.open(data / name, encoding).ids.to_pylist() for name in splits}


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_rows_are_prepared_once_for_each_of_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {SCALE: {"choice": ["standard", "minmax", "robust"]}, UNITS: {"choice": [3, 4]}}
    run = prepared(tmp_path, space=space, tune={"search": "grid"}, train={"epochs": 1})
    before, scales = contents(run.folder.path / "data"), []
    prepare = searching.prepare

    def counted(settings: Any, **given: Any) -> Any:
        scales.append(settings.data.inputs[0].scale)
        return prepare(settings, **given)

    monkeypatch.setattr(searching, "prepare", counted)
    search = begin(run)
    drive(search)
    trials = search.ledger.searched
    assert [trial.state for trial in trials] == ["finished"] * 6
    assert scales == ["minmax", "robust"]
    assert contents(run.folder.path / "data") == before
    places = {data_of(run.folder, run.settings, trial_settings(run.settings, t.point, None)) for t in trials}
    assert len(places) == 3
    assert run.folder.path / "data" in places
    assert all(ids(place) == ids(run.folder.path / "data") for place in places)
    assert len({json.dumps(curve(trial.history)) for trial in trials}) == 6


def test_rows_that_cannot_be_prepared_are_a_failed_trial(tmp_path: Path) -> None:
    rows = lines(40)
    rows["words"] = [[f"w{step % 3}" for step in range(len(each))] for each in rows["frames"]]
    inputs = [{"column": "frames", "scale": "standard"}, {"column": "words", "kind": "token"}]
    space = {"data.inputs.1.vectors": {"choice": [str(tmp_path / "missing.txt")]}}
    run = start(tmp_path, rows, data={"inputs": inputs}, tune={"space": space, "search": "grid"})
    search = begin(run)
    assert search.next_trial() is None
    assert search.is_over
    (trial,) = search.ledger.searched
    assert trial.state == "failed"
    assert trial.error.startswith("DataError: ")


# The state of another trial


def test_a_trial_goes_on_from_the_state_of_another_with_settings_of_its_own(
    run: Started, tmp_path: Path
) -> None:
    from ray.tune import Checkpoint

    search, copy = begin(run), tmp_path / "copy"

    def keep(report: dict[str, Any], checkpoint: Any) -> None:
        if report[EPOCH] == 2:
            shutil.copytree(checkpoint.path, copy)

    take_up(search, Assignment(0, {RATE: 0.05}), copies=True, hear=keep)
    donor = search.ledger.trials[0].history
    take_up(search, Assignment(1, {RATE: 0.001}), copies=True, paused=1)
    assert curve(search.ledger.trials[1].history) != curve(donor[:1])

    going_on = Assignment(1, {RATE: 0.02})
    restored = Checkpoint.from_directory(str(copy))
    reports = take_up(search, going_on, copies=True, restored=restored)
    assert [report[EPOCH] for report in reports] == [3]
    for ledger in (search.ledger, TrialLedger(run.folder.tune)):
        trial = ledger.trials[1]
        assert (trial.state, trial.point) == ("finished", {RATE: 0.02})
        assert trial.history[:2] == donor[:2]
        assert [each["learning_rate"] for each in trial.history] == pytest.approx([0.05, 0.05, 0.02])
        assert trial.history[2]["valid"] != donor[2]["valid"]
    kinds = [line["kind"] for line in journals.read(run.folder.tune / LEDGER) if line.get("number") == 1]
    assert kinds == ["start", "epoch", "start", "lineage", "epoch", "end"]


def test_a_trial_may_go_on_from_a_state_with_fewer_epochs_than_its_own(run: Started) -> None:
    search = begin(run)
    begun(search)
    say(search, 0, 0.9, 0.8, 0.7, last=False)
    history = [entry(1, 0.5), entry(2, 0.4)]
    report = {"entry": history[-1], "history": history, "last": False, SECONDS: 1.0, GROWN: False}
    search.reported(0, {EPOCH: 2, **report})
    assert search.ledger.trials[0].history == history
    assert search.ledger.trials[0].seconds == 4.0


# What is said of it


def test_a_trial_is_a_nested_run_with_its_settings_and_its_best_score(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"trials": 2})
    with run.tracker() as tracker:
        search = begin(run, tracker=tracker)
        point = [upcoming(search), upcoming(search)][0].point  # type: ignore[union-attr]
        finish(search, 0, 0.5, 0.25, 0.75)
        fail(search, 1, "TrainingDiverged: NaN")
    spool = (run.folder.path / "tracking.jsonl").read_text("utf8")
    entries = [json.loads(line) for line in spool.splitlines()]

    def of(number: int, kind: str) -> list[dict[str, Any]]:
        return [each for each in entries if each["stage"] == f"trial {number}" and each["kind"] == kind]

    assert [each["tags"] for each in of(0, "start")] == [{"recurra.trial": "0"}]
    values = of(0, "values")
    assert [each["params"] for each in values if each.get("params")] == [{RATE: str(point[RATE])}]
    losses = [each["metrics"]["valid_loss"] for each in values if "valid_loss" in each.get("metrics", {})]
    assert losses == [0.5, 0.25, 0.75]
    assert [each["metrics"] for each in values if "best_loss" in each.get("metrics", {})] == [
        {"best_loss": 0.25}
    ]
    assert [each["status"] for each in of(0, "end")] == ["FINISHED"]
    assert [each["status"] for each in of(1, "end")] == ["FAILED"]
    tags = [each["tags"] for each in of(1, "values") if each.get("tags")]
    assert tags == [{"recurra.state": "failed", "error": "TrainingDiverged: NaN"}]
    assert not any("best_loss" in each.get("metrics", {}) for each in of(1, "values"))


def test_each_trial_is_told_in_a_line(tmp_path: Path) -> None:
    console = Noting()
    search = begin(prepared(tmp_path), console=console)
    points = [upcoming(search).point for _ in range(4)]  # type: ignore[union-attr]
    finish(search, 0, 0.5, 0.25, 0.75)
    say(search, 1, 0.5, last=False)
    search.ended(1)
    fail(search, 2, "ValueError: no")
    search.ended(3)
    shown = [shown_point(point) for point in points]
    assert console.notes == [
        f"trial 0: loss 0.2500 at epoch 2; {shown[0]}",
        f"trial 1: loss 0.5000 at epoch 1, stopped after epoch 1; {shown[1]}",
        f"trial 2: failed: ValueError: no; {shown[2]}",
        f"trial 3: stopped before its first epoch; {shown[3]}",
    ]


def test_the_table_has_what_runs_the_best_of_what_ended_and_a_sum(tmp_path: Path) -> None:
    table = Shown()
    search = begin(prepared(tmp_path, tune={"trials": 9}), table=table)
    shown = [shown_point(upcoming(search).point) for _ in range(5)]  # type: ignore[union-attr]
    finish(search, 0, 0.5, 0.4, 0.3)
    finish(search, 1, 0.3, 0.2, 0.1)
    fail(search, 2)
    say(search, 4, 0.9, last=False)
    search.tick()
    assert table.rows == [
        ["3", "running", "0/3", "-", "", shown[3]],
        ["4", "running", "1/3", "0.9000", "2 s", shown[4]],
        ["1", "finished", "3/3", "0.1000", "", shown[1]],
        ["0", "finished", "3/3", "0.3000", "", shown[0]],
        # Six are left, two at a time, at two seconds on average: the failed one took none.
        ["", "", "", "", "6 s", "3 of 9 done, 1 failed"],
    ]


def test_the_best_accuracy_is_the_highest(tmp_path: Path) -> None:
    table = Shown()
    search = begin(prepared(tmp_path, tune={"metric": "accuracy"}), table=table)
    for number, accuracy in enumerate((0.5, 0.75)):
        assert begun(search) == number
        report = {"entry": {**entry(1, 0.5), "valid": {"loss": 0.5, "accuracy": accuracy}}, "last": True}
        search.reported(number, {EPOCH: 1, SECONDS: 1.0, GROWN: False, **report})
        search.ended(number)
    search.tick()
    assert [row[3] for row in table.rows[:2]] == ["0.7500", "0.5000"]
    assert best(search) == 1


def test_a_point_is_shown_by_the_last_part_of_its_keys() -> None:
    point = {UNITS: 64, RATE: 0.0031415926, "train.optimizer": "sgd", "model.residual": True}
    assert shown_point(point) == "units 64, learning_rate 0.003142, optimizer sgd, residual true"
    assert shown_point({"model.branch": {"filters": [16]}}) == 'branch {"filters": [16]}'
    assert (
        shown_point({"model.branch": None, "data.inputs.0.vectors": "é.txt"}) == "branch null, vectors é.txt"
    )
    assert shown_point({}) == ""


def test_trials_are_judged_by_the_metric_of_the_search_else_by_that_of_training(tmp_path: Path) -> None:
    assert metric_of(prepared(tmp_path / "a").settings) == "loss"
    asked = prepared(tmp_path / "b", tune={"metric": "accuracy"}).settings
    assert metric_of(asked) == "accuracy"
    assert trial_settings(asked, {}, None).train.early_stopping.metric == "accuracy"


def test_a_trial_may_have_epochs_of_its_own(run: Started) -> None:
    assert num_epochs(run.settings, {}) == 3
    assert num_epochs(run.settings, {"train.epochs": 7}) == 7


# The best settings once more


def test_repeats_train_the_same_settings_with_other_seeds(run: Started) -> None:
    queue = [Assignment(20, {RATE: 0.03}, 1), Assignment(21, {RATE: 0.03}, 2)]
    console = Noting()
    again = Repeats(run.settings, queue=queue, **surroundings(run, console=console))
    drive(again)
    assert again.is_over
    assert again.num_trials == 2
    assert again.ledger.searched == []
    one, other = TrialLedger(run.folder.tune).repeated
    assert [(each.number, each.seed, each.state) for each in (one, other)] == [
        (20, 1, "finished"),
        (21, 2, "finished"),
    ]
    assert curve(one.history) != curve(other.history)
    assert console.notes[0].startswith("trial 20, seed 1: loss ")
    assert trial_settings(run.settings, {RATE: 0.03}, 2).train.seed == 2


def test_repeats_have_no_budget_and_stop_when_they_are_asked_to(tmp_path: Path) -> None:
    run = prepared(tmp_path, tune={"max_epochs": 1})
    queue = [Assignment(20, {RATE: 0.03}, 1), Assignment(21, {RATE: 0.03}, 2)]
    again = Repeats(run.settings, queue=queue, **surroundings(run))
    assignment = again.next_trial()
    assert assignment is not None
    again.started(20, assignment.point)
    say(again, 20, 0.5, 0.4, last=False)
    assert not again.must_end(20)
    again.ask_to_stop()
    assert again.is_over
    assert run.folder.stop.exists()
    again.ended(20)
    assert TrialLedger(run.folder.tune).trials[20].state == "running"


def test_a_machine_that_does_not_see_the_states_that_trials_take_over_is_named(run: Started) -> None:
    shared = Shared(str(run.folder.path), "no such token", None)
    with pytest.raises(ClusterError, match=f"{socket.gethostname()} does not see {run.folder.path}") as error:
        train_trial(
            report=lambda *said, **more: None,
            restored=None,
            number=0,
            point={},
            seed=None,
            settings=run.settings,
            folder=run.folder,
            key="key",
            num_threads=1,
            copies=True,
            shared=shared,
        )
    assert "another scheduler" in error.value.hint
