"""Files of JSON lines that only grow: what was written is never rewritten, and survives the process.

{"at": "2026-01-01T03:00:00+00:00", ...}
{"at": "2026-01-01T03:00:07+00:00", ...}
"""

import getpass
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.errors import StorageError

LOOKS = "retrain.jsonl"  # of a name: every look for a reason to train again, and what came of it


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Write one line, and wait until the disk has it.

    Raises:
        StorageError: the file cannot be written, as when the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            # What a kill left of a last line must not swallow this one.
            torn = file.tell() > 0 and _last_byte(file) != b"\n"
            # Half a character, as in the name of a file that is not UTF-8, becomes the escape that JSON has.
            line = json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace")
            file.write((b"\n" if torn else b"") + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; none where there is no file. One torn by a kill is passed over.

    Raises:
        StorageError: there is a file, and it cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error
    found = []
    for line in lines:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def who() -> str:
    """The user and the machine, as journals name them."""
    user = "unknown"
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
