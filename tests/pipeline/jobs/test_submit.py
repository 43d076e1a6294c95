"""What becomes of a submission, given the jobs that are there."""

import json
from pathlib import Path
from typing import Any

import pytest

from conf.load import SettingsError
from pipeline.console import Console
from pipeline.jobs import submissions
from pipeline.jobs.dashboards import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED, Job
from pipeline.jobs.submissions import Submission, Wanted
from pipeline.jobs.submit import Manner, _end, attempts, decide, outcome, show, stop_seconds
from tests.pipeline.conftest import Noting


@pytest.fixture
def asked(place: Path) -> Submission:
    return submissions.make(Wanted([Path("lines.yaml")]), runs=place / "runs", touch_nothing=True)


def job(name: str, status: str, code: int | None = None, **variables: str) -> Job:
    return Job(name, status, "", code, None, None, "", {}, variables)


DONE, REFUSED, BROKEN = (SUCCEEDED, 0), (FAILED, 4), (FAILED, 2)


@pytest.mark.parametrize(
    ("before", "manner", "expected"),
    [
        ([], Manner(), "send"),
        ([(PENDING, None)], Manner(), "attach"),
        ([(RUNNING, None)], Manner(retry=True), "attach"),
        ([DONE], Manner(), "done"),
        ([DONE], Manner(retry=True), "done"),
        ([REFUSED], Manner(), "done"),
        ([DONE], Manner(new=True), "send"),
        ([(RUNNING, None)], Manner(new=True), "send"),
        ([(STOPPED, None)], Manner(), "send"),
        ([(FAILED, 143)], Manner(), "send"),
        ([BROKEN], Manner(retry=True), "send"),
        ([BROKEN, DONE], Manner(), "done"),
        ([BROKEN, (FAILED, None)], Manner(retry=True), "send"),
    ],
)
def test_what_is_done_about_a_submission(
    asked: Submission, before: list[tuple[str, int | None]], manner: Manner, expected: str
) -> None:
    earlier = [job(asked.attempt(number), *each) for number, each in enumerate(before, 1)]
    following = asked.attempt(len(before) + 1) if expected == "send" else earlier[-1].id
    assert decide(asked, earlier, manner) == (expected, following)


@pytest.mark.parametrize(("code", "said"), [(2, "exit code 2"), (None, "exit code 3")])
def test_one_that_failed_is_not_repeated_unasked(asked: Submission, code: int | None, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"{asked.id} .*{said}.*--retry"):
        decide(asked, [job(asked.id, FAILED, code)], Manner())


def test_attempts_are_those_of_the_same_fingerprint(asked: Submission) -> None:
    names = [f"{asked.id}-2", "lines-000000000000", asked.id, f"{asked.id}-look-ab12cd", f"{asked.id}-4"]
    found = attempts(asked, [job(name, SUCCEEDED) for name in names])
    assert [each.id for each in found] == [asked.id, f"{asked.id}-2"]


def test_the_outcome_is_the_last_object_that_the_job_printed() -> None:
    log = 'Runtime env\n{"run_id": "first"}\n{broken\n{"run_id": "last"}\nNext: recurra report\n'
    assert outcome(log) == {"run_id": "last"}
    assert outcome("nothing\n{broken\n") is None


def test_how_long_a_job_may_take_to_stop_was_said_at_its_submission() -> None:
    assert stop_seconds(job("j", RUNNING, RAY_JOB_STOP_WAIT_TIME_S="77")) == 77.0
    assert stop_seconds(job("j", RUNNING)) == 3.0


def test_a_dry_run_shows_everything_that_would_be_sent(
    asked: Submission, capsys: pytest.CaptureFixture[str]
) -> None:
    show(asked, console=Noting())
    text = capsys.readouterr().out
    for part in (
        asked.id,
        asked.entrypoint,
        "RAY_JOB_STOP_WAIT_TIME_S",
        "pipeline/: ",
        "lines.parquet",
        "task: ",
    ):
        assert part in text
    assert json.loads(json.dumps(asked.describe()))["package"]["num_files"] > 100


class Answering:
    """A dashboard that has one job, and its log."""

    address = "http://there"

    def __init__(self, log: str) -> None:
        self.text = log

    def log(self, name: str) -> str:
        return self.text


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "said"),
    [
        (SUCCEEDED, 0, 0, "j succeeded"),
        (FAILED, 4, 4, "j done: the gate refused the model"),
        (FAILED, 2, 2, "j failed"),
        (FAILED, None, 3, "j failed"),
        (STOPPED, None, 143, "j stopped; the same submission goes on from its last checkpoint"),
    ],
)
def test_the_end_of_a_job_is_told_and_its_code_passed_on(
    capsys: pytest.CaptureFixture[str], status: str, code: int | None, exit_code: int, said: str
) -> None:
    dashboard: Any = Answering("first\nlast \x1b[31mwords\n")
    assert _end(job("j", status, code), "done", dashboard, Console()) == exit_code
    out, err = capsys.readouterr()
    assert out.strip() == said
    failed = status == FAILED and code != 4
    assert ("last \\x1b[31mwords" in err) is failed
    assert ("Error: Job j failed" in err) is failed
    assert _end(job("j", status, code), "send", dashboard, Console(as_json=True)) == exit_code
    found = json.loads(capsys.readouterr().out)
    assert (found["exit_code"], found["attached"]) == (exit_code, False)
    assert ("last_lines" in found) is (exit_code != 0)
