"""Names to callables."""

import os.path

import pytest

from components.errors import ModelError
from components.lookup import find

OPTIMIZERS = {"adam": dict, "sgd": list}


def test_a_name_of_the_registry_is_found() -> None:
    assert find(OPTIMIZERS, "adam", kind="optimizer") is dict


def test_an_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(ModelError, match="There is no optimizer 'adm'") as caught:
        find(OPTIMIZERS, "adm", kind="optimizer")
    assert caught.value.hint.startswith("Did you mean 'adam'? Known: adam, sgd;")
    with pytest.raises(ModelError) as caught:
        find(OPTIMIZERS, "zebra", kind="optimizer")
    assert caught.value.hint.startswith("Known: adam, sgd;")


def test_a_function_of_the_users_own_is_imported() -> None:
    assert find({}, "os.path:join", kind="reader") is os.path.join


@pytest.mark.parametrize("name", ["no_such_package.module:function", ":function", "..up:function"])
def test_a_module_that_cannot_be_imported_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be imported") as caught:
        find({}, name, kind="reader")
    assert repr(name) in str(caught.value)


def test_a_module_without_that_function_suggests_a_near_one() -> None:
    with pytest.raises(ModelError, match="has no reader 'jion'") as caught:
        find({}, "os.path:jion", kind="reader")
    assert caught.value.hint == "Did you mean 'join'?"


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ModelError, match="that can be called"):
        find({}, "os.path:sep", kind="reader")
