"""A log that is followed over broken streams, until the job's status says that it ended."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from components.errors import ClusterError
from pipeline.jobs import followers
from pipeline.jobs.dashboards import FAILED, RUNNING, SUCCEEDED, Job, Unanswered
from pipeline.jobs.followers import follow

LOG = "one\ntwo\nthree\n\nfive\nno end of line"


def job(status: str, code: int | None = None) -> Job:
    return Job("j", status, "", code, None, None, "", {}, {})


class Flaky:
    """A cluster whose streams give so many characters and then end, or break; the job ends after them."""

    address = "http://flaky"

    def __init__(
        self, streams: list[tuple[int, bool]], *, answers: Iterator[Job | None] | None = None
    ) -> None:
        self.streams, self.answers, self.opened = streams, answers, 0

    async def tail(self, name: str) -> AsyncIterator[str]:
        self.opened += 1
        if self.opened > len(self.streams):
            await asyncio.sleep(3600)
        length, breaks = self.streams[self.opened - 1]
        for start in range(0, length, 4):
            yield LOG[start : min(start + 4, length)]
        if breaks:
            raise Unanswered("broken")

    def job(self, name: str) -> Job | None:
        if self.answers is not None:
            return next(self.answers)
        return job(SUCCEEDED if self.opened > len(self.streams) else RUNNING, 0)

    def log(self, name: str) -> str:
        return LOG


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "RECONNECT_SECONDS"):
        monkeypatch.setattr(followers, name, 0.02)


@pytest.mark.parametrize(
    "streams",
    [
        [(len(LOG), False)],
        [(6, True), (6, False), (13, True)],
        [(0, False), (len(LOG), True), (3, True)],
        [],
    ],
)
def test_every_line_is_said_once_whatever_becomes_of_the_streams(streams: list[tuple[int, bool]]) -> None:
    said: list[str] = []
    ended = follow(Flaky(streams), "j", say=said.append)
    assert ended.status == SUCCEEDED
    assert said == LOG.split("\n")


def test_a_stream_that_ends_does_not_end_the_job() -> None:
    said: list[str] = []
    answers = iter([*[job(RUNNING)] * 5, job(FAILED, 7)])
    source = Flaky([(4, False)] * 9, answers=answers)
    assert follow(source, "j", say=said.append).exit_code == 7
    assert source.opened > 1
    assert said == LOG.split("\n")


def test_a_cluster_that_does_not_answer_for_long_is_lost() -> None:
    class Away(Flaky):
        def job(self, name: str) -> Job | None:
            raise Unanswered("away")

    with pytest.raises(ClusterError, match=r"cluster is lost.*has not answered.*not known"):
        follow(Away([(3, True)]), "j", say=lambda line: None, patience=0.2)


def test_a_cluster_that_answers_again_in_time_is_not_lost() -> None:
    class Hiccup(Flaky):
        asked = 0

        def job(self, name: str) -> Job | None:
            self.asked += 1
            if self.asked in (2, 3):
                raise Unanswered("away")
            return job(RUNNING if self.asked < 6 else SUCCEEDED, 0)

    assert follow(Hiccup([(3, True)]), "j", say=lambda line: None, patience=30.0).exit_code == 0


def test_a_head_that_was_started_anew_has_lost_the_job() -> None:
    source = Flaky([(3, True)], answers=iter([job(RUNNING), None]))
    with pytest.raises(ClusterError, match="no longer knows the job"):
        follow(source, "j", say=lambda line: None)
