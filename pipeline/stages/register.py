"""register: the bundle as a version in MLflow, and as champion if it passes its gate.

    judge ── floors missed ──▶ rejected: nothing is registered
      │
      ▼
    log, create a version ──▶ prove it in a fresh process
      │
      ├─ not surely better ──▶ kept: the version stands there without an alias
      ▼
    lock, read the champion again ── another one by now ──▶ judge again
      │
      ▼
    `previous`, the alias, the ledger ──▶ promoted

Every step can be repeated: a run killed anywhere in here goes on from what it finds.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import bundles
from components.data.examples import examples
from components.errors import ModelError
from conf.load import resolved
from conf.schema import Settings
from pipeline.backends import ledger, workspace
from pipeline.backends.cluster import Cluster
from pipeline.backends.ledger import Change
from pipeline.backends.registry import DIGEST_TAG, MODEL_TAG, RUN_TAG, Packaging, Registry, Version
from pipeline.backends.tracking import Store, Tracker
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console

if TYPE_CHECKING:
    import pyarrow as pa

    from components.evaluation.comparison import Verdict

CODE = ("conf", "components", "pipeline")
PREVIOUS = "previous"
VERDICT, DETAILS = "verdict.json", "details.json"
MOST_CLASSES = 50  # with a metric of their own in MLflow
NUM_EXAMPLES, NUM_PROVEN = 3, 64


def register(
    settings: Settings, *, folder: RunFolder, cluster: Cluster, tracker: Tracker, console: Console
) -> dict[str, Any]:
    """Judge the run's model, register and perhaps promote it; what run.json keeps of it.

    Raises:
        TrackerError: MLflow stayed away for longer than the tracker's patience.
        ModelError: the registered model did not answer as the evaluation did.
    """
    _log_data(tracker, folder, settings)
    _log_scores(tracker, folder)
    # The version needs the run, and the run's values are sent in order.
    tracker.require()
    with ExitStack() as stack:
        if tracker.proof is None:
            tracker.start_proof(stack)
        return _Registration(settings, folder, cluster, tracker, console).run()


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
    ) -> None:
        self.settings, self.folder, self.cluster = settings, folder, cluster
        self.tracker, self.console = tracker, console
        self.registry = Registry(tracker.store)
        self.about = bundles.describe(folder.bundle)
        self.name, self.alias = settings.name, settings.registration.alias

    def run(self) -> dict[str, Any]:
        """Judge, register, prove, promote: drawn at the top of this file."""
        proven = False
        while True:
            champion = self.registry.by_alias(self.name, self.alias)
            if champion is not None and champion.tags.get(RUN_TAG) == self.folder.run_id:
                return self._already(champion)
            judged = self._judge(champion)
            self._write(judged.verdict)
            if judged.verdict.decision == "rejected":
                return self._summary(judged.verdict.to_json(), None)
            version = self._version(judged)
            if not proven:
                self._prove(version)
                proven = True
            if judged.verdict.decision == "kept" or self._promote(version, judged):
                return self._summary(judged.verdict.to_json(), version)
            self.console.note("Another run became champion meanwhile: comparing with that one.")

    def _judge(self, champion: Version | None) -> _Judged:
        import pyarrow.parquet as pq

        from components.evaluation.comparison import decide

        challenger = pq.read_table(self.folder.evaluation / "predictions.parquet")
        terms: dict[str, Any] = {
            "task": self.settings.task,
            "labels": self.about["labels"],
            "scheme": self.settings.data.target.scheme,
            "floors": self.settings.gate.floors,
            "better_on": self.settings.gate.better_on,
            "confidence": self.settings.gate.confidence,
            "bootstrap": self.settings.evaluate.bootstrap,
        }
        if champion is None:
            return _Judged(decide(challenger, None, **terms), None)
        verdict = decide(challenger, None, comparable="it was not asked", **terms)
        if verdict.decision == "rejected":
            return _Judged(verdict, champion)
        self.console.note(f"Comparing with {champion.uri}, the {self.alias}, on the same rows")
        answers, reason = self._champion_answers(champion)
        return _Judged(decide(challenger, answers, comparable=reason, **terms), champion)

    def _champion_answers(self, champion: Version) -> tuple["pa.Table | None", str | None]:
        """Its predictions on this run's test rows, made now; or why there are none."""
        import pyarrow.parquet as pq

        from components.evaluation import rivals

        try:
            with self.registry.fetch(champion, parent=self.folder.path) as bundle:
                if (reason := rivals.incomparable(bundle, self.folder.bundle)) is not None:
                    return None, reason
                out = self.folder.evaluation / f"champion-{champion.number}.parquet"
                self.cluster.worker().call(rivals.answer, bundle=bundle, data=self.folder.data, out=out)
                return pq.read_table(out), None
        except ModelError as error:
            return None, error.message.rstrip(".")

    def _version(self, judged: _Judged) -> Version:
        """The run's version with this verdict: logged and created now, or found from before."""
        run, experiment = self.tracker.mlflow_run_id(), self.tracker.experiment_id()
        assert run is not None and experiment is not None  # `require` has seen to it
        verdict = self.folder.evaluation / VERDICT
        packaging = Packaging(
            bundle=self.folder.bundle,
            description=self.about,
            columns=bundles.encoding(self.folder.bundle).depths,
            example=examples(self.folder.data / "test", most=NUM_EXAMPLES).columns(self.about["id"]),
            files=(self.folder.settings, self.folder.evaluation / "metrics.json", verdict),
        )
        key = self.folder.run_id
        model = self.registry.log(packaging, run=run, experiment=experiment, key=key)
        self.registry.attach(model, verdict)
        tags = {**self._lineage(), **_verdict_tags(judged)}
        version = self.registry.create(self.name, model_id=model, run=run, key=key, tags=tags)
        self.registry.tag(version, tags)
        return version

    def _lineage(self) -> dict[str, str]:
        manifest = json.loads((self.folder.data / "manifest.json").read_text("utf8"))
        root = Path(bundles.__file__).parents[1]
        sources = [path for name in CODE for path in (root / name).rglob("*.py")]
        scores = json.loads((self.folder.evaluation / "metrics.json").read_text("utf8"))
        return {
            DIGEST_TAG: self.about["digest"],
            "recurra.data_digest": workspace.fingerprint(
                [manifest["splits"], manifest["inputs"], manifest["context"]]
            ),
            "recurra.settings_hash": workspace.fingerprint(resolved(self.settings)),
            "recurra.code_version": f"{metadata.version('recurra')}+{workspace.code_digest(sources)[:12]}",
            "recurra.metrics": json.dumps(scores["test"]),
        }

    def _prove(self, version: Version) -> None:
        """Let a fresh process without this project answer test rows as the evaluation did."""
        from components.evaluation.agreements import evaluated, mismatch

        begun = time.monotonic()
        asked = examples(self.folder.data / "test", most=NUM_PROVEN)
        assert self.tracker.proof is not None
        columns = asked.columns(self.about["id"])
        answers = self.tracker.proof.answers(version.uri, columns, tracking_uri=self.tracker.store.uri)
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

    def _promote(self, version: Version, judged: _Judged) -> bool:
        """Make it champion; False when the champion is no longer the one it was judged against."""
        with workspace.locked(self.folder.storage, "promotion"):
            champion = self.registry.by_alias(self.name, self.alias)
            if (champion and champion.number) != (judged.champion and judged.champion.number):
                return False
            if champion is not None:
                self.registry.point(self.name, PREVIOUS, champion.number)
            self.registry.point(self.name, self.alias, version.number)
            self._enter(version, champion, judged.verdict.reasons)
        return True

    def _already(self, champion: Version) -> dict[str, Any]:
        """The end of a promotion that was cut short after the alias was set."""
        verdict = json.loads((self.folder.evaluation / VERDICT).read_text("utf8"))
        with workspace.locked(self.folder.storage, "promotion"):
            if not any(change["run_id"] == self.folder.run_id for change in ledger.read(self.folder.storage)):
                self._enter(champion, self.registry.by_alias(self.name, PREVIOUS), verdict["reasons"])
        return self._summary(verdict, champion)

    def _enter(self, version: Version, champion: Version | None, reasons: Sequence[str]) -> None:
        before = None if champion is None else champion.number
        why = " ".join(reasons)
        ledger.append(
            self.folder.storage, Change(self.alias, before, version.number, why, self.folder.run_id)
        )

    def _write(self, verdict: "Verdict") -> None:
        path = self.folder.evaluation / VERDICT
        workspace.write_json(path, verdict.to_json())
        self.tracker.log_artifact(path, folder="evaluation")
        self.tracker.log_tags({"verdict": verdict.decision, "reasons": " ".join(verdict.reasons)})

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
    return {
        "verdict": judged.verdict.decision,
        "recurra.reasons": json.dumps(list(judged.verdict.reasons), ensure_ascii=False),
        "recurra.parent_champion": "" if judged.champion is None else str(judged.champion.number),
    }


def _log_data(tracker: Tracker, folder: RunFolder, settings: Settings) -> None:
    """Tell MLflow which data the run used."""
    manifest = json.loads((folder.data / "manifest.json").read_text("utf8"))
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    contexts = {"train": "training", "valid": "validation", "test": "testing"}
    for split, about in manifest["splits"].items():
        tracker.log_input(
            f"{settings.name}-{split}",
            digest=workspace.fingerprint([shard["sha256"] for shard in about["shards"]]),
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


def models(name: str, *, storage: Path, tracking_uri: str) -> dict[str, Any]:
    """A registered model's versions, newest first, and the changes of its aliases, oldest first.

    Raises:
        ModelError: there is no such model.
        TrackerError: MLflow cannot be reached.
    """
    versions = Registry(Store(tracking_uri, patience=10.0)).known(name)
    return {
        "name": name,
        "versions": [
            {
                "version": version.number,
                "created": version.created,
                "aliases": list(version.aliases),
                "verdict": version.tags.get("verdict"),
                "reasons": json.loads(version.tags.get("recurra.reasons", "[]")),
                "metrics": json.loads(version.tags.get("recurra.metrics", "{}")),
                "run_id": version.tags.get(RUN_TAG),
                "parent_champion": version.tags.get("recurra.parent_champion") or None,
                "uri": version.uri,
            }
            for version in versions
        ],
        "ledger": ledger.read(storage / name),
    }
