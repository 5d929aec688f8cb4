"""Local training of PyTorch modules."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from hansa.arrays import Arrays, delta_dtype
from hansa.errors import AppError, ConfigError, MissingExtraError
from hansa.messages import GradientCorrection, Metrics, Task, Update
from hansa.training.local import LocalWork, count, evaluation_examples, training_examples

try:
    import torch
except ImportError as error:
    raise MissingExtraError("hansa.training.torch", "torch") from error

from hansa.training.corrections import LocalBatch, anchor_of, slopes_of, with_frozen
from hansa.training.pairs import accuracy, explaining
from hansa.training.setup import Loss, Setup, evaluated_at_once
from hansa.training.stacks import TorchStacks, prepare
from hansa.training.steps import (
    Steps,
    clearer,
    corrector,
    dense,
    mean_of,
    stacked_offsets,
    stepper,
    trained_parameters,
)
from hansa.training.tensors import array_of_tensor, arrays_of_module, called, load_into_module

__all__ = ["LocalBatch", "TorchTrainer", "accuracy", "array_of_tensor", "arrays_of_module", "load_into_module"]


class TorchTrainer:
    """Trains a module with any `torch.optim` optimizer, new in every round.

    The model is the module's state_dict, in its order: parameters and buffers. BatchNorm's counters travel too, as
    int64, and are averaged to the nearest whole number; its running means and variances are averaged as floats. Tied
    weights travel once, by the first of their names.

    `task.data` is what `hansa.training.local` says, as tensors or ndarrays; several inputs by name are what the module
    is called with, `module(**inputs)`. Floating inputs and targets are cast to the module's floating dtype, integer
    targets to int64. `fit` reports the loss, a mean over the examples of all steps, each before its step; `evaluate`
    reports the loss and the metrics.

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
        evaluation_batch_size: int | None = None,
        device: str = "cpu",
        threads: int | None = 1,
        channels_last: bool = False,
        bfloat16: bool = False,
        representation: str | None = None,
    ) -> None:
        """Settings; nothing is built yet.

        module: makes a new module, for example its class. optimizer: makes one for these parameters, for example
        `lambda parameters: torch.optim.SGD(parameters, lr=0.1)`. batch_size, epochs, steps, drop_last: as in
        `LocalWork`; a module with BatchNorm needs drop_last, as it refuses a batch of one. metrics: each a mean over
        the batch; None: accuracy where the targets are integers. evaluation_batch_size: examples that are evaluated at
        once, and those of each part of a whole gradient; None: 128 on a CPU, whose caches hold no more of images, else
        1024. threads: of torch while this trains; 1 gives the same
        bits on every machine of a kind, None leaves torch's own setting, which is faster for a large model that has a
        machine for itself. channels_last: faster for convolutions. bfloat16: products in that dtype, by
        torch's autocast, and weights, losses and steps as they are: faster for convolutions on processors that know it,
        with two or three digits for each product. representation: the submodule whose output MOON compares, by name,
        for example "1" or "encoder".
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
        for name, given in (("module", module), ("loss", loss), ("optimizer", optimizer)):
            if not callable(given):
                raise AppError(f"{name} is {given!r}; TorchTrainer takes functions or classes")
        if not isinstance(metrics, Mapping | None):
            raise AppError(
                f"metrics is {metrics!r}; give functions of (outputs, targets) by name, as {{'error': error}}"
            )
        if not isinstance(representation, str | None):
            raise AppError(f"representation is {representation!r}; it must be the name of a submodule")
        on = _device(device)
        self._setup = Setup(
            build=module,
            loss=loss,
            new_optimizer=optimizer,
            work=LocalWork(batch_size, epochs, steps, drop_last),
            metrics=metrics,
            evaluation_batch_size=evaluated_at_once(on) if evaluation_batch_size is None else evaluation_batch_size,
            device=on,
            threads=threads,
            format=torch.channels_last if channels_last else torch.preserve_format,
            representation=representation,
            bfloat16=bfloat16,
        )

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The tensors of a new module, drawn with a seed from `rng`."""
        with self._setup.seeded(rng):
            return arrays_of_module(self._setup.build())

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train from `model` as far as `task.work` goes."""
        x, y = training_examples(task, named=True)
        module = self._setup.loaded(model)
        losses: list[tuple[torch.Tensor, torch.Tensor | int]] = []
        knows_all = self._setup.knows_all(y)
        with self._setup.seeded(task.rng):
            trained = trained_parameters(module)
            parameters = list(trained.values())
            optimizer = self._setup.optimizer_of(parameters)
            correction = task.correction or GradientCorrection()
            offsets = [stack[0] for stack in stacked_offsets([correction], trained)]
            held = [index for index, name in enumerate(trained) if name in correction.frozen]
            correct = corrector(parameters, correction.proximal, offsets, held)
            anchor = anchor_of(self._setup, module, correction)
            differentiate = slopes_of(self._setup, module, model, correction)
            steps = Steps(optimizer, trained, correction.proximal)
            step, clear = stepper(optimizer), clearer(optimizer)
            module.train()
            for batch in self._setup.work.batches(len(y), task):
                clear()
                inputs, targets = self._setup.batch(x, y, batch, module)
                anchors = anchor(inputs, targets)
                with explaining(inputs, targets):
                    loss = differentiate(inputs, targets)
                correct(parameters)
                for parameter, gradient in anchors:
                    if parameter.grad is not None:
                        parameter.grad = dense(parameter.grad).sub_(gradient)
                steps.count()
                step()
                size = count(batch)
                losses.append((loss.detach(), size if knows_all else self._setup.known(targets, size)))
            clear()
        arrays = with_frozen(arrays_of_module(module), model, correction)
        return Update(arrays, len(y), {"loss": mean_of(losses)}, step_sum=steps.sums())

    def gradient(self, model: Arrays, task: Task) -> Update:
        """The gradient of the mean loss over all local examples, in evaluation mode: no dropout, BatchNorm as it is.

        Batches weigh what they have of targets that the loss does not leave out, as in `evaluate`. Tensors that no
        gradient reaches, buffers among them, have zeros.
        """
        x, y = training_examples(task, named=True)
        module = self._setup.loaded(model)
        losses: list[tuple[torch.Tensor, float]] = []
        with self._setup.seeded(task.rng):
            module.eval()
            module.zero_grad()
            check = self._setup.pair_checker()
            for batch in self._setup.neighbours(len(y), task):
                inputs, targets = self._setup.batch(x, y, batch, module)
                with explaining(inputs, targets), self._setup.routines():
                    outputs = self._setup.forward(partial(called, module), inputs)
                    check(outputs, targets)
                    loss = self._setup.loss(outputs, targets)
                    if known := float(self._setup.known(targets, count(batch), self._setup.loss)):
                        (loss * (known / len(y))).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                losses.append((loss.detach(), known))
            counted = sum(known for _, known in losses)
            arrays = {name: np.zeros(array.shape, delta_dtype(array.dtype)) for name, array in model.items()}
            gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            for name, gradient in gradients.items():
                whole = dense(gradient) if counted == len(y) else dense(gradient) * (len(y) / counted)
                arrays[name] = array_of_tensor(whole).astype(delta_dtype(model[name].dtype), copy=False)
            module.zero_grad()
        return Update(arrays, len(y), {"loss": mean_of(losses)})

    def vectorized(self, model: Arrays, task: Task) -> TorchStacks | str:
        """What trains many clients in one computation; or why nothing can, as the end of a sentence.

        model, task: those of one client, on whose examples the module is tried.
        """
        return prepare(self._setup, model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The loss and the metrics over the client's evaluation examples."""
        x, y = evaluation_examples(task, named=True)
        module = self._setup.loaded(model)
        sums: dict[str, list[tuple[torch.Tensor, torch.Tensor | int]]] = {}
        with self._setup.seeded(task.rng), torch.no_grad():
            module.eval()
            check = self._setup.pair_checker()
            for batch in self._setup.neighbours(len(y), task):
                inputs, targets = self._setup.batch(x, y, batch, module)
                with explaining(inputs, targets):
                    outputs = self._setup.forward(partial(called, module), inputs)
                    check(outputs, targets)
                    for name, function in self._setup.measures(targets).items():
                        known = self._setup.known(targets, count(batch), function)
                        sums.setdefault(name, []).append((function(outputs, targets), known))
        return Metrics({name: mean_of(values) for name, values in sums.items()}, len(y))


def _device(name: str | torch.device) -> torch.device:
    """The device of a name, which must be there; raises `ConfigError`."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device is {name!r}, which PyTorch cannot use here: {str(error).splitlines()[0]}") from error
    return device
