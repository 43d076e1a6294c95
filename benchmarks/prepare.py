"""What preparing data costs beside reading and writing it: `recurra prepare` against plain pyarrow.

    python benchmarks/prepare.py [--millions 1 4 16] [--runs 3] [--gigabytes 8]

Generates classified sequences of 20 to 180 steps with 12 float32 features in Parquet files of about 256 MB,
in a temporary folder. Both read the same files on the same cores: pyarrow batch by batch into files of the
same compression, with its own threads. What each takes for next to nothing, its start, is measured first and
taken off. Prints a Markdown table; memory is the peak of any one process, its own pages (anonymous) and all
that it has mapped (resident), sampled 20 times a second.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
LIBRARIES = ("pyarrow", "numpy", "ray")
FEATURES, CLASSES, MEAN_STEPS = 12, 10, 100
FILE_BYTES = 1 << 28
GROUP_STEPS = 1 << 20
STEP_BYTES = 4 * FEATURES
SETTINGS = """\
name: generated
task: classification
data:
  path: data
  id: id
  inputs: [{column: x, kind: numeric, scale: standard}]
  target: {column: label}
  split: {by: hash, valid: 0.1, test: 0.1}
"""


@dataclass(frozen=True)
class Timed:
    """One command: wall time, and its largest process."""

    seconds: float
    anonymous: int
    resident: int


def generate(folder: Path, num_steps: int) -> int:
    """Write the files; how many rows they have."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = steps = 0
    writer, name = None, ""
    while steps < num_steps:
        size = min(GROUP_STEPS, num_steps - steps)
        lengths = rng.integers(20, 181, max(1, size // MEAN_STEPS))
        table = _rows(rng, lengths, first=rows)
        if writer is None or (folder / name).stat().st_size > FILE_BYTES:
            if writer is not None:
                writer.close()
            name = f"part-{rows:012d}.parquet"
            writer = pq.ParquetWriter(folder / name, table.schema, compression="zstd")
        writer.write_table(table)
        rows, steps = rows + len(lengths), steps + int(lengths.sum())
    assert writer is not None
    writer.close()
    return rows


def _rows(rng: np.random.Generator, lengths: np.ndarray, *, first: int) -> pa.Table:
    values = rng.standard_normal(int(lengths.sum()) * FEATURES, np.float32)
    steps = pa.FixedSizeListArray.from_arrays(values, FEATURES).cast(pa.list_(pa.float32()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.table(
        {
            "id": [f"row-{first + i}" for i in range(len(lengths))],
            "x": pa.ListArray.from_arrays(offsets, steps),
            "label": [f"class-{label}" for label in rng.integers(0, CLASSES, len(lengths))],
        }
    )


def copy(source: Path, target: Path) -> None:
    """Read and write with nothing in between."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        schema = pq.read_schema(path)
        writing = pq.ParquetWriter(target / path.name, schema, compression="zstd")
        with pq.ParquetFile(path) as file, writing as writer:
            for batch in file.iter_batches(8192):
                writer.write_batch(batch)


def timed(command: list[str], folder: Path) -> Timed:
    """Run a command in a folder and watch all its processes."""
    begun = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        peaks = [0, 0]
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - begun
        watcher.join()
        if code != 0:
            log.seek(0)
            sys.exit(log.read())
    return Timed(seconds, *peaks)


def _watch(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    while process.poll() is None:
        for pid in _family(process.pid):
            for i, value in enumerate(_memory(pid)):
                peaks[i] = max(peaks[i], value)
        time.sleep(0.05)


def _family(root: int) -> Iterator[int]:
    """The process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    pending = [root]
    while pending:
        pid = pending.pop()
        yield pid
        pending += parents.get(pid, [])


def _memory(pid: int) -> tuple[int, int]:
    """Anonymous and resident bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmRSS"))}
    return 1024 * int(found.get("RssAnon", 0)), 1024 * int(found.get("VmRSS", 0))


def measure(num_steps: int, runs: int, start: tuple[float, float]) -> dict[str, float]:
    """Medians for one size. `start` is what the two take for next to nothing."""
    prepared, plain = [], []
    with tempfile.TemporaryDirectory(prefix="recurra-prepare-") as name:
        folder = Path(name)
        rows = generate(folder / "data", num_steps)
        stored = sum(path.stat().st_size for path in (folder / "data").iterdir())
        (folder / "settings.yaml").write_text(SETTINGS)
        for run in range(runs):
            code = f"from benchmarks.prepare import *; copy(Path('data'), Path('copy-{run}'))"
            plain.append(timed([sys.executable, "-c", code], folder))
            command = [sys.executable, "-m", "pipeline", "prepare", "settings.yaml", "-q"]
            prepared.append(timed([*command, "--storage", f"runs-{run}"], folder))
            subprocess.run(["rm", "-rf", f"copy-{run}", f"runs-{run}"], cwd=folder, check=True)
    seconds = statistics.median(each.seconds for each in prepared)
    copying = statistics.median(each.seconds for each in plain)
    once_started, copied = seconds - start[0], copying - start[1]
    return {
        "rows": rows,
        "stored MB": stored / 1e6,
        "prepare s": seconds,
        "once started s": once_started,
        "pyarrow s": copying,
        "its own once started s": copied,
        "ratio": once_started / copied,
        "rows/s": rows / once_started,
        "MB/s": num_steps * STEP_BYTES / 1e6 / once_started,
        "anonymous MB": max(each.anonymous for each in prepared) / 1e6,
        "resident MB": max(each.resident for each in prepared) / 1e6,
        "pyarrow anonymous MB": max(each.anonymous for each in plain) / 1e6,
    }


def main() -> None:
    """Measure each size, and print one line for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, nargs="*", default=[1, 4, 16], help="Of steps.")
    parser.add_argument("--gigabytes", type=float, default=0, help="Also one set of this size, run once.")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    print(f"{given.runs} runs, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {versions}\n")
    least = measure(20_000, given.runs, (0.0, 0.0))
    start = least["prepare s"], least["pyarrow s"]
    print(f"start (20,000 steps): prepare {start[0]:.1f} s, pyarrow {start[1]:.1f} s\n")
    sizes = [(int(1e6 * millions), given.runs) for millions in given.millions]
    if given.gigabytes:
        sizes.append((int(1e9 * given.gigabytes / STEP_BYTES), 1))
    for i, (num_steps, runs) in enumerate(sizes):
        found = measure(num_steps, runs, start)
        if i == 0:
            print("| steps | " + " | ".join(found) + " |\n|" + "---|" * (len(found) + 1))
        cells = [f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in found.values()]
        print(f"| {num_steps:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
