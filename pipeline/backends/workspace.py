"""Run folders: where every stage leaves its result and finds those of the others.

    <storage>/<name>/
      .locks/                 one file per lock
      <run_id>/               settings.yaml  run.json  data/  tune/  checkpoints/  bundle/  evaluation/
                              report.html  retrain.json
        run.json              {"run_id", "plan": {stage: key}, "stages": {stage: {"status", "key", ...}}, ...}

A stage's key is a fingerprint of what goes into it; a stage that is done under the same key elsewhere is
taken over by hard links, so every run folder stands on its own.

Where the storage is the working folder of an object store (`mirrors.py`), the files of a run come here when
`bring` asks for them, and `publish` stores what is complete.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.data.readers.paths import File
from components.errors import BusyError, ModelError, PlaceError, StorageError
from pipeline.backends import mirrors
from pipeline.backends.addresses import redact, store_url

RUN, LOCK, STOP = "run.json", ".lock", ".stop"
RETRAIN = "retrain.json"  # why `recurra retrain` made the run
LOCK_SECONDS = 600.0

# What a stage leaves in the run folder, and moves with it when another run takes it over.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("data",),
    "tune": ("tune",),
    "train": ("bundle", "checkpoints/best", "checkpoints/history.json"),
    "evaluate": ("evaluation/predictions.parquet", "evaluation/metrics.json", "evaluation/slices.json",
                 "evaluation/details.json", "evaluation/baselines.json", "evaluation/examples.json"),
    "register": ("evaluation/verdict.json",),
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Paths may not exist yet."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def settings(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def data(self) -> Path:
        """The prepared rows; where a search prepared others for its best trial, those."""
        tuned = self.tune / "data"
        return tuned if tuned.exists() else self.path / "data"

    @property
    def tune(self) -> Path:
        """What a search over settings leaves."""
        return self.path / "tune"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def stop(self) -> Path:
        """A file whose presence asks the training worker to checkpoint and stop."""
        return self.path / STOP

    @property
    def workers(self) -> Path:
        """Where Ray Train keeps notes while several workers train."""
        return self.path / ".workers"

    @property
    def storage(self) -> Path:
        """The folder of all runs of this name."""
        return self.path.parent

    def read(self) -> dict[str, Any]:
        """run.json.

        Raises:
            StorageError: it is not there or not whole.
        """
        try:
            return json.loads((self.path / RUN).read_text("utf8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path / RUN} cannot be read: {error}.") from error

    def update(self, **values: Any) -> None:
        """Set top-level entries of run.json."""
        write_json(self.path / RUN, {**self.read(), **values})

    def stage(self, name: str) -> dict[str, Any]:
        """What run.json says of a stage; empty when it has not started."""
        return self.read()["stages"].get(name, {})

    def update_stage(self, name: str, **values: Any) -> None:
        """Set entries of one stage in run.json."""
        stages = self.read()["stages"]
        self.update(stages={**stages, name: {**stages.get(name, {}), **values}})

    def summary(self, name: str) -> dict[str, Any] | None:
        """What a finished stage said of itself, or None."""
        stage = self.stage(name)
        return stage.get("summary") if stage.get("status") == "done" else None

    def is_done(self, name: str, key: str) -> bool:
        """Whether the stage is finished under this key and its result is still there."""
        stage = self.stage(name)
        return stage.get("status") == "done" and stage.get("key") == key and self._has(OUTPUTS[name][0])

    def _has(self, name: str) -> bool:
        """Whether a file or folder is here, or can be brought."""
        return (self.path / name).exists() or ((copy := self._copy()) is not None and copy.has(name))

    def bring(self, *names: str) -> None:
        """See that these files and folders, or all, are here, if the run has them at all.

        Raises:
            StorageError: they are in an object store, which cannot be read.
        """
        if (copy := self._copy()) is not None:
            copy.bring(*names)

    def publish(self, *, parts: bool = True, anew: bool = False) -> None:
        """Store what has changed where the storage is an object store; see `Copy.publish`.

        Raises:
            BusyError: another machine has taken the run up.
            StorageError: the store cannot be written.
        """
        if (copy := self._copy()) is not None and (self.path / RUN).exists():
            copy.publish(parts=parts, anew=anew)

    def publish_meanwhile(self) -> None:
        """Store what has changed while a stage's processes are at work on their own parts.

        Where the store is away, the next time will do.

        Raises:
            BusyError: another machine has taken the run up.
        """
        with suppress(StorageError):
            self.publish(parts=False)

    def stored_bytes(self) -> int | None:
        """What it takes up in an object store; None for storages of this machine."""
        return None if (copy := self._copy()) is None else copy.size()

    def remove(self) -> None:
        """Remove the run; the caller holds it.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            # In one move, so that nobody takes over half of it.
            gone = self.path.with_name(f".{self.run_id}.removed")
            os.replace(self.path, gone)
            shutil.rmtree(gone)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be removed: {error.strerror or error}.") from error
        if (copy := self._copy()) is not None:
            copy.remove()

    def _copy(self) -> mirrors.Copy | None:
        mirror = mirrors.of(self.path)
        return None if mirror is None else mirror.copy(self.path)

    @contextmanager
    def held(self, note: Callable[[str], None] = lambda text: None) -> Iterator[bool]:
        """Try to hold the run: yields whether this process has it. The system lets go of it on a kill.

        In an object store it is held against other machines, too, and run.json is then as they left it.
        `note` hears when that takes a while.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            if (copy := self._copy()) is None:
                yield True
            else:
                with copy.claimed(note) as ours:
                    yield ours
        finally:
            lock.release()


def runs(storage: Path, name: str) -> list[RunFolder]:
    """The runs of a name, newest first; folders without a readable run.json are passed over.

    Raises:
        StorageError: they are in an object store, which cannot be read.
    """
    if (mirror := mirrors.of(storage)) is not None and storage == mirror.root:
        mirror.refresh(name)
    found = [RunFolder(path.parent) for path in (storage / name).glob(f"*/{RUN}")]
    return sorted(filter(_is_ours, found), key=lambda folder: folder.run_id, reverse=True)


def _is_ours(folder: RunFolder) -> bool:
    try:
        content = folder.read()
    except StorageError:
        return False
    return isinstance(content, dict) and {"plan", "stages"} <= content.keys()


def create(
    storage: Path,
    name: str,
    *,
    plan: Mapping[str, str],
    versions: Mapping[str, str],
    holder: ExitStack | None = None,
) -> RunFolder:
    """A new, empty run folder whose run.json names the keys of its stages.

    Args:
        holder: holds the run until it ends, and from before another process can see it.

    Raises:
        StorageError: the storage cannot be written.
    """
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = RunFolder(storage / name / run_id)
    try:
        folder.path.mkdir(parents=True)
        if holder is not None:
            # Without run.json it is nobody's run yet, so nobody else has asked for it.
            holder.enter_context(folder.held())
        write_json(
            folder.path / RUN,
            {
                "format": 1,
                "run_id": run_id,
                "name": name,
                "started": started.isoformat(timespec="seconds"),
                "plan": dict(plan),
                "versions": dict(versions),
                "stages": {},
            },
        )
    except OSError as error:
        raise StorageError(
            f"The run folder {folder.path} cannot be written: {error.strerror or error}.",
            hint="Choose another place with --storage.",
        ) from error
    return folder


def keep(path: Path) -> None:
    """See that a file about several runs of a name is where the runs are.

    Raises:
        StorageError: they are in an object store, which cannot be written.
    """
    if (mirror := mirrors.of(path)) is not None:
        mirror.keep(path)


def check_storage(storage: Path) -> None:
    """Make sure that runs can be kept there.

    Raises:
        PlaceError: it cannot be written.
        StorageError: its object store cannot be.
    """
    check_runs(storage)
    if (mirror := mirrors.of(storage)) is not None:
        mirror.check()


def check_runs(storage: Path) -> None:
    """Make sure that this machine can keep runs there; an object store behind it is not asked.

    Raises:
        PlaceError: it cannot.
    """
    check_place(storage, of="Runs", option="--storage")


def check_place(folder: Path, *, of: str, option: str) -> None:
    """Make sure that files can be kept in a folder, which need not be there yet.

    Args:
        folder: the place.
        of: what is to be kept there, as the beginning of a sentence.
        option: what names another place.

    Raises:
        PlaceError: they cannot.
    """
    folder = folder.absolute()
    existing = nearest_existing(folder)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise PlaceError(
            f"{of} cannot be kept in {folder}: {existing} cannot be written.",
            hint=f"Choose another place with {option}.",
        )


def run_bundle(place: str) -> tuple[Path, str]:
    """The bundle of a run, or one that lies by itself, and the folder that was named; see `run_folder`.

    Raises:
        ModelError: there is none.
        StorageError: the run is in an object store, which cannot be read.
    """
    folder = run_folder(place)
    for bundle in (folder / "bundle", folder):
        if (bundle / "bundle.json").is_file():
            return bundle, str(folder)
    raise ModelError(
        f"There is no model in {folder}.",
        hint="Give models:/name@alias, models:/name/3, or the folder of a run that was trained.",
    )


def run_folder(place: str) -> Path:
    """The folder of a run with a model, given as a folder or as s3://bucket/prefix/name/run_id.

    Raises:
        ModelError: the URL is of another kind, or the run is not there.
        StorageError: the run is in an object store, which cannot be read.
    """
    if "://" not in place:
        path = Path(place).absolute()
    else:
        storage, name, run_id = place.rstrip("/").rsplit("/", 2)
        try:
            root = mirrors.open_mirror(store_url(storage)).root
        except ValueError as error:
            raise ModelError(
                f"{redact(place)!r} is no run: {error}.", hint="Give s3://bucket/prefix/name/run_id."
            ) from error
        path = root / name / run_id
        runs(root, name)
    if (path / RUN).is_file():
        RunFolder(path).bring("bundle")
    return path


def nearest_existing(path: Path) -> Path:
    """The path itself, or the first above it that is there; what may not be looked at counts as absent."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))


def take_over(stage: str, source: RunFolder, target: RunFolder) -> None:
    """Make a finished stage's outputs part of another run, by hard links where the file system has them."""
    source.bring(*OUTPUTS[stage])
    for name in OUTPUTS[stage]:
        if (source.path / name).is_dir():
            shutil.rmtree(target.path / name, ignore_errors=True)
            shutil.copytree(source.path / name, target.path / name, copy_function=mirrors.link)
        elif (source.path / name).exists():
            (target.path / name).parent.mkdir(parents=True, exist_ok=True)
            mirrors.link(str(source.path / name), str(target.path / name))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one move."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf8")
    os.replace(temporary, path)


@contextmanager
def locked(folder: Path, name: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a named lock of a folder; the system lets go of it when the process dies.

    Raises:
        BusyError: another process held it for `timeout` seconds.
    """
    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".locks" / f"{name}.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise BusyError(
            f"Another process has held {lock.lock_file} for {timeout:.0f} s.", hint="Try again later."
        ) from error
    try:
        yield
    finally:
        lock.release()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digests(files: Sequence[File], *, cache: Path) -> dict[str, str]:
    """SHA-256 of each file's content by path; unchanged files (size, time) are read once only.

    Raises:
        PlaceError: the cache has no place that can be written.
        StorageError: it cannot be written all the same.
    """
    try:
        known = json.loads(cache.read_text("utf8"))
    except (OSError, ValueError):
        known = {}
    seen = {}
    for file in files:
        mark = file.version()
        entry = known.get(file.shown)
        if entry is None or entry[0] != mark:
            entry = [mark, file.digest()]
        seen[file.shown] = entry
    if any(known.get(path) != entry for path, entry in seen.items()):
        check_runs(cache.parent)
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, {**known, **seen})
        except OSError as error:
            raise StorageError(
                f"The storage {cache.parent} cannot be written: {error.strerror or error}.",
                hint="Choose another place with --storage.",
            ) from error
    return {path: entry[1] for path, entry in seen.items()}


def code_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the content of source files, independent of where they lie."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
