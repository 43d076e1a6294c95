"""The model that holds the alias now, on the rows of the one that wants it."""

import os
from pathlib import Path

import pyarrow.parquet as pq

from components import bundles
from components.data.batches import SequenceSet
from components.evaluation import answers
from components.evaluation.verdicts import Obstacle
from components.served.encoding import Encoding, InputEncoding
from components.served.numbers import NumericEncoding
from components.served.symbols import TokenEncoding

NUM_SHOWN = 5
BY_HAND_HINT = (
    "If this model is to take its place all the same, say why: `recurra register CONF --override TEXT`, or "
    "later `recurra promote NAME VERSION --why TEXT`."
)
NAME_HINT = "A model of another task is another model: register it under a name of its own (`name`)."
LABELS_HINT = (
    "If the labels were not meant to change, correct those that are misspelt, new or missing in the data; if "
    "both sets are needed, register this model under a name of its own (`name`)."
)
INPUTS_HINT = (
    "If the inputs were not meant to change, correct `data.inputs` and `data.context` and run again; whoever "
    "calls the champion has to send other rows to this model."
)
ROWS_HINT = f"Compare the data with those the champion was trained on. {BY_HAND_HINT}"
FILES_HINT = (
    f"Put the champion's files back, or point the alias to a version whose files are whole. {BY_HAND_HINT}"
)


def incomparable(theirs: Path, ours: Path) -> Obstacle | None:
    """Why one bundle cannot answer the rows of another as this one does; None when it can."""
    one, other = bundles.encoding(theirs), bundles.encoding(ours)
    if one.task != other.task:
        return Obstacle(
            f"its task is {one.task}, this model's is {other.task}", f"{NAME_HINT} {BY_HAND_HINT}"
        )
    if set(one.labels) != set(other.labels):
        lacks, more = set(other.labels) - set(one.labels), set(one.labels) - set(other.labels)
        told = [f"it lacks {_shown(lacks)}" if lacks else "", f"it also has {_shown(more)}" if more else ""]
        reason = f"its labels are others: {' and '.join(filter(None, told))}"
        return Obstacle(reason, f"{LABELS_HINT} {BY_HAND_HINT}")
    if _inputs(one) != _inputs(other):
        reason = f"its inputs are {_inputs(one)}, this model's are {_inputs(other)}"
        return Obstacle(reason, f"{INPUTS_HINT} {BY_HAND_HINT}")
    return None


def answer(*, bundle: Path, data: Path, out: Path, distribution: bool = False) -> Obstacle | None:
    """Write a bundle's predictions on prepared test rows, encoded as that bundle was trained.

    Args:
        distribution: also a classifier's probability of every label, in the order that the data have them in.

    Returns:
        Why there are none, where the rows are not such as the bundle can answer.
    """
    predictor = bundles.open(bundle)
    labels = bundles.encoding(data).labels
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        rows = SequenceSet.open(data / "test", predictor.encoding)
        table = answers.predict(predictor, rows, labels=labels, split="test", distribution=distribution)
    except ValueError as error:
        return Obstacle(f"it cannot answer these test rows: {error}", ROWS_HINT)
    pq.write_table(table, temporary)
    os.replace(temporary, out)
    return None


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
