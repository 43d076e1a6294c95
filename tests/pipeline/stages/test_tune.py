"""tune: how much room there is, which trials count, what is kept of a search; trials here train nothing."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.errors import ClusterError, SearchFailed, Terminated
from components.tuning.searches import contains
from conf.load import load, resolved
from conf.points import as_yaml, with_point
from conf.schema import Settings
from pipeline.backends import sweeps, workspace
from pipeline.backends.cluster import Cluster
from pipeline.backends.recorders import Recorder
from pipeline.backends.signals import Signals
from pipeline.backends.sweeps import EPOCH, FAILURE, GROWN, SECONDS, Assignment, Room
from pipeline.backends.trials import TrialLedger
from pipeline.backends.workspace import RunFolder
from pipeline.stages.search import data_of, trial_folder
from pipeline.stages.tune import (
    GIVEN,
    _conclude,
    _most_epochs,
    _scheduler,
    _scores,
    _take_over,
    _to_repeat,
    as_data,
    best,
    room_for,
    tune,
    tuned,
)
from tests.pipeline.conftest import QUIET, Noting, line_settings

RATE, UNITS = "train.learning_rate", "model.units"
OPTIMIZER, MOMENTUM = "train.optimizer", "train.momentum"
RATES = {RATE: {"loguniform": [0.001, 0.1]}}
TIMINGS = ("seconds", "step_seconds", "waiting_seconds", "steps_per_second")


class Machines(Cluster):
    """A cluster that only says which machines there are."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        super().__init__(address=None)
        self.nodes = nodes

    def _nodes(self) -> list[dict[str, float]]:
        return list(self.nodes)


ONE = Machines({"CPU": 8})
WITH_GPUS = Machines({"CPU": 8, "GPU": 2})


def searching(space: dict[str, Any] = RATES, /, *, path: str = "lines.parquet", **changes: Any) -> Settings:
    """Settings with a search; `tune` and other sections change them."""
    given = {"search": "random", "scheduler": "none", "space": space, **changes.pop("tune", {})}
    return line_settings(Path(path), tune=given, **changes)


def entry(epoch: int, loss: float) -> dict[str, Any]:
    scores = {"loss": 0.25, "learning_rate": 0.01, "valid": {"loss": loss, "accuracy": 1 - loss}}
    return {"epoch": epoch, **scores, **dict.fromkeys(TIMINGS, 0.5)}


def add(
    ledger: TrialLedger,
    number: int,
    *losses: float,
    point: dict[str, Any] | None = None,
    state: str = "finished",
    seed: int | None = None,
    **failure: str,
) -> None:
    """A trial with these losses, one for each epoch of two seconds."""
    ledger.start(number, {RATE: 0.03} if point is None else point, seed=seed)
    for epoch, loss in enumerate(losses, start=1):
        ledger.epoch(number, entry(epoch, loss), seconds=2.0)
    if state != "running":
        ledger.end(number, state, **failure)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose rows need not be read."""
    folder = workspace.create(tmp_path / "runs", "lines", plan={}, versions={})
    folder.data.mkdir()
    return folder


@pytest.fixture
def ledger(folder: RunFolder) -> TrialLedger:
    return TrialLedger(folder.tune)


# Which one is best


def test_the_best_trial_is_none_of_the_repeats(ledger: TrialLedger) -> None:
    add(ledger, 0, 0.5, 0.4)
    add(ledger, 1, 0.3, 0.9, state="stopped")
    add(ledger, 2, 0.1, seed=7)
    assert best(ledger, searching()).number == 1


def test_a_search_without_a_validated_epoch_says_what_to_give_it(ledger: TrialLedger) -> None:
    add(ledger, 0, state="cut")
    add(ledger, 1, math.nan, state="running")
    with pytest.raises(SearchFailed, match="ended before any trial had validated an epoch") as caught:
        best(ledger, searching())
    assert "tune.seconds or tune.max_epochs" in caught.value.hint


def test_where_all_trials_failed_the_first_of_them_says_why(ledger: TrialLedger) -> None:
    said = 'Traceback (most recent call last):\n  File "loop.py"\nMemoryError: too large\n'
    add(ledger, 0, 0.1, state="failed", error="MemoryError: too large", traceback=said)
    add(ledger, 1, state="failed", error="ValueError: no", point={RATE: 0.01})
    with pytest.raises(SearchFailed) as caught:
        best(ledger, searching())
    message = caught.value.message
    assert message.startswith("All 2 trials failed. The first, trial 0: Traceback")
    assert message.endswith('  File "loop.py"\nMemoryError: too large')
    assert message.count("MemoryError") == 1
    assert caught.value.hint == f'Its settings were {{"{RATE}": 0.03}}.'


def test_a_failure_without_a_traceback_says_its_error(ledger: TrialLedger) -> None:
    add(ledger, 4, state="failed", error="WorkerLost: killed")
    with pytest.raises(SearchFailed, match=r"The first, trial 4: WorkerLost: killed$"):
        best(ledger, searching())


# How much room there is


@pytest.mark.parametrize(
    ("devices", "changes", "cluster", "cpus", "gpus", "concurrency"),
    [
        ("cpu:1", {}, ONE, 1, 0, 8),
        ("cpu:2", {}, ONE, 2, 0, 4),
        ("cpu:3", {}, ONE, 3, 0, 2),
        ("cpu:3", {}, Machines({"CPU": 8}, {"CPU": 4}), 3, 0, 3),
        ("cpu:2", {}, WITH_GPUS, 2, 0, 4),
        ("auto", {}, ONE, 1, 0, 8),
        ("auto", {}, WITH_GPUS, 1, 1, 2),
        ("auto", {}, Machines({"CPU": 64}, {"CPU": 8, "GPU": 1}), 1, 1, 1),
        ("gpu:1", {}, WITH_GPUS, 1, 1, 2),
        ("gpu:2", {}, Machines({"CPU": 8, "GPU": 5}), 1, 2, 2),
        ("gpu:all", {}, Machines({"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}), 1, 4, 1),
        ("gpu:1", {"trials_per_gpu": 2}, WITH_GPUS, 1, 0.5, 4),
        ("auto", {"trials_per_gpu": 2}, WITH_GPUS, 1, 0.5, 4),
        ("gpu:1", {"trials_per_gpu": 5}, Machines({"CPU": 64, "GPU": 2}), 1, 0.2, 10),
        ("gpu:1", {"trials_per_gpu": 5}, WITH_GPUS, 1, 0.2, 8),
        ("gpu:all", {}, Machines({"CPU": 8, "GPU": 1}), 1, 1, 1),
        ("auto", {"trials_per_gpu": 5}, ONE, 1, 0, 8),
        ("cpu:1", {"cpus": 3}, ONE, 3, 0, 2),
        ("auto", {"cpus": 4}, WITH_GPUS, 4, 1, 2),
        ("cpu:1", {"concurrency": 3}, ONE, 1, 0, 3),
        ("cpu:1", {"concurrency": 50}, ONE, 1, 0, 8),
        ("cpu:1", {"trials": 2}, ONE, 1, 0, 2),
        ("cpu:1", {"trials": 2, "concurrency": 5}, ONE, 1, 0, 2),
    ],
)
def test_as_many_trials_run_at_once_as_machines_and_settings_allow(
    devices: str, changes: dict[str, Any], cluster: Machines, cpus: int, gpus: float, concurrency: int
) -> None:
    settings = searching(tune=changes, train={"devices": devices})
    expected = Room({"CPU": float(cpus), "GPU": gpus}, cpus, concurrency, limited=True)
    assert room_for(settings, cluster) == expected


@pytest.mark.parametrize("scheduler", ["hyperband", "pbt"])
@pytest.mark.parametrize(
    ("changes", "cluster"),
    [
        ({}, ONE),
        ({"concurrency": 3}, ONE),
        ({"concurrency": 5}, ONE),
        ({}, WITH_GPUS),
        ({"concurrency": 1}, WITH_GPUS),
        ({"concurrency": 2}, Machines({"CPU": 8}, {"CPU": 8})),
        ({"concurrency": 3}, Machines({"CPU": 8}, {"CPU": 8})),
        ({"concurrency": 1}, Machines({"CPU": 2}, {"CPU": 2}, {"CPU": 2})),
        ({}, Machines({"CPU": 16}, {"CPU": 4, "GPU": 1})),
    ],
)
def test_where_trials_are_set_aside_their_cpus_keep_the_others_out(
    scheduler: str, changes: dict[str, Any], cluster: Machines
) -> None:
    room = room_for(searching(tune={"scheduler": scheduler, **changes}, train={"devices": "auto"}), cluster)
    assert not room.limited
    assert room.num_threads == 1
    assert 1 <= cluster.room_for(room.resources) <= room.concurrency


@pytest.mark.parametrize(
    ("devices", "changes", "asked"),
    [
        ("cpu:9", {}, "9 CPUs and 0 GPUs"),
        ("cpu:1", {"cpus": 9}, "9 CPUs and 0 GPUs"),
        ("gpu:1", {}, "1 CPUs and 1 GPUs"),
        ("gpu:2", {}, "1 CPUs and 2 GPUs"),
        ("gpu:all", {}, "1 CPUs and 1 GPUs"),
    ],
)
def test_what_no_machine_has_is_said_beside_what_there_is(
    devices: str, changes: dict[str, Any], asked: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        room_for(searching(tune=changes, train={"devices": devices}), ONE)
    assert f"A trial needs {asked} on one machine" in caught.value.message
    assert caught.value.message.endswith("the largest there has 8 CPUs and 0 GPUs.")
    assert "tune.cpus or train.devices" in caught.value.hint


# What schedulers are told


def test_a_trial_is_scored_by_its_best_epoch_so_far(ledger: TrialLedger) -> None:
    add(ledger, 0, 0.5, 0.25, 0.75)
    assert _scores(ledger.trials[0], "loss") == [(1, 0.5), (2, 0.25), (3, 0.25)]
    assert _scores(ledger.trials[0], "accuracy") == [(1, 0.5), (2, 0.75), (3, 0.75)]


def test_the_longest_trial_is_that_which_the_space_allows() -> None:
    assert _most_epochs(searching()) == 3
    assert _most_epochs(searching({"train.epochs": {"choice": [2, 9, 4]}})) == 9
    assert _most_epochs(searching({"train.epochs": {"int": [5, 7]}})) == 7


def test_without_a_scheduler_there_is_none(ledger: TrialLedger) -> None:
    assert _scheduler(searching(), ledger) is None


def test_a_population_goes_on_within_the_space(ledger: TrialLedger) -> None:
    settings = searching(tune={"scheduler": "pbt"})
    assert settings.tune is not None
    made = _scheduler(settings, ledger)
    config = {"number": 0, "seed": None, "point": {RATE: 0.1}}
    explored = [made._custom_explore_fn(config)["point"] for _ in range(5)]
    assert all(contains(settings.tune.space, point) for point in explored)
    assert len({point[RATE] for point in explored}) > 1


# What the report is given


def test_the_report_is_given_every_trial_and_what_stopping_saved(ledger: TrialLedger) -> None:
    settings = searching({RATE: RATES[RATE], "train.epochs": {"choice": [3, 5]}}, tune={"trials": 6})
    points = [{RATE: 0.01 * (number + 1), "train.epochs": 3} for number in range(5)]
    add(ledger, 0, 0.5, 0.25, 0.75, point=points[0])
    add(ledger, 1, 0.9, point=points[1], state="stopped")
    add(ledger, 2, 0.8, 0.7, point={**points[2], "train.epochs": 5}, state="stopped")
    add(ledger, 3, point=points[3], state="failed", error="MemoryError: too large")
    add(ledger, 4, 0.6, point=points[4], state="cut")
    ledger.take_over(ledger.trials[0], number=5, point=points[0], run_id="20260101-030000-abcdef")
    add(ledger, 6, 0.1, point=points[0], seed=1)
    found = as_data(settings, ledger, concurrency=2)
    assert found == json.loads(json.dumps(found))
    assert (found["metric"], found["higher_is_better"], found["best"]) == ("loss", False, 0)
    assert (found["search"], found["scheduler"]) == ("random", "none")
    assert (found["epochs"], found["concurrency"]) == (5, 2)
    assert found["seconds"] == round(ledger.seconds, 3)
    assert found["space"][RATE] == {"kind": "loguniform", "low": 0.001, "high": 0.1}
    # Two epochs of two seconds of trial 1, and three of trial 2.
    assert found["saved"] == {"epochs": 5, "seconds": 10.0}
    assert set(found["importances"]) == {RATE, "train.epochs"}

    trials = found["trials"]
    assert [each["number"] for each in trials] == [0, 1, 2, 3, 4, 5, 6]
    assert [each["value"] for each in trials] == [0.25, 0.9, 0.7, None, 0.6, 0.25, 0.1]
    assert trials[0] == {
        "number": 0,
        "state": "finished",
        "point": points[0],
        "value": 0.25,
        "best_epoch": 2,
        "curve": [[1, 0.5], [2, 0.25], [3, 0.75]],
        "seconds": 6.0,
        "step_seconds": 1.5,
        "seed": None,
        "error": "",
        "from_run": None,
    }
    assert (trials[3]["error"], trials[3]["best_epoch"]) == ("MemoryError: too large", None)
    assert [each["from_run"] for each in trials] == [*[None] * 5, "20260101-030000-abcdef", None]
    assert [each["seed"] for each in trials] == [*[None] * 6, 1]


def test_the_report_of_a_search_without_trials_has_no_best(ledger: TrialLedger) -> None:
    found = as_data(searching(tune={"metric": "accuracy"}), ledger, concurrency=1)
    assert (found["best"], found["trials"], found["importances"]) == (None, [], {})
    assert (found["metric"], found["higher_is_better"]) == ("accuracy", True)
    assert found["saved"] == {"epochs": 0, "seconds": 0}


# Trials of an earlier search


def earlier(tmp_path: Path, settings: Settings) -> tuple[RunFolder, TrialLedger]:
    """A run that searched with these settings."""
    folder = workspace.create(tmp_path / "earlier", "lines", plan={}, versions={})
    folder.tune.mkdir()
    (folder.tune / GIVEN).write_text(as_yaml(settings), "utf8")
    return folder, TrialLedger(folder.tune)


def data_file(tmp_path: Path) -> str:
    return str(tmp_path / "lines.parquet")


def test_finished_trials_that_lie_in_the_new_space_are_taken_over(
    tmp_path: Path, ledger: TrialLedger
) -> None:
    source, theirs = earlier(tmp_path, searching(path=data_file(tmp_path)))
    add(theirs, 0, 0.5, 0.4, 0.3, point={RATE: 0.05})
    add(theirs, 1, 0.5, 0.4, 0.3, point={RATE: 0.005})  # outside
    add(theirs, 2, 0.5, point={RATE: 0.06}, state="stopped")
    add(theirs, 3, state="failed", point={RATE: 0.07}, error="ValueError")
    add(theirs, 4, 0.5, point={RATE: 0.08}, state="cut")
    add(theirs, 5, 0.9, 0.8, 0.7, point={RATE: 0.02})
    add(theirs, 20, 0.1, 0.1, 0.1, point={RATE: 0.05}, seed=1)
    # The file may have moved, and what comes after training may have changed.
    space = {RATE: {"loguniform": [0.01, 0.1]}, UNITS: {"choice": [4, 6]}}
    ours = searching(space, path="moved.parquet", name="other", evaluate={"bootstrap": 100})
    assert _take_over(ours, ledger, source) == 2
    first, second = ledger.searched
    assert [each.point for each in (first, second)] == [{RATE: 0.05, UNITS: 6}, {RATE: 0.02, UNITS: 6}]
    assert [each.number for each in (first, second)] == [0, 1]
    assert [each.state for each in (first, second)] == ["finished"] * 2
    assert {each.from_run for each in (first, second)} == {source.run_id}
    assert (first.history, first.seconds) == (theirs.trials[0].history, 6.0)


def test_no_more_trials_are_taken_over_than_there_will_be(tmp_path: Path, ledger: TrialLedger) -> None:
    source, theirs = earlier(tmp_path, searching(path=data_file(tmp_path)))
    for number in range(4):
        add(theirs, number, 0.5, point={RATE: 0.01 * (number + 1)})
    assert _take_over(searching(path=data_file(tmp_path), tune={"trials": 2}), ledger, source) == 2
    assert [each.point[RATE] for each in ledger.searched] == [0.01, 0.02]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"batch_size": 9}},
        {"train": {"epochs": 4}},
        {"train": {"seed": 9}},
        {"model": {"units": 5}},
        {"tune": {"metric": "accuracy"}},
    ],
)
def test_trials_with_other_settings_are_not_taken_over(
    tmp_path: Path, ledger: TrialLedger, changes: dict[str, Any]
) -> None:
    source, theirs = earlier(tmp_path, searching(path=data_file(tmp_path)))
    add(theirs, 0, 0.5, point={RATE: 0.05})
    assert _take_over(searching(path=data_file(tmp_path), **changes), ledger, source) == 0
    assert ledger.trials == {}


def test_a_setting_that_is_searched_only_at_times_is_taken_over_where_it_is(
    tmp_path: Path, ledger: TrialLedger
) -> None:
    space: dict[str, Any] = {
        OPTIMIZER: {"choice": ["adam", "sgd"]},
        MOMENTUM: {"uniform": [0.0, 0.9], "when": {OPTIMIZER: ["sgd"]}},
    }
    source, theirs = earlier(
        tmp_path, searching({OPTIMIZER: {"choice": ["adam", "sgd"]}}, path=data_file(tmp_path))
    )
    add(theirs, 0, 0.5, point={OPTIMIZER: "adam"})
    add(theirs, 1, 0.4, point={OPTIMIZER: "sgd"})
    ours = searching(space, path=data_file(tmp_path))
    assert _take_over(ours, ledger, source) == 2
    assert [each.point for each in ledger.searched] == [
        {OPTIMIZER: "adam"},
        {OPTIMIZER: "sgd", MOMENTUM: 0.0},
    ]


def test_a_setting_within_a_section_that_a_trial_did_not_have_is_not_taken_over(
    tmp_path: Path, ledger: TrialLedger
) -> None:
    space = {"train.clip_norm": {"choice": [None, 1.0]}, RATE: RATES[RATE]}
    source, theirs = earlier(tmp_path, searching(space, path=data_file(tmp_path)))
    add(theirs, 0, 0.5, point={"train.clip_norm": None, RATE: 0.05})
    add(theirs, 1, 0.5, point={"train.clip_norm": 1.0, RATE: 0.05})
    ours = searching(path=data_file(tmp_path), train={"clip_norm": None})
    assert _take_over(ours, ledger, source) == 1
    assert ledger.trials[0].point == {RATE: 0.05}


# The best settings once more, and what is left


def keep_weights(folder: RunFolder, number: int) -> None:
    (trial_folder(folder, number) / "best").mkdir(parents=True)


def test_the_best_settings_are_repeated_under_other_seeds(folder: RunFolder, ledger: TrialLedger) -> None:
    settings = searching(tune={"trials": 5, "seeds": 3}, train={"seed": 2**32 - 2})
    add(ledger, 0, 0.5)
    keep_weights(folder, 0)
    trial = ledger.trials[0]
    queue = [Assignment(5, trial.point, 2**32 - 1), Assignment(6, trial.point, 0)]
    assert _to_repeat(settings, folder, ledger) == queue
    add(ledger, 5, 0.5, seed=2**32 - 1)
    add(ledger, 6, 0.5, seed=0, state="running")
    assert _to_repeat(settings, folder, ledger) == queue[1:]


def test_the_best_settings_are_trained_once_more_where_their_weights_are_gone(
    folder: RunFolder, ledger: TrialLedger
) -> None:
    add(ledger, 3, 0.5)
    trial = ledger.trials[3]
    assert _to_repeat(searching(), folder, ledger) == [Assignment(3, trial.point)]
    keep_weights(folder, 3)
    assert _to_repeat(searching(), folder, ledger) == []


def test_what_was_found_can_be_run(folder: RunFolder, ledger: TrialLedger, tmp_path: Path) -> None:
    settings = searching(path=data_file(tmp_path), tune={"trials": 3})
    add(ledger, 0, 0.5, 0.4, point={RATE: 0.01})
    add(ledger, 1, 0.3, 0.9, point={RATE: 0.02}, state="stopped")
    add(ledger, 2, state="failed", error="ValueError")
    add(ledger, 3, 0.35, point={RATE: 0.02}, seed=1)
    assert tuned(settings, folder) == settings
    assert _conclude(settings, folder, ledger) == {
        "best": 1,
        "metric": "loss",
        "value": 0.3,
        "best_epoch": 1,
        "valid": {"loss": 0.3, "accuracy": 0.7},
        "point": {RATE: 0.02},
        "trials": {"failed": 1, "finished": 1, "stopped": 1},
        "epochs": 5,
        "seeds": [0.35],
    }
    found = with_point(settings, {RATE: 0.02})
    assert resolved(tuned(settings, folder)) == resolved(found)
    assert resolved(load([folder.tune / "best.yaml"])) == resolved(found)
    assert tuned(found, folder) == found
    assert folder.data == folder.path / "data"


def test_the_rows_of_the_best_settings_are_those_of_the_run(
    folder: RunFolder, ledger: TrialLedger, tmp_path: Path
) -> None:
    scale = "data.inputs.0.scale"
    settings = searching({scale: {"choice": ["minmax", "robust"]}}, path=data_file(tmp_path))
    for number, (value, loss) in enumerate((("minmax", 0.5), ("robust", 0.3))):
        add(ledger, number, loss, point={scale: value})
        rows = data_of(folder, settings, with_point(settings, {scale: value}))
        rows.mkdir(parents=True)
        (rows / "encoding.json").write_text(value, "utf8")
    _conclude(settings, folder, ledger)
    assert folder.data == folder.tune / "data"
    assert (folder.data / "encoding.json").read_text("utf8") == "robust"
    assert not (folder.tune / "prepared").exists()


# The whole of it, with trials that only say their losses

Say = Callable[[dict[str, Any]], Sequence[float]]


def untrained(folder: RunFolder, losses: Say, *, stop_after: int | None = None) -> Any:
    """What stands in place of Ray Tune: one trial after another, each with the losses of its point."""

    def run(cluster: Cluster, body: Any, search: Any, *, scheduler: Any, room: Room, **given: Any) -> None:
        while not search.is_over and (assignment := search.next_trial()) is not None:
            number = assignment.number
            search.started(number, assignment.point)
            for epoch, loss in enumerate(losses(assignment.point), start=1):
                if math.isnan(loss):
                    search.reported(number, {EPOCH: 0, FAILURE: {"error": "E: no"}, SECONDS: 1.0})
                    break
                report = {"entry": entry(epoch, loss), "last": epoch == 3}
                search.reported(number, {EPOCH: epoch, SECONDS: 1.0, GROWN: False, **report})
            (trial_folder(folder, number) / "best").mkdir(parents=True, exist_ok=True)
            if number == stop_after:
                search.ask_to_stop()
            search.ended(number)

    return run


def by_rate(point: dict[str, Any]) -> list[float]:
    """The nearer the learning rate is to 0.02, the better."""
    return [abs(math.log(point[RATE] / 0.02)) + 1 / epoch for epoch in (1, 2, 3)]


@pytest.fixture
def search_with(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the stage; `losses` says those of a point."""

    def search(settings: Settings, losses: Say = by_rate, **changes: Any) -> dict[str, Any]:
        stop_after = changes.pop("stop_after", None)
        monkeypatch.setattr(sweeps, "run", untrained(folder, losses, stop_after=stop_after))
        recorder: Any = Recorder(lambda entry: None, earlier=())
        given = {"cluster": ONE, "signals": Signals(), "console": QUIET, "tracker": recorder, **changes}
        return tune(settings, folder=folder, key="k", **given)

    return search


def trials_of(folder: RunFolder) -> dict[str, Any]:
    return json.loads((folder.tune / "trials.json").read_text("utf8"))


def test_a_search_leaves_its_best_settings_its_trials_and_no_scratch(
    tmp_path: Path, folder: RunFolder, search_with: Callable[..., dict[str, Any]]
) -> None:
    settings = searching(path=data_file(tmp_path), tune={"trials": 6, "seeds": 2})
    summary = search_with(settings)
    ledger = TrialLedger(folder.tune)
    values = [trial.value("loss") or math.inf for trial in ledger.searched]
    assert len(values) == 6
    assert summary["best"] == values.index(min(values))
    assert summary["trials"] == {"finished": 6}
    assert summary["seeds"] == [summary["value"]]
    assert [trial.seed for trial in ledger.repeated] == [1]
    assert ledger.search == {"lag": 12}  # twice as many as run at once: six, where there is room for eight
    assert tuned(settings, folder).train.learning_rate == summary["point"][RATE]
    assert trials_of(folder)["best"] == summary["best"]
    assert not (folder.tune / ".ray").exists()
    assert not folder.stop.exists()


def test_a_search_that_a_signal_stopped_goes_on_where_it_was(
    tmp_path: Path, folder: RunFolder, search_with: Callable[..., dict[str, Any]]
) -> None:
    settings = searching(path=data_file(tmp_path), tune={"trials": 4})
    with pytest.raises(Terminated, match="checkpointed"):
        search_with(settings, stop_after=1)
    assert not folder.stop.exists()
    assert not (folder.tune / "best.yaml").exists()
    assert [trial["number"] for trial in trials_of(folder)["trials"]] == [0, 1]
    assert search_with(settings)["trials"] == {"finished": 4}
    assert search_with(settings)["epochs"] == 12


def test_a_search_whose_trials_all_failed_says_so_and_leaves_them_to_the_report(
    tmp_path: Path, folder: RunFolder, search_with: Callable[..., dict[str, Any]]
) -> None:
    settings = searching(path=data_file(tmp_path), tune={"trials": 2})
    with pytest.raises(SearchFailed, match="All 2 trials failed"):
        search_with(settings, lambda point: [math.nan])
    assert [trial["state"] for trial in trials_of(folder)["trials"]] == ["failed", "failed"]
    assert not (folder.tune / "best.yaml").exists()


def test_a_search_goes_on_from_the_trials_of_another_run(
    tmp_path: Path, folder: RunFolder, search_with: Callable[..., dict[str, Any]]
) -> None:
    settings = searching(path=data_file(tmp_path), tune={"trials": 3})
    source, theirs = earlier(tmp_path, settings)
    add(theirs, 0, *by_rate({RATE: 0.02}), point={RATE: 0.02})
    console = Noting()
    summary = search_with(settings, reuse=source, console=console)
    assert console.notes[0] == f"1 trials are taken over from run {source.run_id}."
    assert (summary["best"], summary["point"]) == (0, {RATE: 0.02})
    assert (summary["trials"], summary["epochs"]) == ({"finished": 3}, 6)
    # Its weights stayed with the other run, so it was trained here once more.
    assert (trial_folder(folder, 0) / "best").exists()
    assert [trial["from_run"] for trial in trials_of(folder)["trials"]] == [source.run_id, None, None]


def test_points_of_a_grid_that_are_left_out_are_warned_of(
    tmp_path: Path, search_with: Callable[..., dict[str, Any]]
) -> None:
    space = {RATE: {"choice": [0.01, 0.02, 0.03, 0.04]}}
    console = Noting()
    search_with(
        searching(space, path=data_file(tmp_path), tune={"search": "grid", "trials": 3}), console=console
    )
    assert console.notes[0] == "The grid has 1 points more than tune.trials allows; they are left out."
