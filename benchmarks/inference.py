"""Sequences answered per second: `recurra predict` against an `mlflow.pyfunc` around a plain Keras model.

    python benchmarks/inference.py [--data FOLDER] [--rows 4096] [--runs 3] [--units 128] [--keras-batch 32]

The same rows and the same sizes (a GRU in both directions, random weights) from one Parquet file to another.
The peer is what a user would write: a data frame, padded to its longest row, `model.predict` of Keras, labels
and probabilities of the real steps. "Steady" is measured in a process that has answered all rows once before,
"command" is a new process from its start to its end. Both take turns. FOLDER holds `brown_pos.parquet`;
without it, only the OCR letters are measured.
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
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
OCR = ROOT / "examples/ocr_letters/ocr_letters.parquet"
LIBRARIES = ("tensorflow", "keras", "ray", "mlflow", "pyarrow")
HEAD = ["data", "rows", "steps, longest", "way", "Recurra rows/s", "pyfunc rows/s", "Recurra / pyfunc"]
EMBEDDING = 64


def prepare(name: str, path: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rows in a file, and both models in folders; gives back what the contestants need."""
    folder.mkdir()
    column = "tokens" if name == "Brown" else "frames"
    table = pq.read_table(path)
    table = table.select(["id", column, "labels"]).slice(0, given.rows)
    rows = folder / "rows.parquet"
    pq.write_table(table.select(["id", column]), rows)
    lengths = pc.list_value_length(table[column])
    case = {
        "name": name,
        "column": column,
        "rows": str(rows),
        "num_rows": len(table),
        "num_steps": pc.sum(lengths).as_py(),
        "longest": pc.max(lengths).as_py(),
        "labels": pc.list_flatten(table["labels"]).unique().sort().to_pylist(),
        "words": pc.list_flatten(table[column]).unique().to_pylist() if name == "Brown" else None,
        "features": 1 if name == "Brown" else len(table[column][0][0].as_py()),
        "units": given.units,
        "batch": given.keras_batch,
        "bundle": str(folder / "bundle"),
        "pyfunc": str(folder / "pyfunc"),
        "scratch": str(folder),
    }
    (folder / "case.json").write_text(json.dumps(case), "utf8")
    for contestant in ("recurra", "pyfunc"):
        _python("make", contestant, folder / "case.json")
    return case


def _python(*words: object) -> float:
    """Seconds of a process of this file."""
    return _seconds([sys.executable, str(Path(__file__)), *map(str, words)])


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr[-4000:])
    return time.perf_counter() - begun


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}


def make_recurra(case: dict[str, Any]) -> None:
    """Write a bundle with random weights."""
    from components import bundles
    from components.networks import models
    from components.served.encoding import Encoding
    from components.served.numbers import NumericEncoding
    from components.served.symbols import TokenEncoding
    from conf.schema import ModelSettings

    if case["words"] is None:
        width = case["features"]
        one: Any = NumericEncoding(case["column"], width, "none", (0.0,) * width, (1.0,) * width)
    else:
        one = TokenEncoding(case["column"], tuple(case["words"]), EMBEDDING)
    encoding = Encoding("labelling", (one,), tuple(case["labels"]))
    settings = ModelSettings.model_validate({"cell": "gru", "units": case["units"], "bidirectional": True})
    network = models.build(
        settings, task="labelling", slots=encoding.slots, num_classes=encoding.num_classes, seed=0
    )
    bundles.write(
        Path(case["bundle"]),
        export=lambda path: models.export(network, path),
        encoding=encoding,
        name="benchmark",
        epoch=0,
        metrics={},
        id_column="id",
    )


def make_pyfunc(case: dict[str, Any]) -> None:
    """Save the peer as MLflow's users do."""
    import mlflow

    from benchmarks.peers.pyfunc_padded import Padded, network

    path = Path(case["scratch"]) / "network.keras"
    network(case["features"], case["words"], case["units"], EMBEDDING, len(case["labels"])).save(path)
    mlflow.pyfunc.save_model(
        case["pyfunc"],
        python_model=Padded(case["column"], case["labels"], case["words"], case["batch"]),
        artifacts={"network": str(path)},
        pip_requirements=["keras"],
    )


class Recurra:
    """What a process of `recurra predict` does again and again."""

    def __init__(self, case: dict[str, Any]) -> None:
        from components import bundles
        from components.data.intake import Here
        from components.data.readers import expand
        from components.evaluation import new_rows

        self.bundle, self.answers = Path(case["bundle"]), new_rows.answers
        self.task = new_rows.open_task(
            expand([case["rows"]], "auto"),
            bundles.encoding(self.bundle),
            own_id="id",
            id_column=None,
            file_format="auto",
            layout=None,
            run=Here,
            scratch=case["scratch"],
            n_best=0,
            distribution=False,
        )

    def answer(self, out: str) -> None:
        """All rows, to a file."""
        with pq.ParquetWriter(out, self.task.schema, compression="zstd") as writer:
            for batch in self.answers(bundle=self.bundle, task=self.task):
                writer.write_batch(batch)


class Pyfunc:
    """What a script around the loaded pyfunc does."""

    def __init__(self, case: dict[str, Any]) -> None:
        import mlflow

        self.rows, self.model = case["rows"], mlflow.pyfunc.load_model(case["pyfunc"])

    def answer(self, out: str) -> None:
        """All rows, to a file."""
        frame = pq.read_table(self.rows).to_pandas()
        pq.write_table(pa.Table.from_pandas(self.model.predict(frame)), out, compression="zstd")


CONTESTANTS: dict[str, type[Recurra] | type[Pyfunc]] = {"recurra": Recurra, "pyfunc": Pyfunc}


def contest(word: str, contestant: str, file: str) -> None:
    """What a child does: `make` a model, answer `once`, or answer whenever a line comes in (`serve`)."""
    case = json.loads(Path(file).read_text("utf8"))
    out = str(Path(case["scratch"]) / f"{contestant}.parquet")
    if word == "make":
        {"recurra": make_recurra, "pyfunc": make_pyfunc}[contestant](case)
        return
    one = CONTESTANTS[contestant](case)
    if word == "once":
        one.answer(out)
        return
    one.answer(out)
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        one.answer(out)
        print(time.perf_counter() - begun, flush=True)


def steady(folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds for all rows, each contestant in its process, in turns."""
    turns: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with ExitStack() as stack:
        children = {}
        for name in CONTESTANTS:
            child = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "serve", name, str(folder / "case.json")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=_environment(),
                )
            )
            children[name] = child
            _line(child)
        for _ in range(runs):
            for name, child in children.items():
                assert child.stdin is not None
                child.stdin.write("\n")
                child.stdin.flush()
                turns[name].append(float(_line(child)))
        for child in children.values():
            assert child.stdin is not None
            child.stdin.close()
    return turns


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    while line := child.stdout.readline():
        if line.startswith("ready") or line[:1].isdigit():
            return line
    sys.exit(f"a contestant ended with {child.wait()}")


def commands(case: dict[str, Any], folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds from the start of a process to its end."""
    turns: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    predict = [sys.executable, "-m", "pipeline", "predict", case["bundle"], case["rows"]]
    for _ in range(runs):
        turns["recurra"].append(_seconds([*predict, "-o", str(folder / "out.parquet"), "-q"]))
        turns["pyfunc"].append(_python("once", "pyfunc", folder / "case.json"))
    return turns


def line(case: dict[str, Any], way: str, turns: dict[str, list[float]]) -> list[str]:
    """One line of the table."""
    rates = {name: [case["num_rows"] / seconds for seconds in each] for name, each in turns.items()}
    middle = {name: statistics.median(each) for name, each in rates.items()}
    shown = [f"{middle[name]:,.0f} ({min(each):,.0f} to {max(each):,.0f})" for name, each in rates.items()]
    mean = case["num_steps"] / case["num_rows"]
    ratio = f"**{middle['recurra'] / middle['pyfunc']:.2f}**"
    return [case["name"], f"{case['num_rows']:,}", f"{mean:.1f}, {case['longest']}", way, *shown, ratio]


def main() -> None:
    """Measure, and print one line for each data set and way."""
    if len(sys.argv) == 4 and sys.argv[1] in ("make", "once", "serve"):
        contest(*sys.argv[1:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="A folder with brown_pos.parquet.")
    parser.add_argument("--rows", type=int, default=4096, help="The first rows of each data set.")
    parser.add_argument("--runs", type=int, default=3, help="Turns of each contestant.")
    parser.add_argument("--units", type=int, default=128, help="Of the GRU, in each direction.")
    parser.add_argument("--keras-batch", type=int, default=32, help="Rows of a batch of the peer.")
    parser.add_argument("--no-commands", action="store_true", help="Steady state only.")
    given = parser.parse_args()
    paths = {"OCR letters": OCR}
    if given.data:
        paths["Brown"] = given.data / "brown_pos.parquet"
    lines = [HEAD, ["---"] * len(HEAD)]
    with tempfile.TemporaryDirectory(prefix="recurra-inference-") as scratch:
        for number, (name, path) in enumerate(paths.items()):
            folder = Path(scratch) / str(number)
            case = prepare(name, path, folder, given)
            lines.append(line(case, "steady", steady(folder, given.runs)))
            print("  ".join(lines[-1]), file=sys.stderr, flush=True)
            if not given.no_commands:
                lines.append(line(case, "command", commands(case, folder, given.runs)))
                print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    show(lines)


def show(lines: Sequence[Sequence[str]]) -> None:
    """The table in Markdown, below the command, the date and the versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{library} {metadata.version(library)}" for library in LIBRARIES)
    print(f"```\npython {' '.join(sys.argv)}\n```\n")
    print(
        f"{datetime.date.today():%d %B %Y}, {cores} cores, Python {platform.python_version()}, {versions}.\n"
    )
    print("\n".join("| " + " | ".join(row) + " |" for row in lines))


if __name__ == "__main__":
    main()
