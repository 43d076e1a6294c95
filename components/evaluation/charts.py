"""Charts as SVG text: no script, no outside resource, colours from the page's own variables.

lines      learning curves            heat       a confusion matrix
bars       a histogram                dots       scores with intervals, the reliability curve
frames     steps drawn as small grey images
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

# Okabe & Ito's palette, told apart by people with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 24, 34
LETTER = 6.6  # the width of a letter in the page's 12 px type, near enough
NUM_TICKS = 5
MAX_FRAMES = 24
MIN_PICTURE_FEATURES = 8


def svg(content: str, *, width: float, height: float, title: str) -> str:
    """A drawing with a title that is read aloud."""
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
        f' xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{content}</svg>'
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
    ) -> None:
        self.low_x, self.high_x = min(xs), max(xs)
        self.log = log and min(ys) > 0
        self.low_y, self.high_y = (0.0 if zero else self._scaled(min(ys))), self._scaled(max(ys))
        if self.high_y == self.low_y:
            self.high_y = self.low_y + 1.0
        if self.high_x == self.low_x:
            self.low_x, self.high_x = self.low_x - 0.5, self.high_x + 0.5
        self.x_label, self.whole = x_label, whole

    def x(self, value: float) -> float:
        return LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (WIDTH - LEFT - RIGHT)

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
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(self.low_x, self.high_x, whole=self.whole):
            at = self.x(value)
            parts.append(
                f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
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
    axes = Axes([x for x, _ in every], [y for _, y in every], x_label=x_label, log=log)
    parts = [axes.drawn()]
    if mark is not None:
        at = axes.x(mark)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for i, (name, points) in enumerate(kept.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        for x, y in points:
            shown = f"{name}, {x_label} {x:g}: {y:.4g}"
            parts.append(
                f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5" fill="{colour}">'
                f"<title>{escape(shown)}</title></circle>"
            )
        at = LEFT + sum(LETTER * len(other) + 34 for other in list(kept)[:i])
        parts.append(f'<rect x="{at:g}" y="2" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{at + 14:g}" y="11">{escape(name)}</text>')
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title)


def bars(edges: Sequence[float], counts: Sequence[float], *, title: str, x_label: str) -> str:
    """A histogram: counts[i] from edges[i] to edges[i + 1]."""
    if not counts:
        return ""
    axes = Axes(edges, counts, x_label=x_label, zero=True)
    parts = [axes.drawn()]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = axes.x(low), axes.x(high), axes.y(count)
        parts.append(
            f'<rect fill="{COLOURS[0]}" x="{left + 0.5:.1f}" y="{top:.1f}"'
            f' width="{max(right - left - 1, 1):.1f}" height="{HEIGHT - BOTTOM - top:.1f}">'
            f"<title>{low:g} to {high:g}: {count:,}</title></rect>"
        )
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title)


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
            f'<circle fill="{COLOURS[0]}" fill-opacity="0.7" cx="{axes.x(each["confidence"]):.1f}"'
            f' cy="{axes.y(each["accuracy"]):.1f}" r="{radius:.1f}"><title>{shown}</title></circle>'
        )
    return svg("".join(parts), width=WIDTH, height=HEIGHT, title=title)


def dots(rows: Sequence[tuple[str, float, float | None, float | None]], *, title: str) -> str:
    """One line for each (name, value, low, high) between 0 and 1: a dot with its interval."""
    gap, left, right, width = 26, 130, 180, WIDTH + 120
    height = gap * len(rows) + 30

    def x(value: float) -> float:
        return left + value * (width - left - right)

    parts = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="4" y2="{height - 22}"/>'
        )
        parts.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
    for i, (name, value, low, high) in enumerate(rows):
        at, colour = 16 + gap * i, COLOURS[0 if i == 0 else 1]
        parts.append(f'<text x="{left - 10}" y="{at + 4}" text-anchor="end">{escape(name)}</text>')
        if low is not None and high is not None:
            parts.append(
                f'<line stroke="{colour}" stroke-width="3" x1="{x(low):.1f}" x2="{x(high):.1f}"'
                f' y1="{at}" y2="{at}"/>'
            )
        parts.append(f'<circle fill="{colour}" cx="{x(value):.1f}" cy="{at}" r="5"/>')
        known = low is not None and high is not None
        shown = f"{value:.4f} ({low:.4f} to {high:.4f})" if known else f"{value:.4f}"
        parts.append(f'<text x="{x(1.0) + 12:.1f}" y="{at + 4}">{shown}</text>')
    return svg("".join(parts), width=width, height=height, title=title)


def heat(labels: Sequence[str], counts: Mapping[tuple[str, str], int], *, title: str) -> str:
    """A confusion matrix: truth downwards, answers across, each row shaded by its share."""
    size = max(14, min(34, 620 // max(len(labels), 1)))
    margin = 34 + 6 * min(12, max((len(label) for label in labels), default=1))
    side = margin + size * len(labels)
    totals = {truth: sum(counts.get((truth, other), 0) for other in labels) for truth in labels}
    parts = [f'<text x="{margin}" y="12">answered across, true downwards</text>']
    for i, truth in enumerate(labels):
        at = margin + size * i
        middle = at + size / 2
        parts.append(
            f'<text x="{margin - 5}" y="{middle + 4:.1f}" text-anchor="end">{escape(truth[:12])}</text>'
            f'<text x="{middle:.1f}" y="{margin - 6}" text-anchor="middle">{escape(truth[:3])}</text>'
        )
        for j, answer in enumerate(labels):
            count = counts.get((truth, answer), 0)
            share = count / totals[truth] if totals[truth] else 0.0
            colour = COLOURS[0] if i == j else COLOURS[1]
            # Few confusions among many right answers would not be seen on a linear scale.
            shade = share if i == j else math.sqrt(share)
            parts.append(
                f'<rect class="cell" x="{margin + size * j}" y="{at}" width="{size}" height="{size}"'
                f' fill="{colour}" fill-opacity="{shade:.3f}">'
                f"<title>{escape(truth)} answered as {escape(answer)}: {count:,}</title></rect>"
            )
    return svg("".join(parts), width=side + 4, height=side + 4, title=title)


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
