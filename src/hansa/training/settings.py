"""What of a run's settings a user's function takes: its parameters after `*`, by their names.

`def load(client, *, alpha=0.5)` gets `alpha` where the run sets it (`--set alpha=0.1`, `config={"alpha": 0.1}`), and
else its own default. Settings travel with the tasks, so that it is the same in a simulation and on a network.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from hansa.errors import AppError

__all__ = ["settings_of", "settled"]

T = TypeVar("T")


def settings_of(function: Callable[..., Any], *, positional: bool = False) -> dict[str, Any]:
    """Setting → its default. positional: whether parameters before `*` are settings too, where nothing else is passed.

    Raises `AppError` for one without a default: an app must train where nothing is set.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some that are written in C do not tell
        return {}
    kinds = {inspect.Parameter.KEYWORD_ONLY} | ({inspect.Parameter.POSITIONAL_OR_KEYWORD} if positional else set())
    found = {parameter.name: parameter.default for parameter in parameters if parameter.kind in kinds}
    lacking = [name for name, default in found.items() if default is inspect.Parameter.empty]
    if lacking:
        raise AppError(f"the setting {lacking[0]!r} of {_name(function)} has no default: give it one")
    return found


def settled(function: Callable[..., T], settings: Mapping[str, Any], config: Mapping[str, Any]) -> Callable[..., T]:
    """The function with those of its settings that the run sets. settings: of `settings_of`.

    Raises `AppError` for what is no number in the place of one.
    """
    given = {name: config[name] for name in settings if name in config}
    for name, value in given.items():
        if _is_number(settings[name]) and not isinstance(value, int | float):
            raise AppError(
                f"the setting {name!r} of {_name(function)} is {value!r}; it is a number, by default {settings[name]}"
            )
    return partial(function, **given) if given else function


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
