"""The settings classes: defaults, limits, and values that do not go together."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from conf.schema import (
    ColumnSlice,
    ColumnSplit,
    ConvolutionSettings,
    DataSettings,
    DropoutSettings,
    EarlyStopping,
    EncoderSettings,
    EvaluateSettings,
    FractionSplit,
    GateSettings,
    LengthSlice,
    ModelSettings,
    NumericInput,
    PlateauSettings,
    RegisterSettings,
    Settings,
    TargetSettings,
    TimeSplit,
    TokenInput,
    TrainSettings,
    TuneSettings,
)
from conf.validation import fields

SPLIT = ColumnSplit(column="fold", valid=(1,), test=(0,))


def data(**changes: Any) -> DataSettings:
    return DataSettings(
        **{
            "path": "words.parquet",
            "id": "id",
            "inputs": (NumericInput(column="frames"),),
            "target": TargetSettings(column="labels"),
            "split": SPLIT,
            **changes,
        }
    )


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"name": "words", "task": "labelling", "data": data(), **changes})


def test_defaults_are_the_plainest_case() -> None:
    plain = settings()
    assert plain.model == ModelSettings(cell="gru", units=128, layers=1, bidirectional=False)
    assert plain.model.dropout == DropoutSettings(input=0.0, output=0.0, recurrent=0.0)
    assert (plain.train.epochs, plain.train.batch_size, plain.train.learning_rate) == (10, 64, 1e-3)
    assert plain.train.early_stopping == EarlyStopping(metric="loss", patience=None)
    assert plain.evaluate == EvaluateSettings(bootstrap=1000, slices=("length",))
    assert plain.gate == GateSettings(floors={}, better_on="accuracy", confidence=0.95)
    assert plain.registration.alias == "champion"


def test_early_stopping_is_always_there_and_stops_only_when_asked() -> None:
    assert TrainSettings.model_validate({"early_stopping": None}).early_stopping.patience is None
    assert TrainSettings.model_validate({"early_stopping": {}}).early_stopping.patience == 3
    assert (
        TrainSettings.model_validate({"early_stopping": {"patience": None}}).early_stopping.patience is None
    )


def test_settings_cannot_be_changed_and_survive_pickling() -> None:
    one = settings()
    with pytest.raises(ValidationError, match="frozen"):
        one.name = "other"  # type: ignore[misc]
    assert isinstance(data(path=["a", "b"]).path, tuple)
    assert pickle.loads(pickle.dumps(one)) == one


def test_every_setting_has_a_sentence() -> None:
    for key, info in fields():
        assert info.description, key
        assert info.description.endswith("."), key


def test_register_is_written_as_in_files() -> None:
    dumped = settings(register={"alias": "candidate"}).model_dump(by_alias=True)
    assert dumped["register"] == {"alias": "candidate"}
    assert "registration" not in dumped


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainSettings(epochs=0),
        lambda: TrainSettings(epochs=1.0),  # type: ignore[arg-type]
        lambda: TrainSettings(batch_size=0),
        lambda: TrainSettings(learning_rate=0.0),
        lambda: TrainSettings(learning_rate=float("inf")),
        lambda: TrainSettings(learning_rate="1e-3"),  # type: ignore[arg-type]
        lambda: TrainSettings(clip_norm=0.0),
        lambda: TrainSettings(momentum=1.0, optimizer="sgd"),
        lambda: TrainSettings(warmup_steps=-1),
        lambda: TrainSettings(seed=-1),
        lambda: TrainSettings(seed=2**32),
        lambda: TrainSettings(checkpoint_seconds=0.0),
        lambda: TrainSettings(keep_checkpoints=0),
        lambda: TrainSettings(hang_seconds=0),
        lambda: EarlyStopping(patience=0),
        lambda: ModelSettings(units=0),
        lambda: ModelSettings(layers=0),
        lambda: ModelSettings(cell="elman"),  # type: ignore[arg-type]
        lambda: ModelSettings(readout="first"),  # type: ignore[arg-type]
        lambda: ModelSettings(bidirectional="yes"),  # type: ignore[arg-type]
        lambda: DropoutSettings(input=1.0),
        lambda: DropoutSettings(recurrent=-0.1),
        lambda: DropoutSettings(context=1.0),
        lambda: DropoutSettings(per="batch"),  # type: ignore[arg-type]
        lambda: EncoderSettings(),
        lambda: EncoderSettings(units=(0,)),
        lambda: EncoderSettings(shape=(16, 8)),
        lambda: EncoderSettings(filters=(8,)),
        lambda: ConvolutionSettings(filters=(), widths=()),
        lambda: ConvolutionSettings(filters=(8, 8), widths=(3,)),
        lambda: ConvolutionSettings(filters=(8,), widths=(0,)),
        lambda: TrainSettings(batch_steps=0),
        lambda: TrainSettings(accumulate=0),
        lambda: TrainSettings(class_weights="inverse"),  # type: ignore[arg-type]
        lambda: TrainSettings(class_weights={"a": 0.0}),
        lambda: TrainSettings(label_smoothing=1.0),
        lambda: TrainSettings(ema=1.0),
        lambda: TrainSettings(precision="float64"),  # type: ignore[arg-type]
        lambda: PlateauSettings(patience=0),
        lambda: PlateauSettings(factor=1.0),
        lambda: EvaluateSettings(bootstrap=99),
        lambda: EvaluateSettings(slices=("width",)),  # type: ignore[arg-type]
        lambda: GateSettings(confidence=0.5),
        lambda: GateSettings(floors={"accuracy": -0.1}),
        lambda: GateSettings(floors={"roc_auc": 1.1}),
        lambda: GateSettings(better_on="top_3_accuracy"),  # type: ignore[arg-type]
        lambda: EarlyStopping(metric="roc_auc"),  # type: ignore[arg-type]
        lambda: GateSettings(slices={"length": {"roc_auc": 0.9}}),  # type: ignore[dict-item]
        lambda: GateSettings(ceilings={"loss": -0.1}),
        lambda: GateSettings(ceilings={"accuracy": 0.1}),  # type: ignore[dict-item]
        lambda: GateSettings(slices={"length": {"accuracy": 2}}),
        lambda: GateSettings(slices={"length": {"loss": 0.5}}),  # type: ignore[dict-item]
        lambda: GateSettings(slices={"": {"accuracy": 0.5}}),
        lambda: GateSettings(examples=1.1),
        lambda: GateSettings(max_size_mb=0),
        lambda: GateSettings(max_latency_ms=0),
        lambda: GateSettings(floors={"ece": 0.1}),  # type: ignore[dict-item]
        lambda: NumericInput(column=""),
        lambda: FractionSplit(by="hash", valid=0.0, test=0.1),
        lambda: FractionSplit(by="hash", valid=0.5, test=0.5),
        lambda: FractionSplit(by="hash", valid=0.1, test=0.1, folds=1),
        lambda: FractionSplit(by="hash", valid=0.1, test=0.1, folds=101),
        lambda: FractionSplit(by="hash", valid=0.1, test=0.1, folds=5, fold=-1),
        lambda: ColumnSplit(column="fold", valid=(), test=(0,)),
        lambda: ColumnSplit(column="fold", valid=1.0, test=(0,)),
        lambda: ColumnSplit(column="fold", valid=(0, 1), test=(0,)),
        lambda: ColumnSplit(column="fold", valid=("0",), test=(0,)),
        lambda: RegisterSettings(alias="latest"),
        lambda: RegisterSettings(alias="v7"),
        lambda: RegisterSettings(alias="Champion"),
        lambda: data(path=[]),
        lambda: data(path=""),
        lambda: data(inputs=()),
        lambda: data(context=("speaker",)),
        lambda: data(max_length=1),
        lambda: data(max_length=10, overlap=10),
        lambda: data(overlap=1),
        lambda: data(layout="step"),
        lambda: data(order="t"),
        lambda: data(format="xml"),
        lambda: TimeSplit(by="time", column="at", valid="2024-01-01", test="2024-02-01", gap="1 month"),
        lambda: FractionSplit(by="group", valid=0.1, test=0.1),
        lambda: FractionSplit(by="hash", column="id", valid=0.1, test=0.1),
        lambda: NumericInput(column="x", indicator=True),
    ],
)
def test_impossible_values_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValidationError):
        make()


@pytest.mark.parametrize("devices", ["auto", "cpu:1", "cpu:16", "gpu:1", "gpu:all"])
def test_devices_that_can_be_asked_for(devices: str) -> None:
    assert TrainSettings(devices=devices).devices == devices


@pytest.mark.parametrize("devices", ["", "cpu", "gpu:0", "cpu:all", "tpu:1", "gpu:-1", "auto\n", "cpu:01"])
def test_devices_that_cannot(devices: str) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(devices=devices)


@pytest.mark.parametrize(
    "name", ["", "Words", "-words", "../words", "a/b", "a:b", "a b", "words\n", "x" * 64]
)
def test_names_that_could_leave_the_run_folder_or_the_registry(name: str) -> None:
    with pytest.raises(ValidationError):
        settings(name=name)


@pytest.mark.parametrize("alias", ["champion", "vip", "v", "v1a", "latest2", "to-be_tried"])
def test_aliases_that_are_free(alias: str) -> None:
    assert RegisterSettings(alias=alias).alias == alias


def test_momentum_without_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="no effect with adam"):
        TrainSettings(momentum=0.9)
    assert TrainSettings(momentum=0.9, optimizer="sgd").momentum == 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ({"column": "labels"},)},
        {"inputs": ({"column": "id"},)},
        {"inputs": ({"column": "a"}, {"column": "a"})},
        {"id": "labels"},
    ],
)
def test_a_column_has_one_role(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is already"):
        data(**changes)


def test_what_only_labellers_have_is_refused_for_a_classifier() -> None:
    for changes in (
        {"gate": {"floors": {"sequence_accuracy": 0.5}}},
        {"gate": {"better_on": "sequence_accuracy"}},
        {"retrain": {"live_score": {"metric": "sequence_accuracy"}}},
        {"gate": {"slices": {"length": {"sequence_accuracy": 0.5}}}},
        {"train": {"early_stopping": {"metric": "sequence_accuracy"}}},
    ):
        assert settings(**changes).task == "labelling"
        with pytest.raises(ValidationError, match="is for labelling"):
            settings(task="classification", **changes)


@pytest.mark.parametrize("metric", ["span_precision", "span_recall", "span_f1"])
def test_scores_of_spans_need_a_labeller_and_a_tag_scheme(metric: str) -> None:
    tags = {"data": data(target=TargetSettings(column="labels", scheme="BIO"))}
    for changes in (
        {"gate": {"floors": {metric: 0.5}}},
        {"gate": {"better_on": metric}},
        {"train": {"early_stopping": {"metric": metric}}},
        {"tune": {**SEARCH, "metric": metric}},
    ):
        assert settings(**tags, **changes).data.target.scheme == "BIO"
        with pytest.raises(ValidationError, match=f"without a tag scheme there is no {metric}"):
            settings(**changes)
        with pytest.raises(ValidationError, match=f"{metric} is for labelling"):
            settings(task="classification", **changes)


def test_the_lenient_f1_decides_nothing() -> None:
    with pytest.raises(ValidationError, match="lenient_span_f1"):
        settings(gate={"better_on": "lenient_span_f1"})


def test_what_only_classifiers_have_is_refused_for_a_labeller() -> None:
    changes = {"model": {"readout": "mean"}}
    assert settings(task="classification", **changes).task == "classification"
    with pytest.raises(ValidationError, match="no readout"):
        settings(**changes)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"crf": True}, "crf is for labelling"),
        ({"skip": True}, "skip is for labelling"),
        ({"constrained": True}, "constrained is for labelling"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_heads_of_labellers_are_refused_for_a_classifier(model: dict[str, Any], said: str) -> None:
    tagged = data(target=TargetSettings(column="labels", scheme="BIO"))
    assert settings(data=tagged, model=model).task == "labelling"
    with pytest.raises(ValidationError, match=said):
        settings(task="classification", model=model)


def test_settings_that_go_together_are_taken() -> None:
    assert TrainSettings(batch_steps=4000).batch_steps == 4000
    assert (
        TrainSettings.model_validate({"schedule": "plateau", "plateau": {"factor": 0.3}}).plateau.patience
        == 2
    )
    assert TrainSettings.model_validate({"class_weights": {"7": 2.0}}).class_weights == {"7": 2.0}
    assert ModelSettings(layers=2, residual=True).residual
    assert ModelSettings(skip=True, dropout=DropoutSettings(context=0.3)).dropout.context == 0.3
    image = EncoderSettings.model_validate({"shape": [16, 8], "filters": [4]})
    assert (image.shape, image.filters, image.units) == ((16, 8), (4,), ())
    crf = {"model": {"crf": True}, "train": {"loss_mean": "sequence", "accumulate": 2}}
    assert settings(**crf).model.crf


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"by": "hash", "folds": 5, "fold": 5}, "there is no fold 5 of 5"),
        ({"by": "hash", "fold": 1}, "without folds there is none to choose"),
        ({"by": "stratified", "folds": 5}, "there are no stratified folds"),
        ({"by": "group", "folds": 5}, "needs the column"),
    ],
)
def test_a_fold_is_one_of_those_there_are(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FractionSplit(valid=0.1, test=0.1, **values)


def test_with_folds_the_share_that_tests_has_no_effect() -> None:
    split = FractionSplit(by="hash", valid=0.5, test=0.5, folds=10, fold=9)
    assert (split.folds, split.fold) == (10, 9)
    plain = FractionSplit(by="hash", valid=0.1, test=0.1)
    assert (plain.folds, plain.fold) == (None, 0)


def test_without_vectors_there_is_nothing_to_fix() -> None:
    with pytest.raises(ValidationError, match="there are no vectors to fix"):
        TokenInput(column="words", kind="token", fixed_vectors=True)
    assert TokenInput(column="words", kind="token", vectors="v.txt", fixed_vectors=True).fixed_vectors


def test_a_width_of_characters_is_refused_where_none_are_read() -> None:
    with pytest.raises(ValidationError, match="no characters are read"):
        TokenInput(column="words", kind="token", character_units=8)
    wide = TokenInput(column="words", kind="token", characters="recurrent", character_units=8)
    assert wide.character_units == 8


SEARCH: dict[str, Any] = {"space": {"model.units": {"choice": [8, 16]}}}


def test_a_classifiers_trials_are_not_judged_by_whole_sequences() -> None:
    search = {**SEARCH, "metric": "sequence_accuracy"}
    assert settings(tune=search).tune == TuneSettings.model_validate(search)
    with pytest.raises(ValidationError, match="sequence_accuracy is for labelling"):
        settings(task="classification", tune=search)


@pytest.mark.parametrize("devices", ["gpu:2", "gpu:all", "gpu:10"])
def test_trials_on_several_gpus_share_none(devices: str) -> None:
    search = {**SEARCH, "trials_per_gpu": 2}
    with pytest.raises(ValidationError, match=f"trials that train on {devices} share none of them"):
        settings(train={"devices": devices}, tune=search)
    assert settings(train={"devices": devices}, tune=SEARCH)


@pytest.mark.parametrize("devices", ["auto", "gpu:1"])
def test_trials_on_one_gpu_may_share_it(devices: str) -> None:
    assert settings(train={"devices": devices}, tune={**SEARCH, "trials_per_gpu": 4}).tune


def test_slices_are_bands_of_length_a_column_or_a_range_of_lengths() -> None:
    asked = {"slices": ["length", {"column": "who", "values": ["a", 1]}, {"length": [1, 5]}], "groups": "who"}
    found = settings(evaluate=asked).evaluate.slices
    assert found == ("length", ColumnSlice(column="who", values=("a", 1)), LengthSlice(length=(1, 5)))
    for wrong in (
        {"slices": [{"length": [5, 1]}]},
        {"slices": [{"length": [0, 1]}]},
        {"slices": [{"by": "x"}]},
    ):
        with pytest.raises(ValidationError):
            settings(evaluate=wrong)


def test_what_evaluation_alone_reads_is_the_columns_of_slices_and_groups() -> None:
    plain = settings()
    assert (plain.kept, plain.groups) == ((), None)
    both = settings(evaluate={"slices": [{"column": "room"}, {"column": "who"}], "groups": "who"})
    assert (both.kept, both.groups) == (("room", "who"), "who")
    by_group = {"by": "group", "column": "who", "valid": 0.1, "test": 0.1}
    split = settings(data=data(split=by_group))
    assert (split.kept, split.groups) == (("who",), "who")


@pytest.mark.parametrize("role", ["slices", "groups"])
def test_a_column_of_steps_tells_no_kinds_of_sequences_apart(role: str) -> None:
    asked = {"groups": "frames"} if role == "groups" else {"slices": [{"column": "labels"}]}
    with pytest.raises(ValidationError, match="has a value for each time step"):
        settings(evaluate=asked)
