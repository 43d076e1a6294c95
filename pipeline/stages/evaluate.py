"""evaluate: the frozen bundle on the held-out rows, beside simple baselines.

evaluation/
  predictions.parquet   one row per valid and test sequence (drawn in components/evaluation/answers.py); with
                        every probability of test rows where the gate compares areas under curves
  metrics.json          {"valid": {...}, "test": {...}}, each metric with _low and _high
  slices.json           {"valid": {"length": [...], ...}, "test": ...} (see components/evaluation/slices.py)
  details.json          of test: per_class, confusion, ranking, reliability, calibration, spans, unseen,
                        worst; and `again`
  examples.json         {"num": 12, "num_right": 11, "rows": [...]}: rows that must come out right
  baselines.json        {"split": "test", "baselines": [...]}
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.schema import Settings
from pipeline.backends.cluster import Cluster, Future
from pipeline.backends.workspace import RunFolder, write_json
from pipeline.console import Console

BASELINES = "baselines.json"
DETAILS = "details.json"
SLICES = "slices.json"
EXAMPLES = "examples.json"
NUM_TOLD = 3  # wrong examples on the terminal
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
        baselines = start_baselines(settings, folder, cluster)
    job: dict[str, Any] = {
        "settings": settings, "data": folder.data, "bundle": folder.bundle, "target": folder.evaluation
    }  # fmt: skip
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
    for sentence in _of_examples(folder):
        console.note(sentence)
    for sentence in _of_slices(folder, settings, metrics["test"]):
        console.note(f"test: {sentence}")
    return {"metrics": metrics, "baselines": {each["name"]: _accuracy(each) for each in beside}}


def _of_examples(folder: RunFolder) -> Iterator[str]:
    """How many behaviour examples came out right, and the first that did not."""
    from components.evaluation import behaviours

    found = json.loads((folder.evaluation / EXAMPLES).read_text("utf8"))
    if found["num"]:
        wrong = [behaviours.sentence(row) for row in found["rows"] if not row["right"]]
        more = [f"and {len(wrong) - NUM_TOLD} more"] if len(wrong) > NUM_TOLD else []
        yield "; ".join([f"examples: {found['num_right']} of {found['num']} right", *wrong[:NUM_TOLD], *more])


def _of_slices(folder: RunFolder, settings: Settings, test: Mapping[str, Any]) -> Iterator[str]:
    """The slice that is worst beside all other rows, and whether there are groups enough for intervals."""
    from components.evaluation.slices import flagged, looked_at

    families = json.loads((folder.evaluation / SLICES).read_text("utf8"))["test"]
    if worse := flagged(families):
        yield (
            f"{worse[0]['sentence']}; surely worse than all other rows: {len(worse)} of"
            f" {looked_at(families)} slices"
        )
    if test.get("num_groups", 2) < 2:
        yield (
            f"no intervals: all rows have one value of the column {settings.groups!r}, so nothing says how"
            " scores vary from group to group"
        )


def baselines(*, settings: Settings, data: Path, target: Path) -> None:
    """Fit the baselines on the training rows and write their test scores; it needs no TensorFlow."""
    from components.data.batches import SequenceSet
    from components.evaluation import baselines as rules
    from components.evaluation.properties import Properties, group_codes
    from components.served.encoding import Encoding

    encoding = Encoding.from_json(json.loads((data / "encoding.json").read_text("utf8")))
    groups = None
    if settings.groups is not None:
        groups = group_codes(Properties.read(data / "test", encoding).kept[settings.groups])
    found = rules.baselines(
        SequenceSet.open(data / "train", encoding),
        SequenceSet.open(data / "test", encoding),
        labels=encoding.labels,
        bootstrap=settings.evaluate.bootstrap,
        confidence=settings.gate.confidence,
        groups=groups,
    )
    target.mkdir(exist_ok=True)
    write_json(target / BASELINES, {"split": "test", "baselines": found})


def start_baselines(settings: Settings, folder: RunFolder, cluster: Cluster) -> Future:
    """Fit the baselines beside other work."""
    return cluster.background(baselines, settings=settings, data=folder.data, target=folder.evaluation)


def evaluate_on_worker(
    *, settings: Settings, data: Path, bundle: Path, target: Path
) -> Iterator[int | dict[str, Any]]:
    """Steps answered, as they come, and at last the metrics of valid and test; everything else is written."""
    from components import bundles
    from components.data.batches import SequenceSet
    from components.evaluation import answers, behaviours, calibration, curves, scoring
    from components.evaluation.properties import Properties, with_groups
    from components.evaluation.slices import slices

    predictor = bundles.open(bundle)
    labels = predictor.encoding.labels
    seen = answers.label_sequences(data / "train") if predictor.per_step else None
    tables: dict[str, Any] = {}
    properties: dict[str, Properties] = {}
    check = calibration.Check(predictor)
    for split in ("valid", "test"):
        sequences = SequenceSet.open(data / split, predictor.encoding)
        ranking = curves.Ranking(predictor, len(sequences))  # in the end that of the test rows
        parts = []
        observe = _each(check.watching(split, sequences), ranking.see)
        asked: dict[str, Any] = {"labels": labels, "seen": seen, "observe": observe}
        asked["distribution"] = split == "test" and ranking.is_kept and settings.gate.compares_areas
        for part in answers.predict_parts(predictor, sequences, split=split, **asked):
            parts.append(part)
            yield sum(part["length"].to_pylist())
        table = answers.gather(parts)
        properties[split] = Properties.read(data / split, predictor.encoding).take(table["place"].to_numpy())
        tables[split] = with_groups(table, properties[split], groups=settings.groups)
    _write_predictions(target, tables)
    tables["test"] = answers.without_distribution(tables["test"])
    terms: dict[str, Any] = {
        "task": settings.task,
        "labels": labels,
        "bootstrap": settings.evaluate.bootstrap,
        "confidence": settings.gate.confidence,
    }
    scheme = predictor.encoding.scheme
    scores = {split: scoring.score(table, scheme=scheme, **terms) for split, table in tables.items()}
    about_slices = {"declared": settings.evaluate.slices, "rare": _rare(data), "scheme": scheme, **terms}
    found = {
        split: slices(table, properties=properties[split], **about_slices) for split, table in tables.items()
    }
    ranked = _ranked(ranking, tables["test"], **terms)
    details = {
        "ranking": ranked,
        "per_class": scores["test"].per_class,
        "confusion": scores["test"].confusion,
        "reliability": scores["test"].reliability,
        "spans": scores["test"].spans,
        "unseen": scoring.unseen(tables["test"], scheme=scheme, **terms),
        "worst": _worst(tables["test"], data=data, task=settings.task, labels=labels),
        **check.details({split: each.metrics for split, each in scores.items()}),
    }
    write_json(target / EXAMPLES, behaviours.judged(settings, bundle=bundle))
    metrics = {split: each.metrics for split, each in scores.items()}
    metrics["test"] |= curves.shown(ranked)
    for name, value in ((SLICES, found), (DETAILS, details), ("metrics.json", metrics)):
        write_json(target / name, value)
    yield metrics


def _write_predictions(target: Path, tables: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = target / f".predictions.{os.getpid()}.tmp"
    table = pa.concat_tables(tables.values(), promote_options="default")
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, target / "predictions.parquet")


def _each(*observers: Any) -> Callable[..., None]:
    """Calls those that are there."""

    def observe(*seen: Any) -> None:
        for observer in observers:
            if observer is not None:
                observer(*seen)

    return observe


def _ranked(
    ranking: Any, table: Any, *, task: str, labels: Sequence[str], **terms: Any
) -> dict[str, Any] | None:
    """A classifier's areas under curves, of the test rows in the order in which they were answered."""
    import numpy as np

    from components.evaluation import answers

    own = answers.read(table, task=task, labels=labels)
    groups = None if own.groups is None else own.groups[np.argsort(own.places, kind="stable")]
    return ranking.scores(labels, groups=groups, **terms)


def _rare(data: Path) -> Collection[str]:
    from components.evaluation.properties import rare_labels

    return rare_labels(json.loads((data / "profile.json").read_text("utf8"))["splits"]["train"]["labels"])


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
