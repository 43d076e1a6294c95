"""Runs in an object store: a working folder here, and there what is complete, published step by step.

    s3://bucket/prefix/<name>/
      runs/<run_id>.json             run.json, and the digest of every file: what is published, in one object
      <run_id>/parts/<part>.json     the same of a folder that another process writes, as of checkpoints
      <run_id>/files/<path>.<digest> content; never overwritten, removed once no manifest names it
      <run_id>/claim.json            who is at work on it
      journals/<journal>/<key>.json  one line each of a journal of the name

    <working folder>/.store.json     {"url"}; below it everything lies as in a storage of this machine
      <name>/<run_id>/.mirror/       the manifests as they were last seen, and what of them is not here yet

A manifest is replaced only by whoever has seen the one before, so that of two writers one is refused. Files
come here when somebody needs them.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.errors import BusyError, StorageError
from pipeline.backends import journals
from pipeline.backends.buckets import ANY, Bucket, Overtaken
from pipeline.backends.claims import claimed

MARK, STATE, HOLDER, RUN, LOCK = ".store.json", ".mirror", "holder", "run.json", ".lock"
OUTGOING = ".outgoing"
MAIN = ""
# Folders that a training process writes while the leading one writes the rest.
PARTS = re.compile(r"(checkpoints|tune/trials/\d+)/")
THREADS = 8
AT_ONCE_BYTES = 1 << 25  # of a file that is read once for digest and upload
CHUNK_BYTES = 1 << 20

_OPENED: dict[Path, "Mirror"] = {}


@dataclass
class _Seen:
    """A manifest as it was last seen: files by path as {"size", "sha256"}, and those that are not here."""

    etag: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    run: dict[str, Any] | None = None
    marks: dict[str, list[int]] = field(default_factory=dict)  # by which a file is known to be unchanged


class Mirror:
    """A working folder and the part of a bucket that stands behind it."""

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root, self.bucket = url, root, Bucket(url)

    def copy(self, path: Path) -> "Copy":
        """The run whose folder is `path`."""
        return Copy(self, path)

    def refresh(self, name: str) -> None:
        """Let the working folder know every run of a name, with none of their files.

        A run that a process of this machine holds is left as it is.

        Raises:
            StorageError: the store cannot be read.
        """
        tags = self.bucket.tags(f"{name}/runs/")
        listed = {Path(key).stem: tag for key, tag in tags.items() if key.endswith(".json")}
        changed = [
            copy
            for run_id, tag in listed.items()
            if (copy := self.copy(self.root / name / run_id)).seen(MAIN).etag != tag
        ]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(Copy.pull_if_free, changed))
        for state in (self.root / name).glob(f"*/{STATE}/{_file_of(MAIN)}"):
            gone = self.copy(state.parents[1])
            if gone.path.name not in listed:
                gone.drop_if_free()

    def refresh_all(self) -> None:
        """The same for every name.

        Raises:
            StorageError: the store cannot be read.
        """
        for name in self.bucket.folders():
            self.refresh(name)

    def check(self) -> None:
        """Write an object, and remove it.

        Raises:
            StorageError: the store cannot be written.
        """
        key = f".check-{secrets.token_hex(8)}"
        self.bucket.put(key, b"", over=None)
        self.bucket.delete([key])

    def keep(self, path: Path) -> None:
        """Store a file of a name, such as a summary of several runs, under its own path.

        Raises:
            StorageError: the store cannot be written.
        """
        self.bucket.upload(path, path.relative_to(self.root).as_posix())

    def append(self, path: Path, entry: Mapping[str, Any]) -> None:
        """Write a line of a journal.

        Raises:
            StorageError: the store cannot be written.
        """
        key = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
        line = json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace")
        self.bucket.put(f"{self._journal(path)}/{key}.json", line, over=None)

    def lines(self, path: Path) -> list[dict[str, Any]]:
        """All lines of a journal, oldest first.

        Raises:
            StorageError: the store cannot be read.
        """
        keys = sorted(self.bucket.tags(f"{self._journal(path)}/"))
        with ThreadPoolExecutor(THREADS) as pool:
            return [json.loads(content) for content in pool.map(self._line, keys) if content]

    def _line(self, key: str) -> bytes:
        """A line of a journal; none is ever changed, so that it is read once only."""
        kept = self.root / ".journals" / key
        if kept.exists():
            return kept.read_bytes()
        found = self.bucket.get(key)
        if found is None:
            return b""
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, found.content)
        return found.content

    def _journal(self, path: Path) -> str:
        folder = path.parent.relative_to(self.root).as_posix()
        return f"{folder}/journals/{path.stem}"


class Copy:
    """One run: its folder here, and what is published of it."""

    def __init__(self, mirror: Mirror, path: Path) -> None:
        self.mirror, self.path, self.bucket = mirror, path, mirror.bucket
        self.key = path.relative_to(mirror.root).as_posix()

    @contextmanager
    def claimed(self, note: Callable[[str], None]) -> Iterator[bool]:
        """Try to hold the run against other machines; who holds it sees it as it was published last.

        The caller holds the lock of the folder.

        Raises:
            StorageError: the store cannot be reached.
        """
        with claimed(self.bucket, f"{self.key}/claim.json", place=str(self.path), note=note) as claim:
            if claim is not None:
                self.pull()
                (self.path / STATE).mkdir(exist_ok=True)
                _write(self.path / STATE / HOLDER, secrets.token_hex(8).encode())
            yield claim is not None

    def seen(self, part: str) -> _Seen:
        """What is known here of a part."""
        try:
            return _Seen(**json.loads(self._state(part).read_text("utf8")))
        except (OSError, ValueError, TypeError):
            return _Seen()

    @property
    def is_published(self) -> bool:
        """Whether the store has had it, as far as is known here."""
        return self._state(MAIN).exists()

    def has(self, name: str) -> bool:
        """Whether a file or folder of the run is in the store and not here."""
        return any(_is_below(path, name) for part in self._parts_seen() for path in self.seen(part).absent)

    def size(self) -> int:
        """The bytes of all files that are published."""
        return sum(each["size"] for part in self._parts_seen() for each in self.seen(part).files.values())

    # From the store

    def pull_if_free(self) -> None:
        """Learn what is published, unless a process of this machine is at work on the run."""
        with self._free() as free:
            if free:
                self.pull()

    def drop_if_free(self) -> None:
        """Remove the folder of a run that is no longer in the store."""
        with self._free() as free:
            if free:
                shutil.rmtree(self.path, ignore_errors=True)

    def pull(self) -> None:
        """Learn what is published: files that another machine has changed since go, to be fetched anew.

        What this machine wrote after its last publication stays, where nobody else has published anything.
        """
        tags = self.bucket.tags(f"{self.key}/parts/")
        prefix = f"{self.key}/parts/"
        parts = {_part_of_file(key.removeprefix(prefix)): tag for key, tag in tags.items()}
        for part, tag in parts.items():
            if self.seen(part).etag != tag:
                self._pull(part)
        for part in self._parts_seen():
            if part not in (MAIN, *parts):
                self._forget(part)
        # Last, so that run.json never tells of files that are not known.
        self._pull(MAIN)

    def _pull(self, part: str) -> None:
        found = self.bucket.get(self._manifest(part))
        before = self.seen(part)
        if found is None or found.etag == before.etag:
            return
        manifest = json.loads(found.content)
        files = manifest["files"]
        marks = {}
        for path in self._here(part):
            mark = _mark(self.path / path)
            if path in files and files[path] == before.files.get(path) and mark == before.marks.get(path):
                marks[path] = mark
            else:
                self._drop(path)
        absent = [path for path in files if path not in marks]
        self._remember(part, _Seen(found.etag, files, absent, manifest.get("run"), marks))
        if part == MAIN:
            _write(self.path / RUN, json.dumps(manifest["run"], indent=1, ensure_ascii=False).encode())

    def _drop(self, path: str) -> None:
        """Remove a file, and folders that it leaves empty: an empty one would look like a checkpoint."""
        (self.path / path).unlink(missing_ok=True)
        for folder in (self.path / path).parents:
            if folder == self.path or any(folder.iterdir()):
                return
            folder.rmdir()

    def bring(self, *names: str) -> None:
        """Fetch these files and folders, or everything, as far as they are not here.

        Raises:
            StorageError: the store cannot be read, or what it has is damaged.
        """
        for part in self._parts_seen():
            seen = self.seen(part)
            wanted = [
                path for path in seen.absent if not names or any(_is_below(path, name) for name in names)
            ]
            if not wanted:
                continue
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda path: self._fetch(path, seen.files[path]), wanted))  # noqa: B023
            seen.absent = [path for path in seen.absent if path not in wanted]
            seen.marks |= {path: _mark(self.path / path) for path in wanted}
            self._remember(part, seen)

    def _fetch(self, path: str, entry: Mapping[str, Any]) -> None:
        target = self.path / path
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        place = f"{self.mirror.url}/{self._object(path, entry)}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self.bucket.download(self._object(path, entry), temporary):
                raise StorageError(
                    f"{place} is not there.",
                    hint="Another machine may just have gone on with this run; try again.",
                )
            if _digest(temporary) != entry["sha256"]:
                raise StorageError(f"{place} is damaged: its digest is wrong.", hint="Remove that run.")
            os.replace(temporary, target)
        except OSError as error:
            raise StorageError(f"{target} cannot be written: {error.strerror or error}.") from error
        finally:
            temporary.unlink(missing_ok=True)

    # To the store

    def publish(self, *, parts: bool = True, anew: bool = False) -> None:
        """Store what has changed. With it the run is there whole, or as it was before.

        Args:
            parts: also those that training processes write; not while one does.
            anew: replace the manifests even where nothing changed, so that whoever wrote them before and
                still lives is refused from now on.

        Raises:
            BusyError: another machine has taken the run up.
            StorageError: the store cannot be written.
        """
        if parts:
            here = {match[1] for path in self._all_here() if (match := PARTS.match(path))}
            for part in sorted(here | {part for part in self._parts_seen() if part != MAIN}):
                self.publish_part(part, anew=anew)
        self.publish_part(MAIN, anew=anew)

    def publish_part(self, part: str, *, base: Path | None = None, anew: bool = False) -> None:
        """Store one part, as it is in the run's folder or in a copy of it at `base`. Raises as `publish`."""
        before = self.seen(part)
        base = self.path if base is None else base
        here = self._here(part, base)
        absent = sorted({*before.absent} - {*here})
        files = {path: before.files[path] for path in absent}
        with ThreadPoolExecutor(THREADS) as pool:
            entries = list(pool.map(lambda path: self._stored(path, before, base), here))
        marks = {}
        for path, found in zip(here, entries, strict=True):
            if found is not None:
                files[path], marks[path] = found
        run = json.loads((self.path / RUN).read_text("utf8")) if part == MAIN else None
        if not anew and before.etag is not None and (files, run) == (before.files, before.run):
            return
        after = _Seen(None, files, absent, run, marks)
        after.etag = self._commit(part, after, before.etag)
        self._remember(part, after)
        named = {self._object(path, entry) for path, entry in files.items()}
        old = {self._object(path, entry) for path, entry in before.files.items()}
        if unnamed := sorted(old - named):
            self.bucket.delete(unnamed)

    def _stored(self, path: str, before: _Seen, base: Path) -> tuple[dict[str, Any], list[int]] | None:
        """A file's entry, once its content is in the store; None where the file is gone."""
        try:
            about = (base / path).stat()
            mark = _mark_of(about)
            if before.marks.get(path) == mark and path in before.files:
                return before.files[path], mark
            # One that still grows is read once, so that its digest is of what is stored.
            content = (base / path).read_bytes() if about.st_size <= AT_ONCE_BYTES else None
            digest = _digest(base / path) if content is None else hashlib.sha256(content).hexdigest()
        except FileNotFoundError:
            return None
        entry = {"size": about.st_size if content is None else len(content), "sha256": digest}
        if before.files.get(path) != entry:
            if content is None:
                self.bucket.upload(base / path, self._object(path, entry))
            else:
                self.bucket.put(self._object(path, entry), content, over=ANY)
        return entry, mark

    def _commit(self, part: str, after: _Seen, over: str | None) -> str:
        holder = self._holder()
        manifest = {"format": 1, "holder": holder, "revision": secrets.token_hex(8), "files": after.files}
        manifest |= {} if after.run is None else {"run": after.run}
        content = json.dumps(manifest, ensure_ascii=False).encode()
        for _ in range(2):
            try:
                return self.bucket.put(self._manifest(part), content, over=over)
            except Overtaken:
                found = self.bucket.get(self._manifest(part))
            # Our own: only the answer was lost, or the process that got it was killed.
            if found is None or json.loads(found.content)["holder"] != holder:
                break
            if found.content == content:
                return found.etag
            over = found.etag
        raise BusyError(
            f"Another process has taken up run {self.path.name} in {self.mirror.url} meanwhile.",
            hint="What it has published stands; the same command goes on from there once it has ended.",
        )

    def remove(self) -> None:
        """Remove the run from the store: at once for whoever looks, then its files.

        Raises:
            StorageError: the store cannot be written.
        """
        self.bucket.delete([self._manifest(MAIN)])
        self.bucket.delete(sorted(self.bucket.tags(f"{self.key}/")))

    # Here

    @contextmanager
    def _free(self) -> Iterator[bool]:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _all_here(self, base: Path | None = None) -> Iterator[str]:
        """The files here, without those whose path has a hidden part: notes of running processes."""
        base = self.path if base is None else base
        for at, folders, names in os.walk(base):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(at).relative_to(base)
            yield from ((below / name).as_posix() for name in names if _is_kept(name))

    def _here(self, part: str, base: Path | None = None) -> list[str]:
        """The files here of a part; run.json is in its manifest."""
        found = []
        for path in self._all_here(base):
            match = PARTS.match(path)
            if (match[1] if match else MAIN) == part and path != RUN:
                found.append(path)
        return sorted(found)

    def _holder(self) -> str:
        """A word for who holds the run, the same in all its processes."""
        try:
            return (self.path / STATE / HOLDER).read_text("ascii")
        except OSError:
            return ""

    def _parts_seen(self) -> list[str]:
        return sorted(_part_of_file(path.name) for path in (self.path / STATE).glob("*.json"))

    def _forget(self, part: str) -> None:
        self._state(part).unlink(missing_ok=True)

    def _remember(self, part: str, seen: _Seen) -> None:
        self._state(part).parent.mkdir(parents=True, exist_ok=True)
        _write(self._state(part), json.dumps(seen.__dict__, ensure_ascii=False).encode())

    def _state(self, part: str) -> Path:
        return self.path / STATE / _file_of(part)

    def _manifest(self, part: str) -> str:
        if part != MAIN:
            return f"{self.key}/parts/{_file_of(part)}"
        folder, _, run_id = self.key.rpartition("/")
        return f"{folder}/runs/{run_id}.json"

    def _object(self, path: str, entry: Mapping[str, Any]) -> str:
        return f"{self.key}/files/{path}.{entry['sha256'][:16]}"


class Publisher:
    """Publishes a part from the side, each time it has changed; of several changes the last is enough."""

    def __init__(self, copy: Copy, part: str) -> None:
        self._copy, self._part = copy, part
        self._outgoing = copy.path / OUTGOING / part.replace("/", "+")
        shutil.rmtree(self._outgoing, ignore_errors=True)
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._busy = self._ended = False
        self._failure: StorageError | BusyError | None = None
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        """Take the part as it is now.

        Raises:
            BusyError: another machine has taken the run up.
        """
        if isinstance(self._failure, BusyError):
            raise self._failure
        # Links are made in no time, and keep what training goes on to replace.
        taken = self._outgoing / secrets.token_hex(6)
        try:
            shutil.copytree(
                self._copy.path / self._part,
                taken / self._part,
                copy_function=link,
                ignore=shutil.ignore_patterns(".*"),
            )
        except (OSError, shutil.Error) as error:
            raise StorageError(f"{taken} cannot be written: {error}.") from error
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting, ignore_errors=True)
            self._waiting = taken
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until all is published.

        Raises:
            BusyError: another machine has taken the run up.
            StorageError: the store could not be written the last time.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        shutil.rmtree(self._outgoing, ignore_errors=True)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ended)
                taken, self._waiting = self._waiting, None
            if taken is None:
                return
            try:
                self._copy.publish_part(self._part, base=taken)
                self._failure = None
            except (StorageError, BusyError) as error:
                self._failure = error
            except Exception as error:
                self._failure = StorageError(f"Checkpoints could not be stored: {error}")
            finally:
                shutil.rmtree(taken, ignore_errors=True)


@contextmanager
def publishing(folder: Path) -> Iterator[Callable[[], None]]:
    """What to call when checkpoints in `folder` have changed; at the end all of them are in the store.

    Where the folder is of no published run, nothing happens.

    Raises:
        BusyError: another machine has taken the run up.
        StorageError: the store could not be written in the end.
    """
    mirror = of(folder)
    copy, part = (None, "") if mirror is None else _run_of(mirror, folder)
    if copy is None or not copy.is_published:
        yield lambda: None
        return
    publisher = Publisher(copy, part)
    try:
        yield publisher
    except BaseException:
        with suppress(StorageError, BusyError):
            publisher.close()
        raise
    publisher.close()


def open_mirror(url: str) -> Mirror:
    """The working folder of a URL, made if need be; the store is not asked.

    Raises:
        StorageError: the working folder cannot be written.
    """
    root = caches() / "stores" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write(root / MARK, json.dumps({"url": url}).encode())
    except OSError as error:
        raise StorageError(
            f"The working folder {root} cannot be written: {error.strerror or error}.",
            hint="Choose another place with RECURRA_CACHE.",
        ) from error
    return _OPENED.setdefault(root, Mirror(url, root))


def caches() -> Path:
    """Where working folders lie: RECURRA_CACHE, or the user's folder for caches."""
    given = os.environ.get("RECURRA_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "recurra"


def of(path: Path) -> Mirror | None:
    """The mirror whose working folder this is, or lies in; None for storages of this machine."""
    for folder in (path, *path.parents):
        if folder in _OPENED:
            return _OPENED[folder]
        if (folder / MARK).is_file():
            url = json.loads((folder / MARK).read_text("utf8"))["url"]
            return _OPENED.setdefault(folder, Mirror(url, folder))
    return None


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """A line of a journal of a name, which everybody who shares the storage sees.

    Raises:
        StorageError: it cannot be written.
    """
    mirror = of(path)
    journals.append(path, entry) if mirror is None else mirror.append(path, entry)


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of a journal of a name, oldest first.

    Raises:
        StorageError: it cannot be read.
    """
    mirror = of(path)
    return journals.read(path) if mirror is None else mirror.lines(path)


def link(source: str, target: str) -> None:
    """A hard link in place of a copy, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except FileExistsError:
        os.remove(target)
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _run_of(mirror: Mirror, folder: Path) -> tuple[Copy | None, str]:
    """The run and the part that a folder of checkpoints is."""
    for run in folder.parents:
        part = folder.relative_to(run).as_posix()
        if run != mirror.root and PARTS.fullmatch(f"{part}/") and (run / RUN).exists():
            return mirror.copy(run), part
        if run == mirror.root:
            break
    return None, ""


def _is_kept(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".tmp")


def _is_below(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/")


def _file_of(part: str) -> str:
    return f"{part.replace('/', '+') or 'run'}.json"


def _part_of_file(name: str) -> str:
    stem = name.removesuffix(".json").replace("+", "/")
    return MAIN if stem == "run" else stem


def _mark(path: Path) -> list[int]:
    """By which a file is known to be unchanged."""
    return _mark_of(path.stat())


def _mark_of(about: os.stat_result) -> list[int]:
    return [about.st_size, about.st_mtime_ns, about.st_ino]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
