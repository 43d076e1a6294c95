"""Commands over registered models, at their edge."""

import json
import time
from pathlib import Path

import pytest

from pipeline.backends.tracking import Store
from tests.pipeline.backends.test_tracking import locked
from tests.pipeline.conftest import call, failure, listing

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models", "--at", "2026-01-01"), "--at and --diff need a NAME"),
        (("models", "words", "--at", "2026-01-01", "--diff", "1", "2"), "do not go together"),
        (("models", "words"), "There is no registered model 'words'"),
        (("models", "words", "--diff", "1", "2"), "There is no registered model 'words'"),
        (("promote", "words", "0", "--why", "x"), "0 is not in the range"),
        (("promote", "words", "1"), "Missing option '--why'"),
        (("promote", "words", "1", "--why", "x"), "There is no registered model 'words'"),
        (("rollback", "words"), "There is no registered model 'words'"),
        (("prune", "words", "--keep", "0", "--yes"), "0 is not in the range"),
        (("prune", "words", "--keep", "1"), "give --dry-run, or --yes"),
        (("prune", "words", "--keep", "1", "--yes"), "There is no registered model 'words'"),
    ],
)
def test_a_registry_that_lacks_the_model_is_not_made(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    said = failure(capsys, *arguments, "--json")
    assert message in said["error"]
    assert said["exit_code"] == 2
    assert listing(folder) == []


def test_without_a_name_all_models_are_listed_of_which_there_may_be_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"models": []}
    assert listing(folder) == []


@pytest.mark.fault("SQLite locked")
@pytest.mark.slow
def test_a_database_that_stays_locked_ends_a_command_in_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = folder / "mlflow.db"
    store = Store(f"sqlite:///{database}")
    store.call(lambda client: client.create_registered_model("words"))
    begun = time.monotonic()
    with locked(database):
        said = failure(capsys, "models", "words", "--json")
    assert 8 < time.monotonic() - begun < 60  # tried again for ten seconds, the last try being one of five
    assert said["exit_code"] == 3
    assert said["error"] == f"MLflow's database {database} is locked by another process."
    assert "the same command goes on" in said["hint"]
