"""Histogram gradient boosting over clients, against trees on the joined rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.hist_gbdt import hist_gbdt, scores
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, InputError
from hansa.testing.federation import play, task_of
from hansa.training.trees import BoostedTreesTrainer, predict

MEAN = WeightedMean()
ETA, L2, MIN_HESSIAN = 0.3, 1.0, 0.5


def rows(seed: int, count: int, classes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (count, 3))
    score = x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + rng.normal(0, 0.2, count)
    if not classes:
        return x, score
    return x, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)).astype(np.int64)


def edges(x: Array, bins: int = 8) -> Array:
    return np.quantile(x, np.arange(1, bins) / bins, axis=0).T


def grown(trainer: BoostedTreesTrainer, shares: list[tuple[Array, Array]]) -> Arrays:
    data = {f"c{k}": share for k, share in enumerate(shares)}
    algorithm = hist_gbdt(MEAN, learning_rate=ETA, l2=L2, min_hessian=MIN_HESSIAN)
    return list(play(algorithm, trainer, data, rounds=trainer.rounds))[-1].params


def slopes(score: Array, y: Array, classes: int) -> tuple[Array, Array]:
    """First and second derivatives of the loss."""
    if not classes:
        return score - y[:, None], np.ones_like(score)
    if score.shape[1] == 1:
        p = 1 / (1 + np.exp(-score))
        return p - y[:, None], p * (1 - p)
    p = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    return p - np.eye(classes)[y], p * (1 - p)


def textbook(x: Array, y: Array, table: Array, classes: int, *, trees: int = 3, depth: int = 3) -> Array:
    """The scores of trees on all rows, grown by recursion over the rows themselves."""
    outputs = classes if classes > 2 else 1
    score = np.zeros((len(x), outputs))

    def grow(members: Array, g: Array, h: Array, left_depth: int, out: Array) -> None:
        def worth(part: Array) -> float:
            return float(g[part].sum() ** 2 / (h[part].sum() + L2))

        best, chosen = 0.0, None
        for f, edge in np.ndindex(table.shape) if left_depth else ():
            goes_left = x[members, f] <= table[f, edge]
            left, right = members[goes_left], members[~goes_left]
            if h[left].sum() >= MIN_HESSIAN and h[right].sum() >= MIN_HESSIAN:
                gain = worth(left) + worth(right) - worth(members)
                if gain > best + 1e-9:
                    best, chosen = gain, (left, right)
        if chosen is None:
            out[members] = -ETA * g[members].sum() / (h[members].sum() + L2)
            return
        for part in chosen:
            grow(part, g, h, left_depth - 1, out)

    for _ in range(trees):
        g, h = slopes(score, y, classes)
        added = np.zeros_like(score)
        for k in range(outputs):
            grow(np.arange(len(x)), g[:, k], h[:, k], depth, added[:, k])
        score = score + added
    return score


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_trees_are_those_of_a_textbook_on_the_joined_rows(classes: int):
    x, y = rows(classes, 90, classes)
    trainer = BoostedTreesTrainer(edges(x), trees=3, depth=3, classes=classes)
    model = grown(trainer, [(x[k::3], y[k::3]) for k in range(3)])
    np.testing.assert_allclose(scores(model, x), textbook(x, y, edges(x), classes), atol=1e-7)


@settings(derandomize=True, deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), classes=st.sampled_from([0, 2, 3]), clients=st.integers(2, 6))
def test_the_sharing_of_the_rows_changes_no_bit(seed: int, classes: int, clients: int):
    x, y = rows(seed, 60, classes)
    trainer = BoostedTreesTrainer(edges(x), trees=2, depth=2, classes=classes)
    order = np.random.default_rng(seed).permutation(60)
    shares = [(x[part], y[part]) for part in np.array_split(order, clients)]
    assert grown(trainer, shares) == grown(trainer, [(x, y)])


def test_a_row_goes_left_up_to_the_threshold_and_a_leaf_has_the_newton_step_by_hand():
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0.0, 0.0, 4.0, 4.0])
    model = grown(BoostedTreesTrainer([[1.0]], trees=1, depth=1, classes=0), [(x, y)])
    assert (model["feature"].tolist(), model["threshold"].tolist()) == ([[[0]]], [[[1.0]]])
    np.testing.assert_allclose(predict(model, x), [0, 0, ETA * 8 / 3, ETA * 8 / 3])


def test_a_simulation_grows_the_same_trees_and_evaluates_them():
    x, y = rows(7, 60, 2)
    trainer = BoostedTreesTrainer(edges(x), trees=1, depth=2)
    app = hansa.App(trainer)

    @app.data
    def load(client: hansa.ClientInfo) -> Any:
        return x[client.index :: client.total], y[client.index :: client.total]

    options = {"learning_rate": ETA, "l2": L2, "min_hessian": MIN_HESSIAN}
    result = hansa.simulate(app, clients=3, algorithm="hist-gbdt", algorithm_options=options, rounds=2, progress=False)
    assert result.model == grown(trainer, [(x, y)])
    assert result.rounds[-1].evaluation["accuracy"] == pytest.approx(np.mean(predict(result.model, x) == y))


def test_more_rounds_than_there_are_levels_change_nothing():
    x, y = rows(1, 30, 2)
    trainer = BoostedTreesTrainer(edges(x), trees=1, depth=2)
    states = list(play(hist_gbdt(MEAN), trainer, {"c": (x, y)}, rounds=trainer.rounds + 1))
    assert states[-1].params == states[-2].params
    assert states[-1].round == trainer.rounds + 1


@pytest.mark.slow
def test_it_learns_what_scikit_learns_trees_learn_on_the_joined_rows():
    datasets, ensemble = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.ensemble")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:400], order[400:]
    app = hansa.App(BoostedTreesTrainer(edges(x[train], 16), trees=15, depth=3))

    @app.data
    def load(client: hansa.ClientInfo) -> Any:
        own = train[client.index :: client.total]
        return (x[own], y[own]), (x[test], y[test])

    result = hansa.simulate(app, clients=3, algorithm="hist-gbdt", algorithm_options={"learning_rate": 0.3},
                            rounds=45, evaluation=hansa.EvaluationRules(every=45), progress=False)  # fmt: skip
    theirs = ensemble.HistGradientBoostingClassifier(max_iter=15, max_depth=3, learning_rate=0.3).fit(
        x[train], y[train]
    )
    ours = result.rounds[-1].evaluation["accuracy"]
    assert ours == np.mean(predict(result.model, x[test]) == y[test])
    assert ours > theirs.score(x[test], y[test]) - 0.02


def test_what_does_not_fit_is_refused():
    for wrong in (
        {"depth": 13},
        {"classes": 1},
        {"trees": 0},
        {"edges": [[2.0, 1.0]]},
        {"edges": [1.0]},
        {"edges": [[1.0], []]},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            BoostedTreesTrainer(**{"edges": [[0.0, 1.0]], **wrong})
    with pytest.raises(ConfigError, match="BoostedTreesTrainer"):
        hist_gbdt(MEAN).init(Arrays({"w": np.zeros(2)}))
    trainer, algorithm = BoostedTreesTrainer([[0.0]], classes=2), hist_gbdt(MEAN)
    asked = algorithm.broadcast(algorithm.init(trainer.initial_model(np.random.default_rng(0))))
    with pytest.raises(AppError, match="no whole numbers from 0 to 1"):
        algorithm.client_update(trainer, asked, task_of("c", {"c": (np.zeros((2, 1)), np.array([0, 2]))}))
    model = trainer.initial_model(np.random.default_rng(0))
    with pytest.raises(InputError, match=r"x has the shape \(3, 2\); these trees take \(n, 1\)"):
        predict(model, np.zeros((3, 2)))
    with pytest.raises(InputError, match="not finite, which these trees have no side for"):
        predict(model, np.full((3, 1), np.nan))
    with pytest.raises(AppError, match="algorithm hist-gbdt"):
        trainer.fit(asked, task_of("c", {"c": None}))
