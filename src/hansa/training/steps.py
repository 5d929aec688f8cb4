"""What a step of local training with PyTorch has beside the optimizer's own: the correction, and how far it goes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from hansa.messages import GradientCorrection
from hansa.training.tensors import stack_of

__all__ = ["Correct", "Steps", "corrector", "first_rows", "mean_of", "stacked_offsets", "trained_parameters"]


def trained_parameters(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are not frozen, by name, each once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


Correct: TypeAlias = Callable[[Sequence[torch.Tensor]], None]
"""Corrects the gradients of these parameters, in place."""


def corrector(parameters: Sequence[torch.Tensor], proximal: float, offsets: Sequence[torch.Tensor]) -> Correct:
    """A function that does g ← g + proximal·(w − w₀) + offset, where w₀ is what the parameters are now.

    offsets: one for each parameter, or none at all. What is corrected later may be the first rows of the parameters.
    """
    starts = [parameter.detach().clone() for parameter in parameters] if proximal else []
    moved = [torch.empty_like(start) for start in starts]

    def correct(parameters: Sequence[torch.Tensor]) -> None:
        for index, parameter in enumerate(parameters):
            if parameter.grad is None:
                continue
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


def first_rows(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """As many rows of a tensor as the other has."""
    return tensor if tensor.shape == like.shape else tensor[: len(like)]


class Steps:
    """`Update.step_sum` of each parameter, as torch.optim.SGD moves it; unknown for any other optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]) -> None:
        known = type(optimizer) is torch.optim.SGD and not any(group["maximize"] for group in optimizer.param_groups)
        self._groups = optimizer.param_groups if known else []
        name_of = {parameter: name for name, parameter in trained.items()}
        self._names = [[name_of[parameter] for parameter in group["params"]] for group in self._groups]
        self._buffers: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def count(self) -> None:
        """The step that comes next, for a gradient of 1: its momentum buffer and how far it moves."""
        for group, names in zip(self._groups, self._names, strict=True):
            momentum = group["momentum"]
            for name, parameter in zip(names, group["params"], strict=True):
                if parameter.grad is None:
                    continue
                before = self._buffers.get(name)
                buffer = 1.0 if before is None else momentum * before + 1 - group["dampening"]
                self._buffers[name] = buffer
                moved = (1 + momentum * buffer if group["nesterov"] else buffer) if momentum else 1.0
                self._sums[name] = self._sums.get(name, 0.0) + float(group["lr"]) * moved

    def sums(self) -> float | dict[str, float]:
        """By name; buffers and what was frozen are not in it."""
        return dict(self._sums) if self._groups else 0.0


def mean_of(values: list[tuple[torch.Tensor, int]]) -> float:
    """The mean of batch means, weighted by the examples of each batch."""
    return sum(float(value) * size for value, size in values) / sum(size for _, size in values)
