"""`recurra inspect` as a user meets it: what it prints, what it writes, when it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSystem

from conf.load import load
from pipeline import cli
from pipeline.stages import inspect as stage
from tests.pipeline.conftest import QUIET, lines, write_rows

WORDS = "1\tThe\t_\tDET\n2\tdog{0}\t_\tNOUN\n3\tbarks{1}\t_\tVERB\n"


def call(*arguments: str) -> int:
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *arguments])
        sys.exit(0)
    return int(ended.value.code or 0)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What the command says as JSON."""
    code = call(*arguments, "--json")
    said = json.loads(capsys.readouterr().out)
    assert code == said.get("exit_code", 0)
    return said


def as_steps(rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The same rows, a step in each."""
    return [
        {"word": name, "t": step, "p0": frame[0], "p1": frame[1], "p2": 1.5, "label": label, "fold": fold}
        for name, frames, labels, fold in zip(
            *(rows[key] for key in ("id", "frames", "labels", "fold")), strict=True
        )
        for step, (frame, label) in enumerate(zip(frames, labels, strict=True))
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(text) + "\n", "utf8")


def write(folder: Path, kind: str) -> Path:
    """A file of that format with the rows of `lines`, or something like them."""
    path, rows = folder / f"data.{kind}", lines()
    if kind == "parquet":
        write_rows(path)
    elif kind == "arrow":
        table = pa.table(rows)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif kind == "jsonl":
        each = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in each), "utf8")
    elif kind == "csv":
        write_csv(path, as_steps(rows))
    elif kind == "conllu":
        tail = "\t_" * 6
        sentences = (WORDS.format(i, i % 7).replace("\n", f"{tail}\n") for i in range(120))
        path.write_text("\n".join(f"# sent_id = s{i}\n{text}" for i, text in enumerate(sentences)), "utf8")
    else:
        cases = (f"{i},{i * i},{i % 7}:{'ab'[i % 2]}" for i in range(120))
        path.write_text("@classLabel true a b\n@data\n" + "\n".join(cases) + "\n", "utf8")
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "csv", "conllu", "ts"])
def test_what_is_written_loads_and_passes_the_check_of_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    from pipeline.stages.prepare import check_data

    (folder / "data").mkdir()
    (folder / "conf").mkdir()
    write(folder / "data", kind)
    assert call(f"data/data.{kind}", "-o", "conf/my.yaml") == 0
    out, err = capsys.readouterr()
    assert "conf/my.yaml is written." in out
    assert "Next: recurra check conf/my.yaml" in err
    assert f"path: ../data/data.{kind}\n" in (folder / "conf" / "my.yaml").read_text("utf8")
    settings = load([Path("conf/my.yaml")])
    assert settings.name == "data"
    assert settings.data.layout == ("step" if kind == "csv" else "sequence")
    assert settings.task == ("classification" if kind == "ts" else "labelling")
    check_data(settings, console=QUIET)
    assert [path.name for path in (folder / "conf").iterdir()] == ["my.yaml"]


def test_without_a_file_the_settings_are_shown_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "lines.parquet")
    assert call("lines.parquet") == 0
    out, err = capsys.readouterr()
    assert "1 parquet file: lines.parquet\nall 120 rows were looked at" in out
    assert "path: lines.parquet" in out
    assert "-o conf.yaml" in err
    assert [path.name for path in folder.iterdir()] == ["lines.parquet"]


def test_a_password_in_a_url_gets_into_no_settings(
    folder: Path, capsys: pytest.CaptureFixture[str], object_store: str, store_files: FileSystem
) -> None:
    with store_files.open_output_stream("rows.parquet") as stream:
        pq.write_table(pa.table(lines()), stream)
    url = object_store.replace("s3://", "s3://key:S3CR3T/x@")
    assert call(f"{url}/rows.parquet?region=us-east-1", "-o", "conf.yaml") == 0
    out, err = capsys.readouterr()
    written = Path("conf.yaml").read_text("utf8")
    assert f"{object_store}/rows.parquet?region=us-east-1" in written
    assert "leave out the password" in err
    assert "S3CR3T" not in written + out + err


def test_a_column_of_an_extension_type_is_proposed_for_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({**lines(), "codes": lines()["frames"]})
    field = table.schema.field("codes").with_metadata({"ARROW:extension:name": "their.codes"})
    pq.write_table(table.cast(table.schema.set(table.schema.get_field_index("codes"), field)), "data.parquet")
    said = asked(capsys, "data.parquet", "-o", "conf.yaml")
    assert [part["column"] for part in said["settings"]["data"]["inputs"]] == ["frames"]
    (codes,) = [each for each in said["columns"] if each["column"] == "codes"]
    assert codes["type"].startswith("the extension type their.codes, stored as list<")


def test_json_says_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(folder / "lines.parquet")
    said = asked(capsys, "lines.parquet", "-o", "lines.yaml")
    assert set(said) == {"files", "columns", "lengths", "labels", "problems", "settings", "yaml"}
    assert said["yaml"] == (folder / "lines.yaml").read_text("utf8")
    assert said["settings"]["data"]["split"] == {"column": "fold", "valid": [1], "test": [0]}
    assert said["lengths"] == {"min": 1, "median": 3.5, "max": 6}
    assert set(said["labels"]) == {"up", "down"}
    assert [each["used_as"] for each in said["columns"]] == ["id", "input", "target", "split"]


def test_a_file_that_is_there_is_replaced_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "lines.parquet")
    (folder / "lines.yaml").write_text("mine", "utf8")
    said = asked(capsys, "lines.parquet", "-o", "lines.yaml")
    assert said["exit_code"] == 2
    assert "--force" in said["hint"]
    assert (folder / "lines.yaml").read_text("utf8") == "mine"
    assert call("lines.parquet", "-o", "lines.yaml", "--force") == 0
    assert load([Path("lines.yaml")]).name == "lines"


def test_a_file_that_cannot_be_written_is_a_fault_of_the_surroundings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder / "lines.parquet")
    said = asked(capsys, "lines.parquet", "-o", "nowhere/lines.yaml")
    assert said["exit_code"] == 3
    assert "nowhere/lines.yaml cannot be written: No such file or directory" in said["error"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": [[1.0, 2.0]] * 30}, "There is no column to learn. Seen: x: numbers"),
        ({"a": ["b", "c"] * 15}, "There are no sequences"),
        ({"x": [[1.0, 2.0]] * 30, "label": ["a", "b"] * 15}, "No settings were found that these rows allow"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], columns: dict[str, Any], said: str
) -> None:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    found = asked(capsys, "a.parquet", "-o", "a.yaml")
    assert found["exit_code"] == 2
    assert said in found["error"]
    assert found["hint"]
    assert not (folder / "a.yaml").exists()


def test_data_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "nothing.parquet")["exit_code"] == 2


def test_several_files_and_globs_stand_in_the_settings_as_they_were_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rows_TRAIN", "rows_TEST"):
        write_rows(folder / f"{name}.parquet", lines(seed=len(name)))
    both = asked(capsys, "rows_TRAIN.parquet", "rows_TEST.parquet")["settings"]
    assert both["data"]["path"] == ["rows_TRAIN.parquet", "rows_TEST.parquet"]
    assert both["name"] == "rows"
    assert asked(capsys, "rows_*.parquet")["settings"]["data"]["path"] == "rows_*.parquet"
    assert asked(capsys, str(folder))["settings"]["data"]["path"] == "."


def test_names_from_the_data_do_not_drive_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lines() | {"bell\x07 [red]": ["\x1b[31m"] * 120}
    write_rows(folder / "lines.parquet", rows)
    assert call("lines.parquet") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "bell\\x07 [red]" in out


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["a/Ocr Letters.v2.parquet"], "ocr-letters-v2"),
        (["b.csv.gz"], "b"),
        (["Vowels_TRAIN.ts", "Vowels_TEST.ts"], "vowels"),
        (["data/part-*.parquet"], "data"),
        (["data/mnist_*.parquet"], "mnist"),
        (["data/"], "data"),
        (["s3://bucket/rows.jsonl?endpoint_override=x"], "rows"),
        (["Ωmega.csv"], "mega"),
        (["ß.csv"], "model"),
    ],
)
def test_the_name_comes_from_the_files(paths: list[str], name: str) -> None:
    assert stage._name(paths) == name
