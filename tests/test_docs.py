"""The documents are true: generated pages are fresh, links lead somewhere, every name in them exists."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from ruamel.yaml import YAML

from conf.schema import DropoutSettings, ModelSettings, Section, Settings, TrainSettings
from pipeline.cli import every_command

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
OUR_PATH = re.compile(r"`((?:benchmarks|components|conf|docs|examples|pipeline|scripts|tests)/[\w./-]+)`")
COMMAND_LINE = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?recurra ([a-z]+)(.*)$", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def test_the_reference_is_what_the_commands_and_the_schema_say(root: Path) -> None:
    command = [sys.executable, "scripts/reference.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_between_documents_lead_somewhere(root: Path) -> None:
    broken = []
    for document in documents(root):
        for target in LINK.findall(document.read_text("utf8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(root)}: {target}")
    assert not broken


def test_files_of_the_checkout_that_are_named_exist(root: Path) -> None:
    missing = []
    for document in documents(root):
        for name in OUR_PATH.findall(document.read_text("utf8")):
            if not (root / name).exists():
                missing.append(f"{document.relative_to(root)}: {name}")
    assert not missing


def test_every_page_can_be_reached_from_the_index(root: Path) -> None:
    reached, waiting = set(), [root / "docs" / "index.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = LINK.findall(page.read_text("utf8"))
        waiting += [page.parent / target for target in targets if "://" not in target]
    assert {page.resolve() for page in (root / "docs").rglob("*.md")} <= reached


def test_every_command_and_option_is_named(root: Path) -> None:
    text = (root / "docs" / "reference" / "commands.md").read_text("utf8")
    for name, command in every_command().items():
        assert f"\n## {name}\n" in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{option}`" in text for option in parameter.opts), name


def test_commands_shown_exist_with_their_options(root: Path) -> None:
    commands = every_command()
    for document in documents(root):
        for name, rest in COMMAND_LINE.findall(document.read_text("utf8")):
            inner = f"{name} {rest.split()[0]}" if rest.split() else name
            command = commands.get(inner) or commands.get(name)
            assert command is not None, f"{document.name}: recurra {name}"
            known = {option for parameter in command.params for option in parameter.opts}
            for option in re.findall(r"(?<= )--?[a-z-]+", rest.partition("#")[0]):
                assert option in known | {"--help"}, f"{document.name}: recurra {name} {option}"


def keys_named(text: str) -> Iterator[str]:
    """Dotted keys of the settings page: its headings are sections, its first column their keys."""
    above = ""
    for line in text.splitlines():
        if line.startswith("## "):
            above = "" if line == "## At the top" else line.removeprefix("## ").partition(" (")[0] + "."
        elif found := re.match(r"\| `(\w+)` \|", line):
            yield above + found.group(1)


def keys(model: type[Section], above: str = "") -> Iterator[str]:
    """Dotted keys of all settings, as a user writes them."""
    for name, field in model.model_fields.items():
        key = above + (field.alias or name)
        yield key
        for inner in sections(field.annotation):
            yield from keys(inner, f"{key}.")


def sections(annotation: object) -> Iterator[type[Section]]:
    """The sections in a type, those of unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from sections(argument)


BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS: dict[str, Any] = {
    "name": "words",
    "task": "labelling",
    "data": {
        "path": "words.parquet",
        "inputs": [{"column": "frames"}],
        "split": {"column": "fold", "valid": [1], "test": [0]},
    },
}


def test_settings_shown_for_networks_are_taken(root: Path) -> None:
    text = (root / "docs" / "guides" / "networks.md").read_text("utf8")
    shown = [YAML(typ="safe").load(block) for block in BLOCK.findall(text)]
    assert len(shown) > 10
    for block in shown:
        scheme = "none" if block.get("task") == "classification" else "BIO"
        data = {**WORDS["data"], "target": {"column": "labels", "scheme": scheme}, **block.pop("data", {})}
        assert Settings.model_validate({**WORDS, "data": data, **block})


def test_every_setting_of_networks_and_training_has_its_place_in_the_guide(root: Path) -> None:
    text = (root / "docs" / "guides" / "networks.md").read_text("utf8")
    names = [*ModelSettings.model_fields, *TrainSettings.model_fields]
    names += [f"dropout.{name}" for name in DropoutSettings.model_fields]
    missing = [name for name in names if not re.search(rf"`{name}\b", text)]
    assert not missing


def test_every_setting_is_named(root: Path) -> None:
    text = (root / "docs" / "reference" / "settings.md").read_text("utf8")
    assert set(keys(Settings)) == set(keys_named(text))


def test_every_test_that_a_page_names_is_there(root: Path) -> None:
    defined = {
        node.name
        for path in (root / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for page in sorted((root / "docs").rglob("*.md")):
        for name in re.findall(r"\b(test_\w+)(?![\w.])", page.read_text("utf8")):
            stem = name.removeprefix("test_")
            is_file = any((root / "tests").rglob(f"test_{stem}.py"))
            assert name in defined or is_file, f"{page.relative_to(root)} names {name}"
