"""The functions of an app by their roles: what each is called with, and whether it can be."""

import inspect
from collections.abc import Callable
from typing import Any

from hansa.errors import AppError

__all__ = ["check_takes", "is_same_cell", "name_of"]

_TAKES = {
    "model": ("rng",),
    "data": ("client",),
    "train": ("model", "task"),
    "evaluate": ("model", "task"),
    "central_evaluate": ("model", "rng"),
    "select": ("clients", "task"),
    "configure": ("model", "task"),
    "aggregate": ("model", "updates", "task"),
    "predict": ("model", "task"),
    "program": ("parties",),
}
"""Role → what its function is called with."""


def check_takes(function: Callable[..., Any], role: str) -> None:
    """Raise `AppError` unless a function can be called as its role is."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of something built in, which says nothing of itself
        return
    taken = ", ".join(_TAKES[role])
    try:
        signature.bind(*_TAKES[role])
    except TypeError as error:
        name = name_of(function).rpartition(".")[2]
        raise AppError(
            f"@app.{role} decorates {name}{signature}, which cannot be called with ({taken}): write "
            f"def {name}({taken}), and settings of the run after a *"
        ) from error


def is_same_cell(before: Callable[..., Any], function: Callable[..., Any]) -> bool:
    """Whether a notebook's cell is run again: then the new function takes the place of the old one."""
    return before.__module__ == function.__module__ == "__main__" and name_of(before) == name_of(function)


def name_of(function: Callable[..., Any]) -> str:
    """What its author calls it."""
    return getattr(function, "__qualname__", repr(function))
