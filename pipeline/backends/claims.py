"""Who is at work on a run that lies in an object store: an object that only its first writer gets.

claim.json    {"who", "place", "token", "since", "renewed"}     written anew every few seconds by its holder

A holder that was killed does not renew it. It counts as gone when the store's own clock says so, or when it
was watched for as long and stayed as it was: no two clocks are ever compared.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import StorageError
from pipeline.backends.buckets import Bucket, Overtaken
from pipeline.backends.journals import who

LEASE_SECONDS = 30.0
RENEW_SECONDS = 7.0
WATCH_SECONDS = 1.0
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Claim:
    """A claim that is held, and renewed from the side."""

    def __init__(self, bucket: Bucket, key: str, about: dict[str, Any]) -> None:
        self.bucket, self.key, self.about = bucket, key, about
        self.etag = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def content(self) -> bytes:
        return json.dumps({**self.about, "renewed": datetime.now(UTC).isoformat()}).encode()

    def begin(self, etag: str) -> None:
        self.etag = etag
        self._thread.start()

    def is_held(self) -> bool:
        """Whether it is still ours, as far as the store says; not where the store says nothing."""
        with suppress(StorageError):
            found = self.bucket.get(self.key)
            return found is not None and _token(found.content) == self.about["token"]
        return False

    def end(self) -> None:
        """Let go of it, if it is still ours."""
        self._over.set()
        self._thread.join()
        # A store that is away lets go of it itself, as time passes.
        with suppress(StorageError):
            if self.is_held():
                self.bucket.delete([self.key])

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            try:
                self.etag = _written(self.bucket, self.key, self.content(), over=self.etag)
            except StorageError:
                continue
            except Overtaken:
                # Whoever has it now has marked the manifests: what we publish is refused.
                return


class Watch:
    """Whether anybody holds a claim, for one who does not want it; asking takes no time."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key
        self._seen, self._since = "", 0.0

    def is_held(self) -> bool:
        """Whether it is there and was renewed of late, by the store's own clock or since it is watched.

        Raises:
            StorageError: the store cannot be reached.
        """
        found = self.bucket.get(self.key)
        if found is None:
            return False
        if found.etag != self._seen:
            self._seen, self._since = found.etag, time.monotonic()
        return max(found.age, time.monotonic() - self._since) < LEASE_SECONDS


@contextmanager
def claimed(
    bucket: Bucket, key: str, *, place: str, note: Callable[[str], None] = lambda text: None
) -> Iterator[Claim | None]:
    """Try to hold a claim: yields it, or None where another process renews it.

    Args:
        bucket: where.
        key: of the claim's object.
        place: what the caller holds a lock of the system's on. A claim made from the same place on this
            machine is one of a process that is gone.
        note: hears that another holder is being watched.

    Raises:
        StorageError: the store cannot be reached.
    """
    about = {
        "who": who(),
        "place": f"{socket.gethostname()} {_boot()} {place}",
        "token": secrets.token_hex(8),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    claim = Claim(bucket, key, about)
    etag = _take(claim, note)
    if etag is None:
        yield None
        return
    claim.begin(etag)
    try:
        yield claim
    finally:
        claim.end()


def _take(claim: Claim, note: Callable[[str], None]) -> str | None:
    """Get a claim that is free, or whose holder is gone; None when somebody renews it."""
    seen, since = "", 0.0
    while True:
        found = claim.bucket.get(claim.key)
        if found is not None:
            if seen not in ("", found.etag):
                return None
            holder = _parsed(found.content)
            watched = time.monotonic() - since if seen else 0.0
            is_gone = holder.get("place") == claim.about["place"] or max(found.age, watched) >= LEASE_SECONDS
            if not is_gone:
                if not seen:
                    told = f"{holder.get('who', 'unknown')}, since {holder.get('since', 'unknown')}"
                    note(f"{claim.key} is held by {told}; seeing for {LEASE_SECONDS:.0f} s if it still is.")
                    seen, since = found.etag, time.monotonic()
                time.sleep(WATCH_SECONDS)
                continue
        try:
            return _written(
                claim.bucket, claim.key, claim.content(), over=None if found is None else found.etag
            )
        except Overtaken:
            continue


def _written(bucket: Bucket, key: str, content: bytes, *, over: str | None) -> str:
    """Write a claim, which may have come through although no answer did."""
    try:
        return bucket.put(key, content, over=over)
    except Overtaken:
        found = bucket.get(key)
        if found is not None and found.content == content:
            return found.etag
        raise


def _token(content: bytes) -> str | None:
    return _parsed(content).get("token")


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


def _boot() -> str:
    with suppress(OSError):
        return BOOT.read_text("ascii").strip()
    return ""
