"""Histogram gradient boosting: trees on rows spread over clients, equal to those on the joined rows, to the bit.

A round grows one level of one tree (of K trees, one per class, where there are more than two).

    client i:   g = ∂ℓ/∂f, h = ∂²ℓ/∂f² of each row at the scores f of the trees so far; sends Σg and Σh of the rows in
                each (node, feature, bin)
    server:     G, H their totals; each node is split where (feature, bin) has the largest
                gain = G_L²/(H_L + λ) + G_R²/(H_R + λ) − G²/(H + λ);  a leaf's value is −η G/(H + λ)

Chen, Guestrin: "XGBoost", KDD 2016, arXiv:1603.02754, equations 5 to 7, for fixed bins as in Ke et al.: "LightGBM",
NeurIPS 2017. That histograms are all that a server needs of clients with rows of their own is, for example, in Ong et
al.: "Adaptive Histogram-Based Gradient Boosted Trees for Federated Learning", 2020, arXiv:2012.06670, with other bins.

g and h are rounded to multiples of 2^-32 and summed without any further rounding (`algorithms.exact`): trees depend on
the joined rows and on nothing else. Loss by `classes`: 0, squared error, ½(f − y)²; 2, logistic, y of 0 and 1; more,
the cross entropy of the softmax, whose h is p(1 − p). Scores start at 0.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.exact import STEPS, Floats, Totals, summing
from hansa.algorithms.examples import labelled
from hansa.algorithms.options import check_not_negative, check_positive
from hansa.algorithms.parts import joined, part
from hansa.arrays import Array, Arrays, zeros_like
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "empty", "hist_gbdt", "losses", "scores", "server_update"]

_NAMES = ("classes", "edges", "feature", "threshold", "value")

Nodes = npt.NDArray[np.intp]


def hist_gbdt(
    aggregator: Aggregator,
    *,
    learning_rate: float = 0.1,
    l2: float = 1.0,
    min_hessian: float = 1.0,
    min_gain: float = 0.0,
) -> Algorithm:
    """learning_rate: η > 0; l2: λ ≥ 0; min_hessian: of each child, > 0; min_gain: a split gains more, ≥ 0."""
    check_positive("hist-gbdt", "learning_rate", learning_rate)
    check_not_negative("hist-gbdt", "l2", l2)
    check_positive("hist-gbdt", "min_hessian", min_hessian)
    check_not_negative("hist-gbdt", "min_gain", min_gain)
    return Algorithm(
        name="hist-gbdt",
        init=_init,
        broadcast=broadcast,
        client_update=client_update,
        aggregator=summing("hist-gbdt", aggregator, STEPS),
        server_update=partial(
            server_update, learning_rate=learning_rate, l2=l2, min_hessian=min_hessian, min_gain=min_gain
        ),
        sends="exact sums",
    )


def empty(edges: Array, trees: int, depth: int, classes: int) -> Arrays:
    """The model before the first round, T trees of K outputs that are leaves of value 0.

    `edges`, shape (features, bins − 1), ascending: bin b holds edges[b − 1] < x ≤ edges[b]. Nodes are in the order of a
    heap, the children of n are 2n + 1 and 2n + 2: `feature` and `threshold` of shape (T, K, 2^depth − 1), a row goes
    left where x ≤ threshold, and feature −1 is a leaf; `value` of shape (T, K, 2^(depth + 1) − 1).
    """
    outputs = classes if classes > 2 else 1  # noqa: PLR2004 - two classes have one score
    inner = (trees, outputs, 2**depth - 1)
    return Arrays(
        {
            "classes": np.array(classes, np.int64),
            "edges": np.asarray(edges, np.float64),
            "feature": np.full(inner, -1, np.int64),
            "threshold": np.zeros(inner),
            "value": np.zeros((trees, outputs, 2 ** (depth + 1) - 1)),
        }
    )


def scores(params: Arrays, x: Floats, trees: int | None = None) -> Floats:
    """The sum over the first trees, by default all, shape (n, K)."""
    there, outputs, _ = params["feature"].shape
    total = np.zeros((len(x), outputs))
    for tree, output in np.ndindex(there if trees is None else min(trees, there), outputs):
        if params["feature"][tree, output, 0] >= 0 or params["value"][tree, output, 0]:
            nodes = _reached(params, x, tree, output, _depth(params))
            total[:, output] += params["value"][tree, output][nodes]
    return total


def losses(classes: int, score: Floats, y: Floats) -> Floats:
    """ℓ of each row, shape (n,)."""
    if not classes:
        return np.asarray(np.square(score[:, 0] - y) / 2)
    if score.shape[1] == 1:
        return np.asarray(np.logaddexp(0, score[:, 0]) - y * score[:, 0])
    shifted = score - score.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y.astype(np.intp)])


def _init(params: Arrays) -> State:
    if tuple(params) != _NAMES:
        raise ConfigError(
            "hist-gbdt has trees for a model: give hansa.App a BoostedTreesTrainer (hansa.training.trees)"
        )
    return State(params)


def broadcast(state: State) -> Arrays:
    """The model under `params/`; the tree and the level that grow, `where/now`; room for the sums."""
    depth = _depth(state.params)
    _, outputs, _ = state.params["feature"].shape
    features, inner = state.params["edges"].shape
    room = STEPS.room(2, outputs, 2 ** (depth - 1), features, inner + 1)
    now = {"now": np.array(divmod(state.round, depth), np.int64)}
    return joined({"params": state.params, "where": now, "sums": {"gh": room}})


def client_update(trainer: Trainer, model: Arrays, task: Task) -> Update:
    """Σg and Σh of this client's rows; `loss`: of the trees that are whole."""
    del trainer
    params, room = part(model, "params"), part(model, "sums")["gh"]
    tree, level = (int(number) for number in part(model, "where")["now"])
    classes, edges = int(params["classes"]), params["edges"]
    x, y = labelled(task, len(edges))
    if classes and not np.isin(y, np.arange(classes)).all():
        raise AppError(f"{task.client.name} has targets that are no whole numbers from 0 to {classes - 1}")
    score = scores(params, x, tree)
    told = np.zeros_like(room)
    if tree < len(params["feature"]):
        bins = np.stack([np.searchsorted(edge, x[:, f]) for f, edge in enumerate(edges)], axis=1)
        g, h = (np.rint(np.ldexp(each, 32)) * 2.0**-32 for each in _derivatives(classes, score, y))
        for output in range(score.shape[1]):
            nodes = _reached(params, x, tree, output, level) - (2**level - 1)
            for which, values in enumerate((g[:, output], h[:, output])):
                told[which, output] = _histogram(values, nodes, bins, room.shape[2:5])
    sent = {"params": zeros_like(params), "where": {"now": np.zeros(2, np.int64)}, "sums": {"gh": told}}
    return Update(joined(sent), len(x), {"loss": float(losses(classes, score, y).mean())})


def server_update(
    state: State, aggregate: Aggregate, *, learning_rate: float, l2: float, min_hessian: float, min_gain: float
) -> State:
    """Split the nodes of the level; nothing where all trees are grown."""
    depth, params = _depth(state.params), {name: array.copy() for name, array in state.params.items()}
    tree, level = divmod(state.round, depth)
    if tree >= len(params["feature"]):
        return State(state.params, state.round + 1)
    grown = part(aggregate.mean, "sums")["gh"][:, :, : 2**level]
    sums = STEPS.totals(grown, len(aggregate.contributions))

    def leaf(gradient: Any, hessian: Any) -> Floats:
        return np.asarray(-learning_rate * gradient / (hessian + l2))

    for output, place in np.ndindex(*sums.shape[1:3]):
        g, h = (_below(sums[which, output, place]) for which in (0, 1))
        total_g, total_h = g[0, -1], h[0, -1]
        if total_h < min_hessian:
            continue
        left_g, left_h, right_g, right_h = g[:, :-1], h[:, :-1], g[0, -1] - g[:, :-1], h[0, -1] - h[:, :-1]
        allowed = (left_h >= min_hessian) & (right_h >= min_hessian)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = left_g**2 / (left_h + l2) + right_g**2 / (right_h + l2) - total_g**2 / (total_h + l2)
        gain = np.where(allowed, gain, -np.inf)
        node = 2**level - 1 + place
        params["value"][tree, output, node] = leaf(total_g, total_h)
        if not gain.size or gain.max() <= min_gain:
            continue
        feature, edge = np.unravel_index(int(gain.argmax()), gain.shape)
        params["feature"][tree, output, node] = feature
        params["threshold"][tree, output, node] = params["edges"][feature, edge]
        params["value"][tree, output, 2 * node + 1] = leaf(left_g[feature, edge], left_h[feature, edge])
        params["value"][tree, output, 2 * node + 2] = leaf(right_g[feature, edge], right_h[feature, edge])
    return State(Arrays(params), state.round + 1)


# ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _depth(params: Arrays) -> int:
    return int(params["feature"].shape[2] + 1).bit_length() - 1


def _reached(params: Arrays, x: Floats, tree: int, output: int, level: int) -> Nodes:
    """The node of each row after that many splits, or the leaf where it ended before."""
    feature, threshold = params["feature"][tree, output], params["threshold"][tree, output]
    node, row = np.zeros(len(x), np.intp), np.arange(len(x))
    for _ in range(level):
        inner = node < len(feature)
        inner[inner] = feature[node[inner]] >= 0
        at = node[inner]
        node[inner] = 2 * at + 1 + (x[row[inner], feature[at]] > threshold[at])
    return node


def _derivatives(classes: int, score: Floats, y: Floats) -> tuple[Floats, Floats]:
    """g and h of each row and output, shape (n, K)."""
    if not classes:
        return score - y[:, None], np.ones_like(score)
    if score.shape[1] == 1:
        p = 0.5 * (1 + np.tanh(score / 2))
        return p - y[:, None], p * (1 - p)
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p - (y[:, None] == np.arange(classes)), p * (1 - p)


def _histogram(values: Floats, nodes: Nodes, bins: Nodes, shape: tuple[int, ...]) -> Floats:
    """Digits of the sums of `values` by node, feature and bin; a row that ended before this level counts nowhere."""
    width, features, height = shape
    there = nodes >= 0
    index = (nodes[there, None] * features + np.arange(features)) * height + bins[there]

    def total(digit: Floats) -> Floats:
        summed = np.bincount(index.reshape(-1), np.repeat(digit, features), minlength=width * features * height)
        return np.asarray(summed.reshape(shape))

    if values.size and np.abs(values).max() >= 2.0**31:
        raise InputError("hist-gbdt: a target is 2^31 or more away from its prediction; choose a larger unit for it")
    return STEPS.summed(values[there], total, *shape)


def _below(sums: Totals) -> Floats:
    """Sums over a bin and all before it, each rounded once; shape (features, bins)."""
    cumulated = np.cumsum(sums, axis=1)
    return np.asarray(np.ldexp(cumulated.astype(np.float64), 16 * STEPS.lowest))
