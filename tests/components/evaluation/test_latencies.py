import json
import os
import socket

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluation.latencies import NUM_ROWS, measure


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """300 test rows of two features and 1 to 8 steps."""
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 300)
    table = pa.table(
        {
            "row": pa.array(range(300), pa.int64()),
            "id": pa.array([f"r{i}" for i in range(300)]),
            "length": pa.array(lengths, pa.int32()),
            "x0": pa.array([rng.normal(size=2 * n).tolist() for n in lengths], pa.list_(pa.float64())),
            "y": pa.array([[0] * n for n in lengths], pa.list_(pa.int32())),
        }
    )
    (data / "test").mkdir()
    pq.write_table(table, data / "test" / "part-00000.parquet")
    manifest = {
        "splits": {"test": {"shards": [{"file": "part-00000.parquet"}]}},
        "inputs": [{"column": "frames", "features": 2}],
        "context": [],
    }
    (data / "manifest.json").write_text(json.dumps(manifest), "utf8")
    return data


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


def test_rows_are_asked_one_at_a_time_and_the_machine_is_named(bundle, prepared):
    found = measure(bundle=bundle, data=prepared, max_seconds=60)
    assert found.num_rows == NUM_ROWS
    assert 0 < found.milliseconds < 5_000
    assert found.machine == f"{socket.gethostname()} with {os.cpu_count()} CPUs and no GPU"


def test_the_time_that_it_takes_is_bounded(bundle, prepared):
    found = measure(bundle=bundle, data=prepared, max_seconds=0)
    assert found.num_rows == 1
    assert found.milliseconds > 0
