from datetime import UTC, date, datetime, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.instants import Kind, order_values, parse_numbers, shown


def kinds(column):
    return [Kind(kind).name for kind in order_values(column).kinds.tolist()]


def shown_all(column):
    found = order_values(column)
    triples = zip(found.kinds.tolist(), found.whole.tolist(), found.rest.tolist(), strict=True)
    return [shown(Kind(kind), whole, rest) for kind, whole, rest in triples]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("7", "NUMBER"),
        (" +7 ", "NUMBER"),
        ("-1.5e3", "NUMBER"),
        (".5", "NUMBER"),
        ("2024", "NUMBER"),
        ("2024-01-01", "LOCAL"),
        ("2024-01-01 12:00", "LOCAL"),
        ("2024-01-01T12:00:00Z", "ZONED"),
        ("2024-01-01T12:00:00.123456789+0200", "ZONED"),
        ("2024-01-01T12:00-05", "ZONED"),
        ("9999-12-31", "LOCAL"),
        ("", "MISSING"),
        ("  ", "MISSING"),
        (None, "MISSING"),
        ("nan", "OTHER"),
        ("inf", "OTHER"),
        ("0x1F", "OTHER"),
        ("1_000", "OTHER"),
        ("9" * 5000, "OTHER"),
        ("2024-02-30", "OTHER"),
        ("2023-02-29", "OTHER"),
        ("0000-01-01", "OTHER"),
        ("2024-01-01T24:00:00", "OTHER"),
        ("2024-01-01T12:00:60", "OTHER"),
        ("2024-01-01T12:00:00.1234567891", "OTHER"),
        ("2024-01-01T12:00:00+25:00", "OTHER"),
        ("soon", "OTHER"),
    ],
)
def test_a_text_is_a_number_an_instant_or_neither(text, kind):
    assert kinds(pa.array([text], pa.string())) == [kind]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, None], pa.uint8()), "NUMBER"),
        (pa.array([1.5, None]), "NUMBER"),
        (pa.array([Decimal("1.5"), None]), "NUMBER"),
        (pa.array(["5", None]).dictionary_encode(), "NUMBER"),
        (pa.array([date(2024, 1, 1), None]), "LOCAL"),
        (pa.array([datetime(2024, 1, 1), None]), "LOCAL"),
        (pa.array([datetime(2024, 1, 1), None], pa.timestamp("s", "Europe/Berlin")), "ZONED"),
        (pa.array([True, None]), "OTHER"),
        (pa.array([float("nan"), None]), "OTHER"),
    ],
)
def test_typed_values_are_what_their_type_says(column, kind):
    assert kinds(column) == [kind, "MISSING"]


@pytest.mark.parametrize("number", [0, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**30 + 1, -(10**30) - 1])
def test_whole_numbers_are_exact_as_text_and_as_integers(number):
    assert shown_all(pa.array([str(number)])) == [str(number)]
    if -(2**63) <= number < 2**64:
        kind = pa.int64() if number < 2**63 else pa.uint64()
        assert shown_all(pa.array([number], kind)) == [str(number)]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**100), 2**100) | st.integers(2**53 - 3, 2**53 + 3) | st.floats(-1e18, 1e18)))
def test_numbers_sort_exactly_whatever_they_are_spelt_as(numbers):
    found = order_values(pa.array(list(map(str, numbers)), pa.string()))
    order = np.lexsort((found.rest, found.whole)).tolist()
    assert [numbers[place] for place in order] == sorted(numbers)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_before_1970_and_of_any_unit_are_the_same(unit):
    column = pa.array([-1, 10**9], pa.int64()).cast(pa.timestamp("s", "UTC"))
    assert shown_all(column.cast(pa.timestamp(unit, "UTC"))) == [
        "1969-12-31T23:59:59Z",
        "2001-09-09T01:46:40Z",
    ]


def test_fractions_are_kept_to_nanoseconds():
    texts = ["1969-12-31T23:59:59.999999999", "1970-01-01T00:00:00.5"]
    assert shown_all(pa.array(texts)) == texts
    found = order_values(pa.array(texts))
    assert (found.whole.tolist(), found.rest.tolist()) == ([-1.0, 0.0], [999_999_999, 500_000_000])


@settings(deadline=None)
@given(st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(ZoneInfo("Europe/Berlin"))))
def test_offsets_are_taken_off(moment):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    if moment.utcoffset().total_seconds() % 60 or moment.utcoffset().microseconds:
        return
    moment = moment.astimezone(timezone(moment.utcoffset()))
    whole = moment - epoch
    found = order_values(pa.array([moment.isoformat()]))
    assert found.whole.tolist() == [whole.days * 86400 + whole.seconds]
    assert found.rest.tolist() == [whole.microseconds * 1000]
    assert found.kinds.tolist() == [Kind.ZONED]


def test_instants_of_any_year_are_told_from_numbers_and_from_nothing():
    found = order_values(pa.array(["0001-01-01", "2261-01-01", "9999-12-31", "7", None]))
    assert found.kinds.tolist() == [Kind.LOCAL, Kind.LOCAL, Kind.LOCAL, Kind.NUMBER, Kind.MISSING]
    assert found.whole[0] < found.whole[1] < found.whole[2]


def test_numbers_are_trimmed_and_what_spells_none_is_told():
    numbers, wrong = parse_numbers(
        pa.array([" 1 ", "+.5", "abc", "", None, "1e400", "-inf", "nan(1)", "0x1F"])
    )
    assert numbers.to_pylist() == [1, 0.5, None, None, None, float("inf"), float("-inf"), None, None]
    assert np.flatnonzero(wrong).tolist() == [2, 7, 8]


def test_no_values_at_all_are_fine():
    assert kinds(pa.array([], pa.string())) == []
    assert kinds(pa.nulls(2)) == ["MISSING", "MISSING"]
