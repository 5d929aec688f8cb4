"""The trainer of a model, whatever that is: a torch module, a scikit-learn estimator, a numpy model, or a trainer."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np

from hansa.algorithm import Trainer
from hansa.errors import AppError
from hansa.training.learning import BATCH, Learning
from hansa.training.numpy import NumpyModel, NumpyTrainer

__all__ = ["trainer_of"]


_WORK = ("batch_size", "epochs", "steps")
_DESCENT = ("learning_rate", "momentum", "weight_decay")


def trainer_of(
    model: Any, examples: Callable[[], tuple[Any, Any]], **learning: Unpack[Learning]
) -> Trainer | Callable[..., Trainer]:
    """A trainer, or a function that makes one of a run's settings (`hansa.App` takes either).

    model: a torch module, whose weights are the initial model; a class or function that makes one, drawn with the run's
    seed; a scikit-learn estimator; a `NumpyModel`; or a trainer, which is taken as it is. examples: the inputs of
    somebody and the targets of all, which an estimator is told of. Raises `AppError` for another model, and for
    something in `learning` that this model has no use for.
    """
    kind = _kind(model)
    match kind:
        case "trainer":
            _refuse(learning, (), "a trainer, which has its own settings")
            return model  # type: ignore[no-any-return]  # it has the methods of one
        case "torch":
            from hansa.training.torch_defaults import torch_trainer  # noqa: PLC0415 - only where torch is loaded

            return torch_trainer(model, **learning)
        case "numpy":
            _refuse(learning, (*_WORK, *_DESCENT), "a numpy model, which is trained by SGD on a loss of its own")
            return _numpy(model, dict(learning))
        case _:
            _refuse(learning, _WORK, "a scikit-learn estimator: set its own parameters")
            return _sklearn(model, examples, dict(learning))


def _kind(model: Any) -> str:
    torch, sklearn = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    if torch is not None and (
        isinstance(model, torch.nn.Module) or (isinstance(model, type) and issubclass(model, torch.nn.Module))
    ):
        return "torch"
    if isinstance(model, NumpyModel):
        return "numpy"
    if sklearn is not None and isinstance(model, sklearn.BaseEstimator):
        return "sklearn"
    if not isinstance(model, type) and callable(getattr(model, "fit", None)):
        return "trainer"
    if callable(model) and torch is not None:
        return "torch"  # a function that makes a module
    raise AppError(
        f"model is {model!r}: give a torch module or a function that makes one, a scikit-learn estimator, a NumpyModel "
        "(`hansa.training.numpy`), or a trainer"
    )


def _refuse(learning: Learning, known: tuple[str, ...], what: str) -> None:
    for name in learning:
        if name not in known:
            raise AppError(f"{name} is given, and the model is {what}")


def _numpy(model: NumpyModel, learning: dict[str, Any]) -> Callable[..., Trainer]:
    def make(
        *,
        learning_rate: float = learning.get("learning_rate", 0.1),
        momentum: float = learning.get("momentum", 0.0),
        weight_decay: float = learning.get("weight_decay", 0.0),
        batch_size: int | None = learning.get("batch_size", BATCH),
        epochs: int | None = learning.get("epochs"),
        steps: int | None = learning.get("steps"),
    ) -> Trainer:
        return NumpyTrainer(
            model,
            learning_rate,
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            momentum=momentum,
            weight_decay=weight_decay,
        )

    return make


def _sklearn(
    estimator: Any, examples: Callable[[], tuple[Any, Any]], learning: dict[str, Any]
) -> Callable[..., Trainer]:
    from sklearn.base import is_classifier  # type: ignore[import-untyped]  # noqa: PLC0415 - loaded already

    from hansa.training.sklearn import SklearnTrainer  # noqa: PLC0415 - only where scikit-learn is loaded

    x, y = examples()
    if isinstance(x, Mapping):
        raise AppError("inputs are several by name, and a scikit-learn estimator takes one array: shape (n, features)")
    classes = np.unique(np.asarray(y)) if is_classifier(estimator) else None
    batch = BATCH if hasattr(estimator, "partial_fit") else None

    def make(
        *,
        batch_size: int | None = learning.get("batch_size", batch),
        epochs: int | None = learning.get("epochs"),
        steps: int | None = learning.get("steps"),
    ) -> Trainer:
        return SklearnTrainer(
            estimator, num_features=x.shape[1], classes=classes, batch_size=batch_size, epochs=epochs, steps=steps
        )

    return make
