"""Which rows train: from their content alone, in the shares that were asked for."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.splits import (
    IN_GAP,
    NOT_A_TIME,
    TEST,
    TRAIN,
    VALID,
    assign,
    bounds_fault,
    hashes,
    named_values,
    rarest,
    stratify,
)
from conf.schema import ColumnSplit, FractionSplit, TimeSplit


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


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_class_that_is_pinned_keeps_its_rows_where_they_are_and_others_join_them(num_old, num_new, seed):
    split = FractionSplit(by="stratified", valid=0.2, test=0.1, seed=seed)

    def strata(size, pinned=None):
        classes = np.arange(size) % 2
        return stratify(
            split, digests=digests_of(range(size)), classes=classes, task="labelling", pinned=pinned
        )

    old, both = strata(num_old), digests_of(range(num_old + num_new))
    new = strata(num_old + num_new, old.cuts)
    codes = assign(split, keys=NO_KEYS, digests=both, strata=new)
    assert (
        codes[:num_old].tolist()
        == assign(split, keys=NO_KEYS, digests=both.slice(0, num_old), strata=old).tolist()
    )
    for name, cuts in old.cuts.items():
        assert new.cuts[name] == cuts
        places = hashes(both, seed=seed)[name::2].tolist()
        expected = [TEST if at < cuts[0] else VALID if at < cuts[1] else TRAIN for at in places]
        assert codes[name::2].tolist() == expected


def test_no_rows_have_no_split():
    none = digests_of([])
    split = FractionSplit(by="stratified", valid=0.2, test=0.1)
    strata = stratify(split, digests=none, classes=np.array([], int), task="classification")
    assert not strata.too_small
    for each in (strata, None):
        assert assign(split, keys=NO_KEYS, digests=none, strata=each).tolist() == []


def by_group(names, **settings) -> list[int]:
    split = FractionSplit(by="group", column="who", **{"valid": 0.2, "test": 0.1, **settings})
    # Other digests in every call: the content has no say.
    digests = digests_of(np.random.default_rng().integers(0, 2**62, len(names)))
    return assign(split, keys=pa.array(names, pa.string()), digests=digests).tolist()


GROUPS = st.lists(st.sampled_from([f"group {i}" for i in range(30)]), min_size=1, max_size=60)


@given(GROUPS, GROUPS, st.randoms())
@settings(deadline=None, max_examples=50)
def test_a_group_is_in_one_split_whatever_rows_are_added_or_moved(names, added, random):
    of_group = dict(zip(names, by_group(names), strict=True))
    together = random.sample([*names, *added], len(names) + len(added))
    codes = by_group(together)
    assert len(set(zip(together, codes, strict=True))) == len(set(together))
    assert [code for name, code in zip(together, codes, strict=True) if name in of_group] == [
        of_group[name] for name in together if name in of_group
    ]


def test_groups_are_held_out_in_about_the_shares_that_were_asked_for_and_the_seed_chooses_which():
    names = [f"group {i}" for i in range(20_000)]
    codes = np.array(by_group(names))
    for code, share in ((TEST, 0.1), (VALID, 0.2)):
        assert abs((codes == code).mean() - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    assert by_group(names, seed=1) != codes.tolist()


def by_time(values, valid, test, gap="0") -> list[int]:
    split = TimeSplit(by="time", column="t", valid=valid, test=test, gap=gap)
    assert bounds_fault(split) == ""
    return assign(split, keys=pa.array(values, pa.string()), digests=digests_of(values)).tolist()


def test_a_row_at_a_boundary_is_in_the_later_split():
    values = [
        "2024-04-30T23:59:59.999999999",
        "2024-05-01",
        "2024-05-31T23:59",
        "2024-06-01T00:00",
        "2025-01-01",
    ]
    assert by_time(values, "2024-05-01", "2024-06-01") == [TRAIN, VALID, VALID, TEST, TEST]
    assert by_time(["-1", "6.9", "7", "8.99", "9", "1e3"], 7, 9) == [TRAIN, TRAIN, VALID, VALID, TEST, TEST]
    assert by_time(["9007199254740992", "9007199254740993", "9007199254740994"], 2**53 + 1, 2**53 + 2) == [
        TRAIN,
        VALID,
        TEST,
    ]


def test_instants_are_compared_whatever_zone_they_are_written_in():
    values = ["2024-05-01T01:00:00+02:00", "2024-05-01T00:00:00Z", "2024-04-30T20:00:00-05:00"]
    assert by_time(values, "2024-05-01T00:00:00Z", "2024-06-01T00:00:00Z") == [TRAIN, VALID, VALID]


@pytest.mark.parametrize("gap", ["2d", "2 d", "48h", "2880m", "172800"])
def test_rows_in_a_gap_before_either_boundary_are_left_out(gap):
    days = [f"2024-05-{day:02}" for day in range(1, 13)]
    expected = [TRAIN] * 3 + [IN_GAP] * 2 + [VALID] * 3 + [IN_GAP] * 2 + [TEST] * 2
    assert by_time(days, "2024-05-06", "2024-05-11", gap) == expected


def test_the_row_that_is_as_far_off_as_the_gap_is_in_it():
    values = ["2024-05-03T23:59:59.9", "2024-05-04", "2024-05-05T23:59:59.9", "2024-05-06"]
    assert by_time(values, "2024-05-06", "2024-06-01", "2d") == [TRAIN, IN_GAP, IN_GAP, VALID]


@pytest.mark.parametrize("valid", ["2024-05-01T00:00:10", "2024-05-01T00:00:10.7"])
def test_a_gap_may_be_a_part_of_a_second(valid):
    at = float(valid[17:])
    values = [f"2024-05-01T00:00:{at - before:05.2f}" for before in (0.51, 0.5, 0.49, 0.01, 0)]
    assert by_time(values, valid, "2024-06-01", "0.5s") == [TRAIN, IN_GAP, IN_GAP, IN_GAP, VALID]


def test_a_gap_in_the_columns_own_unit():
    codes = by_time([str(i) for i in range(12)], 5, 10, "2.5")
    assert codes == [TRAIN] * 3 + [IN_GAP] * 2 + [VALID] * 3 + [IN_GAP] * 2 + [TEST] * 2


def test_a_gap_longer_than_the_time_for_choosing_leaves_none_to_choose():
    assert by_time(["1", "4", "5", "9", "10"], 5, 10, "7") == [IN_GAP] * 4 + [TEST]


def test_what_cannot_be_compared_with_the_boundaries_is_no_time():
    values = ["soon", "", "nan", "7", "2024-05-01", "2024-05-01T00:00:00Z", "2024-02-30"]
    numbers, local, zoned = (
        by_time(values, *bounds)
        for bounds in ((5, 9), ("2024-01-01", "2024-06-01"), ("2024-01-01T00:00Z", "2024-06-01T00:00Z"))
    )
    assert numbers == [NOT_A_TIME] * 3 + [VALID] + [NOT_A_TIME] * 3
    assert local == [NOT_A_TIME] * 4 + [VALID] + [NOT_A_TIME] * 2
    assert zoned == [NOT_A_TIME] * 5 + [VALID] + [NOT_A_TIME]


@pytest.mark.parametrize(
    ("valid", "test", "fault"),
    [
        (5, 9, ""),
        ("2024-01-01", "2024-01-01T00:00:01", ""),
        (9, 5, "valid must be earlier than test"),
        ("2024-06-01", "2024-05-01", "valid must be earlier than test"),
        ("2024-05-01T00:00:00Z", "2024-05-01T01:00:00+02:00", "valid must be earlier than test"),
        (5, "5.0", "valid and test are the same instant"),
        ("2024-05-01T00:00:00Z", "2024-05-01T02:00:00+02:00", "valid and test are the same instant"),
        ("2024-05-01", "2024-06-01T00:00:00Z", "both times with a zone, or both times without"),
        (5, "2024-06-01", "must both be numbers"),
        ("soon", "later", "expected two dates, times or numbers"),
        ("", 5, "expected two dates, times or numbers"),
    ],
)
def test_boundaries_that_cannot_be_compared_say_why(valid, test, fault):
    found = bounds_fault(TimeSplit(by="time", column="t", valid=valid, test=test))
    assert fault in found
    assert bool(found) == bool(fault)


NUMBERS = st.integers(-50, 50)


@given(
    st.lists(NUMBERS, min_size=1), st.lists(NUMBERS, min_size=2, max_size=2, unique=True), st.integers(0, 20)
)
@settings(deadline=None, max_examples=60)
def test_training_ends_a_gap_before_choosing_begins_and_that_a_gap_before_testing(values, bounds, gap):
    valid, test = sorted(bounds)
    expected = [
        TEST if at >= test
        else IN_GAP if at >= test - gap
        else VALID if at >= valid
        else IN_GAP if at >= valid - gap
        else TRAIN
        for at in values
    ]  # fmt: skip
    assert by_time([str(value) for value in values], valid, test, str(gap)) == expected
