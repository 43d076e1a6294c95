"""Checkpoints: everything a run needs to go on as if it had never stopped.

    checkpoints/
      step-00000130/   state.npz (weights, optimizer)   state.json (position, history, settings key, checksum)
      step-00000182/   the newest; the last few are kept
      best/            state.npz (weights only)         state.json (epoch, score)
      history.json     one entry per finished epoch

A folder is written under a temporary name and renamed, so a killed writer leaves the older ones whole.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import CheckpointError

STATE, ARRAYS, BEST, HISTORY = "state.json", "state.npz", "best", "history.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: arrays in the order they were given, and the state beside them."""

    arrays: list[np.ndarray]
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. `key` names the settings and data they belong to.

    Of several workers one writes; the others, with `writes=False`, only read. `on_saved` is called whenever
    there is something new that is whole.
    """

    folder: Path
    key: str
    keep: int = 2
    writes: bool = True
    on_saved: Callable[[], None] = lambda: None

    def save(self, arrays: list[np.ndarray], state: Mapping[str, Any]) -> None:
        """Write a checkpoint of step `state["step"]`, then drop all but the newest `keep`."""
        if not self.writes:
            return
        self._write(self.folder / f"step-{state['step']:08d}", arrays, state)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)
        self.on_saved()

    def save_best(self, weights: list[np.ndarray], state: Mapping[str, Any]) -> None:
        """Replace the best epoch's weights."""
        if self.writes:
            self._write(self.folder / BEST, weights, state)

    def load_best(self) -> Saved:
        """The best epoch's weights.

        Raises:
            CheckpointError: there are none, or their checksum is wrong.
        """
        return self._read(self.folder / BEST)

    def load(self) -> Saved | None:
        """The newest whole checkpoint, or None where there is none yet.

        A damaged one is passed over with a warning.

        Raises:
            CheckpointError: every checkpoint is damaged, or belongs to other settings or data.
        """
        if self.writes:
            self._sweep()
        steps = self._steps()
        damaged: list[str] = []
        for folder in reversed(steps):
            try:
                saved = self._read(folder)
            except CheckpointError as error:
                warnings.warn(f"{error} Falling back to the one before.", RuntimeWarning, stacklevel=2)
                damaged.append(str(error))
                continue
            if saved.state["key"] != self.key:
                raise CheckpointError(
                    f"{folder} was written under other settings or data.",
                    hint="Start a new run, or give back the settings it was started with.",
                )
            return saved
        if damaged:
            raise CheckpointError(
                f"None of the {len(damaged)} checkpoints in {self.folder} can be read: {damaged[0]}",
                hint="Delete the folder to train from the start.",
            )
        return None

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """The learning curve as a file of its own, for the report."""
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{HISTORY}.tmp"
        temporary.write_text(json.dumps(history, indent=1), "utf8")
        os.replace(temporary, self.folder / HISTORY)
        self.on_saved()

    def clear(self) -> None:
        """Drop the step checkpoints of a finished run; the best weights and the history stay."""
        for folder in self._steps():
            shutil.rmtree(folder)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _sweep(self) -> None:
        """Tidy up after a killed writer: drop temporary folders, take back a best that was set aside."""
        for folder in self.folder.glob(".*.tmp"):
            if folder.is_dir():
                shutil.rmtree(folder)
        aside = self.folder / f".{BEST}.old"
        if aside.exists():
            shutil.rmtree(aside) if (self.folder / BEST).exists() else aside.rename(self.folder / BEST)

    def _write(self, target: Path, arrays: list[np.ndarray], state: Mapping[str, Any]) -> None:
        temporary = self.folder / f".{target.name}.tmp"
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        with (temporary / ARRAYS).open("wb") as file:
            np.savez(file, allow_pickle=False, **{f"a{i:05d}": array for i, array in enumerate(arrays)})
            file.flush()
            os.fsync(file.fileno())
        checksum = hashlib.sha256((temporary / ARRAYS).read_bytes()).hexdigest()
        text = json.dumps({**state, "key": self.key, "sha256": checksum}, indent=1)
        (temporary / STATE).write_text(text, "utf8")
        # A folder cannot be replaced in one move: the old one steps aside first, and `_sweep` knows it.
        aside = self.folder / f".{target.name}.old"
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        if aside.exists():
            shutil.rmtree(aside)

    def _read(self, folder: Path) -> Saved:
        try:
            state = json.loads((folder / STATE).read_text("utf8"))
            content = (folder / ARRAYS).read_bytes()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"The checkpoint {folder} cannot be read: {error}.") from error
        if hashlib.sha256(content).hexdigest() != state.get("sha256"):
            raise CheckpointError(f"The checkpoint {folder} is damaged: its checksum is wrong.")
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            return Saved([arrays[name] for name in sorted(arrays.files)], state)
