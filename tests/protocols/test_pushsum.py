"""Push-sum: nothing is lost, and averages are not biased by directions."""

from typing import Any

import numpy as np
import pytest
from quadratics import quadratics

import hansa
from hansa.arrays import Arrays
from hansa.distributed import (
    column_stochastic,
    dsgd,
    exponential,
    from_edges,
    one_peer_exponential,
    pushsum,
    ring,
    run,
    uniform,
)
from hansa.errors import ConfigError
from hansa.protocols.pushsum import Mass, debias, push, received

LOPSIDED = from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2), (0, 3), (3, 0)], directed=True)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_keeps_the_sums_of_x_and_omega(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 6
    weights = rng.dirichlet(np.ones(n), n).T  # every column sums to 1
    masses = [Mass(Arrays({"w": rng.normal(size=(3, 2))}), float(rng.uniform(0.1, 2))) for _ in range(n)]
    after = [received({j: push(masses[j], float(weights[i, j])) for j in range(n)}) for i in range(n)]
    assert sum(mass.omega for mass in after) == pytest.approx(sum(mass.omega for mass in masses), abs=1e-12)
    totals = [np.sum([mass.x["w"] for mass in side], axis=0) for side in (masses, after)]
    assert np.allclose(*totals, atol=1e-12)


def recorded(count: int) -> tuple[hansa.App, list[Any]]:
    """An app whose clients move by numbers of their own in the first round; and all that was added."""
    added: list[Any] = []
    app = hansa.App()
    app.model(lambda _: {"w": np.ones(2)})

    @app.train
    def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
        change = np.array([task.client.index, -(task.client.index**2)], float) * (task.round == 1)
        after = model["w"] + change
        added.append(after - model["w"])
        return hansa.Update({"w": after}, 1)

    assert count
    return app, added


def test_omegas_sum_to_n_and_x_to_all_that_was_added_in_every_step() -> None:
    app, added = recorded(5)
    steps: list[dict[int, Mass]] = [{} for _ in range(10)]
    run(pushsum(app, rounds=10, watch=lambda i, step, mass: steps[step].update({i: mass})), LOPSIDED)
    for masses in steps:
        assert sum(mass.omega for mass in masses.values()) == pytest.approx(5, abs=1e-12)
    total = np.sum([mass.x["w"] for mass in steps[-1].values()], axis=0)
    assert np.allclose(total, 5 * np.ones(2) + np.sum(added, axis=0), atol=1e-12)


def test_the_average_over_a_lopsided_directed_graph_is_not_biased() -> None:
    app, _ = recorded(5)
    outcome = run(pushsum(app, rounds=50), LOPSIDED)
    for result in outcome.results:
        assert np.allclose(result.model["w"], [1 + 2, 1 - 6], atol=1e-6)
    assert np.ptp([result.omega for result in outcome.results]) > 0.5  # without ω the average would be wrong


def test_on_a_graph_of_equal_degrees_it_is_dsgd_that_adapts_first() -> None:
    app, _, _ = quadratics(8)
    for topology in (ring(8), exponential(8), one_peer_exponential(8)):
        pushed = run(pushsum(app, rounds=5), topology).results
        mixed = run(dsgd(app, rounds=5, mixing=uniform, order="adapt-then-combine"), topology).results
        for ours, theirs in zip(pushed, mixed, strict=True):
            assert ours.omega == pytest.approx(1, abs=1e-12)
            assert np.allclose(ours.model["w"], theirs.model["w"], atol=1e-12)


def test_it_nears_the_optimum_of_all_on_a_directed_graph() -> None:
    app, h, e = quadratics(5, rate=0.03)
    outcome = run(pushsum(app, rounds=120), LOPSIDED)
    optimum = (h * e).sum(axis=0) / h.sum(axis=0)
    assert np.abs([result.model["w"] - optimum for result in outcome.results]).max() < 0.1


def test_z_has_the_models_dtype_and_the_sums_do_not_lose_what_it_rounds() -> None:
    mass = Mass(Arrays({"w": np.array([1.0]), "n": np.array([7.0])}), 3.0)
    z = debias(mass, Arrays({"w": np.zeros(1, np.float32), "n": np.zeros(1, np.int64)}))
    assert z["w"][0] == np.float32(1 / 3)
    assert z["n"][0] == 2


def test_weights_that_lose_mass_are_refused() -> None:
    app, _, _ = quadratics(4)
    with pytest.raises(ConfigError, match="the sum over workers would not be kept"):
        run(pushsum(app, rounds=1, mixing=lambda topology: column_stochastic(topology) * 0.9), ring(4))
