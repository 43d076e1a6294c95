"""Errors of a full disk, in the words of whoever met it."""

import errno
from pathlib import Path

import pytest

from components.errors import StorageError, TrackerError
from pipeline.backends.disks import is_full, require_room, shown, told_when_full


def chained(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise TrackerError("MLflow took nothing.") from error
    except TrackerError as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: x.data; No space left on device"), True),
        (chained(OSError(errno.ENOSPC, "no room")), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (chained(ValueError("a label")), False),
    ],
)
def test_a_full_disk_is_known_however_it_is_told(error: Exception, full: bool) -> None:
    assert is_full(error) == full


def test_it_is_raised_as_what_it_is_with_the_room_there_is(tmp_path: Path) -> None:
    told = pytest.raises(StorageError, match=f"The disk is full: .* are free at {tmp_path}")
    with told as caught, told_when_full(tmp_path / "not" / "yet"):
        raise RuntimeError("RESOURCE_EXHAUSTED: No space left on device")
    assert caught.value.exit_code == 3
    assert "--storage" in caught.value.hint
    with pytest.raises(ValueError, match="a label"), told_when_full(tmp_path):
        raise ValueError("a label")
    with pytest.raises(StorageError, match=r"^x cannot be written"), told_when_full(tmp_path):
        raise StorageError("x cannot be written: No space left on device.")


def test_room_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    require_room(tmp_path, 1, what="This")
    with pytest.raises(StorageError, match=r"This needs about 1,000,000\.0 GB at .*, and .* are free"):
        require_room(tmp_path, 10**15, what="This")
    assert (shown(2_500_000), shown(3_200_000_000)) == ("2.5 MB", "3.2 GB")
