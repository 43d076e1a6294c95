"""`recurra schedule`: leads a schedule, and looks after what is scheduled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import (
    POD_OPTIONS,
    Command,
    Common,
    InOrder,
    Real,
    common_options,
    kubernetes_options,
    load_settings,
    place_variables,
    settings_parameters,
    surroundings,
    with_parameters,
)

STARTED = "start"  # of the commands the one that needs no name


class _StartsUnlessNamed(InOrder):
    """`recurra schedule CONF ...` beside `recurra schedule list` and the like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [STARTED, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of the command that is meant when none is named, and then the others."""
        self.commands[STARTED].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_StartsUnlessNamed, subcommand_metavar="CONF... | COMMAND [ARGS]...")
def schedule() -> None:
    """Keep retraining: `recurra schedule CONF --cron "0 3 * * *"`; and look after what is scheduled."""


_state_option = click.option(
    "--state",
    envvar="RECURRA_STATE",
    metavar="URI",
    help="Database of the schedules, as postgresql+psycopg://host/database.  [default: a SQLite file in the"
    " storage, where that is a folder]",
)
_timetable_options = (
    click.option("--cron", required=True, help='Minute, hour, day, month, weekday, as in "0 3 * * *".'),
    click.option("--timezone", default="UTC", show_default=True, help="Its zone, as Europe/Berlin."),
)


@with_parameters(schedule.command(), *settings_parameters, *_timetable_options, _state_option)
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
    type=Real(1),
    help="Seconds after which a slot counts as missed.",
)
@click.option(
    "--jitter",
    default=0.0,
    show_default=True,
    type=Real(0),
    help="Seconds over which starts are spread, the same for the same slot.",
)
@click.option("--max-run", type=Real(1), help="Seconds after which a run is stopped.")
@click.option(
    "--stop-grace",
    default=120.0,
    show_default=True,
    type=Real(1),
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
    type=click.Choice(["crontab", "systemd", "kubernetes"]),
    help="Print what keeps the same schedule elsewhere instead.",
)
@with_parameters(*kubernetes_options)
@common_options
def start(
    conf: Sequence[Path],
    overrides: Sequence[str],
    cron: str,
    timezone: str,
    state: str | None,
    name: str | None,
    manifest: str | None,
    common: Common,
    **given: Any,
) -> None:
    """Lead a schedule until it is stopped."""
    from pipeline.jobs import schedules
    from pipeline.jobs.schedule import Rules

    if manifest in ("crontab", "systemd"):
        common.refuse_store(f"--print {manifest}", "names a folder for locks and logs")
    settings = load_settings(conf, overrides)
    name = name or settings.name
    pods = {option: given.pop(option) for option in POD_OPTIONS}
    rules = Rules(**given)
    shared: dict[str, Any] = {
        "cron": cron,
        "zone": timezone,
        "variables": {
            **place_variables(common),
            **({} if common.address is None else {"RECURRA_ADDRESS": common.address}),
        },
    }
    if manifest == "kubernetes":
        from pipeline.jobs import kubernetes

        text = kubernetes.scheduled(
            name, settings=settings, conf=conf, overrides=overrides, rules=rules, options=pods, **shared
        )
        common.console.result(text, {"manifest": text})
        return
    shared["command"] = schedules.retrain_command(conf, overrides)
    if manifest is not None:
        from pipeline.jobs.manifests import MANIFESTS

        text = MANIFESTS[manifest](name=name, folder=Path.cwd(), **shared)
        common.console.result(text, {"manifest": text})
        return
    schedules.lead(
        name,
        model=settings.name,
        rules=rules,
        state=_place_of(state, common),
        storage=common.storage,
        console=common.console,
        signals=surroundings(common).signals,
        **shared,
    )


def _place_of(state: str | None, common: Common) -> str | None:
    """The database of the schedules; None for the file in the storage.

    Raises:
        UsageError: none was named, and the storage is an object store.
    """
    if state is None:
        common.refuse_store(
            "Schedules",
            "are kept in a SQLite file of the storage",
            hint=", or the database with --state postgresql+psycopg://host/database, or RECURRA_STATE",
        )
    return state


def _schedule_command(name: str, does: str, description: str, *parameters: Command) -> None:
    """A command over what is scheduled: a function of pipeline/jobs/schedules.py that takes the diary."""

    @with_parameters(schedule.command(name, help=description), *parameters, _state_option)
    @common_options
    def command(state: str | None, common: Common, **asked: Any) -> None:
        from pipeline.jobs import schedules

        diary = schedules.open_diary(_place_of(state, common), common.storage)
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


@with_parameters(schedule.command(), *settings_parameters, *_timetable_options)
@click.option("--from", "begin", metavar="DATE", help="ISO date or instant.  [default: now]")
@common_options
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

    load_settings(conf, overrides)
    tell(cron, timezone, begin, console=common.console)
