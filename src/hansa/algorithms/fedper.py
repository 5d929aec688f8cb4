"""FedPer: some layers of the model stay with each client, for example the last ones; the others are FedAvg's.

Arivazhagan, Aggarwal, Singh, Choudhary: "Federated Learning with Personalization Layers", 2019, arXiv:1912.00818,
Algorithms 1 and 2: both parts are trained together, and only the shared one is sent.

The client's own layers start as those of the first model that it sees, and are kept as its memory. What is sent in
their place is a change of 0, so that the server's keep their first values; the client evaluates with its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeAlias

import numpy as np

from hansa.algorithm import Aggregator, Algorithm, State, Trainer
from hansa.algorithms import fedavg
from hansa.algorithms.local import check_memory_is_free
from hansa.arrays import Arrays, subtract
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update

__all__ = ["Names", "client_update", "fedper", "matching", "own_layers", "personal_names", "shared_change"]

Names: TypeAlias = Callable[[Iterable[str]], frozenset[str]]
"""The names of a model's tensors → those that stay with the client."""


def fedper(aggregator: Aggregator, *, personal: str) -> Algorithm:
    """personal: the tensors that stay with each client, as patterns with commas between: "head.*", "coef_1, bias?"."""
    return Algorithm(
        name="fedper",
        init=State,
        broadcast=lambda state: state.params,
        client_update=partial(client_update, algorithm="fedper", personal=matching("fedper", personal)),
        aggregator=aggregator,
        server_update=fedavg.server_update,
        personal=own_layers,
    )


def client_update(trainer: Trainer, model: Arrays, task: Task, *, algorithm: str, personal: Names) -> Update:
    """The change of what is shared; `memory` is what is the client's own."""
    names = personal_names(algorithm, personal, model)
    start = own_layers(model, task.memory)
    trained = trainer.fit(start, replace(task, memory=None))
    check_memory_is_free(algorithm, trained, "its own layers")
    return shared_change(start, trained, names)


def shared_change(start: Arrays, trained: Update, names: frozenset[str]) -> Update:
    """The change since the start, 0 for what is personal, which becomes the memory."""
    change = subtract(trained.arrays, start)
    sent = {name: np.zeros_like(delta) if name in names else delta for name, delta in change.items()}
    kept = {name: array for name, array in trained.arrays.items() if name in names}
    return replace(trained, arrays=Arrays(sent), memory=Arrays(kept))


def own_layers(model: Arrays, memory: Arrays | None) -> Arrays:
    """The global model with the client's own layers in it."""
    return model if memory is None else Arrays({name: memory.get(name, array) for name, array in model.items()})


def matching(algorithm: str, patterns: object, option: str = "personal") -> Names:
    """Those whose names match one of the patterns, as file names do."""
    if not isinstance(patterns, str) or not (wanted := [p.strip() for p in patterns.split(",") if p.strip()]):
        raise ConfigError(f'{algorithm}: {option} is {patterns!r}; it must be patterns of names, for example "head.*"')
    return lambda names: frozenset(n for n in names if any(fnmatchcase(n, pattern) for pattern in wanted))


def personal_names(algorithm: str, personal: Names, model: Arrays) -> frozenset[str]:
    """Of this model; an `AppError` where that is none of its tensors, or all of them."""
    names = personal(model)
    if not names or len(names) == len(model):
        raise AppError(
            f"{algorithm} keeps some tensors with the client and shares others, but {'all' if names else 'none'} of "
            f"this model's are personal: {', '.join(list(model)[:6])}"
        )
    return names
