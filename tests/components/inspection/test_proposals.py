"""Which settings are proposed, and why."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import DataError
from components.inspection.looks import look
from components.inspection.proposals import Proposal, propose
from conf.schema import Settings
from tests.components.inspection.test_looks import inspected, sample
from tests.components.inspection.test_roles import each, per_step, rows

LABELS = per_step(lambda i, step: "ab"[step % 2])


def proposed(columns: dict[str, Any], *, is_whole: bool = True) -> Proposal:
    found = look(sample(columns, is_whole=is_whole))
    result = propose(found, name="a", path="a.parquet")
    Settings.model_validate(result.settings)
    return result


def data(columns: dict[str, Any]) -> dict[str, Any]:
    return dict(proposed(columns).settings["data"])


# Inputs and target


def test_numbers_within_one_are_not_scaled_and_others_are() -> None:
    assert data(rows(labels=LABELS))["inputs"] == [
        {"column": "frames", "kind": "numeric", "scale": "standard"}
    ]
    pixels = [[[0, 1]] * len(steps) for steps in LABELS]
    assert data({"frames": pixels, "labels": LABELS})["inputs"][0]["scale"] == "none"


def test_missing_numbers_are_filled_in_and_said_to_be() -> None:
    columns = rows(labels=LABELS)
    columns["frames"][3][0][1] = None
    found = proposed(columns)
    assert (
        found.settings["data"]["inputs"][0] | {"impute": "mean", "indicator": True}
        == found.settings["data"]["inputs"][0]
    )
    assert found.settings["data"]["on_bad_row"] == "fail"
    assert "1 are missing" in found.reasons["data.inputs.0"][0]


def test_tokens_are_read_by_their_characters_too_where_each_is_labelled() -> None:
    words = per_step(lambda i, step: f"w{i}")
    token = {"column": "tokens", "kind": "token", "min_count": 2}
    assert data({"tokens": words, "labels": LABELS})["inputs"] == [token | {"characters": True}]
    assert data({"tokens": words, "label": each(lambda i: "ab"[i % 2])})["inputs"] == [token]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-X", "I-X", "O"], "BIO"),
        (["B-X", "E-X", "S-Y"], "BIOES"),
        (["B-X", "Z"], None),
        (["I-X", "O"], None),
    ],
)
def test_a_scheme_is_named_where_all_labels_fit_it(tags: list[str], scheme: str | None) -> None:
    labels = per_step(lambda i, step: tags[(i + step) % len(tags)])
    assert data(rows(labels=labels))["target"].get("scheme") == scheme


def test_other_targets_are_named_in_the_reason() -> None:
    tags = per_step(lambda i, step: "abcdef"[(i + step) % 6])
    assert "tags (6)" in " ".join(proposed(rows(labels=LABELS, tags=tags)).reasons["data.target"])


def test_a_few_very_long_sequences_are_cut() -> None:
    columns = {"x": [[1.0, 2.0]] * 50 + [[1.0] * 5000] * 2, "label": ["a", "b"] * 26}
    assert data(columns)["max_length"] == 200
    assert "max_length" not in data(rows(labels=LABELS))


# Bad rows


def test_rows_are_left_out_where_bad_ones_were_seen() -> None:
    columns = rows(labels=LABELS)
    columns["frames"][3] = []
    found = proposed(columns)
    assert found.settings["data"]["on_bad_row"] == "drop"
    assert "1 of the 60 rows" in found.reasons["data.on_bad_row"][0]


def test_rows_are_left_out_where_copies_stand_in_two_splits() -> None:
    columns = rows(label=each(lambda i: "ab"[i % 2]), fold=each(lambda i: i % 5))
    columns["frames"][3] = columns["frames"][0]
    found = proposed(columns)
    assert found.settings["data"]["on_bad_row"] == "drop"
    assert "1 sequence would stand in training and in a held-out split" in found.reasons["data.on_bad_row"][0]


def test_rows_are_left_out_where_a_label_is_held_out_only() -> None:
    columns = rows(label=each(lambda i: "c" if i in (0, 5, 10) else "ab"[i % 2]), fold=each(lambda i: i % 5))
    assert "'c' would stand in held-out rows only" in proposed(columns).reasons["data.on_bad_row"][0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [[1.0]] * 9}, "no column to learn"),
        ({"label": ["a", "b"] * 9, "x": [1.0] * 18}, "no sequences to learn 'label'"),
        ({"x": pa.array([[]] * 18, pa.list_(pa.int8())), "label": ["a", "b"] * 9}, "too little"),
        ({"x": pa.array([], pa.list_(pa.int8()))}, "no column to learn"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_what_was_seen(columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        proposed(columns)
    assert refused.value.hint


NAMES = st.sampled_from(
    ["id", "t", "label", "labels", "split", "fold", "speaker", "x", "p0", "p1", "p2", "p3", "Ω", ""]
)
KINDS = [
    st.integers(0, 3),
    st.sampled_from(["a", "b", "train", "test", None]),
    st.sampled_from(["x y z", "one two three four", ""]),
    st.floats(width=32),
    st.lists(st.sampled_from(["a", "b", None]), max_size=3),
    st.lists(st.floats(width=32) | st.none(), max_size=3),
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=2), max_size=3),
    st.none(),
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["parquet", "csv"]), num_rows=st.integers(0, 24))
def test_any_table_ends_in_settings_or_is_refused(data: st.DataObject, kind: str, num_rows: int) -> None:
    columns = {}
    for name in data.draw(st.lists(NAMES, max_size=6, unique=True)):
        cells = st.lists(data.draw(st.sampled_from(KINDS)), min_size=num_rows, max_size=num_rows)
        columns[name] = data.draw(cells)
    if kind == "csv":
        columns = {
            name: [None if cell is None else str(cell) for cell in own] for name, own in columns.items()
        }
    try:
        found = propose(inspected(columns, kind=kind), name="a", path="a")
    except DataError as error:
        assert str(error) and error.hint
    else:
        Settings.model_validate(found.settings)
