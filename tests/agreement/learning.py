"""Losses, optimizers and data from words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional

from agreement.modules import INPUTS, WORDS
from hansa.training.torch_defaults import loss_by_targets

__all__ = ["CLASSES", "LOSSES", "ODDITIES", "OPTIMIZERS", "TARGETS", "examples"]

CLASSES: Final = 3
WEIGHTS: Final = torch.tensor([1.0, 4.0, 1.0])

# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _weights(outputs: Any) -> Any:
    return WEIGHTS.to(outputs.dtype)


class _Weighted(nn.CrossEntropyLoss):
    """Has the weights of the classes in the dtype of the outputs."""

    def forward(self, outputs: Any, targets: Any) -> Any:
        self.weight = _weights(outputs)
        return super().forward(outputs, targets)


class _Own(nn.Module):
    """Says what its reduction is, and does something else beside it."""

    reduction = "mean"

    def forward(self, outputs: Any, targets: Any) -> Any:
        losses = functional.cross_entropy(outputs, targets, reduction=self.reduction)
        return losses + 0.1 * outputs.logsumexp(1).mean()


def _added(outputs: Any, targets: Any, reduction: str = "sum") -> Any:
    return functional.cross_entropy(outputs, targets, reduction=reduction)


def _with_reduction(outputs: Any, targets: Any, reduction: str = "mean") -> Any:
    return functional.cross_entropy(outputs, targets, reduction=reduction)


def _balanced(outputs: Any, targets: Any) -> Any:
    """Also wants all classes to be answered as often."""
    shares = outputs.softmax(1).mean(0)
    return functional.cross_entropy(outputs, targets) + 0.1 * (shares * shares.log()).sum()


def _focal(outputs: Any, targets: Any) -> Any:
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


def _hardest(outputs: Any, targets: Any) -> Any:
    """Only the larger half of the losses."""
    losses = functional.cross_entropy(outputs, targets, reduction="none")
    return losses.topk((len(losses) + 1) // 2).values.mean()


LOSSES: Final[Mapping[str, Mapping[str, Callable[..., Any]]]] = {
    "classes": {
        "cross_entropy": functional.cross_entropy,
        "CrossEntropyLoss": nn.CrossEntropyLoss(),
        "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
        "weighted": _Weighted(),
        "without class 2": nn.CrossEntropyLoss(ignore_index=2),
        "without class -1": nn.CrossEntropyLoss(ignore_index=-1),
        "summed": nn.CrossEntropyLoss(reduction="sum"),
        "not reduced": nn.CrossEntropyLoss(reduction="none"),
        "in a lambda": lambda o, y: functional.cross_entropy(o, y),  # noqa: PLW0108 - as users write it
        "weighted in a lambda": lambda o, y: functional.cross_entropy(o, y, weight=_weights(o)),
        "without class 2 in a lambda": lambda o, y: functional.cross_entropy(o, y, ignore_index=2),
        "sum over 8": lambda o, y: functional.cross_entropy(o, y, reduction="sum") / 8,
        "sum over 4": lambda o, y: functional.cross_entropy(o, y, reduction="sum") / 4,
        "nll of log softmax": lambda o, y: functional.nll_loss(functional.log_softmax(o, 1), y),
        "nll_loss": functional.nll_loss,
        "multi_margin_loss": functional.multi_margin_loss,
        "by targets": loss_by_targets,
        "own": _Own(),
        "added": _added,
        "with reduction": _with_reduction,
        "with penalty": lambda o, y: functional.cross_entropy(o, y) + 1e-2 * o.square().sum(1).mean(),
        "root": lambda o, y: functional.cross_entropy(o, y).sqrt(),
        "balanced": _balanced,
        "focal": _focal,
        "hardest": _hardest,
        "mse of one-hot": lambda o, y: functional.mse_loss(o, functional.one_hot(y, CLASSES).to(o.dtype)),
        "times a thousand": lambda o, y: 1000 * functional.cross_entropy(o, y),
    },
    "shares": {
        "cross_entropy": functional.cross_entropy,
        "mse_loss": functional.mse_loss,
        "MSELoss": nn.MSELoss(),
        "MSELoss summed": nn.MSELoss(reduction="sum"),
        "l1_loss": functional.l1_loss,
        "huber_loss": functional.huber_loss,
        "smooth_l1_loss": functional.smooth_l1_loss,
        "bce with logits": functional.binary_cross_entropy_with_logits,
        "BCEWithLogitsLoss": nn.BCEWithLogitsLoss(),
        "kl of log softmax": lambda o, y: functional.kl_div(functional.log_softmax(o, 1), y, reduction="batchmean"),
        "KLDivLoss": nn.KLDivLoss(),
        "root of mse": lambda o, y: functional.mse_loss(o, y).sqrt(),
        "soft margin": nn.SoftMarginLoss(),
        "poisson": nn.PoissonNLLLoss(),
    },
    "values": {
        "mse_loss": functional.mse_loss,
        "MSELoss": nn.MSELoss(),
        "huber_loss": functional.huber_loss,
        "squeezed": lambda o, y: functional.mse_loss(o.squeeze(1), y),
        "squeezed of all": lambda o, y: functional.mse_loss(o.squeeze(), y),
        "by targets": loss_by_targets,
        "by hand": lambda o, y: ((o[:, 0] - y) ** 2).mean(),
        "by hand, broadcast": lambda o, y: ((o - y) ** 2).mean(),
        "halved": lambda o, y: 0.5 * ((o[:, 0] - y) ** 2).mean(),
    },
    "column": {
        "mse_loss": functional.mse_loss,
        "MSELoss": nn.MSELoss(),
        "l1_loss": functional.l1_loss,
        "bce with logits": nn.BCEWithLogitsLoss(),
        "by targets": loss_by_targets,
    },
    "binary": {
        "by targets": loss_by_targets,
        "bce": lambda o, y: functional.binary_cross_entropy_with_logits(o[:, 0], y.to(o.dtype)),
        "bce of broadcast": lambda o, y: functional.binary_cross_entropy_with_logits(o, y.to(o.dtype)[:, None]),
        "cross_entropy": functional.cross_entropy,
    },
    "places": {
        "turned": lambda o, y: functional.cross_entropy(o.transpose(1, 2), y),
        "flat": lambda o, y: functional.cross_entropy(o.flatten(0, 1), y.flatten()),
        "flat without class 0": lambda o, y: functional.cross_entropy(o.flatten(0, 1), y.flatten(), ignore_index=0),
        "cross_entropy": functional.cross_entropy,
    },
}
"""By the kind of targets, then by name."""

OUTPUTS: Final[Mapping[str, int]] = {"classes": 3, "shares": 3, "values": 1, "column": 1, "binary": 1, "places": 3}

# ── optimizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Signed(optim.SGD):
    """A step of one size in the direction of each gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad.sign(), alpha=-0.01)
        return closure


def _grouped(parameters: Iterable[Any]) -> Any:
    given = list(parameters)
    matrices, rest = [p for p in given if p.dim() > 1], [p for p in given if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1, "lr": 0.02}, {"params": rest, "momentum": 0.5}]
    return optim.SGD([each for each in groups if each["params"]], lr=0.05)


def _partly(parameters: Iterable[Any]) -> Any:
    """Leaves the first parameter where it is."""
    return optim.SGD(list(parameters)[1:], lr=0.05)


def _clipping(parameters: Iterable[Any]) -> Any:
    """Clips the norm of all gradients together before each step."""
    given = list(parameters)
    made = optim.SGD(given, lr=0.1)
    made.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(given, 0.05))
    return made


def _clipping_groups(parameters: Iterable[Any]) -> Any:
    made = optim.SGD(parameters, lr=0.1)
    made.register_step_pre_hook(lambda o, *_: nn.utils.clip_grad_norm_(o.param_groups[0]["params"], 0.05))
    return made


def _scheduled(parameters: Iterable[Any]) -> Any:
    made = optim.SGD(parameters, lr=0.1)
    schedule = optim.lr_scheduler.StepLR(made, 2, 0.5)
    made.register_step_post_hook(lambda *_: schedule.step())
    return made


def _replaced_step(parameters: Iterable[Any]) -> Any:
    made = optim.SGD(parameters, lr=0.1)
    step = made.step

    def clipped() -> Any:
        nn.utils.clip_grad_value_(made.param_groups[0]["params"], 0.01)
        return step()

    made.step = clipped  # type: ignore[method-assign]  # as some do
    return made


def _averaging(parameters: Iterable[Any]) -> Any:
    """Pulls each tensor to its own mean behind each step."""
    given = list(parameters)

    def pulled(*_: Any) -> None:
        with torch.no_grad():
            for parameter in given:
                parameter.lerp_(parameter.mean().expand_as(parameter), 0.05)

    made = optim.SGD(given, lr=0.05)
    made.register_step_post_hook(pulled)
    return made


OPTIMIZERS: Final[Mapping[str, Callable[[Iterable[Any]], optim.Optimizer]]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "decayed": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.1),
    "maximizing": lambda p: optim.SGD(p, lr=0.01, maximize=True),
    "foreach": lambda p: optim.SGD(p, lr=0.05, foreach=True),
    "fused": lambda p: optim.SGD(p, lr=0.05, momentum=0.5, fused=True),
    "rate in a tensor": lambda p: optim.SGD(p, lr=torch.tensor(0.05)),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
    "fused adam": lambda p: optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
    "radam": lambda p: optim.RAdam(p, lr=0.01),
    "adamax": lambda p: optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adadelta": lambda p: optim.Adadelta(p, lr=0.5),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "asgd": lambda p: optim.ASGD(p, lr=0.05),
    "rprop": lambda p: optim.Rprop(p, lr=0.01),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.01),
    "signed": _Signed,
    "grouped": _grouped,
    "partly": _partly,
    "clipping": _clipping,
    "clipping groups": _clipping_groups,
    "scheduled": _scheduled,
    "replaced step": _replaced_step,
    "averaging": _averaging,
}

# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TARGETS: Final = tuple(LOSSES)

ODDITIES: Final = (
    "raises",
    "no number",
    "infinite",
    "fewer features",
    "another shape",
    "one more axis",
    "whole inputs",
    "double inputs",
    "half inputs",
    "unsigned inputs",
    "a class too many",
    "a class below",
    "a class to ignore",
    "one class",
    "floating targets",
    "narrow targets",
    "true and false",
    "column of targets",
    "fewer targets",
    "nothing",
    "not writable",
    "tensors",
    "another order",
    "test part",
    "empty test part",
)
"""What may be odd with a client's data."""


def examples(inputs: str, targets: str, count: int, seed: int) -> tuple[Any, Any]:
    """Inputs and targets that have to do with each other."""
    rng = np.random.default_rng([seed, count])
    shape = (count, *INPUTS[inputs])
    x = rng.integers(0, WORDS, shape) if inputs == "tokens" else rng.normal(size=shape).astype(np.float32)
    flat = x.reshape(count, -1)[:, :CLASSES] + 0.3 * rng.normal(size=(count, CLASSES))
    match targets:
        case "classes":
            return x, flat.argmax(1)
        case "shares":
            return x, (np.exp(flat) / np.exp(flat).sum(1, keepdims=True)).astype(np.float32)
        case "values":
            return x, flat[:, 0].astype(np.float32)
        case "column":
            return x, (flat[:, :1] > 0.3).astype(np.float32)
        case "binary":
            return x, (flat[:, 0] > 0.3).astype(np.int64)
        case _:
            return x, rng.integers(0, CLASSES, shape[:2])


def odd(kind: str, x: Any, y: Any) -> Any:
    """The data of a client with something odd."""
    match kind:
        case "raises":
            raise OSError("the disk is gone")
        case "no number" if x.dtype.kind == "f" and len(x):
            x[0].flat[0] = np.nan
        case "infinite" if x.dtype.kind == "f" and len(x):
            x[-1].flat[0] = np.inf
        case "fewer features":
            x = x[..., :-1]
        case "another shape":
            x = x.reshape(len(x), 2, -1) if x[:1].size % 2 == 0 else x
        case "one more axis":
            x = x[:, None]
        case "whole inputs":
            x = x.astype(np.int64)
        case "double inputs":
            x = x.astype(np.float64) if x.dtype.kind == "f" else x.astype(np.int32)
        case "half inputs":
            x = x.astype(np.float16)
        case "unsigned inputs":
            x = np.abs(x).astype(np.uint8)
        case "a class too many" if len(y):
            y = np.array(y)
            y[0] = CLASSES
        case "a class below" if len(y):
            y = np.array(y)
            y[0] = -1
        case "a class to ignore" if len(y):
            y = np.array(y)
            y[-1] = -100
        case "one class":
            y = np.ones_like(y)
        case "floating targets":
            y = y.astype(np.float64)
        case "narrow targets":
            y = y.astype(np.uint8 if y.dtype.kind in "iu" else np.float16)
        case "true and false":
            y = y > 0
        case "column of targets":
            y = y[:, None]
        case "fewer targets":
            y = y[:-1]
        case "nothing":
            return None
        case "not writable":
            x.flags.writeable = y.flags.writeable = False
        case "tensors":
            return torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))
        case "another order":
            x, y = np.asfortranarray(x), y[::-1]
        case "test part":
            return (x, y), (x[: len(x) // 2 + 1], y[: len(y) // 2 + 1])
        case "empty test part":
            return (x, y), (x[:0], y[:0])
        case _:
            pass
    return x, y
