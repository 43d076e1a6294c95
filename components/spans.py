"""The spans that tags spell, found in all sequences at once.

    tags      B-X  I-X  O    I-X  I-X
    strict    [0, 2) X                    what the scheme has no start or end for is no span
    lenient   [0, 2) X, [3, 5) X          any run of tags of one type is a span

Strict is that of the schemes IOB2 and IOBES (Sang & Veenstra 1999, https://aclanthology.org/E99-1023), as
seqeval's strict mode reads them; lenient is that of the script conlleval of the CoNLL-2000 task.
Letters: S steps of all sequences end to end, n sequences, C tags, K spans, T types of spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Reading = Literal["strict", "lenient"]
SPAN_ERRORS = ("type", "boundary", "both", "invented", "missed")


@dataclass(frozen=True)
class Tagging:
    """What each tag of a scheme means."""

    scheme: str  # BIO | BIOES
    prefixes: np.ndarray  # (C,) one of B, I, E, S and O
    types: np.ndarray  # (C,) int64, -1 for O
    names: tuple[str, ...]  # of the types, (T,)


@dataclass(frozen=True)
class Spans:
    """Spans in the order of the steps; those of one reading do not overlap."""

    starts: np.ndarray  # (K,) first step
    ends: np.ndarray  # (K,) one after the last step
    types: np.ndarray  # (K,)

    def __len__(self) -> int:
        return len(self.starts)

    def are_in(self, others: "Spans", *, num_steps: int) -> np.ndarray:
        """Which of them the others hold too, with the same bounds and type, (K,)."""
        ends, types = np.full(num_steps, -1), np.full(num_steps, -1)
        ends[others.starts], types[others.starts] = others.ends, others.types
        return (ends[self.starts] == self.ends) & (types[self.starts] == self.types)

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps within spans, span by span, and where the first of each span stands among them."""
        lengths = self.ends - self.starts
        first = np.cumsum(lengths) - lengths
        return np.repeat(self.starts - first, lengths) + np.arange(lengths.sum()), first


def find(tags: np.ndarray, lengths: np.ndarray, tagging: Tagging, *, reading: Reading) -> Spans:
    """The spans of sequences laid end to end.

    A tag goes on with a span if it is I or E and follows a B or I of its type in its sequence. Each tag that
    does not begins a run; the reading says which runs are spans.

    Args:
        tags: of all steps, (S,).
        lengths: steps of each sequence, (n,).
    """
    types = tagging.types[tags]
    goes_on, is_open = (np.isin(tagging.prefixes, some)[tags] for some in (("I", "E"), ("B", "I")))
    begins = np.ones(len(tags), bool)
    begins[1:] = ~(goes_on[1:] & is_open[:-1] & (types[1:] == types[:-1]))
    firsts = np.cumsum(lengths) - lengths
    begins[firsts[lengths > 0]] = True
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(tags))[: len(starts)]
    opening, closing = tagging.prefixes[tags[starts]], tagging.prefixes[tags[ends - 1]]
    if reading == "lenient":
        kept = opening != "O"
    elif tagging.scheme == "BIO":
        kept = opening == "B"
    else:
        kept = ((opening == "B") & (closing == "E")) | (opening == "S")
    return Spans(starts[kept], ends[kept], types[starts[kept]])


@dataclass(frozen=True)
class SpanErrors:
    """Why spans differ from the true ones, each wrong or missed span counted once."""

    counts: dict[str, int]  # by SPAN_ERRORS
    confused: tuple[tuple[str, str, int], ...]  # true type, type said, count; the most frequent first


def errors(truth: Spans, said: Spans, names: Sequence[str], *, num_steps: int) -> SpanErrors:
    """The kinds of errors.

    type       said with the bounds of a true span, but another type
    boundary   said of the right type where a true span of it lies, but with other bounds
    both       said where true spans of other types lie, with other bounds
    invented   said where no true span lies
    missed     a true span where none was said
    """
    wrong = _of(said, ~said.are_in(truth, num_steps=num_steps))
    true_types, true_ends = np.full(num_steps, -1), np.full(num_steps, -1)
    true_ends[truth.starts] = truth.ends
    steps, _ = truth.steps()
    true_types[steps] = np.repeat(truth.types, truth.ends - truth.starts)
    steps, first = wrong.steps()
    types_there = true_types[steps]
    of_step = np.repeat(wrong.types, wrong.ends - wrong.starts)
    touches, same_type = _any(types_there >= 0, first), _any(types_there == of_step, first)
    same_bounds = true_ends[wrong.starts] == wrong.ends
    is_said = np.zeros(num_steps, bool)
    is_said[said.steps()[0]] = True
    steps, first = truth.steps()
    counts = {
        "type": same_bounds,
        "boundary": ~same_bounds & same_type,
        "both": ~same_bounds & ~same_type & touches,
        "invented": ~touches,
        "missed": ~_any(is_said[steps], first),
    }
    pairs = true_types[wrong.starts[same_bounds]] * len(names) + wrong.types[same_bounds]
    found, numbers = np.unique(pairs, return_counts=True)
    confused = [
        (names[found[i] // len(names)], names[found[i] % len(names)], int(numbers[i]))
        for i in np.argsort(-numbers, kind="stable")
    ]
    return SpanErrors({name: int(counts[name].sum()) for name in SPAN_ERRORS}, tuple(confused))


def _of(spans: Spans, which: np.ndarray) -> Spans:
    return Spans(spans.starts[which], spans.ends[which], spans.types[which])


def _any(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Whether any value of each span is true; spans are never empty."""
    return np.logical_or.reduceat(values, first) if len(first) else np.zeros(0, bool)
