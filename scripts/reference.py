"""Writes docs/reference from the commands and the settings schema, so that it cannot drift from them.

python scripts/reference.py            write commands.md and settings.md
python scripts/reference.py --check    write nothing; exit 1 when they are out of date
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from conf.reference import page
from pipeline.cli import every_command

FOLDER = Path(__file__).parents[1] / "docs" / "reference"

TABLE_HEAD = "\n| option | variable | |\n|---|---|---|\n"
COMMANDS_HEAD = """# Commands

`recurra COMMAND --help` says the same in the terminal. Options may also be given by the environment variable
beside them. `python -m pipeline` is `recurra` where nothing is installed.

Exit codes:

| code | meaning |
|---|---|
| 0 | done: promoted, or the champion was kept because the new model is not better |
| 1 | a bug of ours |
| 2 | the settings, the data or a place to write to are at fault; nothing was registered |
| 3 | the surroundings failed (cluster or tracker unreachable, disk full): trying again may help |
| 4 | the gate refused the model: a floor was missed |
| 130 | Ctrl-C, after a checkpoint |
| 143 | SIGTERM, after a checkpoint |
"""


def pages() -> dict[Path, str]:
    """The text of every generated page by its path."""
    return {
        FOLDER / "commands.md": COMMANDS_HEAD + "".join(_sections()),
        FOLDER / "settings.md": page().rstrip("\n") + "\n",
    }


def _sections() -> Iterator[str]:
    common = _common_options()
    takers = [f"`{name}`" for name, command in every_command().items() if _names(command) >= common.keys()]
    yield f"\n## Common options\n\nTaken by {', '.join(takers)}.\n{TABLE_HEAD}"
    yield from common.values()
    for name, command in every_command().items():
        context = click.Context(command, info_name=f"recurra {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"\n## {name}\n\n```\nrecurra {name} {usage}\n```\n\n{command.help or ''}\n"
        rows = {option: row for option, row in _rows(command).items() if option not in common}
        if rows:
            yield TABLE_HEAD
            yield from rows.values()


def _common_options() -> dict[str, str]:
    """The rows that most commands share, by the option's name."""
    tables = [_rows(command) for command in every_command().values()]
    shared = Counter(row for table in tables for row in table.items())
    return {name: row for (name, row), count in shared.items() if count > 0.8 * len(tables)}


def _names(command: click.Command) -> set[str]:
    return set(_rows(command))


def _rows(command: click.Command) -> dict[str, str]:
    context = click.Context(command)
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    return {option.opts[-1]: _row(option, context) for option in options}


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    record = option.get_help_record(context)
    # Click puts parentheses around a default that is described rather than computed.
    text = re.sub(r"\[default: \((.*?)\)\]", r"[default: \1]", record[1] if record else "")
    variable = f"`{option.envvar}`" if option.envvar else ""
    return f"| {names} | {variable} | {text.replace('|', chr(92) + '|')} |\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check only compare them; the exit code."""
    stale = {
        path: text for path, text in pages().items() if not path.exists() or path.read_text("utf8") != text
    }
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"{path} is out of date: run python scripts/reference.py", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf8")
        print(f"wrote {path}", file=sys.stderr)
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
