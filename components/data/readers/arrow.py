"""Arrow IPC files: the file format, which Feather is too, and the stream format, as Hugging Face's are.

    scan(part, ["id", "frames"], 1024)     batches of at most 1,024 rows of the part's record batches

A file on this machine is mapped into memory. The stream format has no footer, so its batches are walked over.
Dictionary-encoded columns are given as the values they stand for, in the schema as in the batches.
"""

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from components.data import extensions
from components.data.readers.paths import File
from components.data.readers.sources import Part, RowGroup, Source

FILE_MAGIC = b"ARROW1"
FEATHER_V1_MAGIC = b"FEA1"


def describe(path: str, name: str) -> Source:
    """The file's schema and record batches; of the values, only lists are looked at, to be counted.

    Raises:
        pa.ArrowInvalid, OSError: not an Arrow file, cut off, or damaged.
    """
    with _opened(path) as source:
        stored = _reader(source, ()).schema
        counted = [i for i, column in enumerate(stored) if _is_nested(column.type)] or [0][: len(stored)]
        num_flat = len(stored) - len(counted)
        groups = []
        for batch, num_bytes in _sized(source, counted, share=len(stored) / max(1, len(counted))):
            batch.validate()
            num_values = num_flat * batch.num_rows + sum(_num_values(column) for column in batch.columns)
            groups.append(RowGroup(batch.num_rows, num_values, num_bytes))
    return Source(path, name, "arrow", _plain_schema(extensions.seen(stored)), tuple(groups))


def scan(part: Part, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The part's rows in batches of at most `batch_rows`, with the columns named, in their order.

    Raises:
        pa.ArrowException, OSError: the file is damaged or has changed.
    """
    with _opened(part.source.path) as source:
        stored = _reader(source, ()).schema
        missing = set(columns) - set(stored.names)
        if missing:
            raise pa.ArrowInvalid(f"the file has no column {min(missing)!r} any more")
        included = sorted({stored.names.index(column) for column in columns})
        for batch in _chosen(_reader(source, included), part.groups):
            for start in range(0, batch.num_rows, batch_rows):
                rows = batch.select(list(columns)).slice(start, batch_rows)
                # Mapped bytes are taken as they are: a damaged offset would be read through, not noticed.
                rows.validate(full=True)
                yield _decoded(extensions.marked(rows))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pa.NativeFile]:
    file = File(path)
    with file.open() if file.is_remote else pa.memory_map(path) as source:
        yield source


def _reader(
    source: pa.NativeFile, included: Sequence[int]
) -> ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader:
    """A reader of the columns at these places; without any, of all."""
    source.seek(0)
    magic = source.read(len(FILE_MAGIC))
    source.seek(0)
    if magic.startswith(FEATHER_V1_MAGIC):
        raise pa.ArrowInvalid("Feather V1 is not read; write it anew with pyarrow.feather.write_feather")
    options = ipc.IpcReadOptions(included_fields=list(included))
    if magic == FILE_MAGIC:
        return ipc.open_file(source, options=options)
    return ipc.open_stream(source, options=options)


def _chosen(
    reader: ipc.RecordBatchFileReader | ipc.RecordBatchStreamReader, groups: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, ipc.RecordBatchFileReader):
        if groups and max(groups) >= reader.num_record_batches:
            raise pa.ArrowInvalid("the file has fewer record batches than before")
        yield from (reader.get_batch(group) for group in groups)
        return
    wanted = set(groups)
    for number, batch in enumerate(reader):
        if number in wanted:
            wanted.remove(number)
            yield batch
        if not wanted:
            return
    if wanted:
        raise pa.ArrowInvalid("the file has fewer record batches than before")


def _sized(
    source: pa.NativeFile, included: Sequence[int], *, share: float
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The batches, and about how many bytes each has as stored."""
    reader = _reader(source, included)
    if isinstance(reader, ipc.RecordBatchFileReader):
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield batch, int(batch.nbytes * share)
        return
    before = source.tell()
    for batch in reader:
        yield batch, source.tell() - before
        before = source.tell()


def _is_list(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
        pa.types.is_map,
    )
    return any(test(kind) for test in tests)


def _is_nested(kind: pa.DataType) -> bool:
    return _is_list(kind) or pa.types.is_struct(kind) or isinstance(kind, pa.BaseExtensionType)


def _num_values(column: pa.Array) -> int:
    """Innermost elements, as Parquet counts them: a list that is empty or null counts as one."""
    if isinstance(column, pa.ExtensionArray):
        return _num_values(column.storage)
    if pa.types.is_struct(column.type):
        return sum(_num_values(child) for child in column.flatten()) or len(column)
    if not _is_list(column.type):
        return len(column)
    if pa.types.is_map(column.type):
        entry = pa.struct([column.type.key_field, column.type.item_field])
        column = column.cast(pa.list_(pa.field("entries", entry, nullable=False)))
    lengths = pc.list_value_length(column)
    num_empty = len(lengths) - (pc.sum(pc.greater(lengths, 0)).as_py() or 0)
    return _num_values(column.flatten()) + num_empty * _num_leaves(column.type)


def _num_leaves(kind: pa.DataType) -> int:
    """Columns that Parquet would store a value of this type in."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    if not _is_nested(kind):
        return 1
    return sum(_num_leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries in it, at any depth of lists and structs."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type), keys_sorted=kind.keys_sorted)
    if not _is_list(kind):
        return kind
    field = kind.value_field.with_type(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(field, kind.list_size)
    makers = {
        pa.types.is_list: pa.list_,
        pa.types.is_large_list: pa.large_list,
        pa.types.is_list_view: pa.list_view,
        pa.types.is_large_list_view: pa.large_list_view,
    }
    return next(make(field) for test, make in makers.items() if test(kind))


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_plain(field.type)).remove_metadata() for field in schema])


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    schema = _plain_schema(batch.schema)
    arrays = [
        column if column.type.equals(field.type)
        else column.dictionary_decode() if pa.types.is_dictionary(column.type)
        else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]  # fmt: skip
    if not arrays:
        return batch.replace_schema_metadata()
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
