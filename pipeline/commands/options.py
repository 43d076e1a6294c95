"""What the commands have in common: options, and what they become before anything starts."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from conf.schema import Settings
    from pipeline.backends.signals import Signals
    from pipeline.console import Console
    from pipeline.run import Surroundings

DEFAULT_STORAGE = "runs"
ARTIFACTS = "mlartifacts"
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
GATE_REFUSED = 4

Command = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Common:
    """The options that every command has, made absolute before anything starts."""

    storage: Path
    store: str | None  # the object store whose working folder `storage` is
    tracking_uri: str
    artifacts: str | None
    address: str | None
    console: "Console"

    def refuse_store(self, command: str, why: str, *, hint: str = "") -> None:
        """End a command that cannot do its work in an object store.

        Raises:
            UsageError: the storage is one.
        """
        if self.store is not None:
            raise click.UsageError(
                f"{command} {why}; {self.store} is an object store. Name a folder with --storage{hint}."
            )


json_option = click.option(
    "--json", "as_json", is_flag=True, envvar="RECURRA_JSON", help="One JSON object on stdout."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, envvar="RECURRA_QUIET", help="Errors only.")
verbose_option = click.option("-v", "--verbose", is_flag=True, envvar="RECURRA_VERBOSE", help="Say more.")
settings_parameters = (
    click.argument("conf", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CONF..."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting, as in --set train.epochs=3; the value is YAML, and the last one wins.",
    ),
)


def with_parameters(*parameters: Command) -> Command:
    def decorate(command: Command) -> Command:
        for parameter in reversed(parameters):
            command = parameter(command)
        return command

    return decorate


def common_options(command: Command) -> Command:
    """Storage, tracker, cluster and output options, which reach the command as one `common`."""

    @functools.wraps(command)
    def with_common(
        *args: Any,
        storage: str,
        tracking_uri: str,
        artifacts: str | None,
        address: str | None,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **kwargs: Any,
    ) -> Any:
        place, store = _storage(storage)
        common = Common(
            storage=place,
            store=store,
            tracking_uri=_absolute_uri(tracking_uri),
            artifacts=_artifact_root(artifacts, tracking_uri, store=store),
            address=_cluster(address),
            console=console_of(as_json=as_json, quiet=quiet, verbose=verbose),
        )
        return command(*args, common=common, **kwargs)

    return with_parameters(
        click.option(
            "--storage",
            default=DEFAULT_STORAGE,
            envvar="RECURRA_STORAGE",
            show_default="./runs",
            metavar="FOLDER|s3://BUCKET/PREFIX",
            help="Where the run folders are.",
        ),
        click.option(
            "--tracking-uri",
            default=DEFAULT_TRACKING_URI,
            envvar="RECURRA_TRACKING_URI",
            show_default=True,
            help="MLflow server or database.",
        ),
        click.option(
            "--artifacts",
            envvar="RECURRA_ARTIFACTS",
            metavar="FOLDER|s3://BUCKET/PREFIX",
            help="Where the files of runs and models go when the tracker is a database."
            "  [default: mlartifacts beside a SQLite file, else beside the storage]",
        ),
        click.option(
            "--address",
            envvar="RECURRA_ADDRESS",
            help="Ray cluster as host:port, ray://host:port or auto; for jobs its dashboard, http://host:8265."
            "  [default: a local Ray of our own]",
        ),
        json_option,
        quiet_option,
        verbose_option,
    )(with_common)


class Real(click.FloatRange):
    """A number within limits; click's own range lets nan through, which lies in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return float(number)


class InOrder(click.Group):
    """Commands in the help as they stand here: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


alias_option = click.option("--alias", default="champion", show_default=True, help="Which alias.")

kubernetes_options = (
    click.option(
        "--image", metavar="IMAGE", help="Kubernetes: what pods run, as built from docker/Dockerfile."
    ),
    click.option(
        "--namespace", default="default", show_default=True, metavar="NAME", help="Kubernetes: of everything."
    ),
    click.option(
        "--claim",
        metavar="NAME",
        help="Kubernetes: a PersistentVolumeClaim, which pods see as /project; runs go to /project/runs,"
        " unless --storage is an object store.",
    ),
    click.option(
        "--from-secret",
        "from_secrets",
        multiple=True,
        metavar="VARIABLE=SECRET/KEY",
        help="Kubernetes: a variable of the pods whose value is in a Secret of the cluster.",
    ),
    click.option(
        "--env-from",
        multiple=True,
        metavar="SECRET",
        help="Kubernetes: a Secret of the cluster whose keys are all variables of the pods, as AWS_... ones.",
    ),
    click.option(
        "--service-account",
        metavar="NAME",
        help="Kubernetes: the ServiceAccount of the pods, whose role may read and write an object store.",
    ),
    click.option(
        "--cpus", default=4, show_default=True, type=click.IntRange(1), help="Kubernetes: CPUs of each pod."
    ),
    click.option(
        "--memory",
        default="16Gi",
        show_default=True,
        metavar="AMOUNT",
        help="Kubernetes: that of each pod.",
    ),
)
POD_OPTIONS = (
    "image",
    "namespace",
    "claim",
    "from_secrets",
    "env_from",
    "service_account",
    "cpus",
    "memory",
)
"""The names of these, by which `pipeline.jobs.pods.pods_of` takes them."""

gpu_option = click.option(
    "--require-gpu",
    is_flag=True,
    envvar="RECURRA_REQUIRE_GPU",
    help="Refuse to train, before anything else is done, where TensorFlow sees no GPU that it can use.",
)


search_options = (
    click.option(
        "--new-search",
        is_flag=True,
        help="Begin a new search although one over other settings is unfinished.",
    ),
    click.option(
        "--reuse",
        metavar="RUN",
        help="Count the finished trials of an earlier run whose settings lie in the space.",
    ),
)


def _reason_given(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """An override stands in the ledger for good, so it says why."""
    if text is not None and not text.strip():
        raise click.BadParameter("say why: the text must not be empty", ctx=ctx, param=parameter)
    return text if text is None else text.strip()


override_option = click.option(
    "--override",
    metavar="TEXT",
    callback=_reason_given,
    help="Promote the model whatever the gate says, and keep TEXT, the reason, with the version.",
)


def console_of(*, as_json: bool, quiet: bool, verbose: bool) -> "Console":
    from pipeline.console import Console

    return Console(level=verbose - quiet, as_json=as_json)


def _absolute_uri(uri: str) -> str:
    from pipeline.backends.addresses import absolute

    # Once, before any worker starts: they run in folders of their own.
    try:
        return absolute(uri, Path.cwd())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--tracking-uri") from error


def _cluster(address: str | None) -> str | None:
    from pipeline.backends.addresses import cluster_address

    try:
        if address is not None:
            cluster_address(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    return address


def _storage(place: str) -> tuple[Path, str | None]:
    """The storage's folder, which is only a working folder where it is an object store; and that store."""
    from pipeline.backends.addresses import is_folder, store_url

    if is_folder(place, Path.cwd()):
        path = Path(place)
        if path.exists() and not path.is_dir():
            raise click.BadParameter(f"{place!r} is a file, expected a folder.", param_hint="--storage")
        return path.absolute(), None
    from pipeline.backends.mirrors import open_mirror

    try:
        url = store_url(place)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--storage") from error
    return open_mirror(url).root, url


def _artifact_root(place: str | None, tracking_uri: str, *, store: str | None) -> str | None:
    from pipeline.backends.addresses import artifact_root, scheme_of

    if place is None and store is not None and scheme_of(tracking_uri) not in ("sqlite", "http", "https"):
        # Beside the storage, as without an object store.
        place = f"{store}/{ARTIFACTS}"
    if place is None:
        return None
    try:
        return artifact_root(place, Path.cwd(), tracking_uri=tracking_uri)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--artifacts") from error


def load_settings(conf: Sequence[Path], overrides: Sequence[str]) -> "Settings":
    from conf.load import load

    return load(conf, overrides)


def place_of(common: Common) -> dict[str, Any]:
    return {"storage": common.storage, "tracking_uri": common.tracking_uri}


def place_variables(common: Common) -> dict[str, str]:
    """The place of runs and records as variables, for a command elsewhere: a URI may hold a password."""
    variables = {
        "RECURRA_STORAGE": common.store or str(common.storage),
        "RECURRA_CACHE": os.environ.get("RECURRA_CACHE") if common.store else None,
        "RECURRA_TRACKING_URI": common.tracking_uri,
        "RECURRA_ARTIFACTS": common.artifacts,
    }
    return {name: value for name, value in variables.items() if value is not None}


def install_signals() -> "Signals":
    """Ctrl-C and SIGTERM as errors from here on."""
    from pipeline.backends.signals import Signals

    signals = Signals()
    signals.install()
    return signals


def surroundings(common: Common, **asked: Any) -> "Surroundings":
    from pipeline.run import Surroundings

    if (common.address or "").startswith("ray://") and not os.environ.get("RECURRA_CACHE"):
        # No machine of the cluster is the one of the working folder, so none could hand its files out.
        common.refuse_store(
            f"--address {common.address}",
            "needs a folder that all machines see",
            hint=", or one with RECURRA_CACHE",
        )
    return Surroundings(
        storage=common.storage,
        tracking_uri=common.tracking_uri,
        artifacts=common.artifacts,
        address=common.address,
        console=common.console,
        signals=install_signals(),
        **asked,
    )
