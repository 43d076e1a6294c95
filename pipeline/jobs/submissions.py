"""One submission: what a cluster is asked to do, the same for the same settings, code and data.

    argv       python -m pipeline run words.yaml --set train.epochs=3 --address auto
    variables  RECURRA_STORAGE=/shared/runs ...     whatever may be read by everybody who can see the job
    secrets    RECURRA_TRACKING_URI ...             by name: the cluster has their values
    parcel     pipeline/ components/ conf/ words.yaml
    id         words-0c4f2d9be1a7                   fingerprint of all of these and of the data

Settings and arguments never pass through a shell unquoted; paths in the settings are absolute.
"""

import dataclasses
import io
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.data.readers.paths import File
from components.errors import DataError, StorageError
from conf.load import Problem, SettingsError, load, resolved
from conf.schema import Settings
from pipeline.backends import workspace
from pipeline.backends.addresses import redact
from pipeline.jobs import parcels
from pipeline.jobs.parcels import Parcel
from pipeline.run import files_read

COMMANDS = ("run", "retrain", "prepare", "tune", "train", "evaluate", "register")
TRACKER = "RECURRA_TRACKING_URI"
# How long Ray waits between asking a job to stop and killing it; 3 s unless the job itself says otherwise.
STOP_SECONDS = "RAY_JOB_STOP_WAIT_TIME_S"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# An option that names a path means another one in the job's folder.
PATHS = ("data.path", "data.inputs", "evaluate.examples", "retrain.drift.path", "tune.space")
NUM_DIGITS = 12
MASK = "***"


@dataclass(frozen=True)
class Submission:
    """What is sent. The id has twelve digits of the fingerprint; a second attempt adds `-2`."""

    id: str
    name: str  # of the model
    settings: Settings
    settings_file: str  # its name in the parcel
    argv: tuple[str, ...]
    variables: Mapping[str, str]
    secrets: tuple[str, ...]
    parcel: Parcel
    files: tuple[File, ...] | None  # that a run reads; None: they cannot be seen from here

    @property
    def entrypoint(self) -> str:
        """The command line that a shell on the cluster takes apart into `argv` again."""
        return shlex.join(self.argv)

    @property
    def metadata(self) -> dict[str, str]:
        """What everybody sees beside the job."""
        return {"recurra": metadata.version("recurra"), "model": self.name, "fingerprint": self.id}

    @property
    def settings_text(self) -> str:
        """The packaged settings file."""
        content = self.parcel.files[self.settings_file]
        return content.decode() if isinstance(content, bytes) else content.read_text("utf8")

    def attempt(self, number: int) -> str:
        """The id of the first, second, ... job of this submission."""
        return self.id if number == 1 else f"{self.id}-{number}"

    def runtime_env(self, folder: Path | str) -> dict[str, Any]:
        """Ray's runtime environment with the parcel laid out in `folder`."""
        return {"working_dir": str(folder), "env_vars": dict(self.variables)}

    def describe(self) -> dict[str, Any]:
        """What `--dry-run` shows; the values of secrets are not known here."""
        environment = self.runtime_env("(the package)")
        environment["env_vars"] |= dict.fromkeys(self.secrets, MASK)
        return {
            "id": self.id,
            "entrypoint": self.entrypoint,
            "argv": list(self.argv),
            "runtime_env": environment,
            "metadata": self.metadata,
            "package": {
                "num_files": len(self.parcel.files),
                "bytes": self.parcel.size,
                "files": sorted(self.parcel.files),
                "largest": [{"name": name, "bytes": size} for name, size in self.parcel.largest],
                "left_out": [dataclasses.asdict(each) for each in self.parcel.left_out],
            },
            "settings": self.settings_text,
            "data": None if self.files is None else [file.shown for file in self.files],
        }


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a command with its settings and options, and where it is to work."""

    conf: Sequence[Path]
    overrides: Sequence[str] = ()
    command: str = "run"
    options: Sequence[str] = ()  # of the command
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: Sequence[str] = ()
    exclude: Sequence[str] = ()
    stop_seconds: int = 120
    python: str = "python"
    as_json: bool = False


def make(wanted: Wanted, *, runs: Path, touch_nothing: bool = False) -> Submission:
    """Work a submission out.

    Args:
        wanted: the command and where it is to work.
        runs: the folder of all runs; digests of data are kept there, if it exists.
        touch_nothing: keep nothing.

    Raises:
        SettingsError: the settings are at fault, a module that they name is missing, a name is none, or the
            package is too large.
    """
    settings = load(wanted.conf, wanted.overrides)
    text, rest = _packaged(wanted)
    file = f"{settings.name}.yaml"
    parcel = parcels.pack(settings, own={file: text}, exclude=wanted.exclude, runs=runs)
    parcel.check()
    changes = [word for option in rest for word in ("--set", option)]
    command = [wanted.command, file, *changes, *wanted.options]
    variables, secrets = _by_name(wanted.variables, wanted.secrets)
    seen = _files(settings)
    mark = {
        "settings": resolved(settings),
        "command": command,
        "variables": variables,
        "secrets": sorted(secrets),
        "code": parcel.digest,
        "data": None if seen is None else _digests(seen, settings.name, None if touch_nothing else runs),
    }
    argv = [wanted.python, "-m", "pipeline", *command, "--address", "auto"]
    return Submission(
        id=f"{settings.name}-{workspace.fingerprint(mark)[:NUM_DIGITS]}",
        name=settings.name,
        settings=settings,
        settings_file=file,
        argv=(*argv, "--json") if wanted.as_json else tuple(argv),
        variables={**variables, STOP_SECONDS: str(wanted.stop_seconds)},
        secrets=tuple(sorted(secrets)),
        parcel=parcel,
        files=seen,
    )


def _packaged(wanted: Wanted) -> tuple[bytes, Sequence[str]]:
    """The settings as one file that means the same in any folder, and the options that go along as they are.

    Up to the last option that may name a path, options become part of the file.
    """
    within = [number for number, option in enumerate(wanted.overrides, 1) if _names_path(option)]
    split = max(within, default=0)
    try:
        settings = load(wanted.conf, wanted.overrides[:split])
    except SettingsError:
        # Without the others these are not whole.
        split = len(wanted.overrides)
        settings = load(wanted.conf, wanted.overrides)
    given = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(given, out)
    return out.getvalue().encode(), wanted.overrides[split:]


def _names_path(option: str) -> bool:
    key = option.partition("=")[0].strip()
    return any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for path in PATHS)


def _by_name(variables: Mapping[str, str], secrets: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Variables whose values may be seen, and the names of all others."""
    for name in secrets:
        if not VARIABLE.fullmatch(name):
            # A value given by mistake must not be repeated.
            hint = "give only the name, as in --secret AWS_SECRET_ACCESS_KEY; the cluster has the value"
            raise SettingsError([Problem("--secret", "", "received what is no name of a variable", hint)])
    kept = {name: value for name, value in variables.items() if redact(value) == value}
    return {name: value for name, value in kept.items() if name not in secrets}, {
        *secrets,
        *(variables.keys() - kept.keys()),
    }


def _files(settings: Settings) -> tuple[File, ...] | None:
    try:
        return tuple(files_read(settings))
    except (DataError, StorageError):
        return None


def _digests(files: Sequence[File], name: str, runs: Path | None) -> dict[str, str]:
    """What stands for each file's content; one in a store is not fetched for that."""
    here = [file for file in files if not file.is_remote]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if runs is None or not runs.is_dir() else runs / name
        digests = workspace.file_digests(here, cache=kept / ".digests.json")
    return digests | {file.shown: file.version() for file in files if file.is_remote}
