"""What reaches the terminal: results on stdout, the rest on stderr, nothing that data could drive."""

import json
import time

import pytest

from pipeline import console as module
from pipeline.console import Console, clean


def test_results_go_to_stdout_and_notes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.note("working [bold]hard[/bold]")
    console.result("done [1]")
    out, err = capfd.readouterr()
    assert out == "done [1]\n"
    assert err == "working [bold]hard[/bold]\n"


def test_json_is_the_only_thing_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.note("working")
    console.result("text", {"verdict": "promoted", "name": "é"})
    out, _ = capfd.readouterr()
    assert json.loads(out) == {"verdict": "promoted", "name": "é"}


def test_quiet_keeps_errors_and_warnings_only(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console(level=-1)
    console.note("note")
    console.detail("detail")
    console.table("", ["a"], [[1]], err=True)
    console.warn("careful")
    console.error("broken", "mend it")
    _, err = capfd.readouterr()
    assert err == "Warning: careful\nError: broken\n\nHint: mend it\n"


def test_verbose_shows_details(capfd: pytest.CaptureFixture[str]) -> None:
    Console().detail("hidden")
    Console(level=1).detail("shown")
    assert capfd.readouterr().err == "shown\n"


def test_control_characters_in_data_are_made_visible(capfd: pytest.CaptureFixture[str]) -> None:
    Console().error("label \x1b[2J\x07 of [red]row[/red]")
    assert capfd.readouterr().err == "Error: label \\x1b[2J\\x07 of [red]row[/red]\n"
    assert clean("two\nlines\tand tabs") == "two\nlines\tand tabs"


def test_off_a_terminal_progress_is_a_plain_line_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAIN_LINE_SECONDS", 0.01)
    with Console().progress("train", total=100, unit="steps") as bar:
        bar.advance(10)
        time.sleep(0.02)
        bar.at(50, loss=0.123456)
    err = capfd.readouterr().err
    assert "train:  50% 50 steps" in err
    assert "left" in err
    assert "loss 0.1235" in err


def test_a_table_shows_every_cell(capfd: pytest.CaptureFixture[str]) -> None:
    Console().table("Versions", ["version", "alias"], [[1, "champion"], [2, "[x]"]])
    out = capfd.readouterr().out
    for word in ("Versions", "version", "alias", "1", "champion", "2", "[x]"):
        assert word in out
