"""The model that holds the alias now, on the rows of the one that wants it."""

import os
from pathlib import Path

import pyarrow.parquet as pq

from components import bundles
from components.data.batches import SequenceSet
from components.evaluation import answers
from components.served.encoding import Encoding, InputEncoding
from components.served.numbers import NumericEncoding
from components.served.symbols import TokenEncoding

NUM_SHOWN = 5


def incomparable(theirs: Path, ours: Path) -> str | None:
    """Why one bundle cannot answer the rows of another as this one does; None when it can."""
    one, other = bundles.encoding(theirs), bundles.encoding(ours)
    if one.task != other.task:
        return f"its task is {one.task}, this model's is {other.task}"
    if set(one.labels) != set(other.labels):
        lacks, more = set(other.labels) - set(one.labels), set(one.labels) - set(other.labels)
        told = [f"it lacks {_shown(lacks)}" if lacks else "", f"it also has {_shown(more)}" if more else ""]
        return f"its labels are others: {' and '.join(filter(None, told))}"
    if _inputs(one) != _inputs(other):
        return f"its inputs are {_inputs(one)}, this model's are {_inputs(other)}"
    return None


def answer(*, bundle: Path, data: Path, out: Path) -> None:
    """Write a bundle's predictions on prepared test rows, encoded as that bundle was trained."""
    predictor = bundles.open(bundle)
    labels = bundles.encoding(data).labels
    rows = SequenceSet.open(data / "test", predictor.encoding)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    pq.write_table(answers.predict(predictor, rows, labels=labels, split="test"), temporary)
    os.replace(temporary, out)


def _inputs(encoding: Encoding) -> str:
    inputs = [_input(part) for part in encoding.inputs]
    return ", ".join([*inputs, *(f"{_input(part)} of the sequence" for part in encoding.context)])


def _input(part: InputEncoding) -> str:
    if not isinstance(part, NumericEncoding):
        return f"{part.column} as {'tokens' if isinstance(part, TokenEncoding) else 'categories'}"
    missing = "" if part.fill is None else ", some missing"
    return f"{part.column} with {part.features} features{missing}"


def _shown(labels: set[str]) -> str:
    more = f" and {len(labels) - NUM_SHOWN} more" if len(labels) > NUM_SHOWN else ""
    return ", ".join(map(repr, sorted(labels)[:NUM_SHOWN])) + more
