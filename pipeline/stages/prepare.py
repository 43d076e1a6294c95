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

from components.data import readers, rejects
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
from pipeline.console import Bar, Console

REJECTED = "rejected.parquet"
SCRATCH = ".prepare-"


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
    with console.progress("check", total=sum(part.num_rows for part in parts), unit="rows") as bar:
        scans = list(_results(tasks, [part.num_rows for part in parts], bar))
    return _Found(layout, scans, audit(scans, layout=layout, settings=settings))


def _results(tasks: Sequence[Any], num_rows: Sequence[int], bar: Bar) -> Iterator[Any]:
    """The tasks' results in order. All are waited for, so that every damaged file is named together."""
    problems: list[Problem] = []
    for task, done in zip(tasks, num_rows, strict=True):
        try:
            yield task.result()
        except DataError as error:
            problems += error.problems
        bar.advance(done)
    if problems:
        raise DataError("The files cannot be used.", problems=problems, hint="See the data section.")


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
    num_rows = [scan.part.num_rows for scan in found.scans]
    with console.progress("write", total=sum(num_rows) + sum(found.audit.num_rows), unit="rows") as bar:
        pieces: list[Pieces] = list(_results(tasks, num_rows, bar))
        shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        for name, future in _shard_tasks(pieces, order, found, target=target, cluster=cluster):
            shard = future.result()
            shards[name].append(shard)
            bar.advance(shard.rows)
    rejected = [each.rejected for each in pieces if each.rejected]
    if rejected:
        rejects.gather(rejected, str(target / REJECTED))
    return finish(shards, audit=found.audit, settings=settings, order=order, target=target)


def _shard_tasks(
    pieces: Sequence[Pieces], order: Order, found: _Found, *, target: Path, cluster: Cluster
) -> list[tuple[str, Future]]:
    """The shards under way, in order; one that got no row is left out."""
    tasks = []
    for split, name in enumerate(SPLITS):
        for shard in range(order.shards[split]):
            own = [each.by_shard[split, shard] for each in pieces if (split, shard) in each.by_shard]
            if own:
                future = cluster.task(
                    write_shard,
                    pieces=own,
                    target=str(target),
                    name=f"{name}/part-{shard:05d}.parquet",
                    features=found.audit.widths,
                    num_labels=len(found.audit.labels),
                )
                tasks.append((name, future))
    return tasks


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the result, on the same disk, gone at the end; so are those of killed runs."""
    for stale in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}.") from error
