"""Stages without a cluster, and one run that went through the first three of them."""

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import RecurraError
from conf.schema import Settings
from pipeline import cli
from pipeline.backends import tracking, workspace
from pipeline.backends.pools import Begun, Ended, Event, Item
from pipeline.backends.signals import Signals
from pipeline.backends.tracking import Tracker
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console

QUIET = Console(level=-1)


class Noting(Console):
    """A console that keeps what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note


class Done:
    """The result of a task, worked out when it is asked for."""

    def __init__(self, function: Callable[..., Any], **kwargs: Any) -> None:
        self.function, self.kwargs = function, kwargs

    def result(self) -> Any:
        return self.function(**self.kwargs)


class InProcess:
    """What a stage asks of a cluster, done in this process."""

    task = background = Done

    def worker(self) -> "InProcess":
        return self

    def call(self, function: Callable[..., Any], **kwargs: Any) -> Any:
        return function(**kwargs)

    def stream(
        self, function: Callable[..., Iterator[Any]], *, patience: float | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        return function(**kwargs)

    def room(self) -> int:
        return 1

    def share(
        self,
        function: Callable[..., Iterator[Any]],
        jobs: Iterable[int],
        kwargs: Callable[[int], Mapping[str, Any]],
        *,
        processes: int,
    ) -> Iterator[Event]:
        for job in jobs:
            yield Begun(job)
            try:
                for value in function(**kwargs(job)):
                    yield Item(job, value)
            except RecurraError as error:
                yield Ended(job, error)
            else:
                yield Ended(job)


def lines(num_rows: int = 120, *, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of 1 to 6 steps of two raw numbers; a step's label is `up` where the first is the larger one."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Any]] = {"id": [], "frames": [], "labels": [], "fold": []}
    for row in range(num_rows):
        values = rng.normal(100.0, 20.0, (rng.integers(1, 7), 2))
        noise = rng.normal(0.0, 8.0, len(values))
        found["id"].append(f"r{row}")
        found["frames"].append(values.tolist())
        found["labels"].append(["up" if up else "down" for up in values[:, 0] - values[:, 1] + noise > 0])
        found["fold"].append(row % 5)
    return found


def line_settings(data: Path, /, **sections: Any) -> Settings:
    """Settings for rows of `lines`; a keyword argument changes keys of its section."""
    values: dict[str, Any] = {
        "name": "lines",
        "task": "labelling",
        "data": {
            "path": str(data),
            "id": "id",
            "inputs": [{"column": "frames", "scale": "standard"}],
            "target": {"column": "labels"},
            "split": {"column": "fold", "valid": [1], "test": [0]},
        },
        "model": {"units": 6, "bidirectional": True},
        "train": {"epochs": 3, "batch_size": 8, "learning_rate": 0.03, "devices": "cpu:1"},
        "evaluate": {"bootstrap": 200},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return Settings.model_validate(values)


def write_rows(path: Path, rows: dict[str, list[Any]] | None = None) -> Path:
    pq.write_table(pa.table(lines() if rows is None else rows), path)
    return path


@dataclass(frozen=True)
class Started:
    """A run folder with its prepared rows, and what stages are given beside it."""

    settings: Settings
    folder: RunFolder
    uri: str

    @contextmanager
    def tracker(self) -> Iterator[Tracker]:
        with tracking.open_run(self.uri, folder=self.folder, settings=self.settings) as tracker:
            yield tracker

    def train(self, **options: Any) -> dict[str, Any]:
        from pipeline.stages.train import train

        given = {"key": "k", "cluster": InProcess(), "signals": Signals(), "console": QUIET, **options}
        with self.tracker() as tracker, tracker.stage("train"):
            return train(self.settings, folder=self.folder, tracker=tracker, **given)

    def evaluate(self, **options: Any) -> dict[str, Any]:
        from pipeline.stages.evaluate import evaluate

        given = {"cluster": InProcess(), "console": QUIET, **options}
        return evaluate(self.settings, folder=self.folder, **given)

    def finish(self, stage: str, summary: dict[str, Any]) -> None:
        self.folder.update_stage(
            stage, status="done", key="k", seconds=1.5, reason="never run before", summary=summary
        )


def num_threads() -> int:
    """Those that TensorFlow of this process has, which cannot be given others once it has begun."""
    import tensorflow as tf

    return int(tf.config.threading.get_inter_op_parallelism_threads())


def start(folder: Path, rows: dict[str, list[Any]] | None = None, **sections: Any) -> Started:
    """A run folder in which `prepare` is done."""
    from pipeline.stages.prepare import prepare

    folder.mkdir(parents=True, exist_ok=True)
    settings = line_settings(write_rows(folder / "lines.parquet", rows), **sections)
    run = workspace.create(folder / "runs", settings.name, plan={}, versions={"tensorflow": "2.21.0"})
    run.settings.write_text(settings.model_dump_json(by_alias=True), "utf8")
    started = Started(settings, run, f"sqlite:///{folder / 'mlflow.db'}")
    started.finish("prepare", prepare(settings, folder=run, cluster=InProcess(), console=QUIET))  # type: ignore[arg-type]
    return started


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """A run that was prepared, trained and evaluated. Tests leave it as it is."""
    started = start(tmp_path_factory.mktemp("evaluated"))
    started.finish("train", started.train())
    started.finish("evaluate", started.evaluate())
    return started


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back the signal handlers that a command takes over."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def place(folder: Path) -> Path:
    """The current folder, with rows and settings."""
    write_rows(folder / "lines.parquet")
    settings = line_settings(Path("lines.parquet")).model_dump(mode="json", by_alias=True)
    # YAML holds JSON.
    (folder / "lines.yaml").write_text(json.dumps(settings, indent=1), "utf8")
    return folder


def call(*arguments: str) -> int:
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
        sys.exit(0)
    return int(ended.value.code or 0)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one JSON object on stdout of a command that fails."""
    code = call(*arguments)
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert set(said) == {"error", "hint", "exit_code"}
    assert said["exit_code"] == code > 0
    # People get the same words.
    assert said["error"].splitlines()[-1] in err
    return said


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class _Page(HTMLParser):
    """What a page is made of, so far as the rules for pages ask for it."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.found: list[str] = []
        self.drawings: list[set[str]] = []  # of each image, which texts it has
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.seen.add(tag)
        if "id" in named:
            self.ids.append(named["id"] or "")
        if tag in ("script", "link", "iframe", "object", "img"):
            self.found.append(f"there is a <{tag}>")
        for name, value in attributes:
            if name in ("href", "src", "action") and not (value or "").startswith("#"):
                self.found.append(f"{tag} asks for {value}")
            elif name == "href":
                self.targets.append((value or "")[1:])
            if name.startswith("on"):
                self.found.append(f"{tag} has {name}")
        if tag == "table" and not any(each.get("class") == "scroll" for _, each in self.open):
            self.found.append("a table is in no box that scrolls")
        if tag == "svg":
            self.drawings.append(set())
            if named.get("role") != "img":
                self.found.append("a drawing is not said to be an image")
        if tag in ("title", "desc") and self.open[-1][0] == "svg":
            self.drawings[-1].add(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag == "html" and not named.get("lang"):
            self.found.append("the page has no language")
        if tag not in self.VOID:
            self.open.append((tag, named))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            self.found.append(f"</{tag}> closes {self.open[-1][0] if self.open else 'nothing'}")
        else:
            self.open.pop()


def page_faults(page: str) -> list[str]:
    """What is wrong with an HTML page that is to be whole, readable without scripts and by machines."""
    parsed = _Page()
    parsed.feed(page)
    parsed.close()
    faults = [*parsed.found, *(f"<{tag}> is never closed" for tag, _ in parsed.open)]
    faults += [f"#{each} leads nowhere" for each in parsed.targets if each not in parsed.ids]
    faults += [f"two things are called #{each}" for each in set(parsed.ids) if parsed.ids.count(each) > 1]
    faults += ["a drawing has no title" for drawing in parsed.drawings if "title" not in drawing]
    if parsed.headings.count(1) != 1 or parsed.headings[0] != 1:
        faults.append(f"the headings are {parsed.headings}")
    steps = pairwise(parsed.headings)
    faults += [f"a heading of level {b} follows one of {a}" for a, b in steps if b > a + 1]
    faults += [f"there is no <{tag}>" for tag in ("main", "meta", "title") if tag not in parsed.seen]
    if any(word in page for word in ("url(", "@import", "http-equiv")):
        faults.append("something is fetched from elsewhere")
    return faults
