"""Linear layers by oneDNN beside PyTorch's own product: outputs and both gradients, one thread, in turns."""

import time
from collections.abc import Callable

import torch

from hansa.training.routines import Quick

SHAPES = [(784, 128), (256, 256), (3136, 512), (12544, 128), (12544, 10), (768, 3072)]
ROWS = [4, 10, 20, 32, 64, 256]
TURNS = 5


def seconds(work: Callable[[], object]) -> float:
    """Of one call, of as many as take some hundredths of a second."""
    work()
    began = time.perf_counter()
    work()
    calls = max(1, int(0.02 / (time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) / calls


def ratio(layer: torch.nn.Linear, rows: int) -> float:
    """How many times as long PyTorch's own takes for so many rows."""
    quick = Quick(layer)
    x, gradient = torch.randn(rows, layer.in_features, requires_grad=True), torch.randn(rows, layer.out_features)
    wanted = [x, *layer.parameters()]

    def plain() -> None:
        torch.autograd.grad(layer(x), wanted, gradient)

    def by_onednn() -> None:
        with quick:
            plain()

    turns = [(seconds(plain), seconds(by_onednn)) for _ in range(TURNS)]
    return min(own for own, _ in turns) / min(other for _, other in turns)


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    print("| inputs × outputs | " + " | ".join(f"{rows} rows" for rows in ROWS) + " |")
    print("|---|" + "---|" * len(ROWS))
    for inputs, outputs in SHAPES:
        layer = torch.nn.Linear(inputs, outputs)
        print(
            f"| {inputs} × {outputs} | " + " | ".join(f"{ratio(layer, rows):.2f}" for rows in ROWS) + " |", flush=True
        )


if __name__ == "__main__":
    main()
