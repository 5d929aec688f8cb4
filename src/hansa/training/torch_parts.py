"""Parts of cut networks in PyTorch: any modules, any `torch.optim` optimizer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hansa.arrays import Array
from hansa.errors import MissingExtraError
from hansa.protocols.parts import Join, Parts, VerticalParts

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch_parts", "torch") from error

from hansa.training.pairs import explaining
from hansa.training.setup import Loss
from hansa.training.tensors import array_of_tensor
from hansa.training.torch_part import MakeModule, MakeOptimizer, TorchPart, part_setup

__all__ = ["TorchBottom", "TorchTop", "torch_parts", "vertical_torch_parts"]


class TorchBottom(TorchPart):
    """A `hansa.protocols.parts.Bottom`."""

    _outputs: torch.Tensor

    def forward(self, x: Any) -> Array:
        """The activations, in training mode."""
        with self.setup.seeded(self.rng):
            self.module.train()
            inputs, _ = self.batch(x, x)
            with explaining(inputs, inputs):
                self._outputs = self.module(inputs)
        return array_of_tensor(self._outputs)

    def backward(self, slope: Array) -> None:
        """Step the optimizer."""
        with self.setup.on_threads():
            self.optimizer.zero_grad()
            slopes = torch.from_numpy(slope.copy()).to(self._outputs)
            self._outputs.backward(slopes)  # type: ignore[no-untyped-call]  # torch leaves this one unannotated
            self.optimizer.step()


class TorchTop(TorchPart):
    """A `hansa.protocols.parts.Top`."""

    def step(self, activations: Array, y: Any) -> tuple[float, Array]:
        """The mean loss and its slope at the activations, before the optimizer's step that this takes."""
        with self.setup.seeded(self.rng):
            self.module.train()
            self.optimizer.zero_grad()
            inputs, targets = self.batch(activations, y)
            inputs = inputs.detach().requires_grad_()
            loss = self.loss(inputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]  # as above
            self.optimizer.step()
        if inputs.grad is None:
            return loss.item(), np.zeros_like(activations)
        return loss.item(), array_of_tensor(inputs.grad)


def torch_parts(
    bottom: MakeModule,
    top: MakeModule,
    loss: Loss,
    optimizer: MakeOptimizer,
    *,
    device: str = "cpu",
    threads: int | None = 1,
) -> Parts:
    """A network that is cut in two modules; `nn.Sequential(bottom(), top())` is the whole.

    bottom, top: each makes a new module. optimizer, device, threads: as of `TorchTrainer`; each part has an optimizer
    of its own.
    """
    lower, upper = (
        part_setup(bottom, loss, optimizer, device, threads),
        part_setup(top, loss, optimizer, device, threads),
    )
    return Parts(lambda rng: TorchBottom(lower, rng), lambda rng: TorchTop(upper, rng))


def vertical_torch_parts(
    bottom: Callable[[int], torch.nn.Module],
    top: MakeModule,
    loss: Loss,
    optimizer: MakeOptimizer,
    *,
    join: Join = "concatenate",
    device: str = "cpu",
    threads: int | None = 1,
) -> VerticalParts:
    """A bottom for each party, made by its number, and a top on their outputs, side by side or as their sum."""
    upper = part_setup(top, loss, optimizer, device, threads)

    def make_bottom(party: int, rng: np.random.Generator) -> TorchBottom:
        return TorchBottom(part_setup(lambda: bottom(party), loss, optimizer, device, threads), rng)

    return VerticalParts(make_bottom, lambda rng: TorchTop(upper, rng), join)
