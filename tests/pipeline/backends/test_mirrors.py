"""Runs in an object store: whole or not at all, for whoever looks from wherever."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem

from components.errors import BusyError, StorageError
from pipeline.backends import buckets, claims, mirrors, workspace
from pipeline.backends.buckets import Bucket
from pipeline.backends.mirrors import Mirror, open_mirror, publishing
from pipeline.backends.staging import Depot
from pipeline.backends.workspace import RunFolder


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.1)


@pytest.fixture
def here(object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    yield mirror_in(tmp_path / "here", object_store, monkeypatch)
    mirrors._OPENED.clear()


@pytest.fixture
def there(object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """The same store as another machine sees it."""
    return mirror_in(tmp_path / "there", object_store, monkeypatch)


def mirror_in(cache: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setenv("RECURRA_CACHE", str(cache))
    return open_mirror(f"{store}/team")


def made(mirror: Mirror, stack: ExitStack | None = None) -> RunFolder:
    """A published run with rows and a checkpoint."""
    folder = workspace.create(
        mirror.root, "words", plan={"prepare": "k"}, versions={}, holder=stack or ExitStack()
    )
    write(folder.settings, "epochs: 1")
    write(folder.path / "data/train/part-0.parquet", "rows")
    write(folder.path / "checkpoints/step-00000001/state.npz", "weights")
    folder.update_stage("prepare", status="done", key="k", summary={})
    folder.publish()
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf8")


def keys(files: FileSystem) -> list[str]:
    return sorted(each.path for each in files.get_file_info(FileSelector("", recursive=True)) if each.is_file)


def only(mirror: Mirror) -> RunFolder:
    (folder,) = workspace.runs(mirror.root, "words")
    return folder


def test_a_run_is_seen_elsewhere_and_its_files_come_when_needed(here: Mirror, there: Mirror) -> None:
    folder = made(here)
    seen = only(there)
    assert seen.read() == folder.read()
    assert seen.is_done("prepare", "k")
    assert not seen.data.exists()
    seen.bring("data")
    assert (seen.data / "train/part-0.parquet").read_text("utf8") == "rows"
    assert not seen.checkpoints.exists()
    seen.bring()
    assert (seen.checkpoints / "step-00000001/state.npz").read_text("utf8") == "weights"
    assert seen.is_done("prepare", "k")


def test_only_what_changed_moves_and_what_nobody_names_goes(here: Mirror, store_files: FileSystem) -> None:
    folder = made(here)
    before = keys(store_files)
    write(folder.path / "data/train/part-0.parquet", "other rows")
    shutil.rmtree(folder.checkpoints / "step-00000001")
    write(folder.checkpoints / "step-00000002/state.npz", "weights")
    folder.publish()
    after = keys(store_files)
    assert len(after) == len(before)
    assert sum("part-0.parquet" in key for key in after) == 1
    assert sum("step-00000002" in key for key in after) == 1
    assert not any("step-00000001" in key for key in after)
    tags = Bucket(here.url).tags("")
    folder.publish()
    assert Bucket(here.url).tags("") == tags


def test_hidden_and_temporary_files_stay_here(here: Mirror, store_files: FileSystem) -> None:
    folder = made(here)
    before = keys(store_files)
    for name in (".stop", ".ray/notes", "data/.part.tmp", "data/part.parquet.tmp"):
        write(folder.path / name, "x")
    folder.publish()
    assert keys(store_files) == before


def test_what_was_written_after_the_last_publication_stays_where_nobody_else_went_on(here: Mirror) -> None:
    with ExitStack() as stack:
        folder = made(here, stack)
        write(folder.checkpoints / "step-00000002/state.npz", "later")
        folder.update(note="later")
    with folder.held() as ours:
        assert ours
        assert folder.read()["note"] == "later"
        assert (folder.checkpoints / "step-00000002/state.npz").exists()


def test_what_another_machine_did_since_replaces_what_is_here(here: Mirror, there: Mirror) -> None:
    folder = made(here)
    seen = only(there)
    with seen.held() as ours:
        assert ours
        seen.bring()
        write(seen.data / "train/part-0.parquet", "their rows")
        shutil.rmtree(seen.checkpoints / "step-00000001")
        write(seen.checkpoints / "step-00000005/state.npz", "weights")
        seen.update(note="theirs")
        seen.publish()
    write(folder.path / "settings.yaml", "changed here, and never published")
    with folder.held() as ours:
        assert ours
        assert folder.read()["note"] == "theirs"
        assert [path.name for path in folder.checkpoints.glob("step-*/*")] == []
        folder.bring()
    assert (folder.data / "train/part-0.parquet").read_text("utf8") == "their rows"
    assert folder.settings.read_text("utf8") == "epochs: 1"
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000005"]


def test_a_writer_that_was_taken_for_gone_is_refused(
    here: Mirror, there: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a process that was stopped for a while: its claim is not renewed, and it does not know.
    monkeypatch.setattr(claims, "RENEW_SECONDS", 3600.0)
    with ExitStack() as stack:
        folder = made(here, stack)
        seen = only(there)
        with seen.held() as ours:
            assert ours
            seen.publish(anew=True)
            write(folder.data / "train/part-0.parquet", "late rows")
            with pytest.raises(BusyError, match="has taken up run"):
                folder.publish()
            write(folder.checkpoints / "step-00000009/state.npz", "late")
            with pytest.raises(BusyError), publishing(folder.checkpoints) as saved:
                saved()
            seen.bring()
            assert (seen.data / "train/part-0.parquet").read_text("utf8") == "rows"
            assert not (seen.checkpoints / "step-00000009").exists()


def test_a_process_killed_after_it_published_and_before_it_noted_that_goes_on(here: Mirror) -> None:
    with ExitStack() as stack:
        folder = made(here, stack)
        noted = (folder.path / mirrors.STATE / "checkpoints.json").read_bytes()
        write(folder.checkpoints / "step-00000002/state.npz", "more")
        folder.publish()
        (folder.path / mirrors.STATE / "checkpoints.json").write_bytes(noted)
        write(folder.checkpoints / "step-00000003/state.npz", "most")
        folder.publish()


def test_checkpoints_are_published_from_the_side_as_they_were_when_saved(here: Mirror, there: Mirror) -> None:
    with ExitStack() as stack:
        folder = made(here, stack)
        with publishing(folder.checkpoints) as saved:
            for step in range(2, 6):
                write(folder.checkpoints / f"step-{step:08d}/state.npz", f"weights {step}")
                shutil.rmtree(folder.checkpoints / f"step-{step - 1:08d}")
                saved()
    seen = only(there)
    seen.bring("checkpoints")
    assert [path.name for path in seen.checkpoints.iterdir()] == ["step-00000005"]
    assert (seen.checkpoints / "step-00000005/state.npz").read_text("utf8") == "weights 5"
    assert not list((folder.path / mirrors.OUTGOING).iterdir())


def test_checkpoints_written_on_another_machine_are_published_from_the_folders(
    here: Mirror, there: Mirror
) -> None:
    with ExitStack() as stack:
        folder = made(here, stack)
        depot = Depot(str(folder.path))
        for step in range(2, 6):
            depot.write(str(step), f"checkpoints/step-{step:08d}/state.npz", f"weights {step}".encode())
            gone = [f"checkpoints/step-{step - 1:08d}/state.npz"]
            depot.commit(str(step), [f"checkpoints/step-{step:08d}/state.npz"], gone)
        depot.settle(["checkpoints", "data"])
        seen = only(there)
        seen.bring("checkpoints")
        assert [path.name for path in seen.checkpoints.iterdir()] == ["step-00000005"]
        assert (seen.checkpoints / "step-00000005/state.npz").read_text("utf8") == "weights 5"


def test_a_machine_whose_run_was_taken_up_elsewhere_is_told(here: Mirror, there: Mirror) -> None:
    folder = made(here)
    seen = only(there)
    with seen.held(lambda text: None) as ours:
        assert ours
        seen.bring()
        write(seen.checkpoints / "step-00000009/state.npz", "theirs")
        seen.publish()
        depot = Depot(str(folder.path))
        depot.write("key", "checkpoints/step-00000002/state.npz", b"ours")
        with pytest.raises(BusyError):
            depot.commit("key", ["checkpoints/step-00000002/state.npz"], [])
            depot.settle(["checkpoints"])


def test_checkpoints_of_a_trial_are_a_part_of_their_own(here: Mirror, store_files: FileSystem) -> None:
    with ExitStack() as stack:
        folder = made(here, stack)
        trial = folder.tune / "trials/0003"
        write(trial / "best/state.npz", "weights")
        with publishing(trial) as saved:
            saved()
        folder.publish()
    assert any(key.endswith("/parts/tune+trials+0003.json") for key in keys(store_files))


def test_folders_of_this_machine_and_runs_that_are_not_published_are_left_alone(
    here: Mirror, tmp_path: Path, store_files: FileSystem
) -> None:
    for root in (tmp_path / "runs", here.root / "reproductions"):
        folder = workspace.create(root, "words", plan={}, versions={})
        folder.checkpoints.mkdir()
        with publishing(folder.checkpoints) as saved:
            saved()
    folder = RunFolder(tmp_path / "runs" / "words" / "x")
    assert mirrors.of(folder.path) is None
    assert folder.stored_bytes() is None
    assert keys(store_files) == []


def test_a_damaged_object_is_refused_by_name(here: Mirror, there: Mirror, store_files: FileSystem) -> None:
    made(here)
    (key,) = [key for key in keys(store_files) if "part-0.parquet" in key]
    with store_files.open_output_stream(key) as stream:
        stream.write(b"rowz")
    with pytest.raises(StorageError, match=r"part-0.parquet.*is damaged"):
        only(there).bring("data")
    store_files.delete_file(key)
    with pytest.raises(StorageError, match="is not there"):
        only(there).bring("data")
    assert not list(only(there).path.rglob("*.tmp"))


def test_a_removed_run_is_gone_everywhere(here: Mirror, there: Mirror, store_files: FileSystem) -> None:
    folder = made(here)
    seen = only(there)
    assert folder.stored_bytes() == len("epochs: 1") + len("rows") + len("weights")
    with folder.held():
        folder.remove()
    assert keys(store_files) == []
    assert not folder.path.exists()
    assert workspace.runs(there.root, "words") == []
    assert not seen.path.exists()


def test_runs_that_a_process_of_this_machine_holds_are_not_touched(here: Mirror, there: Mirror) -> None:
    made(here)
    seen = only(there)
    with seen.held():
        seen.update(note="mine")
        with only(here).held() as ours:
            assert not ours
        assert only(there).read()["note"] == "mine"


def test_lines_of_a_journal_are_seen_by_all_in_order(here: Mirror, there: Mirror, tmp_path: Path) -> None:
    for number, mirror in enumerate((here, there, here)):
        mirrors.append(mirror.root / "words" / "ledger.jsonl", {"number": number, "why": "größer"})
    for mirror in (here, there):
        found = mirrors.read(mirror.root / "words" / "ledger.jsonl")
        assert [line["number"] for line in found] == [0, 1, 2]
        assert found[0]["why"] == "größer"
    mirrors.append(tmp_path / "runs" / "ledger.jsonl", {"number": 7})
    assert mirrors.read(tmp_path / "runs" / "ledger.jsonl") == [{"number": 7}]


def test_a_working_folder_is_known_by_its_mark_and_found_again(
    here: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert json.loads((here.root / mirrors.MARK).read_text("utf8")) == {"url": here.url}
    mirrors._OPENED.clear()
    found = mirrors.of(here.root / "words" / "run" / "checkpoints")
    assert found is not None
    assert (found.url, found.root) == (here.url, here.root)
    monkeypatch.delenv("RECURRA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert mirrors.caches() == tmp_path / "xdg" / "recurra"


def test_a_working_folder_that_cannot_be_made_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file", "")
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        open_mirror("s3://bucket/runs")
    assert "RECURRA_CACHE" in caught.value.hint


def test_a_store_is_checked_by_writing_to_it(here: Mirror, store_files: FileSystem) -> None:
    here.check()
    assert keys(store_files) == []
    with pytest.raises(StorageError, match="no bucket"):
        Mirror("s3://nobodys", here.root).check()


class Line:
    """A way to the store that can be cut."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._open: list[socket.socket] = []
        self._is_cut = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._is_cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut = False

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            if self._is_cut:
                near.close()
                continue
            far = socket.create_connection((self._host, int(self._port)))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)
            other.shutdown(socket.SHUT_WR)


def test_checkpoints_of_an_outage_are_stored_once_the_store_is_back(
    object_store: str, store_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(store_address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(buckets, "WAITS", (0.05,))
    with ExitStack() as stack:
        folder = made(mirror_in(tmp_path / "here", object_store, monkeypatch), stack)
        with publishing(folder.checkpoints) as saved:
            assert isinstance(saved, mirrors.Publisher)
            line.cut()
            write(folder.checkpoints / "step-00000002/state.npz", "in the outage")
            saved()
            until = time.monotonic() + 60
            while saved._failure is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            folder.publish_meanwhile()
            line.mend()
            write(folder.checkpoints / "step-00000003/state.npz", "after it")
            saved()
        line.cut()
        write(folder.checkpoints / "step-00000004/state.npz", "never stored")
        with pytest.raises(StorageError, match="does not answer"), publishing(folder.checkpoints) as saved:
            saved()
        with pytest.raises(StorageError, match="does not answer"):
            folder.publish(anew=True)
        line.mend()
    seen = only(mirror_in(tmp_path / "there", object_store, monkeypatch))
    seen.bring("checkpoints")
    assert (seen.checkpoints / "step-00000002/state.npz").read_text("utf8") == "in the outage"
    assert (seen.checkpoints / "step-00000003/state.npz").read_text("utf8") == "after it"
    mirrors._OPENED.clear()
