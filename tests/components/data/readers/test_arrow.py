import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from pyarrow import feather, fs

from components.data.readers import arrow
from components.data.readers.sources import Part, RowGroup, Source

KINDS = {"file": ipc.new_file, "stream": ipc.new_stream}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def write(path: Path, kind: str, *tables: pa.Table, **options) -> str:
    with KINDS[kind](path, tables[0].schema, options=ipc.IpcWriteOptions(**options)) as writer:
        for table in tables:
            writer.write_table(table)
    return str(path)


def part(source: Source, *groups: int) -> Part:
    chosen = groups or tuple(range(len(source.groups)))
    return Part(0, source, chosen, 0, 0, sum(source.groups[group].num_rows for group in chosen))


def rows(source: Source, columns: list[str], *groups: int, batch_rows: int = 2) -> list[dict[str, object]]:
    batches = list(arrow.scan(part(source, *groups), columns, batch_rows))
    assert all(0 < batch.num_rows <= batch_rows and batch.schema.names == columns for batch in batches)
    return pa.Table.from_batches(batches).to_pylist()


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_record_batches_are_groups_that_are_read_alone(tmp_path: Path, kind: str, compression: str | None):
    tables = [pa.table({"n": range(at, at + 5), "x": [[at, 1], [], None, [2], [3]]}) for at in (0, 5, 10)]
    tables = [table.replace_schema_metadata({"a": "b"}) for table in tables]
    source = arrow.describe(write(tmp_path / "a.arrow", kind, *tables, compression=compression), "a.arrow")
    assert [(group.num_rows, group.num_values) for group in source.groups] == [(5, 5 + 6)] * 3
    assert all(group.num_bytes > 0 for group in source.groups)
    assert (source.format, source.schema.metadata, source.num_rows) == ("arrow", None, 15)
    assert rows(source, ["x", "n"]) == [
        row for table in tables for row in table.select(["x", "n"]).to_pylist()
    ]
    assert [row["n"] for row in rows(source, ["n"], 1, 2, batch_rows=100)] == list(range(5, 15))


@pytest.mark.parametrize(
    ("values", "kind_of", "num_values"),
    [
        ([1, None], pa.int32(), 2),
        ([[[1, 2], []], [], None], pa.list_(pa.list_(pa.int8())), 5),
        ([[1, 2], None], pa.list_(pa.int8(), 2), 3),
        ([[1, 2], [], None], pa.list_view(pa.int8()), 4),
        ([{"a": 1, "b": [1, 2, 3]}, None], pa.struct({"a": pa.int8(), "b": pa.list_(pa.int8())}), 6),
        ([[("k", 1), ("l", 2)], []], pa.map_(pa.string(), pa.int8()), 6),
        (["a", "b" * 40], pa.string_view(), 2),
    ],
)
def test_values_are_counted_as_parquet_does(tmp_path: Path, kind: str, values, kind_of, num_values: int):
    table = pa.table({"x": pa.array(values, kind_of), "n": range(len(values))})
    source = arrow.describe(write(tmp_path / "a.arrow", kind, table), "a.arrow")
    assert source.groups[0].num_values == num_values + len(values)
    assert rows(source, ["x"], batch_rows=1) == table.select(["x"]).to_pylist()


def test_dictionaries_that_grow_or_change_are_given_as_values(tmp_path: Path, kind: str):
    first, grown, other = (
        pa.table({"x": pa.DictionaryArray.from_arrays([0, 1, None], words)})
        for words in (["a", "b"], ["a", "b", "c"], ["d", "e"])
    )
    tables = [first, grown] + ([other] if kind == "stream" else [])  # the file format allows no replacement
    path = write(tmp_path / "a.arrow", kind, *tables, emit_dictionary_deltas=True)
    source = arrow.describe(path, "a.arrow")
    assert source.schema.field("x").type == pa.string()
    assert rows(source, ["x"]) == [row for table in tables for row in table.to_pylist()]
    assert rows(source, ["x"], len(tables) - 1) == tables[-1].to_pylist()


def test_dictionaries_inside_lists_and_structs_are_given_as_values(tmp_path: Path, kind: str):
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table(
        {"l": pa.ListArray.from_arrays([0, 2, 2, 3], words), "s": pa.StructArray.from_arrays([words], ["w"])}
    )
    source = arrow.describe(write(tmp_path / "a.arrow", kind, table), "a.arrow")
    assert source.schema.types == [pa.list_(pa.string()), pa.struct({"w": pa.string()})]
    assert rows(source, ["s", "l"]) == table.select(["s", "l"]).to_pylist()


def test_feather_is_read_but_not_its_first_version(tmp_path: Path):
    table = pa.table({"n": [1, 2, 3]})
    feather.write_feather(table, str(tmp_path / "a.feather"))
    assert rows(arrow.describe(str(tmp_path / "a.feather"), "a"), ["n"]) == table.to_pylist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feather.write_feather(table, str(tmp_path / "b.feather"), version=1)
    with pytest.raises(pa.ArrowInvalid, match=r"Feather V1 .*pyarrow\.feather\.write_feather"):
        arrow.describe(str(tmp_path / "b.feather"), "b")


def test_a_file_without_rows_or_columns_is_one_all_the_same(tmp_path: Path, kind: str):
    schema = pa.schema({"x": pa.list_(pa.int8())})
    source = arrow.describe(write(tmp_path / "a.arrow", kind, schema.empty_table()), "a")
    assert (source.num_rows, source.schema) == (0, schema)
    assert arrow.describe(write(tmp_path / "b.arrow", kind, pa.table({})), "b").num_rows == 0


def test_a_file_that_is_cut_off_or_none_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / "a.arrow"
    content = Path(write(path, kind, pa.table({"x": [list(range(100))] * 9}))).read_bytes()
    for stored in [content[:n] for n in (1, 7, 100, len(content) // 2)] + [b"id,label\n1,a\n"]:
        path.write_bytes(stored)
        with pytest.raises((pa.ArrowException, OSError)):
            arrow.describe(str(path), "a")


def test_offsets_that_lead_out_of_the_file_are_noticed(tmp_path: Path, kind: str):
    offsets = pa.array([0, 77_777, 100_000], pa.int32())
    table = pa.table(
        {"s": pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), pa.nulls(100_000, pa.int8()))}
    )
    path = Path(write(tmp_path / "a.arrow", kind, table))
    source = arrow.describe(str(path), "a")
    path.write_bytes(
        path.read_bytes().replace((77_777).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little"))
    )
    with pytest.raises(pa.ArrowInvalid):
        rows(source, ["s"], batch_rows=1)


def test_a_file_that_has_changed_is_noticed(tmp_path: Path, kind: str):
    path = write(tmp_path / "a.arrow", kind, pa.table({"n": [1]}))
    source = arrow.describe(path, "a")
    longer = Source(path, "a", "arrow", source.schema, (*source.groups, RowGroup(1, 1, 1)))
    with pytest.raises(pa.ArrowInvalid, match="fewer record batches"):
        rows(longer, ["n"])
    with pytest.raises(pa.ArrowInvalid, match="no column 'm'"):
        rows(source, ["m"])


def test_files_in_a_store_are_read_too(object_store: str, store_files: fs.FileSystem, kind: str):
    table = pa.table({"x": [[1, 2], [3]], "n": [1, 2]})
    with store_files.open_output_stream("a.arrow") as sink, KINDS[kind](sink, table.schema) as writer:
        writer.write_table(table)
    source = arrow.describe(f"{object_store}/a.arrow", "a.arrow")
    assert source.groups[0].num_values == 5
    assert rows(source, ["n", "x"]) == table.select(["n", "x"]).to_pylist()
