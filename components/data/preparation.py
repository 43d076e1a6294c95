"""The functions that workers run: scan a part, write a part's pieces, write a shard. All stream.

scan_part    rows of a part ─▶ its index: everything the whole-data checks need
write_part   rows of a part and their fates ─▶ pieces, one for each shard, and the rejected rows
write_shard  (shards.py) pieces ─▶ one shard in its own order

finish       what the shards say ─▶ encoding.json, manifest.json, profile.json, pins.json if stratified,
             vectors-N.npy of inputs whose tokens begin with given ones
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data import profiles, rejects, vectors
from components.data.audits import Audit
from components.data.columns import innermost, is_list, list_lengths
from components.data.encoders import fit, merged
from components.data.indexes import Index, IndexWriter, Scan
from components.data.labels import MAX_LABELS, Pins, too_many_labels
from components.data.notices import notices
from components.data.readers import scan
from components.data.readers.sources import Part
from components.data.records import Checked, Field, Layout, check
from components.data.shards import Content, Piece, Shard, flat_rows, num_shards, schema, shard_of
from components.data.splits import SPLITS
from components.data.tags import illegal
from components.errors import NUM_SHOWN, Problem
from components.served.encoding import Encoding, InputEncoding
from components.served.symbols import TokenEncoding
from conf.schema import Settings, TokenInput

FORMAT = 1


@dataclass(frozen=True)
class Order:
    """What `write_part` needs to know of the whole."""

    layout: Layout
    content: Content
    shards: tuple[int, ...]  # of each split
    features: tuple[int, ...]  # of each input and context column

    @classmethod
    def of(cls, audit: Audit, scans: Sequence[Scan], layout: Layout) -> "Order":
        """How many shards each split gets follows from its values alone."""
        schemas = [scan.part.source.schema for scan in scans]
        content = Content(
            inputs=tuple(_value_kind(schemas, field) for field in layout.fields),
            context=tuple(pa.string() if field.is_text else pa.float64() for field in layout.context),
            per_step=layout.per_step,
            num_kept=len(layout.kept),
        )
        width = sum(audit.widths)
        sizes = zip(audit.num_rows, audit.num_steps, strict=True)
        shards = tuple(num_shards(rows, steps * width) for rows, steps in sizes)
        return cls(layout, content, shards, (*audit.widths, *(1 for _ in layout.context)))


@dataclass(frozen=True)
class Pieces:
    """What one part wrote: pieces by split and shard, and its rejected rows if any."""

    by_shard: Mapping[tuple[int, int], Piece]
    rejected: str | None


def scan_part(part: Part, *, layout: Layout, scratch: str) -> Scan:
    """Check a part's rows and write its index.

    Raises:
        DataError: the file is damaged, or its labels are too many to be labels.
    """
    path = Path(scratch) / f"index-{part.number:06d}.arrow"
    problems: list[Problem] = []
    num_problems, row = 0, part.first_row
    with IndexWriter(path, layout) as writer:
        for batch in scan(part, layout.columns):
            checked = check(batch, layout, source=part.source, first_row=row)
            writer.add(checked, layout)
            problems += checked.problems[: NUM_SHOWN - len(problems)]
            num_problems += len(checked.problems)
            row += len(batch)
            if len(writer.labels) > MAX_LABELS:
                raise too_many_labels(layout.target, file=part.source.name)
    return Scan(part, Index(str(path)), tuple(writer.labels), tuple(problems), num_problems)


def write_part(
    scanned: Scan,
    *,
    order: Order,
    codes: np.ndarray,
    reasons: Mapping[int, str],
    label_codes: np.ndarray,
    scratch: str,
) -> Pieces:
    """Sort a part's rows into pieces, one for each shard, and keep the rejected ones aside.

    Args:
        codes: each row's split, or REJECTED, (n,).
        reasons: why rows were rejected.
        label_codes: from the part's own code of a label to its place in the label set.
    """
    part, layout = scanned.part, order.layout
    digests, y = scanned.index.array("digest"), scanned.index.array("y")
    path = Path(scratch) / f"rows-{part.number:06d}.arrow"
    rejected: list[pa.Table] = []
    at = 0
    with _PieceWriter(path, schema(order.content)) as writer:
        for batch in scan(part, layout.columns):
            size = len(batch)
            fates = codes[at : at + size]
            if (fates < 0).any():
                rejected.append(rejects.table(batch, fates < 0, reasons, at, part))
            checked = check(batch, layout, source=part.source, first_row=part.first_row + at)
            rows = _rows(checked, y.slice(at, size), digests.slice(at, size), label_codes, order, part, at)
            for split in range(len(SPLITS)):
                chosen = np.flatnonzero(fates == split)
                places = shard_of(rows["digest"].take(chosen), order.shards[split]) if len(chosen) else chosen
                for shard in np.unique(places).tolist():
                    writer.write((split, shard), rows.take(pa.array(chosen[places == shard])))
            at += size
    kept = str(Path(scratch) / f"rejected-{part.number:06d}.parquet") if rejected else None
    if kept is not None:
        rejects.write(rejected, kept)
    return Pieces(writer.pieces(), kept)


def finish(
    shards: Mapping[str, Sequence[Shard]], *, audit: Audit, settings: Settings, order: Order, target: Path
) -> dict[str, Any]:
    """Fit the encoding on the training shards and write what describes the whole; the manifest.

    Raises:
        DataError: no token is known, or a file of vectors cannot be used.
    """
    data = settings.data
    columns = (*data.inputs, *data.context)
    statistics = {
        name: [merged([shard.statistics[i] for shard in of_split if shard.rows]) for i in range(len(columns))]
        for name, of_split in shards.items()
    }
    fitted = [fit(part, each) for part, each in zip(columns, statistics["train"], strict=True)]
    joined = _join_vectors(data.inputs, fitted, target)
    encoding = Encoding(
        task=settings.task,
        inputs=tuple(fitted[: len(data.inputs)]),
        labels=audit.labels,
        context=tuple(fitted[len(data.inputs) :]),  # type: ignore[arg-type]
        max_length=data.max_length,
        overlap=data.overlap,
        scheme=data.target.scheme,
    )
    layout = order.layout
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "splits": {name: _split(of_split) for name, of_split in shards.items()},
        "inputs": _described(layout.fields, order.features, order.content.inputs),
        "context": _described(layout.context, repeat(1), order.content.context),
        "kept": list(layout.kept),
        "labels": list(audit.labels),
        "rejected": audit.num_rejected,
    }
    profile: dict[str, Any] = {
        "splits": {
            name: profiles.of_split(_lengths(of_split), _label_counts(of_split, audit.labels))
            for name, of_split in shards.items()
        },
        "inputs": profiles.of_columns(fitted, statistics, _samples(shards["train"])),
        "padding": profiles.padding_waste(_lengths(shards["train"])),
    }
    for i, each in joined.items():
        manifest["inputs"][i]["vectors"] = each.stored
        profile["inputs"][i]["vectors"] = asdict(each.coverage)
    if (scheme := data.target.scheme) != "none":
        for name, of_split in shards.items():
            pairs = illegal(_transitions(of_split), audit.labels, scheme)
            profile["splits"][name]["illegal_tags"] = pairs
    profile["notices"] = notices(profile)
    described = {"encoding": encoding.to_json(), "manifest": manifest, "profile": profile}
    if audit.pins is not None:
        described["pins"] = {"split": split_key(settings), **asdict(audit.pins)}
    for name, value in described.items():
        (target / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf8")
    return manifest


@dataclass(frozen=True)
class _Vectors:
    """A file of vectors beside the shards: its entry in the manifest, and what the profile says of it."""

    stored: dict[str, Any]
    coverage: vectors.Coverage


def _join_vectors(inputs: Sequence[Any], fitted: list[InputEncoding], target: Path) -> dict[int, _Vectors]:
    """Join the files of vectors to the vocabularies, in `fitted`, and write their tables; by input."""
    found: dict[int, _Vectors] = {}
    for i, (setting, encoding) in enumerate(zip(inputs, fitted, strict=False)):
        if not isinstance(setting, TokenInput) or setting.vectors is None:
            continue
        assert isinstance(encoding, TokenEncoding)
        joined = vectors.join(setting, encoding)
        fitted[i] = joined.encoding
        path = target / f"vectors-{i}.npy"
        np.save(path, joined.table)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stored = {"file": path.name, "rows": len(joined.table), "sha256": digest}
        found[i] = _Vectors(stored, joined.coverage)
    return found


def split_key(settings: Settings) -> str:
    """What two stratified splits must agree in for the pins of one to mean anything to the other."""
    data = settings.data
    columns = [part.column for part in (*data.inputs, *data.context)]
    return json.dumps([settings.task, data.split.model_dump(mode="json"), data.target.column, columns])


def pins_in(folder: Path, settings: Settings) -> Pins | None:
    """What the prepared data in a folder was split by, if it was stratified with the same settings."""
    try:
        stored = json.loads((folder / "pins.json").read_text("utf8"))
    except FileNotFoundError:
        return None
    if stored["split"] != split_key(settings):
        return None
    return Pins(tuple(stored["order"]), {name: tuple(cuts) for name, cuts in stored["cuts"].items()})


class _PieceWriter:
    """Writes a part's rows to one Arrow file, a batch for each shard that they go to."""

    def __init__(self, path: Path, rows: pa.Schema) -> None:
        self.path, self.schema = path, rows
        self.batches: dict[tuple[int, int], list[int]] = {}
        self._num_batches = 0

    def __enter__(self) -> "_PieceWriter":
        options = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
        self._file = pa.ipc.new_file(str(self.path), self.schema, options=options)
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def write(self, place: tuple[int, int], rows: pa.RecordBatch) -> None:
        """Add rows to the piece of a (split, shard)."""
        self._file.write_batch(rows)
        self.batches.setdefault(place, []).append(self._num_batches)
        self._num_batches += 1

    def pieces(self) -> dict[tuple[int, int], Piece]:
        """What was written, by split and shard."""
        return {place: Piece(str(self.path), tuple(batches)) for place, batches in self.batches.items()}


def _rows(
    checked: Checked,
    y: pa.Array,
    digests: pa.Array,
    label_codes: np.ndarray,
    order: Order,
    part: Part,
    at: int,
) -> pa.RecordBatch:
    """A batch as rows of a shard; the rejected ones are still among them."""
    size = len(y)
    first = part.position + at
    columns = {
        "row": checked.positions.fill_null(pa.array(np.arange(first, first + size))),
        "id": checked.ids,
        "file": _files(checked.positions, part),
        "length": checked.inputs[0].lengths.astype(np.int32),
        "y": _labels(y, label_codes),
        "digest": digests,
    }
    for i, (values, kind) in enumerate(zip(checked.inputs, order.content.inputs, strict=True)):
        columns[f"x{i}"] = flat_rows(values, kind)
    for i, (single, kind) in enumerate(zip(checked.context, order.content.context, strict=True)):
        columns[f"c{i}"] = pa.array(single, kind) if isinstance(single, np.ndarray) else single
    columns |= {f"k{i}": values for i, values in enumerate(checked.kept)}
    rows = schema(order.content)
    return pa.record_batch([columns[name] for name in rows.names], rows)


def _labels(y: pa.Array, label_codes: np.ndarray) -> pa.Array:
    if not is_list(y.type):
        return pa.array(label_codes[y.to_numpy()])
    offsets = np.concatenate([[0], np.cumsum(list_lengths(y))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(label_codes[y.flatten().to_numpy()]))


def _files(positions: pa.Array, part: Part) -> pa.DictionaryArray:
    """The file of each row; of a row made of several, that of the first."""
    source = part.source
    if not source.origins:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(positions), np.int32)), [source.name])
    firsts = np.array([origin.first for origin in source.origins])
    places = np.searchsorted(firsts, positions.to_numpy(), side="right") - 1
    names = [origin.name for origin in source.origins]
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), names)


def _value_kind(schemas: Sequence[pa.Schema], field: Field) -> pa.DataType:
    """The type of an input's values; files in which the column is all null do not count."""
    if field.is_text:
        return pa.string()
    if field.gaps:
        return pa.float64()
    kinds = [innermost(each.field(field.column).type)[0] for each in schemas]
    kind = next((kind for kind in kinds if not pa.types.is_null(kind)), pa.float64())
    return pa.uint8() if pa.types.is_boolean(kind) else kind


def _described(
    fields: Sequence[Field], features: Iterable[int], kinds: Sequence[pa.DataType]
) -> list[dict[str, Any]]:
    return [
        {"column": field.column, "kind": field.kind, "features": width, "dtype": str(kind)}
        for field, width, kind in zip(fields, features, kinds, strict=False)
    ]


def _split(shards: Sequence[Shard]) -> dict[str, Any]:
    return {
        "rows": sum(shard.rows for shard in shards),
        "steps": sum(shard.steps for shard in shards),
        "shards": [{"file": shard.file, "rows": shard.rows, "sha256": shard.sha256} for shard in shards],
    }


def _lengths(shards: Sequence[Shard]) -> np.ndarray:
    return np.concatenate([shard.lengths for shard in shards]).astype(np.int64)


def _samples(shards: Sequence[Shard]) -> list[np.ndarray | None]:
    """The samples of each column together, in the order of shards."""
    columns = zip(*(shard.samples for shard in shards if shard.rows), strict=True)
    return [None if each[0] is None else np.concatenate(each) for each in columns]


def _transitions(shards: Sequence[Shard]) -> np.ndarray:
    return np.sum([shard.transitions for shard in shards if shard.transitions is not None], axis=0)


def _label_counts(shards: Sequence[Shard], labels: Sequence[str]) -> dict[str, int]:
    counts = np.sum([shard.label_counts for shard in shards], axis=0)
    return dict(zip(labels, counts.tolist(), strict=True))
