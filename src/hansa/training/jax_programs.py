"""What JAX compiles: blocks of steps for one client or for many, gradients, and measures.

A compiled program has fixed shapes, so that its bits depend on no client's neighbours: a block has as many rows and
room for as many steps as its caller says, how many steps are taken is an argument, and a row that has fewer stays as
it is. With one row there is no axis of rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from hansa.messages import GradientCorrection
from hansa.training.jax_setup import Batch, JaxSetup

__all__ = ["Fixed", "Form", "Leaves", "Programs", "State"]

Leaves: TypeAlias = dict[str, Any]
"""The tensors of a model by name; of several clients, with an axis of rows before their own."""


class State(NamedTuple):
    """What steps change."""

    trained: Leaves
    memory: Any
    """The optimizer's."""


class Fixed(NamedTuple):
    """What is the same in all steps of a client."""

    others: Leaves
    """Leaves that are not trained."""
    start: Leaves
    """Trained leaves before the first step, where a correction asks for them."""
    offset: Leaves
    """Of a correction."""
    proximal: Any
    """Of a correction, shape (): the same for all rows."""
    sharpness: Any
    """The same."""
    key: Any
    """Of random numbers, shape (2,)."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a program is made for, beside the shapes of its arguments."""

    rows: int
    full: bool
    """Whether batches are taken as they are; else they may be filled up."""
    proximal: bool = False
    offset: bool = False
    anchored: bool = False
    frozen: frozenset[str] = frozenset()
    sharp: bool = False

    @classmethod
    def of(cls, rows: int, correction: GradientCorrection | None, *, full: bool) -> "Form":
        """That of clients with this correction."""
        asked = correction or GradientCorrection()
        return cls(
            rows,
            full,
            bool(asked.proximal),
            asked.offset is not None,
            asked.anchored,
            asked.frozen,
            bool(asked.sharpness),
        )


@dataclass(frozen=True, slots=True)
class Programs:
    """Each is compiled once for a form and for the shapes of its arguments."""

    setup: JaxSetup
    _made: dict[tuple[str, Form | None], Callable[..., Any]] = field(default_factory=dict)

    def begin(self, form: Form) -> Callable[[Leaves], Any]:
        """Trained leaves → the optimizer's memory."""
        return self._once("begin", form, lambda: self.setup.compiled(self._by_rows(form, self._begin)))

    def block(self, form: Form) -> Callable[..., tuple[State, Any]]:
        """(state, which is used up; fixed; number of the first step and how many; batches) → (state, losses).

        batches: x of shape (room, rows, batch, …), and counts, as losses, of (room, rows).
        """
        return self._once("block", form, lambda: self.setup.compiled(partial(self._block, form), donated=0))

    def gradient(self, form: Form) -> Callable[..., tuple[Leaves, Any]]:
        """(sums, which are used up; trained and other leaves; batch; share) → (sums, mean losses).

        The gradient of each row's mean loss on its batch, times its share, is added to the sums.
        """
        made = self._by_rows(form, partial(self._gradient, form))
        return self._once("gradient", form, lambda: self.setup.compiled(made, donated=0))

    def measured(self, *, each: bool) -> Callable[..., dict[str, Any]]:
        """(leaves, x, y) → each measure; of each example, or of the batch as it is."""
        name = f"measured, {each}"
        return self._once(name, None, lambda: self.setup.compiled(partial(self._measured, each=each)))

    def _once(self, name: str, form: Form | None, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if (name, form) not in self._made:
            self._made[name, form] = make()
        return self._made[name, form]

    def _by_rows(self, form: Form, function: Callable[..., Any], axes: Any = 0) -> Callable[..., Any]:
        return function if form.rows == 1 else jax.vmap(function, in_axes=axes)

    # ── of one row ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, trained: Leaves) -> Any:
        return self.setup.optimizer.init(self.setup.tree.params(trained))

    def _block(self, form: Form, state: State, fixed: Fixed, steps: tuple[Any, Any], batches: Batch) -> Any:
        """steps: the number of the first one, and how many there are."""
        step = self._by_rows(form, partial(self._step, form), (0, Fixed._make((0, 0, 0, None, None, 0)), None, 0))

        def body(number: Any, so_far: tuple[State, Any]) -> tuple[State, Any]:
            state, losses = so_far
            batch = Batch(*(jax.lax.dynamic_index_in_dim(part, number, keepdims=False) for part in batches))
            state, loss = step(state, fixed, steps[0] + number, batch)
            return state, jax.lax.dynamic_update_index_in_dim(losses, loss, number, 0)

        losses = jnp.zeros(batches.count.shape, self.setup.tree.dtype)
        return jax.lax.fori_loop(0, steps[1], body, (state, losses))

    def _step(self, form: Form, state: State, fixed: Fixed, number: Any, batch: Batch) -> tuple[State, Any]:
        """One step of one client, which is none where its batch has no examples."""
        tree, rng = self.setup.tree, None
        if self.setup.draws:
            rng = jax.random.fold_in(jax.random.wrap_key_data(fixed.key, impl="threefry2x32"), number)
        loss, gradient = self._loss_and_gradient(form, state.trained, fixed.others, batch, rng)
        if form.sharp:
            higher = self._uphill(form, state.trained, gradient, fixed.sharpness)
            _, gradient = self._loss_and_gradient(form, higher, fixed.others, batch, rng)
        if form.anchored:
            _, anchor = self._loss_and_gradient(form, fixed.start, fixed.others, batch, rng)
            gradient = {name: slope - anchor[name] for name, slope in gradient.items()}
        corrected = {
            name: jnp.zeros_like(slope) if name in form.frozen else self._corrected(form, name, slope, state, fixed)
            for name, slope in gradient.items()
        }
        moves, memory = self.setup.optimizer.update(tree.params(corrected), state.memory, tree.params(state.trained))
        moved = dict(zip(tree.trained, jax.tree.leaves(moves), strict=True))
        takes = batch.count > 0
        trained = {
            name: leaf if name in form.frozen else jnp.where(takes, (leaf + moved[name]).astype(leaf.dtype), leaf)
            for name, leaf in state.trained.items()
        }
        return State(trained, jax.tree.map(lambda new, old: jnp.where(takes, new, old), memory, state.memory)), loss

    def _uphill(self, form: Form, trained: Leaves, gradient: Leaves, rho: Any) -> Leaves:
        """w + ρ g/‖g‖ of what is not frozen; w where g is 0."""
        slopes = {name: slope for name, slope in gradient.items() if name not in form.frozen}
        square = sum(jnp.sum(jnp.square(slope)) for slope in slopes.values())
        pace = jnp.where(square > 0, rho / jnp.sqrt(square), 0.0)
        moved = {name: (trained[name] + pace * slope).astype(trained[name].dtype) for name, slope in slopes.items()}
        return trained | moved

    def _corrected(self, form: Form, name: str, slope: Any, state: State, fixed: Fixed) -> Any:
        if form.proximal:
            slope += fixed.proximal.astype(slope.dtype) * (state.trained[name] - fixed.start[name])
        return slope + fixed.offset[name].astype(slope.dtype) if form.offset else slope

    def _loss_and_gradient(
        self, form: Form, trained: Leaves, others: Leaves, batch: Batch, rng: Any
    ) -> tuple[Any, Leaves]:
        def loss(leaves: Leaves) -> Any:
            return self.setup.batch_loss(self.setup.tree.params(leaves | others), batch, rng, full=form.full)

        found: tuple[Any, Leaves] = jax.value_and_grad(loss)(trained)
        return found

    def _gradient(
        self, form: Form, sums: Leaves, leaves: tuple[Leaves, Leaves], batch: Batch, share: Any
    ) -> tuple[Leaves, Any]:
        """leaves: the trained, and the others."""
        loss, gradient = self._loss_and_gradient(form, *leaves, batch, None)
        return {name: total + share.astype(total.dtype) * gradient[name] for name, total in sums.items()}, loss

    def _measured(self, leaves: Leaves, x: Any, y: Any, *, each: bool) -> dict[str, Any]:
        outputs = self.setup.outputs(self.setup.tree.params(leaves), x)
        take = self.setup.of_each if each else lambda function, outputs, y: function(outputs, y)
        return {name: take(function, outputs, y) for name, function in self.setup.measures(y).items()}
