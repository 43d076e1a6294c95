import json
import subprocess
import sys

import pytest

from components import bundles
from components.errors import ModelError
from components.served.encoding import Encoding
from components.served.numbers import NumericEncoding

STRANGER = """
import importlib.util, json, sys
code = sys.argv[1] + "/code"
spec = importlib.util.spec_from_file_location(
    "private", code + "/__init__.py", submodule_search_locations=[code]
)
module = importlib.util.module_from_spec(spec)
sys.modules["private"] = module
spec.loader.exec_module(module)
from private.predictor import Predictor
print(json.dumps(Predictor(sys.argv[1]).predict({"frames": [[[0, 1]], [[2, 3], [0, 0]]]})))
print(any(name.split(".")[0] in ("components", "conf", "pipeline") for name in sys.modules))
"""


def write(folder, **changes):
    """A bundle around a model of one file, never loaded."""
    encoding = Encoding("classification", (NumericEncoding("x", 1, "none", (0.0,), (1.0,)),), ("no", "ja"))

    def export(path):
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"weights")

    given = {"export": export, "encoding": encoding, "name": "m", "epoch": 2, "metrics": {"loss": 0.5}}
    return bundles.write(folder, **{**given, **changes})


def test_a_bundle_says_what_it_is(tmp_path):
    digest = write(tmp_path / "bundle", id_column="key")
    about = bundles.describe(tmp_path / "bundle")
    assert about["digest"] == digest
    assert about["labels"] == ["no", "ja"]
    assert (about["name"], about["task"], about["epoch"], about["id"]) == ("m", "classification", 2, "key")
    assert about["num_features"] == 1
    assert {"python", "tensorflow", "keras", "numpy"} == about["versions"].keys()
    code = ("predictor", "encoding", "symbols", "numbers", "windows", "seals", "temperatures")
    assert {"model/saved_model.pb", "encoding.json", *(f"code/{name}.py" for name in code)} <= set(
        about["files"]
    )


def test_a_bundle_is_replaced_whole(tmp_path):
    first = write(tmp_path / "bundle")
    (tmp_path / "bundle" / "stray").write_text("x", "utf8")
    second = write(tmp_path / "bundle", epoch=3)
    assert first != second
    assert bundles.describe(tmp_path / "bundle")["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(tmp_path):
    digest = write(tmp_path / "bundle")

    def fail(path):
        path.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "bundle", export=fail)
    assert bundles.describe(tmp_path / "bundle")["digest"] == digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_temperature_is_part_of_what_is_sealed(tmp_path):
    folder = tmp_path / "bundle"
    before = write(folder)
    assert bundles.describe(folder)["temperature"] == 1.0
    digest = bundles.set_temperature(folder, 1.5)
    about = bundles.describe(folder)
    assert (about["temperature"], about["digest"]) == (1.5, digest)
    assert digest != before
    assert about["metrics"] == {"loss": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    text = (folder / "bundle.json").read_text("utf8")
    (folder / "bundle.json").write_text(text.replace('"temperature": 1.5', '"temperature": 1.6'), "utf8")
    with pytest.raises(ModelError, match=r"bundle\.json was changed after it was written"):
        bundles.set_temperature(folder, 2.0)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"There is no model in .*: bundle.json is missing") as caught:
        bundles.open(tmp_path)
    assert caught.value.exit_code == 2


def test_a_damaged_bundle_is_refused(tmp_path):
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / "model" / "saved_model.pb").write_bytes(b"weighty")
    for use in (bundles.open, bundles.describe):
        with pytest.raises(ModelError, match=r"saved_model\.pb was changed after it was written"):
            use(tmp_path / "bundle")


@pytest.mark.slow
def test_the_code_inside_a_bundle_answers_without_this_project(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "bundle")
    plain = bundles.open(folder).predict({"frames": [[[0, 1]], [[2, 3], [0, 0]]]})
    bundles.set_temperature(folder, 3.0)
    here = bundles.open(folder).predict({"frames": [[[0, 1]], [[2, 3], [0, 0]]]})
    command = [sys.executable, "-I", "-c", STRANGER, str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    there, ours = done.stdout.splitlines()
    there = json.loads(there)
    assert there["labels"] == here["labels"]
    for one, other in zip(there["probabilities"], here["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert here["labels"] == plain["labels"]
    for one, other in zip(here["probabilities"], plain["probabilities"], strict=True):
        assert all(a < b for a, b in zip(one, other, strict=True))
    assert ours == "False"
