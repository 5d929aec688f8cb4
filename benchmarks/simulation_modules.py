"""The models of the simulation benchmarks, as PyTorch modules; the environments of other libraries load them too."""

from torch import nn

__all__ = ["module"]


def module(workload: str) -> nn.Module:
    """A new one, with random parameters."""
    match workload:
        case "L":
            return nn.Linear(60, 10)
        case "S":
            return mlp()
        case "F":
            return femnist_cnn()
        case "C":
            return cifar_cnn()
    raise ValueError(workload)


def mlp() -> nn.Module:
    """4,554 parameters."""
    return nn.Sequential(nn.Linear(60, 64), nn.ReLU(), nn.Linear(64, 10))


def femnist_cnn() -> nn.Module:
    """The CNN of McMahan et al. 2017 for 62 classes: 1.7 million parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 62),
    )  # fmt: skip


def cifar_cnn() -> nn.Module:
    """As in the benchmarks of pfl-research, but without dropout: 1.6 million parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(12544, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
