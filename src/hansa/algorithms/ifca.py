"""IFCA: k models, each for a cluster of clients; a client takes part in the one that fits its examples best.

    client i:   ĵ = argmin_j F_i(w_j);  Δ_i = w_i − w_ĵ after local training from w_ĵ
    server:     w_j ← w_j + Σ_{i ∈ S_j} n_i Δ_i / Σ_{i ∈ S_j} n_i,  S_j who chose j;  without any, w_j stays

Ghosh, Chung, Yin, Ramchandran: "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020,
arXiv:2006.04088, Algorithm 1 with option II, model averaging; clients count by their examples, as in FedAvg, which it
is with one cluster.

A client sends zeros for the other models, and which one it chose, so that sum and weight of each model travel together.
The k models begin at the initial model, all but the first moved by a normal vector, which is drawn once from `seed`:
models that begin alike stay alike. F_i is the loss that comes with the trainer's gradient over all local examples.

A client keeps the model that it chose, as it received it, and evaluates that: its cluster's model as it was before the
last round in which it took part. The global model is that of the cluster with the most examples in the last round; all
of them are in the state's slot `clusters` (`models`). Tensors of integers move by the rounded quotient.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import check_memory_is_free
from hansa.algorithms.options import check_count, check_not_negative, check_whole
from hansa.algorithms.parts import joined, part
from hansa.arrays import Array, Arrays, apply, is_floating, map_floating, subtract
from hansa.errors import AppError
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "ifca", "models", "server_update"]


def ifca(aggregator: Aggregator, *, clusters: int = 2, spread: float = 0.1, seed: int = 0) -> Algorithm:
    """clusters: k ≥ 1; spread: the standard deviation of what the models differ by at first, ≥ 0; seed: of that."""
    check_count("ifca", "clusters", clusters)
    check_not_negative("ifca", "spread", spread)
    check_whole("ifca", "seed", seed)
    algorithm = Algorithm(
        name="ifca",
        init=partial(_init, clusters=clusters, spread=spread, seed=seed),
        broadcast=broadcast,
        client_update=client_update,
        aggregator=aggregator,
        server_update=server_update,
        sends="which cluster it is in",
    )
    return replace(algorithm, personal=_own) if clusters > 1 else algorithm


def models(state: State) -> tuple[Arrays, ...]:
    """The k models w_j."""
    slot = state.slots["clusters"]
    return tuple(part(slot, str(j)) for j in range(_count(slot)))


def _init(params: Arrays, *, clusters: int, spread: float, seed: int) -> State:
    rng = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        return np.asarray((array + rng.normal(0, spread, array.shape)).astype(array.dtype))

    others = {str(j): map_floating(moved, params) for j in range(1, clusters)}
    slot = dict(joined({"0": params} | others)) | {"share": np.zeros(clusters)}
    return State(params, slots={"clusters": Arrays(slot)})


def broadcast(state: State) -> Arrays:
    """The models under `0/`, `1/` …; room for who has chosen which, `share`."""
    return Arrays(dict(state.slots["clusters"]) | {"share": np.zeros_like(state.slots["clusters"]["share"])})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """Δ_i in the place of the model that fits best, and a 1 for it; `memory` is that model."""
    candidates = [part(model, str(j)) for j in range(_count(model))]
    alone = replace(task, memory=None)
    losses = [_loss(trainer, each, alone) for each in candidates] if len(candidates) > 1 else [0.0]
    chosen = int(np.argmin(losses))
    trained = fedavg.client_update(trainer, candidates[chosen], alone)
    if len(candidates) > 1:
        check_memory_is_free("ifca", trained, "the model of its cluster")
        trained = replace(trained, memory=candidates[chosen])
    changes = {str(j): trained.arrays if j == chosen else subtract(each, each) for j, each in enumerate(candidates)}
    share = {"share": (np.arange(len(candidates)) == chosen).astype(np.float64)}
    return replace(trained, arrays=Arrays(dict(joined(changes)) | share))


def server_update(state: State, aggregate: Aggregate) -> State:
    """Each model moves by the mean change of those who chose it."""
    share = aggregate.mean["share"]
    moved = {
        str(j): apply(each, _divided(part(aggregate.mean, str(j)), float(share[j])))
        for j, each in enumerate(models(state))
    }
    slot = dict(joined(moved)) | {"share": np.asarray(share, np.float64)}
    return State(moved[str(int(np.argmax(share)))], state.round + 1, {"clusters": Arrays(slot)})


def _count(arrays: Arrays) -> int:
    return int(arrays["share"].shape[0])


def _loss(trainer: Trainer, model: Arrays, task: Task) -> float:
    computed = trainer.gradient(model, task)
    if "loss" not in computed.metrics:
        raise AppError("ifca chooses a model by its loss: let the trainer's gradient report the metric loss")
    loss = computed.metrics["loss"]
    return loss if loss == loss else float("inf")  # noqa: PLR0124 - NaN fits nobody


def _divided(mean: Arrays, share: float) -> Arrays:
    """Σ n_i Δ_i / Σ n_i over those who chose a model, of the mean over all; zeros where nobody did."""
    if not share > 0:
        return subtract(mean, mean)
    return Arrays(
        {
            name: np.asarray(
                array / array.dtype.type(share) if is_floating(array) else np.rint(array / share), array.dtype
            )
            for name, array in mean.items()
        }
    )


def _own(model: Arrays, memory: Arrays | None) -> Arrays:
    """The model of the client's cluster, or the global one where it has not chosen yet."""
    return model if memory is None else memory
