import json
import shutil

import pytest

from pipeline import model_card
from pipeline.backends.workspace import RunFolder


@pytest.fixture
def folder(evaluated, tmp_path):
    """A copy of an evaluated run that was also judged."""
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(evaluated.folder.path, copy.path)
    verdict = {"decision": "promoted", "reasons": ["It is the <b>first</b> model of lines_."]}
    (copy.evaluation / "verdict.json").write_text(json.dumps(verdict), "utf8")
    return copy


def test_a_card_says_what_for_how_good_how_trained_and_how_to_call(evaluated, folder):
    text = model_card.write(folder, evaluated.settings).read_text("utf8")
    test = json.loads((folder.evaluation / "metrics.json").read_text("utf8"))["test"]
    assert text.startswith("# lines\n")
    assert "Gives every step of a sequence one of 2 labels:\ndown, up." in text
    interval = f"{test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}"
    assert f"| accuracy | {test['accuracy']:.4f} | {interval} |" in text
    assert "also stand in training" in text
    assert "- Network: 1 gru layer of 6 units, read from both ends" in text
    assert 'load_model("models:/lines@champion")' in text
    (example,) = [line for line in text.splitlines() if line.startswith('{"dataframe_records"')]
    assert set(json.loads(example)["dataframe_records"][0]) == {"id", "frames"}
    # A table's rows stand one below the other, or Markdown shows none.
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_what_looks_like_markdown_or_html_is_shown_as_it_is(evaluated, folder):
    text = model_card.write(folder, evaluated.settings).read_text("utf8")
    assert "It is the &lt;b&gt;first&lt;/b&gt; model of lines\\_." in text
    assert model_card.escape("[x](javascript:1)|`a`") == "\\[x\\](javascript:1)\\|\\`a\\`"
    assert model_card.escape("a\n# b") == "a\\\\n\\# b"


def test_a_slice_that_is_surely_worse_is_named(evaluated, folder):
    part = {"low": 1, "high": 2, "accuracy": 0.1, "accuracy_low": 0.05, "accuracy_high": 0.15}
    (folder.evaluation / "slices.json").write_text(json.dumps({"test": {"length": [part]}}), "utf8")
    text = model_card.write(folder, evaluated.settings).read_text("utf8")
    assert "- length 1 to 2: accuracy 0.1000 (0.0500 to 0.1500)" in text


def test_a_description_is_cut_at_a_line_to_what_mlflow_keeps():
    long = "\n".join(["x" * 70] * 200)
    cut = model_card.description(long)
    assert len(cut) <= model_card.MAX_DESCRIPTION
    assert cut.endswith(model_card.CUT)
    assert set(cut.removesuffix(model_card.CUT).split("\n")) == {"x" * 70}
    assert model_card.description("short") == "short"
