"""evaluate: the frozen bundle on the held-out rows, beside simple baselines.

evaluation/
  predictions.parquet   one row per valid and test sequence (drawn in components/evaluation/answers.py)
  metrics.json          {"valid": {...}, "test": {...}}, each metric with _low and _high
  slices.json           {"valid": {"length": [...]}, "test": ...}
  details.json          of test: per_class, confusion, reliability, spans, unseen, worst; and `again`
  baselines.json        {"split": "test", "baselines": [...]}
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conf.schema import Settings
from pipeline.backends.cluster import Cluster, Future
from pipeline.backends.workspace import RunFolder, write_json
from pipeline.console import Console

BASELINES = "baselines.json"
DETAILS = "details.json"
NUM_WORST = 12
# Of a worst sequence as it is kept for drawing.
MAX_DRAWN_STEPS, MAX_DRAWN_FEATURES = 200, 1024


def evaluate(
    settings: Settings,
    *,
    folder: RunFolder,
    cluster: Cluster,
    console: Console,
    baselines: Future | None = None,
) -> dict[str, Any]:
    """Score the bundle, write `evaluation/`, and say what run.json keeps of it.

    Args:
        baselines: those under way since training; None starts them here, where they are not done yet.
    """
    folder.evaluation.mkdir(exist_ok=True)
    if baselines is None and not (folder.evaluation / BASELINES).exists():
        baselines = _start_baselines(settings, folder, cluster)
    job = {"settings": settings, "data": folder.data, "bundle": folder.bundle, "target": folder.evaluation}
    metrics: dict[str, Any] = {}
    with console.progress("evaluate", total=_num_steps(folder.data), unit="steps") as bar:
        for item in cluster.worker().stream(evaluate_on_worker, **job):
            if isinstance(item, int):
                bar.advance(item)
            else:
                metrics = item
    if baselines is not None:
        baselines.result()
    beside = json.loads((folder.evaluation / BASELINES).read_text("utf8"))["baselines"]
    console.note(_sentence(metrics["test"], beside))
    if unseen := json.loads((folder.evaluation / DETAILS).read_text("utf8"))["unseen"]:
        console.note(f"test: {unseen['sentence']}")
    return {"metrics": metrics, "baselines": {each["name"]: _accuracy(each) for each in beside}}


def baselines(*, settings: Settings, folder: Path) -> None:
    """Fit the baselines on a run's training rows and write their test scores; it needs no TensorFlow."""
    from components.data.batches import SequenceSet
    from components.evaluation import baselines as rules
    from components.served.encoding import Encoding

    data, target = folder / "data", folder / "evaluation"
    encoding = Encoding.from_json(json.loads((data / "encoding.json").read_text("utf8")))
    found = rules.baselines(
        SequenceSet.open(data / "train", encoding),
        SequenceSet.open(data / "test", encoding),
        labels=encoding.labels,
        bootstrap=settings.evaluate.bootstrap,
        confidence=settings.gate.confidence,
    )
    target.mkdir(exist_ok=True)
    write_json(target / BASELINES, {"split": "test", "baselines": found})


def _start_baselines(settings: Settings, folder: RunFolder, cluster: Cluster) -> Future:
    return cluster.background(baselines, settings=settings, folder=folder.path)


def evaluate_on_worker(
    *, settings: Settings, data: Path, bundle: Path, target: Path
) -> Iterator[int | dict[str, Any]]:
    """Steps answered, as they come, and at last the metrics of valid and test; everything else is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components import bundles
    from components.data.batches import SequenceSet
    from components.evaluation import answers, scoring

    predictor = bundles.open(bundle)
    labels = predictor.encoding.labels
    seen = answers.label_sequences(data / "train") if predictor.per_step else None
    tables: dict[str, pa.Table] = {}
    for split in ("valid", "test"):
        sequences = SequenceSet.open(data / split, predictor.encoding)
        parts = []
        for part in answers.predict_parts(predictor, sequences, labels=labels, split=split, seen=seen):
            parts.append(part)
            yield sum(part["length"].to_pylist())
        tables[split] = answers.gather(parts)
    temporary = target / f".predictions.{os.getpid()}.tmp"
    pq.write_table(pa.concat_tables(tables.values()), temporary, compression="zstd")
    os.replace(temporary, target / "predictions.parquet")

    terms: dict[str, Any] = {
        "task": settings.task,
        "labels": labels,
        "bootstrap": settings.evaluate.bootstrap,
        "confidence": settings.gate.confidence,
    }
    scheme = predictor.encoding.scheme
    scores = {split: scoring.score(table, scheme=scheme, **terms) for split, table in tables.items()}
    by = settings.evaluate.slices
    slices = {split: scoring.slices(table, by=by, **terms) for split, table in tables.items()}
    details = {
        "per_class": scores["test"].per_class,
        "confusion": scores["test"].confusion,
        "reliability": scores["test"].reliability,
        "spans": scores["test"].spans,
        "unseen": scoring.unseen(tables["test"], scheme=scheme, **terms),
        "worst": _worst(tables["test"], data=data, task=settings.task, labels=labels),
        "again": {"training": predictor.about["metrics"], "bundle": scores["valid"].metrics},
    }
    metrics = {split: each.metrics for split, each in scores.items()}
    for name, value in (("slices.json", slices), (DETAILS, details), ("metrics.json", metrics)):
        write_json(target / name, value)
    yield metrics


def _worst(table: Any, *, data: Path, task: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The most confidently wrong sequences with what they look like, unscaled."""
    from components.evaluation import answers, scoring

    places = scoring.worst(answers.read(table, task=task, labels=labels), most=NUM_WORST)
    rows = table.take(places).to_pylist() if places else []
    drawn = _drawn(data, [row["row"] for row in rows])
    return [{**row, "inputs": drawn[row["row"]]} for row in rows]


def _drawn(data: Path, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """The inputs of some test rows, each with its column and values (T, F), cut to what can be drawn."""
    if not rows:
        return {}
    import pyarrow.parquet as pq

    inputs = json.loads((data / "manifest.json").read_text("utf8"))["inputs"]
    columns = [f"x{index}" for index in range(len(inputs))]
    table = pq.read_table(data / "test", columns=["row", *columns], filters=[("row", "in", list(rows))])
    found: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found[row["row"]] = [
            {"column": each["column"], "values": _cut(row[column], each["features"])}
            for each, column in zip(inputs, columns, strict=True)
        ]
    return found


def _cut(flat: Sequence[Any], features: int) -> list[Any]:
    """Texts as they are; numbers step by step, 0 in place of those that are missing."""
    if flat and isinstance(flat[0], str):
        return list(flat[:MAX_DRAWN_STEPS])
    steps = [flat[at : at + features] for at in range(0, len(flat), features)][:MAX_DRAWN_STEPS]
    return [
        [0.0 if value != value else float(f"{value:.6g}") for value in step[:MAX_DRAWN_FEATURES]]
        for step in steps
    ]


def _num_steps(data: Path) -> int:
    splits = json.loads((data / "manifest.json").read_text("utf8"))["splits"]
    return splits["valid"]["steps"] + splits["test"]["steps"]


def _accuracy(baseline: dict[str, Any]) -> float | None:
    return baseline["metrics"]["accuracy"] if baseline["metrics"] else None


def _sentence(test: dict[str, Any], baselines: Sequence[dict[str, Any]]) -> str:
    known = [(value, each["name"]) for each in baselines if (value := _accuracy(each)) is not None]
    beside = f"; best baseline: {max(known)[1]} {max(known)[0]:.4f}" if known else ""
    if test["accuracy"] is None:
        return f"test accuracy is not a number{beside}"
    low, high = test["accuracy_low"], test["accuracy_high"]
    bounds = "" if low is None else f" ({low:.4f} to {high:.4f})"
    return f"test accuracy {test['accuracy']:.4f}{bounds}{beside}"
