"""What local steps cost when clients differ, and who pays less: FedAvg, FedNova, SCAFFOLD, FedDyn, Mime.

Quadratics: 20 clients with F_i(w) = ½ Σ h_i (w − e_i)², h_i ~ LogNormal(0, 1), e_i ~ N(0, 1), in 10 dimensions. The
table has ‖w − w*‖, mean of the last 20 of 200 rounds; w* is the optimum of the mean of the clients' losses.

Synthetic(1, 1) of FedProx: 30 devices of 53 to 5,000 examples, 10 per round, batches of 10, 5 epochs at 0.01, so that
devices take from 25 to 2,300 steps. The table has the mean of the devices' training losses, last 20 of 100 rounds.

Clients count alike, in all algorithms. A round of Mime is two here, one for gradients and one for steps.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

import hansa
from hansa.data import Examples, Split, synthetic
from hansa.messages import Value
from hansa.training.numpy import NumpyModel, NumpyTrainer, Params, softmax_regression

CLIENTS, DIMENSION = 20, 10
LAST = 20


@dataclass(frozen=True)
class Strategy:
    """One row of both tables."""

    name: str
    algorithm: str
    quadratic: dict[str, Value] = field(default_factory=dict)
    """Options for the quadratics."""
    synthetic: dict[str, Value] = field(default_factory=dict)
    """Options for Synthetic(1, 1)."""
    rounds: int = 1
    """Rounds here for one of the paper."""


STRATEGIES = [
    Strategy("FedAvg", "fedavg"),
    Strategy("FedProx, μ = 1", "fedprox", {"mu": 1.0}, {"mu": 1.0}),
    Strategy("FedNova", "fednova"),
    Strategy("SCAFFOLD", "scaffold", {"num_clients": CLIENTS}, {"num_clients": 30}),
    Strategy("FedDyn, α = 1", "feddyn", {"num_clients": CLIENTS, "alpha": 1.0}, {"num_clients": 30, "alpha": 1.0}),
    Strategy("FedDyn, α = 0.1", "feddyn", {"num_clients": CLIENTS, "alpha": 0.1}, {"num_clients": 30, "alpha": 0.1}),
    Strategy("MimeLite, β = 0.5", "mimelite", {"momentum": 0.5}, {"momentum": 0.5}),
    Strategy("Mime, β = 0.5", "mime", {"momentum": 0.5}, {"momentum": 0.5}, rounds=2),
]


@dataclass(frozen=True)
class Work:
    """One column of the first table."""

    name: str
    most: int
    """Steps of a client: between `least` and this, drawn once."""
    rate: float
    least: int = 1
    per_round: int = CLIENTS


COLUMNS = [
    Work("20 steps of 0.05", 20, 0.05, least=20),
    Work("1 to 50 of 0.05", 50, 0.05),
    Work("1 to 50 of 0.002", 50, 0.002),
    Work("1 to 50 of 0.002, 5 clients", 50, 0.002, per_round=5),
]


def quadratics(work: Work) -> tuple[hansa.App, Callable[[hansa.Arrays], float]]:
    """The app, and the distance from the optimum of the mean of the clients' losses."""
    rng = np.random.default_rng(0)
    h, e = rng.lognormal(0, 1, (CLIENTS, DIMENSION)), rng.normal(size=(CLIENTS, DIMENSION))
    steps = rng.integers(work.least, work.most + 1, CLIENTS)
    optimum = (h * e).sum(axis=0) / h.sum(axis=0)

    def loss_and_gradient(params: Params, x: np.ndarray, _: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        away = params["w"] - x[0, 1]
        return float((x[0, 0] * away**2).sum() / 2), {"w": x[0, 0] * away}

    model = NumpyModel(lambda _: {"w": np.zeros(DIMENSION)}, loss_and_gradient)
    app = hansa.App(trainer=NumpyTrainer(model, work.rate, batch_size=1))

    @app.data
    def share(client: hansa.ClientInfo) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat([[h[client.index], e[client.index]]], steps[client.index], axis=0)
        return rows, np.zeros(len(rows))

    return app, lambda params: float(np.linalg.norm(params["w"] - optimum))


def distance(strategy: Strategy, work: Work, rounds: int = 200) -> float:
    """‖w − w*‖, mean of the last 20 rounds of the paper."""
    app, measure = quadratics(work)
    app.central_evaluate(lambda model, _: hansa.Metrics({"distance": measure(model)}, 1))
    return last(app, spec(strategy, strategy.quadratic, work.per_round, rounds), CLIENTS, strategy.rounds)["distance"]


def devices_app(devices: Sequence[Split]) -> hansa.App:
    """Softmax regression of one client per device."""
    model = softmax_regression(60, 10)
    app = hansa.App(trainer=NumpyTrainer(model, 0.01, batch_size=10, epochs=5))

    @app.data
    def share(client: hansa.ClientInfo) -> Examples:
        return devices[client.index].train

    @app.central_evaluate
    def evaluate(params: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
        losses = [model.loss_and_gradient(params, *device.train)[0] for device in devices]
        return hansa.Metrics({"train_loss": np.mean(losses)}, len(devices))

    return app


def synthetic_loss(strategy: Strategy, devices: Sequence[Split], rounds: int = 100) -> float:
    """The mean of the devices' training losses."""
    ran = spec(strategy, strategy.synthetic, 10, rounds)
    return last(devices_app(devices), ran, len(devices), strategy.rounds)["train_loss"]


def spec(strategy: Strategy, options: dict[str, Value], per_round: int, rounds: int) -> hansa.RunSpec:
    """A run of so many rounds of the paper."""
    return hansa.RunSpec(
        algorithm=strategy.algorithm,
        algorithm_options=options,
        aggregator_options={"uniform": True},
        rounds=rounds * strategy.rounds,
        rules=hansa.RoundRules(selection="count", count=per_round),
        evaluation=hansa.EvaluationRules(clients=False),
    )


def last(app: hansa.App, ran: hansa.RunSpec, clients: int, each: int = 1) -> dict[str, float]:
    """Means of the central metrics over the last rounds; each: rounds for one of the paper."""
    records = hansa.simulate(app, ran, clients=clients).rounds[-LAST * each :]
    return {name: float(np.mean([record.central[name] for record in records])) for name in records[0].central}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-synthetic", action="store_true", help="only the quadratics, which take seconds")
    chosen = parser.parse_args()
    began = time.perf_counter()
    print(f"| algorithm | {' | '.join(work.name for work in COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for strategy in STRATEGIES:
        print(f"| {strategy.name} | {' | '.join(f'{distance(strategy, work):.4f}' for work in COLUMNS)} |", flush=True)
    if not chosen.skip_synthetic:
        devices = synthetic.generate(1, 1, seed=0)
        print("\n| algorithm | mean training loss |\n|---|---|")
        for strategy in STRATEGIES:
            print(f"| {strategy.name} | {synthetic_loss(strategy, devices):.3f} |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
