"""Behaviour examples: read like the data, and refused with their places where they cannot serve."""

import json

import pytest

from components.errors import DataError
from components.evaluation.behaviours import first_wrong, paths, read, sentence
from conf.schema import Settings

LABELS = ("up", "down")


@pytest.fixture
def examples(tmp_path):
    """Settings with a file of examples, made of JSON lines."""

    def make(*rows, task="labelling", **data):
        file = tmp_path / "examples.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
        section = {
            "path": "elsewhere.jsonl",
            "id": "id",
            "inputs": [{"column": "x"}],
            "target": {"column": "y"},
            "split": {"column": "fold", "valid": [1], "test": [0]},
            **data,
        }
        values = {"name": "small", "task": task, "data": section, "evaluate": {"examples": str(file)}}
        return Settings.model_validate(values)

    return make


def test_an_empty_or_missing_label_leaves_its_step_open(examples):
    settings = examples({"id": "a", "x": [1.0, 2.0, 3.0], "y": ["up", "", None]})
    (example,) = read(settings, LABELS)
    assert (example.file, example.row, example.id) == ("examples.jsonl", 0, "a")
    assert example.expected == ["up", None, None]
    assert first_wrong(example.expected, ["up", "down", "up"]) is None
    assert first_wrong(example.expected, ["down", "down", "up"]) == 0


def test_a_row_of_a_classifier_expects_one_label(examples):
    settings = examples({"id": "a", "x": [1.0], "y": "up"}, task="classification")
    assert [example.expected for example in read(settings, LABELS)] == ["up"]


def test_of_rows_of_steps_an_example_is_a_sequence(examples):
    steps = [{"id": name, "t": t, "x": float(t), "y": "up" if t else None} for name in "ba" for t in (1, 0)]
    found = read(examples(*steps, layout="step", order="t"), LABELS)
    assert [(each.id, each.row, each.expected) for each in found] == [
        ("b", 0, [None, "up"]),
        ("a", 2, [None, "up"]),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"id": "b", "x": [1.0, 2.0], "y": ["up", "upp"]},
            "the label 'upp', which no row of the data has; did you mean 'up'",
        ),
        ({"id": "b", "x": [1.0, 2.0], "y": ["up"]}, "1 labels for 2 steps"),
        ({"id": "b", "x": [], "y": []}, "line 2, column x: empty sequence"),
        ({"id": None, "x": [1.0], "y": ["up"]}, "line 2, column id: missing value"),
    ],
)
def test_rows_that_cannot_serve_are_named(examples, row, said):
    with pytest.raises(DataError) as caught:
        read(examples({"id": "a", "x": [1.0], "y": ["up"]}, row), LABELS)
    assert "examples.jsonl" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_column_that_is_not_there_and_a_file_without_rows_are_refused(examples):
    with pytest.raises(DataError, match="column y: no such column"):
        read(examples({"id": "a", "x": [1.0]}), LABELS)
    with pytest.raises(DataError, match=r"examples\.jsonl"):
        read(examples(), LABELS)


def test_without_examples_there_is_nothing_to_read(examples):
    settings = examples({"id": "a", "x": [1.0], "y": ["up"]})
    plain = settings.model_copy(update={"evaluate": type(settings.evaluate)()})
    assert (paths(plain), read(plain, LABELS)) == ([], [])


def test_what_went_wrong_is_said_with_its_place():
    row = {"file": "e.jsonl", "row": 7, "expected": "B", "answered": "A"}
    assert sentence(row) == "e.jsonl row 7: expected B, answered A"
    steps = {"file": "e.jsonl", "row": 7, "expected": [None, "B"], "answered": ["C", "A"]}
    assert sentence(steps) == "e.jsonl row 7, step 1: expected B, answered A"
