"""Machines that share no folder do the work all the same, and losing one of them loses nothing."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import Place, furnish
from tests.end_to_end.machines import Machines, Node, require_namespaces

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return furnish(tmp_path_factory.mktemp("machines") / "place")


@pytest.fixture(scope="module")
def machines(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines that see the words, and not where the runs are kept."""
    require_namespaces()
    found = Machines(tmp_path_factory.mktemp("nodes"))
    try:
        for _ in range(2):
            found.add(cpus=2, hides=place.path / "runs")
        yield found
    finally:
        found.end()


def test_a_run_away_from_its_folder_gives_what_a_local_one_gives(
    finished: tuple[Place, dict[str, Any]], place: Place, machines: Machines
) -> None:
    there = ("--address", machines.address)
    outcome = place.json("run", "words.yaml", "--set", "train.temperature_scaling=true", *there)
    assert outcome["verdict"] == "promoted"
    for split in ("valid", "test"):
        assert outcome["metrics"][split] == pytest.approx(finished[1]["metrics"][split], abs=1e-6)
    (run,) = place.runs()
    assert not (run / ".staging").exists()
    done = place.json("predict", "models:/words@champion", "words.parquet", "-o", "out.parquet", *there)
    assert done["rows"] == 240
    local = place.json("predict", str(run), "words.parquet", "-o", "local.parquet")
    assert local["rows"] == 240
    assert pq.read_table(place.path / "out.parquet").equals(pq.read_table(place.path / "local.parquet"))
