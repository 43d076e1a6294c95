"""Settings files: stacked, overridden, and every mistake named with its place."""

import glob
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from conf import load as module
from conf.load import SettingsError, json_schema, load, recorded, resolved
from conf.points import as_yaml
from conf.schema import FractionSplit, Settings

GOOD = """\
name: words
task: labelling
data:
  path: words.parquet
  inputs: [{column: frames}]
  target: {column: labels}
  split: {column: fold, valid: [1], test: [0]}
train:
  epochs: 3
"""


def write(folder: Path, text: str, name: str = "conf.yaml") -> Path:
    (folder / name).write_text(text, "utf8")
    return folder / name


def mistakes(path: Path, *overrides: str) -> dict[str, str]:
    """Each problem by its key; the value is the whole line."""
    with pytest.raises(SettingsError) as caught:
        load([path], overrides)
    assert caught.value.exit_code == 2
    return {problem.key: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize("name", ["ocr_letters.yaml", "mnist_rows.yaml"])
def test_the_shipped_settings_load_and_find_their_data(root: Path, name: str) -> None:
    settings = load([root / "conf" / name])
    assert isinstance(settings.data.path, str)
    assert Path(settings.data.path).is_file()


def test_the_contracts_example_loads_word_for_word(tmp_path: Path) -> None:
    settings = load(
        [
            write(
                tmp_path,
                """\
name: ocr-letters
task: labelling
data:
  path: ../examples/ocr_letters/ocr_letters.parquet
  format: auto
  layout: sequence
  id: id
  inputs:
    - {column: frames, kind: numeric, scale: none}
  context: []
  target: {column: labels, scheme: none}
  split: {column: fold, valid: [1], test: [0]}
  max_length: null
  on_bad_row: fail
model: {cell: gru, units: 128, layers: 1, bidirectional: true, unroll: false,
        dropout: {input: 0.0, output: 0.3, recurrent: 0.0}, readout: last, crf: false}
train: {epochs: 15, batch_size: 64, optimizer: adam, learning_rate: 2e-3, schedule: cosine, clip_norm: 1.0,
        early_stopping: {metric: loss, patience: 3}, precision: float32, seed: 0, devices: auto, nodes: 1}
tune: null
evaluate: {bootstrap: 1000, slices: [length]}
gate: {floors: {accuracy: 0.90}, better_on: accuracy, confidence: 0.95}
register: {alias: champion}
""",
            )
        ]
    )
    assert settings.train.learning_rate == 0.002
    assert settings.registration.alias == "champion"


def test_a_relative_path_is_taken_from_the_file_that_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    base = write(tmp_path, GOOD)
    above = write(tmp_path / "deep", "data: {path: [a.parquet, b.parquet]}\n")
    other = write(tmp_path / "deep", "train: {epochs: 9}\n", "other.yaml")
    assert load([base]).data.path == str(tmp_path / "words.parquet")
    assert load([base, other]).data.path == str(tmp_path / "words.parquet")
    assert load([base, above]).data.path == tuple(
        str(tmp_path / "deep" / name) for name in ("a.parquet", "b.parquet")
    )
    assert load([base], ["data.path=c.parquet"]).data.path == str(tmp_path / "here" / "c.parquet")


def test_each_item_of_a_list_of_paths_is_taken_from_whoever_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write(tmp_path, GOOD.replace("words.parquet", "[a.parquet, /b.parquet]"))
    assert load([path], ["data.path.0=c.parquet"]).data.path == (
        str(tmp_path / "here" / "c.parquet"),
        "/b.parquet",
    )


def test_the_home_folder_and_globs_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, GOOD.replace("words.parquet", "[~/a.parquet, 'b/*.parquet']"))
    assert load([path]).data.path == (str(tmp_path / "a.parquet"), str(tmp_path / "b" / "*.parquet"))


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "[draft]"
    folder.mkdir()
    (folder / "a.parquet").touch()
    found = load([write(folder, GOOD.replace("words.parquet", "'*.parquet'"))]).data.path
    assert isinstance(found, str)
    assert glob.glob(found) == [str(folder / "a.parquet")]
    assert load([write(folder, GOOD)]).data.path == str(folder / "words.parquet")


def test_another_way_to_split_takes_the_place_of_the_one_below(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD)
    above = write(tmp_path, "data: {split: {by: hash, valid: 0.2, test: 0.1}}\n", "above.yaml")
    options = ["data.split.valid=0.2", "data.split.by=hash", "data.split.test=0.1"]
    whole = "data.split={by: hash, valid: 0.2, test: 0.1}"
    for settings in (load([base, above]), load([base], options), load([base], [whole])):
        assert settings.data.split == FractionSplit(by="hash", valid=0.2, test=0.1)
    assert load([base, above, base]).data.split == load([base]).data.split


def test_an_option_reaches_into_what_was_null_or_absent(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "  early_stopping: null\n")
    assert load([path]).train.early_stopping.patience is None
    assert load([path], ["train.early_stopping.patience=2"]).train.early_stopping.patience == 2
    assert load([path], ["gate.floors.accuracy=0.5"]).gate.floors == {"accuracy": 0.5}
    assert load([path], ["train.clip_norm="]).train.clip_norm is None


def test_an_option_replaces_a_mapping_and_a_file_merges_into_it(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD + "model: {dropout: {input: 0.1, output: 0.2}}\n")
    above = write(tmp_path, "model: {dropout: {output: 0.3}}\n", "above.yaml")
    merged = load([base, above]).model.dropout
    assert (merged.input, merged.output) == (0.1, 0.3)
    replaced = load([base], ["model.dropout={output: 0.3}"]).model.dropout
    assert (replaced.input, replaced.output) == (0.0, 0.3)


@pytest.mark.parametrize("option", ["train.epochs", "=3", "train.=3", ".epochs=3", ""])
def test_an_option_that_is_no_setting_of_a_key_is_named(tmp_path: Path, option: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load([write(tmp_path, GOOD)], [option])
    (problem,) = caught.value.problems
    assert problem.location == f"--set {option}"
    assert problem.message == "expected section.key=value"


def test_later_files_and_options_have_the_last_word(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD)
    above = write(tmp_path, "train: {batch_size: 8}\ngate: {floors: {accuracy: 0.5}}\n", "above.yaml")
    settings = load([base, above], ["train.epochs=4", "train.epochs=5", "data.inputs.0.scale=minmax"])
    assert (settings.train.epochs, settings.train.batch_size) == (5, 8)
    assert settings.gate.floors == {"accuracy": 0.5}
    assert settings.data.inputs[0].scale == "minmax"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E-3", 0.001), (".5", 0.5), ("1", 1.0), ("0.1", 0.1)]
)
def test_numbers_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    assert load([write(tmp_path, GOOD)], [f"train.learning_rate={text}"]).train.learning_rate == value


def test_words_that_yaml_1_1_took_for_truth_values_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("valid: [1], test: [0]", "valid: [NO, off], test: [SE]"))
    split: Any = load([path]).data.split
    assert (split.valid, split.test) == (("NO", "off"), ("SE",))


def test_what_could_mean_two_things_is_refused(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, GOOD + "  batch_size: 010\n  learning_rate: 12:30\n"))
    assert "conf.yaml:10" in found["train.batch_size"]
    assert "010 could mean two numbers" in found["train.batch_size"]
    assert "received '12:30'" in found["train.learning_rate"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, GOOD + "  epochs: 4\n"))
    assert found == {"train.epochs": f"{tmp_path}/conf.yaml:10: train.epochs: stands twice, first in line 9"}


@pytest.mark.parametrize(
    ("addition", "key", "meant"),
    [
        ("  learning_rat: 0.1\n", "train.learning_rat", "train.learning_rate"),
        ("  lr: 0.1\n", "train.lr", "train.learning_rate"),
        ("  units: 8\n", "train.units", "model.units"),
        ("epochs: 3\n", "epochs", "train.epochs"),
        ("modle: {}\n", "modle", "model"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(tmp_path: Path, addition: str, key: str, meant: str) -> None:
    line = mistakes(write(tmp_path, GOOD + addition))[key]
    assert f"did you mean {meant}?" in line
    assert "conf.yaml:10" in line


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("train.learning_rate=.inf", "train.learning_rate"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("train.learning_rate='1e-3'", "train.learning_rate"),
        ("train.epochs=0", "train.epochs"),
        ("train.epochs=2.5", "train.epochs"),
        ("train.epochs=true", "train.epochs"),
        ("train.devices=gpu:0", "train.devices"),
        ("model.cell=grru", "model.cell"),
        ("model.dropout.output=1.0", "model.dropout.output"),
        ("gate.floors={loss: 0.1}", "gate.floors.loss"),
        ("gate.floors={accuracy: 1.5}", "gate.floors.accuracy"),
        ("register.alias=latest", "register.alias"),
        ("register.alias=v1", "register.alias"),
        ("name=../up", "name"),
        ("data.path=s3://key:secret@bucket/rows.csv", "data.path"),
        ("data.inputs=[]", "data.inputs"),
        ("data.inputs.3.scale=none", "data.inputs.3.scale"),
        ("tune={trials: 3}", "tune.space"),
        ("tune.space={train.epochs: {int: [3, 1]}}", "tune.space.train.epochs.int"),
        ("tune.space.train.epochs={int: [0, 1]}", "tune.space.train.epochs"),
        ("tune.space.train.epoch.int=[1, 3]", "tune.space.train.epoch"),
        ("data.split={valid: 0.1}", "data.split"),
        ("data.split={by: hash, valid: 0.6, test: 0.6}", "data.split.valid"),
    ],
)
def test_an_impossible_value_is_named_with_the_option_that_gave_it(
    tmp_path: Path, option: str, key: str
) -> None:
    found = mistakes(write(tmp_path, GOOD), option)
    assert list(found) == [key]
    assert found[key].startswith(f"--set {option}: {key}:")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:S3CR3T/xyz@bucket/rows.csv",
        "abfs://account:S3CR3T@host/rows.csv",
        "abfs://box@account/rows.csv?account_key=S3CR3T",
        "https://me:S3CR3T@host/rows.csv",
        "https://S3CR3T@host/rows.csv",
        "https://box.blob.core.windows.net/rows.csv?sv=2024&sig=S3CR3T",
        "https://bucket.s3.amazonaws.com/rows.csv?X-Amz-Signature=S3CR3T",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    text = GOOD.replace("words.parquet", url)
    (message,) = mistakes(write(tmp_path, text)).values()
    assert "the URL carries a password" in message and "S3CR3T" not in message


@pytest.mark.parametrize("key", ["data.path", "evaluate.examples", "retrain.drift.path"])
@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("gopher://host/rows.csv", "gopher"),
        ("ftp://host/rows.csv", "ftp"),
        ("jar:file:///rows.zip!/rows.csv", "jar"),
        ("data:text/csv,id", "data"),
    ],
)
def test_a_scheme_that_rows_are_not_read_by_is_refused(
    tmp_path: Path, key: str, path: str, scheme: str
) -> None:
    (message,) = mistakes(write(tmp_path, GOOD), f"{key}={path}").values()
    assert f"{key}: received the scheme '{scheme}', expected a path, file://, s3://" in message


def test_a_name_with_a_colon_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "data:1.csv").touch()
    path = write(tmp_path, GOOD.replace("words.parquet", '"data:1.csv"'))
    assert load([path]).data.path == str(tmp_path / "data:1.csv")


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/a b.csv", "abfs://box@account/a.csv", "gs://b/*.parquet", "https://host/a.csv?sort_key=1"],
)
def test_a_url_is_left_as_it_is(tmp_path: Path, url: str) -> None:
    assert load([write(tmp_path, GOOD.replace("words.parquet", url))]).data.path == url


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("task: labelling", "task: labeling").replace("epochs: 3", "epochs: 0\n  lr: 1")
    with pytest.raises(SettingsError) as caught:
        load([write(tmp_path, text)], ["train.seed=-1"])
    assert [problem.key for problem in caught.value.problems] == [
        "task",
        "train.epochs",
        "train.lr",
        "train.seed",
    ]
    assert "4 mistakes" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty, expected a mapping"),
        ("# nothing\n", "is empty, expected a mapping"),
        ("3\n", "holds a single value, expected a mapping"),
        ("- a\n- b\n", "holds a list, expected a mapping"),
        ("just text\n", "holds text, expected a mapping"),
        ("name: [1, 2\n", "is not YAML"),
        ("name: a\n---\nname: b\n", "second document"),
        ("name: !!python/object:os.system x\n", "tag"),
        ("name: &a words\ntask: *a\n", "anchor"),
        ("name: 'a\tb\x01'\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load([write(tmp_path, text)])
    assert said in str(caught.value)
    assert "conf.yaml" in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "large.yaml").write_text("#" * (module.MAX_BYTES + 1), "utf8")
    for name, said in [
        ("absent.yaml", "No such file"),
        ("latin.yaml", "byte 9 is 0xe9"),
        ("large.yaml", "at most"),
        (".", "Is a directory"),
    ]:
        with pytest.raises(SettingsError, match=said):
            load([tmp_path / name])


def test_a_file_that_cannot_be_read_hides_no_mistake_of_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load([tmp_path / "absent.yaml", write(tmp_path, "a: 1\na: 2\n")], ["b"])
    locations = [problem.location for problem in caught.value.problems]
    assert locations == [str(tmp_path / "absent.yaml"), f"{tmp_path}/conf.yaml:2", "--set b"]


def test_a_nul_in_a_name_is_no_crash() -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(["a\0.yaml"])


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load([tmp_path / "bom.yaml"]).name == "words"


def test_what_is_resolved_loads_again_as_the_same_settings(tmp_path: Path) -> None:
    settings = load([write(tmp_path, GOOD)])
    assert Settings.model_validate(resolved(settings)) == settings


SEARCH = """\
tune:
  scheduler: none
  space:
    train.learning_rate: {loguniform: [1e-4, 1e-2], when: {train.optimizer: sgd}}
    train.optimizer: {choice: [adam, sgd]}
"""


def test_a_search_is_loaded_and_resolved_as_json(tmp_path: Path) -> None:
    settings = load([write(tmp_path, GOOD + SEARCH)])
    assert settings.tune is not None
    assert list(settings.tune.space) == ["train.learning_rate", "train.optimizer"]
    written = json.loads(json.dumps(resolved(settings)))
    assert written["tune"]["trials"] == 20
    assert written["tune"]["space"]["train.optimizer"]["choice"] == ["adam", "sgd"]


def test_null_takes_a_search_away(tmp_path: Path) -> None:
    assert load([write(tmp_path, GOOD + "tune: null\n")]).tune is None
    assert load([write(tmp_path, GOOD + SEARCH)], ["tune=null"]).tune is None


def test_all_mistakes_of_a_search_come_at_once_with_their_lines(tmp_path: Path) -> None:
    keys = (
        "train.lerning_rate: {uniform: [0, 1]}",
        "train.seed: {int: [0, 9]}",
        "model.units: {int: [0, 9]}",
    )
    found = mistakes(write(tmp_path, GOOD + SEARCH + "".join(f"    {key}\n" for key in keys)))
    start = f"{tmp_path}/conf.yaml"
    assert list(found.values()) == [
        f"{start}:15: tune.space.train.lerning_rate: there is no such setting "
        "(did you mean train.learning_rate?)",
        f"{start}:16: tune.space.train.seed: may not be searched: luck is no setting; see tune.seeds",
        f"{start}:17: tune.space.model.units: 0 is refused: received 0, expected at least 1",
    ]


def test_another_kind_of_dimension_takes_the_place_of_the_one_below(tmp_path: Path) -> None:
    base = write(tmp_path, GOOD + SEARCH)
    above = write(tmp_path, "tune: {space: {train.learning_rate: {choice: [1e-3, 1e-2]}}}\n", "above.yaml")
    by_file = load([base, above])
    by_option = load([base], ["tune.space.train.learning_rate.choice=[1e-3, 1e-2]"])
    assert by_file == by_option
    assert by_file.tune is not None
    assert by_file.tune.space["train.learning_rate"].values == (1e-3, 1e-2)
    assert by_file.tune.space["train.learning_rate"].when == {"train.optimizer": ("sgd",)}


def test_options_reach_into_a_search(tmp_path: Path) -> None:
    options = [
        "tune.trials=3",
        "tune.space.data.inputs.0.scale={choice: [none, minmax]}",
        "tune.space.train.learning_rate.when.train.optimizer=adam",
    ]
    tune = load([write(tmp_path, GOOD + SEARCH)], options).tune
    assert tune is not None
    assert tune.trials == 3
    assert tune.space["data.inputs.0.scale"].values == ("none", "minmax")
    assert tune.space["train.learning_rate"].when == {"train.optimizer": ("adam",)}


def test_files_of_vectors_to_choose_among_are_found_as_data_is(tmp_path: Path) -> None:
    tokens = GOOD.replace("inputs: [{column: frames}]", "inputs: [{column: words, kind: token}]")
    key = "data.inputs.0.vectors"
    path = write(tmp_path, tokens + f"tune: {{space: {{{key}: {{choice: [null, v.txt, s3://b/w.txt]}}}}}}\n")
    tune = load([path]).tune
    assert tune is not None
    assert tune.space[key].values == (None, str(tmp_path / "v.txt"), "s3://b/w.txt")
    found = mistakes(path, f"tune.space.{key}.choice=[s3://key:secret@b/v.txt]")
    assert "carries a password" in found[f"tune.space.{key}"]


def test_editors_accept_a_search_and_refuse_two_kinds_at_once(tmp_path: Path) -> None:
    editor = Draft202012Validator(json_schema())
    settings: Any = YAML(typ="safe", pure=True).load(GOOD + SEARCH)
    editor.validate(settings)
    settings["tune"]["space"]["train.optimizer"]["uniform"] = [0, 1]
    assert not editor.is_valid(settings)


def test_the_json_schema_names_the_keys_as_files_do() -> None:
    assert {"name", "task", "data", "register"} <= set(json_schema()["properties"])


def test_importing_the_loader_costs_little_and_loads_nothing_large(root: Path) -> None:
    code = (
        "import sys, time; started = time.process_time(); import conf.load;"
        "print(time.process_time() - started,"
        " {'tensorflow', 'ray', 'mlflow', 'click', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    out = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    assert all(line.endswith("set()\n") for line in out)
    # Of processor time, and the best of three: other work on the machine only adds.
    assert min(float(line.split()[0]) for line in out) < 0.5


def test_a_file_of_vectors_is_found_as_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tokens = "inputs: [{column: frames}, {column: words, kind: token, vectors: v.txt}]"
    path = write(tmp_path, GOOD.replace("inputs: [{column: frames}]", tokens))

    def vectors(*overrides: str) -> Any:
        return resolved(load([path], overrides))["data"]["inputs"][1]["vectors"]

    assert vectors() == str(tmp_path / "v.txt")
    assert vectors("data.inputs.1.vectors=a/w.npy") == str(tmp_path / "here" / "a" / "w.npy")
    assert vectors("data.inputs.1.vectors=s3://bucket/v.txt") == "s3://bucket/v.txt"
    found = mistakes(path, "data.inputs.1.vectors=s3://key:secret@bucket/v.txt")
    assert "carries a password" in found["data.inputs.1.vectors"]


def test_a_misspelt_way_to_read_characters_gets_the_nearest(tmp_path: Path) -> None:
    tokens = "{column: words, kind: token, characters: recurent}"
    said = mistakes(write(tmp_path, GOOD.replace("{column: frames}", tokens)))
    assert "expected 'convolution' or 'recurrent' or true or false" in said["data.inputs.0.characters"]
    assert "did you mean recurrent?" in said["data.inputs.0.characters"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.batch_steps=500", "train.early_stopping={metric: accuracy, patience: null}"],
        ["tune={trials: 3, scheduler: median, space: {train.batch_size: {choice: [16, 32]}}}"],
        ["model.own=package.module:function", "data.split={by: hash, valid: 0.1, test: 0.2}"],
    ],
)
def test_settings_recorded_with_every_default_can_be_loaded_written_and_loaded_again(
    tmp_path: Path, overrides: list[str]
) -> None:
    settings = load([write(tmp_path, GOOD)], overrides)
    path = tmp_path / "recorded.yaml"
    with path.open("w", encoding="utf8") as file:
        YAML(typ="safe", pure=True).dump(resolved(settings), file)
    found = recorded(path)
    assert resolved(found) == resolved(settings)
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(found), "utf8")
    assert resolved(load([again])) == resolved(settings)


def test_recorded_settings_that_cannot_be_are_refused_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train.epochs: received 0"):
        recorded(write(tmp_path, GOOD.replace("epochs: 3", "epochs: 0")))
    with pytest.raises(SettingsError, match="cannot be read"):
        recorded(tmp_path / "gone.yaml")
