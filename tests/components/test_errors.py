"""The family of errors: what they say, and what survives the way from a worker."""

import pickle

import pytest

from components import errors
from components.errors import DataError, GateRefused, Problem, RecurraError

FAMILY = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RecurraError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_survives_pickling_with_its_hint(kind: type[RecurraError]) -> None:
    error = pickle.loads(pickle.dumps(kind("It broke.", hint="Mend it.")))
    assert type(error) is kind
    assert (str(error), error.message, error.hint) == ("It broke.", "It broke.", "Mend it.")
    assert error.exit_code == kind.exit_code


def test_exit_codes_are_those_promised() -> None:
    assert {kind.__name__: kind.exit_code for kind in FAMILY} == {
        "RecurraError": 1,
        "AddressError": 2,
        "DataError": 2,
        "ModelError": 2,
        "TrainingDiverged": 2,
        "SearchFailed": 2,
        "ClusterError": 3,
        "TrackerError": 3,
        "StorageError": 3,
        "PlaceError": 2,
        "CheckpointError": 3,
        "BusyError": 3,
        "GateRefused": 4,
        "Interrupted": 130,
        "Terminated": 143,
    }


def test_the_tree_in_the_docstring_has_every_error_with_its_code() -> None:
    lines = (errors.__doc__ or "").splitlines()
    for kind in FAMILY:
        line = next(line for line in lines if kind.__name__ in line.split())
        assert str(kind.exit_code) in line.split()


def test_the_problems_of_a_data_error_survive_pickling() -> None:
    problems = [Problem(file="a.parquet", row=3, column="frames", step=1, feature=0, message="NaN")]
    error = pickle.loads(pickle.dumps(DataError("One bad row.", problems=problems, hint="Drop it.")))
    assert error.problems == tuple(problems)
    assert error.hint == "Drop it."


def test_a_problem_says_where_it_stands_and_leaves_out_what_is_unknown() -> None:
    whole = Problem(file="a.parquet", row=3, column="frames", step=0, feature=0, message="is NaN")
    assert str(whole) == "a.parquet, row 3, column frames, step 0, feature 0: is NaN"
    assert str(Problem(file="a.parquet", message="is empty")) == "a.parquet: is empty"
    assert str(Problem(message="no rows")) == "no rows"


def test_control_characters_from_the_data_do_not_reach_the_terminal() -> None:
    problem = Problem(file="a\x1b[2J.parquet", column="é\n", message="label '\x07'")
    assert str(problem) == "a\\x1b[2J.parquet, column é\\n: label '\\x07'"


def test_a_long_list_of_problems_is_cut_and_counted() -> None:
    problems = [Problem(row=row, message="is empty") for row in range(1_500)]
    lines = str(DataError("Bad rows.", problems=problems)).splitlines()
    assert lines[:2] == ["Bad rows.", "  row 0: is empty"]
    assert len(lines) == errors.NUM_SHOWN + 2
    assert lines[-1] == "  and 1,480 more"


def test_an_error_can_be_caught_as_one_of_the_family() -> None:
    with pytest.raises(RecurraError, match=r"accuracy 0\.5"):
        raise GateRefused("accuracy 0.5 is below its floor 0.9.")
