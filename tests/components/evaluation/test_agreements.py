import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluation.agreements import agreement, evaluated, mismatch

SAID = {"labels": [["a"], ["b", "c"]], "probabilities": [[0.5], [0.25, 0.75]]}


def test_answers_that_differ_by_rounding_agree():
    said = {**SAID, "probabilities": [[0.5 + 5e-7], [0.25, 0.75 - 5e-7]]}
    assert mismatch(said, SAID) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [["a"], ["b", "b"]]}, "labels of row 1 is"),
        ({"probabilities": [[0.5], [0.25, 0.7501]]}, "probabilities of row 1 is"),
        ({"probabilities": [[0.5], [0.25]]}, "probabilities of row 1 is"),
        ({"probabilities": [[float("nan")], [0.25, 0.75]]}, "probabilities of row 0 is"),
        ({"labels": [["a"]]}, "1 values of 'labels' for 2 rows"),
        ({"labels": []}, "0 values of 'labels' for 2 rows"),
    ],
)
def test_other_answers_are_named_with_their_row(changes, message):
    assert message in mismatch({**SAID, **changes}, SAID)


def test_a_missing_column_is_named():
    assert "0 values of 'labels'" in mismatch({"probabilities": SAID["probabilities"]}, SAID)


def test_the_evaluation_is_read_in_the_order_asked_for_and_of_test_rows_only(tmp_path):
    table = pa.table(
        {
            "split": ["valid", "test", "test"],
            "row": [7, 3, 5],
            "label": ["x", "a", "b"],
            "probability": [0.1, 0.5, 0.6],
            "loss": [0.0, 0.0, 0.0],
        }
    )
    pq.write_table(table, tmp_path / "predictions.parquet")
    said = evaluated(tmp_path / "predictions.parquet", (5, 3))
    assert said == {"label": ["b", "a"], "probability": [0.6, 0.5]}


def test_predictions_of_the_same_rows_agree_row_by_row_whatever_their_order():
    one = pa.table({"row": [0, 1], "labels": [["a"], ["b", "c"]], "probabilities": [[0.5], [0.25, 0.75]]})
    other = one.take([1, 0])
    assert agreement(one, other) == {"rows": 2, "same_labels": 1.0, "probability": 0.0}


def test_other_labels_are_a_share_and_probabilities_a_largest_difference():
    one = pa.table({"row": [0, 1], "label": ["a", "b"], "probability": [0.5, 0.75]})
    other = pa.table({"row": [0, 1], "label": ["a", "c"], "probability": [0.375, 0.75]})
    assert agreement(one, other) == {"rows": 2, "same_labels": 0.5, "probability": 0.125}
    assert agreement(one, other.slice(0, 1)) == {"rows": 2, "same_labels": 0.5, "probability": 1.0}
