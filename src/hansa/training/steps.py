"""What a step of local training with PyTorch has beside the optimizer's own: the correction, and how far it goes."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from hansa.messages import GradientCorrection
from hansa.training.local import known_distance
from hansa.training.tensors import stack_of

__all__ = [
    "Correct",
    "Steps",
    "calls_others",
    "clearer",
    "corrector",
    "dense",
    "first_rows",
    "mean_of",
    "stacked_offsets",
    "stepper",
    "trained_parameters",
]


def trained_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are not frozen, by name, each once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


_LEFT_TO_TORCH = ("maximize", "differentiable", "foreach", "fused")
"""Settings of torch.optim.SGD with which it does the steps itself."""

Correct: TypeAlias = Callable[[Sequence[torch.Tensor]], None]
"""Corrects the gradients of these parameters, in place."""


def corrector(
    parameters: Sequence[torch.Tensor], proximal: float, offsets: Sequence[torch.Tensor], held: Collection[int] = ()
) -> Correct:
    """A function that does g ← g + proximal·(w − w₀) + offset, where w₀ is what the parameters are now.

    offsets: one for each parameter, or none at all; held: positions of those that are frozen, which have no gradient
    afterwards, so that the optimizer passes them by. What is corrected later may be the first rows of the parameters.
    """
    starts = [parameter.detach().clone() for parameter in parameters] if proximal else []
    moved = [torch.empty_like(start) for start in starts]

    def correct(parameters: Sequence[torch.Tensor]) -> None:
        for index, parameter in enumerate(parameters):
            if index in held:
                parameter.grad = None
            if parameter.grad is None:
                continue
            if starts or offsets:
                parameter.grad = dense(parameter.grad)
            if starts:
                room = first_rows(moved[index], parameter)
                torch.sub(parameter.detach(), first_rows(starts[index], parameter), out=room)
                parameter.grad.add_(room, alpha=proximal)
            if offsets:
                parameter.grad.add_(first_rows(offsets[index], parameter))

    return correct


def stacked_offsets(
    corrections: Sequence[GradientCorrection | None], trained: Mapping[str, torch.nn.Parameter]
) -> list[torch.Tensor]:
    """The offsets of many clients for each parameter, a row for each client; nothing where there are none."""
    offsets = [each.offset for each in corrections if each is not None and each.offset is not None]
    return [stack_of([offset[name] for offset in offsets], p) for name, p in trained.items()] if offsets else []


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """The gradient itself, or of a sparse one, as embeddings may have, all numbers."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def first_rows(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """As many rows of a tensor as the other has."""
    return tensor if tensor.shape == like.shape else tensor[: len(like)]


class Steps:
    """`Update.step_sum` of each parameter, as torch.optim.SGD moves it; 0, unknown, for any other optimizer."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter], proximal: float
    ) -> None:
        self._known = type(optimizer) is torch.optim.SGD and not any(g["maximize"] for g in optimizer.param_groups)
        self._groups = optimizer.param_groups
        self._proximal = proximal
        name_of = {parameter: name for name, parameter in trained.items()}
        self._names = [[name_of[parameter] for parameter in group["params"]] for group in self._groups]
        self._buffers: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def count(self) -> None:
        """The step that comes next, for a loss whose gradient is −1: its momentum buffer and how far it moves."""
        for group, names in zip(self._groups, self._names, strict=True):
            for name, parameter in zip(names, group["params"], strict=True):
                if parameter.grad is not None:
                    before = self._sums.get(name, 0.0)
                    pull = 1 - self._proximal * before
                    self._sums[name] = before + self._moved(group, name, pull) if self._known else 0.0

    def sums(self) -> dict[str, float]:
        """By name; buffers and what was frozen are not in it."""
        return {name: known_distance(distance) for name, distance in self._sums.items()}

    def _moved(self, group: Mapping[str, Any], name: str, pull: float) -> float:
        momentum, before = group["momentum"], self._buffers.get(name)
        buffer = pull if before is None else momentum * before + (1 - group["dampening"]) * pull
        self._buffers[name] = buffer
        direction = (pull + momentum * buffer if group["nesterov"] else buffer) if momentum else pull
        return float(group["lr"]) * direction


def calls_others(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step is more than the optimizer's own: it has hooks, or another function in its place."""
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)  # noqa: SLF001 - not told elsewhere
    hooks = (*own, _global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    return "step" in vars(optimizer) or any(hooks)


def stepper(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Its `step`; of torch.optim.SGD on a CPU the same to the bit, without what takes longer than that.

    That is a record for the profiler, and PyTorch's compiler, which is loaded to say that it is to pass it by.

    The parameters are those of its groups at each step; nothing but them may be changed meanwhile.
    """
    known = type(optimizer) is torch.optim.SGD and not calls_others(optimizer)
    if not known or any(_is_left_to_torch(group) for group in optimizer.param_groups):
        return optimizer.step

    def step() -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.add_(_direction(parameter, group, optimizer.state), alpha=-group["lr"])

    return step


def _is_left_to_torch(group: Mapping[str, Any]) -> bool:
    """On a GPU, too, where PyTorch moves all parameters at once."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in group["params"])
    return not on_cpu or isinstance(group["lr"], torch.Tensor) or any(group[key] for key in _LEFT_TO_TORCH)


def _direction(parameter: torch.Tensor, group: Mapping[str, Any], state: dict[Any, Any]) -> torch.Tensor:
    """Against which torch.optim.SGD moves a parameter; what it remembers for the next step is in `state`, as there."""
    gradient = cast("torch.Tensor", parameter.grad)
    if group["weight_decay"]:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
    momentum = group["momentum"]
    if not momentum:
        return gradient
    buffer: torch.Tensor | None = state[parameter].get(_BUFFER)
    if buffer is None:
        buffer = state[parameter][_BUFFER] = gradient.detach().clone()
    else:
        buffer.mul_(momentum).add_(gradient, alpha=1 - group["dampening"])
    return gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer


_BUFFER = "momentum_buffer"


def clearer(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Its `zero_grad`; of torch's own the same, without the profiler's record, which takes longer than that."""
    if "zero_grad" in vars(optimizer) or type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        return optimizer.zero_grad

    def clear() -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return clear


def mean_of(values: Sequence[tuple[torch.Tensor, torch.Tensor | float]]) -> float:
    """The mean of batch means, weighted by the examples of each batch; NaN where all have none."""
    weighted = [(float(value), float(size)) for value, size in values]
    known = [(value, size) for value, size in weighted if size]
    return sum(value * size for value, size in known) / sum(size for _, size in known) if known else math.nan
