"""What travels with a job: Recurra's own code, that of modules which the settings name, and the settings.

    the job's working folder
      pipeline/  components/  conf/     so that the cluster needs the libraries, and Recurra need not be there
      recurra-0.1.0.dist-info/          what Python knows of it as installed
      words.yaml                        the settings
      networks.py  ...                  the folder of a module such as `model.own: networks:build`

Of that folder no data, runs, environments, secrets, hidden files or links go along. Data are never sent: a
cluster reads them where they are.
"""

import fnmatch
import functools
import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from conf.load import Problem, SettingsError
from conf.schema import Settings
from pipeline.backends.cluster import PACKAGES, package_folder

# The dashboard takes 100 MiB whatever Ray's own limit says, and answers 413 without a word to more.
MAX_BYTES = 95 << 20
NUM_LARGEST = 10

CODE = (".py", ".yaml", ".yml", ".j2", ".css", ".txt")
DATA = (
    *(".arrow", ".conll", ".conllu", ".csv", ".feather", ".jsonl", ".parquet", ".ts", ".tsv", ".vec"),
    *(".bz2", ".gz", ".tar", ".xz", ".zip", ".zst"),
    *(".db", ".h5", ".hdf5", ".keras", ".npy", ".npz", ".pickle", ".pkl", ".sqlite"),
)
SECRET = (
    *("*.env", "*.key", "*.pem", "*.p12", "*.pfx", "*.token"),
    *("*credential*", "*secret*", "*_token", "*_token.txt"),
)
CACHES = ("__pycache__", "node_modules", "site-packages")
RUNS = ("mlruns", "mlartifacts")
TO_INSTALL = ("Name", "Version", "Requires-Python", "Requires-Dist", "Metadata-Version")

Content = Path | bytes


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that does not go along."""

    name: str
    reason: str


@dataclass(frozen=True)
class Parcel:
    """Files by their name in the job's working folder."""

    files: Mapping[str, Content]
    left_out: tuple[LeftOut, ...] = ()

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    @property
    def largest(self) -> list[tuple[str, int]]:
        """The ten largest files with their bytes."""
        return sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))[:NUM_LARGEST]

    @property
    def tops(self) -> list[tuple[str, int, int]]:
        """Every folder or file at the top with how many files and bytes are in it."""
        found: dict[str, list[int]] = {}
        for name, size in sorted(self.sizes.items()):
            top, slash, _ = name.partition("/")
            found.setdefault(top + slash, []).append(size)
        return [(top, len(sizes), sum(sizes)) for top, sizes in found.items()]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(_bytes(content)).digest())
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Lay the files out in an empty folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_bytes(content))

    def check(self) -> None:
        """See that the cluster would take it.

        Raises:
            SettingsError: it is too large.
        """
        if self.size > MAX_BYTES:
            largest = ", ".join(f"{name} ({shown_size(size)})" for name, size in self.largest[:3])
            message = f"the package has {shown_size(self.size)}, at most {shown_size(MAX_BYTES)} can be sent"
            hint = f"leave files out with --exclude; the largest are {largest}"
            raise SettingsError([Problem("recurra submit", "", message, hint)])


def shown_size(size: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def pack(
    settings: Settings, *, own: Mapping[str, bytes], exclude: Sequence[str] = (), runs: Path | None = None
) -> Parcel:
    """What a job with these settings needs.

    Args:
        settings: may name modules of the user's.
        own: files by name that come in addition, such as the settings themselves.
        exclude: patterns of names below the folder of such a module, as in `notes/*`.
        runs: the folder of all runs, which stays here.

    Raises:
        SettingsError: a module that the settings name cannot be found.
    """
    files: dict[str, Content] = {}
    left_out: list[LeftOut] = []
    for folder in folders_named(settings):
        for name, found in _walk(folder, exclude=exclude, runs=runs):
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                files[name] = found
    for package in PACKAGES:
        top = package_folder(package)
        for path in sorted(top.rglob("*")):
            if path.suffix in CODE and "__pycache__" not in path.parts:
                files[f"{package}/{path.relative_to(top).as_posix()}"] = path
    return Parcel({**files, **_installed(), **own}, tuple(left_out))


def folders_named(settings: Settings) -> list[Path]:
    """The folders that hold the modules which the settings name, those of installed packages left out.

    Raises:
        SettingsError: there is no such module.
    """
    named = {"data.format": settings.data.format, "model.own": settings.model.own or ""}
    found: dict[Path, None] = {}
    for key, name in named.items():
        if ":" not in name:
            continue
        top = name.partition(":")[0].partition(".")[0]
        if top in PACKAGES:
            continue
        spec = importlib.util.find_spec(top)
        if spec is None or (spec.origin is None and not spec.submodule_search_locations):
            hint = "it must be a module that Python can import from here"
            raise SettingsError([Problem("recurra submit", key, f"there is no module {top!r}", hint)])
        places = list(spec.submodule_search_locations or [spec.origin or ""])
        folder = Path(places[0]).absolute().parent
        if not any(folder.is_relative_to(place) for place in _installed_places()):
            found[folder] = None
    return list(found)


def _installed_places() -> list[str]:
    """Where packages and the standard library are: the cluster has its own."""
    return [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]


def _installed() -> dict[str, bytes]:
    """What Python's metadata say of Recurra: it runs without being installed, and says its version."""
    try:
        distribution = metadata.distribution("recurra")
    except metadata.PackageNotFoundError:
        return {}
    about = distribution.metadata
    lines = [f"{name}: {value}" for name in TO_INSTALL for value in about.get_all(name) or ()]
    return {f"recurra-{distribution.version}.dist-info/METADATA": ("\n".join(lines) + "\n").encode()}


def _walk(folder: Path, *, exclude: Sequence[str], runs: Path | None) -> Iterator[tuple[str, Path | LeftOut]]:
    """Every file below a folder by its name there, or why it stays."""
    for at, folders, names in os.walk(folder):
        place = Path(at)
        kept = []
        for each in sorted(folders):
            name = (place / each).relative_to(folder).as_posix()
            if reason := _why_not_folder(place / each, name, exclude=exclude, runs=runs):
                yield name, LeftOut(f"{name}/", reason)
            else:
                kept.append(each)
        folders[:] = kept
        for each in sorted(names):
            name = (place / each).relative_to(folder).as_posix()
            if reason := _why_not_file(place / each, name, exclude=exclude):
                yield name, LeftOut(name, reason)
            else:
                yield name, place / each


def _why_not_folder(path: Path, name: str, *, exclude: Sequence[str], runs: Path | None) -> str:
    reasons = {
        "excluded": _matches(name, exclude),
        "a link": path.is_symlink(),
        "hidden": path.name.startswith("."),
        "an environment": (path / "pyvenv.cfg").exists(),
        "a cache": path.name in CACHES,
        "runs": path.name in RUNS or path == runs,
        "Recurra itself": name in PACKAGES,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _why_not_file(path: Path, name: str, *, exclude: Sequence[str]) -> str:
    reasons = {
        "excluded": _matches(name, exclude),
        "a link": path.is_symlink(),
        "hidden": path.name.startswith("."),
        "a secret": path.suffix != ".py" and _matches(path.name.lower(), SECRET),
        "data": path.suffix.lower() in DATA,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
