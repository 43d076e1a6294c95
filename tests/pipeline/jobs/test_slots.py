from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from conf.load import SettingsError
from pipeline.jobs.slots import Timetable, jitter, moment

BERLIN = ZoneInfo("Europe/Berlin")


def slots(cron, start, count, zone="Europe/Berlin"):
    table = Timetable.of(cron, zone)
    found = islice(table.after(moment(start, table.zone) - timedelta(seconds=1)), count)
    return [slot.astimezone(table.zone).isoformat() for slot in found]


def test_each_local_day_has_one_slot_when_the_clock_goes_forward():  # B45
    assert slots("30 2 * * *", "2026-03-28", 3) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_each_local_day_has_one_slot_when_the_clock_goes_back():  # B45
    assert slots("30 2 * * *", "2026-10-24", 3) == [
        "2026-10-24T02:30:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize("cron", ["0 3 * * *", "30 2 * * *", "0 0 * * *"])
def test_a_year_has_one_slot_for_each_local_day(cron):
    table = Timetable.of(cron, "Europe/Berlin")
    start, stop = (datetime(year, 1, 1, tzinfo=BERLIN) - timedelta(seconds=1) for year in (2026, 2027))
    days = Counter(slot.astimezone(BERLIN).date() for slot in table.between(start, stop, most=1000))
    assert len(days) == 365 and set(days.values()) == {1}


def test_slots_are_told_in_utc():
    table = Timetable.of("0 3 * * *", "Europe/Berlin")
    assert next(table.after(datetime(2026, 7, 1, tzinfo=UTC))) == datetime(2026, 7, 1, 1, tzinfo=UTC)


def test_between_takes_the_end_but_not_the_start_and_keeps_the_latest():
    table = Timetable.of("0 * * * *", "UTC")
    start, stop = datetime(2026, 1, 1, 0, tzinfo=UTC), datetime(2026, 1, 1, 4, tzinfo=UTC)
    assert [slot.hour for slot in table.between(start, stop, most=100)] == [1, 2, 3, 4]
    assert [slot.hour for slot in table.between(start, stop, most=2)] == [3, 4]
    assert [slot.hour for slot in table.between(start, stop, most=1)] == [4]
    assert table.between(stop, stop, most=5) == []


def test_explain_says_what_clock_changes_do():
    table = Timetable.of("30 2 * * *", "Europe/Berlin")
    spring = table.explain(moment("2026-03-28", BERLIN), count=3)
    assert [row["at"] for row in spring][1] == "2026-03-29T03:00:00+02:00"
    assert spring[1]["utc"] == "2026-03-29T01:00:00+00:00"
    assert "does not exist on this day" in spring[1]["note"]
    assert "from UTC+01:00 to UTC+02:00" in spring[1]["note"]
    assert spring[0]["note"] == spring[2]["note"] == ""
    autumn = table.explain(moment("2026-10-25", BERLIN), count=2)
    assert "comes twice" in autumn[0]["note"]
    assert "from UTC+02:00 to UTC+01:00" in autumn[1]["note"]


def test_explain_holds_a_slot_at_its_very_start():
    table = Timetable.of("0 0 * * *", "UTC")
    assert table.explain(datetime(2026, 1, 1, tzinfo=UTC), count=1)[0]["at"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("cron", ["", "x", "* * *", "61 * * * *", "0 0 30 2 *", "@daily"])
def test_an_expression_that_cannot_be_read_or_never_comes_is_refused(cron):
    with pytest.raises(SettingsError, match="--cron"):
        Timetable.of(cron, "UTC")


def test_an_unknown_zone_is_refused_with_the_nearest():
    with pytest.raises(SettingsError, match="Europe/Berlin"):
        Timetable.of("0 3 * * *", "Europe/Berln")


def test_a_moment_without_offset_is_of_the_schedules_zone():
    assert moment("2026-03-28T02:30", BERLIN).isoformat() == "2026-03-28T02:30:00+01:00"
    assert moment("2026-03-28T02:30Z", BERLIN).isoformat() == "2026-03-28T02:30:00+00:00"
    with pytest.raises(SettingsError, match="--from"):
        moment("tomorrow", BERLIN)


def test_jitter_is_the_same_at_every_asking_and_spread_over_its_seconds():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found = [jitter("m", start + timedelta(days=day), 100.0).total_seconds() for day in range(300)]
    assert found[0] == jitter("m", start, 100.0).total_seconds() != jitter("n", start, 100.0).total_seconds()
    assert 0 <= min(found) < 10 and 90 < max(found) < 100
    assert jitter("m", start, 0.0) == timedelta()
