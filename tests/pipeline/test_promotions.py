"""Aliases changed by hand, in a real registry."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components import bundles
from components.errors import ModelError
from pipeline.backends import ledger
from pipeline.backends.packages import Packaging
from pipeline.backends.registry import Registry, Version
from pipeline.backends.tracking import Store
from pipeline.console import Console
from pipeline.promotions import Outcome, promote, rollback, show

VERDICTS = ("promoted", "kept", "promoted", "unproven")


@dataclass(frozen=True)
class Place:
    """A registry and a storage."""

    folder: Path
    registry: Registry
    model: str
    tags: dict[str, str]

    @property
    def where(self) -> dict[str, Any]:
        return {"storage": self.folder / "runs", "tracking_uri": self.registry.store.uri}

    def promote(self, name: str, number: int, *, why: str = "tested", alias: str = "champion") -> Outcome:
        return promote(name, number, why=why, alias=alias, **self.where)

    def rollback(self, name: str, **options: Any) -> Outcome:
        given = {"why": "", "alias": "champion", "again": False, "to": None, **options}
        return rollback(name, **{**given, "why": given["why"] or "wrong"}, **self.where)

    def aliases(self, name: str) -> dict[str, int]:
        found = self.registry.versions(name)
        return {alias: version.number for version in found for alias in version.aliases}

    def lines(self, name: str) -> list[dict[str, Any]]:
        return ledger.read(self.folder / "runs" / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Place:
    folder = tmp_path_factory.mktemp("promotions")
    registry = Registry(Store(f"sqlite:///{folder}/mlflow.db"))
    bundle = make_bundle(folder / "bundle")
    about = bundles.describe(bundle)
    experiment = registry.store.experiment("words")
    run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
    rows = [[[0, 1]], [[2, 3], [0, 0]]]
    packaging = Packaging(bundle, about, {"frames": 2}, {"id": ["a", "b"], "frames": rows}, ())
    model = registry.log(packaging, run=run, experiment=experiment, key="run")
    return Place(folder, registry, model, {"recurra.bundle_digest": about["digest"], "run": run})


@pytest.fixture(scope="module")
def made(place: Place) -> Callable[..., list[Version]]:
    """Makes versions of a new name, all of the same stored model, with these verdicts."""

    def make(name: str, verdicts: tuple[str, ...] = VERDICTS) -> list[Version]:
        found = []
        for number, verdict in enumerate(verdicts, start=1):
            reasons = json.dumps([f"It was {verdict}."])
            tags = {**place.tags, "verdict": verdict, "recurra.reasons": reasons}
            run = tags.pop("run")
            key = f"run-{number}"
            found.append(place.registry.create(name, model_id=place.model, run=run, key=key, tags=tags))
        return found

    return make


def test_a_version_is_promoted_by_hand_and_promoting_it_again_changes_nothing(
    place: Place, made: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made("words")
    first = place.promote("words", 1, why="the first")
    assert first.message == "words version 1 is now @champion."
    assert first.notes == ()
    second = place.promote("words", 2, why="asked for by support")
    assert second.message == "words version 2 is now @champion, in place of version 1."
    assert second.notes == ("Its verdict was kept. It was kept.",)
    assert place.aliases("words") == {"champion": 2, "previous": 1}
    again = place.promote("words", 2)
    assert (again.entry, again.message) == (None, "words version 2 is already @champion.")
    told = [(line["from"], line["to"], line["why"], line["run_id"]) for line in place.lines("words")]
    assert told == [(None, 1, "the first", "run-1"), (1, 2, "asked for by support", "run-2")]
    show(second, console=Console(as_json=True))
    assert json.loads(capsys.readouterr().out) == second.to_json()
    show(second, console=Console())
    out, err = capsys.readouterr()
    assert (out.strip(), err.strip()) == (second.message, second.notes[0])
    assert place.promote("words", 3, alias="staging").version == 3
    assert place.aliases("words")["champion"] == 2


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (9, {}, "'refused' has no version 9"),
        (4, {}, "did not answer in a fresh process as it was evaluated"),
        (1, {"alias": "previous"}, "'previous' follows the other aliases by itself"),
        (1, {"alias": "v1"}, "--alias: received 'v1'"),
        (1, {"alias": "Champion"}, "--alias: received 'Champion'"),
        (1, {"why": " "}, "--why is empty"),
    ],
)
def test_what_must_not_be_promoted_is_refused_and_nothing_is_written(
    place: Place, made: Callable[..., Any], number: int, options: dict[str, str], message: str
) -> None:
    if not place.registry.versions("refused"):
        made("refused")
    with pytest.raises(ModelError, match=message) as caught:
        place.promote("refused", number, **options)
    assert caught.value.exit_code == 2
    assert place.aliases("refused") == {}
    assert place.lines("refused") == []


def test_a_rollback_goes_to_the_version_before_and_not_to_and_fro(
    place: Place, made: Callable[..., Any]
) -> None:
    made("back", ("promoted",) * 4)
    for number in (1, 2, 4):
        place.promote("back", number)
    assert place.rollback("back", why="wrong on long rows").message == (
        "back @champion is back from version 4 to version 2."
    )
    assert place.aliases("back") == {"champion": 2, "previous": 4}
    twice = place.rollback("back")
    assert twice.entry is None
    assert twice.message.startswith("Already rolled back from 4 to 2 at ")
    assert place.aliases("back")["champion"] == 2
    assert place.rollback("back", again=True).version == 1
    with pytest.raises(ModelError, match="no version of 'back' before version 1") as caught:
        place.rollback("back", again=True)
    assert caught.value.exit_code == 2
    assert place.rollback("back", to=4).version == 4
    assert place.rollback("back", to=4).message == "back version 4 is already @champion."
    with pytest.raises(ModelError, match="version 3 of 'back' was never @champion"):
        place.rollback("back", to=3)
    place.promote("back", 3)
    assert place.rollback("back").version == 4
    kinds = [line["kind"] for line in place.lines("back")]
    assert kinds == ["promotion"] * 3 + ["rollback"] * 3 + ["promotion", "rollback"]


def test_without_an_alias_or_with_the_version_before_deleted_there_is_no_way_back(
    place: Place, made: Callable[..., Any]
) -> None:
    made("lost", ("promoted",) * 3)
    with pytest.raises(ModelError, match="'lost' has no alias 'champion'"):
        place.rollback("lost")
    for number in (1, 2, 3):
        place.promote("lost", number)
    place.registry.store.call(lambda client: client.delete_model_version("lost", "2"))
    with pytest.raises(ModelError, match="Version 2 of 'lost' is gone") as caught:
        place.rollback("lost")
    assert "--to" in caught.value.hint
    assert place.rollback("lost", to=1).version == 1


@pytest.mark.parametrize("name", ["pyfunc_model.py", "MLmodel", "artifacts/bundle/code/predictor.py"])
def test_a_version_with_code_that_was_changed_gets_no_alias_in_either_way(
    place: Place, made: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    model = name.rpartition("/")[2].partition(".")[0]
    made(model, ("promoted",) * 2)
    place.promote(model, 1)
    place.promote(model, 2)
    file = place.folder / "mlartifacts" / "words" / "models" / place.model / "artifacts" / name
    before, mark = file.read_bytes(), tmp_path / "was run"
    file.write_bytes(f"open({str(mark)!r}, 'w').close()\n".encode() + before)
    try:
        for action in (lambda: place.rollback(model), lambda: place.promote(model, 1)):
            with pytest.raises(ModelError, match=r"is not the one that was registered|was changed after"):
                action()
    finally:
        file.write_bytes(before)
    assert place.aliases(model) == {"champion": 2, "previous": 1}
    assert not mark.exists()


def test_a_version_whose_files_are_gone_gets_no_alias_in_either_way(
    place: Place, made: Callable[..., Any]
) -> None:
    made("gone", ("promoted",) * 2)
    place.promote("gone", 1)
    place.promote("gone", 2)
    files = place.folder / "mlartifacts" / "words" / "models" / place.model / "artifacts" / "artifacts"
    shutil.move(files, place.folder / "aside")
    try:
        for action in (lambda: place.rollback("gone"), lambda: place.promote("gone", 1)):
            with pytest.raises(ModelError, match="cannot be used: they are not there"):
                action()
        assert place.aliases("gone") == {"champion": 2, "previous": 1}
        assert len(place.lines("gone")) == 2
    finally:
        shutil.move(place.folder / "aside", files)
