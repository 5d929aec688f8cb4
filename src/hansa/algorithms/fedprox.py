"""FedProx: each client descends F_i(w_i) + (μ/2)‖w_i − w‖², so its gradient gains μ(w_i − w); the server is FedAvg's.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv:1812.06127, Algorithm 2. The partial work of stragglers counts: that is half of the paper.
"""

from functools import partial

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import corrected_change
from hansa.algorithms.options import check_not_negative
from hansa.arrays import Arrays
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "fedprox"]


def fedprox(aggregator: Aggregator, *, mu: float = 0.01) -> Algorithm:
    """mu: μ ≥ 0, the pull towards the global model; 0 is FedAvg. The paper tunes it over 0.001, 0.01, 0.1 and 1."""
    check_not_negative("fedprox", "mu", mu)
    return Algorithm(
        name="fedprox",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, mu=mu),
        aggregator=aggregator,
        server_update=fedavg.server_update,
        keeps_partial_work=True,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, mu: float) -> Update:
    """Δ_i = w_i − w, each local gradient corrected by μ(w_i − w); an app that ignores it is an `AppError`."""
    correction = GradientCorrection(proximal=mu) if mu else None
    return corrected_change("fedprox", trainer, model, task, correction)
