"""FedSAM: each client looks for a flat minimum; it takes every gradient where its loss is about the highest nearby.

    client i:   w_i ← w_i − η ∇F_i(w_i + ρ g/‖g‖), g = ∇F_i(w_i), both gradients of one batch; the server is FedAvg's

Qu, Li, Duan, Liu, Tang, Lu: "Generalized Federated Learning via Sharpness Aware Minimization", ICML 2022,
arXiv:2206.02618, Algorithm 1 (FedSAM); also Caldarola, Caputo, Ciccone: "Improving Generalization in Federated Learning
by Seeking Flat Minima", ECCV 2022, arXiv:2203.11834. A step takes two gradients, and so about twice as long.
"""

from functools import partial

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import corrected_change
from hansa.algorithms.options import check_not_negative
from hansa.arrays import Arrays
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "fedsam"]


def fedsam(aggregator: Aggregator, *, rho: float = 0.05) -> Algorithm:
    """rho: ρ ≥ 0, how far away the gradient is taken, in the norm of all that is trained; 0 is FedAvg."""
    check_not_negative("fedsam", "rho", rho)
    return Algorithm(
        name="fedsam",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, rho=rho),
        aggregator=aggregator,
        server_update=fedavg.server_update,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, rho: float) -> Update:
    """Δ_i = w_i − w; an app that ignores ρ is an `AppError`."""
    correction = GradientCorrection(sharpness=rho) if rho else None
    return corrected_change("fedsam", trainer, model, task, correction)
