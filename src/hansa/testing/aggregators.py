"""Laws of aggregators: the same updates give the same bits however they are grouped, and a bad one moves nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial as bind
from typing import cast

import numpy as np
from hypothesis import strategies as st

from hansa.algorithm import Aggregate, Aggregator, Keeping, Partial
from hansa.arrays import Arrays, delta_dtype
from hansa.errors import QuorumNotMetError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Update
from hansa.testing.broken import LawBrokenError, bits, require, require_same
from hansa.testing.rejections import wrong_updates
from hansa.testing.values import models, updates

__all__ = ["LAWS", "Case", "Law", "cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """A round: what was broadcast, and what the clients sent."""

    template: Arrays
    updates: tuple[Update, ...]
    """At least one; all may be counted."""
    seed: int
    """Of the order and of the trees that a law tries."""

    @property
    def members(self) -> tuple[tuple[str, Update], ...]:
        """The updates by client."""
        return tuple((f"client-{index}", update) for index, update in enumerate(self.updates))


def cases(max_clients: int = 6, *, min_clients: int = 1) -> st.SearchStrategy[Case]:
    """Rounds of `min_clients` to `max_clients` clients, over models of every dtype.

    Give an aggregator as many as it needs to report: `cases(least + 5, min_clients=least)` with its `least`.
    """
    return models().flatmap(
        lambda template: st.builds(
            Case,
            st.just(template),
            st.lists(updates(template), min_size=min_clients, max_size=max_clients).map(tuple),
            st.integers(0, 2**32),
        )
    )


def zero_is_the_identity_of_merge(aggregator: Aggregator, case: Case) -> None:
    """Merging with an empty sum, on either side, changes no bit."""
    plan = aggregator.plan(case.template)
    flat = bits(_fold(aggregator, case.template, case.members))
    left = aggregator.merge(plan, aggregator.zero(plan), _fold(aggregator, case.template, case.members))
    right = aggregator.merge(plan, _fold(aggregator, case.template, case.members), aggregator.zero(plan))
    require(bits(left) == flat, "zero merged with a sum is the sum")
    require(bits(right) == flat, "a sum merged with zero is the sum")


def merge_is_commutative(aggregator: Aggregator, case: Case) -> None:
    """a + b has the bits of b + a."""
    plan = aggregator.plan(case.template)
    half = len(case.members) // 2
    groups = case.members[:half], case.members[half:]
    a, b = (_fold(aggregator, case.template, group) for group in groups)
    ab = bits(aggregator.merge(plan, a, b))
    a, b = (_fold(aggregator, case.template, group) for group in groups)
    ba = bits(aggregator.merge(plan, b, a))
    require(ab == ba, "merge is commutative")


def merge_is_associative(aggregator: Aggregator, case: Case) -> None:
    """(a + b) + c has the bits of a + (b + c)."""
    plan = aggregator.plan(case.template)
    groups = case.members[0::3], case.members[1::3], case.members[2::3]
    a, b, c = (_fold(aggregator, case.template, group) for group in groups)
    left = bits(aggregator.merge(plan, aggregator.merge(plan, a, b), c))
    a, b, c = (_fold(aggregator, case.template, group) for group in groups)
    right = bits(aggregator.merge(plan, a, aggregator.merge(plan, b, c)))
    require(left == right, "merge is associative")


def merge_leaves_its_right_side_alone(aggregator: Aggregator, case: Case) -> None:
    """Only the left partial is changed."""
    plan = aggregator.plan(case.template)
    right = _fold(aggregator, case.template, case.members)
    before = bits(right)
    aggregator.merge(plan, aggregator.zero(plan), right)
    require(bits(right) == before, "merge leaves its right side alone")


def any_order_and_tree_is_flat(aggregator: Aggregator, case: Case) -> None:
    """Whatever the order of arrival and the tree of servers, the sum and the mean have the same bits."""
    plan = aggregator.plan(case.template)
    flat = _fold(aggregator, case.template, case.members)
    rng = np.random.default_rng(case.seed)
    for _ in range(3):
        order = [case.members[index] for index in rng.permutation(len(case.members))]
        tree = _tree(aggregator, case.template, order, rng)
        require(bits(tree) == bits(flat), "any order and any tree sum to the same bits")
        _require_same_aggregate(aggregator.report(plan, tree), aggregator.report(plan, flat))


def report_counts_exactly_the_contributors(aggregator: Aggregator, case: Case) -> None:
    """The weight of a report is the sum of the weights that its contributors have alone, and each is listed."""
    plan = aggregator.plan(case.template)
    aggregate = aggregator.report(plan, _fold(aggregator, case.template, case.members))
    alone = [_fold(aggregator, case.template, [member]).weight for member in case.members]
    require(aggregate.weight == sum(alone), f"the weight {aggregate.weight} is the sum of the weights {alone}")
    expected = {client: _contribution(client, update) for client, update in case.members}
    require(dict(aggregate.contributions) == expected, "the contributors are exactly those that were added")


def report_has_the_structure_of_a_change(aggregator: Aggregator, case: Case) -> None:
    """The mean has the template's names, order and shapes, in the dtypes of a change, and only finite numbers."""
    mean = aggregator.report(aggregator.plan(case.template), _fold(aggregator, case.template, case.members)).mean
    require(list(mean) == list(case.template), "the mean has the names of the template, in its order")
    for name, array in case.template.items():
        require(mean[name].shape == array.shape, f"the mean of {name!r} has the shape {array.shape}")
        require(mean[name].dtype == delta_dtype(array.dtype), f"the mean of {name!r} has the dtype of a change")
        require(bool(np.isfinite(mean[name]).all()), f"the mean of {name!r} is finite")


def report_changes_nothing(aggregator: Aggregator, case: Case) -> None:
    """A report can be asked for twice, and the sum goes on."""
    plan = aggregator.plan(case.template)
    partial = _fold(aggregator, case.template, case.members)
    before = bits(partial)
    first, second = aggregator.report(plan, partial), aggregator.report(plan, partial)
    require(bits(partial) == before, "a report leaves the partial alone")
    _require_same_aggregate(first, second)


def a_wrong_update_moves_nothing(aggregator: Aggregator, case: Case) -> None:
    """Whatever is wrong with an update, it is rejected for the right reason; sum and weight stay to the bit."""
    plan = aggregator.plan(case.template)
    partial = _fold(aggregator, case.template, case.members)
    before = bits(partial)
    for what, wrong, reason in wrong_updates(case.updates[0]):
        contribution = Contribution("newcomer", wrong.num_examples)
        _require_rejected(what, reason, bind(aggregator.check, plan, wrong))
        _require_rejected(what, reason, bind(aggregator.accumulate, plan, partial, wrong, contribution))
        require(bits(partial) == before, f"an update with {what} leaves sum and weight alone")


def nobody_counts_twice(aggregator: Aggregator, case: Case) -> None:
    """A client that is in a sum is rejected, alone or inside another sum; sum and weight stay to the bit."""
    plan = aggregator.plan(case.template)
    partial = _fold(aggregator, case.template, case.members)
    before = bits(partial)
    client, update = case.members[-1]
    other = aggregator.accumulate(
        plan, _fold(aggregator, case.template, [(client, update)]), update, Contribution("another", update.num_examples)
    )
    again = _contribution(client, update)
    _require_rejected("a duplicate", Reason.DUPLICATE, lambda: aggregator.accumulate(plan, partial, update, again))
    _require_rejected("a duplicate in a sum", Reason.DUPLICATE, lambda: aggregator.merge(plan, partial, other))
    require(bits(partial) == before, "a duplicate leaves sum and weight alone")


def nothing_has_no_mean(aggregator: Aggregator, case: Case) -> None:
    """The report of an empty sum is an error, not a model of zeros or NaN."""
    plan = aggregator.plan(case.template)
    _require_rejected("no contribution", None, lambda: aggregator.report(plan, aggregator.zero(plan)))


def too_few_have_no_report(aggregator: Aggregator, case: Case) -> None:
    """With fewer contributions than `least` there is an error that ends the round, and names how many are needed."""
    plan, least = aggregator.plan(case.template), aggregator.least
    require(least >= 1, f"the fewest contributions, {least}, are at least 1")
    for count in range(1, least):
        partial = _fold(aggregator, case.template, case.members[:count])
        try:
            aggregator.report(plan, partial)
        except QuorumNotMetError as error:
            require(str(least) in str(error), f"{str(error)!r} names how many are needed, {least}")
        else:
            raise LawBrokenError(f"it does not hold that a report of {count} updates, of {least} needed, is an error")


def the_shape_is_what_a_partial_holds(aggregator: Aggregator, case: Case) -> None:
    """A `sum` holds as much for many as for one; the others hold a row of equal size for each client."""
    one, all_ = (_fold(aggregator, case.template, group) for group in (case.members[:1], case.members))
    if aggregator.shape == "sum":
        require(_sizes(one) == _sizes(all_), "a sum does not grow with its updates")
    else:
        require(set(all_.sums) == set(all_.contributions), "there is one row for each contributor")
        require(len(set(_sizes(all_).values())) == 1, "all rows have one size")
        plan, keeping = aggregator.plan(case.template), cast("Keeping", aggregator)
        for client, update in case.members:
            require_same(keeping.kept(plan, all_, client), update.arrays, "an update is kept as it was sent")


Law = Callable[[Aggregator, Case], None]

LAWS: tuple[Law, ...] = (
    zero_is_the_identity_of_merge,
    merge_is_commutative,
    merge_is_associative,
    merge_leaves_its_right_side_alone,
    any_order_and_tree_is_flat,
    report_counts_exactly_the_contributors,
    report_has_the_structure_of_a_change,
    report_changes_nothing,
    a_wrong_update_moves_nothing,
    nobody_counts_twice,
    nothing_has_no_mean,
    too_few_have_no_report,
    the_shape_is_what_a_partial_holds,
)


def _contribution(client: str, update: Update) -> Contribution:
    return Contribution(client, update.num_examples, update.metrics)


def _fold(aggregator: Aggregator, template: Arrays, members: Sequence[tuple[str, Update]]) -> Partial:
    """What one server sums; it derives the plan itself."""
    plan = aggregator.plan(template)
    partial = aggregator.zero(plan)
    for client, update in members:
        partial = aggregator.accumulate(plan, partial, update, _contribution(client, update))
    return partial


def _tree(
    aggregator: Aggregator, template: Arrays, members: Sequence[tuple[str, Update]], rng: np.random.Generator
) -> Partial:
    """What the root of a random tree of servers sums."""
    if len(members) <= 1 or rng.random() < 0.2:  # noqa: PLR2004 - every fifth subtree is flat
        return _fold(aggregator, template, members)
    cut = int(rng.integers(0, len(members) + 1))
    plan = aggregator.plan(template)
    left, right = members[:cut], members[cut:]
    if not left or not right:
        return aggregator.merge(plan, aggregator.zero(plan), _fold(aggregator, template, members))
    return aggregator.merge(plan, _tree(aggregator, template, left, rng), _tree(aggregator, template, right, rng))


def _sizes(partial: Partial) -> dict[str, int]:
    return {name: array.nbytes for name, array in partial.sums.items()}


def _require_same_aggregate(left: Aggregate, right: Aggregate) -> None:
    require_same(left.mean, right.mean, "equal sums have equal means")
    require(left.weight == right.weight, "equal sums have equal weights")
    require(list(left.contributions.items()) == list(right.contributions.items()), "the contributors are in one order")


def _require_rejected(what: str, reason: Reason | None, act: Callable[[], object]) -> None:
    """reason: None for any."""
    try:
        act()
    except UpdateRejectedError as error:
        require(reason in {None, error.reason}, f"{what} is rejected as {reason}, not as {error.reason}")
    else:
        raise LawBrokenError(f"it does not hold that {what} is rejected")
