"""Which rows train: from their content alone, in the shares that were asked for."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.splits import TEST, TRAIN, VALID, assign, hashes, named_values, rarest, stratify
from conf.schema import ColumnSplit, FractionSplit


def digests_of(names) -> pa.FixedSizeBinaryArray:
    return pa.array([blake2b(str(name).encode(), digest_size=16).digest() for name in names], pa.binary(16))


NO_KEYS = pa.nulls(0, pa.string())


def by_hash(names, **settings) -> np.ndarray:
    split = FractionSplit(by="hash", valid=0.2, test=0.1, **settings)
    return assign(split, keys=NO_KEYS, digests=digests_of(names))


def test_a_column_names_who_is_held_out_and_the_rest_trains():
    split = ColumnSplit(column="fold", valid=[1, "b"], test=[True])
    keys = pa.array(["1", "b", "true", "True", "7", ""])
    codes = assign(split, keys=keys, digests=digests_of(range(6)))
    assert codes.tolist() == [VALID, VALID, TEST, TRAIN, TRAIN, TRAIN]
    assert named_values(split) == ("true", "1", "b")


def test_a_share_of_the_columns_other_rows_chooses_the_epoch():
    split = ColumnSplit(column="fold", valid=0.25, test=["held"])
    keys = pa.array(["held", *["rest"] * 3999])
    codes = assign(split, keys=keys, digests=digests_of(range(4000)))
    assert codes[0] == TEST
    assert (codes == TEST).sum() == 1
    # Four standard deviations of a binomial.
    assert abs((codes == VALID).mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_hashes_hold_out_about_the_shares_that_were_asked_for():
    codes = by_hash(range(20_000))
    for code, share in ((TEST, 0.1), (VALID, 0.2), (TRAIN, 0.7)):
        assert abs((codes == code).mean() - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


@given(st.lists(st.integers(0, 1000), unique=True, min_size=1), st.randoms())
def test_a_row_keeps_its_split_whatever_stands_beside_or_before_it(names, random):
    shuffled = random.sample(names, len(names))
    alone = {name: by_hash([name])[0] for name in names}
    assert by_hash([*shuffled, 2000, 2001])[:-2].tolist() == [alone[name] for name in shuffled]


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    first, again, other = by_hash(range(200)), by_hash(range(200)), by_hash(range(200), seed=1)
    assert (first == again).all()
    assert (first != other).any()
    assert len(set(hashes(digests_of(range(200)), seed=0).tolist())) == 200


def stratified(names, classes, *, task="classification", **settings):
    split = FractionSplit(by="stratified", valid=0.2, test=0.1, **settings)
    strata = stratify(split, digests=digests_of(names), classes=np.array(classes), task=task)
    return assign(split, keys=NO_KEYS, digests=digests_of(names), strata=strata), strata


def test_every_class_is_cut_in_exact_proportions():
    classes = np.array([0] * 100 + [1] * 50 + [2] * 10)
    codes, strata = stratified(range(160), classes)
    for name, (test, valid) in {0: (10, 20), 1: (5, 10), 2: (1, 2)}.items():
        of_class = codes[classes == name]
        assert ((of_class == TEST).sum(), (of_class == VALID).sum()) == (test, valid)
    assert not strata.too_small


@pytest.mark.parametrize("count", range(3, 12))
def test_a_small_class_is_in_all_three_splits(count):
    codes, _ = stratified(range(100 + count), [0] * 100 + [1] * count)
    assert set(codes[100:].tolist()) == {TRAIN, VALID, TEST}


def test_a_class_of_one_or_two_is_named_for_a_classifier_and_trains_for_a_labeller():
    names, classes = range(13), [0] * 10 + [1, 1, 2]
    _, strata = stratified(names, classes)
    assert strata.too_small == {1: 2, 2: 1}
    codes, strata = stratified(names, classes, task="labelling")
    assert not strata.too_small
    assert (codes[10:] == TRAIN).all()


def test_equal_sequences_stay_together_when_stratified():
    names = [*range(60), *range(30)]
    codes, _ = stratified(names, [0] * 60 + [1] * 30)
    assert (codes[:30] == codes[60:]).all()


def test_the_order_of_the_rows_has_no_say_in_the_strata():
    order = np.random.default_rng(0).permutation(90)
    classes = np.arange(90) % 4
    straight, _ = stratified(range(90), classes)
    other, _ = stratified(order.tolist(), classes[order])
    assert (straight[order] == other).all()


def test_the_rarest_label_of_a_sequence_is_that_of_the_fewest_rows():
    labels, lengths = np.array([0, 0, 1, 2, 0, 1]), np.array([2, 2, 2])
    assert rarest(labels, lengths, np.array([9, 4, 2])).tolist() == [0, 2, 1]
    # Of equally rare labels the first, so that it is always the same one.
    assert rarest(np.array([2, 1]), np.array([2]), np.array([9, 4, 4])).tolist() == [1]


def test_a_rows_place_is_the_same_in_every_version():
    # Written down, not computed: another order would carry tested rows into training.
    assert hashes(digests_of("ab"), seed=0).tolist() == [13379500937472600622, 9749739492263898360]
    assert hashes(digests_of("ab"), seed=7).tolist() == [12584303261940792350, 349071885799387522]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.4), st.floats(0.01, 0.4), st.floats(0.01, 0.19))
def test_test_comes_first_in_the_order_of_hashes_then_valid_then_train(seed, test, valid, more):
    digests = digests_of(range(50))
    places = hashes(digests, seed=seed)

    def codes(share):
        return assign(
            FractionSplit(by="hash", valid=valid, test=share, seed=seed), keys=NO_KEYS, digests=digests
        )

    expected = [TEST if at < test else VALID if at < test + valid else TRAIN for at in places / 2.0**64]
    assert codes(test).tolist() == expected
    assert set(np.flatnonzero(codes(test) == TEST)) <= set(np.flatnonzero(codes(test + more) == TEST))


@given(
    st.lists(st.integers(3, 40), min_size=1, max_size=4),
    st.tuples(st.floats(0.01, 0.98), st.floats(0.01, 0.98)).filter(lambda shares: sum(shares) < 0.99),
)
def test_each_class_has_a_row_in_each_split_and_the_nearest_number_otherwise(counts, shares):
    classes = np.repeat(np.arange(len(counts)), counts)
    digests = digests_of(range(len(classes)))
    split = FractionSplit(by="stratified", test=shares[0], valid=shares[1])
    strata = stratify(split, digests=digests, classes=classes, task="classification")
    codes = assign(split, keys=NO_KEYS, digests=digests, strata=strata)
    for name, count in enumerate(counts):
        train, valid, test = np.bincount(codes[classes == name], minlength=3)
        assert min(train, valid, test) >= 1
        for held_out, share in ((test, shares[0]), (valid, shares[1])):
            assert train == 1 or held_out == 1 or abs(held_out - count * share) <= 0.5 + 1e-9


def test_no_rows_have_no_split():
    none = digests_of([])
    split = FractionSplit(by="stratified", valid=0.2, test=0.1)
    strata = stratify(split, digests=none, classes=np.array([], int), task="classification")
    assert not strata.too_small
    for each in (strata, None):
        assert assign(split, keys=NO_KEYS, digests=none, strata=each).tolist() == []
