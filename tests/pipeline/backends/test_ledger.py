import json
from datetime import datetime

from pipeline.backends import ledger
from pipeline.backends.ledger import Change


def test_changes_are_kept_in_order_with_who_and_when(tmp_path):
    folder = tmp_path / "words"
    ledger.append(folder, Change("champion", None, 1, "the first model", "run-1"))
    ledger.append(folder, Change("champion", 1, 3, "accuracy 0.9 → 0.95", "run-3"))
    first, second = ledger.read(folder)
    assert (first["from"], first["to"], first["alias"], first["run_id"]) == (None, 1, "champion", "run-1")
    assert second["why"] == "accuracy 0.9 → 0.95"
    assert "@" in second["who"]
    assert datetime.fromisoformat(first["at"]).tzinfo is not None


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path):
    ledger.append(tmp_path, Change("champion", None, 1, "", "a"))
    with (tmp_path / ledger.LEDGER).open("a", encoding="utf8") as file:
        file.write('{"at": "2026')
    ledger.append(tmp_path, Change("champion", 1, 2, "", "b"))
    assert [change["to"] for change in ledger.read(tmp_path)] == [1, 2]


def test_every_line_is_json_on_its_own(tmp_path):
    ledger.append(tmp_path, Change("champion", None, 1, "line\nbreak", "a"))
    (line,) = (tmp_path / ledger.LEDGER).read_text("utf8").splitlines()
    assert json.loads(line)["why"] == "line\nbreak"


def test_without_a_ledger_nothing_has_changed(tmp_path):
    assert ledger.read(tmp_path / "nowhere") == []
