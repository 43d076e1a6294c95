"""Commands that answer, at their edge: what is refused before a model is looked for."""

from pathlib import Path

import pytest

from tests.pipeline.conftest import failure, listing

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n-best", "-1"], "--n-best"),
        (["--on-bad-row", "ignore"], "--on-bad-row"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_what_predict_cannot_do_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = listing(place)
    found = failure(capsys, "predict", "m", "lines.parquet", "-o", "out.parquet", *arguments, "--json")
    assert said in found["error"]
    assert found["exit_code"] == 2
    assert listing(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "--port"),
        (["--batch-wait-ms", "nan"], "--batch-wait-ms"),
        (["--timeout", "0"], "--timeout"),
        (["--token-file", "nothing.txt"], "nothing.txt"),
    ],
)
def test_what_serve_cannot_do_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = listing(place)
    found = failure(capsys, "serve", "m", *arguments, "--json")
    assert said in found["error"]
    assert found["exit_code"] == 2
    assert listing(place) == before
