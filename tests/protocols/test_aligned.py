"""Split learning over aligned records against the same network in one place."""

from typing import Any

import numpy as np
import pytest

from hansa.arrays import Array
from hansa.distributed import Split, aligned_vertical, run, star
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo
from hansa.training.numpy import cross_entropy
from hansa.training.numpy_parts import DenseBottom, DenseTop

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(24, 5)), RNG.integers(0, 2, 24)
TRAIN, COLUMNS = 18, (slice(0, 2), slice(2, 5))
BOTTOMS = [RNG.normal(size=(2, 3)), RNG.normal(size=(3, 2))]
TOP = RNG.normal(size=(5, 2))
RATE, ROUNDS = 0.3, 4


def data(client: ClientInfo) -> Split:
    of = Y if client.index == 0 else X[:, COLUMNS[client.index - 1]]
    return Split(of[:TRAIN], of[TRAIN:])


def bottom(party: int, _: np.random.Generator) -> DenseBottom:
    return DenseBottom({"weight0": BOTTOMS[party - 1]}, RATE, rectify_last=False)


def top(width: int, _: np.random.Generator) -> DenseTop:
    assert width == 5
    return DenseTop({"weight1": TOP}, RATE, cross_entropy)


def score(outputs: Array, y: Array) -> tuple[float, float]:
    return cross_entropy(outputs.copy(), y)[0], float(np.mean(outputs.argmax(axis=1) == y))


def program(**more: Any) -> Any:
    return aligned_vertical(top, **{"data": data, "score": score, "bottom": bottom, "rounds": ROUNDS} | more)


def test_it_is_gradient_descent_on_the_whole_network() -> None:
    lead, *parties = run(program(), star(3)).results
    weights, over = [each.copy() for each in BOTTOMS], TOP.copy()
    for number in range(ROUNDS):
        z = np.concatenate([X[:TRAIN, c] @ w for c, w in zip(COLUMNS, weights, strict=True)], axis=1)
        loss, slope = cross_entropy(z @ over, Y[:TRAIN])
        assert lead.losses[number] == pytest.approx(loss)
        inward = slope @ over.T
        over -= RATE * z.T @ slope
        for party, part in enumerate((inward[:, :3], inward[:, 3:])):
            weights[party] -= RATE * X[:TRAIN, COLUMNS[party]].T @ part
        z = np.concatenate([X[TRAIN:, c] @ w for c, w in zip(COLUMNS, weights, strict=True)], axis=1)
        assert lead.test_losses[number] == pytest.approx(score(z @ over, Y[TRAIN:])[0])
        assert lead.accuracies[number] == score(z @ over, Y[TRAIN:])[1]
    assert np.allclose(lead.part["weight1"], over)
    assert all(np.allclose(party.part["weight0"], w) for party, w in zip(parties, weights, strict=True))
    assert lead.losses[-1] < lead.losses[0]


def test_nothing_is_measured_without_labels_for_testing() -> None:
    lead, *_ = run(program(data=lambda client: Split(data(client).train)), star(3)).results
    assert (len(lead.losses), len(lead.test_losses), len(lead.accuracies)) == (ROUNDS, 0, 0)


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="rounds is 0"):
        program(rounds=0)
    with pytest.raises(AppError, match="party-1 has no bottom"):
        run(program(bottom=None), star(3))
    with pytest.raises(AppError, match=r"give hansa\.distributed\.Split"):
        run(program(data=lambda _: (X, Y)), star(3))
    short = lambda client: Split(data(client).train[: TRAIN - client.index % 2])  # noqa: E731 - as long as its name
    with pytest.raises(InputError, match=r"party 1 sends an output of shape \(17, 3\) for training records, and 18"):
        run(program(data=short), star(3))
    gaps = lambda client: Split(data(client).train * (1 if client.index != 2 else np.nan))  # noqa: E731
    with pytest.raises(InputError, match="party-2 has inputs that are not finite"):
        run(program(data=gaps), star(3))
    with pytest.raises(InputError, match="party-0 has no labels to train with"):
        run(program(data=lambda client: Split(data(client).train[:0])), star(3))
