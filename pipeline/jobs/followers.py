"""A job's log as it grows, until the job's own status says that it ended.

    stream ─ breaks, or ends while the job goes on ─▶ a new one, in which what was shown is passed over
    status ─ asked every second; over ─▶ the rest of the log, and the end

The end of a stream says nothing of the job's: a proxy, a restarted dashboard or Ray itself may close it.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from components.errors import ClusterError
from pipeline.jobs.dashboards import Job, Unanswered

POLL_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
LOST_SECONDS = 60.0


class Source(Protocol):
    """Where a job is."""

    address: str

    def job(self, job: str) -> Job | None: ...

    def log(self, job: str) -> str: ...

    def tail(self, job: str) -> AsyncIterator[str]: ...


def follow(source: Source, job: str, *, say: Callable[[str], None], patience: float = LOST_SECONDS) -> Job:
    """Say every line of a job's log as it comes; the job once it is over.

    Args:
        source: where the job is.
        job: its submission id.
        say: takes one line.
        patience: seconds without an answer after which the cluster counts as lost.

    Raises:
        ClusterError: the cluster is lost, or has lost the job.
    """
    tail = _Tail(lambda: source.tail(job))
    tail.start()
    lines, answered = _Lines(say), time.monotonic()
    try:
        while True:
            lines.add(tail.read(POLL_SECONDS))
            try:
                found = source.job(job)
            except Unanswered as error:
                if time.monotonic() - answered > patience:
                    raise _lost(source, job, f"has not answered for {patience:.0f} s") from error
                continue
            if found is None:
                raise _lost(source, job, "no longer knows the job: its head was started anew")
            answered = time.monotonic()
            if found.is_over:
                break
    finally:
        tail.close()
    lines.add(tail.rest(whole_log(source, job)))
    lines.end()
    return found


def whole_log(source: Source, job: str) -> str:
    """All that a job has said, or nothing where that cannot be had any more."""
    try:
        return source.log(job)
    except Unanswered:
        return ""  # how it ended is known, and that matters more


def _lost(source: Source, job: str, why: str) -> ClusterError:
    return ClusterError(
        f"The cluster is lost: {source.address} {why}. How job {job} ended is not known.",
        hint="Once a cluster is there, the same submission goes on from the last checkpoint in its storage.",
    )


class _Lines:
    """Whole lines out of pieces of text."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._begun = say, ""

    def add(self, text: str) -> None:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._say(line)

    def end(self) -> None:
        if self._begun:
            self._say(self._begun)
            self._begun = ""


class _Tail(threading.Thread):
    """Reads the stream in a thread of its own, so that the main one stays open to signals."""

    def __init__(self, connect: Callable[[], AsyncIterator[str]]) -> None:
        super().__init__(daemon=True)
        self._connect = connect
        self._new: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_seen = 0  # characters
        self._closed = threading.Event()

    def run(self) -> None:
        asyncio.run(self._read())

    async def _read(self) -> None:
        while not self._closed.is_set():
            num_passed = 0
            # Whatever ends a stream says nothing of the job: the next one goes on behind it.
            try:
                async for text in self._connect():
                    num_passed += len(text)
                    if self._closed.is_set():
                        return
                    self._take(text, num_passed)
            except Unanswered:
                pass
            await asyncio.sleep(RECONNECT_SECONDS)

    def _take(self, text: str, num_passed: int) -> None:
        with self._lock:
            if not self._closed.is_set() and num_passed > self._num_seen:
                self._new.put(text[len(text) - (num_passed - self._num_seen) :])
                self._num_seen = num_passed

    def read(self, seconds: float) -> str:
        """What is new, waiting so long for it."""
        texts = []
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                texts.append(self._new.get(timeout=left))
            except queue.Empty:
                break
        return "".join(texts)

    def close(self) -> None:
        """Take nothing more from the stream."""
        with self._lock:
            self._closed.set()

    def rest(self, log: str) -> str:
        """What was not read yet, the whole log being known."""
        texts = []
        while not self._new.empty():
            texts.append(self._new.get())
        return "".join(texts) + log[self._num_seen :]
