"""Write the archive's data sets as Parquet, one row per series, from the files inside the package aeon.

    python examples/time_series/get.py

Pip downloads the package's wheel and installs nothing; `--wheel FILE` takes one that is there.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "aeon==1.6.0"
NAMES = ("GunPoint", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf")
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "split": pa.string(),
        "frames": pa.list_(pa.list_(pa.float32())),
        "slopes": pa.list_(pa.list_(pa.float32())),
        "label": pa.string(),
    }
)


def download(folder: Path) -> Path:
    """The package's wheel, fetched into the folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    return next(folder.glob("aeon-*.whl"))


def rows(text: str, *, name: str, split: str) -> Iterator[dict[str, Any]]:
    """The series of a .ts file: features between colons, steps between commas, the class at the end."""
    lines = iter(text.splitlines())
    while next(lines).strip().lower() != "@data":
        pass
    for number, line in enumerate(filter(str.strip, lines)):
        *features, label = line.strip().split(":")
        values = [[float(value) for value in feature.split(",")] for feature in features]
        yield {
            "id": f"{name}-{split}-{number:05d}",
            "split": split,
            "frames": list(zip(*values, strict=True)),
            "slopes": list(zip(*map(slopes, values), strict=True)),
            "label": label,
        }


def slopes(values: list[float]) -> list[float]:
    """What each step adds to the one before; 0 at the first."""
    return [0.0, *(after - before for before, after in itertools.pairwise(values))]


def main() -> None:
    """Write all data sets beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="the package's wheel, if it is already there")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="folder of the Parquet files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        wheel = zipfile.ZipFile(arguments.wheel or download(Path(scratch)))
        for name in NAMES:
            found: list[dict[str, Any]] = []
            for split in ("train", "test"):
                inside = f"aeon/datasets/data/{name}/{name}_{split.upper()}.ts"
                found += rows(wheel.read(inside).decode("utf8"), name=name, split=split)
            file = arguments.to / f"{name}.parquet"
            pq.write_table(pa.Table.from_pylist(found, SCHEMA), file, compression="zstd")
            print(f"{file}: {len(found)} series")


if __name__ == "__main__":
    main()
