"""How long an evaluation takes by the examples that are evaluated at once: seconds of CPU, one thread, in turns."""

import time
from collections.abc import Callable

import numpy as np
import torch
from simulation_modules import cifar_cnn, femnist_cnn, mlp
from torch import nn

import hansa
from hansa.training.torch import TorchTrainer

SIZES = (32, 64, 128, 256, 512, 1024)
TURNS = 5
EXAMPLES = 2048


class Text(nn.Module):
    """The LSTM for Shakespeare's characters: 80 of them, two layers of 256."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(80, 8)
        self.layers = nn.LSTM(8, 256, 2, batch_first=True)
        self.last = nn.Linear(256, 80)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What follows x, whole numbers of shape (n, 80)."""
        return self.last(self.layers(self.embedding(x))[0][:, -1])


def deep_cnn() -> nn.Module:
    """Five convolutions with group normalization, on images of 32 × 32."""
    sizes = ((3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2))
    blocks = [
        layer
        for before, after, stride in sizes
        for layer in (nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.ReLU())
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def seconds(build: Callable[[], nn.Module], x: np.ndarray, classes: int) -> dict[int, float]:
    """Of the fastest of some turns, by the size of batches."""
    rng = np.random.default_rng(0)
    task = hansa.Task(hansa.ClientInfo("test"), 1, rng, (x, rng.integers(0, classes, len(x))))
    trainers = {
        size: TorchTrainer(
            build,
            nn.functional.cross_entropy,
            lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            evaluation_batch_size=size,
            channels_last=x.ndim == 4,  # noqa: PLR2004 - images
        )
        for size in SIZES
    }
    model = trainers[SIZES[0]].initial_model(rng)
    turns = []
    for _ in range(TURNS):
        turn = {}
        for size, trainer in trainers.items():
            began = time.process_time()
            trainer.evaluate(model, task)
            turn[size] = time.process_time() - began
        turns.append(turn)
    return {size: min(turn[size] for turn in turns) for size in SIZES}


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(0)
    small, large = (rng.normal(size=(EXAMPLES, *shape)).astype(np.float32) for shape in ((1, 28, 28), (3, 32, 32)))
    jobs: list[tuple[str, Callable[[], nn.Module], np.ndarray, int]] = [
        ("F, FEMNIST CNN", femnist_cnn, small, 62),
        ("C, CIFAR-10 CNN", cifar_cnn, large, 10),
        ("five convolutions, group normalization", deep_cnn, large, 10),
        ("LSTM, 80 characters", Text, rng.integers(0, 80, (EXAMPLES, 80)), 80),
        ("S, MLP 60-64-10", mlp, rng.normal(size=(EXAMPLES, 60)).astype(np.float32), 10),
    ]
    print("| | " + " | ".join(map(str, SIZES)) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name, build, x, classes in jobs:
        taken = seconds(build, x, classes)
        print(f"| {name} | " + " | ".join(f"{taken[size]:.3g}" for size in SIZES) + " |", flush=True)


if __name__ == "__main__":
    main()
