"""Local training of PyTorch modules."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np

from hansa.arrays import DTYPES, Array, Arrays, check_same_structure, delta_dtype
from hansa.errors import AppError, MissingExtraError
from hansa.messages import GradientCorrection, Metrics, Task, Update
from hansa.training.local import Batch, LocalWork, count, evaluation_examples, known_distance, training_examples

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch", "torch") from error

__all__ = ["TorchTrainer", "accuracy", "array_of_tensor", "arrays_of_module", "load_into_module"]

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) → a mean over the batch, of shape ()."""

_Gradients: TypeAlias = Sequence[tuple[torch.nn.Parameter, torch.Tensor]]

_Anchor: TypeAlias = Callable[[torch.Tensor, torch.Tensor], _Gradients]
"""(inputs, targets) → the gradients at the model received, of the parameters that have one."""

_Forward: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | float]]
"""inputs → (outputs, what is added to the loss)."""


class TorchTrainer:
    """Trains a module with any `torch.optim` optimizer, new in every round.

    The model is the module's state_dict, in its order: parameters and buffers. BatchNorm's counters travel too, as
    int64, and are averaged to the nearest whole number; its running means and variances are averaged as floats.

    `task.data` is what `hansa.training.local` says, as tensors or ndarrays. Floating inputs and targets are cast to the
    module's floating dtype, integer targets to int64. `fit` reports the loss, a mean over the examples of all steps,
    each before its step; `evaluate` reports the loss and the metrics.

    One module per thread is built and used for every task, so a module must keep its state in its state_dict. Dropout
    draws from torch's one random state: a process that trains in several threads at once gives up reproducible bits.
    """

    def __init__(
        self,
        module: Callable[[], torch.nn.Module],
        loss: Loss,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        drop_last: bool = False,
        metrics: Mapping[str, Loss] | None = None,
        evaluation_batch_size: int = 1024,
        device: str = "cpu",
        threads: int | None = 1,
        channels_last: bool = False,
        representation: str | None = None,
    ) -> None:
        """Settings; nothing is built yet.

        module: makes a new module, for example its class. optimizer: makes one for these parameters, for example
        `lambda parameters: torch.optim.SGD(parameters, lr=0.1)`. batch_size, epochs, steps, drop_last: as in
        `LocalWork`; a module with BatchNorm needs drop_last, as it refuses a batch of one. metrics: each a mean over
        the batch; None: accuracy where the targets are integers. threads: of torch while this trains; 1 gives the same
        bits on every machine of a kind, None leaves torch's own setting, which is faster for a large model that has a
        machine for itself. channels_last: faster for convolutions. representation: the submodule whose output MOON
        compares, by name, for example "1" or "encoder".
        """
        if (
            isinstance(module, torch.nn.Module)
            or isinstance(loss, type)
            or isinstance(optimizer, torch.optim.Optimizer)
        ):
            raise AppError(
                "TorchTrainer makes its own module and optimizer, so give it functions or classes: "
                "TorchTrainer(Net, nn.CrossEntropyLoss(), lambda parameters: torch.optim.SGD(parameters, lr=0.1))"
            )
        self._build = module
        self._loss = loss
        self._optimizer = optimizer
        self._work = LocalWork(batch_size, epochs, steps, drop_last)
        self._metrics = metrics
        self._evaluation_batch_size = evaluation_batch_size
        self._device = torch.device(device)
        self._threads = threads
        self._format = torch.channels_last if channels_last else torch.preserve_format
        self._representation = representation
        self._built = threading.local()

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The tensors of a new module, drawn with a seed from `rng`."""
        with self._seeded(rng):
            return arrays_of_module(self._build())

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train from `model` as far as `task.work` goes."""
        x, y = training_examples(task)
        module = self._loaded(model)
        losses: list[tuple[torch.Tensor, int]] = []
        with self._seeded(task.rng):
            parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
            optimizer = self._optimizer(parameters)
            correct = _corrector(module, task.correction)
            anchor = self._anchor(module, task.correction)
            steps = _Steps(optimizer, task.correction)
            contrast = self._contrast(module, model, task.correction)
            module.train()
            for batch in self._work.batches(len(x), task):
                optimizer.zero_grad()
                inputs, targets = self._batch(x, y, batch, module)
                anchors = anchor(inputs, targets)
                outputs, beside = contrast(inputs)
                loss = self._loss(outputs, targets)
                (loss + beside).backward()  # type: ignore[no-untyped-call]  # torch leaves this one method unannotated
                correct(anchors)
                steps.count()
                optimizer.step()
                losses.append((loss.detach(), count(batch)))
            optimizer.zero_grad()
        arrays = _with_frozen(arrays_of_module(module), model, task.correction)
        return Update(arrays, len(x), {"loss": _mean(losses)}, step_sum=steps.sums(module))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """The gradient of the mean loss over all local examples, in evaluation mode: no dropout, BatchNorm as it is.

        Tensors that no gradient reaches, buffers among them, have zeros.
        """
        x, y = training_examples(task)
        module = self._loaded(model)
        losses: list[tuple[torch.Tensor, int]] = []
        with self._seeded(task.rng):
            module.eval()
            module.zero_grad()
            for batch in self._neighbours(len(x), task):
                inputs, targets = self._batch(x, y, batch, module)
                loss = self._loss(module(inputs), targets)
                (loss * (count(batch) / len(x))).backward()  # type: ignore[no-untyped-call]  # as above
                losses.append((loss.detach(), count(batch)))
            arrays = {name: np.zeros(array.shape, delta_dtype(array.dtype)) for name, array in model.items()}
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    arrays[name] = array_of_tensor(parameter.grad).astype(delta_dtype(model[name].dtype), copy=False)
            module.zero_grad()
        return Update(arrays, len(x), {"loss": _mean(losses)})

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The loss and the metrics over the client's evaluation examples."""
        x, y = evaluation_examples(task)
        module = self._loaded(model)
        sums: dict[str, list[tuple[torch.Tensor, int]]] = {}
        with self._seeded(task.rng), torch.no_grad():
            module.eval()
            for batch in self._neighbours(len(x), task):
                inputs, targets = self._batch(x, y, batch, module)
                outputs = module(inputs)
                for name, function in self._measures(targets).items():
                    sums.setdefault(name, []).append((function(outputs, targets), count(batch)))
        return Metrics({name: _mean(values) for name, values in sums.items()}, len(x))

    def _anchor(self, module: torch.nn.Module, correction: GradientCorrection | None) -> _Anchor:
        """The gradients of a batch at the tensors that the module has now, with the dropout of the step to come."""
        if correction is None or not correction.anchored:
            return lambda _inputs, _targets: ()
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        start = {name: tensor.detach().clone() for name, tensor in tensors.items()}

        def gradients(inputs: torch.Tensor, targets: torch.Tensor) -> _Gradients:
            held = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in start.items()}
            with torch.random.fork_rng(devices=self._generators()):
                loss = self._loss(torch.func.functional_call(module, held, (inputs,)), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # as above
            return [(p, g) for name, p in trained.items() if (g := held[name].grad) is not None]

        return gradients

    def _contrast(self, module: torch.nn.Module, model: Arrays, correction: GradientCorrection | None) -> _Forward:
        """The module's outputs for a batch, and what the correction's contrast adds to the loss."""
        term = correction.contrast if correction else None
        if term is None:
            return lambda inputs: (module(inputs), 0.0)
        if self._representation is None:
            raise AppError('this algorithm compares representations: give TorchTrainer representation="encoder"')
        with torch.random.fork_rng(devices=self._generators()):
            others = [self._build().to(self._device).eval() for _ in range(2)]
        for other, arrays in zip(others, (model, term.previous), strict=True):
            load_into_module(other, arrays)
        name, weight, temperature = self._representation, term.weight, term.temperature

        def forward(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outputs, z = _represented(module, name, inputs)
            with torch.no_grad():
                standing = [_represented(other, name, inputs)[1] for other in others]
            near = torch.stack([torch.cosine_similarity(z, still) for still in standing], dim=1) / temperature
            return outputs, weight * (near.logsumexp(dim=1) - near[:, 0]).mean()

        return forward

    def _measures(self, targets: torch.Tensor) -> dict[str, Loss]:
        if self._metrics is not None:
            return {"loss": self._loss, **self._metrics}
        return {"loss": self._loss} if targets.is_floating_point() else {"loss": self._loss, "accuracy": accuracy}

    def _loaded(self, model: Arrays) -> torch.nn.Module:
        """This thread's module, with the tensors of `model`."""
        if not hasattr(self._built, "module"):
            with torch.random.fork_rng(devices=self._generators()):
                module = self._build().to(self._device)
            # An overload of torch's own misses that a format alone is enough.
            self._built.module = module.to(memory_format=self._format)  # type: ignore[call-overload]
        module = cast("torch.nn.Module", self._built.module)
        load_into_module(module, model)
        return module

    def _neighbours(self, num_examples: int, task: Task) -> Iterator[slice]:
        """The examples in their order; each batch reports progress when the next one is asked for."""
        size = self._evaluation_batch_size
        for start in range(0, num_examples, size):
            end = min(start + size, num_examples)
            yield slice(start, end)
            task.progress(end, num_examples)

    def _batch(self, x: Any, y: Any, batch: Batch, module: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
        inputs, targets = _taken(x, batch), _taken(y, batch)
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        targets = targets.to(dtype if targets.is_floating_point() else torch.int64)
        channels = self._format if inputs.dim() == 4 else torch.preserve_format  # noqa: PLR2004 - (n, c, h, w)
        return inputs.to(self._device, memory_format=channels), targets.to(self._device)

    def _generators(self) -> list[torch.device]:
        """Devices beside the CPU whose random state a task touches."""
        return [self._device] if self._device.type == "cuda" else []

    @contextmanager
    def _seeded(self, rng: np.random.Generator) -> Iterator[None]:
        """Torch's global random state drawn from `rng`, and its threads as set; both as they were afterwards."""
        before = torch.get_num_threads()
        with torch.random.fork_rng(devices=self._generators()):
            torch.manual_seed(int(rng.integers(2**63)))
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            try:
                yield
            finally:
                if self._threads is not None:
                    torch.set_num_threads(before)


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of right answers.

    outputs: shape (n, classes, …) with targets (n, …) of class numbers; or logits of the targets' shape for 0 and 1.
    """
    answers = outputs.argmax(dim=1) if outputs.dim() > targets.dim() else outputs > 0
    return (answers == targets).double().mean()


def arrays_of_module(module: torch.nn.Module) -> Arrays:
    """A copy of the module's parameters and buffers, in the order of its state_dict."""
    return Arrays({name: array_of_tensor(tensor) for name, tensor in _state(module).items()})


def array_of_tensor(tensor: torch.Tensor) -> Array:
    """A copy of a tensor as an ndarray; bfloat16 stays bfloat16."""
    return np.array(_view(tensor.detach().cpu()), order="C")


def load_into_module(module: torch.nn.Module, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into the module's parameters and buffers; raises `ArraysMismatchError` where they do not fit."""
    state = _state(module)
    check_same_structure(cast("Mapping[str, Array]", state), arrays, "the model received")  # names and shapes alone
    for name, tensor in state.items():
        if tensor.device.type == "cpu":
            np.copyto(_view(tensor), arrays[name], casting="same_kind")
        else:
            host = torch.empty(tensor.shape, dtype=tensor.dtype)
            np.copyto(_view(host), arrays[name], casting="same_kind")
            tensor.copy_(host)


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise AppError(f"{name!r} in the module's state_dict is a {type(value).__name__}; only tensors can travel")
    return state


def _view(tensor: torch.Tensor) -> Array:
    """The memory of a CPU tensor as an ndarray."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return cast("Array", tensor.view(torch.int16).numpy().view(DTYPES["BF16"]))
    return cast("Array", tensor.numpy())


def _taken(source: Any, batch: Batch) -> torch.Tensor:
    if isinstance(source, torch.Tensor):
        return source[batch if isinstance(batch, slice) else torch.from_numpy(batch)]
    taken = np.asarray(source)[batch]
    return torch.from_numpy(taken if taken.flags.writeable else taken.copy())


def _corrector(module: torch.nn.Module, correction: GradientCorrection | None) -> Callable[[_Gradients], None]:
    """A function that does g ← g + proximal·(w − w₀) + offset − g₀ to every gradient of the module, in place.

    It takes the g₀ of the batch. Frozen parameters have no gradient afterwards, so that the optimizer passes them by.
    """
    if correction is None or correction == GradientCorrection():
        return lambda _: None
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    starts = [p.detach().clone() for _, p in trained] if correction.proximal else []
    moved = [torch.empty_like(start) for start in starts]
    offset = correction.offset
    offsets = [] if offset is None else [_like(p, offset[name]) for name, p in trained]
    held = [p for name, p in trained if name in correction.frozen]

    def correct(anchors: _Gradients) -> None:
        for index, (_, parameter) in enumerate(trained):
            if parameter.grad is None:
                continue
            if starts:
                torch.sub(parameter.detach(), starts[index], out=moved[index])
                parameter.grad.add_(moved[index], alpha=correction.proximal)
            if offsets:
                parameter.grad.add_(offsets[index])
        for parameter, gradient in anchors:
            if parameter.grad is not None:
                parameter.grad.sub_(gradient)
        for parameter in held:
            parameter.grad = None

    return correct


def _represented(module: torch.nn.Module, name: str, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of a module, and those of its submodule of this name, of shape (n, features)."""
    seen: list[torch.Tensor] = []
    hook = module.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        outputs = module(inputs)
    finally:
        hook.remove()
    return outputs, seen[0].flatten(1)


def _with_frozen(trained: Arrays, model: Arrays, correction: GradientCorrection | None) -> Arrays:
    """What was trained, but for what is frozen: BatchNorm has moved its buffers."""
    frozen = correction.frozen if correction else frozenset()
    kept = {name: model[name].astype(trained[name].dtype, copy=False) for name in frozen}
    return Arrays({name: kept.get(name, array) for name, array in trained.items()})


class _Steps:
    """`Update.step_sum` of each parameter, as torch.optim.SGD moves it; 0, unknown, for any other optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer, correction: GradientCorrection | None) -> None:
        self._known = type(optimizer) is torch.optim.SGD and not any(g["maximize"] for g in optimizer.param_groups)
        self._groups = optimizer.param_groups
        self._proximal = correction.proximal if correction else 0.0
        self._buffers: dict[torch.nn.Parameter, float] = {}
        self._sums: dict[torch.nn.Parameter, float] = {}

    def count(self) -> None:
        """The step that comes next, for a loss whose gradient is −1: its momentum buffer and how far it moves."""
        for group in self._groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    before = self._sums.get(parameter, 0.0)
                    pull = 1 - self._proximal * before
                    self._sums[parameter] = before + self._moved(group, parameter, pull) if self._known else 0.0

    def sums(self, module: torch.nn.Module) -> dict[str, float]:
        """By name; buffers and what was frozen are not in it."""
        return {name: known_distance(self._sums[p]) for name, p in module.named_parameters() if p in self._sums}

    def _moved(self, group: Mapping[str, Any], parameter: torch.nn.Parameter, pull: float) -> float:
        momentum, before = group["momentum"], self._buffers.get(parameter)
        buffer = pull if before is None else momentum * before + (1 - group["dampening"]) * pull
        self._buffers[parameter] = buffer
        direction = (pull + momentum * buffer if group["nesterov"] else buffer) if momentum else pull
        return float(group["lr"]) * direction


def _like(parameter: torch.nn.Parameter, array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(parameter.device, parameter.dtype)


def _mean(values: list[tuple[torch.Tensor, int]]) -> float:
    """The mean of batch means, weighted by the examples of each batch."""
    return sum(float(value) * size for value, size in values) / sum(size for _, size in values)
