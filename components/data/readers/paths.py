"""From what `data.path` says to files, on this machine or in an object store.

    find("data", {".parquet"})                         a folder: every data file in it, at any depth
    find("s3://bucket/year=*/*.csv.gz", {".csv"})      a glob; `**` is any number of folders
    find(["a.parquet", "gs://bucket/b"], ...)          a list of these

What a glob matches counts as if it had been named: a folder stands for the data files in it. Names that begin
with `_` or `.` are passed over in folders and by wildcards: writers leave marks such as `_SUCCESS` there.

A key in a URL is written as it is, without percent codes, as the `aws` command takes it. A query may choose
the store: `s3://bucket/a.parquet?endpoint_override=127.0.0.1:9000&scheme=http`.
"""

import fnmatch
import glob
import hashlib
import io
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from components.data.readers import stores
from components.data.readers.stores import Address
from components.errors import DataError, Problem
from conf.names import nearest
from conf.urls import EXPECTED, is_url, unknown_scheme

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd"}
LOCAL_BUFFER_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
# Each fill of the buffer is a request.
REMOTE_BUFFER_BYTES = 1 << 23
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
HIVE_FOLDER = re.compile(r"([^=]+)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class File:
    """A file on this machine (`path` is absolute) or in a store (`path` is a URL).

    `root` is the folder that the user named, below which `partitions` are looked for; empty: the whole path.
    """

    path: str
    root: str = field(default="", compare=False)

    @property
    def is_remote(self) -> bool:
        return "://" in self.path

    @property
    def shown(self) -> str:
        """The path without credentials and query, for messages."""
        return stores.parse(self.path).shown if self.is_remote else self.path

    @property
    def name(self) -> str:
        return posixpath.basename(self._plain)

    @property
    def compression(self) -> str | None:
        return COMPRESSIONS.get(os.path.splitext(self.name)[1].lower())

    @property
    def suffix(self) -> str:
        """Of the format, in lower case: `.csv` of `rows.CSV.gz`."""
        stem, suffix = os.path.splitext(self.name)
        return (os.path.splitext(stem)[1] if suffix.lower() in COMPRESSIONS else suffix).lower()

    @property
    def partitions(self) -> Mapping[str, str]:
        """What the folders below the root say: `{"year": "2024"}` of `year=2024/`."""
        folder = posixpath.dirname(self._plain)
        below = folder.removeprefix(self.root) if self.root else folder
        found = [HIVE_FOLDER.fullmatch(part) for part in below.split("/")]
        return {unquote(hit[1]): unquote(hit[2]) for hit in found if hit and hit[2] != NO_VALUE}

    def size(self) -> int:
        """Bytes as stored.

        Raises:
            OSError: there is no such file, or it cannot be read.
            StorageError: the store cannot be reached, or refuses.
        """
        return cast(int, self._info().size) if self.is_remote else os.stat(self.path).st_size

    def version(self) -> str:
        """Changes when the file does, as far as can be told without reading it. Raises as `size` does."""
        if self.is_remote:
            info = self._info()
            return f"{info.size}-{info.mtime_ns}"
        status = os.stat(self.path)
        # A file that was replaced, its time kept, is another one.
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"

    def digest(self) -> str:
        """SHA-256 of the stored bytes. Raises as `size` does."""
        digest = hashlib.sha256()
        with self.open() as stored:
            while chunk := stored.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def open(self) -> pa.NativeFile:
        """The stored bytes, for reading at any place. Raises as `size` does."""
        if not self.is_remote:
            return pa.OSFile(self.path)
        with stores.refusals(self.path):
            store, path = stores.connect(self.path)
            return store.open_input_file(path)

    def stream(self) -> BinaryIO:
        """The content from its beginning, decompressed on the way.

        A compressed file that is cut off or damaged raises OSError where that is met; one that is a chain of
        compressed files (`cat a.gz b.gz`) is read to its end. Otherwise raises as `size` does.
        """
        if not self.is_remote:
            return self._stream(fs.LocalFileSystem(), self.path, LOCAL_BUFFER_BYTES)
        with stores.refusals(self.path):
            store, path = stores.connect(self.path)
            return self._stream(store, path, REMOTE_BUFFER_BYTES)

    def _stream(self, store: fs.FileSystem, path: str, buffer_bytes: int) -> BinaryIO:
        raw = store.open_input_stream(path, compression=None, buffer_size=buffer_bytes)
        if self.compression is None:
            return cast(BinaryIO, io.BufferedReader(raw, LOCAL_BUFFER_BYTES))
        # Arrow takes no bytes at all for a whole stream; no compressor writes that.
        if self.size() == 0:
            raise OSError("Truncated compressed stream: the file is empty")
        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(raw, self.compression)))

    def _info(self) -> fs.FileInfo:
        with stores.refusals(self.path):
            store, path = stores.connect(self.path)
            info = store.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(2, "No such file or directory", self.shown)
        return info

    @property
    def _plain(self) -> str:
        return stores.parse(self.path).with_key() if self.is_remote else self.path


def find(paths: str | Sequence[str], suffixes: Collection[str], any_suffix: bool = False) -> list[File]:
    """The files that a path, a folder, a glob, a URL or a list of them name, each once, in order of name.

    With `any_suffix`, a file that is named may be called anything; in folders the suffixes still count.

    Raises:
        DataError: a path names nothing, or a file is of no known format; all such paths are named.
        StorageError: an object store cannot be reached, or refuses the credentials.
    """
    problems: list[Problem] = []
    found: dict[str, File] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        try:
            if not _is_remote(path) and (scheme := unknown_scheme(path)):
                raise _fault(path, f"{scheme}: is not read, {EXPECTED}")
            files = _remote(path, suffixes) if _is_remote(path) else _local(_without_scheme(path), suffixes)
        except DataError as error:
            problems += error.problems
            continue
        except OSError as error:
            shown = stores.parse(path).shown if _is_remote(path) else path
            problems.append(Problem(file=shown, message=f"cannot be read: {error.strerror or error}"))
            continue
        for file in files:
            known = found.setdefault(file.path, file)
            # The outermost folder that was named decides, whatever the order.
            found[file.path] = min(known, file, key=lambda one: len(one.root))
    problems += [problem for file in found.values() for problem in _faults(file, suffixes, any_suffix)]
    if problems:
        raise DataError("The data cannot be found or read.", problems=problems, hint="See data.path.")
    return sorted(found.values(), key=lambda file: (file.shown, file.path))


def relative_names(files: Sequence[File]) -> list[str]:
    """Each file's path below the folder that all share; whole paths where they share none."""
    parts = [_components(file.shown) for file in files]
    num_shared = 0
    for level in zip(*[part[:-1] for part in parts], strict=False):
        if len(set(level)) > 1:
            break
        num_shared += 1
    return ["/".join(part[num_shared:]) for part in parts]


def _components(shown: str) -> list[str]:
    """`s3://bucket` counts as one folder."""
    scheme, separator, rest = shown.rpartition("://")
    first, *others = rest.split("/")
    return [f"{scheme}{separator}{first}", *others]


def _is_remote(path: str) -> bool:
    return is_url(path) and not path.lower().startswith("file://")


def _without_scheme(path: str) -> str:
    if not path.lower().startswith("file://"):
        return path
    try:
        url = urlsplit(path.replace("?", "%3F").replace("#", "%23"))
    except ValueError as error:
        raise _fault(path, f"not a URL that can be read: {error}") from None
    if url.netloc not in ("", "localhost"):
        raise _fault(path, "a file:// URL of another machine; expected file:///path")
    return unquote(url.path)


def _fault(shown: str, message: str) -> DataError:
    return DataError("The data cannot be found or read.", problems=[Problem(file=shown, message=message)])


def _faults(file: File, suffixes: Collection[str], any_suffix: bool) -> Iterator[Problem]:
    if not any_suffix and file.suffix not in suffixes:
        known = ", ".join(suffixes)
        yield Problem(file=file.shown, message=f"unknown format, expected a name in {known}")
    try:
        file.path.encode()
    except UnicodeEncodeError:
        yield Problem(file=file.shown, message="the name is not UTF-8 and cannot be opened; give it another")


def _nothing_at(shown: str, names: Collection[str]) -> DataError:
    near = nearest(posixpath.basename(shown), names)
    return _fault(shown, "no such file" + (f"; did you mean {near!r}?" if near else ""))


# On this machine


def _local(path: str, suffixes: Collection[str]) -> list[File]:
    whole = os.path.abspath(path)
    if os.path.isdir(whole):
        files = list(_local_folder(whole, whole, suffixes))
        if not files:
            raise _fault(path, "the folder holds no data files")
        return files
    if os.path.exists(whole):
        return [File(whole, os.path.dirname(whole))]
    files = list(_local_glob(whole, suffixes))
    if not files:
        parent = os.path.dirname(whole)
        raise _nothing_at(path, os.listdir(parent) if os.path.isdir(parent) else ())
    return files


def _local_folder(folder: str, root: str, suffixes: Collection[str]) -> Iterator[File]:
    for at, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            file = File(os.path.join(at, name), root)
            if file.suffix in suffixes and not _is_hidden(name):
                yield file


def _local_glob(pattern: str, suffixes: Collection[str]) -> Iterator[File]:
    root = _fixed(pattern)
    for match in glob.glob(pattern, recursive=True):
        if not _matches(match.split("/"), pattern.split("/")):
            continue
        if os.path.isfile(match):
            # A `**` at the end names all that is below, as a folder does.
            if not pattern.endswith("**") or File(match).suffix in suffixes:
                yield File(match, root)
        elif not pattern.endswith("**"):
            yield from _local_folder(match, root, suffixes)


def _refuse(error: OSError) -> None:
    raise error


# In a store


def _remote(url: str, suffixes: Collection[str]) -> list[File]:
    address = stores.parse(url)
    with stores.refusals(url):
        store, path = stores.connect(url)
        info = store.get_file_info(path)
        if info.type == fs.FileType.File:
            return [_file_at(address, address.key, posixpath.dirname(address.key))]
        is_folder = info.type == fs.FileType.Directory
        if is_folder:
            files = list(_remote_folder(store, path, address, suffixes))
        else:
            files = list(_remote_glob(store, path, address, suffixes))
        if files:
            return files
        if is_folder:
            raise _fault(address.shown, "the folder holds no data files")
        raise _nothing_at(address.shown, _names_beside(store, path))


def _remote_folder(
    store: fs.FileSystem, path: str, address: Address, suffixes: Collection[str]
) -> Iterator[File]:
    for below in _listed(store, path):
        file = _file_at(address, posixpath.join(address.key, below), address.key)
        if file.suffix in suffixes and not any(map(_is_hidden, below.split("/"))):
            yield file


def _remote_glob(
    store: fs.FileSystem, path: str, address: Address, suffixes: Collection[str]
) -> Iterator[File]:
    if not glob.has_magic(address.key):
        return
    root = _fixed(address.key)
    pattern = address.key.removeprefix(root).strip("/").split("/")
    folder = path.removesuffix(address.key).rstrip("/") + (f"/{root}" if root else "")
    for below in _listed(store, folder, missing_ok=True):
        file, parts = _file_at(address, posixpath.join(root, below), root), below.split("/")
        if (pattern[-1] != "**" and _matches(parts, pattern)) or (
            file.suffix in suffixes
            and any(
                _matches(parts[:i], pattern) and not any(map(_is_hidden, parts[i:]))
                for i in range(1, len(parts) + 1)
            )
        ):
            yield file


def _listed(store: fs.FileSystem, folder: str, *, missing_ok: bool = False) -> list[str]:
    """The paths of all files below the folder, relative to it."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=missing_ok)
    infos = store.get_file_info(selector)
    top = folder.strip("/")
    paths = [info.path.strip("/") for info in infos if info.type == fs.FileType.File]
    return [path.removeprefix(top).lstrip("/") for path in paths]


def _names_beside(store: fs.FileSystem, path: str) -> list[str]:
    parent = posixpath.dirname(path.rstrip("/"))
    if not parent.strip("/"):
        return []
    infos = store.get_file_info(fs.FileSelector(parent, allow_not_found=True))
    return [info.base_name for info in infos]


def _file_at(address: Address, key: str, root: str) -> File:
    return File(address.url(key), address.with_key(root))


# Wildcards


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _fixed(pattern: str) -> str:
    """The folder above the first wildcard."""
    parts = pattern.split("/")
    magic = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "/".join(parts[:magic])


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches, where only a pattern that begins as a hidden name does matches such a name."""
    if not pattern:
        return not parts
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return _matches(parts, rest) or (
            bool(parts) and not _is_hidden(parts[0]) and _matches(parts[1:], pattern)
        )
    if not parts or not fnmatch.fnmatchcase(parts[0], first):
        return False
    return (not _is_hidden(parts[0]) or parts[0][0] == first[0]) and _matches(parts[1:], rest)
