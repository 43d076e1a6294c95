"""Seconds of training as a rate: what is counted, and that nothing is left of it."""

from pathlib import Path

import pytest

from components.training.progress import Progress
from components.training.throughput import measure, summarise
from tests.pipeline.conftest import start


def progress(kind: str, epoch: int, done: int, seconds: float, waited: float = 0.0) -> Progress:
    return Progress(
        kind=kind,  # type: ignore[arg-type]
        epoch=epoch,
        step=0,
        num_epochs=9,
        num_steps_done=done,
        num_steps=1_000,
        seconds=seconds,
        waiting_seconds=waited,
    )


def test_the_first_steps_do_not_count_and_the_median_window_does() -> None:
    # Building the graph took ten seconds; a later window was disturbed.
    seen = [("step", 0, 10, 10.0, 0.0), ("step", 0, 110, 10.5, 0.1), ("step", 0, 120, 11.5, 0.1)]
    seen += [("step", 0, 220, 12.0, 0.3)]
    found = summarise([progress(*each) for each in seen])
    assert found.steps_per_second == pytest.approx(200)
    assert found.waiting_share == pytest.approx(0.3 / 2.0)


def test_counts_begin_anew_with_every_epoch() -> None:
    seen = [("step", 0, 50, 5.0, 0.5), ("epoch", 1, 100, 5.5, 0.6), ("step", 1, 50, 0.5, 0.2)]
    seen += [("epoch", 2, 100, 1.0, 0.2)]
    found = summarise([progress(*each) for each in seen])
    assert found.steps_per_second == pytest.approx(100)
    assert found.waiting_share == pytest.approx((0.1 + 0.2 + 0.0) / 1.5)


def test_too_little_to_tell_is_no_rate() -> None:
    assert summarise([]).steps_per_second == summarise([progress("step", 0, 5, 1.0)]).steps_per_second == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["labelling", "classification"])
def test_a_measurement_trains_and_leaves_the_run_as_it_was(tmp_path: Path, task: str) -> None:
    rows = {}
    if task == "classification":
        from tests.pipeline.conftest import lines

        rows = lines()
        rows["labels"] = [each[0] for each in rows["labels"]]
    run = start(tmp_path, rows or None, **({"task": task} if rows else {}))
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    found = measure(run.settings, run.folder.data, devices="cpu:2", seconds=0.2)
    assert found.steps_per_second > 0
    assert 0 <= found.waiting_share < 1
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
