"""Modules of PyTorch from words: layers one after another, and what users do beside that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

__all__ = ["INPUTS", "LAYERS", "QUIRKS", "built"]

Shape = tuple[int, ...]

WORDS: Final = 11
WIDTH: Final = 6

INPUTS: Final[Mapping[str, Shape]] = {"flat": (6,), "image": (2, 5, 5), "sequence": (3, 4), "tokens": (5,)}
"""The shape of one example, by kind; tokens are whole numbers below `WORDS`."""


# ── layers: from the shape of an example to a module, or None where it has no place there ────────────────────────────


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


class Scaled(nn.Module):
    """A number that is trained, and one that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.9))
        self.register_buffer("shift", torch.tensor(0.1))

    def forward(self, x: Any) -> Any:
        return x * self.scale + self.shift


def _normed(shape: Shape, kind: str) -> nn.Module | None:
    match kind, shape:
        case "batch", (features,):
            return nn.BatchNorm1d(features)
        case "batch", (channels, _, _):
            return nn.BatchNorm2d(channels)
        case "group", (features, *_) if features % 2 == 0:
            return nn.GroupNorm(2, features)
        case _:
            return None


def _conv(shape: Shape) -> nn.Module | None:
    return nn.Conv2d(shape[0], 2, 2) if len(shape) == 3 and min(shape[1:]) > 2 else None


def _pool(shape: Shape, kind: Callable[[int], nn.Module]) -> nn.Module | None:
    return kind(2) if len(shape) == 3 and min(shape[1:]) > 2 else None


def _always(make: Callable[[], nn.Module]) -> Callable[[Shape], nn.Module | None]:
    return lambda _: make()


def _function(function: Callable[[Any], Any]) -> Callable[[Shape], nn.Module | None]:
    return lambda _: Applied(function)


LAYERS: Final[Mapping[str, Callable[[Shape], nn.Module | None]]] = {
    "linear": lambda shape: nn.Linear(shape[-1], WIDTH),
    "linear without bias": lambda shape: nn.Linear(shape[-1], WIDTH, bias=False),
    "flatten": _always(nn.Flatten),
    "relu": _always(nn.ReLU),
    "relu in place": _always(lambda: nn.ReLU(inplace=True)),
    "relu as a function": _function(functional.relu),
    "torch.relu": _function(torch.relu),
    "tanh": _always(nn.Tanh),
    "tensor.tanh": _function(torch.Tensor.tanh),
    "sigmoid": _always(nn.Sigmoid),
    "gelu": _always(nn.GELU),
    "leaky": _always(lambda: nn.LeakyReLU(0.2)),
    "leaky in place": _always(lambda: nn.LeakyReLU(0.2, inplace=True)),
    "elu": _always(nn.ELU),
    "elu in place": _always(lambda: nn.ELU(inplace=True)),
    "silu": _always(nn.SiLU),
    "softplus": _always(nn.Softplus),
    "hardtanh": _always(nn.Hardtanh),
    "softmax": _always(lambda: nn.Softmax(-1)),
    "softmax over places": _always(lambda: nn.Softmax(1)),
    "log softmax": _always(lambda: nn.LogSoftmax(-1)),
    "prelu": _always(nn.PReLU),
    "identity": _always(nn.Identity),
    "dropout": _always(lambda: nn.Dropout(0.3)),
    "no dropout": _always(lambda: nn.Dropout(0.0)),
    "layer norm": lambda shape: nn.LayerNorm(shape[-1]),
    "rms norm": lambda shape: nn.RMSNorm(shape[-1]),
    "batch norm": lambda shape: _normed(shape, "batch"),
    "group norm": lambda shape: _normed(shape, "group"),
    "conv": _conv,
    "max pool": lambda shape: _pool(shape, nn.MaxPool2d),
    "average pool": lambda shape: _pool(shape, nn.AvgPool2d),
    "residual": lambda shape: Residual(nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.ReLU())),
    "nested": lambda shape: nn.Sequential(nn.Sequential(nn.Linear(shape[-1], WIDTH), nn.ReLU()), nn.Identity()),
    "weight norm": lambda shape: nn.utils.parametrizations.weight_norm(nn.Linear(shape[-1], WIDTH)),
    "scaled": _always(Scaled),
    "square": _function(torch.square),
    "double in place": _function(lambda x: x.mul_(2.0)),
    "mean of places": _function(lambda x: x.mean(1, keepdim=True) if x.dim() > 2 else x),
}
"""By name; each keeps the first axis as it is."""


def _after(layer: nn.Module, shape: Shape) -> Shape:
    """The shape of what comes out."""
    with torch.no_grad():
        return tuple(layer.eval()(torch.zeros(2, *shape)).shape[1:])


def built(inputs: str, layers: Sequence[str], tail: Sequence[str], outputs: int, quirk: str, dtype: str) -> nn.Module:
    """A new module. tail: layers behind the last linear one, which makes `outputs`; where there are none, no bias."""
    made, shape = [], INPUTS[inputs]
    if inputs == "tokens":
        made.append(nn.Embedding(WORDS, 4))
        shape = (*shape, 4)
    for name in layers:
        layer = LAYERS[name](shape)
        if layer is not None:
            shape = _after(layer, shape)
            made.append(layer)
    if len(shape) > 1 and quirk != "places":
        made.append(nn.Flatten())
        shape = _after(made[-1], shape)
    made.append(nn.Linear(shape[-1], outputs))
    for name in tail:
        layer = LAYERS[name]((*shape[:-1], outputs))
        made += [] if layer is None else [layer]
    module = nn.Sequential(*made)
    for each in module.modules():
        each.training = True
    return QUIRKS[quirk](module).to(getattr(torch, dtype))


# ── what users do beside that ────────────────────────────────────────────────────────────────────────────────────────


class Wrapped(nn.Module):
    """A module, and something around it."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x)


class Unused(Wrapped):
    """Two parameters that nothing reads."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__(inner)
        self.more = nn.Parameter(torch.ones(2))
        self.other = nn.Linear(2, 2)


class FirstWithoutGradient(Wrapped):
    """A part that is computed without gradients, though its parameters ask for some."""

    def forward(self, x: Any) -> Any:
        middle = _first_linear(self.inner) + 1
        with torch.no_grad():
            x = self.inner[:middle](x)
        return self.inner[middle:](x)


class Detached(Wrapped):
    def forward(self, x: Any) -> Any:
        middle = _first_linear(self.inner) + 1
        return self.inner[middle:](self.inner[:middle](x).detach())


class Twice(Wrapped):
    """The last layer again, where its shapes allow it; else the whole is added to itself."""

    def forward(self, x: Any) -> Any:
        return self.inner(x) + 0.5 * self.inner(x)


class Mixing(Wrapped):
    """A little of the others in each example."""

    def forward(self, x: Any) -> Any:
        outputs = self.inner(x)
        return outputs - 0.005 * outputs.mean(0)


class Counting(Wrapped):
    """Depends on how many examples there are."""

    def forward(self, x: Any) -> Any:
        return self.inner(x) * (1 + 0.001 * len(x))


class OtherInEvaluation(Wrapped):
    def forward(self, x: Any) -> Any:
        outputs = self.inner(x)
        return outputs if self.training else outputs.clamp(min=-0.1)


class LinearInEvaluation(Wrapped):
    """Leaves its rectifiers out when it is evaluated."""

    def forward(self, x: Any) -> Any:
        for layer in self.inner:
            if self.training or not isinstance(layer, nn.ReLU):
                x = layer(x)
        return x


class MixingInEvaluation(Wrapped):
    def forward(self, x: Any) -> Any:
        outputs = self.inner(x)
        return outputs if self.training else outputs - outputs.mean(0)


class HeldElsewhere(Wrapped):
    """Reads its last weight from a list, where nobody puts another one."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__(inner)
        self.last = next(layer for layer in reversed(inner) if isinstance(layer, nn.Linear))
        del inner[list(inner).index(self.last) :]
        self.held = [self.last.weight]

    def forward(self, x: Any) -> Any:
        return functional.linear(self.inner(x), self.held[0], self.last.bias)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        return -gradients[0]


class ReversedGradient(Wrapped):
    """As in adversarial training of domains."""

    def forward(self, x: Any) -> Any:
        middle = _first_linear(self.inner) + 1
        return self.inner[middle:](_Reversed.apply(self.inner[:middle](x)))


class Branching(Wrapped):
    """Another way for a batch whose examples have another shape."""

    def forward(self, x: Any) -> Any:
        return self.inner(x) if x.shape[1:] == INPUTS["flat"] else self.inner(x) * 0.5


class Sparing(Wrapped):
    """Computes again what it needs for the gradient."""

    def forward(self, x: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)


class InDouble(Wrapped):
    def forward(self, x: Any) -> Any:
        outputs = self.inner(x)
        return (outputs.double() * 1.5).to(outputs.dtype)


def _first_linear(inner: nn.Sequential) -> int:
    return next(i for i, each in enumerate(inner) if isinstance(each, nn.Linear | nn.Conv2d | nn.Embedding))


def _frozen(inner: nn.Sequential) -> nn.Module:
    for parameter in inner[_first_linear(inner)].parameters():
        parameter.requires_grad_(requires_grad=False)
    return inner


def _frozen_bias(inner: nn.Sequential) -> nn.Module:
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))
    return inner


def _all_frozen(inner: nn.Sequential) -> nn.Module:
    return inner.requires_grad_(requires_grad=False)


def _tied(inner: nn.Sequential) -> nn.Module:
    """Two weights of one shape are one."""
    seen: dict[Shape, nn.Linear] = {}
    for layer in inner:
        if isinstance(layer, nn.Linear) and not hasattr(layer, "parametrizations"):
            layer.weight = seen.setdefault(tuple(layer.weight.shape), layer).weight
    return inner


def _shared(inner: nn.Sequential) -> nn.Module:
    """One layer has two places."""
    first = next(
        (each for each in inner if isinstance(each, nn.Linear) and each.in_features == each.out_features), None
    )
    return (
        inner
        if first is None
        else nn.Sequential(*inner[: list(inner).index(first)], first, *inner[list(inner).index(first) :])
    )


def _bounded_gradient(inner: nn.Sequential) -> nn.Module:
    """Each parameter's gradient is clamped by a hook of its own."""
    for parameter in inner.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    return inner


def _late_bound(inner: nn.Sequential) -> nn.Module:
    """The same, where only a gradient larger than that of a first step is clamped by much."""
    for parameter in inner.parameters():
        parameter.register_hook(lambda gradient: gradient / gradient.norm().clamp(min=1.5))
    return inner


def _accumulated(inner: nn.Sequential) -> nn.Module:
    def halved(parameter: Any) -> None:
        parameter.grad.mul_(0.5)

    for parameter in inner.parameters():
        parameter.register_post_accumulate_grad_hook(halved)
    return inner


def _hooked(inner: nn.Sequential) -> nn.Module:
    inner[-1].register_forward_hook(lambda _module, _inputs, outputs: outputs * 1.5)
    return inner


def _hooked_before(inner: nn.Sequential) -> nn.Module:
    inner[_first_linear(inner)].register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1,))
    return inner


class TensorHook(Wrapped):
    """A gradient on its way is bounded, all of it together."""

    def forward(self, x: Any) -> Any:
        middle = _first_linear(self.inner) + 1
        h = self.inner[:middle](x)
        if h.requires_grad:
            h.register_hook(lambda slopes: slopes / slopes.norm().clamp(min=0.5))
        return self.inner[middle:](h)


def _hooked_backward(inner: nn.Sequential) -> nn.Module:
    inner[-1].register_full_backward_hook(
        lambda _module, slopes, _outputs: tuple(s if s is None else s * 3 for s in slopes)
    )
    return inner


QUIRKS: Final[Mapping[str, Callable[[nn.Sequential], nn.Module]]] = {
    "": lambda inner: inner,
    "places": lambda inner: inner,
    "wrapped": Wrapped,
    "unused": Unused,
    "first without gradient": FirstWithoutGradient,
    "detached": Detached,
    "twice": Twice,
    "mixing": Mixing,
    "counting": Counting,
    "other in evaluation": OtherInEvaluation,
    "linear in evaluation": LinearInEvaluation,
    "mixing in evaluation": MixingInEvaluation,
    "held elsewhere": HeldElsewhere,
    "reversed gradient": ReversedGradient,
    "branching": Branching,
    "sparing": Sparing,
    "in double": InDouble,
    "frozen": _frozen,
    "frozen bias": _frozen_bias,
    "all frozen": _all_frozen,
    "tied": _tied,
    "shared": _shared,
    "bounded gradient": _bounded_gradient,
    "late bound": _late_bound,
    "accumulated": _accumulated,
    "hooked": _hooked,
    "hooked before": _hooked_before,
    "hooked backward": _hooked_backward,
    "tensor hook": TensorHook,
}
