"""Whether clients can train together on stacked parameters: one step is tried on a few examples of one client.

Whatever the way in which the gradients of stacks are found, they are compared with those that the module has alone, as
`TorchTrainer.fit` computes them. A way that finds others is not taken: what is not known costs speed, and no bit.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hansa.training.chain import Layer, chain_of, is_cross_entropy
from hansa.training.dense import Dense, NotDenseError
from hansa.training.pairs import are_shares, takes_shares
from hansa.training.probing import alike, enough, is_mean_of, mixes
from hansa.training.setup import Loss, left_out_by
from hansa.training.steps import calls_others, trained_parameters
from hansa.training.tensors import Inputs, called, copied, mapped
from hansa.training.vectorized import PerExample, Stack, Way

__all__ = ["OPTIMIZERS", "Rehearsal", "rehearse"]

OPTIMIZERS = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adadelta,
)
"""Those that move each number by its own gradients alone, and remember nothing before the first step."""

_MOVED = 0.2
"""How far, at most, each parameter is moved before something is tried."""

_ROWS = 2
"""Of the stack whose gradients are compared."""

_LANES = 32
"""Numbers that elementwise operations of a CPU take at once, at most; what is left over goes one by one."""

_ALIKE = frozenset(
    {
        "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "_to_copy", "_unsafe_view",
        "abs", "add", "alias", "arange", "baddbmm", "bmm", "cat", "clone", "detach", "div", "embedding",
        "embedding_dense_backward", "eq", "expand", "fill", "full", "ge", "gt", "index_select", "le", "lift_fresh",
        "lt", "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "mean", "mse_loss", "mse_loss_backward",
        "mul", "native_layer_norm", "native_layer_norm_backward", "ne", "neg", "new_ones", "new_zeros",
        "nll_loss_backward", "nll_loss_forward", "ones_like", "permute", "relu", "reshape", "select",
        "select_backward", "slice", "slice_backward", "split", "squeeze", "sub", "sum", "t", "threshold_backward",
        "transpose", "unsqueeze", "view", "where", "zeros", "zeros_like",
    }
)  # fmt: skip
"""Operations of which a row has the same bits wherever it lies in a stack."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of one step."""

    obstacle: str | None = None
    """Why clients cannot train together, as the end of a sentence."""
    way: Way = field(default_factory=Way)
    """How clients train whose examples are such as these."""
    others: Way = field(default_factory=Way)
    """How clients do with examples of another shape or dtype."""
    of_shares: bool = False
    """Whether the loss is of targets from 0 to 1, as these are."""
    saved_bytes: int = 0
    """What the forward pass of one example keeps for the backward pass."""


def rehearse(
    module: torch.nn.Module,
    loss: Loss,
    each: PerExample,
    optimizer: torch.optim.Optimizer,
    *,
    x: Inputs,
    y: torch.Tensor,
) -> Rehearsal:
    """Try a step. loss: a mean over a batch; each: the same of each example; x, y: at least one example.

    The module is in training mode. Its parameters, which are drawn anew, buffers and gradients, and torch's random
    state, are the caller's to restore.
    """
    why = _known_obstacle(module, loss, optimizer)
    if why is not None:
        return Rehearsal(why)
    _as_at_the_beginning(module)
    before = {layer: _numbers_of(layer) for layer in module.modules()}
    try:
        x, y = enough(x, y)
        why = _plain_obstacle(module, loss, each, x, y)
        if why is not None:
            return Rehearsal(why)
        tried = _stacked(module, each, x, y)
        return tried if tried.obstacle is not None else _compared(tried, _Alone(module, loss, each, x, y))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        said = str(error).strip() or type(error).__name__
        if "randomness" in said:
            return Rehearsal("the module draws random numbers while it trains (is it dropout?)")
        return Rehearsal(f"the module cannot run on stacked parameters: {said.splitlines()[0]}")
    finally:
        for layer, numbers in before.items():
            for name in _numbers_of(layer).keys() - numbers.keys():
                delattr(layer, name)
            vars(layer).update(numbers)


def _numbers_of(layer: torch.nn.Module) -> dict[str, Any]:
    """What it has of numbers and texts of its own, by the attribute's name."""
    kinds = int | float | str | None
    return {name: value for name, value in vars(layer).items() if isinstance(value, kinds) and name != "training"}


def _known_obstacle(module: torch.nn.Module, loss: Loss, optimizer: torch.optim.Optimizer) -> str | None:
    """What can be seen without a step."""
    if type(optimizer) not in OPTIMIZERS:
        return f"{type(optimizer).__name__} is not an optimizer that is known to move each number by itself"
    names = list(module.named_parameters(remove_duplicate=False))
    obstacles = {
        "the optimizer calls a function of the app's beside each step": calls_others(optimizer),
        "a fused optimizer does not heed the order in which a stack lies in memory": any(
            group.get("fused") for group in optimizer.param_groups
        ),
        "one parameter of the module has two names": len(names) != len(list(module.parameters())),
        "the module hooks functions of its own to its gradients": any(map(_is_hooked, module.parameters()))
        or any(each._backward_hooks or each._backward_pre_hooks for each in module.modules()),  # noqa: SLF001 - not told elsewhere
        "the loss leaves some targets out": left_out_by(loss, -1) >= 0,
    }
    return next((why for why, is_so in obstacles.items() if is_so), None)


def _is_hooked(parameter: torch.nn.Parameter) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)  # noqa: SLF001 - not told elsewhere


def _plain_obstacle(module: torch.nn.Module, loss: Loss, each: PerExample, x: Inputs, y: torch.Tensor) -> str | None:
    """Look at the module and the loss on their own."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for mode in (False, True):
            outputs = called(module.train(mode), copied(x))
            if any(not torch.equal(buffer, before[name]) for name, buffer in module.named_buffers()):
                return "the module changes its buffers while it trains (is it batch normalization?)"
            if not isinstance(outputs, torch.Tensor):
                return f"the module returns a {type(outputs).__name__}, not a tensor"
            if mixes(module, x, outputs):
                return "the module draws random numbers, or mixes the examples of a batch, while it trains"
        if not is_mean_of(loss, each, outputs, y):
            return "the loss of a batch is not the mean of the losses of its examples"
    with _Hooks() as hooks:
        called(module, copied(x))
    if hooks.called:
        return "the module hooks functions of its own to its gradients"
    return _counts(module, x)


def _counts(module: torch.nn.Module, x: Inputs) -> str | None:
    """Look at what it remembers of a batch, and of the same once more."""
    before = list(map(_numbers_of, module.modules()))
    with torch.no_grad():
        called(module, copied(x))
    same = list(map(_numbers_of, module.modules())) == before
    return None if same else "the module remembers numbers from one batch to the next (does it count them?)"


def _stacked(module: torch.nn.Module, each: PerExample, x: Inputs, y: torch.Tensor) -> Rehearsal:
    """One step of two rows that have one example each."""
    parameters = _rows_of(module, 2)
    dense = _is_dense(module, parameters, x)
    stack = Stack(module, parameters, each, x, y, way=Way(dense))
    mine = {parameter.untyped_storage().data_ptr() for parameter in stack.parameters.values()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with warnings.catch_warnings(record=True) as warned, _Operations() as operations:
        warnings.simplefilter("always")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            weights = next(iter(parameters.values())).new_ones((2, 1))
            stack.differentiate(y.new_zeros((2, 1), dtype=torch.int64), weights)
    if any("batching rule" in str(each.message) for each in warned):
        return Rehearsal("torch.vmap would run a part of the module for one client at a time")
    rest: list[int] = []
    if y.device.type == "cpu":
        if "convolution" in operations.sizes:
            return Rehearsal("on a CPU its convolutions are faster for one client at a time")
        rest = [size for name, sizes in operations.sizes.items() if name not in _ALIKE for size in sizes]
    multiple = math.lcm(*(_LANES // math.gcd(_LANES, size // 2) for size in rest))
    return Rehearsal(
        way=Way(dense, multiple=multiple),
        others=Way(dense, multiple=_LANES if rest else 1),
        saved_bytes=sum(saved.values()) // 2,
    )


class _Alone:
    """The gradients of a module whose parameters are some rows', one row after the other."""

    def __init__(self, module: torch.nn.Module, loss: Loss, each: PerExample, x: Inputs, y: torch.Tensor) -> None:
        """The first row is the module, the others are like it; each leaves out one example more than the one before."""
        self.module, self.loss, self.each, self.x, self.y = module, loss, each, x, y
        self._rows = _rows_of(module, _ROWS)
        for stack in self._rows.values():
            stack[1:] += _noise(stack[1:], stack.shape[1:])
        self._counts = [len(y) - row for row in range(_ROWS)]
        trained = trained_parameters(module)
        self._found: dict[int, tuple[torch.Tensor, dict[str, torch.Tensor | None]]] = {}
        """Of each row: its loss, and its gradients."""
        for row in reversed(range(_ROWS)):  # the module is itself again in the end
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(self._rows[name][row])
            module.zero_grad()
            part = slice(self._counts[row])
            outputs, targets = called(module, copied(x, part)), y[part]
            self.of_shares = takes_shares(loss, outputs, targets) and are_shares(targets)
            found = loss(outputs, targets)
            found.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self._found[row] = found.detach(), {name: parameter.grad for name, parameter in trained.items()}
        module.zero_grad()

    def agrees_with(self, way: Way) -> bool:
        """Whether a stack of all rows has these losses and gradients."""
        stack = Stack(self.module, self._rows, self.each, self.x, self.y, way=way)
        counts = torch.tensor(self._counts, device=self.y.device)[:, None]
        place = torch.arange(len(self.y), device=self.y.device)
        weights = (place < counts).to(next(iter(self._rows.values())).dtype) / counts
        means = stack.differentiate(torch.where(place < counts, place, 0), weights)
        for row, (loss, gradients) in self._found.items():
            size = max((float(each.abs().max()) for each in gradients.values() if each is not None), default=0.0)
            found = {name: None if each.grad is None else each.grad[row] for name, each in stack.parameters.items()}
            if not loss.isfinite() or not alike(means[row], loss.to(means.dtype)):
                return False
            if not all(_are_one(found[name], gradient, size) for name, gradient in gradients.items()):
                return False
        return True


def _compared(tried: Rehearsal, alone: _Alone) -> Rehearsal:
    """Leave what finds other gradients than the module has alone."""
    tried = replace(tried, of_shares=alone.of_shares)
    if tried.way.dense and not alone.agrees_with(tried.way):
        way = Way(multiple=_LANES)
        tried = replace(tried, way=way, others=way)
    if not tried.way.dense and not alone.agrees_with(tried.way):
        return Rehearsal("on stacked parameters the module has other gradients than alone, or none that are finite")
    layers = _layers(alone)
    by_hand = Way(tried.way.dense, layers)
    return replace(tried, way=by_hand) if layers is not None and alone.agrees_with(by_hand) else tried


def _layers(alone: _Alone) -> tuple[Layer, ...] | None:
    """What a `Chain` can run, with the loss, in training as in evaluation."""
    named = isinstance(alone.x, dict)
    if named or not is_cross_entropy(alone.loss) or alone.y.dim() != 1 or alone.y.is_floating_point():
        return None
    evaluated, trained = (chain_of(alone.module.train(mode), alone.x) for mode in (False, True))
    return trained if trained == evaluated else None


def _as_at_the_beginning(module: torch.nn.Module) -> None:
    """Let it know nothing: of a model that is sure of its answers, gradients are differences of nearly equal numbers.

    What is found then is rounding, and one process would find another way than the next. Numbers that may have to be
    positive, as scales, stay about what they are; but some things do not show where all are zeros.
    """
    with torch.no_grad():
        for parameter in trained_parameters(module).values():
            drawn = _noise(parameter, parameter.shape)
            if parameter.dim() > 1:
                parameter.copy_(drawn / _MOVED)
            else:
                parameter.add_(drawn)


def _noise(like: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A little of it, less where a number that comes out is a sum over many inputs. shape: of a parameter."""
    most = _MOVED / math.sqrt(max(1, math.prod(shape[1:])))
    return torch.empty_like(like).uniform_(-most, most)


def _are_one(mine: torch.Tensor | None, theirs: torch.Tensor | None, size: float) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return alike(mine, theirs, size)


def _rows_of(module: torch.nn.Module, rows: int) -> dict[str, torch.Tensor]:
    """Stacks in which every row is the module's."""
    return {
        name: parameter.detach().expand(rows, *parameter.shape).clone()
        for name, parameter in trained_parameters(module).items()
    }


def _is_dense(module: torch.nn.Module, parameters: Mapping[str, torch.Tensor], x: Inputs) -> bool:
    """Whether `Dense` can run it."""
    try:
        Dense(module, {name: torch.nn.Parameter(stack) for name, stack in parameters.items()})(
            mapped(lambda each: torch.stack([each[:1], each[:1]]), x)
        )
    except NotDenseError:
        return False
    return True


class _Hooks(TorchFunctionMode):
    """Notes whether a function is hooked to a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.called = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.called |= func in {torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook}
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates few of its methods
    """Notes every operation, and how many numbers its results have."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.sizes: dict[str, set[int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor):
                self.sizes.setdefault(name, set()).add(result.numel())
        return results
