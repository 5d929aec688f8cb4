"""A law that cannot fail is no law: each of these plug-ins breaks one, and is caught."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from hansa.aggregators.mean import SumPlan, WeightedMean
from hansa.algorithm import Aggregate, Algorithm, Partial, State, Trainer
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Arrays, apply
from hansa.messages import Contribution, Task, Update
from hansa.testing import aggregators, algorithms
from hansa.testing.broken import LawBrokenError

MEAN = WeightedMean()

TEMPLATE = Arrays({"w": np.zeros(4, np.float32), "n": np.array([3])})


def updates() -> tuple[Update, ...]:
    """Six, whose float sum depends on the order."""
    rng = np.random.default_rng(3)
    return tuple(
        Update({"w": rng.normal(size=4).astype(np.float32), "n": rng.integers(-9, 9, 1)}, int(rng.integers(1, 99)))
        for _ in range(6)
    )


ROUND = aggregators.Case(TEMPLATE, updates(), seed=0)
HISTORY = algorithms.Case(Arrays(dict(TEMPLATE) | {"v": np.zeros(16)}), clients=3, rounds=2, seed=0)


@dataclass(frozen=True)
class Floating(WeightedMean):
    """Sums floats, as most libraries do."""

    def zero(self, plan: SumPlan) -> Partial:
        return Partial({name: np.zeros(tensor.shape) for name, tensor in plan.tensors.items()})

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        self.check(plan, update)
        for name, array in update.arrays.items():
            partial.sums[name] += update.num_examples * array.astype(np.float64) * 0.1
        partial.weight += update.num_examples
        partial.contributions[contribution.client] = contribution
        return partial

    def merge(self, plan: SumPlan, left: Partial, right: Partial) -> Partial:
        for name in plan.tensors:
            left.sums[name] += right.sums[name]
        left.weight += right.weight
        left.contributions.update(right.contributions)
        return left

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        means = {name: (sums / partial.weight).astype(plan.tensors[name].dtype) for name, sums in partial.sums.items()}
        return Aggregate(Arrays(means), partial.weight, partial.contributions)


@dataclass(frozen=True)
class AddsFirst(WeightedMean):
    """Counts the weight before it looks."""

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        partial.weight += 1
        super().accumulate(plan, partial, update, contribution)
        partial.weight -= 1
        return partial


@dataclass(frozen=True)
class Trusting(WeightedMean):
    """Looks at nothing."""

    def check(self, plan: SumPlan, update: Update) -> None:
        pass


@dataclass(frozen=True)
class DividesByClients(WeightedMean):
    """Reports the number of clients for the weight."""

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        return replace(super().report(plan, partial), weight=len(partial.contributions))


@dataclass(frozen=True)
class Spends(WeightedMean):
    """A report uses the sum up."""

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        report = super().report(plan, partial)
        for sums in partial.sums.values():
            sums.fill(0)
        return report


@dataclass(frozen=True)
class Forgives(WeightedMean):
    """Takes a client twice."""

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        partial.contributions.pop(contribution.client, None)
        return super().accumulate(plan, partial, update, contribution)


@dataclass(frozen=True)
class Eats(WeightedMean):
    """Merging empties the other side."""

    def merge(self, plan: SumPlan, left: Partial, right: Partial) -> Partial:
        merged = super().merge(plan, left, right)
        right.contributions.clear()
        return merged


@dataclass(frozen=True)
class Halves(WeightedMean):
    """The mean in the wrong dtype."""

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        report = super().report(plan, partial)
        return replace(report, mean=Arrays({name: array.astype(np.float16) for name, array in report.mean.items()}))


@dataclass(frozen=True)
class Optimist(WeightedMean):
    """Nothing has the mean zero."""

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        return super().report(plan, replace(partial, weight=max(1, partial.weight)))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Floating(), aggregators.merge_is_associative),
        (Floating(), aggregators.any_order_and_tree_is_flat),
        (AddsFirst(), aggregators.a_wrong_update_moves_nothing),
        (Trusting(), aggregators.a_wrong_update_moves_nothing),
        (DividesByClients(), aggregators.report_counts_exactly_the_contributors),
        (Spends(), aggregators.report_changes_nothing),
        (Forgives(), aggregators.nobody_counts_twice),
        (Eats(), aggregators.merge_leaves_its_right_side_alone),
        (Halves(), aggregators.report_has_the_structure_of_a_change),
        (Optimist(), aggregators.nothing_has_no_mean),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, WeightedMean) else value.__name__,
)
def test_catches_a_broken_aggregator(broken: WeightedMean, law: aggregators.Law):
    law(MEAN, ROUND)
    with pytest.raises(LawBrokenError, match="it does not hold that"):
        law(broken, ROUND)


def widening(state: State, aggregate: Aggregate) -> State:
    params = apply(state.params, aggregate.mean)
    return State(Arrays({name: array.astype(np.float64) for name, array in params.items()}), state.round + 1)


def stopped(state: State, aggregate: Aggregate) -> State:
    return replace(state, params=apply(state.params, aggregate.mean))


def remembering(state: State, aggregate: Aggregate) -> State:
    return State(apply(state.params, aggregate.mean), state.round + 1, {"v": aggregate.mean})


def in_place() -> Callable[[State, Aggregate], State]:
    def update(state: State, aggregate: Aggregate) -> State:
        for name, array in aggregate.mean.items():
            writable: Any = array.base
            writable *= 2
            assert name
        return State(apply(state.params, aggregate.mean), state.round + 1)

    return update


def counting() -> Callable[[State, Aggregate], State]:
    calls: list[int] = []

    def update(state: State, aggregate: Aggregate) -> State:
        calls.append(1)
        noise = Arrays({name: array + array.dtype.type(len(calls)) for name, array in aggregate.mean.items()})
        return State(apply(state.params, noise), state.round + 1)

    return update


def sends_the_model(trainer: Trainer, model: Arrays, task: Task) -> Update:
    trained = trainer.fit(model, task)
    return Update({f"model.{name}": array for name, array in trained.arrays.items()}, trained.num_examples)


FEDAVG = fedavg(MEAN)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (replace(FEDAVG, server_update=widening), algorithms.structure_is_kept),
        (replace(FEDAVG, server_update=remembering), algorithms.structure_is_kept),
        (replace(FEDAVG, server_update=stopped), algorithms.server_update_counts_the_round),
        (replace(FEDAVG, server_update=in_place()), algorithms.server_update_changes_nothing_it_was_given),
        (replace(FEDAVG, server_update=counting()), algorithms.server_update_is_deterministic),
        (replace(FEDAVG, aggregator=Floating()), algorithms.order_of_arrival_changes_nothing),
        (replace(FEDAVG, aggregator=Floating()), algorithms.grouping_changes_nothing),
        (replace(FEDAVG, init=lambda params: State(params, 1)), algorithms.starts_at_round_zero_with_the_given_model),
        (replace(FEDAVG, client_update=sends_the_model), algorithms.both_halves_fit),
        (replace(FEDAVG, personal=lambda *_: Arrays({})), algorithms.both_halves_fit),
    ],
    ids=lambda value: value.__name__ if callable(value) else "broken",
)
def test_catches_a_broken_algorithm(broken: Algorithm, law: algorithms.Law):
    law(FEDAVG, HISTORY)
    with pytest.raises(LawBrokenError, match="it does not hold that"):
        law(broken, HISTORY)
