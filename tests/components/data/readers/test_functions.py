"""Readers of the user's own, in a real module."""

from pathlib import Path

import pytest

from components.data.readers.functions import BATCH_ROWS, rows
from components.data.readers.sources import TEXT, Wanted
from components.errors import DataError, ModelError

MODULE = """
import pyarrow as pa

BATCH = pa.record_batch({"id": ["c"], "x": [[3.0]]})

def dicts(path):
    yield {"id": path, "x": [1.0]}
    yield {"x": [2.0, 3.0], "note": True}

def many(path):
    return ({"n": i} for i in range(2500))

def mixed(path):
    return [{"id": "a"}, {"id": "b"}, BATCH, pa.table(BATCH.to_pydict()), {"id": "d"}]

def table(path):
    return pa.table({"id": ["a", "b"], "recurra.line": [1, 2], "x": [[1.0], [2.0]]})

def numbers(path):
    yield {"id": "a"}
    yield 7

def failing(path):
    yield {"id": "a"}
    raise KeyError("frames")

def odd(path):
    yield {"x": [1.0, "b"]}

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reader_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def read(function: str, wanted: Wanted = Wanted()) -> list[list[dict]]:  # noqa: B008
    return [batch.to_pylist() for batch in rows(f"reader_of_mine:{function}", "/a.bin", "a.bin", wanted)]


def test_dicts_are_rows_and_what_one_lacks_is_null():
    assert read("dicts") == [
        [{"id": "/a.bin", "x": [1.0], "note": None}, {"id": None, "x": [2.0, 3.0], "note": True}]
    ]


def test_dicts_are_handed_on_in_batches():
    found = read("many")
    assert [len(batch) for batch in found] == [BATCH_ROWS, BATCH_ROWS, 2500 - 2 * BATCH_ROWS]
    assert [row["n"] for batch in found for row in batch] == list(range(2500))


def test_dicts_batches_and_tables_keep_their_order():
    third = {"id": "c", "x": [3.0]}
    assert read("mixed") == [[{"id": "a"}, {"id": "b"}], [third], [third], [{"id": "d"}]]


def test_only_wanted_columns_are_kept_and_none_that_are_named_as_ours():
    assert read("table") == [[{"id": "a", "x": [1.0]}, {"id": "b", "x": [2.0]}]]
    assert read("table", Wanted({"id": TEXT})) == [[{"id": "a"}, {"id": "b"}]]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("numbers", "TypeError: it gave a int, expected dicts, record batches or tables"),
        ("failing", "KeyError: 'frames'"),
        ("odd", "ArrowInvalid"),
    ],
)
def test_what_a_function_raises_is_a_problem_of_the_file(function: str, said: str):
    with pytest.raises(DataError) as caught:
        read(function)
    (problem,) = caught.value.problems
    assert problem.file == "a.bin"
    assert problem.message.startswith(f"the reader reader_of_mine:{function} failed: {said}")


@pytest.mark.parametrize("name", ["reader_of_mine:dict", "reader_of_mine:number", "no_such_module:dicts"])
def test_a_function_that_is_not_there_is_told_apart(name: str):
    with pytest.raises(ModelError, match="reader"):
        list(rows(name, "/a.bin", "a.bin", Wanted()))
