"""What the schema refuses, in the words of the settings."""

from typing import Any

import pytest

from conf.documents import Entry
from conf.mistakes import Mistakes, Place, dotted
from conf.schema import Settings
from conf.validation import fields, refusals, validate

GOOD: dict[str, Any] = {
    "name": "words",
    "task": "labelling",
    "data": {
        "path": "words.parquet",
        "inputs": [{"column": "frames"}],
        "target": {"column": "labels"},
        "split": {"column": "fold", "valid": [1], "test": [0]},
    },
}


def entry(value: Any) -> Entry:
    """Without a file: every value at one place."""
    if isinstance(value, dict):
        value = {name: entry(inner) for name, inner in value.items()}
    elif isinstance(value, list):
        value = [entry(inner) for inner in value]
    return Entry(value, Place(0, 0, "here"))


def changed(key: str, value: Any) -> dict[str, Any]:
    """The good settings with one key set."""
    settings = {**GOOD, "data": dict(GOOD["data"])}
    node = settings
    *sections, last = key.split(".")
    for section in sections:
        node[section] = dict(node.get(section, {}))
        node = node[section]
    node[last] = value
    return settings


def said(key: str, value: Any) -> list[str]:
    mistakes = Mistakes()
    assert validate(entry(changed(key, value)), mistakes) is None
    return [str(problem).removeprefix("here: ") for problem in mistakes.problems()]


def test_good_settings_come_back_without_a_mistake() -> None:
    mistakes = Mistakes()
    settings = validate(entry(GOOD), mistakes)
    assert isinstance(settings, Settings)
    assert settings.data.split.test == (0,)
    assert not mistakes.found


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epochs", 0, "train.epochs: received 0, expected at least 1"),
        ("train.epochs", 3.0, "train.epochs: received 3.0, expected a whole number"),
        ("train.epochs", "3", "train.epochs: received '3', expected a whole number (write 3 without quotes)"),
        ("train.epochs", True, "train.epochs: received true, expected a whole number"),
        ("train.epochs", None, "train.epochs: received null, expected a whole number"),
        ("train.learning_rate", float("nan"), "train.learning_rate: received .nan, expected a finite number"),
        (
            "train.learning_rate",
            float("-inf"),
            "train.learning_rate: received -.inf, expected a finite number",
        ),
        ("train.learning_rate", 0, "train.learning_rate: received 0, expected more than 0"),
        (
            "train.early_stopping.patience",
            0,
            "train.early_stopping.patience: received 0, expected at least 1",
        ),
        ("gate.confidence", 1, "gate.confidence: received 1, expected less than 1"),
        ("gate.floors", {"accuracy": 2}, "gate.floors.accuracy: received 2, expected at most 1"),
        ("gate.floors", {"loss": 1}, "gate.floors.loss: loss is better when it is smaller"),
        ("gate.ceilings", {"loss": -1}, "gate.ceilings.loss: received -1, expected at least 0"),
        ("gate.ceilings", {"accuracy": 1}, "gate.ceilings.accuracy: accuracy is better when it is larger"),
        ("gate.ceilings", {"los": 1}, "gate.ceilings.los: received 'los', expected 'loss' or 'ece' (did you"),
        ("gate.slices", {"length": 0.8}, "gate.slices.length: received 0.8, expected a mapping"),
        (
            "gate.slices",
            {"speaker = a": {"accuracy": 2}},
            "gate.slices.speaker = a.accuracy: received 2, expected at most 1",
        ),
        ("gate.slices", {"length": {"ece": 1}}, "gate.slices.length.ece: ece is better when it is smaller"),
        ("gate.slices", {"": {"accuracy": 1}}, "gate.slices.: received '', expected some text"),
        ("gate.examples", 2, "gate.examples: received 2, expected at most 1"),
        ("gate.max_size_mb", 0, "gate.max_size_mb: received 0, expected more than 0"),
        ("gate.max_latency_ms", -1, "gate.max_latency_ms: received -1, expected more than 0"),
        ("gate.floors", {"acuracy": 1}, "gate.floors.acuracy: received 'acuracy', expected 'accuracy'"),
        ("model.unroll", "yes", "model.unroll: received 'yes', expected true or false (write true;"),
        ("model.unroll", "NO", "model.unroll: received 'NO', expected true or false (write false;"),
        ("model.crf", 1, "model.crf: received 1, expected true or false"),
        ("model.encoder.shape", [16], "model.encoder.shape"),
        ("model.front", {"widths": [3]}, "model.front.filters: is missing"),
        (
            "train.class_weights",
            "blanced",
            "train.class_weights: received 'blanced', expected 'none', 'balanced'",
        ),
        ("model", None, "model: received null, expected a mapping"),
        ("model", [1], "model: received a list, expected a mapping"),
        (
            "train.optimizer",
            "adma",
            "train.optimizer: received 'adma', expected 'adam', 'sgd' or 'rmsprop' (did",
        ),
        ("train.nodes", 0, "train.nodes: received 0, expected at least 1"),
        ("train.devices", "gpu:0", "train.devices: received 'gpu:0' (What trains: auto"),
        ("tune", {"trials": 3}, "tune.space: is missing (The settings searched, each by its dotted key"),
        ("tune", {"space": {}}, "tune.space: received a mapping, expected at least one item"),
        ("tune", [3], "tune: received a list, expected a mapping"),
        ("model.encoder", {"units": [8] * 17}, "model.encoder.units: received a list, expected at most 16"),
        ("data.context", ["speaker"], "data.context.0: received 'speaker', expected a mapping"),
        ("data.inputs", [{"column": "x", "kind": "word"}], "data.inputs.0: expected the kind numeric, token"),
        ("data.inputs", [{"column": "x", "indicator": True}], "data.inputs.0.indicator: nothing is imputed"),
        ("data.inputs", [{"column": "t", "kind": "token", "scale": "none"}], "data.inputs.0.scale: there"),
        ("data.layout", "step", "data.id: layout: step needs the column `id`"),
        ("data.order", "t", "data.order: order has an effect only with layout: step"),
        ("data.overlap", 3, "data.overlap: overlap has an effect only with max_length"),
        ("data.format", "xml", "data.format: received 'xml'"),
        ("data.split", {"by": "group", "valid": 0.1, "test": 0.1}, "data.split.column: by: group needs"),
        ("data.split", {"by": "time", "column": "at", "valid": "2024"}, "data.split.test: is missing"),
        ("data.inputs", [], "data.inputs: received a list, expected at least one item"),
        ("data.inputs", {"column": "x"}, "data.inputs: received a mapping, expected a list"),
        ("data.path", "", "data.path: received '', expected some text"),
        ("data.path", 5, "data.path: received 5, expected text"),
        ("data.path", ["a", 5], "data.path.1: received 5, expected text"),
        ("data.split", {"valid": 0.1}, "data.split: expected a mapping with `column` or `by`"),
        (
            "data.split.valid",
            [2.5],
            "data.split.valid.0: received 2.5, expected text or a whole number or true or false",
        ),
        ("register.alias", "v12", "register.alias: MLflow keeps 'v12' for itself"),
    ],
)
def test_a_refused_value_says_what_was_received_and_expected(key: str, value: Any, message: str) -> None:
    lines = said(key, value)
    assert len(lines) == 1
    assert lines[0].startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "at", "message", "hint"),
    [
        ("model", {"residual": True}, "residual", "has no effect with one layer", "Set layers to 2 or more."),
        (
            "model",
            {"dropout": {"context": 0.3}},
            "dropout.context",
            "head would read nothing",
            "Set skip: true.",
        ),
        ("model", {"encoder": {}}, "encoder", "there is nothing in it", "Give units, or shape and filters."),
        (
            "model",
            {"encoder": {"shape": [4, 4]}},
            "encoder.shape",
            "shape and filters go together",
            "Give both",
        ),
        (
            "model",
            {"encoder": {"filters": [8], "units": [8]}},
            "encoder.filters",
            "shape and filters go together",
            "such as `shape: [16, 8]` and `filters: [32, 64]`",
        ),
        (
            "model",
            {"front": {"filters": [8, 8], "widths": [3]}},
            "front.widths",
            "2 filters, 1 widths",
            "Give one each.",
        ),
        (
            "model",
            {"branch": {"filters": [8], "widths": [3]}},
            "branch",
            "a branch is for classification",
            "A labeller reads `front` and `skip`.",
        ),
        (
            "model",
            {"constrained": True},
            "constrained",
            "without a tag scheme there are no constraints",
            "Set data.target.scheme to BIO or BIOES.",
        ),
        (
            "gate",
            {"better_on": "roc_auc"},
            "better_on",
            "roc_auc is for classification",
            "A labeller has accuracy or macro_f1.",
        ),
        (
            "gate",
            {"better_on": "pr_auc"},
            "better_on",
            "pr_auc is for classification",
            "A labeller has accuracy or macro_f1.",
        ),
        ("train", {"batch_steps": 500, "batch_size": 8}, "batch_steps", "in place of batch_size", "Give one"),
        (
            "train",
            {"plateau": {"patience": 3}},
            "plateau",
            "plateau has no effect with schedule constant",
            "Set schedule: plateau.",
        ),
        (
            "train",
            {"schedule": "onecycle", "warmup_steps": 10},
            "warmup_steps",
            "onecycle has its own way up",
            "Leave warmup_steps out.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named_with_a_way_out(
    key: str, value: Any, at: str, message: str, hint: str
) -> None:
    mistakes = Mistakes()
    assert validate(entry(changed(key, value)), mistakes) is None
    (problem,) = mistakes.problems()
    assert problem.key == f"{key}.{at}"
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bidirectional", True),
        ("front", {"filters": [8], "widths": [3]}),
        ("crf", True),
        ("unroll", True),
    ],
)
def test_what_needs_whole_sequences_is_named_beside_truncate(name: str, value: Any) -> None:
    mistakes = Mistakes()
    settings = {**GOOD, "model": {name: value}, "train": {"truncate": 50}}
    assert validate(entry(settings), mistakes) is None
    (problem,) = mistakes.problems()
    assert (problem.key, problem.message) == ("train.truncate", f"model.{name} needs whole sequences")
    assert f"Leave out {name}" in problem.hint
    assert "data.max_length" in problem.hint


def test_stretches_are_for_labellers_and_steps_of_their_own() -> None:
    mistakes = Mistakes()
    validate(entry({**GOOD, "task": "classification", "train": {"truncate": 50}}), mistakes)
    validate(entry({**GOOD, "train": {"truncate": 50, "accumulate": 2}}), mistakes)
    assert {problem.key: problem.message for problem in mistakes.problems()} == {
        "train.truncate": "truncate is for labelling",
        "train.accumulate": "with truncate each stretch is a step of its own",
    }


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"unroll": True}, {}, "model.unroll has a graph for each padded length, and a call runs one graph"),
        ({}, {"truncate": 50}, "with truncate each stretch is a call of its own"),
    ],
)
def test_several_steps_per_call_need_one_graph_for_all(
    model: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    for asked, wrong in (({}, False), ({"steps_per_call": 1}, False), ({"steps_per_call": 4}, True)):
        mistakes = Mistakes()
        settings = {**GOOD, "model": model, "train": {**train, **asked}}
        assert (validate(entry(settings), mistakes) is None) == wrong
        found = {problem.key: problem.message for problem in mistakes.problems()}
        assert found == ({"train.steps_per_call": message} if wrong else {})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"class_weights": "balanced"}, "a CRF has no loss of single steps to weigh"),
        ({"class_weights": {"O": 0.5}}, "a CRF has no loss of single steps to weigh"),
        ({"label_smoothing": 0.1}, "a CRF has no loss of single steps to smooth"),
    ],
)
def test_the_loss_of_a_crf_is_that_of_whole_sequences(train: dict[str, Any], message: str) -> None:
    mistakes = Mistakes()
    assert validate(entry({**GOOD, "model": {"crf": True}, "train": train}), mistakes) is None
    (problem,) = mistakes.problems()
    assert (problem.key, problem.message) == (f"train.{next(iter(train))}", message)


def test_the_probabilities_of_a_crf_have_no_temperature() -> None:
    mistakes = Mistakes()
    settings = {**GOOD, "model": {"crf": True}, "train": {"temperature_scaling": True}}
    assert validate(entry(settings), mistakes) is None
    (problem,) = mistakes.problems()
    assert problem.key == "train.temperature_scaling"
    assert "cannot be scaled afterwards" in problem.message
    assert "Leave temperature_scaling out" in problem.hint


def test_a_weight_that_is_none_is_named_by_its_label() -> None:
    lines = said("train.class_weights", {"a": -1, "b": 2})
    assert "train.class_weights.a: received -1, expected more than 0" in lines
    assert not any(line.startswith("train.class_weights.b") for line in lines)


@pytest.mark.parametrize("name", ["crf", "constrained", "skip"])
def test_what_a_classifier_cannot_have_is_named(name: str) -> None:
    mistakes = Mistakes()
    assert validate(entry({**GOOD, "task": "classification", "model": {name: True}}), mistakes) is None
    (problem,) = mistakes.problems()
    assert (problem.key, problem.message) == (f"model.{name}", f"{name} is for labelling")
    assert problem.hint == f"Leave {name} out."


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.learning_rat", "train.learning_rate"),
        ("train.lr", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("epochs", "train.epochs"),
        ("train.units", "model.units"),
        ("model.batch_size", "train.batch_size"),
        ("data.valid", "data.split.valid"),
        ("patience", "train.early_stopping.patience"),
        ("seed", "train.seed"),
        ("train.early_stopping.lr", "train.learning_rate"),
        ("path", "data.path"),
        ("registration", "register"),
    ],
)
def test_an_unknown_key_gets_the_one_meant_also_a_level_off(key: str, meant: str) -> None:
    (line,) = said(key, {} if key == "registration" else 1)
    assert line == f"{key}: there is no such setting (did you mean {meant}?)"


def test_a_far_key_of_the_same_name_is_not_suggested() -> None:
    (line,) = said("data.target.name", "x")
    assert line == "data.target.name: there is no such setting (known here: column, scheme)"


def test_dots_in_a_key_are_explained() -> None:
    mistakes = Mistakes()
    validate(entry({**GOOD, "train.lr": 1}), mistakes)
    (problem,) = mistakes.problems()
    assert problem.hint == "a dot joins keys in --set only; here nest train.learning_rate"


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        (
            {"units": {"int": [1, 2]}},
            "model.units: there is no such setting (write the key with dots, in one line: model.units)",
        ),
        ({"unifrom": [1, 2]}, "model.unifrom: there is no such setting (did you mean uniform?)"),
        ({"zebra": 1}, "model.zebra: there is no such setting (known here: choice, uniform, loguniform, int"),
        ({"int": [1]}, "model.int.1: is missing (A whole number from the first to the second"),
        ([1, 2], "model: received a list, expected a mapping (The settings searched"),
    ],
)
def test_a_search_that_is_written_wrongly_says_how_it_is_right(dimension: Any, message: str) -> None:
    (line,) = said("tune", {"space": {"model": dimension}})
    assert line.startswith(f"tune.space.{message}")


def test_a_mistake_about_a_searched_key_is_at_its_line() -> None:
    mistakes = Mistakes()
    root = entry(changed("tune", {"search": "grid", "space": {"train.learning_rate": {"uniform": [0.1, 1]}}}))
    root.value["tune"].value["space"].value["train.learning_rate"].place = Place(0, 7, "here")
    assert validate(root, mistakes) is None
    (problem,) = mistakes.problems()
    assert (problem.location, problem.key) == ("here:7", "tune.space.train.learning_rate")


@pytest.mark.parametrize(
    ("key", "value", "messages"),
    [
        ("train.epochs", 3, []),
        ("train.epochs", 0, ["received 0, expected at least 1"]),
        ("train.epochs", "x", ["received 'x', expected a whole number"]),
        ("model.front", {"filters": [8]}, ["is missing"]),
        ("model.front", {"filters": [8], "widths": [3, 3]}, ["1 filters, 2 widths"]),
        # At odds with other settings only: there is one layer, and no schedule that would go down.
        ("model.residual", True, []),
        ("train.plateau", {"patience": 3}, []),
        ("train", {"momentum": 0.5}, []),
        ("train", {"momentum": 1.5}, ["received 1.5, expected less than 1"]),
    ],
)
def test_a_value_is_refused_alone_only_for_what_is_wrong_with_it(
    key: str, value: Any, messages: list[str]
) -> None:
    found = refusals(changed(key, value), tuple(key.split(".")))
    assert [each.message for each in found] == messages
    assert all(dotted(each.key).startswith(key) for each in found)


def test_a_missing_setting_comes_with_its_sentence() -> None:
    mistakes = Mistakes()
    validate(entry({**GOOD, "data": {"inputs": [{}]}}), mistakes)
    assert {problem.key: problem.message for problem in mistakes.problems()} == dict.fromkeys(
        ("data.path", "data.target", "data.split", "data.inputs.0.column"), "is missing"
    )
    assert all(problem.hint for problem in mistakes.problems())


def test_a_fault_in_one_section_hides_none_in_another() -> None:
    settings = {
        **GOOD,
        "task": "classification",
        "train": {"epochs": 0, "early_stopping": {"metric": "sequence_accuracy"}},
        "gate": {"better_on": "sequence_accuracy", "floors": {"accuracy": 2}},
        "model": {"unis": 3},
    }
    mistakes = Mistakes()
    validate(entry(settings), mistakes)
    assert {"train.epochs", "gate.floors.accuracy", "model.unis"} <= {
        problem.key for problem in mistakes.problems()
    }


def test_a_file_of_something_else_is_refused_in_good_time() -> None:
    mistakes = Mistakes()
    validate(entry({f"key{number}": 1 for number in range(20_000)}), mistakes)
    assert len(mistakes.found) == 500


def test_fields_names_every_key_as_files_do() -> None:
    keys = {key for key, _ in fields()}
    assert {"register.alias", "data.inputs.scale", "data.split.by", "data.split.column"} <= keys
    assert {"train.early_stopping.patience", "tune.space.choice", "tune.space.int"} <= keys
    assert "registration" not in keys
