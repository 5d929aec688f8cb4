"""The trainer of a PyTorch module where its user says little: an optimizer by name, a loss by the targets."""

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Unpack, cast

import torch

from hansa.errors import AppError
from hansa.training.learning import BATCH, Learning, check_descent
from hansa.training.pairs import check_are_signs, scores, with_classes_second
from hansa.training.torch import TorchTrainer

__all__ = ["loss_by_targets", "optimizers", "torch_trainer"]

_SGD_RATE = 0.1


def loss_by_targets(outputs: Any, targets: torch.Tensor, *, classes: int | None = None) -> torch.Tensor:
    """Cross-entropy where the targets are whole numbers, of one logit where there is but one; else squared error.

    outputs: as many as targets; or of classes, shape (n, classes, …) or (n, …, classes), for targets (n, …); or what
    has such `logits`. classes: as of `accuracy`. Raises `AppError` for others, and for targets of one logit that are
    not 0 and 1.
    """
    outputs = scores(outputs)
    if outputs.numel() != targets.numel() and targets.is_floating_point():
        raise AppError(
            f"the module's outputs have the shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}: to "
            "numbers belong as many outputs; give whole numbers for classes, or a loss"
        )
    if outputs.numel() != targets.numel():
        return torch.nn.functional.cross_entropy(with_classes_second(outputs, targets, classes), targets)
    outputs = outputs.reshape(targets.shape)
    if targets.is_floating_point():
        return torch.nn.functional.mse_loss(outputs, targets)
    check_are_signs(targets)
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Those of `torch.optim`, by their names in small letters."""
    found = {name.lower(): value for name, value in vars(torch.optim).items() if isinstance(value, type)}
    return {name: value for name, value in found.items() if issubclass(value, torch.optim.Optimizer)}


def torch_trainer(model: Any, **learning: Unpack[Learning]) -> Callable[..., TorchTrainer]:
    """A function that makes the trainer of a run's settings. model: a module, or what makes one."""
    build: Callable[[], torch.nn.Module] = model
    if isinstance(model, torch.nn.Module):
        try:
            pattern = copy.deepcopy(model)  # the user may go on training the module that was handed over
        except (RuntimeError, TypeError) as error:
            raise AppError(f"the module cannot be copied: give a function that makes it ({error})") from error
        build = lambda: copy.deepcopy(pattern)  # noqa: E731 - one line says it
    else:
        _look_at(build)
    chosen = learning.get("optimizer", "sgd")
    given: dict[str, Any] = dict(learning)

    def make(
        *,
        learning_rate: float | None = given.get("learning_rate"),
        momentum: float | None = given.get("momentum"),
        weight_decay: float | None = given.get("weight_decay"),
        batch_size: int | None = given.get("batch_size", BATCH),
        epochs: int | None = given.get("epochs"),
        steps: int | None = given.get("steps"),
    ) -> TorchTrainer:
        return TorchTrainer(
            build,
            loss_by_targets if given.get("loss") is None else given["loss"],
            _optimizer(chosen, {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}),
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            device=given.get("device", "cpu"),
            representation=given.get("representation"),
            drop_last=given.get("drop_last", False),
            metrics=given.get("metrics"),
            bfloat16=given.get("bfloat16", False),
        )

    make()  # what is wrong is said here, and not in the first round
    return make


def _optimizer(
    chosen: str | Callable[..., Any], settings: dict[str, float | None]
) -> Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]:
    given = {name: value for name, value in settings.items() if value is not None}
    check_descent(**{"learning_rate" if name == "lr" else name: value for name, value in given.items()})
    if isinstance(chosen, str):
        known = optimizers()
        if chosen.lower() not in known:
            raise AppError(f"there is no optimizer {chosen!r}; there is: {', '.join(sorted(known))}")
        chosen = known[chosen.lower()]
    if isinstance(chosen, torch.optim.Optimizer):
        raise AppError("the optimizer is one of a module already: give its name or class, or a function that makes it")
    if not callable(chosen):
        raise AppError(f"optimizer is {chosen!r}; it must be a name, a class, or a function of the parameters")
    if not isinstance(chosen, type):
        if given:
            raise AppError(
                "the optimizer is a function, which has settings of its own: give no learning rate beside it"
            )
        return chosen
    if chosen is torch.optim.SGD:
        given = {"lr": _SGD_RATE} | given
    kind = cast("Callable[..., torch.optim.Optimizer]", chosen)
    try:
        kind([torch.nn.Parameter(torch.zeros(1))], **given)
    except (TypeError, ValueError) as error:
        raise AppError(f"{chosen.__name__} does not take {', '.join(given)}: {error}") from error
    return lambda parameters: kind(parameters, **given)


def _look_at(build: Callable[[], Any]) -> None:
    """Raise `AppError` unless it makes modules."""
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise AppError(f"model cannot be called without arguments ({error}): give a module, or a lambda") from None
    except ValueError:
        pass  # some functions in C do not tell
    with torch.random.fork_rng():
        made = build()
    if not isinstance(made, torch.nn.Module):
        raise AppError(f"model makes a {type(made).__name__}; it must make a torch module")
