import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.readers import File
from components.errors import BusyError, StorageError
from pipeline.backends import parts as module
from pipeline.backends.parts import Parts, signs, write_whole

SCHEMA = pa.schema([("x", pa.int64())])


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path / "out.parquet")


def write(parts, number, values):
    part = parts.begin(number, SCHEMA)
    for value in values:
        part.write(pa.record_batch({"x": [value]}))
    return part


def test_finished_parts_stay_for_the_same_manifest_only(parts):
    with parts.held({"model": 1}):
        write(parts, 0, [1, 2]).end()
        write(parts, 1, [3])
    assert parts.recorded() == {"model": 1}
    with parts.held({"model": 1}):
        assert [parts.rows(0), parts.rows(1)] == [2, None]
    with parts.held({"model": 2}):
        assert parts.rows(0) is None
    parts.forget()
    assert parts.recorded() is None
    parts.remove()
    assert not parts.folder.exists()


def test_a_part_that_is_given_up_leaves_nothing(parts):
    with parts.held({}):
        write(parts, 0, [1]).give_up()
        assert not list(parts.folder.glob("part*"))


def test_one_process_at_a_time(parts):
    with parts.held({}), pytest.raises(BusyError, match=r"Another process is writing .*out\.parquet"):
        Parts(parts.out).held({}).__enter__()


def test_parts_come_back_in_order_in_tables_of_bounded_size(parts, monkeypatch):
    monkeypatch.setattr(module, "GROUP_ROWS", 2)
    with parts.held({}):
        write(parts, 1, [4, 5]).end()
        write(parts, 0, [1, 2, 3]).end()
        assert [table["x"].to_pylist() for table in parts.tables(2)] == [[1, 2], [3, 4], [5]]


def test_a_whole_file_or_none(tmp_path):
    out = tmp_path / "out.parquet"

    def broken():
        yield pa.table({"x": [1], "y": [2]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(out, broken(), SCHEMA)
    assert not list(tmp_path.iterdir())
    write_whole(out, [pa.table({"x": [1], "y": [2]})], SCHEMA.with_metadata({"by": "us"}))
    assert pq.read_table(out).to_pydict() == {"x": [1]}
    assert pq.read_schema(out).metadata == {b"by": b"us"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"), Parts(tmp_path / "file" / "out").held({}):
        pass


def test_signs_are_kept_beside_the_answers_and_hold_no_password(object_store, store_files):
    with store_files.open_output_stream("rows.csv") as stream:
        stream.write(b"x")
    url = object_store.replace("s3://", "s3://key:S3CR3T@")
    assert signs([File(f"{url}/rows.csv")]) == [[f"{object_store}/rows.csv", 1, None]]


def test_a_file_that_changed_is_told_by_its_signs(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a", "utf8")
    before = signs([File(str(path))])
    path.write_text("ab", "utf8")
    assert signs([File(str(path))]) != before
