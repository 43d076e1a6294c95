"""What a part's index keeps of each row."""

import numpy as np
import pyarrow as pa
import pytest

ROW = {"id": ["a"], "x": [[1.0, 2.0]], "label": ["n"], "fold": [3]}


def digests(make_settings, make_scans, *tables, task="classification", **data) -> list[bytes]:
    scans = make_scans(make_settings(task, **data), *tables)
    return [digest for scan in scans for digest in scan.index.array("digest").to_pylist()]


def with_x(x: list, kind: pa.DataType | None = None) -> pa.Table:
    n = len(x)
    names = [f"r{i}" for i in range(n)]
    column = pa.array(x, kind) if kind else pa.array(x)
    return pa.table({"id": names, "x": column, "label": ["n"] * n, "fold": [0] * n})


def test_good_and_bad_rows_each_have_a_line(make_settings, make_scans):
    table = {
        "id": ["a", None, "c"],
        "x": [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0, float("nan")]]],
        "label": ["n", "y", None],
        "fold": [3, 4, 5],
    }
    (scan,) = make_scans(make_settings(), table)
    assert scan.index.array("id").to_pylist() == ["a", None, "c"]
    assert scan.index.array("length").to_pylist() == [1, 2, 1]
    assert scan.index.array("key").to_pylist() == ["3", "4", "5"]
    assert scan.index.array("w0").to_pylist() == [2, 2, 2]
    assert scan.labels == ("n", "y")
    assert scan.index.array("y").to_pylist() == [0, 1, -1]
    good, no_id, bad = scan.index.array("reason").to_pylist()
    assert good is None
    assert no_id == "column id: missing value"
    assert bad.startswith("column x, step 0, feature 1: nan")
    assert bad.endswith("; column label: missing value")
    assert [digest is None for digest in scan.index.array("digest").to_pylist()] == [False, True, True]


def test_label_codes_of_a_labeller_stand_for_the_parts_own_labels(make_settings, make_scans):
    table = {"id": ["a", "b"], "x": [[1.0], [2.0, 3.0]], "label": [["q"], ["p", "q"]], "fold": [0, 1]}
    (scan,) = make_scans(make_settings("labelling"), table)
    codes = scan.index.array("y").to_pylist()
    assert [[scan.labels[code] for code in row] for row in codes] == table["label"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.uint16()])
def test_the_number_type_of_the_file_makes_no_difference(make_settings, make_scans, kind):
    expected = digests(make_settings, make_scans, with_x([[1.0, 2.0]]))
    assert digests(make_settings, make_scans, with_x([[1, 2]], pa.list_(kind))) == expected


def test_minus_zero_is_zero(make_settings, make_scans):
    one, other = digests(make_settings, make_scans, with_x([[0.0, 1.0], [-0.0, 1.0]]))
    assert one == other


def test_other_values_or_shapes_of_the_same_values_differ(make_settings, make_scans):
    shapes = [[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]], [[1.0], [2.0], [3.0], [4.0]], [[1.0, 2.0]]]
    # One more digit than float32 holds.
    fine = [[[1.0, np.nextafter(1.0, 2.0)]], [[1.0, 1.0]]]
    assert len(set(digests(make_settings, make_scans, with_x(shapes + fine)))) == 6


def test_only_inputs_enter_the_digest(make_settings, make_scans):
    other = {**ROW, "id": ["z"], "label": ["y"], "fold": [9]}
    assert len(set(digests(make_settings, make_scans, ROW, other))) == 1


def test_two_inputs_are_not_one_with_their_values_in_a_row(make_settings, make_scans):
    inputs = [{"column": "x"}, {"column": "z"}]
    tables = [{**ROW, "x": [[1.0]], "z": [[2.0]]}, {**ROW, "x": [[2.0]], "z": [[1.0]]}]
    assert len(set(digests(make_settings, make_scans, *tables, inputs=inputs))) == 2
