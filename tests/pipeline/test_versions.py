"""Versions, who was champion when, and all models, as data and as text."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import ModelError
from pipeline.backends.aliases import Aliases
from pipeline.backends.ledger import Change
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.versions import (
    all_models,
    champion_at,
    models,
    show_all,
    show_champion,
    show_models,
    shown_score,
)

METRICS = {"accuracy": 0.91234, "accuracy_low": 0.9, "accuracy_high": 0.92, "loss": 0.5, "num_steps": 10}


def change(at: str, before: int | None, after: int, **more: Any) -> dict[str, Any]:
    line = {"at": at, "alias": "champion", "from": before, "to": after, "who": "me", "why": f"why {after}"}
    return {**line, **more}


KNOWN = {
    "name": "lines",
    "versions": [
        {
            "version": 2,
            "aliases": [],
            "verdict": "kept",
            "metrics": {"accuracy": 0.9},
            "created": "2026-01-02T03:04:05+00:00",
        },
        {
            "version": 1,
            "aliases": ["champion"],
            "verdict": None,
            "metrics": {},
            "created": "2026-01-01T00:00:00",
        },
    ],
    "ledger": [
        change("2026-01-01T00:00:09+00:00", None, 1),
        change("2026-02-01T12:00:00+00:00", 1, 2),
        change("2026-02-02T12:00:00+00:00", None, 2, alias="staging"),
        change("2026-02-03T12:00:00+00:00", 2, 1, kind="rollback"),
    ],
}


def test_versions_and_promotions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    show_models(KNOWN, console=Console())
    out = capsys.readouterr().out
    assert "accuracy 0.9000" in out
    assert "2026-01-02 03:04" in out
    assert "@champion" in out
    assert "(rollback) why 1" in out
    show_models(KNOWN, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == KNOWN


@pytest.mark.parametrize(
    ("moment", "version", "since", "until"),
    [
        ("2025-12-01T00:00+00:00", None, None, None),
        ("2026-01-01T00:00:09+00:00", 1, "2026-01-01T00:00:09+00:00", "2026-02-01T12:00:00+00:00"),
        ("2026-02-01T13:59:59+02:00", 1, "2026-01-01T00:00:09+00:00", "2026-02-01T12:00:00+00:00"),
        ("2026-02-02T12:00:00Z", 2, "2026-02-01T12:00:00+00:00", "2026-02-03T12:00:00+00:00"),
        ("2026-03-01", 1, "2026-02-03T12:00:00+00:00", None),
    ],
)
def test_who_was_champion_at_a_moment(
    moment: str, version: int | None, since: str | None, until: str | None
) -> None:
    found = champion_at(moment, KNOWN)
    assert (found["version"], found["since"], found["until"]) == (version, since, until)


def test_a_date_means_its_end_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Etc/GMT+11")  # eleven hours behind: the change is on that day's morning
    time.tzset()
    try:
        assert champion_at("2026-02-01", KNOWN)["version"] == 2
        assert champion_at("2026-01-31", KNOWN)["at"] == "2026-01-31T23:59:59-11:00"
        assert champion_at("2026-02-01T00:59", KNOWN)["version"] == 1
        assert champion_at("2026-02-01T01:00", KNOWN)["version"] == 2
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize("moment", ["yesterday", "2026-13-01", "2026-02-30", "9999-12-31", ""])
def test_what_is_no_date_is_refused(moment: str) -> None:
    with pytest.raises(ModelError, match="--at: received") as caught:
        champion_at(moment, KNOWN)
    assert caught.value.exit_code == 2


def test_the_champion_then_is_told_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    found = champion_at("2026-02-02T00:00+00:00", KNOWN)
    show_champion(found, console=Console())
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("lines version 2 was @champion at 2026-02-0")
    assert first.endswith("since 2026-02-01T12:00:00+00:00, until 2026-02-03T12:00:00+00:00.")
    assert second == "  why 2"
    show_champion(champion_at("2025-01-01", KNOWN), console=Console())
    assert capsys.readouterr().out.startswith("Nothing was @champion of lines at 2025-01-01T23:59:59")
    show_champion(found, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == found


def test_the_leading_score_is_shown_with_its_interval() -> None:
    assert shown_score(METRICS) == "accuracy 0.9123 (0.9000 to 0.9200)"
    assert shown_score({"loss": 0.25}) == "loss 0.2500"
    assert shown_score({}) == ""


@pytest.mark.slow
def test_what_a_real_registry_knows_is_listed_newest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert all_models(tracking_uri=uri) == []
    store = Store(uri)
    tags = [
        {"verdict": "promoted", "recurra.metrics": json.dumps(METRICS)},
        {"verdict": "kept", "recurra.reasons": '["A tie."]'},
    ]
    for name in ("lines", "empty"):
        store.call(lambda client, name=name: client.create_registered_model(name))
    for each in tags:
        store.call(lambda client, each=each: client.create_model_version("lines", str(tmp_path), tags=each))
    with Aliases(Registry(store), "lines", tmp_path / "runs" / "lines").held() as turn:
        turn.move(Change("champion", None, 1, "It is the first.", "r"))
    known = models("lines", storage=tmp_path / "runs", tracking_uri=uri)
    show_models(known, console=Console())
    table, _, promotions = capsys.readouterr().out.partition("Promotions")
    rows = [line.split() for line in table.splitlines() if line[:1].isdecimal()]
    assert [row[0] for row in rows] == ["2", "1"]
    assert rows[0][1] == "kept"
    assert rows[1][1:-2] == ["@champion", "promoted", "accuracy", "0.9123", "(0.9000", "to", "0.9200)"]
    assert "@champion  -     1" in promotions
    assert "It is the first." in promotions
    found = all_models(tracking_uri=uri)
    assert [(model["name"], model["versions"]) for model in found] == [("empty", 0), ("lines", 2)]
    show_all(found, console=Console())
    assert "lines  2         1         accuracy 0.9123" in capsys.readouterr().out
    show_all(found, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == {"models": found}
