"""The scripts say what they need, and do nothing twice."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.reliability import COMMAND

STATED = ("setup.cfg", "pyproject.toml", "constraints.txt")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """A checkout with nothing installed and nothing but what scripts/setup reads."""
    for name in STATED:
        shutil.copy(root / name, tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "setup", tmp_path / "scripts")
    return tmp_path


def set_up(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"} | variables
    command = [checkout / "scripts" / "setup", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def installed(checkout: Path, extras: str) -> None:
    """An environment that carries the mark of a finished installation."""
    venv.create(checkout / ".venv", with_pip=False, symlinks=True)
    digest = hashlib.sha256(b"".join((checkout / name).read_bytes() for name in STATED)).hexdigest()
    (checkout / ".venv" / "recurra-installed").write_text(f"{digest} {extras}\n", "utf8")


def test_setup_names_the_pythons_it_looked_for(checkout: Path) -> None:
    done = set_up(checkout, PYTHON="python-of-tomorrow")
    assert done.returncode == 2
    assert "found no Python 3.11, 3.12 or 3.13 as python-of-tomorrow" in done.stderr
    assert not (checkout / ".venv").exists()


def test_setup_refuses_an_argument_it_does_not_know(checkout: Path) -> None:
    done = set_up(checkout, "everything")
    assert done.returncode == 2
    assert "unknown argument 'everything', expected nothing or 'dev'" in done.stderr


@pytest.mark.parametrize(("extras", "argument"), [("plain", ""), ("dev", ""), ("dev", "dev")])
def test_setup_does_nothing_when_all_is_installed(checkout: Path, extras: str, argument: str) -> None:
    installed(checkout, extras)
    done = set_up(checkout, *filter(None, [argument]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("cause", ["other pins", "tools for tests are missing"])
def test_setup_installs_when_something_is_missing(checkout: Path, cause: str) -> None:
    installed(checkout, "plain")
    if cause == "other pins":
        (checkout / "constraints.txt").write_text("click==8.5.1\n", "utf8")
    done = set_up(checkout, *(["dev"] if "tools" in cause else []))
    # This environment has no pip: that it is asked for is all there is to see without a network.
    assert "Installing Recurra" in done.stderr
    assert done.returncode != 0


def test_setup_will_not_replace_an_environment_of_another_python(checkout: Path, tmp_path: Path) -> None:
    installed(checkout, "plain")
    other = tmp_path / "python"
    version = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    other.write_text(f"#!/bin/sh\necho {version}\n", "utf8")
    other.chmod(0o755)
    done = set_up(checkout, PYTHON=str(other))
    assert done.returncode == 2
    assert "Remove .venv to have it made anew" in done.stderr


def test_the_command_of_the_fault_suite_is_one_that_pytest_takes(root: Path) -> None:
    # As two words, the page's path would be taken for the tests to run once the page is there.
    program, *arguments = COMMAND.split()
    assert program == "scripts/test"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--seed", "7", "--markers"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "@pytest.mark.fault" in done.stdout
