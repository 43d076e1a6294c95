"""Verdicts on a run that was really trained and evaluated; the registry's own part is in test_register.py."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components import bundles
from components.errors import ModelError
from components.evaluation.verdicts import Verdict
from conf.schema import GateSettings
from pipeline.backends.registry import Version
from pipeline.backends.workspace import RunFolder
from pipeline.stages.judging import DATA_TAG, METRICS_TAG, TEST_TAG, Judge, data_tags
from tests.pipeline.conftest import QUIET, InProcess, Started, lines, start


class Standing:
    """A registry that holds one bundle, or has lost it."""

    def __init__(self, bundle: Path | None) -> None:
        self.bundle = bundle

    @contextmanager
    def fetch(self, version: Version, *, parent: Path) -> Iterator[Path]:
        if self.bundle is None:
            raise ModelError(f"The files of {version.uri} cannot be used: they are not there.")
        yield self.bundle


class Idle(InProcess):
    """A cluster of which nothing is asked."""

    def worker(self) -> "Idle":
        raise AssertionError("nothing was to be measured")


@pytest.fixture(scope="module")
def folder(evaluated: Started, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of the evaluated run to write into."""
    shutil.copytree(evaluated.folder.path, tmp_path_factory.mktemp("judged") / "run")
    return RunFolder(next(tmp_path_factory.getbasetemp().glob("judged*/run")))


@pytest.fixture
def judge(evaluated: Started, folder: RunFolder) -> Callable[..., Judge]:
    def make(
        *, champion: Path | None = None, override: str | None = None, cluster: Any = None, **gate: Any
    ) -> Judge:
        return Judge(
            evaluated.settings.model_copy(update={"gate": GateSettings.model_validate(gate)}),
            folder=folder,
            cluster=cluster or InProcess(),
            registry=Standing(champion),  # type: ignore[arg-type]
            console=QUIET,
            override=override,
        )

    return make


def champion(**tags: str) -> Version:
    return Version("lines", 3, "2026-01-01T00:00:00+00:00", "abc", tags, ("champion",))


def test_nothing_is_measured_that_nobody_asked_for(judge: Callable[..., Judge]) -> None:
    verdict = judge(cluster=Idle()).verdict(None)
    assert (verdict.decision, verdict.outcome) == ("promoted", "first")
    assert [rule.name for rule in verdict.rules] == ["number", "champion"]


def test_size_latency_slices_and_examples_are_held_against_their_limits(
    judge: Callable[..., Judge], folder: RunFolder
) -> None:
    examples = folder.evaluation / "examples.json"
    examples.write_text(json.dumps({"num": 2, "num_right": 1, "rows": []}), "utf8")
    limits = {"max_size_mb": 0.001, "max_latency_ms": 60_000, "slices": {"length": {"accuracy": 0.01}}}
    verdict = judge(**limits).verdict(None)
    examples.unlink()
    assert (verdict.decision, verdict.outcome) == ("rejected", "rule missed")
    held = {rule.name: rule.holds for rule in verdict.rules}
    assert held == {"number": True, "slice": True, "examples": False, "size": False, "latency": True}
    num_slices = len(json.loads((folder.evaluation / "slices.json").read_text("utf8"))["test"]["length"])
    assert sum(rule.name == "slice" for rule in verdict.rules) == num_slices
    by_name = {rule.name: rule for rule in verdict.rules}
    size = sum(path.stat().st_size for path in folder.bundle.rglob("*") if path.is_file())
    assert by_name["size"].value == pytest.approx(size / 1e6)
    assert "CPUs" in by_name["latency"].sentence


def test_the_same_model_again_is_a_tie_and_told_beside_its_registration(
    judge: Callable[..., Judge], folder: RunFolder
) -> None:
    scored = json.loads((folder.evaluation / "metrics.json").read_text("utf8"))["test"]
    standing = champion(**{METRICS_TAG: json.dumps(scored)}, **data_tags(folder))
    verdict = judge(champion=folder.bundle).verdict(standing)
    assert (verdict.decision, verdict.outcome) == ("kept", "not better")
    accuracy = f"{scored['accuracy']:.4f}"
    told = (
        f"Version 3, the champion, scored accuracy {accuracy} when it was registered, and scores {accuracy}"
    )
    assert verdict.notes == (f"{told} on the test rows of now.",)
    assert verdict.champion_registered == scored["accuracy"]


@pytest.mark.parametrize(
    ("tags", "end"),
    [
        ({TEST_TAG: "other"}, "of now; the test rows changed since then."),
        ({DATA_TAG: "other"}, "of now; the data changed since then."),
    ],
)
def test_data_that_changed_since_the_champion_was_registered_are_told(
    judge: Callable[..., Judge], folder: RunFolder, tags: dict[str, str], end: str
) -> None:
    standing = champion(**{METRICS_TAG: '{"accuracy": 0.5}'}, **tags)
    (note,) = judge(champion=folder.bundle).verdict(standing).notes
    assert "scored accuracy 0.5000 when" in note
    assert note.endswith(end)


def test_a_champion_without_a_registered_score_is_compared_all_the_same(
    judge: Callable[..., Judge], folder: RunFolder
) -> None:
    for tags in ({}, {METRICS_TAG: '{"accuracy": null}'}):
        verdict = judge(champion=folder.bundle).verdict(champion(**tags))
        assert (verdict.outcome, verdict.notes) == ("not better", ())


def test_a_champion_that_cannot_answer_is_kept_with_what_to_do(
    judge: Callable[..., Judge], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    lost = judge(champion=None).verdict(champion())
    assert (lost.decision, lost.outcome) == ("kept", "not comparable")
    assert "they are not there." in lost.reasons[-1]
    assert lost.hint.startswith("Put the champion's files back")
    other = make_bundle(tmp_path / "other", labels=("up", "down", "level"))
    others = judge(champion=other).verdict(champion(**{METRICS_TAG: '{"accuracy": 0.5}'}))
    assert "it also has 'level'" in others.reasons[-1]
    assert others.hint.startswith("If the labels were not meant to change")
    assert others.notes[0].startswith(
        "Version 3, the champion, scored accuracy 0.5000 when it was registered;"
    )


def test_an_override_takes_the_place_of_what_cannot_be_compared(judge: Callable[..., Judge]) -> None:
    verdict = judge(champion=None, override="Its files are lost.").verdict(champion())
    assert (verdict.decision, verdict.gate_decision, verdict.outcome) == (
        "promoted",
        "kept",
        "not comparable",
    )
    assert verdict.reasons[0] == "Promoted by an override: Its files are lost."


def test_areas_of_both_models_are_those_that_their_evaluations_tell(
    make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    rows = lines(200)
    rows["labels"] = [max(sorted(set(each)), key=each.count) for each in rows["labels"]]
    settings = {"task": "classification", "gate": {"better_on": "roc_auc"}, "train": {"epochs": 6}}
    run = start(tmp_path, rows, **settings)
    run.train()
    run.evaluate()
    told = json.loads((run.folder.evaluation / "metrics.json").read_text("utf8"))["test"]
    details = json.loads((run.folder.evaluation / "details.json").read_text("utf8"))
    assert all("distribution" not in row for row in details["worst"])

    def verdict(standing: Path | None) -> Verdict:
        judge = Judge(
            run.settings,
            folder=run.folder,
            cluster=InProcess(),  # type: ignore[arg-type]
            registry=Standing(standing),  # type: ignore[arg-type]
            console=QUIET,
            override=None,
        )
        return judge.verdict(champion() if standing else None)

    first = verdict(None)
    assert (first.outcome, first.metric) == ("first", "roc_auc")
    assert first.value == pytest.approx(told["roc_auc"], abs=1e-12)
    again = verdict(run.folder.bundle)
    assert again.reasons == ("A tie: both models rank the sequences in the same way.",)
    encoding = bundles.encoding(run.folder.bundle)
    untrained = verdict(make_bundle(tmp_path / "untrained", encoding=encoding))
    assert (untrained.decision, untrained.outcome) == ("promoted", "better")
    assert untrained.champion_value is not None and untrained.champion_value < told["roc_auc"]
