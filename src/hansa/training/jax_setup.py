"""What every task of a JAX app shares: its settings, and what its functions do with a batch that is filled up."""

import inspect
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from hansa.arrays import Array, is_floating
from hansa.errors import AppError
from hansa.messages import Task
from hansa.training.jax_tree import Tree
from hansa.training.local import LocalWork

__all__ = ["Apply", "Batch", "Examples", "JaxSetup", "Measure", "Optimizer", "accuracy"]

Apply: TypeAlias = Callable[..., Any]
"""(params, x) → outputs for all examples of x; or (params, x, rng)."""

Measure: TypeAlias = Callable[[Any, Any], Any]
"""(outputs, targets) → a mean over the batch, of shape ()."""

Examples: TypeAlias = tuple[Array, Array]
"""(x, y) in the dtypes that the model needs."""


class Batch(NamedTuple):
    """Examples of one step, of which the first `count` are meant."""

    x: Any
    y: Any
    count: Any


class Optimizer(Protocol):
    """An `optax.GradientTransformation`."""

    @property
    def init(self) -> Callable[[Any], Any]:
        """Parameters → state."""

    @property
    def update(self) -> Callable[..., tuple[Any, Any]]:
        """(gradients, state, parameters) → (what is added to the parameters, state)."""


_TRIED = 6
"""Made-up examples in the batch with which functions are tried; …"""
_FILLED = 8
"""… and in the same batch with further ones."""

_NUMBERS = 1 << 20
"""In the outputs that a loss is tried on for the sake of every class, at most."""

_TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
"""Relative and absolute, of numbers in these dtypes that are equal but for rounding, on a CPU; …"""
_COARSE = 1e-2
"""… and of others, and elsewhere, where products may be in fewer digits."""


@dataclass(frozen=True)
class JaxSetup:
    """As `hansa.training.jax.JaxTrainer` was given them."""

    init: Callable[[Any], Any]
    apply: Apply
    loss: Measure
    optimizer: Optimizer
    work: LocalWork
    metrics: Mapping[str, Measure] | None
    evaluation_batch_size: int
    device: str | None
    threads: int | None
    _tried: dict[Hashable, str | None] = field(default_factory=dict)

    @cached_property
    def tree(self) -> Tree:
        """Of the parameters."""
        return Tree.of(self.init)

    @cached_property
    def draws(self) -> bool:
        """Whether the model asks for random numbers in training."""
        try:
            return "rng" in inspect.signature(self.apply).parameters
        except ValueError:  # some functions in C do not tell
            return False

    @cached_property
    def drawn(self) -> Callable[[Any], Any]:
        """`init`, compiled."""
        made: Callable[[Any], Any] = jax.jit(self.init)
        return made

    @property
    def platform(self) -> str:
        """Where it is computed, for example cpu."""
        return self.device or jax.default_backend()

    def on_device(self) -> AbstractContextManager[object]:
        """JAX computes on the device that was asked for."""
        return nullcontext() if self.device is None else jax.default_device(jax.devices(self.device)[0])

    def compiled(self, function: Callable[..., Any], donated: int | None = None) -> Callable[..., Any]:
        """The function, compiled for each shape of its arguments; donated: the one whose memory its results may use."""
        one_thread = self.platform == "cpu" and self.threads == 1
        options: Any = {"xla_cpu_multi_thread_eigen": False} if one_thread else None
        made: Callable[..., Any] = jax.jit(function, donate_argnums=donated, compiler_options=options)
        return made

    def outputs(self, params: Any, x: Any, rng: Any = None) -> Any:
        """Of a batch; rng: a key in training."""
        return self.apply(params, x, rng=rng) if self.draws else self.apply(params, x)

    def measures(self, targets: Any) -> dict[str, Measure]:
        """What is measured of a model, where these are the targets."""
        if self.metrics is not None:
            return {"loss": self.loss, **self.metrics}
        return {"loss": self.loss} if _is_floating(targets) else {"loss": self.loss, "accuracy": accuracy}

    def examples(self, given: tuple[Any, Any]) -> Examples:
        """Examples in the dtypes that the model needs: floats in its own, other numbers as JAX has them."""
        x, y = (np.asarray(part) for part in given)
        return self._cast(x), self._cast(y)

    def neighbours(self, num_examples: int, task: Task) -> Iterator[slice]:
        """The examples in their order; each batch reports progress when the next one is asked for."""
        for start in range(0, num_examples, self.evaluation_batch_size):
            end = min(start + self.evaluation_batch_size, num_examples)
            yield slice(start, end)
            task.progress(end, num_examples)

    def _cast(self, array: Array) -> Array:
        if is_floating(array):
            return array.astype(self.tree.dtype, copy=False)
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

    # ── batches that are filled up ───────────────────────────────────────────────────────────────────────────────────

    def of_each(self, function: Measure, outputs: Any, targets: Any) -> Any:
        """A mean over a batch, taken of each example: shape (n,)."""

        def alone(output: Any, target: Any) -> Any:
            return function(jax.tree.map(lambda part: part[None], output), target[None])

        return jax.vmap(alone)(outputs, targets)

    def batch_loss(self, params: Any, batch: Batch, rng: Any, *, full: bool) -> Any:
        """The mean loss of the examples that are meant; full: of the batch as it is."""
        x, y, count = batch
        outputs = self.outputs(params, x, rng)
        if full:
            return self.loss(outputs, y)
        losses = self.of_each(self.loss, outputs, y)
        return jnp.where(jnp.arange(len(losses)) < count, losses, 0).sum() / jnp.maximum(count, 1)

    def obstacle(self, examples: Examples) -> str | None:
        """Why a batch of such examples cannot be filled up, as the end of a sentence; None where it can.

        It is found out with made-up examples, so that it depends on the app and on shapes alone.
        """
        x, y = examples
        key = (x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        if key not in self._tried:
            with self.on_device():
                self._tried[key] = self._obstacle(x, y)
        return self._tried[key]

    def _obstacle(self, x: Array, y: Array) -> str | None:
        rng = np.random.default_rng(0)
        inputs = _made_up(rng, x, 2)
        shape = jax.eval_shape(lambda key, batch: self.outputs(self.init(key), batch, key), jax.random.key(0), inputs)
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(shape)}
        if sizes != {(_FILLED,)}:
            return "what the model makes of a batch does not have a row for each example"
        one = shape if isinstance(shape, jax.ShapeDtypeStruct) else None
        if one is not None and (one.shape[1:] == (*y.shape[1:], 1) or y.shape[1:] == (*one.shape[1:], 1)):
            self._check_pairs(rng, one, y)
        classes = one.shape[-1] if one is not None and one.ndim == y.ndim + 1 else 2
        targets = _made_up(rng, y, classes)
        odd, every = targets[:_TRIED].copy(), targets[:_TRIED]
        if odd.dtype.kind == "i":
            odd[0] = -1  # what some losses leave out of their mean
            every = _every(classes, y, 1 if one is None else one.size // _FILLED)

        def tried(params: Any, key: Any) -> tuple[Any, ...]:
            several, more = self.outputs(params, inputs[:_TRIED], key), self.outputs(params, inputs, key)
            of_first = jax.tree.map(lambda part: part[:_TRIED], more)
            repeated = jax.tree.map(lambda part: part[np.arange(len(every)) % _TRIED], several)
            moved = jax.tree.map(lambda part: part + rng.standard_normal(part.shape).astype(part.dtype), repeated)
            given = ((several, targets[:_TRIED]), (several, odd), (repeated, every), (moved, every))
            losses = [(self.loss(outputs, y), self.of_each(self.loss, outputs, y).mean()) for outputs, y in given]
            return several, of_first, losses

        key = jax.random.key(0)
        params = jax.tree.map(lambda leaf: _moved(rng, leaf), self.drawn(key))  # nothing shows where all are zeros
        several, of_first, losses = jax.jit(tried)(params, key)
        if not all(map(self._alike, jax.tree.leaves(several), jax.tree.leaves(of_first))):
            what = "draws random numbers by the size of a batch, or " if self.draws else ""
            return f"the model {what}mixes the examples of a batch"
        if not np.isfinite(losses[-1][0]):
            losses.pop()  # it is one of probabilities alone, say
        if not all(self._alike(mean, parts) for mean, parts in losses):
            return "the loss is not the mean of the losses of its examples"
        return None

    def _check_pairs(self, rng: np.random.Generator, outputs: jax.ShapeDtypeStruct, like: Array) -> None:
        """Raise `AppError` where the loss takes each output with every target, as (n, 1) and (n,) are broadcast.

        That shows in the loss of answers that are all right: it is the same of targets in another order, and another
        one where targets have the outputs' shape.
        """
        targets = _made_up(rng, like, 2)
        if targets.dtype.kind in "iu":
            targets.reshape(len(targets), -1)[:] = np.arange(len(targets))[:, None] % 2
        right = targets.reshape(outputs.shape)
        answers = jnp.asarray(right, outputs.dtype)
        found, moved = self.loss(answers, targets), self.loss(answers, np.roll(targets, 1, axis=0))
        if not np.isfinite(found) or not self._alike(found, moved):
            return
        try:
            fitted = self.loss(answers, right)
        except (TypeError, ValueError):
            return
        if np.shape(fitted) == () and not self._alike(found, fitted):
            example = "outputs[..., 0]" if outputs.ndim > like.ndim else "y[..., 0]"
            raise AppError(
                f"an output of the model has the shape {outputs.shape[1:]} and a target {like.shape[1:]}, so that the "
                f"loss takes each output with every target: give both the same shape, for example {example}"
            )

    def _alike(self, one: Any, other: Any) -> bool:
        near = _TOLERANCE.get(np.asarray(one).dtype.name, _COARSE) if self.platform == "cpu" else _COARSE
        left, right = np.asarray(one, float), np.asarray(other, float)
        return bool(np.allclose(left, right, rtol=near, atol=near, equal_nan=True))

    def convolves(self, examples: Examples) -> bool:
        """Whether the model convolves."""
        x, _ = examples
        like = jax.eval_shape(lambda: jnp.zeros((1, *x.shape[1:]), x.dtype))
        program = jax.make_jaxpr(lambda key, batch: self.outputs(self.init(key), batch, key))(jax.random.key(0), like)
        return "conv_general_dilated" in str(program)


def accuracy(outputs: Any, targets: Any) -> Any:
    """The share of right answers.

    outputs: shape (n, …, classes) with targets (n, …) of class numbers; or logits of the targets' shape for 0 and 1.
    """
    answers = outputs.argmax(axis=-1) if outputs.ndim > targets.ndim else outputs > 0
    return (answers == targets).mean()


def _is_floating(targets: Any) -> bool:
    return bool(jnp.issubdtype(targets.dtype, jnp.floating))


def _made_up(rng: np.random.Generator, like: Array, limit: int) -> Array:
    """Examples of this kind; limit: of whole numbers, exclusive."""
    shape = (_FILLED, *like.shape[1:])
    if is_floating(like):
        return rng.standard_normal(shape).astype(like.dtype)
    return rng.integers(0, limit, shape).astype(like.dtype)


def _moved(rng: np.random.Generator, leaf: Any) -> Any:
    noise = rng.uniform(-0.2, 0.2, leaf.shape)
    return leaf + noise.astype(leaf.dtype) if _is_floating(leaf) else leaf


def _every(classes: int, like: Array, numbers: int) -> Array:
    """Targets of every class, or of very many, in at least as many examples as are tried.

    numbers: in the outputs of an example.
    """
    places = max(1, math.prod(like.shape[1:]))
    count = max(_TRIED, min(_NUMBERS // max(1, numbers), -(-classes // places)))
    return (np.arange(count * places) % max(1, classes)).reshape(count, *like.shape[1:]).astype(like.dtype)
