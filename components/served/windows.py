"""Long sequences in windows, and which steps of its answer each window keeps.

    steps     0 1 2 3 4 5 6 7 8 9     max_length 5, overlap 2
    windows   . . -                   dots: steps it keeps
                - . . . -             dashes: steps it only reads
                      - . . -
                          - . . .

Every step is kept by one window. Letters: n sequences, m windows.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Windows:
    """Stretches of sequences laid end to end; all fields are (m,) int64, in the order of the steps."""

    owners: np.ndarray  # the sequence
    starts: np.ndarray  # the first step read
    stops: np.ndarray  # the step after the last one read
    kept_starts: np.ndarray
    kept_stops: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Steps read of each window."""
        return self.stops - self.starts

    @property
    def kept(self) -> np.ndarray:
        """Steps kept of each window."""
        return self.kept_stops - self.kept_starts


def shares(cut: Windows) -> np.ndarray:
    """What part of its sequence's steps each window keeps, (m,) float64."""
    return cut.kept / np.bincount(cut.owners, cut.kept)[cut.owners]


def windows(lengths: np.ndarray, max_length: int | None, overlap: int = 0) -> Windows:
    """The windows of sequences, each of at most `max_length` steps; None leaves every sequence whole.

    A sequence that is too long is kept in ceil(length / (max_length - overlap)) stretches of nearly equal
    length, and a stretch is read with half the overlap on either side, as far as the sequence goes.

    Args:
        lengths: steps of each sequence, (n,), at least 1.
        max_length: steps that a window reads at most.
        overlap: steps that neighbouring windows both read, less than `max_length`.
    """
    lengths = np.asarray(lengths, np.int64)
    counts = np.ones_like(lengths)
    if max_length is not None:
        counts = np.where(lengths > max_length, -(-lengths // (max_length - overlap)), 1)
    owners = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    length, count = lengths[owners], counts[owners]
    first, last = place * length // count, (place + 1) * length // count
    before, after = overlap // 2, overlap - overlap // 2
    offset = (np.cumsum(lengths) - lengths)[owners]
    return Windows(
        owners,
        offset + np.maximum(first - before, 0),
        offset + np.minimum(last + after, length),
        offset + first,
        offset + last,
    )
