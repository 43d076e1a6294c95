"""Real time steps per second of training: Recurra against padded Keras and packed PyTorch.

    python benchmarks/training.py --torch-python peers/bin/python [--data FOLDER] [--runs 3] [--seconds 2]
    python benchmarks/training.py --torch-python peers/bin/python --time-to 0.97

The same layers, sizes, batches, clipping and optimizer (Adam) in three processes, which train in turns: first
Recurra, then Keras, then PyTorch, then a matrix product as large as the arithmetic of a step, then Recurra
again. An epoch before the first turn is not counted. FOLDER holds `ts_JapaneseVowels.parquet` and
`brown_pos.parquet`; what is not there is left out. Needs benchmarks/requirements-peers.txt for PyTorch.
Measure on a quiet machine: where other work runs, PyTorch's threads spin while they wait for each other and
it falls far behind (OMP_WAIT_POLICY=PASSIVE or OMP_NUM_THREADS=1 in the environment avoid that).

With --time-to instead: seconds until so many of the letters of fold 1 are right, training on folds 2 to 9,
each at the best of its learning rates; validation counts, what goes before the end of the first batch does
not.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.peers.cases import Case, Part, save

ROOT = Path(__file__).parents[1]
OCR = ROOT / "examples/ocr_letters/ocr_letters.parquet"
CONTESTANTS = {"Recurra": "recurra_loop", "Keras": "keras_padded", "PyTorch": "torch_packed"}
PRODUCT = "one product"
RATES = (1e-3, 3e-3, 1e-2)
FAR_SLOWER = 2.0  # than the best rate, with the first seed: not tried with others
# Of Brown's 57,340 rows, so that an epoch takes seconds. Padded to 180 steps, fewer will do.
BROWN_ROWS = {"Recurra": 2048, "Keras": 256, "PyTorch": 2048, PRODUCT: 2048}
HELD_OUT_DOCUMENTS = 50


@dataclass(frozen=True)
class DataSet:
    """A data set as contestants get it, and the network for it."""

    case: Case
    train: Part
    valid: Part


class Child:
    """A contestant in its process. A context manager: leaving it ends the process."""

    def __init__(self, contestant: str, python: str, data: Path, case: Case) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.child", contestant, str(data), json.dumps(asdict(case))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=data.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        self.version = self._line().removeprefix("ready ")

    def ask(self, word: str, value: float) -> dict[str, Any]:
        """Let it train; what it says of that."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word} {value}\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.wait()
            self.log.seek(0)
            sys.exit(self.log.read()[-4000:] or f"ended with {self.process.returncode}")
        return line

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def ocr_letters(path: Path) -> DataSet:
    """Fold 1 validates, folds 2 to 9 train: as in conf/ocr_letters.yaml."""
    table = pq.read_table(path)
    fold = table["fold"].to_numpy()
    parts = _parts(table, "frames", "labels", [fold >= 2, fold == 1])
    longest = int(max(part.lengths.max() for part in parts))
    return DataSet(Case("OCR letters", "lstm", 128, True, classes=26, longest=longest), *parts)


def japanese_vowels(path: Path) -> DataSet:
    """The archive's own split."""
    table = pq.read_table(path)
    trains = np.array(table["split"].to_pylist()) == "train"
    parts = _parts(table, "frames", "label", [trains, ~trains])
    longest = int(max(part.lengths.max() for part in parts))
    return DataSet(Case("JapaneseVowels", "gru", 64, False, classes=9, longest=longest), *parts)


def brown(path: Path) -> DataSet:
    """Words to coarse tags; the last documents validate. Tokens of the training rows are known."""
    table = pq.read_table(path)
    document = np.array(table["document"].to_pylist())
    held_out = np.isin(document, np.unique(document)[-HELD_OUT_DOCUMENTS:])
    words = pc.list_flatten(table.filter(pa.array(~held_out))["tokens"]).unique()
    parts = _parts(table, "tokens", "labels", [~held_out, held_out], words=words)
    case = Case("Brown", "lstm", 64, True, classes=12, longest=int(max(p.lengths.max() for p in parts)))
    return DataSet(replace(case, symbols=1 + len(words), embedding=64), *parts)


def _parts(
    table: pa.Table, steps: str, labels: str, chosen: list[np.ndarray], *, words: pa.Array | None = None
) -> list[Part]:
    column = table[steps].combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
    if words is None:
        x = column.flatten().flatten().to_numpy().reshape(offsets[-1], -1)
    else:
        x = pc.fill_null(pc.add(pc.index_in(column.flatten(), words), 1), 0).to_numpy()[:, np.newaxis]
    label = table[labels].combine_chunks()
    label = label.flatten() if pa.types.is_list(label.type) else label
    y = pc.index_in(label, label.unique().sort()).to_numpy().astype(np.int32)
    whole = Part(x.astype(np.float32), offsets, y)
    return [whole.take(np.flatnonzero(rows)) for rows in chosen]


def speeds(
    given: DataSet, pythons: Mapping[str, str], folder: Path, runs: int, seconds: float
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """What each contestant did in each of its turns, and their versions."""
    data = folder / "data.npz"
    save(data, given.train, given.valid)
    turns: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        children = {}
        for name, module in {**CONTESTANTS, PRODUCT: "one_product"}.items():
            rows = BROWN_ROWS[name] if given.case.symbols else 0
            case = replace(given.case, most_rows=rows)
            children[name] = stack.enter_context(Child(module, pythons[name], data, case))
        for _ in range(runs):
            for name, child in children.items():
                turns.setdefault(name, []).append(child.ask("for", seconds))
        return turns, [child.version for child in children.values()]


def speed_line(case: Case, turns: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """One line of the table."""
    rates = {name: [turn["steps"] / turn["seconds"] for turn in each] for name, each in turns.items()}
    own = statistics.median(rates["Recurra"])
    padding = {
        name: 1 - sum(t["steps"] for t in each) / sum(t["cells"] for t in each)
        for name, each in turns.items()
        if name != PRODUCT
    }
    return [
        case.name,
        str(case.batch),
        *(_spread(rates[name]) for name in CONTESTANTS),
        f"**{own / statistics.median(rates['Keras']):.2f}**",
        f"**{own / statistics.median(rates['PyTorch']):.2f}**",
        " / ".join(f"{100 * padding[name]:.0f}" for name in CONTESTANTS),
        f"{statistics.median(rates[PRODUCT]) / own:.1f}",
    ]


SPEED_HEAD = [
    "data",
    "batch",
    *(f"{name} steps/s" for name in CONTESTANTS),
    "Recurra / Keras",
    "Recurra / PyTorch",
    "padding %, each",
    "step / one product",
]


def times_to(
    given: DataSet, pythons: Mapping[str, str], folder: Path, target: float, runs: int
) -> tuple[list[list[str]], list[str]]:
    """Lines of the table and versions.

    Every learning rate with one seed, then all but the far slower ones with further seeds: one seed does not
    tell which rate is the best. The one of the least median counts.
    """
    data = folder / "data.npz"
    save(data, given.train, given.valid)
    turns: dict[tuple[str, float], list[dict[str, Any]]] = {}

    def reach(name: str, rate: float, seed: int) -> None:
        case = replace(given.case, rate=rate, seed=seed, validate=True)
        with Child(CONTESTANTS[name], pythons[name], data, case) as child:
            turn = {**child.ask("until", target), "version": child.version}
        turns.setdefault((name, rate), []).append(turn)

    def costs(name: str, rate: float) -> list[float]:
        return [turn["wall"] if turn["accuracy"] >= target else np.inf for turn in turns[name, rate]]

    for rate in RATES:
        for name in CONTESTANTS:
            reach(name, rate, 0)
    quickest = {name: min(costs(name, rate)[0] for rate in RATES) for name in CONTESTANTS}
    tried = [each for each in turns if costs(*each)[0] <= FAR_SLOWER * quickest[each[0]]]
    for seed in range(1, runs):
        for each in tried:
            reach(*each, seed)
    lines = []
    for name in CONTESTANTS:
        rates = [rate for other, rate in tried if other == name]
        best = min(rates, key=lambda rate: statistics.median(costs(name, rate)))
        at_each = (f"{rate:g}: {statistics.median(costs(name, rate)):.1f}" for rate in RATES)
        epochs = _spread([turn["epochs"] for turn in turns[name, best]])
        lines.append([name, f"{best:g}", _spread(costs(name, best), digits=1), epochs, ", ".join(at_each)])
    return lines, [turns[name, RATES[0]][0]["version"] for name in CONTESTANTS]


TIME_HEAD = ["", "learning rate", "seconds", "epochs", "median seconds at each rate"]


def _spread(values: list[float], digits: int = 0) -> str:
    """Median, and the range in brackets."""
    shown = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _processor() -> str:
    """The model's name where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _say(versions: list[str]) -> str:
    """The command, the day, the machine and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"Python {platform.python_version()}"
    where = f"{cores} cores ({_processor()}), {', '.join([python, *sorted(set(versions))])}"
    return f"```\npython {' '.join(sys.argv)}\n```\n\n{datetime.date.today():%d %B %Y}, {where}."


def _require_torch(python: str) -> None:
    """Leave with code 2 where that interpreter lacks PyTorch."""
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(
            f"{python} has no PyTorch. Install benchmarks/requirements-peers.txt in an environment of its\n"
            "own, and name its interpreter: --torch-python peers/bin/python",
            file=sys.stderr,
        )
        sys.exit(2)


def main() -> None:
    """Measure, and print one line for each data set and batch size, or for each contestant."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, help="An interpreter that has PyTorch.")
    parser.add_argument("--data", type=Path, help="A folder with the other data sets.")
    parser.add_argument("--batches", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--runs", type=int, default=3, help="Turns of each contestant.")
    parser.add_argument("--seconds", type=float, default=2.0, help="Least training time of a turn.")
    parser.add_argument("--time-to", type=float, help="Measure seconds to this letter accuracy instead.")
    parser.add_argument("--markdown", type=Path, help="Also write the tables to this file.")
    given = parser.parse_args()
    _require_torch(given.torch_python)
    pythons = {name: sys.executable for name in (*CONTESTANTS, PRODUCT)}
    pythons["PyTorch"] = os.path.abspath(given.torch_python)
    with tempfile.TemporaryDirectory(prefix="recurra-training-") as name:
        if given.time_to is not None:
            lines, versions = times_to(ocr_letters(OCR), pythons, Path(name), given.time_to, given.runs)
            table = markdown(TIME_HEAD, lines)
        else:
            table, versions = _measure_speeds(given, pythons, Path(name))
    text = f"{_say(versions)}\n\n{table}\n"
    print(text)
    if given.markdown:
        given.markdown.write_text(text, "utf8")


def _measure_speeds(
    given: argparse.Namespace, pythons: Mapping[str, str], folder: Path
) -> tuple[str, list[str]]:
    readers: list[tuple[Callable[[Path], DataSet], Path]] = [(ocr_letters, OCR)]
    if given.data:
        readers += [(japanese_vowels, given.data / "ts_JapaneseVowels.parquet")]
        readers += [(brown, given.data / "brown_pos.parquet")]
    lines: list[list[str]] = []
    versions: list[str] = []
    for read, path in readers:
        if not path.exists():
            print(f"left out: {path}", file=sys.stderr)
            continue
        data = read(path)
        for batch in given.batches:
            each = replace(data, case=replace(data.case, batch=batch))
            turns, versions = speeds(each, pythons, folder, given.runs, given.seconds)
            lines.append(speed_line(each.case, turns))
            print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    return markdown(SPEED_HEAD, lines), versions


if __name__ == "__main__":
    main()
