"""What stages say of a run: numbers, settings, files and data, as entries of a spool.

A run killed and taken up again says some of it twice; what MLflow has no second place for is said once.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import GateRefused, Interrupted, Terminated
from pipeline.backends.addresses import redact
from pipeline.backends.deliveries import MAX_DIGEST, MAX_PARAM, MAX_TAG, flat, key_of, shortened, text_of
from pipeline.backends.spool import Entry, now_ms

STOPPED = (Interrupted, Terminated, KeyboardInterrupt, SystemExit)


class Recorder:
    """One run and the stages nested under it. `stage` is a nested run's name, or empty for the run itself."""

    def __init__(self, append: Callable[[Entry], None], *, earlier: Iterable[Entry]) -> None:
        """`append` takes the entries; `earlier` are those of processes before this one."""
        self._take = append
        self._running: set[str] = set()
        self._params: dict[tuple[str, str], str] = {}
        self._steps: set[tuple[str, str, int]] = set()
        for entry in earlier:
            self._remember(entry)

    @contextmanager
    def stage(self, name: str) -> Iterator["Recorder"]:
        """A nested run; it ends as FINISHED, FAILED or KILLED."""
        self.begin_nested(name, tags={"recurra.stage": name})
        try:
            yield self
        except BaseException as error:
            self.end(status_of(error), stage=name)
            raise
        self.end("FINISHED", stage=name)

    def begin_nested(self, name: str, *, tags: Mapping[str, str]) -> None:
        """Begin a nested run, or go on with it; `end` ends it."""
        self._append("start", name, tags=dict(tags))

    def start(self, tags: Mapping[str, str]) -> None:
        """Begin the run, or go on with it after a kill."""
        self._append("start", "", tags=dict(tags))

    def end(self, status: str, *, stage: str = "") -> None:
        """Say how the run, or a stage's, ended: FINISHED, FAILED or KILLED."""
        self._append("end", stage, status=status)

    def is_open(self, stage: str) -> bool:
        """Whether the run of a stage was begun, maybe by a process before this one, and has not ended."""
        return stage in self._running

    def end_all(self, status: str) -> bool:
        """End what was started and never ended, stages first; whether there was anything."""
        open_ones = sorted(self._running, reverse=True)
        for stage in open_ones:
            self.end(status, stage=stage)
        return bool(open_ones)

    def log_metrics(
        self,
        values: Mapping[str, float | None],
        *,
        step: int | None = None,
        stage: str = "",
        at: float | None = None,
    ) -> None:
        """Numbers, at a step of a curve or once. Infinite ones become NaN, None is left out.

        A step that was logged before a kill and is done again after it stands there once.
        """
        fresh = {
            key_of(name): float(value) if math.isfinite(value) else math.nan
            for name, value in values.items()
            if value is not None and (step is None or (stage, key_of(name), step) not in self._steps)
        }
        if fresh:
            moment = now_ms() if at is None else int(at * 1000)
            self._append("values", stage, metrics=fresh, step=step or 0, stepped=step is not None, at=moment)

    def log_params(self, values: Mapping[str, Any], *, stage: str = "") -> None:
        """Settings by dotted name, nested ones flattened. MLflow refuses changes, so those become tags."""
        params, tags = {}, {}
        for name, value in flat(values).items():
            key, text = key_of(name), shortened(redact(text_of(value)), MAX_PARAM)
            known = self._params.get((stage, key))
            if known is None:
                params[key] = text
            elif known != text:
                tags[key_of(f"changed.{key}")] = shortened(text, MAX_TAG)
        if params or tags:
            self._append("values", stage, params=params, tags=tags)

    def log_tags(self, values: Mapping[str, Any], *, stage: str = "") -> None:
        """Texts that may change later."""
        tags = {key_of(name): shortened(redact(text_of(value)), MAX_TAG) for name, value in values.items()}
        self._append("values", stage, tags=tags)

    def log_artifact(self, path: Path, *, folder: str = "", stage: str = "") -> None:
        """A file or folder that stays where it is until it is sent."""
        self._append("artifact", stage, path=str(path), folder=folder)

    def log_input(
        self,
        name: str,
        *,
        digest: str,
        source: str,
        context: str,
        profile: Mapping[str, Any],
        stage: str = "",
    ) -> None:
        """Data that went into the run; `context` is what for (training, validation, testing)."""
        self._append(
            "input",
            stage,
            dataset={
                "name": name,
                "digest": digest[:MAX_DIGEST],
                "source_type": "local",
                "source": json.dumps({"uri": redact(source)}),
                "profile": json.dumps(dict(profile)),
            },
            context=context,
        )

    def _append(self, kind: str, stage: str, **values: Any) -> None:
        entry = {"kind": kind, "stage": stage, "at": now_ms(), **values}
        self._remember(entry)
        self._take(entry)

    def _remember(self, entry: Entry) -> None:
        """Keep in mind what is open, and what must not be logged twice."""
        if entry["kind"] == "start":
            self._running.add(entry["stage"])
        if entry["kind"] == "end":
            self._running.discard(entry["stage"])
        for key, value in entry.get("params", {}).items():
            self._params[entry["stage"], key] = value
        if entry.get("stepped"):
            self._steps.update((entry["stage"], key, entry["step"]) for key in entry["metrics"])


def status_of(error: BaseException) -> str:
    """How MLflow calls a run that ended with this error."""
    if isinstance(error, GateRefused):  # the run did all of its work
        return "FINISHED"
    return "KILLED" if isinstance(error, STOPPED) else "FAILED"
