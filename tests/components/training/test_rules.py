"""Which label may follow which, against the tags' own rule, pair by pair."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from components.data.tags import is_legal
from components.served.encoding import Encoding
from components.training.rules import allowed, rules_of

BIO = ("I-PER", "O", "B-LOC", "B-PER", "I-LOC")
BIOES = ("O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES"))


@pytest.mark.parametrize(("scheme", "labels"), [("BIO", BIO), ("BIOES", BIOES)])
def test_a_sequence_is_allowed_if_and_only_if_all_its_pairs_are_legal(
    scheme: str, labels: tuple[str, ...]
) -> None:
    rules = allowed(labels, scheme)
    assert rules is not None
    for length in (1, 2, 3):
        for path in itertools.product(range(len(labels)), repeat=length):
            tags = [None, *(labels[place] for place in path), None]
            expected = all(is_legal(one, other, scheme) for one, other in itertools.pairwise(tags))
            found = rules.start[path[0]] and rules.end[path[-1]]
            found = found and all(rules.follows[one, other] for one, other in itertools.pairwise(path))
            assert found == expected, tags


def test_a_row_is_the_label_before_and_a_column_the_one_after() -> None:
    rules = allowed(BIO, "BIO")
    assert rules is not None
    assert rules.start.tolist() == [False, True, True, True, False]
    assert rules.follows[BIO.index("B-PER"), BIO.index("I-PER")]
    assert not rules.follows[BIO.index("O"), BIO.index("I-PER")]
    assert not rules.follows[BIO.index("B-LOC"), BIO.index("I-PER")]
    assert rules.follows[:, BIO.index("O")].all()
    assert rules.end.all()


def test_every_label_can_be_reached_and_left() -> None:
    rules = allowed(BIOES, "BIOES")
    assert rules is not None
    assert (rules.start | rules.follows.any(axis=0)).all()
    assert (rules.end | rules.follows.any(axis=1)).all()


def test_labels_that_spell_nothing_have_no_rules() -> None:
    assert allowed(BIO, "none") is None


def test_a_part_of_a_long_sequence_may_begin_and_end_within_a_span() -> None:
    encoding = Encoding("labelling", (), BIOES, scheme="BIOES")
    whole, parts = rules_of(encoding), rules_of(replace(encoding, max_length=8))
    assert whole is not None
    assert parts is not None
    assert not whole.start.all()
    assert parts.start.all()
    assert parts.end.all()
    np.testing.assert_array_equal(parts.follows, whole.follows)
