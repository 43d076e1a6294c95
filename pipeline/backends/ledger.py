"""Who became champion, when and why: one line for every change of an alias, never rewritten.

<storage>/<name>/ledger.jsonl   {"at", "who", "alias", "from", "to", "why", "run_id"}
"""

import getpass
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.backends import journals

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Change:
    """An alias that moved from one version to another; `before` is None for the first."""

    alias: str
    before: int | None
    after: int
    why: str
    run_id: str


def append(folder: Path, change: Change) -> None:
    """Write a change to the ledger of a name. The caller holds the lock under which it was made."""
    entry = asdict(change)
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": _who(),
        "alias": entry["alias"],
        "from": entry["before"],
        "to": entry["after"],
        "why": entry["why"],
        "run_id": entry["run_id"],
    }
    journals.append(folder / LEDGER, line)


def read(folder: Path) -> list[dict[str, Any]]:
    """All changes, oldest first; a line torn by a kill is passed over."""
    return journals.read(folder / LEDGER)


def _who() -> str:
    user = "unknown"
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"
