"""Which rows of which files are looked at."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers
from components.errors import DataError
from components.inspection import samples


def write(path: Path, num_rows: int, **options: object) -> Path:
    rows = {"id": np.arange(num_rows), "x": [[float(i)] * 3 for i in range(num_rows)]}
    pq.write_table(pa.table(rows), path, **options)
    return path


def test_all_rows_of_a_small_file_are_looked_at(tmp_path: Path) -> None:
    found = samples.sample(readers.expand(str(write(tmp_path / "a.parquet", 50))))
    assert found.is_whole
    assert (len(found.rows), found.num_rows) == (50, 50)


def test_rows_of_a_large_file_are_spread_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_ROWS", 100)
    found = samples.sample(readers.expand(str(write(tmp_path / "a.parquet", 1000, row_group_size=150))))
    assert not found.is_whole
    assert found.num_rows == 1000
    assert 50 <= len(found.rows) <= 100
    assert set(np.diff(found.row)) == {16}
    assert found.rows["id"].to_pylist() == found.row.tolist()


def test_long_rows_count_by_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_STEPS", 2000)
    found = samples.sample(readers.expand(str(write(tmp_path / "a.parquet", 5000))))
    assert 300 < len(found.rows) <= 2000 / 3 + 1


def test_rows_that_may_be_steps_are_taken_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MAX_STEPS", 2000)
    (tmp_path / "a.csv").write_text("id,t\n" + "".join(f"{i // 10},{i}\n" for i in range(5000)), "utf8")
    found = samples.sample(readers.expand(str(tmp_path / "a.csv")))
    assert found.row.tolist() == list(range(2000))
    assert not found.is_whole
    assert found.rows["t"].to_pylist()[-1] == "1999"


def test_of_many_files_some_are_looked_at_the_first_and_last_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MAX_FILES", 4)
    for number in range(10):
        write(tmp_path / f"{number}.parquet", 5)
    found = samples.sample(readers.expand(str(tmp_path)))
    assert found.files == ("0.parquet", "3.parquet", "6.parquet", "9.parquet")
    assert (found.num_files, found.num_rows, found.is_whole) == (10, None, False)


def test_a_row_that_cannot_be_read_is_known_with_its_line(tmp_path: Path) -> None:
    lines = [json.dumps({"id": i, "x": [1, 2]}) for i in range(5)]
    lines[3] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf8")
    found = samples.sample(readers.expand(str(tmp_path / "a.jsonl")))
    assert [(row, problem.line) for row, problem in found.faults.items()] == [(3, 4)]


def test_folders_that_name_a_column_give_it_to_every_format(tmp_path: Path) -> None:
    for year, suffix in (("2023", "csv"), ("2024", "jsonl")):
        (tmp_path / f"year={year}").mkdir()
        text = "id\na\n" if suffix == "csv" else '{"id": "b"}\n'
        (tmp_path / f"year={year}" / f"a.{suffix}").write_text(text, "utf8")
    found = samples.sample(readers.expand(str(tmp_path)))
    assert found.rows.to_pydict() == {"id": ["a", "b"], "year": ["2023", "2024"]}
    assert found.place(1) == "year=2024/a.jsonl, row 0"


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing else"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        samples.sample(readers.expand(str(tmp_path / "a.parquet")))


def test_files_of_different_columns_that_cannot_be_one_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[1.0]]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="differ"):
        samples.sample(readers.expand(str(tmp_path)))
