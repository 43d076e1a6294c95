from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers
from components.data.readers import READERS, describe, expand, parts, scan
from components.errors import DataError


def write(path: Path, num_rows: int = 4, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"a.b": list(range(num_rows)), "x": [[1, 2]] * num_rows}), path, **options)
    return path


def test_files_folders_and_globs_give_each_file_once_in_order_of_name(folder: Path):
    for name in ("d/2.parquet", "d/1.PQ", "d/deep/3.parquet", "e.parquet"):
        write(folder / name)
    for name in ("d/_SUCCESS", "d/._1.parquet", "d/notes.txt"):
        (folder / name).write_text("")
    found = [
        file.relative_to(folder).as_posix()
        for file in expand(["e.parquet", "d", "d/*.parquet", "./e.parquet"])
    ]
    assert found == ["d/1.PQ", "d/2.parquet", "d/deep/3.parquet", "e.parquet"]
    assert expand("d") == expand(["d/deep", "d"])


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(folder: Path):
    write(folder / "part[1].parquet")
    assert [file.name for file in expand("part[1].parquet")] == ["part[1].parquet"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("letter.parquet", "letter.parquet: no such file; did you mean 'letters.parquet'?"),
        ("none/*.parquet", "no such file"),
        ("empty", "the folder holds no data files"),
        ("s3://bucket/x.parquet", "expected a path on this machine"),
        ("rows.csv", "rows.csv: unknown format, expected a name in .parquet, .pq"),
    ],
)
def test_a_path_that_names_no_data_says_so(folder: Path, path: str, said: str):
    write(folder / "letters.parquet")
    (folder / "empty").mkdir()
    (folder / "rows.csv").write_text("")
    with pytest.raises(DataError) as caught:
        expand(path)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_path_at_fault_is_named_at_once(folder: Path):
    with pytest.raises(DataError) as caught:
        expand(["a.parquet", "b.parquet"])
    assert len(caught.value.problems) == 2


def test_a_format_that_is_named_needs_no_suffix(folder: Path):
    write(folder / "rows.data")
    (source,), problems = describe(expand("rows.data", "parquet"), "parquet")
    assert (source.num_rows, source.name, problems) == (4, "rows.data", [])


def test_names_are_paths_below_the_folder_that_all_files_share(folder: Path):
    sources, _ = describe([write(folder / "a/1.parquet"), write(folder / "b/1.parquet")])
    assert [source.name for source in sources] == ["a/1.parquet", "b/1.parquet"]


def test_files_that_cannot_be_opened_are_told_apart_from_those_that_can(folder: Path):
    good = write(folder / "good.parquet")
    empty, other, cut = (folder / f"{name}.parquet" for name in ("empty", "other", "cut"))
    empty.write_bytes(b"")
    other.write_text("id,label\n1,a\n")
    cut.write_bytes(good.read_bytes()[:-9])
    sources, problems = describe([cut, empty, good, other])
    assert [source.name for source in sources] == ["good.parquet"]
    assert [problem.file for problem in problems] == ["cut.parquet", "empty.parquet", "other.parquet"]
    assert problems[1].message == "no rows: the file is empty (0 bytes)"
    assert problems[0].message.startswith("not a whole Parquet file, or damaged: ")


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


@pytest.mark.parametrize("large", [1 << 26, 0], ids=["unbuffered", "buffered"])
def test_a_page_that_is_damaged_is_found_while_scanning_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, large: int
):
    monkeypatch.setattr(readers, "LARGE_GROUP_BYTES", large)
    path = write(folder / "a.parquet", 4000, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)
    path.write_bytes(content)
    (part,) = parts(describe([path])[0])
    with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file, or damaged"):
        list(scan(part, ["a.b", "x"]))


def test_every_format_has_its_own_suffixes():
    suffixes = [suffix for reader in READERS.values() for suffix in reader.suffixes]
    assert len(set(suffixes)) == len(suffixes)
