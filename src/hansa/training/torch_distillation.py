"""Both sides of FedGKT in PyTorch: cross-entropy, and what a teacher's logits add to it."""

from typing import Any

import numpy as np

from hansa.arrays import Array
from hansa.errors import ConfigError, MissingExtraError
from hansa.protocols.fedgkt import Teams

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch_distillation", "torch") from error

from torch.nn import functional

from hansa.training.pairs import explaining
from hansa.training.setup import Setup
from hansa.training.torch_part import MakeModule, MakeOptimizer, TorchPart, part_setup

__all__ = ["TorchEdge", "TorchServer", "distillation", "torch_teams"]


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), the mean over samples. Hinton et al. 2015, 1503.02531."""
    towards = functional.log_softmax(teacher / temperature, dim=1)
    away = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * functional.kl_div(away, towards, reduction="batchmean", log_target=True)


class _Taught(TorchPart):
    """A network that is taught."""

    def __init__(self, setup: Setup, alpha: float, temperature: float, rng: np.random.Generator) -> None:
        super().__init__(setup, rng)
        self._alpha = alpha
        self._temperature = temperature

    def step(self, x: Any, y: Any, teacher: Array | None) -> float:
        """A step on one batch, and the loss before it."""
        with self.setup.seeded(self.rng):
            self.module.train()
            self.optimizer.zero_grad()
            inputs, targets = self.batch(x, y)
            with explaining(inputs, targets):
                logits = self.module(inputs)
                loss = self.setup.loss(logits, targets)
            if teacher is not None:
                taught = torch.from_numpy(teacher.copy()).to(logits)
                loss = loss + self._alpha * distillation(logits, taught, self._temperature)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this one unannotated
            self.optimizer.step()
        return loss.item()


class TorchEdge(_Taught):
    """A `hansa.protocols.fedgkt.Edge`: `nn.Sequential(extractor, classifier)`."""

    def extract(self, x: Any) -> tuple[Array, Array]:
        """(features, logits)."""
        extractor, classifier = self.module.children()
        features = self.predict(x, extractor)
        return features, self.predict(features, classifier)


class TorchServer(_Taught):
    """A `hansa.protocols.fedgkt.Server`."""

    def logits(self, features: Array) -> Array:
        """Its logits."""
        return self.predict(features)


def torch_teams(
    extractor: MakeModule,
    classifier: MakeModule,
    server: MakeModule,
    optimizer: MakeOptimizer,
    *,
    alpha: float = 1.0,
    temperature: float = 3.0,
    device: str = "cpu",
    threads: int | None = 1,
) -> Teams:
    """Networks for FedGKT; server: on the extractor's features, of shape (n, …). alpha ≥ 0, temperature T > 0."""
    if not alpha >= 0 or not temperature > 0:
        raise ConfigError(
            f"alpha is {alpha} and temperature {temperature}; alpha must be at least 0, temperature above 0"
        )

    loss = functional.cross_entropy
    whole = part_setup(lambda: torch.nn.Sequential(extractor(), classifier()), loss, optimizer, device, threads)
    large = part_setup(server, loss, optimizer, device, threads)
    return Teams(
        lambda rng: TorchEdge(whole, alpha, temperature, rng), lambda rng: TorchServer(large, alpha, temperature, rng)
    )
