"""What a correction asks of a step beside the gradient of the loss: another gradient, or another part of the loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import GradientCorrection
from hansa.training.pairs import check_is_loss
from hansa.training.setup import Setup
from hansa.training.steps import dense, trained_parameters
from hansa.training.tensors import Inputs, called, copied, load_into_module

__all__ = [
    "Anchor",
    "Forward",
    "LocalBatch",
    "Others",
    "Seen",
    "Slopes",
    "anchor_of",
    "obstacle",
    "slopes_of",
    "with_frozen",
]

Anchor: TypeAlias = "Callable[[Inputs, torch.Tensor], Sequence[tuple[torch.nn.Parameter, torch.Tensor]]]"
"""(inputs, targets) → the gradients at the model received, of the parameters that have one."""

Forward: TypeAlias = "Callable[[Inputs], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | float]]"
"""inputs → (outputs, their representations where somebody asks for them, what is added to the loss)."""

Slopes: TypeAlias = "Callable[[Inputs, torch.Tensor], torch.Tensor]"
"""(inputs, targets) → their loss, without what is added to it; the gradients of all that is trained are set."""


class Seen(NamedTuple):
    """What a module makes of a batch."""

    outputs: torch.Tensor
    features: torch.Tensor | None
    """What its submodule `representation` has put out, shape (n, features)."""

    @property
    def representation(self) -> torch.Tensor:
        """The features; `AppError` where the trainer was not told which these are."""
        if self.features is None:
            raise AppError('this algorithm looks at representations: give TorchTrainer representation="encoder"')
        return self.features


@dataclass(frozen=True, slots=True)
class LocalBatch:
    """What `GradientCorrection.penalty` is given in each step: the examples, and what the local model makes of them."""

    inputs: Inputs
    """A tensor, or a dict of them where the examples have several inputs by name."""
    targets: torch.Tensor
    seen: Seen
    others: "Others"

    @property
    def outputs(self) -> torch.Tensor:
        """Of the local model."""
        return self.seen.outputs

    @property
    def representation(self) -> torch.Tensor:
        """The same, of its submodule `representation`, shape (n, features)."""
        return self.seen.representation

    def by(self, model: Arrays) -> Seen:
        """What another model makes of the inputs, for example the one received; in evaluation mode, no gradients."""
        return self.others.seen(model, self.inputs)


def obstacle(correction: GradientCorrection | None) -> str | None:
    """Why clients with such a correction cannot train together, as the end of a sentence; None where they can."""
    if correction is None:
        return None
    if correction.anchored:
        return "the algorithm takes each gradient at the model received as well"
    if correction.penalty is not None:
        return "the algorithm adds a term of its own to the loss"
    return "the algorithm compares representations with those of other models" if correction.contrast else None


def anchor_of(setup: Setup, module: torch.nn.Module, correction: GradientCorrection | None) -> Anchor:
    """The gradients of a batch at the tensors that the module has now, with the dropout of the step to come."""
    if correction is None or not correction.anchored:
        return lambda _inputs, _targets: ()
    trained = trained_parameters(module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def gradients(inputs: Inputs, targets: torch.Tensor) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        held = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in start.items()}

        def there(*unnamed: torch.Tensor, **named: torch.Tensor) -> Any:
            return torch.func.functional_call(module, held, unnamed, named)

        with torch.random.fork_rng(devices=setup.generators()), setup.routines():
            outputs = setup.forward(lambda x: called(there, copied(x)), inputs)
            loss = setup.loss(outputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one method unannotated
        return [(p, dense(g)) for name, p in trained.items() if (g := held[name].grad) is not None]

    return gradients


def slopes_of(setup: Setup, module: torch.nn.Module, model: Arrays, correction: GradientCorrection | None) -> Slopes:
    """How the gradients of a batch are found: of the loss with the correction's terms, and where that says."""
    asked, others = correction or GradientCorrection(), Others(setup)
    forward, check = _forward_of(setup, module, model, asked, others), setup.pair_checker()

    def slopes(inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        with setup.routines():
            outputs, features, beside = setup.forward(forward, inputs)
            check(outputs, targets)
            loss = setup.loss(outputs, targets)
            check_is_loss(loss)
            if asked.penalty is not None:
                beside = beside + asked.penalty(LocalBatch(inputs, targets, Seen(outputs, features), others))
            (loss + beside).backward()
        return loss

    if not asked.sharpness:
        return slopes
    climbing = [p for name, p in trained_parameters(module).items() if name not in asked.frozen]

    def uphill(inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        module.zero_grad()  # also what the optimizer does not have
        with torch.random.fork_rng(devices=setup.generators()):  # both have the same dropout
            loss = slopes(copied(inputs), targets)  # a module may change its inputs in place
        with _moved_uphill(climbing, asked.sharpness), _buffers_kept(module):
            module.zero_grad()
            slopes(inputs, targets)
        return loss

    return uphill


@contextmanager
def _moved_uphill(parameters: Sequence[torch.nn.Parameter], rho: float) -> Iterator[None]:
    """w + ρ g/‖g‖, and afterwards w to the bit; where g is 0, w."""
    with torch.no_grad():
        starts = [parameter.clone() for parameter in parameters]
        sloping = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        length = math.sqrt(sum(float(gradient.double().square().sum()) for _, gradient in sloping))
        for parameter, gradient in sloping if length else ():
            parameter.add_(gradient, alpha=rho / length)
    yield
    with torch.no_grad():
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.copy_(start)


@contextmanager
def _buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    """What BatchNorm counts is counted once a step."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    yield
    for buffer, before in kept:
        buffer.copy_(before)


class Others:
    """Other models, which stay as they are while one is trained."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._modules: dict[int, tuple[Arrays, torch.nn.Module]] = {}

    def seen(self, model: Arrays, inputs: Inputs) -> Seen:
        """What such a model makes of a batch."""
        with torch.no_grad():
            outputs, features = self._setup.forward(lambda x: self.run(model, x), inputs)
        return Seen(outputs, features)

    def run(self, model: Arrays, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, in the dtypes in which it is computed."""
        if id(model) not in self._modules:
            with torch.random.fork_rng(devices=self._setup.generators()):
                module = self._setup.build().to(self._setup.device).eval()
            load_into_module(module, model)
            self._modules[id(model)] = model, module
        return _represented(self._modules[id(model)][1], self._setup.representation, inputs)


def _forward_of(
    setup: Setup, module: torch.nn.Module, model: Arrays, asked: GradientCorrection, others: Others
) -> Forward:
    """The module's outputs for a batch, and what the correction's contrast adds to the loss."""
    term = asked.contrast
    if term is None:
        if asked.penalty is None:
            return lambda inputs: (called(module, inputs), None, 0.0)
        return lambda inputs: (*_represented(module, setup.representation, inputs), 0.0)
    if setup.representation is None:
        raise AppError('this algorithm compares representations: give TorchTrainer representation="encoder"')
    compared = (model, term.previous)

    def forward(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        seen = Seen(*_represented(module, setup.representation, inputs))
        with torch.no_grad():
            standing = [Seen(*others.run(other, inputs)).representation for other in compared]
        cosines = [torch.cosine_similarity(seen.representation, still) for still in standing]
        near = torch.stack(cosines, dim=1) / term.temperature
        return *seen, term.weight * (near.logsumexp(dim=1) - near[:, 0]).mean()

    return forward


def _represented(module: torch.nn.Module, name: str | None, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The outputs of a module, and those of its submodule of this name, of shape (n, features)."""
    if name is None:
        return called(module, copied(inputs)), None  # it may change them in place, and they are looked at again
    seen: list[torch.Tensor] = []
    if name not in (there := [each for each, _ in module.named_modules() if each]):
        raise AppError(f"representation is {name!r}, and the module has no such submodule; it has: {', '.join(there)}")
    hook = module.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        outputs = called(module, copied(inputs))
    finally:
        hook.remove()
    return outputs, seen[0].flatten(1)


def with_frozen(trained: Arrays, model: Arrays, correction: GradientCorrection | None) -> Arrays:
    """What was trained, but for what is frozen: BatchNorm has moved its buffers."""
    frozen = correction.frozen if correction else frozenset()
    kept = {name: model[name].astype(trained[name].dtype, copy=False) for name in frozen}
    return Arrays({name: kept.get(name, array) for name, array in trained.items()})
