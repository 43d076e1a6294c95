"""Commands over the versions of registered models."""

import sys
from typing import Any

import click

from pipeline.commands.options import (
    Common,
    alias_option,
    common_options,
    place_of,
)


@click.command()
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
@alias_option
@common_options
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


@click.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@click.option("--why", required=True, help="The reason, for the ledger.")
@alias_option
@common_options
def promote(name: str, version: int, why: str, alias: str, common: Common) -> None:
    """Let the alias point to VERSION, whatever its verdict was; its files are checked first."""
    from pipeline import promotions

    outcome = promotions.promote(name, version, why=why, alias=alias, **place_of(common))
    promotions.show(outcome, console=common.console)


@click.command()
@click.argument("name")
@click.option("--why", default="rolled back", show_default=True, help="The reason, for the ledger.")
@click.option("--again", is_flag=True, help="Go one version further back, right after another rollback.")
@click.option(
    "--to", type=click.IntRange(1), metavar="VERSION", help="Back to this one, which was there before."
)
@alias_option
@common_options
def rollback(name: str, why: str, again: bool, to: int | None, alias: str, common: Common) -> None:
    """Let the alias point to the version before the present one, as the ledger tells."""
    from pipeline import promotions

    outcome = promotions.rollback(name, why=why, alias=alias, again=again, to=to, **place_of(common))
    promotions.show(outcome, console=common.console)


@click.command()
@click.argument("name")
@click.option(
    "--keep", required=True, type=click.IntRange(1), metavar="N", help="The newest N versions stay."
)
@click.option("--runs", is_flag=True, help="Remove also run folders that are older than those versions.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, and how many bytes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
def prune(name: str, keep: int, runs: bool, dry_run: bool, yes: bool, common: Common) -> None:
    """Remove old versions with their files; never one with an alias, nor the one before it."""
    from pipeline import prunes

    def go(*, dry_run: bool) -> dict[str, Any]:
        return prunes.prune(name, keep=keep, runs=runs, dry_run=dry_run, **place_of(common))

    if not dry_run and not yes:
        if common.console.as_json or not sys.stdin.isatty():
            raise click.UsageError("Nobody can be asked here: give --dry-run, or --yes to remove.")
        prunes.show(go(dry_run=True), console=common.console)
        click.confirm("Remove them?", abort=True, err=True)
    prunes.show(go(dry_run=dry_run), console=common.console)
