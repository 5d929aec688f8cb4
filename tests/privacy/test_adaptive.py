"""Adaptive clipping: C follows a quantile of the norms, and is part of the server's state."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm, Bound, Partial, Trainer
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.scaffold import scaffold
from hansa.arrays import Arrays, norm
from hansa.errors import ConfigError, UpdateRejectedError
from hansa.messages import RunSpec, Task, Update
from hansa.privacy.accounting import spent
from hansa.privacy.adaptive import adaptive_clip
from hansa.privacy.central import central_noise
from hansa.privacy.clip import clipped
from hansa.run import resolve
from hansa.testing.algorithms import LAWS, Case, Law
from hansa.testing.federation import aggregate, play, task_of
from hansa.testing.linear import LinearTrainer, make_examples

MEAN = WeightedMean(uniform=True)
TRAINER = LinearTrainer(3, learning_rate=0.05)
DATA = make_examples(np.random.default_rng(1), (8, 8, 8, 8), 3)


def adapting(**options: float) -> Algorithm:
    return adaptive_clip(Bound(), **options).wrap(fedavg(MEAN))  # type: ignore[misc]  # it wraps


def norms(algorithm: Algorithm) -> list[float]:
    return [float(state.slots["adaptive-clip"]["norm"]) for state in play(algorithm, TRAINER, DATA, rounds=30)]


def test_c_grows_while_too_many_are_clipped_by_the_papers_factor():
    tiny = norms(adapting(norm=1e-6, quantile=0.5, learning_rate=0.2))
    assert tiny[1] / tiny[0] == pytest.approx(math.exp(0.2 * 0.5))


def test_c_shrinks_while_too_few_are_and_settles_at_the_quantile():
    large = norms(adapting(norm=100.0, quantile=0.5, learning_rate=1.0))
    assert large[1] / large[0] == pytest.approx(math.exp(-0.5))
    sent = [state.params for state in play(fedavg(MEAN), TRAINER, DATA, rounds=1)]
    assert sent[0] != sent[1]
    assert large[-1] < 1.0


def test_what_is_sent_is_within_the_bound_and_counts_as_what_was_clipped_to_c():
    transform = adaptive_clip(Bound(), norm=0.3, indicator=0.25)
    algorithm = transform.wrap(fedavg(MEAN))  # type: ignore[misc]  # it wraps
    state = algorithm.init(TRAINER.initial_model(np.random.default_rng(0)))
    for limit in (1e-9, 0.02, 0.3, 7.0, 1e9):
        there = replace(state, slots={"adaptive-clip": Arrays({"norm": np.array(limit)})})
        model = algorithm.broadcast(there)
        task = task_of(next(iter(DATA)), DATA)
        sent = algorithm.client_update(TRAINER, model, task).arrays
        assert norm(sent) <= transform.bound.norm * (1 + 1e-12)
        plain = fedavg(MEAN).client_update(TRAINER, there.params, task_of(next(iter(DATA)), DATA)).arrays
        expected = clipped(plain, Bound(limit))
        for name, array in expected.items():
            np.testing.assert_allclose(sent[f"model/{name}"] * limit, array, rtol=1e-6)
        assert sent["clip/within"] == (0.5 if norm(plain) <= limit else -0.5)  # √β


def test_c_does_not_vanish_where_nobody_learns_any_more():
    sent = Update(Arrays({"w": np.zeros(3, np.float32)}), 1)
    algorithm = adaptive_clip(Bound(), norm=1e-6, learning_rate=100.0).wrap(  # type: ignore[misc]  # it wraps
        replace(fedavg(MEAN), client_update=lambda *_: sent)
    )
    state = algorithm.init(sent.arrays)
    for _ in range(9):
        broadcast = algorithm.broadcast(state)
        made = algorithm.client_update(TRAINER, broadcast, task_of("c", {"c": None}))
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, {"c": made}))
    assert state.slots["adaptive-clip"]["norm"] == 2.0**-64
    assert np.isfinite(made.arrays["model/w"]).all()


@pytest.mark.parametrize("limit", [2.0**-64, 1e-9, 1.0, 2.0**64])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-3, 60.0, 1e30])
def test_an_update_of_any_size_is_sent_within_the_bound(limit: float, size: float):
    given = Update(Arrays({"w": np.full(5, size, np.float32)}), 1)
    transform = adaptive_clip(Bound())
    algorithm = transform.wrap(replace(fedavg(MEAN), client_update=lambda *_: given))  # type: ignore[misc]  # it wraps
    state = replace(algorithm.init(given.arrays), slots={"adaptive-clip": Arrays({"norm": np.array(limit)})})
    made = algorithm.client_update(TRAINER, algorithm.broadcast(state), task_of("c", {"c": None}))
    assert norm(made.arrays) <= transform.bound.norm * (1 + 1e-12)
    length = size * math.sqrt(5)
    np.testing.assert_allclose(made.arrays["model/w"], size / max(limit, length), rtol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_an_update_that_no_server_counts_stays_one(value: float):
    given = Update(Arrays({"w": np.full(2, value)}), 1)
    algorithm = adaptive_clip(Bound()).wrap(  # type: ignore[misc]  # it wraps
        replace(fedavg(MEAN), client_update=lambda *_: given)
    )
    broadcast = algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(2)})))
    made = algorithm.client_update(TRAINER, broadcast, task_of("c", {"c": None}))
    with pytest.raises(UpdateRejectedError):
        aggregate(algorithm, broadcast, {"c": made})


def test_with_c_as_it_is_it_is_clipping():
    still = list(play(adapting(norm=0.02, learning_rate=0.0), TRAINER, DATA, rounds=3))
    algorithm = fedavg(MEAN)

    def clipping(trainer: Trainer, model: Arrays, task: Task) -> Update:
        update = algorithm.client_update(trainer, model, task)
        return replace(update, arrays=clipped(update.arrays, Bound(0.02)))

    fixed = list(play(replace(algorithm, client_update=clipping), TRAINER, DATA, rounds=3))
    for one, other in zip(still, fixed, strict=True):
        for name, array in one.params.items():
            np.testing.assert_allclose(array, other.params[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("beta", "z", "clients"), [(0.01, 1.0, 100), (0.25, 0.4, 10)])
def test_the_noise_is_that_of_the_paper(beta: float, z: float, clients: int):
    clip = adaptive_clip(Bound(), norm=3.0, indicator=beta)
    noise = central_noise(clip.bound, multiplier=z, clients=clients)
    drawn = []
    for seed in range(2000):
        zero = Partial({"model/w": np.zeros(1, np.int64), "clip/within": np.zeros((), np.int64)})
        quanta = {"model/w": 2.0**-40, "clip/within": 2.0**-40}
        sums = noise.release(zero, quanta, np.random.default_rng(seed)).sums  # type: ignore[misc]  # it releases
        drawn.append([sums["model/w"][0] * 2.0**-40, sums["clip/within"] * 2.0**-40])
    of_update, of_bits = np.std(drawn, axis=0)
    on_update = of_update  # z_Δ
    on_bits = of_bits / (2 * math.sqrt(beta))  # σ_b
    assert 1 / z**2 == pytest.approx(1 / on_update**2 + 1 / (2 * on_bits) ** 2, rel=0.1)  # theorem 1
    assert on_bits == pytest.approx(z * math.sqrt(1 + 1 / beta) / 2, rel=0.08)
    if beta == 0.01:
        assert on_bits == pytest.approx(clients / 20, rel=0.1)  # the paper's default


def test_noise_of_an_adaptive_norm_costs_what_noise_of_a_fixed_one_does():
    fixed = central_noise(Bound(3.0), multiplier=2.0, clients=5).noise
    assert fixed is not None
    uniform = RunSpec(aggregator_options={"uniform": True})
    for first in ("clip:norm=3", "adaptive-clip:norm=3"):
        spec = replace(uniform, transforms=(first, "central-noise:multiplier=2,clients=5"))  # type: ignore[arg-type]
        assert spent(resolve(spec).pipeline.noises, 7).epsilon == spent([fixed], 7).epsilon


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("inner", [fedavg(MEAN), scaffold(MEAN, num_clients=4)], ids=lambda inner: inner.name)
def test_a_wrapped_algorithm_keeps_the_laws_of_algorithms(law: Law, inner: Algorithm):
    case = Case(Arrays({"w": np.ones((2, 3), np.float32), "n": np.array([3])}), clients=3, rounds=2, seed=5)
    law(adaptive_clip(Bound()).wrap(inner), case)  # type: ignore[misc]  # it wraps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": 0}, "adaptive-clip: norm is 0; it must be a number above 0"),
        ({"norm": math.inf}, "adaptive-clip: norm is inf; C is adapted from it, between"),
        ({"norm": 1e-30}, "adaptive-clip: norm is 1e-30; C is adapted from it, between"),
        ({"quantile": 1.5}, "adaptive-clip: quantile is 1.5; it must be a number from 0 to 1"),
        ({"indicator": 0}, "adaptive-clip: indicator is 0; it must be above 0"),
        ({"learning_rate": -1}, "adaptive-clip: learning_rate is -1; it must be a number from 0 to 100"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        adapting(**options)
