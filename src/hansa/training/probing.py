"""Whether examples have to do with each other: in a module's outputs, or in a loss. Found out by trying.

What the first examples of one client happen to be must not decide it: there may be one alone, or only one class, or
numbers that are none. So there are made-up ones beside them.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from hansa.training.setup import Loss
from hansa.training.tensors import Inputs, called, copied, mapped
from hansa.training.vectorized import PerExample

__all__ = ["alike", "enough", "is_mean_of", "mixes", "tolerance"]

_ENOUGH = 8
"""Examples of which something that examples have to do with each other shows."""

_LEFT_OUT = (math.nan, -1.0, 0.0, -100.0, -999.0, -9999.0)
"""What stands for a target that is not known, where targets are numbers; a loss may leave such out of its mean."""

_NO_CLASS = 255
"""The same, where they are classes or whole numbers. Those below 0 are looked for among the targets themselves."""

_NUMBERS = 1 << 20
"""In the outputs that a loss is tried on, at most."""


def tolerance(like: torch.Tensor) -> float:
    """What rounding in another order comes to at most, as a share of the largest number.

    Elsewhere than on a CPU float32 has products in fewer digits (TF32).
    """
    of_dtype = {torch.float64: 1e-8, torch.float32: 2e-4 if like.device.type == "cpu" else 1e-2}
    return of_dtype.get(like.dtype, 3e-2)


def alike(left: torch.Tensor, right: torch.Tensor, size: float | None = None) -> bool:
    """Whether two tensors are equal but for rounding. size: what a number may be as large as; None: the largest is."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point():
        return torch.equal(left, right)
    if size is None:
        finite = right[right.isfinite()]
        size = float(finite.abs().max()) if len(finite) else 0.0
    near = tolerance(right) * max(size, tolerance(right))
    if not right.numel() or float((left - right).abs().max()) <= near:
        return True
    return torch.allclose(left, right, rtol=0.0, atol=near, equal_nan=True)  # where some are infinite, or none at all


def enough(x: Inputs, y: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
    """Finite examples, and others made of them where there are few; targets between 0 and 1 stay there."""
    of = [i % len(y) for i in range(_ENOUGH - len(y))]
    near = [y[one] * (1 - i / 20) + i / 40 if y.is_floating_point() else y[one] for i, one in enumerate(of, 1)]
    return mapped(lambda each: _with_turned(each, of), x), torch.stack([*y, *near])


def _with_turned(x: torch.Tensor, of: Sequence[int]) -> torch.Tensor:
    """Inputs, and some of them with their numbers in other places, and of the other sign."""
    if x.is_floating_point():
        x = torch.nan_to_num(x, 0.0, 1.0, -1.0)
    moved = [x[one].flatten().roll(i + 1).view_as(x[one]) for i, one in enumerate(of)]
    return torch.stack([*x, *(-each if i % 2 and x.is_floating_point() else each for i, each in enumerate(moved))])


def mixes(module: torch.nn.Module, x: Inputs, outputs: torch.Tensor) -> bool:
    """Whether outputs of examples, which are those of `x` together, depend on the others, or on chance."""
    size = float(outputs.abs().max())
    parts = [slice(1), slice(2, 5)]
    return any(not alike(called(module, copied(x, part)), outputs[part], size) for part in parts)


def is_mean_of(loss: Loss, each: PerExample, outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether a loss is the mean of what `each` says of the examples, whichever these are."""
    return all(_is_mean(loss, each, *given) for given in _pairs(each, outputs, targets))


def _is_mean(loss: Loss, each: PerExample, outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    losses = each(outputs, targets)
    for part in (slice(None), slice(1), slice(1, 4)):
        again, mean = each(outputs[part], targets[part]), loss(outputs[part], targets[part])
        if not alike(again, losses[part]) or not alike(mean, losses[part].mean()):
            return False
    return True


def _pairs(
    each: PerExample, outputs: torch.Tensor, targets: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Outputs and targets as they are; and others, of every class where there are classes."""
    yield outputs, targets
    others = _of_every_class(outputs, targets)
    count = max(len(outputs), len(others))
    repeated = outputs[torch.arange(count, device=outputs.device) % len(outputs)]
    others = others[torch.arange(count, device=others.device) % len(others)]
    spread = repeated + torch.randn_like(repeated)
    yield (spread if _takes(each, spread, others) else repeated), others
    yield from _with_unknown(each, outputs, targets)


def _with_unknown(
    each: PerExample, outputs: torch.Tensor, targets: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Targets of which some are what stands for a target that is not known, of example after example another number.

    On the CPU: elsewhere a class that is none ends the process.
    """
    outputs, targets = outputs.cpu(), targets.cpu()
    numbers = targets.flatten(1).shape[1] if targets.dim() > 1 else 1
    place = torch.arange(len(targets) * numbers).view(targets.shape)
    unknown = place % numbers < (place // numbers) % 3 * math.ceil(numbers / 3)
    if numbers == 1:
        unknown = place % 3 == 1
    for value in _LEFT_OUT if targets.is_floating_point() else (_NO_CLASS,):
        moved = torch.where(unknown, torch.full_like(targets, value), targets)
        if _takes(each, outputs, moved):
            yield outputs, moved


def _takes(each: PerExample, outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether a loss is one of such outputs, and not of probabilities alone."""
    try:
        return bool(each(outputs, targets).isfinite().any())
    except (RuntimeError, ValueError, IndexError):
        return False


def _of_every_class(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Targets with every class that outputs tell apart, or with very many; in another order, where these are none."""
    classes = _classes(outputs, targets)
    if classes is None:
        return targets.roll(1, 0)
    places = math.prod(targets.shape[1:])
    most = max(1, _NUMBERS // outputs[0].numel())
    count = max(len(targets), min(most, math.ceil(classes / places)))
    return (torch.arange(count * places, device=targets.device) % classes).view(count, *targets.shape[1:])


def _classes(outputs: torch.Tensor, targets: torch.Tensor) -> int | None:
    """How many there are; None where targets are no numbers of classes."""
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return None
    if outputs.shape[2:] == targets.shape[1:]:
        classes = outputs.shape[1]
    elif outputs.shape[1:-1] == targets.shape[1:]:
        classes = outputs.shape[-1]
    else:
        return None
    return classes if classes > 1 else None
