"""Values on their way to a tracker that may be away: written to a local file first, sent from the side.

    append ──▶ tracking.jsonl ──▶ Sender (a thread) ──▶ deliver(entries)
               tracking.sent.json  how far it got, and what it must remember

The caller never waits for the network, and after a kill the next process goes on where the file says.
"""

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from components.errors import StorageError, TrackerError

Entry = dict[str, Any]
Memory = dict[str, Any]
Deliver = Callable[[Sequence[Entry]], Memory]

MAX_ENTRIES = 2000
TAIL_BYTES = 4096
GATHER_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0
HURRIED_WAIT_SECONDS = 1.0


class Spool:
    """An append-only file of JSON lines, and the position up to which they are sent to `target`."""

    def __init__(self, path: Path, *, target: str) -> None:
        self.path, self.target = path, target
        self._sent_path = path.with_suffix(".sent.json")
        _cut_torn_line(path)
        self._file = path.open("ab")
        self.written = self._file.tell()
        self.sent, self.memory = self._read_sent()

    def entries(self) -> Iterator[Entry]:
        """Everything ever appended."""
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def append(self, entry: Entry) -> None:
        """Write one entry; it survives the process from here on.

        Raises:
            StorageError: the file cannot be written, as when the disk is full.
        """
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror or error}.") from error
        self.written = self._file.tell()

    def unsent(self) -> tuple[list[Entry], int]:
        """Some of the entries not sent yet, oldest first, and the position after them."""
        found: list[Entry] = []
        with self.path.open("rb") as file:
            file.seek(self.sent)
            while len(found) < MAX_ENTRIES and file.tell() < self.written:
                found.append(json.loads(file.readline()))
            return found, file.tell()

    def acknowledge(self, position: int, memory: Memory) -> None:
        """Remember that everything before `position` is sent, and `memory` for whoever sends the rest."""
        self.sent, self.memory = position, memory
        state = {"target": self.target, "sent": position, "memory": self.memory}
        temporary = self._sent_path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(state), "utf8")
            os.replace(temporary, self._sent_path)
        except OSError:
            # A full disk: the next process sends this again, which the target takes once.
            with contextlib.suppress(OSError):
                temporary.unlink()

    def rewind(self) -> None:
        """Send everything again, remembering nothing."""
        self.acknowledge(0, {})

    def close(self) -> None:
        """Close the file; what is not sent stays in it."""
        self._file.close()

    def _read_sent(self) -> tuple[int, Memory]:
        state = _state(self.path, self.target)
        if not state or state["sent"] > self.written:  # a position beyond the end is another file's
            return 0, {}
        return state["sent"], state["memory"]


def sent_so_far(path: Path, *, target: str) -> int:
    """How many bytes of a spool its `target` has got; the spool itself is not touched."""
    return _state(path, target).get("sent", 0)


def _state(path: Path, target: str) -> dict[str, Any]:
    """What was acknowledged by the target; nothing if that was another one."""
    with contextlib.suppress(OSError, ValueError):
        state = json.loads(path.with_suffix(".sent.json").read_text("utf8"))
        if state["target"] == target:
            return state
    return {}


class Sender:
    """A thread that sends what is in the spool, in order, trying again for as long as it takes."""

    def __init__(self, spool: Spool, connect: Callable[[], Deliver]) -> None:
        """`connect` gives the function that delivers; both raise TrackerError when a retry may help."""
        self.spool, self._connect = spool, connect
        self.failure: TrackerError | None = None
        self._changed = threading.Condition()
        self._hurry = self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    @property
    def has_begun(self) -> bool:
        """Whether anything may have been sent, by this sender or an earlier one."""
        return self._thread.ident is not None or self.spool.sent > 0

    def begin(self) -> None:
        """Start to send, if that has not been done."""
        if self._thread.ident is None:
            self._thread.start()

    def append(self, entry: Entry) -> None:
        """Spool an entry and let the thread know."""
        with self._changed:
            self.spool.append(entry)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until everything is sent; False when `timeout` seconds were not enough."""
        self.begin()
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_idle, timeout)
            self._hurry = False
            return done and self._all_sent()

    def close(self, timeout: float) -> bool:
        """Flush, then end the thread. What could not be sent stays in the spool."""
        done = self.flush(timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        # Not waited for without end: it may be inside a request that hangs.
        self._thread.join(timeout=1.0)
        return done

    def _all_sent(self) -> bool:
        return self.spool.sent >= self.spool.written

    def _is_idle(self) -> bool:
        return self._all_sent() or self._ended

    def _work(self) -> None:
        try:
            self._send_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _send_all(self) -> None:
        deliver: Deliver | None = None
        wait = 0.0
        while self._wait_for_work(wait):
            try:
                deliver = deliver or self._connect()
                self._send(deliver)
                self.failure, wait = None, 0.0
            except TrackerError as error:
                self.failure, deliver = error, None
                wait = min(2 * wait or 0.5, LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.2)

    def _wait_for_work(self, wait: float) -> bool:
        """Wait `wait` seconds, a flush less, then for something to send; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._hurry, wait)
            if self._hurry:
                self._changed.wait_for(lambda: self._stopping, min(wait, HURRIED_WAIT_SECONDS))
            self._changed.wait_for(lambda: self._stopping or not self._all_sent())
            self._changed.wait_for(lambda: self._stopping or self._hurry, GATHER_SECONDS)
            return not self._stopping

    def _send(self, deliver: Deliver) -> None:
        entries, position = self.spool.unsent()
        memory = deliver(entries)
        with self._changed:
            self.spool.acknowledge(position, memory)
            self._changed.notify_all()


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


def last_entry(path: Path) -> Entry | None:
    """The last whole entry of a spool, if it is a short one; the spool itself is not touched."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        whole = file.read().rpartition(b"\n")[0]
    with contextlib.suppress(ValueError):
        return json.loads(whole.rpartition(b"\n")[2])
    return None


def _cut_torn_line(path: Path) -> None:
    """Drop what a kill left of a last line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        position = content_end
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                position += newline + 1 - step
                break
            position -= step
        if position < content_end:
            file.truncate(position)
