"""New files read once and counted, to be compared with the rows that a model was trained on.

    files ─ open ─ check ─▶ good rows ─▶ Seen (drift.py)
                      └───▶ bad rows, counted

Memory is bounded by the size of a batch; labels are counted where the files have them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.columns import Nested, Words
from components.data.intake import Here, Reading, open_sources, refuse
from components.data.readers import File, parts, scan
from components.data.readers.sources import Source
from components.data.records import Checked, Layout, check, check_schema
from components.errors import DataError, Problem
from components.evaluation.drift import Seen
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding
from components.served.symbols import UNKNOWN, CategoryEncoding, TokenEncoding
from conf.schema import Settings

NO_TARGET = "no target"


@dataclass(frozen=True)
class Watched:
    """What new files hold."""

    seen: Seen
    num_bad: int
    problems: tuple[Problem, ...]  # of the first bad rows


def watch(
    files: Sequence[File], settings: Settings, *, encoding: Encoding, profile: Mapping[str, Any], scratch: str
) -> Watched:
    """Count what the files hold.

    Args:
        files: in any order.
        settings: what a row is; its split has no say.
        encoding: of the model that they are compared with.
        profile: of the rows that it was trained on.
        scratch: a folder for what is imported.

    Raises:
        DataError: files that cannot be read, or that hold no good row.
    """
    layout = replace(Layout.of(settings), split=None, by_time=False)
    sources = open_sources(files, Reading.of(settings, layout), run=Here, scratch=scratch)
    refuse([problem for source in sources for problem in _wrong_columns(source, layout)])
    seen, num_bad = Seen.of(profile), 0
    problems: list[Problem] = []
    fitted = {part.column: part for part in (*encoding.inputs, *encoding.context)}
    for source in sources:
        own = layout if layout.target in source.schema.names else _unlabelled(layout)
        for checked in _batches(source, own):
            good = checked.good & _fits(checked, layout, fitted)
            num_bad += int((~good).sum())
            problems += checked.problems[: 20 - len(problems)]
            _count(seen, checked, good, own, fitted)
    if not seen.num_rows:
        raise DataError("The new data hold no good row.", problems=problems)
    return Watched(seen, num_bad, tuple(problems))


def _wrong_columns(source: Source, layout: Layout) -> list[Problem]:
    """Without the target, which need not be there."""
    has_target = layout.target in source.schema.names
    return [
        problem
        for problem in check_schema(source.schema, layout, file=source.name)
        if has_target or problem.column != layout.target
    ]


def _unlabelled(layout: Layout) -> Layout:
    return replace(layout, target=NO_TARGET, per_step=False)


def _batches(source: Source, layout: Layout) -> Iterator[Checked]:
    columns = [column for column in layout.columns if column != NO_TARGET]
    for part in parts([source]):
        row = part.first_row
        for batch in scan(part, columns):
            if layout.target == NO_TARGET:
                batch = batch.append_column(NO_TARGET, pa.array(["none"] * len(batch)))
            yield check(batch, layout, source=source, first_row=row)
            row += len(batch)


def _fits(checked: Checked, layout: Layout, fitted: Mapping[str, Any]) -> np.ndarray:
    """Rows whose steps have as many features as the model reads, (n,) bool."""
    fits = np.ones(len(checked.good), bool)
    for field, values in zip(layout.fields, checked.inputs, strict=True):
        part = fitted.get(field.column)
        if isinstance(part, NumericEncoding):
            fits &= (values.row_widths == part.features) | (values.lengths == 0)
    return fits


def _count(seen: Seen, checked: Checked, good: np.ndarray, layout: Layout, fitted: Mapping[str, Any]) -> None:
    if not len(good):
        return
    lengths = checked.inputs[0].lengths
    seen.add_lengths(lengths[good])
    for field, values in zip(layout.fields, checked.inputs, strict=True):
        steps = np.repeat(good, values.lengths)
        part = fitted.get(field.column)
        if isinstance(part, NumericEncoding) and isinstance(values, Nested):
            kept = values.values[np.repeat(steps, values.widths)]
            seen.add_numbers(field.column, kept.astype(np.float64).reshape(-1, part.features))
        elif isinstance(part, TokenEncoding | CategoryEncoding) and isinstance(values, Words):
            _add_symbols(seen, part, values.values.filter(pa.array(steps)))
    for field, single in zip(layout.context, checked.context, strict=True):
        part = fitted.get(field.column)
        if isinstance(part, NumericEncoding) and isinstance(single, np.ndarray):
            seen.add_numbers(field.column, single[good].reshape(-1, 1))
        elif isinstance(part, TokenEncoding | CategoryEncoding) and not isinstance(single, np.ndarray):
            _add_symbols(seen, part, single.filter(pa.array(good)))
    if layout.target != NO_TARGET:
        units = np.repeat(good, checked.num_labels)
        seen.add_labels(_counts(checked.labels.filter(pa.array(units))))


def _add_symbols(seen: Seen, part: TokenEncoding | CategoryEncoding, values: pa.Array) -> None:
    counts = _counts(values)
    texts = list(counts)
    if not texts:
        return
    is_unknown = part.apply(texts)[:, 0] == UNKNOWN
    unknown = sum(counts[text] for text, lost in zip(texts, is_unknown, strict=True) if lost)
    seen.add_symbols(part.column, sum(counts.values()), unknown)


def _counts(values: pa.Array) -> Counter[str]:
    counted = pc.value_counts(values.drop_null())
    return Counter(
        dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    )
