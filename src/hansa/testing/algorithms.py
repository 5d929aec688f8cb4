"""Laws of algorithms: the server's half is a pure function, and what the client's half sends is what it can use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hansa.algorithm import Aggregate, Algorithm, State, Trainer
from hansa.arrays import Arrays
from hansa.errors import UpdateRejectedError
from hansa.messages import Contribution, Update
from hansa.testing.broken import LawBrokenError, require, require_same, require_same_state
from hansa.testing.federation import aggregate, task_of
from hansa.testing.linear import LinearTrainer, make_examples
from hansa.testing.values import models, random_change

__all__ = ["LAWS", "Case", "Law", "cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """An initial model, and the seed of what clients send."""

    params: Arrays
    clients: int
    rounds: int
    """Rounds that were played before the law looks."""
    seed: int
    local: tuple[Trainer, Mapping[str, Any]] | None = None
    """Who trains, and the data of `client-1`; None: logistic regression on examples that are drawn."""


def cases(
    max_clients: int = 4, max_rounds: int = 3, *, local: tuple[Trainer, Mapping[str, Any]] | None = None
) -> st.SearchStrategy[Case]:
    """Models of every dtype, or that of a trainer where an algorithm needs its own, after rounds of random updates."""
    params = models() if local is None else st.just(local[0].initial_model(np.random.default_rng(0)))
    counts = st.integers(1, max_clients), st.integers(0, max_rounds), st.integers(0, 2**32 - 1)
    return st.builds(Case, params, *counts, st.just(local))


def starts_at_round_zero_with_the_given_model(algorithm: Algorithm, case: Case) -> None:
    """The state before the first round has the initial model, to the bit."""
    state = algorithm.init(case.params)
    require(state.round == 0, f"a new state is at round 0, not {state.round}")
    require_same(state.params, case.params, "a new state has the given model")


def server_update_counts_the_round(algorithm: Algorithm, case: Case) -> None:
    """The round of the next state is one more."""
    state, sent = _played(algorithm, case)
    after = algorithm.server_update(state, sent)
    require(after.round == state.round + 1, f"round {after.round} follows round {state.round}")


def server_update_changes_nothing_it_was_given(algorithm: Algorithm, case: Case) -> None:
    """State and aggregate have the same bits after as before."""
    state, sent = _played(algorithm, case)
    before = _copied(state)
    mean, contributions = _copy(sent.mean), dict(sent.contributions)
    algorithm.server_update(state, sent)
    require_same_state(state, before, "server_update leaves the state that it was given alone")
    require_same(sent.mean, mean, "server_update leaves the aggregate that it was given alone")
    require(dict(sent.contributions) == contributions, "server_update leaves the contributions alone")


def server_update_is_deterministic(algorithm: Algorithm, case: Case) -> None:
    """The same state and aggregate give the same bits, whatever was computed in between."""
    state, sent = _played(algorithm, case)
    first = algorithm.server_update(state, sent)
    algorithm.server_update(first, sent)
    require_same_state(first, algorithm.server_update(state, sent), "server_update is deterministic")


def structure_is_kept(algorithm: Algorithm, case: Case) -> None:
    """Names, order, shapes and dtypes of the model, of each slot and of what is broadcast stay the same."""
    state, sent = _played(algorithm, case)
    after = algorithm.server_update(state, sent)
    require(_structure(after.params) == _structure(case.params), "the model keeps its structure")
    require(_slots(after) == _slots(algorithm.init(case.params)), "the slots keep their structure")
    require(
        _structure(algorithm.broadcast(after)) == _structure(algorithm.broadcast(state)),
        "what is broadcast keeps its structure",
    )


def order_of_arrival_changes_nothing(algorithm: Algorithm, case: Case) -> None:
    """The next state has the same bits whoever was first."""
    state, sent = _played(algorithm, case)
    broadcast = algorithm.broadcast(state)
    forwards = _sent(broadcast, case, state.round)
    backwards = dict(reversed(forwards.items()))
    require_same_state(
        algorithm.server_update(state, sent),
        algorithm.server_update(state, aggregate(algorithm, broadcast, backwards)),
        "the order of arrival changes nothing",
    )


def grouping_changes_nothing(algorithm: Algorithm, case: Case) -> None:
    """The next state has the same bits when each client has a server of its own, in a chain up to the root."""
    state, sent = _played(algorithm, case)
    broadcast, aggregator = algorithm.broadcast(state), algorithm.aggregator
    plan = aggregator.plan(broadcast)
    merged = aggregator.zero(plan)
    for client, update in reversed(_sent(broadcast, case, state.round).items()):
        contribution = Contribution(client, update.num_examples, update.metrics)
        alone = aggregator.accumulate(plan, aggregator.zero(plan), update, contribution)
        merged = aggregator.merge(plan, alone, merged)
    require_same_state(
        algorithm.server_update(state, sent),
        algorithm.server_update(state, aggregator.report(plan, merged)),
        "a tree of servers changes nothing",
    )


def both_halves_fit(algorithm: Algorithm, case: Case) -> None:
    """What the client's half sends passes the aggregator's check; it is deterministic and changes nothing it was given.

    That holds for a client's first task, and for one with the memory that it kept from there, with which it evaluates a
    model of the same structure.
    """
    rng = np.random.default_rng(case.seed)
    dtype = (np.float32, np.float64)[case.seed % 2]
    trainer, data = case.local or (
        LinearTrainer(2, logistic=True, epochs=2, batch_size=2, dtype=dtype),
        make_examples(rng, (5, 3), 2, logistic=True),
    )
    params = trainer.initial_model(rng)
    broadcast = algorithm.broadcast(algorithm.init(params))
    before = _copy(broadcast)
    memory: Arrays | None = None
    for number in (1, 2):
        remembered = _copy(memory) if memory is not None else None
        tasks = [task_of("client-1", data, number, memory=memory) for _ in range(2)]
        first, second = (algorithm.client_update(trainer, broadcast, task) for task in tasks)
        try:
            algorithm.aggregator.check(algorithm.aggregator.plan(broadcast), first)
        except UpdateRejectedError as error:
            said = "it does not hold that the aggregator takes what the client sends"
            raise LawBrokenError(f"{said}: {error}") from error
        require_same(broadcast, before, "the client's half leaves the model that it was given alone")
        require_same(first.arrays, second.arrays, "the client's half is deterministic")
        require(first.num_examples == second.num_examples, "the client's half is deterministic in num_examples")
        require(first.metrics == second.metrics, "the client's half is deterministic in its metrics")
        require(first.memory == second.memory, "the client's half is deterministic in what it keeps")
        require(memory == remembered, "the client's half leaves the memory that it was given alone")
        memory = first.memory
        evaluated = algorithm.personal(params, memory)
        require(_structure(evaluated) == _structure(params), "what a client evaluates has the structure of the model")


Law = Callable[[Algorithm, Case], None]

LAWS: tuple[Law, ...] = (
    starts_at_round_zero_with_the_given_model,
    server_update_counts_the_round,
    server_update_changes_nothing_it_was_given,
    server_update_is_deterministic,
    structure_is_kept,
    order_of_arrival_changes_nothing,
    grouping_changes_nothing,
    both_halves_fit,
)


def _played(algorithm: Algorithm, case: Case) -> tuple[State, Aggregate]:
    """The state after the case's rounds, and what arrives in the next."""
    state = algorithm.init(case.params)
    for _ in range(case.rounds):
        state = algorithm.server_update(state, _arrived(algorithm, state, case))
    return state, _arrived(algorithm, state, case)


def _arrived(algorithm: Algorithm, state: State, case: Case) -> Aggregate:
    broadcast = algorithm.broadcast(state)
    return aggregate(algorithm, broadcast, _sent(broadcast, case, state.round))


def _sent(broadcast: Arrays, case: Case, number: int) -> dict[str, Update]:
    rng = np.random.default_rng([case.seed, number])
    return {
        f"client-{index}": Update(random_change(broadcast, rng), int(rng.integers(1, 100)))
        for index in range(case.clients)
    }


def _copy(arrays: Arrays) -> Arrays:
    return Arrays({name: array.copy() for name, array in arrays.items()})


def _copied(state: State) -> State:
    return State(_copy(state.params), state.round, {slot: _copy(arrays) for slot, arrays in state.slots.items()})


def _structure(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, str(array.dtype), array.shape) for name, array in arrays.items()]


def _slots(state: State) -> dict[str, list[tuple[str, str, tuple[int, ...]]]]:
    return {slot: _structure(arrays) for slot, arrays in state.slots.items()}
