import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.protocol import Limits, Refused, knows, read, written

JSON = "application/json"
LIMITS = Limits(max_rows=3, max_steps=4)


def asked(value, limits=LIMITS):
    return read(json.dumps(value).encode(), JSON, limits)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["id", "x"], "data": [["a", [1, 2]], ["b", [3]]]}},
        {"dataframe_records": [{"id": "a", "x": [1, 2]}, {"id": "b", "x": [3]}]},
        {"instances": [{"id": "a", "x": [1, 2]}, {"id": "b", "x": [3]}]},
        {"inputs": {"id": ["a", "b"], "x": [[1, 2], [3]]}},
        {"inputs": [{"id": "a", "x": [1, 2]}, {"id": "b", "x": [3]}]},
    ],
)
def test_every_form_of_mlflow_means_the_same_rows(body):
    found = asked({**body, "params": {"n_best": 2, "distribution": True}})
    assert found.columns == {"id": ["a", "b"], "x": [[1, 2], [3]]}
    assert (found.num_rows, found.n_best, found.distribution) == (2, 2, True)
    assert asked(body).kind != found.kind


def test_a_record_that_lacks_a_column_has_none_there():
    assert asked({"instances": [{"x": [1]}, {"x": [2], "id": "b"}]}).columns["id"] == [None, "b"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "expected one of"),
        ({"rows": []}, 400, "received the keys rows"),
        ({"inputs": {"x": [[1]]}, "instances": []}, 400, "expected one of"),
        ([1], 400, "no object"),
        ({"inputs": 3}, 400, "no list of records"),
        ({"inputs": {"x": 3}}, 400, "'x' is no list"),
        ({"instances": [3]}, 400, "row 0 is no record"),
        ({"instances": []}, 400, "no rows"),
        ({"inputs": {}}, 400, "no rows"),
        ({"inputs": {"x": [1], "y": [1, 2]}}, 400, "different numbers of rows"),
        ({"dataframe_split": [1]}, 400, "`columns` and `data`"),
        ({"dataframe_split": {"columns": ["x", "x"], "data": []}}, 400, "no different names"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1, 2]]}}, 400, "row 0 is no list of 1"),
        ({"inputs": {"x": [[1]] * 4}}, 413, "4 rows"),
        ({"inputs": {"x": [[1] * 5]}}, 413, "row 0: 5 steps"),
        ({"inputs": {"x": [[1]]}, "params": {"temperature": 2}}, 400, "unknown params"),
        ({"inputs": {"x": [[1]]}, "params": {"n_best": -1}}, 400, "n_best is -1"),
        ({"inputs": {"x": [[1]]}, "params": {"n_best": True}}, 400, "n_best is True"),
        ({"inputs": {"x": [[1]]}, "params": {"distribution": 1}}, 400, "distribution is 1"),
        ({"inputs": {"x": [[1]]}, "params": [1]}, 400, "params is no object"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(body, status, told):
    with pytest.raises(Refused, match=told) as caught:
        asked(body)
    assert caught.value.status == status
    assert set(caught.value.to_json()) == {"error_code", "message"}


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"inputs": {"x": [1}}'])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(Refused, match="no JSON"):
        read(body, JSON, LIMITS)


@pytest.mark.parametrize("kind", ["", "text/csv", "application/jsonlines"])
def test_only_json_is_taken(kind):
    with pytest.raises(Refused) as caught:
        read(b"{}", kind, LIMITS)
    assert caught.value.status == 415


def test_a_character_set_beside_the_content_type_is_no_matter():
    assert read(b'{"inputs": {"x": [1]}}', "Application/JSON; charset=utf-8", LIMITS).num_rows == 1


def test_messages_show_no_control_characters_and_are_cut():
    told = Refused(400, "BAD_DATA", "a\x1b[31m\nb" + "c" * 5_000).to_json()["message"]
    assert "\x1b" not in told and "\n" not in told and len(told) <= 1_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_any_json_is_read_or_refused(value):
    try:
        found = asked({"inputs": value})
    except Refused as error:
        assert error.status in (400, 413)
    else:
        assert all(len(values) == found.num_rows for values in found.columns.values())


@given(st.lists(st.floats(0, 1), min_size=1))
def test_numbers_keep_every_bit(values):
    found = json.loads(written({"probability": values, "label": ["é"] * len(values)}))["predictions"]
    assert [row["probability"] for row in found] == values
    assert all(math.isfinite(row["probability"]) and row["label"] == "é" for row in found)


def test_the_token_is_known_by_all_its_characters():
    assert knows("Bearer abc", "abc") and knows("bearer  abc", "abc")
    for shown in ("", "abc", "Basic abc", "Bearer ab", "Bearer abcd", "Bearer"):
        assert not knows(shown, "abc")
