"""FedNAS: clients search an architecture together. The model is a supernet: weights w, and α, which mixes operations.

    client i:   its examples in two halves, train and val; K times, with a part of each,
                α ← α − η_α(∇_α L_val + λ∇_α L_train);  w ← local training on train, α as it is
                sends w_i − w and α_i − α
    server:     the weighted mean of both, as in FedAvg

He, Annavaram, Avestimehr: "Towards Non-I.I.D. and Invisible Data with FedNAS: Federated Deep Learning via Neural
Architecture Search", 2020, arXiv:2004.08546, Algorithm 1: the first-order search of MiLeNAS (arXiv:2003.12238), which
with λ = 0 is that of DARTS (arXiv:1806.09055). Both halves are of the client's training examples: every second one
validates, the same in each round, and no test example is seen.

A supernet is any model with such tensors; `hansa.training.torch_cells` has a cell, and reads the architecture out of α.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.examples import training_examples
from hansa.algorithms.fedper import Names, matching
from hansa.algorithms.local import check_memory_is_free, corrected_fit
from hansa.algorithms.options import check_count, check_not_negative
from hansa.arrays import Array, Arrays, is_floating, subtract
from hansa.errors import AppError, InputError
from hansa.messages import GradientCorrection, Task, Update

__all__ = ["client_update", "fednas"]


def fednas(
    aggregator: Aggregator,
    *,
    architecture: str = "*alpha",
    learning_rate: float = 0.1,
    train_weight: float = 0.0,
    steps: int = 5,
) -> Algorithm:
    """architecture: the tensors α, as patterns of names with commas between; learning_rate: η_α ≥ 0, at 0 α stays.

    train_weight: λ ≥ 0; steps: K ≥ 1, of α in each round, between which the trainer works on a K-th of its half.
    """
    check_not_negative("fednas", "learning_rate", learning_rate)
    check_not_negative("fednas", "train_weight", train_weight)
    check_count("fednas", "steps", steps)
    names = matching("fednas", architecture, option="architecture")
    half = partial(client_update, architecture=names, eta=learning_rate, lam=train_weight, steps=steps)
    return Algorithm("fednas", State, lambda state: state.params, half, aggregator, fedavg.server_update)


def client_update(
    trainer: Trainer, model: Arrays, task: Task, *, architecture: Names, eta: float, lam: float, steps: int
) -> Update:
    """The changes of w and α; the metrics are of the last of the K steps, and `validation_loss` the mean over them."""
    alpha = _architecture(architecture, model)
    x, y = training_examples(task)
    if len(x) < 2:  # noqa: PLR2004 - one in each half
        raise InputError(f"{task.client.name} has 1 example: fednas needs two, to train on and to validate on")
    rows = np.arange(len(x))
    now, losses, alone = model, [], replace(task, memory=None)
    for train, validation in zip(_parts(rows[::2], steps, task), _parts(rows[1::2], steps, task), strict=True):
        on_train, on_validation = (replace(alone, data=(x[part], y[part])) for part in (train, validation))
        outer = trainer.gradient(now, on_validation)
        inner: Mapping[str, Array] = trainer.gradient(now, on_train).arrays if lam else {}
        moved = {name: _stepped(now[name], outer.arrays[name], inner.get(name), eta, lam) for name in alpha}
        now = Arrays({name: moved.get(name, array) for name, array in now.items()})
        trained = corrected_fit("fednas", trainer, now, on_train, GradientCorrection(frozen=alpha))
        check_memory_is_free("fednas", trained, "nothing")
        now = trained.arrays
        losses.append(outer.metrics.get("loss", np.nan))
    metrics = {**trained.metrics, "validation_loss": float(np.mean(losses))}
    return Update(subtract(now, model), len(x), metrics)


def _stepped(array: Array, outer: Array, inner: Array | None, eta: float, lam: float) -> Array:
    """α − η_α(∇L_val + λ∇L_train), rounded once."""
    slope = outer.astype(np.float64) if inner is None else outer.astype(np.float64) + lam * inner.astype(np.float64)
    return np.asarray((array.astype(np.float64) - eta * slope).astype(array.dtype))


def _parts(rows: Any, steps: int, task: Task) -> Sequence[Any]:
    """As many parts as there are steps, in random order; where there are fewer examples, some come again."""
    shuffled = task.rng.permutation(rows)
    return np.array_split(np.resize(shuffled, max(steps, len(shuffled))), steps)


def _architecture(names: Names, model: Arrays) -> frozenset[str]:
    """The floating tensors α; an `AppError` where that is none, or all."""
    chosen = frozenset(name for name in names(model) if is_floating(model[name]))
    if not chosen or len(chosen) == len(model):
        raise AppError(
            f"fednas searches the tensors that architecture names, and trains the others, but "
            f"{'all' if chosen else 'none'} of this model's are named: {', '.join(list(model)[:6])}"
        )
    return chosen
