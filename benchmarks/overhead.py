"""What a run costs beside its training: wall time of `recurra run` minus the time inside training steps.

    python benchmarks/overhead.py [--runs 3]

Each run happens in a new folder, as a new process, on the shipped OCR letters. Prints a Markdown table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = ("tensorflow", "keras", "ray", "mlflow", "pyarrow")
STAGES = ("prepare", "train", "evaluate", "register")


def measure() -> dict[str, float]:
    """Seconds of one run in an empty folder: in all, in training steps, in each stage."""
    with tempfile.TemporaryDirectory(prefix="recurra-overhead-") as folder:
        command = [
            sys.executable,
            "-m",
            "pipeline",
            "run",
            str(ROOT / "conf/ocr_letters.yaml"),
            "--json",
            "-q",
        ]
        begun = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        wall = time.perf_counter() - begun
        if done.returncode != 0:
            sys.exit(done.stderr)
        outcome = json.loads(done.stdout)
        run = json.loads((Path(outcome["run_dir"]) / "run.json").read_text("utf8"))
        steps = run["stages"]["train"]["summary"]["step_seconds"]
        seconds = {name: run["stages"][name]["seconds"] for name in STAGES}
    return {
        "wall": wall,
        "training steps": steps,
        "overhead": wall - steps,
        "prepare": seconds["prepare"],
        "train, outside its steps": seconds["train"] - steps,
        "evaluate": seconds["evaluate"],
        "register": seconds["register"],
        "outside the stages": wall - sum(seconds.values()),
    }


def main() -> None:
    """Measure, and print medians with their range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    runs = [measure() for _ in range(parser.parse_args().runs)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    print(f"{len(runs)} runs, {os.cpu_count()} cores, Python {sys.version.split()[0]}, {versions}\n")
    print("| seconds | median | least | most |\n|---|---|---|---|")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")


if __name__ == "__main__":
    main()
