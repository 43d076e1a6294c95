"""Files of every format and either layout to sources of sequences."""

import gzip
import json
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from components.data import intake, readers
from components.data.intake import Here, Reading, open_sources
from components.data.layouts import StepInput, StepLayout
from components.data.readers.sources import FAULT, OWN, POSITIONS
from components.data.records import Layout, check
from components.errors import DataError, StorageError

X = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
KINDS = {"id": "text", "x": "numbers", "label": "text"}
ROWS = [{"id": "a", "x": X[0], "label": "n"}, {"id": "b", "x": X[1], "label": "y"}]
MODULE = """
def read(path):
    yield {"id": "a", "x": [[1.0, 2.0], [3.0, 4.0]], "label": "n"}
    yield {"id": "b", "x": [[5.0, 6.0]], "label": "y"}
"""


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table) and path.suffix == ".parquet":
        pq.write_table(content, path)
    elif isinstance(content, pa.Table):
        with ipc.new_file(path, content.schema) as writer:
            writer.write_table(content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())


@pytest.fixture
def opened(folder: Path):
    """The sources of files that are made of tables and texts, by name."""

    def open_all(reading: Reading, files: dict[str, object], **kwargs) -> list[readers.Source]:
        data, scratch = (Path(mkdtemp(prefix=f"{name}-", dir=folder)) for name in ("data", "scratch"))
        for name, content in files.items():
            write(data / name, content)
        # In folders only known suffixes count.
        paths = str(data) if reading.file_format == "auto" else [str(data / name) for name in files]
        found = readers.expand(paths, reading.file_format)
        return open_sources(found, reading, run=Here, scratch=str(scratch), **kwargs)

    return open_all


def rows_of(sources: list[readers.Source], *columns: str) -> list[dict]:
    parts = readers.parts(sources)
    found = [row for part in parts for batch in readers.scan(part, columns) for row in batch.to_pylist()]
    return [{name: row[name] for name in columns} for row in found]


def test_files_of_every_format_give_the_same_rows_in_order_of_name(opened, folder: Path):
    csv = 'id,x,label\na,"[[1, 2], [3, 4]]",n\nb,"[[5, 6]]",y\n'
    tsv = "id\tx\tlabel\na\t[[1, 2], [3, 4]]\tn\nb\t[[5, 6]]\ty\n"
    files = {
        "a.parquet": pa.Table.from_pylist(ROWS),
        "b.arrow": pa.Table.from_pylist(ROWS),
        "c.csv": csv,
        "d.csv.gz": gzip.compress(csv.encode()),
        "e.tsv": tsv,
        "f.jsonl": "\n".join(map(json.dumps, ROWS)),
    }
    told: list[int] = []
    sources = opened(Reading(kinds=KINDS), files, advance=told.append)
    assert [source.name for source in sources] == list(files)
    assert {source.format for source in sources} == {"parquet", "arrow"}
    assert told == [1] * 6
    assert rows_of(sources, "id", "x", "label") == ROWS * 6


def test_a_reader_of_the_users_own_reads_all_files(opened, folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "intake_reader.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    reading = Reading("intake_reader:read", kinds=KINDS)
    sources = opened(reading, {"a.bin": "x", "b.parquet": "x"})
    assert rows_of(sources, "id", "x", "label") == ROWS * 2


def test_conll_files_are_sentences_with_the_names_of_the_settings(opened):
    reading = Reading(names=("word", "_", "tag"), kinds={"word": "texts", "tag": "texts"})
    sources = opened(reading, {"a.conll": "EU NNP B-ORG\nsagt VB O\n\nnein UH O\n"})
    assert rows_of(sources, "word", "tag") == [
        {"word": ["EU", "sagt"], "tag": ["B-ORG", "O"]},
        {"word": ["nein"], "tag": ["O"]},
    ]


def test_formats_that_name_their_own_columns_are_read_too(opened):
    token = "1\tJa\t_\tINTJ" + "\t_" * 6
    (words,) = opened(Reading(kinds={"form": "texts", "upos": "texts"}), {"a.conllu": f"{token}\n\n"})
    assert rows_of([words], "form", "upos") == [{"form": ["Ja"], "upos": ["INTJ"]}]
    series = "@problemName a\n@timeStamps false\n@classLabel true n y\n@data\n1.0,2.0:3.0,4.0:n\n"
    (frames,) = opened(Reading(kinds={"frames": "numbers", "label": "text"}), {"a.ts": series})
    assert rows_of([frames], "frames", "label") == [{"frames": [[1.0, 3.0], [2.0, 4.0]], "label": "n"}]


def test_all_files_at_fault_are_named_together_with_a_hint(opened):
    files = {
        "bad.csv": b"",
        "good.csv": "id,x,label\na,[1],n\n",
        "latin.jsonl": b'{"id": "\xe9"}',
        "none.parquet": b"no parquet",
    }
    told: list[int] = []
    with pytest.raises(DataError) as caught:
        opened(Reading(kinds=KINDS), files, advance=told.append)
    assert [problem.file for problem in caught.value.problems] == ["bad.csv", "latin.jsonl", "none.parquet"]
    assert caught.value.hint == "See the data section."
    assert told == [1] * 4


@pytest.mark.parametrize("error", [StorageError("the disk is full"), DataError("nothing fits")])
def test_what_is_no_problem_of_a_file_is_passed_on_at_once(error: Exception):
    def stopped() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(intake.results([Here(stopped), Here(stopped)]))


def test_a_task_here_runs_when_its_result_is_asked_for():
    done: list[int] = []
    task = Here(lambda number: done.append(number) or number, number=3)
    assert done == []
    assert task.result() == 3
    assert done == [3]


# One row, one step

STEPS = StepLayout("id", "t", (StepInput("x", ("p*",)), StepInput("word", kind="text")), ("tag",), ("fold",))
FIRST = "id,t,p1,p2,word,tag,fold\nb,2,6,60,bellt,O,0\na,1,1,10,Der,B-X,1\na,2,2,20,Hund,I-X,1\n"
SECOND = "id,t,p1,p2,word,tag,fold\nb,1,5,50,Er,O,0\n"


def by_step(layout: StepLayout = STEPS, **kwargs) -> Reading:
    return Reading(steps=layout, **kwargs)


def test_steps_of_several_files_become_sequences(opened):
    sources = opened(by_step(), {"a.csv": FIRST, "b.csv": SECOND})
    assert rows_of(sources, "id", "x", "word", "tag", "fold", POSITIONS, FAULT) == [
        {"id": "b", "x": [[5.0, 50.0], [6.0, 60.0]], "word": ["Er", "bellt"], "tag": ["O", "O"], "fold": "0",
         POSITIONS: [3, 0], FAULT: None},
        {"id": "a", "x": [[1.0, 10.0], [2.0, 20.0]], "word": ["Der", "Hund"], "tag": ["B-X", "I-X"],
         "fold": "1", POSITIONS: [1, 2], FAULT: None},
    ]  # fmt: skip
    assert [source.origin(position) for source in sources for position in (0, 2, 3)] == [
        ("a.csv", 0), ("a.csv", 2), ("b.csv", 0)
    ]  # fmt: skip


def test_every_format_gives_the_same_sequences(opened, monkeypatch: pytest.MonkeyPatch):
    columns = {"id": [*"baab"], "t": [2, 1, 2, 1], "p1": [6, 1, 2, 5], "p2": [60, 10, 20, 50]}
    columns |= {"word": ["bellt", "Der", "Hund", "Er"], "tag": ["O", "B-X", "I-X", "O"], "fold": [0, 1, 1, 0]}
    table = pa.table(columns)
    names = ("id", "x", "word", "tag", "fold", POSITIONS)
    expected = rows_of(opened(by_step(), {"a.csv": FIRST, "b.csv": SECOND}), *names)
    assert rows_of(opened(by_step(), {"c.parquet": table}), *names) == expected
    assert rows_of(opened(by_step(), {"d.arrow": table.slice(0, 3), "e.csv": SECOND}), *names) == expected
    # However many buckets there are, equal ids come together.
    monkeypatch.setattr("components.data.buckets.BUCKET_VALUES", 1)
    sources = opened(by_step(), {"f.parquet": table})
    assert len(sources) > 3
    assert sorted(rows_of(sources, *names), key=lambda row: row["id"]) == expected[::-1]


def test_a_fault_of_a_step_is_told_at_its_line_and_others_at_their_file_and_row(opened, make_settings):
    files = {"a.csv": FIRST.replace("1,10", "one,10"), "b.csv": SECOND.replace("5,50", "5,nan")}
    settings = make_settings(
        "labelling", layout="step", order="t",
        inputs=[{"column": "x", "columns": ["p1", "p2"]}, {"column": "word", "kind": "token"}],
        target={"column": "tag"},
    )  # fmt: skip
    layout = Layout.of(settings)
    problems = [
        str(problem)
        for part in readers.parts(opened(Reading.of(settings, layout), files))
        for batch in readers.scan(part, layout.columns)
        for problem in check(batch, layout, source=part.source, first_row=part.first_row).problems
    ]
    assert problems == [
        "b.csv, row 0, column x, step 0, feature 1: nan, expected a finite number within float32",
        "a.csv, line 3, column p1, step 0: received 'one', expected a number",
    ]


def test_what_folders_say_may_be_a_column_of_every_step(opened):
    layout = StepLayout("id", "t", (StepInput("x"),), (), ("year",))
    table = pa.table({"id": ["a", "a"], "t": [1, 2], "x": [1.0, 2.0]})
    found = opened(by_step(layout), {"year=2023/a.parquet": table, "year=2024/b.parquet": table.slice(0, 0)})
    assert rows_of(found, "id", "x", "year") == [{"id": "a", "x": [1.0, 2.0], "year": "2023"}]


def test_columns_that_files_lack_are_all_named(opened):
    files = {"a.csv": FIRST, "b.csv": SECOND.replace("word", "words"), "c.csv": SECOND.replace("tag", "t4g")}
    with pytest.raises(DataError) as caught:
        opened(by_step(), files)
    assert [(problem.file, problem.column) for problem in caught.value.problems] == [
        ("b.csv", "word"),
        ("c.csv", "tag"),
    ]
    with pytest.raises(DataError, match=r"b\.csv, column p2: there is none here, but one in a\.csv|p2"):
        opened(by_step(), {"a.csv": FIRST, "b.csv": SECOND.replace("p2", "q2")})


def test_files_without_a_step_give_no_sequences(opened):
    assert opened(by_step(), {"a.csv": FIRST.splitlines()[0], "b.csv": SECOND.splitlines()[0]}) == []


# From settings


def test_of_sequences_the_settings_say_what_each_column_is_read_as(make_settings):
    settings = make_settings(format="csv", columns=["id", "x", "label", "fold"])
    reading = Reading.of(settings, Layout.of(settings))
    assert (reading.file_format, reading.names, reading.steps) == ("csv", ("id", "x", "label", "fold"), None)
    assert reading.wanted.kinds == {"id": "text", "x": "numbers", "label": "text", "fold": "text"}
    assert reading.wanted.names == reading.names


STEP_DATA = {
    "layout": "step",
    "order": "t",
    "inputs": [
        {"column": "x", "columns": ["p1", "p2"]},
        {"column": "z"},
        {"column": "w", "kind": "category"},
    ],
    "context": [{"column": "age"}],
}


def test_of_steps_they_say_what_makes_a_step_and_what_a_sequence(make_settings):
    settings = make_settings(**STEP_DATA)
    reading = Reading.of(settings, Layout.of(settings))
    inputs = (StepInput("x", ("p1", "p2")), StepInput("z"), StepInput("w", kind="text"))
    assert reading.steps == StepLayout("id", "t", inputs, (), ("age", "fold", "label"))
    texts = dict.fromkeys(("id", "t", "w", "age", "fold", "label"), "text")
    assert reading.wanted.kinds == texts | dict.fromkeys(("p1", "p2", "z"), "any")
    labeller = make_settings("labelling", **STEP_DATA)
    steps = Reading.of(labeller, Layout.of(labeller)).steps
    assert (steps.per_step_texts, steps.constants) == (("label",), ("age", "fold"))


def test_where_a_pattern_stands_for_columns_all_are_read(make_settings):
    settings = make_settings(**{**STEP_DATA, "inputs": [{"column": "x", "columns": ["p*"]}]})
    assert Reading.of(settings, Layout.of(settings)).wanted.kinds == {}


def test_a_split_by_shares_has_no_column_to_keep(make_settings):
    split = {"by": "hash", "valid": 0.1, "test": 0.1}
    settings = make_settings(**STEP_DATA, split=split)
    assert Reading.of(settings, Layout.of(settings)).steps.constants == ("age", "label")


def test_our_own_columns_are_no_columns_of_the_user(opened):
    (source,) = opened(Reading(), {"a.csv": "id,x\na,1\n"})
    assert [name for name in source.schema.names if name not in OWN] == ["id", "x"]


def test_json_lines_with_a_vector_in_each_step_are_read(make_settings, tmp_path: Path):
    rows = [{"id": "a", "t": t, "x": [t, 2 * t], "label": "n", "fold": 1} for t in (2, 0, 1)]
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = make_settings(layout="step", order="t", inputs=[{"column": "x"}])
    reading = Reading.of(settings, Layout.of(settings))
    (source,) = intake.open_sources(
        readers.expand(str(tmp_path / "steps.jsonl")), reading, run=Here, scratch=str(tmp_path)
    )
    (part,) = readers.parts([source])
    (batch,) = readers.scan(part, ["x"])
    assert batch.column("x").to_pylist() == [[[0, 0], [1, 2], [2, 4]]]
