"""Commands that run the pipeline, whole or up to a stage, now or when there is a reason."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import (
    GATE_REFUSED,
    Command,
    Common,
    Real,
    common_options,
    gpu_option,
    load_settings,
    override_option,
    search_options,
    settings_parameters,
    surroundings,
    with_parameters,
)

MAX_FOLDS = 100


def _run_until(
    stage: str, conf: Sequence[Path], overrides: Sequence[str], *, common: Common, **asked: Any
) -> None:
    """Run up to a stage; `asked` are fields of Surroundings."""
    from pipeline.outcomes import as_data, show
    from pipeline.run import execute

    around = surroundings(common, **asked)
    outcome = as_data(execute(load_settings(conf, overrides), until=stage, around=around))
    show(outcome, console=common.console)
    if outcome["verdict"] == "rejected":
        sys.exit(GATE_REFUSED)


@with_parameters(click.command(), *settings_parameters)
@click.option(
    "--folds",
    type=click.IntRange(2, MAX_FOLDS),
    metavar="K",
    help="Cross-validate instead: prepare, train and evaluate K folds in turn; nothing is registered.",
)
@with_parameters(gpu_option, *search_options, override_option)
@common_options
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

    around = surroundings(common, **asked)
    found = run_folds(load_settings(conf, overrides), folds, around=around)
    show(found, console=common.console)


def _stage_command(name: str, description: str, *options: Command) -> click.Command:
    @with_parameters(click.command(name, help=description), *settings_parameters, *options)
    @common_options
    def command(conf: Sequence[Path], overrides: Sequence[str], common: Common, **asked: Any) -> None:
        _run_until(name, conf, overrides, common=common, **asked)

    return command


prepare = _stage_command("prepare", "Check the data, split it and fit its encoding.")
tune = _stage_command(
    "tune", "Search over settings (`tune` in CONF), and keep the best trial.", gpu_option, *search_options
)
train = _stage_command("train", "Train the network, and freeze its best epoch.", gpu_option, *search_options)
evaluate = _stage_command(
    "evaluate",
    "Score the frozen model on the held-out rows, beside simple baselines.",
    gpu_option,
    *search_options,
)
register = _stage_command(
    "register",
    "Register the model in MLflow, and promote it if it passes its gate and beats the champion.",
    gpu_option,
    *search_options,
    override_option,
)


@with_parameters(click.command(), *settings_parameters)
@click.option("--force", is_flag=True, help="Run without a reason, too.")
@click.option("--dry-run", is_flag=True, help="Only say whether there is a reason.")
@gpu_option
@common_options
def retrain(
    conf: Sequence[Path], overrides: Sequence[str], force: bool, dry_run: bool, common: Common, **asked: Any
) -> None:
    """Run only if there is a reason (`retrain` in CONF): new rows, drift, score, age; promote if better."""
    from pipeline.jobs.processes import in_slot
    from pipeline.jobs.retrain import retrain as look_and_run
    from pipeline.jobs.retrain import show

    around = surroundings(common, **asked)
    with in_slot(common.storage) as slot:
        outcome = look_and_run(
            load_settings(conf, overrides), around=around, force=force, dry_run=dry_run, slot=slot
        )
    show(outcome, console=common.console)
    if outcome["verdict"] == "rejected":
        sys.exit(GATE_REFUSED)


@with_parameters(click.command())
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1)
@settings_parameters[1]
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Also write it as a page, with charts.",
)
@common_options
def drift(
    conf: Path, data: Sequence[str], overrides: Sequence[str], report: Path | None, common: Common
) -> None:
    """How DATA differs from the rows that CONF's champion was trained on.  [default: its new files]"""
    from pipeline.jobs.drift import look, show, write_report

    settings = load_settings([conf], overrides)
    found = look(settings, list(data), storage=common.storage, tracking_uri=common.tracking_uri)
    if report is not None:
        found["report"] = str(write_report(found, report))
    show(found, console=common.console)


@click.command()
@click.argument("model")
@click.option(
    "--tolerance",
    default=1e-6,
    show_default=True,
    type=Real(0, 1),
    help="How far a score, a loss or a probability may be from the recorded one.",
)
@click.option(
    "--data", multiple=True, metavar="PATH", help="Where the data lie now, if they have moved; repeatable."
)
@common_options
def reproduce(model: str, tolerance: float, data: Sequence[str], common: Common) -> None:
    """Train MODEL again from its recorded settings, data and seed; compare, and say what differs."""
    from pipeline.reproduction import exit_code, show
    from pipeline.reproduction import reproduce as train_again

    found = train_again(model, tolerance=tolerance, data=data, around=surroundings(common))
    show(found, console=common.console)
    sys.exit(exit_code(found))
