"""What the gate says of a run's model, against whoever holds the alias now.

evaluation/predictions.parquet, slices.json, examples.json, bundle/ ─┐
the champion's bundle ─ the same test rows ─▶ its answers ───────────┴─ decide ─▶ Verdict
"""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import bundles
from components.errors import ModelError
from conf.schema import Settings
from pipeline.backends import lineages, workspace
from pipeline.backends.cluster import Cluster
from pipeline.backends.registry import Registry, Version
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console

if TYPE_CHECKING:
    import pyarrow as pa

    from components.evaluation.requirements import Measured
    from components.evaluation.verdicts import Obstacle, Verdict

METRICS_TAG, DATA_TAG, TEST_TAG = "recurra.metrics", "recurra.data_digest", "recurra.test_digest"


class Judge:
    """Speaks the verdicts on one run's model; what does not depend on the champion is worked out once."""

    def __init__(
        self,
        settings: Settings,
        *,
        folder: RunFolder,
        cluster: Cluster,
        registry: Registry,
        console: Console,
        override: str | None,
    ) -> None:
        self.settings, self.folder, self.cluster = settings, folder, cluster
        self.registry, self.console, self.override = registry, console, override

    def verdict(self, champion: Version | None) -> "Verdict":
        """The gate's verdict against this champion, or that of whoever overrides it."""
        from components.evaluation.comparison import decide

        found = decide(champion=None, **self._terms)
        if champion is not None and found.decision != "rejected":
            alias = self.settings.registration.alias
            self.console.note(f"Comparing with {champion.uri}, the {alias}, on the same rows")
            answers, obstacle = self._answers(champion)
            found = decide(champion=answers, obstacle=obstacle, **self._terms)
            found = self._beside_its_registration(champion, found)
        return found if self.override is None else found.overruled(self.override)

    @cached_property
    def _terms(self) -> dict[str, Any]:
        """What every verdict on this model is spoken on: its answers, and what is asked of it."""
        import pyarrow.parquet as pq

        return {
            "challenger": pq.read_table(self.folder.evaluation / "predictions.parquet"),
            "task": self.settings.task,
            "labels": bundles.encoding(self.folder.bundle).labels,
            "scheme": self.settings.data.target.scheme,
            "gate": self.settings.gate,
            "bootstrap": self.settings.evaluate.bootstrap,
            "measured": self._measure(),
        }

    def _measure(self) -> "Measured":
        """What the gate's limits are held against beside the answers; size and latency where asked."""
        from components.evaluation import latencies
        from components.evaluation.requirements import Measured

        gate, folder = self.settings.gate, self.folder
        size = latency = None
        if gate.max_size_mb is not None:
            files = [path for path in folder.bundle.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / 1e6
        if gate.max_latency_ms is not None:
            self.console.note("Measuring how long single answers take")
            latency = self.cluster.worker().call(latencies.measure, bundle=folder.bundle, data=folder.data)
        return Measured(
            slices=_read(folder.evaluation / "slices.json", {}).get("test", {}),
            examples=_read(folder.evaluation / "examples.json", None),
            size_mb=size,
            latency=latency,
            ranking=_read(folder.evaluation / "metrics.json", {}).get("test", {}),
        )

    def _answers(self, champion: Version) -> tuple["pa.Table | None", "Obstacle | None"]:
        """The champion's answers to this run's test rows, given now; or why there are none."""
        import pyarrow.parquet as pq

        from components.evaluation import rivals
        from components.evaluation.verdicts import Obstacle

        try:
            with self.registry.fetch(champion, parent=self.folder.path) as bundle:
                if (obstacle := rivals.incomparable(bundle, self.folder.bundle)) is not None:
                    return None, obstacle
                out = self.folder.evaluation / f"champion-{champion.number}.parquet"
                distribution = self.settings.gate.compares_areas
                job = {"bundle": bundle, "data": self.folder.data, "out": out, "distribution": distribution}
                if (obstacle := self.cluster.worker().call(rivals.answer, **job)) is not None:
                    return None, obstacle
                return pq.read_table(out), None
        except ModelError as error:
            return None, Obstacle(error.message, rivals.FILES_HINT)

    def _beside_its_registration(self, champion: Version, verdict: "Verdict") -> "Verdict":
        """The verdict, told what the champion scored when it was registered and whether the data changed."""
        scored = json.loads(champion.tags.get(METRICS_TAG, "{}")).get(verdict.metric)
        if scored is None:
            return verdict
        told = f"Version {champion.number}, the champion, scored {verdict.metric} {scored:.4f} when it was"
        told += " registered"
        if verdict.champion_value is not None:
            told += f", and scores {verdict.champion_value:.4f} on the test rows of now"
        tag, what = (TEST_TAG, "test rows") if TEST_TAG in champion.tags else (DATA_TAG, "data")
        if champion.tags.get(tag) != data_tags(self.folder)[tag]:
            told += f"; the {what} changed since then"
        return replace(verdict.with_note(f"{told}."), champion_registered=scored)


def data_tags(folder: RunFolder) -> dict[str, str]:
    """Digests of a run's prepared data, and of the test rows among them."""
    manifest = json.loads((folder.data / "manifest.json").read_text("utf8"))
    about, splits = [manifest["inputs"], manifest["context"]], lineages.read(folder)["splits"]
    return {
        DATA_TAG: workspace.fingerprint([splits, *about]),
        TEST_TAG: workspace.fingerprint([splits["test"], *about]),
    }


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text("utf8")) if path.exists() else otherwise
