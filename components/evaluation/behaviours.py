"""Behaviour examples: rows that must come out right, whatever the score over all rows says.

    files ─ read ─▶ Examples (expected labels, places) ─┬─ judged ─▶ {"num": 12, "num_right": 11, "rows": []}
    files ─ answered by the bundle ─────────────────────┘

They have the columns of the data, but for those that only split it; the target says what is expected. In a
labeller's row an empty or missing label leaves its step open.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components import bundles
from components.data.faults import Fault
from components.data.intake import Here, Reading, open_sources, refuse
from components.data.readers import expand, parts, scan
from components.data.readers.sources import Part
from components.data.records import Layout, Places, check, check_agreement, check_schema
from components.errors import DataError, Problem
from components.evaluation import new_rows
from components.lookup import nearest
from conf.schema import Settings

ANY = ""
MAX_EXAMPLES = 100_000


@dataclass(frozen=True)
class Example:
    """Where a row stands, and what is expected of it; None leaves a step open."""

    file: str
    row: int
    id: str | None
    expected: str | list[str | None]


def paths(settings: Settings) -> list[str]:
    """What the settings name; empty where there are no examples."""
    given = settings.evaluate.examples
    return [] if given is None else [given] if isinstance(given, str) else list(given)


def read(settings: Settings, labels: Sequence[str] | None) -> list[Example]:
    """The examples in the order of their files.

    Args:
        settings: of the run.
        labels: those that a model can say; None: any label will do.

    Raises:
        DataError: files or rows are at fault, or a label is unknown; every problem with its place.
    """
    if not paths(settings):
        return []
    layout = replace(Layout.of(settings), split=None, by_time=False, kept=(), groups=None)
    found: list[Example] = []
    problems: list[Problem] = []
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        sources = open_sources(
            expand(paths(settings), settings.data.format),
            Reading.of(settings, layout),
            run=Here,
            scratch=scratch,
            check=lambda source: check_schema(source.schema, layout, file=source.name),
        )
        refuse(check_agreement([(source.name, source.schema) for source in sources], layout))
        for part in parts(sources):
            for examples, faults in _of_part(part, layout, labels):
                found += examples
                problems += faults
            if len(found) > MAX_EXAMPLES:
                raise DataError(f"evaluate.examples has more than {MAX_EXAMPLES:,} rows.")
    if not found and not problems:
        problems = [Problem(file=source.name, message="no rows") for source in sources]
    if problems:
        hint = "Each row is to have the columns of the data, with the labels expected of it as its target."
        raise DataError("The behaviour examples cannot be used:", problems=problems, hint=hint)
    return found


def _of_part(
    part: Part, layout: Layout, labels: Sequence[str] | None
) -> Iterator[tuple[list[Example], list[Problem]]]:
    row = part.first_row
    for batch in scan(part, layout.columns):
        if layout.per_step:
            batch = _with_open_steps(batch, layout.target)
        checked = check(batch, layout, source=part.source, first_row=row)
        place = Places(batch, part.source, row)
        examples, problems = [], list(checked.problems)
        ends = np.cumsum(checked.num_labels)
        for i in np.flatnonzero(checked.good).tolist():
            expected = checked.labels[ends[i] - checked.num_labels[i] : ends[i]].to_pylist()
            problems += [
                place.problem(layout.target, Fault(i, step, None, message), None)
                for step, message in _unknown(expected, labels, per_step=layout.per_step)
            ]
            where = place.problem(layout.target, Fault(i, None, None, ""), None)
            asked = (
                [None if label == ANY else label for label in expected] if layout.per_step else expected[0]
            )
            examples.append(Example(where.file, int(where.row or 0), checked.ids[i].as_py(), asked))
        yield examples, problems
        row += len(batch)


def _with_open_steps(batch: pa.RecordBatch, target: str) -> pa.RecordBatch:
    """The batch with missing labels of steps as empty ones."""
    place = batch.schema.get_field_index(target)
    rows = batch.column(place).cast(pa.list_(pa.string())).to_pylist()
    filled = [None if row is None else [ANY if label is None else label for label in row] for row in rows]
    return batch.set_column(place, target, pa.array(filled, pa.list_(pa.string())))


def _unknown(
    expected: Sequence[str], labels: Sequence[str] | None, *, per_step: bool
) -> Iterator[tuple[int | None, str]]:
    """Labels that a model cannot say, each with its step."""
    for step, label in enumerate(expected):
        if labels is None or label in labels or (per_step and label == ANY):
            continue
        near = nearest(label, labels)
        hint = f"; did you mean {near!r}?" if near else ""
        yield step if per_step else None, f"received the label {label!r}, which no row of the data has{hint}"


def judged(settings: Settings, *, bundle: Path) -> dict[str, Any]:
    """What a frozen model answers to each example, and how many it gets right.

    Raises:
        DataError: as `read` does.
    """
    examples = read(settings, bundles.encoding(bundle).labels)
    rows = [_row(*pair) for pair in zip(examples, _answers(settings, bundle, examples), strict=True)]
    return {"num": len(rows), "num_right": sum(row["right"] for row in rows), "rows": rows}


def _answers(settings: Settings, bundle: Path, examples: Sequence[Example]) -> list[Mapping[str, Any]]:
    """Of each example."""
    if not examples:
        return []
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        task = new_rows.open_task(
            expand(paths(settings), settings.data.format),
            bundles.encoding(bundle),
            own_id=settings.data.id,
            id_column=settings.data.id,
            file_format=settings.data.format,
            layout=bundles.describe(bundle).get("layout"),
            run=Here,
            scratch=scratch,
            n_best=0,
            distribution=False,
        )
        answers = [row for batch in new_rows.answers(bundle=bundle, task=task) for row in batch.to_pylist()]
    if settings.data.layout == "step":  # sequences are put together in an order of their own
        by_id = {answer["id"]: answer for answer in answers}
        return [by_id[example.id] for example in examples]
    return answers


def _row(example: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
    said = answer["labels"] if "labels" in answer else answer["label"]
    sure = answer["probabilities"] if "labels" in answer else answer["probability"]
    return {
        "file": example.file,
        "row": example.row,
        "id": example.id,
        "expected": example.expected,
        "answered": said,
        "right": first_wrong(example.expected, said) is None,
        "probability": sure,
    }


def first_wrong(expected: Any, answered: Any) -> int | None:
    """The first step whose label is not the one expected; 0 for a wrong class, None where all is right."""
    if not isinstance(expected, list):
        return None if expected == answered else 0
    pairs = zip(expected, answered, strict=True)
    return next((step for step, (one, other) in enumerate(pairs) if one is not None and one != other), None)


def sentence(row: Mapping[str, Any]) -> str:
    """What is wrong with an example that failed."""
    place = f"{row['file']} row {row['row']}"
    step = first_wrong(row["expected"], row["answered"])
    if isinstance(row["expected"], list) and step is not None:
        return f"{place}, step {step}: expected {row['expected'][step]}, answered {row['answered'][step]}"
    return f"{place}: expected {row['expected']}, answered {row['answered']}"
