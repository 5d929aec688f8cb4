"""A small search space for FedNAS in PyTorch: networks of cells whose edges mix operations, and what is left of them.

    node_j = Σ_{i<j} Σ_o softmax(α_ij)_o · o(node_i)

Liu, Simonyan, Yang: "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv:1806.09055, in small: one input per
cell, all cells with the same α, GroupNorm in place of BatchNorm, which would average means of unlike clients.

`search_network` is the supernet, `genotype` reads the architecture out of a trained one, `network` is that alone.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from hansa.arrays import Array
from hansa.errors import InputError, MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch_cells", "torch") from error

from torch import nn
from torch.nn import functional

__all__ = ["ALPHA", "OPERATIONS", "genotype", "network", "search_network"]

ALPHA: Final = "alpha"
"""The tensor α, of shape (edges, operations)."""


class _Zero(nn.Module):
    """No edge."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


def _separable(channels: int, size: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.GroupNorm(1, channels),
    )


OPERATIONS: Final[Mapping[str, Callable[[int], nn.Module]]] = MappingProxyType(
    {
        "none": lambda _: _Zero(),
        "skip": lambda _: nn.Identity(),
        "average 3×3": lambda _: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        "convolution 3×3": lambda channels: _separable(channels, 3),
        "convolution 5×5": lambda channels: _separable(channels, 5),
    }
)
"""By the order of α's columns; each is given the number of channels, and keeps the shape of its input."""

_NAMES = tuple(OPERATIONS)


class _Cell(nn.Module):
    """Nodes in a row, each the sum of what comes from those before; the output is the last. edges: their operations."""

    def __init__(self, channels: int, edges: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.operations = nn.ModuleList(OPERATIONS[name](channels) for names in edges for name in names)
        self.edges = [len(names) for names in edges]

    def forward(self, x: torch.Tensor, mixed: torch.Tensor | None) -> torch.Tensor:
        """mixed: of shape (edges, operations), how much each counts; None: as it is."""
        nodes, edge, operations = [x], 0, iter(self.operations)
        while edge < len(self.edges):
            into = []
            for before in nodes:
                for index in range(self.edges[edge]):
                    out = next(operations)(before)
                    into.append(out if mixed is None else mixed[edge, index] * out)
                edge += 1
            nodes.append(torch.stack(into).sum(dim=0))
        return nodes[-1]


class _Network(nn.Module):
    """A stem, cells with pooling between them, and a linear layer."""

    def __init__(self, inputs: int, classes: int, channels: int, cells: int, edges: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.GroupNorm(1, channels))
        self.cells = nn.ModuleList(_Cell(channels, edges) for _ in range(cells))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images, shape (n, inputs, height, width)."""
        return self.run(x, None)

    def run(self, x: torch.Tensor, mixed: torch.Tensor | None) -> torch.Tensor:
        """The same, with how much each operation counts."""
        x = self.stem(x)
        for index, cell in enumerate(self.cells):
            x = cell(functional.avg_pool2d(x, 2) if index else x, mixed)
        return torch.as_tensor(self.head(x.mean(dim=(2, 3))))


class _SearchNetwork(_Network):
    """With every operation on every edge, and α."""

    def __init__(self, inputs: int, classes: int, channels: int, cells: int, edges: int) -> None:
        super().__init__(inputs, classes, channels, cells, [_NAMES] * edges)
        self.alpha = nn.Parameter(1e-3 * torch.randn(edges, len(_NAMES)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the mixture."""
        return self.run(x, functional.softmax(self.alpha, dim=1))


def search_network(inputs: int, classes: int, *, channels: int = 8, cells: int = 2, nodes: int = 3) -> nn.Module:
    """The supernet. inputs: channels of an image; nodes: of a cell, at least 1, beside its input."""
    if nodes < 1 or cells < 1:
        raise InputError(f"nodes is {nodes} and cells {cells}; both must be at least 1")
    return _SearchNetwork(inputs, classes, channels, cells, nodes * (nodes + 1) // 2)


def network(inputs: int, classes: int, architecture: Sequence[str], *, channels: int = 8, cells: int = 2) -> nn.Module:
    """The network of an architecture: the operation of each edge, as `genotype` gives them."""
    unknown = [name for name in architecture if name not in OPERATIONS]
    if unknown or not architecture:
        raise InputError(f"the architecture has {unknown[:1] or 'no edge'}; operations are {', '.join(_NAMES)}")
    return _Network(inputs, classes, channels, cells, [[name] for name in architecture])


def genotype(alpha: Array) -> tuple[str, ...]:
    """Of each edge the operation with the largest α, but for `none`, as in DARTS. alpha: shape (edges, operations)."""
    if alpha.ndim != 2 or alpha.shape[1] != len(_NAMES):  # noqa: PLR2004 - edges and operations
        raise InputError(f"alpha has the shape {alpha.shape}; it must be (edges, {len(_NAMES)})")
    return tuple(_NAMES[1 + int(np.argmax(row[1:]))] for row in alpha)
