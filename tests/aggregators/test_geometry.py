"""Rules of distances and angles, against the papers' formulas on the vectors themselves."""

import itertools
import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_of_vectors import Vectors, on_a_grid, reported, round_of

from hansa.aggregators import geometry
from hansa.aggregators.bulyan import bulyan
from hansa.aggregators.centered_clipping import centered_clipping
from hansa.aggregators.fltrust import fltrust
from hansa.aggregators.foolsgold import foolsgold
from hansa.aggregators.geometric_median import geometric_median
from hansa.aggregators.geometry import inner_products
from hansa.aggregators.krum import krum, multi_krum
from hansa.aggregators.mean import WeightedMean
from hansa.aggregators.norm_bound import norm_bound
from hansa.algorithm import Aggregator
from hansa.errors import ConfigError, QuorumNotMetError

SEEDS = st.integers(0, 2**32 - 1)
some = settings(derandomize=True, deadline=None, max_examples=25)


def drawn(seed: int, clients: int, size: int = 4, scale: float = 1.0) -> Vectors:
    return on_a_grid(np.random.default_rng(seed).normal(0, scale, (clients, size)))


# ── inner products ───────────────────────────────────────────────────────────────────────────────────────────────────


@some
@given(seed=SEEDS, clients=st.integers(1, 4), bits=st.sampled_from([1, 20, 22, 38, 39, 53, 62]), size=st.integers(0, 9))
def test_inner_products_are_those_of_the_integers(seed: int, clients: int, bits: int, size: int):
    rng = np.random.default_rng(seed)
    whole = rng.integers(-(2 ** min(bits, 53)), 2 ** min(bits, 53), (clients, size), endpoint=True) * 2 ** max(
        0, bits - 53
    )
    gram = inner_products([(-3, list(whole * 2.0**-3))], clients, 2**bits)
    expected = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in whole.tolist()] for x in whole.tolist()]
    assert [list(row) for row in gram.products] == expected
    assert gram.exponent == -6


@pytest.mark.parametrize("limit", [2**22, 2**38, 2**62])
def test_the_largest_values_of_many_blocks_do_not_overflow(limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(geometry, "_MANY", 3)  # what is held is handed over, too
    largest = np.full(10 * 2**13 + 5, float(limit))
    gram = inner_products([(0, [largest, -largest])], 2, limit)
    square = limit**2 * len(largest)
    assert gram.products == ((square, -square), (-square, square))


def test_tensors_of_different_quanta_are_added_exactly():
    # ⟨(1.5, 2^40), (0.5, 2^40)⟩ = 0.75 + 2^80, which float64 cannot hold
    parts = [(-1, [np.array([1.5]), np.array([0.5])]), (20, [np.array([2.0**40])] * 2)]
    gram = inner_products(parts, 2, 2**38)
    assert Fraction(gram.products[0][1]) * Fraction(2) ** gram.exponent == Fraction(3, 4) + 2**80


def test_only_floating_tensors_are_in_the_geometry():
    # The counters would make b the farthest; w makes it c.
    sent = {
        name: ({"w": np.array([w]), "n": np.array([n])}, 1)
        for name, w, n in (("a", 1.0, 5), ("b", 1.01, 999), ("c", 9.0, 5))
    }
    report = round_of(krum(f=0), {"w": np.zeros(1), "n": np.zeros(1, np.int64)}, sent)
    assert report["w"][0] in {1.0, 1.01}


@some
@given(seed=SEEDS, size=st.integers(1, 5))
def test_distances_to_a_mean_come_from_distances_alone(seed: int, size: int):
    vectors, rng = drawn(seed, 5, size), np.random.default_rng(seed)
    c = rng.dirichlet(np.ones(5))
    squares = [[float(np.sum((x - y) ** 2)) for y in vectors] for x in vectors]
    found = geometry.distances_to(c.tolist(), squares)
    np.testing.assert_allclose(found, np.linalg.norm(vectors - c @ vectors, axis=1), atol=1e-7)


# ── Krum and Bulyan ──────────────────────────────────────────────────────────────────────────────────────────────────


def krum_order(vectors: Vectors, f: int, neighbours: int | None = None) -> list[int]:
    """Indices by score, the lowest first."""
    n = len(vectors)
    near = n - f - 2 if neighbours is None else neighbours
    score = [
        math.fsum(sorted(float(np.sum((vectors[i] - vectors[j]) ** 2)) for j in range(n) if j != i)[:near])
        for i in range(n)
    ]
    return sorted(range(n), key=lambda i: (score[i], i))


@some
@given(seed=SEEDS, f=st.integers(0, 2), more=st.integers(0, 3))
def test_krum_is_the_update_with_the_lowest_score(seed: int, f: int, more: int):
    vectors = drawn(seed, 2 * f + 3 + more)
    assert reported(krum(f=f), vectors).tolist() == vectors[krum_order(vectors, f)[0]].tolist()


@some
@given(seed=SEEDS, f=st.integers(0, 2), more=st.integers(0, 3))
def test_multi_krum_is_the_mean_of_the_lowest_scores(seed: int, f: int, more: int):
    vectors = drawn(seed, 2 * f + 3 + more)
    n = len(vectors)
    for m in (None, 1, n - f - 2):
        best = vectors[krum_order(vectors, f)[: n - f - 2 if m is None else m]]
        np.testing.assert_allclose(reported(multi_krum(f=f, m=m), vectors), best.mean(axis=0), rtol=1e-12, atol=1e-12)


def test_of_equal_scores_the_first_name_is_lower():
    vectors = np.array([[0.0], [1.0], [0.0], [1.0]])
    assert reported(krum(f=0), vectors)[0] == 0
    assert reported(krum(f=0), vectors[::-1])[0] == 1


@some
@given(seed=SEEDS, f=st.integers(0, 2), more=st.integers(0, 2))
def test_bulyan_is_krum_again_and_again_and_then_the_values_around_the_median(seed: int, f: int, more: int):
    vectors = drawn(seed, 4 * f + 3 + more)
    left, selected = list(range(len(vectors))), []
    while len(selected) < len(vectors) - 2 * f:
        best = left[krum_order(vectors[left], f, max(1, len(left) - f - 2))[0]]
        selected.append(best)
        left.remove(best)
    chosen = np.sort(vectors[sorted(selected)], axis=0)
    away = np.abs(chosen - np.median(chosen, axis=0))
    nearest = np.take_along_axis(chosen, np.argsort(away, axis=0, kind="stable")[: len(chosen) - 2 * f], axis=0)
    np.testing.assert_allclose(reported(bulyan(f=f), vectors), nearest.mean(axis=0), rtol=1e-12, atol=1e-12)


# ── the geometric median ─────────────────────────────────────────────────────────────────────────────────────────────


@some
@given(seed=SEEDS, clients=st.integers(1, 8))
def test_nothing_near_the_geometric_median_has_a_smaller_sum_of_distances(seed: int, clients: int):
    vectors, rng = drawn(seed, clients), np.random.default_rng(seed)
    examples = rng.integers(1, 9, clients).tolist()

    def cost(z: Vectors) -> float:
        return float(np.dot(examples, np.linalg.norm(vectors - z, axis=1)))

    z = reported(geometric_median(iterations=1000), vectors, examples)
    for size, direction in itertools.product((1e-3, 0.1), rng.normal(size=(20, 4))):
        assert cost(z) <= cost(z + size * direction) * (1 + 1e-5)


@some
@given(seed=SEEDS, steps=st.integers(1, 5))
def test_its_steps_are_the_papers(seed: int, steps: int):
    vectors, examples = drawn(seed, 5), [1, 2, 3, 4, 5]
    z = np.average(vectors, axis=0, weights=examples)
    for _ in range(steps):
        beta = np.array(examples) / 15 / np.maximum(0.1, np.linalg.norm(vectors - z, axis=1))
        z = np.average(vectors, axis=0, weights=beta)
    found = reported(geometric_median(nu=0.1, iterations=steps), vectors, examples)
    np.testing.assert_allclose(found, z, rtol=1e-9, atol=1e-9)


def test_clients_may_count_alike():
    vectors = np.array([[0.0], [0.0], [1.0]])
    assert reported(geometric_median(), vectors, [1, 1, 98])[0] == pytest.approx(1, abs=1e-3)
    assert reported(geometric_median(uniform=True), vectors, [1, 1, 98])[0] == pytest.approx(0, abs=1e-3)


# ── clipping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@some
@given(seed=SEEDS, tau=st.sampled_from([0.1, 1.0, 100.0]), steps=st.integers(1, 4))
def test_centered_clipping_is_the_papers(seed: int, tau: float, steps: int):
    vectors = drawn(seed, 5)
    v = np.zeros(4)
    for _ in range(steps):
        away = vectors - v
        v = v + (away * np.minimum(1, tau / np.linalg.norm(away, axis=1))[:, np.newaxis]).mean(axis=0)
    found = reported(centered_clipping(tau=tau, iterations=steps), vectors)
    np.testing.assert_allclose(found, v, rtol=1e-7, atol=1e-7)
    assert np.linalg.norm(found) <= steps * tau * (1 + 1e-9)


@some
@given(seed=SEEDS, bound=st.sampled_from([0.01, 1.0, 100.0]), counts=st.sampled_from(["alike", "by examples"]))
def test_a_norm_bound_is_the_mean_of_clipped_updates(seed: int, bound: float, counts: str):
    uniform = counts == "alike"
    vectors, examples = drawn(seed, 5), [1, 2, 3, 4, 5]
    lengths = np.linalg.norm(vectors, axis=1)
    shorter = vectors * np.minimum(1, bound / lengths)[:, np.newaxis]
    expected = np.average(shorter, axis=0, weights=None if uniform else examples)
    found = reported(norm_bound(bound=bound, uniform=uniform), vectors, examples)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_within_the_bound_it_is_the_mean_to_the_bit():
    vectors = drawn(3, 6)
    same = reported(norm_bound(bound=100.0), vectors, [3, 1, 4, 1, 5, 9])
    assert same.tobytes() == reported(WeightedMean(), vectors, [3, 1, 4, 1, 5, 9]).tobytes()


# ── angles ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@some
@given(seed=SEEDS)
def test_fltrust_is_the_papers(seed: int):
    vectors = drawn(seed, 6)
    root, others = vectors[2], np.delete(vectors, 2, axis=0)
    lengths = np.linalg.norm(others, axis=1)
    trust = np.maximum(0, others @ root / lengths / np.linalg.norm(root))
    scaled = others * (np.linalg.norm(root) / lengths)[:, np.newaxis]
    expected = trust @ scaled / trust.sum() if trust.sum() else np.zeros(4)
    found = reported(fltrust(trusted="client-002"), vectors)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
    assert np.linalg.norm(found) <= np.linalg.norm(root) * (1 + 1e-9)


def test_whom_nobody_trusts_adds_nothing():
    assert reported(fltrust(trusted="client-000"), np.array([[1.0, 0.0], [-2.0, 1.0], [0.0, 1.0]])).tolist() == [0, 0]


def test_a_round_without_the_trusted_client_fails_and_names_it():
    with pytest.raises(QuorumNotMetError, match=r"fltrust needs the update of 'hospital', .* 3 others count"):
        reported(fltrust(trusted="hospital"), drawn(0, 3))


def foolsgold_weights(vectors: Vectors) -> Vectors:
    n = len(vectors)
    lengths = np.linalg.norm(vectors, axis=1)
    cs = vectors @ vectors.T / np.outer(lengths, lengths) - np.eye(n)
    np.fill_diagonal(cs, -2)
    v = cs.max(axis=1)
    pardoned = cs.copy()
    for i, j in itertools.permutations(range(n), 2):
        if v[j] > v[i] > 0:
            pardoned[i, j] = cs[i, j] * v[i] / v[j]
    alpha = np.clip(1 - pardoned.max(axis=1), 0, 1)
    alpha /= alpha.max()
    with np.errstate(divide="ignore"):
        return np.clip(np.log(alpha / (1 - np.where(alpha == 1, 1 - 1e-300, alpha))) + 0.5, 0, 1)


@some
@given(seed=SEEDS)
def test_foolsgold_is_the_papers(seed: int):
    vectors = drawn(seed, 5)
    alpha = foolsgold_weights(vectors)
    expected = alpha @ vectors / alpha.sum()
    np.testing.assert_allclose(reported(foolsgold(), vectors), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kept", [0, 1024])
def test_squares_of_clients_make_no_difference_to_a_bit(kept: int, monkeypatch: pytest.MonkeyPatch):
    vectors = drawn(7, 11)
    whole = reported(foolsgold(), vectors)
    monkeypatch.setattr("hansa.aggregators.geometry._TILE", 3)
    monkeypatch.setattr("hansa.aggregators.foolsgold._KEPT", kept)
    assert reported(foolsgold(), vectors).tobytes() == whole.tobytes()


def test_sybils_that_send_the_same_are_not_heard_though_they_are_the_most():
    honest = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    sybils = np.tile([-9.0, -9.0, -9.0, 5.0], (7, 1))
    np.testing.assert_allclose(reported(foolsgold(), np.vstack([honest, sybils])), [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


def test_if_all_send_the_same_foolsgold_adds_nothing():
    assert reported(foolsgold(), np.ones((3, 2))).tolist() == [0, 0]


# ── too few ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rule", "needs", "least"),
    [
        (krum(f=2), r"n > 2f \+ 2 updates, with f = 2", 7),
        (multi_krum(f=2), r"n > 2f \+ 2 updates, with f = 2", 7),
        (multi_krum(f=1, m=5), r"n ≥ m \+ f \+ 2 updates, with m = 5 and f = 1", 8),
        (bulyan(f=1), r"n ≥ 4f \+ 3 updates, with f = 1", 7),
        (foolsgold(), "n ≥ 2 updates", 2),
    ],
    ids=lambda value: getattr(value, "rule", None),
)
def test_too_few_updates_name_n_and_f_and_what_is_needed(rule: Aggregator, needs: str, least: int):
    said = rf"{least - 1} updates count in this round, .* needs {needs}.*: at least {least}\. .*`quorum` to {least}"
    with pytest.raises(QuorumNotMetError, match=said):
        reported(rule, drawn(0, least - 1))
    assert reported(rule, drawn(0, least)).shape == (4,)


@pytest.mark.parametrize(
    "make",
    [
        partial(krum, f=-1),
        partial(krum, f=1.5),
        partial(multi_krum, f=1, m=0),
        partial(bulyan, f=True),
        partial(geometric_median, nu=0),
        partial(geometric_median, iterations=0),
        partial(geometric_median, uniform=1),
        partial(centered_clipping, tau=0),
        partial(norm_bound, bound=-1.0),
        partial(norm_bound, bound=1.0, uniform="yes"),
        partial(fltrust, trusted=""),
    ],
    ids=lambda make: f"{make.func.__name__} {make.keywords}",
)
def test_options_have_a_range(make: partial[Aggregator]):
    with pytest.raises(ConfigError, match=f"{list(make.keywords)[-1]} is"):
        make()
