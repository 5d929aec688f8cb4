"""How far an optimizer of JAX moves: `Update.step_sum`, found out by letting it move."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from hansa.training.jax_setup import JaxSetup
from hansa.training.local import known_distance

__all__ = ["Distances"]

_STRETCH = 64
"""Steps that are taken at once."""

_TOLERANCE = 1e-4
"""Relative, of what is proportional but for rounding."""

_FAR = 1e4
"""A gradient that is clipped, if any is."""

_TRIALS = [(0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 1.0, 0.0), (-2.0, 1.0, 0.0), (-_FAR, 1.0, 0.0)]
"""(gradient, parameter, proximal weight): what is proportional moves by the gradient whatever the parameter is."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Of the optimizer of an app, after any number of steps."""

    setup: JaxSetup
    _known: dict[tuple[int, float, frozenset[str]], Mapping[str, float]] = field(default_factory=dict)
    """What was asked for."""
    _moved: dict[float, list[Mapping[str, npt.NDArray[np.float64]]]] = field(default_factory=dict)
    """For each proximal weight, tensor → distance after each step, in stretches."""

    def after(self, steps: int, proximal: float, frozen: frozenset[str]) -> Mapping[str, float]:
        """As `Update.step_sum`, by tensor; 0, unknown, where a step is not proportional to the gradients so far."""
        asked = steps, proximal, frozen
        if asked not in self._known:
            self._known[asked] = self._after(*asked)
        return self._known[asked]

    def _after(self, steps: int, proximal: float, frozen: frozenset[str]) -> Mapping[str, float]:
        stretch = 1 << max((steps - 1).bit_length(), _STRETCH.bit_length() - 1)
        known = self._moved.setdefault(proximal, [])
        if not known or len(next(iter(known[0].values()), ())) < stretch:
            with self.setup.on_device():
                known[:] = [self._measured(stretch, proximal)]
        return {name: known_distance(float(moved[steps - 1])) for name, moved in known[0].items() if name not in frozen}

    def _measured(self, steps: int, proximal: float) -> dict[str, npt.NDArray[np.float64]]:
        """A probe for each tensor, of its number of axes, on which the loss has the gradient −1 in each step."""
        tree = self.setup.tree
        shapes = {name: (1,) * len(like.shape) for name, like in zip(tree.names, tree.like, strict=True)}

        def moved(slope: Any, at: Any, proximal: Any) -> list[Any]:
            params = tree.params({name: jnp.full(shapes[name], at, jnp.float32) for name in tree.trained})

            def step(so_far: Any, _: None) -> tuple[Any, Any]:
                distance, memory = so_far
                gradients = jax.tree.map(lambda each: slope * (1 - proximal * each), distance)
                moves, memory = self.setup.optimizer.update(gradients, memory, params)
                distance = jax.tree.map(lambda each, move: each + move, distance, moves)
                return (distance, memory), distance

            begun = (jax.tree.map(jnp.zeros_like, params), self.setup.optimizer.init(params))
            return jax.tree.leaves(jax.lax.scan(step, begun, None, steps)[1])

        ways = [*_TRIALS, (-1.0, 0.0, proximal)]
        found = jax.jit(jax.vmap(moved))(*np.array(ways, np.float32).T)
        return {name: _distance(np.asarray(leaf, np.float64)) for name, leaf in zip(tree.trained, found, strict=True)}


def _distance(moved: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """After each step; zeros where the optimizer is not proportional. moved: shape (ways, steps, …)."""
    still, once, shifted, and_once, and_twice, and_far, held_back = moved.reshape(len(moved), -1)
    expected = once - still
    alike = (and_once - shifted, (and_twice - shifted) / 2, (and_far - shifted) / _FAR)
    if all(np.allclose(each, expected, rtol=_TOLERANCE, atol=0) for each in alike):
        return held_back - still
    return np.zeros_like(expected)
