"""inspect: look at files, and propose settings that run.

    files ─ sample ─▶ look ─▶ propose ─▶ settle ─▶ tables on stdout, conf.yaml

Small files are read to their end, as `check` does, so that what is proposed is known to pass.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data import readers
from components.data.readers import stores
from components.errors import DataError, StorageError
from components.inspection import overviews
from components.inspection.drafts import draft
from components.inspection.looks import look
from components.inspection.proposals import Proposal, propose
from components.inspection.samples import MAX_FILES, sample
from components.inspection.trials import settle
from conf.urls import has_secret
from pipeline.console import Console

MAX_SHOWN = 20
MAX_COLUMNS = 60
TRIAL_BYTES = 1 << 24  # larger files are left to `recurra check`


@dataclass(frozen=True)
class Report:
    """What was found, and the settings file."""

    proposal: Proposal
    yaml: str

    def as_data(self) -> dict[str, Any]:
        """The same as JSON."""
        roles = self.proposal.roles
        return {
            "files": overviews.files(roles.raw),
            "columns": overviews.columns(roles),
            "lengths": overviews.lengths(roles),
            "labels": overviews.labels(roles),
            "problems": list(self.proposal.findings.problems),
            "settings": dict(self.proposal.settings),
            "yaml": self.yaml,
        }


def inspect(paths: Sequence[str], *, out: Path | None, force: bool, console: Console) -> Report:
    """Look at the files, and write the settings to `out` if it is given.

    Raises:
        DataError: files cannot be read, nothing can be learnt from them, or `out` is there already.
        StorageError: `out` cannot be written.
    """
    if out is not None and out.exists() and not force:
        raise DataError(f"{out} is there already.", hint="Choose another name, or replace it with --force.")
    files = readers.expand(list(paths))
    with console.progress("look", total=min(MAX_FILES, len(files)), unit="files") as bar:
        raw = look(sample(files, advance=bar.advance))
    if any(map(has_secret, paths)):
        console.warn("The settings leave out the password in the URL: give keys by the store's variables.")
    paths = [stores.parse(path).written if has_secret(path) else path for path in paths]
    folder = (out.absolute() if out is not None else Path.cwd() / "conf.yaml").parent
    relative = [_relative(path, folder) for path in paths]
    proposal = propose(raw, name=_name(paths), path=relative[0] if len(relative) == 1 else relative)
    if raw.sample.is_whole and sum(file.size() for file in files) <= TRIAL_BYTES:
        with tempfile.TemporaryDirectory(prefix="recurra-") as scratch:
            proposal = settle(proposal, files, scratch=scratch)
    text = draft(proposal, title=_title(proposal, out))
    if out is not None:
        _write(out, text)
    return Report(proposal, text)


def show(report: Report, *, out: Path | None, console: Console) -> None:
    """Print what was found."""
    data = report.as_data()
    if console.as_json:
        console.result("", data)
        return
    files = data["files"]
    console.result(f"{_files(files)}\n{_rows(files)}\n")
    shown = data["columns"][:MAX_COLUMNS]
    console.table("", overviews.HEADER, [_cells(each) for each in shown])
    if len(data["columns"]) > MAX_COLUMNS:
        console.result(f"and {len(data['columns']) - MAX_COLUMNS:,} columns more")
    if lengths := data["lengths"]:
        console.result(
            f"\nsteps a sequence: {lengths['min']:,} to {lengths['max']:,}, median {lengths['median']:,.0f}"
        )
    counts = list(data["labels"].items())
    pairs = ", ".join(f"{label} {count:,}" for label, count in counts[:MAX_SHOWN])
    console.result(f"{len(counts):,} labels: {pairs}{', ...' if len(counts) > MAX_SHOWN else ''}")
    console.result("\n" + _problems(data["problems"]))
    if out is None:
        console.result(f"\n{report.yaml}")
        console.note("Next: the same with -o conf.yaml writes these settings to a file.")
    else:
        console.result(f"\n{out} is written.")
        console.note(f"Next: recurra check {out}")


# The settings file


def _name(paths: Sequence[str]) -> str:
    """A name for the model: what the files' names have in common."""
    stems = [_stem(path) for path in paths]
    words = [re.split(r"(?<=[^A-Za-z0-9])", stem) for stem in stems]
    common = "".join(word for word, *others in zip(*words, strict=False) if set(others) <= {word})
    if len(paths) > 1 and len(common) < 3:
        common = Path(paths[0]).absolute().parent.name if "://" not in paths[0] else stems[0]
    name = re.sub(r"[^a-z0-9_-]+", "-", common.lower()).replace("_", "-").strip("-_")[:63].strip("-_")
    return name or "model"


def _stem(path: str) -> str:
    # Of a wildcard, what stands before it says something of the files, if it is more than `part-`.
    parts = [re.split(r"[*\[]", part)[0] for part in re.split(r"[/\\]", path.split("?")[0])]
    parts = [part for part in parts if part.strip("._-") not in ("", "part")]
    last = parts[-1] if parts else ""
    if not Path(path).is_dir():
        while Path(last).suffix.lower() in (*readers.SUFFIXES, ".gz", ".bz2", ".zst", ".zstd"):
            last = Path(last).stem
    return last


def _relative(path: str, folder: Path) -> str:
    """The path as the settings file has to say it."""
    if "://" in path:
        return path
    whole = os.path.abspath(path)
    if os.path.commonpath([whole, folder]) == os.path.sep:
        return whole
    return os.path.relpath(whole, folder)


def _title(proposal: Proposal, out: Path | None) -> list[str]:
    files = overviews.files(proposal.roles.raw)
    conf = out or "conf.yaml"
    return [
        f"Proposed by `recurra inspect`. {_files(files)}; {_rows(files)}.",
        "",
        f"     recurra check {conf} && recurra run {conf}",
        "",
        *(f"Seen: {problem}." for problem in proposal.findings.problems),
    ]


def _files(files: dict[str, Any]) -> str:
    names, count = files["names"], files["num_files"]
    shown = ", ".join(names[:3]) + (f" and {count - 3:,} more" if count > 3 else "")
    looked = f", {len(names)} of them looked at" if len(names) < count else ""
    return f"{count:,} {'/'.join(files['formats'])} file{'s' if count > 1 else ''}: {shown}{looked}"


def _rows(files: dict[str, Any]) -> str:
    if files["whole"]:
        return f"all {files['rows_looked_at']:,} rows were looked at"
    if files["rows"] is None:
        return f"{files['rows_looked_at']:,} rows were looked at, and there are more: counts are of those"
    return f"{files['rows_looked_at']:,} of {files['rows']:,} rows were looked at: counts are of those"


def _cells(each: dict[str, Any]) -> list[str]:
    distinct = "" if each["distinct"] is None else f"{each['distinct']:,}"
    examples = " ".join(each["examples"])
    missing = f"{each['missing']:,}" if each["missing"] else ""
    return [each["column"], each["kind"], each["used_as"], each["type"], distinct, missing, examples]


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return "No problems were seen."
    return "Worth a look:\n" + "\n".join(f"  {problem}" for problem in problems)


def _write(out: Path, text: str) -> None:
    """Write the file whole or not at all."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf8", dir=out.parent, prefix=".recurra-", delete=False
        ) as file:
            file.write(text)
        try:
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, out)
        except OSError:
            with suppress(OSError):
                os.unlink(file.name)
            raise
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
