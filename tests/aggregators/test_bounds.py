"""What each rule promises, whatever the malicious send: the bounds of their modules, under each attack on vectors."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from rounds_of_vectors import Vectors, on_a_grid, reported

from hansa.aggregators.bulyan import bulyan
from hansa.aggregators.centered_clipping import centered_clipping
from hansa.aggregators.columns import median, trimmed_mean
from hansa.aggregators.fltrust import fltrust
from hansa.aggregators.geometric_median import geometric_median
from hansa.aggregators.krum import krum
from hansa.aggregators.mean import WeightedMean
from hansa.aggregators.norm_bound import norm_bound

F = 3
HONEST = 4 * F + 3 - F
"""Bulyan asks for the most clients."""

Forge = Callable[[Vectors, np.random.Generator], Vectors]
"""(the honest updates, rng) → F vectors."""


def alike(vector: Vectors) -> Vectors:
    return np.tile(vector, (F, 1))


ATTACKS: dict[str, Forge] = {
    "sign flip": lambda honest, _: -10 * honest[:F],
    "scaling": lambda honest, _: 50 * honest[:F],
    "gaussian": lambda honest, rng: rng.normal(0, 10, (F, honest.shape[1])),
    "free rider": lambda honest, _: 0 * honest[:F],
    "alie": lambda honest, _: alike(honest.mean(axis=0) - 1.5 * honest.std(axis=0)),
    "ipm": lambda honest, _: alike(-0.5 * honest.mean(axis=0)),
    "one far point": lambda honest, _: alike(np.full(honest.shape[1], 60.0)),
    "copies of an extreme one": lambda honest, _: alike(honest[np.argmax(np.linalg.norm(honest, axis=1))]),
    "inliers in one coordinate": lambda honest, _: alike(honest.mean(axis=0) + np.eye(honest.shape[1])[0] * 3),
}


@pytest.fixture(params=ATTACKS)
def rounds(request: pytest.FixtureRequest) -> list[tuple[Vectors, Vectors]]:
    """(honest updates, all updates) of some rounds: honest clients around a common direction."""
    made = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        honest = on_a_grid(rng.normal(0.5, 1, (1, 8)) + rng.normal(0, 0.3, (HONEST, 8)))
        forged = on_a_grid(np.clip(ATTACKS[request.param](honest, rng), -64, 64))
        made.append((honest, np.vstack([honest, forged])[rng.permutation(HONEST + F)]))
    return made


def test_median_trimmed_mean_and_bulyan_stay_between_honest_values(rounds: list[tuple[Vectors, Vectors]]):
    for honest, everybody in rounds:
        for rule in (median(), trimmed_mean(beta=F / len(everybody)), bulyan(f=F)):
            found = reported(rule, everybody)
            assert (honest.min(axis=0) <= found).all(), rule.rule
            assert (found <= honest.max(axis=0)).all(), rule.rule


def test_krum_chooses_near_an_honest_update(rounds: list[tuple[Vectors, Vectors]]):
    for honest, everybody in rounds:
        n = len(everybody)
        diameter = max(np.linalg.norm(x - y) for x, y in combinations(honest, 2))
        found = reported(krum(f=F), everybody)
        assert min(np.linalg.norm(found - x) for x in honest) <= diameter * ((n - F - 2) / (n - 2 * F - 1)) ** 0.5
        assert found.tolist() in everybody.tolist()


def test_the_geometric_median_is_as_far_as_a_constant_allows(rounds: list[tuple[Vectors, Vectors]]):
    for honest, everybody in rounds:
        centre, share = honest.mean(axis=0), F / len(everybody)
        radius = np.linalg.norm(honest - centre, axis=1).max()
        found = reported(geometric_median(), everybody)
        assert np.linalg.norm(found - centre) <= 2 * (1 - share) / (1 - 2 * share) * radius + 1e-4


def test_clipped_updates_move_the_model_by_no_more_than_their_share(rounds: list[tuple[Vectors, Vectors]]):
    for honest, everybody in rounds:
        n = len(everybody)
        without = reported(norm_bound(bound=1.0), honest) * len(honest) / n
        assert np.linalg.norm(reported(norm_bound(bound=1.0), everybody) - without) <= F / n * (1 + 1e-6)
        assert np.linalg.norm(reported(centered_clipping(tau=1.0, iterations=3), everybody)) <= 3 * (1 + 1e-9)


def test_fltrust_is_no_longer_than_the_trusted_update_and_points_the_same_way(rounds: list[tuple[Vectors, Vectors]]):
    for honest, everybody in rounds:
        root = honest.mean(axis=0)
        found = reported(fltrust(trusted="client-000"), np.vstack([on_a_grid(root), everybody]))
        assert np.linalg.norm(found) <= np.linalg.norm(root) * (1 + 1e-5)
        assert found @ root >= 0


def test_the_mean_has_no_bound_so_that_the_attacks_are_some():
    rng = np.random.default_rng(0)
    honest = on_a_grid(rng.normal(0.5, 0.3, (HONEST, 8)))
    beyond = []
    for forge in ATTACKS.values():
        found = reported(WeightedMean(), np.vstack([honest, np.clip(forge(honest, rng), -64, 64)]))
        beyond.append(bool((found < honest.min(axis=0)).any() or (found > honest.max(axis=0)).any()))
    assert sum(beyond) >= 3
