"""Every setting: its type, default, limits and one sentence.

    Settings
    ├── name, task
    ├── data        DataSettings      what a row is, and which rows train, choose and test
    ├── model       ModelSettings     the network
    ├── train       TrainSettings     how it learns
    ├── tune        TuneSettings      which settings are searched, and how
    ├── evaluate    EvaluateSettings  what is reported
    ├── gate        GateSettings      what a model must reach to be promoted
    └── register    RegisterSettings  under which alias (attribute `registration`)

`conf.load.load` makes a Settings from YAML files. Values are strict: text is never taken for a number.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from conf.sections import (
    AREA_METRICS,
    RANKING_METRICS,
    SMALLER_IS_BETTER,
    SPAN_METRICS,
    AreaMetric,
    Metric,
    Section,
    Seed,
    conflict,
    given,
    listed,
)
from conf.sections import MAX_SEED as MAX_SEED
from conf.spaces import TuneSettings

MAX_FOLDS = 100
MAX_VOCABULARY = 1_000_000


Column = Annotated[str, Field(min_length=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=16_384)]
Span = Annotated[int, Field(ge=1, le=1_001)]
Share = Annotated[float, Field(gt=0, lt=1)]
Instant = Annotated[str | int | float, Field(union_mode="left_to_right")]


def _one_or_many(value: object) -> str:
    return "a list" if isinstance(value, list | tuple) else "one"


def _one_or_by_label(value: object) -> str:
    return "by label" if isinstance(value, dict) else "one"


class NumericInput(Section):
    """One column of numbers, a vector of features at each time step."""

    column: Column = Field(
        description="The column that holds the steps; of tokens, plain text is cut at white space."
    )
    kind: Literal["numeric"] = Field(default="numeric", description="What the column holds.")
    columns: Annotated[tuple[Column, ...], listed(min_length=1)] | None = Field(
        default=None,
        description="With `layout: step`: the columns that make the vector of a step, in this order; `p*` "
        "stands for all that match, in the file's order. `column` is then the input's name.",
    )
    scale: Literal["none", "standard", "minmax", "robust"] = Field(
        default="none",
        description="How each feature is scaled, with statistics of the training rows: not at all, "
        "to mean 0 and deviation 1, to 0..1, or to median 0 and interquartile range 1.",
    )
    impute: Literal["none", "mean", "median", "zero"] = Field(
        default="none",
        description="What stands in for a missing value or NaN: nothing (it is a fault), or the training "
        "rows' mean, their median, or 0.",
    )
    indicator: bool = Field(
        default=False, description="Whether a further feature says, for each feature, that it was missing."
    )

    @model_validator(mode="after")
    def _indicates_something(self) -> Self:
        if self.indicator and self.impute == "none":
            raise conflict("nothing is imputed, so there is nothing to indicate", at="indicator")
        return self


class TokenInput(Section):
    """One column of words or other symbols, one at each time step."""

    column: Column = Field(
        description="The column that holds the steps; of tokens, plain text is cut at white space."
    )
    kind: Literal["token"] = Field(description="What the column holds.")
    min_count: int = Field(
        default=1, ge=1, description="How often a token must stand in the training rows to be known."
    )
    max_size: int = Field(
        default=50_000,
        ge=1,
        le=MAX_VOCABULARY,
        description="How many tokens are known at most; the most frequent ones are.",
    )
    unknown_rate: Rate = Field(
        default=0.01,
        description="The share of the tokens made unknown at random while training; with `characters` a "
        "larger one, such as 0.2, makes the network rely on these for rare tokens.",
    )
    embedding: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="The width of a token's vector; null: that of `vectors`, or 64 without them.",
    )
    vectors: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="A file of vectors that those of the tokens begin as: word2vec or GloVe text, compressed "
        "or not, or .npy with the tokens in a .txt beside it; a path or URL, relative to the settings file "
        "that says so. Its tokens are known too, in the file's order, up to `max_size`.",
    )
    fixed_vectors: bool = Field(
        default=False, description="Whether the vectors of `vectors` stay as they are while training."
    )
    characters: Literal["convolution", "recurrent"] | bool = Field(
        default=False,
        description="Whether the network also reads the characters of each token, and how: with a "
        "convolution (also `true`), or with a recurrence from both ends.",
    )
    character_units: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="How wide what reads the characters is: the filters of the convolution, or the units of "
        "the recurrence in each direction; null: 32 filters or 25 units.",
    )
    lowercase: bool = Field(default=False, description="Whether upper and lower case are the same token.")
    normalise: Literal["none", "NFC", "NFKC"] = Field(
        default="NFC", description="The Unicode form that tokens are brought to."
    )

    @model_validator(mode="after")
    def _fixes_something(self) -> Self:
        if self.fixed_vectors and self.vectors is None:
            raise conflict(
                "there are no vectors to fix", at="fixed_vectors", hint="Name their file in `vectors`."
            )
        return self

    @model_validator(mode="after")
    def _reads_characters(self) -> Self:
        if self.character_units is not None and not self.characters:
            raise conflict(
                "no characters are read",
                at="character_units",
                hint="Set `characters` to convolution or recurrent.",
            )
        return self


class CategoryInput(Section):
    """One column of categories, one at each time step."""

    column: Column = Field(
        description="The column that holds the steps; of tokens, plain text is cut at white space."
    )
    kind: Literal["category"] = Field(description="What the column holds.")
    embedding: int = Field(default=8, ge=1, le=4096, description="The width of a category's learnt vector.")


class NumericContext(Section):
    """One number for the whole sequence, given to the network at every step."""

    column: Column = Field(description="The column that holds one value for each sequence.")
    kind: Literal["numeric"] = Field(default="numeric", description="What the column holds.")
    scale: Literal["none", "standard", "minmax", "robust"] = Field(
        default="none", description="How the number is scaled, with statistics of the training rows."
    )
    impute: Literal["none", "mean", "median", "zero"] = Field(
        default="none", description="What stands in for a missing number, or nothing: then it is a fault."
    )
    indicator: bool = Field(
        default=False, description="Whether a further feature says that the number was missing."
    )


class CategoryContext(Section):
    """One category for the whole sequence, given to the network at every step."""

    column: Column = Field(description="The column that holds one value for each sequence.")
    kind: Literal["category"] = Field(description="What the column holds.")
    embedding: int = Field(default=8, ge=1, le=4096, description="The width of a category's learnt vector.")


def _kind_of(value: object) -> str:
    kind = value.get("kind", "numeric") if isinstance(value, dict) else getattr(value, "kind", "numeric")
    return kind if isinstance(kind, str) else "numeric"


Input = Annotated[
    Annotated[NumericInput, Tag("numeric")]
    | Annotated[TokenInput, Tag("token")]
    | Annotated[CategoryInput, Tag("category")],
    Discriminator(
        _kind_of,
        custom_error_type="conflict",
        custom_error_message="expected the kind numeric, token or category",
    ),
]
Context = Annotated[
    Annotated[NumericContext, Tag("numeric")] | Annotated[CategoryContext, Tag("category")],
    Discriminator(
        _kind_of, custom_error_type="conflict", custom_error_message="expected the kind numeric or category"
    ),
]


class TargetSettings(Section):
    """What the model learns to say."""

    column: Column = Field(
        description="The column of labels: a list per row (labelling) or one (classification)."
    )
    scheme: Literal["none", "BIO", "BIOES"] = Field(
        default="none",
        description="How labels spell spans; none: each label stands alone; BIO, BIOES: as in B-PER I-PER O.",
    )


class ColumnSplit(Section):
    """A column says which rows are held out; all the others train."""

    column: Column = Field(description="The column whose value decides where a row goes.")
    valid: Annotated[
        Annotated[tuple[str | int | bool, ...], listed(min_length=1), Tag("a list")]
        | Annotated[Share, Tag("one")],
        Discriminator(_one_or_many),
    ] = Field(
        description="The values of the rows that choose the best epoch, or the share of the training rows to "
        "take for that.",
    )
    test: Annotated[tuple[str | int | bool, ...], listed(min_length=1)] = Field(
        description="The values of the rows that are held out for the final score."
    )
    seed: Seed = Field(default=0, description="Which rows are taken when `valid` is a share.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        # Compared as text, as the column's values are: 1 and "1" name the same rows.
        both = {str(v) for v in self.test} & {str(v) for v in _values(self.valid)}
        if both:
            raise conflict(
                f"{', '.join(sorted(both))} stands in valid and in test",
                at="valid",
                hint="Each value belongs to one of the two; the others train.",
            )
        return self


class FractionSplit(Section):
    """Shares of the rows are held out."""

    by: Literal["hash", "stratified", "group"] = Field(
        description="hash: by the row's content, in whatever order; group: all rows with one value of a "
        "column together; stratified: in the same proportions for each label, of a labeller for each "
        "sequence's rarest one."
    )
    column: Column | None = Field(
        default=None, description="With `by: group`: the column whose values stay together."
    )
    valid: Share = Field(
        description="The share of the rows that choose the best epoch; with `folds`, of the rows that do not "
        "test."
    )
    test: Share = Field(
        description="The share of the rows that are held out for the final score; with `folds` it has no "
        "effect."
    )
    seed: Seed = Field(default=0, description="Another seed takes other rows.")
    folds: Annotated[int, Field(ge=2, le=MAX_FOLDS)] | None = Field(
        default=None,
        description="Into how many folds of about equal size the rows fall, by: hash or group; null: none. "
        "`recurra run CONF --folds K` sets it and runs each fold in turn.",
    )
    fold: int = Field(default=0, ge=0, lt=MAX_FOLDS, description="The fold that tests, from 0.")

    @model_validator(mode="after")
    def _some_train(self) -> Self:
        if self.folds is None and self.valid + self.test >= 1:
            raise conflict(
                f"valid {self.valid:g} and test {self.test:g} leave nothing to train on",
                at="valid",
                hint="Their sum must be below 1.",
            )
        return self

    @model_validator(mode="after")
    def _column_for_groups(self) -> Self:
        if self.by == "group" and self.column is None:
            raise conflict("by: group needs the column whose values stay together", at="column")
        if self.by != "group" and self.column is not None:
            raise conflict(f"the column has no effect with by: {self.by}", at="column")
        return self

    @model_validator(mode="after")
    def _one_of_the_folds(self) -> Self:
        if self.folds is not None and self.by == "stratified":
            raise conflict(
                "there are no stratified folds", at="folds", hint="Use by: hash, or by: group with a column."
            )
        if self.folds is None and self.fold:
            raise conflict("without folds there is none to choose", at="fold", hint="Say how many `folds`.")
        if self.folds is not None and self.fold >= self.folds:
            raise conflict(
                f"there is no fold {self.fold} of {self.folds}, they count from 0",
                at="fold",
                hint=f"The last one is {self.folds - 1}.",
            )
        return self


class TimeSplit(Section):
    """The latest rows are held out: train before `valid`, choose before `test`, test from then on."""

    by: Literal["time"] = Field(description="time: earlier rows train, later rows are held out.")
    column: Column = Field(description="The column that says when: ISO dates or times, or numbers.")
    valid: Instant = Field(description="The first instant of the rows that choose the best epoch.")
    test: Instant = Field(description="The first instant of the rows held out for the final score.")
    gap: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?\s*(s|m|h|d|w)?$")] = Field(
        default="0",
        description="How long before each of the two instants rows are left out: 12h, 7d, 2w; a plain number "
        "in the column's own unit.",
    )


def _values(valid: object) -> tuple[object, ...]:
    return valid if isinstance(valid, tuple) else ()


def _split_kind(value: object) -> str | None:
    if isinstance(value, ColumnSplit):
        return "split by column"
    if isinstance(value, FractionSplit):
        return "split by share"
    if isinstance(value, TimeSplit):
        return "split by time"
    if not isinstance(value, dict) or not ("column" in value or "by" in value):
        return None
    if "by" not in value:
        return "split by column"
    return "split by time" if value["by"] == "time" else "split by share"


Split = Annotated[
    Annotated[ColumnSplit, Tag("split by column")]
    | Annotated[FractionSplit, Tag("split by share")]
    | Annotated[TimeSplit, Tag("split by time")],
    Discriminator(
        _split_kind,
        custom_error_type="conflict",
        custom_error_message="expected a mapping with `column` or `by`",
    ),
]

Paths = Annotated[
    Annotated[str, Field(min_length=1), Tag("one")]
    | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], listed(min_length=1), Tag("a list")],
    Discriminator(_one_or_many),
]


class DataSettings(Section):
    """What a row is, and which rows train, choose the best epoch, and test."""

    path: Paths = Field(
        description="A file, a folder, a glob, a URL of an object store, or a list of them; relative to the "
        "settings file that says so."
    )
    format: Annotated[
        str,
        Field(pattern=r"^(auto|parquet|arrow|csv|jsonl|conll|ts|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"),
    ] = Field(
        default="auto",
        description="The files' format: parquet, arrow, csv, jsonl, conll, ts, or a reader of your own as "
        "package.module:function; auto: by their names.",
    )
    columns: Annotated[tuple[Column, ...], listed(min_length=1)] | None = Field(
        default=None,
        description="Names of the columns in their order, for CoNLL files and for CSV files without a "
        "header; `_` skips one.",
    )
    layout: Literal["sequence", "step"] = Field(
        default="sequence",
        description="How rows make sequences: one row is one sequence, or one time step of the sequence that "
        "`id` names.",
    )
    order: Column | None = Field(
        default=None, description="With `layout: step`: the column that puts a sequence's steps in order."
    )
    id: Column | None = Field(
        default=None, description="The column that names a row, kept as text; null: rows have no names."
    )
    inputs: Annotated[tuple[Input, ...], listed(min_length=1)] = Field(
        description="The columns that the network reads at each time step."
    )
    context: Annotated[tuple[Context, ...], listed()] = Field(
        default=(), description="Features of the whole sequence, which the network reads at every step."
    )
    target: TargetSettings = Field(description="What the model learns to say.")
    split: Split = Field(description="Which rows train, which choose the best epoch, and which test.")
    max_length: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="Longer sequences are cut into windows of this many steps after the split, and put "
        "together again at prediction; null: they stay whole.",
    )
    overlap: int = Field(
        default=0,
        ge=0,
        le=999_999,
        description="How many steps two neighbouring windows share at prediction, as context for each other.",
    )
    on_bad_row: Literal["fail", "drop"] = Field(
        default="fail",
        description="fail: stop and list the bad rows; drop: keep them aside with the reason and go on.",
    )

    @model_validator(mode="after")
    def _columns_apart(self) -> Self:
        roles = {self.target.column: "the target"}
        if self.id is not None:
            if self.id in roles:
                raise conflict(f"the column {self.id!r} is already the target", at="id")
            roles[self.id] = "the id"
        for section, name in (("inputs", "an input"), ("context", "context")):
            for index, column in enumerate(each.column for each in getattr(self, section)):
                if column in roles:
                    raise conflict(
                        f"the column {column!r} is already {roles[column]}", at=f"{section}.{index}.column"
                    )
                roles[column] = name
        return self

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        if self.layout == "step":
            for key in ("id", "order"):
                if getattr(self, key) is None:
                    raise conflict(f"layout: step needs the column `{key}`", at=key)
        elif self.order is not None:
            raise conflict("order has an effect only with layout: step", at="order")
        elif any(isinstance(each, NumericInput) and each.columns for each in self.inputs):
            raise conflict("an input's `columns` have an effect only with layout: step", at="inputs")
        return self

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        if self.max_length is None and self.overlap:
            raise conflict("overlap has an effect only with max_length", at="overlap")
        if self.max_length is not None and self.overlap >= self.max_length:
            raise conflict("overlap must be less than max_length", at="overlap")
        return self


class DropoutSettings(Section):
    """Which share of the values is left out at random while training."""

    input: Rate = Field(default=0.0, description="Of each step's features, before the first layer.")
    output: Rate = Field(default=0.0, description="Of each layer's outputs.")
    recurrent: Rate = Field(
        default=0.0,
        description="Of the state passed from step to step; on a GPU this rules out the fast cuDNN kernels.",
    )
    context: Rate = Field(
        default=0.0,
        description="Of sequences, for which a labeller with `skip` reads the step itself and not the "
        "recurrence; so it does not just memorise label sequences.",
    )
    per: Literal["step", "sequence"] = Field(
        default="step",
        description="Whether input and output dropout draw anew at every step, or leave the same values out "
        "at all steps of a sequence.",
    )


class EncoderSettings(Section):
    """What reads each step on its own before the recurrence, with the same weights at every step."""

    units: Annotated[tuple[Width, ...], listed(max_length=16)] = Field(
        default=(), description="The widths of dense layers, one after another."
    )
    shape: Annotated[tuple[Width, Width], listed()] | None = Field(
        default=None,
        description="Height and width of the image that a step is: its numbers row by row; null: no image.",
    )
    filters: Annotated[tuple[Width, ...], listed(max_length=8)] = Field(
        default=(),
        description="How many 3x3 filters each 2-D convolution of the image has; every one halves the image.",
    )
    dropout: Rate = Field(default=0.0, description="Of the outputs of each layer while training.")

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if (self.shape is None) != (not self.filters):
            raise conflict(
                "shape and filters go together",
                at="filters" if self.filters else "shape",
                hint="Give both, such as `shape: [16, 8]` and `filters: [32, 64]`, or neither.",
            )
        if not self.units and not self.filters:
            raise conflict("there is nothing in it", hint="Give units, or shape and filters.")
        return self


class ConvolutionSettings(Section):
    """Convolutions over time, one after another, with as many outputs as steps."""

    filters: Annotated[tuple[Width, ...], listed(min_length=1, max_length=16)] = Field(
        description="How many filters each has."
    )
    widths: Annotated[tuple[Span, ...], listed(min_length=1, max_length=16)] = Field(
        description="How many steps each reads at once."
    )
    norm: Literal["step", "sequence", "channel"] = Field(
        default="step",
        description="What the outputs of each are normalised over: the filters of a step, all steps and "
        "filters of a sequence, or the steps of a filter (channel).",
    )
    dropout: Rate = Field(default=0.0, description="Of the outputs of each while training.")

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.filters) != len(self.widths):
            raise conflict(
                f"{len(self.filters)} filters, {len(self.widths)} widths", at="widths", hint="Give one each."
            )
        return self


class BranchSettings(ConvolutionSettings):
    """Convolutions over time beside the recurrence, and what of their outputs a classifier reads."""

    pool: Literal["mean", "max", "both"] = Field(
        default="mean",
        description="What the head reads of each filter: its mean over time, its largest value, or both.",
    )


class ModelSettings(Section):
    """The network: recurrent layers, what stands before and beside them, and a head."""

    cell: Literal["gru", "lstm", "rnn"] = Field(default="gru", description="The recurrent cell.")
    units: int = Field(
        default=128, ge=1, le=16_384, description="The width of each layer, in each direction."
    )
    layers: int = Field(default=1, ge=1, le=64, description="How many recurrent layers stand on one another.")
    bidirectional: bool = Field(
        default=False, description="Whether each layer also reads the sequence backwards."
    )
    residual: bool = Field(
        default=False, description="Whether each layer above the first adds what it reads to what it says."
    )
    layer_norm: bool = Field(
        default=False, description="Whether the outputs of each layer are normalised at every step."
    )
    unroll: bool = Field(
        default=False,
        description="Whether the loop over time is written out: quicker for short sequences of one length.",
    )
    dropout: DropoutSettings = Field(
        default=DropoutSettings(), description="What is left out at random while training."
    )
    encoder: EncoderSettings | None = Field(
        default=None, description="What reads each step on its own before the recurrence."
    )
    skip: bool = Field(
        default=False,
        description="Whether the head of a labeller also reads the step itself, past the recurrence.",
    )
    front: ConvolutionSettings | None = Field(
        default=None, description="Convolutions over time before the recurrence."
    )
    branch: BranchSettings | None = Field(
        default=None,
        description="Convolutions over time beside the recurrence, for a classifier; what they found over "
        "all time joins what the readout says.",
    )
    readout: Literal["last", "mean", "max", "attention"] = Field(
        default="last",
        description="What a classifier reads: the last step's output, the mean or maximum of all, or their "
        "mean under learnt weights.",
    )
    context: Literal["steps", "state", "readout"] = Field(
        default="steps",
        description="Where the context (`data.context`) goes in: with every step, into the first state of "
        "each layer, or past the recurrence to the head.",
    )
    crf: bool = Field(
        default=False,
        description="Whether a labeller scores label sequences as a whole: a linear-chain conditional random "
        "field.",
    )
    constrained: bool = Field(
        default=False,
        description="Whether a labeller says only label sequences that the tag scheme (`data.target.scheme`) "
        "allows.",
    )

    own: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description="A Keras model of your own in place of the recurrent layers: the function that makes it, "
        "as package.module:function.",
    )

    @model_validator(mode="after")
    def _has_effect(self, info: ValidationInfo) -> Self:
        if self.own is not None:
            replaced = ("cell", "units", "layers", "bidirectional", "residual", "layer_norm", "unroll")
            if found := next((name for name in replaced if given(self, name, info)), None):
                raise conflict(f"{found} has no effect beside own", at=found, hint=f"Leave {found} out.")
            if self.context == "state":
                raise conflict("own has no first state", at="context", hint="Use readout or steps.")
            if self.dropout.recurrent:
                raise conflict("own has no recurrent dropout", at="dropout.recurrent")
        if self.residual and self.layers == 1:
            raise conflict(
                "residual has no effect with one layer", at="residual", hint="Set layers to 2 or more."
            )
        if self.dropout.context and not self.skip:
            raise conflict(
                "without skip the head would read nothing", at="dropout.context", hint="Set skip: true."
            )
        return self


class EarlyStopping(Section):
    """What is watched on the validation rows."""

    metric: Metric = Field(default="loss", description="Picks the best epoch, whose weights are kept.")
    patience: int | None = Field(
        default=3,
        ge=1,
        le=1_000_000,
        description="Epochs without a better value before training stops; null: never.",
    )


def _stopping(value: object) -> object:
    return EarlyStopping(patience=None) if value is None else value


class PlateauSettings(Section):
    """When and how far the learning rate goes down once validation no longer gains."""

    patience: int = Field(
        default=2, ge=1, le=1_000_000, description="Epochs without a better value before it goes down."
    )
    factor: Share = Field(default=0.5, description="What it is multiplied with.")


class TrainSettings(Section):
    """How the network learns."""

    epochs: int = Field(
        default=10, ge=1, le=1_000_000, description="How often training passes over all training rows."
    )
    batch_size: int = Field(
        default=64, ge=1, le=1_000_000, description="Sequences per batch, over all devices together."
    )
    batch_steps: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Time steps per batch, padding and all devices together, in place of `batch_size`: short "
        "sequences then go many at a time, long ones few; null: batch_size counts.",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Batches whose gradients are summed for one step: a large batch in little memory.",
    )
    steps_per_call: int = Field(
        default=16,
        ge=1,
        le=1_000,
        description="Steps of the optimizer that are computed in one call of the graph (Keras's "
        "steps_per_execution), fewer where so many would take more than half a second; the result is the "
        "same. With model.unroll or truncate it is always 1.",
    )
    truncate: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Steps after which back-propagation is cut: a labeller's sequences are read in stretches "
        "of so many, each a step of the optimizer, and the state is carried over; null: never.",
    )
    optimizer: Literal["adam", "sgd", "rmsprop"] = Field(
        default="adam", description="The rule that moves the weights."
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, le=100, description="The size of a move, at its largest."
    )
    momentum: Rate = Field(
        default=0.0, description="What a move keeps of the one before; for sgd and rmsprop."
    )
    schedule: Literal["constant", "cosine", "exponential", "onecycle", "plateau"] = Field(
        default="constant",
        description="How the learning rate moves over the whole training: not at all, down along a cosine or "
        "an exponential, up and then down (onecycle), or down whenever validation no longer gains (plateau).",
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="Steps over which the learning rate first rises from zero.",
    )
    clip_norm: float | None = Field(
        default=1.0,
        gt=0,
        description="The longest gradient, over all weights together; longer ones are cut; null: none are.",
    )
    loss_mean: Literal["step", "sequence"] = Field(
        default="step",
        description="What weighs the same in a labeller's loss: each real time step, or each sequence.",
    )
    class_weights: Annotated[
        Annotated[Literal["none", "balanced", "effective"], Tag("one")]
        | Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)]], Tag("by label")],
        Discriminator(_one_or_by_label),
    ] = Field(
        default="none",
        description="What each label counts in the loss: all the same, in inverse proportion to how often it "
        "stands in the training rows (balanced), to its effective number there, or as given by label; "
        "labels not named count 1.",
    )
    label_smoothing: Rate = Field(
        default=0.0, description="What share of a right label is spread over all labels in the loss."
    )
    ema: Share | None = Field(
        default=None,
        description="The decay of a moving average of the weights, such as 0.999; the average is what is "
        "validated, kept and served; null: the weights themselves are.",
    )
    early_stopping: Annotated[
        EarlyStopping, BeforeValidator(_stopping, json_schema_input_type=EarlyStopping | None)
    ] = Field(
        default=EarlyStopping(patience=None),
        description="What picks the best epoch and ends training early; left out or null: the loss picks, "
        "and training runs to the end.",
    )
    plateau: PlateauSettings = Field(
        default=PlateauSettings(), description="When and how far `schedule: plateau` goes down."
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="The numbers that the network computes with while training; weights, sums of losses and "
        "the exported model are float32 in any case.",
    )
    seed: Seed = Field(default=0, description="First weights, order of rows and dropout follow from it.")
    devices: str = Field(
        default="auto",
        pattern=r"^(auto|cpu:[1-9]\d{0,2}|gpu:([1-9]\d{0,2}|all))$",
        description="What trains: auto (the GPUs if there are any), cpu:N, gpu:N or gpu:all.",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=1_000,
        description="How many machines train together, each with `devices`; a batch is shared out over all.",
    )
    checkpoint_seconds: float = Field(
        default=60.0, gt=0, le=86_400, description="Seconds between checkpoints in the middle of an epoch."
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=1_000, description="How many of the latest checkpoints are kept."
    )
    hang_seconds: float | None = Field(
        default=3_600.0,
        ge=1,
        description="Seconds without a step or a validated epoch after which the training process counts as "
        "hung and another one goes on from the last checkpoint; null: never. More than a validation takes.",
    )

    temperature_scaling: bool = Field(
        default=False,
        description="Whether the frozen model's probabilities are scaled by one temperature, fitted on the "
        "validation rows, so that they are as sure as they are right.",
    )

    @model_validator(mode="after")
    def _has_effect(self, info: ValidationInfo) -> Self:
        if self.batch_steps is not None and given(self, "batch_size", info):
            raise conflict(
                "batch_steps stands in place of batch_size", at="batch_steps", hint="Give one of them."
            )
        if self.truncate is not None and self.accumulate > 1:
            raise conflict("with truncate each stretch is a step of its own", at="accumulate")
        if self.truncate is not None and self.steps_per_call > 1 and given(self, "steps_per_call", info):
            raise conflict("with truncate each stretch is a call of its own", at="steps_per_call")
        if self.schedule != "plateau" and self.plateau != PlateauSettings():
            raise conflict(
                f"plateau has no effect with schedule {self.schedule}",
                at="plateau",
                hint="Set schedule: plateau.",
            )
        if self.schedule == "onecycle" and self.warmup_steps:
            raise conflict("onecycle has its own way up", at="warmup_steps", hint="Leave warmup_steps out.")
        if self.optimizer == "adam" and self.momentum:
            raise conflict(
                "momentum has no effect with adam",
                at="momentum",
                hint="Use optimizer sgd or rmsprop, or leave it out.",
            )
        return self


class ColumnSlice(Section):
    """The rows of each value of a column."""

    column: Column = Field(
        description="A column of the data files with one value for each sequence, be it an input or not."
    )
    values: Annotated[tuple[str | int | bool, ...], listed(min_length=1)] | None = Field(
        default=None,
        description="The values that are looked at; null: the 20 most frequent ones and all others together, "
        "or, of a column of numbers with more than 20 of them, five bands of about equal size.",
    )


class LengthSlice(Section):
    """The sequences of a range of lengths."""

    length: Annotated[
        tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)
    ] = Field(description="The least and the largest number of time steps.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.length[0] > self.length[1]:
            raise conflict(f"{self.length[0]} is more than {self.length[1]}", at="length")
        return self


def _slice_kind(value: object) -> str:
    if isinstance(value, LengthSlice) or (isinstance(value, Mapping) and "length" in value):
        return "length"
    return "column" if isinstance(value, ColumnSlice | Mapping) else "bands"


Slice = Annotated[
    Annotated[Literal["length"], Tag("bands")]
    | Annotated[ColumnSlice, Tag("column")]
    | Annotated[LengthSlice, Tag("length")],
    Discriminator(_slice_kind),
]


class EvaluateSettings(Section):
    """What is reported about the model."""

    bootstrap: int = Field(
        default=1_000,
        ge=100,
        le=100_000,
        description="How often sequences are drawn again for the intervals.",
    )
    slices: Annotated[tuple[Slice, ...], listed()] = Field(
        default=("length",),
        description="What the scores are also shown by, beside what they are always shown by: bands of "
        "length, a column, some of its values, or a range of lengths.",
    )
    groups: Column | None = Field(
        default=None,
        description="The column whose equal values mark rows that are not independent, such as those of one "
        "speaker; the intervals then draw whole groups. Null: that of `data.split` where it is by group, "
        "else each sequence counts as independent.",
    )
    examples: Paths | None = Field(
        default=None,
        description="Rows that must come out right: a file, a folder, a glob, a URL or a list of them, in "
        "the format of the data and relative to the settings file; null: none.",
    )


def _has_floor(value: object) -> object:
    if value in SMALLER_IS_BETTER:
        raise conflict(f"{value} is better when it is smaller, so it has no floor")
    return value


FloorMetric = Annotated[
    Literal["accuracy", "macro_f1", "sequence_accuracy", "span_precision", "span_recall", "span_f1"],
    BeforeValidator(_has_floor),
]


def _has_ceiling(value: object) -> object:
    if isinstance(value, str) and value in get_args(Metric) and value not in SMALLER_IS_BETTER:
        raise conflict(f"{value} is better when it is larger, so it has no ceiling")
    return value


CeilingMetric = Annotated[Literal["loss", "ece"], BeforeValidator(_has_ceiling)]
RankingMetric = Literal["roc_auc", "pr_auc", "top_3_accuracy", "top_5_accuracy"]
Floor = Annotated[float, Field(ge=0, le=1)]


class GateSettings(Section):
    """What a model must reach to be promoted."""

    floors: dict[FloorMetric | RankingMetric, Floor] = Field(
        default={},
        description="For each metric named, the least value on the test rows. A classifier may also be held "
        "to roc_auc, pr_auc, top_3_accuracy and top_5_accuracy.",
    )
    ceilings: dict[CeilingMetric, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="For each metric named, the largest value on the test rows."
    )
    slices: dict[Annotated[str, Field(min_length=1)], dict[FloorMetric, Floor]] = Field(
        default={},
        description="Floors on parts of the test rows: for each slice, or family of slices, the least value "
        "of each metric named. A floor on a family holds for each of its slices.",
    )
    examples: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The share of the behaviour examples, where there are any, that must come out right.",
    )
    max_size_mb: float | None = Field(
        default=None,
        gt=0,
        description="The most megabytes that the model may take on disk; null: any number.",
    )
    max_latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="Milliseconds within which 95 of 100 test rows, asked one at a time, must be answered on "
        "the machine that evaluates; null: not measured.",
    )
    better_on: Literal[Metric, AreaMetric] = Field(
        default="accuracy",
        description="The metric on which it must beat the champion; of a classifier also roc_auc or pr_auc.",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="How sure the comparison and the intervals are."
    )

    @property
    def compares_areas(self) -> bool:
        """Whether it needs every probability of the test rows: areas under curves follow from them all."""
        return self.better_on in AREA_METRICS


class RegisterSettings(Section):
    """Where the model goes in the registry."""

    alias: str = Field(
        default="champion",
        pattern=r"^[a-z][a-z0-9_-]{0,62}$",
        description="The alias that a promoted version gets: lower-case letters, digits, `-` and `_`; "
        "MLflow keeps `latest` and `v1`, `v2`, … for itself.",
    )

    @field_validator("alias")
    @classmethod
    def _free(cls, alias: str) -> str:
        if alias == "latest" or (alias[0] == "v" and alias[1:].isdigit()):
            raise conflict(
                f"MLflow keeps {alias!r} for itself", hint="Choose another word, such as champion."
            )
        return alias


Limit = Annotated[float, Field(gt=0, le=100)]


class DriftSettings(Section):
    """From when on new rows count as others than those of training; null: that is not looked at."""

    path: Paths | None = Field(
        default=None,
        description="Fresh files to look at, relative to the settings file; null: the files of the data that "
        "the champion was not made from, or all of them where that is not known.",
    )
    psi: Limit | None = Field(
        default=0.2, description="Population stability index of a numeric feature over about ten bins."
    )
    ks: Limit | None = Field(
        default=0.2, description="Distance of Kolmogorov and Smirnov of a numeric feature."
    )
    labels: Limit | None = Field(default=0.2, description="Population stability index of the labels.")
    lengths: Limit | None = Field(default=0.2, description="Population stability index of the lengths.")
    unknown: Limit | None = Field(
        default=0.05,
        description="How much larger a share of a column's words or categories may be unknown to the model "
        "than on the validation rows.",
    )
    sustained: int = Field(
        default=1, ge=1, le=1_000, description="At how many looks in a row drift must be seen."
    )
    cooldown_days: float = Field(
        default=0.0, ge=0, le=36_500, description="Days after an attempt for which drift is no reason."
    )


class LiveScoreSettings(Section):
    """From when on the champion's score on labelled rows that came after it is a reason to train again."""

    path: Paths | None = Field(
        default=None,
        description="Labelled rows to look at, relative to the settings file; null: those of the data. Rows "
        "that the champion was made from are left out, as far as its run is in the storage.",
    )
    metric: FloorMetric = Field(default="accuracy", description="The score that is looked at.")
    margin: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="How far below the interval of the figure it was registered with the score may fall.",
    )
    min_rows: int = Field(
        default=100, ge=1, le=1_000_000_000, description="New labelled rows below which nothing is said."
    )
    cooldown_days: float = Field(
        default=0.0, ge=0, le=36_500, description="Days after an attempt for which the score is no reason."
    )


class RetrainSettings(Section):
    """What counts as a reason to train again; for `recurra retrain` and `recurra schedule`."""

    min_rows: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000_000,
        description="How many rows more than the champion was made from make a reason; 0: any change of the "
        "files does.",
    )
    settle_seconds: float = Field(
        default=0.0,
        ge=0,
        le=604_800,
        description="Seconds for which no file may have changed before new rows count: somebody may still be "
        "writing them.",
    )
    max_age_days: float | None = Field(
        default=None, gt=0, le=36_500, description="Days after which age alone is a reason; null: it is none."
    )
    drift: DriftSettings | None = Field(
        default=None,
        description="When new rows that differ from those of training are a reason; null: never.",
    )
    live_score: LiveScoreSettings | None = Field(
        default=None,
        description="When the champion's score on new labelled rows is a reason; null: it is not looked at.",
    )


class Settings(Section):
    """Everything about one model, from its rows to its alias."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="The registered model's name: lower-case letters, digits, `-` and `_`, at most 63.",
    )
    task: Literal["classification", "labelling"] = Field(
        description="classification: one label per sequence; labelling: one per time step."
    )
    data: DataSettings = Field(description="What a row is, and which rows train, choose and test.")
    model: ModelSettings = Field(default=ModelSettings(), description="The network.")
    train: TrainSettings = Field(default=TrainSettings(), description="How the network learns.")
    tune: TuneSettings | None = Field(
        default=None, description="A search over settings, all judged on the validation rows; null: none."
    )
    evaluate: EvaluateSettings = Field(
        default=EvaluateSettings(), description="What is reported about the model."
    )
    gate: GateSettings = Field(default=GateSettings(), description="What a model must reach to be promoted.")
    registration: RegisterSettings = Field(
        default=RegisterSettings(), alias="register", description="Where the model goes in the registry."
    )
    retrain: RetrainSettings = Field(
        default=RetrainSettings(), description="What counts as a reason to train again."
    )

    @field_validator("data")
    @classmethod
    def _scheme_needs_steps(cls, data: DataSettings, info: ValidationInfo) -> DataSettings:
        if info.data.get("task") == "classification" and data.target.scheme != "none":
            raise conflict("a tag scheme is for labelling", at="target.scheme")
        return data

    @property
    def groups(self) -> str | None:
        """The column whose equal values mark rows that are not independent; None where there is none."""
        split = self.data.split
        by_group = isinstance(split, FractionSplit) and split.by == "group"
        return self.evaluate.groups or (split.column if by_group else None)

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that evaluation alone reads, each once: those of slices, and that of groups."""
        columns = [each.column for each in self.evaluate.slices if isinstance(each, ColumnSlice)]
        return tuple(dict.fromkeys([*columns, *([self.groups] if self.groups else [])]))

    # Field by field, not over the whole: so a fault elsewhere does not hide these.
    @field_validator("evaluate")
    @classmethod
    def _one_value_each(cls, evaluate: EvaluateSettings, info: ValidationInfo) -> EvaluateSettings:
        data = info.data.get("data")
        if data is None:
            return evaluate
        steps = {each.column for each in data.inputs}
        steps |= {data.target.column} if info.data.get("task") == "labelling" else set()
        named = [
            (f"slices.{i}.column", getattr(each, "column", None)) for i, each in enumerate(evaluate.slices)
        ]
        for at, column in [*named, ("groups", evaluate.groups)]:
            if column in steps:
                raise conflict(
                    f"the column {column!r} has a value for each time step",
                    at=at,
                    hint="Name a column with one value for each sequence.",
                )
        return evaluate

    @field_validator("model", "train", "tune", "gate", "retrain")
    @classmethod
    def _fits_task(cls, section: Any, info: ValidationInfo) -> Any:
        task = info.data.get("task")
        if isinstance(section, ModelSettings) and task == "labelling" and section.readout != "last":
            raise conflict(
                f"a labeller has no readout, so {section.readout!r} has no effect",
                at="readout",
                hint="Leave readout out.",
            )
        if isinstance(section, ModelSettings):
            _check_heads(section, task, info.data.get("data"))
        if isinstance(section, TrainSettings):
            _check_loss(section, info.data.get("model"))
            _check_stretches(section, task, info.data.get("model"))
            _check_calls(section, info.data.get("model"), info)
        if isinstance(section, TrainSettings) and task == "classification":
            _refuse_sequence_accuracy(section.early_stopping.metric, at="early_stopping.metric")
        if isinstance(section, TuneSettings):
            _check_devices(section, info.data.get("train"))
            if task == "classification":
                _refuse_sequence_accuracy(section.metric, at="metric")
        if isinstance(section, GateSettings) and task == "classification":
            _refuse_sequence_accuracy(section.better_on, at="better_on")
            for metric in section.floors:
                _refuse_sequence_accuracy(metric, at=f"floors.{metric}")
            for metric in {metric for floors in section.slices.values() for metric in floors}:
                _refuse_sequence_accuracy(metric, at="slices")
        if isinstance(section, GateSettings) and task == "labelling":
            _refuse_ranking(section.better_on, at="better_on")
            for metric in section.floors:
                _refuse_ranking(metric, at=f"floors.{metric}")
        if isinstance(section, RetrainSettings) and section.live_score and task == "classification":
            _refuse_sequence_accuracy(section.live_score.metric, at="live_score.metric")
        for at, name in _metrics_of(section):
            _check_spans(name, task, info.data.get("data"), at=at)
        return section


def _check_heads(model: ModelSettings, task: str | None, data: DataSettings | None) -> None:
    """What only one of the tasks has."""
    of_labellers = {
        "crf": model.crf,
        "constrained": model.constrained,
        "skip": model.skip,
    }
    for name, value in of_labellers.items():
        if value and task == "classification":
            raise conflict(f"{name} is for labelling", at=name, hint=f"Leave {name} out.")
    if model.branch is not None and task == "labelling":
        raise conflict(
            "a branch is for classification", at="branch", hint="A labeller reads `front` and `skip`."
        )
    if model.context != "steps" and data is not None and not data.context:
        raise conflict(
            "there is no context", at="context", hint="Name columns in data.context, or leave it out."
        )
    if model.constrained and data is not None and data.target.scheme == "none":
        raise conflict(
            "without a tag scheme there are no constraints",
            at="constrained",
            hint="Set data.target.scheme to BIO or BIOES.",
        )


def _check_loss(train: TrainSettings, model: ModelSettings | None) -> None:
    """What a loss over whole label sequences cannot take."""
    if model is not None and model.crf:
        if train.class_weights != "none":
            raise conflict("a CRF has no loss of single steps to weigh", at="class_weights")
        if train.label_smoothing:
            raise conflict("a CRF has no loss of single steps to smooth", at="label_smoothing")
        if train.temperature_scaling:
            raise conflict(
                "the probabilities of a CRF come from whole label sequences and cannot be scaled afterwards",
                at="temperature_scaling",
                hint="Leave temperature_scaling out, or leave out model.crf.",
            )


def _check_stretches(train: TrainSettings, task: str | None, model: ModelSettings | None) -> None:
    """What cannot be read in stretches, one after another."""
    if train.truncate is None:
        return
    if task == "classification":
        raise conflict("truncate is for labelling", at="truncate", hint="Set data.max_length for windows.")
    if model is None:
        return
    whole = {
        "bidirectional": model.bidirectional,
        "front": model.front,
        "crf": model.crf,
        "unroll": model.unroll,
        "context": model.context == "state",
        "own": model.own is not None,
    }
    if found := next((name for name, value in whole.items() if value), None):
        raise conflict(
            f"model.{found} needs whole sequences",
            at="truncate",
            hint=f"Leave out {found}, or set data.max_length for windows in place of truncate.",
        )


def _check_calls(train: TrainSettings, model: ModelSettings | None, info: ValidationInfo) -> None:
    """What needs a call for each step."""
    asked = train.steps_per_call > 1 and given(train, "steps_per_call", info)
    if asked and model is not None and model.unroll:
        raise conflict(
            "model.unroll has a graph for each padded length, and a call runs one graph",
            at="steps_per_call",
            hint="Leave out one of the two.",
        )


def _check_devices(tune: TuneSettings, train: TrainSettings | None) -> None:
    """What trials cannot train on."""
    if train is not None and train.nodes > 1:
        raise conflict(
            f"train.nodes is {train.nodes}, but a trial trains on one machine",
            hint="Set train.nodes to 1, search, and train the settings found on more.",
        )
    devices = train.devices if train is not None else "auto"
    if tune.trials_per_gpu > 1 and devices.startswith("gpu:") and devices != "gpu:1":
        raise conflict(
            f"trials that train on {devices} share none of them",
            at="trials_per_gpu",
            hint="Set train.devices to gpu:1, or leave trials_per_gpu out.",
        )


def _refuse_sequence_accuracy(metric: str | None, *, at: str) -> None:
    if metric == "sequence_accuracy":
        raise conflict(
            "sequence_accuracy is for labelling",
            at=at,
            hint="A classifier's accuracy is already per sequence.",
        )


def _refuse_ranking(metric: str, *, at: str) -> None:
    if metric in RANKING_METRICS:
        raise conflict(f"{metric} is for classification", at=at, hint="A labeller has accuracy or macro_f1.")


def _metrics_of(section: Section) -> list[tuple[str, str]]:
    """Where a section names metrics, and which."""
    if isinstance(section, TrainSettings):
        return [("early_stopping.metric", section.early_stopping.metric)]
    if isinstance(section, TuneSettings):
        return [("metric", section.metric)] if section.metric is not None else []
    if isinstance(section, GateSettings):
        floors: list[tuple[str, str]] = [(f"floors.{metric}", metric) for metric in section.floors]
        slices = [("slices", metric) for each in section.slices.values() for metric in each]
        return [("better_on", section.better_on), *floors, *slices]
    if isinstance(section, RetrainSettings) and section.live_score:
        return [("live_score.metric", section.live_score.metric)]
    return []


def _check_spans(metric: str, task: str | None, data: DataSettings | None, *, at: str) -> None:
    """Spans are there only where labels are tags of a scheme."""
    if metric not in SPAN_METRICS:
        return
    if task == "classification":
        raise conflict(f"{metric} is for labelling", at=at, hint="A classifier has accuracy or macro_f1.")
    if data is not None and data.target.scheme == "none":
        raise conflict(
            f"without a tag scheme there is no {metric}",
            at=at,
            hint="Set data.target.scheme to BIO or BIOES, or name accuracy or macro_f1.",
        )
