"""One order of labels over all parts, and what is said of labels that training lacks."""

import numpy as np
import pytest

from components.data.fates import REJECTED, Fates
from components.data.labels import (
    MAX_LABELS,
    Pins,
    common_labels,
    in_order,
    label_counts,
    reject_labels,
    strata_of,
    too_many_labels,
    unseen_labels,
)
from components.data.records import Layout
from components.data.splits import TEST, TRAIN, VALID, Strata
from conf.schema import FractionSplit

FIRST = {"id": ["a", "b"], "x": [[1.0], [2.0, 3.0]], "label": [["q"], ["p", "q"]], "fold": [2, 2]}
SECOND = {"id": ["c", "d"], "x": [[4.0, 5.0, 6.0], [7.0]], "label": [["p", "r", "r"], ["p"]], "fold": [0, 1]}


@pytest.fixture
def layout(make_settings) -> Layout:
    return Layout.of(make_settings("labelling"))


@pytest.fixture
def fates(make_settings, make_scans) -> Fates:
    found = Fates(make_scans(make_settings("labelling"), FIRST, SECOND))
    found.codes[0][:] = TRAIN
    found.codes[1][:] = (TEST, VALID)
    return found


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"10", "9", "-1"}, ("-1", "9", "10")),
        ({"10", "9", "a"}, ("10", "9", "a")),
        ({"1", "01", "+1"}, ("+1", "01", "1")),
        ({"1.5", "10", "2"}, ("1.5", "10", "2")),
        ({"NO", "SE"}, ("NO", "SE")),
        (set(), ()),
        (
            {"999999999999999999", "1000000000000000000", "2"},
            ("1000000000000000000", "2", "999999999999999999"),
        ),
        ({"\u0663", "10", "2"}, ("10", "2", "\u0663")),
        ({"", "10", "2"}, ("", "10", "2")),
    ],
)
def test_whole_numbers_go_by_size_and_all_else_by_text(labels, expected):
    assert in_order(labels) == expected


def test_parts_that_met_labels_in_another_order_agree_on_their_codes(fates):
    labels = common_labels(fates.scans)
    assert labels.names == ("p", "q", "r")
    for part, table in enumerate((FIRST, SECOND)):
        rows, codes = labels.of(part, fates.scans[part], np.array([True, True]))
        assert [labels.names[code] for code in codes] == [name for row in table["label"] for name in row]
        assert rows.tolist() == [row for row, names in enumerate(table["label"]) for _ in names]


def test_labels_are_counted_split_by_split(fates):
    counts = label_counts(fates, common_labels(fates.scans))
    assert counts[TRAIN].tolist() == [1, 2, 0]
    assert counts[VALID].tolist() == [1, 0, 0]
    assert counts[TEST].tolist() == [1, 0, 2]


def test_a_label_that_only_held_out_rows_have_is_named_at_its_first_step(fates, layout):
    labels = common_labels(fates.scans)
    (problem,) = unseen_labels(fates, labels, np.array([2]), layout)
    assert str(problem) == (
        "b.parquet, row 0, column label, step 1:"
        " the label 'r' stands in 1 held-out row and in no training row"
    )
    assert fates.accepted(1).all()


def test_rows_with_such_a_label_can_be_rejected_and_the_label_goes(fates, layout):
    labels = common_labels(fates.scans)
    reject_labels(fates, labels, np.array([2]), layout)
    assert fates.codes[1].tolist() == [REJECTED, VALID]
    assert fates.reasons[1] == {0: "column label: no training row has the label 'r'"}
    left = labels.only(np.array([True, True, False]))
    assert left.names == ("p", "q")
    assert left.codes[1].tolist() == [0, -1, -1]


def test_leaving_out_a_label_moves_those_behind_it(fates):
    left = common_labels(fates.scans).only(np.array([False, True, True]))
    assert left.names == ("q", "r")
    _, codes = left.of(1, fates.scans[1], np.array([True, True]))
    assert codes.tolist() == [-1, 1, 1, -1]


def test_only_the_rows_that_the_mask_takes_give_their_labels(fates):
    labels = common_labels(fates.scans)
    rows, codes = labels.of(0, fates.scans[0], np.array([False, True]))
    assert (rows.tolist(), codes.tolist()) == ([1, 1], [0, 1])
    rows, codes = labels.of(1, fates.scans[1], np.array([False, False]))
    assert (rows.tolist(), codes.tolist()) == ([], [])


def test_rejected_rows_are_not_counted(fates):
    fates.codes[0][1] = REJECTED
    assert label_counts(fates, common_labels(fates.scans)).tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 2]]


def test_a_bad_row_without_a_label_counts_for_none(make_settings, make_scans):
    rows = {"id": ["a", "b", "c"], "x": [[1.0], [2.0], [3.0]], "label": ["n", None, "y"], "fold": [0] * 3}
    fates = Fates(make_scans(make_settings(), rows))
    labels = common_labels(fates.scans)
    assert labels.of(0, fates.scans[0], np.ones(3, bool))[1].tolist() == [0, -1, 1]
    fates.codes[0][[0, 2]] = TRAIN
    assert label_counts(fates, labels)[TRAIN].tolist() == [1, 1]


def test_labels_that_training_lacks_are_told_one_by_one_with_their_number_of_rows(make_settings, make_scans):
    settings = make_settings("labelling")
    first = {"id": ["a"], "x": [[1.0, 2.0]], "label": [["p", "t"]], "fold": [2]}
    second = {
        "id": ["b", "c"],
        "x": [[1.0] * 4, [2.0]],
        "label": [["p", "s", "r", "r"], ["r"]],
        "fold": [0, 1],
    }
    third = {"id": ["d"], "x": [[3.0]], "label": [["r"]], "fold": [0]}
    fates = Fates(make_scans(settings, first, second, third))
    for codes, split in zip(fates.codes, (TRAIN, TEST, TEST), strict=True):
        codes[:] = split
    labels, layout = common_labels(fates.scans), Layout.of(settings)
    unseen = np.array([labels.names.index(name) for name in "rs"])
    assert [str(problem) for problem in unseen_labels(fates, labels, unseen, layout)] == [
        "b.parquet, row 0, column label, step 2:"
        " the label 'r' stands in 3 held-out rows and in no training row",
        "b.parquet, row 0, column label, step 1:"
        " the label 's' stands in 1 held-out row and in no training row",
    ]
    assert list(unseen_labels(fates, labels, unseen[:0], layout)) == []
    # A row that has both is rejected once.
    reject_labels(fates, labels, unseen, layout)
    assert [codes.tolist() for codes in fates.codes] == [[TRAIN], [REJECTED] * 2, [REJECTED]]
    assert fates.num_problems == 3


def test_the_label_of_a_classifiers_row_is_at_no_step(make_settings, make_scans):
    settings = make_settings()
    rows = {"id": ["a", "b"], "x": [[1.0, 2.0], [3.0]], "label": ["n", "y"], "fold": [2, 0]}
    fates = Fates(make_scans(settings, rows))
    fates.codes[0][:] = (TRAIN, TEST)
    labels = common_labels(fates.scans)
    reject_labels(fates, labels, np.array([1]), Layout.of(settings))
    assert [str(problem) for problem in fates.problems] == [
        "a.parquet, row 1, column label: no training row has the label 'y'"
    ]


def test_a_column_of_more_labels_than_a_network_could_tell_apart_is_refused_by_name():
    error = too_many_labels("who", file="a.parquet")
    assert error.exit_code == 2
    assert str(error).splitlines() == [
        "The labels cannot be used.",
        f"  a.parquet, column who: more than {MAX_LABELS:,} different labels; is this the target, or an id?",
    ]


def strata(settings, scans, *, rejected=(), seed=0):
    fates = Fates(scans)
    for part, row in rejected:
        fates.reject(part, row, "x", "no good")
    split = FractionSplit(by="stratified", valid=0.25, test=0.25, seed=seed)
    return strata_of(fates, common_labels(fates.scans), split, Layout.of(settings))[0]


def test_a_classifier_is_cut_label_by_label_over_all_parts(make_settings, make_scans):
    settings = make_settings()
    tables = [
        {
            "id": [f"{label}{i}" for i in range(4)],
            "x": [[float(10 * part + i)] for i in range(4)],
            "label": [label] * 4,
            "fold": [0] * 4,
        }
        for part, label in enumerate("nyn")
    ]
    found = strata(settings, make_scans(settings, *tables))
    assert np.bincount(found.codes).tolist() == [6, 3, 3]
    assert not found.too_small
    # A rejected row's sequence is no longer there to be cut.
    found = strata(settings, make_scans(settings, *tables), rejected=[(1, 0), (1, 2)])
    assert len(found.digests) == len(found.codes) == 10
    assert found.too_small == {1: 2}


def test_a_labellers_class_is_the_label_of_the_fewest_rows_not_of_the_fewest_steps(make_settings, make_scans):
    settings = make_settings("labelling")
    labels = [["a", "b", *["c"] * 20]] * 4 + [["a", "b"]] * 4 + [["a"]] * 8
    table = {
        "id": [f"r{i}" for i in range(16)],
        "x": [[float(i)] * len(row) for i, row in enumerate(labels)],
        "label": labels,
        "fold": [0] * 16,
    }
    (scan,) = make_scans(settings, table)
    for seed in range(5):
        found = strata(settings, [scan], seed=seed)
        place = dict(zip(found.digests.to_pylist(), found.codes, strict=True))
        codes = [place[digest] for digest in scan.index.array("digest").to_pylist()]
        for start, stop, expected in ((0, 4, [2, 1, 1]), (4, 8, [2, 1, 1]), (8, 16, [4, 2, 2])):
            assert np.bincount(codes[start:stop], minlength=3).tolist() == expected


def test_a_label_in_too_few_sequences_is_no_fault_of_a_labellers_split(make_settings, make_scans):
    rows = {
        "id": [*"abcd"],
        "x": [[1.0], [2.0], [3.0], [4.0]],
        "label": [[x] for x in "nnny"],
        "fold": [0] * 4,
    }
    labeller = strata(make_settings("labelling"), make_scans(make_settings("labelling"), rows))
    assert not labeller.too_small
    classifier = strata(make_settings(), make_scans(make_settings(), {**rows, "label": [*"nnny"]}))
    assert classifier.too_small == {1: 1}


def test_without_a_good_row_there_is_nothing_to_cut(make_settings, make_scans):
    settings = make_settings()
    found = strata(settings, make_scans(settings, {"id": ["a"], "x": [[]], "label": [None], "fold": [0]}))
    assert (len(found.digests), len(found.codes), found.too_small) == (0, 0, {})


def tagged_rows(sequences: list[list[str]], *, first: int = 0) -> dict:
    """A labeller's rows, each another sequence."""
    n = len(sequences)
    return {
        "id": [f"r{first + i}" for i in range(n)],
        "x": [[float(first + i)] * len(row) for i, row in enumerate(sequences)],
        "label": sequences,
        "fold": [0] * n,
    }


def codes_by_digest(strata: Strata) -> dict[bytes, int]:
    return dict(zip(strata.digests.to_pylist(), strata.codes.tolist(), strict=True))


def test_with_its_pins_a_split_moves_no_sequence_when_others_are_added(make_settings, make_scans):
    settings, split = make_settings("labelling"), FractionSplit(by="stratified", valid=0.25, test=0.25)

    def strata_and_pins(*tables, pins=None):
        fates = Fates(make_scans(settings, *tables))
        return strata_of(fates, common_labels(fates.scans), split, Layout.of(settings), pins)

    old = tagged_rows([["a", "b"]] * 8 + [["a"]] * 12 + [["b", "c"]] * 4)
    # What was rare becomes the most frequent, and a label is new.
    added = tagged_rows([["c"]] * 40 + [["a", "b", "new"]] * 8, first=100)
    before, pins = strata_and_pins(old)
    assert pins.order == ("c", "b", "a")
    again, same = strata_and_pins(old, pins=pins)
    assert (codes_by_digest(again), same) == (codes_by_digest(before), pins)
    after, more = strata_and_pins(old, added, pins=pins)
    found = codes_by_digest(after)
    assert {digest: found[digest] for digest in codes_by_digest(before)} == codes_by_digest(before)
    assert more.order == ("new", "c", "b", "a")
    assert set(found.values()) == {TRAIN, VALID, TEST}
    assert {name: more.cuts[name] for name in pins.cuts} == pins.cuts
    without, _ = strata_and_pins(old, added)
    found = codes_by_digest(without)
    assert {digest: found[digest] for digest in codes_by_digest(before)} != codes_by_digest(before)


def test_a_label_that_is_gone_keeps_its_cuts_for_the_time_it_comes_back(make_settings, make_scans):
    settings, split = make_settings("labelling"), FractionSplit(by="stratified", valid=0.25, test=0.25)
    pins = Pins(("gone", "a"), {"gone": (1, 2)})
    fates = Fates(make_scans(settings, tagged_rows([["a"], ["b"]] * 4)))
    _, found = strata_of(fates, common_labels(fates.scans), split, Layout.of(settings), pins)
    assert found.order == ("b", "a", "gone")
    assert set(found.cuts) == {"a", "b", "gone"}
    assert found.cuts["gone"] == (1, 2)
