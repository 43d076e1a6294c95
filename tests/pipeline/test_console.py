"""What reaches the terminal: results on stdout, the rest on stderr, nothing that data could drive."""

import json
import re
import time

import pytest

from pipeline import console as module
from pipeline.console import Console, clean, with_interval


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


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the output pass for a terminal."""
    for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TERM", "xterm"), ("COLUMNS", "60")):
        monkeypatch.setenv(name, value)


def screen(written: str) -> list[str]:
    """The lines that a terminal shows in the end: what was written and not erased."""
    lines, row = [""], 0
    for code, text in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|([^\x1b]+)", written):
        if code == "1A":
            row -= 1
        elif code == "2K":
            lines[row] = ""
        for piece in re.split(r"(\n)", text.replace("\r", "")):
            if piece == "\n":
                row += 1
                lines += [""] if row == len(lines) else []
            else:
                lines[row] += piece
    return [line.rstrip() for line in lines if line.strip()]


def test_a_table_that_changes_is_nothing_on_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with Console().live_table() as table:
        assert not table.is_due()
        table.show(["trial"], [[0]])
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("terminal")
def test_a_table_that_changes_is_nothing_where_it_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with Console(level=-1).live_table() as table:
        assert not table.is_due()
        table.show(["trial"], [[0]])
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_the_last_table_stands_below_the_notes_and_is_gone_afterwards(
    capfd: pytest.CaptureFixture[str],
) -> None:
    console, written = Console(), ""
    with console.live_table() as table:
        table.show(["trial", "loss"], [[0, "0.9000"], [1, "[x]\x1b[2J"]])
        console.note("trial 0: finished")
        table.show(["trial", "loss"], [[7, "0.1000"]])
        written += capfd.readouterr().err
        assert screen(written) == ["trial 0: finished", "trial  loss", "7      0.1000"]
    written += capfd.readouterr().err
    assert screen(written) == ["trial 0: finished"]
    assert "[x]\\x1b[2J" in written


@pytest.mark.usefixtures("terminal")
def test_a_table_is_due_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with Console().live_table() as table:
        assert table.is_due()
        table.show(["trial"], [[0]])
        assert not table.is_due()
        monkeypatch.setattr(module, "LIVE_SECONDS", 0.0)
        assert table.is_due()


def test_a_score_is_shown_with_its_interval_where_there_is_one() -> None:
    assert with_interval("loss", {"loss": 0.5}) == "loss 0.5000"
    bounds = {"loss": 0.5, "loss_low": 0.25, "loss_high": 0.75}
    assert with_interval("loss", bounds) == "loss 0.5000 (0.2500 to 0.7500)"
