"""The weighted mean of updates that are clipped to a norm: no client moves the model farther than an honest one may.

    w ← w + Σ p_i Δ_i min(1, C / ‖Δ_i‖)

Sun, Kairouz, Suresh, McMahan: "Can You Really Backdoor Federated Learning?", 2019, arXiv:1911.07963, section 4 (norm
thresholding), without the noise. p_i = n_i / Σ n as FedAvg's; with `uniform` every client counts alike, which is what
to take where clients may lie about their examples.

‖Δ‖ is over the floating tensors, from exact integers (`hansa.aggregators.geometry`); integers and bools are summed as
they are. Each update is clipped as it arrives, so the shape is `sum` and nothing is kept. What holds: of all the
clients' weight a share ρ moves the model by at most ρC.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hansa.aggregators.fixed_point import SumPlan
from hansa.aggregators.geometry import inner_products
from hansa.aggregators.mean import WeightedMean
from hansa.aggregators.options import check_positive
from hansa.algorithm import Aggregate, Partial, Shape
from hansa.arrays import Arrays, map_floating
from hansa.messages import Contribution, Update

__all__ = ["NormBound", "clipped", "norm", "norm_bound"]


@dataclass(frozen=True, slots=True)
class NormBound:
    """A mean of clipped updates; `norm_bound` makes one."""

    bound: float
    """C > 0."""
    max_weight: int = 2**24
    range_bits: int = 6
    uniform: bool = False
    shape: ClassVar[Shape] = "sum"
    least: ClassVar[int] = 1

    @property
    def mean(self) -> WeightedMean:
        """What sums the clipped updates."""
        return WeightedMean(self.max_weight, self.range_bits, self.uniform)

    def plan(self, template: Arrays) -> SumPlan:
        """The mean's."""
        return self.mean.plan(template)

    def zero(self, plan: SumPlan) -> Partial:
        """The mean's."""
        return self.mean.zero(plan)

    def check(self, plan: SumPlan, update: Update) -> None:
        """The mean's: what is beyond its range is rejected, not clipped."""
        self.mean.check(plan, update)

    def accumulate(self, plan: SumPlan, partial: Partial, update: Update, contribution: Contribution) -> Partial:
        """Clip, then add; `partial` is changed and returned, or left alone on an error."""
        self.check(plan, update)
        arrays = clipped(plan, update.arrays, self.bound)
        return self.mean.accumulate(plan, partial, replace(update, arrays=arrays), contribution)

    def merge(self, plan: SumPlan, left: Partial, right: Partial) -> Partial:
        """The mean's."""
        return self.mean.merge(plan, left, right)

    def report(self, plan: SumPlan, partial: Partial) -> Aggregate:
        """The mean's."""
        return self.mean.report(plan, partial)


def norm_bound(*, max_weight: int = 2**24, range_bits: int = 6, bound: float, uniform: bool = False) -> NormBound:
    """bound: C > 0, for example the median norm of honest updates; uniform: whether every client counts as 1."""
    check_positive("norm-bound", "bound", bound)
    WeightedMean(max_weight, range_bits, uniform)  # which refuses what it cannot use
    return NormBound(float(bound), max_weight, range_bits, uniform)


def norm(plan: SumPlan, arrays: Arrays) -> float:
    """‖Δ‖ over the floating tensors, from exact integers."""
    floating = [(tensor.exponent, arrays[name]) for name, tensor in plan.tensors.items() if tensor.dtype.kind == "f"]
    parts = ((exponent, [array.reshape(-1)]) for exponent, array in floating)
    return inner_products(parts, 1, plan.limit).norm(0)


def clipped(plan: SumPlan, arrays: Arrays, bound: float) -> Arrays:
    """The change, its floating tensors shorter where they are longer than the bound together."""
    length = norm(plan, arrays)
    if length <= bound:
        return arrays
    return map_floating(lambda array: np.multiply(array, bound / length, dtype=np.float64).astype(array.dtype), arrays)
