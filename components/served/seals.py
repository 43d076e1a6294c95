"""Whether a bundle's files are those that were written.

bundle.json   {"format": 1, ..., "files": {"model/saved_model.pb": sha256, ...}, "digest": of the rest}
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
ABOUT = "bundle.json"


class CorruptBundle(ValueError):
    """The bundle's files are not those that were written."""


def verify(folder: Path) -> dict[str, Any]:
    """What bundle.json says, once every file has been found as it was written.

    Raises:
        CorruptBundle: a file is missing, changed, not listed or a link, or the format is not ours.
    """
    about = _read(folder)
    listed: dict[str, str] = about["files"]
    if links := sorted(path.name for path in folder.rglob("*") if path.is_symlink()):
        raise CorruptBundle(f"{folder} holds links, which may lead elsewhere: {', '.join(links)}")
    there = files(folder)
    if missing := sorted(listed.keys() - there):
        raise CorruptBundle(f"{folder} lacks {', '.join(missing)}")
    if extra := sorted(there - listed.keys()):
        raise CorruptBundle(f"{folder} holds files that were not written with it: {', '.join(extra)}")
    for name, expected in listed.items():
        if sha256(folder / name) != expected:
            raise CorruptBundle(f"{folder / name} was changed after it was written")
    return about


def _read(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text("utf8"))
        stored, form = about["digest"], about["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptBundle(f"{folder / ABOUT} cannot be read: {error}") from error
    if form != FORMAT:
        raise CorruptBundle(f"{folder} is a bundle of format {form}, expected {FORMAT}")
    if stored != digest(about):
        raise CorruptBundle(f"{folder / ABOUT} was changed after it was written")
    return about


def files(folder: Path) -> set[str]:
    """Names of the bundle's files, bundle.json and compiled code left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts} - {ABOUT}


def digest(about: Mapping[str, Any]) -> str:
    """SHA-256 over everything that bundle.json says, its own digest left out."""
    content = {name: value for name, value in about.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
