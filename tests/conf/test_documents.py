"""YAML 1.2, with places, and nothing that could surprise."""

import math
import time
from typing import Any

import pytest

from conf.documents import Entry, plain, read, resolve
from conf.mistakes import Mistakes, Place

START = Place(0, 1, "conf.yaml")


def parse(text: str) -> tuple[Entry | None, list[str]]:
    mistakes = Mistakes()
    entry = read(text, START, mistakes)
    return entry, [str(problem) for problem in mistakes.problems()]


def value(text: str) -> Any:
    entry, mistakes = parse(text)
    assert entry is not None
    assert not mistakes
    return plain(entry)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.10", 1.1),
        ("-7", -7),
        ("0", 0),
        ("0o17", 15),
        ("0xff", 255),
        ("18446744073709551615", 18446744073709551615),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("NO", "NO"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("0b1", "0b1"),
        ("=", "="),
        ("1e", "1e"),
        (".", "."),
        ("nan", "nan"),
        ("tRue", "tRue"),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, meant: object) -> None:
    found = resolve(text)
    assert found == meant
    assert type(found) is type(meant)


def test_not_a_number_is_read_as_such_for_the_schema_to_refuse() -> None:
    assert math.isnan(resolve(".nan"))


def test_quotes_make_text_of_anything() -> None:
    assert value("""{a: "010", b: '1e-3', c: "null", d: 'true'}""") == {
        "a": "010",
        "b": "1e-3",
        "c": "null",
        "d": "true",
    }


def test_keys_stay_text() -> None:
    assert value("NO: 1\n1: 2\n007: 3\ntrue: 4\n") == {"NO": 1, "1": 2, "007": 3, "true": 4}


def test_every_value_knows_its_line() -> None:
    entry, _ = parse("# first\na:\n  b: [1,\n    2]\n")
    assert entry is not None
    a = entry.child("a")
    assert a is not None
    b = a.child("b")
    assert b is not None
    second = b.child(1)
    assert second is not None
    assert [str(each.place) for each in (a, b, second)] == ["conf.yaml:2", "conf.yaml:3", "conf.yaml:4"]
    assert b.child(2) is None
    assert second.child("x") is None


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_is_null(text: str) -> None:
    assert value(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 010\n", "conf.yaml:1: a: 010 could mean two numbers (write 10, or '010' for text)"),
        ("a: -007\n", "conf.yaml:1: a: -007 could mean two numbers (write -7, or '-007' for text)"),
        ("a: 1\nb: 2\na: 3\n", "conf.yaml:3: a: stands twice, first in line 1"),
        ("a:\n  b: 1\n  b: 1\n", "conf.yaml:3: a.b: stands twice, first in line 2"),
        ("a: {b: 1, b: 2}\n", "conf.yaml:1: a.b: stands twice, first in line 1"),
        ("a: !!str 1\n", "conf.yaml:1: a: has the tag"),
        ("a: !!python/object/apply:os.system [x]\n", "conf.yaml:1: a: has the tag"),
        ("a: !env SECRET\n", "conf.yaml:1: a: has the tag !env"),
        ("!!map {a: 1}\n", "conf.yaml:1: has the tag"),
        ("a: &x 1\n", "conf.yaml:1: a: has the anchor &x"),
        ("? [a]\n: 1\n", "conf.yaml:1: has a key that is not plain text"),
        ('a: "\\0"\n', "conf.yaml:1: a: holds the character U+0000"),
        ('a: "\\ud800"\n', "conf.yaml:1: a: holds the character U+D800"),
        ('"a\\e": 1\n', "conf.yaml:1: a\\x1b: holds the character U+001B"),
        ("a: " + "9" * 5_000, "conf.yaml:1: a: is a number of 5000 digits"),
        ("%YAML 1.1\n---\na: NO\n", "conf.yaml:2: is YAML 1.1, expected 1.2"),
        ("a: 1\n---\nb: 2\n", "conf.yaml:2: holds a second document, expected one"),
        ("a: [1,\n", "conf.yaml:2: is not YAML"),
        ("a: b: c\n", "conf.yaml:1: is not YAML"),
        ("\ta: 1\n", "conf.yaml:1: is not YAML"),
        ("a: 1\nb: '\x01'\n", "conf.yaml:2: is not YAML"),
        ("a: *nowhere\n", "conf.yaml:1: a: is the alias *nowhere"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, said: str) -> None:
    _, mistakes = parse(text)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(said)


def test_a_document_that_grows_by_its_aliases_is_never_built() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    started = time.perf_counter()
    _, mistakes = parse("\n".join(lines))
    assert time.perf_counter() - started < 5
    assert len(mistakes) == 12 + 9 * 11


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[\n"])
def test_deep_nesting_is_refused_at_once(opening: str) -> None:
    started = time.perf_counter()
    entry, mistakes = parse(opening * 60_000)
    assert time.perf_counter() - started < 5
    assert entry is None
    assert mistakes[-1].endswith("is nested more than 20 levels deep")


def test_where_lines_do_not_matter_only_the_source_is_named() -> None:
    mistakes = Mistakes()
    entry = read("{a: 1, a: 2}", Place(3, 0, "--set x={a: 1, a: 2}"), mistakes, at=("x",))
    assert entry is not None
    assert [str(problem) for problem in mistakes.problems()] == ["--set x={a: 1, a: 2}: x.a: stands twice"]
