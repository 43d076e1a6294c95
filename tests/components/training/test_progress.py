"""Better, best and patience."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.training.progress import epochs_without_gain, is_better, plateau_scale, waiting_share


def history(*values: float, metric: str = "loss") -> list[dict[str, Any]]:
    return [{"valid": {metric: value}} for value in values]


@pytest.mark.parametrize(
    ("metric", "value", "than", "better"),
    [
        ("loss", 0.5, 0.6, True),
        ("loss", 0.6, 0.6, False),
        ("accuracy", 0.7, 0.6, True),
        ("accuracy", 0.5, 0.6, False),
        ("accuracy", 0.0, None, True),
        ("loss", math.nan, 0.6, False),
        ("accuracy", math.nan, None, False),
    ],
)
def test_better_depends_on_the_metric_and_nan_never_is(
    metric: str, value: float, than: float | None, better: bool
) -> None:
    assert is_better(metric, value, than) is better


def test_patience_counts_from_the_best_epoch() -> None:
    assert epochs_without_gain([], "loss") == 0
    assert epochs_without_gain(history(0.84, 1.02, 1.23, 1.49), "loss") == 3
    assert epochs_without_gain(history(0.9, 0.8, 0.85, 0.7), "loss") == 0
    assert epochs_without_gain(history(0.5, 0.5, 0.5, metric="accuracy"), "accuracy") == 2
    assert epochs_without_gain(history(0.9, math.nan), "loss") == 1


@pytest.mark.parametrize(
    ("values", "times"),
    [
        ((), 0),
        ((0.9, 0.8, 0.7), 0),
        ((0.9, 1.0), 0),
        ((0.9, 1.0, 1.0), 1),
        ((0.9, 1.0, 1.0, 1.0), 1),
        ((0.9, 1.0, 1.0, 1.0, 1.0), 2),
        ((0.9, 1.0, 0.8, 1.0, 0.7), 0),
        ((0.9, 1.0, 1.0, 0.8, 0.9), 1),
        ((0.9, math.nan, math.nan), 1),
    ],
)
def test_a_plateau_goes_down_after_each_patience_without_gain(values: tuple[float, ...], times: int) -> None:
    found = plateau_scale(history(*values), "loss", patience=2, factor=0.1)
    assert found == pytest.approx(0.1**times)


def test_a_plateau_watches_the_metric_in_its_own_direction() -> None:
    rising = history(0.5, 0.6, 0.7, metric="accuracy")
    assert plateau_scale(rising, "accuracy", patience=1, factor=0.5) == 1.0
    assert plateau_scale(rising[::-1], "accuracy", patience=1, factor=0.5) == 0.25


def test_it_is_readable_without_tensorflow(root: Path) -> None:
    code = "import sys, components.training.progress; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_the_share_of_waiting_is_over_all_epochs() -> None:
    epochs = [{"seconds": 9.0, "waiting_seconds": 0.5}, {"seconds": 1.0, "waiting_seconds": 0.5}]
    assert waiting_share(epochs) == pytest.approx(0.1)
    assert waiting_share([]) == 0.0
