"""What of a sweep needs no cluster: how a trial is heard, and what schedulers make of its scores."""

import math
import pickle
import subprocess
import sys

import pytest

from components.errors import StorageError, TrackerError, TrainingDiverged
from pipeline.backends.sweeps import (
    EPOCH,
    FAILURE,
    GROWN,
    SCORE,
    SECONDS,
    _guarded,
    _Heard,
    _own,
    _train,
    replay,
    scheduler,
)

KNOWN = ("asha", "median")
CONTINUE, STOP = "CONTINUE", "STOP"


class Heard:
    """A search that keeps what it is told; `fault` is raised where it is told of an epoch."""

    def __init__(self, fault=None):
        self.calls, self.fault = [], fault

    def reported(self, number, report):
        if self.fault is not None:
            raise self.fault
        self.calls.append((number, report))

    def tick(self):
        self.calls.append("tick")


class Told:
    """The reports of a trial, as Ray Tune takes them; it ends the trial after some."""

    def __init__(self, *, most=math.inf):
        self.reports, self.checkpoints, self.most = [], [], most

    def __call__(self, report, *, checkpoint=None):
        if len(self.reports) >= self.most:
            raise SystemExit
        self.reports.append(report)
        self.checkpoints.append(checkpoint)


def made(name, **changes):
    given = {"max_epochs": 9, "grace": 1, "reduction": 3, "interval": 2, "explore": dict, **changes}
    return scheduler(name, **given)


def curve(score, num_epochs=5):
    return [(epoch, score) for epoch in range(1, num_epochs + 1)]


def decisions(decider, *scores):
    """What a scheduler says to a new trial that has these scores."""
    from ray.tune.experiment import Trial

    trial, controller = Trial("new", stub=True), Controller()
    decider.on_trial_add(controller, trial)
    return [
        decider.on_trial_result(controller, trial, {EPOCH: epoch, SCORE: score})
        for epoch, score in enumerate(scores, start=1)
    ]


class Controller:
    """Runs no other trial, and has its trials from a search."""

    search_alg = object()

    def get_live_trials(self):
        return set()


# A trial


def test_a_trial_is_told_its_settings_and_says_its_epochs():
    told, seen = Told(), {}

    def body(*, report, **given):
        seen.update(given)
        report(1, 0.5, entry={"epoch": 1}, last=False)
        report(2, 0.75, checkpoint="state", entry={"epoch": 2}, last=True)

    config = {"number": 3, "point": {"model.units": 64}, "seed": None}
    _train(body, config, {"folder": "runs"}, report=told, restored="earlier")
    assert seen == {**config, "folder": "runs", "restored": "earlier"}
    assert all(report.pop(SECONDS) >= 0 for report in told.reports)
    assert told.reports == [
        {EPOCH: 1, SCORE: 0.5, "entry": {"epoch": 1}, "last": False, GROWN: False},
        {EPOCH: 2, SCORE: 0.75, "entry": {"epoch": 2}, "last": True, GROWN: False},
    ]
    assert told.checkpoints == [None, "state"]


def test_the_seconds_of_a_trial_are_those_since_it_last_said_something(monkeypatch):
    moments = iter([100.0, 103.0, 103.5, 110.0])
    monkeypatch.setattr("pipeline.backends.sweeps.time.monotonic", lambda: next(moments))
    told = Told()

    def body(*, report, restored):
        report(1, 0.5)
        report(2, 0.5)
        raise TrainingDiverged("NaN")

    _train(body, {}, {}, report=told, restored=None)
    assert [report[SECONDS] for report in told.reports] == [3.0, 0.5, 6.5]


def test_what_a_trial_raises_is_said_in_place_of_a_result():
    told = Told()

    def body(*, report, restored):
        report(1, 0.5, entry={"epoch": 1})
        raise TrainingDiverged("The loss became NaN.")

    _train(body, {}, {}, report=told, restored=None)
    failed = told.reports[-1]
    assert (failed[EPOCH], failed[SCORE], "entry" in failed) == (1, 0.5, False)
    assert failed[FAILURE]["error"] == "TrainingDiverged: The loss became NaN."
    assert "in body\n" in failed[FAILURE]["traceback"]
    assert FAILURE not in told.reports[0]


def test_a_trial_that_fails_before_its_first_epoch_has_no_score():
    told = Told()

    def body(*, report, restored):
        raise MemoryError

    _train(body, {}, {}, report=told, restored=None)
    (failed,) = told.reports
    assert failed[EPOCH] == 0
    assert math.isnan(failed[SCORE])
    assert failed[FAILURE]["error"].startswith("MemoryError")


def test_a_trial_that_is_stopped_as_it_reports_has_not_failed():
    told = Told(most=1)

    def body(*, report, restored):
        report(1, 0.5)
        report(2, 0.5)

    with pytest.raises(SystemExit):
        _train(body, {}, {}, report=told, restored=None)
    assert [FAILURE in report for report in told.reports] == [False]


# The search that hears of it


def test_a_search_is_told_by_the_number_of_the_trial():
    search = Heard()
    heard = _Heard(search, {"a1b2": 7})
    heard.tell("reported", "a1b2", {EPOCH: 1})
    heard.tell("tick")
    assert search.calls == [(7, {EPOCH: 1}), "tick"]


def test_after_a_fault_the_search_is_told_nothing_more():
    fault = StorageError("The disk is full.")
    search = Heard(fault)
    heard = _Heard(search, {"a1b2": 7})
    for what in (("reported", "a1b2", {}), ("tick",)):
        with pytest.raises(StorageError) as caught:
            heard.tell(*what)
        assert caught.value is fault is heard.fault
    assert search.calls == []


def test_what_tune_keeps_holds_nothing_of_the_search():
    copy = pickle.loads(pickle.dumps(_Heard(Heard(), {"a1b2": 7}, StorageError("full"))))
    assert (copy.search, copy.numbers, copy.fault) == (None, {}, None)


def test_an_error_of_ours_is_found_below_those_around_it():
    ours = TrackerError("away")
    below, beside = RuntimeError("caused"), RuntimeError("while handling")
    below.__cause__, beside.__context__ = ours, below
    assert _own(ours) is ours
    assert _own(below) is ours
    assert _own(beside) is ours


def test_an_error_without_one_of_ours_below_stays_itself():
    error = RuntimeError("outer")
    error.__cause__ = ValueError("inner")
    assert _own(error) is error


# Schedulers


def test_importing_this_module_imports_no_ray(root):
    code = "import pipeline.backends.sweeps, sys; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_making_a_scheduler_starts_no_ray():
    import ray

    assert made("none") is None
    names = {name: type(made(name)).__name__ for name in ("asha", "median", "hyperband", "pbt")}
    assert names == {
        "asha": "AsyncHyperBandScheduler",
        "median": "MedianStoppingRule",
        "hyperband": "HyperBandScheduler",
        "pbt": "PopulationBasedTraining",
    }
    assert not ray.is_initialized()


def test_a_grace_longer_than_the_training_is_the_whole_of_it():
    decider = made("asha", max_epochs=2, grace=5)
    replay(decider, [curve(0.9, 1)] * 4, higher_is_better=True)
    assert decisions(decider, 0.1) == [CONTINUE]


def test_pbt_goes_on_with_what_the_search_makes_of_a_better_point():
    decider = made("pbt", explore=lambda point: {"rate": point["rate"] * 2})
    explored = decider._custom_explore_fn({"number": 3, "seed": None, "point": {"rate": 0.1}})
    assert explored == {"number": 3, "seed": None, "point": {"rate": 0.2}}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_scheduler_that_knows_of_past_trials_stops_a_bad_one_that_a_new_one_lets_go_on(
    name, higher_is_better
):
    good, bad = (0.9, 0.1) if higher_is_better else (0.1, 0.9)
    past = [curve(0.5 + (good - 0.5) * share) for share in (0.6, 0.7, 0.8, 0.9)]
    for score, told in ((bad, STOP), (good, CONTINUE)):
        decider = made(name)
        replay(decider, [], higher_is_better=higher_is_better)
        assert decisions(decider, score) == [CONTINUE]
        decider = made(name)
        replay(decider, past, higher_is_better=higher_is_better)
        assert decisions(decider, score) == [told]


@pytest.mark.parametrize("name", KNOWN)
def test_a_past_trial_that_goes_on_longer_than_it_might_is_told_of_to_its_end(name):
    """It may have begun before the better ones, and those have smaller numbers."""
    decider = made(name)
    replay(decider, [*[curve(0.9)] * 4, curve(0.1)], higher_is_better=True)
    assert decisions(decider, 0.95) == [CONTINUE]
    assert decisions(decider, 0.05) == [STOP]


@pytest.mark.parametrize("name", KNOWN)
def test_past_trials_without_an_epoch_say_nothing(name):
    decider = made(name)
    replay(decider, [[], [], [], []], higher_is_better=True)
    assert decisions(decider, 0.1, 0.1) == [CONTINUE, CONTINUE]


@pytest.mark.parametrize("name", KNOWN)
def test_a_guarded_scheduler_keeps_what_it_was_told_and_never_hears_of_a_failure(name):
    decider = made(name)
    replay(decider, [curve(0.9)] * 4, higher_is_better=True)
    guarded = _guarded(decider, "max")
    assert guarded.on_trial_result(Controller(), object(), {EPOCH: 0, SCORE: math.nan, FAILURE: {}}) == STOP
    assert decisions(guarded, 0.95, 0.95) == [CONTINUE, CONTINUE]
    assert decisions(guarded, 0.1) == [STOP]


@pytest.mark.parametrize("name", ["asha", "median", "hyperband", "pbt"])
def test_a_guarded_scheduler_judges_by_our_scores_as_tune_asks_of_it(name):
    guarded = _guarded(made(name), "min")
    assert (guarded._metric, guarded._mode) == (SCORE, "min")


def test_a_guarded_pbt_takes_the_trials_that_a_search_suggests():
    from ray.tune.experiment import Trial

    controller, trial = Controller(), Trial("new", stub=True)
    guarded = _guarded(made("pbt"), "max")
    guarded.on_trial_add(controller, trial)
    assert list(guarded._trial_state) == [trial]


def test_a_trial_that_takes_over_from_a_better_one_stays_itself():
    from ray.tune.experiment import Trial

    worse, better = (
        Trial("new", stub=True, config={"number": number, "seed": None, "point": {"rate": rate}})
        for number, rate in ((3, 0.1), (5, 0.2))
    )
    guarded = _guarded(made("pbt", explore=lambda point: {"rate": point["rate"] * 2}), "max")
    config, _ = guarded._get_new_config(worse, better)
    assert config == {"number": 3, "seed": None, "point": {"rate": 0.4}}
    assert better.config["number"] == 5
