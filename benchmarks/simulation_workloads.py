"""Four workloads of simulations, as apps: two dense models of many clients, two convolutional ones.

The data are random, and the same wherever they are made; only how long a round takes is measured with them.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from simulation_modules import module

import hansa
from hansa.training.torch import TorchTrainer

__all__ = ["WORKLOADS", "Workload", "app", "examples", "write_app"]

nn = torch.nn


@dataclass(frozen=True, slots=True)
class Workload:
    """One of them."""

    title: str
    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of one input."""
    classes: int
    clients: int
    num_examples: int
    """Of each client."""
    batch_size: int
    epochs: int
    learning_rate: float = 0.05


WORKLOADS = {
    "L": Workload("logistic regression 60-10", partial(module, "L"), (60,), 10, 100, 50, 10, 5),
    "S": Workload("MLP 60-64-10", partial(module, "S"), (60,), 10, 100, 50, 10, 5),
    "F": Workload("FEMNIST CNN", partial(module, "F"), (1, 28, 28), 62, 10, 100, 20, 1),
    "C": Workload("CIFAR-10 CNN", partial(module, "C"), (3, 32, 32), 10, 50, 50, 10, 1),
}


def examples(work: Workload, client: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets that a linear function of them decides."""
    rng = np.random.default_rng([7, client])
    x = rng.standard_normal((work.num_examples, *work.shape)).astype(np.float32)
    truth = np.random.default_rng(8).standard_normal((int(np.prod(work.shape)), work.classes))
    return x, (x.reshape(len(x), -1) @ truth).argmax(1)


def app(name: str, device: str = "cpu") -> hansa.App:
    """An app without a file."""
    work = WORKLOADS[name]
    made = hansa.App(
        TorchTrainer(
            work.module,
            nn.functional.cross_entropy,
            lambda parameters: torch.optim.SGD(parameters, lr=work.learning_rate),
            batch_size=work.batch_size,
            epochs=work.epochs,
            device=device,
            channels_last=len(work.shape) > 1,
        )
    )
    made.data(lambda client: examples(work, client.index))
    return made


def write_app(name: str, device: str) -> Path:
    """The same as a file, for worker processes."""
    path = Path(tempfile.mkdtemp()) / "app.py"
    path.write_text(
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
        f"import simulation_workloads\napp = simulation_workloads.app({name!r}, {device!r})\n"
    )
    return path
