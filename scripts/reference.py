"""Writes docs/reference from the commands and the settings schema, so that it cannot drift from them.

python scripts/reference.py            write commands.md and settings.md
python scripts/reference.py --check    write nothing; exit 1 when they are out of date
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from conf.reference import page
from pipeline.cli import recurra

FOLDER = Path(__file__).parents[1] / "docs" / "reference"

COMMANDS_HEAD = """# Commands

`recurra COMMAND --help` says the same in the terminal. Options may also be given by the environment variable
beside them. `python -m pipeline` is `recurra` where nothing is installed.

Exit codes:

| code | meaning |
|---|---|
| 0 | done: promoted, or the champion was kept because the new model is not better |
| 1 | a bug of ours |
| 2 | the settings or the data are at fault; nothing was registered |
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
    for name in sorted(recurra.commands):
        command = recurra.commands[name]
        context = click.Context(command, info_name=f"recurra {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"\n## {name}\n\n```\nrecurra {name} {usage}\n```\n\n{command.help or ''}\n"
        options = [option for option in command.params if isinstance(option, click.Option)]
        if options:
            yield "\n| option | variable | |\n|---|---|---|\n"
            yield from (_row(option, context) for option in options if not option.hidden)


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    variable = f"`{option.envvar}`" if option.envvar else ""
    record = option.get_help_record(context)
    text = record[1] if record else ""
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
