"""Checkpoints survive kills and damage, and belong to one run's settings."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.errors import CheckpointError
from components.training.checkpoints import Checkpoints

ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(3, np.int64)]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "key")


def steps(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.glob("step-*"))


def test_what_was_saved_is_loaded_in_its_order(checkpoints: Checkpoints) -> None:
    arrays = [np.full(2, i, np.float32) for i in range(12)]
    checkpoints.save(arrays, {"step": 7, "epoch": 1, "history": [{"loss": 0.1 + 0.2}]})
    saved = checkpoints.load()
    assert saved is not None
    for one, other in zip(saved.arrays, arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    assert saved.state["history"] == [{"loss": 0.1 + 0.2}]


def test_nothing_saved_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None


def test_one_that_only_reads_leaves_the_folder_as_it_is(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    (checkpoints.folder / ".step-00000002.tmp").mkdir()
    before = sorted(checkpoints.folder.rglob("*"))
    reader = Checkpoints(checkpoints.folder, "key", keep=1, writes=False)
    saved = reader.load()
    assert saved is not None
    reader.save(ARRAYS, {"step": 2})
    reader.save_best(ARRAYS, {"epoch": 1})
    reader.write_history([])
    assert sorted(checkpoints.folder.rglob("*")) == before


def test_only_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    for step in (1, 20, 100):
        checkpoints.save(ARRAYS, {"step": step})
    assert steps(checkpoints) == ["step-00000020", "step-00000100"]
    checkpoints.clear()
    assert steps(checkpoints) == []


@pytest.mark.fault("corrupt checkpoint")
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    checkpoints.save(ARRAYS, {"step": 2})
    path = checkpoints.folder / "step-00000002" / "state.npz"
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="checksum is wrong"):
        saved = checkpoints.load()
    assert saved is not None
    assert saved.state["step"] == 1


@pytest.mark.fault("corrupt checkpoint")
def test_when_none_is_whole_nothing_starts_over_silently(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    (checkpoints.folder / "step-00000001" / "state.npz").write_bytes(b"")
    with pytest.warns(RuntimeWarning), pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        checkpoints.load()


def test_a_checkpoint_of_other_settings_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    with pytest.raises(CheckpointError, match="other settings"):
        Checkpoints(checkpoints.folder, "another key").load()


@pytest.mark.fault("kill -9 while a checkpoint is written")
def test_what_a_killed_writer_left_is_swept_and_ignored(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    half = checkpoints.folder / ".step-00000002.tmp"
    half.mkdir()
    (half / "state.npz").write_bytes(b"half")
    saved = checkpoints.load()
    assert saved is not None
    assert saved.state["step"] == 1
    assert not half.exists()


@pytest.mark.fault("kill -9 while a checkpoint is written")
def test_a_kill_while_the_best_is_replaced_loses_no_best(checkpoints: Checkpoints) -> None:
    checkpoints.save_best(ARRAYS, {"epoch": 1})
    (checkpoints.folder / "best").rename(checkpoints.folder / ".best.old")
    checkpoints.load()
    assert checkpoints.load_best().state["epoch"] == 1
    checkpoints.save_best(ARRAYS, {"epoch": 2})
    assert checkpoints.load_best().state["epoch"] == 2
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["best"]


def test_pickled_content_is_never_loaded(checkpoints: Checkpoints) -> None:
    checkpoints.save(ARRAYS, {"step": 1})
    folder = checkpoints.folder / "step-00000001"
    with (folder / "state.npz").open("wb") as file:
        np.savez(file, a00000=np.array([{"a": 1}], dtype=object))
    import hashlib

    state = json.loads((folder / "state.json").read_text("utf8"))
    state["sha256"] = hashlib.sha256((folder / "state.npz").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state), "utf8")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoints.load()


def test_objects_are_never_saved(checkpoints: Checkpoints) -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        checkpoints.save([np.array([{"a": 1}], dtype=object)], {"step": 1})
    assert steps(checkpoints) == []
