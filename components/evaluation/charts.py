"""Charts as SVG text: no script, no outside resource, colours from the page's own style sheet.

A series has the class s0, s1, ...; its colour is `currentColor`. What is told by colour is also told by a
name beside it, a dash or a sign, and in the description that is read aloud.

lines      learning curves            heat       a confusion matrix
bars       a histogram                dots       scores with intervals
pairs      shares then and now        reliability  confidence against accuracy
frames     steps drawn as small grey images
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise

# So many that the page knows colours for.
NUM_SERIES = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4")
# On a telephone 360 px are left, and the type must stay legible.
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 34
LINE = 14  # between two names one below the other
LETTER = 6.6  # the width of a letter in the page's 12 px type, near enough
BOLD_LETTER = 7.4
NUM_TICKS = 5
MAX_FRAMES = 24
MIN_PICTURE_FEATURES = 8


def svg(content: str, *, width: float, height: float, title: str, said: str = "") -> str:
    """A drawing with a title, and what it says in words, which are read aloud."""
    described = f"<desc>{escape(said)}</desc>" if said else ""
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
        f' xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{described}{content}</svg>'
    )


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers from low to high; only whole ones with `whole`."""
    if not high > low:
        return [low]
    rough = (high - low) / NUM_TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough)
    if whole:
        step = max(step, 1.0)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """A few round numbers from low to high, both positive, for a scale in powers of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if high < 100 * low else (1,)
    values = [factor * 10.0**power for power in powers for factor in fine]
    found = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    if len(found) < 2:
        return ticks(low, high)
    return found[:: math.ceil(len(found) / (NUM_TICKS + 1))]


def short(value: float) -> str:
    """A round number in few letters: 20k for 20000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


class Axes:
    """A frame with numbered axes, and places in it; y in powers of ten with `log`, x counted with `whole`."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        x_label: str,
        zero: bool = False,
        log: bool = False,
        whole: bool = False,
        right: float = RIGHT,
    ) -> None:
        self.left, self.right = LEFT, WIDTH - right
        self.low_x, self.high_x = min(xs), max(xs)
        self.log = log and min(ys) > 0
        self.low_y, self.high_y = (0.0 if zero else self._scaled(min(ys))), self._scaled(max(ys))
        if self.high_y == self.low_y:
            self.high_y = self.low_y + 1.0
        if self.high_x == self.low_x:
            self.low_x, self.high_x = self.low_x - 0.5, self.high_x + 0.5
        self.x_label, self.whole = x_label, whole

    def x(self, value: float) -> float:
        return self.left + (value - self.low_x) / (self.high_x - self.low_x) * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (self._scaled(value) - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _y_ticks(self) -> list[float]:
        return decades(10**self.low_y, 10**self.high_y) if self.log else ticks(self.low_y, self.high_y)

    def drawn(self) -> str:
        parts = []
        for value in self._y_ticks():
            at = self.y(value)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            )
            parts.append(
                f'<text x="{self.left - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>'
            )
        for value in ticks(self.low_x, self.high_x, whole=self.whole):
            at = self.x(value)
            parts.append(
                f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(value)}</text>'
            )
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">{escape(self.x_label)}</text>'
        )
        return "".join(parts)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    mark: float | None = None,
    log: bool = False,
) -> str:
    """Lines by name; points that are no numbers are left out.

    `mark` draws an upright at an x; `log` spaces y by powers of ten where all values are positive.
    """
    kept = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    every = [point for points in kept.values() for point in points]
    right = max(BOLD_LETTER * len(_cut(name)) for name in kept) + 14
    xs, ys = [x for x, _ in every], [y for _, y in every]
    counted = all(float(x).is_integer() for x in xs)
    axes = Axes(xs, ys, x_label=x_label, log=log, whole=counted, right=right)
    parts = [axes.drawn()]
    if mark is not None:
        at = axes.x(mark)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for i, (name, points) in enumerate(kept.items()):
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline class="s{i % NUM_SERIES}" fill="none" stroke="currentColor" stroke-width="2"'
            f' stroke-dasharray="{DASHES[i % NUM_SERIES]}" points="{path}"/>'
        )
        for x, y in points:
            shown = f"{name}, {x_label} {x:g}: {y:.4g}"
            parts.append(
                f'<circle class="s{i % NUM_SERIES}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5"'
                f' fill="currentColor"><title>{escape(shown)}</title></circle>'
            )
    ends = spread([axes.y(points[-1][1]) for points in kept.values()], TOP, HEIGHT - BOTTOM)
    for i, (name, at) in enumerate(zip(kept, ends, strict=True)):
        parts.append(
            f'<text class="s{i % NUM_SERIES} name" x="{axes.right + 8:.1f}" y="{at + 4:.1f}">'
            f"{escape(_cut(name))}</text>"
        )
    said = "; ".join(
        f"{name} from {points[0][1]:.4g} at {x_label} {points[0][0]:g} to {points[-1][1]:.4g} at"
        f" {x_label} {points[-1][0]:g}"
        for name, points in kept.items()
    )
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title, said=f"{said}.")


def _cut(name: str) -> str:
    """A name of a series in the room beside its line."""
    return name if len(name) <= 18 else f"{name[:17]}…"


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """The places moved apart, so that names at them do not lie on one another; in the same order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [min(max(place, low), high) for place in places]
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + LINE)
    # What was pushed out below goes up again, and pushes what is above it.
    limit = high
    for i in reversed(order):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - LINE
    return moved


def bars(edges: Sequence[float], counts: Sequence[float], *, title: str, x_label: str) -> str:
    """A histogram: counts[i] from edges[i] to edges[i + 1]."""
    if not counts:
        return ""
    axes = Axes(edges, counts, x_label=x_label, zero=True)
    parts = [axes.drawn()]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = axes.x(low), axes.x(high), axes.y(count)
        parts.append(
            f'<rect class="s0" fill="currentColor" x="{left + 0.5:.1f}" y="{top:.1f}"'
            f' width="{max(right - left - 1, 1):.1f}" height="{HEIGHT - BOTTOM - top:.1f}">'
            f"<title>{low:g} to {high:g}: {count:,}</title></rect>"
        )
    top_bin = max(range(len(counts)), key=lambda i: counts[i])
    said = (
        f"{x_label} from {edges[0]:.4g} to {edges[-1]:.4g}; most, {counts[top_bin]:,}, from"
        f" {edges[top_bin]:.4g} to {edges[top_bin + 1]:.4g}."
    )
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title, said=said)


def reliability(bins: Sequence[Mapping[str, float]], *, title: str) -> str:
    """Accuracy against confidence; the diagonal is perfect calibration, a dot's area its answers' number."""
    if not bins:
        return ""
    axes = Axes([0.0, 1.0], [0.0, 1.0], x_label="confidence")
    most = max(each["count"] for each in bins)
    parts = [
        axes.drawn(),
        f'<line class="mark" x1="{axes.x(0)}" y1="{axes.y(0)}" x2="{axes.x(1)}" y2="{axes.y(1)}"/>',
    ]
    for each in bins:
        radius = 3 + 9 * math.sqrt(each["count"] / most)
        shown = (
            f"confidence {each['confidence']:.3f}, accuracy {each['accuracy']:.3f}, {each['count']:,} answers"
        )
        parts.append(
            f'<circle class="s0" fill="currentColor" fill-opacity="0.8" cx="{axes.x(each["confidence"]):.1f}"'
            f' cy="{axes.y(each["accuracy"]):.1f}" r="{radius:.1f}"><title>{shown}</title></circle>'
        )
    said = "; ".join(f"at confidence {each['confidence']:.2f} {each['accuracy']:.0%} right" for each in bins)
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title, said=f"{said}.")


def dots(rows: Sequence[tuple[str, float, float | None, float | None]], *, title: str) -> str:
    """For each (name, value, low, high) between 0 and 1 its name and numbers, below a dot with its interval.

    The first one, which the others are to be compared with, is a full dot, the others are hollow.
    """
    gap, left, right = 38, 12, WIDTH - 12
    height = gap * len(rows) + 26

    def x(value: float) -> float:
        return left + value * (right - left)

    parts, said = [], []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="4" y2="{height - 22}"/>'
        )
        parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
    for i, (name, value, low, high) in enumerate(rows):
        at, series = 28 + gap * i, f"s{min(i, 1)}"
        known = low is not None and high is not None
        shown = f"{value:.4f} ({low:.4f} to {high:.4f})" if known else f"{value:.4f}"
        said.append(f"{name} {shown}")
        parts.append(
            f'<text class="over strong" x="{left}" y="{at - 11}">{escape(name)}</text>'
            f'<text class="over" x="{right}" y="{at - 11}" text-anchor="end">{shown}</text>'
        )
        if low is not None and high is not None:
            parts.append(
                f'<line class="{series}" stroke="currentColor" stroke-width="3" x1="{x(low):.1f}"'
                f' x2="{x(high):.1f}" y1="{at}" y2="{at}"/>'
            )
        fill = 'fill="currentColor"' if i == 0 else 'fill="none" stroke="currentColor" stroke-width="2"'
        parts.append(f'<circle class="{series}" {fill} cx="{x(value):.1f}" cy="{at}" r="5"/>')
    return svg("".join(parts), width=WIDTH, height=height, title=title, said=f"{'; '.join(said)}.")


def pairs(rows: Sequence[tuple[str, float, float]], *, title: str, names: tuple[str, str]) -> str:
    """For each (name, share, share) two bars, one below the other: the first hollow, the second full.

    `names` say what the first and the second ones are of.
    """
    if not rows:
        return ""
    gap, top, right = 32, 24, 48
    left = min(140.0, max(LETTER * len(_cut(name)) for name, *_ in rows) + 10)
    most = max(max(then, now) for _, then, now in rows) or 1.0
    second = 40 + LETTER * len(names[0])
    parts = [
        f'<rect class="s1" x="1" y="3" width="10" height="9" fill="none" stroke="currentColor"/>'
        f'<text x="16" y="12">{escape(names[0])}</text>'
        f'<rect class="s0" x="{second:.1f}" y="3" width="10" height="9" fill="currentColor"/>'
        f'<text x="{second + 15:.1f}" y="12">{escape(names[1])}</text>'
    ]
    for i, (name, *values) in enumerate(rows):
        at = top + gap * i
        parts.append(f'<text x="{left - 8:.1f}" y="{at + 16}" text-anchor="end">{escape(_cut(name))}</text>')
        for place, value in enumerate(values):
            length = max(value / most * (WIDTH - left - right), 0.5)
            look = 'fill="none" stroke="currentColor"' if place == 0 else 'fill="currentColor"'
            parts.append(
                f'<rect class="s{1 - place}" {look} x="{left:.1f}" y="{at + 1 + 13 * place}"'
                f' width="{length:.1f}" height="9"/>'
                f'<text x="{left + length + 6:.1f}" y="{at + 10 + 13 * place}">{value:.1%}</text>'
            )
    said = "; ".join(f"{name} {first:.1%} then, {second:.1%} now" for name, first, second in rows)
    return svg("".join(parts), width=WIDTH, height=top + gap * len(rows), title=title, said=f"{said}.")


def heat(labels: Sequence[str], counts: Mapping[tuple[str, str], int], *, title: str) -> str:
    """A confusion matrix: truth downwards, answers across, each row shaded by its share.

    Right answers lie on the diagonal. Where every count fits into its cell, it stands there.
    """
    longest = min(12, max((len(label) for label in labels), default=1))
    margin = 26 + LETTER * longest
    size = max(14, min(34, (WIDTH - margin) // max(len(labels), 1)))
    side = margin + size * len(labels)
    has_room = max((len(short(count)) for count in counts.values()), default=0) * LETTER < size - 2
    totals = {truth: sum(counts.get((truth, other), 0) for other in labels) for truth in labels}
    parts = ['<text x="0" y="12">true label downwards, answer across</text>']
    for i, truth in enumerate(labels):
        at = margin + size * i
        middle = at + size / 2
        parts.append(
            f'<text x="{margin - 5:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(truth[:12])}</text>'
        )
        parts.append(_across(truth[:12], middle, margin - 6, upright=longest * LETTER > size - 4))
        for j, answer in enumerate(labels):
            count = counts.get((truth, answer), 0)
            share = count / totals[truth] if totals[truth] else 0.0
            # Few confusions among many right answers would not be seen on a linear scale.
            shade = share if i == j else math.sqrt(share)
            parts.append(
                f'<rect class="cell s{int(i != j)}" x="{margin + size * j:.1f}" y="{at:.1f}" width="{size}"'
                f' height="{size}" fill="currentColor" fill-opacity="{shade:.3f}">'
                f"<title>{escape(truth)} answered as {escape(answer)}: {count:,}</title></rect>"
            )
            if count and has_room:
                parts.append(
                    f'<text class="over" x="{margin + size * (j + 0.5):.1f}" y="{middle + 4:.1f}"'
                    f' text-anchor="middle">{short(count)}</text>'
                )
    right = sum(counts.get((label, label), 0) for label in labels)
    said = f"{right:,} of {sum(totals.values()):,} answers are right and lie on the diagonal."
    return svg("".join(parts), width=max(side + 4, 230), height=side + 4, title=title, said=said)


def _across(label: str, x: float, y: float, *, upright: bool) -> str:
    """A name above a column, on its side where it is wider than the column."""
    place = (
        f'transform="translate({x + 4:.1f},{y:.1f}) rotate(-90)"' if upright else f'x="{x:.1f}" y="{y:.1f}"'
    )
    return f'<text {place} text-anchor="{"start" if upright else "middle"}">{escape(label)}</text>'


def picture_shape(features: int) -> tuple[int, int] | None:
    """Height and width of a step that may be a picture: a square, or twice as high as wide."""
    if features < 16:
        return None
    square = math.isqrt(features)
    if square * square == features:
        return square, square
    half = math.isqrt(features // 2)
    return (2 * half, half) if 2 * half * half == features else None


def frames(values: Sequence[Sequence[float]], *, per_step: bool, title: str) -> str:
    """A sequence drawn: steps that may be pictures side by side, else one picture or lines over time."""
    features = len(values[0])
    shape = picture_shape(features) if per_step else None
    if shape is not None:
        return _pictures(values, shape, title=title)
    if features >= MIN_PICTURE_FEATURES:
        size = max(2, min(6, 160 // max(len(values), features)))
        width, height = features * size, len(values) * size
        picture = _picture(values, _greys(values), left=0, size=size)
        return svg(picture, width=width, height=height, title=title)
    named = {f"feature {i}": [(step, row[i]) for step, row in enumerate(values)] for i in range(features)}
    return lines(named, title=title, x_label="step")


def _pictures(values: Sequence[Sequence[float]], shape: tuple[int, int], *, title: str) -> str:
    """Each step as a picture of its own, the first ones side by side."""
    height, width = shape
    size, greys, shown = max(2, 48 // height), _greys(values), values[:MAX_FRAMES]
    apart = width * size + 4
    drawn = [
        _picture(
            [step[at : at + width] for at in range(0, len(step), width)], greys, left=i * apart, size=size
        )
        for i, step in enumerate(shown)
    ]
    return svg("".join(drawn), width=len(shown) * apart, height=height * size, title=title)


def _picture(
    rows: Sequence[Sequence[float]], greys: Callable[[float], str], *, left: float, size: int
) -> str:
    """A square for each value above the paper's white."""
    width, height = len(rows[0]) * size, len(rows) * size
    parts = [_rect(left, 0, width, height, fill="#fff")]
    for i, row in enumerate(rows):
        parts += [
            _rect(left + j * size, i * size, size, size, fill=grey)
            for j, value in enumerate(row)
            if (grey := greys(value)) != "#ffffff"
        ]
    return "".join(parts)


def _greys(values: Sequence[Sequence[float]]) -> Callable[[float], str]:
    """White for the lowest value of all, black for the highest."""
    flat = [value for step in values for value in step]
    low, spread = min(flat), (max(flat) - min(flat)) or 1.0

    def grey(value: float) -> str:
        return "#" + 3 * f"{round(255 * (1 - (value - low) / spread)):02x}"

    return grey


def _rect(x: float, y: float, width: float, height: float, *, fill: str) -> str:
    """A rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"/>'
