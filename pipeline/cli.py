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
STARTED = "start"  # of a group's commands the one that needs no name

Command = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Common:
    """The options that every command has, made absolute before anything starts."""

    storage: Path
    tracking_uri: str
    artifacts: str | None
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
        artifacts: str | None,
        address: str | None,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **kwargs: Any,
    ) -> Any:
        common = Common(
            storage=storage.absolute(),
            tracking_uri=_absolute_uri(tracking_uri),
            artifacts=_artifact_root(artifacts, tracking_uri),
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
            "--artifacts",
            envvar="RECURRA_ARTIFACTS",
            metavar="FOLDER|s3://BUCKET/PREFIX",
            help="Where the files of runs and models go when the tracker is a database."
            "  [default: mlartifacts beside a SQLite file, else beside the storage]",
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


_alias_option = click.option("--alias", default="champion", show_default=True, help="Which alias.")


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


def _reason_given(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """An override stands in the ledger for good, so it says why."""
    if text is not None and not text.strip():
        raise click.BadParameter("say why: the text must not be empty", ctx=ctx, param=parameter)
    return text if text is None else text.strip()


_override_option = click.option(
    "--override",
    metavar="TEXT",
    callback=_reason_given,
    help="Promote the model whatever the gate says, and keep TEXT, the reason, with the version.",
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
@_with(_gpu_option, *_search_options, _override_option)
@_common
def run(
    conf: Sequence[Path], overrides: Sequence[str], folds: int | None, common: Common, **asked: Any
) -> None:
    """Prepare, tune if asked, train, evaluate and register; what is already done is reused."""
    if folds is None:
        _run_until("register", conf, overrides, common=common, **asked)
        return
    if asked["override"] is not None:
        raise click.UsageError("--folds registers nothing, so there is nothing to --override.")
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
    _override_option,
)


@_with(recurra.command(), *_settings_parameters)
@click.option("--force", is_flag=True, help="Run without a reason, too.")
@click.option("--dry-run", is_flag=True, help="Only say whether there is a reason.")
@_gpu_option
@_common
def retrain(
    conf: Sequence[Path], overrides: Sequence[str], force: bool, dry_run: bool, common: Common, **asked: Any
) -> None:
    """Run only if there is a reason (`retrain` in CONF): new rows, age; promote only if better."""
    from pipeline.jobs.retrain import retrain as look_and_run
    from pipeline.jobs.retrain import show

    around = _surroundings(common, **asked)
    outcome = look_and_run(_load(conf, overrides), around=around, force=force, dry_run=dry_run)
    show(outcome, console=common.console)
    if outcome["verdict"] == "rejected":
        sys.exit(GATE_REFUSED)


@_with(recurra.command())
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1)
@_settings_parameters[1]
@_common
def drift(conf: Path, data: Sequence[str], overrides: Sequence[str], common: Common) -> None:
    """How DATA differs from the rows that CONF's champion was trained on.  [default: its new files]"""
    from pipeline.jobs.drift import look, show

    settings = _load([conf], overrides)
    found = look(settings, list(data), storage=common.storage, tracking_uri=common.tracking_uri)
    show(found, console=common.console)


class _StartsUnlessNamed(_InOrder):
    """`recurra schedule CONF ...` beside `recurra schedule list` and the like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [STARTED, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of the command that is meant when none is named, and then the others."""
        self.commands[STARTED].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@recurra.group(cls=_StartsUnlessNamed, subcommand_metavar="CONF... | COMMAND [ARGS]...")
def schedule() -> None:
    """Keep retraining: `recurra schedule CONF --cron "0 3 * * *"`; and look after what is scheduled."""


_state_option = click.option(
    "--state",
    envvar="RECURRA_STATE",
    metavar="URI",
    help="Database of the schedules, as postgresql://host/database.  [default: a SQLite file in the storage]",
)
_timetable_options = (
    click.option("--cron", required=True, help='Minute, hour, day, month, weekday, as in "0 3 * * *".'),
    click.option("--timezone", default="UTC", show_default=True, help="Its zone, as Europe/Berlin."),
)


@_with(schedule.command(), *_settings_parameters, *_timetable_options, _state_option)
@click.option("--name", help="Of the schedule.  [default: that of the model]")
@click.option(
    "--overlap",
    type=click.Choice(["forbid", "queue", "replace", "allow"]),
    default="forbid",
    show_default=True,
    help="What a slot does that comes while a run goes on.",
)
@click.option(
    "--catchup",
    type=click.Choice(["latest", "none", "all"]),
    default="latest",
    show_default=True,
    help="Which slots run that were missed while nobody led the schedule.",
)
@click.option(
    "--max-catchup", default=10, show_default=True, type=click.IntRange(1), help="Of --catchup all."
)
@click.option(
    "--misfire-grace",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds after which a slot counts as missed.",
)
@click.option(
    "--jitter",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds over which starts are spread, the same for the same slot.",
)
@click.option("--max-run", type=click.FloatRange(1), help="Seconds after which a run is stopped.")
@click.option(
    "--stop-grace",
    default=120.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds that a run has to checkpoint.",
)
@click.option(
    "--pause-after",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Failures in a row after which the schedule pauses.",
)
@click.option(
    "--print",
    "manifest",
    type=click.Choice(["crontab", "systemd"]),
    help="Print what keeps the same schedule elsewhere instead.",
)
@_common
def start(
    conf: Sequence[Path],
    overrides: Sequence[str],
    cron: str,
    timezone: str,
    state: str | None,
    name: str | None,
    manifest: str | None,
    common: Common,
    **rules: Any,
) -> None:
    """Lead a schedule until it is stopped."""
    from pipeline.jobs import schedules
    from pipeline.jobs.schedule import Rules

    settings = _load(conf, overrides)
    shared: dict[str, Any] = {
        "cron": cron,
        "zone": timezone,
        "command": schedules.retrain_command(conf, overrides),
        "variables": schedules.surroundings(
            storage=common.storage,
            tracking_uri=common.tracking_uri,
            address=common.address,
            artifacts=common.artifacts,
        ),
    }
    if manifest is not None:
        from pipeline.jobs.manifests import MANIFESTS

        text = MANIFESTS[manifest](name=name or settings.name, folder=Path.cwd(), **shared)
        common.console.result(text, {"manifest": text})
        return
    schedules.lead(
        name or settings.name,
        rules=Rules(**rules),
        state=state,
        storage=common.storage,
        console=common.console,
        signals=_surroundings(common).signals,
        **shared,
    )


def _schedule_command(name: str, does: str, description: str, *parameters: Command) -> None:
    """A command over what is scheduled: a function of pipeline/jobs/schedules.py that takes the diary."""

    @_with(schedule.command(name, help=description), *parameters, _state_option)
    @_common
    def command(state: str | None, common: Common, **asked: Any) -> None:
        from pipeline.jobs import schedules

        diary = schedules.open_diary(state, common.storage)
        getattr(schedules, does)(diary, console=common.console, **asked)


_name_argument = click.argument("name")
_schedule_command(
    "list", "show_all", "Every schedule: when it runs next, who leads it, how the last run ended."
)
_schedule_command(
    "history",
    "show_history",
    "What became of the slots of NAME, the newest first.",
    _name_argument,
    click.option("--most", default=20, show_default=True, type=click.IntRange(1), help="How many."),
)
_schedule_command(
    "pause",
    "pause",
    "Start nothing of NAME until it is resumed; what runs goes on.",
    _name_argument,
    click.option("--why", "reason", default="", help="Kept with the slots that are skipped."),
)
_schedule_command("resume", "resume", "Start slots of NAME again.", _name_argument)
_schedule_command("run-now", "run_now", "One more slot of NAME, at this moment.", _name_argument)


@_with(schedule.command(), *_settings_parameters, *_timetable_options)
@click.option("--from", "begin", metavar="DATE", help="ISO date or instant.  [default: now]")
@_common
def explain(
    conf: Sequence[Path],
    overrides: Sequence[str],
    cron: str,
    timezone: str,
    begin: str | None,
    common: Common,
) -> None:
    """The next ten slots, as instants with their offset from UTC, and what clock changes do to them."""
    from pipeline.jobs.schedules import explain as tell

    _load(conf, overrides)
    tell(cron, timezone, begin, console=common.console)


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
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", default=5001, show_default=True, type=click.IntRange(0, 65_535), help="0: any that is free."
)
@click.option(
    "--token-file",
    envvar="RECURRA_TOKEN_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the token that clients must show; needed where others reach the host.",
)
@click.option(
    "--allow-host", "hosts", multiple=True, help="Another name that clients may call this server by."
)
@click.option(
    "--replicas",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Copies of the model that answer side by side, each in a process of its own.",
)
@click.option(
    "--batch-wait-ms",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How long a request waits for others to be answered with.",
)
@click.option(
    "--max-batch-rows", default=256, show_default=True, type=click.IntRange(1), help="Rows of such a batch."
)
@click.option(
    "--max-mb", default=16.0, show_default=True, type=click.FloatRange(0.001), help="Size of a request."
)
@click.option(
    "--max-rows", default=1_000, show_default=True, type=click.IntRange(1), help="Rows of a request."
)
@click.option(
    "--max-steps", default=100_000, show_default=True, type=click.IntRange(1), help="Time steps of a row."
)
@click.option(
    "--max-waiting",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Requests that may wait; more are told to come again.",
)
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(0.1), help="Seconds per request."
)
@click.option("--follow", is_flag=True, help="Change to another version when the alias moves.")
@click.option(
    "--poll-seconds",
    default=15.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="How often --follow asks.",
)
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds that requests have to be answered once the server is to stop.",
)
@_common
def serve(
    model: str,
    token_file: Path | None,
    batch_wait_ms: float,
    max_mb: float,
    max_rows: int,
    max_steps: int,
    max_waiting: int,
    timeout: float,
    poll_seconds: float,
    common: Common,
    **asked: Any,
) -> None:
    """Answer requests with MODEL over HTTP, as `mlflow models serve` does."""
    from pipeline.jobs.protocol import Limits
    from pipeline.jobs.serve import Options, read_token
    from pipeline.jobs.serve import serve as answer
    from pipeline.run import serving_cluster

    limits = Limits(int(max_mb * 1e6), max_rows, max_steps, max_waiting, timeout)
    token = None if token_file is None else read_token(token_file)
    options = Options(token=token, batch_wait=batch_wait_ms / 1000, limits=limits, poll=poll_seconds, **asked)
    around = _surroundings(common)
    with serving_cluster(around) as cluster:
        answer(
            model,
            options=options,
            tracking_uri=common.tracking_uri,
            cluster=cluster,
            scratch=common.storage if common.address else None,
            console=common.console,
        )


@recurra.command()
@click.argument("name", required=False)
@click.option(
    "--at",
    metavar="DATE",
    help="Which version was champion then: an ISO date (its end) or instant; local time without an offset.",
)
@click.option(
    "--diff",
    nargs=2,
    type=click.IntRange(1),
    metavar="A B",
    help="How two versions differ: settings, data, schema, scores, code, libraries.",
)
@_alias_option
@_common
def models(
    name: str | None, at: str | None, diff: tuple[int, int] | None, alias: str, common: Common
) -> None:
    """Versions of a registered model: aliases, scores, verdicts, promotions; without NAME all models."""
    from pipeline import versions

    uri = common.tracking_uri
    if (at and diff) or (name is None and (at or diff)):
        raise click.UsageError("--at and --diff need a NAME, and do not go together.")
    if name is None:
        versions.show_all(versions.all_models(tracking_uri=uri), console=common.console)
    elif diff:
        from pipeline import differences

        differences.show(differences.difference(name, *diff, tracking_uri=uri), console=common.console)
    else:
        known = versions.models(name, storage=common.storage, tracking_uri=uri)
        if at:
            versions.show_champion(versions.champion_at(at, known, alias=alias), console=common.console)
        else:
            versions.show_models(known, console=common.console)


@recurra.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--why", required=True, help="The reason, for the ledger.")
@_alias_option
@_common
def promote(name: str, version: int, why: str, alias: str, common: Common) -> None:
    """Let the alias point to VERSION, whatever its verdict was; its files are checked first."""
    from pipeline import promotions

    outcome = promotions.promote(name, version, why=why, alias=alias, **_place(common))
    promotions.show(outcome, console=common.console)


@recurra.command()
@click.argument("name")
@click.option("--why", default="rolled back", show_default=True, help="The reason, for the ledger.")
@click.option("--again", is_flag=True, help="Go one version further back, right after another rollback.")
@click.option(
    "--to", type=click.IntRange(1), metavar="VERSION", help="Back to this one, which was there before."
)
@_alias_option
@_common
def rollback(name: str, why: str, again: bool, to: int | None, alias: str, common: Common) -> None:
    """Let the alias point to the version before the present one, as the ledger tells."""
    from pipeline import promotions

    outcome = promotions.rollback(name, why=why, alias=alias, again=again, to=to, **_place(common))
    promotions.show(outcome, console=common.console)


@recurra.command()
@click.argument("name")
@click.option(
    "--keep", required=True, type=click.IntRange(1), metavar="N", help="The newest N versions stay."
)
@click.option("--runs", is_flag=True, help="Remove also run folders that are older than those versions.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, and how many bytes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def prune(name: str, keep: int, runs: bool, dry_run: bool, yes: bool, common: Common) -> None:
    """Remove old versions with their files; never one with an alias, nor the one before it."""
    from pipeline import prunes

    def go(*, dry_run: bool) -> dict[str, Any]:
        return prunes.prune(name, keep=keep, runs=runs, dry_run=dry_run, **_place(common))

    if not dry_run and not yes:
        if common.console.as_json or not sys.stdin.isatty():
            raise click.UsageError("Nobody can be asked here: give --dry-run, or --yes to remove.")
        prunes.show(go(dry_run=True), console=common.console)
        click.confirm("Remove them?", abort=True, err=True)
    prunes.show(go(dry_run=dry_run), console=common.console)


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
@click.argument("model")
@click.option(
    "--tolerance",
    default=1e-6,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How far a score, a loss or a probability may be from the recorded one.",
)
@click.option(
    "--data", multiple=True, metavar="PATH", help="Where the data lie now, if they have moved; repeatable."
)
@_common
def reproduce(model: str, tolerance: float, data: Sequence[str], common: Common) -> None:
    """Train MODEL again from its recorded settings, data and seed; compare, and say what differs."""
    from pipeline.reproduction import exit_code, show
    from pipeline.reproduction import reproduce as train_again

    found = train_again(model, tolerance=tolerance, data=data, around=_surroundings(common))
    show(found, console=common.console)
    sys.exit(exit_code(found))


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


def every_command() -> dict[str, click.Command]:
    """Each command by what is written for it; a group stands for the one it starts when none is named."""
    found: dict[str, click.Command] = {}
    for name, command in recurra.commands.items():
        if isinstance(command, click.Group):
            found[name] = command.commands[STARTED]
            found |= {f"{name} {each}": inner for each, inner in command.commands.items() if each != STARTED}
        else:
            found[name] = command
    return found


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


def _artifact_root(place: str | None, tracking_uri: str) -> str | None:
    from pipeline.backends.addresses import artifact_root

    if place is None:
        return None
    try:
        return artifact_root(place, Path.cwd(), tracking_uri=tracking_uri)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--artifacts") from error


def _load(conf: Sequence[Path], overrides: Sequence[str]) -> "Settings":
    from conf.load import load

    return load(conf, overrides)


def _place(common: Common) -> dict[str, Any]:
    return {"storage": common.storage, "tracking_uri": common.tracking_uri}


def _surroundings(common: Common, **asked: Any) -> "Surroundings":
    from pipeline.backends.signals import Signals
    from pipeline.run import Surroundings

    signals = Signals()
    signals.install()
    return Surroundings(
        storage=common.storage,
        tracking_uri=common.tracking_uri,
        artifacts=common.artifacts,
        address=common.address,
        console=common.console,
        signals=signals,
        **asked,
    )
