"""What models are compared on: values, rows that differ, labels with few rows, reasons for no value."""

import math
from dataclasses import replace

import numpy as np
import pytest

from components.evaluation import answers, measures

LABELS = ("a", "b", "c")


@pytest.fixture
def read(class_table, with_distribution):
    """Answers of a classifier to rows of these labels, from the probability of every label."""

    def make(truth, probabilities):
        said = [LABELS[place] for place in np.argmax(probabilities, axis=1)]
        table = with_distribution(class_table(truth, said), probabilities)
        return answers.read(table, task="classification", labels=LABELS)

    return make


def spread(places, *, sure=0.8):
    """Probabilities that favour one label each."""
    rest = (1 - sure) / 2
    return np.full((len(places), 3), rest) + (sure - rest) * np.eye(3)[places]


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "roc_auc", "pr_auc"])
def test_resamples_are_of_the_whole_metric(read, name):
    truth = list("abcabcabca")
    places = [0, 1, 2, 0, 2, 1, 1, 1, 2, 0]
    made, measure = read(truth, spread(places)), measures.of(name)
    found = measure.resample(made, bootstrap=50, seed=3)
    assert found.draws.shape == (50,)
    for row, value in enumerate(found.without):
        assert value == pytest.approx(measure.value(made.take(np.arange(10) != row)))


def test_an_area_has_no_value_without_every_probability_and_says_why(class_table, read):
    area, labels = measures.of("roc_auc"), LABELS
    plain = answers.read(class_table("aab", "aab"), task="classification", labels=labels)
    assert math.isnan(area.value(plain))
    assert area.reason(plain, labels).startswith("The rows and labels are too many")
    single = read("aaa", spread([0, 1, 0]))
    assert math.isnan(area.value(single))
    assert area.reason(single, labels) == (
        "Every test row is of the label 'a', so there is none to tell it from."
    )
    broken = read("aab", spread([0, 1, 0]) * [[1], [math.nan], [1]])
    assert math.isnan(area.value(broken))
    assert area.reason(broken, labels) == "A probability is not a number."
    assert area.reason(read("aab", spread([0, 1, 1])), labels) == ""


def test_rows_that_another_ranking_moves_are_counted(read):
    truth = "aaabbb"
    one = spread([0, 0, 0, 1, 1, 1]) + 0.01 * np.arange(6)[:, np.newaxis] * [1, -1, 0]
    two = one.copy()
    two[[0, 3]] = two[[3, 0]]
    area = measures.of("roc_auc")
    assert area.num_differing(read(truth, one), read(truth, one)) == 0
    # Not the two alone: two rows of b now have one of a above them.
    assert area.num_differing(read(truth, one), read(truth, two)) == 4
    assert measures.of("accuracy").num_differing(read(truth, one), read(truth, two)) == 2


def test_the_label_on_the_fewest_rows_is_counted_by_group_where_there_are_groups(read):
    made = read("aaaaabbbc", spread([0] * 9))
    assert measures.of("pr_auc").least(made) == (2, 1)
    assert measures.of("accuracy").least(made) is None
    grouped = replace(made.take(np.arange(8)), groups=np.array([0, 1, 2, 3, 3, 4, 4, 4]))
    assert measures.of("pr_auc").least(grouped) == (1, 1)
