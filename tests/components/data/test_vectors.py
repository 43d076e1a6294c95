"""Files of vectors: every format reads the same, every fault is named, the vocabulary grows as promised."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.fs import FileSystem

from components.data import vectors
from components.data.vectors import Coverage, Joined
from components.errors import DataError
from components.served.symbols import TokenEncoding
from conf.schema import TokenInput

VECTORS = {"the": [0.5, 1.0], "hund": [2.0, -3.25], "Hund": [4.0, 5.0], "cat": [6.0, 0.125]}
LINES = [f"{token} {' '.join(map(str, numbers))}" for token, numbers in VECTORS.items()]
ENCODING = TokenEncoding("words", ("Hund", "new", "The"), 64)


def setting(path: Path, **changes: Any) -> TokenInput:
    return TokenInput(column="words", kind="token", vectors=str(path), **changes)


def write(path: Path, *lines: str) -> Path:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_array(path: Path, array: Any = None, tokens: Any = VECTORS) -> Path:
    np.save(path, np.array(list(VECTORS.values()), np.float16) if array is None else array)
    write(path.with_suffix(".txt"), *tokens)
    return path


def join(path: Path, encoding: TokenEncoding = ENCODING, **changes: Any) -> Joined:
    return vectors.join(setting(path, **changes), encoding)


def table(joined: Joined) -> dict[str, list[float]]:
    """The vector of each token that has one."""
    tokens = joined.encoding.tokens[-joined.encoding.vectors :]
    return dict(zip(tokens, joined.table.tolist(), strict=True))


def refused(path: Path, **changes: Any) -> str:
    """What is said by `join`, and of all but the tokens in common by `check` too."""
    with pytest.raises(DataError) as caught:
        join(path, **changes)
    with pytest.raises(DataError) as also:
        vectors.check(setting(path, **changes), whole=True)
    assert str(also.value) == str(caught.value)
    assert "'words'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz", "word2vec.vec", "tabs.txt", "array.npy"])
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "array.npy":
        write_array(path)
    else:
        lines = [line.replace(" ", "\t") for line in LINES] if name == "tabs.txt" else LINES
        # The tool word2vec ends each line with a space.
        write(path, *(["4 2", *(f"{line} " for line in LINES)] if name == "word2vec.vec" else lines))
    joined = join(path)
    assert joined.encoding == replace(
        ENCODING, tokens=("new", "Hund", "The", "the", "hund", "cat"), embedding=2, vectors=5
    )
    assert joined.table.dtype == np.float32
    assert table(joined) == {**VECTORS, "The": VECTORS["the"]}
    assert joined.coverage == Coverage(name, found=2, tokens=3, further=3, repeated=0)


def test_tokens_of_the_file_are_added_in_its_order_while_there_is_room(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", *LINES)
    for most, further in [(3, ()), (4, ("the",)), (5, ("the", "hund")), (99, ("the", "hund", "cat"))]:
        joined = join(path, max_size=most)
        assert joined.encoding.tokens == ("new", "Hund", "The", *further)
        assert table(joined)["The"] == VECTORS["the"]
    assert join(path).encoding.fixed is False
    assert join(path, fixed_vectors=True).encoding.fixed is True


def test_tokens_of_the_file_have_the_form_of_the_settings_and_exact_ones_go_first(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", "HUND 1 1", "hund 2 2", "Cat 3 3", "CAT 4 4", "e\u0301 5 5")
    joined = join(path, TokenEncoding("words", ("hund",), 64, lowercase=True), lowercase=True)
    assert table(joined) == {"hund": [2, 2], "cat": [3, 3], "\u00e9": [5, 5]}
    assert joined.encoding.apply(["CAT", "Hund", "E\u0301", "dog"])[:, 0].tolist() == [2, 1, 3, 0]


def test_of_tokens_that_stand_there_again_the_first_counts(tmp_path: Path) -> None:
    joined = join(write(tmp_path / "v.txt", "Hund 1 1", "Hund 2 2", "x 3 3", "x 4 4", "x 5 5"))
    assert table(joined) == {"Hund": [1, 1], "x": [3, 3]}
    assert joined.coverage.repeated == 3


def test_tokens_with_spaces_in_them_are_read(tmp_path: Path) -> None:
    joined = join(write(tmp_path / "v.txt", "Hund 1 1", ". . 2 2", "at a@b.com 3 3", "\u00a0 4 4", "5 5 5"))
    assert list(table(joined)) == ["Hund", ". .", "at a@b.com", "\u00a0", "5"]


def test_a_file_without_a_token_of_the_training_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 3 tokens of the training rows stands in it"):
        join(write(tmp_path / "v.txt", "le 1 1", "chien 2 2"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Hund 1 2", "a 1", "b 1 2 3"], ["line 2: 1 numbers, expected 2", "line 3: 3 numbers, expected 2"]),
        (["Hund 1 2", "b 1 x"], ["line 2: number 2 of the vector is 'x', expected a finite number"]),
        (["Hund nan 2"], ["line 1: number 1 of the vector is 'nan', expected a finite number"]),
        (["Hund 1e39 2"], ["number 1 of the vector is '1e39'"]),
        (["3 2", "Hund 1 2", "b 1 2"], ["the first line says 3 tokens, there are 2; is it cut off?"]),
        (["2 3", "Hund 1 2", "b 1 2"], ["line 2: 2 numbers, expected 3"]),
        (["Hund"], ["line 1: no numbers; expected a token and its numbers, or `count width`"]),
        ([f"Hund{' 1' * 4097}"], ["its vectors have 4,097 numbers, at most 4,096 can be used"]),
        ([], ["the file is empty"]),
    ],
)
def test_what_is_wrong_with_a_line_is_named_with_its_number(
    tmp_path: Path, lines: list[str], said: list[str]
) -> None:
    message = refused(write(tmp_path / "v.txt", *lines))
    assert all(sentence in message for sentence in said)
    assert str(tmp_path / "v.txt") in message


def test_of_many_wrong_lines_the_first_twenty_are_named(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "v.txt", "Hund 1 2", *["a 1"] * 50))
    assert message.count("\n") == 20


def test_the_width_may_be_left_out_or_be_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", *LINES)
    assert join(path, embedding=2).encoding.embedding == 2
    with pytest.raises(DataError, match="its vectors have 2 numbers, but embedding is 64") as caught:
        vectors.check(setting(path, embedding=64))
    assert caught.value.hint == "Leave embedding out, or set it to 2."


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 1 2\n")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"Hund 1 2\n" * 999)[:-9])
    (tmp_path / "many").mkdir()
    write(tmp_path / "many" / "a.txt", *LINES)
    write(tmp_path / "many" / "b.txt", *LINES)
    for name, said in [
        ("absent.txt", "no such file"),
        ("latin.txt", "byte 3 (0xe9) is not UTF-8"),
        ("cut.txt.gz", "not a whole gzip file, or damaged"),
        ("many/*.txt", "one of 2 files"),
        ("many", "the folder holds no data files"),
    ]:
        with pytest.raises(DataError) as caught:
            vectors.check(setting(tmp_path / name), whole=True)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 2, 1)), "an array of shape (4, 2, 1), float64; expected numbers (n, width)"),
        (np.zeros((4, 2), order="F"), "stored by columns"),
        (np.array([["a"]] * 4), "<U1"),
        (np.zeros((5, 2)), "4 tokens, but 5 vectors in v.npy"),
        (np.zeros((3, 2)), "4 tokens, but 3 vectors in v.npy"),
        (np.full((4, 2), np.inf), "number 1 of the vector is 'inf'"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(tmp_path: Path, array: Any, said: str) -> None:
    assert said in refused(write_array(tmp_path / "v.npy", array))


def test_an_array_that_is_cut_off_or_none_is_refused(tmp_path: Path) -> None:
    path = write_array(tmp_path / "v.npy")
    path.write_bytes(path.read_bytes()[:-1])
    assert "it ends too early" in refused(path)
    path.write_bytes(b"text")
    assert "not a whole NumPy file" in refused(path)


def test_an_array_has_its_tokens_beside_it(tmp_path: Path) -> None:
    path = write_array(tmp_path / "v.npy")
    assert [file.name for file in vectors.files(setting(path))] == ["v.npy", "v.txt"]
    assert vectors.files(TokenInput(column="words", kind="token")) == []
    (tmp_path / "v.txt").unlink()
    with pytest.raises(DataError, match=r"v\.txt: no such file"):
        vectors.files(setting(path))


def test_vectors_are_read_from_an_object_store(
    tmp_path: Path, object_store: str, store_files: FileSystem
) -> None:
    path = write_array(tmp_path / "v.npy")
    for file in (path, path.with_suffix(".txt")):
        with store_files.open_output_stream(file.name) as stream:
            stream.write(file.read_bytes())
    joined = vectors.join(TokenInput(column="words", kind="token", vectors=f"{object_store}/v.npy"), ENCODING)
    assert table(joined) == {**VECTORS, "The": VECTORS["the"]}
