"""What is wrong with the settings, and where: every mistake at once, in the order of the files.

conf.yaml:9: train.learning_rat: there is no such setting (did you mean train.learning_rate?)
--set train.epochs=0: train.epochs: received 0, expected at least 1
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from conf.names import printable

NUM_SHOWN = 50
MAX_LENGTH = 600

Key = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file, or an option. Places sort as they were read."""

    order: int
    line: int  # from 1; 0: the whole of it
    source: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    def line_of(self, offset: int) -> "Place":
        """The place so many lines further, if lines matter here."""
        return replace(self, line=self.line + offset) if self.line else self


@dataclass(frozen=True)
class Problem:
    """One mistake and where it stands."""

    location: str  # file:line, or the --set option
    key: str  # dotted
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = ": ".join(filter(None, (self.location, self.key)))
        text = f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")
        return printable(text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "...")


class SettingsError(Exception):
    """The settings are at fault; `problems` has every mistake."""

    exit_code = 2
    hint = (
        "`recurra schema` prints the JSON Schema; `recurra schema --reference` has every key with its limits."
    )

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "The settings have a mistake:" if count == 1 else f"The settings have {count:,} mistakes:"
        more = [f"  and {count - NUM_SHOWN:,} more"] if count > NUM_SHOWN else []
        return "\n".join([head, *(f"  {problem}" for problem in self.problems[:NUM_SHOWN]), *more])


@dataclass
class Mistakes:
    """The mistakes found so far."""

    found: list[tuple[Place, Problem]] = field(default_factory=list)

    def add(self, place: Place, key: Key, message: str, hint: str = "") -> None:
        self.found.append((place, Problem(str(place), dotted(key), message, hint)))

    def has(self, key: Key) -> bool:
        return any(problem.key == dotted(key) for _, problem in self.found)

    def problems(self) -> list[Problem]:
        """In the order of files, lines and options."""
        return [problem for _, problem in sorted(self.found, key=lambda each: each[0])]


def dotted(key: Key) -> str:
    """`('data', 'inputs', 0)` as `data.inputs.0`."""
    return ".".join(map(str, key))
