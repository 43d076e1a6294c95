"""Which rows are held out, and why."""

from typing import Any

import numpy as np
import pytest

from tests.components.inspection.test_proposals import data, proposed
from tests.components.inspection.test_roles import each, rows


def split(is_whole: bool = True, **columns: Any) -> dict[str, Any]:
    return dict(
        proposed({**rows(label=each(lambda i: "ab"[i % 2])), **columns}, is_whole=is_whole).settings["data"][
            "split"
        ]
    )


def many(num_rows: int, label: Any, **columns: Any) -> dict[str, Any]:
    frames = np.arange(num_rows * 4).reshape(num_rows, 2, 2).tolist()
    return {"frames": frames, "label": [label(i) for i in range(num_rows)], **columns}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["train", "train", "train", "test"], {"column": "split", "valid": 0.2, "test": ["test"]}),
        (["train", "train", "dev", "Test"], {"column": "split", "valid": ["dev"], "test": ["Test"]}),
        ([0, 1, 2, 3], {"column": "split", "valid": [1], "test": [0]}),
        (["3", "10", "2", "4"], {"column": "split", "valid": [3], "test": [2]}),
        (["00", "01", "02", "03"], {"column": "split", "valid": ["01"], "test": ["00"]}),
    ],
)
def test_a_column_may_say_the_split(values: list[Any], expected: dict[str, Any]) -> None:
    assert split(split=each(lambda i: values[(i // 2) % 4])) == expected


@pytest.mark.parametrize("values", [["train", "valid"], ["a", "b"], ["test", "other"]])
def test_a_column_that_names_no_test_rows_does_not(values: list[str]) -> None:
    columns = rows(label=each(lambda i: "ab"[i % 2]), split=each(lambda i: values[(i // 2) % 2]))
    found = proposed(columns)
    assert "column" not in found.settings["data"]["split"]
    assert "does not say which rows test" in found.reasons["data.split"][0]


def test_rows_of_a_group_stay_together() -> None:
    assert split(speaker=each(lambda i: f"s{i // 3}")) | {"seed": 0} == {
        "by": "group", "column": "speaker", "valid": 0.1, "test": 0.1, "seed": 0
    }  # fmt: skip
    assert split(speaker=each(lambda i: f"s{i // 30}"))["by"] != "group"


def test_a_group_that_the_split_tears_apart_is_told() -> None:
    columns = rows(
        label=each(lambda i: "ab"[i % 2]), fold=each(lambda i: i % 5), speaker=each(lambda i: f"s{i // 6}")
    )
    assert "10 of the 10 values of speaker stand in several" in proposed(columns).reasons["data.split"][0]


def test_few_or_unbalanced_classes_are_split_alike_where_all_rows_are_known() -> None:
    assert split()["by"] == "stratified"
    assert split(is_whole=False)["by"] == "hash"
    assert data(many(400, lambda i: "ab"[i % 2]))["split"] == {"by": "hash", "valid": 0.1, "test": 0.1}
    assert data(many(400, lambda i: "ab"[i % 20 == 0]))["split"]["by"] == "stratified"
