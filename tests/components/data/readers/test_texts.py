import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.readers import texts
from components.errors import DataError

CHUNKS = range(1, 8)


def read(data: bytes) -> list[tuple[int, str]]:
    return list(texts.lines(io.BytesIO(data), "a.txt"))


def message(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(data)
    assert caught.value.exit_code == 2
    assert "iconv" in caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_lf_crlf_and_cr_end_a_line_alike_and_the_last_needs_none(end: str, last: str):
    data = end.join(["one", "", "", "three", last]).encode()
    expected = [(1, "one"), (2, ""), (3, ""), (4, "three"), (5, "end")]
    assert read(data) == expected[: 5 if last else 4]


def test_mixed_ends_count_each_line_once():
    assert read(b"a\r\nb\rc\n\rd\r\r\n") == [(1, "a"), (2, "b"), (3, "c"), (4, ""), (5, "d"), (6, "")]


@pytest.mark.parametrize("char", ["\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029"])
def test_other_separators_of_unicode_are_content(char: str):
    assert read(f"a{char}b\nc".encode()) == [(1, f"a{char}b"), (2, "c")]


def test_white_space_within_a_line_is_kept():
    assert read(b" a \t\n\t\n") == [(1, " a \t"), (2, "\t")]


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_lines(data: bytes):
    assert read(data) == []


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert read(b"\xef\xbb\xbfEU B-ORG\n") == [(1, "EU B-ORG")]


def test_a_second_byte_order_mark_is_content():
    assert read(b"\xef\xbb\xbf\xef\xbb\xbfa") == [(1, "\ufeffa")]


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize(
    "data", [b"a\r\nb", b"a\r\n\r\nb\r\n", b"\r\r\n\n", "Grüße\r\n日本\r𝄞".encode(), b"abcdefghij\rk"]
)
def test_chunk_borders_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, data: bytes):
    whole = read(data)
    monkeypatch.setattr(texts, "CHUNK_BYTES", chunk_bytes)
    assert read(data) == whole


def test_latin_1_is_refused_with_the_place_of_its_byte():
    assert "a.txt: byte 7 (0xe9) is not UTF-8; is the file Latin-1" in message(b"one\ncaf\xe9\n")


def test_a_byte_order_mark_counts_in_the_place_of_a_byte():
    assert "byte 10 (0xe9)" in message(b"\xef\xbb\xbfone\ncaf\xe9\n")


def test_a_character_cut_off_at_the_end_is_refused():
    assert "byte 1 (0xc3)" in message(b"a\xc3")


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize(
    ("data", "place"),
    [(b"one\ncaf\xe9\n", 7), ("ööö".encode() + b"\xff", 6), (b"abc\xe6\x97", 3), (b"\xe6\x97x", 0)],
)
def test_the_place_of_a_byte_is_the_same_at_any_chunk_border(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, data: bytes, place: int
):
    monkeypatch.setattr(texts, "CHUNK_BYTES", chunk_bytes)
    assert f"byte {place} (0x{data[place]:02x})" in message(data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_mark_of_another_encoding_is_named(encoding: str):
    assert f"the mark of {encoding.upper()}, expected UTF-8" in message("id,label\n".encode(encoding))


@pytest.mark.parametrize(("encoding", "place"), [("utf-16-le", 1), ("utf-16-be", 0)])
def test_utf_16_without_a_mark_is_known_by_its_zeros(encoding: str, place: int):
    assert f"byte {place} is zero" in message("id,label\n".encode(encoding))


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_lines_are_what_stands_between_line_ends(text: str):
    expected = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    if expected[-1] == "":
        expected.pop()
    found = read(text.encode())
    assert [line for _, line in found] == expected
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_lines_or_an_error_of_ours(data: bytes):
    try:
        read(data)
    except DataError as error:
        assert error.problems[0].file == "a.txt"
