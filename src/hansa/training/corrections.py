"""What a correction asks of a step beside the gradient of the loss: another gradient, or another part of the loss."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import GradientCorrection
from hansa.training.setup import Setup
from hansa.training.steps import trained_parameters
from hansa.training.tensors import load_into_module

__all__ = ["Anchor", "Forward", "anchor_of", "forward_of", "obstacle", "with_frozen"]

Anchor: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], Sequence[tuple[torch.nn.Parameter, torch.Tensor]]]"
"""(inputs, targets) → the gradients at the model received, of the parameters that have one."""

Forward: TypeAlias = "Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | float]]"
"""inputs → (outputs, what is added to the loss)."""


def obstacle(correction: GradientCorrection | None) -> str | None:
    """Why clients with such a correction cannot train together, as the end of a sentence; None where they can."""
    if correction is None:
        return None
    if correction.anchored:
        return "the algorithm takes each gradient at the model received as well"
    return "the algorithm compares representations with those of other models" if correction.contrast else None


def anchor_of(setup: Setup, module: torch.nn.Module, correction: GradientCorrection | None) -> Anchor:
    """The gradients of a batch at the tensors that the module has now, with the dropout of the step to come."""
    if correction is None or not correction.anchored:
        return lambda _inputs, _targets: ()
    trained = trained_parameters(module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def gradients(inputs: torch.Tensor, targets: torch.Tensor) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        held = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in start.items()}
        with torch.random.fork_rng(devices=setup.generators()):
            outputs = setup.forward(lambda x: torch.func.functional_call(module, held, (x,)), inputs)
            loss = setup.loss(outputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one method unannotated
        return [(p, g) for name, p in trained.items() if (g := held[name].grad) is not None]

    return gradients


def forward_of(setup: Setup, module: torch.nn.Module, model: Arrays, correction: GradientCorrection | None) -> Forward:
    """The module's outputs for a batch, and what the correction's contrast adds to the loss."""
    term = correction.contrast if correction else None
    if term is None:
        return lambda inputs: (module(inputs), 0.0)
    name = setup.representation
    if name is None:
        raise AppError('this algorithm compares representations: give TorchTrainer representation="encoder"')
    with torch.random.fork_rng(devices=setup.generators()):
        others = [setup.build().to(setup.device).eval() for _ in range(2)]
    for other, arrays in zip(others, (model, term.previous), strict=True):
        load_into_module(other, arrays)

    def forward(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, z = _represented(module, name, inputs)
        with torch.no_grad():
            standing = [_represented(other, name, inputs)[1] for other in others]
        near = torch.stack([torch.cosine_similarity(z, still) for still in standing], dim=1) / term.temperature
        return outputs, term.weight * (near.logsumexp(dim=1) - near[:, 0]).mean()

    return forward


def _represented(module: torch.nn.Module, name: str, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of a module, and those of its submodule of this name, of shape (n, features)."""
    seen: list[torch.Tensor] = []
    hook = module.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        outputs = module(inputs)
    finally:
        hook.remove()
    return outputs, seen[0].flatten(1)


def with_frozen(trained: Arrays, model: Arrays, correction: GradientCorrection | None) -> Arrays:
    """What was trained, but for what is frozen: BatchNorm has moved its buffers."""
    frozen = correction.frozen if correction else frozenset()
    kept = {name: model[name].astype(trained[name].dtype, copy=False) for name in frozen}
    return Arrays({name: kept.get(name, array) for name, array in trained.items()})
