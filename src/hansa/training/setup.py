"""What every task of a PyTorch app shares: its settings, one module per thread, random numbers and threads."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from hansa.arrays import Arrays
from hansa.errors import AppError
from hansa.messages import Task
from hansa.training.local import Batch, LocalWork
from hansa.training.pairs import accuracy, are_shares, check_are_pairs, takes_shares
from hansa.training.routines import Quick, without_compiler
from hansa.training.tensors import Inputs, load_into_module, taken

__all__ = ["Loss", "Setup", "evaluated_at_once", "left_out_by", "seed"]

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) → a mean over the batch, of shape ()."""


def left_out_by(loss: Any, otherwise: int) -> int:
    """The target that a loss says it leaves out; otherwise, where it says nothing."""
    said = _said(loss, "ignore_index")
    return said if isinstance(said, int) else otherwise


def _class_weights(loss: Any) -> torch.Tensor | None:
    """By the sum of which, over the targets, a loss divides."""
    if isinstance(loss, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss) or getattr(loss, "func", None) in _OF_CLASSES:
        return cast("torch.Tensor | None", _said(loss, "weight"))
    return None


def _said(loss: Any, setting: str) -> Any:
    """A setting of a loss, of its own or of a `functools.partial`; None where it has none."""
    return getattr(loss, "keywords", {}).get(setting, getattr(loss, setting, None))


_OF_CLASSES = (torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss)


def evaluated_at_once(device: torch.device) -> int:
    """Examples, unless somebody says how many.

    On a CPU what layers make of more images leaves its caches, and takes up to 2.5 times as long
    (`python benchmarks/evaluation_batches.py`).
    """
    return 128 if device.type == "cpu" else 1024


@dataclass(frozen=True, slots=True)
class Setup:
    """As `hansa.training.torch.TorchTrainer` was given them."""

    build: Callable[[], torch.nn.Module]
    loss: Loss
    new_optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
    work: LocalWork
    metrics: Mapping[str, Loss] | None
    evaluation_batch_size: int
    device: torch.device
    threads: int | None
    format: torch.memory_format
    representation: str | None
    bfloat16: bool = False
    built: threading.local = field(default_factory=threading.local)
    """Has `module` and its `quick`, where this thread has built one."""

    def measures(self, targets: torch.Tensor) -> dict[str, Loss]:
        """What is measured of a model, where these are the targets."""
        if self.metrics is not None:
            return {"loss": self.loss, **self.metrics}
        return {"loss": self.loss} if targets.is_floating_point() else {"loss": self.loss, "accuracy": self._accuracy}

    def known(self, targets: torch.Tensor, size: int, of: Loss | None = None) -> torch.Tensor | int:
        """For how many of its examples a batch counts: not for targets that the loss leaves out of its mean.

        of: the loss, where the batch is weighed in a mean of losses: one that weighs classes divides by their weights.
        """
        if targets.is_floating_point():
            return size
        counted = (targets != self._left_out).double()
        weights = _class_weights(of)
        if weights is not None:
            counted *= weights.to(counted)[targets.clamp(0, len(weights) - 1)]
        return size * counted.mean()

    def knows_all(self, y: Any) -> bool:
        """Whether the loss leaves out none of these targets."""
        return not bool((y == self._left_out).any())

    @property
    def _left_out(self) -> int:
        """What such a target is, by the loss's own word; else what PyTorch's losses take unless they are told."""
        return left_out_by(self.loss, -100)

    def _accuracy(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Among the targets that the loss does not leave out."""
        return accuracy(outputs, targets if self._left_out < 0 else targets.where(targets != self._left_out, -1))

    def loaded(self, model: Arrays) -> torch.nn.Module:
        """This thread's module, with the tensors of `model`."""
        module = self.module()
        load_into_module(module, model)
        return module

    def module(self) -> torch.nn.Module:
        """This thread's module, as it was left."""
        if not hasattr(self.built, "module"):
            with torch.random.fork_rng(devices=self.generators()):
                module = self.build().to(self.device)
            if any(kind.__module__.split(".")[0] == "keras" for kind in type(module).__mro__):
                raise AppError(
                    "a Keras model alone does not know when it trains, and leaves out dropout and batch normalization: "
                    "give a function that makes a torch module of it, with a forward of net(x, training=self.training)"
                )
            # An overload of torch's own misses that a format alone is enough.
            self.built.module = module.to(memory_format=self.format)  # type: ignore[call-overload]
            self.built.quick = Quick(module)
        return cast("torch.nn.Module", self.built.module)

    def optimizer_of(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """A new one, which moves these parameters or some of them; raises `AppError` for another."""
        if not parameters:
            raise AppError("the module has no parameter with a gradient: nothing can be trained")
        made: object = self.optimizer(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise AppError(
                f"the function that makes the optimizer returns a {type(made).__name__}: it must return one of "
                "torch.optim, to whose steps a schedule may be hooked"
            )
        known = set(map(id, parameters))
        if any(id(parameter) not in known for group in made.param_groups for parameter in group["params"]):
            raise AppError(
                "the optimizer moves other parameters than those that it was given: make it of these, as "
                "lambda parameters: torch.optim.SGD(parameters, lr=0.1) does"
            )
        return made

    def pair_checker(self) -> Callable[[Any, torch.Tensor], None]:
        """Looks at outputs and targets: each output is to go with one target, and one that the loss is made for.

        Unless the loss is of targets from 0 to 1, only the first batch that it is given tells.
        """
        seen = of_shares = False

        def check(outputs: Any, targets: torch.Tensor) -> None:
            nonlocal seen, of_shares
            if not seen:
                check_are_pairs(self.loss, outputs, targets)
            if not seen or (of_shares and not are_shares(targets)):
                of_shares = takes_shares(self.loss, outputs, targets)
            seen = True

        return check

    def optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """A new one of these parameters."""
        with without_compiler():
            return self.new_optimizer(parameters)

    def neighbours(self, num_examples: int, task: Task) -> Iterator[slice]:
        """The examples in their order; each batch reports progress when the next one is asked for."""
        size = self.evaluation_batch_size
        for start in range(0, num_examples, size):
            end = min(start + size, num_examples)
            yield slice(start, end)
            task.progress(end, num_examples)

    def batch(self, x: Any, y: Any, batch: "Batch | None", module: torch.nn.Module) -> tuple[Inputs, torch.Tensor]:
        """Some of the examples as tensors on the device, in the dtypes that the module needs. batch: as of `taken`."""
        dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
        named = x if isinstance(x, dict) else {"inputs": x}
        try:
            tensors = {name: taken(each, batch) for name, each in named.items()}
            targets = taken(y, batch)
        except TypeError as error:
            kinds = " and ".join(f"{what} {np.asarray(of).dtype}" for what, of in (*named.items(), ("targets", y)))
            raise AppError(f"{kinds} cannot be tensors: give numbers, of a class its own from 0") from error
        targets = targets.to(dtype if targets.is_floating_point() else torch.int64)
        inputs = {name: self._placed(each, dtype) for name, each in tensors.items()}
        return inputs if isinstance(x, dict) else inputs["inputs"], targets.to(self.device)

    def _placed(self, inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """On the device; floats in this dtype."""
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        channels = self.format if inputs.dim() == 4 else torch.preserve_format  # noqa: PLR2004 - (n, c, h, w)
        return inputs.to(self.device, memory_format=channels)

    def forward(self, function: Callable[[Inputs], Any], inputs: Inputs) -> Any:
        """A forward pass of this thread's module, by the quickest routines.

        With `bfloat16` its products are in that dtype, and what comes of it is in float32 again.
        """
        if not self.bfloat16:
            with self.routines():
                return function(inputs)
        # Anew for each pass: it keeps the weights that it has rounded, which the next step changes.
        with torch.autocast(self.device.type, torch.bfloat16):
            return _widened(function(inputs))

    def routines(self) -> AbstractContextManager[None]:
        """The quickest routines for this thread's module: of a step its forward and its backward pass."""
        self.module()
        return nullcontext() if self.bfloat16 else cast("Quick", self.built.quick)

    def generators(self) -> list[torch.device]:
        """Devices beside the CPU whose random state a task touches."""
        return [self.device] if self.device.type == "cuda" else []

    @contextmanager
    def seeded(self, rng: np.random.Generator) -> Iterator[None]:
        """Torch's global random state drawn from `rng`, and its threads as set; both as they were afterwards."""
        with torch.random.fork_rng(devices=self.generators()), self.on_threads():
            self._reseed(seed(rng))
            yield

    def _reseed(self, number: int) -> None:
        """As torch.manual_seed; which, on a CPU, would keep a traceback for each kind of device that is not in use."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(number)
        else:
            torch.manual_seed(number)

    @contextmanager
    def on_threads(self) -> Iterator[None]:
        """Torch's threads as set, and afterwards as they were."""
        if self.threads is None:
            yield
            return
        _torch_threads.enter(self.threads)
        try:
            yield
        finally:
            _torch_threads.leave()


class _TorchThreads:
    """How many torch uses is one number of the process: who sets it last need not be who is done last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._before = 1

    def enter(self, number: int) -> None:
        with self._lock:
            if not self._entered:
                self._before = torch.get_num_threads()
            self._entered += 1
            torch.set_num_threads(number)

    def leave(self) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                torch.set_num_threads(self._before)


_torch_threads = _TorchThreads()


def _widened(outputs: Any) -> Any:
    """Tensors in whatever torch's trees know: tuples, dicts, outputs of Hugging Face's models."""
    return tree_map_only(torch.Tensor, lambda one: one.float() if one.dtype == torch.bfloat16 else one, outputs)


def seed(rng: np.random.Generator) -> int:
    """The seed of torch's random state for a task."""
    return int(rng.integers(2**63))
