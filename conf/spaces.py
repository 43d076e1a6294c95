"""A search over settings: how it goes about it, and where the values of each setting searched come from.

    tune:                                                  TuneSettings
      trials: 20
      space:
        model.units: {choice: [64, 128]}                   Dimension, under the dotted key of its setting
        train.optimizer: {choice: [adam, sgd]}
        train.learning_rate: {loguniform: [1e-4, 1e-2]}
        train.momentum: {uniform: [0.0, 0.99], when: {train.optimizer: sgd}}

Which keys may be searched, and with which values, is for `conf.points` to say: here is no schema yet.
"""

import json
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from conf.sections import Metric, Section, Seed, conflict, given, listed

# A dimension's attributes by the words of the file.
KINDS = {
    "choice": "choice",
    "uniform": "uniform",
    "loguniform": "loguniform",
    "int": "whole",
    "logint": "logint",
    "quantised": "quantised",
}
MAX_CHOICES = 1_000
FINITE = ("choice", "int", "quantised")
# The settings that only some schedulers ask for.
ASKED_BY = {"grace": ("asha", "median"), "reduction": ("asha", "hyperband"), "interval": ("pbt",)}

Number = Annotated[int | float, Field(union_mode="left_to_right")]
Step = Annotated[
    Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0)], Field(union_mode="left_to_right")
]
Positive = Annotated[float, Field(gt=0)]
Natural = Annotated[int, Field(ge=1)]


def _many(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


Values = Annotated[
    tuple[Any, ...], listed(min_length=1), BeforeValidator(_many, json_schema_input_type=list[Any] | Any)
]


class Dimension(Section):
    """Where the values of one setting come from: one of the six kinds, and `when` it is searched at all."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [kind]} for kind in KINDS]})

    choice: Annotated[tuple[Any, ...], listed(min_length=1, max_length=MAX_CHOICES)] | None = Field(
        default=None,
        description="One of these values, whatever they are: `[64, 128]`, `[null, {units: [32]}]`.",
    )
    uniform: Annotated[tuple[float, float], listed()] | None = Field(
        default=None, description="A number between the two, all as likely: `[0.0, 0.5]`."
    )
    loguniform: Annotated[tuple[Positive, Positive], listed()] | None = Field(
        default=None,
        description="A number between the two, all orders of magnitude as likely: `[1e-4, 1e-2]`.",
    )
    whole: Annotated[tuple[int, int], listed()] | None = Field(
        default=None,
        alias="int",
        description="A whole number from the first to the second, both included: `[1, 3]`.",
    )
    logint: Annotated[tuple[Natural, Natural], listed()] | None = Field(
        default=None,
        description="A whole number from the first to the second, both included, all orders of magnitude as "
        "likely: `[16, 256]`.",
    )
    quantised: Annotated[tuple[Number, Number, Step], listed()] | None = Field(
        default=None,
        description="From the first to the second in steps of the third, both included where a step gets "
        "there: `[0.0, 0.5, 0.1]`; whole numbers stay whole.",
    )
    when: dict[str, Values] = Field(
        default={},
        description="For other searched keys (by choice, int or quantised) the value or values with which "
        "this one is searched, such as `{train.optimizer: [sgd, rmsprop]}`; left out: always.",
    )

    @field_validator("choice")
    @classmethod
    def _all_different(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        seen: set[str] = set()
        for value in values or ():
            if (text := canonical(value)) in seen:
                raise conflict(f"{text} stands twice", hint="Give each value once.")
            seen.add(text)
        return values

    @field_validator("uniform", "loguniform", "whole", "logint", "quantised")
    @classmethod
    def _rising(cls, ends: Any) -> Any:
        if ends is None:
            return None
        low, high, *steps = ends
        if low >= high:
            hint = f"For one value use choice: [{low}]." if low == high else f"Write {high} first."
            raise conflict(f"received {low} and {high}: low must be below high", hint=hint)
        for step in steps:
            if _exact(step) > _exact(high) - _exact(low):
                raise conflict(
                    f"received a step of {step}, larger than from {low} to {high}",
                    hint=f"For the two values use choice: [{low}, {high}].",
                )
        # Of one type, so that whole numbers are drawn only where all three are.
        return ends if all(isinstance(each, int) for each in ends) else tuple(map(float, ends))

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind, name in KINDS.items() if getattr(self, name) is not None]
        if len(given) != 1:
            received = " and ".join(given) or "none of them"
            *others, last = KINDS
            raise conflict(f"received {received}, expected one of {', '.join(others)} or {last}")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind, name in KINDS.items() if getattr(self, name) is not None)

    @property
    def low(self) -> int | float | None:
        return None if self._span is None else self._span[0]

    @property
    def high(self) -> int | float | None:
        return None if self._span is None else self._span[1]

    @property
    def step(self) -> int | float | None:
        return None if self.quantised is None else self.quantised[2]

    @property
    def values(self) -> tuple[Any, ...]:
        """The choices; none of other kinds."""
        return self.choice or ()

    @property
    def _span(self) -> tuple[Any, ...] | None:
        return self.uniform or self.loguniform or self.whole or self.logint or self.quantised

    def outermost(self) -> tuple[Any, ...]:
        """Values that stand for all: every choice, or the least and the largest number."""
        if self.quantised is not None:
            low, high, step = map(_exact, self.quantised)
            last = low + (high - low) // step * step
            return self.quantised[0], type(self.quantised[0])(last)
        return self.values if self._span is None else self._span

    def takes(self, value: Any) -> bool:
        """Whether a value is among those of a finite dimension."""
        if self.choice is not None:
            return canonical(value) in map(canonical, self.choice)
        if self._span is None or isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self._span[:2]
        return low <= value <= high and (_exact(value) - _exact(low)) % _exact(self.step or 1) == 0


def canonical(value: Any) -> str:
    """Text that is the same for values that mean the same in a file: `1` and `1.0`, but not `true`."""
    return json.dumps(_canonical(value), sort_keys=True, ensure_ascii=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _exact(number: int | float) -> Fraction:
    """The number as it was written, for 0.3 is no sum of three times 0.1."""
    return Fraction(str(number))


class TuneSettings(Section):
    """A search over settings, all judged on the validation rows."""

    trials: int = Field(default=20, ge=1, le=100_000, description="How many settings are tried.")
    concurrency: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000)] = Field(
        default="auto",
        description="How many trials run at once; auto: as many as there are CPUs or GPUs for.",
    )
    search: Literal["optuna", "random", "grid"] = Field(
        default="optuna",
        description="What is tried next: what is likely to be good after the trials so far (optuna: TPE, over"
        " all settings together), anything (random), or every combination in turn (grid).",
    )
    scheduler: Literal["none", "asha", "median", "hyperband", "pbt"] = Field(
        default="asha",
        description="Which trials stop early: none, those that are not among the best at some epoch (asha, "
        "or hyperband in several ways at once), those below the median; or all run on, and the worse take "
        "over weights and settings of the better (pbt).",
    )
    metric: Metric | None = Field(
        default=None,
        description="What trials are judged by on the validation rows; null: `train.early_stopping.metric`.",
    )
    grace: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Epochs that a trial has before it may be stopped; for asha and median.",
    )
    reduction: int = Field(
        default=3, ge=2, le=10, description="Of how many trials one goes on; for asha and hyperband."
    )
    interval: int = Field(default=1, ge=1, le=1_000_000, description="Epochs between two exchanges; for pbt.")
    seconds: float | None = Field(
        default=None,
        gt=0,
        description="After so long nothing new begins, and what runs ends with its epoch; null: no limit.",
    )
    max_epochs: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="After so many epochs of all trials together nothing new begins, and what runs ends with "
        "its epoch; null: no limit.",
    )
    seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="With how many seeds the best settings are trained in the end, their own among them.",
    )
    seed: Seed = Field(default=0, description="Another seed draws other settings.")
    cpus: int | None = Field(
        default=None,
        ge=1,
        le=1_024,
        description="CPUs, and TensorFlow threads, of each trial; null: those of `train.devices` (cpu:N), "
        "else 1.",
    )
    trials_per_gpu: int = Field(default=1, ge=1, le=16, description="How many trials share a GPU.")
    space: dict[str, Dimension] = Field(
        min_length=1,
        description="The settings searched, each by its dotted key, such as "
        "`train.learning_rate: {loguniform: [1e-4, 1e-2]}`.",
    )

    @model_validator(mode="after")
    def _scheduler_asks_for_it(self, info: ValidationInfo) -> Self:
        for name, schedulers in ASKED_BY.items():
            if given(self, name, info) and self.scheduler not in schedulers:
                raise conflict(
                    f"{name} has no effect with scheduler {self.scheduler}",
                    at=name,
                    hint=f"Use scheduler {' or '.join(schedulers)}, or leave it out.",
                )
        return self

    @model_validator(mode="after")
    def _grid_has_an_end(self) -> Self:
        if self.search != "grid":
            return self
        if self.scheduler == "pbt":
            raise conflict(
                "with pbt settings change while training, so there is no grid of them",
                at="search",
                hint="Use search: random.",
            )
        for key, dimension in self.space.items():
            if dimension.kind not in FINITE:
                raise conflict(
                    f"a grid has an end, and {dimension.kind} has none",
                    at=f"space.{key}",
                    hint="Use choice, int or quantised, or search: random.",
                )
        return self

    @model_validator(mode="after")
    def _population_has_the_same_settings(self) -> Self:
        for key, dimension in self.space.items():
            if self.scheduler == "pbt" and dimension.when:
                raise conflict(
                    "with pbt every trial has the same settings, so none is searched only at times",
                    at=f"space.{key}.when",
                    hint="Leave `when` out, or use scheduler: asha.",
                )
        return self
