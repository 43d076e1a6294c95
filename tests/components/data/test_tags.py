"""Which tags may follow which, by tables written by hand, and how often they do."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.tags import illegal, is_legal, parse, transitions, unfit

# For each tag, in this order: what may follow it, the end included; None is the beginning or the end.
BIO = ("O", "B-X", "I-X", "B-Y", "I-Y", None)
BIO_LEGAL = {
    None: "110101",
    "O": "110101",
    "B-X": "111101",
    "I-X": "111101",
    "B-Y": "110111",
    "I-Y": "110111",
}
BIOES = ("O", "B-X", "I-X", "E-X", "S-X", "I-Y", "E-Y", None)
BIOES_LEGAL = {
    None: "11001001",
    "O": "11001001",
    "B-X": "00110000",
    "I-X": "00110000",
    "E-X": "11001001",
    "S-X": "11001001",
    "I-Y": "00000110",
    "E-Y": "11001001",
}


@pytest.mark.parametrize(
    ("scheme", "tags", "table"), [("BIO", BIO, BIO_LEGAL), ("BIOES", BIOES, BIOES_LEGAL)]
)
def test_a_tag_is_followed_only_by_those_of_the_table(scheme, tags, table):
    for before, legal in table.items():
        found = "".join(str(int(is_legal(before, after, scheme))) for after in tags)
        assert (before, found) == (before, legal)


@pytest.mark.parametrize(
    ("tag", "parts"),
    [
        ("B-PER", ("B", "PER")),
        ("I-date-time", ("I", "date-time")),
        ("O", ("O", "")),
        ("B-", ("", "B-")),
        ("NOUN", ("", "NOUN")),
        ("", ("", "")),
    ],
)
def test_a_tag_is_a_prefix_and_a_type_or_neither(tag, parts):
    assert parse(tag) == parts


def test_tags_that_a_scheme_has_no_meaning_for():
    tags = ["O", "B-X", "I-X", "E-X", "S-X", "NOUN", "o", "O-X", "-X", "B-", ""]
    assert unfit(tags, "BIO") == ["E-X", "S-X", "NOUN", "o", "O-X", "-X", "B-", ""]
    assert unfit(tags, "BIOES") == ["NOUN", "o", "O-X", "-X", "B-", ""]


NUM_TAGS = 4


@given(st.lists(st.lists(st.integers(0, NUM_TAGS - 1), min_size=1, max_size=6), max_size=8))
@settings(deadline=None, max_examples=60)
def test_pairs_of_tags_are_counted_within_their_sequences(rows):
    edge = NUM_TAGS
    pairs = Counter(pair for row in rows for pair in zip([edge, *row], [*row, edge], strict=True))
    codes = np.array([code for row in rows for code in row], np.int32)
    counts = transitions(codes, np.array([len(row) for row in rows], np.int64), NUM_TAGS)
    assert counts.shape == (NUM_TAGS + 1, NUM_TAGS + 1)
    assert {(i, j): counts[i, j] for i, j in np.argwhere(counts).tolist()} == pairs


def test_illegal_pairs_are_named_the_most_frequent_first():
    tags = ("O", "B-X", "I-X")
    rows = [["I-X"], ["O", "I-X", "O"], ["B-X", "I-X"], ["O", "I-X"]]
    codes = np.array([tags.index(tag) for row in rows for tag in row], np.int32)
    counts = transitions(codes, np.array([len(row) for row in rows]), 3)
    assert list(illegal(counts, tags, "BIO").items()) == [("O > I-X", 2), ("the beginning > I-X", 1)]


def test_a_span_left_open_is_illegal_where_spans_have_an_end():
    counts = transitions(np.array([1]), np.array([1]), 2)
    assert illegal(counts, ("O", "B-X"), "BIOES") == {"B-X > the end": 1}
    assert illegal(counts, ("O", "B-X"), "BIO") == {}
