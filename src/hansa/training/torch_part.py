"""A PyTorch module that is one worker's part of something larger."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch

from hansa.arrays import Array, Arrays
from hansa.training.local import LocalWork
from hansa.training.pairs import check_is_loss, explaining
from hansa.training.setup import Loss, Setup, evaluated_at_once
from hansa.training.tensors import array_of_tensor, arrays_of_module, load_into_module

__all__ = ["MakeModule", "MakeOptimizer", "TorchPart", "part_setup"]

MakeModule: TypeAlias = Callable[[], torch.nn.Module]
MakeOptimizer: TypeAlias = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


def part_setup(
    build: MakeModule, loss: Loss, optimizer: MakeOptimizer, device: str = "cpu", threads: int | None = 1
) -> Setup:
    """The settings of a part; as those of `TorchTrainer`."""
    return Setup(
        build=build,
        loss=loss,
        new_optimizer=optimizer,
        work=LocalWork(),
        metrics=None,
        evaluation_batch_size=evaluated_at_once(torch.device(device)),
        device=torch.device(device),
        threads=threads,
        format=torch.preserve_format,
        representation=None,
    )


class TorchPart:
    """A module, its optimizer and its random numbers, so that dropout depends on nobody else who trains beside it."""

    def __init__(self, setup: Setup, rng: np.random.Generator) -> None:
        """rng: draws the first tensors, and what layers such as dropout draw."""
        self.setup = setup
        self.rng = rng
        with setup.seeded(rng):
            self.module = setup.build().to(setup.device)
        self.optimizer = setup.optimizer(self.module.parameters())
        self._check_pairs = setup.pair_checker()

    def arrays(self) -> Arrays:
        """A copy of the module's parameters and buffers."""
        return arrays_of_module(self.module)

    def load(self, arrays: Arrays) -> None:
        """Take these tensors, with a new optimizer."""
        load_into_module(self.module, arrays)
        self.optimizer = self.setup.optimizer(self.module.parameters())

    def predict(self, x: Any, module: torch.nn.Module | None = None) -> Array:
        """The outputs in evaluation mode. module: one of its submodules, in its place."""
        with self.setup.on_threads(), torch.no_grad():
            self.module.eval()
            outputs: torch.Tensor = (module or self.module)(self.batch(x, x)[0])
        return array_of_tensor(outputs)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of a batch; raises `AppError` where it takes each output with every target, or is none."""
        with explaining(inputs, targets):
            outputs = self.module(inputs)
            self._check_pairs(outputs, targets)
            loss: torch.Tensor = self.setup.loss(outputs, targets)
        check_is_loss(loss)
        return loss

    def batch(self, x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets as tensors, in the dtypes that the module needs."""
        return self.setup.batch(x, y, slice(0, len(x)), self.module)
