"""Who is at work on a run: one holder at a time, and whoever is gone is found to be."""

import json
import threading
import time

import pytest

from pipeline.backends import claims
from pipeline.backends.buckets import Bucket
from pipeline.backends.claims import Watch, claimed

KEY = "words/run/claim.json"


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket in which claims are renewed, and given up, fast."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.1)
    return Bucket(object_store)


def leave_claim(bucket: Bucket, place: str) -> None:
    """What a process leaves that is killed while it holds the claim."""
    holder = {"who": "ann@far", "place": place, "token": "t", "since": "2026-01-01T00:00:00+00:00"}
    bucket.put(KEY, json.dumps(holder).encode())


def test_one_that_is_renewed_is_left_to_its_holder(bucket: Bucket) -> None:
    notes: list[str] = []
    with claimed(bucket, KEY, place="/a") as first:
        assert first
        with claimed(bucket, KEY, place="/b", note=notes.append) as second:
            assert not second
            assert first.is_held()
    assert len(notes) == 1
    assert f"{KEY} is held by" in notes[0]
    assert bucket.get(KEY) is None
    with claimed(bucket, KEY, place="/b") as third:
        assert third


def test_one_that_nobody_renews_is_taken_once_it_was_watched_for_long_enough(bucket: Bucket) -> None:
    leave_claim(bucket, "far boot /a")
    notes: list[str] = []
    began = time.monotonic()
    with claimed(bucket, KEY, place="/b", note=notes.append) as ours:
        assert ours
    # The store tells the age of an object in whole seconds.
    assert time.monotonic() - began > 0.5
    assert "ann@far" in notes[0]


def test_one_from_the_same_place_is_of_a_process_that_is_gone(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 3600.0)
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "near")
    leave_claim(bucket, f"near {claims._boot()} /a")
    with claimed(bucket, KEY, place="/a") as ours:
        assert ours


def test_a_holder_that_lost_it_does_not_remove_that_of_the_next(bucket: Bucket) -> None:
    with claimed(bucket, KEY, place="/a") as ours:
        assert ours
        leave_claim(bucket, "far boot /b")
        time.sleep(0.7)
        assert not ours.is_held()
    found = bucket.get(KEY)
    assert found is not None
    assert json.loads(found.content)["who"] == "ann@far"


def test_of_many_that_ask_at_once_one_gets_it(bucket: Bucket) -> None:
    held = []
    done = threading.Barrier(5, timeout=60)

    def ask(number: int) -> None:
        with claimed(bucket, KEY, place=f"/{number}") as ours:
            held.append(ours is not None)
            done.wait()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False] * 4 + [True]


def test_one_that_is_watched_is_held_for_as_long_as_somebody_renews_it(bucket: Bucket) -> None:
    watch = Watch(bucket, KEY)
    assert not watch.is_held()
    with claimed(bucket, KEY, place="/a") as ours:
        assert ours
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert watch.is_held()
            time.sleep(0.1)
    assert not watch.is_held()


def test_one_that_is_watched_and_that_nobody_renews_is_not_held(bucket: Bucket) -> None:
    leave_claim(bucket, "far boot /a")
    watch = Watch(bucket, KEY)
    assert watch.is_held()
    time.sleep(2.1)
    assert not watch.is_held()
    # Nor for one who has only just begun to watch: the store's own clock says its age, in whole seconds.
    time.sleep(1.0)
    assert not Watch(bucket, KEY).is_held()
