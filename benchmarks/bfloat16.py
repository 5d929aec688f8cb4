"""Products in bfloat16, and `torch.compile`, beside float32: local training of one client with `TorchTrainer` on a CPU.

The workloads of `simulation_workloads.py`, one thread, the ways in turns. Milliseconds of CPU for one client's round,
the least of several, since others may use the machine; the loss is the training loss of the last round. `compiled` is
`torch.compile` in the app's own function that makes the module; the first round, of the clock, has its compiling.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from simulation_workloads import WORKLOADS, Workload, examples

import hansa
from hansa.training.torch import TorchTrainer

WAYS = {"float32": (False, False), "bfloat16": (True, False), "compiled": (False, True), "both": (True, True)}
"""Name → (bfloat16, compiled)."""


def trainer(work: Workload, *, bfloat16: bool, compiled: bool) -> TorchTrainer:
    """Of the workload."""

    def module() -> torch.nn.Module:
        made = work.module()
        return cast("torch.nn.Module", torch.compile(made)) if compiled else made

    return TorchTrainer(
        module,
        torch.nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=work.learning_rate),
        batch_size=work.batch_size,
        epochs=work.epochs,
        channels_last=len(work.shape) > 1,
        bfloat16=bfloat16,
    )


def rounds(of: TorchTrainer, work: Workload) -> Callable[[], tuple[float, float]]:
    """What plays the next round of one client: (seconds of CPU, of the first round of the clock; training loss)."""
    data, model, number = examples(work, 0), of.initial_model(np.random.default_rng(0)), 0

    def play() -> tuple[float, float]:
        nonlocal model, number
        number += 1
        given = hansa.Task(hansa.ClientInfo("client-0"), number, np.random.default_rng(number), data)
        began, clock = time.process_time(), time.perf_counter()
        update = of.fit(model, given)
        seconds = time.perf_counter() - clock if number == 1 else time.process_time() - began
        model = update.arrays
        return seconds, update.metrics["loss"]

    return play


def main() -> None:
    """Print a table for each workload."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=8)
    given, _ = parser.parse_known_args()
    print("| | a client's round, ms | of float32 | first round, s | loss |\n|---|---|---|---|---|")
    for name in given.workloads:
        work = WORKLOADS[name]
        plays = {}
        for way in given.ways:
            bfloat16, compiled = WAYS[way]
            plays[way] = rounds(trainer(work, bfloat16=bfloat16, compiled=compiled), work)
        measured: dict[str, list[Any]] = {way: [] for way in plays}
        for _ in range(given.rounds + 1):
            for way, play in plays.items():
                measured[way].append(play())
        least = {way: min(seconds for seconds, _ in each[1:]) for way, each in measured.items()}
        for way, each in measured.items():
            ratio = next(iter(least.values())) / least[way]
            print(f"| {name}, {way} | {least[way] * 1000:.1f} | {ratio:.2f} | {each[0][0]:.2f} | {each[-1][1]:.3f} |")


if __name__ == "__main__":
    main()
