"""Run folders: keys, locks, take-overs, and what a kill leaves behind."""

import json
import multiprocessing
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from components.data.readers.paths import File
from components.errors import BusyError, ModelError, StorageError
from pipeline.backends import mirrors, workspace
from pipeline.backends.workspace import RunFolder

KEYS = {"prepare": "p", "train": "t"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return workspace.create(tmp_path, "words", plan=KEYS, versions={"numpy": "2"})


def finish(run: RunFolder, stage: str, key: str) -> None:
    """Leave a stage as if it had run."""
    for name in workspace.OUTPUTS[stage]:
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text(f"{stage} {name}", "utf8")
        else:
            path.mkdir()
            (path / "part").write_text(stage, "utf8")
    run.update_stage(stage, status="done", key=key, summary={"rows": 3})


def hold_until_killed(path: Path, ready: object) -> None:
    with RunFolder(path).held() as mine:
        assert mine
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_new_run_knows_its_keys_and_versions(run: RunFolder) -> None:
    content = run.read()
    assert (content["plan"], content["versions"], content["name"]) == (KEYS, {"numpy": "2"}, "words")
    assert content["run_id"] == run.path.name


def test_a_run_made_for_a_holder_is_held_from_the_moment_others_can_see_it(tmp_path: Path) -> None:
    stolen, over = [], threading.Event()

    def grab() -> None:
        while not over.is_set():
            for folder in workspace.runs(tmp_path, "words"):
                with folder.held() as mine:
                    if mine:
                        stolen.append(folder.run_id)

    thief = threading.Thread(target=grab)
    thief.start()
    with ExitStack() as holder:
        made = [workspace.create(tmp_path, "words", plan=KEYS, versions={}, holder=holder) for _ in range(40)]
        over.set()
        thief.join()
        assert not stolen
    with made[0].held() as free:
        assert free


def test_runs_are_listed_newest_first_and_broken_ones_passed_over(run: RunFolder, tmp_path: Path) -> None:
    later = RunFolder(tmp_path / "words" / "99990101-000000-abcdef")
    later.path.mkdir()
    workspace.write_json(later.path / workspace.RUN, run.read())
    (tmp_path / "words" / "half-made").mkdir()
    assert workspace.runs(tmp_path, "words") == [later, run]


def test_a_torn_run_json_is_a_storage_error(run: RunFolder) -> None:
    (run.path / workspace.RUN).write_text('{"run_id"', "utf8")
    with pytest.raises(StorageError, match="cannot be read"):
        run.read()


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", "utf8")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        workspace.create(tmp_path / "file", "words", plan={}, versions={})
    assert "--storage" in caught.value.hint


def test_updating_one_stage_keeps_the_others(run: RunFolder) -> None:
    run.update_stage("prepare", status="done", summary={"rows": 1})
    run.update_stage("train", status="running")
    run.update_stage("train", error="boom")
    assert run.stage("train") == {"status": "running", "error": "boom"}
    assert run.summary("prepare") == {"rows": 1}
    assert run.summary("train") is None
    assert run.summary("register") is None


def test_a_stage_is_done_only_under_its_key_and_with_its_result(run: RunFolder) -> None:
    finish(run, "prepare", "p")
    assert run.is_done("prepare", "p")
    assert not run.is_done("prepare", "other")
    (run.data / "part").unlink()
    run.data.rmdir()
    assert not run.is_done("prepare", "p")


def test_a_taken_over_result_outlives_the_run_it_came_from(run: RunFolder, tmp_path: Path) -> None:
    for stage in workspace.OUTPUTS:
        finish(run, stage, stage[0])
    other = workspace.create(tmp_path, "words", plan=KEYS, versions={})
    for stage in workspace.OUTPUTS:
        workspace.take_over(stage, run, other)
        workspace.take_over(stage, run, other)  # again, as after a kill in between
    for path in sorted(run.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert (other.data / "part").read_text("utf8") == "prepare"
    assert (other.path / "checkpoints/history.json").read_text("utf8").startswith("train")
    assert (other.evaluation / "verdict.json").exists()


def test_a_held_run_is_not_given_to_another_process_until_that_one_is_killed(run: RunFolder) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_until_killed, args=(run.path, ready))
    holder.start()
    try:
        assert ready.wait(60)
        with run.held() as mine:
            assert not mine
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        with run.held() as mine:
            assert mine
    finally:
        holder.kill()
        holder.join()


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    with (
        workspace.locked(tmp_path, "promotion"),
        pytest.raises(BusyError, match="promotion"),
        workspace.locked(tmp_path, "promotion", timeout=0.1),
    ):
        pass
    with workspace.locked(tmp_path, "promotion", timeout=0.1):
        pass


def test_fingerprints_ignore_the_order_of_keys_and_nothing_else() -> None:
    assert workspace.fingerprint({"a": 1, "b": [1, 2]}) == workspace.fingerprint({"b": [1, 2], "a": 1})
    assert workspace.fingerprint({"a": [1, 2]}) != workspace.fingerprint({"a": [2, 1]})
    assert workspace.fingerprint({"a": 1}) != workspace.fingerprint({"a": "1"})


def test_a_changed_file_has_another_digest_and_a_touched_one_the_same(tmp_path: Path) -> None:
    file, cache = tmp_path / "rows.parquet", tmp_path / "cache.json"
    file.write_bytes(b"one")
    first = workspace.file_digests([File(str(file))], cache=cache)
    os.utime(file, (1, 1))
    assert workspace.file_digests([File(str(file))], cache=cache) == first
    file.write_bytes(b"two")
    assert workspace.file_digests([File(str(file))], cache=cache) != first


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file, cache = tmp_path / "rows.parquet", tmp_path / "cache.json"
    file.write_bytes(b"one")
    workspace.file_digests([File(str(file))], cache=cache)
    known = json.loads(cache.read_text("utf8"))
    known[str(file)][1] = "from the cache"
    workspace.write_json(cache, known)
    assert workspace.file_digests([File(str(file))], cache=cache) == {str(file): "from the cache"}


def test_a_damaged_cache_of_digests_is_made_anew(tmp_path: Path) -> None:
    file, cache = tmp_path / "rows.parquet", tmp_path / "cache.json"
    file.write_bytes(b"one")
    first = workspace.file_digests([File(str(file))], cache=cache)
    cache.write_text("{", "utf8")
    assert workspace.file_digests([File(str(file))], cache=cache) == first


def test_code_has_another_digest_when_a_line_changes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n", "utf8")
    before = workspace.code_digest([tmp_path / "a.py"])
    (tmp_path / "a.py").write_text("x = 2\n", "utf8")
    assert workspace.code_digest([tmp_path / "a.py"]) != before


def test_a_removed_run_leaves_nothing(run: RunFolder) -> None:
    finish(run, "prepare", "p")
    with run.held():
        run.remove()
    assert not list(run.storage.iterdir())
    with pytest.raises(StorageError, match="cannot be removed"):
        run.remove()


def test_the_folder_of_a_model_is_a_path_or_the_url_of_a_run(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workspace.run_folder(str(tmp_path / "run")) == tmp_path / "run"
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "cache"))
    url = f"{object_store}/team"
    made = workspace.create(mirrors.open_mirror(url).root, "words", plan=KEYS, versions={})
    finish(made, "train", "t")
    made.publish()
    monkeypatch.setenv("RECURRA_CACHE", str(tmp_path / "other"))
    found = workspace.run_folder(f"{url}/words/{made.run_id}")
    assert found.is_relative_to(tmp_path / "other")
    assert (found / "bundle" / "part").read_text("utf8") == "train"
    for wrong in ("gs://bucket/words/run", "s3://me:S3CR3T@bucket/words/run", "s3://bucket"):
        with pytest.raises(ModelError) as caught:
            workspace.run_folder(wrong)
        assert "S3CR3T" not in str(caught.value)
