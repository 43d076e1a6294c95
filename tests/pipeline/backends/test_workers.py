"""Real groups of workers under Ray Train: connected, heard through the first, started anew when lost."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import ClusterError, DataError
from pipeline.backends import workers
from pipeline.backends.cluster import Cluster, WorkerLost
from pipeline.backends.drains import ToldToEnd

pytestmark = pytest.mark.slow


def introduce(*, greeting: str, writes: bool, told_to_end: Callable[[], ToldToEnd | None]) -> Iterator[Any]:
    yield greeting, writes, json.loads(os.environ["TF_CONFIG"]), "TF_USE_LEGACY_KERAS" in os.environ


def refuse(*, writes: bool, told_to_end: Callable[[], ToldToEnd | None]) -> Iterator[Any]:
    if not writes:
        raise DataError("Bad rows.", hint="Mend them.")
    yield 1
    time.sleep(600)


def err(*, writes: bool, told_to_end: Callable[[], ToldToEnd | None]) -> Iterator[Any]:
    yield 1
    raise TypeError("an oversight")


def fall(
    *, folder: Path, times: int, writes: bool, told_to_end: Callable[[], ToldToEnd | None]
) -> Iterator[Any]:
    """The second one kills itself; the first one waits for it, as for a part of the gradient."""
    done = folder / "falls"
    falls = len(done.read_text("utf8")) if done.exists() else 0
    yield falls
    if falls == times:
        return
    heard = folder / f"heard-{falls}"
    if writes:
        heard.touch()
    else:
        while not heard.exists():
            time.sleep(0.05)
        done.write_text("x" * (falls + 1), "utf8")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def leave(*, folder: Path, writes: bool, told_to_end: Callable[[], ToldToEnd | None]) -> Iterator[Any]:
    """The first one ends when it is told to; started again, it says so."""
    left = folder / "left"
    yield "again" if left.exists() else os.getpid()
    if left.exists():
        return
    while not (told_to_end() or left.exists()):
        time.sleep(0.05)
    left.touch()
    raise WorkerLost("told to end")


def hang(
    *, folder: Path, times: int, writes: bool, told_to_end: Callable[[], ToldToEnd | None]
) -> Iterator[Any]:
    """The second one is stopped as by a dead disk; the first one waits for it, and yields how often."""
    done = folder / "hangs"
    hangs = len(done.read_text("utf8")) if done.exists() else 0
    yield hangs
    if hangs == times:
        return
    heard = folder / f"heard-{hangs}"
    if writes:
        heard.touch()
    else:
        while not heard.exists():
            time.sleep(0.05)
        done.write_text("x" * (hangs + 1), "utf8")
        with (folder / "stopped").open("a", encoding="utf8") as file:
            file.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)


# First, since a process can be attached to one Ray only and the fixture stays.
def test_more_workers_than_there_is_room_for_fail_at_once() -> None:
    begun = time.monotonic()
    wanted = r"train\.nodes needs 900 times 1 CPUs and 0 GPUs on one machine; there is room for \d+ on"
    with pytest.raises(ClusterError, match=wanted), Cluster(address=None, num_nodes=900) as cluster:
        cluster.worker()
    assert time.monotonic() - begun < 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(address=None, num_nodes=2) as attached:
        yield attached


@pytest.fixture
def stream(cluster: Cluster, tmp_path: Path) -> Callable[..., tuple[list[Any], list[str]]]:
    """The items of a function on two workers, and the warnings meanwhile."""

    def start(function: Callable[..., Iterator[Any]], **kwargs: Any) -> tuple[list[Any], list[str]]:
        warnings: list[str] = []
        items = workers.stream(
            cluster, function, scratch=tmp_path / "scratch", max_restarts=1, warn=warnings.append, **kwargs
        )
        found = list(items)
        assert not (tmp_path / "scratch").exists()
        return found, warnings

    return start


def test_each_knows_the_others_and_the_first_one_is_heard(stream: Any) -> None:
    found, warnings = stream(introduce, greeting="hello")
    assert len(found) == 1
    greeting, writes, environment, legacy = found[0]
    assert (greeting, writes, legacy) == ("hello", True, False)
    assert environment["task"] == {"type": "worker", "index": 0}
    assert len(set(environment["cluster"]["worker"])) == 2
    assert not warnings


def test_an_error_of_ours_on_any_worker_comes_out_whole_and_ends_all(stream: Any) -> None:
    with pytest.raises(DataError, match="Bad rows") as caught:
        stream(refuse)
    assert caught.value.hint == "Mend them."


@pytest.mark.thorough
def test_a_mistake_is_told_with_its_place_and_not_tried_again(stream: Any) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in err.*an oversight"):
        stream(err)


@pytest.mark.thorough
def test_when_one_is_killed_all_start_again(stream: Any, tmp_path: Path) -> None:
    found, warnings = stream(fall, folder=tmp_path, times=1)
    assert found == [0, 1]
    assert warnings == ["Training worker 1 died. All workers start again from the last checkpoint."]


@pytest.mark.fault("out of memory, or killed for it")
@pytest.mark.thorough
def test_workers_that_keep_dying_end_it(stream: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="lost more than 1 times"):
        stream(fall, folder=tmp_path, times=9)


@pytest.mark.fault("a worker that hangs")
def test_when_one_hangs_all_are_ended_and_start_again(stream: Any, tmp_path: Path) -> None:
    found, warnings = stream(hang, folder=tmp_path, times=1, patience=3.0)
    assert found == [0, 1]
    assert warnings == [
        "Training workers gave no sign of life for 3 s. All workers start again from the last checkpoint."
    ]
    (stopped,) = map(int, (tmp_path / "stopped").read_text("utf8").split())
    assert not Path(f"/proc/{stopped}").exists()


@pytest.mark.fault("a worker that hangs")
@pytest.mark.thorough
def test_workers_that_keep_hanging_end_it(stream: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"of life for 3 s\. Workers were lost more than 1") as caught:
        stream(hang, folder=tmp_path, times=9, patience=3.0)
    assert "train.hang_seconds" in caught.value.hint


@pytest.mark.thorough
def test_one_that_gets_sigterm_may_tidy_up_first(cluster: Cluster, tmp_path: Path) -> None:
    warnings: list[str] = []
    items = workers.stream(
        cluster,
        leave,
        scratch=tmp_path / "scratch",
        max_restarts=1,
        warn=warnings.append,
        folder=tmp_path,
    )
    os.kill(next(items), signal.SIGTERM)
    assert list(items) == ["again"]
    assert len(warnings) == 1
    assert "told to end" in warnings[0]


@pytest.mark.parametrize(
    ("machines", "wanted", "expected"),
    [([4, 4], "auto", 4), ([4, 1], "auto", 2), ([1], "auto", 0), ([0, 0], "auto", 0), ([8, 2], 2, 2)],
)
def test_workers_get_as_many_gpus_as_all_can_have(
    monkeypatch: pytest.MonkeyPatch, machines: list[int], wanted: int | str, expected: int
) -> None:
    cluster = Cluster(address=None, num_gpus=wanted, num_nodes=2)
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"CPU": 8.0, "GPU": float(each)} for each in machines])
    assert cluster.resources_each() == {"CPU": 1, "GPU": expected}
