"""What is wrong with rows, and what is worth a look."""

from typing import Any

import numpy as np
import pytest

from components.inspection.findings import Findings, findings, num_copies_apart, repeated
from components.inspection.roles import roles
from tests.components.inspection.test_looks import inspected
from tests.components.inspection.test_roles import NUM_ROWS, each, per_step, rows


def found(columns: dict[str, Any]) -> Findings:
    return findings(roles(inspected(columns)))


def changed(values: list[Any], **at: Any) -> list[Any]:
    values = list(values)
    for place, value in at.items():
        values[int(place.removeprefix("at"))] = value
    return values


GOOD = rows(id=each(lambda i: f"r{i}"), labels=per_step(lambda i, step: "ab"[step % 2]))


def test_nothing_is_wrong_with_good_rows() -> None:
    assert found(GOOD).problems == ()
    assert found(GOOD).num_bad == 0
    assert {label: len(rows) for label, rows in found(GOOD).label_rows.items()} == {
        "a": NUM_ROWS,
        "b": NUM_ROWS,
    }


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("frames", [], "frames: empty lists: 1 row, first row 4"),
        ("frames", None, "frames: no list: 1 row, first row 4"),
        (
            "frames",
            [[1.0, 2.0], [3.0], [1.0, 2.0]],
            "frames: steps of other than 2 features: 1 row, first row 4",
        ),
        ("frames", [[1.0, float("inf")]] * 3, "frames: infinite numbers: 1 row, first row 4"),
        ("labels", ["a"], "labels and frames have different lengths: 1 row, first row 4"),
        ("labels", ["a", None, "b"], "labels: missing steps: 1 row, first row 4"),
        ("id", "r3", "id: the id stands more than once: 1 row, first row 4"),
    ],
)
def test_bad_rows_are_told_with_their_place(column: str, value: object, message: str) -> None:
    result = found({**GOOD, column: changed(GOOD[column], at4=value)})
    assert message in result.problems
    assert np.flatnonzero(result.bad).tolist() == [4]


def test_numbers_that_are_missing_are_no_bad_rows() -> None:
    result = found({**GOOD, "frames": changed(GOOD["frames"], at4=[[1.0, None]] * 3)})
    assert result.num_bad == 0
    assert result.problems == ("frames: 3 numbers are missing or NaN, in 1 row",)


def test_labels_of_few_rows_are_named() -> None:
    labels = changed(GOOD["labels"], at1=["z", "a", "b"])
    result = found({**GOOD, "labels": labels})
    assert result.rare == ("z",)
    assert result.problems == ("labels: 1 of 3 labels stand in fewer than 10 sequences: 'z' (1)",)


def test_the_same_sequence_under_two_labels_is_told() -> None:
    columns = rows(label=each(lambda i: "ab"[i % 2]))
    columns["frames"][7] = columns["frames"][4]
    columns["frames"][9] = columns["frames"][5]
    problems = found(columns).problems
    assert problems[0] == "2 rows repeat the inputs of an earlier one"
    assert problems[1].startswith("1 sequence stands under different labels, such as row 4 and row 7")


def test_columns_whose_values_repeat_are_told() -> None:
    columns = {"speaker": each(lambda i: f"s{i // 6}"), "place": each(lambda i: f"p{i // 4}")}
    one, other = repeated(roles(inspected(rows(label=each(lambda i: "ab"[i % 2]), **columns))))
    assert one.startswith("speaker: 10 values, each in 6.0 rows on average; the proposed split keeps them")
    assert other.startswith("place: 15 values, each in 4.0 rows on average; if those belong together")


def test_a_header_of_numbers_is_no_header() -> None:
    columns = {"one": each(str), "0.5": each(lambda i: "[1, 2]"), "2": each(lambda i: "ab"[i % 2])}
    result = findings(roles(inspected(columns, kind="csv")))
    assert any("looks like a row" in problem for problem in result.problems)


def test_copies_in_two_splits_are_counted() -> None:
    copies, codes = np.array([1, 1, 1, 2, 2, 3]), np.array([0, 0, 2, 1, 1, 0])
    assert num_copies_apart(copies, codes, np.ones(6, bool)) == 2
    assert num_copies_apart(copies, codes, np.array([1, 1, 0, 1, 1, 1], bool)) == 0
