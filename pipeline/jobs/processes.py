"""One slot's run as a process that outlives the scheduler.

<storage>/.schedules/<name>/
  20260329T010000Z.lock   held by the run, through the descriptor it inherits, until its last process ends
  20260329T010000Z.json   its outcome, as `recurra retrain --json` prints it
  20260329T010000Z.log    what it said

Where the storage is an object store, that folder is one of this machine alone. So the run holds a claim in
the store, too, and its line in the journal names its slot: a scheduler elsewhere sees it go on, and its end.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import BusyError, StorageError
from pipeline.backends import mirrors
from pipeline.backends.claims import Watch, claimed
from pipeline.backends.mirrors import Mirror
from pipeline.jobs.diary import Slot

FOLDER, SLOTS = ".schedules", ".schedules/slots"
GATE = 4
SLOT = "RECURRA_SLOT"  # which slot a process is of, for itself


def program() -> list[str]:
    """How this very Recurra is called: the command beside the interpreter, where it is installed."""
    command = Path(sys.executable).with_name("recurra")
    return [str(command)] if command.exists() else [sys.executable, "-m", "pipeline"]


class Processes:
    """Starts `recurra retrain` for slots, and finds those that an earlier scheduler started."""

    def __init__(
        self,
        storage: Path,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        journal: Path,
    ) -> None:
        """Nothing is started yet; `journal` is where the runs of the command leave a line."""
        self.storage, self.folder, self.journal = storage, storage / FOLDER / name, journal
        self.command, self.variables = tuple(command), dict(variables)

    def start(self, slot: Slot) -> "Process":
        """Start it, its lock taken before it is there.

        Raises:
            StorageError: the storage cannot be written.
        """
        files = _Files(self.folder, slot.instant)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.lock.open("w") as lock, files.outcome.open("wb") as out:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with files.log.open("ab") as log:
                    process = subprocess.Popen(
                        [*program(), *self.command, "--json"],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=log,
                        env={**os.environ, **self.variables, SLOT: files.slot},
                        pass_fds=[lock.fileno()],
                        start_new_session=True,  # Ctrl-C is for the scheduler
                    )
                lock.write(f"{process.pid}\n")
        except OSError as error:
            raise StorageError(
                f"A run cannot be started in {self.folder}: {error.strerror or error}."
            ) from error
        return Process(files, process)

    def find(self, slot: Slot) -> "Process":
        """One that an earlier scheduler started."""
        files, mirror = _Files(self.folder, slot.instant), mirrors.of(self.storage)
        return Process(files, None, None if mirror is None else _Elsewhere(mirror, files.slot, self.journal))


@contextmanager
def in_slot(storage: Path) -> Iterator[str]:
    """The slot that this process is of, empty where it is of none; others see that it goes on.

    Raises:
        BusyError: a process on another machine is at it.
    """
    slot, mirror = os.environ.get(SLOT, ""), mirrors.of(storage)
    if not slot or mirror is None:
        yield slot
        return
    with claimed(mirror.bucket, _claim(slot), place=str(storage / FOLDER / slot)) as ours:
        if ours is None:
            raise BusyError(
                f"Another machine is at slot {slot}.", hint="What it has stored stands; this one can be left."
            )
        yield slot


def _claim(slot: str) -> str:
    return f"{SLOTS}/{slot}.json"


class _Elsewhere:
    """What an object store says of a slot's run: whether a machine is at it, and what came of it."""

    def __init__(self, mirror: Mirror, slot: str, journal: Path) -> None:
        self.slot, self.journal = slot, journal
        self._watch = Watch(mirror.bucket, _claim(slot))

    def goes_on(self) -> bool:
        try:
            return self._watch.is_held()
        except StorageError:
            return True  # nobody can tell now, and the next look may

    def outcome(self) -> dict[str, Any] | None:
        """From the line that the run left."""
        for line in reversed(mirrors.read(self.journal)):
            if line.get("slot") == self.slot:
                return {"verdict": line["verdict"], "reasons": line["notes"], "run_id": line["run_id"]}
        return None


class _Files:
    def __init__(self, folder: Path, instant: datetime) -> None:
        stem = f"{instant.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}".replace(".000000", "")
        self.slot = f"{folder.name}/{stem}"
        self.lock, self.log = folder / f"{stem}.lock", folder / f"{stem}.log"
        self.outcome = folder / f"{stem}.json"


class Process:
    """One run, of ours or of a scheduler before us."""

    def __init__(
        self,
        files: _Files,
        process: "subprocess.Popen[bytes] | None",
        elsewhere: _Elsewhere | None = None,
    ) -> None:
        self._files, self._process, self._elsewhere = files, process, elsewhere

    def is_here(self) -> bool:
        """Whether it is a process of this machine, which can be stopped."""
        return self._process is not None or self._is_held()

    def ended(self) -> tuple[int | None, Mapping[str, Any] | None] | None:
        """Exit code and outcome; None while it runs. Of a stranger the code follows from its outcome."""
        code = None if self._process is None else self._process.poll()
        if self._process is not None and code is None:
            return None
        if self._process is None and (self._is_held() or self._goes_on_elsewhere()):
            return None
        try:
            outcome = self._outcome()
        except StorageError:
            return None  # the store is away, and the next look may tell
        if code is not None and code < 0:
            # Killed: nothing that it may have printed counts.
            return None, None
        if code is None and outcome is not None:
            code = outcome.get("exit_code", GATE if outcome.get("verdict") == "rejected" else 0)
        return code, outcome

    def stop(self) -> None:
        """Ask it to checkpoint and end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # A number that another machine's process has here is some other process's.
        pid = self._pid() if self.is_here() else None
        if pid is not None and self.ended() is None:
            with suppress(ProcessLookupError, PermissionError):
                # Its session is its own, so the group's number is the process's.
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)

    def _pid(self) -> int | None:
        if self._process is not None:
            return self._process.pid
        with suppress(OSError, ValueError):
            return int(self._files.lock.read_text("utf8"))
        return None

    def _is_held(self) -> bool:
        try:
            with self._files.lock.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _goes_on_elsewhere(self) -> bool:
        return self._elsewhere is not None and self._elsewhere.goes_on()

    def _outcome(self) -> dict[str, Any] | None:
        if self._elsewhere is not None and (told := self._elsewhere.outcome()) is not None:
            return told
        with suppress(OSError, ValueError):
            found = json.loads(self._files.outcome.read_text("utf8"))
            return found if isinstance(found, dict) else None
        return None
