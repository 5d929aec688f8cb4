"""The models of the benchmarks in JAX, with the parameters that PyTorch has."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["cross_entropy", "forward", "mean_loss"]

Params = dict[str, jax.Array]


def forward(workload: str) -> Callable[[Params, jax.Array], jax.Array]:
    """(parameters, inputs of shape (n, …), channels first) → logits of shape (n, classes)."""
    match workload:
        case "L":
            return lambda params, x: _dense(params, "", x)
        case "S":
            return lambda params, x: _dense(params, "2.", jax.nn.relu(_dense(params, "0.", x)))
        case "F":
            return _femnist
        case "C":
            return _cifar
    raise ValueError(workload)


def mean_loss(workload: str) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """(parameters, x, y) → the mean cross-entropy."""
    logits = forward(workload)

    def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return cross_entropy(logits(params, x), y)

    return loss


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The mean over the examples."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()


def _dense(params: Params, layer: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{layer}weight"].T + params[f"{layer}bias"]


def _conv(params: Params, layer: str, x: jax.Array, padding: Any) -> jax.Array:
    kernel = params[f"{layer}weight"]
    out = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return out + params[f"{layer}bias"][:, None, None]


def _pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def _femnist(params: Params, x: jax.Array) -> jax.Array:
    x = _pool(jax.nn.relu(_conv(params, "0.", x, ((2, 2), (2, 2)))))
    x = _pool(jax.nn.relu(_conv(params, "3.", x, ((2, 2), (2, 2)))))
    return _dense(params, "9.", jax.nn.relu(_dense(params, "7.", x.reshape(len(x), -1))))


def _cifar(params: Params, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(_conv(params, "0.", x, "VALID"))
    x = _pool(jax.nn.relu(_conv(params, "2.", x, "VALID")))
    return _dense(params, "8.", jax.nn.relu(_dense(params, "6.", x.reshape(len(x), -1))))
