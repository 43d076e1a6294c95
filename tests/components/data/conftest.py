"""Small real files, scanned as a worker would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers
from components.data.indexes import Scan
from components.data.preparation import scan_part
from components.data.records import Layout
from conf.schema import Settings


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., Settings]:
    """Settings of rows with id, x, label and fold; keyword arguments replace keys of the data section."""

    def make(task: str = "classification", **data: Any) -> Settings:
        section = {
            "path": "data",
            "id": "id",
            "inputs": [{"column": "x"}],
            "target": {"column": "label"},
            "split": {"column": "fold", "valid": [1], "test": [0]},
        }
        return Settings.model_validate({"name": "small", "task": task, "data": {**section, **data}})

    return make


@pytest.fixture
def make_parts(tmp_path: Path) -> Callable[..., list[readers.Part]]:
    """Writes tables as a.parquet, b.parquet, ... and cuts them into parts."""

    def make(*tables: Any, row_group_size: int | None = None) -> list[readers.Part]:
        files = []
        for number, table in enumerate(tables):
            files.append(tmp_path / f"{chr(97 + number)}.parquet")
            table = table if isinstance(table, pa.Table) else pa.table(table)
            pq.write_table(table, files[-1], row_group_size=row_group_size)
        opened = [
            readers.open_file(readers.File(str(file)), name=file.name, file_format="parquet")
            for file in files
        ]
        return readers.parts(opened)

    return make


@pytest.fixture
def make_scans(make_parts: Callable[..., list[readers.Part]], tmp_path: Path) -> Callable[..., list[Scan]]:
    """Writes tables and scans them for the settings."""

    def make(settings: Settings, *tables: Any) -> list[Scan]:
        layout = Layout.of(settings)
        return [scan_part(part, layout=layout, scratch=str(tmp_path)) for part in make_parts(*tables)]

    return make
