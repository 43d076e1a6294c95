import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.served.windows import windows

LENGTHS = st.lists(st.integers(1, 60), max_size=6)
SIZES = st.integers(1, 20).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most - 1)))


def test_a_long_sequence_is_read_in_windows_that_share_steps():
    found = windows(np.array([10, 3]), 5, 2)
    assert found.owners.tolist() == [0, 0, 0, 0, 1]
    assert list(zip(found.kept_starts, found.kept_stops, strict=True)) == [
        (0, 2),
        (2, 5),
        (5, 7),
        (7, 10),
        (10, 13),
    ]
    assert list(zip(found.starts, found.stops, strict=True)) == [(0, 3), (1, 6), (4, 8), (6, 10), (10, 13)]


@given(LENGTHS, SIZES)
def test_every_step_is_kept_by_one_window_that_reads_it(lengths, sizes):
    most, overlap = sizes
    found = windows(np.array(lengths, int), most, overlap)
    steps = [step for a, b in zip(found.kept_starts, found.kept_stops, strict=True) for step in range(a, b)]
    assert steps == list(range(sum(lengths)))
    assert (found.kept > 0).all()
    assert (found.starts <= found.kept_starts).all()
    assert (found.kept_stops <= found.stops).all()
    assert (found.lengths <= most).all()


@given(LENGTHS, SIZES)
def test_a_sequence_has_no_more_windows_than_it_needs_and_they_are_nearly_equal(lengths, sizes):
    most, overlap = sizes
    found = windows(np.array(lengths, int), most, overlap)
    for sequence, length in enumerate(lengths):
        kept = found.kept[found.owners == sequence]
        assert len(kept) == (1 if length <= most else -(-length // (most - overlap)))
        assert kept.max() - kept.min() <= 1


@given(LENGTHS, SIZES)
def test_windows_read_half_the_overlap_on_either_side_and_stay_in_their_sequence(lengths, sizes):
    most, overlap = sizes
    found = windows(np.array(lengths, int), most, overlap)
    ends = np.cumsum(np.array(lengths, int))
    for at, owner in enumerate(found.owners):
        first = ends[owner] - lengths[owner]
        assert found.starts[at] == max(first, found.kept_starts[at] - overlap // 2)
        assert found.stops[at] == min(ends[owner], found.kept_stops[at] + overlap - overlap // 2)


@pytest.mark.parametrize("most", [None, 9])
def test_sequences_that_are_short_enough_stay_whole(most):
    found = windows(np.array([9, 1, 4]), most, 3)
    assert found.owners.tolist() == [0, 1, 2]
    assert found.starts.tolist() == found.kept_starts.tolist() == [0, 9, 10]
    assert found.stops.tolist() == found.kept_stops.tolist() == [9, 10, 14]


def test_no_sequences_have_no_windows():
    assert len(windows(np.array([], int), 5, 2).owners) == 0
