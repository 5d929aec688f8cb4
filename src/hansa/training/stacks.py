"""Local work of many clients in one computation, with PyTorch: from tasks to stacks, and back to updates."""

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from hansa.arrays import Array, Arrays, delta_dtype, stacked
from hansa.errors import AppError, InputError
from hansa.messages import GradientCorrection, Metrics, Task, Updates
from hansa.training.corrections import obstacle
from hansa.training.local import Filled, count, evaluation_examples, filled, padded, training_examples
from hansa.training.pairs import are_shares
from hansa.training.rehearsal import rehearse
from hansa.training.setup import Loss, Setup, seed
from hansa.training.steps import Steps, corrector, mean_of, stacked_offsets, trained_parameters
from hansa.training.tensors import Inputs, array_in, called, joined, mapped, stack_of
from hansa.training.vectorized import (
    Fitted,
    PerExample,
    Schedule,
    Stack,
    Way,
    per_example,
    replace_parameters,
)

__all__ = ["TorchStacks", "prepare"]

_STACK_BYTES = 256 * 2**20
"""Memory of one stack on a CPU."""

_SHARE_OF_DEVICE = 0.25
"""The same on a device with memory of its own, as a share of all that it has."""

_MODELS_PER_CLIENT = 8
"""For each parameter: it, its gradient, the result twice, two of an optimizer, two of a correction."""

_SHARE_BYTES = 3 * 2**20
"""Of the parameters in a stack for which a thread of its own pays: of smaller ones, threads wait for each other."""

_NARROW = "its products are in bfloat16, which brings nothing where many small models share them"

_TRIED = 8
"""Examples on which the module is tried."""


@dataclass(frozen=True, slots=True)
class _Client:
    """One client's part in a stack."""

    name: str
    model: Arrays
    correction: GradientCorrection | None
    x: Any
    y: Any
    steps: Filled
    """Its batches, of as many examples as `padded` says."""

    def alike(self, shared: Sequence[str]) -> Hashable:
        """Clients in one stack have the same; shared: tensors of the model that all rows share."""
        asked = self.correction or GradientCorrection()
        places = [self.model[name].__array_interface__["data"][0] for name in shared]
        kinds = [(each.shape[1:], getattr(each, "dtype", None)) for each in (*_unnamed(self.x), self.y)]
        return self.steps[0].shape[1], *kinds, *_asked(asked), *places


def _asked(correction: GradientCorrection) -> tuple[Hashable, ...]:
    """What is the same of all clients in a stack."""
    return correction.proximal, correction.offset is None, correction.frozen, correction.sharpness


Kind: TypeAlias = tuple[tuple[torch.Size, torch.dtype], ...]
"""Shape and dtype of each input of an example, and of its target."""

_Work: TypeAlias = "Callable[[Stack, Schedule, Sequence[_Client], torch.nn.Module], Fitted]"


def prepare(setup: Setup, model: Arrays, task: Task) -> "TorchStacks | str":
    """What can train many clients at once; or why nothing can, as the end of a sentence.

    model, task: those of one client, on whose examples the module is tried. Nothing of the task is drawn.
    """
    x, y = training_examples(task, named=True)
    why = obstacle(task.correction) or (_NARROW if setup.bfloat16 else None)
    if why is not None:
        return why
    module = setup.loaded(model)
    each = per_example(setup.loss)
    with setup.seeded(np.random.default_rng(0)):
        module.train()
        inputs, targets = setup.batch(x, y, slice(0, min(len(y), _TRIED)), module)
        optimizer = setup.optimizer_of(list(trained_parameters(module).values()))
        tried = rehearse(module, setup.loss, each, optimizer, x=inputs, y=targets)
    if tried.obstacle is not None:
        return tried.obstacle
    size = min(len(y), setup.work.batch_size or len(y))
    examples = sum(each[0].nbytes for each in (*_unnamed(inputs), targets)) * (len(y) + size)
    parameters = sum(parameter.nbytes for parameter in trained_parameters(module).values())
    per_client = _MODELS_PER_CLIENT * parameters + tried.saved_bytes * size * 2 + examples
    room = _STACK_BYTES
    if setup.device.type == "cuda":
        room = int(_SHARE_OF_DEVICE * torch.cuda.mem_get_info(setup.device)[1])
    share = math.ceil(_SHARE_BYTES / parameters) if tried.way.layers else 0
    kind = kind_of(inputs, targets)
    return TorchStacks(setup, each, tried.way, tried.others, kind, max(1, room // per_client), share, tried.of_shares)


@dataclass(frozen=True, slots=True)
class TorchStacks:
    """A `hansa.algorithm.Vectorized` of a `TorchTrainer`."""

    setup: Setup
    each: PerExample
    """The loss of each example."""
    way: Way
    """How clients train whose examples are such as it was tried on."""
    others: Way
    """How others do."""
    kind: Kind
    """`kind_of` the examples on which it was tried."""
    most: int
    """Clients in one stack, by its memory."""
    share: int = 0
    """As of `hansa.algorithm.Vectorized`: a `Chain` lets other threads work most of the time, others do not."""
    of_shares: bool = False
    """Whether the loss is of targets from 0 to 1."""

    @property
    def on_cpu(self) -> bool:
        """As of `hansa.algorithm.Vectorized`."""
        return self.setup.device.type == "cpu"

    def fit(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> Updates:
        """As `TorchTrainer.fit`, for each of them."""
        work = self.setup.work

        def room(num_examples: int) -> int:
            return padded(work.largest(num_examples), work.batch_size)

        clients = self._clients(models, tasks, lambda sizes: work.drawn(sizes, tasks, room))
        done = self._in_stacks(clients, self._fitted, train=True)
        arrays = {
            name: done.parameters[name] if name in done.parameters else stacked([model[name] for model in models])
            for name in models[0]
        }
        return Updates(arrays, [len(each.y) for each in clients], done.metrics, done.step_sums)

    def gradient(self, models: Sequence[Arrays], tasks: Sequence[Task]) -> Updates:
        """As `TorchTrainer.gradient`, for each of them."""
        clients = self._clients(models, tasks, lambda sizes: list(map(partial(_in_order, self.setup), tasks, sizes)))
        done = self._in_stacks(clients, _differentiated, train=False)
        gradients = {
            name: done.parameters[name].astype(delta_dtype(array.dtype), copy=False)
            if name in done.parameters
            else np.zeros((len(models), *array.shape), delta_dtype(array.dtype))
            for name, array in models[0].items()
        }
        return Updates(gradients, [len(each.y) for each in clients], done.metrics, [0.0] * len(clients))

    def evaluate(self, model: Arrays, tasks: Sequence[Task]) -> list[Metrics]:
        """As `TorchTrainer.evaluate`, for each of them: all examples in common batches."""
        module = self.setup.loaded(model)
        examples = [evaluation_examples(task, named=True) for task in tasks]
        sizes = [len(y) for _, y in examples]
        if len({tuple(each.dtype for each in (*_unnamed(x), y)) for x, y in examples}) > 1:
            raise InputError("clients have examples of several dtypes, which have no common batch")
        for task in tasks:
            seed(task.rng)
        x, y = self.setup.batch(joined([x for x, _ in examples]), joined([y for _, y in examples]), None, module)
        with self.setup.on_threads(), torch.no_grad():
            module.eval()
            size = self.setup.evaluation_batch_size
            batches = [slice(start, start + size) for start in range(0, len(y), size)]
            outputs = torch.cat([called(module, mapped(operator.itemgetter(batch), x)) for batch in batches])
            measures = self.setup.measures(y)
            found = zip(torch.split(outputs, sizes), torch.split(y, sizes), tasks, sizes, strict=True)
            return [self._measured(measures, *each) for each in found]

    def _measured(
        self, measures: Mapping[str, Loss], outputs: torch.Tensor, targets: torch.Tensor, task: Task, size: int
    ) -> Metrics:
        batches = list(self.setup.neighbours(size, task))
        known = [self.setup.known(targets[each], count(each)) for each in batches]
        values = {
            name: mean_of([(function(outputs[each], targets[each]), k) for each, k in zip(batches, known, strict=True)])
            for name, function in measures.items()
        }
        return Metrics(values, size)

    # ── from tasks to stacks, and back ───────────────────────────────────────────────────────────────────────────────

    def _clients(
        self, models: Sequence[Arrays], tasks: Sequence[Task], steps: Callable[[Sequence[int]], Sequence[Filled]]
    ) -> list[_Client]:
        """steps: of clients with so many examples."""
        corrections = [task.correction for task in tasks]
        for task, correction in zip(tasks, corrections, strict=True):
            why = obstacle(correction)
            if why is not None:
                raise AppError(f"{task.client.name} cannot train with others: {why}")
        examples = [training_examples(task, named=True) for task in tasks]
        for task in tasks:
            seed(task.rng)  # drawn as by a client that trains alone; the module has no use for it
        drawn = steps([len(y) for _, y in examples])
        return [
            _Client(task.client.name, model, correction, x, y, filled)
            for task, model, correction, (x, y), filled in zip(tasks, models, corrections, examples, drawn, strict=True)
        ]

    def _in_stacks(self, clients: Sequence[_Client], work: _Work, *, train: bool) -> "_Done":
        """Clients that are alike share a stack, those with more steps first."""
        trained = trained_parameters(self.setup.module())
        shared = [name for name in clients[0].model if name not in trained]
        stacks: dict[Hashable, list[int]] = {}
        for number in sorted(range(len(clients)), key=lambda number: -len(clients[number].steps[0])):
            stacks.setdefault(clients[number].alike(shared), []).append(number)
        done = _Done({}, [{}] * len(clients), [0.0] * len(clients))
        with self.setup.on_threads():
            for numbers in stacks.values():
                done.put(numbers, self._stacked([clients[n] for n in numbers], work, train=train))
        return done

    def _stacked(self, clients: Sequence[_Client], work: _Work, *, train: bool) -> Fitted:
        module = self.setup.loaded(clients[0].model)
        module.train(train)
        x, y = self._examples(clients, module)
        way = self.way if kind_of(x, y) == self.kind else self.others
        starts = np.cumsum([0, *(len(each.y) for each in clients)])[:-1].tolist()
        more = -len(clients) % way.multiple  # who is added fills up, and is not looked at
        clients, starts = [*clients, *[clients[-1]] * more], [*starts, *[starts[-1]] * more]
        turned = {
            f"{name}.weight".removeprefix(".")
            for name, each in module.named_modules()
            if isinstance(each, torch.nn.Linear) and way.layers is None
        }
        parameters = {
            name: stack_of([each.model[name] for each in clients], parameter, transposed=name in turned)
            for name, parameter in trained_parameters(module).items()
        }
        schedule = Schedule([each.steps for each in clients], starts)
        stack = Stack(module, parameters, self.each, x, y, way=way)
        return work(stack, schedule, clients, module)

    def _examples(self, clients: Sequence[_Client], module: torch.nn.Module) -> tuple[Inputs, torch.Tensor]:
        """Of all of them, one client after the other."""
        given = joined([each.x for each in clients]), joined([each.y for each in clients])
        x, y = self.setup.batch(*given, None, module)
        if not y.is_floating_point() and int(y.min()) < 0:
            name = next(each.name for each in clients if int(each.y.min()) < 0)
            raise InputError(f"{name} has targets below 0, which a loss may leave out of its mean")
        if self.of_shares and not are_shares(y):
            raise InputError("a client has targets below 0 or above 1, of which the loss is none")
        if not _alike(kind_of(x, y), self.kind):
            raise InputError(
                f"{clients[0].name} has inputs or targets of other axes or dtypes than those that were tried"
            )
        return mapped(torch.Tensor.contiguous, x), y

    def _fitted(self, stack: Stack, schedule: Schedule, clients: Sequence[_Client], module: torch.nn.Module) -> Fitted:
        trained = trained_parameters(module)
        optimizer = self.setup.optimizer(list(trained.values()))
        corrections = [each.correction for each in clients]
        asked = corrections[0] or GradientCorrection()
        steps = Steps(optimizer, trained, asked.proximal)
        replace_parameters(optimizer, dict(zip(trained.values(), stack.parameters.values(), strict=True)))
        held = [index for index, name in enumerate(trained) if name in asked.frozen]
        offsets = stacked_offsets(corrections, trained)
        correct = corrector(list(stack.parameters.values()), asked.proximal, offsets, held)
        return stack.fit(schedule, optimizer, steps, correct, sharpness=asked.sharpness, still=asked.frozen)


def _in_order(setup: Setup, task: Task, num_examples: int) -> Filled:
    batches = list(setup.neighbours(num_examples, task))
    return filled(batches, padded(count(batches[0]), setup.evaluation_batch_size))  # no batch is larger than the first


def _unnamed(x: Any) -> list[Any]:
    """The inputs, in the order of their names; or the one that there is."""
    return [x[name] for name in sorted(x)] if isinstance(x, dict) else [x]


def kind_of(x: Inputs, y: torch.Tensor) -> Kind:
    """What has to be the same of examples, so that what holds for some of them holds for others."""
    return tuple((each.shape[1:], each.dtype) for each in (*_unnamed(x), y))


def _alike(one: Kind, other: Kind) -> bool:
    """Whether examples have as many axes and the same dtypes: with others a loss may broadcast, and mix examples."""
    return [(len(shape), dtype) for shape, dtype in one] == [(len(shape), dtype) for shape, dtype in other]


def _differentiated(stack: Stack, schedule: Schedule, clients: Sequence[_Client], _: torch.nn.Module) -> Fitted:
    return stack.gradients(schedule, [len(each.y) for each in clients])


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of clients, whichever stack they were in."""

    parameters: dict[str, Array]
    """Trained tensors, of the shape (clients, …)."""
    metrics: list[Mapping[str, float]]
    step_sums: list[float | Mapping[str, float]]

    def put(self, numbers: Sequence[int], fitted: Fitted) -> None:
        """Take the first rows of a stack for these clients."""
        for name, stack in fitted.parameters.items():
            rows = array_in(stack)[: len(numbers)]
            if numbers == list(range(len(self.metrics))):  # all clients are in one stack
                self.parameters[name] = rows
                continue
            if name not in self.parameters:
                self.parameters[name] = np.empty((len(self.metrics), *rows.shape[1:]), rows.dtype)
            self.parameters[name][numbers] = rows
        for number, loss, steps in zip(numbers, fitted.losses, fitted.step_sums, strict=False):
            self.metrics[number], self.step_sums[number] = {"loss": loss}, steps
