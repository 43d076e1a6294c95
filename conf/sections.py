"""What all sections of the settings are made of: the base class, an error for values at odds, shared types.

class PlateauSettings(Section):       frozen, strict, no unknown keys
    factor: Share = ...               a shared type
        raise conflict(..., at="factor", hint="...")
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

Metric = Literal[
    "loss",
    "accuracy",
    "macro_f1",
    "ece",
    "sequence_accuracy",
    "span_precision",
    "span_recall",
    "span_f1",
]
SPAN_METRICS = ("span_precision", "span_recall", "span_f1")
# Of a classifier's test rows alone, from all of its probabilities.
AreaMetric = Literal["roc_auc", "pr_auc"]
AREA_METRICS = get_args(AreaMetric)
RANKING_METRICS = (*AREA_METRICS, "top_3_accuracy", "top_5_accuracy")
SMALLER_IS_BETTER = ("loss", "ece")
MAX_SEED = 2**32 - 1


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def given(section: BaseModel, name: str, info: ValidationInfo) -> bool:
    """Whether somebody has set this; of recorded settings, which hold every default too, nobody can tell."""
    return name in section.model_fields_set and not (info.context or {}).get("recorded")


def conflict(message: str, *, at: str = "", hint: str = "") -> PydanticCustomError:
    """An error about values that do not go together; `at` is the dotted key below the section."""
    return PydanticCustomError("conflict", "{message}", {"message": message, "at": at, "hint": hint})


def listed(**limits: Any) -> Any:
    """The field of a tuple: a list in the file becomes one, which strict mode would refuse.

    A tuple, so that settings stay what they were.
    """
    return Field(strict=False, **limits)


Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
