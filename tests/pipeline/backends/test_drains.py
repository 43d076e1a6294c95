"""The notice that a machine will be taken back; tests/end_to_end/test_machines.py gives a real node one."""

from typing import Any

import pytest

from pipeline.backends import drains
from pipeline.backends.drains import MachineLeaves


class Said:
    """What Ray says each time it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.answers, self.num_asked = list(answers), 0
        monkeypatch.setattr(drains, "_is_drained", self)
        monkeypatch.setattr(drains, "_notice", drains._Notice())

    def __call__(self) -> Any:
        self.num_asked += 1
        return self.answers.pop(0)


def test_ray_is_not_asked_at_every_step_and_a_notice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said(monkeypatch, False, True)
    now = 100.0
    monkeypatch.setattr(drains.time, "monotonic", lambda: now)
    assert drains.leaving() is None
    now += drains.SECONDS_BETWEEN / 2
    assert drains.leaving() is None
    assert said.num_asked == 1
    now += drains.SECONDS_BETWEEN
    for _ in range(3):
        assert isinstance(drains.leaving(), MachineLeaves)
        now += drains.SECONDS_BETWEEN
    assert said.num_asked == 2


def test_where_no_cluster_answers_there_is_no_notice() -> None:
    # This process is connected to none.
    assert not drains._is_drained()
