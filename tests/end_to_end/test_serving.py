"""`recurra serve` as a process of its own, asked over HTTP by many at once."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.backends.registry import Registry
from pipeline.backends.tracking import Store
from tests.end_to_end.conftest import Place

pytestmark = pytest.mark.slow

Finished = tuple[Place, dict[str, Any]]


@contextmanager
def serving(place: Place, *options: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL and the process of a server; it is killed if the block leaves it alive."""
    process = place.start("serve", "models:/words@champion", "--port", "0", "--json", *options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)["url"], process
    finally:
        process.kill()
        process.communicate()


def ask(url: str, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str | None]:
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())["predictions"], response.headers.get("X-Recurra-Model")


def rows_of(place: Place) -> list[dict[str, Any]]:
    return pq.read_table(place.path / "words.parquet", columns=["id", "frames"]).to_pylist()


def same(answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    near = pytest.approx(expected["probabilities"], abs=1e-6)
    return answer["labels"] == expected["labels"] and answer["probabilities"] == near


def test_what_is_served_is_what_was_evaluated_whoever_asks_beside(finished: Finished) -> None:  # B48
    place, outcome = finished
    table = pq.read_table(Path(outcome["run_dir"]) / "evaluation" / "predictions.parquet")
    expected = {row["id"]: row for row in table.to_pylist() if row["split"] == "test"}
    rows = [row for row in rows_of(place) if row["id"] in expected]
    assert {len(row["frames"]) for row in rows} >= {1, 9}  # the shortest and the longest of training
    longer = {"id": "longer", "frames": [*rows[0]["frames"], *([rows[0]["frames"][0]] * 9)][:10]}
    with serving(place, "--batch-wait-ms", "20") as (url, process):
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda row: ask(url, [row]), rows))
        (alone,), uri = ask(url, [longer])
        (_, among, _), _ = ask(url, [rows[1], longer, rows[2]])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    for row, (found, version) in zip(rows, answers, strict=True):
        assert same(found[0], expected[row["id"]])
        assert found[0]["id"] == row["id"] and version == uri == outcome["model"]["uri"].replace(
            "@champion", "/1"
        )
    assert len(alone["labels"]) == 10 and same(among, alone)


def test_the_alias_moves_and_no_request_is_lost_then_all_are_answered_before_it_ends(
    finished: Finished, tmp_path: Path
) -> None:
    finished_place, _ = finished
    place = Place(tmp_path / "place")
    shutil.copytree(finished_place.path, place.path)
    rows, answers, stop = rows_of(place)[:20], [], threading.Event()
    registry = Registry(Store(f"sqlite:///{place.path}/mlflow.db"))
    first = registry.by_alias("words", "champion")
    assert first is not None
    source = registry.store.call(lambda client: client.get_model_version("words", "1").source)

    def client() -> None:
        while not stop.is_set():
            answers.append(ask(url, rows)[1])

    with serving(place, "--follow", "--poll-seconds", "0.5") as (url, process):
        clients = [threading.Thread(target=client) for _ in range(4)]
        for each in clients:
            each.start()
        # The same files as another version: what changes is which one answers.
        registry.store.call(
            lambda client: client.create_model_version("words", source, tags=dict(first.tags))
        )
        registry.point("words", "champion", 2)
        deadline = time.monotonic() + 60
        while "models:/words/2" not in answers and time.monotonic() < deadline:
            time.sleep(0.1)
        seen = list(answers)
        stop.set()
        for each in clients:
            each.join()
        late = threading.Thread(target=lambda: answers.append(ask(url, rows * 40)[1]))
        late.start()
        time.sleep(0.2)  # it is on its way
        process.send_signal(signal.SIGTERM)
        late.join()
        assert process.wait(60) == 143
    changed = seen.index("models:/words/2")
    assert set(answers[:changed]) == {"models:/words/1"}
    assert answers[-1] == "models:/words/2"


def test_a_replica_that_is_killed_is_replaced(finished: Finished) -> None:
    place, _ = finished
    rows = rows_of(place)[:5]
    with serving(place, "--replicas", "2") as (url, process):
        before, _ = ask(url, rows)
        os.kill(_replicas(process.pid)[0], signal.SIGKILL)
        with ThreadPoolExecutor(4) as clients:
            after = list(clients.map(lambda _: ask(url, rows)[0], range(12)))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert all(same(*pair) for found in after for pair in zip(found, before, strict=True))


def _replicas(server: int) -> list[int]:
    """The processes under a server that hold its model."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in lines}

    def is_under(pid: int) -> bool:
        while pid not in (0, server):
            pid = parents.get(pid, 0)
        return pid == server

    return [int(pid) for pid, _, name in lines if name.startswith("ray::_Host") and is_under(int(pid))]
