import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.readers import expand
from components.errors import DataError
from components.evaluation.drift import Limits, compare
from components.evaluation.watching import watch
from tests.pipeline.conftest import lines, start


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Rows that were prepared as those of a model."""
    return start(tmp_path_factory.mktemp("trained"), lines(400))


@pytest.fixture
def watched(trained, tmp_path):
    profile = json.loads((trained.folder.data / "profile.json").read_text("utf8"))
    encoding = bundles.encoding(trained.folder.data)

    def look(rows, settings=trained.settings):
        path = tmp_path / "new.parquet"
        pq.write_table(pa.table(rows), path)
        files = expand([str(path)])
        found = watch(files, settings, encoding=encoding, profile=profile, scratch=str(tmp_path))
        return found, {
            (each.kind, each.name, each.measure): each for each in compare(profile, found.seen, Limits())
        }

    return look


def test_every_good_row_is_counted(watched):
    rows = lines(200, seed=1)
    found, _ = watched(rows)
    frames = np.concatenate(rows["frames"])
    assert found.num_bad == 0 and found.seen.num_rows == 200 and found.seen.num_steps == len(frames)
    assert found.seen.labels == Counter(label for labels in rows["labels"] for label in labels)
    assert found.seen.lengths == Counter(map(len, rows["frames"]))
    counts, edges = found.seen.features["frames", 1], found.seen.references["frames", 1].edges
    assert counts.sum() == len(frames) and counts[0] == (frames[:, 1] <= edges[0]).sum()


def test_the_same_rows_have_no_drift_and_others_have(watched):
    _, same = watched(lines(300, seed=2))
    assert not any(each.counts for each in same.values())
    rows = lines(300, seed=2)
    rows["frames"] = [[[a + 60, b] for a, b in frame] for frame in rows["frames"]]
    _, moved = watched(rows)
    assert {key for key, each in moved.items() if each.counts} == {
        ("feature", "frames 0", "psi"),
        ("feature", "frames 0", "ks"),
    }


def test_bad_rows_are_left_out_and_counted(watched):
    rows = lines(100, seed=3)
    rows["frames"][3] = [[1.0, float("nan")]]
    rows["labels"][3] = ["up"]
    rows["frames"][5] = [[1.0, 2.0, 3.0]] * len(rows["labels"][5])
    rows["frames"][7] = []
    found, _ = watched(rows)
    assert (found.num_bad, found.seen.num_rows) == (3, 97)
    assert found.problems


def test_rows_without_labels_are_counted_without_them(watched):
    rows = lines(100, seed=4)
    del rows["labels"], rows["fold"]
    found, shifts = watched(rows)
    assert found.num_bad == 0 and not found.seen.labels
    assert not any(kind == "labels" for kind, _, _ in shifts)


def test_no_good_row_at_all_is_refused(watched):
    rows = lines(3)
    rows["frames"] = [[] for _ in rows["frames"]]
    with pytest.raises(DataError, match="no good row"):
        watched(rows)


def test_a_missing_column_is_told(watched):
    rows = lines(3)
    rows["frame"] = rows.pop("frames")
    with pytest.raises(DataError, match="did you mean 'frame'"):
        watched(rows)


def test_words_that_training_had_not_are_counted(tmp_path):
    words = {
        "id": [f"r{row}" for row in range(60)],
        "frames": [["a", "b"]] * 60,
        "labels": [["up", "down"]] * 60,
        "fold": [row % 5 for row in range(60)],
    }
    words["frames"] = [["a", f"w{row}"] for row in range(60)]
    trained = start(tmp_path, words, data={"inputs": [{"column": "frames", "kind": "token"}]})
    profile = json.loads((trained.folder.data / "profile.json").read_text("utf8"))
    new = tmp_path / "new.csv"
    pyarrow.csv.write_csv(pa.table({"frames": ["a new"] * 30, "labels": ["up down"] * 30}), new)
    settings = trained.settings.model_copy(
        update={"data": trained.settings.data.model_copy(update={"id": None})}
    )
    found = watch(
        expand([str(new)]),
        settings,
        encoding=bundles.encoding(trained.folder.data),
        profile=profile,
        scratch=str(tmp_path),
    )
    assert (found.seen.units["frames"], found.seen.unknown["frames"]) == (60, 30)
