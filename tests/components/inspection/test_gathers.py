"""Rows of steps as sequences."""

from typing import Any

import pyarrow as pa
import pytest

from tests.components.inspection.test_roles import found, steps


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_steps_become_sequences(kind: str) -> None:
    chosen = found(steps(kind), kind)
    assert (chosen.layout, chosen.id, chosen.order) == ("step", "seq", "t")
    assert [column.name for column in chosen.inputs] == ["p", "speed"]
    assert not chosen.per_step
    p = chosen.found.column("p")
    assert p.num_features == 3
    first = chosen.found.column("seq").values.to_pylist().index("s3")
    assert [step[0] for step in p.values[first].as_py()] == [15.0, 16.0, 17.0, 18.0, 19.0]


@pytest.mark.parametrize(
    ("others", "patterns"),
    [((), ("p*",)), (("place",), ("p[0-9]*",)), (("p9_",), ("p0", "p1", "p2"))],
)
def test_a_pattern_stands_for_the_columns_of_a_family_alone(others: Any, patterns: Any) -> None:
    chosen = found(steps(**{name: ["x"] * 60 for name in others}), "csv")
    assert chosen.families[0].patterns == patterns


def test_the_name_of_a_family_is_no_column() -> None:
    assert found(steps(p=[0.0] * 60), "csv").families[0].name == "ps"


def test_missing_numbers_of_steps_are_gaps() -> None:
    columns = steps("parquet")
    columns["p1"][3] = None
    columns["speed"][4] = float("nan")
    chosen = found({name: pa.array(values, from_pandas=False) for name, values in columns.items()})
    assert [column.num_gaps for column in chosen.inputs] == [1, 1]
