"""Updates that are kept for a function of the app, which makes one change of them: what servers do before and after.

They are checked and kept as for every aggregator that sees all updates (`hansa.aggregators.spooled`). A runtime calls
the function, in whatever walls it has for it, and what comes back is checked as well.
"""

from collections.abc import Iterator

import numpy as np

from hansa.aggregators.spooled import Spooled, SpoolPlan, spooled
from hansa.algorithm import Aggregate, Keeping, Partial, Plan
from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import Update

__all__ = ["aggregate_of", "handed_over", "updates"]


def handed_over(*, max_weight: int, range_bits: int) -> Spooled:
    """The aggregator that keeps them; it reports nothing by itself."""
    return spooled("the app", "column", _by_the_app, max_weight=max_weight, range_bits=range_bits, uniform=False)


def updates(aggregator: Keeping, plan: Plan, partial: Partial) -> Iterator[tuple[str, Update]]:
    """(client, its change, examples and metrics), by name; one is in memory at a time."""
    for client, part in sorted(partial.contributions.items()):
        yield client, Update(aggregator.kept(plan, partial, client), part.num_examples, part.metrics)


def aggregate_of(aggregator: Keeping, plan: Plan, partial: Partial, made: Arrays) -> Aggregate:
    """What the function has made of them, in the dtypes of a change; raises `AppError` for what is no change."""
    like = next(update.arrays for _, update in updates(aggregator, plan, partial))
    odd = sorted(set(like) ^ set(made))
    if odd:
        what = f"no {odd[0]!r}" if odd[0] in like else f"a {odd[0]!r}, which the model has not"
        raise AppError(f"aggregate() returned {what}: return a change, with the model's tensors")
    for name, array in like.items():
        if made[name].shape != array.shape:
            shapes = f"{made[name].shape}; the model's is {array.shape}"
            raise AppError(f"aggregate() returned {name!r} of the shape {shapes}")
        if not np.isfinite(made[name].astype(np.float64)).all():
            raise AppError(f"aggregate() returned {name!r} with numbers that are not finite")
    mean = Arrays({name: made[name].astype(array.dtype) for name, array in like.items()})
    return Aggregate(mean, partial.weight, dict(sorted(partial.contributions.items())))


def _by_the_app(plan: SpoolPlan, members: object) -> Arrays:
    del plan, members
    raise AppError("this round is aggregated by the app's own function, which only a runtime calls")
