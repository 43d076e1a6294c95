"""JSON Lines: text exactly as it is written, numbers as floats, a bad line is one row's fault."""

import io
import json
import math
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.readers import jsonl
from components.data.readers.sources import FAULT, LINE, NUMBERS, OWN, TEXT, TEXTS, Wanted
from components.errors import DataError


def batches(content: bytes | str, **kinds: str) -> list[pa.RecordBatch]:
    data = content.encode() if isinstance(content, str) else content
    return list(jsonl.rows(io.BytesIO(data), "f.jsonl", Wanted(kinds)))


def read(content: bytes | str, **kinds: str) -> list[dict[str, Any]]:
    return [row for batch in batches(content, **kinds) for row in batch.to_pylist()]


def values(content: bytes | str, **kinds: str) -> list[dict[str, Any]]:
    """The rows without our own columns; none is at fault."""
    found = read(content, **kinds)
    assert [row[FAULT] for row in found] == [None] * len(found)
    return [{key: value for key, value in row.items() if key not in OWN} for row in found]


def column(content: bytes | str, name: str, **kinds: str) -> list[Any]:
    return [row[name] for row in read(content, **kinds)]


def faults(content: bytes | str, **kinds: str) -> list[tuple[int, str, int | None, str]]:
    found = [row[FAULT] for row in read(content, **kinds) if row[FAULT]]
    return [(fault["line"], fault["column"], fault["step"], fault["message"]) for fault in found]


def problem(content: bytes | str, **kinds: str) -> str:
    with pytest.raises(DataError) as caught:
        read(content, **kinds)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('"001"', "001"),
        ("1", "1"),
        ("-0", "-0"),
        ("0", "0"),
        ("18446744073709551616", "18446744073709551616"),
        ("9" * 5000, "9" * 5000),
        ("1.10", "1.10"),
        ("-0.0", "-0.0"),
        ("1E5", "1E5"),
        ("1e400", "1e400"),
        ("NaN", "NaN"),
        ("true", "true"),
        ("false", "false"),
        ("null", None),
        ('""', ""),
        ('" a\\n\\u00e9 "', " a\né "),
        ('"2024-01-01"', "2024-01-01"),
    ],
)
def test_text_is_as_it_is_written(written, expected):
    content = f'{{"id": "x", "y": {written}}}\n{{"id": "z", "y": "a"}}\n'
    assert column(content, "y", y=TEXT) == [expected, "a"]
    assert column(content, "y") == [expected, "a"]
    assert column(f'{{"y": ["b", {written}]}}', "y", y=TEXTS) == [["b", expected]]
    assert column(f'{{"y": ["b", {written}]}}', "y") == [["b", expected]]


def test_mixed_labels_are_read_as_text():
    assert column('{"y": 1}\n{"y": "a"}\n{"y": true}\n{}\n', "y", y=TEXT) == ["1", "a", "true", None]


@pytest.mark.parametrize(
    ("written", "kind", "step", "message"),
    [
        ("[1]", TEXT, None, "received a list, expected one value"),
        ('{"a": 1}', TEXT, None, "received an object, expected one value"),
        ('"\\ud800"', TEXT, None, "received '\\ud800', which holds half of a surrogate pair"),
        ('{"a": 1}', TEXTS, None, "received an object, expected a list"),
        ('["a", ["b"]]', TEXTS, 1, "received a list, expected one value"),
        ('["a", "\\udc00"]', TEXTS, 1, "received '\\udc00', which holds half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_the_rows_fault(written, kind, step, message):
    content = f'{{"id": 1, "y": {written}}}\n{{"id": 2}}'
    assert faults(content, id=TEXT, y=kind) == [(1, "y", step, message)]
    assert column(content, "y", id=TEXT, y=kind) == [None, None]
    assert column(content, "id", id=TEXT, y=kind) == ["1", "2"]


# Numbers


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[1, 2.5]", [1.0, 2.5]),
        ("[1, null]", [1.0, None]),
        ("[]", []),
        ("null", None),
        ("[[1, 2], [3, null], null]", [[1.0, 2.0], [3.0, None], None]),
        ("[Infinity, -Infinity, 1e400]", [math.inf, -math.inf, math.inf]),
        ("[9007199254740993]", [9007199254740992.0]),
        (f"[{'9' * 400}, -{'9' * 400}]", [math.inf, -math.inf]),
        (f"[{'9' * 5000}]", [math.inf]),
        ("[null, null]", [None, None]),
    ],
)
def test_numbers(written, expected):
    content = f'{{"x": {written}}}\n{{"z": 1}}\n'
    assert column(content, "x", x=NUMBERS) == [expected, None]
    assert column(content, "x") == [expected, None]


def test_not_a_number_is_a_number_here():
    assert math.isnan(column('{"x": [NaN]}', "x", x=NUMBERS)[0][0])
    assert math.isnan(column('{"x": [[1, NaN]]}', "x", x=NUMBERS)[0][0][1])


def test_types_of_numbers():
    for written, depth in [("[1]", pa.list_(pa.float64())), ("[[1]]", pa.list_(pa.list_(pa.float64())))]:
        (batch,) = batches(f'{{"x": {written}}}\n{{"x": []}}', x=NUMBERS)
        assert batch.schema.field("x").type == depth


@pytest.mark.parametrize(
    ("written", "step", "message"),
    [
        ('[1, "2"]', 1, "received '2', expected a number"),
        ("[1, true]", 1, "received true, expected a number"),
        ("[1, 2, [3]]", 2, "received a list, expected a number"),
        ("[{}]", 0, "received an object, expected a number"),
        ('"1 2"', None, "received '1 2', expected a list of numbers"),
        ("5", None, "received 5, expected a list of numbers"),
        ("{}", None, "received an object, expected a list of numbers"),
        (f'["{"a" * 100}"]', 0, "received '" + "a" * 39 + "…, expected a number"),
    ],
)
def test_what_is_no_list_of_numbers_is_the_rows_fault(written, step, message):
    content = f'{{"x": [1]}}\n{{"x": {written}, "id": 7}}\n{{"x": [2]}}\n'
    assert faults(content, x=NUMBERS) == [(2, "x", step, message)]
    assert column(content, "x", x=NUMBERS) == [[1], None, [2]]


@pytest.mark.parametrize(
    ("written", "step", "message"),
    [
        ("[1, [2]]", 0, "received a number, expected a list of features"),
        ("[[1], 2]", 1, "received a number, expected a list of features"),
        ('[[1, "a"]]', 0, "feature 1: received 'a', expected a number"),
        ("[[1], [false]]", 1, "feature 0: received false, expected a number"),
        ("[[[1]]]", 0, "feature 0: received a list, expected a number"),
        ('["a"]', 0, "received 'a', expected a list of features"),
    ],
)
def test_what_is_no_list_of_features_is_the_rows_fault(written, step, message):
    content = f'{{"x": []}}\n{{"x": [[1, 2]]}}\n{{"x": {written}}}\n'
    assert faults(content, x=NUMBERS) == [(3, "x", step, message)]
    assert column(content, "x", x=NUMBERS) == [[], [[1, 2]], None]


def test_the_depth_of_the_first_row_that_has_one_holds_for_the_whole_file(monkeypatch):
    monkeypatch.setattr(jsonl, "BATCH_ROWS", 2)
    content = '{"x": []}\n{"x": ["a"]}\n{"x": [null, [1]]}\n{}\n{"x": [2]}\n{"x": [[3]]}\n'
    assert len(batches(content, x=NUMBERS)) == 3
    assert column(content, "x", x=NUMBERS) == [[], None, [None, [1]], None, None, [[3]]]
    assert faults(content, x=NUMBERS) == [
        (2, "x", 0, "received 'a', expected a number"),
        (5, "x", 0, "received a number, expected a list of features"),
    ]


def test_a_row_has_its_first_fault_only():
    assert faults('{"x": ["a"], "y": [1]}', x=NUMBERS, y=TEXT) == [
        (1, "x", 0, "received 'a', expected a number")
    ]


# Lines


def test_blank_lines_are_counted_and_passed_over_and_the_last_needs_no_end():
    content = '\n{"id": 1}\n  \n\r\n{"id": 2}\r\n\t\n{"id": 3}'
    assert column(content, LINE) == [2, 5, 7]
    assert column(content, "id") == ["1", "2", "3"]
    assert column('{"id": 1}\r\r{"id": 2}\r', LINE) == [1, 3]


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert values(b'\xef\xbb\xbf{"id": 1}') == [{"id": "1"}]


def test_another_encoding_is_refused_with_its_first_byte():
    assert "byte 14 (0xe9) is not UTF-8" in problem(b'{"label": "caf\xe9"}')
    assert "UTF-16" in problem('{"label": "a"}'.encode("utf-16"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1 "x": 2}', "not JSON: Expecting ',' delimiter (column 10)"),
        ('{"id": 007}', "not JSON: Expecting ',' delimiter (column 9)"),
        ("{'id': 1}", "not JSON: Expecting property name enclosed in double quotes (column 2)"),
        ('{"id": 1}{"id": 2}', "not JSON: Extra data (column 10)"),
        ('{"id": 1', "not JSON: Expecting ',' delimiter (column 9)"),
        ('{"id": 1, "x": 2, "id": 3}', "the key 'id' is there twice in one object"),
        ('{"id": {"a": 1, "a": 2}}', "the key 'a' is there twice in one object"),
        ("[1, 2]", "received a list, expected an object"),
        ("5", "received 5, expected an object"),
        ("null", "received null, expected an object"),
        ('"' + "a" * 10 + '"', "received 'aaaaaaaaaa', expected an object"),
        ('{"id": ' + "[" * 100_000, "not read: nested too deeply"),
    ],
)
def test_a_bad_line_is_its_rows_fault(line, message):
    content = f'{{"id": 1}}\n\n{line}\n{{"id": 4}}\n'
    assert faults(content) == faults(content, id=TEXT) == [(3, "", None, message)]
    assert column(content, "id") == ["1", None, "4"]


@pytest.mark.parametrize("line", ['{"id": 1', '{"id": 1, "id": 2}', "{", "5", '{"id": 1},'])
def test_a_bad_first_line_is_a_fault_too(line):
    content = f'{line}\n{{"id": 2}}\n{{"id": 3}}\n'
    assert [fault[0] for fault in faults(content)] == [1]
    assert column(content, "id") == [None, "2", "3"]


def test_a_file_of_bad_lines_only_is_all_faults():
    assert [fault[0] for fault in faults('{"id": 1\n{"id": 2\n\n{"id": 3')] == [1, 2, 4]
    assert [fault[0] for fault in faults("{oops")] == [1]


@pytest.mark.parametrize("content", ['[{"id": 1}]', '[\n{"id": 1},\n{"id": 2}\n]\n', "\n\n [1, 2]\n", "["])
def test_an_array_is_not_json_lines(content):
    message = "not JSON Lines: the file is one JSON array; write one object per line"
    assert message in problem(content)


@pytest.mark.parametrize("indent", [1, 2, 4])
def test_an_object_over_several_lines_is_not_json_lines(indent):
    content = json.dumps({"id": 1, "x": [[1, 2]], "y": {"z": []}}, indent=indent)
    message = "not JSON Lines: the file is one JSON object over several lines; write one object per line"
    assert message in problem(content)
    assert message in problem(content + "\n" + content)
    assert message in problem('{"rows": [\n{"id": 1},\n{"id": 2}\n]}\n')


def test_a_long_file_whose_first_two_lines_are_bad_is_still_read(monkeypatch):
    monkeypatch.setattr(jsonl, "DOCUMENT_CHARS", 20)
    content = '{"id": \n"oops\n' + '{"id": 3}\n' * 10
    assert [fault[0] for fault in faults(content)] == [1, 2]
    assert column(content, "id") == [None, None] + ["3"] * 10


@pytest.mark.parametrize("content", ["", "\n", " \r\n\t", "\ufeff"])
def test_an_empty_file_has_no_rows(content):
    assert "f.jsonl: no rows: the file is empty" in problem(content)


# Columns and batches


def test_only_wanted_columns_are_read_and_absent_ones_left_out():
    assert values('{"id": 1, "x": [1]}\n{"id": 2, "y": "a"}', id=TEXT, y=TEXT, z=TEXT) == [
        {"id": "1", "y": None},
        {"id": "2", "y": "a"},
    ]


def test_inspection_reads_every_key_by_what_it_holds(monkeypatch):
    monkeypatch.setattr(jsonl, "BATCH_ROWS", 2)
    content = (
        '{"id": 1, "x": [], "y": null}\n{"id": "b", "x": [[1, 2]], "w": ["a", 1]}\n'
        '{"id": true, "x": [[3, 4]], "y": 1.50}\n{"late": [1]}\n'
    )
    first, second = batches(content)
    assert first.schema.names == ["id", "x", "y", "w", LINE, FAULT]
    assert first.schema.field("x").type == pa.list_(pa.list_(pa.float64()))
    assert pa.types.is_null(first.schema.field("y").type)
    assert first["w"].to_pylist() == [None, ["a", "1"]]
    assert second.schema.names == ["id", "x", "y", "late", LINE, FAULT]
    assert second["y"].to_pylist() == ["1.50", None]
    assert second["late"].to_pylist() == [None, [1]]


def test_a_key_that_is_no_text_is_a_fault_where_all_keys_are_read():
    content = '{"\\ud800": 1, "id": 1}\n{"id": 2}\n'
    assert faults(content) == [(1, "", None, "the key '\\ud800' holds half of a surrogate pair")]
    assert values(content, id=TEXT) == [{"id": "1"}, {"id": "2"}]


def test_a_key_named_as_one_of_our_columns_is_refused_if_it_would_be_read():
    content = '{"recurra.line": 1, "id": 1}'
    assert "a column is named recurra.line" in problem(content)
    assert values(content, id=TEXT) == [{"id": "1"}]


def test_batches_are_bounded_by_rows_and_by_text(monkeypatch):
    content = "".join(f'{{"id": {number}}}\n' for number in range(10, 30))
    monkeypatch.setattr(jsonl, "BATCH_ROWS", 7)
    assert [batch.num_rows for batch in batches(content)] == [7, 7, 6]
    monkeypatch.setattr(jsonl, "BATCH_CHARS", 30)
    assert [batch.num_rows for batch in batches(content)] == [3, 3, 3, 3, 3, 3, 2]


def test_two_lines_of_200_000_numbers_load_quickly():
    long = [number / 7 for number in range(200_000)]
    content = "".join(json.dumps({"id": row, "x": long}) + "\n" for row in range(2))
    began = time.monotonic()
    (batch,) = batches(content, id=TEXT, x=NUMBERS)
    assert time.monotonic() - began < 10
    assert [len(value) for value in batch["x"]] == [200_000] * 2
    np.testing.assert_array_equal(batch["x"][1].values.to_numpy(), long)


# Promises


TEXTUAL = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FLOATS = st.floats(allow_nan=False)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.none(), TEXTUAL),
        "words": st.lists(st.one_of(st.none(), TEXTUAL), max_size=4),
        "x": st.lists(st.one_of(st.none(), FLOATS), max_size=4),
        "xx": st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), FLOATS), max_size=3)), max_size=3),
    },
)
KINDS = {"id": TEXT, "words": TEXTS, "x": NUMBERS, "xx": NUMBERS}


@settings(deadline=None, max_examples=100)
@given(st.lists(ROWS, min_size=1, max_size=6), st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_rows_that_python_writes_are_read_back(table, ascii_only, end):
    content = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "BATCH_ROWS", 2)
        found = values(content, **KINDS)
    expected = [{key: row.get(key) for key in KINDS} for row in table]
    assert [{key: row.get(key) for key in KINDS} for row in found] == expected


PIECES = [b'{"a":', b"}", b"[", b"]", b",", b'"b"', b"1.10", b"true", b"null", b"\n", b"\r", b"NaN", b"\xff"]
ODD_BYTES = st.lists(
    st.sampled_from([*PIECES, b'"\\ud800"', b":", b'{"a":1}\n', b'{"a":[1]}\n', b'{"a":"b"}\n']), max_size=20
).map(b"".join)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(ODD_BYTES, st.binary(max_size=60)),
    st.sampled_from([{}, *({"a": kind} for kind in ["t", "T", "N"])]),
)
def test_any_bytes_end_in_rows_or_in_a_data_error(content, kinds):
    names = {"t": TEXT, "T": TEXTS, "N": NUMBERS}
    try:
        found = read(content, **{column: names[kind] for column, kind in kinds.items()})
    except DataError:
        return
    places = [row[LINE] for row in found]
    assert found and places == sorted(set(places))
