"""The command line: every command in the order of use, and what becomes of errors.

recurra run CONF          errors become a message, a hint and an exit code in one place: `main`
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from pipeline.commands import answering, looking, registry, running, scheduling, submitting
from pipeline.commands.options import InOrder, console_of

COMMANDS = (
    looking.inspect,
    looking.check,
    looking.plan,
    running.run,
    running.prepare,
    running.tune,
    running.train,
    running.evaluate,
    running.register,
    running.retrain,
    running.drift,
    scheduling.schedule,
    submitting.submit,
    submitting.jobs,
    submitting.logs,
    submitting.stop,
    answering.predict,
    answering.serve,
    registry.models,
    registry.promote,
    registry.rollback,
    registry.prune,
    looking.report,
    running.reproduce,
    looking.doctor,
    looking.schema,
)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="recurra")
def recurra() -> None:
    """Recurrent networks, retrained on schedule: raw sequences to a registered, gated model."""


for _command in COMMANDS:
    recurra.add_command(_command)


def every_command() -> dict[str, click.Command]:
    """Each command by what is written for it; a group stands for the one it starts when none is named."""
    found: dict[str, click.Command] = {}
    for name, command in recurra.commands.items():
        if isinstance(command, click.Group):
            found[name] = command.commands[scheduling.STARTED]
            found |= {
                f"{name} {each}": inner
                for each, inner in command.commands.items()
                if each != scheduling.STARTED
            }
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
    console_of(as_json=as_json, quiet=False, verbose=False).error(str(error), error.hint)
    _end(str(error), error.hint, error.exit_code, as_json=as_json)


def _end(message: str, hint: str, exit_code: int, *, as_json: bool) -> None:
    if as_json:
        console_of(as_json=True, quiet=False, verbose=False).result(
            "", {"error": message, "hint": hint, "exit_code": exit_code}
        )
    sys.exit(exit_code)
