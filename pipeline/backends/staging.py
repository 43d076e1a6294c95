"""A folder's files on machines that do not see the folder: staged in before work, staged out after it.

    machine of the command                      another machine
    <folder>/ ◀── Depot (an actor) ── read ───▶ a folder of its own, gone with the process
                                   ◀─ commit ── files that the work has written, changed or removed

Work is a function and its keyword arguments. Paths below the folder among these, and among what the function
gives back, are written relative to it on the way, so that each side has its own. A path of a file or folder
brings that file, or what the folder holds. Scratch folders, whose name is hidden, arrive empty, and so does
the folder itself. Where a machine sees the folder, by a marker in it, nothing is copied.
"""

import fcntl
import io
import os
import pickle
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from components.errors import RecurraError, StorageError
from pipeline.backends import mirrors

HIDDEN = ".staging"  # in the folder: its marker, and files on their way in
CHUNK_BYTES = 1 << 24
WATCH_SECONDS = 1.0
YOUNG_SECONDS = 60.0  # a folder of this age may not have been locked yet
THREADS = 16

# By which a file is known to be unchanged: its size, its time, its inode.
Sign = tuple[int, int, int]


@dataclass(frozen=True)
class Shared:
    """A folder for work on any machine."""

    folder: str
    token: str
    depot: Any  # the actor `Depot`

    @property
    def is_here(self) -> bool:
        """Whether this machine sees the folder."""
        return (Path(self.folder) / HIDDEN / self.token).exists()


@dataclass(frozen=True)
class Packed:
    """Something in which paths below a folder are relative to it."""

    content: bytes

    @classmethod
    def of(cls, value: Any, folder: str, seen: Callable[[str], object] = lambda name: None) -> "Packed":
        """The value, packed where `folder` is; `seen` is told of each path, relative to it."""
        from ray import cloudpickle

        class Packer(cloudpickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                if not isinstance(value, str | PurePath):
                    return None
                text = str(value)
                if text != folder and not text.startswith(f"{folder}/"):
                    return None
                name = text[len(folder) + 1 :]
                seen(name)
                return isinstance(value, PurePath), name

        file = io.BytesIO()
        Packer(file, protocol=5).dump(value)
        return cls(file.getvalue())

    def opened(self, folder: str, seen: Callable[[str], object] = lambda name: None) -> Any:
        """The value, where the folder is `folder`; `seen` is told of each path, relative to it."""

        class Opener(pickle.Unpickler):
            def persistent_load(self, saved: tuple[bool, str]) -> Any:
                is_path, name = saved
                seen(name)
                text = f"{folder}/{name}" if name else folder
                return Path(text) if is_path else text

        return Opener(io.BytesIO(self.content)).load()


@dataclass(frozen=True)
class Returned:
    """What came back from another machine."""

    packed: Packed
    folder: str

    def opened(self) -> Any:
        """The value, with paths as they are where the folder is."""
        return self.packed.opened(self.folder)


class Depot:
    """The actor on the machine of the folder, through which others read and write it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._publishing: dict[str, tuple[ExitStack, Callable[[], None]]] = {}

    def listing(self, names: Iterable[str]) -> dict[str, dict[str, Sign] | Sign | None]:
        """What there is under each name: a file's sign, the signs of a folder's files by name, or None."""
        return {name: _look(self._folder, name) for name in names}

    def read(self, name: str, start: int) -> bytes:
        """A stretch of a file, empty behind its end."""
        with _inside(self._folder, name).open("rb") as file:
            file.seek(start)
            return file.read(CHUNK_BYTES)

    def write(self, key: str, name: str, content: bytes) -> None:
        """Add to a file that is on its way in; `key` says with which others it is to appear."""
        path = _inside(self._incoming(key), name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error

    def commit(self, key: str, names: Iterable[str], gone: Iterable[str]) -> None:
        """Put the files of a key into their places, and remove others.

        Raises:
            BusyError: the folder is of a run in an object store that another machine has taken up.
            StorageError: the folder cannot be written.
        """
        names, gone = list(names), set(gone)
        changed = [*names, *gone]
        try:
            for folder in sorted({PurePath(name).parent for name in names}):
                self._put(key, folder, gone)
            for name in gone:
                _remove(self._folder, _inside(self._folder, name))
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(self._incoming(key), ignore_errors=True)
        for part in {match[1] for name in changed if (match := mirrors.PARTS.match(name))}:
            self._published(part)()

    def _put(self, key: str, folder: PurePath, gone: Collection[str]) -> None:
        """Put the files of one folder into their places: all at once, where they are all that it holds.

        A folder cannot be replaced in one move: the old one steps aside first, as with checkpoints.
        """
        coming, target = self._incoming(key) / folder, _inside(self._folder, str(folder))
        names = {path.name for path in coming.iterdir() if path.is_file()}
        stays = {path.name for path in target.iterdir()} if target.is_dir() else set[str]()
        stays -= names | {PurePath(name).name for name in gone if PurePath(name).parent == folder}
        if target != self._folder and not stays and len(names) == len(list(coming.iterdir())):
            aside = target.with_name(f".{target.name}.old")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                os.rename(target, aside)
            os.rename(coming, target)
            shutil.rmtree(aside, ignore_errors=True)
            return
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(coming / name, target / name)

    def settle(self, names: Iterable[str]) -> None:
        """Wait until what was written below these names is published, where the folder is.

        Raises:
            BusyError: another machine has taken the run up.
            StorageError: the store could not be written in the end.
        """
        with self._lock:
            parts = [part for part in self._publishing if any(f"{part}/".startswith(f"{n}/") for n in names)]
            closing = [self._publishing.pop(part)[0] for part in parts]
        for stack in closing:
            stack.close()

    def _published(self, part: str) -> Callable[[], None]:
        with self._lock:
            if part not in self._publishing:
                stack = ExitStack()
                publish = stack.enter_context(mirrors.publishing(self._folder / part))
                self._publishing[part] = (stack, publish)
            return self._publishing[part][1]

    def _incoming(self, key: str) -> Path:
        return self._folder / HIDDEN / key


class Staged:
    """The folder as this machine has it: a folder of its own, with the files that were asked for."""

    def __init__(self, shared: Shared, folder: Path) -> None:
        self.folder, self.shared = folder, shared
        self._depot = shared.depot
        self._there: dict[str, Sign] = {}  # of each file that was brought, as it was there
        self._here: dict[str, Sign] = {}  # of each that is as it is there, as it is here
        self._names: set[str] = set()
        self.absent: tuple[str, ...] = ()  # names under which there was nothing

    def bring(self, names: Iterable[str]) -> None:
        """Have these files and folders as they are there."""
        wanted = sorted({name for name in names if name})
        found = _get(self._depot.listing.remote(wanted))
        self.absent = tuple(name for name, what in found.items() if what is None)
        self._names.update(wanted)
        for name, what in found.items():
            if isinstance(what, dict):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                there = {f"{name}/{below}": sign for below, sign in what.items()}
                for stale in {f"{name}/{below}" for below in _below(self.folder / name)} - there.keys():
                    self._forget(stale)
            else:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                there = {} if what is None else {name: what}
                if what is None and (self.folder / name).is_file():
                    self._forget(name)
            for path, sign in there.items():
                if self._there.get(path) != sign or self._here.get(path) != _sign(self.folder / path):
                    self._fetch(path)
                    self._there[path], self._here[path] = sign, _sign_of(self.folder / path)

    def push(self, more: Iterable[str] = ()) -> None:
        """Have there what was written, changed or removed here since, below the names that were brought.

        Args:
            more: names of files beside those.

        Raises:
            BusyError: the folder is of a run that another machine has taken up.
            StorageError: the folder cannot be written.
        """
        here: dict[str, Sign] = {}
        for name in {*self._names, *more}:
            what = _look(self.folder, name)
            if isinstance(what, dict):
                here |= {f"{name}/{below}": sign for below, sign in _below(self.folder / name).items()}
            elif what is not None:
                here[name] = what
        changed = [name for name, sign in here.items() if self._here.get(name) != sign]
        gone = [name for name in self._here if name not in here and self._is_asked_for(name)]
        if not changed and not gone:
            return
        key = secrets.token_hex(8)
        for name in changed:
            self._send(key, name)
        _get(self._depot.commit.remote(key, changed, gone))
        there = _get(self._depot.listing.remote(changed))
        for name in changed:
            self._there[name], self._here[name] = there[name], here[name]
        for name in gone:
            self._there.pop(name, None)
            del self._here[name]

    def settle(self) -> None:
        """Push, and wait until that is safe where the folder is. Raises as `push`."""
        self.push()
        _get(self._depot.settle.remote(sorted(self._names)))

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Settle in the end, also after an error: a worker that is told to end has written a checkpoint."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.settle()
            raise
        self.settle()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Files that were absent and appear there meanwhile, as signals do, appear here, empty."""
        ended = threading.Event()

        def watch(names: tuple[str, ...]) -> None:
            from ray.exceptions import RayError

            while not ended.wait(WATCH_SECONDS):
                with suppress(RayError):
                    for name, what in _get(self._depot.listing.remote(names)).items():
                        if isinstance(what, tuple) and what[0] == 0:
                            (self.folder / name).touch()
                            self._here[name] = _sign_of(self.folder / name)

        thread = threading.Thread(target=watch, args=(self.absent,), name="signals", daemon=True)
        if self.absent:
            thread.start()
        try:
            yield
        finally:
            ended.set()

    def _is_asked_for(self, name: str) -> bool:
        return any(name == asked or name.startswith(f"{asked}/") for asked in self._names)

    def _forget(self, name: str) -> None:
        _remove(self.folder, self.folder / name)
        self._there.pop(name, None)
        self._here.pop(name, None)

    def _fetch(self, name: str) -> None:
        target = self.folder / name
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                coming = self._depot.read.remote(name, 0)
                while content := _get(coming):
                    coming = self._depot.read.remote(name, file.tell() + len(content))
                    file.write(content)
            os.replace(temporary, target)
        except OSError as error:
            raise StorageError(f"{target} cannot be written: {error.strerror or error}.") from error

    def _send(self, key: str, name: str) -> None:
        sent = None
        with (self.folder / name).open("rb") as file:
            while (content := file.read(CHUNK_BYTES)) or sent is None:
                if sent is not None:
                    _get(sent)
                sent = self._depot.write.remote(key, name, content)
        _get(sent)


def carried(
    shared: Shared, function: Callable[..., Any], kwargs: Mapping[str, Any], *, streams: bool
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function and its arguments as they go to whatever machine; `streams`: it is a generator function."""
    packed = Packed.of(dict(kwargs), shared.folder)
    return stream if streams else call, {"function": function, "packed": packed, "shared": shared}


def call(*, function: Callable[..., Any], packed: Packed, shared: Shared) -> Any:
    """What the function gives back, once what it wrote is there."""
    if shared.is_here:
        return function(**packed.opened(shared.folder))
    with staged(shared) as place:
        said = _returned(function(**_opened(packed, place)), place)
        place.settle()
        return said


def stream(
    *, function: Callable[..., Iterator[Any]], packed: Packed, shared: Shared, **here: Any
) -> Iterator[Any]:
    """The items of a generator function; what it wrote until then is there when one arrives.

    Args:
        function: the generator function.
        packed: its keyword arguments.
        shared: the folder.
        here: further arguments, of this process.
    """
    if shared.is_here:
        yield from function(**packed.opened(shared.folder), **here)
        return
    with staged(shared) as place:
        kwargs = _opened(packed, place)
        with place.settling(), place.watching():
            for item in function(**kwargs, **here):
                yield _returned(item, place)


@contextmanager
def staged(shared: Shared) -> Iterator[Staged]:
    """A folder of this machine for the files of another's; it goes when the work is done."""
    folder, lock = _own_folder()
    try:
        yield Staged(shared, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


@contextmanager
def at_hand(shared: Shared | None, *paths: Path) -> Iterator[tuple[tuple[Path, ...], Callable[[], None]]]:
    """Files and folders as this machine has them, and what to call to have there what was written here.

    Where the folder is here, or there is none to share, they are the paths themselves.
    """
    if shared is None or shared.is_here:
        yield paths, lambda: None
        return
    names = [path.relative_to(shared.folder).as_posix() for path in paths]
    with staged(shared) as place:
        place.bring(names)
        with place.settling(), place.watching():
            yield tuple(place.folder / name for name in names), place.push


class Folder:
    """The folder of a command whose work may go to other machines."""

    def __init__(self, ray: Any, folder: Path) -> None:
        """Give the folder its marker, and start its depot.

        Raises:
            StorageError: the folder cannot be written.
        """
        self._ray, self._hidden = ray, folder / HIDDEN
        token = secrets.token_hex(16)
        try:
            shutil.rmtree(self._hidden, ignore_errors=True)
            self._hidden.mkdir(parents=True)
            (self._hidden / token).touch()
        except OSError as error:
            raise StorageError(f"{self._hidden} cannot be written: {error.strerror or error}.") from error
        options = {"num_cpus": 0, "max_concurrency": THREADS, **on_this_machine(ray)}
        self._depot = ray.remote(Depot).options(**options).remote(str(folder))
        self.shared = Shared(str(folder), token, self._depot)

    def close(self) -> None:
        """Remove the marker, and end the depot."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._depot)
        shutil.rmtree(self._hidden, ignore_errors=True)


def on_this_machine(ray: Any) -> dict[str, Any]:
    """Options of what runs on the machine of this process; of one outside of the cluster there is none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if ray.util.client.ray.is_connected():
        return {}
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _opened(packed: Packed, place: Staged) -> Any:
    """The arguments, once what they name is here."""
    names: list[str] = []
    kwargs = packed.opened(str(place.folder), names.append)
    place.bring(names)
    return kwargs


def _returned(value: Any, place: Staged) -> Returned:
    """What goes back, once what it names and what was written is there."""
    names: list[str] = []
    packed = Packed.of(value, str(place.folder), names.append)
    place.push(name for name in names if name)
    return Returned(packed, place.shared.folder)


def _own_folder() -> tuple[Path, Any]:
    """A new folder for this process; those of processes that were killed are removed."""
    above = Path(tempfile.gettempdir()) / f"recurra-staged-{os.getuid()}"
    above.mkdir(mode=0o700, exist_ok=True)
    for other in above.iterdir():
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > YOUNG_SECONDS and not _is_held(other):
                shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=above))
    lock = (folder / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _is_held(folder: Path) -> bool:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _look(folder: Path, name: str) -> dict[str, Sign] | Sign | None:
    path = folder / name
    if path.is_dir():
        return {} if path.name.startswith(".") else _below(path)
    return _sign(path)


def _below(folder: Path) -> dict[str, Sign]:
    """The signs of a folder's files, by their paths in it; those with a hidden part are left out."""
    found = {}
    for at, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for each in files:
            path = Path(at) / each
            sign = None if each.startswith(".") else _sign(path)
            if sign is not None:
                found[path.relative_to(folder).as_posix()] = sign
    return found


def _inside(folder: Path, name: str) -> Path:
    """A path below the folder; names come from workers of our own, and yet never lead out of it."""
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise StorageError(f"{name!r} leads out of {folder}.")
    return folder / name


def _remove(folder: Path, path: Path) -> None:
    """Remove a file, and folders that it leaves empty: an empty one would look like a checkpoint."""
    path.unlink(missing_ok=True)
    for above in path.parents:
        if above == folder or not above.is_dir() or any(above.iterdir()):
            return
        above.rmdir()


def _sign(path: Path) -> Sign | None:
    try:
        return _sign_of(path)
    except OSError:
        return None


def _sign_of(path: Path) -> Sign:
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ino


def _get(reference: Any) -> Any:
    """What the depot says; raises what it raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RecurraError):
            raise error.cause from None
        raise
