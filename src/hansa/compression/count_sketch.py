"""A count sketch travels in place of the change, and the largest sums of all clients are read out of it at the server.

    client i:   S(Δ_i),  S(x)[r, h_r(j)] += σ_r(j) x_j  for each row r of the table, j a value of the change
    server:     u ← ρu + Σ p_i S(Δ_i);  e ← e + u
                x̂_j = median_r σ_r(j) e[r, h_r(j)];  Δ = the k of the largest |x̂_j|, 0 for the others
                e ← 0 in the cells of Δ;  w ← the algorithm's own step with Δ

Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora: "FetchSGD: Communication-Efficient Federated
Learning with Sketching", ICML 2020, arXiv:2007.07682, Algorithm 1, with changes of several local steps in place of
gradients. Charikar, Chen, Farach-Colton: "Finding Frequent Items in Data Streams", ICALP 2002.

A sketch is linear: the exact sum of the clients' tables is the table of their sum, so that what is largest in the sum
is found although no client knows it, and what was left out waits at the server and not at the clients, who may take
part once only. Tensors of few values, and those of whole numbers, travel as they are.

The paper's e ← e − S(Δ) leaves in a cell what was read wrong out of it, with the other sign: where several of the k
share cells, e grows from round to round (MNIST, softmax: accuracy .50, not .87). Emptied cells forget that instead.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from hansa.algorithm import Aggregate, Algorithm, Bound, Stage, State, Transform
from hansa.arrays import Array, Arrays, delta_dtype, is_floating
from hansa.compression.options import checked_share
from hansa.compression.top_k import largest
from hansa.errors import ConfigError
from hansa.messages import Update

__all__ = ["TABLE", "Sketch", "count_sketch"]

TABLE = "count-sketch"
"""The tensor that holds the table, and what the server's state calls its own."""

_FEWEST = 64
"""Values of a tensor that is sketched."""

_ROWS = 31
"""Rows at most."""

_ROUNDED = 1 + 2.0**-22
"""More than a cell grows when it is rounded to float32."""

_BLOCK = 256 * 1024
_WORD = 4
_Table = npt.NDArray[np.float64]


def count_sketch(
    before: Bound, *, share: float = 0.2, rows: int = 3, keep: float = 0.1, momentum: float = 0.0
) -> Transform:
    """share: the size of the table, of the values that it stands for, above 0 and at most 1; rows: of the table, odd.

    keep: k, of those values, how many a round changes; momentum: ρ, 0 ≤ ρ < 1, of the server (0.9 in the paper).
    More rows make a wrong reading rarer, more columns make each nearer: 1 row is best where most values change, 5 where
    few do. A bound on the norm is kept of absolute values only, times the rows.
    """
    sketch = Sketch(checked_share("count-sketch", "share", share), _checked_rows(rows))
    part, rho = checked_share("count-sketch", "keep", keep), _checked_momentum(momentum)

    def apply(update: Update, _rng: np.random.Generator) -> Update:
        chosen = sketch.chosen(update.arrays)
        if not chosen:
            return update
        table = sketch.of(chosen).astype(np.float32)
        return replace(update, arrays=_with_table(update.arrays, chosen, table))

    def structure(model: Arrays) -> Arrays:
        chosen = sketch.chosen(model)
        if not chosen:
            return model
        size = max(float(np.max(np.abs(array.astype(np.float64)))) for array in chosen.values())
        table = np.full(sketch.shape(chosen), size, np.float32)
        return _with_table(model, chosen, table)

    bound = Bound(before.norm * sketch.rows * _ROUNDED, 1) if before.order == 1 else Bound()
    return Transform(
        "count-sketch",
        apply,
        Stage.SELECT,
        bound=bound,
        wrap=lambda algorithm: _reading(algorithm, sketch, part, rho),
        structure=structure,
    )


@dataclass(frozen=True, slots=True)
class Sketch:
    """Tables of rows × columns, and what is read out of them."""

    share: float
    rows: int

    def chosen(self, arrays: Arrays) -> dict[str, Array]:
        """The tensors that are sketched."""
        if TABLE in arrays:
            raise ConfigError(f"count-sketch: a tensor of the model is called {TABLE!r}: give it another name")
        return {name: array for name, array in arrays.items() if is_floating(array) and array.size >= _FEWEST}

    def shape(self, chosen: Mapping[str, Array]) -> tuple[int, int]:
        """(rows, columns): `share` of the values of these tensors."""
        values = sum(array.size for array in chosen.values())
        return self.rows, math.ceil(self.share * values / self.rows)

    def of(self, chosen: Mapping[str, Array]) -> _Table:
        """S(x), in float64; added in the order of the values."""
        table = np.zeros(self.shape(chosen))
        with np.errstate(over="ignore", invalid="ignore"):  # the aggregator names what is not finite
            for name, array in chosen.items():
                flat = array.reshape(-1)
                for row, cells in enumerate(table):
                    for start, columns, signs in _hashed(name, row, flat.size, cells.size):
                        signed = flat[start : start + columns.size] * signs
                        np.add(cells, np.bincount(columns, signed, minlength=cells.size), out=cells)
        return table

    def read(self, table: _Table, like: Mapping[str, Array]) -> dict[str, _Table]:
        """x̂, for tensors of these names and shapes."""
        found = {}
        for name, array in like.items():
            each = np.empty((self.rows, array.size))
            for row, cells in enumerate(table):
                for start, columns, signs in _hashed(name, row, array.size, cells.size):
                    np.multiply(cells[columns], signs, out=each[row, start : start + columns.size])
            found[name] = np.partition(each, self.rows // 2, axis=0)[self.rows // 2].reshape(array.shape)
        return found


def _reading(algorithm: Algorithm, sketch: Sketch, keep: float, rho: float) -> Algorithm:
    """The algorithm, with the tables e and u in its state, and Δ read out of them in place of the mean."""

    def init(params: Arrays) -> State:
        state = algorithm.init(params)
        chosen = sketch.chosen(algorithm.broadcast(state))
        if not chosen:
            return state
        empty = np.zeros(sketch.shape(chosen))
        own = {"error": empty, "momentum": empty} if rho else {"error": empty}
        return replace(state, slots={**state.slots, TABLE: Arrays(own)})

    def server_update(state: State, aggregate: Aggregate) -> State:
        theirs = _without_table(state)
        if TABLE not in state.slots:
            return algorithm.server_update(theirs, aggregate)
        own, model = state.slots[TABLE], algorithm.broadcast(theirs)
        table = aggregate.mean[TABLE].astype(np.float64)
        if rho:
            table = rho * own["momentum"] + table
        chosen = sketch.chosen(model)
        error = own["error"] + table
        change = _largest_of(sketch.read(error, chosen), chosen, keep)
        kept = {"error": np.where(sketch.of(change), 0.0, error)} | ({"momentum": table} if rho else {})
        mean = Arrays({name: change[name] if name in change else aggregate.mean[name] for name in model})
        after = algorithm.server_update(theirs, replace(aggregate, mean=mean))
        return replace(after, slots={**after.slots, TABLE: Arrays(kept)})

    return replace(
        algorithm,
        init=init,
        broadcast=lambda state: algorithm.broadcast(_without_table(state)),
        server_update=server_update,
    )


def _without_table(state: State) -> State:
    """The algorithm's own state."""
    return replace(state, slots={name: kept for name, kept in state.slots.items() if name != TABLE})


def _largest_of(found: Mapping[str, _Table], like: Mapping[str, Array], keep: float) -> dict[str, Array]:
    """The largest of all tensors together, in the dtypes of their changes."""
    every = np.concatenate([values.reshape(-1) for values in found.values()])
    every[~largest(every, keep)] = 0.0
    change, start = {}, 0
    for name, array in like.items():
        values = every[start : start + array.size].reshape(array.shape)
        change[name] = values.astype(delta_dtype(array.dtype))
        start += array.size
    return change


def _with_table(arrays: Arrays, chosen: Mapping[str, Array], table: Array) -> Arrays:
    """What is not sketched, then the table."""
    return Arrays({name: array for name, array in arrays.items() if name not in chosen} | {TABLE: table})


def _hashed(name: str, row: int, size: int, columns: int) -> Iterator[tuple[int, Array, Array]]:
    """(first element, columns h_r, signs σ_r) of a tensor's elements, block by block.

    Of element i, counted in C order, they are made of the i-th 4 bytes of the extended output of BLAKE3 over the row as
    a byte and the tensor's name in UTF-8, read as a little-endian number: σ is −1 where its highest bit is set, and h
    is the other 31 bits times the columns, divided by 2^31, rounded down.
    """
    hasher = blake3(bytes([row]) + name.encode())
    for start in range(0, size, _BLOCK):
        count = min(_BLOCK, size - start)
        words = np.frombuffer(hasher.digest(length=_WORD * count, seek=_WORD * start), "<u4").astype(np.int64)
        yield start, (words & (2**31 - 1)) * columns >> 31, np.where(words >> 31, -1.0, 1.0)


def _checked_rows(rows: object) -> int:
    if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= _ROWS or rows % 2 == 0:
        raise ConfigError(f"count-sketch: rows is {rows!r}; it must be an odd number from 1 to {_ROWS}")
    return rows


def _checked_momentum(momentum: object) -> float:
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise ConfigError(f"count-sketch: momentum is {momentum!r}; it must be a number of at least 0 and below 1")
    return float(momentum)
