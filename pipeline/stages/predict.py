"""predict: a model's answers for new rows, as one Parquet file in the order of the input.

    models:/name@alias ─ resolved once ─▶ version 3 ─ fetched, checked ─▶ bundle ─┐
    files ─ footers ─▶ what to read ─ chunks ─────────────────────────────────────┴▶ processes ─▶ parts ─▶ OUT

Finished chunks outlive a kill, and the same command goes on from them. The file appears whole or not at all,
and its metadata says which version answered.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from components import bundles
from components.data.intake import Run
from components.data.readers import File, expand
from components.errors import DataError, ModelError, Problem, RecurraError
from pipeline.backends.cluster import Tasks
from pipeline.backends.parts import Parts, Writing, signs, write_whole
from pipeline.backends.pools import Begun, Event, Item
from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from pipeline.backends.workspace import run_bundle
from pipeline.console import Bar, Console

if TYPE_CHECKING:
    from components.evaluation.new_rows import Task

PATIENCE_SECONDS = 20.0
# Numbers to read for which a process of its own is worth its start, some five seconds.
VALUES_FOR_A_PROCESS = 1 << 22

OnBadRow = Literal["fail", "drop"]


@dataclass(frozen=True)
class Source:
    """The model that answers: its bundle, and how it is called for good."""

    bundle: Path
    uri: str  # models:/name/3, or the run folder's path


@dataclass(frozen=True)
class Options:
    """How rows are read, and what is wanted of each.

    Attributes:
        id_column: handed through as `id`; the one that the model was trained with when not given.
        file_format: auto, or a reader's name.
        n_best: also the n most probable labels of each row or step.
        n_best_sequences: also the n most probable label sequences of each row as wholes; of a CRF.
        distribution: also the probability of every label.
        on_bad_row: fail, or drop: a row that does not fit has nulls and its problem, and is listed in
            OUT.rejected.parquet.
    """

    id_column: str | None = None
    file_format: str = "auto"
    n_best: int = 0
    n_best_sequences: int = 0
    distribution: bool = False
    on_bad_row: OnBadRow = "fail"


class Processes(Protocol):
    """Where chunks are answered: a `Pool`."""

    def room(self) -> int: ...

    def share(
        self,
        function: Callable[..., Iterator[Any]],
        jobs: range | list[int],
        kwargs: Callable[[int], Mapping[str, Any]],
        *,
        processes: int,
    ) -> Iterator[Event]: ...


def predict(
    model: str,
    data: Sequence[str],
    *,
    out: Path,
    tracking_uri: str,
    cluster: Tasks,
    pool: Processes,
    console: Console,
    options: Options,
    workers: int | None = None,
    restart: bool = False,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Answer every row of the data; gives back the model's URI, the numbers of rows and the file.

    Args:
        model: models:/name@alias, models:/name/3 or a run folder.
        data: files, folders and globs.
        out: the Parquet file to write.
        tracking_uri: the MLflow that knows the model.
        cluster: imports text files.
        pool: answers.
        options: how rows are read, and what is wanted of each.
        workers: processes that answer; None: as many as the cluster has room for and the rows are worth.
        restart: throw away what a run that was stopped left.
        scratch: where the model's files are put for workers on other machines.

    Raises:
        ModelError: there is no such model, its files are not those that were registered, or it cannot give
            what is wanted.
        DataError: rows or files that do not fit, with their places; nothing was written.
        BusyError: another process writes the same file.
    """
    files = _files(data, options.file_format, out)
    asked = {"asked": model, "options": asdict(options), "files": signs(files)}
    parts = Parts(out)
    left = None if restart else _left(parts, asked, console)
    with ExitStack() as stack:
        registry = Registry(Store(tracking_uri, patience=PATIENCE_SECONDS))
        source = _source(model, left, registry, scratch=scratch, stack=stack, console=console)
        imports = stack.enter_context(tempfile.TemporaryDirectory(prefix=".recurra-", dir=scratch))
        task = _open_task(source, files, options, run=cluster.task, scratch=imports)
        if restart:
            parts.forget()
        digest = bundles.describe(source.bundle)["digest"]
        manifest = {**asked, "model": source.uri, "digest": digest, "schema": str(task.schema)}
        stack.enter_context(parts.held(manifest))
        console.note(f"Predicting {task.num_rows:,} rows with {source.uri}")
        work = _Work(parts, task, console)
        try:
            work.do(source.bundle, pool, workers)
            num_bad = work.join(_metadata(source))
        except (DataError, ModelError):
            parts.remove()
            raise
        parts.remove()
    summary = {"model": source.uri, "rows": task.num_rows, "out": str(out), "digest": digest}
    return {**summary, "bad_rows": num_bad, "rejected": str(work.rejected) if num_bad else None}


def _files(data: Sequence[str], file_format: str, out: Path) -> list[File]:
    files = expand(list(data), file_format)
    if str(out.resolve()) in [os.path.realpath(file.path) for file in files if not file.is_remote]:
        raise DataError(f"{out} is one of the files to read.", hint="Choose another name with -o.")
    return files


def _open_task(source: Source, files: Sequence[File], options: Options, *, run: Run, scratch: str) -> "Task":
    from components.evaluation import new_rows

    about, encoding = bundles.describe(source.bundle), bundles.encoding(source.bundle)
    if options.n_best > encoding.num_classes:
        raise ModelError(f"n_best is {options.n_best}, but {source.uri} has {encoding.num_classes} labels.")
    if options.n_best_sequences and encoding.task != "labelling":
        raise ModelError(
            f"{source.uri} gives one label for a whole sequence, and so has no label sequences.",
            hint="--n-best gives the most probable labels.",
        )
    return new_rows.open_task(
        files,
        encoding,
        own_id=about["id"],
        id_column=options.id_column,
        file_format=options.file_format,
        layout=about.get("layout"),
        run=run,
        scratch=scratch,
        n_best=options.n_best,
        distribution=options.distribution,
        keeps_bad=options.on_bad_row == "drop",
        n_best_sequences=options.n_best_sequences,
    )


def _metadata(source: Source) -> dict[str, str]:
    """What the output says of its origin."""
    return {
        "recurra.model": source.uri,
        "recurra.bundle_digest": bundles.describe(source.bundle)["digest"],
        "recurra.labels": json.dumps(bundles.encoding(source.bundle).labels, ensure_ascii=False),
    }


class _Work:
    """The chunks of a task on their way through processes and parts into the output."""

    def __init__(self, parts: Parts, task: "Task", console: Console) -> None:
        from components.evaluation import new_rows

        self.parts, self.task, self.console = parts, task, console
        self.chunks = new_rows.chunks(task.parts)
        self.problems: dict[int, tuple[Problem, ...]] = {}  # by chunk
        out = parts.out
        self.rejected = out.with_name(f"{out.stem}.rejected.parquet")

    def do(self, bundle: Path, pool: Processes, workers: int | None) -> None:
        """Answer the chunks that have no part yet.

        Raises:
            DataError: rows that do not fit, of all chunks together.
        """
        from components.evaluation import new_rows

        finished = {number: self.parts.rows(number) for number in range(len(self.chunks))}
        left = [number for number, num_rows in finished.items() if num_rows is None]
        done = sum(num_rows or 0 for num_rows in finished.values())
        if done:
            self.console.note(f"Going on: {done:,} rows were answered before.")
        if not left:
            return

        def chunk(number: int) -> dict[str, Any]:
            # Once a row does not fit, nothing will be written; others that do not fit are still to be named.
            return {
                "bundle": bundle,
                "task": self.task,
                "chunk": self.chunks[number],
                "only_check": bool(self.problems),
            }

        processes = workers or self._worth(pool, len(left) / len(self.chunks))
        events = pool.share(new_rows.answers, left, chunk, processes=processes)
        with self.console.progress("predict", total=self.task.num_rows, unit="rows") as bar:
            bar.at(done)
            self._write(events, bar, done)
        if self.problems:
            found = [problem for number in sorted(self.problems) for problem in self.problems[number]]
            raise DataError(
                "Rows cannot be predicted; nothing was written.", problems=found[: new_rows.MAX_PROBLEMS]
            )

    def _worth(self, pool: Processes, share: float) -> int:
        wanted = int(self.task.num_values * share) // VALUES_FOR_A_PROCESS
        return max(1, min(pool.room(), wanted)) if wanted > 1 else 1

    def _write(self, events: Iterator[Event], bar: Bar, done: int) -> None:
        writing: dict[int, Writing] = {}
        try:
            for event in events:
                if isinstance(event, Begun):
                    if event.job in writing:
                        writing[event.job].give_up()
                    writing[event.job] = self.parts.begin(event.job, self.task.schema)
                elif isinstance(event, Item):
                    writing[event.job].write(event.value)
                    bar.at(done + sum(each.num_rows for each in writing.values()))
                elif event.error is not None or self.problems:
                    writing.pop(event.job).give_up()
                    self._note(event.job, event.error)
                else:
                    part = writing.pop(event.job)
                    part.end()
                    done += part.num_rows
        finally:
            for part in writing.values():
                part.give_up()

    def _note(self, number: int, error: RecurraError | None) -> None:
        if error is None:
            return
        if not isinstance(error, DataError) or not error.problems:
            raise error
        self.problems[number] = error.problems

    def join(self, metadata: Mapping[str, str]) -> int:
        """Write the output, and list the rows without an answer beside it; gives back how many they are."""
        from components.evaluation import new_rows

        place = [field.name for field in new_rows.PLACE]
        schema = self.task.schema
        answers = pa.schema([field for field in schema if field.name not in place], metadata)
        num_bad = 0
        if self.task.keeps_bad:
            names = [name for name in ("id", new_rows.PROBLEM, *place) if name in schema.names]
            bad = pa.schema([schema.field(name) for name in names], metadata)
            for table in self._bad():
                num_bad += len(table)
            if num_bad:
                write_whole(self.rejected, self._bad(), bad)
        if not num_bad:
            self.rejected.unlink(missing_ok=True)
        write_whole(self.parts.out, self.parts.tables(len(self.chunks)), answers)
        return num_bad

    def _bad(self) -> Iterator[pa.Table]:
        from components.evaluation.new_rows import PROBLEM

        for table in self.parts.tables(len(self.chunks)):
            yield table.filter(table[PROBLEM].is_valid())


def _left(parts: Parts, asked: Mapping[str, Any], console: Console) -> Mapping[str, Any] | None:
    """What a run of the same command left that was stopped, if there is anything."""
    recorded = parts.recorded()
    if recorded is None:
        return None
    changed = [name for name, value in asked.items() if recorded.get(name) != value]
    if changed:
        names = {"asked": "the model", "options": "the options", "files": "the files"}
        told = " and ".join(names[name] for name in changed)
        console.note(f"Beginning anew: a run that was stopped left answers, but {told} changed since.")
        return None
    return recorded


def _source(
    model: str,
    left: Mapping[str, Any] | None,
    registry: Registry,
    *,
    scratch: Path | None,
    stack: ExitStack,
    console: Console,
) -> Source:
    """The model asked for; its version is the one that gave the answers that are left, if there are any."""
    if model.startswith("models:"):
        version = registry.resolve(model)
        if left is not None and left["model"] != version.uri:
            console.warn(
                f"{model} is {version.uri} now; the answers that are there are of {left['model']}, which goes"
                " on. --restart begins anew."
            )
            version = registry.resolve(left["model"])
        return Source(stack.enter_context(registry.fetch(version, parent=scratch)), version.uri)
    bundle, place = run_bundle(model)
    return Source(bundle if scratch is None else shutil.copytree(bundle, scratch / "bundle"), place)
