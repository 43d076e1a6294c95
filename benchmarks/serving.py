"""Latency and throughput under clients at once: `recurra serve` against `mlflow models serve`.

    python benchmarks/serving.py [--clients 1 8 32] [--seconds 10] [--runs 3] [--units 128]

Both servers answer MLflow's scoring protocol with one copy of a model of the same sizes (a GRU in both
directions, random weights): ours a bundle, the peer an `mlflow.pyfunc` around a plain Keras model, as in
inference.py. Each client sends one OCR word after another over a connection that it keeps, as fast as it is
answered. The servers take turns; a figure is the median of the runs.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.inference import OCR, prepare, show  # noqa: E402  the folder is no package elsewhere

STARTUP_SECONDS = 180
HEAD = [
    "clients",
    "Recurra rows/s",
    "p50, p99 ms",
    "pyfunc rows/s",
    "p50, p99 ms",
    "rows/s: Recurra / pyfunc",
]
CONTESTANTS = ("recurra", "pyfunc")


def command(contestant: str, case: dict[str, Any], port: int) -> list[str]:
    """What starts a server."""
    here = ["--host", "127.0.0.1", "--port", str(port)]
    if contestant == "recurra":
        return [sys.executable, "-m", "pipeline", "serve", case["bundle"], *here, "-q"]
    peer = ["models", "serve", "--env-manager", "local", "-m", case["pyfunc"], *here]
    return [sys.executable, "-m", "mlflow", *peer]


@contextmanager
def server(contestant: str, case: dict[str, Any]) -> Iterator[int]:
    """The port of a server that answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": programs}
    log = Path(case["scratch"]) / f"{contestant}.txt"
    with log.open("w", encoding="utf8") as output:
        process = subprocess.Popen(
            command(contestant, case, port),
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(log.read_text("utf8")[-4000:])
            time.sleep(0.2)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def load(port: int, bodies: Sequence[bytes], *, clients: int, seconds: float) -> list[float]:
    """Milliseconds of every request that so many clients made in that time."""
    end = time.perf_counter() + seconds
    taken: list[list[float]] = [[] for _ in range(clients)]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        place = number * 97  # each begins elsewhere
        while (begun := time.perf_counter()) < end:
            body = bodies[place % len(bodies)]
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")
            taken[number].append((time.perf_counter() - begun) * 1000)
            place += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if not all(taken):
        sys.exit("a client got no answer")
    return [each for some in taken for each in some]


def line(clients: int, runs: dict[str, list[list[float]]], seconds: float) -> list[str]:
    """One line of the table."""
    shown: list[str] = []
    rates = {}
    for name in CONTESTANTS:
        rates[name] = statistics.median(len(taken) / seconds for taken in runs[name])
        p50, p99 = (
            statistics.median(float(np.percentile(taken, q)) for taken in runs[name]) for q in (50, 99)
        )
        shown += [f"{rates[name]:,.0f}", f"{p50:.1f}, {p99:.1f}"]
    return [str(clients), *shown, f"**{rates['recurra'] / rates['pyfunc']:.2f}**"]


def main() -> None:
    """Measure, and print one line for each number of clients."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="How many at once.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each run.")
    parser.add_argument("--runs", type=int, default=3, help="Turns of each server.")
    parser.add_argument("--rows", type=int, default=2048, help="Different words that are sent.")
    parser.add_argument("--units", type=int, default=128, help="Of the GRU, in each direction.")
    parser.add_argument("--keras-batch", type=int, default=32, help="Rows of a batch of the peer.")
    given = parser.parse_args()
    lines = [HEAD, ["---"] * len(HEAD)]
    with tempfile.TemporaryDirectory(prefix="recurra-serving-") as scratch, ExitStack() as stack:
        case = prepare("OCR letters", OCR, Path(scratch) / "case", given)
        rows = pq.read_table(case["rows"]).to_pylist()
        bodies = [json.dumps({"dataframe_records": [row]}).encode() for row in rows]
        ports = {name: stack.enter_context(server(name, case)) for name in CONTESTANTS}
        for port in ports.values():
            load(port, bodies, clients=4, seconds=3.0)  # every length has been seen once
        for clients in given.clients:
            runs: dict[str, list[list[float]]] = {name: [] for name in CONTESTANTS}
            for _ in range(given.runs):
                for name, port in ports.items():
                    runs[name].append(load(port, bodies, clients=clients, seconds=given.seconds))
            lines.append(line(clients, runs, given.seconds))
            print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    show(lines)


if __name__ == "__main__":
    main()
