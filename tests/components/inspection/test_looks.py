"""What a column holds, told from its values."""

import numpy as np
import pyarrow as pa
import pytest

from components.inspection.looks import Column, Inspection, Sample, fingerprints, look, look_at


def sample(rows: dict[str, object] | pa.Table, *, kind: str = "parquet", is_whole: bool = True) -> Sample:
    table = rows if isinstance(rows, pa.Table) else pa.table(rows)
    count = len(table)
    places = np.arange(count)
    return Sample(table, (kind,), ("a",), 1, count, is_whole, np.zeros(count, int), places)


def inspected(rows: dict[str, object] | pa.Table, *, kind: str = "parquet") -> Inspection:
    return look(sample(rows, kind=kind))


def of(values: object, kind: str = "parquet") -> Column:
    return inspected({"x": values}, kind=kind).columns[0]


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (pa.array([[1.0, 2.0], [3.0]]), "numbers"),
        (pa.array([[[1, 2]], [[3, 4], [5, 6]]]), "numbers"),
        (pa.array([[[1.0]]], pa.list_(pa.list_(pa.float32(), 1))), "numbers"),
        (pa.array([["a", "b"], []]), "texts"),
        (pa.array([1, 2]), "number"),
        (pa.array([True, None]), "number"),
        (pa.array(["1", "2.5"]), "number"),
        (pa.array(["2024-01-01", "2024-01-02"]), "time"),
        (pa.array([0, 1], pa.timestamp("s")), "time"),
        (pa.array(["a", "1"]), "text"),
        (pa.array(["a", "a"]).dictionary_encode(), "text"),
        (pa.array(["", None]), "nothing"),
        (pa.array([None, None], pa.int8()), "nothing"),
        (pa.array([None, None]), "nothing"),
        (pa.array([{"a": 1}]), "other"),
        (pa.array([[[["a"]]]]), "other"),
        (pa.array([b"a"]), "other"),
    ],
)
def test_the_shape_of_a_column(values: pa.Array, shape: str) -> None:
    assert (
        look_at("x", values.dictionary_decode() if pa.types.is_dictionary(values.type) else values).shape
        == shape
    )
    assert of(values).shape == shape


@pytest.mark.parametrize(
    ("cells", "steps"),
    [
        (["[1, 2]", "[3]"], [[1.0, 2.0], [3.0]]),
        (["[[1, 2], [3, 4]]", "[]"], [[[1.0, 2.0], [3.0, 4.0]], []]),
        (['["a", "b"]', None], [["a", "b"], None]),
        (["1 2 3", "4 5"], [[1.0, 2.0, 3.0], [4.0, 5.0]]),
        (["[1, 2]", "[1,"], [[1.0, 2.0], None]),
        (["a b", "c"], None),
        (["1 2", "e e"], [[1.0, 2.0], None]),
    ],
)
def test_lists_in_cells_are_lists_in_csv_alone(cells: list[str | None], steps: list[object] | None) -> None:
    assert of(cells, kind="csv").is_steps == (steps is not None)
    if steps is not None:
        assert of(cells, kind="csv").values.to_pylist() == steps
    assert not of(cells).is_steps


def test_what_is_wrong_with_numbers_is_known_by_row() -> None:
    nan, inf = float("nan"), float("inf")
    column = of(
        [[[1.0, nan], [2.0, 3.0]], None, [], [[1.0], [2.0, 3.0]], [[1.0, inf]], [[1.0, None]], [None]]
    )
    wrong = {what: np.flatnonzero(mask).tolist() for what, mask in column.faults.items()}
    assert wrong == {
        "no list": [1],
        "empty lists": [2],
        "steps of other than 2 features": [3, 6],
        "steps without a list": [6],
        "infinite numbers": [4],
    }
    assert column.gaps is not None
    assert np.flatnonzero(column.gaps).tolist() == [0, 5]
    assert (column.num_gaps, column.num_features, column.num_missing) == (2, 2, 1)
    assert (column.low, column.high) == (1.0, 3.0)


def test_counts_begin_with_the_most_frequent() -> None:
    assert of([["b", "a"], ["b", None]]).counts == {"b": 2, "a": 1}
    assert of(["007", "7", "7"]).counts == {"7": 2, "007": 1}
    assert of([[1, 2], [1]]).counts == {"1": 2, "2": 1}
    assert of(pa.array([True, False, True])).counts == {"true": 2, "false": 1}


def test_fractions_are_no_names_and_other_values_are() -> None:
    assert not of([1.5, 2.0]).is_name
    assert all(of(values).is_name for values in (["a"], [1], [True], ["1.5"]))


def test_a_name_that_settings_cannot_say_makes_a_column_unusable() -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 4, ["x", "x", "bell\x07", ""])
    assert [column.shape for column in inspected(table).columns] == ["other"] * 4


def test_rows_of_the_same_content_have_the_same_fingerprint() -> None:
    found = inspected({"x": [[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]], "y": [["a"], ["a"], ["a"], ["b"]]})
    one, two, three, four = fingerprints(found.columns)
    assert one == three
    assert len({one, two, four}) == 3


def test_examples_are_short() -> None:
    column = of([[[float(i) for i in range(500)]] * 9])
    assert column.examples == ("[[0, 1, 2, ...], ...]",)
    assert max(map(len, of(["a" * 500, "b"]).examples)) < 30
