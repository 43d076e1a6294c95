import json
import math
from dataclasses import asdict

import pytest

from pipeline.backends import journals
from pipeline.backends.trials import LEDGER, Trial, TrialLedger, best_of

POINT = {"model.units": 64, "train.learning_rate": 0.003, "model.branch": {"filters": [16]}}


def entry(epoch, *, loss=1.0, accuracy=0.5, **more):
    return {"epoch": epoch, "train_loss": 0.7, "valid": {"loss": loss, "accuracy": accuracy}, **more}


def curve(*losses):
    return [entry(epoch, loss=loss) for epoch, loss in enumerate(losses, start=1)]


def trial(number, *losses, state="finished"):
    return Trial(number, {}, state=state, history=curve(*losses))


def state(ledger):
    """Everything that a ledger knows, as text: NaN equals nothing, not even itself."""
    trials = {number: asdict(each) for number, each in ledger.trials.items()}
    return json.dumps({"search": ledger.search, "trials": trials}, sort_keys=True)


def lines(folder):
    return (folder / LEDGER).read_bytes().splitlines(keepends=True)


def steps():
    """One change of each kind, and what comes after a kill, as calls of a ledger."""
    return [
        lambda ledger: ledger.begin(lag=4),
        lambda ledger: ledger.start(0, POINT),
        lambda ledger: ledger.epoch(0, entry(1, loss=0.9), seconds=1.5),
        lambda ledger: ledger.start(1, {"model.units": 32}),
        lambda ledger: ledger.epoch(0, entry(2, loss=math.nan), seconds=1.25),
        lambda ledger: ledger.end(0, "finished", seconds=0.25),
        lambda ledger: ledger.end(1, "failed", error="DataError: é", traceback="Traceback\n", retry=True),
        lambda ledger: ledger.start(2, {"model.units": 16}),
        lambda ledger: ledger.epoch(2, entry(1, loss=0.4), seconds=2.0),
        lambda ledger: ledger.lineage(2, [entry(1, loss=0.9), entry(2, loss=0.8)]),
        lambda ledger: ledger.start(2, {"model.units": 17}),
        lambda ledger: ledger.epoch(2, entry(3, loss=0.3), seconds=2.0),
        lambda ledger: ledger.start(2, {"model.units": 17}),
        lambda ledger: ledger.epoch(2, entry(3, loss=0.3), seconds=1.0),
        lambda ledger: ledger.end(2, "stopped"),
        lambda ledger: ledger.start(3, POINT, seed=7),
        lambda ledger: ledger.end(3, "cut", seconds=3.0),
    ]


@pytest.fixture
def ledger(tmp_path):
    return TrialLedger(tmp_path)


# What the file keeps


def test_after_every_change_the_file_says_what_is_known(tmp_path):
    ledger = TrialLedger(tmp_path)
    for step in steps():
        step(ledger)
        assert state(TrialLedger(tmp_path)) == state(ledger)


def test_a_file_cut_after_any_line_says_what_was_known_then(tmp_path):
    ledger, known = TrialLedger(tmp_path), []
    for step in steps():
        known.append(state(ledger))
        step(ledger)
    written = lines(tmp_path)
    assert len(written) == len(known)
    for num, expected in enumerate(known):
        (tmp_path / LEDGER).write_bytes(b"".join(written[:num]))
        assert state(TrialLedger(tmp_path)) == expected


def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path):
    ledger = TrialLedger(tmp_path)
    for step in steps()[:6]:
        step(ledger)
    before, written = state(ledger), lines(tmp_path)
    ledger.end(1, "failed", error="é")
    after, last = state(ledger), lines(tmp_path)[-1]
    for length in range(len(last)):
        (tmp_path / LEDGER).write_bytes(b"".join(written) + last[:length])
        # Without its line break a line is whole.
        assert state(TrialLedger(tmp_path)) == (after if length == len(last) - 1 else before)
    (tmp_path / LEDGER).write_bytes(b"".join(written) + last[:20])
    TrialLedger(tmp_path).end(1, "failed", error="é")
    assert state(TrialLedger(tmp_path)) == after


def test_a_ledger_gone_on_with_by_another_process_ends_as_one_of_a_single_process(tmp_path):
    whole = TrialLedger(tmp_path / "whole")
    for step in steps():
        step(whole)
        step(TrialLedger(tmp_path / "parts"))
    assert state(TrialLedger(tmp_path / "parts")) == state(whole)


def test_nothing_is_written_before_there_is_something_to_say(tmp_path):
    ledger = TrialLedger(tmp_path / "tune")
    assert (ledger.search, ledger.trials, ledger.num_epochs) == ({}, {}, 0)
    assert not (tmp_path / "tune").exists()


def test_a_search_goes_on_as_the_one_it_was(tmp_path, ledger):
    ledger.begin(lag=4)
    again = TrialLedger(tmp_path)
    again.begin(lag=8)
    assert again.search == {"lag": 4}
    assert [json.loads(line)["lag"] for line in lines(tmp_path)] == [4, 4]


def test_the_time_that_nobody_was_at_it_does_not_count(tmp_path):
    at = ["00:00:00", "00:00:10", "01:00:00", "01:00:05"]
    kinds = [
        {"kind": "search", "lag": 4},
        {"kind": "start", "number": 0, "point": POINT},
        {"kind": "search", "lag": 4},
        {"kind": "start", "number": 0, "point": POINT},
    ]
    for moment, entry in zip(at, kinds, strict=True):
        journals.append(tmp_path / LEDGER, {"at": f"2026-01-01T{moment}+00:00", **entry})
    assert TrialLedger(tmp_path).seconds == 15


# The life of a trial


def test_a_trial_runs_until_it_is_said_how_it_ended(ledger):
    ledger.start(0, POINT)
    known = ledger.trials[0]
    assert (known.state, known.has_ended, known.num_epochs, known.point) == ("running", False, 0, POINT)
    ledger.epoch(0, entry(1), seconds=1.0)
    ledger.end(0, "stopped")
    assert (known.state, known.has_ended, known.num_epochs) == ("stopped", True, 1)


def test_an_epoch_reported_once_more_counts_once(tmp_path, ledger):
    ledger.start(0, POINT)
    ledger.epoch(0, entry(1, loss=0.9), seconds=1.0)
    ledger.epoch(0, entry(2, loss=0.8, seconds=3.0), seconds=1.0)
    ledger.epoch(0, entry(2, loss=0.8, seconds=4.0), seconds=1.0)
    for each in (ledger, TrialLedger(tmp_path)):
        assert [known["epoch"] for known in each.trials[0].history] == [1, 2]
        assert each.trials[0].history[-1]["seconds"] == 4.0
        assert each.num_epochs == 2


def test_an_epoch_trained_anew_drops_those_that_came_after_it(ledger):
    ledger.start(0, POINT)
    for each in (*curve(0.9, 0.8, 0.7), entry(2, loss=0.6)):
        ledger.epoch(0, each, seconds=1.0)
    assert [(each["epoch"], each["valid"]["loss"]) for each in ledger.trials[0].history] == [
        (1, 0.9),
        (2, 0.6),
    ]


def test_seconds_add_up_over_a_resume(tmp_path, ledger):
    ledger.start(0, POINT)
    ledger.epoch(0, entry(1), seconds=1.5)
    resumed = TrialLedger(tmp_path)
    resumed.start(0, POINT)
    resumed.epoch(0, entry(2), seconds=2.25)
    resumed.end(0, "finished", seconds=0.125)
    assert TrialLedger(tmp_path).trials[0].seconds == pytest.approx(3.875)


def test_a_trial_that_goes_on_keeps_its_curve_and_its_seed(tmp_path, ledger):
    ledger.start(4, POINT, seed=3)
    ledger.epoch(4, entry(1, loss=0.9), seconds=1.0)
    resumed = TrialLedger(tmp_path)
    resumed.start(4, POINT)
    assert (resumed.trials[4].seed, resumed.trials[4].num_epochs) == (3, 1)
    assert resumed.repeated == [resumed.trials[4]]


def test_a_failure_says_why_and_whether_it_deserves_another_try(tmp_path, ledger):
    ledger.start(0, POINT)
    ledger.end(0, "failed", error="WorkerLost: out of memory", traceback="Traceback\n  ...", retry=True)
    ledger.start(1, POINT)
    ledger.end(1, "failed", error="TrainingDiverged: NaN")
    lost, diverged = TrialLedger(tmp_path).searched
    assert (lost.error, lost.traceback, lost.retry) == ("WorkerLost: out of memory", "Traceback\n  ...", True)
    assert (diverged.error, diverged.retry) == ("TrainingDiverged: NaN", False)


def test_another_try_that_succeeds_leaves_nothing_of_the_failure(tmp_path, ledger):
    ledger.start(0, POINT)
    ledger.epoch(0, entry(1, loss=0.9), seconds=1.0)
    ledger.end(0, "failed", seconds=0.5, error="WorkerLost", traceback="...", retry=True)
    again = TrialLedger(tmp_path)
    again.start(0, POINT)
    again.epoch(0, entry(2, loss=0.7), seconds=1.0)
    again.end(0, "finished")
    known = TrialLedger(tmp_path).trials[0]
    assert (known.state, known.error, known.traceback, known.retry) == ("finished", "", "", False)
    assert (known.value("loss"), known.seconds) == (0.7, pytest.approx(2.5))


def test_a_trial_that_is_tried_again_has_not_ended(tmp_path, ledger):
    ledger.start(0, POINT)
    ledger.epoch(0, entry(1, loss=0.9), seconds=1.0)
    ledger.end(0, "failed", error="WorkerLost", retry=True)
    ledger.start(0, POINT)
    for each in (ledger, TrialLedger(tmp_path)):
        known = each.trials[0]
        assert (known.state, known.has_ended, known.error) == ("running", False, "")
        assert known.value("loss") == 0.9


def test_a_trial_that_went_on_from_another_has_the_curve_of_its_weights(tmp_path, ledger):
    ledger.start(0, {"train.learning_rate": 0.1})
    for each in curve(0.2, 0.1):
        ledger.epoch(0, each, seconds=1.0)
    ledger.start(0, {"train.learning_rate": 0.08})
    ledger.lineage(0, curve(0.9, 0.8))
    ledger.epoch(0, entry(3, loss=0.7), seconds=1.0)
    known = TrialLedger(tmp_path).trials[0]
    assert [each["valid"]["loss"] for each in known.history] == [0.9, 0.8, 0.7]
    assert known.value("loss") == 0.7
    assert known.point == {"train.learning_rate": 0.08}
    assert known.seconds == pytest.approx(3.0)


# Trials of another search


@pytest.mark.parametrize("ended", ["finished", "stopped", "cut"])
def test_a_trial_taken_over_is_the_same_under_its_new_number_and_point(tmp_path, ledger, ended):
    ledger.start(7, {"train.epochs": 3})
    for each in curve(0.9, 0.8, 0.85):
        ledger.epoch(7, each, seconds=1.1)
    ledger.end(7, ended, seconds=0.1)
    (theirs,) = ledger.searched
    ours = TrialLedger(tmp_path / "ours")
    ours.take_over(theirs, number=0, point=POINT, run_id="20260101-030000")
    (known,) = TrialLedger(tmp_path / "ours").searched
    assert (known.number, known.point, known.from_run) == (0, POINT, "20260101-030000")
    assert (known.state, known.history, known.best("loss")) == (ended, theirs.history, theirs.best("loss"))
    assert known.seconds == pytest.approx(3.4, abs=0.01)
    assert theirs.from_run is None


def test_a_trial_without_an_epoch_can_be_taken_over(ledger):
    failed = Trial(3, POINT, state="failed", error="DataError: no rows", traceback="...")
    ledger.take_over(failed, number=0, point=POINT, run_id="r")
    (known,) = ledger.searched
    assert (known.state, known.error, known.traceback, known.num_epochs) == (
        "failed",
        "DataError: no rows",
        "...",
        0,
    )


def test_repeats_stand_apart_and_all_are_in_the_order_of_their_numbers(ledger):
    for number, seed in ((3, 11), (1, None), (2, 10), (0, None)):
        ledger.start(number, POINT, seed=seed)
        ledger.epoch(number, entry(1), seconds=1.0)
    assert [each.number for each in ledger.searched] == [0, 1]
    assert [each.number for each in ledger.repeated] == [2, 3]
    assert ledger.num_epochs == 4


def test_a_seed_of_zero_is_a_seed(ledger):
    ledger.start(0, POINT, seed=0)
    assert [each.seed for each in ledger.repeated] == [0]


# Which one is best


@pytest.mark.parametrize(("metric", "epoch"), [("loss", 2), ("accuracy", 3), ("ece", 1), ("macro_f1", 4)])
def test_the_best_epoch_is_the_lowest_or_the_highest_as_the_metric_has_it(metric, epoch):
    scores = {"loss": [3, 1, 2, 4], "accuracy": [2, 1, 4, 3], "ece": [1, 4, 3, 2], "macro_f1": [1, 2, 3, 4]}
    history = [
        {"epoch": i + 1, "valid": {name: float(values[i]) for name, values in scores.items()}}
        for i in range(4)
    ]
    known = Trial(0, {}, state="finished", history=history)
    best = known.best(metric)
    assert best is not None
    assert best["epoch"] == epoch
    assert known.value(metric) == best["valid"][metric]


def test_of_equal_epochs_the_first_is_best():
    assert trial(0, 0.5, 0.4, 0.4).best("loss")["epoch"] == 2


@pytest.mark.parametrize("losses", [(), (math.nan,), (math.nan, math.nan)])
def test_a_trial_without_a_number_has_no_value(losses):
    assert trial(0, *losses).best("loss") is None
    assert trial(0, *losses).value("loss") is None


def test_epochs_without_a_number_are_passed_over():
    assert trial(0, math.nan, 0.5, math.nan, 0.6).value("loss") == 0.5


@pytest.mark.parametrize(
    ("state", "value"), [("running", 0.1), ("stopped", 0.1), ("cut", 0.1), ("failed", None)]
)
def test_only_a_failed_trial_has_no_value_in_spite_of_its_epochs(state, value):
    assert trial(0, 0.5, 0.1, state=state).value("loss") == value


def test_the_best_trial_has_the_best_epoch_and_not_the_best_last_one():
    falling, rising = trial(0, 0.9, 0.5, 0.4), trial(1, 0.2, 0.8, 0.9)
    assert best_of([falling, rising], "loss") is rising
    assert best_of([falling, rising], "accuracy") is falling


def test_of_equal_trials_the_first_is_best():
    trials = [trial(0, 0.5), trial(1, 0.4), trial(2, 0.4), trial(3, 0.4, state="stopped")]
    assert best_of(trials, "loss").number == 1
    for each in trials:
        each.history = [entry(1, accuracy=0.25 * min(each.number, 2))]
    assert best_of(trials, "accuracy").number == 2


def test_trials_that_failed_or_have_no_number_are_never_the_best():
    trials = [trial(0, 0.1, state="failed"), trial(1, math.nan), trial(2), trial(3, 0.9), trial(4, math.inf)]
    assert best_of(trials, "loss").number == 3
    assert best_of(trials[:3], "loss") is None
    assert best_of([], "loss") is None
