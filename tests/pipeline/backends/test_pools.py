"""Two real processes that share jobs out, one of which is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataError
from pipeline.backends.cluster import Cluster, WorkerLost
from pipeline.backends.pools import Begun, Ended, Item, Pool

pytestmark = pytest.mark.slow


def count(
    *, job: int, folder: Path, deaths: int = 0, refuses: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Three numbers; the process dies in the middle so many times."""
    for number in range(3):
        yield job, number, os.getpid()
        marks = list(folder.glob(f"{job}-*"))
        if number == 1 and len(marks) < deaths:
            (folder / f"{job}-{len(marks)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if refuses:
        raise DataError("Bad rows.")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(address=None, num_gpus="auto") as cluster:
        yield cluster


def test_jobs_of_a_dead_process_begin_again(cluster: Cluster, tmp_path: Path) -> None:
    warnings: list[str] = []

    def kwargs(job: int) -> dict[str, Any]:
        return {"job": job, "folder": tmp_path, "deaths": int(job == 1), "refuses": job == 3}

    said: dict[int, list[int]] = {}
    errors: dict[int, Any] = {}
    pids = set()
    for event in Pool(cluster, warn=warnings.append).share(count, range(5), kwargs, processes=2):
        if isinstance(event, Begun):
            said[event.job] = []
        elif isinstance(event, Item):
            job, number, pid = event.value
            assert job == event.job
            said[job].append(number)
            pids.add(pid)
        elif isinstance(event, Ended):
            errors[event.job] = event.error
    assert said == {job: [0, 1, 2] for job in range(5)}
    assert [job for job, error in sorted(errors.items()) if error] == [3]
    assert isinstance(errors[3], DataError)
    assert len(pids) >= 2
    assert len(warnings) == 1
    assert "answered again" in warnings[0]
    cluster.release_worker()


def test_a_job_that_kills_every_process_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    pool = Pool(cluster, max_restarts=1, warn=lambda text: None)
    with pytest.raises(WorkerLost):
        list(pool.share(count, [0], lambda job: {"job": job, "folder": tmp_path, "deaths": 9}, processes=1))
