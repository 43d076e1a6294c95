"""prepare: files of rows to checked, split shards and the encoding learnt from training rows.

    files ─ scan every part ─▶ indexes ─ audit ─▶ each row's fate ─ write parts, then shards ─▶ data/

Both passes stream on the cluster, one task for each part of a file; only indexes, which hold no values, come
together in this process. The folder gets its name when it is complete, so a refusal leaves nothing.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data import readers
from components.data.audits import Audit, audit
from components.data.indexes import Scan
from components.data.preparation import Order, Pieces, finish, scan_part, write_part
from components.data.records import Layout, check_agreement, check_schema
from components.data.shards import Shard, write_shard
from components.data.splits import SPLITS
from components.errors import DataError, Problem, StorageError
from conf.schema import Settings
from pipeline.backends.cluster import Cluster, Future
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console

REJECTED = "rejected.parquet"


def prepare(settings: Settings, *, folder: RunFolder, cluster: Cluster, console: Console) -> dict[str, Any]:
    """Write `data/`; what run.json keeps of it.

    Raises:
        DataError: files or rows are at fault; every problem with its place.
    """
    with _scratch(folder.path) as scratch:
        found = _examine(settings, scratch=scratch, run=cluster.task, console=console)
        fresh = scratch / "data"
        fresh.mkdir()
        manifest = _write(settings, found, scratch=scratch, target=fresh, cluster=cluster, console=console)
        shutil.rmtree(folder.data, ignore_errors=True)
        os.rename(fresh, folder.data)
    splits = {name: each["rows"] for name, each in manifest["splits"].items()}
    if manifest["rejected"]:
        console.warn(f"{manifest['rejected']:,} rows were left out; they are in {folder.data / REJECTED}.")
    console.note(f"prepared {', '.join(f'{rows:,} {name}' for name, rows in splits.items())} rows")
    return {"rows": splits, "rejected": manifest["rejected"], "labels": len(manifest["labels"])}


def check_data(settings: Settings, *, console: Console) -> None:
    """Everything that `prepare` would refuse, found in this process; nothing is kept.

    Raises:
        DataError: files or rows are at fault; every problem with its place.
    """
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        _examine(settings, scratch=Path(scratch), run=_Here, console=console)


@dataclass(frozen=True)
class _Found:
    """The checked rows and their fates."""

    layout: Layout
    scans: list[Scan]
    audit: Audit


class _Here:
    """A task that is done in this process when its result is asked for."""

    def __init__(self, function: Any, **kwargs: Any) -> None:
        self.function, self.kwargs = function, kwargs

    def result(self) -> Any:
        return self.function(**self.kwargs)


def _examine(settings: Settings, *, scratch: Path, run: Any, console: Console) -> _Found:
    layout = Layout.of(settings)
    parts = _parts(settings, layout)
    tasks = [run(scan_part, part=part, layout=layout, scratch=str(scratch)) for part in parts]
    scans = []
    with console.progress("check", total=sum(part.num_rows for part in parts), unit="rows") as bar:
        for part, task in zip(parts, tasks, strict=True):
            scans.append(task.result())
            bar.advance(part.num_rows)
    return _Found(layout, scans, audit(scans, layout=layout, settings=settings))


def _parts(settings: Settings, layout: Layout) -> list[readers.Part]:
    """What there is to read; files that cannot serve are all named together."""
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    sources, problems = readers.describe(readers.expand(paths, settings.data.format), settings.data.format)
    for source in sources:
        problems += check_schema(source.schema, layout, file=source.name)
    if not problems:
        problems += check_agreement([(source.name, source.schema) for source in sources], layout)
    parts = readers.parts(sources)
    if not problems and not parts:
        names = ", ".join(source.name for source in sources[:3])
        problems.append(Problem(file=names, message="no rows"))
    if problems:
        raise DataError("The files cannot be used.", problems=problems, hint="See the data section.")
    return parts


def _write(
    settings: Settings,
    found: _Found,
    *,
    scratch: Path,
    target: Path,
    cluster: Cluster,
    console: Console,
) -> dict[str, Any]:
    order = Order.of(found.audit, found.scans, found.layout)
    tasks = [
        cluster.task(
            write_part,
            scanned=scan,
            order=order,
            codes=found.audit.codes[i],
            reasons=found.audit.reasons[i],
            label_codes=found.audit.label_codes[i],
            scratch=str(scratch),
        )
        for i, scan in enumerate(found.scans)
    ]
    pieces: list[Pieces] = []
    num_rows = sum(scan.part.num_rows for scan in found.scans)
    with console.progress("write", total=num_rows + sum(found.audit.num_rows), unit="rows") as bar:
        for scan, task in zip(found.scans, tasks, strict=True):
            pieces.append(task.result())
            bar.advance(scan.part.num_rows)
        shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        for name, future in _shard_tasks(pieces, order, found, target=target, cluster=cluster):
            shard = future.result()
            shards[name].append(shard)
            bar.advance(shard.rows)
    _keep_rejected([each.rejected for each in pieces if each.rejected], target / REJECTED)
    return finish(shards, audit=found.audit, settings=settings, order=order, target=target)


def _shard_tasks(
    pieces: Sequence[Pieces], order: Order, found: _Found, *, target: Path, cluster: Cluster
) -> list[tuple[str, Future]]:
    """The shards under way, in order; one that got no row is left out."""
    tasks = []
    for split, name in enumerate(SPLITS):
        for shard in range(order.shards[split]):
            files = [each.files[split, shard] for each in pieces if (split, shard) in each.files]
            if files:
                future = cluster.task(
                    write_shard,
                    pieces=files,
                    target=str(target),
                    name=f"{name}/part-{shard:05d}.parquet",
                    features=found.audit.widths,
                    num_labels=len(found.audit.labels),
                )
                tasks.append((name, future))
    return tasks


def _keep_rejected(files: Sequence[str], target: Path) -> None:
    if files:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(file) for file in files]
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), target, compression="zstd")


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the result, on the same disk, gone at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder) as name:
            yield Path(name)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}.") from error
