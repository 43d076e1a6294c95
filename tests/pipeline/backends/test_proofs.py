import json
import os
import subprocess
import sys
import time

import pytest

from components.errors import ModelError
from pipeline.backends import proofs
from pipeline.backends.proofs import start_proof

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
        proof.answers("models:/nobody/1", {"x": [[1]]}, tracking_uri=uri)
    assert "nobody" in str(caught.value).partition("(exit code 1)")[2]
    assert "No alias was changed" in caught.value.hint


def test_an_answer_that_takes_too_long_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(proofs, "ANSWER_SECONDS", 0.2)
    begun = time.monotonic()
    with start_proof() as proof, pytest.raises(ModelError, match="exit code -9"):
        proof.answers("models:/nobody/1", {"x": [[1]]}, tracking_uri=f"sqlite:///{tmp_path}/m.db")
    assert time.monotonic() - begun < 10


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
