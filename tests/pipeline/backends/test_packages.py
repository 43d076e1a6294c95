from pathlib import Path

import pytest

from pipeline.backends import packages
from pipeline.backends.packages import Packaging
from pipeline.backends.tracking import Store


def test_the_script_is_python():
    compile(packages.SCRIPT.read_text("utf8"), str(packages.SCRIPT), "exec")


def test_the_script_imports_nothing_of_this_project():
    text = packages.SCRIPT.read_text("utf8")
    for name in ("pipeline", "components", "conf"):
        assert f"import {name}" not in text
        assert f"from {name}" not in text


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    return Store(f"sqlite:///{tmp_path_factory.mktemp('packages')}/mlflow.db").mlflow


def signature(mlflow, *, task, columns, id_column):
    packaging = Packaging(Path(), {"task": task, "id": id_column}, columns, {}, ())
    return packages._signature(mlflow, packaging)


def test_a_labeller_takes_ragged_rows_and_gives_lists(mlflow):
    found = signature(mlflow, task="labelling", columns={"frames": 2, "x": 1}, id_column="key")
    assert [(each["name"], each["type"], each["required"]) for each in found.inputs.to_dict()] == [
        ("frames", "array", True),
        ("x", "array", True),
        ("key", "any", False),
    ]
    assert [(each["name"], each["type"]) for each in found.outputs.to_dict()] == [
        ("id", "string"),
        ("labels", "array"),
        ("probabilities", "array"),
    ]
    assert [each["name"] for each in found.params.to_dict()] == ["n_best", "distribution"]


def test_a_classifier_gives_one_label_and_no_id_where_there_is_none(mlflow):
    found = signature(mlflow, task="classification", columns={"frames": 2}, id_column=None)
    assert [each["name"] for each in found.inputs.to_dict()] == ["frames"]
    assert [(each["name"], each["type"]) for each in found.outputs.to_dict()] == [
        ("label", "string"),
        ("probability", "double"),
    ]
