"""The vectorized engines of PyTorch and of JAX, and a loop by hand in JAX, in turns, on the same clients and model.

A perceptron of one hidden layer on made-up examples, or with 0 hidden units logistic regression; batches of 10, SGD. A
run of each is 30 rounds after 3 that compile and warm up. Clients are of unequal size and train for two epochs; with
`--equal` they have 50 examples and train for five, as in the workloads L and S of the other benchmarks, and a loop by
hand (`vmap` over clients, `scan` over steps, one compiled function a round) is measured too. The table has medians of
runs, and the least round of all, since others may use the machine; CPU is that of the whole process.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import hansa
from hansa.training.jax import JaxTrainer
from hansa.training.torch import TorchTrainer

FEATURES, CLASSES, BATCH, RATE, WARM, EQUAL = 60, 10, 10, 0.05, 3, 50


def data(index: int, *, equal: bool) -> tuple[Any, Any]:
    """20 to 200 examples; of equal clients, 50."""
    rng = np.random.default_rng(index)
    size = EQUAL if equal else 20 + index * 7919 % 181
    x = rng.standard_normal((size, FEATURES)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(1)


def of_torch(hidden: int, epochs: int) -> Any:
    """The trainer."""

    def module() -> Any:
        if not hidden:
            return torch.nn.Linear(FEATURES, CLASSES)
        return torch.nn.Sequential(torch.nn.Linear(FEATURES, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, CLASSES))

    return TorchTrainer(
        module,
        torch.nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        batch_size=BATCH,
        epochs=epochs,
    )


def init(hidden: int, key: Any) -> Any:
    """The layers of the same model."""
    sizes = [FEATURES, hidden, CLASSES] if hidden else [FEATURES, CLASSES]
    return [
        {"weight": jax.random.uniform(each, (before, after), minval=-(before**-0.5), maxval=before**-0.5),
         "bias": jnp.zeros(after)}
        for each, before, after in zip(jax.random.split(key, len(sizes)), sizes, sizes[1:], strict=False)
    ]  # fmt: skip


def apply(params: Any, x: Any) -> Any:
    """Logits."""
    *below, last = params
    for layer in below:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    return x @ last["weight"] + last["bias"]


def loss(logits: Any, labels: Any) -> Any:
    """The mean."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def of_jax(hidden: int, epochs: int) -> Any:
    """The same trainer."""
    return JaxTrainer(partial(init, hidden), apply, loss, optax.sgd(RATE), batch_size=BATCH, epochs=epochs)


@dataclass
class Timed:
    """What a run came to."""

    first: float
    """Seconds of the first round."""
    later: list[float]
    """Seconds of each round that is counted."""
    cpu: float
    """Seconds of CPU of one of these, the median."""
    loss: float
    """Of the last round; NaN where it is not told."""


def run(trainer: Any, clients: int, rounds: int, *, equal: bool) -> Timed:
    """A simulation."""
    app, cpu = hansa.App(trainer), []
    app.data(lambda client: data(client.index, equal=equal))
    done = hansa.simulate(
        app, clients=clients, rounds=WARM + rounds, engine="vectorized", progress=False,
        evaluation=hansa.EvaluationRules(every=0), on_round=lambda _: cpu.append(time.process_time()),
    ).rounds  # fmt: skip
    later = [each.seconds for each in done[WARM:]]
    return Timed(done[0].seconds, later, statistics.median(np.diff(cpu[WARM - 1 :])), done[-1].metrics["loss"])


def by_hand(hidden: int, clients: int, rounds: int, epochs: int) -> Timed:
    """The same arithmetic on equal clients, without anything around it."""
    shares = [data(index, equal=True) for index in range(clients)]
    x, y = (jnp.asarray(np.stack(part)) for part in zip(*shares, strict=True))
    gradient = jax.grad(lambda params, x, y: loss(apply(params, x), y))

    def client(params: Any, x: Any, y: Any, key: Any) -> Any:
        def step(params: Any, batch: Any) -> tuple[Any, None]:
            slopes = gradient(params, x[batch], y[batch])
            return jax.tree.map(lambda value, slope: value - RATE * slope, params, slopes), None

        orders = jax.vmap(lambda each: jax.random.permutation(each, EQUAL))(jax.random.split(key, epochs))
        return jax.lax.scan(step, params, orders.reshape(-1, BATCH))[0]

    def together(params: Any, key: Any) -> Any:
        trained = jax.vmap(client, (None, 0, 0, 0))(params, x, y, jax.random.split(key, clients))
        return jax.tree.map(lambda values: values.mean(0), trained)

    play, params, seconds, cpu = jax.jit(together), init(hidden, jax.random.key(0)), [], []
    for key in jax.random.split(jax.random.key(1), WARM + rounds):
        began = time.perf_counter()
        params = jax.block_until_ready(play(params, key))  # type: ignore[no-untyped-call]  # JAX leaves it so
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time())
    return Timed(seconds[0], seconds[WARM:], statistics.median(np.diff(cpu[WARM - 1 :])), math.nan)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--equal", action="store_true", help="equal clients, and a loop by hand beside")
    parser.add_argument("--hidden", type=int, nargs="+")
    given, _ = parser.parse_known_args()
    epochs = 5 if given.equal else 2
    ways: dict[str, Callable[[int], Timed]] = {
        "torch": lambda hidden: run(of_torch(hidden, epochs), given.clients, given.rounds, equal=given.equal),
        "jax": lambda hidden: run(of_jax(hidden, epochs), given.clients, given.rounds, equal=given.equal),
    }
    if given.equal:
        ways["by hand"] = lambda hidden: by_hand(hidden, given.clients, given.rounds, epochs)
    print(f"{given.clients} clients in every round, {time.strftime('%Y-%m-%d')}")
    print(
        "| hidden units, way | first round, s | a round, ms: median | least | CPU | loss |\n|---|---|---|---|---|---|"
    )
    for hidden in given.hidden or ((0, 64) if given.equal else (16, 128, 512)):
        runs: dict[str, list[Timed]] = {way: [] for way in ways}
        for _ in range(given.repeat):
            for way, measure in ways.items():
                runs[way].append(measure(hidden))
        for way, times in runs.items():
            first = statistics.median(each.first for each in times)
            later = statistics.median(statistics.median(each.later) for each in times)
            least, cpu = min(min(each.later) for each in times), statistics.median(each.cpu for each in times)
            numbers = f"{later * 1000:.1f} | {least * 1000:.1f} | {cpu * 1000:.1f} | {times[-1].loss:.3f}"
            print(f"| {hidden}, {way} | {first:.2f} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
