"""From what `data.path` names to sources of sequences, whatever the format and the layout.

    files ─┬─ read in place ───────────────────────────────┬─ layout: sequence ─▶ sources
           └─ import, one task each ─▶ Arrow files ────────┘
                                                           └─ layout: step ─ spread ─ assemble ─▶ sources

Tasks run where `run` puts them: on a cluster, or in this process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from components.data import readers, steps
from components.data.layouts import StepInput, StepLayout, check_schema, common_columns
from components.data.readers.paths import File, relative_names
from components.data.readers.sources import ANY, TEXT, Origin, Source, Wanted
from components.data.records import Layout
from components.errors import DataError, Problem
from conf.schema import NumericInput, Settings


class Task(Protocol):
    """Work under way somewhere."""

    def result(self) -> Any: ...


Run = Callable[..., Task]
HINT = "See the data section."


class Here:
    """A task that is done in this process when its result is asked for."""

    def __init__(self, function: Callable[..., Any], **kwargs: Any) -> None:
        self.function, self.kwargs = function, kwargs

    def result(self) -> Any:
        """What the function returns."""
        return self.function(**self.kwargs)


@dataclass(frozen=True)
class Reading:
    """How files are read: all that new rows for a model need too, but for the target.

    Attributes:
        file_format: auto, or a reader's name.
        names: of the columns, for files that do not name them.
        kinds: by column: what it is read as.
        steps: for the layout step, which columns make a sequence; None for the layout sequence.
    """

    file_format: str = "auto"
    names: tuple[str, ...] | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    steps: StepLayout | None = None

    @classmethod
    def of(cls, settings: Settings, layout: Layout) -> "Reading":
        """What the settings say."""
        data = settings.data
        by_step = _step_layout(settings, layout) if data.layout == "step" else None
        return cls(data.format, data.columns, layout.kinds, by_step)

    @property
    def wanted(self) -> Wanted:
        """What an import is to read."""
        if self.steps is None:
            return Wanted(self.kinds, self.names)
        named = self.steps.columns
        if any(set("*?[") & set(name) for name in named):
            return Wanted({}, self.names)
        kinds = dict.fromkeys(named, TEXT) | dict.fromkeys(self.steps.numeric, ANY)
        return Wanted(kinds, self.names)


def _step_layout(settings: Settings, layout: Layout) -> StepLayout:
    data = settings.data
    assert data.id is not None and data.order is not None
    constants = (
        {each.column for each in layout.context} | ({layout.split} - {None}) | (set(layout.kept) - {data.id})
    )
    if not layout.per_step:
        constants.add(layout.target)
    return StepLayout(
        id=data.id,
        order=data.order,
        inputs=tuple(
            StepInput(
                column=part.column,
                sources=part.columns if isinstance(part, NumericInput) else None,
                kind="numeric" if isinstance(part, NumericInput) else "text",
            )
            for part in data.inputs
        ),
        per_step_texts=(layout.target,) if layout.per_step else (),
        constants=tuple(sorted(str(name) for name in constants)),
    )


def open_sources(
    files: Sequence[File],
    reading: Reading,
    *,
    run: Run,
    scratch: str,
    advance: Callable[[int], None] = lambda done: None,
    check: Callable[[Source], Iterable[Problem]] = lambda source: (),
) -> list[Source]:
    """The files as sources of sequences, in order.

    Args:
        files: from `readers.expand`.
        reading: how they are read.
        run: starts a task.
        scratch: a folder for what is imported; it must outlive the sources.
        advance: told of each file that is open.
        check: what is wrong with the columns of a source of sequences.

    Raises:
        DataError: files that are empty, damaged, not what their format says or fail the check; all together.
    """
    tasks = []
    for number, (file, name) in enumerate(zip(files, relative_names(files), strict=True)):
        kind = readers.format_of(file, reading.file_format)
        imported = readers.is_imported(kind)
        target = str(Path(scratch) / f"import-{number:06d}.arrow") if imported else None
        start = run if imported else Here
        tasks.append(
            start(
                readers.open_file,
                file=file,
                name=name,
                file_format=kind,
                wanted=reading.wanted,
                target=target,
            )
        )
    if reading.steps is None:
        return list(results(tasks, advance, check=check))
    sources = list(results(tasks, advance))
    return _assembled(sources, reading.steps, run=run, scratch=scratch)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise DataError if there are problems with whole files."""
    if problems:
        raise DataError("The files cannot be used.", problems=problems, hint=HINT)


def results(
    tasks: Sequence[Task],
    advance: Callable[[int], None] = lambda done: None,
    sizes: Sequence[int] | None = None,
    check: Callable[[Any], Iterable[Problem]] = lambda result: (),
) -> Iterator[Any]:
    """The tasks' results in order. All are waited for, so that every file at fault is named together.

    Args:
        tasks: under way.
        advance: told of the size of each task that is done.
        sizes: of the tasks; 1 each when not given.
        check: what is wrong with a result.

    Raises:
        DataError: of all tasks that raised one, or whose result fails the check.
    """
    problems: list[Problem] = []
    for task, size in zip(tasks, sizes or [1] * len(tasks), strict=True):
        try:
            result = task.result()
        except DataError as error:
            problems += error.problems
            if not error.problems:
                raise
        else:
            problems += check(result)
            yield result
        advance(size)
    refuse(problems)


def _assembled(sources: Sequence[Source], layout: StepLayout, *, run: Run, scratch: str) -> list[Source]:
    """Sources whose rows are time steps, as sources of sequences."""
    layout = _with_columns(sources, layout)
    refuse([problem for each in sources for problem in check_schema(each.schema, layout, file=each.name)])
    parts = readers.parts(sources)
    if not parts:
        return []
    num_rows = sum(part.num_rows for part in parts)
    num_buckets = steps.num_buckets(num_rows, sum(part.num_values for part in parts))
    tasks = [
        run(steps.spread, part=part, layout=layout, num_buckets=num_buckets, scratch=scratch)
        for part in parts
    ]
    spreads = list(results(tasks))
    order, types = steps.common_order(spreads), steps.common_types(spreads)
    origins = tuple(Origin(part.source.name, part.position) for part in parts if part.first_row == 0)
    tasks = [
        run(
            steps.assemble,
            bucket_files=steps.pieces(spreads, bucket),
            layout=layout,
            order_kind=order,
            target=str(Path(scratch) / f"sequences-{bucket:06d}.arrow"),
            types=types,
            origins=origins,
        )
        for bucket in range(num_buckets)
    ]
    return list(results(tasks))


def _with_columns(sources: Sequence[Source], layout: StepLayout) -> StepLayout:
    """The layout with the patterns of its inputs' columns replaced by what they stand for."""
    files = [(source.name, source.schema.names) for source in sources]
    inputs = tuple(
        replace(each, sources=common_columns(files, each.sources)) if each.sources else each
        for each in layout.inputs
    )
    return replace(layout, inputs=inputs)
