"""The examples of a client, for algorithms that look at them themselves and for trainers: what `task.data` may be."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import AppError, InputError
from hansa.messages import Task

__all__ = ["evaluation_examples", "labelled", "points", "training_examples"]


def points(task: Task, num_features: int, *, evaluation: bool = False) -> npt.NDArray[np.float64]:
    """The inputs alone, shape (n, num_features); then `task.data` may be an array of them, too."""
    bare = len(getattr(task.data, "shape", ())) > 1
    if bare and len(task.data):
        inputs = task.data
    else:
        inputs, _ = evaluation_examples(task) if evaluation else training_examples(task)
    return _checked(inputs, num_features, task)


def labelled(
    task: Task, num_features: int, *, evaluation: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Inputs of shape (n, num_features) and targets of shape (n,), finite."""
    x, y = evaluation_examples(task) if evaluation else training_examples(task)
    targets = np.asarray(y, np.float64)
    if targets.ndim != 1 or not np.isfinite(targets).all():
        raise AppError(
            f"{task.client.name} has targets of the shape {targets.shape}: give one finite number per example"
        )
    return _checked(x, num_features, task), targets


def _checked(inputs: Any, num_features: int, task: Task) -> npt.NDArray[np.float64]:
    x = np.asarray(inputs, np.float64)
    x = x.reshape(len(x), -1)
    if x.shape[1] != num_features:
        raise AppError(f"{task.client.name} has inputs of {x.shape[1]} features, but the model is for {num_features}")
    if not np.isfinite(x).all():
        raise InputError(f"{task.client.name} has inputs that are not finite: fill what is missing, or leave it out")
    return x


def training_examples(task: Task, *, named: bool = False) -> tuple[Any, Any]:
    """`(x, y)` to train on; raises `InputError` when there are none, `AppError` when `task.data` is something else.

    named: whoever asks takes several inputs by name, too; then x is a dict of arrays.
    """
    return _examples(task, "train", named=named)


def evaluation_examples(task: Task, *, named: bool = False) -> tuple[Any, Any]:
    """`(x, y)` to evaluate on: the test examples where `task.data` has some of its own, else the training examples."""
    return _examples(task, "test", named=named)


def _examples(task: Task, part: str, *, named: bool) -> tuple[Any, Any]:
    who, data = task.client.name, task.data
    if hasattr(data, "train") and hasattr(data, "test"):
        pair = getattr(data, part)
    elif _is_pair(data) and all(isinstance(of_part, tuple) for of_part in data):
        pair = data[("train", "test").index(part)]
    else:
        pair = data
    listed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | Mapping)
    hint = "; of a data set with items (x, y) hansa.data.adapters.from_torchvision makes a pair" if listed else ""
    if not _is_pair(pair) or not all(map(_is_of_arrays, pair)) or isinstance(pair[1], Mapping):
        raise AppError(
            f"{who} has {_described(data)} as its data: let @app.data return a tuple of two arrays, (x, y), "
            f"or a tuple of two such tuples, (train, test); several inputs of an example are a mapping, x by name{hint}"
        )
    x, y = pair
    if isinstance(x, Mapping) and not named:
        raise AppError(
            f"{who} has several inputs by name, {', '.join(map(str, x))}, which only TorchTrainer takes: give one "
            "array with an example in each row"
        )
    sizes = {name: len(array) for name, array in x.items()} if isinstance(x, Mapping) else {"": len(x)}
    if wrong := next(((name, size) for name, size in sizes.items() if size != len(y)), None):
        what = f"inputs {wrong[0]!r}" if isinstance(x, Mapping) else "inputs"
        raise AppError(f"{who} has {wrong[1]} {what} and {len(y)} targets in its {part} data: there must be as many")
    if not len(y):
        verb = "train" if part == "train" else "evaluate"
        raise InputError(
            f"{who} has no examples to {verb} on: its {part} data are empty; leave this client out, or give it data, "
            "of a partition by min_size=1"
        )
    return dict(x) if isinstance(x, Mapping) else x, y


def _is_of_arrays(part: Any) -> bool:
    """Whether it has a row for each example: an array, or arrays by name."""
    if isinstance(part, Mapping):
        return bool(part) and all(isinstance(name, str) and getattr(each, "shape", ()) for name, each in part.items())
    return bool(getattr(part, "shape", ()))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2  # noqa: PLR2004 - that is what a pair is


def _described(data: Any) -> str:
    if data is None:
        return "nothing"
    inner = f" of {len(data)}" if isinstance(data, tuple | list) else ""
    return f"a {type(data).__name__}{inner}"
