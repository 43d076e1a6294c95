"""What a part's index keeps of each row."""

import struct
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest

from components.data import readers
from components.data.indexes import Index
from components.data.readers.sources import LINE, POSITIONS

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


def test_a_digest_is_of_each_inputs_shape_and_numbers_in_float64(make_settings, make_scans):
    # Splits follow from it: a digest that changed would carry tested rows into training.
    table = {**ROW, "x": [[[1.5, -2.0], [0.0, 3.0]]], "z": [[7, 8]]}
    expected = blake2b(digest_size=16)
    expected.update(struct.pack("<2q4d", 2, 2, 1.5, -2.0, 0.0, 3.0))
    expected.update(struct.pack("<2q2d", 2, 1, 7.0, 8.0))
    inputs = [{"column": "x"}, {"column": "z"}]
    assert digests(make_settings, make_scans, table, inputs=inputs) == [expected.digest()]


def test_the_neighbours_of_a_row_do_not_enter_its_digest(make_settings, make_scans):
    rows = [[1.0], [], [2.0, 3.0], None, [2.0, 3.0], [float("nan")], [4.0]]
    together = digests(make_settings, make_scans, with_x(rows, pa.list_(pa.float64())))
    alone = [digests(make_settings, make_scans, with_x([row], pa.list_(pa.float64())))[0] for row in rows]
    assert together == alone
    assert [digest is None for digest in together] == [False, True, False, True, False, True, False]


@pytest.mark.parametrize("task", ["classification", "labelling"])
def test_the_size_of_batches_makes_no_difference(make_settings, make_scans, monkeypatch, task):
    labels = ["q", "p", None, "q", "r", "p"]
    if task == "labelling":
        labels = [["q"], ["p", "q"], None, ["r", "p", "q"], ["p"], ["s"]]
    table = {
        "id": [*"abcdef"],
        "x": [[1.0], [2.0, 3.0], [4.0], [5.0, 6.0, 7.0], [], [8.0]],
        "label": labels,
        "fold": [0, 1, None, 3, 4, 5],
    }
    indexes = []
    for rows in (8192, 4, 1):
        monkeypatch.setattr(readers, "BATCH_ROWS", rows)
        (scan,) = make_scans(make_settings(task), table)
        names = ("id", "digest", "length", "key", "y", "reason", "w0")
        indexes.append((scan.index.table(*names).to_pylist(), scan.labels, scan.problems))
    assert indexes[0] == indexes[1] == indexes[2]
    rows, names, _ = indexes[0]
    if task == "classification":
        assert [names[row["y"]] for row in rows if row["y"] >= 0] == [label for label in labels if label]
    else:
        assert [[names[code] for code in row["y"]] for row in rows] == [label or [] for label in labels]


def test_each_input_has_its_features(make_settings, make_scans):
    inputs = [{"column": "x"}, {"column": "z"}]
    table = {"id": ["a", "b"], "x": [[[1.0, 2.0]], [[1.0]]], "z": [[[1, 2, 3]], [[1, 2]]]}
    (scan,) = make_scans(make_settings(inputs=inputs), {**table, "label": ["n", "y"], "fold": [0, 1]})
    index = Index(scan.index.path).table("w1", "w0")
    assert index.to_pydict() == {"w1": [3, 2], "w0": [2, 1]}


def test_without_the_columns_ids_and_keys_are_null(make_settings, make_scans):
    settings = make_settings(id=None, split={"by": "hash", "valid": 0.1, "test": 0.1})
    (scan,) = make_scans(settings, {"x": [[1.0]], "label": ["n"]})
    assert scan.index.table("id", "key", "reason").to_pylist() == [{"id": None, "key": None, "reason": None}]


def token_digests(make_settings, make_scans, x: list, kind: pa.DataType | None = None) -> list[bytes]:
    return digests(make_settings, make_scans, with_x(x, kind), inputs=[{"column": "x", "kind": "token"}])


def test_tokens_cut_elsewhere_differ_and_their_layout_makes_no_difference(make_settings, make_scans):
    cuts = [["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], ["abc", ""], ["", "abc"]]
    found = token_digests(make_settings, make_scans, cuts)
    assert len(set(found)) == len(cuts)
    views = pa.large_list(pa.dictionary(pa.int8(), pa.string()))
    assert token_digests(make_settings, make_scans, cuts, views) == found
    assert token_digests(make_settings, make_scans, ["ab c", "\ta  bc "]) == found[:2]


def test_the_neighbours_of_a_row_of_tokens_do_not_enter_its_digest(make_settings, make_scans):
    rows = [["ä", "b"], [], ["c"], None, ["ä", "b"], ["d", None]]
    together = token_digests(make_settings, make_scans, rows, pa.list_(pa.string()))
    alone = [token_digests(make_settings, make_scans, [row], pa.list_(pa.string()))[0] for row in rows]
    assert together == alone
    assert [digest is None for digest in together] == [False, True, False, True, False, True]
    assert together[0] == together[4] != together[2]


def test_a_digest_of_tokens_is_of_their_number_lengths_and_bytes(make_settings, make_scans):
    # Written down as for numbers: another digest would carry tested rows into training.
    expected = blake2b(struct.pack("<q2q", 2, 2, 1) + "äb".encode(), digest_size=16).digest()
    assert token_digests(make_settings, make_scans, [["ä", "b"]]) == [expected]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("numeric", [1.0, 2.0, 1.0]), ("numeric", ["1", "2", "1.0"]), ("category", ["a", "b", "a"])],
)
def test_context_enters_the_digest(make_settings, make_scans, kind, values):
    table = with_x([[1.0]] * 3).append_column("c", pa.array(values))
    one, other, again = digests(make_settings, make_scans, table, context=[{"column": "c", "kind": kind}])
    assert one == again != other
    assert one not in digests(make_settings, make_scans, table)


def test_all_that_is_not_a_number_is_equal_where_it_may_be_missing(make_settings, make_scans):
    payload = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]
    x = [[1.0, value] for value in (np.nan, -np.nan, payload)]
    table = with_x(x).append_column("c", pa.array([np.nan, payload, -np.nan]))
    nulls = pa.table({**{name: table[name] for name in ("id", "label", "fold")},
                      "x": pa.array([[1.0, None]] * 3), "c": pa.nulls(3, pa.float64())})  # fmt: skip
    data = {"inputs": [{"column": "x", "impute": "zero"}], "context": [{"column": "c", "impute": "zero"}]}
    found = digests(make_settings, make_scans, table, nulls, **data)
    assert len(found) == 6
    assert len(set(found)) == 1 and found[0] is not None


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_the_number_type_of_context_makes_no_difference_either(make_settings, make_scans, kind):
    table = with_x([[1.0]]).append_column("c", pa.array([0.5], kind))
    text = with_x([[1.0]]).append_column("c", pa.array(["0.50"]))
    assert len(set(digests(make_settings, make_scans, table, text, context=[{"column": "c"}]))) == 1


def test_rows_keep_their_line_and_their_place_in_the_whole(make_settings, make_scans):
    table = with_x([[1.0], [2.0]])
    (scan,) = make_scans(make_settings(), table)
    assert scan.index.table("line", "at").to_pylist() == [{"line": None, "at": None}] * 2
    places = pa.array([[7, 3], [4]], pa.list_(pa.int64()))
    table = table.append_column(LINE, pa.array([2, 5])).append_column(POSITIONS, places)
    (scan,) = make_scans(make_settings(), table)
    assert scan.index.table("line", "at").to_pylist() == [{"line": 2, "at": 3}, {"line": 5, "at": 4}]
