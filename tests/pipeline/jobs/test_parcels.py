"""What a job is sent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.load import SettingsError
from conf.schema import Settings
from pipeline.jobs import parcels
from pipeline.jobs.parcels import LeftOut, Parcel
from tests.pipeline.conftest import line_settings

PYTHON = "def read(path):\n    ...\n"


@pytest.fixture
def own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that name a module of the current folder, in which there is more than that."""
    monkeypatch.syspath_prepend(folder)
    for name in ("nets/__init__.py", "nets/deep.py", "beside.py", "notes/plan.py", "words.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(PYTHON, "utf8")
    for name in (".env", "server.pem", "my_token.txt", "rows.parquet", "old.db", ".git/config", "runs/a.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("S3CR3T-xyz", "utf8")
    (folder / "env").mkdir()
    (folder / "env" / "pyvenv.cfg").write_text("", "utf8")
    (folder / "elsewhere").symlink_to("/etc")
    (folder / "hosts.txt").symlink_to("/etc/hosts")
    return line_settings(folder / "rows.parquet", data={"format": "nets.deep:read"})


def names(parcel: Parcel) -> set[str]:
    """Those that are not Recurra's."""
    ours = ("pipeline/", "components/", "conf/", "recurra-")
    return {name for name in parcel.files if not name.startswith(ours)}


def test_settings_without_modules_of_their_own_send_recurra_alone(folder: Path) -> None:
    (folder / "beside.py").write_text(PYTHON, "utf8")
    parcel = parcels.pack(line_settings(folder / "rows.parquet"), own={"lines.yaml": b"name: lines"})
    assert names(parcel) == {"lines.yaml"}
    assert {"pipeline/cli.py", "conf/schema.py", "pipeline/templates/report.html.j2"} <= parcel.files.keys()
    assert not any("__pycache__" in name for name in parcel.files)
    assert parcel.size == sum(parcel.sizes.values()) == sum(size for _, _, size in parcel.tops)
    assert len(parcel.largest) == 10
    assert parcel.largest[0][1] == max(parcel.sizes.values())


def test_every_file_of_ours_is_sent(folder: Path, root: Path) -> None:
    parcel = parcels.pack(line_settings(folder / "rows.parquet"), own={})
    packages = ["pipeline", "components", "conf"]
    listed = subprocess.run(
        ["git", "ls-files", *packages], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert set(listed) - parcel.files.keys() == set()


@pytest.mark.slow
def test_what_is_sent_runs_where_recurra_is_not_installed(tmp_path: Path) -> None:
    parcels.pack(line_settings(tmp_path / "rows.parquet"), own={}).write(tmp_path / "job")
    code = (
        "import pipeline.run, importlib.metadata as m; "
        "print(pipeline.__file__, m.distribution('recurra').locate_file(''), m.version('recurra'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "job", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, metadata, version = done.stdout.split()
    assert Path(module).parents[1] == tmp_path / "job"
    assert Path(metadata).resolve() == tmp_path / "job" or metadata == "."
    assert version


def test_what_stands_beside_a_module_of_the_users_goes_along_but_for_data_runs_and_secrets(
    own: Settings, folder: Path
) -> None:
    parcel = parcels.pack(own, own={}, runs=folder / "runs", exclude=["notes"])
    assert names(parcel) == {"nets/__init__.py", "nets/deep.py", "beside.py", "words.txt"}
    reasons = {each.name: each.reason for each in parcel.left_out}
    assert reasons == {
        ".env": "hidden",
        ".git/": "hidden",
        "elsewhere/": "a link",
        "env/": "an environment",
        "hosts.txt": "a link",
        "my_token.txt": "a secret",
        "notes/": "excluded",
        "old.db": "data",
        "rows.parquet": "data",
        "runs/": "runs",
        "server.pem": "a secret",
    }
    parcel.write(folder / "sent")
    assert not any(b"S3CR3T" in path.read_bytes() for path in (folder / "sent").rglob("*") if path.is_file())


def test_installed_modules_are_not_sent_and_missing_ones_are_named(folder: Path) -> None:
    installed = line_settings(folder / "rows.parquet", data={"format": "rich.console:Console"})
    assert parcels.folders_named(installed) == []
    missing = line_settings(folder / "rows.parquet", data={"format": "nowhere_to_be.found:read"})
    with pytest.raises(SettingsError, match=r"data\.format: there is no module 'nowhere_to_be'"):
        parcels.pack(missing, own={})


def test_the_digest_follows_from_names_and_contents_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    one = Parcel({"x.py": tmp_path / "a", "y.py": b"y"})
    assert one.digest == Parcel({"y.py": b"y", "x.py": tmp_path / "b"}).digest
    assert one.digest != Parcel({"x.py": tmp_path / "a", "z.py": b"y"}).digest
    assert one.digest != Parcel({"x.py": tmp_path / "a", "y.py": b"other"}).digest


def test_too_much_is_refused_with_the_largest_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "MAX_BYTES", 3000)
    Parcel({"a.py": b"a" * 3000}).check()
    with pytest.raises(
        SettingsError, match=r"the package has 3\.9 KiB, at most 2\.9 KiB.*b\.py \(2\.9 KiB\)"
    ):
        Parcel({"a.py": b"a" * 1000, "b.py": b"b" * 3000}, (LeftOut("x", "data"),)).check()


@pytest.mark.parametrize(
    ("size", "shown"), [(5, "5 bytes"), (2048, "2.0 KiB"), (95 << 20, "95.0 MiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert parcels.shown_size(size) == shown
