import bz2
import gzip
import os
import random
import socket
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from components.data.readers import paths, stores
from components.data.readers.paths import File, find, relative_names
from components.errors import DataError, StorageError

KNOWN = (".parquet", ".csv")
CONTENT = b"id,label\n" + random.Random(0).randbytes(200_000) + b"a" * 200_000


def compressed(codec: str) -> bytes:
    if codec == "zstd":
        return pa.compress(CONTENT, codec="zstd", asbytes=True)
    return {"gzip": gzip.compress, "bz2": bz2.compress}[codec](CONTENT)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def put(store: fs.FileSystem, key: str, content: bytes = b"x") -> None:
    with store.open_output_stream(key, compression=None) as stream:
        stream.write(content)


def below(folder: Path, found: list[File]) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in found]


# On this machine


def test_files_folders_and_globs_give_each_file_once_in_order_of_name(folder: Path):
    touch(*(folder / name for name in ("d/2.parquet", "d/1.CSV.gz", "d/deep/3.parquet", "e.parquet")))
    touch(*(folder / name for name in ("d/_SUCCESS", "d/._1.parquet", "d/notes.txt", "d/_old/4.parquet")))
    named = ["e.parquet", "d", "d/*.parquet", "./e.parquet", f"file://{folder}/d"]
    assert below(folder, find(named, KNOWN)) == [
        "d/1.CSV.gz",
        "d/2.parquet",
        "d/deep/3.parquet",
        "e.parquet",
    ]  # fmt: skip
    assert find("d", KNOWN) == find(["d/deep", "d"], KNOWN) == find("d/**", KNOWN)


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(folder: Path):
    touch(folder / "part[1].parquet", folder / "part1.parquet")
    assert below(folder, find("part[1].parquet", KNOWN)) == ["part[1].parquet"]
    assert below(folder, find("part[1]*", KNOWN)) == ["part1.parquet"]


def test_a_folder_that_a_glob_matches_stands_for_its_files(folder: Path):
    touch(folder / "a.parquet/part-0.parquet", folder / "a.parquet/_SUCCESS", folder / "b.parquet")
    assert below(folder, find("*.parquet", KNOWN)) == ["a.parquet/part-0.parquet", "b.parquet"]


def test_wildcards_pass_over_hidden_names_unless_they_ask_for_them(folder: Path):
    touch(folder / "_a.parquet", folder / "b.parquet", folder / "_c/d.parquet")
    assert below(folder, find("**/*.parquet", KNOWN)) == ["b.parquet"]
    assert below(folder, find("_*.parquet", KNOWN)) == ["_a.parquet"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("letter.parquet", "letter.parquet: no such file; did you mean 'letters.parquet'?"),
        ("none/*.parquet", "no such file"),
        ("empty", "the folder holds no data files"),
        ("rows.foo", "rows.foo: unknown format, expected a name in .parquet, .csv"),
        ("rows.gz", "rows.gz: unknown format"),
        ("file://elsewhere/x.csv", "another machine"),
        ("file://[elsewhere/x.csv", "not a URL that can be read: Invalid IPv6 URL"),
        ("zz://bucket/x.csv", "zz://bucket/x.csv: zz:// is not read, expected a path, file://, s3://"),
        ("jar:file:///x.zip!/x.csv", "jar: is not read, expected a path, file://, s3://"),
        ("data:text/csv,id", "data: is not read, expected a path, file://, s3://"),
        ("s3://", "expected scheme://bucket/path"),
        (
            "s3://k:sssecret@b/x.csv?nonsense=1",
            "s3://b/x.csv: not a URL that can be read: unknown 'nonsense'",
        ),
    ],
)
def test_a_path_that_names_no_data_says_so(folder: Path, path: str, said: str):
    touch(folder / "letters.parquet", folder / "rows.foo", folder / "rows.gz")
    (folder / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find(path, KNOWN)
    assert said in str(caught.value)
    assert "sssecret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_path_at_fault_is_named_at_once(folder: Path):
    touch(folder / "c.foo")
    with pytest.raises(DataError) as caught:
        find(["a.parquet", "b.parquet", "c.foo"], KNOWN)
    assert len(caught.value.problems) == 3


def test_a_name_with_a_colon_is_a_file_where_there_is_one(folder: Path):
    touch(folder / "data:1.csv")
    assert (
        below(folder, find("data:1.csv", KNOWN)) == below(folder, find("data:*.csv", KNOWN)) == ["data:1.csv"]
    )


def test_a_format_that_is_named_needs_no_suffix(folder: Path):
    touch(folder / "rows.data")
    assert below(folder, find("rows.data", KNOWN, any_suffix=True)) == ["rows.data"]


@settings(max_examples=40, deadline=None)
@given(
    names=st.sets(
        st.lists(st.sampled_from(["a", "b b", "é", "x=1", "[c]"]), min_size=1, max_size=3).map("/".join),
        min_size=1,
        max_size=6,
    ),
    draw=st.randoms(use_true_random=False),
)
def test_any_mixture_in_any_order_gives_the_same_files(names: set[str], draw: random.Random):
    with tempfile.TemporaryDirectory() as top:
        files = [Path(top, f"{name}.csv") for name in names]
        touch(*files)
        mixture = [str(file) for file in files]
        mixture += draw.sample([top, f"{top}/*.csv", f"{top}/**/*.csv", f"file://{top}/**"], 2)
        # The first ones may match nothing at the top.
        mixture = [
            path for path in mixture if path != f"{top}/*.csv" or any("/" not in name for name in names)
        ]
        draw.shuffle(mixture)
        found = find(mixture, KNOWN)
        assert [file.path for file in found] == sorted(str(file) for file in files)
        assert [file.root for file in find([*mixture, top], KNOWN)] == [top] * len(files)


def test_what_hive_folders_say_is_known_below_the_folder_named(folder: Path):
    touch(folder / "year=2024/city=New%20York/a.csv", folder / f"year=2024/city={paths.NO_VALUE}/b.csv")
    assert [dict(file.partitions) for file in find(str(folder), KNOWN)] == [
        {"year": "2024", "city": "New York"},
        {"year": "2024"},
    ]
    assert find("year=*/*", KNOWN)[0].partitions["year"] == "2024"
    assert "year" not in find("year=2024", KNOWN)[0].partitions
    assert not find("year=2024/city=New%20York/a.csv", KNOWN)[0].partitions


@pytest.mark.parametrize(
    ("name", "suffix", "compression"),
    [
        ("rows.CSV.gz", ".csv", "gzip"),
        ("rows.csv.BZ2", ".csv", "bz2"),
        ("rows.v1.csv.zst", ".csv", "zstd"),
        ("rows.csv.zstd", ".csv", "zstd"),
        ("rows.Parquet", ".parquet", None),
        ("rows.gz", "", "gzip"),
        ("rows", "", None),
    ],
)
def test_the_suffix_is_that_of_the_format(name: str, suffix: str, compression: str | None):
    for path in (f"/a.b/{name}", f"s3://bucket/a.b/{name}?region=eu-west-1"):
        assert (File(path).name, File(path).suffix, File(path).compression) == (name, suffix, compression)


def test_names_are_paths_below_the_folder_that_all_files_share():
    shared = [File("/d/a/1.csv"), File("/d/b/1.csv"), File("/d/ab.csv")]
    assert relative_names(shared) == ["a/1.csv", "b/1.csv", "ab.csv"]
    assert relative_names(shared[:1]) == ["1.csv"]
    assert relative_names([File("s3://k:s@b/x/1.csv?scheme=http"), File("s3://b/y/1.csv")]) == [
        "x/1.csv",
        "y/1.csv",
    ]
    assert relative_names([File("/d/1.csv"), File("s3://b/1.csv")]) == ["/d/1.csv", "s3://b/1.csv"]
    assert relative_names([]) == []


@pytest.mark.parametrize(("codec", "suffix"), [("gzip", ".gz"), ("bz2", ".bz2"), ("zstd", ".zst")])
def test_compressed_streams_are_whole_or_fail(folder: Path, codec: str, suffix: str):
    content, path = compressed(codec), folder / f"rows.csv{suffix}"

    def read(stored: bytes) -> bytes:
        path.write_bytes(stored)
        with File(str(path)).stream() as stream:
            return stream.read()

    assert read(content) == CONTENT
    assert read(content * 3) == CONTENT * 3
    damaged = [content[:cut] for cut in (0, 1, 9, len(content) // 2, len(content) - 9, len(content) - 1)]
    for stored in [*damaged, content + content[:1000], content + b"more", b"id,label\n"]:
        with pytest.raises(OSError):
            read(stored)


def test_a_version_changes_with_the_file(folder: Path):
    touch(folder / "a.csv")
    file = find("a.csv", KNOWN)[0]
    before = file.version()
    assert file.version() == before
    os.utime(file.path, ns=(1, 1))
    assert file.version() != before
    assert file.size() == 1
    with file.open() as opened, file.stream() as stream:
        assert opened.read() == stream.read() == b"x"


# In a store


def test_parquet_and_compressed_csv_are_read_in_a_store(object_store: str, store_files: fs.FileSystem):
    table = pa.table({"x": [[1.0, 2.0], []]})
    pq.write_table(table, "d/a.parquet", filesystem=store_files)
    put(store_files, "d/b.csv.gz", compressed("gzip"))
    parquet, csv = find(f"{object_store}/d", KNOWN)
    with parquet.open() as source:
        assert pq.read_table(source).equals(table)
    with csv.stream() as stream:
        assert stream.read() == CONTENT
    assert csv.size() == len(compressed("gzip"))
    assert csv.version() == csv.version() != parquet.version()
    put(store_files, "d/b.csv.gz", compressed("gzip")[:-5])
    with pytest.raises(OSError, match="Truncated"), csv.stream() as stream:
        stream.read()


def test_folders_globs_and_partitions_are_found_in_a_store(object_store: str, store_files: fs.FileSystem):
    keys = ["d/year=2024/city=New%20York/a b.csv", "d/year=2025/[c].csv", "d/e.csv"]
    for key in [*keys, "d/_SUCCESS", "d/_old/f.csv", "d/notes.txt"]:
        put(store_files, key)
    whole = find(f"{object_store}/d/", KNOWN)
    assert [file.path for file in whole] == sorted(f"{object_store}/{key}" for key in keys)
    assert [dict(file.partitions) for file in whole] == [
        {},
        {"year": "2024", "city": "New York"},
        {"year": "2025"},
    ]
    assert [file.size() for file in whole] == [1, 1, 1]
    assert (
        find(f"{object_store}/**/*.csv", KNOWN) == whole == find([object_store, f"{object_store}/d"], KNOWN)
    )
    assert find(f"{object_store}/d/**", KNOWN) == whole
    assert [file.name for file in find(f"{object_store}/d/*.csv", KNOWN)] == ["e.csv"]
    (matched,) = find(f"{object_store}/d/year=202[4]", KNOWN)
    assert matched.partitions["year"] == "2024"
    assert [file.name for file in find(f"{object_store}/d/year=2025/[c].csv", KNOWN)] == ["[c].csv"]


def test_what_a_store_does_not_hold_is_told_like_any_other_path(
    object_store: str, store_files: fs.FileSystem
):
    put(store_files, "d/letters.csv")
    with pytest.raises(DataError) as caught:
        find(
            [
                f"{object_store}/d/letter.csv",
                f"{object_store}-not/x.csv",
                f"{object_store}/d/*.foo",
                "no.csv",
            ],
            KNOWN,
        )
    assert len(caught.value.problems) == 4
    assert "d/letter.csv: no such file; did you mean 'letters.csv'?" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        File(f"{object_store}/d/letter.csv").size()


def test_the_url_goes_before_the_environment_and_its_secrets_are_not_shown(
    object_store: str, store_files: fs.FileSystem, store_address: str, monkeypatch: pytest.MonkeyPatch
):
    put(store_files, "a.csv", b"hello")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    bucket = object_store.removeprefix("s3://")
    (file,) = find(f"s3a://key:sec/ret@{bucket}/a.csv?endpoint_override={store_address}&scheme=http", KNOWN)
    assert file.open().read() == b"hello"
    assert file.shown == f"s3a://{bucket}/a.csv"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{store_address}")
    assert find(f"{object_store}/a.csv", KNOWN)[0].size() == 5


@pytest.mark.parametrize("answers", [False, True], ids=["nobody there", "no answer"])
def test_a_store_that_cannot_be_reached_is_given_up_soon(object_store: str, answers: bool):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen(50)
        url = f"s3://mykey:sec/ret@bucket/d?endpoint_override=127.0.0.1:{server.getsockname()[1]}&scheme=http"
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"s3://bucket/d: the store cannot be reached") as caught:
            find(url, KNOWN)
        assert time.monotonic() - started < 30
        assert caught.value.exit_code == 3
        assert "mykey" not in str(caught.value) and "sec/ret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation"), StorageError, "the store refuses"),
        (OSError("AWS Error INVALID_ACCESS_KEY_ID: sesame"), StorageError, r"refuses: .*: \*\*\*$"),
        (PermissionError(13, "Forbidden"), StorageError, "the store refuses"),
        (OSError("AWS Error NETWORK_CONNECTION"), StorageError, "cannot be reached"),
        (OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2"), DataError, "no such bucket"),
        (FileNotFoundError(2, "Path does not exist"), FileNotFoundError, "Path"),
    ],
)
def test_a_refusal_is_told_from_what_is_not_there(error: OSError, kind: type[Exception], said: str):
    with pytest.raises(kind, match=said), stores.refusals("s3://key:sesame@bucket/a.csv"):
        raise error
