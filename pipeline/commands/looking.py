"""Commands that look: at data, settings, what a run would do, what is installed."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.commands.options import (
    Common,
    Real,
    common_options,
    console_of,
    json_option,
    load_settings,
    quiet_option,
    settings_parameters,
    surroundings,
    verbose_option,
    with_parameters,
)


@click.command()
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Settings file to write.")
@click.option("--force", is_flag=True, help="Replace the settings file if it is there.")
@json_option
@quiet_option
@verbose_option
def inspect(
    data: Sequence[str], out: Path | None, force: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Look at DATA: columns, kinds, lengths, labels, problems; propose settings that run."""
    from pipeline.stages import inspect as stage

    console = console_of(as_json=as_json, quiet=quiet, verbose=verbose)
    report = stage.inspect(list(data), out=out, force=force, console=console)
    stage.show(report, out=out, console=console)


@with_parameters(click.command(), *settings_parameters)
@click.option(
    "--problems",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON Lines file for every single problem of the data, not only the first ones.",
)
@click.option(
    "--sample",
    default=1.0,
    show_default=True,
    type=Real(0, 1, min_open=True),
    help="Share of the data to look at; of less than all, only faults of single rows are found.",
)
@common_options
def check(
    conf: Sequence[Path], overrides: Sequence[str], problems: Path | None, sample: float, common: Common
) -> None:
    """Settings, data, cluster and tracker: every problem at once, nothing started."""
    from pipeline.checks import check as check_all

    found = check_all(load_settings(conf, overrides), surroundings(common), problems=problems, sample=sample)
    text = "No problems found." if not found else ""
    common.console.result(text, {"problems": [dataclasses.asdict(each) for each in found]})
    if found:
        for each in found:
            common.console.error(f"{each.place}: {each.message}", each.hint)
        # 3 would say that a retry may help, which it does not while the settings or the rows are wrong.
        sys.exit(min(each.exit_code for each in found))


@with_parameters(click.command(), *settings_parameters)
@common_options
def plan(conf: Sequence[Path], overrides: Sequence[str], common: Common) -> None:
    """Which stages would run or be reused, and why."""
    from pipeline.run import plan as make_plan

    planned = make_plan(
        load_settings(conf, overrides), storage=common.storage, tracking_uri=common.tracking_uri
    )
    rows = [
        {"name": stage.name, "status": "reuse" if stage.source else "run", "reason": stage.reason}
        for stage in planned.stages
    ]
    if common.console.as_json:
        common.console.result("", {"stages": rows})
    else:
        common.console.table("", ["stage", "would", "because"], [list(row.values()) for row in rows])


@click.command()
@click.argument("run_folder", metavar="RUN")
@click.option("--open", "open_it", is_flag=True, help="Show it in the browser.")
@common_options
def report(run_folder: str, open_it: bool, common: Common) -> None:
    """Path of a run's HTML report; RUN is a run folder, a run id or a model's name (its newest run)."""
    from pipeline.outcomes import find_report

    path = find_report(run_folder, storage=common.storage)
    common.console.result(str(path), {"report": str(path)})
    if open_it:
        click.launch(path.as_uri())


@click.command()
@click.argument("conf", nargs=-1, type=click.Path(path_type=Path), metavar="[CONF]...")
@settings_parameters[1]
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
@common_options
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

    rows, healthy = examine(surroundings(common))
    if common.console.as_json:
        common.console.result("", {"healthy": healthy, "facts": rows})
    else:
        common.console.table("", ["what", "found"], [[row["what"], row["found"]] for row in rows])
        for row in rows:
            if row["status"] == "open":
                common.console.warn(f"{row['what']}: {row['found']}. {row['hint']}")
    sys.exit(0 if healthy else 3)


def _measure_scaling(
    conf: Sequence[Path], overrides: Sequence[str], devices: str | None, *, common: Common
) -> None:
    from pipeline.scaling import scaling, show

    # As one more setting, it is checked and refused like the others.
    changed = [*overrides, *([] if devices is None else [f"train.devices={devices}"])]
    found = scaling(
        load_settings(conf, overrides),
        surroundings(common),
        devices=load_settings(conf, changed).train.devices,
    )
    show(found, console=common.console)


@click.command()
@click.option("--reference", is_flag=True, help="A Markdown page instead of the JSON Schema.")
def schema(reference: bool) -> None:
    """The JSON Schema of the settings files, for editors."""
    import json

    from conf.load import json_schema
    from conf.reference import page

    click.echo(page() if reference else json.dumps(json_schema(), indent=1))
