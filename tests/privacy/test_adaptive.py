"""Adaptive clipping: C follows a quantile of the norms, and is part of the server's state."""

import math

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm, Bound
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.scaffold import scaffold
from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.privacy.adaptive import adaptive_clip
from hansa.testing.algorithms import LAWS, Case, Law
from hansa.testing.federation import play
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


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("inner", [fedavg(MEAN), scaffold(MEAN, num_clients=4)], ids=lambda inner: inner.name)
def test_a_wrapped_algorithm_keeps_the_laws_of_algorithms(law: Law, inner: Algorithm):
    case = Case(Arrays({"w": np.ones((2, 3), np.float32), "n": np.array([3])}), clients=3, rounds=2, seed=5)
    law(adaptive_clip(Bound()).wrap(inner), case)  # type: ignore[misc]  # it wraps


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": 0}, "adaptive-clip: norm is 0; it must be a number above 0"),
        ({"norm": math.inf}, "adaptive-clip: norm is infinite"),
        ({"quantile": 1.5}, "adaptive-clip: quantile is 1.5; it must be a number from 0 to 1"),
        ({"learning_rate": -1}, "adaptive-clip: learning_rate is -1; it must be a number from 0 to 100"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        adapting(**options)
