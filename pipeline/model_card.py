"""The card of a model in Markdown: what it is for, how good it surely is, where it is weak, how to call it.

    bundle.json, encoding, data/manifest.json, checkpoints/history.json, evaluation/*.json ─▶ README.md

It goes with the model's files, and its beginning is the version's description in MLflow. Whatever comes from
the data is escaped: a label may look like Markdown or HTML.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components import bundles
from components.data.examples import examples
from components.served.encoding import Encoding
from components.served.symbols import TokenEncoding
from conf.names import printable
from conf.schema import Settings
from pipeline.backends.workspace import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
CARD = "README.md"
MAX_DESCRIPTION = 5_000  # what MLflow's database has room for
CUT = "\n\n(cut here; the whole card is README.md beside the model)\n"
MOST_LABELS, MOST_SLICES, MOST_EXAMPLE_STEPS = 50, 20, 3
SHOWN_METRICS = ("accuracy", "sequence_accuracy", "macro_f1", "span_f1", "loss", "ece")
MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~!])")


def write(folder: RunFolder, settings: Settings) -> Path:
    """Write the card beside the evaluation; its path."""
    # Autoescaping knows HTML alone, so everything printed goes through `escape`.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("model_card.md.j2").render(contents(folder, settings))
    path = folder.evaluation / CARD
    path.write_text(text, "utf8")
    return path


def escape(value: Any) -> str:
    """The value as Markdown text that shows it and does nothing else; Markup stays as it is."""
    if isinstance(value, Markup):
        return str(value)
    text = printable(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(r"\\\1", text)


def description(card: str) -> str:
    """As much of a card as MLflow keeps for a version."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    kept = card[: MAX_DESCRIPTION - len(CUT)]
    return kept.rpartition("\n")[0] + CUT


def contents(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """Everything the card shows, by the names that the template uses."""
    about, encoding = bundles.describe(folder.bundle), bundles.encoding(folder.bundle)
    metrics = _read(folder.evaluation / "metrics.json") or {}
    details = _read(folder.evaluation / "details.json") or {}
    baselines = (_read(folder.evaluation / "baselines.json") or {}).get("baselines", [])
    test = metrics.get("test", {})
    slices = (_read(folder.evaluation / "slices.json") or {}).get("test", {})
    return {
        "name": settings.name,
        # In blocks of code, where nothing may be escaped; the schema allows both only plain characters.
        "uri": Markup(f"models:/{settings.name}@{settings.registration.alias}"),
        "task": about["task"],
        "labels": about["labels"][:MOST_LABELS],
        "num_more_labels": max(len(about["labels"]) - MOST_LABELS, 0),
        "inputs": [_input(part) for part in encoding.inputs],
        "context": [_input(part) for part in encoding.context],
        "splits": json.loads((folder.data / "manifest.json").read_text("utf8"))["splits"],
        "paths": [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path),
        "model": settings.model.own or _network(settings),
        "best_epoch": about["epoch"],
        "num_epochs": len(_read(folder.checkpoints / "history.json") or []),
        "searched": settings.tune is not None or (folder.tune / "best.yaml").exists(),
        "seed": settings.train.seed,
        "temperature": about.get("temperature", 1.0),  # models from before there were temperatures have none
        "scores": [_score(name, test, baselines) for name in SHOWN_METRICS if test.get(name) is not None],
        "baselines": [each["name"].replace("_", " ") for each in baselines],
        "confidence": settings.gate.confidence,
        "num_test": test.get("num_sequences"),
        "unseen": (details.get("unseen") or {}).get("sentence", ""),
        "weak": list(_weak(slices, test))[:MOST_SLICES],
        "limits": list(_limits(encoding)),
        "verdict": _read(folder.evaluation / "verdict.json") or {},
        "example": Markup(_example(folder, about)),
        "run_id": folder.run_id,
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf8")) if path.exists() else None


def _network(settings: Settings) -> str:
    model = settings.model
    direction = "read from both ends" if model.bidirectional else "read forwards"
    crf = ", with a CRF over the labels" if model.crf else ""
    layers = "layer" if model.layers == 1 else "layers"
    return f"{model.layers} {model.cell} {layers} of {model.units} units, {direction}{crf}"


def _input(part: Any) -> dict[str, Any]:
    kind = type(part).__name__.removesuffix("Encoding").lower()
    return {"column": part.column, "kind": kind, "features": getattr(part, "features", None)}


def _score(name: str, test: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    low, high = test.get(f"{name}_low"), test.get(f"{name}_high")
    return {
        "name": name.replace("_", " "),
        "value": f"{test[name]:.4f}",
        "interval": "" if low is None or high is None else f"{low:.4f} to {high:.4f}",
        "baselines": [_number((each.get("metrics") or {}).get(name)) for each in baselines],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _weak(slices: Mapping[str, Any], test: Mapping[str, Any]) -> Iterator[str]:
    """The slices whose whole interval of accuracy lies below that of all test rows."""
    low = test.get("accuracy_low")
    for name, parts in slices.items():
        for part in parts if isinstance(parts, list) else []:
            high = part.get("accuracy_high")
            if low is None or high is None or high >= low:
                continue
            what = part.get("value", f"{part.get('low')} to {part.get('high')}")
            yield f"{name} {what}: accuracy {part['accuracy']:.4f} ({part['accuracy_low']:.4f} to {high:.4f})"


def _limits(encoding: Encoding) -> Iterator[str]:
    if encoding.max_length is not None:
        yield (
            f"Sequences of more than {encoding.max_length:,} steps are cut into windows of that length, "
            "whose answers are stitched."
        )
    for part in (*encoding.inputs, *encoding.context):
        if isinstance(part, TokenEncoding):
            yield f"In {part.column} every token that training did not know counts as the same unknown one."
    yield "It says only the labels above, also for rows unlike any that it was trained on."
    yield "Rows without any step are refused."


def _example(folder: RunFolder, about: Mapping[str, Any]) -> str:
    """A row of the test set, cut to a few steps, as the JSON records that a server takes."""
    columns = examples(folder.data / "test", most=1).columns(about["id"])
    cut = {
        name: values[0][:MOST_EXAMPLE_STEPS] if isinstance(values[0], list) else values[0]
        for name, values in columns.items()
    }
    # A backtick would end the block of code; JSON has another way to write it.
    return json.dumps({"dataframe_records": [cut]}).replace("`", "\\u0060")
