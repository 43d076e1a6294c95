"""What a person sees: progress and notes on stderr, results on stdout.

On a terminal bars with rate and time left; elsewhere a plain line now and then.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich import progress as bars
from rich.console import Console as RichConsole
from rich.live import Live
from rich.markup import escape
from rich.table import Table

PLAIN_LINE_SECONDS = 5.0
PLAIN_WIDTH = 120
LIVE_SECONDS = 0.25
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Bar(Protocol):
    """A piece of long work being shown."""

    def advance(self, n: float = 1, **notes: Any) -> None: ...

    def at(self, done: float, **notes: Any) -> None:
        """Set what is done. A note `total` sets the total instead of being shown."""


@dataclass
class _RichBar:
    progress: bars.Progress
    task: bars.TaskID

    def advance(self, n: float = 1, **notes: Any) -> None:
        self.progress.advance(self.task, n)
        self._note(notes)

    def at(self, done: float, **notes: Any) -> None:
        self.progress.update(self.task, completed=done)
        self._note(notes)

    def _note(self, notes: Mapping[str, Any]) -> None:
        total = notes.get("total")
        if total is not None:
            self.progress.update(self.task, total=total)
        if shown := _joined(notes):
            self.progress.update(self.task, notes=shown)


class _PlainBar:
    def __init__(self, console: "Console", title: str, total: float | None, unit: str) -> None:
        self.console, self.title, self.total, self.unit = console, title, total, unit
        self.done, self.begun, self.printed = 0.0, time.monotonic(), time.monotonic()

    def advance(self, n: float = 1, **notes: Any) -> None:
        self.at(self.done + n, **notes)

    def at(self, done: float, **notes: Any) -> None:
        self.done, self.total = done, notes.get("total", self.total)
        now = time.monotonic()
        if now - self.printed < PLAIN_LINE_SECONDS:
            return
        self.printed = now
        share = f"{done / self.total:4.0%} " if self.total else ""
        rate = done / max(now - self.begun, 1e-9)
        # The first steps wait for graphs to be built, so they say nothing of the rate.
        known = self.total and rate and done > 0.02 * self.total
        left = f", {(self.total - done) / rate:.0f} s left" if self.total and known else ""
        self.console.note(f"{self.title}: {share}{done:,.0f} {self.unit}{left} {_joined(notes)}".rstrip())


class LiveTable:
    """A table that changes while work goes on; nothing where there is no terminal."""

    def __init__(self, live: Live | None = None) -> None:
        self._live, self._shown = live, 0.0

    def is_due(self) -> bool:
        """Whether somebody would see a change."""
        return self._live is not None and time.monotonic() - self._shown > LIVE_SECONDS

    def show(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Replace the table."""
        if self._live is not None:
            self._shown = time.monotonic()
            self._live.update(_table("", header, rows), refresh=True)


class Console:
    """Everything the commands print. `level`: -1 quiet, 0 normal, 1 verbose."""

    def __init__(self, *, level: int = 0, as_json: bool = False) -> None:
        self.level, self.as_json = level, as_json
        self.err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.out = RichConsole(highlight=False, soft_wrap=True)
        for console in (self.err, self.out):
            if not console.is_terminal:
                console.width = PLAIN_WIDTH

    def note(self, text: str) -> None:
        """One line of what is going on, on stderr."""
        if self.level >= 0:
            self.err.print(clean(text), markup=False)

    def detail(self, text: str) -> None:
        """A line that only -v shows."""
        if self.level >= 1:
            self.note(text)

    def warn(self, text: str) -> None:
        """A line that even -q shows."""
        self.err.print(f"[yellow]Warning:[/] {escape(clean(text))}")

    def error(self, text: str, hint: str = "") -> None:
        """An error and, after a blank line, what to do about it."""
        self.err.print(f"[bold red]Error:[/] {escape(clean(text))}")
        if hint:
            self.err.print(f"\n[bold]Hint:[/] {escape(clean(hint))}")

    def result(self, text: str, data: Mapping[str, Any] | Sequence[Any] | None = None) -> None:
        """What the command is for, on stdout: `text`, or with --json `data` as one object."""
        if self.as_json and data is not None:
            sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        elif text:
            self.out.print(clean(text), markup=False)

    def table(
        self, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], *, err: bool = False
    ) -> None:
        """A table on stdout, or on stderr where it only accompanies the result."""
        if err and self.level < 0:
            return
        (self.err if err else self.out).print(_table(title, header, rows), soft_wrap=False)

    @contextmanager
    def live_table(self) -> Iterator[LiveTable]:
        """A table on a terminal that is gone afterwards; notes appear above it."""
        if self.level < 0 or not self.err.is_terminal:
            yield LiveTable()
            return
        with Live(console=self.err, auto_refresh=False, transient=True) as live:
            yield LiveTable(live)

    @contextmanager
    def progress(self, title: str, total: float | None = None, unit: str = "rows") -> Iterator[Bar]:
        """Show long work: `advance(n)` or `at(done)`, with notes such as loss=0.1."""
        if self.level < 0 or not self.err.is_terminal:
            yield _PlainBar(self, title, total, unit)
            return
        with bars.Progress(
            bars.TextColumn("{task.description:<9}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            _Rate(unit),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[notes]}"),
            console=self.err,
            transient=True,
        ) as progress:
            yield _RichBar(progress, progress.add_task(title, total=total, notes=""))


class _Rate(bars.ProgressColumn):
    """Work per second in the unit of the work."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Any:
        speed = task.finished_speed or task.speed
        return f"{speed:,.0f} {self.unit}/s" if speed else f"- {self.unit}/s"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(clean(str(cell))) for cell in row))
    return table


def clean(text: str) -> str:
    """`text` with control characters made visible, so that data cannot drive the terminal."""
    return CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def _joined(notes: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {_short(value)}" for name, value in notes.items() if name != "total")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_interval(name: str, metrics: Mapping[str, float]) -> str:
    """A score by its name, with its interval where there is one."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    return f"{name} {metrics[name]:.4f}{interval}"
