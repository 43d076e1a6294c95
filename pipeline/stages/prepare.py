"""prepare: files of rows to checked, split shards and the encoding learnt from training rows.

    files ─ open ─▶ sources ─ scan every part ─▶ indexes ─ audit ─▶ each row's fate ─ write ─▶ data/

All passes stream on the cluster, one task for each part of a file; only indexes, which hold no values, come
together in this process. The folder gets its name when it is complete, so a refusal leaves nothing.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.data import intake, readers, rejects, vectors
from components.data.audits import Audit, audit
from components.data.encoders import needs_quantiles
from components.data.fates import Fates
from components.data.indexes import Scan
from components.data.labels import Pins
from components.data.preparation import Order, Pieces, finish, pins_in, scan_part, write_part
from components.data.records import Layout, check_agreement, check_schema
from components.data.shards import Shard, write_shard
from components.data.splits import SPLITS, TRAIN
from components.errors import DataError, Problem, StorageError
from components.evaluation import behaviours
from conf.schema import Settings, TokenInput
from pipeline.backends import disks, workspace
from pipeline.backends.cluster import Future, Tasks
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console

REJECTED = "rejected.parquet"
SCRATCH = ".prepare-"
SAMPLED = 1 << 21  # numbers of each column whose distribution is told
MAX_TAGS = 4096  # which of them follows which is counted


def prepare(settings: Settings, *, folder: RunFolder, cluster: Tasks, console: Console) -> dict[str, Any]:
    """Write `data/`; what run.json keeps of it.

    Raises:
        DataError: files or rows are at fault; every problem with its place.
    """
    check_vectors(settings)
    with _scratch(folder.path) as scratch:
        pins = _pins(settings, folder.storage)
        found = _examine(settings, scratch=scratch, run=cluster.task, console=console, pins=pins)
        behaviours.read(settings, found.audit.labels)
        # Hidden: who writes a shard on another machine has no need of those that are there.
        fresh = scratch / ".data"
        fresh.mkdir()
        manifest = _write(settings, found, scratch=scratch, target=fresh, cluster=cluster, console=console)
        shutil.rmtree(folder.data, ignore_errors=True)
        os.rename(fresh, folder.data)
    splits = {name: each["rows"] for name, each in manifest["splits"].items()}
    if manifest["rejected"]:
        console.warn(f"{manifest['rejected']:,} rows were left out; they are in {folder.data / REJECTED}.")
    profile = json.loads((folder.data / "profile.json").read_text("utf8"))
    for sentence in profile["notices"]:
        console.warn(sentence)
    console.note(f"prepared {', '.join(f'{rows:,} {name}' for name, rows in splits.items())} rows")
    return {"rows": splits, "rejected": manifest["rejected"], "labels": len(manifest["labels"])}


def check_data(
    settings: Settings, *, console: Console, problems: Path | None = None, sample: float = 1.0
) -> None:
    """Everything that `prepare` would refuse, found in this process; nothing else is kept.

    Args:
        settings: which data.
        console: shows how far it is.
        problems: a file for every single problem, one JSON object in each line.
        sample: the share of the data to look at, spread evenly over it. Of less than all, only what is wrong
            with single rows is told: what a few rows lack, the others may have.

    Raises:
        DataError: files or rows are at fault; every problem with its place.
    """
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        record = None if problems is None else partial(_record, problems)
        look = _examine if sample == 1.0 else partial(_examine_some, share=sample)
        found = look(settings, scratch=Path(scratch), run=intake.Here, console=console, record=record)
        behaviours.read(settings, found.audit.labels if isinstance(found, _Found) else None)


def check_examples(settings: Settings, data: Path) -> None:
    """Refuse behaviour examples that cannot be used, beside rows that are prepared already.

    Raises:
        DataError: files or rows are at fault, or a label is unknown; every problem with its place.
    """
    behaviours.read(settings, json.loads((data / "manifest.json").read_text("utf8"))["labels"])


def num_rows(settings: Settings, *, console: Console) -> int:
    """How many sequences the files hold now, good ones and bad.

    Raises:
        DataError: files cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
        layout = Layout.of(settings)
        parts = _parts(settings, layout, scratch=Path(scratch), run=intake.Here, console=console)
        return sum(part.num_rows for part in parts)


def check_vectors(settings: Settings, *, whole: bool = False) -> None:
    """Refuse files of vectors that cannot be used, by their first line or by all of them.

    Which tokens they know is seen only by `prepare`, once it knows those of the training rows.

    Raises:
        DataError: files are at fault; the problems of all of them.
    """
    problems: list[Problem] = []
    hints: list[str] = []
    for part in settings.data.inputs:
        if isinstance(part, TokenInput) and part.vectors is not None:
            try:
                vectors.check(part, whole=whole)
            except DataError as error:
                problems += error.problems
                hints.append(error.hint)
    if problems:
        raise DataError("The vectors cannot be used:", problems=problems, hint=hints[0])


def _record(path: Path, problems: Iterator[Problem]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf8") as file:
            for problem in problems:
                told = {name: value for name, value in asdict(problem).items() if value not in (None, "")}
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


@dataclass(frozen=True)
class _Found:
    """The checked rows and their fates."""

    layout: Layout
    scans: list[Scan]
    audit: Audit


def _pins(settings: Settings, storage: Path) -> Pins | None:
    """What the newest run with the same stratified split was split by."""
    for folder in workspace.runs(storage.parent, storage.name):
        folder.bring("data/pins.json")
        if (pins := pins_in(folder.data, settings)) is not None:
            return pins
    return None


def _examine(
    settings: Settings,
    *,
    scratch: Path,
    run: intake.Run,
    console: Console,
    pins: Pins | None = None,
    record: Callable[[Iterator[Problem]], None] | None = None,
) -> _Found:
    layout = Layout.of(settings)
    parts = _parts(settings, layout, scratch=scratch, run=run, console=console)
    scans = _scanned(parts, layout, scratch=scratch, run=run, console=console)
    return _Found(layout, scans, audit(scans, layout=layout, settings=settings, pins=pins, record=record))


def _examine_some(
    settings: Settings,
    *,
    share: float,
    scratch: Path,
    run: intake.Run,
    console: Console,
    record: Callable[[Iterator[Problem]], None] | None,
) -> None:
    """Refuse the bad rows of some parts of the data."""
    layout = Layout.of(settings)
    parts = _parts(settings, layout, scratch=scratch, run=run, console=console)
    chosen = parts[:: max(1, round(1 / share))]
    scans = _scanned(chosen, layout, scratch=scratch, run=run, console=console)
    num_rows = sum(part.num_rows for part in chosen)
    console.note(f"looked at {num_rows:,} of {sum(part.num_rows for part in parts):,} rows")
    fates = Fates(scans)
    if record is not None:
        record(fates.every_problem())
    if fates.problems and settings.data.on_bad_row == "fail":
        raise DataError(f"The rows looked at have {fates.num_problems:,} problems:", problems=fates.problems)


def _scanned(
    parts: Sequence[readers.Part], layout: Layout, *, scratch: Path, run: intake.Run, console: Console
) -> list[Scan]:
    tasks = [run(scan_part, part=part, layout=layout, scratch=str(scratch)) for part in parts]
    with console.progress("check", total=sum(part.num_rows for part in parts), unit="rows") as bar:
        return list(intake.results(tasks, bar.advance, [part.num_rows for part in parts]))


def _parts(
    settings: Settings, layout: Layout, *, scratch: Path, run: intake.Run, console: Console
) -> list[readers.Part]:
    """What there is to read; files that cannot serve are all named together."""
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    files = readers.expand(paths, settings.data.format)
    with console.progress("open", total=len(files), unit="files") as bar:
        reading = intake.Reading.of(settings, layout)
        sources = intake.open_sources(
            files,
            reading,
            run=run,
            scratch=str(scratch),
            advance=bar.advance,
            check=lambda source: check_schema(source.schema, layout, file=source.name),
        )
    problems = check_agreement([(source.name, source.schema) for source in sources], layout)
    parts = readers.parts(sources)
    if not problems and not parts:
        names = ", ".join(source.name for source in sources[:3])
        problems.append(Problem(file=names, message="no rows"))
    intake.refuse(problems)
    # Surely so much: a number takes four bytes when it is prepared, and up to some twenty as text.
    disks.require_room(scratch, sum(file.size() for file in files) // 5, what="What these files hold")
    return parts


def _write(
    settings: Settings,
    found: _Found,
    *,
    scratch: Path,
    target: Path,
    cluster: Tasks,
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
        pieces: list[Pieces] = list(intake.results(tasks, bar.advance, num_rows))
        shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        columns = (*settings.data.inputs, *settings.data.context)
        quantiles = [needs_quantiles(part) for part in columns]
        under_way = _shard_tasks(
            pieces,
            order,
            found,
            quantiles=quantiles,
            follow=settings.data.target.scheme != "none" and len(found.audit.labels) <= MAX_TAGS,
            target=target,
            cluster=cluster,
        )
        for name, future in under_way:
            shard = future.result()
            shards[name].append(shard)
            bar.advance(shard.rows)
    rejected = [each.rejected for each in pieces if each.rejected]
    if rejected:
        rejects.gather(rejected, str(target / REJECTED))
    return finish(shards, audit=found.audit, settings=settings, order=order, target=target)


def _shard_tasks(
    pieces: Sequence[Pieces],
    order: Order,
    found: _Found,
    *,
    quantiles: Sequence[bool],
    follow: bool,
    target: Path,
    cluster: Tasks,
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
                    features=order.features,
                    quantiles=quantiles,
                    num_labels=len(found.audit.labels),
                    sampled=SAMPLED // order.shards[TRAIN] if split == TRAIN else 0,
                    follow=follow,
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
