"""Settings files that load as what they were written from."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.inspection.drafts import WIDTH, draft
from components.inspection.proposals import Proposal, propose
from conf.documents import read
from conf.mistakes import Mistakes, Place
from tests.components.inspection.test_looks import inspected
from tests.components.inspection.test_roles import each, per_step, rows

PRINTABLE = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=40)


def values(text: str) -> Any:
    """What a settings file says."""
    mistakes = Mistakes()
    entry = read(text, Place(0, 1, "conf.yaml"), mistakes)
    assert not mistakes.found
    assert entry is not None

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each.value) for key, each in value.items()}
        return [plain(each.value) for each in value] if isinstance(value, list) else value

    return plain(entry.value)


def proposal(path: str = "a.parquet", **columns: Any) -> Proposal:
    labels = per_step(lambda i, step: "ab"[step % 2])
    return propose(inspected(rows(labels=labels, **columns)), name="a", path=path)


def test_the_file_says_the_settings_and_each_line_fits() -> None:
    found = proposal(document=each(lambda i: f"d{i // 6}"))
    text = draft(found, title=["Of a file " * 30, "", "     recurra check a.yaml"])
    assert values(text) == found.settings
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "#     recurra check a.yaml\n" in text


def test_reasons_stand_above_their_keys() -> None:
    lines = draft(proposal(), title=[]).splitlines()
    at = lines.index("  target: {column: labels}")
    assert lines[at - 1].startswith("  # 2 different labels")


@pytest.mark.parametrize(
    "path", ["../a/b.parquet", "/a/b.ts", "no", "a: b", "1.5", ".nan", "#a", "{a}", "a'b\"c\\d", "*"]
)
def test_any_path_comes_back(path: str) -> None:
    assert values(draft(proposal(path), title=[]))["data"]["path"] == path


@given(text=PRINTABLE)
def test_any_text_comes_back(text: str) -> None:
    assert values(draft(proposal(text), title=[text]))["data"]["path"] == text


def test_the_shipped_shape_is_kept(tmp_path: Path) -> None:
    keys = [
        line.partition(":")[0] for line in draft(proposal(), title=[]).splitlines() if line[0] not in " #"
    ]
    assert keys == ["name", "task", "data", "model", "train", "gate", "register"]
