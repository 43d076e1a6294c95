"""What the pods of a run on Kubernetes are given: amounts, secrets by name, settings, places that they see.

/project          the claim, where there is one
  conf/           the settings files, of a ConfigMap
  runs/           the storage, where that is no object store
/tmp              of each pod, and gone with it: the working folder of an object store, and copies of files

What only this machine has, as a folder or a SQLite file, is refused before anything is printed, and so is a
password in a URL.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conf.load import Problem, SettingsError
from conf.schema import Settings
from pipeline.backends.addresses import redact, sqlite_path

PROJECT = "/project"
SETTINGS = f"{PROJECT}/conf"
STORAGE = f"{PROJECT}/runs"
MAX_CONFIG_MAP_BYTES = 1_000_000

_QUANTITY = re.compile(r"[1-9][0-9]*(?:\.[0-9]+)?(?:[KMGT]i|[kMGT])?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_KEY_OF_SECRET = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([a-z0-9][a-z0-9.-]*)/([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class SecretKey:
    """A key of a Secret of the cluster."""

    secret: str
    key: str


@dataclass(frozen=True)
class Pods:
    """What the pods of a run are given; the first is Ray's head, and works like the others.

    `secrets` are by the name of the variable that gets the value.
    """

    image: str
    namespace: str = "default"
    claim: str | None = None  # a PersistentVolumeClaim
    secrets: Mapping[str, SecretKey] = field(default_factory=dict)
    env_from: Sequence[str] = ()  # each key of these is a variable
    service_account: str | None = None  # None: the namespace's default
    num_nodes: int = 1
    num_gpus: int = 0  # of each
    num_cpus: int = 4  # of each
    memory: str = "16Gi"  # of each


def pods_of(
    settings: Settings,
    *,
    image: str | None,
    namespace: str = "default",
    claim: str | None = None,
    from_secrets: Iterable[str] = (),
    env_from: Sequence[str] = (),
    service_account: str | None = None,
    cpus: int = 4,
    memory: str = "16Gi",
) -> Pods:
    """As many pods as `train.nodes` says, each with what `train.devices` needs.

    Args:
        from_secrets: as VARIABLE=SECRET/KEY.
        env_from: names of Secrets.

    Raises:
        SettingsError: with everything that is missing, or that no cluster can make sense of.
    """
    keys, problems = _references(from_secrets, env_from, service_account)
    if image is None:
        hint = "build docker/Dockerfile, and push it to where the cluster pulls from"
        problems.append(Problem("--image", "", "is missing: what the pods run", hint))
    if not _QUANTITY.fullmatch(memory):
        problems.append(Problem("--memory", "", f"{memory!r} is no amount of memory", "as in 16Gi"))
    kind, _, count = settings.train.devices.partition(":")
    if count == "all":
        hint = "say how many a pod gets, as in --set train.devices=gpu:1"
        message = "gpu:all is for machines that are there already"
        problems.append(Problem("--print", "train.devices", message, hint))
    if problems:
        raise SettingsError(problems)
    return Pods(
        image=str(image),
        namespace=namespace,
        claim=claim,
        secrets=keys,
        env_from=tuple(env_from),
        service_account=service_account,
        num_nodes=settings.train.nodes,
        num_gpus=int(count) if kind == "gpu" else 0,
        num_cpus=max(cpus, int(count)) if kind == "cpu" else cpus,
        memory=memory,
    )


def _references(
    from_secrets: Iterable[str], env_from: Iterable[str], service_account: str | None
) -> tuple[dict[str, SecretKey], list[Problem]]:
    """The keys of Secrets by variable, and what is wrong with names; a secret itself is never repeated."""
    keys, problems = {}, []
    for text in from_secrets:
        found = _KEY_OF_SECRET.fullmatch(text)
        if found is None:
            # Somebody may have written the secret itself.
            message = f"{text.partition('=')[0]!r} is not given as VARIABLE=SECRET/KEY"
            problems.append(Problem("--from-secret", "", message, "name a Secret of the cluster and its key"))
        else:
            keys[found[1]] = SecretKey(found[2], found[3])
    if not all(map(_NAME.fullmatch, env_from)):
        hint = "name a Secret of the cluster, whose keys are the names of variables"
        problems.append(Problem("--env-from", "", "received what is no name of a Secret", hint))
    if service_account is not None and not _NAME.fullmatch(service_account):
        message = f"{service_account!r} is no name of a ServiceAccount"
        problems.append(Problem("--service-account", "", message, "as in trainer"))
    return keys, problems


def variables_of(variables: Mapping[str, str], pods: Pods, settings: Settings) -> dict[str, str]:
    """The surroundings as pods see them: storage in a store or the claim, Ray around them, secrets in `pods`.

    Raises:
        SettingsError: the data, the storage or the tracker is where no pod sees it, or there is a password.
    """
    found = {name: value for name, value in variables.items() if name not in pods.secrets}
    found["RECURRA_ADDRESS"] = "auto"
    problems = []
    if "://" in found.get("RECURRA_STORAGE", "://"):
        # A folder of this machine; that of a pod is in its home.
        found.pop("RECURRA_CACHE", None)
    elif pods.claim is not None:
        found["RECURRA_STORAGE"] = STORAGE
    else:
        hint = "name an object store, as s3://bucket/prefix, or a PersistentVolumeClaim with --claim"
        problems.append(Problem("--storage", "", "pods see no folder of this machine", hint))
    if sqlite_path(found.get("RECURRA_TRACKING_URI", "")) is not None:
        hint = "name an MLflow server, as in --tracking-uri http://mlflow:5000"
        problems.append(Problem("--tracking-uri", "", "pods see no SQLite file of this machine", hint))
    if found.get("RECURRA_ARTIFACTS", "").startswith("file:"):
        hint = "leave it out with an MLflow server, or name s3://bucket/prefix"
        problems.append(Problem("--artifacts", "", "pods see no folder of this machine", hint))
    if pods.claim is None:
        for path in _paths(settings):
            if "://" not in path:
                hint = "give a URL of an object store, or a claim that holds the file, with --claim"
                message = f"pods see no {path!r} of this machine"
                problems.append(Problem("--print", "data.path", message, hint))
    for name, value in found.items():
        if redact(value) != value:
            hint = f"put it into a Secret of the cluster, and name it with --from-secret {name}=SECRET/KEY"
            problems.append(Problem(name, "", "holds a password", hint))
    if problems:
        raise SettingsError(problems)
    return found


def _paths(settings: Settings) -> Sequence[str]:
    path = settings.data.path
    return (path,) if isinstance(path, str) else path


def settings_files(conf: Sequence[Path]) -> dict[str, str]:
    """The text of the files by keys of a ConfigMap, in their order.

    Raises:
        SettingsError: a file holds a password, or they are larger than a ConfigMap may be.
    """
    files: dict[str, str] = {}
    for path in conf:
        text = path.read_text("utf8")
        for number, line in enumerate(text.splitlines(), 1):
            if redact(line) != line:
                hint = "a ConfigMap is for everybody in the namespace to read: leave the password out"
                raise SettingsError([Problem(f"{path}:{number}", "", "a URL holds a password", hint)])
        key = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)
        files[key if key not in files else f"{len(files)}-{key}"] = text
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_CONFIG_MAP_BYTES:
        message = f"the files have {size:,} bytes, and a ConfigMap holds {MAX_CONFIG_MAP_BYTES:,}"
        raise SettingsError([Problem("--print", "", message, "")])
    return files


def mounted(command: str, files: Iterable[str], overrides: Sequence[str]) -> list[str]:
    """The arguments of `recurra` for the settings as they are mounted.

    Raises:
        SettingsError: an override holds a password.
    """
    if any(redact(override) != override for override in overrides):
        hint = "arguments are for everybody to see: leave the password out"
        raise SettingsError([Problem("--set", "", "a URL holds a password", hint)])
    given = [word for override in overrides for word in ("--set", override)]
    return [command, *(f"{SETTINGS}/{name}" for name in files), *given]
