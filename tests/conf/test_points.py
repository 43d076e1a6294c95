"""Which keys may be searched, with which values, and the settings at a point."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from conf.documents import plain, read
from conf.load import load
from conf.mistakes import Mistakes, Place, SettingsError
from conf.points import as_yaml, check, describe, with_point
from conf.schema import Settings
from conf.spaces import Dimension
from conf.validation import entries, fields, validate

PLACE = Place(0, 0, "here")
GOOD: dict[str, Any] = {
    "name": "words",
    "task": "labelling",
    "data": {
        "path": "/words.parquet",
        "inputs": [{"column": "frames"}, {"column": "tokens", "kind": "token"}],
        "target": {"column": "labels"},
        "split": {"column": "fold", "valid": [1], "test": [0]},
    },
}
LEARNT = {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}}


def loaded(values: Any) -> Settings:
    """As `conf.load.load` does it, but from values."""
    root = entries(values, PLACE)
    mistakes = Mistakes()
    settings = validate(root, mistakes)
    if settings is not None:
        check(settings, root, mistakes)
    if settings is None or mistakes.found:
        raise SettingsError(mistakes.problems())
    return settings


def searching(space: Any = None, tune: Any = None, **sections: Any) -> Settings:
    return loaded({**GOOD, "tune": {"space": space or LEARNT, **(tune or {})}, **sections})


def said(space: Any, tune: Any = None, **sections: Any) -> list[str]:
    """What is wrong with a space, without what all lines begin with."""
    with pytest.raises(SettingsError) as caught:
        searching(space, tune, **sections)
    lines = [str(problem) for problem in caught.value.problems]
    assert all(line.startswith("here: tune.space.") for line in lines)
    return [line.removeprefix("here: tune.space.") for line in lines]


def refused(point: dict[str, Any], settings: Settings) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        with_point(settings, point)
    assert {problem.location for problem in caught.value.problems} == {"trial"}
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("key", "dimension"),
    [
        ("model.units", {"choice": [64, 128]}),
        ("model.branch", {"choice": [None]}),
        ("model.front", {"choice": [None, {"filters": [16], "widths": [8]}]}),
        ("model", {"choice": [{"units": 8}, {"layers": 2, "residual": True}]}),
        ("model.dropout", {"choice": [{"input": 0.5}, {"output": 0.5}]}),
        ("model.dropout.output", {"uniform": [0.0, 0.5]}),
        ("model.dropout.input", {"quantised": [0.0, 0.5, 0.1]}),
        ("model.dropout.per", {"choice": ["step", "sequence"]}),
        ("train.clip_norm", {"uniform": [0.1, 5]}),
        ("train.batch_size", {"logint": [16, 256]}),
        ("train.early_stopping", {"choice": [None, {"patience": 2}]}),
        ("train.early_stopping.patience", {"int": [1, 5]}),
        ("train.class_weights", {"choice": ["none", "balanced", {"a": 2}]}),
        ("train", {"choice": [{"epochs": 3}, {"epochs": 4, "batch_size": 8}]}),
        ("data.inputs.0.scale", {"choice": ["none", "minmax"]}),
        ("data.inputs.1.min_count", {"int": [1, 3]}),
        ("data.max_length", {"choice": [None, 50]}),
        # Only with another number of layers has it an effect, and a trial may have one.
        ("model.residual", {"choice": [True, False]}),
    ],
)
def test_what_changes_training_may_be_searched(key: str, dimension: Any) -> None:
    tune = searching({key: dimension}).tune
    assert tune is not None
    assert list(tune.space) == [key]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.unit", "there is no such setting (did you mean model.units?)"),
        ("lr", "there is no such setting (did you mean train.learning_rate?)"),
        ("train.epochs.x", "there is no such setting"),
        ("data.inputs.0.scal", "there is no such setting (did you mean data.inputs.scale?)"),
        ("data.inputs.1.scale", "there is no such setting"),
        ("data.inputs.2.scale", "there is no item 2 of the 2 of data.inputs, counted from 0"),
        ("data.inputs.00.scale", "there is no item 00 of the 2"),
        ("data.inputs.scale", "there is no item scale of the 2"),
        ("model.encoder.dropout", "model.encoder is null, so there is nothing in it (Give model.encoder, or"),
        ("train.class_weights.a", "train.class_weights is 'none', so there is nothing in it"),
        ("0", "there is no such setting"),
        ("", "there is no such setting"),
        ("train..epochs", "there is no such setting"),
    ],
)
def test_a_key_that_leads_to_no_setting_is_named_with_the_nearest(key: str, message: str) -> None:
    (line,) = said({key: {"choice": [1]}})
    assert line.startswith(f"{key}: {message}")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            "task data data.path data.format data.layout data.columns data.id data.order data.target "
            "data.target.scheme data.split data.split.valid data.split.valid.0 data.on_bad_row data.inputs "
            "data.inputs.0 data.inputs.0.column data.inputs.0.kind data.inputs.0.columns data.context "
            "data.context.0.column",
            "trials would not be compared on the same rows",
        ),
        (
            "name evaluate evaluate.bootstrap gate gate.floors.accuracy gate.ceilings.loss gate.max_size_mb "
            "gate.better_on register register.alias",
            "has no effect on training",
        ),
        (
            "train.devices train.nodes train.checkpoint_seconds train.keep_checkpoints train.hang_seconds "
            "train.steps_per_call",
            "changes how fast a trial is, not what it learns",
        ),
        ("train.early_stopping.metric", "is what trials are judged by; set tune.metric"),
        ("train.seed", "luck is no setting; see tune.seeds"),
        ("tune tune.trials tune.space", "says how to search"),
    ],
)
def test_what_may_not_be_searched_says_why(keys: str, reason: str) -> None:
    space = {key: {"choice": ["x"]} for key in keys.split()}
    lines = said(space)
    assert [line.partition(":")[0] for line in lines] == list(space)
    assert all("may not be searched: " in line and reason in line for line in lines)


@pytest.mark.parametrize(
    ("key", "choice", "inner"),
    [
        ("train", {"epochs": 3, "seed": 1}, "train.seed"),
        ("train", {"early_stopping": {"metric": "accuracy"}}, "train.early_stopping.metric"),
        ("train.early_stopping", {"metric": "accuracy"}, "train.early_stopping.metric"),
    ],
)
def test_a_choice_cannot_hold_what_may_not_be_searched(key: str, choice: Any, inner: str) -> None:
    (line,) = said({key: {"choice": [{}, choice]}})
    assert line.startswith(f"{key}: {inner} may not be searched: ")


def test_while_training_only_some_settings_can_be_exchanged() -> None:
    exchanged = {
        "train.learning_rate": {"uniform": [0.1, 1]},
        "train.momentum": {"uniform": [0, 0.9]},
        "train.clip_norm": {"uniform": [0.1, 1]},
        "train.label_smoothing": {"uniform": [0, 0.1]},
        "train.batch_size": {"choice": [8, 16]},
        "model.dropout.input": {"uniform": [0, 0.5]},
    }
    assert searching(exchanged, {"scheduler": "pbt"})
    (line,) = said({**exchanged, "model.units": {"choice": [8]}}, {"scheduler": "pbt"})
    assert line.startswith("model.units: may not be searched with scheduler pbt: it changes the network")


def test_of_two_keys_neither_lies_within_the_other() -> None:
    space = {"model.dropout.output": {"uniform": [0, 0.5]}, "model.dropout": {"choice": [{"input": 0.5}]}}
    assert said(space) == [
        "model.dropout.output: lies within model.dropout, which is searched too (Search one of the two.)"
    ]


@pytest.mark.parametrize(
    ("key", "dimension", "messages"),
    [
        ("train.learning_rate", {"uniform": [0, 1]}, ["0.0 is refused: received 0.0, expected more than 0"]),
        (
            "train.momentum",
            {"quantised": [-1, 1, 1]},
            [
                "-1 is refused: received -1, expected at least 0",
                "1 is refused: received 1, expected less than 1",
            ],
        ),
        ("train.momentum", {"quantised": [0.0, 1.05, 0.5]}, ["1.0 is refused: received 1.0, expected less"]),
        ("model.units", {"choice": [8, "16", None]}, ["'16' is refused: ", "null is refused: "]),
        (
            "model.front",
            {"choice": [None, {"filters": [8]}, {"filters": [8], "widths": [3, 3]}]},
            [
                '{"filters": [8]} is refused: widths: is missing',
                '{"filters": [8], "widths": [3, 3]} is refused',
            ],
        ),
        ("model.encoder", {"choice": [{}]}, ["{} is refused: there is nothing in it (Give units, or shape"]),
        ("model.cell", {"uniform": [0, 1]}, ["uniform is for numbers: received 0.0, expected 'gru'"]),
        ("model.crf", {"int": [0, 1]}, ["int is for numbers: received 0, expected true or false"]),
        (
            "model.dropout",
            {"uniform": [0, 0.5]},
            ["uniform is for numbers: received 0.0, expected a mapping"],
        ),
        ("model.units", {"uniform": [8, 64]}, ["uniform draws fractions: received 8.0, expected a whole"]),
        ("model.units", {"quantised": [8.0, 64, 8]}, ["quantised draws fractions: received 8.0, expected a"]),
    ],
)
def test_a_value_that_is_wrong_by_itself_is_refused_in_the_words_of_the_schema(
    key: str, dimension: Any, messages: list[str]
) -> None:
    lines = said({key: dimension})
    assert len(lines) == len(messages)
    assert all(line.startswith(f"{key}: {words}") for line, words in zip(lines, messages, strict=True))


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"train.optimiser": "sgd"}, "when: train.optimiser is not searched (did you mean train.optimizer?)"),
        ({"model.cell": "gru"}, "when: model.cell is not searched (Search model.cell too.)"),
        (
            {"train.optimizer": ["sgd", "sdg"]},
            "when: train.optimizer is never 'sdg' (It is one of 'adam', 'sgd'.)",
        ),
        ({"model.layers": [3, 4]}, "when: model.layers is never 4"),
        ({"train.learning_rate": 0.1}, "when: train.learning_rate is searched by loguniform (Conditions are"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(when: Any, message: str) -> None:
    space = {
        "train.optimizer": {"choice": ["adam", "sgd"]},
        "model.layers": {"int": [1, 3]},
        "train.learning_rate": {"loguniform": [1e-3, 1]},
        "train.momentum": {"uniform": [0, 0.9], "when": when},
    }
    (line,) = said(space)
    assert line.startswith(f"train.momentum: {message}")


def test_conditions_that_lead_back_are_refused() -> None:
    space = {
        "model.crf": {"choice": [True, False], "when": {"model.layers": 1}},
        "model.layers": {"int": [1, 2], "when": {"model.units": 8}},
        "model.units": {"choice": [8], "when": {"model.crf": True}},
        "model.skip": {"choice": [True, False], "when": {"model.crf": True}},
    }
    lines = said(space)
    assert [line.partition(":")[0] for line in lines] == ["model.crf", "model.layers", "model.units"]
    assert all("when: the conditions lead back to itself" in line for line in lines)


def test_a_space_of_thousands_of_mistakes_is_refused_in_good_time() -> None:
    assert len(said({f"key{number}": {"choice": [1]} for number in range(5_000)})) == 500


def test_a_point_changes_its_settings_and_ends_the_search() -> None:
    settings = searching(model={"units": 16, "dropout": {"input": 0.1}}, train={"epochs": 3})
    found = with_point(
        settings,
        {
            "model.units": 64,
            "model.dropout.output": 0.5,
            "train.learning_rate": 0.01,
            "data.inputs.0.scale": "minmax",
            "model.front": {"filters": [8], "widths": [3]},
            "train.class_weights": {"a": 2.0},
        },
    )
    assert found.tune is None
    assert (found.model.units, found.model.dropout.input, found.model.dropout.output) == (64, 0.1, 0.5)
    assert (found.train.epochs, found.train.learning_rate) == (3, 0.01)
    assert [getattr(each, "scale", None) for each in found.data.inputs] == ["minmax", None]
    assert found.model.front is not None
    assert found.model.front.filters == (8,)
    assert found.train.class_weights == {"a": 2.0}
    assert settings == searching(model={"units": 16, "dropout": {"input": 0.1}}, train={"epochs": 3})


def test_only_what_was_given_or_searched_counts_as_given() -> None:
    own = searching(model={"own": "nets:make"})
    assert with_point(own, {"train.batch_steps": 500}).train.batch_steps == 500
    assert refused({"model.units": 8}, own) == {"model.units": "units has no effect beside own"}
    given = searching(train={"batch_size": 8})
    assert "train.batch_steps" in refused({"train.batch_steps": 500}, given)


@pytest.mark.parametrize(
    ("point", "key", "message"),
    [
        ({"train.epochs": 0}, "train.epochs", "received 0, expected at least 1"),
        ({"train.momentum": 0.5}, "train.momentum", "momentum has no effect with adam"),
        (
            {"model.encoder.dropout": 0.5},
            "model.encoder.dropout",
            "model.encoder is null, so there is nothing",
        ),
        ({"model.unit": 8}, "model.unit", "there is no such setting"),
        ({"data.inputs.7.scale": "none"}, "data.inputs.7.scale", "there is no item 7 of the 2"),
        ({"model": {}, "model.units": 8}, "model.units", "lies within model, which is searched too"),
        ({"train": None}, "train", "received null, expected a mapping"),
    ],
)
def test_a_point_that_is_no_settings_is_refused(point: dict[str, Any], key: str, message: str) -> None:
    found = refused(point, searching())
    assert list(found) == [key]
    assert found[key].startswith(message)


@pytest.mark.parametrize("stopping", [{}, {"early_stopping": None}, {"early_stopping": {"patience": 2}}])
def test_trials_stop_as_the_settings_do_and_are_judged_by_the_metric_of_the_search(stopping: Any) -> None:
    settings = searching(tune={"metric": "macro_f1"}, train=stopping)
    found = with_point(settings, {"train.epochs": 4})
    assert found.train.early_stopping.patience == settings.train.early_stopping.patience
    assert found.train.early_stopping.metric == "macro_f1"
    assert loaded_again(found) == found


@pytest.mark.parametrize(
    "point",
    [{"train.early_stopping": None}, {"train.early_stopping": {"patience": 1}}, {"train": {"epochs": 2}}],
)
def test_all_trials_are_judged_alike_whatever_a_choice_replaces(point: dict[str, Any]) -> None:
    settings = searching(train={"early_stopping": {"metric": "accuracy"}})
    assert with_point(settings, point).train.early_stopping.metric == "accuracy"


def test_a_choice_of_how_to_train_keeps_what_may_not_be_searched() -> None:
    settings = searching(train={"seed": 3, "devices": "cpu:2", "epochs": 9, "batch_size": 8})
    found = with_point(settings, {"train": {"epochs": 2}}).train
    assert (found.seed, found.devices) == (3, "cpu:2")
    assert (found.epochs, found.batch_size) == (2, 64)


def test_a_value_whose_condition_does_not_hold_stays_unless_it_is_at_odds_with_the_point() -> None:
    space = {
        "train.optimizer": {"choice": ["adam", "sgd"]},
        "train.momentum": {"uniform": [0, 0.9], "when": {"train.optimizer": "sgd"}},
        "train.epochs": {"int": [1, 9], "when": {"train.optimizer": "sgd"}},
    }
    settings = searching(space, train={"optimizer": "sgd", "momentum": 0.5, "epochs": 3})
    adam = with_point(settings, {"train.optimizer": "adam"}).train
    assert (adam.momentum, adam.epochs) == (0.0, 3)
    assert with_point(settings, {"train.optimizer": "sgd"}).train.momentum == 0.5
    assert "train.momentum" in refused({"train.optimizer": "adam", "train.momentum": 0.5}, settings)


def loaded_again(settings: Settings) -> Settings:
    """From the file that says them."""
    mistakes = Mistakes()
    entry = read(as_yaml(settings), PLACE, mistakes)
    assert entry is not None
    assert not mistakes.found
    return loaded(plain(entry))


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("conf/*.yaml")), ids=lambda path: path.stem
)
def test_every_settings_file_comes_back_from_its_text(path: Path, tmp_path: Path) -> None:
    settings = load([path])
    (tmp_path / "conf.yaml").write_text(as_yaml(settings), "utf8")
    again = load([tmp_path / "conf.yaml"])
    assert again == settings
    assert again.model_dump(exclude_unset=True) == settings.model_dump(exclude_unset=True)


def test_the_text_says_only_what_was_given_in_the_order_of_the_schema() -> None:
    settings = with_point(searching(train={"epochs": 3}), {"train.learning_rate": 2e-5, "model.units": 8})
    text = as_yaml(settings)
    assert re.findall(r"^\w+", text, re.MULTILINE) == ["name", "task", "data", "model", "train"]
    assert text.endswith("model:\n  units: 8\ntrain:\n  epochs: 3\n  learning_rate: 2e-05\n")
    assert loaded_again(settings) == settings


def test_a_search_comes_back_from_its_text() -> None:
    space = {
        "model.front": {"choice": [None, {"filters": [16], "widths": [8]}]},
        "train.optimizer": {"choice": ["adam", "sgd"]},
        "train.momentum": {"quantised": [0.0, 0.9, 0.1], "when": {"train.optimizer": "sgd"}},
        "model.layers": {"int": [1, 3]},
    }
    settings = searching(space, {"seconds": 30})
    assert loaded_again(settings) == settings


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
    | st.sampled_from(
        ["1e-3", "010", "-007", "null", "~", "NO", "true", "0x1f", "1_000", "12:30", ".5", "- a"]
    )
)
def test_any_text_comes_back_from_the_file(text: str) -> None:
    values = {**GOOD, "train": {"class_weights": {text: 2.0}}, "data": {**GOOD["data"], "id": text}}
    assume(text not in ("labels", "frames", "tokens"))
    settings = loaded(values)
    assert loaded_again(settings) == settings


@given(st.floats(1e-300, 100, exclude_min=True))
def test_any_number_comes_back_from_the_file(number: float) -> None:
    settings = loaded({**GOOD, "train": {"learning_rate": number}})
    assert loaded_again(settings).train.learning_rate == number


@pytest.mark.parametrize(
    ("values", "description"),
    [
        ({"choice": [None, [1]]}, {"kind": "choice", "values": [None, [1]]}),
        ({"uniform": [0, 1]}, {"kind": "uniform", "low": 0.0, "high": 1.0}),
        (
            {"quantised": [0, 4, 2], "when": {"a": 1}},
            {"kind": "quantised", "low": 0, "high": 4, "step": 2, "when": {"a": [1]}},
        ),
    ],
)
def test_a_dimension_is_described_by_what_it_has(values: Any, description: Any) -> None:
    found = describe(Dimension.model_validate(values))
    assert json.loads(json.dumps(found)) == description


KEYS = sorted({key.replace("inputs.", "inputs.0.") for key, _ in fields()} | {"model.front.filters.0"})
SCALARS = (
    st.none() | st.booleans() | st.integers(-1, 70) | st.floats(-1, 2) | st.sampled_from(["none", "lstm"])
)
SECTIONS = st.sampled_from(
    [{}, {"units": [8]}, {"filters": [8], "widths": [3]}, {"layers": 2}, {"metric": "loss"}, {"a": 1.0}]
)
ENDS = st.tuples(st.integers(0, 3), st.integers(1, 90)) | st.tuples(st.floats(0, 1), st.floats(0, 1))
DIMENSIONS = st.fixed_dictionaries({"choice": st.lists(SCALARS | SECTIONS, max_size=3)}) | st.builds(
    lambda kind, ends, step: {kind: [*ends, step] if kind == "quantised" else list(ends)},
    st.sampled_from(["uniform", "loguniform", "int", "logint", "quantised"]),
    ENDS,
    st.sampled_from([1, 0.25]),
)
LIKELY: dict[str, Any] = {
    "model": {"choice": [{"units": 8}, {"layers": 2, "residual": True}]},
    "model.layers": {"int": [1, 3]},
    "model.residual": {"choice": [True, False]},
    "model.front": {"choice": [None, {"filters": [16], "widths": [8]}]},
    "model.front.dropout": {"uniform": [0, 0.5]},
    "model.dropout.output": {"quantised": [0.0, 0.5, 0.1]},
    "train.optimizer": {"choice": ["adam", "sgd"]},
    "train.momentum": {"uniform": [0, 0.9]},
    "train.batch_size": {"logint": [8, 64]},
    "train.batch_steps": {"choice": [None, 500]},
    "train.early_stopping": {"choice": [None, {"patience": 2}]},
    "data.inputs.0.indicator": {"choice": [True, False]},
}
CONDITIONS = st.sampled_from(
    [
        {},
        {},
        {"train.optimizer": "sgd"},
        {"model.layers": [2, 3]},
        {"model.residual": False, "model.cell": "x"},
    ]
)
SPACES = st.dictionaries(st.sampled_from(KEYS), DIMENSIONS, min_size=1, max_size=2) | st.dictionaries(
    st.sampled_from(sorted(LIKELY)), CONDITIONS, min_size=1, max_size=5
).map(lambda found: {key: {**LIKELY[key], "when": when} for key, when in found.items()})
BASES: list[dict[str, Any]] = [
    {},
    {"model": {"front": {"filters": [8], "widths": [3]}, "layers": 2, "residual": True}},
    {"train": {"optimizer": "sgd", "momentum": 0.9, "class_weights": {"a": 2}, "schedule": "onecycle"}},
    {"model": {"own": "nets:make"}, "train": {"batch_steps": 900, "early_stopping": None}},
]


def drawn(dimension: Dimension, data: Any) -> Any:
    if dimension.values:
        return data.draw(st.sampled_from(dimension.values))
    low, high = dimension.outermost()
    return data.draw(st.sampled_from([low, high]) | st.just(type(low)((low + high) / 2)))


@profile(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(SPACES, st.sampled_from(BASES), st.sampled_from(["random", "grid"]), st.data())
def test_any_space_loads_or_is_refused_and_so_does_any_of_its_points(
    space: Any, base: dict[str, Any], search: str, data: Any
) -> None:
    try:
        settings = searching(space, {"search": search}, **base)
    except SettingsError as error:
        assert all(problem.key.startswith("tune.space") for problem in error.problems)
        return
    assert settings.tune is not None
    assert loaded_again(settings) == settings
    point = {
        key: drawn(dimension, data)
        for key, dimension in settings.tune.space.items()
        if not dimension.when or data.draw(st.booleans())
    }
    try:
        found = with_point(settings, point)
    except SettingsError as error:
        assert all(problem.location == "trial" for problem in error.problems)
    else:
        assert found.tune is None
        assert loaded_again(found) == found


@given(st.sampled_from(KEYS), DIMENSIONS, st.data())
def test_a_key_that_is_searched_alone_changes_nothing_else(key: str, dimension: Any, data: Any) -> None:
    try:
        settings = searching({key: dimension})
        assert settings.tune is not None
        found = with_point(settings, {key: drawn(settings.tune.space[key], data)})
    except SettingsError:
        return
    sections = set(Settings.model_fields) - {"tune", *key.split(".")[:1]}
    assert all(getattr(found, name) == getattr(settings, name) for name in sections)
