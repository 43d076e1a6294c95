"""Mistakes with their places, in order and in words."""

import pickle

from conf.mistakes import NUM_SHOWN, Mistakes, Place, Problem, SettingsError, dotted


def test_mistakes_come_in_the_order_of_files_lines_and_options() -> None:
    mistakes = Mistakes()
    mistakes.add(Place(2, 0, "--set a=1"), ("a",), "third")
    mistakes.add(Place(1, 2, "a.yaml"), ("b",), "second")
    mistakes.add(Place(0, 10, "z.yaml"), ("c",), "first")
    mistakes.add(Place(0, 9, "z.yaml"), ("d",), "before")
    assert [problem.message for problem in mistakes.problems()] == ["before", "first", "second", "third"]


def test_a_problem_reads_as_place_key_message_and_hint() -> None:
    assert str(Problem("a.yaml:3", "train.epochs", "is missing", "How often")) == (
        "a.yaml:3: train.epochs: is missing (How often)"
    )
    assert str(Problem("a.yaml", "", "is empty")) == "a.yaml: is empty"


def test_an_error_counts_its_problems_and_cuts_a_long_list() -> None:
    one = Problem("a.yaml:1", "x", "is missing")
    assert str(SettingsError([one])).startswith("The settings have a mistake:\n  a.yaml:1: x")
    lines = str(SettingsError([one] * 1_060)).splitlines()
    assert lines[0] == "The settings have 1,060 mistakes:"
    assert len(lines) == NUM_SHOWN + 2
    assert lines[-1] == "  and 1,010 more"


def test_control_characters_are_escaped_and_long_lines_cut() -> None:
    assert str(Problem("a.yaml:1", "tr\x1b[31m", "is\nnothing")) == "a.yaml:1: tr\\x1b[31m: is\\nnothing"
    assert len(str(Problem("a.yaml:1", "x" * 10_000, "is long"))) < 1_000


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(SettingsError([Problem("a.yaml:1", "x", "is missing")])))
    assert isinstance(error, SettingsError)
    assert error.exit_code == 2
    assert error.problems[0].key == "x"


def test_keys_are_written_with_dots() -> None:
    assert dotted(("data", "inputs", 0, "scale")) == "data.inputs.0.scale"
    assert dotted(()) == ""
