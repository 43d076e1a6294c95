"""prepare: what comes out of good rows, and what is said of bad ones, with nothing left behind."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some

from components.data.batches import SequenceSet
from components.data.intake import Here
from components.errors import DataError
from components.served.encoding import Encoding
from conf.load import load
from conf.schema import Settings
from pipeline.backends import workspace
from pipeline.backends.workspace import RunFolder
from pipeline.console import Console
from pipeline.stages.prepare import check_data, check_vectors, prepare

MakeSettings = Callable[..., Settings]
NAN = float("nan")


class InThisProcess:
    """Runs tasks where a cluster would, one after another."""

    def task(self, function: Any, **kwargs: Any) -> Any:
        return Here(function, **kwargs)


def rows(num_rows: int = 12, **changes: Any) -> dict[str, list[Any]]:
    frames = [[[float(row), float(step)] for step in range(row % 3 + 1)] for row in range(num_rows)]
    found: dict[str, list[Any]] = {
        "id": [f"r{row}" for row in range(num_rows)],
        "frames": frames,
        "label": ["ab"[row % 2] for row in range(num_rows)],
        "fold": [row % 4 for row in range(num_rows)],
    }
    return {**found, **changes}


def with_row(row: int, column: str, value: Any, num_rows: int = 12) -> dict[str, list[Any]]:
    """Good rows but for one value."""
    table = rows(num_rows)
    table[column][row] = value
    return table


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Writes files of rows and makes settings for them; `a__b=v` changes the setting a.b."""

    def make(*tables: Any, **changes: Any) -> Settings:
        (tmp_path / "data").mkdir(exist_ok=True)
        for number, table in enumerate(tables or [rows()]):
            table = table if isinstance(table, pa.Table) else pa.table(table)
            pq.write_table(table, tmp_path / "data" / f"{'abcd'[number]}.parquet")
        values: dict[str, Any] = {
            "name": "small",
            "task": "classification",
            "data": {
                "path": str(tmp_path / "data"),
                "id": "id",
                "inputs": [{"column": "frames"}],
                "target": {"column": "label"},
                "split": {"column": "fold", "valid": [1], "test": [0]},
            },
        }
        for name, value in changes.items():
            node = values
            *sections, last = name.split("__")
            for section in sections:
                node = node[section]
            node[last] = value
        return Settings.model_validate(values)

    return make


def run(settings: Settings, folder: Path) -> RunFolder:
    created = workspace.create(folder / "runs", settings.name, plan={}, versions={})
    prepare(settings, folder=created, cluster=InThisProcess(), console=Console(level=-1))  # type: ignore[arg-type]
    return created


def refused(settings: Settings, folder: Path) -> str:
    """The message; nothing may be left in the run folder, and `check` must find the same."""
    created = workspace.create(folder / "runs", settings.name, plan={}, versions={})
    with pytest.raises(DataError) as caught:
        prepare(settings, folder=created, cluster=InThisProcess(), console=Console(level=-1))  # type: ignore[arg-type]
    assert [path.name for path in created.path.iterdir()] == [workspace.RUN]
    with pytest.raises(DataError) as also:
        check_data(settings, console=Console(level=-1))
    assert str(also.value) == str(caught.value)
    return str(caught.value)


def opened(run: RunFolder, split: str) -> SequenceSet:
    stored = json.loads((run.data / "encoding.json").read_text("utf8"))
    return SequenceSet.open(run.data / split, Encoding.from_json(stored))


def content(run: RunFolder) -> dict[str, pa.Table]:
    """Every split's rows without their places in the source."""
    return {
        split: pq.read_table(run.data / split).drop_columns(["row", "file"])
        for split in ("train", "valid", "test")
    }


def test_rows_go_where_their_column_says_with_raw_values_and_known_labels(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    prepared = run(make_settings(), tmp_path)
    manifest = json.loads((prepared.data / "manifest.json").read_text("utf8"))
    assert {name: split["rows"] for name, split in manifest["splits"].items()} == {
        "train": 6, "valid": 3, "test": 3
    }  # fmt: skip
    test = pq.read_table(prepared.data / "test").sort_by("row")
    assert test["id"].to_pylist() == ["r0", "r4", "r8"]
    assert test["x0"].to_pylist()[1] == [4.0, 0.0, 4.0, 1.0]
    assert test["y"].to_pylist() == [0, 0, 0]
    assert manifest["labels"] == ["a", "b"]
    profile = json.loads((prepared.data / "profile.json").read_text("utf8"))
    assert profile["splits"]["train"]["labels"] == {"a": 3, "b": 3}
    assert profile["splits"]["train"]["lengths"]["max"] == 3


@pytest.mark.parametrize("scale", ["standard", "minmax"])
def test_encoders_see_training_rows_only_and_leave_constant_features_alone(
    make_settings: MakeSettings, tmp_path: Path, scale: str
) -> None:
    table = rows()
    for row, fold in enumerate(table["fold"]):
        table["frames"][row] = [[1e6 if fold < 2 else row, 7.0]]
        if fold < 2:
            table["frames"][row][0][0] += row
    prepared = run(make_settings(table, data__inputs=[{"column": "frames", "scale": scale}]), tmp_path)
    x = opened(prepared, "train").x
    training = np.array([row for row, fold in enumerate(table["fold"]) if fold >= 2], float)
    if scale == "standard":
        expected = (training - training.mean()) / training.std()
    else:
        expected = (training - training.min()) / (training.max() - training.min())
    np.testing.assert_allclose(np.sort(x[:, 0]), expected, rtol=1e-6)
    np.testing.assert_array_equal(x[:, 1], np.zeros(6))


def test_neither_the_order_of_rows_nor_the_files_change_what_training_sees(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = pa.table(rows())
    scaled = [{"column": "frames", "scale": "standard"}]
    one = run(make_settings(table, data__inputs=scaled), tmp_path / "one")
    turned = table.take(list(range(11, -1, -1)))
    several = run(
        make_settings(turned.slice(7), turned.slice(0, 3), turned.slice(3, 4), data__inputs=scaled),
        tmp_path / "several",
    )
    assert content(one) == content(several)
    for name in ("encoding.json", "profile.json"):
        assert (one.data / name).read_bytes() == (several.data / name).read_bytes()


@pytest.mark.parametrize("kind", [pa.uint8(), pa.int64(), pa.float32(), pa.float64()])
def test_values_keep_the_type_of_their_source(make_settings: MakeSettings, tmp_path: Path, kind: Any) -> None:
    frames = pa.array(rows()["frames"], pa.list_(pa.list_(pa.float64()))).cast(pa.list_(pa.list_(kind)))
    prepared = run(make_settings(pa.table({**rows(), "frames": frames})), tmp_path)
    assert pq.read_schema(prepared.data / "test/part-00000.parquet").field("x0").type.value_type == kind


def test_labels_and_ids_of_any_type_are_text_exactly(make_settings: MakeSettings, tmp_path: Path) -> None:
    numbers = [[10, 2][row % 2] for row in range(12)]
    table = pa.table(
        {**rows(), "label": numbers, "id": pa.array([9007199254740993 + row for row in range(12)])}
    )
    prepared = run(make_settings(table), tmp_path)
    assert json.loads((prepared.data / "encoding.json").read_text("utf8"))["labels"] == ["2", "10"]
    assert "9007199254740993" in pq.read_table(prepared.data / "test")["id"].to_pylist()


def test_a_labeller_keeps_a_label_for_each_step(make_settings: MakeSettings, tmp_path: Path) -> None:
    table = rows()
    table["label"] = [["ab"[step % 2] for step in range(len(frames))] for frames in table["frames"]]
    prepared = run(make_settings(table, task="labelling"), tmp_path)
    test = opened(prepared, "test")
    assert [len(test.targets(row)) for row in range(3)] == test.lengths.tolist()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (with_row(3, "frames", []), "a.parquet, row 3, column frames: empty sequence, expected at least"),
        (with_row(3, "frames", None), "a.parquet, row 3, column frames: missing value"),
        (with_row(5, "frames", [[1.0, 2.0], [NAN, 0.0]]), "row 5, column frames, step 1, feature 0: nan"),
        (with_row(5, "frames", [[1.0, float("inf")]]), "row 5, column frames, step 0, feature 1: inf"),
        (with_row(5, "frames", [[1.0, 1e300]]), "row 5, column frames, step 0, feature 1: 1e+300"),
        (with_row(5, "frames", [[1.0, None]]), "row 5, column frames, step 0, feature 1: missing value"),
        (with_row(5, "frames", [[1.0, 2.0], None]), "row 5, column frames, step 1: missing step"),
        (with_row(5, "frames", [[1.0, 2.0], [3.0]]), "row 5, column frames, step 1: 1 features, step 0 has"),
        (with_row(5, "frames", [[1.0, 2.0, 3.0]]), "row 5, column frames: 3 features, 11 other rows have 2"),
        (with_row(2, "label", None), "row 2, column label: missing value"),
        (with_row(2, "id", None), "row 2, column id: missing value"),
        (with_row(2, "id", "r7"), "column id"),
        (with_row(2, "fold", None), "row 2, column fold: missing value"),
        (with_row(4, "label", "c"), "the label 'c' stands in 1 held-out row and in no training row"),
        (with_row(4, "frames", [[2.0, 0.0], [2.0, 1.0], [2.0, 2.0]]), "row 4"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_place_and_nothing_is_written(
    make_settings: MakeSettings, tmp_path: Path, table: dict[str, list[Any]], said: str
) -> None:
    message = refused(make_settings(table), tmp_path)
    assert said in message
    assert "a.parquet" in message


@pytest.mark.parametrize(
    ("table", "changes", "said"),
    [
        (rows(), {"data__inputs": [{"column": "frame"}]}, "did you mean 'frames'?"),
        (rows(), {"data__target": {"column": "labels"}}, "did you mean 'label'?"),
        (rows(frames=["text"] * 12), {}, "column frames: received string"),
        (rows(label=[0.5] * 12), {}, "column label: received double"),
        (rows(label=["a"] * 12), {}, "need 2 classes, the rows have only 'a'"),
        (rows(), {"data__split": {"column": "fold", "valid": [1], "test": [9]}}, "no row has the value '9'"),
        (rows(fold=[1, 0] * 6), {}, "no rows are left for train"),
        (rows(label=["a"] * 11 + ["b"]), {"data__split": {"by": "stratified", "valid": 0.2, "test": 0.2}},
         "the class 'b' has 1 distinct sequence"),
        (rows(), {"task": "labelling"}, "expected a list with a label for each step"),
        (rows(0), {}, "no rows"),
    ],
)  # fmt: skip
def test_rows_that_cannot_serve_as_a_whole_are_refused(
    make_settings: MakeSettings, tmp_path: Path, table: Any, changes: dict[str, Any], said: str
) -> None:
    if not table["id"]:
        frames = pa.array([], pa.list_(pa.list_(pa.float64())))
        table = pa.table({"id": pa.array([], pa.string()), "frames": frames,
                          "label": pa.array([], pa.string()), "fold": pa.array([], pa.int64())})  # fmt: skip
    assert said in refused(make_settings(table, **changes), tmp_path)


def test_a_step_without_a_label_is_named(make_settings: MakeSettings, tmp_path: Path) -> None:
    table = rows()
    table["label"] = [["a", "b", "a"][: len(frames)] for frames in table["frames"]]
    table["label"][4] = ["a"]
    table["label"][5] = ["a", None, "b"]
    message = refused(make_settings(table, task="labelling"), tmp_path)
    assert "row 4, column label: 1 labels for 2 steps" in message
    assert "row 5, column label, step 1: missing label" in message


def test_all_problems_come_at_once_and_are_counted(make_settings: MakeSettings, tmp_path: Path) -> None:
    table = rows(frames=[[] for _ in range(60)], num_rows=60)
    table["label"][0] = None
    message = refused(make_settings(table), tmp_path)
    assert "61 problems" in message
    assert message.count("empty sequence") < 25


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [
        (b"", "b.parquet: no rows: the file is empty (0 bytes)"),
        (b"not parquet", "b.parquet: not a whole Parquet file, or damaged"),
        ("truncated", "b.parquet: not a whole Parquet file, or damaged"),
    ],
)
def test_a_damaged_file_is_named(
    make_settings: MakeSettings, tmp_path: Path, bytes_: bytes | str, said: str
) -> None:
    settings = make_settings()
    whole = (tmp_path / "data/a.parquet").read_bytes()
    (tmp_path / "data/b.parquet").write_bytes(whole[:-40] if isinstance(bytes_, str) else bytes_)
    assert said in refused(settings, tmp_path)


def test_files_of_other_types_are_both_named(make_settings: MakeSettings, tmp_path: Path) -> None:
    other = pa.table({**rows(), "label": [1] * 12})
    message = refused(make_settings(rows(), other), tmp_path)
    assert "b.parquet, column label: holds whole number, but text in a.parquet" in message


def test_no_file_at_the_path_suggests_the_nearest(make_settings: MakeSettings, tmp_path: Path) -> None:
    message = refused(make_settings(data__path=str(tmp_path / "data/b.parquet")), tmp_path)
    assert "did you mean 'a.parquet'?" in message


def test_bad_rows_are_left_out_on_request_counted_and_kept_aside(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = with_row(6, "frames", [[1.0, NAN]])
    table["label"][4] = "c"
    prepared = run(make_settings(table, data__on_bad_row="drop"), tmp_path)
    manifest = json.loads((prepared.data / "manifest.json").read_text("utf8"))
    assert manifest["rejected"] == 2
    assert sum(split["rows"] for split in manifest["splits"].values()) == 10
    kept = pq.read_table(prepared.data / "rejected.parquet").sort_by("row").to_pylist()
    assert [(row["file"], row["row"], row["source.id"]) for row in kept] == [
        ("a.parquet", 4, "r4"), ("a.parquet", 6, "r6")
    ]  # fmt: skip
    assert "no training row has the label 'c'" in kept[0]["reason"]
    assert "step 0, feature 1: nan" in kept[1]["reason"]


def test_of_equal_sequences_in_two_splits_the_held_out_one_stays(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = with_row(4, "frames", [[2.0, 0.0], [2.0, 1.0], [2.0, 2.0]])  # row 2 trains, row 4 tests
    prepared = run(make_settings(table, data__on_bad_row="drop"), tmp_path)
    kept = pq.read_table(prepared.data / "rejected.parquet").to_pylist()
    assert [row["row"] for row in kept] == [2]


def test_equal_sequences_stay_together_when_shares_are_held_out(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    table = rows(90)
    table["frames"] = [[[float(row % 30), 1.0]] for row in range(90)]
    table["label"] = ["ab"[row % 2] for row in range(90)]
    for by in ("hash", "stratified"):
        split = {"by": by, "valid": 0.2, "test": 0.2}
        prepared = run(make_settings(table, data__split=split), tmp_path / by)
        digests = {name: set(each["digest"].to_pylist()) for name, each in content(prepared).items()}
        assert sum(len(each) for each in digests.values()) == 30
        assert digests["train"].isdisjoint(digests["test"] | digests["valid"])
        assert digests["test"].isdisjoint(digests["valid"])


@hypothesis_settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=some.permutations(range(30)), more=some.integers(0, 30))
def test_a_hashed_row_keeps_its_split_when_rows_move_or_arrive(
    make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory, order: list[int], more: int
) -> None:
    split = {"by": "hash", "valid": 0.2, "test": 0.2}
    first = run(make_settings(pa.table(rows(30)), data__split=split), tmp_path_factory.mktemp("first"))
    grown = pa.table(rows(30 + more)).take(order + list(range(30, 30 + more)))
    second = run(make_settings(grown, data__split=split), tmp_path_factory.mktemp("second"))
    for name, table in content(first).items():
        assert set(table["id"].to_pylist()) <= set(content(second)[name]["id"].to_pylist())


def test_the_shipped_words_are_whole(root: Path, tmp_path: Path) -> None:
    prepared = run(load([root / "conf/ocr_letters.yaml"]), tmp_path)
    manifest = json.loads((prepared.data / "manifest.json").read_text("utf8"))
    assert sum(split["rows"] for split in manifest["splits"].values()) == 6877
    assert sum(split["steps"] for split in manifest["splits"].values()) == 52152
    assert len(manifest["labels"]) == 26


def test_every_single_problem_goes_to_a_file_when_one_is_named(make_settings: MakeSettings, tmp_path: Path):
    table = rows(60)
    for row in range(30):
        table["frames"][row] = [] if row % 2 else [[NAN, 1.0]]
    settings = make_settings(table)
    found = tmp_path / "problems.jsonl"
    with pytest.raises(DataError, match="30 problems, the first 20"):
        check_data(settings, console=Console(level=-1), problems=found)
    problems = [json.loads(line) for line in found.read_text("utf8").splitlines()]
    assert [problem["row"] for problem in problems] == list(range(30))
    assert problems[0]["message"].startswith("column frames, step 0, feature 0: nan, expected a finite")
    assert problems[1]["message"] == "column frames: empty sequence, expected at least 1 step"


def test_a_sample_finds_bad_rows_and_says_nothing_of_what_the_others_may_have(
    make_settings: MakeSettings, tmp_path: Path
):
    # Only the second file has rows to test on.
    good, other = rows(), rows(id=[f"s{row}" for row in range(12)])
    good["fold"], other["fold"] = [2] * 12, [0, 1] * 6
    settings = make_settings(good, other, data__split={"column": "fold", "valid": [1], "test": [0]})
    check_data(settings, console=Console(level=-1), sample=0.5)
    good["frames"][3] = []
    settings = make_settings(good, other, data__split={"column": "fold", "valid": [1], "test": [0]})
    with pytest.raises(DataError, match="row 3, column frames: empty sequence"):
        check_data(settings, console=Console(level=-1), sample=0.5)


def windows_of(settings: Settings, folder: Path) -> dict[str, set[str]]:
    """The ids of the windows that each split is cut into."""
    data = run(settings, folder).data
    encoding = Encoding.from_json(json.loads((data / "encoding.json").read_text("utf8")))
    cut = {
        split: SequenceSet.open(data / split, encoding).cut(encoding.max_length)
        for split in ("train", "valid", "test")
    }
    assert sum(len(each) for each in cut.values()) == 3 * 24
    assert all(each.lengths.max() <= 4 for each in cut.values())
    return {split: set(each.ids.to_pylist()) for split, each in cut.items()}


def test_no_sequence_has_windows_in_two_splits(make_settings: MakeSettings, tmp_path: Path):
    frames = [[[float(row), float(step)] for step in range(12)] for row in range(24)]
    split = {"by": "hash", "valid": 0.3, "test": 0.3}
    settings = make_settings(rows(24, frames=frames), data__split=split, data__max_length=4)
    ids = windows_of(settings, tmp_path)
    assert ids["train"] | ids["valid"] | ids["test"] == {f"r{row}" for row in range(24)}
    assert sum(map(len, ids.values())) == 24


def test_no_group_has_rows_in_two_splits(make_settings: MakeSettings, tmp_path: Path):
    split = {"by": "group", "column": "fold", "valid": 0.4, "test": 0.2, "seed": 3}
    table = rows(60, fold=[f"speaker-{row % 12}" for row in range(60)])
    data = run(make_settings(table, data__split=split), tmp_path).data
    speakers = {
        name: {int(row.removeprefix("r")) % 12 for row in pq.read_table(data / name)["id"].to_pylist()}
        for name in ("train", "valid", "test")
    }
    assert sum(map(len, speakers.values())) == 12


def word_settings(make_settings: MakeSettings, tmp_path: Path, *lines: str, **changes: Any) -> Settings:
    """Rows of two or three words each, and a file of vectors."""
    words = [["der", f"Hund{row % 3}", "x"][: row % 2 + 2] for row in range(12)]
    (tmp_path / "vectors.txt").write_text("".join(f"{line}\n" for line in lines), "utf8")
    given = {"column": "words", "kind": "token", "vectors": str(tmp_path / "vectors.txt"), **changes}
    frames = [[[float(row)]] * len(each) for row, each in enumerate(words)]
    return make_settings(rows(words=words, frames=frames), data__inputs=[{"column": "frames"}, given])


def test_vectors_of_tokens_lie_beside_the_rows_for_training(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    prepared = run(word_settings(make_settings, tmp_path, "der 1 2", "hund1 3 4", "other 5 6"), tmp_path)
    stored = json.loads((prepared.data / "manifest.json").read_text("utf8"))["inputs"][1]["vectors"]
    content = (prepared.data / "vectors-1.npy").read_bytes()
    assert stored == {"file": "vectors-1.npy", "rows": 4, "sha256": hashlib.sha256(content).hexdigest()}
    train = opened(prepared, "train")
    assert train.tables[1].tolist()[:2] == [[1, 2], [3, 4]]
    assert train.cut(2).tables is train.tables
    assert [slot.embedding for slot in train.slots] == [0, 2]
    profile = json.loads((prepared.data / "profile.json").read_text("utf8"))
    about = profile["inputs"][1]["vectors"]
    assert (about["found"], about["tokens"], about["further"]) == (2, 5, 2)
    assert any(notice.startswith("vectors.txt: 2 of ") for notice in profile["notices"])


def test_vectors_that_cannot_be_used_leave_nothing(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = word_settings(make_settings, tmp_path, "der 1 2", "hund 3", embedding=3)
    created = workspace.create(tmp_path / "runs", settings.name, plan={}, versions={})
    with pytest.raises(DataError, match="its vectors have 2 numbers, but embedding is 3"):
        prepare(settings, folder=created, cluster=InThisProcess(), console=Console(level=-1))  # type: ignore[arg-type]
    assert [path.name for path in created.path.iterdir()] == [workspace.RUN]
    settings = word_settings(make_settings, tmp_path, "der 1 2", "hund 3")
    check_vectors(settings)
    with pytest.raises(DataError, match="line 2: 1 numbers, expected 2") as caught:
        check_vectors(settings, whole=True)
    assert caught.value.exit_code == 2


def test_the_columns_of_slices_and_groups_come_through_as_text(make_settings: MakeSettings, tmp_path: Path):
    who = [f"s{row % 3}" for row in range(12)]
    sizes = [None if row == 4 else row / 2 for row in range(12)]
    asked = {"slices": [{"column": "size"}], "groups": "who"}
    found = run(make_settings(rows(who=who, size=sizes), evaluate=asked), tmp_path).data
    assert json.loads((found / "manifest.json").read_text("utf8"))["kept"] == ["size", "who"]
    for split in ("train", "valid", "test"):
        for row in pq.read_table(found / split).to_pylist():
            place = int(row["id"].removeprefix("r"))
            assert row["k1"] == who[place]
            assert row["k0"] == (None if place == 4 else f"{sizes[place]:g}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"slices": [{"column": "folds"}]},
            "column folds: no such column; the file has id, frames, label, fold",
        ),
        ({"slices": [{"column": "folds"}]}, "did you mean 'fold'?"),
        ({"groups": "who"}, "row 3, column who: missing"),
    ],
)
def test_columns_of_slices_and_groups_that_cannot_serve_are_named(
    make_settings: MakeSettings, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    who = [None if row == 3 else "a" for row in range(12)]
    assert said in refused(make_settings(rows(who=who), evaluate=changes), tmp_path)


def test_of_steps_a_kept_column_has_one_value_for_each_sequence(make_settings: MakeSettings, tmp_path: Path):
    table = {
        "id": [f"r{row // 2}" for row in range(24)],
        "t": [row % 2 for row in range(24)],
        "frames": [float(row) for row in range(24)],
        "label": ["ab"[row // 2 % 2] for row in range(24)],
        "fold": [row // 2 % 4 for row in range(24)],
        "who": [f"s{row // 4}" for row in range(24)],
        "room": [str(row) for row in range(24)],
    }
    steps = {"data__layout": "step", "data__order": "t"}
    asked = {"slices": [{"column": "who"}]}
    found = run(make_settings(table, evaluate=asked, **steps), tmp_path).data
    kept = {row["id"]: row["k0"] for row in pq.read_table(found / "train").to_pylist()}
    assert kept["r2"] == "s1"
    asked = {"slices": [{"column": "room"}]}
    assert "the room is '0' at step 0 and '1' at step 1" in refused(
        make_settings(table, evaluate=asked, **steps), tmp_path
    )


def test_examples_with_a_label_that_no_row_has_stop_everything(make_settings: MakeSettings, tmp_path: Path):
    file = tmp_path / "must.jsonl"
    file.write_text('{"id": "e", "frames": [[1.0, 2.0]], "label": "c"}\n', "utf8")
    said = refused(make_settings(evaluate={"examples": str(file)}), tmp_path)
    assert "must.jsonl" in said
    assert "received the label 'c', which no row of the data has" in said
