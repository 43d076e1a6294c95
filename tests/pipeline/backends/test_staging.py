"""Files of a folder on machines that do not see it; here a wrong token makes one of this machine."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import DataError, StorageError
from pipeline.backends import staging
from pipeline.backends.cluster import Cluster, WorkerLost
from pipeline.backends.staging import Depot, Packed, Shared


@dataclasses.dataclass(frozen=True)
class Piece:
    path: str
    rows: tuple[int, ...]


def test_paths_below_the_folder_become_those_of_the_other_side_and_nothing_else_does() -> None:
    value = {
        "path": Path("/a/run/data"),
        "piece": Piece("/a/run/.prepare-1/rows.arrow", (1, 2)),
        "folder": "/a/run",
        "beside": ["/a/running/data", Path("/a/other"), "the text /a/run/data", 7, None],
    }
    seen: list[str] = []
    named: list[str] = []
    there = Packed.of(value, "/a/run", named.append).opened("/b", seen.append)
    assert there == {
        "path": Path("/b/data"),
        "piece": Piece("/b/.prepare-1/rows.arrow", (1, 2)),
        "folder": "/b",
        "beside": value["beside"],
    }
    assert seen == named == ["data", ".prepare-1/rows.arrow", ""]
    assert Packed.of(there, "/b").opened("/a/run") == value


def test_what_is_committed_together_appears_together_and_stays_in_the_folder(tmp_path: Path) -> None:
    depot = Depot(str(tmp_path))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").write_bytes(b"old")
    for name, content in (("new/one", b"1"), ("new/two", b"2"), ("new/two", b"22")):
        depot.write("key", name, content)
    assert not (tmp_path / "new").exists()
    depot.commit("key", ["new/one", "new/two"], ["old/file"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {
        "one": b"1",
        "two": b"222",
    }
    assert not (tmp_path / "old").exists()
    assert depot.listing(["new/one", "new", "none"])["none"] is None
    assert depot.read("new/two", 1) == b"22"
    assert depot.read("new/two", 3) == b""
    for name in ("new/one", "new/two", "top"):
        depot.write("again", name, b"3")
    depot.commit("again", ["new/one", "new/two", "top"], [])
    assert {path.read_bytes() for path in (tmp_path / "new").iterdir()} == {b"3"}
    depot.write("part", "new/one", b"4")
    depot.commit("part", ["new/one"], [])
    assert sorted(path.read_bytes() for path in (tmp_path / "new").iterdir()) == [b"3", b"4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging", "new", "top"]
    for name in ("../outside", "/etc/passwd", "new/../../outside"):
        with pytest.raises(StorageError, match="leads out of"):
            depot.read(name, 0)
        with pytest.raises(StorageError, match="leads out of"):
            depot.write("key", name, b"")
    assert not (tmp_path.parent / "outside").exists()


def test_folders_of_processes_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging.tempfile, "tempdir", str(tmp_path))
    shared = Shared("/nowhere", "token", None)
    with staging.staged(shared) as one:
        (one.folder / "file").touch()
        stale = one.folder.parent / "stale"
        stale.mkdir()
        for folder in (stale, one.folder):
            os.utime(folder, (0, 0))
        with staging.staged(shared):
            assert one.folder.exists()
            assert not stale.exists()
    assert list(one.folder.parent.iterdir()) == []


# With Ray

slow = pytest.mark.slow


def note(*, data: Path, piece: Piece, scratch: str, target: Path, stop: Path) -> tuple[Piece, list[str]]:
    """Read what was brought, and write beside it."""
    seen = sorted(path.relative_to(data.parent).as_posix() for path in data.parent.rglob("*"))
    made = Path(scratch) / "made.arrow"
    made.write_bytes(Path(piece.path).read_bytes() * 2)
    target.write_text("".join(sorted(path.read_text() for path in data.iterdir())))
    (data / "gone").unlink(missing_ok=True)
    return Piece(str(made), piece.rows), seen


def count(*, checkpoints: Path, stop: Path) -> Iterator[tuple[int, bool]]:
    """Replace a checkpoint with each item, until told to stop."""
    first = int(next(checkpoints.glob("step-*"), Path("step-0")).name.partition("-")[2])
    for step in range(first + 1, first + 200):
        for old in checkpoints.glob("step-*"):
            (old / "state").unlink()
            old.rmdir()
        (checkpoints / f"step-{step}").mkdir()
        (checkpoints / f"step-{step}" / "state").write_bytes(bytes([step]) * step)
        stopped = stop.exists()
        yield step, stopped
        if stopped:
            return
        time.sleep(0.1)


def refuse(*, data: Path) -> None:
    (data / "written").touch()
    raise DataError("Bad rows.")


class Away(Cluster):
    """All of whose processes take a folder for another machine's."""

    away: Shared | None = None

    @property
    def shared(self) -> Shared | None:
        return self.away


@pytest.fixture(scope="module")
def away() -> Iterator[Away]:
    with Away(address=None, num_cpus=1) as cluster:
        yield cluster


@pytest.fixture
def cluster(away: Away, tmp_path: Path) -> Iterator[Cluster]:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    for name in ("a", "b", "gone"):
        (run / "data" / name).write_text(name)
    (run / ".prepare").mkdir()
    (run / ".prepare/rows.arrow").write_bytes(b"rows")
    (run / ".prepare/others").touch()
    folder = staging.Folder(away.ray, run)
    assert folder.shared.is_here
    away.away = dataclasses.replace(folder.shared, token="another")
    yield away
    folder.close()
    assert not (run / staging.HIDDEN).exists()


@slow
def test_work_elsewhere_has_the_files_it_names_and_leaves_what_it_wrote(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    task = cluster.task(
        note,
        data=run / "data",
        piece=Piece(str(run / ".prepare/rows.arrow"), (3,)),
        scratch=str(run / ".prepare"),
        target=run / "out.txt",
        stop=run / "stop",
    )
    piece, seen = task.result()
    assert seen == [".lock", ".prepare", ".prepare/rows.arrow", "data", "data/a", "data/b", "data/gone"]
    assert piece == Piece(str(run / ".prepare/made.arrow"), (3,))
    assert Path(piece.path).read_bytes() == b"rowsrows"
    assert (run / "out.txt").read_text() == "abgone"
    assert sorted(path.name for path in (run / "data").iterdir()) == ["a", "b"]
    assert (run / ".prepare/others").exists()


@slow
def test_an_error_elsewhere_comes_out_as_it_was(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^Bad rows\.$"):
        cluster.task(refuse, data=tmp_path / "run/data").result()


@slow
def test_checkpoints_arrive_with_the_items_and_a_signal_reaches_the_work(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints/step-7").mkdir(parents=True)
    (run / "checkpoints/step-7/state").write_bytes(b"7")
    kwargs = {"checkpoints": run / "checkpoints", "stop": run / "stop"}
    steps, told = [], []
    for step, stopped in cluster.worker().stream(count, **kwargs):
        steps.append(step)
        told.append(stopped)
        newest = max(int(path.name.partition("-")[2]) for path in (run / "checkpoints").iterdir())
        assert newest >= step
        if step == 10:
            (run / "stop").touch()
    assert steps[0] == 8
    assert told[-1] and not any(told[:-1]) and len(steps) < 190
    (last,) = (run / "checkpoints").iterdir()
    assert last.name == f"step-{step}"
    assert (last / "state").read_bytes() == bytes([step]) * step


@slow
def test_a_process_that_dies_elsewhere_has_left_its_last_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir()
    kwargs = {"checkpoints": run / "checkpoints", "stop": run / "stop"}
    worker = cluster.worker()
    items = worker.stream(count, **kwargs)
    for step, _ in items:
        if step == 3:
            break
    threading.Timer(0.5, cluster.ray.kill, (worker._actor,)).start()
    with pytest.raises(WorkerLost):
        list(items)
    (left,) = (run / "checkpoints").iterdir()
    number = int(left.name.partition("-")[2])
    assert number >= 3
    assert (left / "state").read_bytes() == bytes([number]) * number
