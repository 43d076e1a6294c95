from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from components.data.readers import parquet
from components.data.readers.sources import Part, Source


def write(path: Path, num_rows: int = 10, **options) -> str:
    table = pa.table({"a.b": range(num_rows), "x": [[i, 2] for i in range(num_rows)]})
    pq.write_table(table.replace_schema_metadata({"a": "b"}), path, **options)
    return str(path)


def part(source: Source, *groups: int) -> Part:
    return Part(0, source, groups, 0, 0, sum(source.groups[group].num_rows for group in groups))


def test_the_footer_says_which_row_groups_there_are(tmp_path: Path):
    source = parquet.describe(write(tmp_path / "a.parquet", row_group_size=4), "named")
    assert (source.name, source.format, source.num_rows) == ("named", "parquet", 10)
    assert [(group.num_rows, group.num_values) for group in source.groups] == [(4, 12), (4, 12), (2, 6)]
    assert all(group.num_bytes > 0 for group in source.groups)
    assert source.schema == pa.schema({"a.b": pa.int64(), "x": pa.list_(pa.int64())})
    assert source.schema.metadata is None


def test_row_groups_are_read_alone_with_the_columns_in_the_order_asked(tmp_path: Path):
    source = parquet.describe(write(tmp_path / "a.parquet", row_group_size=4), "a")
    batches = list(parquet.scan(part(source, 1, 2), ["x", "a.b"], 3))
    assert all(batch.schema.names == ["x", "a.b"] and len(batch) <= 3 for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == [{"x": [i, 2], "a.b": i} for i in range(4, 10)]


def test_a_file_without_rows_has_no_groups_or_empty_ones(tmp_path: Path):
    source = parquet.describe(write(tmp_path / "a.parquet", 0), "a")
    assert source.num_rows == 0
    assert source.schema.names == ["a.b", "x"]


@pytest.mark.parametrize("cut", [3, 100, -9, -1])
def test_what_is_not_a_whole_file_is_refused(tmp_path: Path, cut: int):
    path = tmp_path / "a.parquet"
    path.write_bytes(Path(write(path)).read_bytes()[:cut])
    with pytest.raises((pa.ArrowException, OSError)):
        parquet.describe(str(path), "a")


@pytest.mark.parametrize("large", [1 << 26, 0], ids=["unbuffered", "buffered"])
def test_a_page_that_is_damaged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int):
    monkeypatch.setattr(parquet, "LARGE_GROUP_BYTES", large)
    path = Path(write(tmp_path / "a.parquet", 4000, write_page_checksum=True))
    source = parquet.describe(str(path), "a")
    assert sum(map(len, parquet.scan(part(source, 0), ["a.b", "x"], 1000))) == 4000
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(content)
    with pytest.raises((pa.ArrowException, OSError)):
        list(parquet.scan(part(source, 0), ["a.b", "x"], 1000))


def test_files_in_a_store_are_read_too(object_store: str, store_files: fs.FileSystem):
    table = pa.table({"x": [[1, 2], [3]], "n": [1, 2]})
    with store_files.open_output_stream("a.parquet") as sink:
        pq.write_table(table, sink)
    source = parquet.describe(f"{object_store}/a.parquet", "a.parquet")
    assert source.num_rows == 2
    (batch,) = parquet.scan(part(source, 0), ["n", "x"], 10)
    assert batch.to_pylist() == table.select(["n", "x"]).to_pylist()
