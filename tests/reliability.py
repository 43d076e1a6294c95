"""The fault suite: what goes wrong, what has to come of it, and the page of what did.

@pytest.mark.fault("kill -9 of the driver")      a row of FAULTS; such a test is also marked `chaos`
@pytest.mark.thorough                            takes long: `scripts/test` without arguments leaves it out

scripts/test -m chaos -n 2 --dist loadfile --seed 7 --reliability=docs/reliability.md
"""

import datetime
import platform
import random
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest

FAULTS: Mapping[str, str] = {
    "kill -9 of a training worker": "another goes on from the last checkpoint; the weights come out the same",
    "a machine that is gone": "its work is done again elsewhere; the results of an undisturbed run",
    "kill -9 of the driver": "the same command goes on; no run stays open in MLflow, no process stays behind",
    "kill -9 while a checkpoint is written": "the one before stays valid, what was begun is ignored",
    "kill -9 while a version is registered": "no second version; the ledger is whole",
    "disk full": "said before the start where possible; else exit 3, whole checkpoints, and on it goes",
    "corrupt checkpoint": "known by its checksum; one falls back with a warning, none left is an error",
    "truncated or empty file": "found by prepare, named with its file",
    "MLflow away, failing or slow": "training goes on at its speed, everything arrives once in the end",
    "SQLite locked": "waited for, then an error in words",
    "two retrains at once": "one change of champion at a time, the better model, a ledger that explains it",
    "SIGTERM": "a checkpoint, exit 143, and the same command goes on",
    "Ctrl-C": "a checkpoint, no process left, exit 130",
    "out of memory, or killed for it": "named with a hint; tried again a few times and no more",
    "a worker that hangs": "noticed, ended and replaced; the weights of an undisturbed run",
    "clock moved by an hour": "no slot lost, none doubled",
    "scheduler killed": "its run goes on; no slot lost, none doubled",
    "head node lost": "the command ends with exit 3; the next cluster goes on from the storage",
    "all trials fail": "exit 2, the first traceback once, nothing registered",
}  # fmt: skip

COMMAND = "scripts/test -m chaos -n 2 --dist loadfile --reliability=docs/reliability.md"

_outcomes: dict[str, list[tuple[str, str, float]]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault suite."""
    group = parser.getgroup("fault suite")
    group.addoption("--seed", type=int, default=0, help="moments at which faults come")
    group.addoption("--reliability", type=Path, metavar="FILE", help="write the table of outcomes there")


def mark_faults(items: list[pytest.Item]) -> None:
    """A test of a fault is found by `-m chaos`."""
    for item in items:
        for marker in item.iter_markers("fault"):
            (row,) = marker.args
            if row not in FAULTS:
                raise pytest.UsageError(f"{item.nodeid}: {row!r} is no row of FAULTS")
            item.add_marker("chaos")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Draws the moment of a fault; the same for the same --seed and test."""
    return random.Random(f"{request.config.getoption('--seed')} {request.node.nodeid}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Say with the report of a test which fault it is of; it may go to another process."""
    report = yield
    report.user_properties += [("fault", marker.args[0]) for marker in item.iter_markers("fault")]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what became of each test of a fault."""
    if report.when == "call" or report.outcome != "passed":
        for row in dict.fromkeys(row for name, row in report.user_properties if name == "fault"):
            _outcomes.setdefault(row, []).append((report.nodeid, report.outcome, report.duration))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page, where one was asked for and tests ran."""
    path = session.config.getoption("--reliability")
    if path is not None and _outcomes and not hasattr(session.config, "workerinput"):
        path.write_text(page(_outcomes, seed=session.config.getoption("--seed")), "utf8")


def page(outcomes: Mapping[str, list[tuple[str, str, float]]], *, seed: int) -> str:
    """The table of outcomes in Markdown."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "ray", "mlflow"))
    lines = [
        "# Reliability",
        "",
        "What goes wrong in production, brought about on purpose with real processes, signals and files, and",
        f"what has to come of it. Written on {datetime.date.today()} with seed {seed}, Python",
        f"{platform.python_version()}, {libraries}, by",
        "",
        "```",
        f"{COMMAND} --seed {seed}",
        "```",
        "",
        "| fault | what has to come of it | tests | outcome |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for row, expected in FAULTS.items():
        found = outcomes.get(row, [])
        names = "<br>".join(f"`{Path(node.partition('::')[0]).stem}::{_name(node)}`" for node, *_ in found)
        passed = sum(outcome == "passed" for _, outcome, _ in found)
        told = (
            f"{passed} of {len(found)} passed, {sum(each[2] for each in found):.0f} s" if found else "not run"
        )
        lines.append(f"| {row} | {expected} | {names or '-'} | {told} |")
    return "\n".join(lines) + "\n"


def _name(node: str) -> str:
    return node.partition("::")[2].replace("|", "/")
