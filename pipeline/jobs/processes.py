"""One slot's run as a process that outlives the scheduler.

<storage>/.schedules/<name>/
  20260329T010000Z.lock   held by the run, through the descriptor it inherits, until its last process ends
  20260329T010000Z.json   its outcome, as `recurra retrain --json` prints it
  20260329T010000Z.log    what it said
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import StorageError
from pipeline.jobs.diary import Slot

FOLDER = ".schedules"
GATE = 4


def program() -> list[str]:
    """How this very Recurra is called: the command beside the interpreter, where it is installed."""
    command = Path(sys.executable).with_name("recurra")
    return [str(command)] if command.exists() else [sys.executable, "-m", "pipeline"]


class Processes:
    """Starts `recurra retrain` for slots, and finds those that an earlier scheduler started."""

    def __init__(
        self, storage: Path, name: str, command: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        self.folder = storage / FOLDER / name
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
                        env={**os.environ, **self.variables},
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
        return Process(_Files(self.folder, slot.instant), None)


class _Files:
    def __init__(self, folder: Path, instant: datetime) -> None:
        stem = f"{instant.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}".replace(".000000", "")
        self.lock, self.log = folder / f"{stem}.lock", folder / f"{stem}.log"
        self.outcome = folder / f"{stem}.json"


class Process:
    """One run, of ours or of a scheduler before us."""

    def __init__(self, files: _Files, process: "subprocess.Popen[bytes] | None") -> None:
        self._files, self._process = files, process

    def ended(self) -> tuple[int | None, Mapping[str, Any] | None] | None:
        """Exit code and outcome; None while it runs. Of a stranger the code follows from its outcome."""
        code = None if self._process is None else self._process.poll()
        if self._process is not None and code is None:
            return None
        if self._process is None and self._is_held():
            return None
        outcome = self._outcome()
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
        pid = self._pid()
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

    def _outcome(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            found = json.loads(self._files.outcome.read_text("utf8"))
            return found if isinstance(found, dict) else None
        return None
