"""CSV and TSV: text stays as it is written, every row keeps its line, and nothing is lost in silence."""

import csv as python_csv
import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.readers import csv
from components.data.readers.sources import FAULT, LINE, NUMBERS, OWN, TEXT, TEXTS, Wanted
from components.errors import DataError


def read(content: bytes | str, *, rows=csv.rows, names=None, **kinds: str) -> list[dict[str, Any]]:
    data = content.encode() if isinstance(content, str) else content
    batches = list(rows(io.BytesIO(data), "f.csv", Wanted(kinds, names)))
    return [row for batch in batches for row in batch.to_pylist()]


def values(content: bytes | str, **options: Any) -> list[dict[str, Any]]:
    """The rows without our own columns; none is at fault."""
    found = read(content, **options)
    assert [row[FAULT] for row in found] == [None] * len(found)
    return [{key: value for key, value in row.items() if key not in OWN} for row in found]


def column(content: bytes | str, name: str, **options: Any) -> list[Any]:
    return [row[name] for row in read(content, **options)]


def lines(content: bytes | str, **options: Any) -> list[int]:
    return column(content, LINE, **options)


def faults(content: bytes | str, **options: Any) -> list[tuple[int, str, int | None, str]]:
    found = [row[FAULT] for row in read(content, **options) if row[FAULT]]
    return [(fault["line"], fault["column"], fault["step"], fault["message"]) for fault in found]


def problem(content: bytes | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(content, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(csv, "BLOCK_BYTES", 16)
    monkeypatch.setattr(csv, "HEAD_BYTES", 16)


# Text


def test_text_that_looks_like_something_else_stays_as_it_is_written():
    content = "id,label,x\n001,007,1\n1,7,2\n9007199254740993,true,3\n18446744073709551615,2020-01-01,1.10\n"
    assert values(content) == [
        {"id": "001", "label": "007", "x": "1"},
        {"id": "1", "label": "7", "x": "2"},
        {"id": "9007199254740993", "label": "true", "x": "3"},
        {"id": "18446744073709551615", "label": "2020-01-01", "x": "1.10"},
    ]


def test_words_for_nothing_and_white_space_are_text():
    cells = ["NA", "null", "NULL", "None", "nan", " x ", "\u00a0", "#N/A", "-"]
    assert column("a,b\n" + "".join(f"{cell},1\n" for cell in cells), "a") == cells


def test_an_empty_cell_is_null_and_a_quoted_one_is_empty_text():
    assert values('a,b\n,""\n"",\n') == [{"a": None, "b": ""}, {"a": "", "b": None}]


def test_quotation_marks_delimiters_and_line_ends_inside_quoted_cells_are_content():
    content = 'a,b\n"1,5","say ""hi"""\n"two\r\nlines","x\n\ny"\n'
    assert values(content) == [{"a": "1,5", "b": 'say "hi"'}, {"a": "two\r\nlines", "b": "x\n\ny"}]


def test_a_quotation_mark_inside_an_unquoted_cell_is_content():
    content = 'size,b\n5" tall,1\nx"y,"2,""3"\n6",4\n'
    assert values(content) == [
        {"size": '5" tall', "b": "1"},
        {"size": 'x"y', "b": '2,"3'},
        {"size": '6"', "b": "4"},
    ]
    assert lines(content) == [2, 3, 4]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_all_kinds_read_alike(end, last):
    content = end.join(["id,label", "1,a", "", "2,é", *([""] if last else [])])
    assert values(content) == [{"id": "1", "label": "a"}, {"id": "2", "label": "é"}]
    assert lines(content) == [2, 4]


# Delimiters and headers


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_header(delimiter):
    content = "\n".join(delimiter.join(row) for row in [["id", '"x,;|y"', "z"], ["1", "2,5", "a b"]])
    if delimiter == ",":
        content = content.replace("2,5", '"2,5"')
    assert values(content) == [{"id": "1", "x,;|y": "2,5", "z": "a b"}]


def test_the_comma_wins_a_tie():
    assert values("a,b;c\n1,2;3\n") == [{"a": "1", "b;c": "2;3"}]


def test_a_tsv_file_is_parted_by_tabs_only():
    assert values("a,b,c\td\n1,2\t3\n", rows=csv.tsv_rows) == [{"a,b,c": "1,2", "d": "3"}]


def test_given_names_make_the_first_line_a_row_and_can_skip_columns():
    assert values("1,2,3\n4,5,6\n", names=("id", "_", "x")) == [{"id": "1", "x": "3"}, {"id": "4", "x": "6"}]
    assert lines("1,2,3\n4,5,6\n", names=("id", "_", "_")) == [1, 2]
    assert column("1,2,3\n", "b", names=("_", "b", "_")) == ["2"]


def test_a_column_of_a_header_may_be_named_as_the_mark_that_skips():
    assert values("_,a\n1,2\n") == [{"_": "1", "a": "2"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,x,id\n1,2,3\n", "f.csv, line 1: columns 1 and 3 are both named 'id'"),
        ("id,,x\n1,2,3\n", "f.csv, line 1: column 2 has no name"),
        ('\n\nid,""\n1,2\n', "f.csv, line 3: column 2 has no name"),
        ("id,recurra.line\n1,2\n", "f.csv, line 1: a column is named recurra.line"),
    ],
)
def test_a_header_that_names_no_clear_columns_is_refused(content, message):
    assert message in problem(content)


def test_columns_that_are_not_wanted_are_not_read_and_those_that_lack_are_absent():
    content = "id,x,y\n1,2,a\n"
    assert values(content, id=TEXT, y=TEXT, z=TEXT) == [{"id": "1", "y": "a"}]
    assert values(content, z=TEXT) == [{}]
    assert lines(content, z=TEXT) == [2]


def test_a_header_alone_gives_one_batch_without_rows():
    for content in (b"id,x,y\n", b"id,x,y", b"\n\nid,x,y\r\n\r\n"):
        batches = list(csv.rows(io.BytesIO(content), "f.csv", Wanted({"id": TEXT, "x": NUMBERS, "y": TEXTS})))
        assert [batch.num_rows for batch in batches] == [0]
        assert batches[0].schema.names == ["id", "x", "y", LINE, FAULT]
        assert pa.types.is_list(batches[0].schema.field("x").type)


@pytest.mark.parametrize("content", ["", "\n", " \r\n\t\n", "\r\r", "\ufeff", "\ufeff\n"])
@pytest.mark.parametrize("names", [None, ("a",), ("a", "b")])
def test_an_empty_file_has_no_rows(content, names):
    assert "f.csv: no rows: the file is empty" in problem(content, names=names)


# Encodings


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    assert values(b"\xef\xbb\xbfid,label\n1,a\n") == [{"id": "1", "label": "a"}]
    assert values(b'\xef\xbb\xbf"id",label\n1,a\n') == [{"id": "1", "label": "a"}]


def test_another_encoding_is_refused_with_its_first_byte():
    assert "byte 14 (0xe9) is not UTF-8" in problem(b"id,label\n1,caf\xe9\n")
    assert "byte 17 (0xe9)" in problem(b"\xef\xbb\xbfid,label\n1,caf\xe9\n")
    assert "UTF-16" in problem("id,label\n1,a\n".encode("utf-16"))
    assert "byte 1 is zero" in problem("id,label\n1,a\n".encode("utf-16-le"))
    assert "byte 11 (0xc3)" in problem(b"id,label\n1,\xc3")


def test_bytes_are_counted_and_characters_whole_across_blocks(small_blocks):
    content = "id,label\n" + "1,éé\n" * 50
    assert column(content, "label") == ["éé"] * 50
    size = len(content.encode())
    assert f"byte {size} (0xe9)" in problem(content.encode() + b"\xe9\n")


# Rows with another number of cells


@pytest.mark.parametrize("blocks", ["large", "small"])
@pytest.mark.parametrize("at", [0, 1, 25, 48, 49])
def test_a_row_with_another_number_of_cells_keeps_its_place(monkeypatch, blocks, at):
    if blocks == "small":
        monkeypatch.setattr(csv, "BLOCK_BYTES", 16)
        monkeypatch.setattr(csv, "HEAD_BYTES", 16)
    written = [f"{row},x,y" for row in range(50)]
    written[at] = "1,2"
    content = "id,a,b\n" + "\n".join(written)
    expected = [str(row) for row in range(50)]
    assert column(content, "id") == [*expected[:at], None, *expected[at + 1 :]]
    assert lines(content) == list(range(2, 52))
    assert faults(content) == [(at + 2, "", None, "2 cells, the header has 3")]


def test_rows_with_too_many_cells_or_one_are_faults_too():
    content = "id,a\n1,2,3\n4\n5,6\n,\n7\n"
    assert faults(content) == [
        (2, "", None, "3 cells, the header has 2"),
        (3, "", None, "1 cell, the header has 2"),
        (6, "", None, "1 cell, the header has 2"),
    ]
    assert column(content, "id") == [None, None, "5", None, None]
    assert faults("1,2\n3\n", names=("a", "b")) == [(2, "", None, "1 cell, names given: 2")]


def test_lines_of_white_space_are_blank_where_they_cannot_be_a_row():
    content = "a,b,c\n1,2,3\n  \n\n4,5\n\t\n6,7,8\n"
    assert column(content, "a") == ["1", None, "6"]
    assert lines(content) == [2, 5, 7]
    assert faults(content) == [(5, "", None, "2 cells, the header has 3")]
    assert column("a\n1\n  \n\n2\n", "a") == ["1", "  ", "2"]


def test_lines_count_blank_ones_and_those_in_quoted_cells(small_blocks):
    content = '\n"a\nb",c\n1,2\n\n\n"x\n\ny",3\n4,5\r\n"z\r\n",6\r7,8\n1\n'
    assert lines(content) == [4, 7, 10, 11, 13, 14]
    assert faults(content) == [(14, "", None, "1 cell, the header has 2")]


def test_a_quotation_mark_that_is_never_closed_is_refused_with_the_line_of_its_row(small_blocks):
    content = "a,b\n" + "1,2\n" * 20 + '3,"oops\n' + "4,5\n" * 20
    assert "f.csv, line 22: a quotation mark begins a cell and none ends it" in problem(content)


def test_a_row_that_is_too_long_is_taken_for_an_open_quotation(monkeypatch, small_blocks):
    monkeypatch.setattr(csv, "MAX_ROW_BYTES", 64)
    assert "line 3: a quotation mark begins a cell" in problem('a,b\n1,2\n3,"oops\n' + "4,5\n" * 100)


# Lists


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('"[1,2.5]"', [1.0, 2.5]),
        ("1 2.5", [1.0, 2.5]),
        ("1", [1.0]),
        ('" 1\t2 "', [1.0, 2.0]),
        ('"[1, null]"', [1.0, None]),
        ("[]", []),
        ("[ ]", []),
        ("", None),
        ('""', None),
        ('" "', None),
        ('"[[1,2],[3,4]]"', [[1.0, 2.0], [3.0, 4.0]]),
        ('"[[1,null],null]"', [[1.0, None], None]),
        ("[1e400]", [math.inf]),
        ('"[[-Infinity,-inf,+inf]]"', [[-math.inf, -math.inf, math.inf]]),
        ("inf -Infinity 1e400", [math.inf, -math.inf, math.inf]),
        ("[9007199254740993]", [9007199254740992.0]),
        (f"[{'9' * 5000}]", [math.inf]),
        (f"[[{'9' * 5000}]]", [[math.inf]]),
    ],
)
def test_cells_of_numbers(cell, expected):
    assert values(f"x;y\n{cell};a\n", x=NUMBERS) == [{"x": expected}]


@pytest.mark.parametrize("cell", ["nan", "[NaN]", "[nan]", "NaN", "[[nan]]", "[[NaN]]"])
def test_not_a_number_is_a_number_here(cell):
    (found,) = column(f"x,y\n{cell},a\n", "x", x=NUMBERS)
    assert math.isnan(np.ravel(found)[0])


@pytest.mark.parametrize(
    ("cell", "step", "message"),
    [
        ("1 2 3 abc", 3, "received 'abc', expected a number"),
        ("[1;2;abc]", 2, "received 'abc', expected a number"),
        ('"[""1""]"', 0, "received '1', expected a number"),
        ("[1;true]", 1, "received 'true', expected a number"),
        ("[[1];[true]]", 1, "feature 0: received true, expected a number"),
        ("[1;;2]", 1, "received '', expected a number"),
        ("1_000", 0, "received '1_000', expected a number"),
        ("[[1];2]", 1, "received a number, expected a list of features"),
        ('"[{""a"":1}]"', 0, "received an object, expected a number"),
        ("[1;2", None, "not a JSON list: Expecting ',' delimiter (character 5 of the cell)"),
        ("[[1];[2]", None, "not a JSON list: Expecting ',' delimiter (character 9 of the cell)"),
        ("[" * 100_000, None, "nested too deeply"),
    ],
)
def test_what_is_no_list_of_numbers_is_the_rows_fault(cell, step, message):
    content = f"x|y\n1 2|a\n{cell.replace(';', ',')}|b\n"
    if "[[" in cell:
        content = content.replace("1 2|a", "[[1,2]]|a")
    assert faults(content, x=NUMBERS, y=TEXT) == [(3, "x", step, message)]
    assert column(content, "x", x=NUMBERS)[1] is None
    assert column(content, "y", x=NUMBERS, y=TEXT) == ["a", "b"]


def test_a_column_of_numbers_has_the_depth_of_its_first_row_in_all_batches(small_blocks):
    content = 'x|y\n|a\n[[1,2],[3,4]]|b\n1 2|c\n"[]"|d\n[5]|e\n[[6,7]]|f\n'
    assert column(content, "x", x=NUMBERS) == [None, [[1, 2], [3, 4]], None, [], None, [[6, 7]]]
    message = "received a number, expected a list of features"
    assert faults(content, x=NUMBERS) == [(4, "x", 0, message), (6, "x", 0, message)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("the cat  sat", ["the", "cat", "sat"]),
        ('"[""a"", ""b c"", null]"', ["a", "b c", None]),
        ('"[1, 1.10, true, 1e400]"', ["1", "1.10", "true", "1e400"]),
        ("", None),
        ('""', None),
        ("[]", []),
    ],
)
def test_cells_of_texts(cell, expected):
    assert values(f"x|y\n{cell}|a\n", x=TEXTS) == [{"x": expected}]


@pytest.mark.parametrize(
    ("cell", "step", "message"),
    [
        ('"[""a"", [1]]"', 1, "received a list, expected one value"),
        ('"[""a"", {}]"', 1, "received an object, expected one value"),
        ('"[""a"""', None, "not a JSON list: Expecting ',' delimiter (character 5 of the cell)"),
        (r'"[""\ud800""]"', 0, r"received '\ud800', which holds half of a surrogate pair"),
    ],
)
def test_what_is_no_list_of_texts_is_the_rows_fault(cell, step, message):
    assert faults(f"x|y\n{cell}|a\n", x=TEXTS) == [(2, "x", step, message)]


def test_a_row_with_too_few_cells_is_no_list_either():
    content = "id,x,y\n1,1 2,a\n2\n3,4,b\n"
    assert column(content, "x", x=NUMBERS) == [[1, 2], None, [4]]
    assert faults(content, x=NUMBERS) == [(3, "", None, "1 cell, the header has 3")]


def test_numbers_read_the_same_whether_arrow_or_python_reads_them():
    cells = ["[1,2]", "[.5, 1.]", "[ -1e-3 ,+2]", "[nan]", "[Infinity]", "[1E5]"]
    alone = [column(f"x|y\n{cell}|\n", "x", x=NUMBERS)[0] for cell in cells]
    together = column("x|y\n" + "".join(f"{cell}|\n" for cell in [*cells, "[]"]), "x", x=NUMBERS)
    np.testing.assert_equal(together, [*alone, []])


# Promises


TEXT_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
SHORT = st.one_of(st.sampled_from(["", '"', '""', ",", "\n", "\r", "\r\n", "001", "NA", " "]), TEXT_CELLS)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(2, 4), st.sampled_from(["\n", "\r", "\r\n"]), st.sampled_from(["\t", ","]))
def test_any_table_that_python_writes_is_read_back(data, num_columns, end, delimiter):
    table = data.draw(st.lists(st.lists(SHORT, min_size=num_columns, max_size=num_columns), max_size=6))
    names = [f"c{number}" for number in range(num_columns)]
    written = io.StringIO(newline="")
    python_csv.writer(
        written, delimiter=delimiter, lineterminator=end, quoting=python_csv.QUOTE_ALL
    ).writerows([names, *table])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "BLOCK_BYTES", data.draw(st.integers(1, 64)))
        patch.setattr(csv, "HEAD_BYTES", 1)
        rows = csv.rows if delimiter == "," else csv.tsv_rows
        assert [list(row.values()) for row in values(written.getvalue(), rows=rows)] == table


ODD_BYTES = st.lists(
    st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b" ", b"[", b"]", b"1", b"\t", b"\xc3\xa9", b"\xff"]),
    max_size=40,
).map(b"".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(ODD_BYTES, st.binary(max_size=60)), st.integers(1, 64), st.booleans())
def test_any_bytes_end_in_rows_or_in_a_data_error(content, block_bytes, has_names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "BLOCK_BYTES", block_bytes)
        patch.setattr(csv, "HEAD_BYTES", 1)
        wanted = Wanted({"a": TEXTS, "b": NUMBERS}, ("a", "b")) if has_names else Wanted()
        for rows in (csv.rows, csv.tsv_rows):
            try:
                batches = list(rows(io.BytesIO(content), "f.csv", wanted))
            except DataError:
                continue
            places = [line for batch in batches for line in batch[LINE].to_pylist()]
            assert places == sorted(set(places))
