"""Spooled entries as MLflow's requests: few, in order, and the same when they are sent twice.

start, end      a run, found again by its tags after a kill
values          metrics, parameters and tags, gathered into batches
artifact        a file or folder
input           the data that went in
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import TrackerError
from pipeline.backends.spool import Entry, Memory

MAX_KEY, MAX_PARAM, MAX_TAG, MAX_DIGEST = 250, 6000, 5000, 36
BATCH_METRICS, BATCH_PARAMS, BATCH_TAGS = 500, 100, 100

_NOT_IN_KEYS = re.compile(r"[^\w\-. :/]", re.ASCII)


class Refused(TrackerError):
    """MLflow does not take this, however often it is sent."""


class NotThere(Refused):
    """MLflow has no such run, model, version or experiment."""


class Delivery:
    """Sends entries; `memory` is what it must know to go on in another process."""

    def __init__(
        self,
        call: Callable[[Callable[[Any], Any]], Any],
        *,
        entities: Any,
        experiment: Callable[[], str],
        run_id: str,
        memory: Memory,
        problems: list[str],
    ) -> None:
        """`call(action)` runs `action(client)`; `problems` gets a sentence for all that MLflow refuses."""
        self._call, self._entities, self._experiment, self._run_id = call, entities, experiment, run_id
        self._runs: dict[str, str] = dict(memory.get("runs", {}))
        self._experiment_id: str | None = memory.get("experiment")
        self._problems = problems
        self._actions: Mapping[str, Callable[[Entry], None]] = {
            "start": self._start,
            "values": self._values,
            "artifact": self._artifact,
            "input": self._input,
            "end": self._end,
        }

    def __call__(self, entries: Sequence[Entry]) -> Memory:
        """Send the entries in order; gives back the memory.

        Raises:
            TrackerError: MLflow is away; all of them may be sent again.
        """
        for entry in gathered(entries):
            try:
                self._actions[entry["kind"]](entry)
            except NotThere:
                raise  # the run itself is gone, which no entry is to blame for
            except Refused as error:
                self._problems.append(
                    f"MLflow refused {entry['kind']} of {entry['stage'] or 'the run'}: {error}"
                )
        return {"experiment": self._experiment_id, "runs": dict(self._runs)}

    def _start(self, entry: Entry) -> None:
        stage = entry["stage"]
        run = self._runs.get(stage) or self._find(stage)
        if run is not None:
            self._call(lambda client: client.update_run(run, status="RUNNING"))
        else:
            tags = {"recurra.run_id": self._run_id, "recurra.stage": stage, **entry["tags"]}
            if stage:
                tags["mlflow.parentRunId"] = self._runs[""]
            run = self._call(
                lambda client: client.create_run(
                    self._experiment_id, start_time=entry["at"], tags=tags, run_name=stage or self._run_id
                )
            ).info.run_id
        self._runs[stage] = run

    def _find(self, stage: str) -> str | None:
        """A run made by a process that died before it could remember it."""
        if self._experiment_id is None:
            self._experiment_id = self._experiment()
        where = f"tags.`recurra.run_id` = '{self._run_id}' and tags.`recurra.stage` = '{stage}'"
        found = self._call(lambda client: client.search_runs([self._experiment_id], where, max_results=1))
        return found[0].info.run_id if found else None

    def _end(self, entry: Entry) -> None:
        run = self._runs[entry["stage"]]
        self._call(lambda client: client.set_terminated(run, entry["status"], entry["at"]))

    def _values(self, entry: Entry) -> None:
        run = self._runs[entry["stage"]]
        metrics = [self._entities.Metric(*metric) for metric in entry["metrics"]]
        params = [self._entities.Param(key, value) for key, value in entry["params"].items()]
        tags = [self._entities.RunTag(key, value) for key, value in entry["tags"].items()]
        while metrics or params or tags:
            batch = {
                "metrics": metrics[:BATCH_METRICS],
                "params": params[:BATCH_PARAMS],
                "tags": tags[:BATCH_TAGS],
            }
            self._send(run, batch)
            del metrics[:BATCH_METRICS], params[:BATCH_PARAMS], tags[:BATCH_TAGS]

    def _send(self, run: str, batch: Mapping[str, list[Any]]) -> None:
        try:
            self._call(lambda client: client.log_batch(run, **batch))
        except NotThere:
            raise
        except Refused:
            # One bad value must not take the others with it.
            single = [(kind, value) for kind, values in batch.items() for value in values]
            if len(single) == 1:
                raise
            for kind, value in single:
                try:
                    self._send(run, {kind: [value]})
                except Refused as error:
                    self._problems.append(f"MLflow refused {value.key}: {error}")

    def _artifact(self, entry: Entry) -> None:
        run, path = self._runs[entry["stage"]], Path(entry["path"])
        if path.is_dir():
            self._call(lambda client: client.log_artifacts(run, str(path), entry["folder"] or None))
        elif path.exists():
            self._call(lambda client: client.log_artifact(run, str(path), entry["folder"] or None))
        else:
            self._problems.append(f"{path} was gone before MLflow could have it.")

    def _input(self, entry: Entry) -> None:
        run = self._runs[entry["stage"]]
        made = self._entities.DatasetInput(
            self._entities.Dataset(**entry["dataset"]),
            [self._entities.InputTag("mlflow.data.context", entry["context"])],
        )
        self._call(lambda client: client.log_inputs(run, [made]))


def gathered(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries with the values between two others gathered, one entry per run."""
    waiting: dict[str, Entry] = {}
    for entry in entries:
        if entry["kind"] != "values":
            yield from waiting.values()
            waiting.clear()
            yield entry
            continue
        stage = entry["stage"]
        empty: Entry = {"kind": "values", "stage": stage, "metrics": [], "params": {}, "tags": {}}
        into = waiting.setdefault(stage, empty)
        for key, value in entry.get("metrics", {}).items():
            into["metrics"].append((key, value, entry["at"], entry["step"]))
        into["params"].update(entry.get("params", {}))
        into["tags"].update(entry.get("tags", {}))
    yield from waiting.values()


def key_of(name: str) -> str:
    """`name` as MLflow takes keys; one that had to be changed gets a hash, so that no two become one."""
    safe = _NOT_IN_KEYS.sub("_", name)
    safe = "/".join(part.strip(".") or "_" for part in safe.split("/"))
    if safe == name and len(name) <= MAX_KEY:
        return name
    return f"{safe[: MAX_KEY - 8]}_{_hash(name)[:6]}"


def shortened(text: str, limit: int) -> str:
    """`text`, or as much of it as fits, and a hash of the whole."""
    if len(text) <= limit:
        return text
    note = f"... ({len(text)} characters, SHA-256 {_hash(text)[:16]})"
    return text[: limit - len(note)] + note


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def text_of(value: Any) -> str:
    """A value as people would write it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
