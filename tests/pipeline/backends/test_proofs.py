import json
import os
import subprocess
import sys
import time

import pytest

from components import bundles
from components.errors import ModelError
from components.served.seals import sha256
from pipeline.backends import proofs
from pipeline.backends.packages import Packaging
from pipeline.backends.proofs import start_proof
from pipeline.backends.registry import Registry, entry_of
from pipeline.backends.tracking import Store

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pipeline.backends.proofs import start_proof
with start_proof() as proof:
    print(proof._process.pid, flush=True)
    time.sleep(60)
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone_within(pid, seconds):
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_running(pid)


def test_the_script_is_python():
    compile(proofs.SCRIPT.read_text("utf8"), str(proofs.SCRIPT), "exec")


def test_the_script_cannot_import_this_project(root, tmp_path):
    head = proofs.SCRIPT.read_text("utf8").partition("def main()")[0]
    code = f"{head}\nimport sys\nsys.path.insert(0, {str(root)!r})\nsys.meta_path.insert(0, _NotOurs())\n"
    for name in ("pipeline", "components.served", "conf"):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}import {name}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "is part of the project that the model must not need" in done.stderr


def test_a_process_that_is_not_asked_is_gone_at_the_end():
    with start_proof() as proof:
        pid = proof._process.pid
        assert is_running(pid)
    assert not is_running(pid)


def test_a_model_that_is_not_there_is_named(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with (
        start_proof() as proof,
        pytest.raises(ModelError, match="models:/nobody/1 could not be loaded") as caught,
    ):
        proof.answers("models:/nobody/1", {"x": [[1]]}, files={}, tracking_uri=uri)
    assert "nobody" in str(caught.value).partition("(exit code 1)")[2]
    assert "No alias was changed" in caught.value.hint


def test_an_answer_that_takes_too_long_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(proofs, "ANSWER_SECONDS", 0.2)
    begun = time.monotonic()
    with start_proof() as proof, pytest.raises(ModelError, match="exit code -9"):
        proof.answers("models:/nobody/1", {"x": [[1]]}, files={}, tracking_uri=f"sqlite:///{tmp_path}/m.db")
    assert time.monotonic() - begun < 10


def script_namespace():
    """What the script defines, without being run."""
    head = proofs.SCRIPT.read_text("utf8").rpartition("\nmain()")[0]
    defined = {}
    exec(compile(head, str(proofs.SCRIPT), "exec"), defined)
    return defined


@pytest.fixture
def model(tmp_path):
    """The files of a model, and what was registered of them."""
    folder = tmp_path / "model"
    for name in ("MLmodel", "pyfunc_model.py", "artifacts/bundle/bundle.json", "artifacts/bundle/code/a.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, "utf8")
    files = {
        path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()
    }
    (folder / "README.md").write_text("beside the model", "utf8")
    return folder, files


def test_files_that_are_as_they_were_registered_pass_and_compiled_code_is_removed(model):
    folder, files = model
    compiled = folder / "artifacts" / "bundle" / "code" / "__pycache__"
    compiled.mkdir()
    (compiled / "a.pyc").write_bytes(b"anything")
    script_namespace()["check"](folder, files)
    assert not compiled.exists()


@pytest.mark.parametrize("name", ["MLmodel", "pyfunc_model.py", "artifacts/bundle/code/a.py"])
@pytest.mark.parametrize("change", ["changed", "removed", "linked"])
def test_a_file_that_is_another_one_ends_the_proof(model, tmp_path, name, change):
    folder, files = model
    same = (folder / name).rename(tmp_path / "aside")
    if change == "changed":
        (folder / name).write_text("another", "utf8")
    if change == "linked":
        (folder / name).symlink_to(same)
    with pytest.raises(SystemExit, match=f"{name} is not as it was registered"):
        script_namespace()["check"](folder, files)


def test_a_file_too_many_beside_code_ends_the_proof(model):
    folder, files = model
    (folder / "artifacts" / "bundle" / "code" / "b.py").write_text("another", "utf8")
    with pytest.raises(SystemExit, match=r"code/b\.py is not as it was registered"):
        script_namespace()["check"](folder, files)


@pytest.mark.slow
def test_a_model_that_was_tampered_with_is_refused_before_any_of_it_is_run(tmp_path, make_bundle):
    registry = Registry(Store(f"sqlite:///{tmp_path}/mlflow.db"))
    bundle = make_bundle(tmp_path / "bundle")
    about, rows = bundles.describe(bundle), {"id": ["a"], "frames": [[[0, 1]]]}
    experiment = registry.store.experiment("words")
    run = registry.store.call(lambda client: client.create_run(experiment)).info.run_id
    packaging = Packaging(bundle, about, {"frames": 2}, rows, ())
    model = registry.log(packaging, run=run, experiment=experiment, key="run")
    version = registry.create("words", model_id=model, run=run, key="run", tags={})
    within = {**about["files"], "bundle.json": sha256(bundle / "bundle.json")}
    files = entry_of(version) | {f"artifacts/bundle/{name}": digest for name, digest in within.items()}
    (stored,) = (tmp_path / "mlartifacts" / "words" / "models").iterdir()
    script, mark = stored / "artifacts" / "pyfunc_model.py", tmp_path / "was run"
    script.write_bytes(f"open({str(mark)!r}, 'w').close()\n".encode() + script.read_bytes())
    with (
        start_proof() as proof,
        pytest.raises(ModelError, match=r"pyfunc_model\.py is not as it was registered"),
    ):
        proof.answers(version.uri, rows, files=files, tracking_uri=registry.store.uri)
    assert not mark.exists()


@pytest.mark.slow
def test_the_process_does_not_outlive_a_killed_pipeline(root, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    pid = int(json.loads(holder.stdout.readline()))
    holder.kill()
    holder.communicate()
    # It may be in the middle of importing TensorFlow.
    assert gone_within(pid, 60)
