"""What readers hand on."""

import errno

import pyarrow as pa
import pytest

from components.data.readers.sources import (
    FAULT_TYPE,
    Origin,
    Part,
    RowGroup,
    Source,
    Wanted,
    damaged,
    fault,
    file_problem,
)


def source(*sizes: int) -> Source:
    groups = tuple(RowGroup(rows, 10 * rows, 80 * rows) for rows in sizes)
    origins = (Origin("a.csv", 0), Origin("b.csv", 4), Origin("c.csv", 4), Origin("d.csv", 9))
    return Source("x", "sequences", "arrow", pa.schema([]), groups, origins=origins)


@pytest.mark.parametrize(
    ("position", "place"), [(0, ("a.csv", 0)), (3, ("a.csv", 3)), (4, ("c.csv", 0)), (20, ("d.csv", 11))]
)
def test_a_place_in_the_whole_input_is_a_row_of_the_file_that_has_it(
    position: int, place: tuple[str, int]
) -> None:
    assert source().origin(position) == place


def test_a_part_is_as_large_as_its_groups() -> None:
    part = Part(0, source(1, 2, 3), (0, 2), first_row=0, position=0, num_rows=4)
    assert part.source.num_rows == 6
    assert part.num_values == 40


def test_without_kinds_every_column_is_wanted() -> None:
    assert Wanted().has("x")
    assert Wanted({"x": "text"}).has("x")
    assert not Wanted({"x": "text"}).has("y")


def test_a_fault_fits_its_column() -> None:
    entry = fault("x", "received 'a'", step=2, line=7)
    assert pa.array([entry, None], FAULT_TYPE).to_pylist() == [entry, None]


def test_a_damaged_file_is_told_by_the_first_line_or_by_the_system() -> None:
    assert damaged("CSV", ValueError("odd\nmore")) == "not a whole CSV file, or damaged: odd"
    assert damaged("CSV", ValueError()) == "not a whole CSV file, or damaged: ValueError"
    assert damaged("CSV", OSError(errno.EACCES, "Permission denied")) == "cannot be read: Permission denied"
    assert str(file_problem("a.csv", "no", line=3)) == "a.csv, line 3: no"
