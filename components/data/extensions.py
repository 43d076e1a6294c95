"""Arrow's extension types: a column of one is seen as that, also where Arrow itself knows no such type.

    geoarrow.point, stored as struct<x, y>    registered by no library here: Arrow reads a struct, as if plain
    extension<arrow.uuid>                     Arrow's own: a type of its own already

The values mean what the type says, and are not those of the column as it is stored; so none of them is read.
"""

from collections.abc import Iterator

import pyarrow as pa

NAME = b"ARROW:extension:name"


def seen(schema: pa.Schema) -> pa.Schema:
    """The schema with columns that hold an extension type, at any depth, as an opaque type of its name."""
    return pa.schema([field.with_type(_kind(field)) for field in schema])


def marked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the types that `seen` gives its schema."""
    schema = seen(batch.schema)
    if schema == batch.schema:
        return batch
    arrays = [
        column if column.type == kind else pa.ExtensionArray.from_storage(kind, column)
        for column, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def shown(kind: pa.DataType) -> str:
    """What an extension type is called before users."""
    name = kind.type_name if isinstance(kind, pa.OpaqueType) else kind.extension_name
    return f"the extension type {name}, stored as {kind.storage_type}"


def _kind(field: pa.Field) -> pa.DataType:
    if isinstance(field.type, pa.BaseExtensionType):
        return field.type
    name = next(_names(field), None)
    return field.type if name is None else pa.opaque(field.type, name, "")


def _names(field: pa.Field) -> Iterator[str]:
    """The extension types of a field and of all within it."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        yield kind.extension_name
        return
    if name := (field.metadata or {}).get(NAME):
        yield name.decode("utf8", "backslashreplace")
    if pa.types.is_dictionary(kind):
        yield from _names(pa.field("values", kind.value_type))
    for i in range(kind.num_fields):
        yield from _names(kind.field(i))
