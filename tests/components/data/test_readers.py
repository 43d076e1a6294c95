"""Files of any format to parts, and parts to batches."""

import gzip
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers
from components.data.readers import READERS, File, Source, Wanted, expand, format_of, open_file, parts, scan
from components.data.readers.paths import relative_names
from components.data.readers.sources import LINE, NUMBERS, TEXT, TEXTS, Importer
from components.data.records import Layout, check_schema
from components.errors import DataError, Problem
from conf.schema import Settings


def write(path: Path, num_rows: int = 4, **options) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a.b": list(range(num_rows)), "x": [[1, 2]] * num_rows}), path, **options)
    return File(str(path), str(path.parent))


def rows_of(source: Source, *columns: str) -> list[dict]:
    """The rows of a source, those columns of them that are the user's."""
    wanted = columns or tuple(name for name in source.schema.names if name not in readers.OWN)
    batches = [batch for part in parts([source]) for batch in scan(part, wanted)]
    return [{name: row[name] for name in wanted} for batch in batches for row in batch.to_pylist()]


@pytest.fixture
def imported(tmp_path: Path):
    """Opens a file that was written with this content."""

    def open_content(name: str, content: bytes | str, *, kinds=None, file_format: str = "auto") -> Source:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        file = File(str(path), str(tmp_path))
        kind = readers.format_of(file, file_format)
        target = str(tmp_path / "scratch" / "import.arrow")
        Path(target).parent.mkdir(exist_ok=True)
        return open_file(file, name=name, file_format=kind, wanted=Wanted(kinds or {}), target=target)

    return open_content


def describe(files: list[File], file_format: str = "auto") -> tuple[list[Source], list[Problem]]:
    """The files that can be opened, and what is wrong with the others."""
    sources, problems = [], []
    for file, name in zip(files, relative_names(files), strict=True):
        try:
            sources.append(open_file(file, name=name, file_format=format_of(file, file_format)))
        except DataError as error:
            problems += error.problems
    return sources, problems


# Read in place


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("column", "values", "extension", "said"),
    [
        ("x", [[1.0, 2.0]] * 4, "their.tensor", "the extension type their.tensor, stored as list<"),
        (
            "id",
            [1, 2, 3, 4],
            "their.number",
            "the extension type their.number, stored as int64, expected text",
        ),
        (
            "label",
            ["a", "b"] * 2,
            "their.code",
            "the extension type their.code, stored as string, expected text",
        ),
        ("fold", [0, 1, 2, 2], "their.fold", "the extension type their.fold, stored as int64, expected text"),
    ],
)
def test_a_column_of_an_extension_type_is_refused_by_name_where_it_is_used(
    tmp_path: Path,
    make_settings: Callable[..., Settings],
    kind: str,
    column: str,
    values: list,
    extension: str,
    said: str,
):
    plain = {"id": ["a", "b", "c", "d"], "x": [[1.0], [2.0], [3.0], [4.0]], "label": ["a", "b", "a", "b"]}
    table = pa.table({**plain, "fold": [0, 1, 2, 2], "unused": [1, 2, 3, 4], column: values})
    for name, own in ((column, extension), ("unused", "their.other")):
        field = table.schema.field(name).with_metadata({"ARROW:extension:name": own})
        at = table.schema.get_field_index(name)
        table = table.cast(table.schema.set(at, field))
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    source = open_file(File(str(path)), name=path.name, file_format=kind)
    (problem,) = check_schema(source.schema, Layout.of(make_settings()), file=source.name)
    assert str(problem).startswith(f"a.{kind}, column {column}: received {said}")
    # What no setting names is in nobody's way.
    used = [name for name in ("id", "x", "label", "fold") if name != column]
    assert rows_of(source, *used) == table.select(used).to_pylist()


def test_files_that_cannot_be_opened_are_told_apart_from_those_that_can(folder: Path):
    good = write(folder / "good.parquet")
    empty, other, cut = (folder / f"{name}.parquet" for name in ("empty", "other", "cut"))
    empty.write_bytes(b"")
    other.write_text("id,label\n1,a\n")
    cut.write_bytes((folder / "good.parquet").read_bytes()[:-9])
    sources, problems = describe([File(str(cut)), File(str(empty)), good, File(str(other))])
    assert [source.name for source in sources] == ["good.parquet"]
    assert [problem.file for problem in problems] == ["cut.parquet", "empty.parquet", "other.parquet"]
    assert problems[1].message == "no rows: the file is empty (0 bytes)"
    assert problems[0].message.startswith("not a whole Parquet file, or damaged: ")


def test_a_format_that_is_named_needs_no_suffix(folder: Path):
    write(folder / "rows.data")
    (source,), problems = describe(expand("rows.data", "parquet"), "parquet")
    assert (source.num_rows, source.name, problems) == (4, "rows.data", [])


def test_names_are_paths_below_the_folder_that_all_files_share(folder: Path):
    sources, _ = describe([write(folder / "a/1.parquet"), write(folder / "b/1.parquet")])
    assert [source.name for source in sources] == ["a/1.parquet", "b/1.parquet"]


def test_parts_are_groups_of_row_groups_with_their_place(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "PART_VALUES", 25)  # a group of 4 rows has 12 values
    files = [
        write(folder / f"{name}.parquet", rows, row_group_size=4)
        for name, rows in (("a", 10), ("b", 0), ("c", 3))
    ]
    cut = parts(describe(files)[0])
    assert [
        (part.source.name, part.groups, part.first_row, part.position, part.num_rows) for part in cut
    ] == [
        ("a.parquet", (0, 1), 0, 0, 8),
        ("a.parquet", (2,), 8, 8, 2),
        ("c.parquet", (0,), 0, 10, 3),
    ]
    assert [row for part in cut for batch in scan(part, ["a.b"]) for row in batch["a.b"].to_pylist()] == [
        *range(10), *range(3)
    ]  # fmt: skip


def test_batches_hold_a_bounded_number_of_values(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "BATCH_VALUES", 30)
    (part,) = parts(describe([write(folder / "a.parquet", 25)])[0])
    batches = list(scan(part, ["x"]))
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert batches[0].schema.names == ["x"]


def test_a_page_that_is_damaged_is_found_while_scanning_and_named(folder: Path):
    file = write(folder / "a.parquet", 4000, write_page_checksum=True)
    content = bytearray(Path(file.path).read_bytes())
    content[200:300] = bytes(100)
    Path(file.path).write_bytes(content)
    (part,) = parts(describe([file])[0])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file, or damaged"):
        list(scan(part, ["a.b", "x"]))


def test_a_compressed_file_that_is_read_in_place_is_refused(folder: Path):
    file = write(folder / "a.parquet")
    packed = folder / "a.parquet.gz"
    packed.write_bytes(gzip.compress(Path(file.path).read_bytes()))
    _, (problem,) = describe([File(str(packed))])
    assert problem.message == "a gzip file; parquet files are compressed inside"


def test_what_folders_say_is_a_column_of_the_file_unless_it_has_one_itself(folder: Path):
    for year in (2023, 2024):
        write(folder / f"data/year={year}/a.b=none/rows.parquet", 2)
    sources, problems = describe(expand("data"))
    assert not problems
    assert [source.schema.names for source in sources] == [["a.b", "x", "year"]] * 2
    found = [rows_of(source, "year", "a.b") for source in sources]
    assert found == [[{"year": str(year), "a.b": i} for i in range(2)] for year in (2023, 2024)]
    assert rows_of(sources[0], "x") == [{"x": [1, 2]}] * 2


# Every format


def test_every_format_has_its_own_suffixes():
    suffixes = [suffix for reader in READERS.values() for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(
    ("name", "file_format", "expected"),
    [
        ("a.parquet", "auto", "parquet"),
        ("a.TSV.gz", "auto", "tsv"),
        ("a.data", "auto", "parquet"),
        ("a.conllu", "conll", "conllu"),
        ("a.data", "conll", "conll"),
        ("a.parquet", "csv", "csv"),
        ("a.tsv", "csv", "tsv"),
        ("a.tsv", "ts", "ts"),
        ("a.csv", "my.module:read", "my.module:read"),
    ],
)
def test_the_format_is_the_one_named_or_that_of_the_suffix(name: str, file_format: str, expected: str):
    assert readers.format_of(File(f"/{name}"), file_format) == expected


def test_only_formats_with_groups_of_rows_are_read_in_place():
    assert [name for name in READERS if not readers.is_imported(name)] == ["parquet", "arrow"]
    assert readers.is_imported("my.module:read")
    assert all(isinstance(READERS[name], Importer) for name in READERS if readers.is_imported(name))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "id,x\n1,\"[1, 2]\"\n2,[3]\n", [{"id": "1", "x": [1.0, 2.0]}, {"id": "2", "x": [3.0]}]),
        ("a.tsv", "id\tx\n1\t[1]\n", [{"id": "1", "x": [1.0]}]),
        ("a.jsonl", '{"id": 1.10, "x": [1]}\n{"id": null, "x": [2]}',
         [{"id": "1.10", "x": [1.0]}, {"id": None, "x": [2.0]}]),
        ("a.conllu", "1\tJa\t_\tX\t_\t_\t_\t_\t_\t_\n", [{"id": "1", "form": ["Ja"]}]),
        ("a.conll", "Ja B-X\n\nNein O\n", [{"token": ["Ja"]}, {"token": ["Nein"]}]),
    ],
)  # fmt: skip
def test_text_files_are_imported_with_the_line_of_each_row(imported, name: str, content: str, expected):
    kinds = {"id": TEXT, "x": NUMBERS, "form": TEXTS, "token": TEXTS}
    source = imported(name, content, kinds=kinds)
    assert (source.name, source.format) == (name, "arrow")
    assert LINE in source.schema.names
    assert rows_of(source) == expected
    assert rows_of(imported(f"{name}.gz", gzip.compress(content.encode()), kinds=kinds)) == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "no rows: the file is empty (0 bytes)"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"id": 1}\n' * 9999)[:-20],
            "not a whole JSON Lines file, or damaged: ",
        ),
        ("a.csv.gz", b"id,x\n", "not a whole CSV file, or damaged: "),
        ("a.arrow", b"id,x\n1,2\n", "not a whole Arrow file, or damaged: "),
        ("a.parquet", b"PAR1 and nothing PAR1", "not a whole Parquet file, or damaged: "),
    ],
)
def test_a_file_that_is_empty_or_damaged_is_named_with_its_format(
    imported, name: str, content: bytes, said: str
):
    with pytest.raises(DataError) as caught:
        imported(name, content)
    (problem,) = caught.value.problems
    assert problem.file == name
    assert problem.message.startswith(said)


def test_a_file_that_is_not_there_any_more_is_said_to_be_so(tmp_path: Path):
    with pytest.raises(
        DataError,
        match=rf"gone\.parquet: cannot be read: No such file or directory on {socket.gethostname()}",
    ):
        open_file(File(str(tmp_path / "gone.parquet")), name="gone.parquet", file_format="parquet")


def test_what_folders_say_is_a_column_of_imported_files_too(tmp_path: Path):
    path = tmp_path / "year=2024/a.csv"
    path.parent.mkdir()
    path.write_text("id\nr1\nr2\n")
    (file,) = expand(str(tmp_path))
    target = str(tmp_path / "import.arrow")
    source = open_file(file, name="a.csv", file_format="csv", wanted=Wanted({"id": TEXT}), target=target)
    assert rows_of(source, "year", "id") == [{"year": "2024", "id": "r1"}, {"year": "2024", "id": "r2"}]


# Imports of batches that differ

MODULE = """
import pyarrow as pa

def _lists(*kinds):
    values = {pa.null(): [None], pa.list_(pa.null()): [[None]]}
    yield from (pa.record_batch({"x": pa.array(values.get(kind, [[1, 2]]), kind)}) for kind in kinds)

def widening(path):
    return _lists(pa.null(), pa.list_(pa.null()), pa.list_(pa.float64()), pa.list_(pa.null()), pa.null())

def at_once(path):
    return _lists(pa.null(), pa.list_(pa.float64()))

def whole_then_double(path):
    yield {"n": 1}
    yield pa.record_batch({"n": [0.5]})

def columns(path):
    yield pa.record_batch({"a": ["1"]})
    yield pa.record_batch({"b": [2], "a": ["2"]})
    yield pa.record_batch({"b": [3]})

def nothing(path):
    return []

def two_kinds(path):
    yield pa.record_batch({"x": ["text"]})
    yield pa.record_batch({"x": [[1.0]]})

def read(path):
    with open(path) as lines:
        for line in lines:
            yield {"id": line.strip(), "x": [float(len(line)), None]}
"""


@pytest.fixture
def by(imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opens a file by a function of a user's own module."""
    (tmp_path / "my_readers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda function, content="x", **kwargs: imported(
        "a.bin", content, file_format=f"my_readers:{function}", **kwargs
    )


def test_a_column_without_a_value_takes_the_type_that_later_batches_know(by):
    source = by("widening")
    assert source.schema.field("x").type == pa.list_(pa.float64())
    assert [row["x"] for row in rows_of(source)] == [None, [None], [1.0, 2.0], [None], None]
    assert [row["x"] for row in rows_of(by("at_once"))] == [None, [1.0, 2.0]]


def test_whole_numbers_and_fractions_are_fractions(by):
    assert rows_of(by("whole_then_double")) == [{"n": 1.0}, {"n": 0.5}]


def test_a_column_that_a_batch_lacks_is_null_there(by):
    source = by("columns")
    assert source.schema.names == ["a", "b"]
    assert rows_of(source) == [{"a": "1", "b": None}, {"a": "2", "b": 2}, {"a": None, "b": 3}]


def test_of_an_import_only_the_whole_file_is_left(by, tmp_path: Path):
    by("widening")
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["import.arrow"]


def test_a_file_without_rows_is_one_without_parts(by):
    source = by("nothing")
    assert (source.num_rows, source.schema.names, parts([source])) == (0, [], [])


def test_a_column_of_two_kinds_is_refused(by):
    with pytest.raises(DataError, match=r"a\.bin: .*x") as caught:
        by("two_kinds")
    assert caught.value.exit_code == 2


def test_a_users_own_reader_gives_rows_like_any_other(by):
    source = by("read", "a\nbcd\n", kinds={"x": NUMBERS, "id": TEXT})
    assert (source.name, source.format, source.num_rows) == ("a.bin", "arrow", 2)
    assert rows_of(source, "x", "id") == [{"x": [2.0, None], "id": "a"}, {"x": [4.0, None], "id": "bcd"}]
