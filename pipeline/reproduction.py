"""reproduce: train a registered version again from what it carries, and say what differs.

    version ─ settings, lineage, epochs, scores
       │ prepare ── other rows ──▶ not reproduced: training would tell nothing
       ▼
    train ─ evaluate              in <storage>/reproductions/<name>/<run_id>/, nothing taken over
       │
       ▼
    compare: differences, likely cause first ─▶ reproduced | not reproduced

Nothing is registered, and MLflow hears nothing of it. One that was stopped or killed is gone on with by the
same command, on any machine that shares the storage; one that came to its end is done anew.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.data.readers import expand
from components.errors import DataError, ModelError, RecurraError
from components.evaluation import agreements, rivals
from components.training.checkpoints import HISTORY
from conf.load import Problem, SettingsError, recorded
from conf.points import as_yaml
from conf.schema import Settings
from conf.urls import has_secret, is_url
from pipeline.backends import workspace
from pipeline.backends.cluster import Cluster
from pipeline.backends.lineages import LINEAGE, lineage
from pipeline.backends.packages import TUNED
from pipeline.backends.recorders import Recorder
from pipeline.backends.registry import DIGEST_TAG, Registry, Version
from pipeline.backends.tracking import Store
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.run import StoredAtEnd, Surroundings, keys_again, resources, versions_here
from pipeline.stages.evaluate import evaluate
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train

SETTINGS, METRICS = "settings.yaml", "metrics.json"
CARRIED = (SETTINGS, TUNED, LINEAGE, HISTORY, METRICS)
REPRODUCTIONS, COMPARE, COMPARISON = "reproductions", "compare", "comparison.json"
PATIENCE_SECONDS = 20.0
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
BOUNDS = ("_low", "_high")
AT_FAULT = 2  # the exit code of what no second try can help


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was recorded; `kind` is the likely cause it stands for."""

    kind: str  # data | encoding | code | library | machine
    what: str
    recorded: Any
    now: Any


@dataclass(frozen=True)
class Figure:
    """A number of the version beside that of the reproduction, and how far they are apart."""

    what: str
    recorded: float | None
    now: float | None
    difference: float | None  # None: one of them is not a number
    within: bool


@dataclass(frozen=True)
class _Record:
    """What a version says of how it came about."""

    settings: Settings
    lineage: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]


def reproduce(model: str, *, tolerance: float, data: Sequence[str], around: Surroundings) -> dict[str, Any]:
    """Train a version again and compare; the object that `--json` prints.

    Args:
        model: models:/name@alias or models:/name/3.
        tolerance: how far any score, loss or probability may be from the recorded one.
        data: where the data lie now; empty for where they were.
        around: where to train.

    Raises:
        ModelError: there is no such version, or it cannot be trained again.
        DataError: the data are gone or cannot be used.
        SettingsError: the tolerance is not a number.
    """
    if math.isnan(tolerance):  # which no limit of the option keeps out
        raise SettingsError(
            [Problem("--tolerance nan", "", "received nan, expected a number", "such as 1e-6")]
        )
    registry = Registry(Store(around.tracking_uri, patience=PATIENCE_SECONDS))
    version = registry.resolve(model)
    record = _record(registry, version, data)
    _refuse_absent_data(record.settings)
    with _own_folder(around, version, record) as folder, _cluster(record.settings, around) as cluster:
        around.console.note(f"Training {version.uri} again in {folder.path}")
        cluster.share(folder.path)
        _again(record, folder, cluster, around)
        found = differences(record.lineage, lineage(folder))
        figures: list[Figure] = []
        if not _other_rows(found):
            figures = [*_compared(record, folder, tolerance=tolerance)]
            figures += _answers(registry, version, folder, cluster, tolerance=tolerance)
        return _conclude(version, folder, found, figures, record, tolerance=tolerance)


def _again(record: _Record, folder: RunFolder, cluster: Cluster, around: Surroundings) -> None:
    """The stages once more, as far as they are not done yet; with other rows nothing is trained."""
    settings, key = record.settings, folder.read()["plan"]["train"]
    shared: dict[str, Any] = {"folder": folder, "cluster": cluster, "console": around.console}
    _stage(folder, "prepare", lambda: prepare(settings, **shared))
    if _other_rows(differences(record.lineage, lineage(folder))):
        return
    training: Callable[[], dict[str, Any]] = lambda: train(  # noqa: E731
        settings,
        key=key,
        # Nobody listens: this run is not one of the model's.
        tracker=Recorder(lambda entry: None, earlier=()),
        signals=around.signals,
        most_epochs=record.lineage.get("epochs"),
        **shared,
    )
    _stage(folder, "train", training)
    _stage(folder, "evaluate", lambda: evaluate(settings, **shared))


def _stage(folder: RunFolder, name: str, action: Callable[[], Mapping[str, Any]]) -> None:
    """Do a stage, unless it was done before the command was stopped, and store what it leaves."""
    key = folder.read()["plan"][name]
    if folder.is_done(name, key):
        return
    folder.update_stage(name, status="running", key=key)
    folder.publish()
    folder.update_stage(name, status="done", summary=dict(action()))
    folder.publish()


def _record(registry: Registry, version: Version, data: Sequence[str]) -> _Record:
    """What the version carries, with the data where they lie now."""
    with registry.carried(version, CARRIED) as files:
        if SETTINGS not in files:
            raise ModelError(f"{version.uri} does not carry its settings, so it cannot be trained again.")
        settings = recorded(files[SETTINGS])
        if settings.tune is not None:
            settings = _tuned(settings, files, version)
        contents = {
            name: json.loads(path.read_text("utf8")) for name, path in files.items() if path.suffix == ".json"
        }
    if data:
        paths = _moved(data)
        rows = settings.data.model_copy(update={"path": paths[0] if len(paths) == 1 else paths})
        settings = settings.model_copy(update={"data": rows})
    return _Record(settings, contents.get(LINEAGE, {}), contents.get(HISTORY, []), contents.get(METRICS, {}))


def _moved(data: Sequence[str]) -> tuple[str, ...]:
    """Where the data lie now, as the new run's settings keep it."""
    if any(map(has_secret, data)):
        raise DataError(
            "--data: the URL carries a password.",
            hint="Give keys by the store's variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    return tuple(path if is_url(path) else os.path.abspath(path) for path in data)


def _tuned(settings: Settings, files: Mapping[str, Path], version: Version) -> Settings:
    """The settings that its search found: those are what the version was trained with."""
    assert settings.tune is not None
    if TUNED not in files:
        raise ModelError(
            f"{version.uri} comes from a search, and does not carry what that found.",
            hint="An earlier release registered it; its run folder has tune/best.yaml, which can be run.",
        )
    if settings.tune.scheduler == "pbt":
        raise ModelError(
            f"{version.uri} comes from a search with scheduler pbt: its weights were copied between trials "
            "and have seen several settings, so there is no one training to repeat."
        )
    return recorded(files[TUNED])


def _refuse_absent_data(settings: Settings) -> None:
    paths = [settings.data.path] if isinstance(settings.data.path, str) else list(settings.data.path)
    try:
        expand(paths, settings.data.format)
    except DataError as error:
        hint = "This is where the version's data were; if they have moved, name them with --data."
        raise DataError(error.message, problems=error.problems, hint=hint) from error


@contextmanager
def _own_folder(around: Surroundings, version: Version, record: _Record) -> Iterator[RunFolder]:
    """The run folder, held: that of a reproduction of the same that was stopped, or a fresh one.

    It goes where the settings or the data are at fault.
    """
    versions = versions_here()
    what = {
        "model": version.uri,
        # Whichever way a machine gets to the registry, it is the same version.
        "bundle": version.tags.get(DIGEST_TAG),
        "epochs": record.lineage.get("epochs"),
        "versions": versions,
    }
    plan = keys_again(record.settings, storage=around.storage, of=what)
    with ExitStack() as stack:
        folder = workspace.taken_up(
            around.storage,
            f"{REPRODUCTIONS}/{record.settings.name}",
            fits=lambda each: _is_stopped(each, plan),
            holder=stack,
            note=around.console.note,
        )
        if folder is None:
            folder = workspace.create(
                around.storage / REPRODUCTIONS,
                record.settings.name,
                plan=plan,
                versions=versions,
                holder=stack,
            )
        folder.settings.write_text(as_yaml(record.settings), "utf8")
        folder.publish(anew=True)
        stack.enter_context(StoredAtEnd(folder, around.console))
        try:
            yield folder
        except RecurraError as error:
            if error.exit_code == AT_FAULT:
                folder.remove()
            raise


def _is_stopped(folder: RunFolder, plan: Mapping[str, str]) -> bool:
    """Whether it is a reproduction of the same that came to no end."""
    return folder.read()["plan"] == plan and folder.summary(COMPARE) is None


def _cluster(settings: Settings, around: Surroundings) -> Cluster:
    num_cpus, num_gpus = resources(settings.train.devices)
    cluster = Cluster(
        address=around.address,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        num_nodes=settings.train.nodes,
        note=around.console.detail,
    )
    cluster.on_attach.append(around.signals.install)
    return cluster


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What is not as the version's lineage says, the likeliest causes of other results first.

    What the version does not say, because an earlier release registered it, is passed over.
    """
    found = []
    for split, then in before.get("splits", {}).items():
        have = now["splits"].get(split, {})
        if then["digest"] != have.get("digest"):
            found.append(Difference("data", f"{split} rows", _rows(then), _rows(have)))
    names = {"encoding": ("encoding", "scales and vocabulary"), "code": ("code", "recurra")}
    for key, (kind, what) in names.items():
        if key in before and before[key] != now[key]:
            found.append(Difference(kind, what, before[key], now[key]))
    for library, version in before.get("versions", {}).items():
        if library != "recurra" and version != now["versions"].get(library):
            found.append(Difference("library", library, version, now["versions"].get(library)))
    for key, what in (("machine", "processor"), ("kernel", "recurrence computed by")):
        # Nothing is said of the kernel before training.
        if before.get(key) and now[key] and before[key] != now[key]:
            found.append(Difference("machine", what, before[key], now[key]))
    return found


def _rows(split: Mapping[str, Any]) -> str:
    if not split:
        return "none"
    return f"{split['rows']:,} rows, {split['steps']:,} steps, digest {split['digest'][:12]}"


def _other_rows(found: Sequence[Difference]) -> bool:
    return any(each.kind == "data" for each in found)


def _compared(record: _Record, folder: RunFolder, *, tolerance: float) -> Iterator[Figure]:
    """Scores and learning curve."""
    now = json.loads((folder.evaluation / METRICS).read_text("utf8"))
    for split in ("valid", "test"):
        for name, value in record.metrics.get(split, {}).items():
            if not name.endswith(BOUNDS):
                yield _figure(f"{split} {name}", value, now[split].get(name), tolerance)
    if not record.history:
        return
    history = json.loads((folder.checkpoints / HISTORY).read_text("utf8"))
    yield _figure("epochs", len(record.history), len(history), tolerance)
    for then, again in zip(record.history, history, strict=False):
        pairs = {"training loss": (then["loss"], again["loss"])}
        pairs |= {f"valid {name}": (value, again["valid"].get(name)) for name, value in then["valid"].items()}
        for name, (one, other) in pairs.items():
            figure = _figure(f"epoch {then['epoch']} {name}", one, other, tolerance)
            if not figure.within:
                # Once it has parted, the rest of the curve says nothing new.
                yield figure
                return


def _figure(what: str, before: float | None, now: float | None, tolerance: float) -> Figure:
    if before is None or now is None:
        return Figure(what, before, now, None, within=before is now)
    apart = abs(before - now)
    return Figure(what, before, now, apart, within=apart <= tolerance)


def _answers(
    registry: Registry, version: Version, folder: RunFolder, cluster: Cluster, *, tolerance: float
) -> list[Figure]:
    """The version's own answers to the test rows, given now, against those of the model trained again."""
    import pyarrow.parquet as pq

    with registry.fetch(version, parent=folder.path) as bundle:
        if rivals.incomparable(bundle, folder.bundle) is not None:
            return [Figure("test rows with the same labels", 1.0, 0.0, 1.0, within=False)]
        out = folder.evaluation / f"version-{version.number}.parquet"
        cluster.worker().call(rivals.answer, bundle=bundle, data=folder.data, out=out)
    predictions = folder.evaluation / "predictions.parquet"
    ours = pq.read_table(predictions, filters=[("split", "==", "test")])
    found = agreements.agreement(pq.read_table(out), ours)
    return [
        _figure("test rows with the same labels", 1.0, found["same_labels"], tolerance),
        _figure("largest difference of a probability", 0.0, found["probability"], tolerance),
    ]


def _conclude(
    version: Version,
    folder: RunFolder,
    found: Sequence[Difference],
    figures: Sequence[Figure],
    record: _Record,
    *,
    tolerance: float,
) -> dict[str, Any]:
    other_rows = _other_rows(found)
    well = not other_rows and all(figure.within for figure in figures)
    outcome = {
        "model": version.uri,
        "verdict": REPRODUCED if well else NOT_REPRODUCED,
        "reasons": _reasons(found, figures, record, tolerance=tolerance),
        "tolerance": tolerance,
        "seed": record.settings.train.seed,
        "differences": [asdict(each) for each in found],
        "figures": [asdict(each) for each in figures],
        "run_dir": None if other_rows else str(folder.path),
    }
    if other_rows:
        # As with all that is wrong with the data, nothing is left.
        folder.remove()
    else:
        workspace.write_json(folder.evaluation / COMPARISON, outcome)
        folder.update_stage(COMPARE, status="done", summary={"verdict": outcome["verdict"]})
    return outcome


def _reasons(
    found: Sequence[Difference], figures: Sequence[Figure], record: _Record, *, tolerance: float
) -> list[str]:
    """Sentences: what happened, and then the likely cause."""
    if _other_rows(found):
        splits = [each.what for each in found if each.kind == "data"]
        return [f"The data changed: {' and '.join(splits)} are others. It was not trained again."]
    missed = [figure for figure in figures if not figure.within]
    reasons = [
        f"{len(missed)} of {len(figures)} figures differ by more than {tolerance:g}."
        if missed
        else f"All {len(figures)} figures agree to {tolerance:g}."
    ]
    kinds = {"encoding": "the encoding", "code": "the code", "library": "a library", "machine": "the machine"}
    changed = [words for kind, words in kinds.items() if any(each.kind == kind for each in found)]
    if changed:
        effect = "the likely cause is the first" if missed else "it changed nothing here"
        reasons.append(f"Changed since: {', '.join(changed)}; {effect}.")
    elif missed and record.lineage:
        reasons.append(
            "Data, settings, seed, code, libraries and kind of machine are the same: what is left is the "
            "order in which parallel hardware adds numbers up, as on GPUs. --tolerance allows for it."
        )
    if not record.lineage:
        reasons.append("An earlier release registered it without its lineage, so changes cannot be named.")
    return reasons


def exit_code(found: Mapping[str, Any]) -> int:
    """0 reproduced; 2 the data are others; 4 trained again, and the tolerance was missed."""
    if found["verdict"] == REPRODUCED:
        return 0
    return 4 if found["figures"] else 2


def show(found: Mapping[str, Any], *, console: Console) -> None:
    """What differs as tables, and the verdict as the last word."""
    if found["differences"]:
        rows = [[each["kind"], each["what"], each["recorded"], each["now"]] for each in found["differences"]]
        console.table("Not as recorded", ["cause", "what", "recorded", "now"], rows, err=True)
    if found["figures"]:
        rows = [
            [
                each["what"],
                _shown(each["recorded"]),
                _shown(each["now"]),
                _apart(each),
                "" if each["within"] else "!",
            ]
            for each in found["figures"]
        ]
        console.table("\nFigures", ["what", "recorded", "now", "apart", ""], rows, err=True)
    lines = [f"{found['model']}: {found['verdict']}", *(f"  {reason}" for reason in found["reasons"])]
    console.result("\n".join(lines), found)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _apart(figure: Mapping[str, Any]) -> str:
    return "-" if figure["difference"] is None else f"{figure['difference']:.2g}"
