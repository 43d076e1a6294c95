"""Signals become exceptions, after one chance to checkpoint."""

import os
import signal
from collections.abc import Iterator

import pytest

from components.errors import Interrupted, Terminated
from pipeline.backends.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = Signals()
    handlers.install()
    yield handlers
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143)]
)
def test_a_signal_outside_grace_raises_at_once(
    signals: Signals, number: int, error: type[Exception], code: int
) -> None:
    with pytest.raises(error) as caught:
        send(number)
    assert caught.value.exit_code == code  # type: ignore[attr-defined]


def test_within_grace_the_first_signal_asks_and_the_second_raises(signals: Signals) -> None:
    asked: list[str] = []
    with signals.grace(lambda: asked.append("stop")):
        send(signal.SIGTERM)
        assert asked == ["stop"]
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
    assert asked == ["stop"]


def test_the_end_after_a_stop_says_which_signal_it_was(signals: Signals) -> None:
    with signals.grace(lambda: None):
        send(signal.SIGINT)
    error = signals.stopped()
    assert error.exit_code == 130
    assert "checkpointed" in error.message
    assert "same command" in error.hint


def test_after_grace_a_signal_raises_again(signals: Signals) -> None:
    with signals.grace(lambda: None):
        pass
    with pytest.raises(Interrupted):
        send(signal.SIGINT)
