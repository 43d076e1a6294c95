"""The stages in order, with a reason for running or reusing each.

plan     what would run and why: fingerprints of data, settings and code against earlier runs
execute  the same, done; nothing to do means that neither Ray nor TensorFlow starts
"""

import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from components.data import vectors
from components.data.readers import expand
from components.data.readers.paths import File, relative_names
from components.errors import BusyError, DataError, StorageError
from components.evaluation import behaviours
from conf.load import Problem, SettingsError, resolved
from conf.schema import Settings, TokenInput
from pipeline import report
from pipeline.backends import disks, tracking, workspace
from pipeline.backends.cluster import Cluster, Future
from pipeline.backends.pools import Pool
from pipeline.backends.signals import Signals
from pipeline.backends.trials import TrialLedger
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.stages.evaluate import evaluate, start_baselines
from pipeline.stages.predict import Options, predict
from pipeline.stages.prepare import check_examples, prepare
from pipeline.stages.register import attach_report, register
from pipeline.stages.search import trial_folder
from pipeline.stages.train import adopt, require_gpu, train
from pipeline.stages.tune import tune, tuned

STAGES = ("prepare", "tune", "train", "evaluate", "register")

# The settings that a stage's result follows from; the data's path is not one, its content is.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("task", "data"),
    "tune": ("tune", "model", "train"),
    "train": ("model", "train"),
    "evaluate": ("evaluate", "gate.confidence"),
    "register": ("name", "gate", "register"),
}
WITHOUT_EFFECT = (
    "data.path",
    "data.format",
    "train.checkpoint_seconds",
    "train.keep_checkpoints",
    "train.hang_seconds",
    "train.steps_per_call",
    "tune.concurrency",
    "tune.cpus",
    "tune.trials_per_gpu",
)

# What a command shows of a run that has nothing left to do.
SHOWN = ("report.html", "evaluation", "tracking.jsonl", "tracking.sent.json")

# The source files that a stage's result follows from, as packages or modules.
TRAINING = (
    "components.networks",
    "components.training",
    "components.data.batches",
    "components.served",
    "components.bundles",
    "components.metrics",
    "pipeline.stages.train",
)
CODE: Mapping[str, tuple[str, ...]] = {
    "prepare": ("components.data", "components.data.readers", "components.served", "pipeline.stages.prepare"),
    "tune": (*TRAINING, "components.tuning", "conf.points", "pipeline.stages.search", "pipeline.stages.tune"),
    "train": TRAINING,
    "evaluate": ("components.evaluation", "components.metrics", "pipeline.stages.evaluate"),
    "register": (
        "components.evaluation.areas",
        "components.evaluation.comparison",
        "components.evaluation.latencies",
        "components.evaluation.measures",
        "components.evaluation.requirements",
        "components.evaluation.rivals",
        "components.evaluation.sample_sizes",
        "components.evaluation.verdicts",
        "pipeline.stages.judging",
        "pipeline.stages.register",
    ),
}
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("pyarrow", "numpy"),
    "tune": ("tensorflow", "keras", "numpy", "optuna", "ray"),
    "train": ("tensorflow", "keras", "numpy"),
    "evaluate": ("tensorflow", "scikit-learn"),
    "register": ("mlflow",),
}


@dataclass(frozen=True)
class Planned:
    """One stage: its key, what went into the key, and whether and why it runs."""

    name: str
    key: str
    inputs: dict[str, Any]
    reason: str
    source: RunFolder | None  # where the result to reuse lies; None: the stage runs


@dataclass(frozen=True)
class Plan:
    """The stages up to the last one wanted.

    `keys` are those of all stages, `folder` the newest run that has the same ones.
    """

    name: str
    storage: Path
    keys: dict[str, str]
    stages: tuple[Planned, ...]
    folder: RunFolder | None
    override: bool = False

    @property
    def nothing_to_do(self) -> bool:
        """Whether one earlier run already has every result wanted."""
        return self.folder is not None and all(stage.source == self.folder for stage in self.stages)

    def runs(self, name: str) -> bool:
        """Whether this stage would run."""
        return any(stage.name == name and stage.source is None for stage in self.stages)

    def is_fulfilled(self, folder: RunFolder) -> bool:
        """Whether a run has every result wanted."""
        done = all(folder.is_done(stage.name, stage.key) for stage in self.stages)
        return done and (not self.override or _is_promoted(folder))


@dataclass(frozen=True)
class StageReport:
    """What became of a stage, as `--json` shows it."""

    name: str
    status: str  # ran | reused
    seconds: float
    reason: str


@dataclass(frozen=True)
class Outcome:
    """The end of a run."""

    folder: RunFolder
    stages: tuple[StageReport, ...]


@dataclass(frozen=True)
class Surroundings:
    """Where a run happens; the same for all its stages."""

    storage: Path
    tracking_uri: str
    address: str | None
    console: Console
    signals: Signals
    artifacts: str | None = None  # below which files go when the tracker is a database
    require_gpu: bool = False  # training without one is refused
    new_search: bool = False  # an unfinished search over other settings is left as it is
    reuse: str | None = None  # the run whose trials count in a new search
    override: str | None = None  # why a model is to be promoted that the gate would not promote
    why: Mapping[str, Any] | None = None  # what made `recurra retrain` start the run, for its report


def plan(
    settings: Settings,
    *,
    storage: Path,
    tracking_uri: str,
    until: str = STAGES[-1],
    override: bool = False,
) -> Plan:
    """What would run, up to and with the stage `until`, and why.

    With `override` a model that the gate did not promote is judged again.

    Raises:
        DataError: there is no data, or no file of vectors, at the path.
        SettingsError: the search is wanted, and there is none in the settings.
    """
    if until == "tune" and settings.tune is None:
        hint = "add `tune:` with a `space`; docs/guides/tuning.md"
        raise SettingsError([Problem("recurra tune", "tune", "there is nothing to search", hint)])
    inputs = _inputs(settings, storage=storage, tracking_uri=tracking_uri)
    keys = _chained(inputs, first="")
    earlier = workspace.runs(storage, settings.name)
    same = [folder for folder in earlier if folder.read()["plan"] == keys]
    stages: list[Planned] = []
    for name in [name for name in inputs if STAGES.index(name) <= STAGES.index(until)]:
        source = next((folder for folder in [*same, *earlier] if folder.is_done(name, keys[name])), None)
        if name == "register" and override and source is not None and not _is_promoted(source):
            reason = f"run {source.run_id} was not promoted, and this is overridden"
            source = None
        elif source is not None:
            reason = f"unchanged since run {source.run_id}"
        else:
            above_it = next(
                (stage.name for stage in reversed(stages) if stage.source is None), "an earlier stage"
            )
            reason = _reason(name, keys[name], inputs[name], earlier) or f"{above_it} runs anew"
        stages.append(Planned(name, keys[name], inputs[name], reason, source))
    return Plan(settings.name, storage, keys, tuple(stages), same[0] if same else None, override)


def _chained(inputs: Mapping[str, Mapping[str, Any]], *, first: str) -> dict[str, str]:
    """The stages' keys: each follows from its own inputs and from the key above it."""
    keys: dict[str, str] = {}
    above = first
    for name in inputs:
        above = keys[name] = workspace.fingerprint({"above": above, **inputs[name]})
    return keys


def keys_again(settings: Settings, *, storage: Path, of: Mapping[str, Any]) -> dict[str, str]:
    """The keys of prepare, train and evaluate where they are done once more for their own sake.

    Args:
        of: what is done again; with something else here no key is the same.

    Raises:
        DataError: there is no data, or no file of vectors, at the path.
    """
    inputs = _inputs(settings, storage=storage, tracking_uri="")  # which only registering has to do with
    wanted = {name: inputs[name] for name in ("prepare", "train", "evaluate")}
    return _chained(wanted, first=workspace.fingerprint(of))


def _is_promoted(folder: RunFolder) -> bool:
    return (folder.summary("register") or {}).get("verdict") == "promoted"


def stages_of(settings: Settings) -> tuple[str, ...]:
    """The stages of a run with these settings, in order."""
    return tuple(name for name in STAGES if name != "tune" or settings.tune is not None)


def _inputs(settings: Settings, *, storage: Path, tracking_uri: str) -> dict[str, dict[str, Any]]:
    flat = flatten(resolved(settings))
    inputs: dict[str, dict[str, Any]] = {}
    for name in stages_of(settings):
        chosen = {
            key: value
            for key, value in flat.items()
            if any(key == section or key.startswith(f"{section}.") for section in SETTINGS[name])
            and key not in WITHOUT_EFFECT
        }
        inputs[name] = {
            "settings": chosen,
            "code": workspace.code_digest(_sources(CODE[name])),
            "versions": {library: metadata.version(library) for library in LIBRARIES[name]},
        }
    inputs["prepare"]["data"] = data_digests(settings, storage=storage)
    inputs["prepare"]["settings"]["data.inputs"] = [_without_path(each) for each in flat["data.inputs"]]
    if shown := behaviours.paths(settings):
        files = expand(shown, settings.data.format)
        digests = workspace.file_digests(files, cache=storage / settings.name / ".digests.json")
        names = relative_names(files)
        inputs["evaluate"]["data"] = {
            name: digests[file.shown] for name, file in zip(names, files, strict=True)
        }
    inputs["evaluate"]["settings"].pop("evaluate.examples", None)
    if settings.gate.compares_areas:
        inputs["evaluate"]["settings"]["every probability kept for the gate"] = True
    if settings.kept:
        inputs["prepare"]["settings"]["columns kept for evaluation"] = list(settings.kept)
    inputs["register"]["tracking"] = workspace.fingerprint(tracking_uri)
    return inputs


def data_files(settings: Settings) -> list[File]:
    """The files that the path of the data means now.

    Raises:
        DataError: there is none.
    """
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    return expand(paths, settings.data.format)


def files_read(settings: Settings) -> list[File]:
    """Every file that a run reads now: its rows, vectors of tokens, rows that must come out right.

    Raises:
        DataError: something named is not there.
    """
    examples = behaviours.paths(settings)
    shown = expand(examples, settings.data.format) if examples else []
    return [*data_files(settings), *_vector_files(settings).values(), *shown]


def data_digests(settings: Settings, *, storage: Path) -> dict[str, str]:
    """SHA-256 of everything that is read, by its name below the path of the data.

    Raises:
        DataError: there is no data, or no file of vectors, at the path.
    """
    files = data_files(settings)
    named = dict(zip(relative_names(files), files, strict=True)) | _vector_files(settings)
    digests = workspace.file_digests(list(named.values()), cache=storage / settings.name / ".digests.json")
    return {name: digests[file.shown] for name, file in named.items()}


def _vector_files(settings: Settings) -> dict[str, File]:
    """The files of vectors, named by the input that they are of."""
    tokens = [part for part in settings.data.inputs if isinstance(part, TokenInput)]
    return {f"{part.column}: {file.name}": file for part in tokens for file in vectors.files(part)}


def _without_path(part: Mapping[str, Any]) -> dict[str, Any]:
    """An input's settings with its vectors known by their content alone."""
    return {key: value is not None if key == "vectors" else value for key, value in part.items()}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _sources(modules: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for module in modules:
        spec = util.find_spec(module)
        assert spec is not None and spec.origin is not None, module
        path = Path(spec.origin)
        files += sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    return files


def _reason(name: str, key: str, inputs: Mapping[str, Any], earlier: Sequence[RunFolder]) -> str:
    """Why a stage has to run, against the newest run that got to it; empty if nothing of its own changed."""
    before = next((folder for folder in earlier if folder.stage(name).get("inputs")), None)
    if before is None:
        return "never run before"
    stage = before.stage(name)
    changes = _changes(stage["inputs"], inputs)
    if changes:
        return "; ".join(changes)
    if stage["key"] != key:
        return ""
    if stage["status"] == "done":
        return f"its result in run {before.run_id} is gone"
    return f"unfinished in run {before.run_id}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    before, after = old["settings"], new["settings"]
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            found.append(f"{key} changed from {_shown(before.get(key))} to {_shown(after.get(key))}")
    was, now = old.get("data", {}), new.get("data", {})
    files = sorted(file for file in was.keys() | now.keys() if was.get(file) != now.get(file))
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        found.append(f"data changed: {', '.join(files[:3])}{more}")
    if old["code"] != new["code"]:
        found.append("code changed")
    for library, version in new["versions"].items():
        if old["versions"].get(library) != version:
            found.append(f"{library} changed from {old['versions'].get(library)} to {version}")
    if old.get("tracking") != new.get("tracking"):
        found.append("the tracking server changed")
    return found


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)


def execute(settings: Settings, *, until: str = STAGES[-1], around: Surroundings) -> Outcome:
    """Run what has to run, up to and with the stage `until`.

    A run that was killed is taken up again where it stopped; one that another process is at is left to it.

    Raises:
        RecurraError: what a stage raised; run.json and MLflow then say that it failed.
        PlaceError: what the run would write has no place; nothing was written.
        ClusterError: a GPU is required to train and there is none; nothing was written.
        SettingsError: a GPU is required and the settings ask for CPUs.
    """
    workspace.check_runs(around.storage)
    # Training would go well without a database that can be written; only registration would fail.
    tracking.check_places(around.tracking_uri, artifacts=around.artifacts)
    planned = plan(
        settings,
        storage=around.storage,
        tracking_uri=around.tracking_uri,
        until=until,
        override=around.override is not None,
    )
    if planned.nothing_to_do and planned.folder is not None:
        planned.folder.bring(*SHOWN)
        if tracking.has_unsent(planned.folder, around.tracking_uri):
            tracking.send_rest(
                around.tracking_uri, folder=planned.folder, settings=settings, artifacts=around.artifacts
            )
            planned.folder.publish()
        if planned.override:
            around.console.note(
                f"The override was not used: run {planned.folder.run_id} was promoted before. "
                "`recurra promote` brings back a version that another one has replaced."
            )
        return Outcome(planned.folder, tuple(_reused(stage, around) for stage in planned.stages))
    reuse = None
    if planned.runs("tune"):
        _refuse_client(around)
        reuse = _to_reuse(planned, around)
        _leave_other_searches(planned, around)
    cluster = _cluster(settings, around, num_nodes=settings.train.nodes if planned.runs("train") else 1)
    if around.require_gpu and planned.runs("train"):
        _require_gpu(settings, cluster)
    with disks.told_when_full(around.storage), ExitStack() as stack:
        folder = _own_folder(planned, stack, note=around.console.note)
        around.console.note(f"Run {folder.run_id} in {folder.path}")
        _write_settings(folder, settings)
        if around.why is not None:
            workspace.write_json(folder.path / workspace.RETRAIN, dict(around.why))
        # Before anything else is done: from here on whoever held it before and still lives is refused.
        folder.publish(anew=True)
        stack.enter_context(StoredAtEnd(folder, around.console))
        return Outcome(folder, _Work(settings, planned, folder, cluster, around, stack, reuse).run())


def _refuse_client(around: Surroundings) -> None:
    """Ray's client runs Tune in another process, where nobody would hear of the trials.

    Raises:
        SettingsError: the address is one of Ray's client.
    """
    if (around.address or "").startswith("ray://"):
        hint = "start the search on a machine of the cluster, with --address auto or host:port"
        message = "a search cannot be led through Ray's client"
        raise SettingsError([Problem(f"--address {around.address}", "tune", message, hint)])


def _comparable(folder: RunFolder, planned: Plan) -> str:
    """Why trials of that run cannot count here; empty where they can."""
    wanted = next(stage for stage in planned.stages if stage.name == "tune")
    if folder.stage("prepare").get("key") != planned.keys["prepare"]:
        return "its rows are prepared in another way, or are others"
    if folder.stage("tune")["inputs"]["code"] != wanted.inputs["code"]:
        return "its trials were trained by another version of the code"
    return ""


def _leave_other_searches(planned: Plan, around: Surroundings) -> None:
    """See that no search is begun over where another one, unfinished, would be forgotten.

    Raises:
        SettingsError: there is one, and nobody said what is to become of it.
    """
    wanted = next(stage for stage in planned.stages if stage.name == "tune")
    for folder in workspace.runs(planned.storage, planned.name):
        stage = folder.stage("tune")
        if stage.get("status") not in ("running", "failed") or stage["key"] == wanted.key:
            continue
        folder.bring("tune/ledger.jsonl")
        trials = TrialLedger(folder.tune).searched
        num_done = sum(trial.has_ended and trial.state != "failed" for trial in trials)
        if not num_done:
            continue
        if not around.new_search and around.reuse is None:
            changes = "; ".join(_changes(stage["inputs"], wanted.inputs)) or "its rows changed"
            message = f"has an unfinished search with {num_done} trials done, and now {changes}"
            reuse = f"name what to reuse of it (--reuse {folder.run_id}), "
            hint = (
                f"start a new search (--new-search), {'' if _comparable(folder, planned) else reuse}"
                "or give back the settings to go on with it"
            )
            raise SettingsError([Problem(f"run {folder.run_id}", "tune", message, hint)])
        folder.update_stage("tune", status="left")
        folder.publish()


def _to_reuse(planned: Plan, around: Surroundings) -> RunFolder | None:
    """The run whose trials are to be taken over.

    Raises:
        SettingsError: there is no such run, or it has no trials.
    """
    if around.reuse is None:
        return None
    path = Path(around.reuse)
    named = path if path.is_dir() else planned.storage / planned.name / around.reuse
    folder = RunFolder(named.absolute())
    folder.bring("tune")
    if TrialLedger(folder.tune).trials:
        if reason := _comparable(folder, planned):
            raise SettingsError([Problem(f"--reuse {around.reuse}", "", reason, "start with --new-search")])
        return folder
    searched = [each.run_id for each in workspace.runs(planned.storage, planned.name) if each.stage("tune")]
    hint = f"runs with trials: {', '.join(searched)}" if searched else "no run of this name has searched yet"
    raise SettingsError([Problem(f"--reuse {around.reuse}", "", "there are no trials of such a run", hint)])


def _cluster(settings: Settings, around: Surroundings, *, num_nodes: int) -> Cluster:
    num_cpus, num_gpus = resources(settings.train.devices)
    cluster = Cluster(
        address=around.address,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        num_nodes=num_nodes,
        note=around.console.detail,
    )
    # Ray brings handlers of its own, so ours go in after it.
    cluster.on_attach.append(around.signals.install)
    return cluster


def _require_gpu(settings: Settings, cluster: Cluster) -> None:
    """Ask the process that is to train; when all is well, it stays to do so."""
    devices = settings.train.devices
    if devices.startswith("cpu"):
        hint = "Set it to auto or gpu:N, or leave --require-gpu out."
        raise SettingsError([Problem("--require-gpu", "train.devices", f"received {devices}", hint)])
    with ExitStack() as unless_all_is_well:
        unless_all_is_well.enter_context(cluster)
        cluster.worker().call(require_gpu)
        unless_all_is_well.pop_all()


def _own_folder(planned: Plan, stack: ExitStack, *, note: Callable[[str], None]) -> RunFolder:
    """An earlier run to go on with if nobody else is at it, or a new one; held until the stack ends."""
    folder = workspace.taken_up(
        planned.storage,
        planned.name,
        fits=lambda each: _fits(each, planned) and not planned.is_fulfilled(each),
        holder=stack,
        note=note,
    )
    if folder is not None:
        folder.update(plan=planned.keys)
        return folder
    return workspace.create(
        planned.storage, planned.name, plan=planned.keys, versions=versions_here(), holder=stack
    )


def versions_here() -> dict[str, str]:
    """Of Python and of every library that a result follows from."""
    libraries = dict.fromkeys(("recurra", "ray", *(name for names in LIBRARIES.values() for name in names)))
    return {"python": platform.python_version(), **{each: metadata.version(each) for each in libraries}}


def _fits(folder: RunFolder, planned: Plan) -> bool:
    """Whether a run is the one planned, or was stopped before it came to what has changed since."""
    run = folder.read()
    if run["plan"] == planned.keys:
        return True
    begun = {name: stage["key"] for name, stage in run["stages"].items()}
    stopped = any(stage["status"] != "done" for stage in run["stages"].values())
    return stopped and begun.items() <= planned.keys.items()


def _write_settings(folder: RunFolder, settings: Settings) -> None:
    with folder.settings.open("w", encoding="utf8") as file:
        YAML(typ="safe", pure=True).dump(resolved(settings), file)


def _reused(stage: Planned, around: Surroundings) -> StageReport:
    around.console.note(f"{stage.name:<9} reused: {stage.reason}")
    return StageReport(stage.name, "reused", 0.0, stage.reason)


class StoredAtEnd:
    """Stores a run as the command leaves it: ended or stopped, its tracker closed."""

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self.folder, self.console = folder, console

    def __enter__(self) -> None:
        """Nothing is stored yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.folder.publish()
        except (StorageError, BusyError) as failure:
            if error is None:
                raise
            # What ended the command is what is told of it.
            self.console.warn(str(failure))


class _Work:
    """The stages of one held run, and what they share."""

    def __init__(
        self,
        settings: Settings,
        planned: Plan,
        folder: RunFolder,
        cluster: Cluster,
        around: Surroundings,
        stack: ExitStack,
        reuse: RunFolder | None,
    ) -> None:
        self.given, self.reuse = settings, reuse
        self.settings, self.planned, self.folder, self.around = settings, planned, folder, around
        stack.push(self._leave_nothing)
        self.cluster = stack.enter_context(cluster)
        self.tracker = stack.enter_context(
            tracking.open_run(
                around.tracking_uri,
                folder=folder,
                settings=settings,
                warn=around.console.warn,
                others=workspace.runs(around.storage, settings.name),
                artifacts=around.artifacts,
            )
        )
        self.cluster.share(folder.path)
        self.shared: dict[str, Any] = {"folder": folder, "cluster": self.cluster, "console": around.console}
        self.baselines: Future | None = None
        self.stack = stack

    def run(self) -> tuple[StageReport, ...]:
        actions: Mapping[str, Callable[[Planned], dict[str, Any]]] = {
            "prepare": self._prepare,
            "tune": self._tune,
            "train": self._train,
            "evaluate": self._evaluate,
            "register": self._register,
        }
        reports = []
        for stage in self.planned.stages:
            reports.append(self._reuse(stage) if stage.source else self._run(stage, actions[stage.name]))
            if stage.name == "tune":
                # What follows is of the best trial.
                self.settings = tuned(self.given, self.folder)
            if stage.name == "prepare" and stage.source and self.planned.runs("evaluate"):
                check_examples(self.settings, self.folder.data)
            # From here on there is something to tell: the rows can be used.
            self.tracker.begin()
        self.folder.update(mlflow_run_id=self.tracker.mlflow_run_id())
        report.write(self.folder, self.settings)
        self.tracker.log_artifact(self.folder.report)
        if self.planned.runs("register"):
            attach_report(self.folder, tracker=self.tracker)
        return tuple(reports)

    def _leave_nothing(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Remove a run that came to nothing because of its rows, if nobody was told of it."""
        if isinstance(error, DataError) and not self.tracker.has_begun:
            with suppress(StorageError):
                self.folder.remove()
            self.around.console.note(f"Nothing was written: {self.folder.path} is removed.")

    def _reuse(self, stage: Planned) -> StageReport:
        source = stage.source
        if source is not None and source != self.folder:
            workspace.take_over(stage.name, source, self.folder)
            taken = {**source.stage(stage.name), "from_run": source.run_id}
            self.folder.update_stage(stage.name, **taken)
            self.folder.publish()
        return _reused(stage, self.around)

    def _run(self, stage: Planned, action: Callable[[Planned], dict[str, Any]]) -> StageReport:
        self.around.console.note(f"{stage.name:<9} runs: {stage.reason}")
        begun = time.monotonic()
        self.folder.update_stage(
            stage.name, status="running", key=stage.key, inputs=stage.inputs, reason=stage.reason
        )
        self.folder.publish()
        try:
            with self.tracker.stage(stage.name):
                summary = action(stage)
        except BaseException as error:
            self.folder.update_stage(stage.name, status="failed", error=f"{type(error).__name__}: {error}")
            raise
        seconds = time.monotonic() - begun
        self.folder.update_stage(stage.name, status="done", seconds=round(seconds, 3), summary=summary)
        self.folder.publish()
        return StageReport(stage.name, "ran", seconds, stage.reason)

    def _prepare(self, stage: Planned) -> dict[str, Any]:
        # Runs that start together prepare once: whoever comes second finds it done.
        with workspace.locked(self.folder.storage, f"prepare-{stage.key[:16]}"):
            for other in workspace.runs(self.planned.storage, self.planned.name):
                if other != self.folder and other.is_done("prepare", stage.key):
                    workspace.take_over("prepare", other, self.folder)
                    return {**other.stage("prepare")["summary"], "from_run": other.run_id}
            if self.planned.runs("train") and not self.planned.runs("tune"):
                self.cluster.prewarm()
            summary = prepare(self.settings, **self.shared)
            # Said while the lock is held, so that the next holder can see it.
            self.folder.update_stage("prepare", status="done", seconds=0.0, summary=summary)
            return summary

    def _tune(self, stage: Planned) -> dict[str, Any]:
        # MLflow may hear of the trials while they run; Ray Tune imports it too.
        self.tracker.begin()
        self.tracker.store.load()
        try:
            summary = tune(
                self.given,
                tracker=self.tracker,
                key=stage.key,
                signals=self.around.signals,
                reuse=self.reuse,
                **self.shared,
            )
        except BaseException:
            report.write(self.folder, self.given)
            raise
        self.tracker.log_params(summary["point"])
        self.tracker.log_metrics({f"best_{summary['metric']}": summary["value"]}, stage="tune")
        return summary

    def _train(self, stage: Planned) -> dict[str, Any]:
        if self.planned.runs("evaluate"):
            # Small models beside the network's training: a core is free while the other one steps.
            self.baselines = start_baselines(self.settings, self.folder, self.cluster)
        if (searched := self.folder.summary("tune")) is not None:
            return adopt(
                self.settings,
                trial=trial_folder(self.folder, searched["best"]),
                key=stage.key,
                tracker=self.tracker,
                **self.shared,
            )
        return train(
            self.settings,
            key=stage.key,
            tracker=self.tracker,
            signals=self.around.signals,
            nearly_done=self._start_proof,
            **self.shared,
        )

    def _evaluate(self, stage: Planned) -> dict[str, Any]:
        self._start_proof()
        return evaluate(self.settings, baselines=self.baselines, **self.shared)

    def _start_proof(self) -> None:
        """Let the process that will prove the model load its libraries beside other work."""
        if self.planned.runs("register") and self.tracker.proof is None:
            self.tracker.start_proof(self.stack)

    def _register(self, stage: Planned) -> dict[str, Any]:
        return register(self.settings, tracker=self.tracker, override=self.around.override, **self.shared)


def resources(devices: str) -> tuple[int, int | str]:
    """CPUs and GPUs that the training worker holds for `train.devices`."""
    kind, _, count = devices.partition(":")
    if kind == "cpu":
        return int(count), 0
    if kind == "gpu":
        return 1, count if count == "all" else int(count)
    return 1, "auto"


def serving_cluster(around: Surroundings) -> Cluster:
    """Where the replicas of a served model live, when they do not live in this process."""
    cluster = Cluster(address=around.address, num_gpus="auto", note=around.console.detail)
    cluster.on_attach.append(around.signals.install)
    return cluster


def predict_rows(
    model: str,
    data: Sequence[str],
    *,
    out: Path,
    options: Options,
    around: Surroundings,
    workers: int | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Answers of a registered model, or of a run's, for new rows; see `stages/predict.py`."""
    with ExitStack() as stack:
        scratch = None
        cluster = Cluster(address=around.address, num_gpus="auto", note=around.console.detail)
        cluster.on_attach.append(around.signals.install)
        if around.address is not None:
            # Workers on other machines often see the storage, and never this one's temporary folder.
            around.storage.mkdir(parents=True, exist_ok=True)
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix=".predict-", dir=around.storage))
            scratch = Path(name)
            cluster.share(scratch)
        stack.enter_context(cluster)
        return predict(
            model,
            data,
            out=out,
            tracking_uri=around.tracking_uri,
            cluster=cluster,
            pool=Pool(cluster, warn=around.console.warn),
            console=around.console,
            options=options,
            workers=workers,
            restart=restart,
            scratch=scratch,
        )
