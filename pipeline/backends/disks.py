"""Room on the disk: looked for before much is written, and named where it ran out.

with told_when_full(storage):     whatever raised it: a file, TensorFlow, a worker, a download
    ...
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StorageError
from pipeline.backends.workspace import nearest_existing

FULL = (errno.ENOSPC, errno.EDQUOT)
# Libraries put the system's error into words of their own, and lose its number.
SAYINGS = ("No space left on device", "Disk quota exceeded")
HINT = "Make room there, or choose another place with --storage; the same command goes on where it stopped."


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """What comes of a full disk is raised as one.

    Raises:
        StorageError: there is no room left, at `folder` or where else was written.
    """
    try:
        yield
    except StorageError:
        raise  # it names the file already
    except Exception as error:
        if not is_full(error):
            raise
        raise StorageError(
            f"The disk is full: {shown(_free(folder))} are free at {folder}.", hint=HINT
        ) from error


def require_room(folder: Path, num_bytes: int, *, what: str) -> None:
    """See that there is room for so much.

    Raises:
        StorageError: there is not; says what is needed and what is free.
    """
    free = _free(folder)
    if free < num_bytes:
        raise StorageError(
            f"{what} needs about {shown(num_bytes)} at {folder}, and {shown(free)} are free.", hint=HINT
        )


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is that of a disk without room."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in FULL or any(saying in str(error) for saying in SAYINGS):
            return True
        error = error.__cause__ or error.__context__
    return False


def shown(num_bytes: int) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _free(folder: Path) -> int:
    return shutil.disk_usage(nearest_existing(folder)).free
