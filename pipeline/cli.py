"""Every command and option. Bodies are a few lines; the libraries they need are imported inside.

recurra run CONF          errors become a message, a hint and an exit code in one place: `main`
"""

import dataclasses
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from conf.schema import Settings
    from pipeline.console import Console
    from pipeline.run import Surroundings
    from pipeline.stages.predict import OnBadRow

DEFAULT_STORAGE = "runs"
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
GATE_REFUSED = 4
MAX_FOLDS = 100

Command = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Common:
    """The options that every command has, made absolute before anything starts."""

    storage: Path
    tracking_uri: str
    address: str | None
    console: "Console"


_json_option = click.option(
    "--json", "as_json", is_flag=True, envvar="RECURRA_JSON", help="One JSON object on stdout."
)
_quiet_option = click.option("-q", "--quiet", is_flag=True, envvar="RECURRA_QUIET", help="Errors only.")
_verbose_option = click.option("-v", "--verbose", is_flag=True, envvar="RECURRA_VERBOSE", help="Say more.")
_settings_parameters = (
    click.argument("conf", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CONF..."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting, as in --set train.epochs=3; the value is YAML, and the last one wins.",
    ),
)


def _with(*parameters: Command) -> Command:
    def decorate(command: Command) -> Command:
        for parameter in reversed(parameters):
            command = parameter(command)
        return command

    return decorate


def _common(command: Command) -> Command:
    """Storage, tracker, cluster and output options, which reach the command as one `common`."""

    @functools.wraps(command)
    def with_common(
        *args: Any,
        storage: Path,
        tracking_uri: str,
        address: str | None,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **kwargs: Any,
    ) -> Any:
        common = Common(
            storage=storage.absolute(),
            tracking_uri=_absolute_uri(tracking_uri),
            address=address,
            console=_console(as_json=as_json, quiet=quiet, verbose=verbose),
        )
        return command(*args, common=common, **kwargs)

    return _with(
        click.option(
            "--storage",
            default=DEFAULT_STORAGE,
            envvar="RECURRA_STORAGE",
            show_default="./runs",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of the run folders.",
        ),
        click.option(
            "--tracking-uri",
            default=DEFAULT_TRACKING_URI,
            envvar="RECURRA_TRACKING_URI",
            show_default=True,
            help="MLflow server or database.",
        ),
        click.option(
            "--address",
            envvar="RECURRA_ADDRESS",
            help="Ray cluster as host:port, ray://host:port or auto.  [default: a local Ray of our own]",
        ),
        _json_option,
        _quiet_option,
        _verbose_option,
    )(with_common)


class _InOrder(click.Group):
    """Commands in the help as they stand here: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="recurra")
def recurra() -> None:
    """Recurrent networks, retrained on schedule: raw sequences to a registered, gated model."""


@recurra.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Settings file to write.")
@click.option("--force", is_flag=True, help="Replace the settings file if it is there.")
@_json_option
@_quiet_option
@_verbose_option
def inspect(
    data: Sequence[str], out: Path | None, force: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Look at DATA: columns, kinds, lengths, labels, problems; propose settings that run."""
    from pipeline.stages import inspect as stage

    console = _console(as_json=as_json, quiet=quiet, verbose=verbose)
    report = stage.inspect(list(data), out=out, force=force, console=console)
    stage.show(report, out=out, console=console)


@_with(recurra.command(), *_settings_parameters)
@click.option(
    "--problems",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON Lines file for every single problem of the data, not only the first ones.",
)
@click.option(
    "--sample",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the data to look at; of less than all, only faults of single rows are found.",
)
@_common
def check(
    conf: Sequence[Path], overrides: Sequence[str], problems: Path | None, sample: float, common: Common
) -> None:
    """Settings, data, cluster and tracker: every problem at once, nothing started."""
    from pipeline.checks import check as check_all

    found = check_all(_load(conf, overrides), _surroundings(common), problems=problems, sample=sample)
    text = "No problems found." if not found else ""
    common.console.result(text, {"problems": [dataclasses.asdict(each) for each in found]})
    if found:
        for each in found:
            common.console.error(f"{each.place}: {each.message}", each.hint)
        # 3 would say that a retry may help, which it does not while the settings or the rows are wrong.
        sys.exit(min(each.exit_code for each in found))


@_with(recurra.command(), *_settings_parameters)
@_common
def plan(conf: Sequence[Path], overrides: Sequence[str], common: Common) -> None:
    """Which stages would run or be reused, and why."""
    from pipeline.run import plan as make_plan

    planned = make_plan(_load(conf, overrides), storage=common.storage, tracking_uri=common.tracking_uri)
    rows = [
        {"name": stage.name, "status": "reuse" if stage.source else "run", "reason": stage.reason}
        for stage in planned.stages
    ]
    if common.console.as_json:
        common.console.result("", {"stages": rows})
    else:
        common.console.table("", ["stage", "would", "because"], [list(row.values()) for row in rows])


_gpu_option = click.option(
    "--require-gpu",
    is_flag=True,
    envvar="RECURRA_REQUIRE_GPU",
    help="Refuse to train, before anything else is done, where TensorFlow sees no GPU that it can use.",
)


_search_options = (
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


def _run_until(
    stage: str, conf: Sequence[Path], overrides: Sequence[str], *, common: Common, **asked: Any
) -> None:
    """Run up to a stage; `asked` are fields of Surroundings."""
    from pipeline.outcomes import as_data, show
    from pipeline.run import execute

    around = _surroundings(common, **asked)
    outcome = as_data(execute(_load(conf, overrides), until=stage, around=around))
    show(outcome, console=common.console)
    if outcome["verdict"] == "rejected":
        sys.exit(GATE_REFUSED)


@_with(recurra.command(), *_settings_parameters)
@click.option(
    "--folds",
    type=click.IntRange(2, MAX_FOLDS),
    metavar="K",
    help="Cross-validate instead: prepare, train and evaluate K folds in turn; nothing is registered.",
)
@_with(_gpu_option, *_search_options)
@_common
def run(
    conf: Sequence[Path], overrides: Sequence[str], folds: int | None, common: Common, **asked: Any
) -> None:
    """Prepare, tune if asked, train, evaluate and register; what is already done is reused."""
    if folds is None:
        _run_until("register", conf, overrides, common=common, **asked)
        return
    from pipeline.folds import run_folds, show

    around = _surroundings(common, **asked)
    found = run_folds(_load(conf, overrides), folds, around=around)
    show(found, console=common.console)


def _stage_command(name: str, description: str, *options: Command) -> None:
    @_with(recurra.command(name, help=description), *_settings_parameters, *options)
    @_common
    def command(conf: Sequence[Path], overrides: Sequence[str], common: Common, **asked: Any) -> None:
        _run_until(name, conf, overrides, common=common, **asked)


_stage_command("prepare", "Check the data, split it and fit its encoding.")
_stage_command(
    "tune", "Search over settings (`tune` in CONF), and keep the best trial.", _gpu_option, *_search_options
)
_stage_command("train", "Train the network, and freeze its best epoch.", _gpu_option, *_search_options)
_stage_command(
    "evaluate",
    "Score the frozen model on the held-out rows, beside simple baselines.",
    _gpu_option,
    *_search_options,
)
_stage_command(
    "register",
    "Register the model in MLflow, and promote it if it passes its gate and beats the champion.",
    _gpu_option,
    *_search_options,
)


@recurra.command()
@click.argument("model")
@click.argument("data", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file to write.",
)
@click.option(
    "--format",
    "file_format",
    default="auto",
    show_default=True,
    help="Format of the files, as in data.format; auto: by their names.",
)
@click.option("--n-best", default=0, type=click.IntRange(0), help="Also the N most probable labels.")
@click.option("--distribution", is_flag=True, help="Also the probability of every label.")
@click.option(
    "--on-bad-row",
    type=click.Choice(["fail", "drop"]),
    default="fail",
    show_default=True,
    help="What becomes of rows that do not fit; drop: no answer, and listed in OUT.rejected.parquet.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Processes that predict; left out: as the rows are worth."
)
@click.option("--restart", is_flag=True, help="Throw away what the same command left when it was stopped.")
@_common
def predict(
    model: str,
    data: Sequence[str],
    out: Path,
    file_format: str,
    n_best: int,
    distribution: bool,
    on_bad_row: "OnBadRow",
    workers: int | None,
    restart: bool,
    common: Common,
) -> None:
    """Predict new rows with MODEL: models:/name@alias, models:/name/3 or a run folder."""
    from pipeline.run import predict_rows
    from pipeline.stages.predict import Options

    options = Options(
        file_format=file_format, n_best=n_best, distribution=distribution, on_bad_row=on_bad_row
    )
    summary = predict_rows(
        model,
        list(data),
        out=out.absolute(),
        options=options,
        workers=workers,
        restart=restart,
        around=_surroundings(common),
    )
    text = f"{summary['rows'] - summary['bad_rows']:,} predictions by {summary['model']} in {out}"
    if summary["bad_rows"]:
        text += f"\n{summary['bad_rows']:,} rows have none: see {summary['rejected']}"
    common.console.result(text, summary)


@recurra.command()
@click.argument("name")
@_common
def models(name: str, common: Common) -> None:
    """Versions of a registered model: aliases, scores with intervals, verdicts, promotions."""
    from pipeline.outcomes import show_models
    from pipeline.stages.register import models as known

    found = known(name, storage=common.storage, tracking_uri=common.tracking_uri)
    show_models(found, console=common.console)


@recurra.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--open", "open_it", is_flag=True, help="Show it in the browser.")
@_common
def report(run_folder: str, open_it: bool, common: Common) -> None:
    """Path of a run's HTML report; RUN is a run folder, a run id or a model's name (its newest run)."""
    from pipeline.outcomes import find_report

    path = find_report(run_folder, storage=common.storage)
    common.console.result(str(path), {"report": str(path)})
    if open_it:
        click.launch(path.as_uri())


@recurra.command()
@click.argument("conf", nargs=-1, type=click.Path(path_type=Path), metavar="[CONF]...")
@_settings_parameters[1]
@click.option(
    "--scaling",
    is_flag=True,
    help="Measure instead how fast CONF trains on 1, 2, 4, ... devices of this machine; it must be prepared.",
)
@click.option(
    "--devices",
    metavar="cpu:N|gpu:N|gpu:all",
    help="With --scaling: how many devices to measure up to.  [default: train.devices, auto being all GPUs]",
)
@_common
def doctor(
    conf: Sequence[Path], overrides: Sequence[str], scaling: bool, devices: str | None, common: Common
) -> None:
    """Versions, GPUs seen by TensorFlow and by Ray, cuDNN, tracker, disk; or how CONF scales."""
    if scaling != bool(conf) or (not scaling and (devices or overrides)):
        raise click.UsageError("CONF, --set and --devices go with --scaling, and --scaling needs a CONF.")
    if scaling:
        _measure_scaling(conf, overrides, devices, common=common)
        return
    from pipeline.checks import doctor as examine

    rows, healthy = examine(_surroundings(common))
    if common.console.as_json:
        common.console.result("", {"healthy": healthy, "facts": rows})
    else:
        common.console.table("", ["what", "found"], [[row["what"], row["found"]] for row in rows])
    sys.exit(0 if healthy else 3)


def _measure_scaling(
    conf: Sequence[Path], overrides: Sequence[str], devices: str | None, *, common: Common
) -> None:
    from pipeline.scaling import scaling, show

    # As one more setting, it is checked and refused like the others.
    changed = [*overrides, *([] if devices is None else [f"train.devices={devices}"])]
    found = scaling(_load(conf, overrides), _surroundings(common), devices=_load(conf, changed).train.devices)
    show(found, console=common.console)


@recurra.command()
@click.option("--reference", is_flag=True, help="A Markdown page instead of the JSON Schema.")
def schema(reference: bool) -> None:
    """The JSON Schema of the settings files, for editors."""
    import json

    from conf.load import json_schema
    from conf.reference import page

    click.echo(page() if reference else json.dumps(json_schema(), indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; every error becomes text and an exit code here and nowhere else."""
    from components.errors import Interrupted, RecurraError
    from conf.load import SettingsError

    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = _wants_json(given)
    try:
        recurra.main(given, prog_name="recurra", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        _end(error.format_message(), "See `recurra --help`.", error.exit_code, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _fail(Interrupted(), as_json=as_json)
    except (RecurraError, SettingsError) as error:
        _fail(error, as_json=as_json)
    except Exception as error:
        traceback.print_exc()
        hint = "This is a bug of ours: please report it with the lines above."
        _fail(RecurraError(f"{type(error).__name__}: {error}", hint=hint), as_json=as_json)


def _wants_json(given: Sequence[str]) -> bool:
    """Whether JSON is asked for; Click may have stopped at a mistake before it read that."""
    value = os.environ.get("RECURRA_JSON", "")
    return "--json" in given or bool(click.types.BoolParamType.str_to_bool(value))


def _fail(error: Any, *, as_json: bool) -> None:
    _console(as_json=as_json, quiet=False, verbose=False).error(str(error), error.hint)
    _end(str(error), error.hint, error.exit_code, as_json=as_json)


def _end(message: str, hint: str, exit_code: int, *, as_json: bool) -> None:
    if as_json:
        _console(as_json=True, quiet=False, verbose=False).result(
            "", {"error": message, "hint": hint, "exit_code": exit_code}
        )
    sys.exit(exit_code)


def _console(*, as_json: bool, quiet: bool, verbose: bool) -> "Console":
    from pipeline.console import Console

    return Console(level=verbose - quiet, as_json=as_json)


def _absolute_uri(uri: str) -> str:
    from pipeline.backends.addresses import absolute

    # Once, before any worker starts: they run in folders of their own.
    try:
        return absolute(uri, Path.cwd())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--tracking-uri") from error


def _load(conf: Sequence[Path], overrides: Sequence[str]) -> "Settings":
    from conf.load import load

    return load(conf, overrides)


def _surroundings(common: Common, **asked: Any) -> "Surroundings":
    from pipeline.backends.signals import Signals
    from pipeline.run import Surroundings

    signals = Signals()
    signals.install()
    return Surroundings(
        storage=common.storage,
        tracking_uri=common.tracking_uri,
        address=common.address,
        console=common.console,
        signals=signals,
        **asked,
    )
