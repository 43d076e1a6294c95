import json
import subprocess
import sys

import pytest

from components.errors import BusyError
from pipeline.backends import ledger
from pipeline.backends.addresses import sqlite_path
from pipeline.backends.aliases import ELSEWHERE, Aliases
from pipeline.backends.ledger import Change
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store

STEPS = ("line", "previous", "champion", "tag")

# Promotes version 2 of one name after another; each time a process of its own is killed after one more step:
# URI STORAGE CHECKOUT NAME...
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import mlflow
from pipeline.backends import ledger
from pipeline.backends.addresses import sqlite_path
from pipeline.backends.aliases import Aliases
from pipeline.backends.ledger import Change
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store

def dying(action, countdown):
    def wrapped(*args):
        action(*args)
        countdown.pop()
        if not countdown:
            os.kill(os.getpid(), signal.SIGKILL)
    return wrapped

for steps, name in enumerate(sys.argv[4:], start=1):
    child = os.fork()
    if child == 0:
        countdown = [None] * steps
        ledger.append = dying(ledger.append, countdown)
        registry = Registry(Store(sys.argv[1]))
        registry.point = dying(registry.point, countdown)
        registry.tag_name = dying(registry.tag_name, countdown)
        with Aliases(registry, name, Path(sys.argv[2]) / name).held() as turn:
            turn.move(Change("champion", 1, 2, "better", "run-2"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, status)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("aliases")


@pytest.fixture(scope="module")
def registry(place):
    return Registry(Store(f"sqlite:///{place}/mlflow.db"))


@pytest.fixture(scope="module")
def made(registry, place):
    """Makes the aliases of a new name with versions that are only numbers, version 1 being champion."""

    def make(name, *, versions=3, tags=None):
        def create(client):
            client.create_registered_model(name)
            for number in range(1, versions + 1):
                run = {"recurra.run_id": f"run-{number}"}
                client.create_model_version(name, str(place), tags={**run, **(tags or {})})

        registry.store.call(create)
        found = Aliases(registry, name, place / "runs" / name)
        with found.held() as turn:
            turn.move(Change("champion", None, 1, "first", "run-1"))
        return found

    return make


def at(aliases):
    versions = aliases.registry.versions(aliases.name)
    return {alias: version.number for version in versions for alias in version.aliases}


def moves(aliases):
    return [(line["number"], line["from"], line["to"]) for line in aliases.history()]


def test_a_change_moves_the_alias_and_previous_and_is_entered_in_both_places(made, registry, tmp_path):
    aliases = made("words")
    before = aliases.fence("champion")
    with aliases.held() as turn:
        line = turn.move(Change("champion", 1, 3, "better", "run-3"))
    assert at(aliases) == {"champion": 3, "previous": 1}
    assert (before, aliases.fence("champion"), aliases.fence("staging")) == (1, 2, 0)
    assert aliases.history()[-1] == line == ledger.read(aliases.folder)[-1]
    assert Aliases(registry, "words", tmp_path / "elsewhere").history() == aliases.history()


@pytest.mark.slow
def test_a_kill_between_any_two_steps_is_mended_by_the_same_command(made, registry, place, root):
    names = [f"killed-after-{step}" for step in STEPS]
    cut_short = [made(name) for name in names]
    command = [sys.executable, "-c", KILLED, registry.store.uri, str(place / "runs"), str(root), *names]
    subprocess.run(command, check=True, timeout=300)
    found = {step: at(aliases) for step, aliases in zip(STEPS, cut_short, strict=True)}
    assert found == {
        "line": {"champion": 1},
        "previous": {"champion": 1, "previous": 1},
        "champion": {"champion": 2, "previous": 1},
        "tag": {"champion": 2, "previous": 1},
    }
    for aliases in cut_short:
        # What a rerun of the promoter does: settle, and go on only if there is still something to do.
        with aliases.held() as turn:
            if turn.settle("champion").number == 1:
                turn.move(Change("champion", 1, 2, "better", "run-2"))
        assert at(aliases) == {"champion": 2, "previous": 1}
        assert moves(aliases) == [(1, None, 1), (2, 1, 2)]
        assert [line["why"] for line in aliases.history()] == ["first", "better"]
        assert [line["to"] for line in ledger.read(aliases.folder)] == [1, 2]


def test_a_change_cut_short_on_another_machine_is_entered_with_the_reasons_of_its_version(
    made, registry, tmp_path
):
    tags = {"verdict": "promoted", "recurra.reasons": json.dumps(["It is better."])}
    made("torn", tags=tags)
    registry.point("torn", "champion", 2)
    here = Aliases(registry, "torn", tmp_path / "torn")
    with here.held() as turn:
        assert turn.settle("champion").number == 2
        turn.settle("champion")
    assert moves(here) == [(1, None, 1), (2, 1, 2)]
    line = here.history()[-1]
    assert (line["why"], line["run_id"], line["kind"]) == ("It is better.", "run-2", "promotion")


def test_an_alias_that_was_moved_by_hand_is_entered_as_found(made, registry):
    aliases = made("by-hand")
    registry.point("by-hand", "champion", 3)
    with aliases.held() as turn:
        turn.settle("champion")
        turn.move(Change("champion", 3, 2, "no", "run-2"))
    assert moves(aliases) == [(1, None, 1), (2, 1, 3), (3, 3, 2)]
    assert (aliases.history()[1]["kind"], aliases.history()[1]["why"]) == ("found", ELSEWHERE)


def test_lines_of_an_older_ledger_come_first_and_numbers_go_on_after_them(made, place):
    aliases = made("older", versions=3)
    old = {"at": "2026-01-01T00:00:00+00:00", "who": "me", "alias": "champion", "from": None, "to": 1}
    fresh = Aliases(aliases.registry, "older-2", place / "runs" / "older-2")
    aliases.registry.store.call(lambda client: client.create_registered_model("older-2"))
    for _ in range(2):
        aliases.registry.store.call(lambda client: client.create_model_version("older-2", str(place)))
    ledger.append(fresh.folder, {**old, "why": "first", "run_id": "r"})
    aliases.registry.point("older-2", "champion", 1)
    with fresh.held() as turn:
        turn.settle("champion")
        turn.move(Change("champion", 1, 2, "better", "run-2"))
    assert moves(fresh) == [(1, None, 1), (2, 1, 2)]


def test_who_lost_the_lease_changes_nothing_more(made):
    aliases = made("stale")
    with aliases.held() as turn:
        _note_of(aliases).write_text(json.dumps({"token": "of another"}), "utf8")
        with pytest.raises(BusyError, match="was lost"):
            turn.move(Change("champion", 1, 2, "too late", "run-2"))
    assert at(aliases) == {"champion": 1}
    assert moves(aliases) == [(1, None, 1)]


def test_a_change_that_no_lock_kept_away_is_noticed_by_the_number(made, registry):
    aliases = made("unlocked")

    class Meddling(Registry):
        """Another machine behind an MLflow server: it promotes while this one is about to."""

        def point(self, name, alias, number):
            super().point(name, alias, number)
            if alias == "previous":
                other = ledger.entry(Change("champion", 1, 3, "faster", "run-3"), number=2, registry="x")
                self.tag_name(name, *ledger.tag(other))
                super().point(name, "champion", 3)

    ours = Aliases(Meddling(registry.store), "unlocked", aliases.folder)
    with ours.held() as turn, pytest.raises(BusyError, match="at the same time"):
        turn.move(Change("champion", 1, 2, "better", "run-2"))
    assert at(aliases)["champion"] == 3
    assert moves(aliases) == [(1, None, 1), (2, 1, 3)]


def _note_of(aliases):
    """The note of who holds the lease now."""
    database = sqlite_path(aliases.registry.store.uri)
    return max(database.parent.glob("mlflow.db.*.holder"), key=lambda path: path.stat().st_mtime_ns)
