"""The family of errors. Each carries a hint, and an exit code that says whether a retry can help.

RecurraError            1    a bug of ours
├── DataError           2    the rows are at fault; carries each problem with its place
├── ModelError          2    no such model, or not one of ours
├── AddressError        2    the address of a cluster or a database is none
├── TrainingDiverged    2    the loss became NaN or infinite
├── SearchFailed        2    no trial of a search came to anything
├── ClusterError        3    Ray unreachable, or more asked for than there is
├── TrackerError        3    MLflow unreachable, or it refused
├── StorageError        3    disk full, or a folder that cannot be read or written
│   └── PlaceError      2    a place that was asked for cannot be written: no retry helps
├── CheckpointError     3    missing, damaged, or another run's
├── BusyError           3    somebody else holds the lock
├── GateRefused         4    a floor was missed
├── Interrupted       130    Ctrl-C
└── Terminated        143    SIGTERM, after a checkpoint
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from conf.names import printable

NUM_SHOWN = 20


class RecurraError(Exception):
    """What went wrong in one or two sentences, and in `hint` what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        # Only the message may go in `args`: unpickling in another process calls the class with `args`
        # and then restores the attributes, which is how keyword arguments survive the trip through Ray.
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Problem:
    """One fault in the data and its place; rows, steps and features count from 0, lines of a file from 1."""

    file: str = ""
    row: int | None = None
    column: str = ""
    step: int | None = None
    feature: int | None = None
    message: str = ""
    line: int | None = None

    def __str__(self) -> str:
        places = [
            self.file,
            "" if self.line is None else f"line {self.line}",
            "" if self.row is None or self.line is not None else f"row {self.row}",
            f"column {self.column}" if self.column else "",
            "" if self.step is None else f"step {self.step}",
            "" if self.feature is None else f"feature {self.feature}",
        ]
        place = ", ".join(filter(None, places))
        return printable(f"{place}: {self.message}" if place else self.message)


class DataError(RecurraError):
    """The user's rows are at fault."""

    exit_code = 2

    def __init__(self, message: str, *, problems: Sequence[Problem] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems[:NUM_SHOWN])]
        if len(self.problems) > NUM_SHOWN:
            lines.append(f"  and {len(self.problems) - NUM_SHOWN:,} more")
        return "\n".join(lines)


class ModelError(RecurraError):
    """The model named is not there, or cannot do what was asked."""

    exit_code = 2


class AddressError(RecurraError):
    """The address of a cluster or a database is none, or one of another kind than is asked for."""

    exit_code = 2


class TrainingDiverged(RecurraError):
    """The loss became NaN or infinite; nothing of that run may be registered."""

    exit_code = 2


class SearchFailed(RecurraError):
    """No trial of a search came to anything; nothing may be registered."""

    exit_code = 2


class ClusterError(RecurraError):
    """Ray is unreachable, or has less than was asked for."""

    exit_code = 3


class TrackerError(RecurraError):
    """MLflow is unreachable, or refused."""

    exit_code = 3


class StorageError(RecurraError):
    """A folder cannot be read or written, or the disk is full."""

    exit_code = 3


class PlaceError(StorageError):
    """A place that was asked for, or is the default, cannot be written; found before anything starts."""

    exit_code = 2


class CheckpointError(RecurraError):
    """A checkpoint is missing, damaged, or belongs to other settings."""

    exit_code = 3


class BusyError(RecurraError):
    """Somebody else holds the lock."""

    exit_code = 3


class GateRefused(RecurraError):
    """A floor was missed, so no alias was set."""

    exit_code = 4


class Interrupted(RecurraError):
    """Ctrl-C."""

    exit_code = 130

    def __init__(self, message: str = "Interrupted.", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


class Terminated(RecurraError):
    """SIGTERM."""

    exit_code = 143

    def __init__(self, message: str = "Terminated.", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
