"""How a model does on rows that came after it: labelled ones that it was not made from.

    files ─ fresh ─▶ Fresh (labels, which rows are new to the model) ─┬─ score ─▶ Live
    files ─ answered by the bundle ───────────────────────────────────┘

A row that the model was trained, chosen or tested with says nothing new of it; such rows are known by the
digest of their inputs, so that a file that grows may be looked at as it is.

Letters: n rows.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import bundles
from components.data.indexes import digests_of
from components.data.intake import Here, Reading, open_sources, refuse
from components.data.readers import File, parts, scan
from components.data.readers.sources import Source
from components.data.records import Layout, check, check_agreement, check_schema
from components.evaluation import answers, new_rows, scoring
from conf.schema import Settings


@dataclass(frozen=True)
class Fresh:
    """The rows of some files in their order, with what is expected of each."""

    expected: tuple[str | list[str] | None, ...]  # None: a bad row
    ids: tuple[str | None, ...]
    is_new: np.ndarray  # (n,) bool: good, and not one that the model was made from
    num_bad: int

    @property
    def num_new(self) -> int:
        return int(self.is_new.sum())


@dataclass(frozen=True)
class Live:
    """A score on new rows, with its interval; None where the rows give no number."""

    num_rows: int
    value: float | None
    low: float | None
    high: float | None


def fresh(files: Sequence[File], settings: Settings, *, known: Path | None) -> Fresh:
    """The labelled rows of the files, and which of them are new; it needs no TensorFlow.

    Args:
        files: with the columns of the data, the target among them.
        settings: what a row is; its split has no say.
        known: the prepared data that the model was made from; None: every row counts as new.

    Raises:
        DataError: files that cannot be read, or that lack a column.
    """
    layout = replace(Layout.of(settings), split=None, by_time=False, kept=(), groups=None)
    seen = _known(known)
    expected: list[Any] = []
    ids: list[str | None] = []
    new: list[np.ndarray] = [np.zeros(0, bool)]
    with _opened(files, settings, layout) as sources:
        for part in parts(sources):
            row = part.first_row
            for batch in scan(part, layout.columns):
                checked = check(batch, layout, source=part.source, first_row=row)
                row += len(batch)
                ends = np.cumsum(checked.num_labels)
                for i, good in enumerate(checked.good.tolist()):
                    labels = checked.labels[ends[i] - checked.num_labels[i] : ends[i]] if good else None
                    truth = None if labels is None else labels.to_pylist()
                    expected.append(truth if truth is None or layout.per_step else truth[0])
                    ids.append(checked.ids[i].as_py())
                digests = pa.array(digests_of(checked), pa.binary())
                is_known = pc.is_in(digests, value_set=seen).to_numpy(zero_copy_only=False)
                new.append(checked.good & ~is_known)
    bad = sum(truth is None for truth in expected)
    return Fresh(tuple(expected), tuple(ids), np.concatenate(new), bad)


@contextmanager
def _opened(files: Sequence[File], settings: Settings, layout: Layout) -> Iterator[list[Source]]:
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        sources = open_sources(
            files,
            Reading.of(settings, layout),
            run=Here,
            scratch=scratch,
            check=lambda source: check_schema(source.schema, layout, file=source.name),
        )
        refuse(check_agreement([(source.name, source.schema) for source in sources], layout))
        yield list(sources)


def _known(data: Path | None) -> pa.Array:
    """Digests of all prepared rows."""
    found = [pa.array([], pa.binary())]
    if data is not None:
        for path in sorted(data.glob("*/part-*.parquet")):
            column = pq.read_table(path, columns=["digest"])["digest"]
            found.append(column.cast(pa.binary()).combine_chunks())
    return pa.concat_arrays(found)


def score(files: Sequence[File], settings: Settings, rows: Fresh, *, bundle: Path, metric: str) -> Live:
    """What the model scores on the new ones of the rows.

    Labels that it does not know count as wrong answers.

    Args:
        files: those that `rows` are of.
        settings: how the files are read, and how sure the interval is.
        rows: what is expected.
        bundle: the model.
        metric: accuracy, macro_f1 and the like; one that asks for no probabilities.

    Raises:
        DataError: the files lack what the model reads.
    """
    encoding = bundles.encoding(bundle)
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        task = new_rows.open_task(
            files,
            encoding,
            own_id=settings.data.id,
            id_column=settings.data.id,
            file_format=settings.data.format,
            layout=bundles.describe(bundle).get("layout"),
            run=Here,
            scratch=scratch,
            n_best=0,
            distribution=False,
            keeps_bad=True,
        )
        said = [row for batch in new_rows.answers(bundle=bundle, task=task) for row in batch.to_pylist()]
    table = _table(rows, said, settings)
    labels = list(encoding.labels)
    flat = pc.list_flatten(table["truth"]) if settings.task == "labelling" else table["truth"]
    labels += sorted(set(pc.unique(flat).to_pylist()) - set(labels))
    if not len(table):
        return Live(0, None, None, None)
    read = answers.read(table, task=settings.task, labels=labels, scheme=settings.data.target.scheme)
    found = scoring.measure(
        read,
        task=settings.task,
        bootstrap=settings.evaluate.bootstrap,
        confidence=settings.gate.confidence,
        metrics=[metric],
    )
    return Live(len(table), found[metric], found[f"{metric}_low"], found[f"{metric}_high"])


def _table(rows: Fresh, said: Sequence[dict[str, Any]], settings: Settings) -> pa.Table:
    """Predictions of the new rows that have an answer, as the evaluation has them."""
    per_step = settings.task == "labelling"
    label, sure = ("labels", "probabilities") if per_step else ("label", "probability")
    if settings.data.layout == "step":  # sequences are put together in an order of their own
        by_id = {answer["id"]: answer for answer in said}
        said = [by_id.get(name, {label: None}) for name in rows.ids]
    pairs = [
        (truth, answer)
        for truth, answer, new in zip(rows.expected, said, rows.is_new.tolist(), strict=True)
        if new and answer[label] is not None
    ]
    texts, reals = pa.string(), pa.float64()
    truths, found, probabilities = (
        [truth for truth, _ in pairs],
        [answer[label] for _, answer in pairs],
        [answer[sure] for _, answer in pairs],
    )
    lengths = [len(truth) if isinstance(truth, list) else 1 for truth in truths]
    return pa.table(
        {
            "length": pa.array(lengths, pa.int32()),
            "truth": pa.array(truths, pa.list_(texts) if per_step else texts),
            label: pa.array(found, pa.list_(texts) if per_step else texts),
            sure: pa.array(probabilities, pa.list_(reals) if per_step else reals),
            "loss": pa.array([0.0] * len(pairs), reals),  # none of the metrics asks for it
            "place": pa.array(range(len(pairs)), pa.int64()),
        }
    )
