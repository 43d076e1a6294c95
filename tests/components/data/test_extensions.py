"""Columns of extension types, known to Arrow or to nobody here."""

import pickle

import pyarrow as pa
import pytest

from components.data import extensions


def foreign(name: str, kind: pa.DataType, extension: str) -> pa.Field:
    """A field as Arrow gives one whose extension type nobody registered."""
    return pa.field(name, kind, metadata={b"ARROW:extension:name": extension.encode(), b"a": b"b"})


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (foreign("x", pa.int64(), "their.type"), "their.type"),
        (foreign("x", pa.list_(pa.float32()), "their.array"), "their.array"),
        (pa.field("x", pa.list_(foreign("item", pa.int64(), "their.type"))), "their.type"),
        (pa.field("x", pa.list_(pa.list_(foreign("item", pa.int64(), "their.type")))), "their.type"),
        (pa.field("x", pa.struct([pa.field("a", pa.int8()), foreign("b", pa.int8(), "b.type")])), "b.type"),
        (pa.field("x", pa.list_(pa.uuid())), "arrow.uuid"),
        (pa.field("x", pa.dictionary(pa.int8(), pa.uuid())), "arrow.uuid"),
    ],
)
def test_an_extension_type_is_seen_at_any_depth_and_survives_the_way_to_a_worker(
    field: pa.Field, name: str
) -> None:
    (kind,) = extensions.seen(pa.schema([field])).types
    assert isinstance(kind, pa.BaseExtensionType)
    assert extensions.shown(kind) == f"the extension type {name}, stored as {field.type}"
    assert pickle.loads(pickle.dumps(kind)) == kind


@pytest.mark.parametrize("kind", [pa.uuid(), pa.json_(), pa.bool8(), pa.fixed_shape_tensor(pa.int8(), [2])])
def test_arrows_own_are_extension_types_already(kind: pa.DataType) -> None:
    schema = pa.schema([("x", kind)])
    assert extensions.seen(schema) == schema
    assert (
        extensions.shown(kind) == f"the extension type {kind.extension_name}, stored as {kind.storage_type}"
    )


def test_plain_columns_stay_as_they_are() -> None:
    schema = pa.schema([pa.field("x", pa.list_(pa.int64()), metadata={b"a": b"b"}), ("y", pa.string())])
    assert extensions.seen(schema).equals(schema, check_metadata=True)
    batch = pa.record_batch([pa.array([[1]]), pa.array(["a"])], schema=schema)
    assert extensions.marked(batch) is batch


def test_a_batch_has_the_types_of_its_schema() -> None:
    schema = pa.schema([foreign("x", pa.int64(), "their.type"), ("y", pa.string())])
    marked = extensions.marked(pa.record_batch([pa.array([1, 2]), pa.array(["a", "b"])], schema=schema))
    assert marked.schema == extensions.seen(schema)
    assert marked.column("x").storage.to_pylist() == [1, 2]
    assert marked.column("y").to_pylist() == ["a", "b"]
