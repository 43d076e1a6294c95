"""A search over settings as SVG text: what was tried, and what came of it.

parallel   a line for each trial across its settings     scatter   the score against one setting
curves     the score of every trial by epoch             shares    what the score hangs on

Trials come best first. Where less is better, an axis that is turned round has the best above nevertheless.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from components.evaluation.charts import BOTTOM, HEIGHT, LETTER, WIDTH, Axes, decades, svg, ticks

MISSING = "not searched"
NUM_SHADES = 5
MOST_LETTERS = 16  # of a name above an axis
HEADING, STUB = 44, 34
WIDE = 640  # of the lines across all settings at least; narrower pages scroll them
PLOT_WIDTH, PLOT_HEIGHT, SLANTED = 300, 190, 40
# Neighbouring numbers fall far apart, so that dots of one choice do not hide one another.
GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Axis:
    """Where the values of a setting or a score lie: from `start`, left or below, to `end`, or at `labels`.

    With labels, a value is the number of its label. A start above the end turns the axis round.
    """

    name: str
    start: float = 0.0
    end: float = 1.0
    log: bool = False
    whole: bool = False
    labels: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0 at the start and 1 at the end."""
        if self.labels:
            return (value + 0.5) / len(self.labels)
        start, end, at = (math.log10(each) if self.log else each for each in (self.start, self.end, value))
        return 0.5 if start == end else (at - start) / (end - start)

    def marks(self) -> list[tuple[float, str]]:
        """The labels, or a few round values, each with its share."""
        if self.labels:
            return [(self.share(i), label) for i, label in enumerate(self.labels)]
        low, high = sorted((self.start, self.end))
        values = decades(low, high) if self.log else ticks(low, high, whole=self.whole)
        # A value that stands alone is not a round one.
        return [(self.share(value), f"{value:g}" if low < high else f"{value:.4g}") for value in values]


@dataclass(frozen=True)
class Trial:
    """A trial with a score: what is said of it, and its places by the name of the axis, where it has one."""

    number: int
    shown: str
    score: float
    places: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()
    ended_early: bool = False


def shade(rank: int, num_trials: int) -> str:
    """The class of a trial's colour: `v4` for the best fifth, `v0` for the worst."""
    return f"v{NUM_SHADES - 1 - rank * NUM_SHADES // num_trials}"


def shortened(text: str, most: int) -> str:
    """The text, or as much of it as fits into so many letters."""
    return text if len(text) <= most else text[: max(most - 1, 1)] + "…"


def fitted(labels: Sequence[str], most: int) -> list[str]:
    """Labels of so many letters at most, with a number before them where they would be the same."""
    short = [shortened(label, most) for label in labels]
    if len(set(short)) == len(labels):
        return short
    return [shortened(f"{i}: {label}", most) for i, label in enumerate(labels, 1)]


def parallel(axes: Sequence[Axis], score: Axis, trials: Sequence[Trial], *, title: str) -> str:
    """A line for each trial from axis to axis, the score last; below an axis where it has no place there."""
    if not trials:
        return ""
    every = [*axes, score]
    gap = _gap(every)
    missing = {axis.name for axis in axes if any(axis.name not in trial.places for trial in trials)}
    bottom = HEIGHT + HEADING
    height = bottom + (STUB if missing else 0) + 34
    xs = [gap * (i + 0.5) for i in range(len(every))]
    parts = [f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEADING}" y2="{bottom}"/>' for x in xs]
    for rank, trial in reversed(list(enumerate(trials))):
        places = [*(trial.places.get(axis.name) for axis in axes), trial.score]
        ys = [
            bottom + STUB - 10 if place is None else _up(axis.share(place), HEADING, bottom)
            for axis, place in zip(every, places, strict=True)
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        name, width = (
            ("best", 3.5) if rank == 0 else (shade(rank, len(trials)), 0.8 if trial.ended_early else 1.6)
        )
        parts.append(
            f'<polyline class="trial {name}" stroke-width="{width}" points="{points}">'
            f"<title>{escape(trial.shown)}</title></polyline>"
        )
    for axis, x in zip(every, xs, strict=True):
        parts.append(_upright(axis, x, gap, bottom, missing=axis.name in missing))
    parts.append(_legend(height - 14))
    return svg("".join(parts), width=round(gap * len(every)) + 12, height=height, title=title)


def _gap(axes: Sequence[Axis]) -> float:
    """The room of an axis: enough for its name, and for the drawing not to be narrow."""
    longest = max(len(line) for axis in axes for line in _heading(axis.name))
    return max(longest * LETTER + 18, 96, WIDE / len(axes))


def _heading(name: str) -> tuple[str, str]:
    """A name of several parts in two lines."""
    section, dot, key = name.rpartition("." if "." in name else " ")
    return shortened(section + dot, MOST_LETTERS), shortened(key, MOST_LETTERS)


def _up(share: float, top: float, bottom: float) -> float:
    return bottom - share * (bottom - top)


def _upright(axis: Axis, x: float, gap: float, bottom: float, *, missing: bool) -> str:
    """The name and the marks of an axis, over the lines."""
    section, key = _heading(axis.name)
    parts = [
        f"<g><title>{escape(axis.name)}</title>"
        f'<text x="{x:.1f}" y="14" text-anchor="middle">{escape(section)}</text>'
        f'<text class="strong" x="{x:.1f}" y="30" text-anchor="middle">{escape(key)}</text></g>'
    ]
    marks = [(_up(share, HEADING, bottom), label) for share, label in axis.marks()]
    if missing:
        at = bottom + STUB - 10
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{at}"/>')
        marks.append((at, MISSING))
    labels = fitted([label for _, label in marks], int((gap - 14) / LETTER))
    for (at, label), shown in zip(marks, labels, strict=True):
        parts.append(
            f'<line class="axis" x1="{x - 3:.1f}" x2="{x + 3:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="over" x="{x + 7:.1f}" y="{at + 4:.1f}">{escape(shown)}'
            f"<title>{escape(label)}</title></text>"
        )
    return "".join(parts)


def _legend(top: float) -> str:
    swatches = "".join(
        f'<rect class="v{i}" x="{50 + 16 * i}" y="{top}" width="16" height="10"/>' for i in range(NUM_SHADES)
    )
    return (
        f'<text x="44" y="{top + 9}" text-anchor="end">worse</text>{swatches}'
        f'<text x="136" y="{top + 9}">better</text>'
        f'<line class="trial best" stroke-width="3.5" x1="196" x2="222" y1="{top + 5}" y2="{top + 5}"/>'
        f'<text x="228" y="{top + 9}">the best</text>'
    )


def scatter(axis: Axis, score: Axis, trials: Sequence[Trial], *, title: str) -> str:
    """The score of each trial against one setting: hollow where it ended early, the best one larger."""
    placed = [
        (i, trial, trial.places[axis.name]) for i, trial in enumerate(trials) if axis.name in trial.places
    ]
    if not placed:
        return ""
    left, right, top, bottom = 52, PLOT_WIDTH - 10, 8, PLOT_HEIGHT - 24
    slot = (right - left) / max(len(axis.labels), 1)
    slanted = any(len(label) * LETTER > slot - 4 for label in axis.labels)
    parts = [_grid(score, left, right, top, bottom), _below(axis, left, right, bottom, slanted=slanted)]
    for i, trial, place in reversed(placed):
        aside = (trial.number * GOLDEN % 1 - 0.5) * slot / 2 if axis.labels and i else 0.0
        kind, radius = ("best", 6) if i == 0 else ("hollow", 3) if trial.ended_early else ("dot", 3)
        parts.append(
            f'<circle class="{kind}" cx="{left + axis.share(place) * (right - left) + aside:.1f}"'
            f' cy="{_up(score.share(trial.score), top, bottom):.1f}" r="{radius}">'
            f"<title>trial {trial.number}: {trial.score:.4g}</title></circle>"
        )
    height = PLOT_HEIGHT + (SLANTED if slanted else 0)
    return svg("".join(parts), width=PLOT_WIDTH, height=height, title=title)


def _below(axis: Axis, left: float, right: float, bottom: float, *, slanted: bool) -> str:
    """The marks of an axis that lies below."""
    marks = [(left + share * (right - left), label) for share, label in axis.marks()]
    if not axis.labels:
        marks = _apart(marks)
    if not slanted:
        return "".join(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>'
            for x, label in marks
        )
    # Of more letters, those of the first label would be cut off at the left.
    labels = fitted(axis.labels, 10)
    return "".join(
        f'<text transform="translate({x + 4:.1f},{bottom + 14}) rotate(-35)" text-anchor="end">'
        f"{escape(shown)}<title>{escape(label)}</title></text>"
        for (x, label), shown in zip(marks, labels, strict=True)
    )


def _apart(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without those numbers that would run into the one before."""
    kept: list[tuple[float, str]] = []
    for x, label in sorted(marks):
        if not kept or x - kept[-1][0] > (len(label) + len(kept[-1][1])) * LETTER / 2 + 6:
            kept.append((x, label))
    return kept


def _grid(score: Axis, left: float, right: float, top: float, bottom: float) -> str:
    """Level lines at the marks of a score."""
    parts = []
    for share, label in score.marks():
        y = _up(share, top, bottom)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    return "".join(parts)


def curves(trials: Sequence[Trial], *, title: str, log: bool = False) -> str:
    """The score by epoch: thin lines, a dot where a trial ended early, the best one in colour on top.

    `log` spaces the scores by powers of ten where all are positive.
    """
    every = [point for trial in trials for point in trial.curve]
    if not every:
        return ""
    axes = Axes([x for x, _ in every], [y for _, y in every], x_label="epoch", log=log, whole=True)
    parts = [axes.drawn()]
    for rank, trial in reversed(list(enumerate(trials))):
        if not trial.curve:
            continue
        name, width = ("trial best", 2.5) if rank == 0 else ("curve", 1)
        placed = [(axes.x(x), axes.y(y)) for x, y in trial.curve]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(
            f'<polyline class="{name}" stroke-width="{width}" points="{points}">'
            f"<title>trial {trial.number}: {trial.score:.4g}</title></polyline>"
        )
        if trial.ended_early or len(placed) == 1:
            x, y = placed[-1]
            kind = "best" if rank == 0 else "end"
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{3 if rank == 0 else 2.5}"/>')
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title)


def shares(rows: Sequence[tuple[str, float]], *, title: str) -> str:
    """A bar for each name with its share of the whole."""
    if not rows:
        return ""
    gap, right = 24, 52
    names = [shortened(name, 2 * MOST_LETTERS) for name, _ in rows]
    left = max(len(name) for name in names) * LETTER + 14
    width = max(WIDTH, left + right + 160)
    parts = []
    for i, (name, (_, share)) in enumerate(zip(names, rows, strict=True)):
        length = share * (width - left - right)
        parts.append(
            f'<text x="{left - 8:.1f}" y="{gap * i + 16}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="v3" x="{left:.1f}" y="{gap * i + 5}" width="{max(length, 1):.1f}" height="14"/>'
            f'<text x="{left + length + 6:.1f}" y="{gap * i + 16}">{_percent(share)}</text>'
        )
    return svg("".join(parts), width=width, height=gap * len(rows) + BOTTOM // 4, title=title)


def _percent(share: float) -> str:
    return "&lt;1%" if 0 < share < 0.005 else f"{share:.0%}"
