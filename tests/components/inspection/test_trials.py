"""Proposals that all rows allow."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data import readers
from components.errors import DataError
from components.inspection.looks import look
from components.inspection.proposals import Proposal, propose
from components.inspection.samples import sample
from components.inspection.trials import settle
from tests.components.inspection.test_roles import each, per_step, rows


def settled(folder: Path, columns: dict[str, Any], **changes: Any) -> Proposal:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path)
    files = readers.expand(str(path))
    proposal = propose(look(sample(files)), name="a", path=str(path))
    data = {**proposal.settings["data"], **changes}
    changed = Proposal(
        proposal.roles, proposal.findings, {**proposal.settings, "data": data}, proposal.reasons
    )
    scratch = folder / "scratch"
    scratch.mkdir()
    found = settle(changed, files, scratch=str(scratch))
    assert not list(scratch.iterdir())
    return found


LABELS = per_step(lambda i, step: "ab"[step % 2])


def test_settings_that_pass_stay_as_they_are(tmp_path: Path) -> None:
    split = {"by": "hash", "valid": 0.2, "test": 0.2}
    found = settled(tmp_path, rows(labels=LABELS), split=split)
    assert found.settings["data"]["split"] == split
    assert found.settings["data"]["on_bad_row"] == "fail"


def test_rows_are_left_out_if_the_pass_finds_bad_ones(tmp_path: Path) -> None:
    columns = rows(labels=LABELS)
    columns["frames"][3] = []
    found = settled(tmp_path, columns, on_bad_row="fail")
    assert found.settings["data"]["on_bad_row"] == "drop"
    assert "empty sequence" in found.reasons["data.on_bad_row"][0]


def test_rows_are_not_left_out_for_what_does_not_happen(tmp_path: Path) -> None:
    columns = rows(label=each(lambda i: "ab"[i % 2]))
    found = settled(tmp_path, columns, on_bad_row="drop", split={"by": "hash", "valid": 0.2, "test": 0.2})
    assert found.settings["data"]["on_bad_row"] == "fail"


def test_more_rows_are_held_out_where_a_split_stays_empty(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=(12, 3)).tolist(), "label": ["a", "b"] * 6}
    found = settled(tmp_path, columns, split={"by": "hash", "valid": 0.01, "test": 0.01})
    assert found.settings["data"]["split"]["valid"] == 0.2
    assert found.reasons["data.split"][1] == "Shares and seed are such that every split has rows."


def test_rows_that_no_settings_allow_are_refused(tmp_path: Path) -> None:
    columns = {"x": [[1.0, 2.0]] * 12, "label": ["a", "b"] * 6}
    with pytest.raises(DataError, match="No settings were found") as refused:
        settled(tmp_path, columns)
    assert refused.value.problems
