import json
import shutil
from dataclasses import replace
from functools import partial
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import bundles
from components.data.intake import Here, open_sources
from components.data.readers import File
from components.errors import DataError, ModelError
from components.evaluation import new_rows
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding


@pytest.fixture(scope="module")
def labeller(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("labeller") / "bundle")


@pytest.fixture(scope="module")
def classifier(make_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "bundle"
    return make_bundle(folder, task="classification", columns=[("x", 1), ("y", 2)], labels=("9", "07"))


def write(path, frames, kind=None, **columns):
    kind = kind or pa.list_(pa.list_(pa.uint8()))
    pq.write_table(pa.table({"frames": pa.array(frames, kind), **columns}), path)
    return path


def answered(bundle, files, **options):
    """All answers as one table."""
    task = look(bundle, files, **options)
    return pa.Table.from_batches(new_rows.answers(bundle=bundle, task=task), task.schema)


def look(bundle, files, *, id_column="id", id_needed=False, **options):
    encoding = bundles.encoding(bundle)
    reading = new_rows.reading(encoding, id_column=id_column)
    found = [File(str(file)) for file in files]
    check = partial(new_rows.column_problems, encoding=encoding, id_column=id_column, id_needed=id_needed)
    scratch = mkdtemp(dir=files[0].parent)
    sources = open_sources(found, reading, run=Here, scratch=scratch, check=check)
    return new_rows.look(sources, encoding, id_column=id_column, **options)


def problems(caught):
    return [(p.file, p.row, p.column, p.step, p.feature) for p in caught.value.problems]


def test_answers_come_in_the_order_of_files_and_rows_and_equal_the_predictor(labeller, tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, (n, 2)).tolist() for n in rng.integers(1, 9, 50)]
    ids = [f"w{i}" for i in range(50)]
    files = [
        write(tmp_path / "a.parquet", rows[:20], id=ids[:20]),
        write(tmp_path / "b.parquet", rows[20:], id=ids[20:]),
    ]
    table = answered(labeller, files)
    direct = bundles.open(labeller).predict({"frames": rows})
    assert table.schema.names == ["id", "labels", "probabilities"]
    assert table["id"].to_pylist() == ids
    assert table["labels"].to_pylist() == direct["labels"]
    for one, other in zip(table["probabilities"].to_pylist(), direct["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("num_rows", [1, 5])
def test_few_rows_lose_none(labeller, tmp_path, num_rows):
    file = write(tmp_path / "a.parquet", [[[1, 2]]] * num_rows, id=list(range(num_rows)))
    assert answered(labeller, [file])["id"].to_pylist() == [str(i) for i in range(num_rows)]


def test_several_inputs_of_any_number_type_go_together(classifier, tmp_path):
    table = pa.table(
        {
            "x": pa.array([[1.5, 2.5], [3.0]], pa.list_(pa.float32())),
            "y": pa.array([[[1, 2], [3, 4]], [[5, 6]]], pa.list_(pa.list_(pa.int16(), 2))),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    said = answered(classifier, [tmp_path / "a.parquet"], n_best=2, distribution=True)
    direct = bundles.open(classifier).predict(table.to_pydict(), n_best=2, distribution=True)
    assert said.schema.names == [
        "label", "probability", "n_best_labels", "n_best_probabilities", "distribution"
    ]  # fmt: skip
    assert said["n_best_labels"].to_pylist() == direct["n_best_labels"]
    assert said.schema.field("distribution").type == pa.list_(pa.float64())


def test_ids_may_be_missing_in_some_files_unless_they_were_asked_for(labeller, tmp_path):
    files = [
        write(tmp_path / "a.parquet", [[[1, 2]]], id=pa.array([None], pa.string())),
        write(tmp_path / "b.parquet", [[[1, 2]]]),
    ]
    assert answered(labeller, files)["id"].to_pylist() == [None, None]
    assert "id" not in answered(labeller, files[1:]).schema.names
    with pytest.raises(DataError) as caught:
        look(labeller, files, id_needed=True)
    assert problems(caught) == [("b.parquet", None, "id", None, None)]
    assert answered(labeller, files, id_column=None).schema.names == ["labels", "probabilities"]


def test_much_is_answered_in_pieces_that_fit(labeller, tmp_path, monkeypatch):
    monkeypatch.setattr(new_rows, "MAX_STEPS", 4)
    frames = [[[1, 2]] * n for n in (1, 2, 9, 1, 3, 1)]
    file = write(tmp_path / "a.parquet", frames, id=list("abcdef"))
    task = look(labeller, [file])
    batches = list(new_rows.answers(bundle=labeller, task=task))
    assert [batch["id"].to_pylist() for batch in batches] == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_every_row_that_does_not_fit_is_named_with_its_place(labeller, tmp_path):
    files = [
        write(
            tmp_path / "a.parquet",
            [[[1.0, 2.0]], [], [[1.0, 2.0], [1.0, None]], None, [[1.0, 2.0, 3.0]]],
            pa.list_(pa.list_(pa.float64())),
        ),
        write(
            tmp_path / "b.parquet",
            [[[1.0, 2.0]], [[1.0, float("nan")]], [[1.0, 2.0], [1.0]]],
            pa.list_(pa.list_(pa.float64())),
        ),
    ]
    task = look(labeller, files)
    with pytest.raises(DataError, match="nothing was written") as caught:
        list(new_rows.answers(bundle=labeller, task=task))
    assert problems(caught) == [
        ("a.parquet", 1, "frames", None, None),
        ("a.parquet", 2, "frames", 1, 1),
        ("a.parquet", 3, "frames", None, None),
        ("a.parquet", 4, "frames", 0, None),
        ("b.parquet", 1, "frames", 0, 1),
        ("b.parquet", 2, "frames", 1, None),
    ]
    assert caught.value.exit_code == 2


def test_rows_that_do_not_fit_may_be_kept_with_their_problem_and_place(labeller, tmp_path):
    rows = [[[1.0, 2.0]], [], [[1.0, 2.0], [1.0, None]], None, [[3.0, 4.0], [5.0, 6.0]]]
    kind = pa.list_(pa.list_(pa.float64()))
    files = [write(tmp_path / f"{name}.parquet", rows, kind, id=list("12345")) for name in "ab"]
    table = answered(labeller, files, keeps_bad=True, n_best=2, distribution=True)
    fitting = bundles.open(labeller).predict({"frames": [rows[0], rows[4]]}, n_best=2, distribution=True)
    assert table["id"].to_pylist() == list("1234512345")
    for name in ("labels", "n_best_labels", "distribution"):
        said = table[name].to_pylist()
        assert said[1:4] == said[6:9] == [None] * 3
        for one, other in zip(said[0] + said[4], fitting[name][0] + fitting[name][1], strict=True):
            assert one == (other if name != "distribution" else pytest.approx(other, abs=1e-6))
    assert [row is None for row in table["problem"].to_pylist()] == [True, False, False, False, True] * 2
    assert table["problem"][2].as_py().startswith("column frames, step 1, feature 1: ")
    assert table["file"].to_pylist()[4:7] == [None, None, "b.parquet"]
    assert table["row"].to_pylist()[6:9] == [1, 2, 3]


def test_chunks_cut_and_gather_parts_and_lose_no_row(labeller, tmp_path, monkeypatch):
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 4)
    frames = [[[row, row + 1]] * (1 + row % 3) for row in range(11)]
    sizes = {"a": (0, 9), "b": (9, 10), "c": (10, 11)}
    files = [
        write(tmp_path / f"{name}.parquet", frames[first:stop], id=list(range(first, stop)))
        for name, (first, stop) in sizes.items()
    ]
    task = look(labeller, files)
    chunks = new_rows.chunks(task.parts)
    assert [sum(each.stop - each.first for each in chunk) for chunk in chunks] == [4, 4, 3]
    assert [len(chunk) for chunk in chunks] == [1, 1, 3]
    alone = [
        batch
        for chunk in reversed(chunks)
        for batch in new_rows.answers(bundle=labeller, task=task, chunk=chunk)
    ]
    table = pa.Table.from_batches(alone, task.schema)
    assert table["id"].to_pylist() == [str(row) for row in (8, 9, 10, 4, 5, 6, 7, 0, 1, 2, 3)]
    assert table.take([7]).to_pylist() == answered(labeller, files).take([0]).to_pylist()
    assert not list(new_rows.answers(bundle=labeller, task=task, chunk=chunks[0], only_check=True))


def test_inputs_of_other_lengths_are_named(classifier, tmp_path):
    table = pa.table({"x": [[1.0, 2.0], [1.0]], "y": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        answered(classifier, [tmp_path / "a.parquet"])
    assert problems(caught) == [("a.parquet", 1, "y", None, None)]


def test_a_value_that_leaves_float32_when_scaled_is_named(labeller, tmp_path):
    tiny = NumericEncoding("frames", 2, "standard", (0.0, 0.0), (1e-9, 1e-9))
    bundles.write(
        tmp_path / "bundle",
        export=lambda path: shutil.copytree(labeller / "model", path),
        encoding=Encoding("labelling", (tiny,), ("a", "b", "c")),
        name="small",
        epoch=1,
        metrics={},
    )
    file = write(tmp_path / "a.parquet", [[[1.0, 3.4e38]]], pa.list_(pa.list_(pa.float64())))
    with pytest.raises(DataError, match=r"a\.parquet, row 0: .*feature 1: 3.4e\+38 is too large"):
        answered(tmp_path / "bundle", [file])
    rows = [[[1.0, 1.0]], [[1.0, 3.4e38]], [], [[2.0, 2.0]]]
    file = write(tmp_path / "a.parquet", rows, pa.list_(pa.list_(pa.float64())))
    table = answered(tmp_path / "bundle", [file], keeps_bad=True)
    assert [row is None for row in table["labels"].to_pylist()] == [False, True, True, False]
    assert table["problem"].to_pylist()[1:3] == [
        "input 'frames', feature 1: 3.4e+38 is too large for float32 after scaling",
        "column frames: empty sequence, expected at least 1 step",
    ]


def test_files_that_cannot_serve_are_all_named_before_anything_is_read(labeller, tmp_path):
    (tmp_path / "empty.parquet").write_bytes(b"")
    whole = write(tmp_path / "whole.parquet", [[[1, 2]]])
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    write(tmp_path / "text.parquet", [["a"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"frame": [[[1, 2]]]}), tmp_path / "other.parquet")
    files = sorted(tmp_path.glob("*.parquet"))
    with pytest.raises(DataError, match="cannot be used") as caught:
        look(labeller, files)
    text = str(caught.value)
    assert "empty.parquet: no rows" in text
    assert "cut.parquet: not a whole Parquet file" in text
    assert "text.parquet, column frames: received list<string>" in text
    assert "did you mean 'frame'?" in text


def test_files_without_a_row_are_refused(labeller, tmp_path):
    with pytest.raises(DataError, match=r"a\.parquet: no rows"):
        look(labeller, [write(tmp_path / "a.parquet", [])])


def test_rows_of_a_text_file_are_answered_alike_and_named_by_line(labeller, tmp_path):
    frames = [[[1, 2], [3, 4]], [[5, 6]]]
    rows = [{"id": f"w{i}", "frames": each} for i, each in enumerate(frames)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet = write(tmp_path / "a.parquet", frames, id=["w0", "w1"])
    assert answered(labeller, [tmp_path / "a.jsonl"]).equals(answered(labeller, [parquet]))
    (tmp_path / "b.jsonl").write_text("\n" + json.dumps({"id": 1, "frames": [[1, 2], ["x", 3]]}) + "\n{")
    with pytest.raises(DataError) as caught:
        answered(labeller, [tmp_path / "b.jsonl"])
    assert [(p.line, p.column, p.step) for p in caught.value.problems] == [(2, "frames", 1), (3, "", None)]


def test_rows_of_single_steps_are_answered_as_sequences(labeller, tmp_path):
    steps = ["id,t,p0,p1", "b,1,5,6", "a,2,3,4", "a,1,1,2"]
    (tmp_path / "steps.csv").write_text("\n".join(steps))
    layout = {"layout": "step", "order": "t", "columns": {"frames": ["p*"]}}
    encoding = bundles.encoding(labeller)
    reading = new_rows.reading(encoding, id_column="id", layout=layout)
    sources = open_sources([File(str(tmp_path / "steps.csv"))], reading, run=Here, scratch=str(tmp_path))
    task = new_rows.look(sources, encoding, id_column="id")
    table = pa.Table.from_batches(new_rows.answers(bundle=labeller, task=task), task.schema).sort_by("id")
    direct = bundles.open(labeller).predict({"frames": [[[1, 2], [3, 4]], [[5, 6]]]})
    assert table["labels"].to_pylist() == direct["labels"]


@pytest.fixture(scope="module")
def chained(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("chained") / "bundle", model={"crf": True})


def test_best_sequences_equal_those_of_the_predictor_and_begin_with_the_labels(
    chained, tmp_path, monkeypatch
):
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 9, (n, 2)).tolist() for n in [1, *rng.integers(1, 9, 30), 1]]
    file = write(tmp_path / "a.parquet", rows, id=[f"w{i}" for i in range(len(rows))])
    # A piece holds some 40 steps, so there are several.
    monkeypatch.setattr(new_rows, "MAX_LABELS", 200)
    table = answered(chained, [file], n_best_sequences=5)
    assert table.schema.names[-2:] == ["n_best_sequences", "n_best_sequence_log_probabilities"]
    direct = bundles.open(chained).best_sequences({"frames": rows}, 5)
    sequences = table["n_best_sequences"].to_pylist()
    assert sequences == direct["sequences"]
    scores = table["n_best_sequence_log_probabilities"].to_pylist()
    for one, other in zip(scores, direct["log_probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert [each[0] for each in sequences] == table["labels"].to_pylist()
    # One step of three labels has three label sequences, and no more.
    assert [len(each) for each in (sequences[0], sequences[1], sequences[-1])] == [3, 5, 3]
    assert np.exp(scores[0]).sum() == pytest.approx(1, abs=1e-5)


def test_a_model_without_a_crf_has_no_best_sequences(labeller, tmp_path):
    file = write(tmp_path / "a.parquet", [[[1, 2]]])
    with pytest.raises(ModelError, match="it is no CRF") as caught:
        answered(labeller, [file], n_best_sequences=2)
    assert caught.value.exit_code == 2
    assert "model.crf: true" in caught.value.hint


def test_rows_that_are_cut_into_windows_have_no_best_sequences(chained, make_bundle, tmp_path):
    encoding = replace(bundles.encoding(chained), max_length=3)
    windowed = make_bundle(tmp_path / "windowed", encoding=encoding, model={"crf": True})
    file = write(tmp_path / "a.parquet", [[[1, 2]] * n for n in (3, 4, 1, 9)], id=list("abcd"))
    assert answered(windowed, [file])["labels"].to_pylist()[3] is not None
    with pytest.raises(DataError) as caught:
        answered(windowed, [file], n_best_sequences=2)
    assert problems(caught) == [("a.parquet", row, "frames", None, None) for row in (1, 3)]
    assert caught.value.problems[1].message == (
        "9 steps, but label sequences have probabilities in windows of 3 only"
    )
    kept = answered(windowed, [file], n_best_sequences=2, keeps_bad=True).to_pylist()
    assert [row["n_best_sequences"] is None for row in kept] == [False, True, False, True]
    assert "4 steps, but label sequences" in kept[1]["problem"]
