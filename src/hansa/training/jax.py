"""Local training of models in JAX: pure functions, or modules of Flax and Haiku by their functions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError, MissingExtraError
from hansa.messages import Metrics, Task, Update
from hansa.training.local import LocalWork

try:
    import jax
except ImportError as error:
    raise MissingExtraError("hansa.training.jax", "jax") from error

from hansa.training.jax_setup import Apply, JaxSetup, Measure, Optimizer, accuracy
from hansa.training.jax_stacks import JaxStacks, Work, prepare

__all__ = ["JaxTrainer", "accuracy"]


class JaxTrainer:
    """Trains the parameters of a pure function with any optimizer of optax, new in every round.

    The model is the leaves of the pytree that `init` makes, named by their paths, for example
    `params.Dense_0.kernel`; floating ones are trained, others stay as they are.

    `task.data` is what `hansa.training.local` says. Floating inputs and targets are cast to the dtype of the
    parameters, integers to JAX's own (int32, unless `jax_enable_x64` is set). `fit` reports the loss, a mean over the
    examples of all steps, each before its step; `evaluate` reports the loss and the metrics.

    Steps are compiled, some tens of them into one call, for each size of batch. A batch that is smaller than the others
    is filled up and masked where `apply` treats each example alone and the loss is the mean of the losses of its
    examples, which is tried once with made-up examples; else it is compiled for its own size.
    """

    def __init__(
        self,
        init: Callable[[Any], Any],
        apply: Apply,
        loss: Measure,
        optimizer: Optimizer,
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        drop_last: bool = False,
        metrics: Mapping[str, Measure] | None = None,
        evaluation_batch_size: int = 1024,
        device: str | None = None,
        threads: int | None = 1,
    ) -> None:
        """Settings; nothing is built yet.

        init: a key of `jax.random` → parameters, any pytree of arrays. apply: (params, x) → outputs of all examples of
        x, of shape (n, …); where it has a parameter `rng`, that is a key in training, for dropout, and else None. loss:
        (outputs, targets) → a mean over the batch. optimizer: for example `optax.sgd(0.1)`. batch_size, epochs, steps,
        drop_last: as in `LocalWork`. metrics: each a mean over the batch; None: accuracy where the targets are
        integers. device: "cpu", "gpu" or another of JAX's platforms; None: its default. threads: on a CPU; 1 gives the
        same bits on every machine of a kind, None lets XLA take all cores for one product, which is faster for a large
        model that has a machine for itself.
        """
        functions: dict[str, Any] = {"init": init, "apply": apply, "loss": loss}
        for name, given in functions.items():
            if not callable(given) or isinstance(given, type):
                raise AppError(
                    f"{name} is {given!r}; JaxTrainer takes functions: JaxTrainer(init, apply, loss, optax.sgd(0.1)), "
                    "with Flax for example net.apply"
                )
        if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
            raise AppError(f"optimizer is {optimizer!r}; give one of optax, for example optax.sgd(0.1)")
        if threads not in {1, None}:
            raise ConfigError(f"threads is {threads!r}; with JAX it is 1, or None for as many as there are cores")
        setup = JaxSetup(
            init=init,
            apply=apply,
            loss=loss,
            optimizer=optimizer,
            work=LocalWork(batch_size, epochs, steps, drop_last),
            metrics=metrics,
            evaluation_batch_size=evaluation_batch_size,
            device=device,
            threads=threads,
        )
        self._work = Work(setup)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The leaves of `init`, whose key is drawn from `rng`."""
        setup = self._work.setup
        with setup.on_device():
            return setup.tree.arrays(setup.drawn(jax.random.key(int(rng.integers(2**31)))))

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train from `model` as far as `task.work` goes."""
        return self._work.fit(model, task)

    def gradient(self, model: Arrays, task: Task) -> Update:
        """The gradient of the mean loss over all local examples, without dropout; zeros for what is not trained."""
        return self._work.gradient(model, task)

    def vectorized(self, model: Arrays, task: Task) -> JaxStacks | str:
        """What trains many clients in one computation; or why nothing can, as the end of a sentence.

        model, task: those of one client.
        """
        return prepare(self._work, model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The loss and the metrics over the client's evaluation examples."""
        return self._work.evaluate(model, task)
