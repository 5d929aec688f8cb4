"""Outputs and targets that belong together: what may be told of them before a loss or an accuracy is."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hansa.errors import AppError
from hansa.training.routines import uncompiled
from hansa.training.tensors import Inputs

__all__ = [
    "accuracy",
    "are_shares",
    "check_are_pairs",
    "check_are_signs",
    "check_is_loss",
    "explaining",
    "scores",
    "takes_shares",
    "with_classes_second",
]


def scores(outputs: Any) -> torch.Tensor:
    """Outputs, or the `logits` among them where they are several, as those of Hugging Face's models are.

    Raises `AppError` where there is no such tensor.
    """
    found: object = outputs
    if not isinstance(outputs, torch.Tensor):
        found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise AppError(
            f"the module returns a {type(outputs).__name__}, neither a tensor nor something with logits: give a loss "
            "of (outputs, targets), and metrics of your own, or metrics={} for none"
        )
    return found


def accuracy(outputs: Any, targets: torch.Tensor, *, classes: int | None = None) -> torch.Tensor:
    """The share of right answers, among the targets that are not below 0: those are left out, as cross-entropy does.

    outputs: shape (n, classes, …) or (n, …, classes) with targets (n, …) of class numbers; or as many logits as there
    are targets, of 1 against 0, or of 1 against -1 where there are no others; or what has such `logits`. classes: their
    axis, 1 or -1, where it cannot be told, as `functools.partial(accuracy, classes=-1)`. Raises `AppError` for other
    outputs.
    """
    found = scores(outputs)
    if found.numel() == targets.numel():
        are_signs = not ((targets == 0) | (targets < -1)).any()
        signs = targets.clamp(min=0) if are_signs else targets
        right = (found.reshape(targets.shape) > 0).eq(signs)
        return right.double().sum() / (signs >= 0).sum().clamp(min=1)
    right = with_classes_second(found, targets, classes).argmax(dim=1) == targets
    return right.double().sum() / (targets >= 0).sum().clamp(min=1)


def with_classes_second(outputs: torch.Tensor, targets: torch.Tensor, classes: int | None = None) -> torch.Tensor:
    """Shape (n, classes, …), of outputs that have their classes there already, or along the last axis.

    targets: shape (n, …), of class numbers. classes: the axis, 1 or -1, where it might be either. Raises `AppError`
    where it is not said then, or is neither.
    """
    second, last = outputs.shape[2:] == targets.shape[1:], outputs.shape[1:-1] == targets.shape[1:]
    if second and last and outputs.dim() > 2:  # noqa: PLR2004 - (n, classes) is both
        if classes not in {1, -1}:
            raise AppError(
                f"outputs of the shape {tuple(outputs.shape)} have their classes along the second axis or the last "
                'one, which cannot be told: give metrics={"accuracy": partial(accuracy, classes=-1)}, or 1 for the '
                "second, and a loss of your own, or partial(loss_by_targets, classes=-1) (of hansa.training.torch and "
                "torch_defaults)"
            )
        return outputs if classes == 1 else outputs.movedim(-1, 1)
    if not second and not last:
        raise AppError(
            f"the module's outputs have the shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}: whole "
            "numbers are classes, for which outputs have one axis more, second or last"
        )
    return outputs if second else outputs.movedim(-1, 1)


def check_is_loss(loss: Any) -> None:
    """Raise `AppError` unless it is one number that has a gradient."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = (
            f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        )
        raise AppError(f"the loss is {what}: it must return a tensor of one number, the mean over the batch")
    if not loss.requires_grad:
        raise AppError("the loss does not depend on what is trained: take it of the outputs as they are, not detached")


def check_are_signs(targets: torch.Tensor) -> None:
    """Raise `AppError` unless the targets of single logits are 0 and 1; nothing is looked at within `torch.func`."""
    if _is_transformed() or not targets.numel():
        return
    least, most = int(targets.min()), int(targets.max())
    if least < 0 or most > 1:
        raise AppError(
            f"targets are whole numbers from {least} to {most}, and the module has one output for each: give the "
            "targets as floats for a regression, as many outputs as classes for a classification, or a loss"
        )


@contextmanager
def explaining(inputs: Inputs, targets: torch.Tensor) -> Iterator[None]:
    """Of what a module or a loss raises for a batch, an `AppError` with the remedy where there is one; else a note."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        named = inputs if isinstance(inputs, dict) else None
        explained = _explained(error, inputs, targets) if named is None else _explained_by_name(error, named)
        if isinstance(error, TypeError) and "must be Tensor, not" in str(error):
            explained = AppError(
                "the loss is given what the module returns, and takes a tensor: give one that takes that apart, "
                f"as lambda outputs, targets: cross_entropy(outputs.logits, targets) ({error})"
            )
        elif any(words in str(error) for words in _OF_LOSSES) and not targets.is_floating_point():
            explained = AppError(
                f"targets are whole numbers, and the loss takes floats: give them as float32 ({error})"
            )
        if explained is not None:
            raise explained from error
        several = {"inputs": inputs} if named is None else named
        kinds = ", ".join(f"{name}, {_kind(each)}" for name, each in several.items())
        error.add_note(f"hansa: in a batch of {kinds}, and targets, {_kind(targets)}")
        raise


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _explained_by_name(error: Exception, inputs: dict[str, torch.Tensor]) -> AppError | None:
    said = str(error)
    if "forward() got an unexpected keyword" in said or "forward() missing" in said:
        return AppError(f"the module is called with the inputs {', '.join(inputs)} by name, and takes others ({said})")
    if "index out of range in self" in said:
        spans = [
            f"{name} from {int(each.min())} to {int(each.max())}"
            for name, each in inputs.items()
            if not each.is_floating_point() and each.numel()
        ]
        return AppError(f"an embedding has no row for all of the whole numbers that it is given: {', '.join(spans)}")
    return None


def _explained(error: Exception, inputs: torch.Tensor, targets: torch.Tensor) -> AppError | None:
    said, kind = str(error), str(inputs.dtype).removeprefix("torch.")
    if "more than 1 value per channel" in said and len(inputs) == 1:
        return AppError(
            "BatchNorm cannot train on a last batch of one example: give drop_last=True, and leave out who has one, "
            f"of a partition by min_size=2 ({error})"
        )
    if isinstance(error, IndexError) and said.startswith("Target ") and not targets.is_floating_point():
        least, most = int(targets.min()), int(targets.max())
        return AppError(
            f"targets are classes from {least} to {most}, and the module has no output for all of them: give it "
            f"{most + 1} outputs, or number the classes from 0"
        )
    if "index out of range in self" in said and not inputs.is_floating_point():
        least, most = int(inputs.min()), int(inputs.max())
        return AppError(
            f"inputs are whole numbers from {least} to {most}, and an embedding has no row for all of them: give it "
            f"{most + 1} rows, or number the words from 0"
        )
    if "argument #1 'indices'" in said and inputs.is_floating_point():
        return AppError(f"inputs are {kind}, and an embedding takes whole numbers: give them as int64")
    if any(words in said for words in _OF_LAYERS) and not inputs.is_floating_point():
        return AppError(f"inputs are {kind}, and a layer of the module takes floats: give them as float32 ({said})")
    return None


_OF_LOSSES = ("cast to the desired output type Long", "Found dtype Long but expected")
"""What they say of targets that are whole numbers."""

_OF_LAYERS = (
    "mat1 and mat2 must have the same",
    "m1 and m2 to have the same",
    "Input type (",
    "mixed dtype",
    "does not match weight dtype",
)
"""What layers say of inputs in another dtype than their weights, and losses do not say of targets."""


def check_are_pairs(loss: Callable[[Any, Any], Any], outputs: Any, targets: torch.Tensor) -> None:
    """Raise `AppError` where a loss takes each output with every target, as (n, 1) and (n,) are broadcast.

    That shows in the loss of answers that are all right: it is the same of targets in another order, and another one
    where the answers have the targets' shape. What the loss draws meanwhile is not missing afterwards.
    """
    if not isinstance(outputs, torch.Tensor) or outputs.dim() == targets.dim() or outputs.squeeze().dim() == 0:
        return
    if not outputs.is_floating_point() or not targets.is_floating_point():
        return
    spread = [axis for axis in range(-targets.dim(), 0) if _along(outputs, axis) == 1 < targets.shape[axis]]
    if (
        outputs.squeeze().shape != targets.squeeze().shape
        or not spread
        or bool((targets == targets.flatten()[0]).all())
    ):
        return

    def told(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
        with torch.random.fork_rng(devices=[outputs.device] if outputs.is_cuda else []):
            return loss(outputs, targets)

    right = targets.to(outputs.dtype)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found, fitted = told(right.reshape(outputs.shape), targets), told(right, targets)
            moved = told(right.reshape(outputs.shape), _reordered(targets, spread))
        except (RuntimeError, ValueError, IndexError):
            return
    if _are_same(found, moved) and not _are_same(found, fitted):
        raise AppError(
            f"the module's outputs have the shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}, so "
            "that the loss takes each output with every target: give both the same shape, for example y[:, None]"
        )


def _along(tensor: torch.Tensor, axis: int) -> int:
    """Its length along an axis that is counted from the last one; 1 where it has none."""
    return tensor.shape[axis] if -axis <= tensor.dim() else 1


def _reordered(tensor: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """The same numbers, moved along these axes in one cycle: unless all are the same, some are where others were."""
    for axis in axes:
        order = torch.randperm(tensor.shape[axis], generator=torch.Generator().manual_seed(0))
        whence = torch.empty_like(order)
        whence[order] = order.roll(1)
        tensor = tensor.index_select(axis, whence.to(tensor.device))
    return tensor


def _are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, equal_nan=True)


def _is_transformed() -> bool:
    """Whether this runs within `torch.func`, where no tensor tells its numbers."""
    return bool(torch._C._are_functorch_transforms_active())  # noqa: SLF001 - torch.func does not tell


def are_shares(targets: torch.Tensor) -> bool:
    """Whether none is below 0 or above 1."""
    if not targets.numel():
        return True
    least, most = targets.aminmax()
    return not bool(least < 0) and not bool(most > 1)


def takes_shares(loss: Callable[[Any, Any], Any], outputs: Any, targets: torch.Tensor) -> bool:
    """Whether a loss takes the mean of binary cross-entropies, which are such of targets from 0 to 1.

    Raises `AppError` where it is given others: it would fall without end. One that weighs its targets, or takes the
    mean itself, may leave such out. What the loss draws or changes in place meanwhile is as it was afterwards.
    """
    if isinstance(outputs, torch.Tensor) and outputs.numel() != targets.numel():
        return False
    outputs, targets = (each.clone() if isinstance(each, torch.Tensor) else each for each in (outputs, targets))
    entropies = _Entropies()
    with torch.random.fork_rng(devices=[targets.device] if targets.is_cuda else []), uncompiled(), entropies:
        loss(outputs, targets)
    return entropies.found


class _Entropies(TorchFunctionMode):
    """Looks for binary cross-entropies whose mean or sum is taken as it is, and at their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _ENTROPIES and given["reduction"] != "none" and given["weight"] is None:
            self.found, targets = True, args[1]  # the other arguments are given by name
            if not _is_transformed() and not are_shares(targets):
                raise AppError(
                    "the loss is a binary cross-entropy, of targets from 0 to 1, and these go from "
                    f"{float(targets.min()):g} to {float(targets.max()):g}: give (y + 1) / 2 for labels -1 and 1, or "
                    "another loss, as SoftMarginLoss"
                )
        return func(*args, **given)


_ENTROPIES = (functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits)
