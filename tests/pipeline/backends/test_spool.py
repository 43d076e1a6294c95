import os
import resource
import threading
import time

import pytest

from components.errors import StorageError, TrackerError
from pipeline.backends.spool import Sender, Spool, last_entry


class Receiver:
    """Somebody to deliver to, who can go away and come back."""

    def __init__(self):
        self.received, self.away, self.tries = [], False, 0

    def connect(self):
        return self.deliver

    def deliver(self, entries):
        self.tries += 1
        if self.away:
            raise TrackerError("nobody here")
        self.received += entries
        return {"count": len(self.received)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tracking.jsonl"


def fill(spool, *numbers):
    for number in numbers:
        spool.append({"n": number})


def numbers(entries):
    return [entry["n"] for entry in entries]


def test_entries_are_read_back_in_order_from_where_sending_stopped(path):
    spool = Spool(path, target="a")
    fill(spool, 1, 2)
    entries, position = spool.unsent()
    assert numbers(entries) == [1, 2]
    spool.acknowledge(position, {"run": "x"})
    fill(spool, 3)
    spool.close()
    again = Spool(path, target="a")
    assert numbers(again.unsent()[0]) == [3]
    assert again.memory == {"run": "x"}
    assert numbers(again.entries()) == [1, 2, 3]
    again.close()


def test_another_tracker_gets_everything_from_the_start(path):
    spool = Spool(path, target="a")
    fill(spool, 1)
    spool.acknowledge(spool.unsent()[1], {"run": "x"})
    spool.close()
    other = Spool(path, target="b")
    assert numbers(other.unsent()[0]) == [1]
    assert other.memory == {}
    other.close()


@pytest.mark.parametrize("torn", [b"{", b'{"n": 7', b"x" * 10_000])
def test_a_line_torn_by_a_kill_is_dropped(path, torn):
    spool = Spool(path, target="a")
    fill(spool, 1, 2)
    spool.close()
    with path.open("ab") as file:
        file.write(torn)
    again = Spool(path, target="a")
    fill(again, 3)
    assert numbers(again.unsent()[0]) == [1, 2, 3]
    again.close()


def test_a_file_that_is_one_torn_line_is_empty(path):
    path.write_bytes(b'{"n"')
    spool = Spool(path, target="a")
    assert spool.unsent() == ([], 0)
    spool.close()


def test_an_unreadable_position_means_sending_again(path):
    spool = Spool(path, target="a")
    fill(spool, 1)
    spool.close()
    path.with_suffix(".sent.json").write_text("{", "utf8")
    again = Spool(path, target="a")
    assert numbers(again.unsent()[0]) == [1]
    again.close()


def test_a_position_that_cannot_be_kept_is_known_to_this_process_alone(path):
    spool = Spool(path, target="there")
    fill(spool, 1)
    (path.parent / f"tracking.sent.{os.getpid()}.tmp").mkdir()  # in the way of the file
    spool.acknowledge(spool.written, {"runs": {}})
    assert (spool.sent, spool.memory) == (spool.written, {"runs": {}})
    spool.close()
    later = Spool(path, target="there")
    assert later.sent == 0
    later.close()


def test_not_a_number_survives_the_file(path):
    spool = Spool(path, target="a")
    spool.append({"value": float("nan")})
    assert str(spool.unsent()[0]) == "[{'value': nan}]"
    spool.close()


def test_everything_is_delivered_once_and_in_order(path):
    receiver, spool = Receiver(), Spool(path, target="a")
    sender = Sender(spool, receiver.connect)
    for number in range(500):
        sender.append({"n": number})
    assert sender.close(timeout=10)
    assert numbers(receiver.received) == list(range(500))
    assert spool.memory == {"count": 500}
    spool.close()


def test_a_receiver_that_is_away_holds_nobody_up_and_lacks_nothing_in_the_end(path):
    receiver, spool = Receiver(), Spool(path, target="a")
    receiver.away = True
    sender = Sender(spool, receiver.connect)
    begun = time.monotonic()
    for number in range(1000):
        sender.append({"n": number})
    assert time.monotonic() - begun < 1
    assert not sender.flush(timeout=0.5)
    assert str(sender.failure) == "nobody here"
    receiver.away = False
    assert sender.flush(timeout=10)
    assert sender.failure is None
    assert numbers(receiver.received) == list(range(1000))
    sender.close(timeout=1)
    spool.close()


def test_nothing_is_sent_before_it_is_begun(path):
    receiver, spool = Receiver(), Spool(path, target="a")
    sender = Sender(spool, receiver.connect)
    sender.append({"n": 1})
    time.sleep(0.5)
    assert (receiver.tries, sender.has_begun) == (0, False)
    sender.begin()
    assert sender.has_begun
    assert sender.close(timeout=10)
    assert numbers(receiver.received) == [1]
    spool.close()
    # What an earlier process sent counts too.
    again = Spool(path, target="a")
    assert Sender(again, receiver.connect).has_begun
    again.close()


def test_it_is_tried_again_less_and_less_often(path):
    receiver, spool = Receiver(), Spool(path, target="a")
    receiver.away = True
    sender = Sender(spool, receiver.connect)
    sender.begin()
    sender.append({"n": 1})
    time.sleep(2.5)
    assert 1 <= receiver.tries <= 4
    sender.close(timeout=0)
    spool.close()


def test_what_could_not_be_sent_is_sent_by_the_next_process(path):
    receiver, spool = Receiver(), Spool(path, target="a")
    receiver.away = True
    sender = Sender(spool, receiver.connect)
    sender.append({"n": 1})
    assert not sender.close(timeout=0.2)
    spool.close()
    receiver.away, spool = False, Spool(path, target="a")
    assert Sender(spool, receiver.connect).close(timeout=10)
    assert numbers(receiver.received) == [1]
    spool.close()


def test_a_file_that_cannot_grow_is_named(path):
    spool = Spool(path, target="a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StorageError, match=r"tracking\.jsonl cannot be written: File too large"):
            spool.append({"text": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.close()


def test_the_last_entry_is_found_without_reading_the_rest(path):
    spool = Spool(path, target="a")
    assert last_entry(path) is None
    fill(spool, *range(1000))
    assert last_entry(path) == {"n": 999}
    with path.open("ab") as file:
        file.write(b'{"n": 1')
    assert last_entry(path) == {"n": 999}
    spool.close()


def test_closing_ends_the_thread(path):
    spool = Spool(path, target="a")
    Sender(spool, Receiver().connect).close(timeout=1)
    spool.close()
    assert "tracker" not in [thread.name for thread in threading.enumerate()]
