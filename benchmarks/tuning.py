"""What a trial of a search costs beside its training steps: `recurra tune` against Ray Tune by hand.

    python benchmarks/tuning.py [--trials 16] [--epochs 5] [--repeat 3] [--json FILE]
    python benchmarks/tuning.py --trials 2 --epochs 1 --only plain

The shipped OCR letters, split as in conf/ocr_letters.yaml; on every side the same grid of widths, learning
rates and dropout, two trials at a time with a CPU and a thread each, judged by the accuracy per validation
letter:

    plain     a function that imports Keras, loads padded arrays, fits and reports; Ray Tune's defaults
    Recurra   `recurra tune`, search: grid, scheduler: none
    asha      `recurra tune`, search: grid, scheduler: asha

Each side is a process of its own with a Ray of its own, in turns. All are timed alike:

    sweep     from the moment the trials are handed over to the end of the last one
    slot      of a trial: from when its slot was free for it to when the slot was free again; so the start of
              its process counts, and whatever else goes on between two trials
    steps     inside training steps: of Keras from on_train_batch_begin to on_train_batch_end, of Recurra its
              `step_seconds`; the first ones hold the tracing of the graph, Keras's the wait for data too
    beyond    slot less steps: process, imports, data, validation, reports

The command's other seconds are its start and Ray's, and of Recurra the preparation of the rows and what
follows the search. The padded arrays of plain are made beforehand, and it keeps no checkpoints, which Recurra
does. Measure on a quiet machine.
"""

import argparse
import datetime
import heapq
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import OCR, ROOT, markdown, ocr_letters

LIBRARIES = ("tensorflow", "keras", "ray", "optuna", "numpy")
CONCURRENCY = 2
BATCH, CLIP_NORM, CLASSES, SEED = 64, 1.0, 26, 0
FILL = -1.0  # not 0: rows of letters have steps of nothing but zeros, which Masking would drop
SPACE: Mapping[str, tuple[float, ...]] = {
    "model.units": (64, 128),
    "train.learning_rate": (1e-3, 3e-3, 1e-2, 3e-2),
    "model.dropout.output": (0.0, 0.3),
}
MEDIAN_BEYOND, MEAN_BEYOND = "beyond steps, median trial", "beyond steps, mean of all slots"
BOLD = ("sweep", MEDIAN_BEYOND, MEAN_BEYOND)
MOST_TRIALS = math.prod(map(len, SPACE.values()))
SIDES = {"plain": "plain", "recurra": "Recurra", "asha": "Recurra, asha"}
TARGETS = {"beyond": 5.0, "asha": 2.0}
SETTINGS = """\
name: tuning
task: labelling
data:
  path: {path}
  id: id
  inputs: [{{column: frames, kind: numeric, scale: none}}]
  target: {{column: labels}}
  split: {{column: fold, valid: [1], test: [0]}}
model: {{cell: gru, bidirectional: true}}
train: {{epochs: {epochs}, batch_size: {batch}, clip_norm: {clip_norm}, devices: cpu:1,
        early_stopping: {{metric: accuracy, patience: null}}}}
tune:
  trials: {trials}
  concurrency: {concurrency}
  cpus: 1
  search: grid
  scheduler: {scheduler}
  space: {space}
"""

Point = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One point, trained."""

    number: int
    state: str
    point: Point
    accuracy: float  # of validation letters, after the best epoch
    num_epochs: int
    slot_seconds: float
    step_seconds: float
    parts: Mapping[str, float]  # seconds of what else is known of it; none of Recurra's

    @property
    def beyond_seconds(self) -> float:
        """What its slot was taken for beside training steps."""
        return self.slot_seconds - self.step_seconds


@dataclass(frozen=True)
class Sweep:
    """A command and the trials it made."""

    wall_seconds: float
    sweep_seconds: float
    concurrency: int
    trials: tuple[Trial, ...]

    @classmethod
    def read(cls, path: Path, *, wall_seconds: float) -> "Sweep":
        """What `trials.json` says; leaves when a trial failed."""
        found = json.loads(path.read_text("utf8"))
        trials = [each for each in found["trials"] if each.get("seed") is None]
        if lost := [each for each in trials if each["state"] not in ("finished", "stopped")]:
            sys.exit(f"trial {lost[0]['number']} is {lost[0]['state']}: {lost[0].get('error')}")
        return cls(
            wall_seconds,
            found["seconds"],
            found["concurrency"],
            tuple(_trial(each) for each in sorted(trials, key=lambda each: each["number"])),
        )

    def measures(self) -> dict[str, float]:
        """The lines of the table; NaN where it is not known."""
        slots = self.concurrency * self.sweep_seconds
        steps = sum(trial.step_seconds for trial in self.trials)
        return {
            "command": self.wall_seconds,
            "outside the sweep": self.wall_seconds - self.sweep_seconds,
            "sweep": self.sweep_seconds,
            "slot, median trial": self._median(lambda trial: trial.slot_seconds),
            "steps, median trial": self._median(lambda trial: trial.step_seconds),
            MEDIAN_BEYOND: self._median(lambda trial: trial.beyond_seconds),
            **{f"of that {name}": self._median(_part(name)) for name in ("imports", "validation")},
            "of the steps: first batch": self._median(_part("first batch")),
            "slots in all": slots,
            "steps in all": steps,
            MEAN_BEYOND: (slots - steps) / len(self.trials),
        }

    def _median(self, of: Callable[[Trial], float]) -> float:
        return statistics.median(map(of, self.trials))

    @property
    def best(self) -> float:
        """The best validation accuracy of all trials."""
        return max(trial.accuracy for trial in self.trials)


def _part(name: str) -> Callable[[Trial], float]:
    return lambda trial: trial.parts.get(name, math.nan)


def _trial(entry: Mapping[str, Any]) -> Trial:
    return Trial(
        number=entry["number"],
        state=entry["state"],
        point=entry["point"],
        accuracy=entry["value"],
        num_epochs=len(entry["curve"]),
        slot_seconds=entry["seconds"],
        step_seconds=entry["step_seconds"],
        parts=entry.get("parts", {}),
    )


class Slots:
    """How long each trial had a slot, the time included in which the slot waited for it."""

    def __init__(self, count: int, *, now: float) -> None:
        self.begun = self.ended = now
        self._free = [now] * count
        self._taken: dict[str, float] = {}

    def start(self, trial: str) -> None:
        """It has the slot that was free for longest."""
        self._taken[trial] = heapq.heappop(self._free)

    def end(self, trial: str, *, now: float) -> float:
        """Its seconds."""
        heapq.heappush(self._free, now)
        self.ended = now
        return now - self._taken.pop(trial)


def points(count: int) -> list[Point]:
    """The first of the grid, the first key slowest."""
    every = (dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values()))
    return list(itertools.islice(every, count))


def save_padded(path: Path) -> None:
    """Both parts of the letters at one length, in one file."""
    data = ocr_letters(OCR)
    arrays: dict[str, Any] = {}
    for name, part in (("train", data.train), ("valid", data.valid)):
        arrays[f"{name}_x"], arrays[f"{name}_y"] = part.padded(data.case.longest, FILL)
    np.savez(path, **arrays)


def plain_trial(config: dict[str, Any]) -> None:
    """Ray Tune's trainable, as one writes it by hand."""
    begun = time.perf_counter()
    import keras
    import tensorflow as tf

    imported = time.perf_counter()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(SEED)
    with np.load(config["data"]) as file:
        arrays = dict(file)
    network = plain_network(config["point"], num_features=arrays["train_x"].shape[-1])
    # One `fit` that reports after each epoch: a call for each epoch would make its iterators anew.
    network.fit(
        arrays["train_x"],
        arrays["train_y"],
        batch_size=BATCH,
        epochs=config["epochs"],
        validation_data=(arrays["valid_x"], arrays["valid_y"]),
        callbacks=[_reporter(import_seconds=imported - begun)],
        verbose=0,
    )


def plain_network(point: Point, *, num_features: int) -> Any:
    """The same layers and sizes as Recurra's, compiled."""
    import keras

    given = keras.Input((None, num_features))
    layer = keras.layers.GRU(int(point["model.units"]), return_sequences=True)
    read = keras.layers.Bidirectional(layer)(keras.layers.Masking(FILL)(given))
    read = keras.layers.Dropout(point["model.dropout.output"])(read)
    network = keras.Model(given, keras.layers.TimeDistributed(keras.layers.Dense(CLASSES))(read))
    network.compile(
        keras.optimizers.Adam(point["train.learning_rate"], global_clipnorm=CLIP_NORM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],  # Keras counts real steps only: it heeds the mask here
    )
    return network


def _reporter(*, import_seconds: float) -> Any:
    """The callback that times batches and validation and tells Ray Tune of each epoch."""
    import keras
    from ray import tune

    class Reporter(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.begun = self.left = 0.0
            self.seconds = {"steps": 0.0, "validation": 0.0, "imports": import_seconds}

        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.begun = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.left = time.perf_counter()
            took = self.left - self.begun
            self.seconds["steps"] += took
            self.seconds.setdefault("first batch", took)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.seconds["validation"] += time.perf_counter() - self.left
            tune.report({"accuracy": float((logs or {})["val_accuracy"]), "took": dict(self.seconds)})

    return Reporter()


def plain_sweep(folder: Path) -> None:
    """Train the points of `plan.json` and write `trials.json`; leaves when one fails."""
    import ray
    from ray import tune

    plan = json.loads((folder / "plan.json").read_text("utf8"))
    ray.init(address="local", num_cpus=CONCURRENCY, include_dashboard=False, log_to_driver=False)
    watch = _watch()
    tuner = tune.Tuner(
        tune.with_resources(plain_trial, {"cpu": 1}),
        param_space={
            "data": str(folder / "data.npz"),
            "epochs": plan["epochs"],
            "point": tune.grid_search(plan["points"]),
        },
        run_config=tune.RunConfig(name="plain", storage_path=str(folder), callbacks=[watch], verbose=0),
    )
    watch.slots = Slots(CONCURRENCY, now=time.perf_counter())
    results = tuner.fit()
    ray.shutdown()
    if results.errors:
        sys.exit(str(results.errors[0]))
    seconds = watch.slots.ended - watch.slots.begun
    trials = [{**each, "number": plan["points"].index(each["point"])} for each in watch.trials]
    found = {"seconds": seconds, "concurrency": CONCURRENCY, "trials": trials}
    (folder / "trials.json").write_text(json.dumps(found), "utf8")


def _watch() -> Any:
    """The callback that keeps what each trial reported, and how long it had a slot."""
    from ray import tune

    class Watch(tune.Callback):
        slots: Slots

        def __init__(self) -> None:
            self.reports: dict[str, list[dict[str, Any]]] = {}
            self.trials: list[dict[str, Any]] = []

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.slots.start(trial.trial_id)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            self.reports.setdefault(trial.trial_id, []).append(result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            seconds = self.slots.end(trial.trial_id, now=time.perf_counter())
            reports = self.reports[trial.trial_id]
            self.trials.append({**_entry(trial.config["point"], reports), "seconds": seconds})

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.slots.end(trial.trial_id, now=time.perf_counter())

    return Watch()


def _entry(point: Point, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a trial reported, as Recurra keeps it."""
    # The end of a trial comes as its last report once more.
    curve = {report["training_iteration"]: report["accuracy"] for report in reports}
    best = max(curve, key=lambda epoch: curve[epoch])
    took = dict(reports[-1]["took"])
    return {
        "state": "finished",
        "point": point,
        "value": curve[best],
        "best_epoch": best,
        "curve": sorted(curve.items()),
        "step_seconds": took.pop("steps"),
        "parts": took,
    }


def measure_plain(num_trials: int, epochs: int, data: Path) -> Sweep:
    """A sweep by hand, in a new folder and a new process."""
    with tempfile.TemporaryDirectory(prefix="recurra-tuning-") as name:
        folder = Path(name)
        (folder / "data.npz").symlink_to(data)
        plan = {"points": points(num_trials), "epochs": epochs}
        (folder / "plan.json").write_text(json.dumps(plan), "utf8")
        wall = _timed([str(Path(__file__)), "--sweep", name], folder)
        return Sweep.read(folder / "trials.json", wall_seconds=wall)


def measure_recurra(num_trials: int, epochs: int, scheduler: str) -> Sweep:
    """`recurra tune` as its user runs it, in a new folder."""
    with tempfile.TemporaryDirectory(prefix="recurra-tuning-") as name:
        folder = Path(name)
        space = {key: {"choice": values} for key, values in SPACE.items()}
        text = SETTINGS.format(
            path=json.dumps(str(OCR)),
            epochs=epochs,
            batch=BATCH,
            clip_norm=CLIP_NORM,
            trials=num_trials,
            concurrency=CONCURRENCY,
            scheduler=scheduler,
            space=json.dumps(space),
        )
        (folder / "conf.yaml").write_text(text, "utf8")
        storage = folder / "runs"
        tracking = f"sqlite:///{folder / 'mlflow.db'}"
        command = ["-m", "pipeline", "tune", "conf.yaml", "--storage", str(storage)]
        wall = _timed([*command, "--tracking-uri", tracking, "-q"], folder)
        found = list(storage.glob("**/tune/trials.json"))
        if len(found) != 1:
            sys.exit(f"expected one tune/trials.json under the storage, found {len(found)}")
        sweep = Sweep.read(found[0], wall_seconds=wall)
    trained = [trial.point for trial in sweep.trials]
    if trained != points(num_trials):
        sys.exit(f"expected the grid's points {points(num_trials)}, Recurra trained {trained}")
    return sweep


def _timed(arguments: Sequence[str], folder: Path) -> float:
    """Seconds of a Python command; leaves with what it said when it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with tempfile.TemporaryFile("w+") as log:
        begun = time.perf_counter()
        # Not pipes: processes that Ray leaves behind for a moment would hold them open.
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, stdout=log, stderr=log, check=False
        )
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            log.seek(0)
            sys.exit(log.read()[-4000:] or f"{' '.join(arguments)} ended with {done.returncode}")
    return seconds


def table(sweeps: Mapping[str, Sequence[Sweep]]) -> str:
    """Medians over the repetitions with their range, a column for each side, and ratios to plain."""
    measures = {side: [sweep.measures() for sweep in each] for side, each in sweeps.items()}
    compared = [side for side in sweeps if side != "plain" and "plain" in sweeps]
    head = ["seconds", *(SIDES[side] for side in sweeps), *(f"plain / {SIDES[side]}" for side in compared)]
    lines = []
    for name in next(iter(measures.values()))[0]:
        values = {side: [found[name] for found in each] for side, each in measures.items()}
        if all(math.isnan(value) for each in values.values() for value in each):
            continue
        ratios = [_ratio(values["plain"], values[side]) for side in compared]
        shown = f"**{name}**" if name in BOLD else name
        lines.append([shown, *map(_spread, values.values()), *ratios])
    blank = [""] * len(compared)
    lines.append(
        ["epochs trained", *(_spread(list(map(_num_epochs, e)), 0) for e in sweeps.values()), *blank]
    )
    best = [_spread([sweep.best for sweep in each], 4) for each in sweeps.values()]
    return markdown(head, [*lines, ["best validation accuracy", *best, *blank]])


def _num_epochs(sweep: Sweep) -> float:
    return sum(trial.num_epochs for trial in sweep.trials)


def _ratio(plain: Sequence[float], own: Sequence[float]) -> str:
    ratio = statistics.median(plain) / statistics.median(own)
    return "" if math.isnan(ratio) else f"{ratio:.2f}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the range in brackets where there is one."""
    if any(math.isnan(value) for value in values):
        return ""
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def verdicts(sweeps: Mapping[str, Sequence[Sweep]]) -> list[str]:
    """Each target that was measured, what came of it, and whether it is met."""

    def ratio(side: str, of: Callable[[Sweep], float]) -> float:
        return statistics.median(map(of, sweeps["plain"])) / statistics.median(map(of, sweeps[side]))

    said = []
    if {"plain", "recurra"} <= sweeps.keys():
        median = ratio("recurra", lambda sweep: sweep.measures()[MEDIAN_BEYOND])
        mean = ratio("recurra", lambda sweep: sweep.measures()[MEAN_BEYOND])
        said.append(
            f"Beyond its steps a trial by hand takes {median:.1f} times as long as Recurra's in the median "
            f"and {mean:.1f} times on average; target {TARGETS['beyond']:g}: "
            f"{_met(min(median, mean), 'beyond')}."
        )
    if {"plain", "asha"} <= sweeps.keys():
        faster = ratio("asha", lambda sweep: sweep.sweep_seconds)
        command = ratio("asha", lambda sweep: sweep.wall_seconds)
        gain = statistics.median(sweep.best for sweep in sweeps["asha"])
        gain -= statistics.median(sweep.best for sweep in sweeps["plain"])
        said.append(
            f"With asha the sweep is {faster:.1f} times as fast as by hand, the command {command:.1f} "
            f"times; target {TARGETS['asha']:g}: {_met(faster, 'asha')}. Its best accuracy less that by hand "
            f"is {gain:+.4f}; target 0 or more: {'met' if gain >= 0 else 'missed'}."
        )
    return said


def _met(ratio: float, target: str) -> str:
    return "met" if ratio >= TARGETS[target] else "missed"


def where() -> dict[str, Any]:
    """The command, the day, the machine and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        versions[name] = metadata.version(name)
    return {
        "command": f"python {' '.join(sys.argv)}",
        "date": f"{datetime.date.today():%d %B %Y}",
        "cores": cores,
        "versions": versions,
    }


def measure(given: argparse.Namespace) -> dict[str, list[Sweep]]:
    """The sweeps of each side, which take turns."""
    sides = [given.only] if given.only else list(SIDES)
    sweeps: dict[str, list[Sweep]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="recurra-tuning-") as folder:
        data = Path(folder) / "data.npz"
        save_padded(data)
        for _, side in itertools.product(range(given.repeat), sides):
            if side == "plain":
                found = measure_plain(given.trials, given.epochs, data)
            else:
                scheduler = "asha" if side == "asha" else "none"
                found = measure_recurra(given.trials, given.epochs, scheduler)
            sweeps[side].append(found)
            print(f"{SIDES[side]}: {found.sweep_seconds:.1f} s", file=sys.stderr, flush=True)
    return sweeps


def main() -> None:
    """Measure, and print a Markdown table and what became of the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=MOST_TRIALS, help=f"Of the grid's {MOST_TRIALS}.")
    parser.add_argument("--epochs", type=int, default=5, help="Of each trial.")
    parser.add_argument("--only", choices=list(SIDES), help="One side alone.")
    parser.add_argument("--repeat", type=int, default=1, help="Turns of each side.")
    parser.add_argument("--json", type=Path, help="Also write every trial's figures to this file.")
    parser.add_argument("--sweep", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sweep:
        plain_sweep(given.sweep)
        return
    if not 1 <= given.trials <= MOST_TRIALS:
        parser.error(f"--trials is {given.trials}, expected 1 to {MOST_TRIALS}")
    sweeps = measure(given)
    here = where()
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    print(f"```\n{here['command']}\n```\n\n{here['date']}, {here['cores']} cores, {versions}.\n")
    print("\n\n".join([table(sweeps), *verdicts(sweeps)]))
    if given.json:
        every = {side: [asdict(sweep) for sweep in each] for side, each in sweeps.items()}
        given.json.write_text(json.dumps({**here, "sides": every}, indent=2) + "\n", "utf8")


if __name__ == "__main__":
    main()
