import numpy as np
import pytest
from scipy import special

from components.served.temperatures import scaled


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0, 20.0])
def test_it_is_the_softmax_of_divided_logits(temperature):
    logits = np.random.default_rng(0).normal(0, 5, (4, 7, 5))
    given = special.log_softmax(logits, axis=-1).astype(np.float32)
    expected = special.softmax(logits / temperature, axis=-1)
    np.testing.assert_allclose(np.exp(scaled(given, temperature)), expected, atol=1e-6)
    assert (scaled(given, temperature).argmax(axis=-1) == logits.argmax(axis=-1)).all()


def test_at_one_nothing_is_changed_or_copied():
    given = np.log(np.array([[0.25, 0.75]], np.float32))
    assert scaled(given, 1.0) is given


def test_what_is_given_is_left_as_it_is():
    given = np.log(np.array([[0.25, 0.75]], np.float32))
    before = given.copy()
    scaled(given, 2.0)
    np.testing.assert_array_equal(given, before)


def test_a_class_without_any_probability_stays_without():
    found = scaled(np.array([[0.0, -np.inf, -200.0]], np.float32), 0.05)
    np.testing.assert_array_equal(found, [[0.0, -np.inf, -4000.0]])


def test_no_rows_give_no_rows():
    assert scaled(np.zeros((0, 3), np.float32), 2.0).shape == (0, 3)
