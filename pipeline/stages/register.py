"""register: the bundle as a version in MLflow, and as champion if it passes its gate.

    judge ── a limit missed ──▶ rejected: nothing is registered
      │
      ▼
    log, create a version ──▶ prove it in a fresh process
      │
      ├─ not surely better ──▶ kept: the version stands there without an alias
      ▼
    lease, read the champion again ── another one by now ──▶ judge again
      │
      ▼
    `previous`, the alias, the ledger ──▶ promoted          (backends/aliases.py)

Every step can be repeated: a run killed anywhere in here goes on from what it finds. With an override the
model goes on to its promotion where the gate would have rejected or kept it.
"""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components import bundles
from components.data.examples import examples
from components.errors import ModelError
from components.served.seals import ABOUT, sha256
from components.training.checkpoints import HISTORY
from conf.load import resolved
from conf.schema import Settings
from pipeline import model_card
from pipeline.backends import lineages, workspace
from pipeline.backends.aliases import Aliases
from pipeline.backends.cluster import Cluster
from pipeline.backends.deliveries import MAX_TAG
from pipeline.backends.ledger import Change
from pipeline.backends.packages import BUNDLE, TUNED
from pipeline.backends.registry import (
    DIGEST_TAG,
    MODEL_TAG,
    RUN_TAG,
    Packaging,
    Registry,
    Version,
    entry_of,
)
from pipeline.backends.tracking import Tracker
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.stages.judging import METRICS_TAG, Judge, data_tags

if TYPE_CHECKING:
    from components.evaluation.verdicts import Verdict

VERDICT, DETAILS = "verdict.json", "details.json"
SOURCES_TAG, ROWS_TAG = "recurra.source_digest", "recurra.num_rows"
MOST_CLASSES = 50  # with a metric of their own in MLflow
NUM_EXAMPLES, NUM_PROVEN = 3, 64


def register(
    settings: Settings,
    *,
    folder: RunFolder,
    cluster: Cluster,
    tracker: Tracker,
    console: Console,
    override: str | None = None,
) -> dict[str, Any]:
    """Judge the run's model, register and perhaps promote it; what run.json keeps of it.

    Args:
        override: why the model is to be promoted whatever the gate says; None leaves it to the gate.

    Raises:
        TrackerError: MLflow stayed away for longer than the tracker's patience.
        ModelError: the registered model did not answer as the evaluation did.
    """
    lineages.write(folder)
    _log_data(tracker, folder, settings)
    _log_scores(tracker, folder)
    # The version needs the run, and the run's values are sent in order.
    tracker.require()
    with ExitStack() as stack:
        if tracker.proof is None:
            tracker.start_proof(stack)
        return _Registration(settings, folder, cluster, tracker, console, override).run()


@dataclass(frozen=True)
class _Judged:
    """A verdict, and the champion it was spoken against."""

    verdict: "Verdict"
    champion: Version | None


class _Registration:
    """One run's way into the registry."""

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        cluster: Cluster,
        tracker: Tracker,
        console: Console,
        override: str | None,
    ) -> None:
        self.settings, self.folder, self.cluster = settings, folder, cluster
        self.tracker, self.console = tracker, console
        self.registry = Registry(tracker.store)
        self.about = bundles.describe(folder.bundle)
        self.name, self.alias = settings.name, settings.registration.alias
        self.aliases = Aliases(self.registry, self.name, folder.storage)
        self.judge = Judge(
            settings,
            folder=folder,
            cluster=cluster,
            registry=self.registry,
            console=console,
            override=override,
        )

    def run(self) -> dict[str, Any]:
        """Judge, register, prove, promote: drawn at the top of this file."""
        proven = False
        while True:
            fence = self.aliases.fence(self.alias)
            champion = self.registry.by_alias(self.name, self.alias)
            if champion is not None and champion.tags.get(RUN_TAG) == self.folder.run_id:
                return self._already(champion)
            judged = _Judged(self.judge.verdict(champion), champion)
            self._write(judged.verdict)
            if judged.verdict.decision == "rejected":
                return self._summary(judged.verdict.to_json(), None)
            version = self._version(judged)
            if not proven:
                self._prove(version)
                proven = True
            if judged.verdict.decision == "kept" or self._promote(version, judged, fence):
                return self._summary(judged.verdict.to_json(), version)
            self.console.note("Another run became champion meanwhile: comparing with that one.")

    def _version(self, judged: _Judged) -> Version:
        """The run's version with this verdict: logged and created now, or found from before."""
        run, experiment = self.tracker.mlflow_run_id(), self.tracker.experiment_id()
        assert run is not None and experiment is not None  # `require` has seen to it
        verdict = self.folder.evaluation / VERDICT
        card = model_card.write(self.folder, self.settings)
        packaging = Packaging(
            bundle=self.folder.bundle,
            description=self.about,
            columns=bundles.encoding(self.folder.bundle).depths,
            example=examples(self.folder.data / "test", most=NUM_EXAMPLES).columns(self.about["id"]),
            files=(
                self.folder.settings,
                self.folder.tune / TUNED,
                self.folder.checkpoints / HISTORY,
                self.folder.evaluation / "metrics.json",
                self.folder.data / "profile.json",
                verdict,
                self.folder.evaluation / lineages.LINEAGE,
                card,
            ),
        )
        key = self.folder.run_id
        model = self.registry.log(packaging, run=run, experiment=experiment, key=key)
        # The model may stand there from before, under another verdict.
        self.registry.attach(model, verdict)
        self.registry.attach(model, card)
        tags = {**self._lineage(), **_verdict_tags(judged)}
        version = self.registry.create(self.name, model_id=model, run=run, key=key, tags=tags)
        self.registry.tag(version, tags)
        self.registry.describe(version, model_card.description(card.read_text("utf8")))
        return version

    def _lineage(self) -> dict[str, str]:
        scores = json.loads((self.folder.evaluation / "metrics.json").read_text("utf8"))
        return {
            DIGEST_TAG: self.about["digest"],
            **data_tags(self.folder),
            SOURCES_TAG: workspace.fingerprint(self.folder.stage("prepare").get("inputs", {}).get("data")),
            ROWS_TAG: str(_num_rows(self.folder)),
            "recurra.settings_hash": workspace.fingerprint(resolved(self.settings)),
            "recurra.code_version": lineages.code_version(),
            METRICS_TAG: json.dumps(scores["test"]),
        }

    def _prove(self, version: Version) -> None:
        """Let a fresh process without this project answer test rows as the evaluation did."""
        from components.evaluation.agreements import evaluated, mismatch

        begun = time.monotonic()
        asked = examples(self.folder.data / "test", most=NUM_PROVEN)
        assert self.tracker.proof is not None
        columns = asked.columns(self.about["id"])
        answers = self.tracker.proof.answers(
            version.uri, columns, files=self._files(version), tracking_uri=self.tracker.store.uri
        )
        expected = evaluated(self.folder.evaluation / "predictions.parquet", asked.rows)
        if fault := mismatch(answers, expected):
            self.registry.tag(version, {"verdict": "unproven"})
            raise ModelError(
                f"{version.uri} does not answer as the evaluation did: {fault}.",
                hint="No alias was changed. Please report this with the run folder.",
            )
        self.console.note(
            f"{version.uri} is registered and answers {len(asked.rows)} test rows in a fresh process as in"
            f" the evaluation ({time.monotonic() - begun:.1f} s)"
        )

    def _files(self, version: Version) -> dict[str, str]:
        """The SHA-256 of the version's files that loading reads, by their path in the model."""
        within = {**self.about["files"], ABOUT: sha256(self.folder.bundle / ABOUT)}
        return entry_of(version) | {f"{BUNDLE}/{name}": digest for name, digest in within.items()}

    def _promote(self, version: Version, judged: _Judged, fence: int) -> bool:
        """Make it champion; False when something has happened to the alias since it was judged."""
        with self.aliases.held() as turn:
            champion = self.registry.by_alias(self.name, self.alias)
            before = None if champion is None else champion.number
            is_same = before == (judged.champion and judged.champion.number)
            if not is_same or self.aliases.fence(self.alias) != fence:
                return False
            turn.settle(self.alias)
            why = " ".join(judged.verdict.reasons)
            turn.move(Change(self.alias, before, version.number, why, self.folder.run_id))
        return True

    def _already(self, champion: Version) -> dict[str, Any]:
        """The end of a promotion that was cut short after the alias was set."""
        with self.aliases.held() as turn:
            turn.settle(self.alias)
        verdict = json.loads((self.folder.evaluation / VERDICT).read_text("utf8"))
        return self._summary(verdict, champion)

    def _write(self, verdict: "Verdict") -> None:
        path = self.folder.evaluation / VERDICT
        workspace.write_json(path, verdict.to_json())
        self.tracker.log_artifact(path, folder="evaluation")
        self.tracker.log_tags({"verdict": verdict.decision, "reasons": " ".join(verdict.reasons)})
        if verdict.overridden:
            self.tracker.log_tags({"override": verdict.override})

    def _summary(self, verdict: Mapping[str, Any], version: Version | None) -> dict[str, Any]:
        summary = {"verdict": verdict["decision"], "reasons": list(verdict["reasons"])}
        if version is None:
            return {**summary, "model": None, "mlflow_model_id": None}
        # Read again, because its aliases have changed.
        now = self.registry.get(self.name, version.number) or version
        uri = f"models:/{self.name}@{self.alias}" if self.alias in now.aliases else now.uri
        model = {"name": self.name, "version": now.number, "aliases": list(now.aliases), "uri": uri}
        return {**summary, "model": model, "mlflow_model_id": now.tags[MODEL_TAG]}


def _verdict_tags(judged: _Judged) -> dict[str, str]:
    from components.evaluation.verdicts import compact

    verdict = judged.verdict
    return {
        "verdict": verdict.decision,
        "recurra.outcome": verdict.outcome,
        "recurra.verdict": compact(verdict, most=MAX_TAG),
        "recurra.override": verdict.override if verdict.overridden else "",
        "recurra.reasons": json.dumps(list(verdict.reasons), ensure_ascii=False),
        "recurra.parent_champion": "" if judged.champion is None else str(judged.champion.number),
    }


def _num_rows(folder: RunFolder) -> int:
    """Sequences that the files held, good ones and bad."""
    manifest = json.loads((folder.data / "manifest.json").read_text("utf8"))
    return manifest.get("rejected", 0) + sum(each["rows"] for each in manifest["splits"].values())


def _log_data(tracker: Tracker, folder: RunFolder, settings: Settings) -> None:
    """Tell MLflow which data the run used."""
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    contexts = {"train": "training", "valid": "validation", "test": "testing"}
    for split, about in lineages.read(folder)["splits"].items():
        tracker.log_input(
            f"{settings.name}-{split}",
            digest=about["digest"],
            source=", ".join(paths),
            context=contexts[split],
            profile={"rows": about["rows"], "steps": about["steps"]},
        )


def _log_scores(tracker: Tracker, folder: RunFolder) -> None:
    """Tell MLflow what the evaluation found."""
    path = folder.evaluation / "metrics.json"
    for split, scores in json.loads(path.read_text("utf8")).items():
        tracker.log_metrics({f"{split}_{name}": value for name, value in scores.items()})
    tracker.log_artifact(path, folder="evaluation")
    details = folder.evaluation / DETAILS
    if details.exists():
        tracker.log_metrics(scores_by_class(json.loads(details.read_text("utf8"))))
    tracker.log_metrics({"temperature": bundles.describe(folder.bundle).get("temperature")})


def scores_by_class(details: Mapping[str, Any]) -> dict[str, float]:
    """The F1 of each class, and of each type of span, on the test rows; none where there are too many.

    The keys hold labels as they are: the tracker makes of each what MLflow takes, no two the same.
    """
    found: dict[str, float] = {}
    by_type = (details.get("spans") or {}).get("by_type", [])
    for name, rows in (("label", details["per_class"]), ("type", by_type)):
        if len(rows) <= MOST_CLASSES:
            before = "test_f1" if name == "label" else "test_span_f1"
            found |= {f"{before}.{row[name]}": row["f1"] for row in rows}
    return found


def attach_report(folder: RunFolder, *, tracker: Tracker) -> None:
    """Put a run's report beside its registered model, where there is one."""
    model = (folder.summary("register") or {}).get("mlflow_model_id")
    if model is not None:
        Registry(tracker.store).attach(model, folder.report)
