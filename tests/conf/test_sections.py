"""What every section refuses, and errors about values at odds."""

from typing import Annotated, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from conf.sections import Section, conflict, listed


class Pair(Section):
    low: float = 0.0
    high: float = 1.0
    names: Annotated[tuple[str, ...], listed(max_length=2)] = Field(default=())

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.low > self.high:
            raise conflict("{low} is above {high}", at="low", hint="Swap them.")
        return self


def test_a_conflict_says_what_where_and_the_way_out() -> None:
    with pytest.raises(ValidationError) as caught:
        Pair(low=2.0)
    (fault,) = caught.value.errors()
    assert (fault["type"], fault["msg"]) == ("conflict", "{low} is above {high}")
    assert (fault["ctx"]["at"], fault["ctx"]["hint"]) == ("low", "Swap them.")


@pytest.mark.parametrize("values", [{"low": "0"}, {"lowest": 0.0}, {"low": float("nan")}, {"names": [1]}])
def test_text_is_no_number_and_unknown_keys_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Pair.model_validate(values)


def test_a_list_becomes_a_tuple_within_its_limits() -> None:
    assert Pair.model_validate({"names": ["a", "b"]}).names == ("a", "b")
    with pytest.raises(ValidationError, match="at most 2"):
        Pair.model_validate({"names": ["a", "b", "c"]})


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Pair().low = 0.5  # type: ignore[misc]
