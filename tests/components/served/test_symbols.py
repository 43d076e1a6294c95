import math
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.served.symbols import (
    CategoryEncoding,
    TokenEncoding,
    as_text,
    cut,
    flatten_texts,
    normal_form,
)


def test_tokens_are_numbered_from_one_and_unknown_ones_are_zero():
    x = TokenEncoding("word", ("der", "Hund"), 4).apply(["Hund", "der", "Der", "Hund"])
    assert x.dtype == np.float32
    assert x.tolist() == [[2], [1], [0], [2]]


def test_upper_case_and_composed_letters_are_the_same_where_asked():
    decomposed = unicodedata.normalize("NFD", "Über")
    assert TokenEncoding("word", ("über",), 4, lowercase=True).apply(["ÜBER", decomposed]).tolist() == [
        [1],
        [1],
    ]
    assert TokenEncoding("word", ("Über",), 4, normalise="none").apply([decomposed]).tolist() == [[0]]
    assert normal_form("ﬁx", normalise="NFKC", lowercase=False) == "fix"


def test_characters_stand_beside_the_token_and_unknown_ones_are_one():
    part = TokenEncoding("word", ("ab",), 4, characters=("a", "b"), max_characters=4)
    assert part.width == 5
    assert part.apply(["ab", "axb", ""]).tolist() == [[1, 2, 3, 0, 0], [0, 2, 1, 3, 0], [0, 0, 0, 0, 0]]


@given(st.text(max_size=12), st.integers(1, 8))
def test_a_long_token_keeps_its_two_ends(token, length):
    kept = cut(token, length)
    assert len(kept) == min(len(token), length)
    head = length - length // 2
    if len(token) > length:
        assert kept == token[:head] + token[::-1][: length // 2][::-1]


def test_no_texts_have_no_numbers():
    assert TokenEncoding("word", ("a",), 4, characters=("a",), max_characters=2).apply([]).shape == (0, 3)
    assert CategoryEncoding("pos", ("N",), 2).apply([]).shape == (0, 1)


def test_categories_are_kept_exactly():
    assert CategoryEncoding("pos", ("N", "7"), 2).apply(["n", "N", "7"]).tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    "rows",
    [
        [["a", "b"], ["c"]],
        [("a", "b"), ("c",)],
        [np.array(["a", "b"], object), np.array(["c"])],
        ["a  b", " c"],
    ],
    ids=["lists", "tuples", "arrays", "text"],
)
def test_rows_of_any_container_lie_end_to_end(rows):
    texts, lengths = flatten_texts(rows, column="word", split=True)
    assert texts == ["a", "b", "c"]
    assert lengths.tolist() == [2, 1]


def test_whole_numbers_and_booleans_are_text():
    assert flatten_texts([[7, np.int8(1), True]], column="pos", split=False)[0] == ["7", "1", "true"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a b"], "'pos', row 0: received 'a b', expected a sequence of texts"),
        ([["a"], None], "'pos', row 1: received None, expected a sequence of texts"),
        ([["a"], []], "'pos', row 1: empty sequence"),
        ([["a", None]], "'pos', row 0, step 1: received a missing value, expected text"),
        ([["a", math.nan]], "'pos', row 0, step 1: received a missing value, expected text"),
        ([["a", pd.NA]], "'pos', row 0, step 1: received a missing value, expected text"),
        ([["a", 1.5]], "'pos', row 0, step 1: received 1.5, expected text"),
        ([[np.array([1, 2])]], r"'pos', row 0, step 0: received array\(\[1, 2\]\), expected text"),
    ],
)
def test_faults_name_row_and_step(rows, message):
    with pytest.raises(ValueError, match=message):
        flatten_texts(rows, column="pos", split=False)


def test_text_of_white_space_alone_has_no_steps():
    with pytest.raises(ValueError, match="'word', row 0: empty sequence"):
        flatten_texts(["  "], column="word", split=True)


def test_text_is_itself():
    assert as_text("007", "here") == "007"


def test_with_given_vectors_a_token_that_is_unknown_is_looked_up_in_lower_case_too():
    part = TokenEncoding("word", ("der", "Hund", "hund"), 4, vectors=1)
    assert part.apply(["Der", "Hund", "HUND", "Katze"])[:, 0].tolist() == [1, 2, 3, 0]
    assert TokenEncoding("word", ("der",), 4).apply(["Der"])[:, 0].tolist() == [0]
