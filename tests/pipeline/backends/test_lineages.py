import json

from pipeline.backends import lineages


def test_a_lineage_names_rows_encoding_code_libraries_and_machine(evaluated):
    found = lineages.lineage(evaluated.folder)
    manifest = json.loads((evaluated.folder.data / "manifest.json").read_text("utf8"))
    assert {split: each["rows"] for split, each in found["splits"].items()} == {
        split: each["rows"] for split, each in manifest["splits"].items()
    }
    assert len({each["digest"] for each in found["splits"].values()}) == 3
    assert found["code"] == lineages.code_version()
    assert found["versions"] == {"tensorflow": "2.21.0"}
    assert found["epochs"] == 3
    assert json.loads(json.dumps(found)) == found
