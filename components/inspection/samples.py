"""Some rows of some files, in bounded memory and time, to be looked at.

of many files     some, evenly spread
of many rows      every second, every fourth, ..., so that the end of a file is looked at as well
of rows of steps  the first, as they stand: every second one would tear sequences apart
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from components.data import readers
from components.data.columns import is_list, list_lengths
from components.data.readers.paths import File, relative_names
from components.data.readers.sources import FAULT, LINE, OWN, Part, Wanted
from components.errors import DataError, Problem
from components.inspection.looks import Sample

MAX_FILES = 50
MAX_GROUPS = 32
MAX_ROWS, MAX_STEPS = 10_000, 200_000
# Of all files together: what is read, as Arrow holds it, and what of that is kept.
READ_BYTES, IMPORTED_BYTES, KEPT_BYTES = 1 << 28, 1 << 26, 1 << 26


def sample(files: Sequence[File], *, advance: Callable[[], None] = lambda: None) -> Sample:
    """Some rows of the files.

    Raises:
        DataError: a file cannot be read, or there are no rows.
    """
    names = relative_names(files)
    chosen = _spread(len(files), MAX_FILES)
    taken: list[_Taken] = []
    for number in chosen:
        taken.append(_take(files[number], names[number], share=len(chosen)))
        advance()
    if not sum(each.num_kept for each in taken):
        raise DataError("The files have no rows.", hint="See the files: " + ", ".join(names[:5]))
    return _joined(taken, [names[number] for number in chosen], num_files=len(files))


# Some rows of each file


@dataclass
class _Taken:
    """Rows of one file: all, or every so many."""

    format: str
    max_rows: int
    max_steps: int
    kept_bytes: int
    read_bytes: int
    every: int = 1
    num_seen: int = 0
    num_read: int = 0  # bytes
    num_rows: int | None = None  # in the file
    is_whole: bool = False
    batches: list[tuple[np.ndarray, pa.RecordBatch]] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        return sum(len(rows) for rows, _ in self.batches)

    def add(self, batch: pa.RecordBatch, first_row: int) -> bool:
        """Keep some of the batch; whether more can be taken."""
        by_step = not any(is_list(column.type) for column in batch.columns if column.type != pa.null())
        self.num_read += batch.nbytes
        rows = np.arange(first_row, first_row + len(batch))
        if by_step and self.every == 1:
            room = self.max_steps - self.num_kept
            self.num_seen += min(len(batch), room)
            self.batches.append((rows[:room], batch.slice(0, room)))
            return len(batch) <= room and self.num_read < self.read_bytes
        self.num_seen += len(batch)
        self._keep(rows, batch)
        while self._is_full() and self.num_kept > 1:
            self.every *= 2
            batches, self.batches = self.batches, []
            for each in batches:
                self._keep(*each)
        return self.num_read < self.read_bytes

    def _keep(self, rows: np.ndarray, batch: pa.RecordBatch) -> None:
        mask = rows % self.every == 0
        if mask.any():
            self.batches.append((rows[mask], batch if mask.all() else batch.filter(pa.array(mask))))

    def _is_full(self) -> bool:
        steps = sum(_num_steps(batch) for _, batch in self.batches)
        num_bytes = sum(batch.nbytes for _, batch in self.batches)
        return self.num_kept > self.max_rows or steps > self.max_steps or num_bytes > self.kept_bytes


def _num_steps(batch: pa.RecordBatch) -> int:
    lists = [list_lengths(column).sum() for column in batch.columns if is_list(column.type)]
    return int(max(lists, default=0))


def _take(file: File, name: str, *, share: int) -> _Taken:
    kind = readers.format_of(file)
    taken = _Taken(
        kind,
        max(100, 2 * MAX_ROWS // (share + 1)),
        max(2_000, 2 * MAX_STEPS // (share + 1)),
        max(1 << 20, KEPT_BYTES // share),
        max(1 << 23, (IMPORTED_BYTES if readers.is_imported(kind) else READ_BYTES) // share),
    )
    try:
        if readers.is_imported(kind):
            _take_imported(taken, file, name)
        else:
            _take_in_place(taken, file, name)
    except (pa.ArrowException, OSError) as error:
        problem = Problem(file=name, message=f"cannot be read: {error}")
        raise DataError("A file cannot be read.", problems=[problem]) from error
    return taken


def _take_imported(taken: _Taken, file: File, name: str) -> None:
    if file.size() == 0:
        problem = Problem(file=name, message="no rows: the file is empty (0 bytes)")
        raise DataError("A file has no rows.", problems=[problem])
    first, goes_on = 0, True
    for batch in readers.batches(file, name=name, file_format=taken.format, wanted=Wanted()):
        if not goes_on:
            return
        constants = {key: value for key, value in file.partitions.items() if key not in batch.schema.names}
        for key, value in constants.items():
            batch = batch.append_column(key, pa.array([value] * len(batch), pa.string()))
        goes_on = taken.add(batch, first)
        first += len(batch)
    taken.num_rows = first
    taken.is_whole = taken.every == 1 and taken.num_seen == first


def _take_in_place(taken: _Taken, file: File, name: str) -> None:
    source = readers.open_file(file, name=name, file_format=taken.format)
    taken.num_rows = source.num_rows
    starts = np.concatenate([[0], np.cumsum([group.num_rows for group in source.groups])]).astype(int)
    by_step = not any(is_list(each.type) for each in source.schema)
    groups = range(len(source.groups)) if by_step else _spread(len(source.groups), MAX_GROUPS)
    read_bytes, goes_on = taken.read_bytes, True
    for count, group in enumerate(groups, 1):
        # Each row group has its share, and what those before it left over.
        taken.read_bytes = read_bytes if by_step else read_bytes * count // len(groups)
        first = int(starts[group])
        part = Part(group, source, (group,), first, first, source.groups[group].num_rows)
        for batch in readers.scan(part, source.schema.names) if part.num_rows else ():
            goes_on = taken.add(batch, first)
            first += len(batch)
            if not goes_on:
                break
        if by_step and not goes_on:
            break
    taken.is_whole = taken.every == 1 and taken.num_seen == source.num_rows


def _spread(count: int, most: int) -> list[int]:
    """Numbers below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def _joined(taken: Sequence[_Taken], names: Sequence[str], *, num_files: int) -> Sample:
    tables, file, row = [], [], []
    for number, each in enumerate(taken):
        for rows, batch in each.batches:
            tables.append(pa.Table.from_batches([batch]))
            file.append(np.full(len(rows), number))
            row.append(rows)
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"The files differ in their columns: {error}.", hint="Look at one of them alone."
        ) from error
    known = [each.num_rows for each in taken if each.num_rows is not None]
    return Sample(
        rows=whole.drop_columns([name for name in OWN if name in whole.schema.names]),
        formats=tuple(dict.fromkeys(each.format for each in taken)),
        files=tuple(names),
        num_files=num_files,
        num_rows=sum(known) if len(known) == num_files else None,
        is_whole=len(taken) == num_files and all(each.is_whole for each in taken),
        file=np.concatenate(file),
        row=np.concatenate(row),
        faults=dict(_faults(whole)),
    )


def _faults(whole: pa.Table) -> Iterator[tuple[int, Problem]]:
    """What the readers could not read, by row."""
    if FAULT not in whole.schema.names:
        return
    lines = whole[LINE].to_pylist() if LINE in whole.schema.names else [None] * len(whole)
    for row, told in enumerate(whole[FAULT].to_pylist()):
        if told is not None:
            line = told["line"] or lines[row]
            yield row, Problem(column=told["column"] or "", line=line, message=told["message"])
