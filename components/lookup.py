"""From a name in the settings to a callable: one of a literal registry, or the user's own.

find(OPTIMIZERS, "adam", kind="optimizer")
find(OPTIMIZERS, "my_package.my_module:Lion", kind="optimizer")
"""

import importlib
from collections.abc import Mapping
from typing import TypeVar

from components.errors import ModelError
from conf.names import nearest

T = TypeVar("T")


def find(registry: Mapping[str, T], name: str, *, kind: str) -> T:
    """The registry's entry of that name, or what `module:function` names.

    Raises:
        ModelError: there is no such entry, module or function; the hint has the nearest name and the list.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return _imported(name, kind=kind)
    near = nearest(name, registry)
    raise ModelError(
        f"There is no {kind} {name!r}.",
        hint=(f"Did you mean {near!r}? " if near else "")
        + f"Known: {', '.join(sorted(registry))}; or give your own as package.module:function.",
    )


def _imported(name: str, *, kind: str) -> T:  # type: ignore[type-var]
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise ModelError(
            f"The {kind} {name!r} cannot be imported: {error}.",
            hint="The part before the colon is a module that Python can import from where you run.",
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = nearest(attribute, public)
        raise ModelError(
            f"The module {module_name!r} has no {kind} {attribute!r} that can be called.",
            hint=f"Did you mean {near!r}?" if near else "Give a function or class of that module.",
        )
    return found
