"""Trees of XGBoost: of one client, or in turn on the same rows, the library's own to the bit; else a step of each."""

import json
from typing import Any

import numpy as np
import pytest

xgboost = pytest.importorskip("xgboost")

from hansa.distributed import bagging, cyclic, directed_ring, ring, run, star  # noqa: E402 - after what may be missing
from hansa.errors import AppError, ConfigError, InputError  # noqa: E402
from hansa.messages import ClientInfo  # noqa: E402
from hansa.training.xgboost_trees import XGBoostTrees  # noqa: E402

PARAMETERS = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] + 0.3 * RNG.normal(size=120) > 0).astype(np.float32)
TREES = XGBoostTrees(PARAMETERS)


def alone(rounds: int, x: Any = X, y: Any = Y, **changed: Any) -> np.ndarray:
    """What the library predicts that was given all rows."""
    matrix = xgboost.DMatrix(x, label=y, nthread=1)
    booster = xgboost.train({**PARAMETERS, "base_score": 0.5, "nthread": 1, **changed}, matrix, rounds)
    return np.asarray(booster.predict(xgboost.DMatrix(X)))


def everybody(_: ClientInfo) -> tuple[Any, Any]:
    return X, Y


def thirds(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index :: 3], Y[client.index :: 3]


def test_of_one_client_bagging_is_the_library_itself():
    server, client = run(bagging(TREES, everybody, rounds=5), star(2)).results
    assert bytes(server) == bytes(client)
    assert TREES.predict(bytes(server), X).tobytes() == alone(5).tobytes()


def test_in_turn_on_the_same_rows_it_is_the_library_itself_and_everybody_has_it():
    for rounds in (1, 4, 6):
        results = run(cyclic(TREES, everybody, rounds=rounds), directed_ring(3)).results
        assert len({bytes(result) for result in results}) == 1
        assert TREES.predict(bytes(results[0]), X).tobytes() == alone(rounds).tobytes()


def test_clients_with_the_same_rows_grow_the_same_trees_and_each_counts_for_its_share():
    """Three trees a round, each a third of the library's one."""
    server, *_ = run(bagging(TREES, everybody, rounds=4), star(1 + 3)).results
    model = json.loads(bytes(server))["learner"]["gradient_booster"]["model"]
    assert len(model["trees"]) == 12
    assert [tree["id"] for tree in model["trees"]] == list(range(12))
    assert model["iteration_indptr"] == list(range(13))
    np.testing.assert_allclose(TREES.predict(bytes(server), X), alone(4), atol=1e-5)


def test_a_client_counts_by_its_examples():
    def unequal(client: ClientInfo) -> tuple[Any, Any]:
        return (X[:90], Y[:90]) if client.index == 0 else (X[90:], Y[90:])

    server, *_ = run(bagging(TREES, unequal, rounds=1), star(1 + 2)).results
    margins = [
        np.log(part / (1 - part))
        for part in (alone(1, X[:90], Y[:90], eta=0.3 * 0.75), alone(1, X[90:], Y[90:], eta=0.3 * 0.25))
    ]
    expected = 1 / (1 + np.exp(-sum(margins)))
    np.testing.assert_allclose(TREES.predict(bytes(server), X), expected, atol=1e-5)


def test_classes_and_several_trees_at_once():
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    trees = XGBoostTrees({"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, trees=2)
    server, *_ = run(
        bagging(trees, lambda client: (X[client.index :: 2], y[client.index :: 2]), rounds=6), star(3)
    ).results
    probabilities = trees.predict(bytes(server), X)
    assert probabilities.shape == (120, 3)
    assert (probabilities.argmax(axis=1) == y).mean() > 0.9


def test_different_rows_are_learnt_from_by_both():
    for outcome in (
        run(bagging(TREES, thirds, rounds=20), star(4)),
        run(cyclic(TREES, thirds, rounds=30), directed_ring(3)),
    ):
        assert ((TREES.predict(bytes(outcome.results[0]), X) > 0.5) == Y).mean() > 0.8


def test_the_learning_rate_is_shared_out_by_either_of_its_names():
    named = XGBoostTrees({"objective": "binary:logistic", "max_depth": 3, "learning_rate": 0.3})
    of_eta, of_name = (run(bagging(each, thirds, rounds=2), star(1 + 3)).results[0] for each in (TREES, named))
    assert bytes(of_name) == bytes(of_eta)
    with pytest.raises(ConfigError, match="one parameter is given by two names"):
        XGBoostTrees({**PARAMETERS, "learning_rate": 0.1})


def test_each_round_draws_columns_of_its_own():
    drawing = XGBoostTrees({**PARAMETERS, "colsample_bytree": 0.25})
    ensemble = bytes(run(bagging(drawing, everybody, rounds=8), star(2)).results[0])
    trees = json.loads(ensemble)["learner"]["gradient_booster"]["model"]["trees"]
    assert len({tree["split_indices"][0] for tree in trees}) > 1


def test_missing_inputs_are_the_librarys_affair_and_what_it_says_is_told_by_client():
    gaps = np.where(X > 1, np.nan, X)
    server, _ = run(bagging(TREES, lambda _: (gaps, Y), rounds=2), star(2)).results
    assert TREES.predict(bytes(server), X).shape == (120,)
    with pytest.raises(InputError, match="x has 2 features, and the ensemble was grown on 4"):
        TREES.predict(bytes(server), X[:, :2])
    with pytest.raises(AppError, match=r"XGBoost cannot train on these examples: .*label must be in") as caught:
        run(bagging(TREES, lambda _: (X, Y * 2), rounds=2), star(2))
    assert "Stack trace" not in str(caught.value)


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(InputError, match="4 bytes are no JSON model"):
        TREES.joined(b"", [b"what"])
    with pytest.raises(InputError, match="cannot read an ensemble"):
        TREES.predict(b'{"learner": {}}', X)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="needs an objective"):
        XGBoostTrees({})
    with pytest.raises(ConfigError, match="trees is 0"):
        XGBoostTrees(PARAMETERS, trees=0)
    with pytest.raises(ConfigError, match="directed ring"):
        run(cyclic(TREES, everybody, rounds=2), ring(3))
    with pytest.raises(ConfigError, match="rounds"):
        bagging(TREES, everybody, rounds=0)
