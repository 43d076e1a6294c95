"""Spans against published examples of seqeval and conlleval, and against a slow reading tag by tag."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.tags import tagging
from components.metrics import Tally
from components.spans import SPAN_ERRORS, errors, find

BIO = ("O", "B-X", "I-X", "B-Y", "I-Y")
BIOES = (*BIO, "E-X", "S-X", "E-Y", "S-Y")


def encoded(rows, labels) -> tuple[np.ndarray, np.ndarray]:
    codes = [labels.index(tag) for row in rows for tag in row]
    return np.array(codes, np.int64), np.array([len(row) for row in rows], np.int64)


def read(rows, *, scheme: str, reading: str) -> list[tuple[int, int, str]]:
    """Spans by hand-readable places in all rows end to end."""
    labels = sorted({tag for row in rows for tag in row})
    known = tagging(labels, scheme)
    found = find(*encoded(rows, labels), known, reading=reading)
    names = [known.names[kind] for kind in found.types]
    return list(zip(found.starts.tolist(), found.ends.tolist(), names, strict=True))


def scores(truth, said, *, scheme: str = "BIO") -> dict[str, float]:
    labels = sorted({tag for row in [*truth, *said] for tag in row})
    tally = Tally.empty(len(labels), "labelling", tagging=tagging(labels, scheme))
    (true, lengths), (answers, _) = encoded(truth, labels), encoded(said, labels)
    tally.update(true, answers, np.ones(len(true)), lengths, np.zeros(len(lengths)))
    return tally.scores()


def split(row: str) -> list[list[str]]:
    return [part.split() for part in row.split("|")]


@pytest.mark.parametrize(
    ("truth", "said", "strict", "lenient"),
    [
        # seqeval's README (https://github.com/chakki-works/seqeval): 0.50 strictly and by default.
        ("O O O B-MISC I-MISC I-MISC O|B-PER I-PER O",
         "O O B-MISC I-MISC I-MISC I-MISC O|B-PER I-PER O", 0.5, 0.5),
        # seqeval 1.2.2 has 0.0 with mode="strict" and scheme=IOB2, and 1.0 by default.
        ("B-P I-P", "I-P I-P", 0.0, 1.0),
        # seqeval, tests/test_v1.py, test_average_scores: micro F1 0.67 under IOB2.
        ("B-A B-B O B-A", "O B-B B-C B-A", 2 / 3, 2 / 3),
        ("B-PER", "B-ORG", 0.0, 0.0),
        # The input that the CoNLL-2000 task shows for its script: both answers all right
        # (https://www.clips.uantwerpen.be/conll2000/chunking/output.html).
        ("B-NP B-NP I-NP I-NP O|B-NP B-VP B-NP I-NP", "B-NP B-NP I-NP I-NP O|B-NP B-VP B-NP I-NP", 1.0, 1.0),
        # The same page at http://www.cnts.ua.ac.be/conll2000/chunking/output.html: an I that begins a phrase.
        ("B-NP B-NP I-NP I-NP O|B-NP B-VP B-NP I-NP", "I-NP B-NP I-NP I-NP O|I-NP B-VP B-NP I-NP", 0.75, 1.0),
    ],
)  # fmt: skip
def test_f1_is_that_of_the_published_examples(truth, said, strict, lenient):
    found = scores(split(truth), split(said))
    assert found["span_f1"] == pytest.approx(strict)
    assert found["lenient_span_f1"] == pytest.approx(lenient)


def test_an_end_within_a_span_is_read_as_conlleval_reads_it():
    # The tags of https://github.com/spyysalo/conlleval.py, tests/e-b-sequence.txt.
    found = scores([["B-M", "E-M", "B-M", "E-M"]], [["B-M", "I-M", "I-M", "E-M"]], scheme="BIOES")
    assert (found["span_f1"], found["lenient_span_f1"]) == (0.0, 0.0)
    assert read([["B-M", "I-M", "I-M", "E-M"]], scheme="BIOES", reading="lenient") == [(0, 4, "M")]


@pytest.mark.parametrize(
    ("scheme", "row", "strict", "lenient"),
    [
        ("BIO", "B-X I-X O B-X", [(0, 2, "X"), (3, 4, "X")], [(0, 2, "X"), (3, 4, "X")]),
        ("BIO", "B-X I-Y I-Y", [(0, 1, "X")], [(0, 1, "X"), (1, 3, "Y")]),
        ("BIO", "O I-X I-X", [], [(1, 3, "X")]),
        ("BIO", "B-X B-X", [(0, 1, "X"), (1, 2, "X")], [(0, 1, "X"), (1, 2, "X")]),
        ("BIO", "B-X|I-X", [(0, 1, "X")], [(0, 1, "X"), (1, 2, "X")]),
        ("BIOES", "B-X I-X E-X S-Y", [(0, 3, "X"), (3, 4, "Y")], [(0, 3, "X"), (3, 4, "Y")]),
        ("BIOES", "B-X I-X O", [], [(0, 2, "X")]),
        ("BIOES", "I-X E-X", [], [(0, 2, "X")]),
        ("BIOES", "B-X E-Y", [], [(0, 1, "X"), (1, 2, "Y")]),
        ("BIOES", "B-X E-X E-X", [(0, 2, "X")], [(0, 2, "X"), (2, 3, "X")]),
        ("BIOES", "S-X I-X E-X", [(0, 1, "X")], [(0, 1, "X"), (1, 3, "X")]),
        ("BIO", "O O", [], []),
    ],
)
def test_what_is_a_span(scheme, row, strict, lenient):
    assert read(split(row), scheme=scheme, reading="strict") == strict
    assert read(split(row), scheme=scheme, reading="lenient") == lenient


def by_hand(row: list[str], scheme: str) -> set[tuple[int, int, str]]:
    """Every stretch whose tags are exactly those that the scheme writes for a span of its length and type."""
    found = set()
    for start in range(len(row)):
        for end in range(start + 1, len(row) + 1):
            for kind in ("X", "Y"):
                inner = end - start - 1
                if scheme == "BIO":
                    expected = [f"B-{kind}", *[f"I-{kind}"] * inner]
                    goes_on = end < len(row) and row[end] == f"I-{kind}"
                elif inner:
                    expected, goes_on = [f"B-{kind}", *[f"I-{kind}"] * (inner - 1), f"E-{kind}"], False
                else:
                    expected, goes_on = [f"S-{kind}"], False
                if row[start:end] == expected and not goes_on:
                    found.add((start, end, kind))
    return found


def rows_of(tags):
    return st.lists(st.lists(st.sampled_from(tags), min_size=1, max_size=9), min_size=1, max_size=6)


@pytest.mark.parametrize(("scheme", "tags"), [("BIO", BIO), ("BIOES", BIOES)])
def test_strict_spans_are_those_that_the_scheme_would_write(scheme, tags):
    @settings(max_examples=300, deadline=None)
    @given(rows_of(tags))
    def check(rows):
        expected, start = set(), 0
        for row in rows:
            expected |= {(start + first, start + end, kind) for first, end, kind in by_hand(row, scheme)}
            start += len(row)
        assert set(read(rows, scheme=scheme, reading="strict")) == expected

    check()


def test_counts_do_not_depend_on_the_batches():
    rng = np.random.default_rng(0)
    known = tagging(BIO, "BIO")
    lengths = rng.integers(1, 7, 40)
    truth, said = rng.integers(0, 5, (2, lengths.sum()))
    whole, parts = (Tally.empty(5, "labelling", tagging=known) for _ in range(2))
    whole.update(truth, said, np.ones(len(truth)), lengths, np.zeros(40))
    for at in (slice(0, 17), slice(17, 40)):
        steps = slice(lengths[: at.start].sum(), lengths[: at.stop].sum())
        parts.update(
            truth[steps], said[steps], np.ones(len(truth[steps])), lengths[at], np.zeros(len(lengths[at]))
        )
    merged = parts.merge(Tally.empty(5, "labelling", tagging=known))
    assert merged.scores() == pytest.approx(whole.scores())
    assert 0 < whole.scores()["span_f1"] < whole.scores()["lenient_span_f1"]


def test_without_a_scheme_there_are_no_scores_of_spans_even_with_a_tag_called_o():
    assert tagging(("NN", "O"), "none") is None
    tally = Tally.empty(2, "labelling", tagging=tagging(("NN", "O"), "none"))
    tally.update(np.array([0, 1]), np.array([0, 1]), np.ones(2), np.array([2]), np.zeros(1))
    assert not [name for name in tally.scores() if "span" in name]
    assert tally.scores()["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("truth", "said", "precision", "recall", "f1"),
    [("B-X", "O", 0.0, 0.0, 0.0), ("O", "B-X", 0.0, 0.0, 0.0), ("O O", "O O", None, None, None)],
)
def test_where_there_are_no_spans_scores_are_zero_or_unknown(truth, said, precision, recall, f1):
    found = scores(split(truth), split(said))
    for name, expected in (("span_precision", precision), ("span_recall", recall), ("span_f1", f1)):
        assert np.isnan(found[name]) if expected is None else found[name] == expected


@pytest.mark.parametrize(
    ("truth", "said", "expected"),
    [
        ("B-X I-X", "B-X I-X", {}),
        ("B-X I-X", "B-Y I-Y", {"type": 1}),
        ("B-X I-X O", "B-X I-X I-X", {"boundary": 1}),
        ("B-X I-X O", "O B-Y I-Y", {"both": 1}),
        ("O O B-X", "B-X O O", {"invented": 1, "missed": 1}),
        ("B-X B-X", "B-X I-X", {"boundary": 1}),
        ("B-X I-X I-X", "B-X B-Y O", {"boundary": 1, "both": 1}),
    ],
)
def test_each_wrong_span_has_one_kind_of_error(truth, said, expected):
    known = tagging(BIO, "BIO")
    (true, lengths), (answers, _) = encoded(split(truth), BIO), encoded(split(said), BIO)
    spans = [find(tags, lengths, known, reading="strict") for tags in (true, answers)]
    found = errors(*spans, known.names, num_steps=len(true))
    assert {name: number for name, number in found.counts.items() if number} == expected
    assert tuple(found.counts) == SPAN_ERRORS
    assert found.confused == ((("X", "Y", 1),) if "type" in expected else ())
