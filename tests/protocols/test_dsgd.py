"""Decentralized SGD against gradient descent in one place."""

from typing import Any

import numpy as np
import pytest
from quadratics import classified, mean_of, quadratics

import hansa
from hansa.arrays import Arrays
from hansa.distributed import (
    complete,
    dsgd,
    exponential,
    from_edges,
    one_peer_exponential,
    pushsum,
    ring,
    run,
    star,
    torus,
    uniform,
)
from hansa.errors import AppError, ConfigError
from hansa.training.numpy import softmax_regression


def descended(x: Any, y: Any, steps: int) -> dict[str, Any]:
    """Gradient descent on all examples."""
    model = softmax_regression(5, 3, np.float64)
    params = dict(model.init(np.random.default_rng(0)))
    for _ in range(steps):
        _, gradient = model.loss_and_gradient(params, x, y)
        params = {name: params[name] - 0.3 * gradient[name] for name in params}
    return params


def test_on_the_complete_graph_adapting_first_is_centralized_gradient_descent() -> None:
    app, x, y = classified(4)
    outcome = run(dsgd(app, rounds=20, order="adapt-then-combine"), complete(4))
    expected = descended(x, y, 20)
    for result in outcome.results:
        for name, array in expected.items():
            assert np.allclose(result.model[name], array, atol=1e-12)


def test_on_the_complete_graph_the_papers_order_is_centralized_gradient_descent_of_the_mean() -> None:
    """With equal Hessians the mean of gradients is the gradient at the mean, so that the equality is exact."""
    app, _, e = quadratics(4, curved=False)
    outcome = run(dsgd(app, rounds=15), complete(4))
    w = np.zeros(3)
    for _ in range(15):
        w = w - 0.1 * (w - e.mean(axis=0))
    assert np.allclose(mean_of([result.model for result in outcome.results]), w, atol=1e-12)


@pytest.mark.parametrize("order", ["combine-then-adapt", "adapt-then-combine"])
@pytest.mark.parametrize("topology", [ring(5), torus(2, 3), star(4)], ids=lambda each: each.name)
def test_the_mean_model_takes_the_mean_gradient_step_on_any_topology(order: Any, topology: Any) -> None:
    app, h, e = quadratics(topology.size)
    steps: list[dict[int, Arrays]] = [{} for _ in range(6)]
    run(dsgd(app, rounds=6, order=order, watch=lambda i, step, model: steps[step].update({i: model})), topology)
    before = np.zeros((topology.size, 3))
    for models in steps:
        after = np.array([models[i]["w"] for i in range(topology.size)])
        gradients = h * (before - e)
        assert np.allclose(after.mean(axis=0), before.mean(axis=0) - 0.1 * gradients.mean(axis=0), atol=1e-12)
        before = after


def test_the_papers_equation_holds_for_every_worker() -> None:
    app, h, e = quadratics(3)
    path = run(dsgd(app, rounds=2), ring(3)).results
    first = 0.1 * h * e
    second = np.full((3, 3), first.mean(axis=0)) - 0.1 * h * (first - e)
    assert np.allclose([result.model["w"] for result in path], second, atol=1e-12)


def test_it_is_fedavg_of_equal_clients_where_all_hear_all_with_the_same_batches() -> None:
    app, _, _ = classified(4, batch_size=5)
    outcome = run(dsgd(app, rounds=5, order="adapt-then-combine"), complete(4), seed=7)
    simulated = hansa.simulate(app, clients=4, rounds=5, seed=7)
    for result in outcome.results:
        for name, array in simulated.model.items():
            assert np.allclose(result.model[name], array, atol=1e-6)


def test_it_reaches_the_optimum_of_all_that_no_worker_could_reach_alone() -> None:
    app, h, e = quadratics(4, rate=0.03)
    outcome = run(dsgd(app, rounds=120), ring(4))
    optimum = (h * e).sum(axis=0) / h.sum(axis=0)
    assert np.abs(mean_of([result.model for result in outcome.results]) - optimum).max() < 0.02
    assert np.abs(e[0] - optimum).max() > 0.2
    assert outcome.results[0].losses.shape == (120,)


def test_directed_and_time_varying_graphs_of_equal_degrees_take_uniform_weights() -> None:
    app, _, _ = quadratics(8)
    for topology in (exponential(8), one_peer_exponential(8)):
        outcome = run(dsgd(app, rounds=8, mixing=uniform), topology)
        spread = np.ptp([result.model["w"] for result in outcome.results], axis=0)
        assert spread.max() < 1


def test_weights_that_are_stochastic_by_rows_alone_are_refused() -> None:
    app, _, _ = quadratics(4)

    def by_rows(_: Any) -> Any:
        return np.array([[0.25] * 4, [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]])

    with pytest.raises(ConfigError, match=r"column 0 .* sums to 1.75"):
        run(dsgd(app, rounds=1, mixing=by_rows), star(4))
    with pytest.raises(ConfigError, match="is directed"):
        run(dsgd(app, rounds=1), exponential(4))
    with pytest.raises(ConfigError, match="pairs is not connected: some workers never hear of some others"):
        run(dsgd(app, rounds=1), from_edges(4, [(0, 1), (2, 3)], name="pairs"))
    with pytest.raises(ConfigError, match="pairs is not connected"):
        run(pushsum(app, rounds=1), from_edges(4, [(0, 1), (2, 3)], name="pairs"))
    with pytest.raises(ConfigError, match=r"'app.py' is no app: give the hansa.App itself"):
        run(dsgd("app.py", rounds=1), ring(2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="order is 'both'"):
        dsgd(app, rounds=1, order="both")  # type: ignore[arg-type]


def test_a_model_that_diverges_is_told_with_its_client() -> None:
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(2)})
    app.train(lambda _, task: hansa.Update({"w": np.full(2, np.nan if task.client.index == 1 else 0.0)}, 1))
    with pytest.raises(AppError, match="client-1 has trained 'w' to NaN or infinity"):
        run(dsgd(app, rounds=4), ring(3))


def test_a_function_of_the_users_own_trains_too() -> None:
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(2, np.float32)})
    app.train(lambda model, task: hansa.Update({"w": model["w"] + task.client.index}, 1))
    outcome = run(dsgd(app, rounds=1), ring(3))
    assert [result.model["w"].tolist() for result in outcome.results] == [[0, 0], [1, 1], [2, 2]]
    assert np.isnan(outcome.results[0].losses).all()
