import json

import pytest

from components.served import seals


@pytest.fixture
def sealed(tmp_path):
    """A sealed folder of two files."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"\x00\x01")
    (tmp_path / "encoding.json").write_text("{}", "utf8")
    about = {
        "format": seals.FORMAT,
        "name": "words",
        "files": {name: seals.sha256(tmp_path / name) for name in seals.files(tmp_path)},
    }
    about["digest"] = seals.digest(about)
    (tmp_path / seals.ABOUT).write_text(json.dumps(about), "utf8")
    return tmp_path


def test_untouched_files_pass_and_what_was_said_of_them_comes_back(sealed):
    about = seals.verify(sealed)
    assert about["name"] == "words"
    assert sorted(about["files"]) == ["encoding.json", "model/weights"]


def test_code_compiled_on_loading_is_no_change(sealed):
    (sealed / "code" / "__pycache__").mkdir(parents=True)
    (sealed / "code" / "__pycache__" / "x.pyc").write_bytes(b"x")
    seals.verify(sealed)


def test_a_link_that_may_lead_elsewhere_is_refused(sealed):
    elsewhere = sealed.parent / "elsewhere"
    (sealed / "model" / "weights").rename(elsewhere)
    (sealed / "model" / "weights").symlink_to(elsewhere)
    with pytest.raises(seals.CorruptBundle, match="links, which may lead elsewhere: weights"):
        seals.verify(sealed)


@pytest.mark.parametrize("content", [b"\x00\x02", b"\x00", b""])
def test_a_changed_or_cut_file_is_named(sealed, content):
    (sealed / "model" / "weights").write_bytes(content)
    with pytest.raises(seals.CorruptBundle, match="weights was changed after it was written"):
        seals.verify(sealed)


def test_a_missing_file_is_named(sealed):
    (sealed / "model" / "weights").unlink()
    with pytest.raises(seals.CorruptBundle, match="lacks model/weights"):
        seals.verify(sealed)


def test_a_file_slipped_in_is_named(sealed):
    (sealed / "sitecustomize.py").write_text("print('hello')", "utf8")
    with pytest.raises(seals.CorruptBundle, match=r"not written with it: sitecustomize\.py"):
        seals.verify(sealed)


def test_names_and_labels_cannot_be_changed_under_the_seal(sealed):
    about = json.loads((sealed / seals.ABOUT).read_text("utf8"))
    (sealed / seals.ABOUT).write_text(json.dumps({**about, "name": "others"}), "utf8")
    with pytest.raises(seals.CorruptBundle, match=r"bundle\.json was changed"):
        seals.verify(sealed)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"digest": ""}'])
def test_an_unreadable_description_is_named(sealed, text):
    (sealed / seals.ABOUT).write_text(text, "utf8")
    with pytest.raises(seals.CorruptBundle, match=r"bundle\.json cannot be read"):
        seals.verify(sealed)


def test_a_later_format_is_refused(sealed):
    about = json.loads((sealed / seals.ABOUT).read_text("utf8")) | {"format": 99}
    (sealed / seals.ABOUT).write_text(json.dumps(about), "utf8")
    with pytest.raises(seals.CorruptBundle, match="of format 99, expected 1"):
        seals.verify(sealed)
