"""The examples of a client, for algorithms that look at them themselves and for trainers: what `task.data` may be."""

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


def training_examples(task: Task) -> tuple[Any, Any]:
    """`(x, y)` to train on; raises `InputError` when there are none, `AppError` when `task.data` is something else."""
    return _examples(task, "train")


def evaluation_examples(task: Task) -> tuple[Any, Any]:
    """`(x, y)` to evaluate on: the test examples where `task.data` has some of its own, else the training examples."""
    return _examples(task, "test")


def _examples(task: Task, part: str) -> tuple[Any, Any]:
    who, data = task.client.name, task.data
    if hasattr(data, "train") and hasattr(data, "test"):
        pair = getattr(data, part)
    elif _is_pair(data) and isinstance(data[0], tuple):
        pair = data[("train", "test").index(part)]
    else:
        pair = data
    if not _is_pair(pair) or not all(getattr(array, "shape", ()) for array in pair):
        raise AppError(
            f"{who} has {_described(data)} as its data: let @app.data return a tuple of two arrays, (x, y), "
            "or a tuple of two such tuples, (train, test)"
        )
    x, y = pair
    if len(x) != len(y):
        raise AppError(f"{who} has {len(x)} inputs and {len(y)} targets in its {part} data: there must be as many")
    if not len(x):
        verb = "train" if part == "train" else "evaluate"
        raise InputError(
            f"{who} has no examples to {verb} on: its {part} data are empty; leave this client out, or give it data, "
            "of a partition by min_size=1"
        )
    return x, y


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2  # noqa: PLR2004 - that is what a pair is


def _described(data: Any) -> str:
    if data is None:
        return "nothing"
    inner = f" of {len(data)}" if isinstance(data, tuple | list) else ""
    return f"a {type(data).__name__}{inner}"
