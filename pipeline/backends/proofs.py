"""That a registered model works without this project: it is loaded and asked in a process of its own.

with start_proof() as proof:       the process starts to import TensorFlow and MLflow
    ...                            meanwhile, other work
    proof.answers(model, rows)     the model is fetched there, its files are compared with those registered,
                                   and only then it is loaded, with pickle off, and answers
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import ModelError
from pipeline.backends.addresses import redact
from pipeline.backends.cluster import WORKER_ENVIRONMENT

# Text, not a module of this project: it must run where the project is not.
SCRIPT = Path(__file__).parents[1] / "templates" / "prove_model.py.txt"
ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONDONTWRITEBYTECODE": "1",  # nothing is to be added to the model that is proven
    # It proves the model, not the GPU, which may be taken by the worker.
    "CUDA_VISIBLE_DEVICES": "-1",
}
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
ANSWER_SECONDS = 300.0


class Proof:
    """A waiting process that can be asked once."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Path) -> None:
        self._process, self._errors = process, errors

    def answers(
        self,
        model: str,
        rows: Mapping[str, Sequence[Any]],
        *,
        files: Mapping[str, str],
        tracking_uri: str,
    ) -> dict[str, list[Any]]:
        """What the model says of the raw rows, as columns.

        Args:
            model: models:/name/3.
            rows: by column.
            files: of the model, by path within it: the SHA-256 that each must have before any is loaded.
            tracking_uri: the MLflow that knows the model.

        Raises:
            ModelError: a file is another one, or the model could not be loaded, or did not answer.
        """
        # Not in its arguments: the URI may hold a password, and arguments are for everybody to see.
        asked = json.dumps({"tracking_uri": tracking_uri, "model": model, "rows": rows, "files": dict(files)})
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            out, _ = self._process.communicate(asked + "\n")
        finally:
            timer.cancel()
        if not out.strip():
            last = self._errors.read_text("utf8", "replace").strip().rpartition("\n")[2]
            raise ModelError(
                f"{model} could not be loaded in a fresh process without this project"
                f" (exit code {self._process.returncode}): {redact(last) or 'no answer'}",
                hint="No alias was changed. The model stays registered for a closer look.",
            )
        return json.loads(out)["answers"]


@contextmanager
def start_proof() -> Iterator[Proof]:
    """A process that imports what a model needs and then waits; it is gone when the block ends."""
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    with tempfile.TemporaryDirectory(prefix="recurra-proof-") as empty:
        errors = Path(f"{empty}.stderr")
        with (
            errors.open("w", encoding="utf8") as log,
            subprocess.Popen(
                # -I: neither the current folder nor the user's own packages are importable.
                [sys.executable, "-I", str(SCRIPT)],
                cwd=empty,
                env={**environment, **ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf8",
                # Ctrl-C is for the pipeline, which ends this process in its own time.
                start_new_session=True,
            ) as process,
        ):
            try:
                yield Proof(process, errors)
            finally:
                process.kill()
        errors.unlink()
