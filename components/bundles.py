"""What ships: a frozen model, its encoding and the code that answers raw rows, sealed by checksums.

    write   export(model/) + encoding.json + code/ + bundle.json, in a temporary folder, then one move
    open    every file checked, then a Predictor

The layout of the folder is drawn in components/served/predictor.py.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from components import served
from components.errors import ModelError
from components.served import seals
from components.served.encoding import Encoding
from components.served.predictor import Predictor

PACKAGES = ("tensorflow", "keras", "numpy")

T = TypeVar("T")


def write(
    folder: Path,
    *,
    export: Callable[[Path], None],
    encoding: Encoding,
    name: str,
    epoch: int,
    metrics: Mapping[str, float],
    id_column: str | None = None,
    layout: Mapping[str, Any] | None = None,
    not_stepwise: str | None = "it was exported without that",
) -> str:
    """Write a bundle in place of whatever stood there, and give back its digest.

    Args:
        folder: where it goes; it is whole or not there at all.
        export: writes the SavedModel into the path it is given, which does not exist yet.
        encoding: what the model was trained with.
        name: of the model, for whoever finds the bundle.
        epoch: which one these weights are from.
        metrics: of that epoch on the validation rows.
        id_column: the column whose values are handed through as `id`.
        layout: how files of rows are read: their layout, and the columns that make a step.
        not_stepwise: why the model cannot answer step after step as they come; None if it can.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "bundle"
        fresh.mkdir()
        export(fresh / "model")
        (fresh / "encoding.json").write_text(json.dumps(encoding.to_json(), ensure_ascii=False), "utf8")
        (fresh / "code").mkdir()
        for source in sorted(Path(served.__path__[0]).glob("*.py")):
            shutil.copyfile(source, fresh / "code" / source.name)
        about: dict[str, Any] = {
            "format": seals.FORMAT,
            "task": encoding.task,
            "name": name,
            "labels": list(encoding.labels),
            "num_features": encoding.num_features,
            "id": id_column,
            "layout": dict(layout or {}),
            "not_stepwise": not_stepwise,
            "epoch": epoch,
            "temperature": 1.0,
            "metrics": dict(metrics),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
            },
            "files": {file: seals.sha256(fresh / file) for file in sorted(seals.files(fresh))},
        }
        about["digest"] = seals.digest(about)
        (fresh / seals.ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf8")
        if folder.exists():
            os.rename(folder, Path(scratch) / "replaced")
        os.rename(fresh, folder)
    return about["digest"]


def set_temperature(folder: Path, temperature: float) -> str:
    """Let a bundle divide its logits by this before it answers; its new digest.

    `metrics` in it stay those of training, which knows no temperature.

    Raises:
        ModelError: there is no bundle, or its files are not those that were written.
    """
    about = {**describe(folder), "temperature": temperature}
    about["digest"] = seals.digest(about)
    # Beside the bundle: a file more in it would break its seal.
    temporary = folder.parent / f".{folder.name}-{os.getpid()}.json"
    temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False), "utf8")
    os.replace(temporary, folder / seals.ABOUT)
    return about["digest"]


def describe(folder: Path) -> dict[str, Any]:
    """What bundle.json says, every file checked, without loading the model.

    Raises:
        ModelError: there is no bundle, or its files are not those that were written.
    """
    return _checked(seals.verify, folder)


def encoding(folder: Path) -> Encoding:
    """The encoding that lies in a bundle, or beside prepared data."""
    return Encoding.from_json(json.loads((folder / "encoding.json").read_text("utf8")))


def open(folder: Path) -> Predictor:
    """The bundle, every file checked, ready to predict.

    Raises:
        ModelError: there is no bundle, or its files are not those that were written.
    """
    return _checked(Predictor, folder)


def _checked(opener: Callable[[Path], T], folder: Path) -> T:
    if not (folder / seals.ABOUT).is_file():
        raise ModelError(
            f"There is no model in {folder}: {seals.ABOUT} is missing.",
            hint="A run folder holds a bundle/ once its training is done.",
        )
    try:
        return opener(folder)
    except seals.CorruptBundle as error:
        raise ModelError(
            f"The model is damaged: {error}.", hint="Train it again, or copy the whole folder again."
        ) from error
