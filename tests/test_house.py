"""The house stands as drawn: layers, mirrored tests, imports that do nothing, docs that name everything."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from conf.schema import Section, Settings
from conf.spaces import Dimension
from tests.reliability import FAULTS

PACKAGES = ("pipeline", "components", "conf")
SCRIPTS = (".ci/run", "docker/make-secrets", "scripts/demo", "scripts/setup", "scripts/test")
MAX_FUNCTION_LINES = 60
SHIPPED_IMPORTS = sys.stdlib_module_names | {"numpy", "tensorflow"}
SLOW_TO_IMPORT = ("tensorflow", "keras", "ray", "mlflow", "pandas", "sklearn")
MACHINE_PATH = re.compile(r"/(?:home|Users|root|work)/[\w.-]+/")


def modules(root: Path) -> Iterator[Path]:
    """Every module of the three packages, relative to the checkout."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield path.relative_to(root)


def tracked(root: Path) -> list[Path]:
    """The files of the repository, those not yet committed too."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [root / name for name in listed.split("\0") if name and (root / name).exists()]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf8"), filename=str(path))


def run_python(*arguments: str, folder: Path) -> str:
    """What a fresh interpreter prints; fails with its stderr."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_arrows_between_modules_point_down(root: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_its_tests_in_the_same_place(root: Path) -> None:
    missing = [
        str(module)
        for module in modules(root)
        if module.stem not in ("__init__", "__main__")
        and not (root / "tests" / module.parent / f"test_{module.name}").exists()
    ]
    assert not missing


def test_every_test_file_mirrors_a_module_or_a_package(root: Path) -> None:
    stray = [
        str(path.relative_to(root))
        for package in PACKAGES
        for path in (root / "tests" / package).rglob("test_*.py")
        for mirrored in [root / path.parent.relative_to(root / "tests") / path.name.removeprefix("test_")]
        if not mirrored.exists() and not (mirrored.with_suffix("") / "__init__.py").exists()
    ]
    assert not stray


def test_packages_have_an_init_and_tests_and_docker_have_none(root: Path) -> None:
    for module in modules(root):
        assert (root / module.parent / "__init__.py").exists(), module
    for folder in ("tests", "docker"):
        assert not list((root / folder).rglob("__init__.py"))


def test_nothing_loads_a_model_through_mlflow_but_the_proof_which_compares_its_files_first(
    root: Path,
) -> None:
    # MLflow's loaders import a model's code before anything of it is compared with a checksum.
    loaders = re.compile(r"\bload_model\(|\bload_pyfunc\(|\bspec_from_file_location\(")
    found = [
        path
        for folder in ("pipeline", "components", "conf")
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".py", ".txt") and loaders.search(path.read_text("utf8"))
    ]
    assert [path.name for path in found] == ["prove_model.py.txt", "pyfunc_model.py.txt"]
    proof = found[0].read_text("utf8")
    assert proof.count("load_model(") == 1
    assert proof.index("check(folder, ") < proof.index("load_model(")


def test_help_loads_nothing_slow(root: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('loaded', [name for name in {SLOW_TO_IMPORT} if name in sys.modules])"
    )
    out = run_python("-c", code, folder=root)
    assert "Usage:" in out
    assert out.strip().endswith("loaded []")


@pytest.mark.slow
def test_importing_a_module_leaves_no_file_behind(root: Path, tmp_path: Path) -> None:
    paths = [module for module in modules(root) if module.stem != "__main__"]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    here = tmp_path / "here"
    here.mkdir()
    subprocess.run(
        [sys.executable, "-B", "-c", f"import importlib\nfor name in {names}: importlib.import_module(name)"],
        cwd=here,
        # Keras and matplotlib write settings and caches of their own into the home folder.
        env={**os.environ, "PYTHONPATH": str(root), "HOME": str(tmp_path)},
        check=True,
        timeout=300,
    )
    assert not list(here.iterdir())


def test_no_function_is_longer_than_a_page(root: Path) -> None:
    long = [
        f"{module}:{node.lineno} {node.name}: {length} lines"
        for module in modules(root)
        for node in ast.walk(tree(root / module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long


def test_only_strategy_and_steps_touch_distribution(root: Path) -> None:
    allowed = {Path("components/training/strategy.py"), Path("components/training/steps.py")}
    touching = {
        module
        for module in modules(root)
        for node in ast.walk(tree(root / module))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("tf.distribute")
    }
    assert touching <= allowed


def test_what_ships_with_a_model_imports_only_numpy_tensorflow_and_itself(root: Path) -> None:
    for path in (root / "components" / "served").glob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                assert name.partition(".")[0] in SHIPPED_IMPORTS, f"{path.name}: {name}"


def attributes_read(root: Path) -> set[str]:
    """Every attribute name read in the code, the schema itself left out."""
    return {
        node.attr
        for module in modules(root)
        if module.parts[0] != "conf"
        for node in ast.walk(tree(root / module))
        if isinstance(node, ast.Attribute)
    }


def fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a section and of the sections in it, by attribute."""
    for name, field in model.model_fields.items():
        if model is not Dimension:  # its kinds are read as what they come to: low, high and values
            yield name, field
        for inner in parts(field.annotation):
            if isinstance(inner, type) and issubclass(inner, Section):
                yield from fields(inner)


def parts(annotation: object) -> Iterator[object]:
    """An annotation and everything in its brackets."""
    yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def has_one_legal_value(field: FieldInfo) -> bool:
    if get_origin(field.annotation) is Literal:
        return len(get_args(field.annotation)) == 1
    always_empty = any(getattr(limit, "max_length", None) == 0 for limit in field.metadata)
    return always_empty or field.annotation is type(None)


def test_every_setting_is_read_by_some_code(root: Path) -> None:
    read = attributes_read(root)
    chosen = {name for name, field in fields(Settings) if not has_one_legal_value(field)}
    unread = sorted(chosen - read)
    assert not unread


def test_the_pins_hold_no_address(root: Path) -> None:
    for line in (root / "constraints.txt").read_text("utf8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[\w.]+", line), line


def test_no_path_of_somebodys_machine_is_in_the_repository(root: Path) -> None:
    found = []
    for path in tracked(root):
        if path.suffix in (".parquet", ".png", ".svg"):
            continue
        for number, line in enumerate(path.read_text("utf8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(root: Path, name: str) -> None:
    path = root / name
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


def test_every_fault_of_the_table_has_a_test(root: Path) -> None:
    named = {
        row
        for path in (root / "tests").rglob("test_*.py")
        for row in re.findall(r"mark\.fault\(\"([^\"]+)\"\)", path.read_text("utf8"))
    }
    assert named == set(FAULTS)
