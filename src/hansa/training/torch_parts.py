"""Parts of cut networks in PyTorch: any modules, any `torch.optim` optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.errors import MissingExtraError
from hansa.protocols.parts import Join, Parts, VerticalParts
from hansa.training.local import LocalWork

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch_parts", "torch") from error

from hansa.training.setup import Loss, Setup
from hansa.training.tensors import array_of_tensor, arrays_of_module, load_into_module

__all__ = ["TorchBottom", "TorchTop", "torch_parts", "vertical_torch_parts"]

MakeModule = Callable[[], torch.nn.Module]
MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


class _TorchPart:
    """A module, its optimizer and its random numbers, so that dropout depends on nobody else who trains beside it."""

    def __init__(self, setup: Setup, rng: np.random.Generator) -> None:
        self._setup = setup
        self._rng = rng
        with setup.seeded(rng):
            self._module = setup.build().to(setup.device)
        self._optimizer = setup.optimizer(self._module.parameters())

    def arrays(self) -> Arrays:
        """A copy of the module's parameters and buffers."""
        return arrays_of_module(self._module)

    def load(self, arrays: Arrays) -> None:
        """Take these tensors, with a new optimizer."""
        load_into_module(self._module, arrays)
        self._optimizer = self._setup.optimizer(self._module.parameters())

    def predict(self, x: Any) -> Array:
        """The module's outputs, in evaluation mode."""
        with self._setup.on_threads(), torch.no_grad():
            self._module.eval()
            outputs: torch.Tensor = self._module(self._batch(x, x)[0])
        return array_of_tensor(outputs)

    def _batch(self, x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._setup.batch(x, y, slice(0, len(x)), self._module)


class TorchBottom(_TorchPart):
    """A `hansa.protocols.parts.Bottom`."""

    _outputs: torch.Tensor

    def forward(self, x: Any) -> Array:
        """The activations, in training mode."""
        with self._setup.seeded(self._rng):
            self._module.train()
            self._outputs = self._module(self._batch(x, x)[0])
        return array_of_tensor(self._outputs)

    def backward(self, slope: Array) -> None:
        """Step the optimizer."""
        with self._setup.on_threads():
            self._optimizer.zero_grad()
            slopes = torch.from_numpy(slope.copy()).to(self._outputs)
            self._outputs.backward(slopes)  # type: ignore[no-untyped-call]  # torch leaves this one unannotated
            self._optimizer.step()


class TorchTop(_TorchPart):
    """A `hansa.protocols.parts.Top`."""

    def step(self, activations: Array, y: Any) -> tuple[float, Array]:
        """The mean loss and its slope at the activations, before the optimizer's step that this takes."""
        with self._setup.seeded(self._rng):
            self._module.train()
            self._optimizer.zero_grad()
            inputs, targets = self._batch(activations, y)
            inputs = inputs.detach().requires_grad_()
            loss = self._setup.loss(self._module(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # as above
            self._optimizer.step()
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
    lower, upper = _setup(bottom, loss, optimizer, device, threads), _setup(top, loss, optimizer, device, threads)
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
    upper = _setup(top, loss, optimizer, device, threads)

    def make_bottom(party: int, rng: np.random.Generator) -> TorchBottom:
        return TorchBottom(_setup(lambda: bottom(party), loss, optimizer, device, threads), rng)

    return VerticalParts(make_bottom, lambda rng: TorchTop(upper, rng), join)


def _setup(build: MakeModule, loss: Loss, optimizer: MakeOptimizer, device: str, threads: int | None) -> Setup:
    return Setup(
        build=build,
        loss=loss,
        optimizer=optimizer,
        work=LocalWork(),
        metrics=None,
        evaluation_batch_size=1024,
        device=torch.device(device),
        threads=threads,
        format=torch.preserve_format,
        representation=None,
    )
