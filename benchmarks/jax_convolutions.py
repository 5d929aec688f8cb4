"""Convolutions on a CPU with JAX beside PyTorch: seconds of CPU for a client's round, one thread where one can say so.

The workloads F and C of `simulation_workloads.py`. "JaxTrainer" is one client alone, which is what the vectorized
engine does with a model that convolves; "by hand, together" is `vmap` over clients and `scan` over steps, "by hand, in
turn" the same with `lax.map`. The least of a few rounds, after one that compiles; CPU, since others may use it as well.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from simulation_workloads import WORKLOADS, Workload, examples

import hansa
from hansa.training.jax import JaxTrainer
from hansa.training.torch import TorchTrainer

sys.path.append(str(Path(__file__).parent / "simulators"))

from jax_modules import cross_entropy, forward


def _params(model: hansa.Arrays, _key: Any = None) -> dict[str, Any]:
    return {key: jnp.asarray(value) for key, value in model.items()}


def task() -> hansa.Task:
    """Of one client."""
    return hansa.Task(hansa.ClientInfo("client-0"), 1, np.random.default_rng(0))


def alone(trainer: Any, work: Workload, model: hansa.Arrays) -> Callable[[], Any]:
    """A client's round with a trainer."""
    given = task()
    given.data = examples(work, 0)
    return lambda: trainer.fit(model, given)


def by_hand(name: str, model: hansa.Arrays, clients: int, *, together: bool) -> Callable[[], Any]:
    """A round of several clients."""
    work, logits = WORKLOADS[name], forward(name)
    x, y = (jnp.asarray(np.stack(part)) for part in zip(*(examples(work, n) for n in range(clients)), strict=True))
    order = jnp.arange(work.num_examples).reshape(-1, work.batch_size)
    gradient = jax.grad(lambda params, x, y: cross_entropy(logits(params, x), y))

    def client(params: Any, x: Any, y: Any) -> Any:
        def step(params: Any, batch: Any) -> tuple[Any, None]:
            slopes = gradient(params, x[batch], y[batch])
            return {key: value - work.learning_rate * slopes[key] for key, value in params.items()}, None

        return jax.lax.scan(step, params, order)[0]

    def play(params: Any) -> Any:
        if together:
            return jax.vmap(client, (None, 0, 0))(params, x, y)
        return jax.lax.map(lambda each: client(params, *each), (x, y))

    compiled, params = jax.jit(play), _params(model)
    return lambda: jax.block_until_ready(compiled(params))  # type: ignore[no-untyped-call]  # JAX leaves it so


def least(play: Callable[[], Any], rounds: int, clients: int) -> float:
    """Seconds of CPU for each client."""
    play()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        play()
        seconds.append(time.process_time() - began)
    return min(seconds) / clients


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=["F", "C"], default=["F", "C"])
    parser.add_argument("--clients", type=int, default=4, help="of the loops by hand")
    parser.add_argument("--rounds", type=int, default=2)
    given, _ = parser.parse_known_args()
    print("| | PyTorch | JaxTrainer | JAX by hand, in turn | JAX by hand, together |\n|---|---|---|---|---|")
    for name in given.workloads:
        work = WORKLOADS[name]
        loss = torch.nn.functional.cross_entropy
        of_torch = TorchTrainer(
            work.module, loss, partial(torch.optim.SGD, lr=work.learning_rate),
            batch_size=work.batch_size, epochs=work.epochs, channels_last=True,
        )  # fmt: skip
        model = of_torch.initial_model(np.random.default_rng(0))
        of_jax = JaxTrainer(
            partial(_params, model),
            forward(name), cross_entropy, optax.sgd(work.learning_rate), batch_size=work.batch_size, epochs=work.epochs,
        )  # fmt: skip
        seconds = [
            least(alone(of_torch, work, model), given.rounds, 1),
            least(alone(of_jax, work, of_jax.initial_model(np.random.default_rng(0))), given.rounds, 1),
            least(by_hand(name, model, given.clients, together=False), given.rounds, given.clients),
            least(by_hand(name, model, given.clients, together=True), given.rounds, given.clients),
        ]
        print(f"| {name} | " + " | ".join(f"{each:.3f}" for each in seconds) + " |", flush=True)


if __name__ == "__main__":
    main()
