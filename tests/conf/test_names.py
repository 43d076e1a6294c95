"""Near names."""

import pytest

from conf.names import nearest

KEYS = ("learning_rate", "epochs", "units", "schedule")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("Epoch", "epochs"),
        ("lr", "learning_rate"),
        ("hidden_size", "units"),
    ],
)
def test_a_near_name_or_another_tools_name_is_found(name: str, meant: str) -> None:
    assert nearest(name, KEYS) == meant


def test_nothing_is_suggested_for_a_name_like_none() -> None:
    assert nearest("zebra", KEYS) is None
    assert nearest("lr", ("units",)) is None
