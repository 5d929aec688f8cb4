"""MOON: local training keeps representations near those of the global model, and away from the client's last own ones.

    client i:   local training of F_i(w) + μ ℓ_i(w),  ℓ_i = −log(e^{s₀/τ} / (e^{s₀/τ} + e^{s₁/τ})),  where
                s₀ = cos(z(w), z of the model received), s₁ = cos(z(w), z of w_i after its last round)
                sends Δ_i, keeps w_i

Li, He, Song: "Model-Contrastive Federated Learning", CVPR 2021, arXiv:2103.16257, Algorithm 1; the server is FedAvg's.
In its first round a client has no last model, and ℓ_i no gradient. The trainer must know representations, as
`TorchTrainer(representation=…)` does; the other two models are in evaluation mode.
"""

from dataclasses import replace
from functools import partial

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import check_memory_is_free, corrected_fit
from hansa.algorithms.options import check_not_negative, check_positive
from hansa.arrays import Arrays, subtract
from hansa.messages import Contrast, GradientCorrection, Task, Update

__all__ = ["client_update", "moon"]


def moon(aggregator: Aggregator, *, mu: float = 1.0, temperature: float = 0.5) -> Algorithm:
    """mu: μ ≥ 0, in the paper 0.1 to 10; temperature: τ > 0; the defaults are the paper's."""
    check_not_negative("moon", "mu", mu)
    check_positive("moon", "temperature", temperature)
    return Algorithm(
        name="moon",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, mu=mu, temperature=temperature),
        aggregator=aggregator,
        server_update=fedavg.server_update,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, mu: float, temperature: float) -> Update:
    """Δ_i; `memory` is w_i."""
    previous = model if task.memory is None else task.memory
    correction = GradientCorrection(contrast=Contrast(previous, mu, temperature)) if mu else None
    trained = corrected_fit("moon", trainer, model, replace(task, memory=None), correction)
    check_memory_is_free("moon", trained, "its last model")
    return replace(trained, arrays=subtract(trained.arrays, model), memory=trained.arrays)
