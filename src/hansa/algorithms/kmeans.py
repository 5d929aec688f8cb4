"""Federated k-means: Lloyd's steps over the points of all clients; from centres that some clients propose (k-FED).

    client i:   of each centre j  n_ij = |C_ij| and Σ_{x ∈ C_ij} x, C_ij its points that are nearest to centre j
    server:     c_j ← Σ_i Σ_{x ∈ C_ij} x / Σ_i n_ij;  a centre without points stays

Lloyd: "Least Squares Quantization in PCM", 1982. The sums have no rounding (`algorithms.exact`): a step is that on the
joined points, to the bit, however they are spread over clients.

The first round finds where to begin, with `start="k-fed"`: the first clients by their share cluster their own points
(k-means++ and Lloyd's steps) and send centres with the number of points at each; the server goes from the heaviest to
the one that is farthest from those chosen, k times, and takes Lloyd's steps on what was sent. This is k-FED, but that
every client looks for k centres, and that squared distances count by the root of the points.

Dennis, Li, Smith: "Heterogeneity for the Win: One-Shot Federated Clustering", ICML 2021, arXiv:2103.00697. k-means++:
Arthur, Vassilvitskii, SODA 2007.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.exact import COUNTS, NUMBERS, Floats, summing
from hansa.algorithms.examples import points
from hansa.algorithms.options import check_count
from hansa.algorithms.parts import joined, part
from hansa.arrays import Array, Arrays
from hansa.errors import ConfigError
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "distances", "kmeans", "lloyd", "plus_plus", "server_update"]

_STEPS = 100
"""Of Lloyd's at most, where a client or the server clusters for itself."""


def kmeans(aggregator: Aggregator, *, start: str = "k-fed", proposers: int = 8) -> Algorithm:
    """start: "k-fed", where the first round finds the centres to begin with, or "model": those of the initial model.

    proposers: how many clients propose centres, ≥ 1; the first by `ClientInfo.index`, so each needs a share of its own.
    """
    check_count("kmeans", "proposers", proposers)
    if start not in {"k-fed", "model"}:
        raise ConfigError(f"kmeans: start is {start!r}; it must be 'k-fed' or 'model'")
    seats = proposers if start == "k-fed" else 0
    return Algorithm(
        name="kmeans",
        init=_init,
        broadcast=partial(broadcast, proposers=seats),
        client_update=client_update,
        aggregator=summing("kmeans", aggregator, COUNTS, NUMBERS),
        server_update=partial(server_update, proposers=seats),
        sends="exact sums",
    )


def _init(params: Arrays) -> State:
    """`centers` of shape (k, d), and how many points each had, `sizes` of shape (k,)."""
    if list(params) != ["centers", "sizes"] or params["centers"].shape[:1] != params["sizes"].shape:
        raise ConfigError("kmeans has centres for a model: give hansa.App a KMeansTrainer (hansa.training.clusters)")
    return State(params)


def broadcast(state: State, *, proposers: int) -> Arrays:
    """The centres, and room for the sums; whether centres are to be proposed, and room for them."""
    k, d = state.params["centers"].shape
    sums = {"points": NUMBERS.room(k, d), "counts": COUNTS.room(k)}
    asked: dict[str, Array] = {}
    if proposers:
        asked = {"now": np.array(state.round == 0, np.int64)}
        asked |= {"centers": NUMBERS.room(proposers, k, d), "sizes": COUNTS.room(proposers, k)}
    return joined({"centers": {"now": state.params["centers"]}, "sums": sums, "proposed": asked})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """The sums of its points at each centre; in the first round its own centres, if it proposes. `loss`: ‖x − c‖²."""
    del trainer
    centers, asked = part(model, "centers")["now"], part(model, "proposed")
    k, d = centers.shape
    x = points(task, d)
    told: dict[str, Array] = {name: np.zeros_like(array) for name, array in asked.items()}
    if asked and asked["now"]:
        if 0 <= task.client.index < len(asked["sizes"]):
            own, sizes = lloyd(x, np.ones(len(x)), plus_plus(x, k, task.rng))
            told["centers"][task.client.index] = NUMBERS.summed(own, lambda digit: digit, k, d)
            told["sizes"][task.client.index] = COUNTS.summed(sizes, lambda digit: digit, k)
        sums = {"points": np.zeros((k, d, NUMBERS.digits)), "counts": np.zeros((k, COUNTS.digits))}
        return Update(joined({"centers": {"now": np.zeros_like(centers)}, "sums": sums, "proposed": told}), len(x))
    squares = distances(x, centers)
    nearest = squares.argmin(axis=1)
    member = (nearest[:, None] == np.arange(k)).astype(np.float64)
    sums = {
        "points": NUMBERS.summed(x, lambda digit: np.asarray(member.T @ digit), k, d),
        "counts": COUNTS.summed(member, lambda digit: np.asarray(digit.sum(axis=0)), k),
    }
    loss = float(squares.min(axis=1).mean())
    return Update(
        joined({"centers": {"now": np.zeros_like(centers)}, "sums": sums, "proposed": told}), len(x), {"loss": loss}
    )


def server_update(state: State, aggregate: Aggregate, *, proposers: int) -> State:
    """Each centre becomes the mean of its points; in the first round, the centres to begin with."""
    clients, centers = len(aggregate.contributions), state.params["centers"]
    if proposers and not state.round:
        told = part(aggregate.mean, "proposed")
        sizes = COUNTS.totals(told["sizes"], clients).astype(np.float64).reshape(-1)
        proposed = NUMBERS.floats(told["centers"], clients).reshape(len(sizes), -1)[sizes > 0]
        if len(proposed):
            sizes = sizes[sizes > 0]
            centers, _ = lloyd(proposed, sizes, _farthest(proposed, sizes, len(centers)))
        return replace(state, params=Arrays(dict(state.params) | {"centers": centers}), round=state.round + 1)
    sums = part(aggregate.mean, "sums")
    counts = COUNTS.totals(sums["counts"], clients)
    totals = NUMBERS.floats(sums["points"], clients)
    filled = counts > 0
    sizes = counts.astype(np.float64)
    means = totals / np.where(filled, sizes, 1)[:, None]
    params = {"centers": np.where(filled[:, None], means, centers), "sizes": counts.astype(np.int64)}
    return State(Arrays(params), state.round + 1)


def distances(x: Floats, centers: Floats) -> Floats:
    """‖x − c‖² of each point and each centre, shape (n, k); that of a point depends on no other point."""
    return np.stack([np.square(x - center).sum(axis=1) for center in centers], axis=1)


def plus_plus(x: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k of the points, each drawn with a probability in proportion to its squared distance from those before it."""
    chosen = x[rng.integers(len(x))][None]
    while len(chosen) < k:
        squares = distances(x, chosen).min(axis=1)
        total = squares.sum()
        pick = int(rng.choice(len(x), p=squares / total)) if total > 0 else int(rng.integers(len(x)))
        chosen = np.concatenate([chosen, x[[pick]]])
    return np.asarray(chosen)


def lloyd(x: Floats, weights: Floats, centers: Floats) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Lloyd's steps until nothing moves, at most 100: the centres, and the weight of the points at each."""
    sizes = np.zeros(len(centers))
    for _ in range(_STEPS):
        member = (distances(x, centers).argmin(axis=1)[:, None] == np.arange(len(centers))) * weights[:, None]
        sizes = member.sum(axis=0)
        moved = np.where(sizes[:, None] > 0, member.T @ x / np.where(sizes > 0, sizes, 1)[:, None], centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers, sizes


def _farthest(proposed: Floats, sizes: Floats, k: int) -> Floats:
    """k of the proposed centres: the heaviest, then again and again the farthest from those chosen."""
    chosen = [int(sizes.argmax())]
    while len(chosen) < k:
        chosen.append(int((distances(proposed, proposed[chosen]).min(axis=1) * np.sqrt(sizes)).argmax()))
    return np.asarray(proposed[chosen])
