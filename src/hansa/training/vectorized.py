"""Many clients in one computation with PyTorch: parameters stacked along a first axis, a row for each client.

`torch.vmap` makes every operation one over all rows (a linear layer becomes a batched matrix product), and no row
looks at another. Clients take their first steps together; who has fewer steps leaves the stack when they are done. A
batch that is smaller than those of other clients is filled up with examples that weigh nothing.

On one thread of a CPU a row has the same bits whatever else is in its stack: batched products and sums do not depend on
the number of rows. Some other operations (sigmoid, exp) treat the last few numbers of a tensor by other instructions;
`Way.multiple` says of how many rows a stack must be so that no row has such numbers.
"""

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.func import functional_call

from hansa.training.chain import Chain, Layer
from hansa.training.dense import Dense
from hansa.training.local import Filled
from hansa.training.steps import Correct, Steps, first_rows, stepper
from hansa.training.tensors import Inputs, called, mapped

__all__ = ["Fitted", "PerExample", "Schedule", "Stack", "Way", "per_example", "replace_parameters"]

PerExample: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) → the loss of each example, of shape (n,)."""


def per_example(loss: Any) -> PerExample:
    """The loss of each example, where the loss is their mean: by its own `reduction`, else one example at a time."""
    if getattr(loss, "reduction", None) == "mean":  # a module of torch.nn
        unreduced = copy.copy(loss)
        unreduced.reduction = "none"
        return lambda outputs, targets: _means(unreduced(outputs, targets))
    if _takes_reduction(loss):
        return lambda outputs, targets: _means(loss(outputs, targets, reduction="none"))
    one: PerExample = torch.vmap(lambda output, target: loss(output[None], target[None]))
    return one


def _takes_reduction(loss: Any) -> bool:
    try:
        parameters = inspect.signature(loss).parameters
    except ValueError:  # some functions in C do not tell
        return False
    return "reduction" in parameters and not isinstance(loss, torch.nn.Module)


def _means(losses: torch.Tensor) -> torch.Tensor:
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Schedule:
    """The batches of all rows of a stack, step by step. Rows with more steps come first."""

    def __init__(self, clients: Sequence[Filled], starts: Sequence[int]) -> None:
        """clients: the batches of each, among its own examples; starts: where those begin."""
        size = clients[0][0].shape[1]
        self.steps = [len(index) for index, _ in clients]
        self.index = np.empty((self.steps[0], len(clients), size), np.int64)
        """Which examples each row uses in each step."""
        self.counts = np.ones((self.steps[0], len(clients)), np.int64)
        """How many of them count; the others fill up."""
        for row, ((index, counts), start) in enumerate(zip(clients, starts, strict=True)):
            self.counts[: len(index), row] = counts
            np.add(index, start, out=self.index[: len(index), row])
            self.index[len(index) :, row] = start
        self.weights = (np.arange(size) < self.counts[:, :, np.newaxis]) / self.counts[:, :, np.newaxis]
        """Of each example in the mean of its batch; 0 where it fills up."""

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """(step, clients that take it, clients that take another one afterwards)."""
        active = len(self.steps)
        for step in range(self.steps[0]):
            staying = active
            while staying and self.steps[staying - 1] == step + 1:
                staying -= 1
            yield step, active, staying
            active = staying

    def means(self, losses: Sequence[torch.Tensor]) -> list[float]:
        """The mean loss of each client over the examples of all of its steps, of the mean losses in each step."""
        total, seen = np.zeros(self.index.shape[1]), np.zeros(self.index.shape[1])
        for (step, active, _), means in zip(self, losses, strict=True):
            total[:active] += means.double().cpu().numpy()[:active] * self.counts[step, :active]
            seen[:active] += self.counts[step, :active]
        means_of_all: list[float] = (total / seen).tolist()
        return means_of_all


# ── stacks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of the clients of a stack."""

    parameters: Mapping[str, torch.Tensor]
    """Stacks."""
    losses: Sequence[float]
    step_sums: Sequence[float | Mapping[str, float]]
    """As `Update.step_sum`."""


@dataclass(frozen=True, slots=True)
class Way:
    """How the gradients of a stack are found; by `torch.vmap` where nothing else is said."""

    dense: bool = False
    """By `Dense`, which can run the module."""
    layers: tuple[Layer, ...] | None = None
    """By a `Chain` of them, which can run it and its loss."""
    multiple: int = 1
    """Of how many rows a stack must be, so that the bits of one do not depend on the others."""


class Stack:
    """The parameters of many clients, and their steps."""

    def __init__(
        self,
        module: torch.nn.Module,
        parameters: Mapping[str, torch.Tensor],
        loss: PerExample,
        x: Inputs,
        y: torch.Tensor,
        *,
        way: Way,
    ) -> None:
        """x, y: the examples of all clients, one client after the other.

        module: has the forward pass and whatever is not in `parameters`, the stacks, which are changed in place.
        """
        self.parameters = {name: torch.nn.Parameter(stack) for name, stack in parameters.items()}
        self._rows = len(next(iter(parameters.values())))
        self._loss = loss
        self._x = x
        self._y = y
        self._chain = Chain(way.layers) if way.layers else None
        self._dense = Dense(module, self.parameters) if way.dense and not way.layers else None
        self._vmapped = torch.vmap(
            lambda params, inputs: called(lambda *x, **named: functional_call(module, params, x, named), inputs)
        )
        self._multiple = way.multiple

    def differentiate(self, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Set the gradient of each row's mean loss on its batch; None where that does not depend on a stack.

        index: the examples of the batches, shape (rows, size); weights: of each in the mean. Returns the means.
        """
        rows, size = index.shape
        chosen = index.reshape(-1)
        inputs = mapped(lambda x: x.index_select(0, chosen).view(rows, size, *x.shape[1:]), self._x)
        targets = self._y.index_select(0, chosen)
        if self._chain is not None:
            return self._chain.differentiate(self.parameters, inputs, targets, weights)
        outputs = self._vmapped(self.parameters, inputs) if self._dense is None else self._dense(inputs)
        losses: torch.Tensor = self._loss(outputs.flatten(0, 1), targets).view(rows, size)
        means = (losses * weights).sum(1)
        stacks = list(self.parameters.values())
        for stack, gradient in zip(stacks, torch.autograd.grad(means.sum(), stacks, allow_unused=True), strict=True):
            stack.grad = gradient
        return means.detach()

    def fit(
        self,
        schedule: Schedule,
        optimizer: torch.optim.Optimizer,
        steps: Steps,
        correct: Correct,
        *,
        sharpness: float = 0.0,
        still: Collection[str] = (),
    ) -> Fitted:
        """Take all steps. optimizer: of these stacks. sharpness: of the correction; still: what it has frozen."""
        results = {name: torch.empty_like(stack) for name, stack in self.parameters.items()}
        step_sums: list[float | Mapping[str, float]] = [0.0] * len(schedule.steps)
        losses, move = [], stepper(optimizer)
        index, weights = self._on_device(schedule)
        for step, active, staying in schedule:
            rows = active + -active % self._multiple
            self._narrow(rows, optimizer)
            means = self.differentiate(index[step, :rows], weights[step, :rows])
            if sharpness:
                with self._moved_uphill(sharpness, still):
                    self.differentiate(index[step, :rows], weights[step, :rows])
            correct(list(self.parameters.values()))
            steps.count()
            move()
            losses.append(means)
            if staying < active:
                step_sums[staying:active] = [steps.sums()] * (active - staying)
                for name, stack in self.parameters.items():
                    results[name][staying:active] = stack.detach()[staying:active]
        return Fitted(results, schedule.means(losses), step_sums)

    def gradients(self, schedule: Schedule, totals: Sequence[int]) -> Fitted:
        """The gradient of each row's mean loss over all batches; totals: the examples of each client."""
        sums = {name: torch.zeros_like(stack) for name, stack in self.parameters.items()}
        losses = []
        index, weights = self._on_device(schedule)
        for step, active, _ in schedule:
            means = self.differentiate(index[step], weights[step])
            shares = torch.from_numpy(schedule.counts[step, :active] / np.asarray(totals)[:active]).to(means)
            for name, stack in self.parameters.items():
                if stack.grad is not None:
                    sums[name][:active] += stack.grad[:active] * shares.view(-1, *[1] * (stack.dim() - 1))
            losses.append(means)
        return Fitted(sums, schedule.means(losses), [0.0] * len(totals))

    @contextmanager
    def _moved_uphill(self, rho: float, still: Collection[str]) -> Iterator[None]:
        """Each row at w + ρ g/‖g‖, and afterwards at w to the bit; where g is 0, at w."""
        moving = [
            (parameter, parameter.grad)
            for name, parameter in self.parameters.items()
            if name not in still and parameter.grad is not None
        ]
        with torch.no_grad():
            starts = [parameter.clone() for parameter, _ in moving]
            flat = [gradient.double().flatten(1) for _, gradient in moving]
            squares = sum((torch.bmm(rows[:, None], rows[:, :, None]).flatten() for rows in flat), torch.zeros(()))
            pace = torch.where(squares > 0, rho / squares.sqrt(), torch.zeros_like(squares))
            for parameter, gradient in moving:
                wide = torch.promote_types(gradient.dtype, torch.float32)
                parameter.add_(gradient * pace.to(wide).view(-1, *[1] * (gradient.dim() - 1)))
        yield
        with torch.no_grad():
            for (parameter, _), start in zip(moving, starts, strict=True):
                parameter.copy_(start)

    def _on_device(self, schedule: Schedule) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = next(stack.dtype for stack in self.parameters.values())
        index, weights = torch.from_numpy(schedule.index), torch.from_numpy(schedule.weights)
        return index.to(self._y.device), weights.to(self._y.device, dtype)

    def _narrow(self, rows: int, optimizer: torch.optim.Optimizer) -> None:
        """Go on with the first rows alone; the others keep what they have."""
        if rows == self._rows:
            return
        self._rows = rows
        narrow = {
            name: torch.nn.Parameter(stack.detach()[:rows])
            for name, stack in self.parameters.items()
            if len(stack) > rows
        }
        replace_parameters(optimizer, {self.parameters[name]: stack for name, stack in narrow.items()})
        self.parameters |= narrow
        if self._dense is not None:
            self._dense.replace(narrow)


def replace_parameters(optimizer: torch.optim.Optimizer, new: Mapping[torch.nn.Parameter, torch.nn.Parameter]) -> None:
    """Let an optimizer move other parameters, with what it remembers of the old ones, as far as they have rows."""
    for old, parameter in new.items():
        for group in optimizer.param_groups:
            group["params"] = [parameter if each is old else each for each in group["params"]]
        if old in optimizer.state:
            optimizer.state[parameter] = {
                key: first_rows(value, parameter)
                if isinstance(value, torch.Tensor) and value.shape == old.shape
                else value
                for key, value in optimizer.state.pop(old).items()
            }
