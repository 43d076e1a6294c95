"""Answers on their way to one Parquet file: finished parts beside it, which outlive the process.

    .OUT.parts/
      manifest.json        whose answers these are, and to what
      part-000012.parquet  a finished one
      lock                 held by the process at work

A part appears whole or not at all, and so does OUT, which is joined from them.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from components.errors import BusyError, StorageError
from pipeline.backends.workspace import write_json

# Of a row group of OUT.
GROUP_BYTES, GROUP_ROWS = 1 << 25, 1 << 16


class Parts:
    """The parts beside an output file."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.parts")

    def recorded(self) -> dict[str, Any] | None:
        """The manifest of parts left by an earlier process, if there are any."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text("utf8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        return found

    @contextmanager
    def held(self, manifest: Mapping[str, Any]) -> Iterator[None]:
        """Work on the parts of this manifest; those of another one are thrown away.

        Raises:
            BusyError: another process is at work on the same output.
            StorageError: the folder cannot be written.
        """
        with writing(self.out):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise BusyError(
                    f"Another process is writing {self.out}.", hint="Choose another name with -o."
                ) from error
        try:
            with writing(self.out):
                if self.recorded() != manifest:
                    for path in self.folder.glob("*.parquet*"):
                        path.unlink()
                    write_json(self.folder / "manifest.json", manifest)
            yield
        finally:
            lock.release()

    def forget(self) -> None:
        """Let whoever works on them next begin anew."""
        with writing(self.out), suppress(FileNotFoundError, NotADirectoryError):
            (self.folder / "manifest.json").unlink()

    def remove(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, number: int) -> Path:
        """Of a finished part."""
        return self.folder / f"part-{number:06d}.parquet"

    def rows(self, number: int) -> int | None:
        """Of a part; None while it is not finished."""
        path = self.path(number)
        return pq.read_metadata(path).num_rows if path.exists() else None

    def begin(self, number: int, schema: pa.Schema) -> "Writing":
        """A part to be written."""
        return Writing(self.path(number), schema)

    def tables(self, count: int) -> Iterator[pa.Table]:
        """The rows of all parts in order, in tables of bounded size."""
        pending: list[pa.Table] = []
        for number in range(count):
            with pq.ParquetFile(self.path(number)) as file:
                for group in range(file.num_row_groups):
                    pending.append(file.read_row_group(group))
                    num_rows = sum(map(len, pending))
                    if num_rows >= GROUP_ROWS or sum(each.nbytes for each in pending) >= GROUP_BYTES:
                        yield pa.concat_tables(pending)
                        pending = []
        if pending:
            yield pa.concat_tables(pending)


class Writing:
    """A part that has its name only once it is ended."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.num_rows = path, 0
        self._temporary = path.with_name(f"{path.name}.tmp")
        with writing(path):
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        with writing(self.path):
            self._writer.write_batch(batch)
        self.num_rows += len(batch)

    def end(self) -> None:
        """Give the part its name."""
        with writing(self.path):
            self._writer.close()
            os.replace(self._temporary, self.path)

    def give_up(self) -> None:
        """Close the file and leave nothing of it."""
        with suppress(OSError):
            self._writer.close()
        with suppress(OSError):
            self._temporary.unlink()


def write_whole(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """A Parquet file of the tables' columns that the schema names; it has its name only once it is whole.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path), pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.select(schema.names).cast(schema))
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # there is nothing to remove
            temporary.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder into an error that names it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def signs(files: Sequence[Any]) -> list[list[Any]]:
    """By which a file that changed is told: its place, its size and, on this machine, when it changed."""
    return [
        [file.shown, file.size(), None if file.is_remote else os.stat(file.path).st_mtime_ns]
        for file in files
    ]
