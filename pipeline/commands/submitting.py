"""Commands over jobs of a Ray cluster: submit one, list them, show a log, stop one."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pipeline.commands.options import (
    POD_OPTIONS,
    Common,
    Real,
    common_options,
    gpu_option,
    install_signals,
    kubernetes_options,
    load_settings,
    override_option,
    place_variables,
    search_options,
    settings_parameters,
    with_parameters,
)

SUBMITTED = ("run", "retrain", "prepare", "tune", "train", "evaluate", "register")
# Which of the commands that can be submitted take which options.
TAKE_GPU = ("run", "retrain", "tune", "train", "evaluate", "register")
TAKE_SEARCH = ("run", "tune", "train", "evaluate", "register")
TAKE_OVERRIDE = ("run", "register")
NO_ADDRESS = "Name the cluster's dashboard with --address http://HOST:8265."

_job_argument = click.argument("job", metavar="ID")


@with_parameters(click.command(), *settings_parameters)
@click.option(
    "--command",
    type=click.Choice(SUBMITTED),
    default="run",
    show_default=True,
    help="Which command the cluster is to run.",
)
@with_parameters(gpu_option, *search_options, override_option)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A variable that the cluster must have; only its name is sent. Repeatable.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave files beside your own modules out of the package, as in 'notes/*'. Repeatable.",
)
@click.option("--python", default="python", show_default=True, help="The interpreter on the cluster.")
@click.option(
    "--stop-grace",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds that the job has to checkpoint when it is stopped; Ray then kills it.",
)
@click.option("--new", is_flag=True, help="Another job, although the same was submitted before.")
@click.option("--retry", is_flag=True, help="Again, although the same failed before.")
@click.option("--no-follow", "--no-wait", "no_follow", is_flag=True, help="Return once the job is submitted.")
@click.option(
    "--cancel-on-interrupt", is_flag=True, help="Ctrl-C and SIGTERM stop the job instead of leaving it."
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent; touch nothing.")
@click.option(
    "--print",
    "manifest",
    type=click.Choice(["kubernetes"]),
    help="Print a RayJob that does the same on Kubernetes instead.",
)
@with_parameters(*kubernetes_options)
@common_options
def submit(
    conf: Sequence[Path],
    overrides: Sequence[str],
    command: str,
    secrets: Sequence[str],
    exclude: Sequence[str],
    python: str,
    stop_grace: int,
    no_follow: bool,
    dry_run: bool,
    manifest: str | None,
    common: Common,
    **asked: Any,
) -> None:
    """Send a command to a Ray cluster as a job, through its dashboard (--address http://host:8265)."""
    pods = {option: asked.pop(option) for option in POD_OPTIONS}
    if manifest is not None:
        words = _options(command, asked)
        _print(conf, overrides, command, words, pods=pods, stop_grace=stop_grace, common=common)
        return
    from pipeline.jobs import submissions
    from pipeline.jobs.submit import Manner, show
    from pipeline.jobs.submit import submit as send

    install_signals()
    wanted = submissions.Wanted(
        conf=conf,
        overrides=overrides,
        command=command,
        options=_options(command, asked),
        variables=place_variables(common),
        secrets=secrets,
        exclude=exclude,
        stop_seconds=stop_grace,
        python=python,
        as_json=common.console.as_json,
    )
    if not dry_run and common.address is None:
        raise click.UsageError(NO_ADDRESS)
    submission = submissions.make(wanted, runs=common.storage, touch_nothing=dry_run)
    if dry_run:
        show(submission, console=common.console)
        return
    manner = Manner(
        new=asked["new"],
        retry=asked["retry"],
        wait=not no_follow,
        cancel_on_interrupt=asked["cancel_on_interrupt"],
        require_gpu=asked["require_gpu"],
    )
    sys.exit(send(submission, address=common.address or "", manner=manner, console=common.console))


def _print(
    conf: Sequence[Path],
    overrides: Sequence[str],
    command: str,
    words: Sequence[str],
    *,
    pods: Mapping[str, Any],
    stop_grace: int,
    common: Common,
) -> None:
    from pipeline.jobs import kubernetes

    settings = load_settings(conf, overrides)
    # A RayJob does not change once it is there, so each one printed has a name of its own.
    text = kubernetes.submitted(
        f"{settings.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        settings=settings,
        conf=conf,
        overrides=overrides,
        variables=place_variables(common),
        options=pods,
        command=command,
        arguments=words,
        stop_grace=float(stop_grace),
    )
    common.console.result(text, {"manifest": text})


def _options(command: str, asked: Mapping[str, Any]) -> list[str]:
    """The options of the command that is sent.

    Raises:
        click.UsageError: it takes none of that name.
    """
    given = {
        "--require-gpu": (TAKE_GPU, asked["require_gpu"]),
        "--new-search": (TAKE_SEARCH, asked["new_search"]),
        "--reuse": (TAKE_SEARCH, asked["reuse"]),
        "--override": (TAKE_OVERRIDE, asked["override"]),
    }
    words: list[str] = []
    for option, (takers, value) in given.items():
        if value in (None, False):
            continue
        if command not in takers:
            raise click.UsageError(f"{option} is nothing for `recurra {command}`.")
        words += [option] if value is True else [option, value]
    return words


@click.command()
@common_options
def jobs(common: Common) -> None:
    """The jobs of a cluster: how they are, or how they ended."""
    from pipeline.jobs.submit import show_jobs

    show_jobs(_address(common), console=common.console)


@with_parameters(click.command(), _job_argument)
@click.option("-f", "--follow", "follow_it", is_flag=True, help="Until it ends, and with its exit code.")
@common_options
def logs(job: str, follow_it: bool, common: Common) -> None:
    """What a job has said."""
    from pipeline.jobs.submit import show_log

    install_signals()
    sys.exit(show_log(_address(common), job, follow_it=follow_it, console=common.console))


@with_parameters(click.command(), _job_argument)
@click.option(
    "--grace",
    type=Real(0),
    help="Seconds to wait for it to end; no more than it was given.  [default: its --stop-grace]",
)
@common_options
def stop(job: str, grace: float | None, common: Common) -> None:
    """Ask a job to checkpoint and end, and wait for that."""
    from pipeline.jobs.submit import stop as end

    install_signals()
    end(_address(common), job, grace=grace, console=common.console)


def _address(common: Common) -> str:
    if common.address is None:
        raise click.UsageError(NO_ADDRESS)
    return common.address
