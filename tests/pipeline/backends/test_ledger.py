import json
from datetime import datetime

import pytest

from pipeline.backends import ledger
from pipeline.backends.ledger import Change

OLD = {"at": "2026-01-01T00:00:00+00:00", "who": "me@here", "alias": "champion", "why": "old", "run_id": "r"}


def entry(before, after, *, number, why="", alias="champion", kind="promotion", registry="here"):
    change = Change(alias, before, after, why, f"run-{after}", kind)
    return ledger.entry(change, number=number, registry=registry)


def test_changes_are_kept_in_order_with_who_and_when(tmp_path):
    folder = tmp_path / "words"
    ledger.append(folder, entry(None, 1, number=1, why="the first model"))
    ledger.append(folder, entry(1, 3, number=2, why="accuracy 0.9 → 0.95"))
    first, second = ledger.read(folder)
    assert (first["from"], first["to"], first["alias"], first["run_id"]) == (None, 1, "champion", "run-1")
    assert (second["why"], second["number"]) == ("accuracy 0.9 → 0.95", 2)
    assert "@" in second["who"]
    assert datetime.fromisoformat(first["at"]).tzinfo is not None


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path):
    ledger.append(tmp_path, entry(None, 1, number=1))
    with (tmp_path / ledger.LEDGER).open("a", encoding="utf8") as file:
        file.write('{"at": "2026')
    ledger.append(tmp_path, entry(1, 2, number=2))
    assert [change["to"] for change in ledger.read(tmp_path)] == [1, 2]


def test_every_line_is_json_on_its_own(tmp_path):
    ledger.append(tmp_path, entry(None, 1, number=1, why="line\nbreak"))
    (line,) = (tmp_path / ledger.LEDGER).read_text("utf8").splitlines()
    assert json.loads(line)["why"] == "line\nbreak"


def test_without_a_ledger_nothing_has_changed(tmp_path):
    assert ledger.read(tmp_path / "nowhere") == []


def test_of_lines_with_one_number_the_last_counts_but_only_within_a_registry(tmp_path):
    for after, registry in ((2, "here"), (3, "here"), (4, "there")):
        ledger.append(tmp_path, entry(1, after, number=7, registry=registry))
    assert [line["to"] for line in ledger.read(tmp_path)] == [3, 4]


def test_the_registry_and_the_storage_together_have_each_change_once_with_its_whole_reason():
    old = {**OLD, "from": None, "to": 1}
    done, cut = entry(1, 2, number=2, why="because " * 2000), entry(2, 3, number=3)
    key, text = ledger.tag(done)
    assert (key, len(text) <= 5000) == ("recurra.ledger.000002", True)
    assert "characters, SHA-256" in json.loads(text)["why"]
    told = ledger.merged([old, done, cut], {key: text, "team": "{}"})
    assert told == [{**old, "number": 1}, done]  # what was cut short does not count


def test_another_storage_reads_the_registry_and_passes_over_what_others_wrote():
    done = entry(None, 1, number=1, why="first")
    key, text = ledger.tag(done)
    strange = {"recurra.ledger.000002": "{", "recurra.ledger.000003": "[1]", "recurra.ledger.000004": "{}"}
    assert ledger.merged([], {key: text, **strange}) == [done]


def test_a_reason_full_of_quotes_fits_into_a_tag():
    assert len(ledger.tag(entry(1, 2, number=1, why='"\n' * 9000))[1]) <= 5000


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], []),
        ([(None, 1), (1, 2), (2, 5)], [1, 2, 5]),
        ([(3, 4)], [3, 4]),  # an alias from before the ledger
        ([(None, 1), (1, 2), (2, 3), (3, 2, "rollback")], [1, 2]),
        ([(None, 1), (1, 2), (2, 1, "rollback"), (1, 3)], [1, 3]),
        ([(None, 1), (1, 2), (2, 1)], [1, 2, 1]),  # promoted again, which is no way back
        ([(None, 1), (1, 2), (2, 9, "rollback")], [1, 2, 9]),
    ],
)
def test_the_trail_forgets_what_was_rolled_back(moves, expected):
    entries = [
        entry(move[0], move[1], number=n, kind=move[2] if len(move) > 2 else "promotion")
        for n, move in enumerate(moves)
    ]
    assert ledger.trail([*entries, entry(1, 8, number=99, alias="other")], "champion") == expected
