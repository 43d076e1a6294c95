import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.served.encoding import Encoding, Slot, slots_of
from components.served.numbers import NumericEncoding
from components.served.symbols import CategoryEncoding, TokenEncoding


def numeric(column="x", features=2, scale="none", center=(0.0, 0.0), spread=(1.0, 1.0)):
    return NumericEncoding(column=column, features=features, scale=scale, center=center, spread=spread)


def test_inputs_stand_side_by_side_in_the_order_of_the_settings():
    encoding = Encoding(
        task="classification",
        inputs=(numeric("b"), numeric("a", 1, center=(0.0,), spread=(1.0,))),
        labels=("n", "y"),
    )
    x = encoding.encode({"a": np.array([[9], [8]]), "b": np.array([[1, 2], [3, 4]])})
    assert x.tolist() == [[1, 2, 9], [3, 4, 8]]
    assert (encoding.num_features, encoding.num_classes) == (3, 2)


def test_missing_inputs_and_unequal_steps_are_named():
    encoding = Encoding(task="labelling", inputs=(numeric("b"), numeric("a")), labels=("n", "y"))
    with pytest.raises(ValueError, match=r"missing inputs \['a'\]"):
        encoding.encode({"b": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"received \{'b': 1, 'a': 2\}"):
        encoding.encode({"b": np.zeros((1, 2)), "a": np.zeros((2, 2))})


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_an_encoding_survives_json_to_the_last_bit(numbers):
    part = numeric(scale="minmax", center=tuple(numbers[:2]), spread=tuple(numbers[2:]))
    encoding = Encoding(task="labelling", inputs=(part,), labels=("007", "7", "é"))
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


EVERY_KIND = Encoding(
    task="labelling",
    inputs=(
        NumericEncoding("x", 1, "robust", (0.5,), (2.0,), fill=(0.25,), indicator=True),
        TokenEncoding("word", ("der", "é"), 4, lowercase=True, characters=("d", "e"), max_characters=3),
        CategoryEncoding("pos", ("N",), 2),
    ),
    labels=("a", "b"),
    context=(NumericEncoding("age", 1, "none", (0.0,), (1.0,)), CategoryEncoding("speaker", ("1", "2"), 3)),
    max_length=50,
    overlap=10,
    scheme="BIO",
)


def test_every_kind_survives_json():
    assert Encoding.from_json(json.loads(json.dumps(EVERY_KIND.to_json()))) == EVERY_KIND


def test_an_encoding_written_before_there_were_schemes_still_opens():
    stored = EVERY_KIND.to_json()
    assert stored.pop("scheme") == "BIO"
    assert Encoding.from_json(stored) == replace(EVERY_KIND, scheme="none")


def test_an_encoding_written_before_there_were_kinds_still_opens():
    stored = {
        "task": "labelling",
        "inputs": [{"column": "x", "features": 1, "scale": "none", "center": [0.0], "spread": [1.0]}],
        "labels": ["a"],
    }
    encoding = Encoding.from_json(stored)
    assert encoding == Encoding("labelling", (numeric("x", 1, center=(0.0,), spread=(1.0,)),), ("a",))
    assert (encoding.max_length, encoding.overlap, encoding.context) == (None, 0, ())
    assert encoding.scheme == "none"


def test_slots_say_what_stands_where():
    assert EVERY_KIND.slots == (
        Slot("numbers", 2),
        Slot("symbol", 1, size=3, embedding=4),
        Slot("characters", 3, size=4),
        Slot("symbol", 1, size=2, embedding=2),
        Slot("numbers", 1, once=True),
        Slot("symbol", 1, size=3, embedding=3, once=True),
    )
    assert EVERY_KIND.num_features == sum(slot.width for slot in EVERY_KIND.slots) == 9


def test_context_stands_beside_each_step_of_its_row():
    columns = {
        "x": np.array([[2.5], [np.nan], [0.5]]),
        "word": ["Der", "x", "edde"],
        "pos": ["N", "V", "N"],
        "age": [7.0, 8.0],
        "speaker": ["2", "3"],
    }
    assert EVERY_KIND.encode(columns, np.array([2, 1])).tolist() == [
        [1, 0, 1, 2, 3, 1, 1, 7, 2],
        [-0.125, 1, 0, 1, 0, 0, 0, 7, 2],
        [0, 0, 0, 3, 2, 3, 1, 8, 0],
    ]


def test_slots_say_which_vectors_are_fixed_and_how_characters_are_read():
    part = TokenEncoding(
        "word", ("a", "b", "c"), 4, characters=("d",), max_characters=3, spelling="recurrent", vectors=2
    )
    assert slots_of(part) == [Slot("symbol", 1, size=4, embedding=4), Slot("spelling", 3, size=3)]
    fixed = replace(part, fixed=True)
    assert slots_of(fixed)[0] == Slot("symbol", 1, size=4, embedding=4, fixed=2)
    encoding = Encoding("labelling", (fixed,), ("a", "b"))
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding
