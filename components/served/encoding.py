"""From raw rows to the numbers a network takes, the same in training, in evaluation and in service.

    inputs   numbers (S, F), tokens (S,), categories (S,)     one for each step
    context  numbers (n,), categories (n,)                    one for each row, repeated at its steps
      |   Encoding.encode                                     side by side, in the order of the settings
    x        (S, num_features) float32

What stands where in x is said by `slots`: a network looks numbers of symbols up in a table of vectors.
Letters: n rows, S all steps, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np

from .numbers import NumericEncoding
from .symbols import FIRST_CHARACTER, CategoryEncoding, TokenEncoding

InputEncoding: TypeAlias = NumericEncoding | TokenEncoding | CategoryEncoding

KINDS: Mapping[str, type[InputEncoding]] = {
    "numeric": NumericEncoding,
    "token": TokenEncoding,
    "category": CategoryEncoding,
}


@dataclass(frozen=True)
class Slot:
    """A stretch of the numbers of a step, and how a network reads it."""

    kind: str  # numbers | symbol | characters | spelling
    width: int
    size: int = 0  # of symbols and characters: how many numbers there are
    embedding: int = 0  # of symbols: the width of their vectors
    fixed: int = 0  # of symbols: how many, the last ones, have vectors that are not learnt
    once: bool = False  # whether it is context: the same at every step of a sequence
    unknown_rate: float | None = None  # of symbols: share made unknown in training; None: the network's own
    units: int = 0  # of characters: the width of what reads them; 0: the network's own


@dataclass(frozen=True)
class Encoding:
    """Everything learnt from training rows that turns a raw row into numbers and a class into its label."""

    task: str  # classification | labelling
    inputs: tuple[InputEncoding, ...]
    labels: tuple[str, ...]
    context: tuple[NumericEncoding | CategoryEncoding, ...] = ()
    max_length: int | None = None  # steps of a window; longer sequences are cut and stitched
    overlap: int = 0  # steps that neighbouring windows share
    scheme: str = "none"  # none | BIO | BIOES: what the labels of steps spell

    @property
    def num_features(self) -> int:
        """Numbers of a step over all inputs and context."""
        return sum(part.width for part in (*self.inputs, *self.context))

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def depths(self) -> dict[str, int]:
        """How deep the lists of each raw column are: of context 0, of plain steps 1, of vectors 2."""
        depths = {part.column: 1 for part in self.inputs}
        depths |= {
            part.column: 2 for part in self.inputs if isinstance(part, NumericEncoding) and part.features > 1
        }
        return depths | {part.column: 0 for part in self.context}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What the numbers of a step are, from left to right."""
        once = (replace(slot, once=True) for part in self.context for slot in slots_of(part))
        return (*(slot for part in self.inputs for slot in slots_of(part)), *once)

    def encode(self, columns: Mapping[str, Any], lengths: np.ndarray | None = None) -> np.ndarray:
        """Inputs and context side by side, (S, num_features) float32.

        Args:
            columns: by name: of inputs a value for each step, numbers as (S, F); of context one for each row.
            lengths: steps of each row, (n,); needed only where there is context.

        Raises:
            ValueError: a column is lacking, or its values do not fit.
        """
        every = (*self.inputs, *self.context)
        if missing := [part.column for part in every if part.column not in columns]:
            raise ValueError(f"missing inputs {missing}; received {sorted(columns)}")
        parts = [part.apply(columns[part.column]) for part in self.inputs]
        steps = {part.column: len(values) for part, values in zip(self.inputs, parts, strict=True)}
        if len(set(steps.values())) > 1:
            raise ValueError(f"inputs of one row must have the same number of steps, received {steps}")
        for part in self.context:
            values = columns[part.column]
            if isinstance(part, NumericEncoding):
                values = np.asarray(values, np.float64).reshape(-1, 1)
            parts.append(np.repeat(part.apply(values), np.asarray(lengths), axis=0))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able copy; floats survive to the last bit."""
        stored = asdict(self)
        for section in ("inputs", "context"):
            for entry, part in zip(stored[section], getattr(self, section), strict=True):
                entry["kind"] = kind_of(part)
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Encoding":
        """What `to_json` gave, read back."""
        return cls(
            task=stored["task"],
            inputs=tuple(map(_input, stored["inputs"])),
            labels=tuple(stored["labels"]),
            context=tuple(map(_input, stored.get("context", ()))),  # type: ignore[arg-type]
            max_length=stored.get("max_length"),
            overlap=stored.get("overlap", 0),
            scheme=stored.get("scheme", "none"),
        )


def kind_of(part: InputEncoding) -> str:
    """numeric, token or category."""
    return next(name for name, kind in KINDS.items() if isinstance(part, kind))


def _input(stored: Mapping[str, Any]) -> InputEncoding:
    kind = KINDS[stored.get("kind", "numeric")]
    known = {each.name for each in fields(kind)}
    return kind(**{name: _frozen(value) for name, value in stored.items() if name in known})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def slots_of(part: InputEncoding) -> list[Slot]:
    """What the numbers of one column are."""
    if isinstance(part, NumericEncoding):
        return [Slot("numbers", part.width)]
    if isinstance(part, CategoryEncoding):
        return [Slot("symbol", 1, 1 + len(part.categories), part.embedding)]
    fixed = part.vectors if part.fixed else 0
    rate = part.unknown_rate
    slots = [Slot("symbol", 1, 1 + len(part.tokens), part.embedding, fixed=fixed, unknown_rate=rate)]
    if part.max_characters:
        kind = "spelling" if part.spelling == "recurrent" else "characters"
        size = FIRST_CHARACTER + len(part.characters)
        slots.append(Slot(kind, part.max_characters, size, units=part.character_units))
    return slots
